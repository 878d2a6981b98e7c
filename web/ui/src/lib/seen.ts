/** What has arrived in the last seconds, metric by metric: one query, by the samples' own time. */
import type { SqlResult } from './types';
import { toMs } from './time';

export const SEEN_S = 10;
/** More metrics than anybody reads. */
const MOST = 500;

export const SEEN_SQL = `SELECT metric, count(*) AS samples, count(DISTINCT tags) AS series, max(time) AS newest
FROM samples WHERE time > now() - INTERVAL '${SEEN_S} seconds'
GROUP BY metric ORDER BY samples DESC, metric LIMIT ${MOST}`;

export interface SeenMetric {
  metric: string;
  /** Samples a second. */
  rate: number;
  series: number;
  newest: number | null;
  /** Measured by Tidegate itself. */
  own: boolean;
}

export function seenOf(result: SqlResult): SeenMetric[] {
  const at = (name: string) => result.columns.findIndex((column) => column.name === name);
  const [metric, samples, series, newest] = [at('metric'), at('samples'), at('series'), at('newest')];
  if (metric < 0 || samples < 0) return [];
  return result.rows.map((row) => ({
    metric: String(row[metric]),
    rate: Number(row[samples] ?? 0) / SEEN_S,
    series: Number(row[series] ?? 0),
    newest: toMs(row[newest]),
    own: String(row[metric]).startsWith('tidegate.'),
  }));
}

/** The last minute of a metric, for the SQL console. */
export const metricSql = (metric: string) =>
  `SELECT *\nFROM metric."${metric.replaceAll('"', '""')}"\nWHERE time > now() - INTERVAL '1 minute'\nORDER BY time DESC LIMIT 100`;
