/** Two texts line by line, as the versions of a rule are compared. */

export interface DiffLine {
  kind: 'same' | 'added' | 'removed' | 'gap';
  /** Of a gap: how many lines it stands for. */
  text: string;
}

/** The lines of both, those that only one of them has marked; the longest common subsequence stays. */
export function diffOf(before: string, after: string): DiffLine[] {
  const [a, b] = [before.split('\n'), after.split('\n')];
  // Rules have tens of lines: the plain table of lengths is small.
  const length = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  const at = (i: number, j: number) => length[i]?.[j] ?? 0;
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const row = length[i];
      if (row) row[j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const lines: DiffLine[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ kind: 'same', text: a[i] ?? '' });
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && at(i + 1, j) >= at(i, j + 1))) {
      lines.push({ kind: 'removed', text: a[i] ?? '' });
      i += 1;
    } else {
      lines.push({ kind: 'added', text: b[j] ?? '' });
      j += 1;
    }
  }
  return lines;
}

/** Leaves out lines that are the same and further than `around` from a change. */
export function folded(lines: DiffLine[], around = 2): DiffLine[] {
  const near = lines.map((_, at) =>
    lines.slice(Math.max(0, at - around), at + around + 1).some((line) => line.kind !== 'same'),
  );
  const shown: DiffLine[] = [];
  let hidden = 0;
  const close = () => {
    if (hidden > 0) shown.push({ kind: 'gap', text: `${hidden} ${hidden === 1 ? 'line' : 'lines'} alike` });
    hidden = 0;
  };
  lines.forEach((line, at) => {
    if (!near[at]) {
      hidden += 1;
      return;
    }
    close();
    shown.push(line);
  });
  close();
  return shown;
}
