/** What changed most: the last minute of each container against the minutes before it. */
import type { Fleet, History } from './fleet';
import type { ResourceName } from './types';

const RECENT_MS = 60_000;
/** Fewer points before are no past to compare with. */
const LEAST_POINTS = 30;
/** Changes of less than this share of the limit are noise. */
const LEAST_SHARE = 0.05;

export interface Mover {
  id: string;
  resource: ResourceName;
  before: number;
  now: number;
  /** The change as a share of the limit, or of the larger of both where that is more. */
  share: number;
}

function means(history: History, column: 'cpu' | 'mem', since: number): [number, number] | null {
  const sums = [
    [0, 0],
    [0, 0],
  ] as [[number, number], [number, number]];
  history.columns[column].forEach((value, at) => {
    if (Number.isNaN(value)) return;
    const sum = sums[(history.t[at] ?? 0) > since ? 1 : 0];
    sum[0] += value;
    sum[1] += 1;
  });
  const [[before, points], [now, recent]] = sums;
  return points < LEAST_POINTS || recent === 0 ? null : [before / points, now / recent];
}

/** The largest changes first. */
export function movers(fleet: Fleet, most: number): Mover[] {
  const found: Mover[] = [];
  for (const id of fleet.ids) {
    const history = fleet.history.get(id);
    if (history === undefined) continue;
    for (const [resource, column, limit] of [
      ['cpu', 'cpu', 'cpu_limit'],
      ['memory', 'mem', 'mem_limit'],
    ] as const) {
      const pair = means(history, column, fleet.t - RECENT_MS);
      if (pair === null) continue;
      const [before, now] = pair;
      // A limit that has been lowered since is no measure of what was used before.
      const whole = Math.max(history.last(limit) ?? 0, before, now);
      const share = whole > 0 ? (now - before) / whole : 0;
      if (Math.abs(share) >= LEAST_SHARE) found.push({ id, resource, before, now, share });
    }
  }
  return found.sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).slice(0, most);
}
