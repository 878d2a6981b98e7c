/** Places in a text: the server counts lines and columns from 1, the editor wants offsets from 0. */
import type { ErrorPlace } from './types';

export interface Range {
  from: number;
  to: number;
}

/** Columns count characters (code points), offsets UTF-16 units: an emoji is one column and two units. */
function unitsOf(line: string, column: number): number {
  let units = 0;
  let seen = 1;
  for (const character of line) {
    if (seen >= column) return units;
    units += character.length;
    seen += 1;
  }
  return units;
}

function offsetOf(lines: string[], line: number, column: number): number {
  const at = Math.min(Math.max(1, line), lines.length) - 1;
  const before = lines.slice(0, at).reduce((sum, text) => sum + text.length + 1, 0);
  return before + unitsOf(lines[at] ?? '', column);
}

/**
 * The part of `text` that an error is about; `null` when it names no place. Without an end it is the word that begins
 * there, and it is never empty: a place behind the last character marks that character.
 */
export function rangeOf(text: string, place: ErrorPlace): Range | null {
  if (!place.line) return null;
  const lines = text.split('\n');
  const from = offsetOf(lines, place.line, place.column ?? 1);
  let to = from;
  if (place.endLine && place.endColumn) to = offsetOf(lines, place.endLine, place.endColumn);
  if (to <= from) to = from + (/^[\p{L}\p{N}_."]+/u.exec(text.slice(from))?.[0].length ?? 1);
  to = Math.min(to, text.length);
  if (to > from) return { from, to };
  const last = Math.max(0, text.length - 1);
  return text.length === 0 ? null : { from: Math.min(from, last), to: text.length };
}
