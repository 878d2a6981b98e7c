/** Experiments and their tests: stretches of time that people gave a name. */

export interface Stretch {
  name: string;
  start: number;
  /** `null` while it runs. */
  end: number | null;
  info: string;
  tags: Record<string, string>;
}

export interface Experiment extends Stretch {
  user: string;
  tests: Stretch[];
  changed_by: string;
  changed_at: number;
}

/** One entry of a list to pick a range from. */
export interface Pick {
  /** `experiment` or `experiment › test`, which no two have in common. */
  label: string;
  depth: 0 | 1;
  from: number;
  to: number;
}

/** The shortest range that a chart can show. */
const LEAST_MS = 1_000;

/** All experiments and tests as ranges; what runs goes on until now. */
export function picksOf(experiments: Experiment[], now: number): Pick[] {
  const range = ({ start, end }: Stretch) => ({ from: start, to: Math.max(end ?? now, start + LEAST_MS) });
  return experiments.flatMap((one) => [
    { label: one.name, depth: 0 as const, ...range(one) },
    ...one.tests.map((test) => ({ label: `${one.name} › ${test.name}`, depth: 1 as const, ...range(test) })),
  ]);
}

/** Which of them a range is: what still runs is meant by its start. */
export function pickedOf(picks: Pick[], from: number, to: number): Pick | undefined {
  return picks.find((pick) => pick.from === from && pick.to === to) ?? picks.find((pick) => pick.from === from);
}

/** `size=1 TB, run=3` to tags; parts without `=` are tags that say yes. */
export function tagsOf(text: string): Record<string, string> {
  const parts = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  return Object.fromEntries(
    parts.map((part) => {
      const at = part.indexOf('=');
      return at <= 0
        ? [part.replace(/^=+/, ''), 'yes']
        : [part.slice(0, at).trim(), part.slice(at + 1).trim() || 'yes'];
    }),
  );
}

export const tagsText = (tags: Record<string, string>) =>
  Object.entries(tags)
    .map(([key, value]) => `${key}=${value}`)
    .join(', ');

/** A name that none of them has: `experiment 3`. */
export function freeName(word: string, taken: string[]): string {
  for (let at = taken.length + 1; ; at += 1) if (!taken.includes(`${word} ${at}`)) return `${word} ${at}`;
}
