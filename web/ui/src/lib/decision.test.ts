import { describe, expect, it } from 'vitest';
import { directionOf, isAmountKey, isQuiet, merged, runsOf, whyOf } from './decision';
import type { Decision, OutcomeStatus } from './types';

function decision(id: string, status: OutcomeStatus, to: number | null = 2, before: number | null = 1): Decision {
  return {
    id,
    time: 1,
    rule: 'r',
    version: 1,
    container: { host: 'h', name: 'c' },
    resource: 'cpu',
    limit_before: before,
    proposed: 3,
    decided: to,
    guards: to === null ? [{ guard: 'stale', action: 'refused', before: 3, after: 3, why: 'old data' }] : [],
    reason: 'because',
    mode: 'on',
    inputs: {},
    outcome: { status, limit_after: null, writes: [], message: '', at: 1, took_us: 1 },
    sentence: 'because',
  };
}

describe('a decision', () => {
  it('points to where the limit went or would have gone', () => {
    expect(directionOf(decision('a', 'applied', 2, 1))).toBe('up');
    expect(directionOf(decision('a', 'applied', 0.5, 1))).toBe('down');
    expect(directionOf(decision('a', 'refused', null, 1))).toBe('up');
    expect(directionOf(decision('a', 'applied', 2, null))).toBe('down');
    expect(directionOf(decision('a', 'unchanged', 1, 1))).toBe('same');
  });

  it('tells the refusing guard before the rule', () => {
    expect(whyOf(decision('a', 'refused', null))).toBe('stale: old data');
    expect(whyOf(decision('a', 'applied'))).toBe('because');
  });

  it('is listed once while it is repeated without effect, each time when it wrote', () => {
    const at = (time: number, status: OutcomeStatus) => ({ ...decision(`${time}`, status), time });
    const list = [at(9, 'refused'), at(8, 'refused'), at(7, 'applied'), at(6, 'applied'), at(5, 'refused')];
    const told = (runs: ReturnType<typeof runsOf>) =>
      runs.map(({ newest, ids, since }) => [newest.time, ids.length, since]);
    expect(told(runsOf(list))).toEqual([
      [9, 2, 8],
      [7, 1, 7],
      [6, 1, 6],
      [5, 1, 5],
    ]);
  });

  it('keeps its place and key while the run grows', () => {
    const at = (time: number, name: string) => ({
      ...decision(`${name}${time}`, 'refused'),
      time,
      container: { host: 'h', name },
    });
    const before = runsOf([at(3, 'b'), at(2, 'a'), at(1, 'a')]);
    const after = runsOf([at(5, 'a'), at(4, 'b'), at(3, 'b'), at(2, 'a'), at(1, 'a')]);
    expect(after.map((run) => run.key)).toEqual(before.map((run) => run.key));
  });

  it('appears once in lists that are merged', () => {
    const [a, b] = [
      { ...decision('a', 'applied'), time: 1 },
      { ...decision('b', 'refused'), time: 2 },
    ];
    expect(merged([a], [b, a]).map(({ id }) => id)).toEqual(['b', 'a']);
    expect([a, b].map(isQuiet)).toEqual([false, true]);
  });

  it('has inputs of which some are amounts', () => {
    expect(['usage_p95', 'allocated', 'min', 'host_free'].every(isAmountKey)).toBe(true);
    expect(['allocated_age', 'usage_slope', 'samples', 'minutes', 'age'].some(isAmountKey)).toBe(false);
  });
});
