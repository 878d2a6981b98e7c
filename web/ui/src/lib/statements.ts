/** Several statements in one text: the console runs the one at the cursor. */
import type { ErrorPlace } from './types';

export interface Statement {
  text: string;
  /** Where it begins in the whole. */
  from: number;
}

/** Strings, names in quotes and comments, in which a semicolon ends nothing. */
const OPAQUE = /'(?:[^']|'')*(?:'|$)|"(?:[^"]|"")*(?:"|$)|--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)/g;

/** The statements of a text without the space around them; empty ones are none. */
export function statementsOf(text: string): Statement[] {
  const blank = text.replace(OPAQUE, (found) => 'x'.repeat(found.length));
  const statements: Statement[] = [];
  let from = 0;
  for (const part of blank.split(';')) {
    const own = text.slice(from, from + part.length);
    const trimmed = own.trim();
    // Comments alone are nothing to run.
    if (trimmed.replace(/--[^\n]*|\/\*[\s\S]*?\*\//g, '').trim() !== '')
      statements.push({ text: trimmed, from: from + own.indexOf(trimmed) });
    from += part.length + 1;
  }
  return statements;
}

/** The statement that a position is in or behind; one that stands between two belongs to the one before. */
export function statementAt(text: string, position: number): Statement {
  const statements = statementsOf(text);
  const before = statements.filter(({ from }) => from <= position);
  return before.at(-1) ?? statements[0] ?? { text: text.trim(), from: 0 };
}

/** An error of a part as a place in the whole, in which the part begins at `from`. */
export function placedIn(whole: string, from: number, place: ErrorPlace): ErrorPlace {
  if (!place.line) return place;
  const lines = whole.slice(0, from).split('\n');
  const down = lines.length - 1;
  const along = [...(lines.at(-1) ?? '')].length;
  // Only what stands in the part's first line has something in front of it.
  const column = (line: number | null | undefined, column: number | null | undefined) =>
    line === 1 && column ? column + along : column;
  const moved = { ...place, line: place.line + down };
  const first = column(place.line, place.column);
  if (first) moved.column = first;
  if (place.endLine) {
    moved.endLine = place.endLine + down;
    const last = column(place.endLine, place.endColumn);
    if (last) moved.endColumn = last;
  }
  return moved;
}
