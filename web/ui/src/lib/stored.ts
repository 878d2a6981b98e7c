/** Small things that a browser keeps for its user. Storage may be forbidden: then they last until the page is left. */

export function kept(key: string): Record<string, string> {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(key) ?? '{}');
    const pairs = typeof value === 'object' && value !== null ? Object.entries(value) : [];
    return Object.fromEntries(pairs.filter((pair): pair is [string, string] => typeof pair[1] === 'string'));
  } catch {
    return {};
  }
}

/** Keeps `values`, and gives them back. */
export function keep(key: string, values: Record<string, string>): Record<string, string> {
  try {
    localStorage.setItem(key, JSON.stringify(values));
  } catch {
    // as said above
  }
  return values;
}
