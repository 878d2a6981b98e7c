/** A backtest's figures as rows for people, and where two of them differ most. */
import type { BacktestReport, Figures, LimitScore, ResourceName, Rule, RuleChange } from './types';
import { count, figure } from './units';

export interface FigureRow {
  resource: ResourceName;
  name: string;
  hint: string;
  ours: string;
  theirs: string;
  difference: string;
  /** Whether less is better and it is less, and so on; nothing where it makes no difference to speak of. */
  verdict: 'better' | 'worse' | '';
}

interface Shown {
  key: keyof Figures;
  name: string;
  hint: string;
  show: (value: number) => string;
  /** A smaller difference is none. */
  least: number;
}

const share = (value: number) => `${(100 * value).toFixed(2)} %`;
const plain = (value: number) => (Number.isInteger(value) ? count(value) : figure(value));

const SHOWN: Shown[] = [
  { key: 'slack', name: 'unused', hint: 'mean share of the limit that was not used', show: share, least: 0.001 },
  { key: 'over_limit', name: 'over the limit', hint: 'share of the time more was wanted', show: share, least: 0.0001 },
  { key: 'unmet', name: 'unmet demand', hint: 'share of what was wanted and not given', show: share, least: 0.0001 },
  { key: 'throttled_s', name: 'throttled, s', hint: 'seconds that were throttled away', show: plain, least: 0.5 },
  { key: 'oom_kills', name: 'OOM kills', hint: 'processes that the kernel would have killed', show: plain, least: 0.5 },
  { key: 'changes', name: 'changes', hint: 'how often a limit changed', show: plain, least: 0.5 },
  { key: 'flaps', name: 'flaps', hint: 'changes that took back the one before within 5 min', show: plain, least: 0.5 },
];

/** One row for each figure of each resource; `against` may be missing. Less is better in all of them. */
export function rowsOf(report: BacktestReport, against: BacktestReport | undefined): FigureRow[] {
  return (['cpu', 'memory'] as const).flatMap((resource) => {
    const [ours, theirs] = [report.resources[resource], against?.resources[resource]];
    if (ours === undefined) return [];
    // Nobody throttles memory, and no CPU is killed.
    const fitting = SHOWN.filter(({ key }) => key !== (resource === 'cpu' ? 'oom_kills' : 'throttled_s'));
    return fitting.map(({ key, name, hint, show, least }) => {
      const other = theirs?.[key];
      const difference = other === undefined ? 0 : ours[key] - other;
      const told = Math.abs(difference) >= least;
      return {
        resource,
        name,
        hint,
        ours: show(ours[key]),
        theirs: other === undefined ? '' : show(other),
        difference:
          other === undefined ? '' : told ? `${difference > 0 ? '+' : '−'}${show(Math.abs(difference))}` : '=',
        verdict: !told ? '' : difference < 0 ? 'better' : 'worse',
      };
    });
  });
}

export interface Mover {
  host: string;
  container: string;
  resource: ResourceName;
  slack: number;
  slackBefore: number;
  unmet: number;
  unmetBefore: number;
}

/** Limits whose slack or unmet demand differ, those that differ most first. */
export function differences(report: BacktestReport, against: BacktestReport): Mover[] {
  const name = (limit: LimitScore) => JSON.stringify([limit.host, limit.container, limit.resource]);
  const others = new Map(against.limits.map((limit) => [name(limit), limit]));
  const movers = report.limits.flatMap((limit) => {
    const other = others.get(name(limit));
    if (other === undefined) return [];
    const { host, container, resource, slack, unmet } = limit;
    return [{ host, container, resource, slack, slackBefore: other.slack, unmet, unmetBefore: other.unmet }];
  });
  // What is not given hurts ten times as much as what is not used.
  const weight = (mover: Mover) =>
    Math.abs(mover.slack - mover.slackBefore) + 10 * Math.abs(mover.unmet - mover.unmetBefore);
  return movers.filter((mover) => weight(mover) > 0.001).sort((a, b) => weight(b) - weight(a));
}

/** The statements that a rule had before, one a version, the newest first; in a replay its mode counts for nothing. */
export function versionsOf(changes: RuleChange[]): { version: number; sql: string; time: number }[] {
  const known = new Set<number>();
  return changes.flatMap(({ version, sql, time, change }) => {
    if (known.has(version) || change === 'dropped') return [];
    known.add(version);
    return [{ version, sql, time }];
  });
}

/** All rules in force as one text, with another statement in the place of one of them. */
export function withVersion(rules: Rule[], name: string | null, sql: string): string {
  return [...rules.filter((rule) => rule.name !== name).map((rule) => rule.sql), sql].join(';\n');
}
