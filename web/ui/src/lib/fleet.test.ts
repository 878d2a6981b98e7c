import { describe, expect, it } from 'vitest';
import { Fleet, groupBy, keyOf, type FleetMessage } from './fleet';

function message(t: number, ids: string[] | undefined, cpu: (number | null)[]): FleetMessage {
  const ones = cpu.map(() => 1);
  return {
    t,
    ...(ids ? { ids } : {}),
    cpu,
    cpu_limit: ones,
    mem: ones,
    mem_limit: ones,
    throttled: cpu.map(() => 0),
    oom: cpu.map(() => 0),
  };
}

describe('the fleet', () => {
  it('grows by one point per message and keeps the ids when none are sent', () => {
    const fleet = new Fleet();
    expect(fleet.apply(message(1000, ['h/a', 'h/b'], [0.1, 0.2]))).toBe('ok');
    expect(fleet.apply(message(2000, undefined, [0.3, null]))).toBe('ok');
    expect(fleet.history.get('h/a')?.columns.cpu).toEqual([0.1, 0.3]);
    expect(fleet.history.get('h/b')?.last('cpu')).toBeNull();
  });

  it('shows a gap as a gap', () => {
    const fleet = new Fleet();
    fleet.apply(message(1000, ['h/a'], [0.1]));
    expect(fleet.apply(message(20_000, ['h/a'], [0.2]))).toBe('gap');
    expect(fleet.history.get('h/a')?.columns.cpu).toEqual([0.1, NaN, 0.2]);
  });

  it('ignores what is not newer, also after a reconnection', () => {
    const fleet = new Fleet();
    fleet.apply(message(2000, ['h/a'], [0.1]));
    expect(fleet.apply(message(2000, ['h/a'], [0.9]))).toBe('old');
    expect(fleet.apply(message(1000, ['h/a'], [0.9]))).toBe('old');
    expect(fleet.history.get('h/a')?.length).toBe(1);
  });

  it('begins anew when the clock was set back far', () => {
    const fleet = new Fleet();
    fleet.apply(message(1_000_000, ['h/a'], [0.1]));
    expect(fleet.apply(message(100_000, ['h/a'], [0.2]))).toBe('ok');
    expect(fleet.history.get('h/a')?.columns.cpu).toEqual([0.2]);
  });

  it('forgets who left and keeps the past of who stays', () => {
    const fleet = new Fleet();
    fleet.apply(message(1000, ['h/a', 'h/b'], [0.1, 0.2]));
    fleet.apply(message(2000, ['h/b', 'h/c'], [0.3, 0.4]));
    expect([...fleet.history.keys()]).toEqual(['h/b', 'h/c']);
    expect(fleet.history.get('h/b')?.columns.cpu).toEqual([0.2, 0.3]);
  });

  it('refuses columns that do not fit the ids', () => {
    const fleet = new Fleet();
    expect(fleet.apply(message(1000, ['h/a', 'h/b'], [0.1]))).toBe('malformed');
    expect(fleet.ids).toEqual([]);
  });

  it('is bounded and puts loaded history before what was streamed', () => {
    const fleet = new Fleet();
    for (let at = 0; at < 400; at += 1) fleet.apply(message((at + 1) * 1000, ['h/a'], [at]));
    expect(fleet.history.get('h/a')?.length).toBe(320);
    const other = new Fleet();
    other.apply(message(100_000, ['h/a'], [1]));
    other.history.get('h/a')?.prepend([
      { t: 100_000, values: { cpu: 9 } },
      { t: 95_000, values: { cpu: 2 } },
      { t: 90_000, values: { cpu: 3 } },
    ]);
    expect(other.history.get('h/a')?.columns.cpu).toEqual([3, 2, 1]);
  });

  it('sums what is known', () => {
    const fleet = new Fleet();
    fleet.apply({
      t: 1000,
      ids: ['h/a', 'h/b'],
      cpu: [0.5, null],
      cpu_limit: [1, null],
      mem: [1, 2],
      mem_limit: [4, 4],
      throttled: [0.2, 0],
      oom: [0, 3],
    });
    expect(fleet.totals()).toMatchObject({
      containers: 2,
      cpu: 0.5,
      cpuLimit: 1,
      unlimited: 1,
      mem: 3,
      memLimit: 8,
      throttled: 1,
      oom: 0,
    });
  });

  it('counts a kill once, also when the count falls back or begins above zero', () => {
    const fleet = new Fleet();
    [5, 5, 6, 0, 0, 2].forEach((oom, at) => fleet.apply({ ...message(1000 * (at + 1), ['h/a'], [1]), oom: [oom] }));
    expect(fleet.totals().oom).toBe(3);
  });

  it('is grouped with those that have no group at the end', () => {
    expect(groupBy(['', 'b', 'a', 'b'], (x) => x)).toEqual([
      ['a', ['a']],
      ['b', ['b', 'b']],
      ['', ['']],
    ]);
  });

  it('splits an id at the first slash, since container names may hold more', () => {
    expect(keyOf('node0/a/b')).toEqual({ host: 'node0', name: 'a/b' });
  });
});
