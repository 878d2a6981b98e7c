import { StringStream } from '@codemirror/language';
import { describe, expect, it } from 'vitest';
import { SQL, type Open } from './sqlmode';

/** The words of some lines that have a colour, with its kind. */
function kinds(...lines: string[]): string[] {
  const open = SQL.startState?.(2) as Open;
  return lines.flatMap((line) => {
    const stream = new StringStream(line, 2, 2);
    const found: string[] = [];
    while (!stream.eol()) {
      const kind = SQL.token(stream, open);
      if (kind !== null && kind !== 'variableName') found.push(`${kind} ${stream.current()}`);
      stream.start = stream.pos;
    }
    return found;
  });
}

describe('the colours of SQL', () => {
  it('knows words by themselves only, in any case', () => {
    expect(kinds('Select usage, selected FROM recent')).toEqual(['keyword Select', 'keyword FROM']);
    expect(kinds('CAST(x AS double) IS NULL')).toEqual([
      'keyword CAST',
      'keyword AS',
      'typeName double',
      'keyword IS',
      'atom NULL',
    ]);
  });

  it('takes a doubled quote for a part of the text, and texts over lines for one', () => {
    expect(kinds("'it''s' 1.5e3")).toEqual(["string 'it''s'", 'number 1.5e3']);
    expect(kinds("'one", "two' and")).toEqual(["string 'one", "string two'", 'keyword and']);
    expect(kinds('"from" where')).toEqual(['keyword where']);
  });

  it('ends a comment where it ends', () => {
    expect(kinds('or -- select', 'or')).toEqual(['keyword or', 'comment -- select', 'keyword or']);
    expect(kinds('/* a /* b', 'c */ d */ or')).toEqual(['comment /* a /* b', 'comment c */ d */', 'keyword or']);
  });

  it('gets over anything else', () => {
    expect(kinds('é <> .5 ; 😀 %')).toEqual(['number .5']);
  });
});
