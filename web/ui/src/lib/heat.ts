/** The heat grid: what fills a cell and how large it is, where cells lie, which is next to another, and what is said of all. */
import type { Num } from './types';

export const FILLS = ['cpu', 'memory', 'throttled', 'pressure'] as const;
export type Fill = (typeof FILLS)[number];
export const SIZES = ['equal', 'cpu', 'memory'] as const;
export type Size = (typeof SIZES)[number];
export const GROUPS = ['app', 'host', 'user', 'none'] as const;
export type Group = (typeof GROUPS)[number];

/** `top` is the share that has the last colour: of throttling and pressure half is as bad as it gets. */
export const FILL: Record<Fill, { word: string; top: number }> = {
  cpu: { word: 'CPU used / limit', top: 1 },
  memory: { word: 'memory used / limit', top: 1 },
  throttled: { word: 'throttled periods', top: 0.5 },
  pressure: { word: 'pressure', top: 0.5 },
};

/** Cividis: even steps of lightness, the same for people who see fewer colours. */
const STOPS = [0x00224e, 0x1f3a6e, 0x4a546c, 0x6c6e72, 0x8f8a78, 0xb8a970, 0xdcc95b, 0xfde737] as const;
const channels = (colour: number) => [(colour >> 16) & 255, (colour >> 8) & 255, colour & 255] as const;

/** The colour of a share of the scale, and whether dark text reads on it. */
export function heat(share: number): { colour: string; light: boolean } {
  const at = Math.min(1, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(at));
  const [a, b] = [channels(STOPS[low] ?? 0), channels(STOPS[low + 1] ?? 0)];
  const mixed = a.map((value, channel) => Math.round(value + ((b[channel] ?? 0) - value) * (at - low)));
  const [red = 0, green = 0, blue = 0] = mixed;
  return { colour: `rgb(${red} ${green} ${blue})`, light: 0.299 * red + 0.587 * green + 0.114 * blue > 128 };
}

/** The scale as a CSS gradient. */
export const GRADIENT = `linear-gradient(90deg, ${STOPS.map((_, at) => heat(at / (STOPS.length - 1)).colour).join(', ')})`;

export interface Values {
  cpu: Num;
  cpuLimit: Num;
  mem: Num;
  memLimit: Num;
  throttled: Num;
  pressure: Num;
}

const ratio = (part: Num, whole: Num) => (part === null || whole === null || whole <= 0 ? null : part / whole);

/** The share that fills a cell; `null` when it is not known, or when there is no limit to be a share of. */
export function fillOf(values: Values, fill: Fill): Num {
  if (fill === 'cpu') return ratio(values.cpu, values.cpuLimit);
  if (fill === 'memory') return ratio(values.mem, values.memLimit);
  return values[fill];
}

export interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}
export interface Cell extends Box {
  id: string;
}
export interface Block extends Box {
  name: string;
  count: number;
}
export interface Layout {
  cells: Cell[];
  blocks: Block[];
  height: number;
}

const LABEL = 24;
const GAP = 14;
/** Narrower blocks would have no room for their names. */
const LEAST_WIDTH = 92;
const [LEAST_SIDE, MOST_SIDE] = [12, 92];
/** How much wider than high a block is. */
const ASPECT = 2.4;

/** The side of cells of which so many fill an area of that width and some 560 px height. */
export function sideOf(count: number, width: number): number {
  return Math.max(LEAST_SIDE, Math.min(MOST_SIDE, Math.floor(Math.sqrt((width * 560) / Math.max(1, count)) * 0.8)));
}

/**
 * Blocks of groups side by side, as many as fit into a line. Without `sizeOf` all cells are squares of one size; with it a
 * cell's area is its share of all sizes.
 */
export function layout(
  groups: [string, string[]][],
  width: number,
  labelled: boolean,
  sizeOf: ((id: string) => number) | null,
): Layout {
  const count = groups.reduce((sum, [, ids]) => sum + ids.length, 0);
  const side = sideOf(count, width);
  const label = labelled ? LABEL : 0;
  const sizes = sizeOf === null ? null : groups.map(([, ids]) => ids.map((id) => Math.max(0, sizeOf(id))));
  const whole = sizes?.flat().reduce((sum, size) => sum + size, 0) ?? 0;
  const unit = whole > 0 ? (count * side * side) / whole : 0;
  const result: Layout = { cells: [], blocks: [], height: 0 };
  let [x, y, line] = [0, 0, 0];

  groups.forEach(([name, ids], at) => {
    const own = sizes?.[at] ?? [];
    const area = sizes === null ? ids.length * side * side : own.reduce((sum, size) => sum + size, 0) * unit;
    // One group has the whole width.
    const wanted = labelled ? Math.max(LEAST_WIDTH, Math.sqrt(area * ASPECT)) : width;
    const columns = Math.max(1, Math.min(Math.floor(width / side), Math.ceil(wanted / side)));
    const w = Math.min(width, sizes === null ? Math.max(Math.min(LEAST_WIDTH, width), columns * side) : wanted);
    const h = sizes === null ? Math.ceil(ids.length / columns) * side : Math.max(LEAST_SIDE, area / w);
    if (x > 0 && x + w > width) [x, y, line] = [0, y + line + GAP, 0];
    result.blocks.push({ name, count: ids.length, x, y, w, h: label + h });
    const top = y + label;
    if (sizes === null) {
      ids.forEach((id, n) => {
        const [column, row] = [n % columns, Math.floor(n / columns)];
        result.cells.push({ id, x: x + column * side, y: top + row * side, w: side, h: side });
      });
    } else {
      squarify(own, { x, y: top, w, h }).forEach((box, n) => result.cells.push({ id: ids[n] ?? '', ...box }));
    }
    [x, line] = [x + w + GAP, Math.max(line, label + h)];
  });
  result.height = y + line;
  return result;
}

