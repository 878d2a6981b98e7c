import { describe, expect, it } from 'vitest';
import { diffOf, folded } from './diff';

const told = (before: string, after: string) =>
  diffOf(before, after).map(({ kind, text }) => `${{ same: ' ', added: '+', removed: '-', gap: '~' }[kind]}${text}`);

describe('a difference', () => {
  it('keeps what both have and marks the rest', () => {
    expect(told('a\nb\nc', 'a\nx\nc\nd')).toEqual([' a', '-b', '+x', ' c', '+d']);
    expect(told('same', 'same')).toEqual([' same']);
    expect(told('', 'a')).toEqual(['-', '+a']);
  });

  it('puts a line that moved where it went', () => {
    expect(told('1\n2\n3', '2\n3\n1')).toEqual(['-1', ' 2', ' 3', '+1']);
  });

  it('leaves out what is far from a change, and says how much', () => {
    const before = [...'abcdefghij'].join('\n');
    expect(folded(diffOf(before, before.replace('e', 'E')), 1).map(({ kind, text }) => [kind, text])).toEqual([
      ['gap', '3 lines alike'],
      ['same', 'd'],
      ['removed', 'e'],
      ['added', 'E'],
      ['same', 'f'],
      ['gap', '4 lines alike'],
    ]);
    expect(folded(diffOf('a\nb', 'a\nb'))).toEqual([{ kind: 'gap', text: '2 lines alike' }]);
  });
});
