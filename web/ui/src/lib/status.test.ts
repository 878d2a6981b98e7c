import { describe, expect, it } from 'vitest';
import { Latencies, curve, quantile, settingGroups, valueHint, valueText } from './status';
import type { Setting } from './types';

describe('latencies', () => {
  it('have quantiles by nearest rank', () => {
    const values = Array.from({ length: 100 }, (_, at) => at + 1);
    expect([quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1)]).toEqual([50, 99, 100]);
    expect([quantile([7], 0.5), quantile([], 0.5)]).toEqual([7, null]);
  });

  it('count each run once', () => {
    const latencies = new Latencies();
    const rule = (last_run: number | null, last_latency_ms: number | null) => ({
      name: 'r',
      last_run,
      last_latency_ms,
    });
    latencies.note([rule(null, null)]);
    latencies.note([rule(1000, 2)]);
    latencies.note([rule(1000, 2)]);
    latencies.note([rule(2000, 4)]);
    expect(latencies.of('r')).toEqual({ runs: 2, p50: 2, p99: 4 });
    expect(latencies.of('other')).toEqual({ runs: 0, p50: null, p99: null });
  });
});

describe('a curve', () => {
  it('fills its box from zero to the largest value', () => {
    const points = [
      { t: 0, v: 0 },
      { t: 5, v: 10 },
      { t: 10, v: 5 },
    ];
    expect(curve(points, 100, 12)).toBe('M0.0,11.0L50.0,1.0L100.0,6.0');
    expect(curve(points.slice(0, 1), 100, 12)).toBe('');
    expect(curve([], 100, 12)).toBe('');
  });
});

describe('settings', () => {
  const settings: Setting[] = [
    { path: 'listen', value: '127.0.0.1:8642', origin: 'default' },
    { path: 'store.retention_s', value: 604_800, origin: 'file' },
    { path: 'store.max_bytes', value: null, origin: 'default' },
  ];

  it('are grouped by section and filtered by name, value and origin', () => {
    const names = (filter: string, changed = false) =>
      settingGroups(settings, filter, changed).map(([section, all]) => [section, all.map((one) => one.path)]);
    expect(names('')).toEqual([
      ['', ['listen']],
      ['store', ['store.retention_s', 'store.max_bytes']],
    ]);
    expect(names('8642')).toEqual([['', ['listen']]]);
    expect(names('configuration file')).toEqual([['store', ['store.retention_s']]]);
    expect(names('', true)).toEqual([['store', ['store.retention_s']]]);
  });

  it('are written as in the file, with a unit where that helps', () => {
    expect([null, 'a', 3, ['x'], true].map(valueText)).toEqual(['unset', 'a', '3', '["x"]', 'true']);
    expect(valueHint('store.retention_s', 604_800)).toBe('7 d');
    expect(valueHint('store.page_cache_bytes', 32 << 20)).toBe('32.0 MiB');
    expect(valueHint('collect_every_ms', 1000)).toBe('1 s');
    expect(valueHint('store.boundary', 0.1)).toBe('');
    expect(valueHint('store.max_bytes', null)).toBe('');
  });
});
