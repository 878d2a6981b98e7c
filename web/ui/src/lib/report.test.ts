import { describe, expect, it } from 'vitest';
import {
  between,
  cost,
  costOf,
  fromInput,
  hours,
  lasted,
  linesOf,
  localInput,
  money,
  namesOf,
  priceOf,
  pricesOf,
  reportQuery,
  subjectOf,
  type ByResource,
  type Figures,
} from './report';
import type { ContainerRow } from './types';

const GIB = 1024 ** 3;
const figures = (patch: Partial<Figures> = {}): Figures => ({
  unit: 'cores',
  used: 0,
  allocated: null,
  reserved: null,
  reserved_by: null,
  utilisation: null,
  average: null,
  average_allocated: null,
  maximum: null,
  time_s: 0,
  covered_s: 0,
  limited_s: 0,
  at_limit_s: 0,
  throttled_s: null,
  oom_kills: null,
  changes: 0,
  raised: 0,
  samples: 0,
  gaps: 0,
  ...patch,
});
const total: ByResource = {
  cpu: figures({ used: 7200, allocated: 14_400, reserved: 36_000, reserved_by: 'bounds', covered_s: 1800, gaps: 2 }),
  memory: figures({ used: 3600 * GIB, allocated: 7200 * GIB, oom_kills: 1 }),
  energy: null,
};
const prices = { cpu: 0.05, memory: 0.01, energy: 0.3, currency: 'EUR' };
const row = (host: string, name: string, app: string | null, user: string | null) =>
  ({ host, name, app, user }) as ContainerRow;

describe('a report', () => {
  it('tells integrals in hours', () => {
    expect(hours('cpu', 5400)).toBe('1.50');
    expect(hours('memory', 1800 * GIB)).toBe('0.50');
    expect(hours('energy', 3_600_000)).toBe('1.00');
    expect(hours('cpu', 3.6)).toBe('0.0010');
    expect(hours('cpu', 0)).toBe('0.00');
    expect(hours('cpu', null)).toBe('–');
  });

  it('costs what has a price and nothing that has none', () => {
    expect(cost('cpu', 7200, prices)).toBeCloseTo(0.1);
    expect(cost('cpu', 7200, { ...prices, cpu: null })).toBeNull();
    expect(cost('cpu', null, prices)).toBeNull();
    expect(costOf(total, 'allocated', prices)).toBeCloseTo(4 * 0.05 + 2 * 0.01);
    expect(costOf(total, 'reserved', prices)).toBeCloseTo(10 * 0.05);
    const metered = { ...total, energy: figures({ used: 3_600_000 }) };
    expect(costOf(metered, 'reserved', prices)).toBeCloseTo(10 * 0.05 + 0.3);
    expect(costOf(total, 'used', { cpu: null, memory: null, energy: 1, currency: '' })).toBeNull();
  });

  it('reads prices as people write them', () => {
    expect(['0.02', '0,02', ' 3 ', '', 'x', '-1', undefined].map(priceOf)).toEqual([
      0.02,
      0.02,
      3,
      null,
      null,
      null,
      null,
    ]);
    expect(pricesOf({ core: '1', cur: 'USD' }, { core: '2', gib: '3' })).toEqual({
      cpu: 1,
      memory: 3,
      energy: null,
      currency: 'USD',
    });
    expect([money(1.239, 'EUR'), money(0.0031, ''), money(0, 'EUR'), money(null, 'EUR')]).toEqual([
      '1.24 EUR',
      '0.0031',
      '0.00 EUR',
      '–',
    ]);
  });

  it('tells how long something lasted exactly', () => {
    expect([0, 4.25, 59, 60, 2700, 61, 7500, 3600, 180_000, null].map(lasted)).toEqual([
      '0 s',
      '4.3 s',
      '59 s',
      '1 min',
      '45 min',
      '1 min 01 s',
      '2 h 05 min',
      '1 h',
      '2 d 2 h',
      '–',
    ]);
  });

  it('has a line for each figure and says what is not known', () => {
    const lines = new Map(linesOf(total, 3600, prices).map((line) => [line.word, line]));
    expect(lines.get('Used')?.cells).toEqual({ cpu: '2.00 core-hours', memory: '1.00 GiB-hours' });
    expect(lines.get('Reserved')?.cells.memory).toBe('– GiB-hours');
    expect(lines.get('Reserved')?.note).toBe('CPU: upper bound; memory: no bound, capacity unknown');
    expect(lines.get('Time with data')?.cells.cpu).toBe('30 min (50 %)');
    expect(lines.get('Unmet')?.cells).toEqual({ cpu: '–', memory: '1 kill' });
    expect([...lines.values()].every((line) => line.energy === '')).toBe(true);
  });

  it('is about an app, a user or a container that there is', () => {
    const rows = [row('n', 'b', 'shop', 'al'), row('n', 'a', 'data', 'al'), row('m', 'x', null, null)];
    expect(namesOf('app', rows)).toEqual(['data', 'shop']);
    expect(namesOf('user', rows)).toEqual(['al']);
    expect(namesOf('container', rows)).toEqual(['m/x', 'n/a', 'n/b']);
    expect(subjectOf({}, rows)).toEqual({ kind: 'app', name: 'data' });
    expect(subjectOf({}, rows.slice(2))).toEqual({ kind: 'container', name: 'm/x' });
    expect(subjectOf({ kind: 'user', name: 'gone' }, rows)).toEqual({ kind: 'user', name: 'gone' });
    expect(subjectOf({}, [])).toEqual({ kind: 'app', name: '' });
    expect(reportQuery('container', 'n/a b', 1.5, 2.5, 9)).toBe('container=n%2Fa+b&from=1&to=3&points=9');
  });

  it('names a range and takes one from its fields', () => {
    const from = new Date(2026, 10, 28, 8, 0, 0).getTime();
    expect(between(from, from + 3_600_000)).toBe('2026-11-28 08:00:00 – 09:00:00');
    expect(between(from, from + 86_400_000)).toBe('2026-11-28 08:00:00 – 2026-11-29 08:00:00');
    expect(fromInput(localInput(from))).toBe(from);
    expect(fromInput('')).toBeNull();
  });
});
