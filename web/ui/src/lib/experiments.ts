/** Experiments and their tests: stretches of time that people gave a name. */

import { fieldOf, ofField } from './time';

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

/** What the fields of a form say of a stretch. */
export interface Fields {
  name: string;
  start: string;
  /** Empty while it runs. */
  end: string;
  tags: string;
  info: string;
}

export const fieldsOf = (one: Stretch): Fields => ({
  name: one.name,
  start: fieldOf(one.start),
  end: one.end === null ? '' : fieldOf(one.end),
  tags: tagsText(one.tags),
  info: one.info,
});

/**
 * What to send so that `one` becomes what the fields say, or why it cannot: only what was changed, since fields know
 * seconds where the server knows ms.
 */
export function changesOf(one: Stretch, fields: Fields): { body: Record<string, unknown> } | { wrong: string } {
  const before = fieldsOf(one);
  const [start, end] = [ofField(fields.start), fields.end === '' ? null : ofField(fields.end)];
  if (fields.name.trim() === '') return { wrong: 'It needs a name.' };
  if (start === null) return { wrong: 'The start is no date and time.' };
  if (fields.end !== '' && end === null) return { wrong: 'The end is no date and time.' };
  const [starts, ends] = [fields.start !== before.start, fields.end !== before.end];
  if (end !== null && end < (starts ? start : one.start)) return { wrong: 'It ends before it starts.' };
  return {
    body: {
      ...(fields.name.trim() === one.name ? {} : { name: fields.name.trim() }),
      ...(starts ? { start } : {}),
      ...(ends ? { end } : {}),
      ...(fields.tags === before.tags ? {} : { tags: tagsOf(fields.tags) }),
      ...(fields.info === before.info ? {} : { info: fields.info }),
    },
  };
}
