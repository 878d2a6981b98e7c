/** What a container's page asks SQL for, since its series hold the two limits alone: knobs, stalls, and who decided. */
import { toMs } from './time';
import type { Num, SqlResult } from './types';

/** Knobs that rules may move, whose past `limits` holds. */
export const MOVED = ['memory.high', 'cpu.weight'] as const;
export const STALLED = ['cpu', 'memory', 'io'] as const;

/** A text as SQL writes it. */
export const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
const at = (ms: number) => `to_timestamp_millis(${Math.floor(ms)})`;
const of = (host: string, name: string) => `host = ${literal(host)} AND container = ${literal(name)}`;
const within = (from: number, to: number) => `time >= ${at(from)} AND time <= ${at(to)}`;
const bin = (stepMs: number) =>
  `date_bin(INTERVAL '${Math.max(1000, Math.round(stepMs))} milliseconds', time, ${at(0)})`;

/** The newest value of each knob in each bucket. */
export const knobSql = (host: string, name: string, from: number, to: number, stepMs: number) =>
  `SELECT ${bin(stepMs)} AS t, resource, last(value, time) AS value FROM limits WHERE ${of(host, name)} AND ` +
  `resource IN (${MOVED.map(literal).join(', ')}) AND ${within(from, to)} GROUP BY 1, 2 ORDER BY 1`;

export const stallSql = (host: string, name: string, from: number, to: number, stepMs: number) =>
  `SELECT ${bin(stepMs)} AS t, resource, avg(some_share) AS value FROM pressure WHERE ${of(host, name)} AND ` +
  `${within(from, to)} GROUP BY 1, 2 ORDER BY 1`;

/** What came of knobs that the configuration or a label asks for: events named by knob and outcome. */
export const askedSql = (host: string, name: string) =>
  `SELECT time, name, value FROM events WHERE rule = '(knobs)' AND ${of(host, name)} ORDER BY time DESC LIMIT 60`;

/** Who decided how often, with what outcome. */
export const decidersSql = (host: string, name: string, from: number, to: number) =>
  `SELECT rule, outcome, count(*) AS n, max(time) AS newest FROM decisions WHERE ${of(host, name)} AND ` +
  `${within(from, to)} GROUP BY 1, 2`;

/** Points by name, in the order of time. */
export type Steps = Record<string, { t: number; v: number }[]>;

export function stepsOf(result: SqlResult): Steps {
  const steps: Steps = {};
  for (const [time, name, value] of result.rows) {
    const t = toMs(time);
    if (t !== null && typeof value === 'number') (steps[String(name)] ??= []).push({ t, v: value });
  }
  return steps;
}

/** The newest point at or before each of `times`, unless it is older than `longest`. */
export function heldAt(times: number[], points: { t: number; v: number }[], longest: number): Num[] {
  let next = 0;
  return times.map((time) => {
    while ((points[next]?.t ?? Infinity) <= time) next += 1;
    const point = points[next - 1];
    return point !== undefined && time - point.t <= longest ? point.v : null;
  });
}

export interface Asked {
  knob: string;
  outcome: string;
  value: Num;
  time: number;
}

/** The newest event of each knob. */
export function askedOf(result: SqlResult): Asked[] {
  const newest = new Map<string, Asked>();
  for (const [time, name, value] of result.rows) {
    const found = /^(.+) ([a-z_-]+)$/.exec(String(name));
    const [knob, outcome] = [found?.[1], found?.[2]];
    if (knob === undefined || outcome === undefined || newest.has(knob)) continue;
    newest.set(knob, { knob, outcome, value: typeof value === 'number' ? value : null, time: toMs(time) ?? 0 });
  }
  return [...newest.values()].sort((a, b) => a.knob.localeCompare(b.knob));
}

export interface Decider {
  rule: string;
  /** Outcomes with how often, the most frequent first. */
  outcomes: [string, number][];
  newest: number;
}

/** One row a rule, the one that decided last first. */
export function decidersOf(result: SqlResult): Decider[] {
  const rules = new Map<string, Decider>();
  for (const [rule, outcome, n, newest] of result.rows) {
    const name = String(rule);
    const decider = rules.get(name) ?? { rule: name, outcomes: [], newest: 0 };
    rules.set(name, decider);
    decider.outcomes.push([String(outcome), Number(n)]);
    decider.newest = Math.max(decider.newest, toMs(newest) ?? 0);
  }
  for (const { outcomes } of rules.values()) outcomes.sort((a, b) => b[1] - a[1]);
  return [...rules.values()].sort((a, b) => b.newest - a.newest);
}
