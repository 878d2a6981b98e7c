import { describe, expect, it } from 'vitest';
import { placedIn, statementAt, statementsOf } from './statements';

const TEXT = 'SELECT 1;\n-- two; not an end\nSELECT \';\', "a;b" -- more;\n;\n\n  SELECT 3';

describe('statements', () => {
  it('end at semicolons that are no part of a text, a name or a comment', () => {
    expect(statementsOf(TEXT).map(({ text }) => text)).toEqual([
      'SELECT 1',
      '-- two; not an end\nSELECT \';\', "a;b" -- more;',
      'SELECT 3',
    ]);
    expect(statementsOf(' ; -- nothing\n;')).toEqual([]);
    expect(statementsOf("SELECT 'open; text").map(({ text }) => text)).toEqual(["SELECT 'open; text"]);
  });

  it('are found by where the cursor is', () => {
    expect(statementAt(TEXT, 0).text).toBe('SELECT 1');
    expect(statementAt(TEXT, TEXT.indexOf('more')).text).toContain("';'");
    expect(statementAt(TEXT, TEXT.length).text).toBe('SELECT 3');
    // Behind the last end and before the next one: the one before.
    expect(statementAt('SELECT 1;  ', 11).text).toBe('SELECT 1');
    expect(statementAt('', 0)).toEqual({ text: '', from: 0 });
  });

  it('tell of errors where these stand in the whole', () => {
    const { from } = statementAt('SELECT 1; SELECT usag\nFROM x', 12);
    const whole = 'SELECT 1; SELECT usag\nFROM x';
    const error = { message: 'no', line: 1, column: 8, endLine: 1, endColumn: 12 };
    expect(placedIn(whole, from, error)).toEqual({ ...error, column: 18, endColumn: 22 });
    expect(placedIn(`a;\n${whole}`, from + 3, { message: 'no', line: 2, column: 6 })).toEqual({
      message: 'no',
      line: 3,
      column: 6,
    });
    expect(placedIn(whole, from, { message: 'no' })).toEqual({ message: 'no' });
  });
});
