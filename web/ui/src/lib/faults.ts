/** Errors at the text they are about: a wavy line under it, a dot beside its line, the message where the pointer rests. */
import { StateEffect, StateField, type Extension, type TransactionSpec } from '@codemirror/state';
import { Decoration, EditorView, GutterMarker, gutter, hoverTooltip, type DecorationSet } from '@codemirror/view';

export interface Fault {
  from: number;
  to: number;
  message: string;
}

const put = StateEffect.define<Fault[]>();

const field = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(before, transaction) {
    let marks = before.map(transaction.changes);
    for (const effect of transaction.effects)
      if (effect.is(put)) {
        const ranges = effect.value
          // An empty text has no place to mark.
          .filter(({ from, to }) => to > from)
          .map(({ from, to, message }) => Decoration.mark({ class: 'cm-fault', message }).range(from, to));
        marks = Decoration.set(ranges, true);
      }
    return marks;
  },
  provide: (own) => EditorView.decorations.from(own),
});

class Dot extends GutterMarker {
  readonly message: string;

  constructor(message: string) {
    super();
    this.message = message;
  }

  override eq(other: Dot): boolean {
    return other.message === this.message;
  }

  override toDOM(): Node {
    const dot = document.createElement('div');
    dot.className = 'cm-fault-dot';
    dot.title = this.message;
    return dot;
  }
}

/** The first one that begins between both, or reaches over a single place. */
function faultAt(marks: DecorationSet, from: number, to: number): Fault | null {
  let found: Fault | null = null;
  marks.between(from, to, (start, end, mark) => {
    if (from !== to && start < from) return;
    found = { from: start, to: end, message: String((mark.spec as { message: unknown }).message) };
    return false;
  });
  return found;
}

export const faults: Extension = [
  field,
  gutter({
    class: 'cm-faults',
    lineMarker(view, line) {
      const fault = faultAt(view.state.field(field), line.from, line.to);
      return fault === null ? null : new Dot(fault.message);
    },
    lineMarkerChange: (update) => update.startState.field(field) !== update.state.field(field),
  }),
  hoverTooltip((view, at) => {
    const fault = faultAt(view.state.field(field), at, at);
    if (fault === null) return null;
    const create = () => {
      const dom = document.createElement('div');
      dom.className = 'cm-fault-message';
      dom.textContent = fault.message;
      return { dom };
    };
    return { pos: fault.from, end: fault.to, above: true, create };
  }),
];

/** Marks these and no others. */
export const markFaults = (all: Fault[]): TransactionSpec => ({ effects: put.of(all) });
