/** CodeMirror set up for DataFusion's SQL and Tidegate's rule statements, in the colours of the page. */
import {
  autocompletion,
  closeBrackets,
  closeBracketsKeymap,
  completionKeymap,
  type CompletionContext,
} from '@codemirror/autocomplete';
import {
  deleteLine,
  history,
  historyKeymap,
  indentWithTab,
  moveLineDown,
  moveLineUp,
  standardKeymap,
  toggleLineComment,
  toggleTabFocusMode,
} from '@codemirror/commands';
import { HighlightStyle, StreamLanguage, bracketMatching, indentUnit, syntaxHighlighting } from '@codemirror/language';
import { Compartment, EditorState, Prec, type Extension } from '@codemirror/state';
import {
  EditorView,
  drawSelection,
  highlightActiveLine,
  keymap,
  lineNumbers,
  placeholder,
  type KeyBinding,
} from '@codemirror/view';
import { tags } from '@lezer/highlight';
import { offers } from './completion';
import { faults, markFaults, type Fault } from './faults';
import { rangeOf } from './spans';
import { SQL } from './sqlmode';
import { statementAt, type Statement } from './statements';
import type { ErrorPlace, Schema } from './types';

const COLOURS = HighlightStyle.define([
  { tag: tags.keyword, color: 'var(--kw)', fontWeight: '600' },
  { tag: tags.string, color: 'var(--str)' },
  { tag: [tags.number, tags.atom], color: 'var(--num)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
  { tag: tags.typeName, color: 'var(--kw)' },
]);

const THEME = EditorView.theme({
  '&': { height: '100%', color: 'var(--text)', fontSize: '13px' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '20px' },
  '.cm-content': { caretColor: 'var(--text)', padding: '8px 0' },
  '.cm-cursor': { borderLeftColor: 'var(--text)', borderLeftWidth: '2px' },
  '.cm-gutters': { backgroundColor: 'transparent', color: 'var(--muted)', border: 'none' },
  '.cm-activeLine, .cm-activeLineGutter': { backgroundColor: 'color-mix(in srgb, var(--surface-2) 60%, transparent)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    background: 'var(--accent-soft) !important',
  },
  '.cm-matchingBracket': { backgroundColor: 'var(--accent-soft) !important', outline: '1px solid var(--accent)' },
  '.cm-placeholder': { color: 'var(--muted)' },
  '.cm-tooltip': {
    backgroundColor: 'var(--surface)',
    color: 'var(--text)',
    border: '1px solid var(--line-strong)',
    borderRadius: '6px',
    overflow: 'hidden',
  },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', fontSize: '12.5px', maxHeight: '220px' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': {
    background: 'var(--accent-soft) !important',
    color: 'var(--text) !important',
  },
  '.cm-completionDetail': { color: 'var(--muted)', fontStyle: 'normal' },
  '.cm-completionMatchedText': { textDecoration: 'none', fontWeight: '700', color: 'var(--accent-text)' },
  '.cm-completionInfo': { padding: '6px 10px', maxWidth: '320px', fontFamily: 'inherit' },
  '.cm-fault': { textDecoration: 'underline wavy var(--bad)', textUnderlineOffset: '3px' },
  '.cm-faults': { width: '16px' },
  '.cm-fault-dot': { width: '9px', height: '9px', margin: '6px 2px', borderRadius: '50%', background: 'var(--bad)' },
  '.cm-fault-message': {
    maxWidth: '560px',
    padding: '4px 8px',
    borderLeft: '3px solid var(--bad)',
    fontFamily: 'system-ui, sans-serif',
    whiteSpace: 'pre-wrap',
  },
});

export interface EditorEvents {
  change: (text: string) => void;
  run: (() => void) | undefined;
  save: (() => void) | undefined;
}

export interface SqlEditor {
  text(): string;
  /** Replaces everything; not reported as a change when it is the text already. */
  setText(text: string): void;
  /** Underlines the places of errors in the present text. */
  setErrors(places: ErrorPlace[]): void;
  setSchema(schema: Schema): void;
  insert(text: string): void;
  /** What is selected; else the statement at the cursor. */
  selection(): Statement;
  focus(): void;
  destroy(): void;
}

/** Those of any text field, and what people expect of an editor; all that CodeMirror knows is 3 kB more. */
const KEYS: KeyBinding[] = [
  ...standardKeymap,
  { key: 'Mod-/', run: toggleLineComment },
  { key: 'Alt-ArrowUp', run: moveLineUp },
  { key: 'Alt-ArrowDown', run: moveLineDown },
  { key: 'Shift-Mod-k', run: deleteLine },
  indentWithTab,
  // The way out for those who have nothing but a keyboard.
  { key: 'Ctrl-m', mac: 'Shift-Alt-m', run: toggleTabFocusMode },
];

const TYPES: Record<string, string> = {
  table: 'class',
  column: 'property',
  function: 'function',
  keyword: 'keyword',
  option: 'constant',
};
const BOOST: Record<string, number> = { column: 20, option: 20, table: 10, function: 0, keyword: -10 };

function completionOf(schema: Schema): Extension {
  const source = (context: CompletionContext) => {
    const word = context.matchBefore(/[\w"]+(?:\.[\w"]*)*/);
    if (word === null && !context.explicit) return null;
    const text = context.state.doc.toString();
    const found = offers(schema, text, context.pos);
    const dot = word === null ? -1 : word.text.lastIndexOf('.');
    const isColumn = found.every((offer) => offer.type === 'column');
    const from = word === null ? context.pos : isColumn && dot >= 0 ? word.from + dot + 1 : word.from;
    return {
      from,
      options: found.map(({ type, ...offer }) => ({ ...offer, type: TYPES[type] ?? 'text', boost: BOOST[type] ?? 0 })),
      validFor: /^[\w".]*$/,
    };
  };
  return autocompletion({ override: [source], icons: false, maxRenderedOptions: 60 });
}

function faultOf(text: string, place: ErrorPlace): Fault {
  const range = rangeOf(text, place) ?? {
    from: 0,
    to: Math.min(text.length, text.indexOf('\n') < 0 ? text.length : text.indexOf('\n')),
  };
  return { ...range, message: place.help ? `${place.message}\n${place.help}` : place.message };
}

export function createEditor(
  parent: HTMLElement,
  options: { text: string; label: string; hint: string; schema: Schema; readOnly: boolean },
  events: EditorEvents,
): SqlEditor {
  const completion = new Compartment();
  let quiet = false;
  const runs = (run: (() => void) | undefined) => () => {
    run?.();
    return run !== undefined;
  };
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: options.text,
      extensions: [
        Prec.highest(
          keymap.of([
            { key: 'Mod-Enter', run: runs(events.run), preventDefault: true },
            { key: 'Mod-s', run: runs(events.save), preventDefault: true },
          ]),
        ),
        lineNumbers(),
        faults,
        history(),
        drawSelection(),
        highlightActiveLine(),
        EditorView.lineWrapping,
        bracketMatching(),
        closeBrackets(),
        indentUnit.of('  '),
        StreamLanguage.define(SQL),
        completion.of(completionOf(options.schema)),
        syntaxHighlighting(COLOURS),
        THEME,
        placeholder(options.hint),
        EditorState.readOnly.of(options.readOnly),
        EditorView.contentAttributes.of({
          'aria-label': options.label,
          spellcheck: 'false',
          // The scrolled region must be reachable by keyboard also for those who do not count contenteditable.
          tabindex: '0',
          autocapitalize: 'off',
        }),
        keymap.of([...closeBracketsKeymap, ...completionKeymap, ...historyKeymap, ...KEYS]),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !quiet) events.change(update.state.doc.toString());
        }),
      ],
    }),
  });
  const text = () => view.state.doc.toString();
  return {
    text,
    setText(next) {
      if (next === text()) return;
      quiet = true;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: next } });
      quiet = false;
    },
    setErrors(places) {
      view.dispatch(markFaults(places.map((place) => faultOf(text(), place))));
    },
    setSchema: (schema) => view.dispatch({ effects: completion.reconfigure(completionOf(schema)) }),
    insert(added) {
      view.dispatch(view.state.replaceSelection(added));
      view.focus();
    },
    selection() {
      const { from, to } = view.state.selection.main;
      return from === to ? statementAt(text(), from) : { text: view.state.sliceDoc(from, to), from };
    },
    focus: () => view.focus(),
    destroy: () => view.destroy(),
  };
}
