import { describe, expect, it } from 'vitest';
import { askedOf, decidersOf, heldAt, knobSql, literal, stepsOf } from './beside';
import type { SqlResult } from './types';

const answer = (...rows: unknown[][]) => ({ columns: [], rows, truncated: false, took_ms: 1 }) as SqlResult;
const T = '2026-11-28T11:26:18.000Z';
const MS = Date.parse(T);

describe('what stands beside the limits of a container', () => {
  it('is asked for by name, whatever the name is', () => {
    expect(literal("o'neil")).toBe("'o''neil'");
    expect(knobSql("o'neil", 'web', 0, 1500.5, 250)).toContain(
      "host = 'o''neil' AND container = 'web' AND resource IN ('memory.high', 'cpu.weight') AND time >= to_timestamp_millis(0) AND time <= to_timestamp_millis(1500)",
    );
    // Nothing is measured more often than once a second.
    expect(knobSql('a', 'b', 0, 1, 250)).toContain("INTERVAL '1000 milliseconds'");
  });

  it('holds until the next point, and no longer than it is known', () => {
    const steps = stepsOf(answer([T, 'memory.high', 5], [T, 'cpu.weight', null], ['?', 'memory.high', 7]));
    expect(steps).toEqual({ 'memory.high': [{ t: MS, v: 5 }] });
    const points = [
      { t: 10, v: 1 },
      { t: 20, v: 2 },
    ];
    expect(heldAt([5, 10, 15, 20, 25, 40], points, 10)).toEqual([null, 1, 1, 2, 2, null]);
    expect(heldAt([1, 2], [], 10)).toEqual([null, null]);
  });

  it('tells the newest of each knob that was asked for', () => {
    expect(
      askedOf(answer([T, 'io.max 8:0 refused', null], [T, 'cpu.weight applied', 200], [T, 'io.max 8:0 applied', 1])),
    ).toEqual([
      { knob: 'cpu.weight', outcome: 'applied', value: 200, time: MS },
      { knob: 'io.max 8:0', outcome: 'refused', value: null, time: MS },
    ]);
  });

  it('counts who decided, the newest first', () => {
    const earlier = '2026-11-28T11:00:00.000Z';
    expect(
      decidersOf(answer(['down', 'applied', 2, earlier], ['up', 'refused', 1, earlier], ['up', 'applied', 9, T])),
    ).toEqual([
      {
        rule: 'up',
        outcomes: [
          ['applied', 9],
          ['refused', 1],
        ],
        newest: MS,
      },
      { rule: 'down', outcomes: [['applied', 2]], newest: Date.parse(earlier) },
    ]);
  });
});
