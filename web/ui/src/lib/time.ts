/** Times for people: the browser's time zone, 24 h; an ISO time in UTC stands in the tooltip. */

export const RANGES = ['5m', '15m', '1h', '6h', '24h'] as const;
const DAY = 86_400_000;
const UNIT: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: DAY };

const two = (n: number) => String(n).padStart(2, '0');

/** `15m` to milliseconds; `null` when it is no span. */
export function parseSpan(text: string): number | null {
  const found = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text.trim());
  const unit = found?.[2] === undefined ? undefined : UNIT[found[2]];
  return found === null || unit === undefined ? null : Number(found[1]) * unit;
}

/** `20:41:03` */
export function clock(ms: number): string {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** `2026-11-21` */
export function day(ms: number): string {
  const at = new Date(ms);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** The clock time, with the day before it when it is not today's. */
export function moment(ms: number, now: number = Date.now()): string {
  return day(ms) === day(now) ? clock(ms) : `${day(ms)} ${clock(ms)}`;
}

/** The value of a field for a date and time, to the second, in the browser's time zone. */
export function fieldOf(ms: number): string {
  return `${day(ms)}T${clock(ms)}`;
}

/** The time that such a field holds; `null` while it is incomplete. */
export function ofField(text: string): number | null {
  // Without a zone it means local time, and only with a clock time: a date alone would be UTC.
  if (!/^\d{4,6}-\d\d-\d\dT\d\d:\d\d/.test(text)) return null;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}

/** UTC for tooltips. */
export function iso(ms: number): string {
  return Number.isFinite(ms) ? new Date(ms).toISOString() : '';
}

/** `4 s`, `12 min`, `3 h`, `2 d` */
export function span(ms: number): string {
  const s = Math.max(0, ms) / 1000;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

/** How often a rule runs; one without a period runs when samples arrive that it reads. */
export function period(ms: number): string {
  return ms === 0 ? 'on arrival' : span(ms);
}

/** Labels of a time axis whose ticks are `stepMs` apart: seconds, minutes or days, whatever differs. */
export function axisLabel(ms: number, stepMs: number): string {
  if (stepMs >= DAY) return day(ms).slice(5);
  return stepMs < 60_000 ? clock(ms) : clock(ms).slice(0, 5);
}

/** What the query of an address says about time. Without `from` and `to` it follows the present. */
export interface Window {
  from: number;
  to: number;
  live: boolean;
  range: string;
}

export function windowOf(query: Record<string, string>, now: number, fallback = '15m'): Window {
  const [from, to] = [Number(query['from']), Number(query['to'])];
  if (query['from'] && query['to'] && Number.isFinite(from) && Number.isFinite(to) && to > from) {
    return { from, to, live: false, range: '' };
  }
  const range = query['range'] !== undefined && parseSpan(query['range']) !== null ? query['range'] : fallback;
  return { from: now - (parseSpan(range) ?? 900_000), to: now, live: true, range };
}

/** What an address says about time where all of it may be meant: a range that ends now, either end, or neither. */
export function spanOf(query: Record<string, string>, now: number): { from?: number; to?: number } {
  const range = parseSpan(query['range'] ?? '');
  if (range !== null) return { from: now - range };
  const end = (name: string) => (/^\d+$/.test(query[name] ?? '') ? { [name]: Number(query[name]) } : {});
  return { ...end('from'), ...end('to') };
}

/** A time as an API may give it: ms since the epoch, or ISO text that means UTC when it names no zone. */
export function toMs(value: unknown): number | null {
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (typeof value !== 'string' || !/^\d{4}-\d\d-\d\d/.test(value)) return null;
  const text = value.includes('T') ? value : value.replace(' ', 'T');
  const dated = text.includes('T') ? text : `${text}T00:00:00`;
  const parsed = Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(dated) ? dated : `${dated}Z`);
  return Number.isNaN(parsed) ? null : parsed;
}
