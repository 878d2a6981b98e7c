/** DataFusion's SQL and Tidegate's rule statements for colours alone: a few kinds of words, without a grammar. */
import type { StreamParser, StringStream } from '@codemirror/language';

// DataFusion's words only: with those of other dialects columns such as `usage` or `value` would be keywords.
const KEYWORDS = new Set(
  (
    'all alter and as asc between by case cast create cross current desc describe distinct drop else end except exists explain ' +
    'filter following for from full group having in inner intersect interval is join left like limit not nulls offset on or ' +
    'order outer over partition preceding range replace right row rows rule rules select set show tables then unbounded union using ' +
    'values when where with within'
  ).split(' '),
);
const TYPES = new Set(
  'bigint boolean date double float int integer real smallint string text timestamp varchar'.split(' '),
);
const ATOMS = new Set(['true', 'false', 'null']);

/** What is still open where a line ends: a text in quotes, or block comments within each other. */
export interface Open {
  quote: string;
  comments: number;
}

function quoted(stream: StringStream, open: Open): string {
  const name = open.quote === '"';
  while (!stream.eol()) {
    if (stream.next() !== open.quote) continue;
    // Doubled it stands for itself.
    if (stream.eat(open.quote) === undefined) {
      open.quote = '';
      break;
    }
  }
  return name ? 'variableName' : 'string';
}

function comment(stream: StringStream, open: Open): string {
  while (open.comments > 0 && !stream.eol()) {
    if (stream.match('/*')) open.comments += 1;
    else if (stream.match('*/')) open.comments -= 1;
    else stream.next();
  }
  return 'comment';
}

export const SQL: StreamParser<Open> = {
  name: 'sql',
  startState: () => ({ quote: '', comments: 0 }),
  copyState: (open) => ({ ...open }),
  token(stream, open) {
    if (open.quote !== '') return quoted(stream, open);
    if (open.comments > 0) return comment(stream, open);
    if (stream.match('/*')) {
      open.comments = 1;
      return comment(stream, open);
    }
    if (stream.eatSpace()) return null;
    if (stream.match('--')) {
      stream.skipToEnd();
      return 'comment';
    }
    if (stream.match(/^\d+(\.\d*)?(e[+-]?\d+)?/i) || stream.match(/^\.\d+/)) return 'number';
    const word = stream.match(/^[\p{L}_][\p{L}\p{N}_]*/u);
    if (Array.isArray(word)) {
      const lower = word[0].toLowerCase();
      if (KEYWORDS.has(lower)) return 'keyword';
      if (ATOMS.has(lower)) return 'atom';
      return TYPES.has(lower) ? 'typeName' : 'variableName';
    }
    const next = stream.next();
    if (next === "'" || next === '"') {
      open.quote = next;
      return quoted(stream, open);
    }
    return null;
  },
  languageData: { commentTokens: { line: '--', block: { open: '/*', close: '*/' } } },
};
