import { describe, expect, it } from 'vitest';
import { rangeOf } from './spans';

const marked = (text: string, place: { line?: number; column?: number; endLine?: number; endColumn?: number }) => {
  const range = rangeOf(text, { message: '', ...place });
  return range === null ? null : text.slice(range.from, range.to);
};

describe('places of errors', () => {
  const text = 'SELECT a,\n  usag FROM t\nWHERE x';

  it('with an end mark exactly that', () => {
    expect(marked(text, { line: 2, column: 3, endLine: 2, endColumn: 7 })).toBe('usag');
    expect(marked(text, { line: 1, column: 8, endLine: 2, endColumn: 7 })).toBe('a,\n  usag');
  });

  it('without an end mark the word', () => {
    expect(marked(text, { line: 2, column: 3 })).toBe('usag');
    expect(marked(text, { line: 1, column: 9 })).toBe(',');
  });

  it('without a place mark nothing', () => expect(marked(text, {})).toBeNull());

  it('beyond the text mark its last character', () => {
    expect(marked(text, { line: 99, column: 99 })).toBe('x');
    expect(marked('', { line: 1, column: 1 })).toBeNull();
  });

  it('count characters, not UTF-16 units', () => {
    expect(marked("SELECT '😀ä', usag", { line: 1, column: 14, endLine: 1, endColumn: 18 })).toBe('usag');
  });
});
