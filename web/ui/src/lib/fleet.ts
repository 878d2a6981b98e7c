/** What the stream's `fleet` messages add up to: per container the newest values and the last minutes of them. */
import type { Num } from './types';

/** One second of all containers, in columns; the n-th value of each column is that of the n-th id. */
export interface FleetMessage {
  t: number;
  ids?: string[];
  cpu: Num[];
  cpu_limit: Num[];
  cpu_upper?: Num[];
  mem: Num[];
  mem_limit: Num[];
  throttled: Num[];
  oom: Num[];
}

export const COLUMNS = ['cpu', 'cpu_limit', 'mem', 'mem_limit', 'throttled', 'oom'] as const;
export type Column = (typeof COLUMNS)[number];

/** Messages further apart than this leave a gap in the lines instead of a bridge that nobody measured. */
export const GAP_MS = 5_000;
export const HISTORY_MS = 300_000;
const CAPACITY = 320;

/** The last points of one container, oldest first. NaN stands for "not known". */
export class History {
  t: number[] = [];
  readonly columns: Record<Column, number[]> = {
    cpu: [],
    cpu_limit: [],
    mem: [],
    mem_limit: [],
    throttled: [],
    oom: [],
  };

  push(t: number, value: (column: Column) => Num | undefined): void {
    this.t.push(t);
    for (const column of COLUMNS) this.columns[column].push(value(column) ?? NaN);
    if (this.t.length <= CAPACITY) return;
    this.t.shift();
    for (const column of COLUMNS) this.columns[column].shift();
  }

  get length(): number {
    return this.t.length;
  }

  last(column: Column): Num {
    const value = this.columns[column][this.t.length - 1];
    return value === undefined || Number.isNaN(value) ? null : value;
  }

  /** OOM kills seen here: a rise of the count, whether the server counts since the start or over some seconds. */
  kills(): number {
    let sum = 0;
    this.columns.oom.forEach((value, at) => (sum += Math.max(0, value - (this.columns.oom[at - 1] ?? value)) || 0));
    return sum;
  }

  /** Puts older points before those that are there; points that are not older are dropped. */
  prepend(points: { t: number; values: Partial<Record<Column, number>> }[]): void {
    const first = this.t[0] ?? Infinity;
    const older = points.filter((point) => point.t < first).sort((a, b) => a.t - b.t);
    const room = Math.max(0, CAPACITY - this.t.length);
    const kept = room === 0 ? [] : older.slice(-room);
    this.t.unshift(...kept.map((point) => point.t));
    for (const column of COLUMNS) this.columns[column].unshift(...kept.map((point) => point.values[column] ?? NaN));
  }
}

export type Applied = 'ok' | 'gap' | 'old' | 'malformed';

export class Fleet {
  ids: string[] = [];
  t = 0;
  readonly history = new Map<string, History>();

  /** Takes one message in. Changes nothing when it is not newer than the last one or does not fit its own ids. */
  apply(message: FleetMessage): Applied {
    const ids = message.ids ?? this.ids;
    const fits = COLUMNS.every((column) => Array.isArray(message[column]) && message[column].length === ids.length);
    if (!fits || !Number.isFinite(message.t)) return 'malformed';
    // A server whose clock was set back, or another server behind the same address, begins anew.
    if (message.t < this.t - 60_000) this.clear();
    if (message.t <= this.t) return 'old';

    const gap = this.t > 0 && message.t - this.t > GAP_MS;
    this.#retain(ids);
    ids.forEach((id, at) => {
      const history = this.history.get(id) ?? new History();
      this.history.set(id, history);
      if (gap && history.length > 0) history.push(this.t + 1, () => null);
      history.push(message.t, (column) => message[column][at]);
    });
    this.t = message.t;
    return gap ? 'gap' : 'ok';
  }

  clear(): void {
    this.ids = [];
    this.t = 0;
    this.history.clear();
  }

  #retain(ids: string[]): void {
    if (ids === this.ids) return;
    const present = new Set(ids);
    for (const id of this.history.keys()) if (!present.has(id)) this.history.delete(id);
    this.ids = ids;
  }

  /** Sums and counts of the newest second. */
  totals(): Totals {
    const totals: Totals = {
      containers: this.ids.length,
      cpu: 0,
      cpuLimit: 0,
      mem: 0,
      memLimit: 0,
      throttled: 0,
      oom: 0,
      unlimited: 0,
    };
    for (const id of this.ids) {
      const history = this.history.get(id);
      if (history === undefined) continue;
      totals.cpu += history.last('cpu') ?? 0;
      totals.cpuLimit += history.last('cpu_limit') ?? 0;
      totals.mem += history.last('mem') ?? 0;
      totals.memLimit += history.last('mem_limit') ?? 0;
      totals.oom += history.kills();
      if ((history.last('throttled') ?? 0) >= THROTTLED_FROM) totals.throttled += 1;
      if (history.last('cpu_limit') === null) totals.unlimited += 1;
    }
    return totals;
  }
}

/** Below this share of throttled periods nobody would notice. */
export const THROTTLED_FROM = 0.01;

export interface Totals {
  containers: number;
  cpu: number;
  cpuLimit: number;
  mem: number;
  memLimit: number;
  throttled: number;
  oom: number;
  unlimited: number;
}

/** Members by key in the order of the keys; those without one come last. */
export function groupBy<T>(members: T[], keyOf: (member: T) => string): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const member of members) groups.set(keyOf(member), [...(groups.get(keyOf(member)) ?? []), member]);
  return [...groups].sort(([a], [b]) => (a === '' ? 1 : b === '' ? -1 : a.localeCompare(b)));
}

export const idOf = (host: string, name: string) => `${host}/${name}`;

/** Host and name of an id. A host's name holds no slash, a container's may. */
export function keyOf(id: string): { host: string; name: string } {
  const at = id.indexOf('/');
  return at < 0 ? { host: '', name: id } : { host: id.slice(0, at), name: id.slice(at + 1) };
}
