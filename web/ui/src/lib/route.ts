/** The dashboard's addresses. All state that is worth sharing stands in the hash: `#/c/node0/web-1?range=1h`. */

export type PageName =
  | 'fleet'
  | 'container'
  | 'rules'
  | 'rule'
  | 'new-rule'
  | 'decisions'
  | 'decision'
  | 'sql'
  | 'hosts'
  | 'groups'
  | 'send'
  | 'status'
  | 'reports'
  | 'reference'
  | 'missing';

export interface Route {
  page: PageName;
  args: string[];
  query: Record<string, string>;
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // a lone % typed by hand
  }
}

function pageOf(segments: string[]): PageName {
  const [first, ...rest] = segments;
  if (first === undefined) return 'fleet';
  if (first === 'c' && rest.length === 2) return 'container';
  if (first === 'rules' && rest.length === 0) return 'rules';
  if (first === 'rules' && rest.length === 1) return 'rule';
  if (first === 'new-rule' && rest.length === 0) return 'new-rule';
  if (first === 'decisions' && rest.length === 0) return 'decisions';
  if (first === 'decisions' && rest.length === 1) return 'decision';
  if (first === 'sql' && rest.length === 0) return 'sql';
  if (first === 'hosts' && rest.length === 0) return 'hosts';
  if (first === 'groups' && rest.length === 0) return 'groups';
  if (first === 'send' && rest.length === 0) return 'send';
  if (first === 'status' && rest.length === 0) return 'status';
  if (first === 'reports' && rest.length === 0) return 'reports';
  if (first === 'reference' && rest.length === 0) return 'reference';
  return 'missing';
}

/** Reads `#/path?query`; what is unknown becomes the page `missing`. */
export function parseHash(hash: string): Route {
  const text = hash.replace(/^#/, '');
  const at = text.indexOf('?');
  const path = at < 0 ? text : text.slice(0, at);
  const segments = path.split('/').filter(Boolean).map(decode);
  const query = Object.fromEntries(new URLSearchParams(at < 0 ? '' : text.slice(at + 1)));
  const page = pageOf(segments);
  return { page, args: page === 'missing' ? segments : segments.slice(1), query };
}

/** Writes an address from raw (not yet encoded) segments; empty query values are left out. */
export function hashOf(segments: string[], query: Record<string, string | number | null | undefined> = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const search = new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
  return `#/${segments.map(encodeURIComponent).join('/')}${search ? `?${search}` : ''}`;
}

const FIRST: Record<PageName, string | null> = {
  fleet: null,
  container: 'c',
  rules: 'rules',
  rule: 'rules',
  'new-rule': 'new-rule',
  decisions: 'decisions',
  decision: 'decisions',
  sql: 'sql',
  hosts: 'hosts',
  groups: 'groups',
  send: 'send',
  status: 'status',
  reports: 'reports',
  reference: 'reference',
  missing: null,
};

/** The address of a route; the inverse of [`parseHash`]. */
export function hashOfRoute(route: Route): string {
  const first = FIRST[route.page];
  return hashOf(first === null ? route.args : [first, ...route.args], route.query);
}

export const containerHash = (host: string, name: string, query: Record<string, string> = {}) =>
  hashOf(['c', host, name], query);
/** The fleet's containers of one host. */
export const hostFleetHash = (host: string) => hashOf([], { q: `host:${host}`, group: 'host' });
/** The group of containers that one is in. */
export const groupHash = (kind: 'app' | 'user', name: string) => hashOf(['groups'], { kind, q: name });
export const decisionHash = (id: string) => hashOf(['decisions', id]);
export const ruleHash = (name: string) => hashOf(['rules', name]);
/** What something used and was allocated; `query` says when. */
export const reportHash = (kind: string, name: string, query: Record<string, string> = {}) =>
  hashOf(['reports'], { kind, name, ...query });
/** Decisions that are no rule's have a name in brackets, and no page to go to. */
export const isRule = (name: string) => !name.startsWith('(');
export const sqlHash = (sql: string, run = false) => hashOf(['sql'], { q: sql, run: run ? '1' : null });
