// What a checker of the page cannot see: colours on a canvas. Simulated with the matrices of Machado, Oliveira and
// Fernandes (2009) for complete protanopia, deuteranopia and tritanopia, compared by CIE76 distance.
import { describe, expect, it } from 'vitest';
import { CHART, SERIES, type ThemeName } from './palette';

type Triple = [number, number, number];
const VISION: Record<string, number[][]> = {
  normal: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protan: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deutan: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritan: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

const times = (matrix: number[][], v: Triple): Triple =>
  matrix.map((row) => row.reduce((sum, m, at) => sum + m * (v[at] ?? 0), 0)) as Triple;

function linear(hex: string): Triple {
  return [1, 3, 5].map((at) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as Triple;
}

function lab(rgb: Triple): Triple {
  const clipped = rgb.map((value) => Math.min(1, Math.max(0, value))) as Triple;
  const xyz = times(
    [
      [0.4124, 0.3576, 0.1805],
      [0.2126, 0.7152, 0.0722],
      [0.0193, 0.1192, 0.9505],
    ],
    clipped,
  );
  const [x, y, z] = [xyz[0] / 0.95047, xyz[1], xyz[2] / 1.08883].map((v) =>
    v > 0.008856 ? Math.cbrt(v) : 7.787 * v + 16 / 116,
  ) as Triple;
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const luminance = (hex: string) => times([[0.2126, 0.7152, 0.0722]], linear(hex))[0];
function contrast(a: string, b: string): number {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

describe.each<ThemeName>(['light', 'dark'])('%s palette', (theme) => {
  const colours = Object.entries(SERIES[theme]);

  it('stands out from its background', () => {
    for (const [name, colour] of colours) expect(contrast(colour, CHART[theme].surface), name).toBeGreaterThan(3);
  });

  it.each(Object.keys(VISION))('is told apart with %s vision', (vision) => {
    const seen = colours.map(([name, colour]) => ({ name, lab: lab(times(VISION[vision] ?? [], linear(colour))) }));
    for (const a of seen) {
      for (const b of seen) {
        if (a.name < b.name)
          expect(
            Math.hypot(...a.lab.map((value, at) => value - (b.lab[at] ?? 0))),
            `${a.name} and ${b.name}`,
          ).toBeGreaterThan(25);
      }
    }
  });
});
