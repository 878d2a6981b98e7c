/** What a rule did on trial: what came of its proposals in shadow and as a canary, before it may act on all. */
import { literal } from './beside';
import { toMs } from './time';
import type { Mode, SqlResult } from './types';
import { count } from './units';

export const trialSql = (rule: string) =>
  `SELECT split_part(mode, ' ', 1) AS mode, outcome, count(*) AS n, count(DISTINCT concat(host, '/', container)) AS containers, ` +
  `sum(CASE WHEN decided > limit_before THEN 1 ELSE 0 END) AS up, min(time) AS since FROM decisions ` +
  `WHERE rule = ${literal(rule)} AND time > now() - INTERVAL '24 hours' GROUP BY 1, 2`;

export interface Trial {
  /** Since when there are decisions of that mode; `null` when there are none. */
  since: number | null;
  /** Changes that were made, or in shadow would have been. */
  changes: number;
  up: number;
  /** Of how many containers, at least. */
  containers: number;
  refused: number;
  /** Rolled back, failed, drifted. */
  bad: number;
}

const BAD = ['rolled_back', 'failed', 'drifted', 'infeasible'];

/** By the first word of the mode: `shadow`, `canary`, `on`. */
export function trialsOf(result: SqlResult): Record<string, Trial> {
  const trials: Record<string, Trial> = {};
  for (const [mode, outcome, n, containers, up, since] of result.rows) {
    const trial = (trials[String(mode)] ??= { since: null, changes: 0, up: 0, containers: 0, refused: 0, bad: 0 });
    trial.since = Math.min(trial.since ?? Infinity, toMs(since) ?? Infinity);
    const effective = outcome === 'shadow' || outcome === 'applied';
    if (effective) {
      trial.changes += Number(n);
      trial.up += Number(up);
      trial.containers = Math.max(trial.containers, Number(containers));
    } else if (BAD.includes(String(outcome))) trial.bad += Number(n);
    else trial.refused += Number(n);
  }
  return trials;
}

const many = (n: number, word: string) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;

/** One sentence of it. */
export function told(mode: string, trial: Trial | undefined): string {
  if (trial === undefined) return mode === 'shadow' ? 'It decided nothing in shadow in the last 24 h.' : '';
  const would = mode === 'shadow' ? 'would have changed' : 'changed or would have changed';
  const changes =
    trial.changes === 0
      ? `In ${mode} it would have changed nothing`
      : `In ${mode} it ${would} ${many(trial.changes, 'limit')} of ${many(trial.containers, 'container')}: ` +
        `${count(trial.up)} up, ${count(trial.changes - trial.up)} down`;
  const refused = trial.refused > 0 ? `; guards refused ${many(trial.refused, 'proposal')}` : '';
  const bad = trial.bad > 0 ? `; ${count(trial.bad)} went wrong or were taken back` : '';
  return `${changes}${refused}${bad}.`;
}

export const STEPS = ['shadow', 'canary', 'on'] as const;

/** The step before a mode, which a careful person takes first; `null` when that was taken. */
export function skipped(to: Mode, from: Mode, trials: Record<string, Trial>): Mode | null {
  if (to === 'off' || to === 'shadow' || from.startsWith('canary') || from === 'shadow') return null;
  return trials['shadow'] === undefined ? 'shadow' : null;
}
