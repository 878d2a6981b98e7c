/** The minutes before this page was opened, so that the sparklines do not begin empty. */
import { api } from './api';
import { idOf, type Column, type Fleet } from './fleet';
import { toMs } from './time';
import type { SqlResult } from './types';

type Points = Map<string, Map<number, Partial<Record<Column, number>>>>;

const QUERIES: { table: string; value: string; column: (resource: string) => Column | null }[] = [
  { table: 'usage', value: 'avg(value)', column: (r) => (r === 'cpu' ? 'cpu' : r === 'memory' ? 'mem' : null) },
  {
    table: 'limits',
    value: 'min(value)',
    column: (r) => (r === 'cpu' ? 'cpu_limit' : r === 'memory' ? 'mem_limit' : null),
  },
  { table: 'pressure', value: 'avg(throttled)', column: (r) => (r === 'cpu' ? 'throttled' : null) },
];

const MOST_ROWS = 100_000;

/** Coarser for a large fleet: a sparkline is some hundred pixels wide. */
const binOf = (containers: number) => (containers <= 100 ? 5 : containers <= 600 ? 10 : 20);

function sqlOf(table: string, value: string, seconds: number): string {
  return (
    `SELECT date_bin(INTERVAL '${seconds} seconds', time) AS bin, host, container, resource, ${value} AS v ` +
    `FROM ${table} WHERE time > now() - INTERVAL '5 minutes' GROUP BY 1, 2, 3, 4 ORDER BY 1`
  );
}

/** Adds the rows of one answer to `points`; rows with anything missing are left out. */
export function collect(points: Points, result: SqlResult, columnOf: (resource: string) => Column | null): void {
  for (const [bin, host, container, resource, value] of result.rows) {
    const column = columnOf(String(resource));
    const t = toMs(bin);
    if (column === null || t === null || typeof value !== 'number') continue;
    const id = idOf(String(host), String(container));
    const series = points.get(id) ?? new Map<number, Partial<Record<Column, number>>>();
    points.set(id, series);
    series.set(t, { ...series.get(t), [column]: value });
  }
}

/** Best effort: without an answer the sparklines grow from now on. */
export async function loadHistory(fleet: Fleet): Promise<void> {
  const points: Points = new Map();
  await Promise.all(
    QUERIES.map(async ({ table, value, column }) => {
      try {
        const result = await api.sql(sqlOf(table, value, binOf(fleet.ids.length)), MOST_ROWS);
        if ('rows' in result) collect(points, result, column);
      } catch {
        // best effort
      }
    }),
  );
  for (const [id, series] of points) {
    fleet.history.get(id)?.prepend([...series].map(([t, values]) => ({ t, values })));
  }
}
