/** Marks on a time axis that would overlap become one mark that counts. */

export interface Placed<T> {
  x: number;
  items: T[];
}

/** Groups items closer than `distance` px to the first of their group; input in any order, output from left to right. */
export function cluster<T>(items: T[], xOf: (item: T) => number, distance: number): Placed<T>[] {
  const placed = items.map((item) => ({ x: xOf(item), item })).sort((a, b) => a.x - b.x);
  const groups: { start: number; xs: number[]; items: T[] }[] = [];
  for (const { x, item } of placed) {
    const last = groups.at(-1);
    if (last !== undefined && x - last.start < distance) {
      last.xs.push(x);
      last.items.push(item);
    } else {
      groups.push({ start: x, xs: [x], items: [item] });
    }
  }
  return groups.map(({ xs, items }) => ({ x: xs.reduce((sum, x) => sum + x, 0) / xs.length, items }));
}
