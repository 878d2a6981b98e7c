import { describe, expect, it } from 'vitest';
import { axisLabel, clock, day, fieldOf, moment, ofField, parseSpan, span, toMs, windowOf, spanOf } from './time';

const NOW = new Date(2026, 10, 21, 20, 41, 3).getTime();

describe('times', () => {
  it('are shown in 24 hours, with the day when it is another', () => {
    expect(clock(NOW)).toBe('20:41:03');
    expect(moment(NOW, NOW)).toBe('20:41:03');
    expect(moment(NOW - 86_400_000, NOW)).toBe(`${day(NOW - 86_400_000)} 20:41:03`);
  });

  it('of an axis show what differs between two ticks', () => {
    expect([axisLabel(NOW, 30_000), axisLabel(NOW, 60_000), axisLabel(NOW, 86_400_000)]).toEqual([
      '20:41:03',
      '20:41',
      '11-21',
    ]);
  });

  it('go into a field and come back', () => {
    expect(fieldOf(NOW)).toBe('2026-11-21T20:41:03');
    expect(ofField(fieldOf(NOW))).toBe(NOW);
    // Some browsers leave seconds out that are none.
    expect(ofField('2026-11-21T20:41')).toBe(NOW - 3_000);
    expect(['', '2026-11-21', '2026-13-41T99:99:00'].map(ofField)).toEqual([null, null, null]);
  });

  it('spans are read and told', () => {
    expect(['15m', '1.5h', '90s', '2d', 'm', '5', ''].map(parseSpan)).toEqual([
      900_000,
      5_400_000,
      90_000,
      172_800_000,
      null,
      null,
      null,
    ]);
    expect([400, 4_000, 720_000, 10_800_000, 172_800_000].map(span)).toEqual(['400 ms', '4 s', '12 min', '3 h', '2 d']);
  });

  it('of an API are UTC unless they say otherwise', () => {
    expect(toMs('2026-11-21T20:41:03')).toBe(Date.UTC(2026, 10, 21, 20, 41, 3));
    expect(toMs('2026-11-21 20:41:03.500Z')).toBe(Date.UTC(2026, 10, 21, 20, 41, 3, 500));
    expect(toMs('2026-11-21T20:41:03+01:00')).toBe(Date.UTC(2026, 10, 21, 19, 41, 3));
    expect(toMs('2026-11-21')).toBe(Date.UTC(2026, 10, 21));
    expect([toMs(1_700_000_000_000), toMs('web-1'), toMs(null)]).toEqual([1_700_000_000_000, null, null]);
  });

  it('a window follows the present unless both ends are given', () => {
    expect(windowOf({}, NOW)).toEqual({ from: NOW - 900_000, to: NOW, live: true, range: '15m' });
    expect(windowOf({ range: '1h' }, NOW).from).toBe(NOW - 3_600_000);
    expect(windowOf({ from: '1000', to: '2000' }, NOW)).toMatchObject({ from: 1000, to: 2000, live: false });
    expect(windowOf({ from: '2000', to: '1000', range: 'x' }, NOW)).toMatchObject({ live: true, range: '15m' });
  });
});

it('an address may mean all of time, a part that ends now, or one with either end', () => {
  expect(spanOf({}, 9_000_000)).toEqual({});
  expect(spanOf({ range: '1h', from: '5' }, 9_000_000)).toEqual({ from: 5_400_000 });
  expect(spanOf({ from: '5', to: '7' }, 9)).toEqual({ from: 5, to: 7 });
  expect(spanOf({ from: 'x', to: '7', range: 'y' }, 9)).toEqual({ to: 7 });
});
