/** uPlot set up for one resource of one container: usage against its limit and boundaries over time. */
import uPlot from 'uplot';
import type { Meaning } from './palette';
import { axisLabel, clock } from './time';
import type { Num, ResourceName } from './types';
import { brief, tickSteps } from './units';

export interface ChartColumns {
  /** ms UTC */
  t: number[];
  usage: Num[];
  usage_max: Num[];
  limit: Num[];
  upper: Num[];
  lower: Num[];
  /** Above it the kernel reclaims (memory.high), where anybody set it. */
  high?: Num[];
  /** Share of periods throttled (cpu) or kills in the bucket (memory), on the same times. */
  lane: Num[];
}

export interface ChartColours {
  series: Record<Meaning, string>;
  grid: string;
  text: string;
  surface: string;
}

export interface ChartEvents {
  /** The user dragged over a span of time, in ms. */
  zoom: (from: number, to: number) => void;
  /** The crosshair is at this index of the data, or nowhere. */
  cursor: (at: number | null) => void;
  /** Scale and size are as they will be drawn; the plot area's left edge and width in CSS px. */
  placed: (left: number, width: number) => void;
}

export const LANE_PX = 8;
/** Charts with this key share their crosshair. */
export const SYNC = 'tidegate';
/** Order of the series in uPlot's data, after time. Usage comes last, so that nothing is painted over it. */
export const ORDER = ['upper', 'lower', 'high', 'limit', 'usage_max', 'usage'] as const;

export function dataOf(columns: ChartColumns): uPlot.AlignedData {
  const none = columns.t.map(() => null);
  return [columns.t.map((ms) => ms / 1000), ...ORDER.map((name) => columns[name] ?? none)] as uPlot.AlignedData;
}

function strokeOf(name: (typeof ORDER)[number], c: Record<Meaning, string>): Partial<uPlot.Series> {
  const stepped = uPlot.paths.stepped?.({ align: 1 });
  const steps = stepped ? { paths: stepped } : {};
  switch (name) {
    case 'upper':
      return { stroke: c.upper, width: 1.5, dash: [9, 5], ...steps };
    case 'lower':
      return { stroke: c.lower, width: 1.75, dash: [1.5, 4], ...steps };
    case 'high':
      return { stroke: c.limit, width: 1.25, dash: [12, 4, 2, 4], ...steps };
    case 'limit':
      return { stroke: c.limit, width: 2, ...steps };
    case 'usage_max':
      return { stroke: `${c.usage}70`, width: 1 };
    case 'usage':
      return { stroke: c.usage, width: 1.5, fill: `${c.usage}2e` };
  }
}

export function optionsOf(
  resource: ResourceName,
  colours: ChartColours,
  columns: () => ChartColumns,
  events: ChartEvents,
  size: { width: number; height: number },
): uPlot.Options {
  const axis = {
    stroke: colours.text,
    grid: { stroke: colours.grid, width: 1 },
    ticks: { show: false },
    font: '11px system-ui, sans-serif',
  };
  return {
    ...size,
    padding: [6, 30, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      // By time only: a share of the height means another amount on the other chart.
      sync: {
        key: SYNC,
        scales: ['x', null],
        // The crosshair is shared; a drag belongs to the chart it was made on.
        filters: { pub: (type) => type === 'mousemove' || type === 'mouseleave', sub: () => true },
      },
      drag: { x: true, y: false, setScale: false },
      points: { size: 7 },
      focus: { prox: -1 },
    },
    scales: {
      x: { time: true },
      y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.1 : 1] },
    },
    axes: [
      {
        ...axis,
        space: 80,
        size: 28,
        values: (_plot, splits, _axis, _space, step) => splits.map((s) => axisLabel(s * 1000, step * 1000)),
      },
      {
        ...axis,
        space: 34,
        size: 68,
        gap: 6,
        incrs: tickSteps(resource),
        values: (_plot, splits) => splits.map((value) => brief(resource, value)),
      },
    ],
    series: [
      { value: (_plot, s) => clock(s * 1000) },
      ...ORDER.map((name): uPlot.Series => ({
        label: name,
        points: { show: false },
        ...strokeOf(name, colours.series),
      })),
    ],
    hooks: {
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width < 6) return;
          const [from, to] = [plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')];
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          events.zoom(from * 1000, to * 1000);
        },
      ],
      setCursor: [(plot) => events.cursor(plot.cursor.idx ?? null)],
      draw: [
        (plot) => {
          const ratio = devicePixelRatio || 1;
          events.placed(plot.bbox.left / ratio, plot.bbox.width / ratio);
          if (resource === 'cpu') drawThrottled(plot, columns(), colours);
          else drawKills(plot, columns(), colours.series.oom);
        },
      ],
    },
  };
}

/** A hatched lane at the foot of the chart: the denser, the larger the share of throttled periods. */
function drawThrottled(
  plot: uPlot,
  { t, lane }: ChartColumns,
  { series: { throttled: colour }, surface }: ChartColours,
): void {
  const g = plot.ctx;
  const ratio = devicePixelRatio || 1;
  const height = LANE_PX * ratio;
  const { left, top, width } = plot.bbox;
  const y = top + plot.bbox.height - height;
  const blocks = new Path2D();
  g.save();
  g.beginPath();
  g.rect(left, y, width, height);
  g.clip();
  g.fillStyle = colour;
  for (let at = 0; at < t.length; at += 1) {
    const share = lane[at];
    if (share === null || share === undefined || share < 0.005) continue;
    const from = plot.valToPos((t[at] ?? 0) / 1000, 'x', true);
    const until = plot.valToPos((t[at + 1] ?? (t[at] ?? 0) + 1000) / 1000, 'x', true);
    const wide = Math.max(ratio, until - from);
    g.globalAlpha = 0.4 + 0.6 * Math.min(1, share * 1.5);
    g.fillRect(from, y, wide, height);
    blocks.rect(from, y, wide, height);
  }
  g.globalAlpha = 1;
  g.clip(blocks);
  hatch(g, left, y, width, height, ratio, surface);
  g.restore();
}

function hatch(
  g: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  ratio: number,
  surface: string,
): void {
  g.strokeStyle = surface;
  g.lineWidth = 1.2 * ratio;
  g.beginPath();
  for (let at = x - height; at < x + width; at += 5 * ratio) {
    g.moveTo(at, y + height);
    g.lineTo(at + height, y);
  }
  g.stroke();
}

/** A line of full height with a cross on top for every bucket in which the kernel killed something. */
function drawKills(plot: uPlot, { t, lane }: ChartColumns, colour: string): void {
  const g = plot.ctx;
  const ratio = devicePixelRatio || 1;
  const { left, top, width, height } = plot.bbox;
  g.save();
  g.strokeStyle = colour;
  for (let at = 0; at < t.length; at += 1) {
    if ((lane[at] ?? 0) < 0.5) continue;
    const x = plot.valToPos((t[at] ?? 0) / 1000, 'x', true);
    if (x < left || x > left + width) continue;
    const arm = 4.5 * ratio;
    const y = top + arm + 2 * ratio;
    g.lineWidth = 1.5 * ratio;
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(x, top + height);
    g.stroke();
    g.lineWidth = 2.5 * ratio;
    g.beginPath();
    g.moveTo(x - arm, y - arm);
    g.lineTo(x + arm, y + arm);
    g.moveTo(x + arm, y - arm);
    g.lineTo(x - arm, y + arm);
    g.stroke();
  }
  g.restore();
}
