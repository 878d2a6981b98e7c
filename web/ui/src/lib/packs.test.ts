import { describe, expect, it } from 'vitest';
import { standing } from './packs';

const pack = (...rules: string[]) => ({ name: 'p', summary: '', rules, sql: '' });

describe('a pack', () => {
  it('is installed when all of its rules are there', () => {
    expect(standing(pack('a', 'b'), new Set(['a', 'b', 'c']))).toBe('2 rules, installed');
    expect(standing(pack('a'), new Set(['a']))).toBe('1 rule, installed');
  });

  it('says what is missing once it is there in part', () => {
    expect(standing(pack('a', 'b', 'c'), new Set(['b']))).toBe('3 rules, 2 not installed');
    expect(standing(pack('a', 'b'), new Set())).toBe('2 rules');
  });
});