/** Rectangles in `box` whose areas are as the sizes, as square as may be (Bruls, Huizing, van Wijk: Squarified Treemaps). */
export function squarify(sizes: number[], box: Box): Box[] {
  const sum = sizes.reduce((total, size) => total + size, 0);
  // Nothing has no area; equal shares are better than cells that cannot be seen.
  const areas = sizes.map((size) => (sum > 0 ? size / sum : 1 / sizes.length) * box.w * box.h);
  const order = areas.map((_, at) => at).sort((a, b) => (areas[b] ?? 0) - (areas[a] ?? 0));
  const placed: Box[] = sizes.map(() => ({ x: box.x, y: box.y, w: 0, h: 0 }));
  const rest = { ...box };
  const worst = (row: number[], length: number) => {
    const total = row.reduce((all, at) => all + (areas[at] ?? 0), 0);
    return Math.max(
      ...row.map((at) => {
        const [a, b] = [
          ((areas[at] ?? 0) * length * length) / total ** 2,
          total ** 2 / ((areas[at] ?? 0) * length ** 2),
        ];
        return Math.max(a, b);
      }),
    );
  };
  for (let next = 0; next < order.length;) {
    const short = Math.min(rest.w, rest.h);
    const row = [order[next] ?? 0];
    next += 1;
    while (next < order.length && worst([...row, order[next] ?? 0], short) <= worst(row, short)) {
      row.push(order[next] ?? 0);
      next += 1;
    }
    const total = row.reduce((all, at) => all + (areas[at] ?? 0), 0);
    const thick = short > 0 ? total / short : 0;
    const upright = rest.w >= rest.h;
    let along = upright ? rest.y : rest.x;
    for (const at of row) {
      const long = thick > 0 ? (areas[at] ?? 0) / thick : 0;
      placed[at] = upright ? { x: rest.x, y: along, w: thick, h: long } : { x: along, y: rest.y, w: long, h: thick };
      along += long;
    }
    if (upright) [rest.x, rest.w] = [rest.x + thick, Math.max(0, rest.w - thick)];
    else [rest.y, rest.h] = [rest.y + thick, Math.max(0, rest.h - thick)];
  }
  return placed;
}

export const cellAt = (cells: Cell[], x: number, y: number): Cell | null =>
  cells.find((cell) => x >= cell.x && x < cell.x + cell.w && y >= cell.y && y < cell.y + cell.h) ?? null;

const DIRECTIONS: Record<string, [number, number]> = {
  ArrowRight: [1, 0],
  ArrowLeft: [-1, 0],
  ArrowDown: [0, 1],
  ArrowUp: [0, -1],
};

/** The cell that a key leads to from another: the nearest in an arrow's direction, the first, the last. */
export function neighbour(cells: Cell[], from: string | null, key: string): Cell | null {
  if (key === 'Home') return cells[0] ?? null;
  if (key === 'End') return cells.at(-1) ?? null;
  const direction = DIRECTIONS[key];
  if (direction === undefined) return null;
  const here = cells.find((cell) => cell.id === from);
  if (here === undefined) return cells[0] ?? null;
  const [dx, dy] = direction;
  const middle = (cell: Cell) => [cell.x + cell.w / 2, cell.y + cell.h / 2] as const;
  const [x, y] = middle(here);
  let best: [number, Cell] | null = null;
  for (const cell of cells) {
    const [cx, cy] = middle(cell);
    const ahead = (cx - x) * dx + (cy - y) * dy;
    if (cell === here || ahead <= 1) continue;
    const aside = Math.abs((cx - x) * dy) + Math.abs((cy - y) * dx);
    const distance = ahead + 3 * aside;
    if (best === null || distance < best[0]) best = [distance, cell];
  }
  return best?.[1] ?? here;
}

/** One sentence about all cells. */
export function summary(
  shares: { name: string; share: Num }[],
  fill: Fill,
  percent: (share: number) => string,
): string {
  const known = shares.filter((one): one is { name: string; share: number } => one.share !== null);
  const sorted = [...known].sort((a, b) => a.share - b.share);
  const highest = sorted.at(-1);
  if (highest === undefined) return `${shares.length} containers; of none is known: ${FILL[fill].word}`;
  const middle = sorted[Math.floor((sorted.length - 1) / 2)]?.share ?? 0;
  const hot = known.filter(({ share }) => share >= 0.9 * FILL[fill].top).length;
  const unknown = shares.length - known.length;
  return [
    `${shares.length} containers by ${FILL[fill].word}: median ${percent(middle)}`,
    `highest ${highest.name} with ${percent(highest.share)}`,
    `${hot} at ${percent(0.9 * FILL[fill].top)} or more`,
    ...(unknown > 0 ? [`${unknown} without a value`] : []),
  ].join(', ');
}
