/** What somebody should look at, the worst first: hosts, rules, knobs and containers in trouble. */
import { keyOf, type Fleet } from './fleet';
import { SILENT_MS, heardAt } from './hosts';
import { containerHash, hashOf, ruleHash } from './route';
import { span } from './time';
import type { HostRow, Rule } from './types';
import { count, percent } from './units';

export interface Alarm {
  key: string;
  tone: 'bad' | 'warn';
  what: string;
  how: string;
  hash: string;
}

/** Throttled in so large a share of the last minute somebody waits. */
export const THROTTLED_BADLY = 0.25;
const MINUTE = 60;

/** Mean share of the throttled periods in the last minute. */
function throttled(fleet: Fleet, id: string): number {
  const history = fleet.history.get(id);
  if (history === undefined) return 0;
  const from = Math.max(0, history.length - MINUTE);
  let sum = 0;
  for (let at = from; at < history.length; at += 1) sum += history.columns.throttled[at] || 0;
  return history.length === from ? 0 : sum / (history.length - from);
}

export function alarmsOf(fleet: Fleet, hosts: HostRow[], rules: Rule[], now: number): Alarm[] {
  const alarms: Alarm[] = [];
  for (const host of hosts) {
    const heard = heardAt(host);
    const hash = hashOf(['hosts'], { q: host.name });
    if (heard === null || now - heard > SILENT_MS) {
      const how = heard === null ? 'never heard of' : `not heard of for ${span(now - heard)}`;
      alarms.push({ key: `host ${host.name}`, tone: 'bad', what: host.name, how, hash });
    }
    if (host.knobs.length > 0) {
      const how = `${count(host.knobs.length)} ${host.knobs.length === 1 ? 'knob does' : 'knobs do'} not stand as asked for`;
      alarms.push({ key: `knobs ${host.name}`, tone: 'warn', what: host.name, how, hash });
    }
  }
  for (const { name, last_error, note } of rules) {
    if (last_error === null && note === null) continue;
    const tone = last_error === null ? 'warn' : 'bad';
    alarms.push({ key: `rule ${name}`, tone, what: name, how: last_error ?? note ?? '', hash: ruleHash(name) });
  }
  const starved: { id: string; share: number }[] = [];
  for (const id of fleet.ids) {
    const { host, name } = keyOf(id);
    const kills = fleet.history.get(id)?.kills() ?? 0;
    if (kills > 0) {
      const how = `${count(kills)} OOM ${kills === 1 ? 'kill' : 'kills'} in 5 min`;
      alarms.push({ key: `oom ${id}`, tone: 'bad', what: name, how, hash: containerHash(host, name) });
    }
    const share = throttled(fleet, id);
    if (share >= THROTTLED_BADLY) starved.push({ id, share });
  }
  for (const { id, share } of starved.sort((a, b) => b.share - a.share)) {
    const { host, name } = keyOf(id);
    const how = `throttled ${percent(share)} of the last minute`;
    alarms.push({ key: `throttled ${id}`, tone: 'warn', what: name, how, hash: containerHash(host, name) });
  }
  return alarms.sort((a, b) => Number(a.tone === 'warn') - Number(b.tone === 'warn'));
}
