/** Paints the heat grid. Cells change once a second, so a few thousand rectangles a second are all there is to do. */
import { heat, type Cell, type Layout } from './heat';

export interface Painted {
  /** Share of the colour scale; `null` when nothing is known. */
  share: number | null;
  /** What stands in a cell that has room. */
  text: string;
  /** What stands below it where there is room for that, too. */
  name: string;
  throttled: boolean;
  oom: boolean;
  /** The last decision of the minute raised or lowered its limit. */
  mark: '▲' | '▼' | '';
}

export interface Colours {
  surface: string;
  line: string;
}

/** Cells with less room hold no number. */
const ROOM = 44;
/** Cells with less room hold no name. */
const NAME_ROOM = 76;
/** Cells with less room hold no glyph. */
const GLYPH_ROOM = 16;

/** Paints all cells. Returns how many, for tests to watch. */
export function paint(canvas: HTMLCanvasElement, layout: Layout, of: (id: string) => Painted, c: Colours): number {
  const g = canvas.getContext('2d');
  if (g === null) return 0;
  const ratio = Math.min(2, devicePixelRatio || 1);
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(layout.height * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, canvas.width, canvas.height);
  g.textAlign = 'center';
  g.textBaseline = 'middle';
  for (const cell of layout.cells) paintCell(g, cell, of(cell.id), c);
  return layout.cells.length;
}

function paintCell(g: CanvasRenderingContext2D, cell: Cell, painted: Painted, c: Colours): void {
  const small = Math.min(cell.w, cell.h);
  const gap = small < 20 ? 1 : 2;
  const [x, y, w, h] = [cell.x, cell.y, Math.max(1, cell.w - gap), Math.max(1, cell.h - gap)];
  const filled = painted.share === null ? null : heat(painted.share);
  g.fillStyle = filled?.colour ?? c.surface;
  g.fillRect(x, y, w, h);
  // The darkest cells would vanish on a dark page, and those without a value on any.
  g.strokeStyle = c.line;
  g.lineWidth = 1;
  g.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
  const ink = filled === null ? c.line : filled.light ? '#10171f' : '#ffffff';
  if (painted.share === null) {
    g.beginPath();
    g.moveTo(x, y + h);
    g.lineTo(x + w, y);
    g.stroke();
  }
  g.fillStyle = ink;
  if (small >= ROOM) {
    g.font = '600 12px system-ui, "DejaVu Sans", sans-serif';
    g.fillText(painted.text, x + w / 2, y + h / 2);
  }
  if (small >= NAME_ROOM) {
    const room = Math.floor((w - 10) / 6.4);
    const { name } = painted;
    g.font = '11px system-ui, "DejaVu Sans", sans-serif';
    g.fillText(name.length > room ? `${name.slice(0, room - 1)}…` : name, x + w / 2, y + h / 2 + 17, w - 6);
  }
  if (small < GLYPH_ROOM) return;
  const glyph = Math.min(12, small * 0.45);
  g.font = `700 ${glyph}px system-ui, "DejaVu Sans", sans-serif`;
  if (painted.throttled) g.fillText('T', x + glyph * 0.65, y + glyph * 0.75);
  if (painted.oom) g.fillText('✖', x + w - glyph * 0.75, y + glyph * 0.75);
  if (painted.mark) g.fillText(painted.mark, x + w - glyph * 0.75, y + h - glyph * 0.7);
}
