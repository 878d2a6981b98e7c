/** What to offer while SQL is typed. Plain functions over the text before the cursor; the editor only shows them. */
import type { Schema, SchemaTable } from './types';

export interface Offer {
  label: string;
  type: 'table' | 'column' | 'function' | 'keyword' | 'option';
  detail?: string;
  info?: string;
  apply?: string;
}

/** The columns of `recent(window)`, should the server's schema not list them. */
export const RECENT: SchemaTable = {
  schema: 'public',
  name: 'recent',
  columns: [
    ...['host', 'container', 'app', 'resource'].map((name) => ({ name, type: 'Utf8' })),
    { name: 'samples', type: 'Int64' },
    ...[
      'age',
      'usage',
      'usage_avg',
      'usage_max',
      'usage_p50',
      'usage_p95',
      'usage_p99',
      'usage_stddev',
      'usage_slope',
      'allocated',
      'allocated_age',
      'min',
      'max',
      'upper',
      'lower',
      'throttled',
      'throttled_last',
      'pressure',
      'oom_kills',
      'unreclaimable',
      'host_free',
    ].map((name) => ({ name, type: 'Float64' })),
  ],
};

const KEYWORDS = (
  'SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT AS AND OR NOT IN IS NULL BETWEEN LIKE CASE WHEN THEN ELSE END JOIN LEFT ON USING ' +
  'UNION ALL DISTINCT WITH INTERVAL DESC ASC OVER PARTITION EXPLAIN SHOW TABLES CAST'
).split(' ');
const RULE_WORDS = ['CREATE OR REPLACE RULE', 'ALTER RULE', 'DROP RULE', 'SHOW RULES'];
export const RULE_OPTIONS: Record<string, string> = {
  every: "how often: '1s'",
  class: "'protect' or 'save'",
  mode: "'off', 'shadow', 'canary 10 %' or 'on'",
  cooldown_up: 'least time between two raises',
  cooldown_down: 'least time between two cuts',
  step_up: 'largest raise, as a share of the limit',
  step_down: 'largest cut, as a share of the limit',
};

/** Tables named after FROM or JOIN, with their aliases. */
export function tablesIn(sql: string): { name: string; alias: string }[] {
  const found = sql.matchAll(
    /\b(?:from|join)\s+((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|[\w]+))*)(?:\s*\([^)]*\))?(?:\s+(?:as\s+)?(\w+))?/gi,
  );
  const words = new Set([
    'where',
    'group',
    'order',
    'join',
    'left',
    'right',
    'inner',
    'cross',
    'full',
    'on',
    'limit',
    'having',
    'union',
    'using',
  ]);
  return [...found].map(([, name = '', alias = '']) => ({
    name: name.replaceAll('"', ''),
    alias: words.has(alias.toLowerCase()) ? '' : alias,
  }));
}

const fullName = (table: SchemaTable) =>
  table.schema === 'public' || table.schema === '' ? table.name : `${table.schema}.${table.name}`;
const needsQuotes = (name: string) => !/^[a-z_][a-z0-9_]*$/.test(name);
const quote = (name: string) => (needsQuotes(name) ? `"${name}"` : name);

function tableNamed(schema: Schema, name: string): SchemaTable | undefined {
  const bare = name.replace(/^public\./, '');
  return schema.tables.find((table) => fullName(table) === bare) ?? (bare === 'recent' ? RECENT : undefined);
}

function columnsOf(table: SchemaTable): Offer[] {
  return table.columns.map((column) => ({
    label: column.name,
    type: 'column',
    detail: column.type,
    ...(column.doc ? { info: column.doc } : {}),
    ...(needsQuotes(column.name) ? { apply: quote(column.name) } : {}),
  }));
}

function tableOffer(table: SchemaTable): Offer {
  const name = fullName(table);
  if (table === RECENT || table.name === 'recent') {
    return { label: 'recent', type: 'table', detail: 'function', apply: "recent(INTERVAL '60 seconds')" };
  }
  const apply =
    table.schema === 'public' || table.schema === ''
      ? quote(table.name)
      : `${quote(table.schema)}.${quote(table.name)}`;
  return { label: name, type: 'table', detail: `${table.columns.length} columns`, apply };
}

/** The offers for the word that ends at `at`. */
export function offers(schema: Schema, sql: string, at: number): Offer[] {
  const before = sql.slice(0, at);
  const used = tablesIn(sql);

  const dotted = /(\w+)\.\w*$/.exec(before);
  if (dotted?.[1] !== undefined) {
    const table = used.find(({ alias, name }) => alias === dotted[1] || name === dotted[1]);
    const known = table && tableNamed(schema, table.name);
    if (known) return columnsOf(known);
  }
  const tables = [...schema.tables, ...(schema.tables.some((table) => table.name === 'recent') ? [] : [RECENT])].map(
    tableOffer,
  );
  if (/\b(?:from|join)\s+["\w.]*$/i.test(before)) return tables;
  if (/\bwith\s*\([^)]*$/i.test(before)) {
    return Object.entries(RULE_OPTIONS).map(([label, info]) => ({ label, type: 'option', info, apply: `${label} = ` }));
  }
  const columns = used.flatMap(({ name }) => columnsOf(tableNamed(schema, name) ?? { schema: '', name, columns: [] }));
  const seen = new Set<string>();
  const unique = columns.filter(({ label }) => !seen.has(label) && seen.add(label));
  return [
    ...unique,
    ...schema.functions.map((f): Offer => ({
      label: f.name,
      type: 'function',
      detail: f.signature ?? '',
      ...(f.doc ? { info: f.doc } : {}),
    })),
    ...tables,
    ...[...KEYWORDS, ...RULE_WORDS].map((label): Offer => ({ label, type: 'keyword' })),
  ];
}
