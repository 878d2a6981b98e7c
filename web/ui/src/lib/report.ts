/** What a report says, in the units people pay in: core-hours, GiB-hours, kilowatt-hours. */
import type { ChartColumns } from './chart';
import { clock, day } from './time';
import type { ContainerRow, Num } from './types';
import { NONE, amount, bytes, cores, count, figure, percent } from './units';

export const KINDS = ['container', 'app', 'user'] as const;
export type Kind = (typeof KINDS)[number];
export type Charged = 'cpu' | 'memory' | 'energy';

/** What one resource came to, as the server says it: integrals are in the unit times seconds. */
export interface Figures {
  unit: string;
  used: number;
  allocated: Num;
  reserved: Num;
  reserved_by: 'bounds' | 'host_share' | 'mixed' | null;
  utilisation: Num;
  average: Num;
  average_allocated: Num;
  maximum: Num;
  time_s: number;
  covered_s: number;
  limited_s: number;
  at_limit_s: number;
  throttled_s: Num;
  oom_kills: Num;
  changes: number;
  raised: number;
  samples: number;
  gaps: number;
}

export type ByResource = { cpu: Figures; memory: Figures; energy?: Figures | null };

export interface Report {
  now: number;
  kind: Kind;
  name: string;
  from: number;
  to: number;
  total: ByResource;
  containers: ({ host: string; name: string } & ByResource)[];
  step_ms: number;
  t: number[];
  series: Partial<Record<Charged, { used: Num[]; allocated: Num[] }>>;
  took_ms: number;
}

/** Price per core-hour, GiB-hour and kilowatt-hour. */
export interface Prices {
  cpu: Num;
  memory: Num;
  energy: Num;
  currency: string;
}

const HOUR_S = 3_600;
/** How much of the server's unit times seconds is one of what is paid for. */
const PER: Record<Charged, { word: string; size: number }> = {
  cpu: { word: 'core-hours', size: HOUR_S },
  memory: { word: 'GiB-hours', size: HOUR_S * 1024 ** 3 },
  energy: { word: 'kWh', size: HOUR_S * 1000 },
};

/** An integral in hours of its unit: `0.38`, or as many digits as it takes not to say zero. */
export function hours(resource: Charged, integral: Num | undefined): string {
  if (integral === null || integral === undefined) return NONE;
  const value = integral / PER[resource].size;
  return value !== 0 && Math.abs(value) < 0.095 ? value.toPrecision(2) : figure(value);
}

export const hoursWord = (resource: Charged) => PER[resource].word;

/** What an integral costs; `null` when it or its price is not known. */
export function cost(resource: Charged, integral: Num | undefined, prices: Prices): Num {
  const price = prices[resource];
  return integral === null || integral === undefined || price === null ? null : (integral / PER[resource].size) * price;
}

/** What all resources that have a price cost together; `null` when none has one. */
export function costOf(total: ByResource, which: 'used' | 'allocated' | 'reserved', prices: Prices): Num {
  const costs = (['cpu', 'memory', 'energy'] as const)
    // Energy is paid for as it is used, whatever was set aside.
    .map((resource) => cost(resource, total[resource]?.[resource === 'energy' ? 'used' : which], prices))
    .filter((one) => one !== null);
  return costs.length === 0 ? null : costs.reduce((sum, one) => sum + one, 0);
}

/** `1.24 EUR`; small amounts with as many digits as it takes. */
export function money(value: Num, currency: string): string {
  if (value === null) return NONE;
  const text = value !== 0 && Math.abs(value) < 0.095 ? value.toPrecision(2) : value.toFixed(2);
  return currency === '' ? text : `${text} ${currency}`;
}

/** A price as a person types it, with point or comma; `null` when it is none. */
export function priceOf(text: string | undefined): Num {
  const value = Number((text ?? '').trim().replace(',', '.'));
  return text === undefined || text.trim() === '' || !Number.isFinite(value) || value < 0 ? null : value;
}

export function pricesOf(query: Record<string, string>, stored: Record<string, string>): Prices {
  const of = (key: string) => query[key] ?? stored[key];
  return {
    cpu: priceOf(of('core')),
    memory: priceOf(of('gib')),
    energy: priceOf(of('kwh')),
    currency: (of('cur') ?? 'EUR').slice(0, 8),
  };
}

