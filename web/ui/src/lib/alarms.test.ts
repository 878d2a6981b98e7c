import { describe, expect, it } from 'vitest';
import { alarmsOf } from './alarms';
import { Fleet } from './fleet';
import type { HostRow, Rule } from './types';

const NOW = 1_000_000;
const host = (name: string, last_seen: number | null, knobs = 0) =>
  ({ name, last_seen, agent: null, own: true, cpu: 8, memory: 1, knobs: Array.from({ length: knobs }) }) as HostRow;
const rule = (name: string, last_error: string | null, note: string | null = null) =>
  ({ name, last_error, note }) as Rule;

function fleet(throttled: number, oom: number): Fleet {
  const made = new Fleet();
  for (const at of [0, 1]) {
    made.apply({
      t: NOW - 1000 + at,
      ids: ['n1/web', 'n1/idle'],
      cpu: [1, 0],
      cpu_limit: [1, 1],
      mem: [1, 1],
      mem_limit: [1, 1],
      throttled: [throttled, 0],
      oom: [at * oom, 0],
    });
  }
  return made;
}

describe('alarms', () => {
  it('are none when all is well', () => {
    expect(alarmsOf(fleet(0.1, 0), [host('n1', NOW - 2000)], [rule('a', null)], NOW)).toEqual([]);
  });

  it('tell of each kind of trouble, the worst first', () => {
    const alarms = alarmsOf(
      fleet(0.5, 2),
      [host('n1', NOW - 60_000), host('n2', null), host('n3', NOW, 2)],
      [rule('broken', 'no such column'), rule('braked', null, 'put into shadow')],
      NOW,
    );
    expect(alarms.map(({ tone, what, how }) => `${tone} ${what}: ${how}`)).toEqual([
      'bad n1: not heard of for 60 s',
      'bad n2: never heard of',
      'bad broken: no such column',
      'bad web: 2 OOM kills in 5 min',
      'warn n3: 2 knobs do not stand as asked for',
      'warn braked: put into shadow',
      'warn web: throttled 50 % of the last minute',
    ]);
    expect(alarms.map(({ hash }) => hash)).toContain('#/c/n1/web');
  });
});
