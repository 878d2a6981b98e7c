import { describe, expect, it } from 'vitest';
import { differences, rowsOf, versionsOf, withVersion } from './backtest';
import type { BacktestReport, Figures, Rule, RuleChange } from './types';

const figures = (change: Partial<Figures>): Figures => ({
  seconds: 60,
  slack: 0.5,
  utilisation: 0.5,
  over_limit: 0,
  unmet: 0,
  throttled_s: 0,
  oom_kills: 0,
  oom_kills_per_day: 0,
  changes: 0,
  changes_per_day: 0,
  flaps: 0,
  mean_limit: 2,
  mean_used: 1,
  ...change,
});

const report = (change: Partial<Figures>): BacktestReport => ({
  from: 0,
  to: 10_000,
  step_ms: 1000,
  ticks: 10,
  took_ms: 1,
  containers: 1,
  resources: { cpu: figures(change) },
  rules: [],
  limits: [
    { host: 'h', container: 'web', resource: 'cpu', ...figures(change) },
    { host: 'h', container: 'db', resource: 'cpu', ...figures({}) },
  ],
  problems: [],
});

describe('a backtest', () => {
  it('shows less as better, more as worse, and the same as the same', () => {
    const rows = rowsOf(report({ slack: 0.2, changes: 12 }), report({}));
    const of = (name: string) => rows.find((row) => row.name === name);
    expect(of('unused')).toMatchObject({
      ours: '20.00 %',
      theirs: '50.00 %',
      difference: '−30.00 %',
      verdict: 'better',
    });
    expect(of('changes')).toMatchObject({ ours: '12', difference: '+12', verdict: 'worse' });
    expect(of('unmet demand')).toMatchObject({ difference: '=', verdict: '' });
    expect(of('OOM kills')).toBeUndefined();
  });

  it('does without a comparison', () => {
    const rows = rowsOf(report({ unmet: 0.1 }), undefined);
    expect(rows.every((row) => row.theirs === '' && row.difference === '' && row.verdict === '')).toBe(true);
  });

  it('names the limits that differ', () => {
    const movers = differences(report({ unmet: 0.01 }), report({}));
    expect(movers.map((mover) => mover.container)).toEqual(['web']);
  });
});

describe('the past of a rule', () => {
  const change = (version: number, change: RuleChange['change'], sql: string) =>
    ({ version, change, sql, time: version }) as RuleChange;

  it('is one statement a version', () => {
    const changes = [
      change(3, 'dropped', 'c'),
      change(2, 'mode', 'b in shadow'),
      change(2, 'changed', 'b'),
      change(1, 'created', 'a'),
    ];
    expect(versionsOf(changes).map(({ version, sql }) => [version, sql])).toEqual([
      [2, 'b in shadow'],
      [1, 'a'],
    ]);
  });

  it('takes the place of what is in force', () => {
    const rules = [
      { name: 'up', sql: 'UP' },
      { name: 'down', sql: 'DOWN' },
    ] as Rule[];
    expect(withVersion(rules, 'up', 'UP 1')).toBe('DOWN;\nUP 1');
    expect(withVersion(rules, null, 'NEW')).toBe('UP;\nDOWN;\nNEW');
  });
});
