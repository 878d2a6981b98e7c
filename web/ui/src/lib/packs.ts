/** What the list of rule packs says of each. */
import type { Pack } from './types';

/** How many of its rules there are, in words: `4 rules, 1 not installed`. */
export function standing(pack: Pack, known: ReadonlySet<string>): string {
  const missing = pack.rules.filter((name) => !known.has(name)).length;
  const all = `${pack.rules.length} ${pack.rules.length === 1 ? 'rule' : 'rules'}`;
  if (missing === 0) return `${all}, installed`;
  return missing < pack.rules.length ? `${all}, ${missing} not installed` : all;
}
