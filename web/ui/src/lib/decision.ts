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
  return /^(usage|allocated|limit|min|max|upper|lower|host_free|unreclaimable|target|baseline)(_|$)/.test(key) && !/_(age|slope|s|ms)$/.test(key);
}

export const isShareKey = (key: string) => /^(throttled|pressure)/.test(key);
