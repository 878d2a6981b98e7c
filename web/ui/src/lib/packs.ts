/** What the list of rule packs says of each. */
import type { Pack, Rule } from './types';

/** How many of its rules there are, in words: `4 rules, 1 not installed`. Packs share names, so that texts count. */
export function standing(pack: Pack, rules: Pick<Rule, 'name' | 'query'>[]): string {
  const queries = new Map(rules.map((rule) => [rule.name, rule.query.trim()]));
  const others = pack.rules.filter((name) => queries.has(name) && !pack.sql.includes(queries.get(name) ?? '')).length;
  const missing = pack.rules.filter((name) => !queries.has(name)).length;
  const all = `${pack.rules.length} ${pack.rules.length === 1 ? 'rule' : 'rules'}`;
  if (others > 0) return `${all}, ${others} would replace ${others === 1 ? 'one' : 'those'} of the same name`;
  if (missing === 0) return `${all}, installed`;
  return missing < pack.rules.length ? `${all}, ${missing} not installed` : all;
}