/** `2 h 05 min`, `45 min`, `12 s`: exact, since it is what was paid for. */
export function lasted(s: Num): string {
  if (s === null) return NONE;
  const whole = Math.round(s);
  if (whole < 60) return `${s > 0 && s < 10 ? Number(s.toFixed(1)) : whole} s`;
  const [h, m, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (h === 0) return rest === 0 ? `${m} min` : `${m} min ${String(rest).padStart(2, '0')} s`;
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  return m === 0 ? `${h} h` : `${h} h ${String(m).padStart(2, '0')} min`;
}

const BY = {
  bounds: 'upper bound',
  host_share: "equal share of the host's capacity",
  mixed: 'upper bounds, else equal shares of the hosts',
} as const;

/** What is reserved, in words. */
export const reservedBy = (figures: Figures) =>
  figures.reserved_by === null ? 'no bound, capacity unknown' : BY[figures.reserved_by];

export interface Line {
  word: string;
  note?: string;
  cells: Record<'cpu' | 'memory', string>;
  energy: string;
  cost?: Num;
}

/** The table of a report, one line a figure. */
export function linesOf(total: ByResource, spanS: number, prices: Prices): Line[] {
  const both = (of: (figures: Figures, resource: 'cpu' | 'memory') => string, energy = '') => ({
    cells: { cpu: of(total.cpu, 'cpu'), memory: of(total.memory, 'memory') },
    energy: total.energy ? energy : '',
  });
  const integral = (which: 'used' | 'allocated' | 'reserved') =>
    both(
      (figures, resource) => `${hours(resource, figures[which])} ${hoursWord(resource)}`,
      which === 'used' ? `${hours('energy', total.energy?.used)} kWh` : NONE,
    );
  const watts = (value: Num | undefined) => (value === null || value === undefined ? NONE : `${figure(value)} W`);
  const share = (part: Num, whole: number) =>
    part === null ? NONE : whole > 0 ? `${lasted(part)} (${percent(part / whole)})` : lasted(part);
  const notes = [...new Set([reservedBy(total.cpu), reservedBy(total.memory)])];
  return [
    { word: 'Used', ...integral('used'), cost: costOf(total, 'used', prices) },
    { word: 'Allocated', note: 'limits', ...integral('allocated'), cost: costOf(total, 'allocated', prices) },
    {
      word: 'Reserved',
      note: notes.length === 1 ? (notes[0] ?? '') : `CPU: ${notes[0]}; memory: ${notes[1]}`,
      ...integral('reserved'),
      cost: costOf(total, 'reserved', prices),
    },
    { word: 'Utilisation', note: 'used of allocated', ...both((figures) => percent(figures.utilisation), NONE) },
    { word: 'Average used', ...both((f, r) => amount(r, f.average), watts(total.energy?.average)) },
    { word: 'Average allocated', ...both((f, r) => amount(r, f.average_allocated), NONE) },
    { word: 'Maximum used', ...both((f, r) => amount(r, f.maximum), watts(total.energy?.maximum)) },
    {
      word: 'Time with data',
      note: `of ${lasted(spanS)}`,
      ...both((figures) => share(figures.covered_s, spanS), share(total.energy?.covered_s ?? null, spanS)),
    },
    { word: 'Gaps', ...both((figures) => count(figures.gaps), count(total.energy?.gaps)) },
    {
      word: 'At its limit',
      note: '99 % or more',
      ...both((figures) => (figures.limited_s > 0 ? share(figures.at_limit_s, figures.time_s) : NONE), NONE),
    },
    {
      word: 'Unmet',
      note: 'CPU: throttled; memory: OOM kills',
      ...both(
        (figures, resource) =>
          resource === 'cpu' ? share(figures.throttled_s, figures.time_s) : killed(figures.oom_kills),
        NONE,
      ),
    },
    {
      word: 'Changes of limits',
      note: 'up, down',
      ...both(
        ({ changes, raised }) => (changes === 0 ? '0' : `${count(changes)} (▲ ${raised} ▼ ${changes - raised})`),
        NONE,
      ),
    },
  ];
}

function killed(kills: Num): string {
  if (kills === null) return NONE;
  return `${count(kills)} ${Math.round(kills) === 1 ? 'kill' : 'kills'}`;
}

/** What the chart draws: used as usage, allocated as the limit. */
export function chartOf(report: Report, resource: 'cpu' | 'memory'): ChartColumns {
  const none = report.t.map(() => null);
  const series = report.series[resource];
  return {
    t: report.t,
    usage: series?.used ?? none,
    usage_max: none,
    limit: series?.allocated ?? none,
    upper: none,
    lower: none,
    lane: none,
  };
}

/** Who can be reported on, from the containers that are known. */
export function namesOf(kind: Kind, rows: ContainerRow[]): string[] {
  const of = (row: ContainerRow) => (kind === 'container' ? `${row.host}/${row.name}` : row[kind]);
  return [...new Set(rows.map(of).filter((name) => name !== null && name !== ''))].toSorted() as string[];
}

/** Of an address; without one the app with the first name, or whatever there is. */
export function subjectOf(query: Record<string, string>, rows: ContainerRow[]): { kind: Kind; name: string } {
  const asked = KINDS.find((kind) => kind === query['kind']);
  const kind = asked ?? (['app', 'container'] as const).find((one) => namesOf(one, rows).length > 0) ?? 'app';
  return { kind, name: (asked === undefined ? undefined : query['name']) ?? namesOf(kind, rows)[0] ?? '' };
}

export function reportQuery(kind: Kind, name: string, from: number, to: number, points: number): string {
  const values = { [kind]: name, from: Math.floor(from), to: Math.ceil(to), points };
  return new URLSearchParams(Object.entries(values).map(([key, value]) => [key, String(value)])).toString();
}

/** For the head of a page on paper: `2026-11-28 08:00:00 – 09:00:00`. */
export function between(from: number, to: number): string {
  return `${day(from)} ${clock(from)} – ${day(from) === day(to) ? '' : `${day(to)} `}${clock(to)}`;
}

/** A time as `<input type="datetime-local">` has it. */
export const localInput = (ms: number) => `${day(ms)}T${clock(ms)}`;

/** The same way back; `null` when nothing is chosen. */
export function fromInput(text: string): number | null {
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}

/** One value of a container in the table of a group. */
export function cell(resource: 'cpu' | 'memory', figures: Figures, what: 'average' | 'maximum'): string {
  return resource === 'cpu' ? cores(figures[what]) : bytes(figures[what]);
}
