/** The series of a container page: what the server answered, and the seconds that came since through the stream. */
import type { ChartColumns } from './chart';
import { GAP_MS, type History } from './fleet';
import type { Lines } from './result';
import type { ContainerSeries, Num, ResourceName, SeriesColumns } from './types';

const known = (value: number | undefined): Num => (value === undefined || Number.isNaN(value) ? null : value);
const at = (column: Num[] | undefined, index: number): Num => column?.[index] ?? null;

/** The newest known limit with both boundaries: the margin that the stream does not send for memory. */
function marginOf(columns: SeriesColumns): number | null {
  for (let index = columns.limit.length - 1; index >= 0; index -= 1) {
    const [limit, upper] = [at(columns.limit, index), at(columns.upper, index)];
    if (limit !== null && upper !== null && limit > 0) return (limit - upper) / limit;
  }
  return null;
}

/**
 * Fills holes no longer than `longest` ms with the value before them. Buckets of one second are as long as the
 * collector's interval, so that its jitter leaves one empty now and then although nothing is missing.
 */
export function bridge(t: number[], column: Num[], longest: number): Num[] {
  const filled = [...column];
  let before: number | null = null;
  column.forEach((value, index) => {
    if (value === null) return;
    if (before !== null && (t[index] ?? 0) - (t[before] ?? 0) <= longest)
      filled.fill(column[before] ?? null, before + 1, index);
    before = index;
  });
  return filled;
}

/** Joins both; the stream's points count from after the answer's last one up to `to`. */
export function columnsOf(
  resource: ResourceName,
  answer: ContainerSeries,
  history: History | undefined,
  to: number,
): ChartColumns {
  const from: SeriesColumns = resource === 'cpu' ? answer.cpu : answer.memory;
  const lane = resource === 'cpu' ? from.throttled : from.oom_kills;
  // Buckets at the end may be empty only because their time has not come yet; the stream knows it better.
  const kept = history === undefined ? answer.t.length : (newest(from.usage) ?? -1) + 1;
  const t = answer.t.slice(0, kept);
  const all = (column: Num[] | undefined) =>
    bridge(
      t,
      t.map((_, index) => at(column, index)),
      GAP_MS,
    );
  const columns: ChartColumns = {
    t,
    usage: all(from.usage),
    usage_max: answer.step_ms > 1_000 ? all(from.usage_max) : t.map(() => null),
    limit: all(from.limit),
    upper: all(from.upper),
    lower: all(from.lower),
    lane: t.map((_, index) => at(lane, index)),
  };
  if (history === undefined) return columns;

  const margin = marginOf(from);
  const [usageColumn, limitColumn, laneColumn] =
    resource === 'cpu'
      ? [history.columns.cpu, history.columns.cpu_limit, history.columns.throttled]
      : [history.columns.mem, history.columns.mem_limit, history.columns.oom];
  const last = t.at(-1) ?? 0;
  // A bucket of the answer stands for `step_ms`; what falls into the last one is in it already.
  const after = last + Math.max(0, answer.step_ms - 1);
  for (let index = 0; index < history.length; index += 1) {
    const t = history.t[index] ?? 0;
    if (t <= after || t > to) continue;
    const limit = known(limitColumn[index]);
    columns.t.push(t);
    columns.usage.push(known(usageColumn[index]));
    columns.usage_max.push(null);
    columns.limit.push(limit);
    columns.upper.push(limit === null || margin === null ? null : limit * (1 - margin));
    columns.lower.push(limit === null || margin === null ? null : limit * (1 - 2 * margin));
    const [before, now] = [laneColumn[index - 1], laneColumn[index]];
    columns.lane.push(resource === 'cpu' ? known(now) : Math.max(0, (now ?? 0) - (before ?? now ?? 0)));
  }
  return columns;
}

/** Index of the newest time that has a value of `column`. */
export function newest(column: Num[]): number | null {
  for (let index = column.length - 1; index >= 0; index -= 1) if (column[index] !== null) return index;
  return null;
}

/** What goes to disks, with the limits; the one on writing is dashed. */
export function disksOf({ t, io }: ContainerSeries): Lines | null {
  if (!io) return null;
  const limits = { 'limit on reading': io.read_limit ?? [], 'limit on writing': io.write_limit ?? [] };
  return limitedLines(t, { read: io.read, written: io.write }, limits, 'limit on writing');
}

/** What goes over the network, with the limits; the one on sending is dashed. */
export function networkOf({ t, network }: ContainerSeries): Lines | null {
  if (!network) return null;
  const limits = { 'limit on receiving': network.receive_limit ?? [], 'limit on sending': network.send_limit ?? [] };
  return limitedLines(t, { received: network.receive, sent: network.send }, limits, 'limit on sending');
}

/** Usage, and limits in steps. */
function limitedLines(t: number[], usage: Record<string, Num[]>, limits: Record<string, Num[]>, dashed: string): Lines {
  const lines = linesOf(t, usage);
  for (const limit of linesOf(t, limits).lines)
    lines.lines.push({ ...limit, as: 'limit', ...(limit.label === dashed ? { dashed: true } : {}) });
  return lines;
}

/** Named columns over the same times as lines of a plot; those without a value are left out. */
export function linesOf(t: number[], columns: Record<string, Num[]>): Lines {
  const kept = Object.entries(columns).filter(([, values]) => values.some((value) => value !== null));
  return { t, lines: kept.map(([label, values]) => ({ label, values })), left_out: 0 };
}
