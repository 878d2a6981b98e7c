import { describe, expect, it } from 'vitest';
import { standing } from './packs';

const pack = (...rules: string[]) => ({
  name: 'p',
  summary: '',
  rules,
  sql: rules.map((rule) => `CREATE RULE ${rule} AS SELECT ${rule}`).join(';'),
});
const known = (...names: string[]) => names.map((name) => ({ name, query: ` SELECT ${name}\n` }));

describe('a pack', () => {
  it('is installed when all of its rules are there', () => {
    expect(standing(pack('a', 'b'), known('a', 'b', 'c'))).toBe('2 rules, installed');
    expect(standing(pack('a'), known('a'))).toBe('1 rule, installed');
  });

  it('says what is missing once it is there in part', () => {
    expect(standing(pack('a', 'b', 'c'), known('b'))).toBe('3 rules, 2 not installed');
    expect(standing(pack('a', 'b'), [])).toBe('2 rules');
  });

  it('is not installed when rules of the same names do something else', () => {
    expect(standing(pack('a', 'b'), [{ name: 'a', query: 'SELECT other' }])).toBe(
      '2 rules, 1 would replace one of the same name',
    );
  });
});
