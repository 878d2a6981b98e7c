import { describe, expect, it } from 'vitest';
import { History } from './fleet';
import { bridge, columnsOf, disksOf, linesOf, networkOf, newest } from './series';
import type { ContainerSeries } from './types';

const columns = (usage: (number | null)[]) => ({
  usage,
  usage_max: usage,
  limit: usage.map(() => 2),
  upper: usage.map(() => 1.8),
  lower: usage.map(() => 1.6),
  throttled: usage.map(() => 0),
  oom_kills: usage.map(() => 0),
  unreclaimable: usage.map(() => 0),
});
const answer = (t: number[], usage: (number | null)[], step_ms = 1000): ContainerSeries => ({
  io: null,
  network: null,
  step_ms,
  t,
  cpu: columns(usage),
  memory: columns(usage),
});

function history(points: [number, number, number][]): History {
  const made = new History();
  for (const [t, cpu, oom] of points)
    made.push(t, (column) => ({ cpu, cpu_limit: 3, mem: cpu, mem_limit: 3, throttled: 0.1, oom })[column]);
  return made;
}

describe('the series of a chart', () => {
  it('go on with the seconds of the stream, each once', () => {
    const joined = columnsOf(
      'cpu',
      answer([1000, 2000, 3000], [0.1, 0.2, 0.3]),
      history([
        [2000, 9, 0],
        [3500, 9, 0],
        [4000, 0.4, 0],
        [9000, 0.5, 0],
      ]),
      5000,
    );
    expect(joined.t).toEqual([1000, 2000, 3000, 4000]);
    expect(joined.usage).toEqual([0.1, 0.2, 0.3, 0.4]);
    expect(joined.limit).toEqual([2, 2, 2, 3]);
  });

  it('keep the boundaries at the margin that the answer had', () => {
    const joined = columnsOf('memory', answer([1000], [0.1]), history([[2000, 0.4, 0]]), 5000);
    expect(joined.upper[1]).toBeCloseTo(2.7);
    expect(joined.lower[1]).toBeCloseTo(2.4);
  });

  it('take from the stream what the last buckets do not have yet', () => {
    const joined = columnsOf(
      'cpu',
      answer([1000, 2000, 3000], [0.1, null, null]),
      history([
        [2000, 0.2, 0],
        [3000, 0.3, 0],
      ]),
      5000,
    );
    expect(joined.usage).toEqual([0.1, 0.2, 0.3]);
  });

  it('show a kill where the count rises', () => {
    const joined = columnsOf(
      'memory',
      answer([1000], [0.1]),
      history([
        [2000, 0.2, 4],
        [3000, 0.3, 5],
        [4000, 0.3, 5],
      ]),
      5000,
    );
    expect(joined.lane).toEqual([0, 0, 1, 0]);
  });

  it('of a past range end where it ends', () => {
    expect(columnsOf('cpu', answer([1000, 2000], [0.1, null]), undefined, 2000).t).toEqual([1000, 2000]);
  });

  it('bridge a missed second but not an outage', () => {
    expect(bridge([1000, 2000, 3000], [1, null, 3], 5000)).toEqual([1, 1, 3]);
    expect(bridge([1000, 4000, 9000], [1, null, 3], 5000)).toEqual([1, null, 3]);
    expect(bridge([1000, 2000], [null, 1], 5000)).toEqual([null, 1]);
    expect(newest([1, null])).toBe(0);
  });
});

describe('lines of a plot', () => {
  it('are the columns that have a value', () => {
    const lines = linesOf([1, 2], { read: [null, 5], written: [null, null] });
    expect(lines).toEqual({ t: [1, 2], lines: [{ label: 'read', values: [null, 5] }], left_out: 0 });
  });

  it('of disks have the limits that there are beside what was read and written', () => {
    const of = (io: ContainerSeries['io']) => disksOf({ t: [1], io } as ContainerSeries);
    expect(of(null)).toBeNull();
    expect(of({ read: [1], write: [2] })?.lines.map(({ label }) => label)).toEqual(['read', 'written']);
    const limited = of({ read: [null], write: [2], read_limit: [3], write_limit: [4] })?.lines;
    expect(limited).toEqual([
      { label: 'written', values: [2] },
      { label: 'limit on reading', values: [3], as: 'limit' },
      { label: 'limit on writing', values: [4], as: 'limit', dashed: true },
    ]);
  });

  it('of a network have them, too', () => {
    const of = (network: ContainerSeries['network']) => networkOf({ t: [1], network } as ContainerSeries);
    expect(of(null)).toBeNull();
    expect(of({ receive: [1], send: [2], receive_limit: [3], send_limit: [4] })?.lines).toEqual([
      { label: 'received', values: [1] },
      { label: 'sent', values: [2] },
      { label: 'limit on receiving', values: [3], as: 'limit' },
      { label: 'limit on sending', values: [4], as: 'limit', dashed: true },
    ]);
  });
});
