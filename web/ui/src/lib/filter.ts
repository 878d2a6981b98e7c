/** The filter box of the fleet: words that all must match; `app:web`, `host:n1`, `user:ann`, `throttled`, `oom`, `pinned`. */

export interface Filterable {
  host: string;
  name: string;
  app: string;
  user: string;
  pin: string;
  throttled: boolean;
  oom: boolean;
}

function matchesTerm(row: Filterable, term: string): boolean {
  if (term.startsWith('app:')) return row.app.toLowerCase().includes(term.slice(4));
  if (term.startsWith('host:')) return row.host.toLowerCase().includes(term.slice(5));
  if (term.startsWith('user:')) return row.user.toLowerCase().includes(term.slice(5));
  if (term === 'throttled') return row.throttled;
  if (term === 'oom') return row.oom;
  if (term === 'pinned') return row.pin !== '';
  return `${row.host}/${row.name} ${row.app}`.toLowerCase().includes(term);
}

export function matches(row: Filterable, filter: string): boolean {
  return filter
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .every((term) => matchesTerm(row, term));
}
