/** What the hosts page says of a machine: how it is, and how much of it is used, allocated and free. */
import type { Fleet } from './fleet';
import { keyOf } from './fleet';
import type { HostRow, Num } from './types';

/** A host that was not heard of for so long is silent: it is heard of each second. */
export const SILENT_MS = 10_000;
/** After so long without a word an agent changes nothing any more (`agent.hold_after_s`, unless it is told otherwise). */
export const HOLD_MS = 30_000;

export type HostState = 'fresh' | 'silent' | 'holding' | 'frozen';

export const STATE_TITLES: Record<HostState, string> = {
  fresh: 'Measured lately, and limits can be changed',
  silent: 'Not heard of for more than 10 s; its figures are old',
  holding:
    'Cut off: its agent holds all limits as they are from 30 s of silence on, and puts back what it found after 10 min, unless it is configured otherwise',
  frozen: 'The kill switch is on: no limit of this host is changed',
};

/** When a host was last heard of, whoever spoke for it. */
export function heardAt(host: HostRow): number | null {
  const times = [host.last_seen, host.agent?.last_frame ?? null].filter((time) => time !== null);
  return times.length === 0 ? null : Math.max(...times);
}

/** `frozen` is whether the server's own kill switch is on, which holds for all hosts. */
export function stateOf(host: HostRow, now: number, frozen: boolean): HostState {
  const heard = heardAt(host);
  const age = heard === null ? Infinity : now - heard;
  if (age > SILENT_MS) return host.agent !== null && !host.agent.connected && age >= HOLD_MS ? 'holding' : 'silent';
  return frozen || host.agent?.frozen === true ? 'frozen' : 'fresh';
}

/** Who changes limits there. */
export function changedBy(host: HostRow): string {
  if (host.own) return 'this server';
  return host.agent === null ? 'nobody' : 'its agent';
}

export interface HostSums {
  containers: number;
  cpu: number;
  cpuLimit: number;
  mem: number;
  memLimit: number;
  /** Containers without a limit, which are in no sum of limits. */
  cpuUnlimited: number;
  memUnlimited: number;
  /** The ids of its containers, those that use most CPU first. */
  ids: string[];
}

/** Sums of the newest second by host. */
export function sumsByHost(fleet: Fleet): Map<string, HostSums> {
  const all = new Map<string, HostSums>();
  for (const id of fleet.ids) {
    const { host } = keyOf(id);
    const history = fleet.history.get(id);
    const sums = all.get(host) ?? {
      containers: 0,
      cpu: 0,
      cpuLimit: 0,
      mem: 0,
      memLimit: 0,
      cpuUnlimited: 0,
      memUnlimited: 0,
      ids: [],
    };
    all.set(host, sums);
    const [cpuLimit, memLimit] = [history?.last('cpu_limit') ?? null, history?.last('mem_limit') ?? null];
    sums.containers += 1;
    sums.cpu += history?.last('cpu') ?? 0;
    sums.mem += history?.last('mem') ?? 0;
    sums.cpuLimit += cpuLimit ?? 0;
    sums.memLimit += memLimit ?? 0;
    if (cpuLimit === null) sums.cpuUnlimited += 1;
    if (memLimit === null) sums.memUnlimited += 1;
    sums.ids.push(id);
  }
  const cpuOf = (id: string) => fleet.history.get(id)?.last('cpu') ?? 0;
  for (const sums of all.values()) sums.ids.sort((a, b) => cpuOf(b) - cpuOf(a));
  return all;
}

/** A bar of one resource in shares of its whole length, which is the capacity or all limits together, if those are more. */
export interface CapacityBar {
  used: number;
  allocated: number;
  /** Where the capacity ends; 1 unless more is allocated than there is. */
  capacity: number;
  /** What is not allocated yet, in the resource's unit; negative when more is allocated than there is. */
  free: number;
}

/**
 * `null` when the capacity is not known, or what is used of it. `open` is for what has no capacity of its own unless
 * somebody bounds it: then it is as long as what is in it.
 */
export function capacityBar(capacity: Num, used: Num, allocated: Num, open = false): CapacityBar | null {
  if (open && capacity === null) capacity = Math.max(used ?? 0, allocated ?? 0);
  if (capacity === null || used === null || allocated === null || !(capacity > 0)) return null;
  const whole = Math.max(capacity, allocated, used);
  return { used: used / whole, allocated: allocated / whole, capacity: capacity / whole, free: capacity - allocated };
}

export const SORTS = ['name', 'cpu', 'memory', 'state'] as const;
export type HostSort = (typeof SORTS)[number];

const TROUBLE: Record<HostState, number> = { holding: 0, silent: 1, frozen: 2, fresh: 3 };

/** Hosts in an order; what is nearest to trouble comes first where it is not by name. */
export function sorted(
  hosts: HostRow[],
  by: HostSort,
  stateOf: (host: HostRow) => HostState,
  sums: Map<string, HostSums>,
): HostRow[] {
  const share = (host: HostRow): number => {
    const of = sums.get(host.name);
    const [used, capacity] = by === 'cpu' ? [of?.cpu, host.cpu] : [of?.mem, host.memory];
    return used === undefined || !capacity ? -1 : used / capacity;
  };
  const byName = (a: HostRow, b: HostRow) => a.name.localeCompare(b.name, undefined, { numeric: true });
  return [...hosts].sort((a, b) => {
    if (by === 'name') return byName(a, b);
    const order = by === 'state' ? TROUBLE[stateOf(a)] - TROUBLE[stateOf(b)] : share(b) - share(a);
    return order || byName(a, b);
  });
}

/** The command that makes a host part of the fleet. */
export const agentCommand = (server: string) =>
  `tidegate agent --server ${server} --token-file /etc/tidegate/agent.token`;
