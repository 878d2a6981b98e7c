import { describe, expect, it } from 'vitest';
import { Fleet } from './fleet';
import { cellAt, fillOf, heat, layout, neighbour, squarify, summary } from './heat';
import { movers } from './movers';

const ids = (prefix: string, count: number) => Array.from({ length: count }, (_, at) => `${prefix}/${at}`);
const inside = (outer: { w: number; h: number }, box: { x: number; y: number; w: number; h: number }) =>
  box.x >= -0.01 && box.y >= -0.01 && box.x + box.w <= outer.w + 0.01 && box.y + box.h <= outer.h + 0.01;

describe('a cell', () => {
  it('is filled by a share of a limit, or by nothing without one', () => {
    const values = { cpu: 1, cpuLimit: 4, mem: 5, memLimit: null, throttled: 0.2, pressure: null };
    expect([fillOf(values, 'cpu'), fillOf(values, 'memory')]).toEqual([0.25, null]);
    expect([fillOf(values, 'throttled'), fillOf(values, 'pressure')]).toEqual([0.2, null]);
  });

  it('grows lighter with its share', () => {
    expect(heat(0)).toEqual({ colour: 'rgb(0 34 78)', light: false });
    expect(heat(2)).toEqual({ colour: 'rgb(253 231 55)', light: true });
    expect(heat(-1)).toEqual(heat(0));
  });
});

describe('the layout', () => {
  it('holds every cell once, within its width, without overlaps', () => {
    for (const width of [366, 1240, 2400]) {
      for (const sizeOf of [null, (id: string) => 1 + (Number(id.split('/')[1]) % 7)]) {
        const { cells, height } = layout(
          [
            ['a', ids('a', 40)],
            ['b', ids('b', 3)],
            ['', ids('c', 300)],
          ],
          width,
          true,
          sizeOf,
        );
        expect(new Set(cells.map((cell) => cell.id)).size).toBe(343);
        expect(cells.every((cell) => inside({ w: width, h: height }, cell))).toBe(true);
        const hit = cells.filter((cell) => cellAt(cells, cell.x + cell.w / 2, cell.y + cell.h / 2)?.id === cell.id);
        expect(hit.length).toBe(343);
      }
    }
  });

  it('gives areas as the sizes are', () => {
    const boxes = squarify([6, 3, 1], { x: 0, y: 0, w: 100, h: 50 });
    expect(boxes.map((box) => Math.round(box.w * box.h))).toEqual([3000, 1500, 500]);
    expect(squarify([0, 0], { x: 0, y: 0, w: 10, h: 10 }).map((box) => Math.round(box.w * box.h))).toEqual([50, 50]);
    expect(squarify([], { x: 0, y: 0, w: 10, h: 10 })).toEqual([]);
  });

  it('is walked with the arrow keys', () => {
    const { cells } = layout([['', ids('a', 400)]], 1000, false, null);
    const columns = cells.filter((cell) => cell.y === 0).length;
    const step = (from: string | null, key: string) => neighbour(cells, from, key)?.id;
    expect(step(null, 'ArrowRight')).toBe('a/0');
    expect(step('a/0', 'ArrowRight')).toBe('a/1');
    expect(step('a/0', 'ArrowDown')).toBe(`a/${columns}`);
    expect(step(`a/${columns}`, 'ArrowUp')).toBe('a/0');
    expect(step('a/0', 'ArrowLeft')).toBe('a/0');
    expect([step('a/5', 'Home'), step('a/5', 'End'), step('a/5', 'x')]).toEqual(['a/0', 'a/399', undefined]);
  });
});

describe('the summary', () => {
  it('tells median, highest, and what is not known', () => {
    const percent = (share: number) => `${Math.round(share * 100)} %`;
    const shares = [0.2, 0.4, 0.95, null].map((share, at) => ({ name: `c${at}`, share }));
    expect(summary(shares, 'cpu', percent)).toBe(
      '4 containers by CPU used / limit: median 40 %, highest c2 with 95 %, 1 at 90 % or more, 1 without a value',
    );
    expect(summary([{ name: 'a', share: null }], 'pressure', percent)).toBe('1 containers; of none is known: pressure');
  });
});

describe('movers', () => {
  it('are those whose last minute differs from the minutes before', () => {
    const fleet = new Fleet();
    for (let s = 1; s <= 200; s += 1) {
      const late = s > 140;
      fleet.apply({
        t: s * 1000,
        ids: ['h/up', 'h/flat'],
        cpu: [late ? 1 : 0.5, 0.5],
        cpu_limit: [2, 2],
        mem: [late ? 40 : 100, 50],
        mem_limit: [200, null],
        throttled: [0, 0],
        oom: [0, 0],
      });
    }
    const found = movers(fleet, 5);
    expect(found.map(({ id, resource }) => [id, resource])).toEqual([
      ['h/up', 'memory'],
      ['h/up', 'cpu'],
    ]);
    expect(found[1]).toMatchObject({ before: 0.5, now: 1, share: 0.25 });
  });
});
