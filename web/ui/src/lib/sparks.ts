/**
 * All sparklines of the fleet on one canvas. The cards are ordinary links with empty slots; the canvas lies over them and
 * covers the visible part and a margin, so that scrolling redraws it seldom and a fleet of any size costs the same.
 */
import { HISTORY_MS, THROTTLED_FROM, type Fleet, type History } from './fleet';
import type { Meaning } from './palette';

interface Slot {
  id: string;
  resource: 'cpu' | 'mem';
  x: number;
  y: number;
  w: number;
  h: number;
}

const OVERSCAN = 500;
const PAD = 3;

export class SparkCanvas {
  #slots: Slot[] = [];
  #top = 0;
  #height = 0;
  readonly #canvas: HTMLCanvasElement;
  readonly #host: HTMLElement;

  constructor(canvas: HTMLCanvasElement, host: HTMLElement) {
    this.#canvas = canvas;
    this.#host = host;
  }

  /** Measures where the slots are; needed when cards come, go or move. */
  layout(): void {
    const origin = this.#host.getBoundingClientRect();
    this.#slots = [...this.#host.querySelectorAll<HTMLElement>('[data-spark]')].map((element) => {
      const box = element.getBoundingClientRect();
      return {
        id: element.dataset['id'] ?? '',
        resource: element.dataset['spark'] === 'cpu' ? 'cpu' : 'mem',
        x: box.left - origin.left,
        y: box.top - origin.top,
        w: box.width,
        h: box.height,
      };
    });
    this.#place(true);
  }

  /** Moves the canvas when the view left what it covers. Says whether it must be drawn again. */
  scrolled(): boolean {
    return this.#place(false);
  }

  #place(force: boolean): boolean {
    const origin = this.#host.getBoundingClientRect();
    const [viewTop, viewBottom] = [-origin.top, -origin.top + innerHeight];
    const covered =
      this.#top <= Math.max(0, viewTop) && this.#top + this.#height >= Math.min(origin.height, viewBottom);
    if (covered && !force) return false;
    this.#top = Math.max(0, viewTop - OVERSCAN);
    this.#height = Math.max(0, Math.min(origin.height, viewBottom + OVERSCAN) - this.#top);
    const ratio = Math.min(2, devicePixelRatio || 1);
    const [width, height] = [Math.round(origin.width * ratio), Math.round(this.#height * ratio)];
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    Object.assign(this.#canvas.style, {
      top: `${this.#top}px`,
      width: `${origin.width}px`,
      height: `${this.#height}px`,
    });
    return true;
  }

  /** Draws what is covered. Returns a number that changes with the drawn data, for tests to watch. */
  draw(fleet: Fleet, colours: Record<Meaning, string>, now: number): number {
    const context = this.#canvas.getContext('2d');
    if (context === null) return 0;
    const ratio = Math.min(2, devicePixelRatio || 1);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.translate(0, -this.#top);
    for (const slot of this.#slots) {
      if (slot.y + slot.h < this.#top || slot.y > this.#top + this.#height) continue;
      const history = fleet.history.get(slot.id);
      if (history !== undefined) drawSlot(context, slot, history, colours, now);
    }
    return fleet.t;
  }
}

function drawSlot(
  g: CanvasRenderingContext2D,
  slot: Slot,
  history: History,
  c: Record<Meaning, string>,
  now: number,
): void {
  const usage = history.columns[slot.resource];
  const limit = history.columns[slot.resource === 'cpu' ? 'cpu_limit' : 'mem_limit'];
  const from = now - HISTORY_MS;
  const top = peak(history.t, [usage, limit], from) * 1.08 || 1;
  const x = (t: number) => slot.x + ((t - from) / HISTORY_MS) * slot.w;
  const y = (v: number) => slot.y + slot.h - PAD - (v / top) * (slot.h - 2 * PAD);

  g.save();
  g.beginPath();
  g.rect(slot.x, slot.y, slot.w, slot.h);
  g.clip();
  usageArea(g, history.t, usage, x, y, slot.y + slot.h, c.usage, from);
  limitSteps(g, history.t, limit, x, y, c.limit, from, now);
  if (slot.resource === 'cpu') throttleLane(g, history, x, slot, c.throttled, from);
  else oomMarks(g, history, x, slot, c.oom, from);
  g.restore();
}

function peak(t: number[], columns: number[][], from: number): number {
  let most = 0;
  for (const column of columns) {
    for (let at = 0; at < t.length; at += 1) {
      const value = column[at] ?? NaN;
      if ((t[at] ?? 0) >= from && value > most) most = value;
    }
  }
  return most;
}

type Axis = (value: number) => number;

function usageArea(
  g: CanvasRenderingContext2D,
  t: number[],
  v: number[],
  x: Axis,
  y: Axis,
  floor: number,
  colour: string,
  from: number,
): void {
  let start: number | null = null;
  let last = 0;
  const line = new Path2D();
  const area = new Path2D();
  const close = () => {
    if (start === null) return;
    area.lineTo(last, floor);
    area.lineTo(start, floor);
    area.closePath();
    start = null;
  };
  for (let at = 0; at < t.length; at += 1) {
    const [time, value] = [t[at] ?? 0, v[at] ?? NaN];
    if (time < from - 10_000) continue;
    if (Number.isNaN(value)) {
      close();
      continue;
    }
    const px = x(time);
    if (start === null) {
      start = px;
      line.moveTo(px, y(value));
      area.moveTo(px, y(value));
    } else {
      line.lineTo(px, y(value));
      area.lineTo(px, y(value));
    }
    last = px;
  }
  close();
  g.fillStyle = colour;
  g.globalAlpha = 0.16;
  g.fill(area);
  g.globalAlpha = 1;
  g.strokeStyle = colour;
  g.lineWidth = 1.5;
  g.lineJoin = 'round';
  g.stroke(line);
}

function limitSteps(
  g: CanvasRenderingContext2D,
  t: number[],
  v: number[],
  x: Axis,
  y: Axis,
  colour: string,
  from: number,
  now: number,
): void {
  const line = new Path2D();
  let before = NaN;
  for (let at = 0; at < t.length; at += 1) {
    const [time, value] = [t[at] ?? 0, v[at] ?? NaN];
    if (time < from - 10_000) continue;
    if (!Number.isNaN(value)) {
      if (Number.isNaN(before)) line.moveTo(x(time), y(value));
      else line.lineTo(x(time), y(before));
      line.lineTo(x(time), y(value));
    }
    before = value;
  }
  if (!Number.isNaN(before)) line.lineTo(x(now), y(before));
  g.strokeStyle = colour;
  g.lineWidth = 1.25;
  g.globalAlpha = 0.85;
  g.stroke(line);
  g.globalAlpha = 1;
}

function throttleLane(
  g: CanvasRenderingContext2D,
  history: History,
  x: Axis,
  slot: Slot,
  colour: string,
  from: number,
): void {
  g.fillStyle = colour;
  for (let at = 0; at < history.length; at += 1) {
    const share = history.columns.throttled[at] ?? NaN;
    const time = history.t[at] ?? 0;
    if (time < from || Number.isNaN(share) || share < THROTTLED_FROM) continue;
    const until = history.t[at + 1] ?? time + 1000;
    g.globalAlpha = 0.45 + 0.55 * Math.min(1, share);
    g.fillRect(x(time), slot.y + slot.h - 4, Math.max(1, x(Math.min(until, time + 5000)) - x(time)), 4);
  }
  g.globalAlpha = 1;
}

function oomMarks(
  g: CanvasRenderingContext2D,
  history: History,
  x: Axis,
  slot: Slot,
  colour: string,
  from: number,
): void {
  g.strokeStyle = colour;
  g.lineWidth = 1.75;
  for (let at = 1; at < history.length; at += 1) {
    // A rise is a kill, whether the server counts since the start or over a window.
    const rose = (history.columns.oom[at] ?? NaN) > (history.columns.oom[at - 1] ?? NaN);
    const time = history.t[at] ?? 0;
    if (!rose || time < from) continue;
    const [px, py] = [x(time), slot.y + 6];
    g.beginPath();
    g.moveTo(px - 3, py - 3);
    g.lineTo(px + 3, py + 3);
    g.moveTo(px + 3, py - 3);
    g.lineTo(px - 3, py + 3);
    g.moveTo(px, py);
    g.lineTo(px, slot.y + slot.h);
    g.stroke();
  }
}
