/** Marks on a time axis that would overlap become one mark that counts. */

export interface Placed<T> {
  x: number;
  items: T[];
}

/**
 * Groups items closer than `distance` px to the first of their group; input in any order, output from left to right. A
 * group stands where its first item is, so that two groups are never closer than `distance`.
 */
export function cluster<T>(items: T[], xOf: (item: T) => number, distance: number): Placed<T>[] {
  const placed = items.map((item) => ({ x: xOf(item), item })).sort((a, b) => a.x - b.x);
  const groups: Placed<T>[] = [];
  for (const { x, item } of placed) {
    const last = groups.at(-1);
    if (last !== undefined && x - last.x < distance) last.items.push(item);
    else groups.push({ x, items: [item] });
  }
  return groups;
}
