/** What can be made of a query's answer: cells as text, and lines when there is a time column. */
import type { Meaning } from './palette';
import { toMs } from './time';
import type { SqlResult } from './types';

export function cell(value: unknown): string {
  if (value === null || value === undefined) return 'NULL';
  if (typeof value === 'object') return JSON.stringify(value);
  return String(value);
}

/** A cell with six figures, which is more than anybody reads; exports have all of them. */
export function short(value: unknown): string {
  if (typeof value !== 'number' || Number.isInteger(value)) return cell(value);
  return Math.abs(value) >= 1e5 ? value.toFixed(0) : String(Number(value.toPrecision(6)));
}

export const isNumeric = (type: string) =>
  /^(u?int(eger|\d+)?|float\d*|double|decimal.*|bigint|smallint|real)$/i.test(type);
const isTime = (type: string, name: string) =>
  /timestamp|date/i.test(type) || /^(time|t|bin|bucket|minute|hour)$/i.test(name);

export interface Lines {
  t: number[];
  /** Drawn as what it means, if it is one of those things. */
  lines: { label: string; values: (number | null)[]; as?: Meaning; dashed?: true }[];
  left_out: number;
}

const MOST_LINES = 12;

/**
 * One line per numeric column and per combination of the text columns (container, resource, ...). `null` when there is
 * no time column or nothing to draw.
 */
export function linesOf(result: SqlResult): Lines | null {
  const { columns, rows } = result;
  const timeAt = columns.findIndex(
    (column, at) => isTime(column.type, column.name) && rows.some((row) => toMs(row[at]) !== null),
  );
  const numeric = columns.flatMap((column, at) => (at !== timeAt && isNumeric(column.type) ? [at] : []));
  if (timeAt < 0 || numeric.length === 0 || rows.length < 2) return null;
  const texts = columns.flatMap((column, at) =>
    at !== timeAt && /utf8|string|varchar|dictionary|^text$/i.test(column.type) ? [at] : [],
  );

  const byLabel = new Map<string, Map<number, number | null>>();
  const times = new Set<number>();
  for (const row of rows) {
    const t = toMs(row[timeAt]);
    if (t === null) continue;
    times.add(t);
    const group = texts.map((at) => cell(row[at])).join(' ');
    for (const at of numeric) {
      const name = columns[at]?.name ?? '';
      const label = group === '' ? name : numeric.length === 1 ? group : `${group} ${name}`;
      const line = byLabel.get(label) ?? new Map<number, number | null>();
      byLabel.set(label, line);
      const value = row[at];
      line.set(t, typeof value === 'number' ? value : null);
    }
  }
  const t = [...times].sort((a, b) => a - b);
  if (t.length < 2) return null;
  const lines = [...byLabel]
    .slice(0, MOST_LINES)
    .map(([label, line]) => ({ label, values: t.map((at) => line.get(at) ?? null) }));
  return { t, lines, left_out: Math.max(0, byLabel.size - MOST_LINES) };
}
