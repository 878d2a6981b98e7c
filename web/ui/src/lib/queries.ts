/** Queries of the console: examples for a start, and those that were run here before. */

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
