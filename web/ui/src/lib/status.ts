/** What the status page makes of the server's figures: quantiles of what was seen, a small curve, settings in groups. */
import { span } from './time';
import type { Rule, Setting } from './types';
import { bytes } from './units';

/** The value that a share of all is not above, by nearest rank; `null` of nothing. */
export function quantile(values: number[], share: number): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.ceil(share * sorted.length) - 1;
  return sorted[Math.min(sorted.length - 1, Math.max(0, rank))] ?? null;
}

/** The latest runs of each rule that this page has seen. The server tells of the last run only. */
export class Latencies {
  static readonly KEPT = 600;
  #seen = new Map<string, { lastRun: number; took: number[] }>();

  /** Takes in what the server says; a run that was seen already counts once. */
  note(rules: Pick<Rule, 'name' | 'last_run' | 'last_latency_ms'>[]): void {
    for (const { name, last_run, last_latency_ms } of rules) {
      if (last_run === null || last_latency_ms === null) continue;
      const known = this.#seen.get(name) ?? { lastRun: 0, took: [] };
      this.#seen.set(name, known);
      if (known.lastRun === last_run) continue;
      known.lastRun = last_run;
      known.took.push(last_latency_ms);
      if (known.took.length > Latencies.KEPT) known.took.shift();
    }
  }

  of(rule: string): { runs: number; p50: number | null; p99: number | null } {
    const took = this.#seen.get(rule)?.took ?? [];
    return { runs: took.length, p50: quantile(took, 0.5), p99: quantile(took, 0.99) };
  }
}

export interface Point {
  t: number;
  v: number;
}

/** An SVG path of points in a box, from zero up to the largest; empty with fewer than two points. */
export function curve(points: Point[], width: number, height: number): string {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined || last.t <= first.t) return '';
  const top = Math.max(...points.map((point) => point.v)) || 1;
  const at = ({ t, v }: Point) => {
    const x = ((t - first.t) / (last.t - first.t)) * width;
    const y = height - 1 - (v / top) * (height - 2);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  return `M${points.map(at).join('L')}`;
}

/** A setting's value as it would stand in the file. */
export function valueText(value: unknown): string {
  if (value === null || value === undefined) return 'unset';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** A long number in the unit that the setting's name tells. */
export function valueHint(path: string, value: unknown): string {
  if (typeof value !== 'number') return '';
  if (/_bytes$/.test(path)) return value >= 1024 ? bytes(value) : '';
  if (/_ms$/.test(path)) return value >= 1000 ? span(value) : '';
  if (/_s$/.test(path)) return value >= 90 ? span(value * 1000) : '';
  return '';
}

export const ORIGINS: Record<Setting['origin'], string> = {
  default: 'default',
  derived: 'from another setting',
  file: 'configuration file',
  environment: 'environment',
  flag: 'command line',
  demo: 'the demo',
};

/** Settings that match, by section; those of none come first. `changed` leaves defaults out. */
export function settingGroups(settings: Setting[], filter: string, changed: boolean): [string, Setting[]][] {
  const wanted = filter.toLowerCase().trim();
  const groups = new Map<string, Setting[]>();
  for (const setting of settings) {
    if (changed && setting.origin === 'default') continue;
    const text = `${setting.path} ${valueText(setting.value)} ${ORIGINS[setting.origin]}`.toLowerCase();
    if (!text.includes(wanted)) continue;
    const section = setting.path.includes('.') ? (setting.path.split('.')[0] ?? '') : '';
    groups.set(section, [...(groups.get(section) ?? []), setting]);
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b));
}
