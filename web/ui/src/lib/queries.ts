/** Queries of the console: examples for a start, those in its tabs, and those that were run here before. */
import { keep, kept } from './stored';

export const EXAMPLES: { title: string; sql: string }[] = [
  { title: 'Everything a rule sees', sql: "SELECT * FROM recent(INTERVAL '60 seconds') ORDER BY container, resource" },
  {
    title: 'CPU of each container over 15 minutes',
    sql: "SELECT date_bin(INTERVAL '10 seconds', time) AS t, container, avg(value) AS cores\nFROM usage\nWHERE resource = 'cpu' AND time > now() - INTERVAL '15 minutes'\nGROUP BY 1, 2 ORDER BY 1",
  },
  {
    title: 'The last decisions',
    sql: 'SELECT time, rule, container, resource, limit_before, decided, outcome, reason\nFROM decisions ORDER BY time DESC LIMIT 50',
  },
];

/** Queries that were kept under a name, by it. */
export const SAVED_KEY = 'tidegate.sql.saved';

const TABS_KEY = 'tidegate.sql.tabs';
const MOST_TABS = 12;

/** The texts of the console's tabs, and which one is shown. */
export interface TabTexts {
  texts: string[];
  at: number;
}

/** As they were left; `wanted` is a text that an address asks for. */
export function tabsOf(stored: Record<string, string>, wanted: string | undefined, otherwise: string): TabTexts {
  const texts = Object.keys(stored)
    .filter((key) => /^\d+$/.test(key))
    .sort((a, b) => Number(a) - Number(b))
    .map((key) => stored[key] ?? '');
  if (texts.length === 0) return { texts: [wanted ?? otherwise], at: 0 };
  const at = Math.min(Math.max(0, Number(stored['at']) || 0), texts.length - 1);
  if (wanted === undefined) return { texts, at };
  const found = texts.findIndex((text) => text.trim() === wanted.trim() || text.trim() === '');
  if (found >= 0) return { texts: texts.with(found, wanted), at: found };
  // The oldest gives way when there are too many.
  const kept = texts.slice(-(MOST_TABS - 1));
  return { texts: [...kept, wanted], at: kept.length };
}

export const readTabs = (wanted: string | undefined, otherwise: string) => tabsOf(kept(TABS_KEY), wanted, otherwise);
export const keepTabs = ({ texts, at }: TabTexts) =>
  keep(TABS_KEY, { ...Object.fromEntries(texts.map((text, at) => [String(at), text])), at: String(at) });

/** What a tab is called: the table that its text is about. */
export function tabWord(text: string, at: number): string {
  const about = /\b(?:from|rule)\s+"?([\w.]+)/i.exec(text)?.[1];
  return about === undefined ? `query ${at + 1}` : about.slice(0, 18);
}

const KEY = 'tidegate.sql.history';
const KEPT = 40;

export interface Past {
  sql: string;
  at: number;
}

export function readHistory(): Past[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(found)
      ? (found as Past[]).filter((past) => typeof past?.sql === 'string' && typeof past.at === 'number')
      : [];
  } catch {
    return [];
  }
}

/** Newest first, each text once. */
export function remember(history: Past[], sql: string, at: number): Past[] {
  const text = sql.trim();
  const next =
    text === '' ? history : [{ sql: text, at }, ...history.filter((past) => past.sql !== text)].slice(0, KEPT);
  try {
    localStorage.setItem(KEY, JSON.stringify(next));
  } catch {
    // then it lasts until the page is left
  }
  return next;
}
