/** What one limit would have been over the time of a backtest, against what was used in fact. */
import type { Lines } from './result';
import type { BacktestCourse, BacktestReport, CourseColumns, Num } from './types';
import { amount } from './units';

export interface Picked {
  host: string;
  container: string;
  resource: 'cpu' | 'memory';
}

/** A name for each limit that an address or a list can hold. */
export const keyOf = ({ host, container, resource }: { host: string; container: string; resource: string }): string =>
  `${resource} ${host}/${container}`;

/** The limits of a backtest, those that the rules changed most often first. */
export function limitsOf(
  report: BacktestReport,
  against: BacktestReport | undefined,
): (Picked & { changes: number })[] {
  const others = new Map(against?.limits.map((limit) => [keyOf(limit), limit.changes]));
  return report.limits
    .flatMap(({ host, container, resource, changes }) =>
      resource === 'cpu' || resource === 'memory' ? [{ host, container, resource, changes }] : [],
    )
    .map((one) => ({ ...one, theirs: others.get(keyOf(one)) ?? 0 }))
    .sort(
      (a, b) =>
        b.changes - a.changes || b.theirs - a.theirs || keyOf(a).localeCompare(keyOf(b), undefined, { numeric: true }),
    )
    .map(({ host, container, resource, changes }) => ({ host, container, resource, changes }));
}

export interface CourseRow {
  t: number;
  wanted: Num;
  used: Num;
  limit: Num;
  theirs: Num;
}

/** One row a point, both sides by time. */
export function rowsOf({ rules, against }: BacktestCourse): CourseRow[] {
  const rows = new Map<number, CourseRow>();
  rules.t.forEach((t, at) =>
    rows.set(t, {
      t,
      wanted: rules.wanted[at] ?? null,
      used: rules.used[at] ?? null,
      limit: rules.limit[at] ?? null,
      theirs: null,
    }),
  );
  against?.t.forEach((t, at) => {
    const row = rows.get(t) ?? { t, wanted: against.wanted[at] ?? null, used: null, limit: null, theirs: null };
    rows.set(t, { ...row, theirs: against.limit[at] ?? null });
  });
  return [...rows.values()].sort((a, b) => a.t - b.t);
}

export function linesOfCourse(rows: CourseRow[], compared: boolean): Lines {
  return {
    t: rows.map(({ t }) => t),
    lines: [
      { label: 'used in fact', values: rows.map(({ wanted }) => wanted), as: 'usage' },
      ...(compared
        ? [{ label: 'limit compared', values: rows.map(({ theirs }) => theirs), as: 'upper' as const }]
        : []),
      { label: 'limit with it', values: rows.map(({ limit }) => limit), as: 'limit' },
    ],
    left_out: 0,
  };
}

function told(resource: Picked['resource'], { wanted, limit }: CourseColumns): string {
  const known = limit.flatMap((value, at) => (value === null ? [] : [{ value, short: (wanted[at] ?? 0) > value }]));
  if (known.length === 0) return 'no limit';
  const values = known.map(({ value }) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => amount(resource, value));
  const mean = amount(resource, values.reduce((sum, value) => sum + value, 0) / values.length);
  const range = low === high ? low : `${low} to ${high}, ${mean} in the mean`;
  const short = known.filter((one) => one.short).length;
  return `${range}, less than was wanted at ${short === 0 ? 'none' : short} of ${known.length} points`;
}

/** The chart in words. */
export function courseText(resource: Picked['resource'], { rules, against }: BacktestCourse): string {
  if (rules.t.length === 0) return 'Nothing was measured of it in this time.';
  const most = amount(resource, Math.max(...rules.wanted));
  const theirs = against ? ` Compared: ${told(resource, against)}.` : '';
  return `Used at most ${most}. The limit with it: ${told(resource, rules)}.${theirs}`;
}
