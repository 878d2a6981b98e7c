/** How a decision is told in few words. */
import type { Decision, OutcomeStatus } from './types';

export type Direction = 'up' | 'down' | 'same';

export function directionOf(decision: Decision): Direction {
  const target = decision.decided ?? decision.proposed;
  if (decision.limit_before === null) return 'down'; // from unlimited to anything
  if (target > decision.limit_before) return 'up';
  return target < decision.limit_before ? 'down' : 'same';
}

/** Whether a limit was really moved; everything else is drawn hollow. */
export function isReal(decision: Decision): boolean {
  return decision.outcome.status === 'applied';
}

export function glyphOf(direction: Direction, real: boolean): string {
  if (direction === 'same') return real ? '■' : '□';
  if (direction === 'up') return real ? '▲' : '△';
  return real ? '▼' : '▽';
}

export const OUTCOMES: OutcomeStatus[] = [
  'applied',
  'shadow',
  'unchanged',
  'refused',
  'infeasible',
  'drifted',
  'rolled_back',
  'failed',
];

export type Tone = 'good' | 'plain' | 'warn' | 'bad';

export function toneOf(status: OutcomeStatus): Tone {
  if (status === 'applied') return 'good';
  if (status === 'shadow' || status === 'unchanged') return 'plain';
  return status === 'failed' || status === 'rolled_back' ? 'bad' : 'warn';
}

export const outcomeWord = (status: string) => status.replace('_', ' ');

/** One line of why: what a guard said when one changed or refused the target, else the rule's own reason. */
export function whyOf(decision: Decision): string {
  const refused = decision.guards.find((guard) => guard.action === 'refused');
  return refused ? `${refused.guard}: ${refused.why}` : decision.reason;
}

/** Keys of `inputs` whose values are in the resource's unit rather than counts, seconds or shares. */
export function isAmountKey(key: string): boolean {
  return (
    /^(usage|allocated|limit|min|max|upper|lower|host_free|host_capacity|unreclaimable|target|baseline)(_|$)/.test(
      key,
    ) && !/_(age|slope|s|ms)$/.test(key)
  );
}

export const isShareKey = (key: string) => /^(throttled|pressure)/.test(key);

/** Whether it changed nothing and would not have: told only where one asks for it. */
export function isQuiet(decision: Decision): boolean {
  return decision.outcome.status === 'refused' || decision.outcome.status === 'unchanged';
}

/** The same proposal with the same outcome, tick after tick. */
export interface Run {
  /** Stays the same while the run grows. */
  key: string;
  newest: Decision;
  ids: string[];
  /** Time of the first one. */
  since: number;
}

function runOf(decision: Decision): Run {
  return { key: decision.id, newest: decision, ids: [decision.id], since: decision.time };
}

/**
 * A rule proposes at every tick until its wish is granted, so a cooldown of a minute makes sixty refusals. They are one
 * run each; what was written stands for itself. In: newest first. Out: the run that began last first, so that rows do
 * not change places while they grow.
 */
export function runsOf(decisions: Decision[]): Run[] {
  const open = new Map<string, Run>();
  const runs: Run[] = [];
  for (const decision of decisions) {
    const { container, resource, rule } = decision;
    const whose = [container.host, container.name, resource, rule].join('\n');
    const run = open.get(whose);
    const goes_on =
      run !== undefined &&
      !isReal(decision) &&
      run.newest.outcome.status === decision.outcome.status &&
      directionOf(run.newest) === directionOf(decision);
    if (goes_on) {
      run.ids.push(decision.id);
      run.key = decision.id;
      run.since = decision.time;
    } else {
      const begun = runOf(decision);
      open.set(whose, begun);
      runs.push(begun);
    }
  }
  return runs.sort((a, b) => b.since - a.since);
}

/** Every decision on its own. */
export const singly = (decisions: Decision[]): Run[] => decisions.map(runOf);

/** Several answers as one list, newest first, each decision once. */
export function merged(...lists: Decision[][]): Decision[] {
  const known = new Map(lists.flat().map((decision) => [decision.id, decision]));
  return [...known.values()].sort((a, b) => b.time - a.time || (a.id < b.id ? 1 : -1));
}
