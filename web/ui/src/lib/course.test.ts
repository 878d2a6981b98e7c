import { describe, expect, it } from 'vitest';
import { courseText, keyOf, limitsOf, linesOfCourse, rowsOf } from './course';
import type { BacktestCourse, BacktestReport, LimitScore } from './types';

const report = (...limits: [string, string, number][]) =>
  ({
    limits: limits.map(
      ([container, resource, changes]) => ({ host: 'n1', container, resource, changes }) as LimitScore,
    ),
  }) as BacktestReport;

const course: BacktestCourse = {
  rules: { t: [10, 20, 30], wanted: [1, 3, 2], used: [1, 2, 2], limit: [2, 2, null] },
  against: { t: [20, 30, 40], wanted: [3, 2, 1], used: [3, 2, 1], limit: [4, 4, 4] },
};

describe('the course of a limit', () => {
  it('is offered where most was changed first, then where the other side changed most, then by name', () => {
    const ours = report(['web-10', 'cpu', 0], ['web-2', 'cpu', 0], ['db', 'memory', 3], ['db', 'cpu.weight', 9]);
    expect(limitsOf(ours, undefined).map(keyOf)).toEqual(['memory n1/db', 'cpu n1/web-2', 'cpu n1/web-10']);
    expect(limitsOf(ours, report(['web-10', 'cpu', 5])).map(keyOf)).toEqual([
      'memory n1/db',
      'cpu n1/web-10',
      'cpu n1/web-2',
    ]);
  });

  it('joins both sides by time', () => {
    const rows = rowsOf(course);
    expect(rows.map(({ t, wanted, limit, theirs }) => [t, wanted, limit, theirs])).toEqual([
      [10, 1, 2, null],
      [20, 3, 2, 4],
      [30, 2, null, 4],
      [40, 1, null, 4],
    ]);
    expect(linesOfCourse(rows, true).lines.map(({ label }) => label)).toEqual([
      'used in fact',
      'limit compared',
      'limit with it',
    ]);
    expect(linesOfCourse(rowsOf({ ...course, against: null }), false).lines).toHaveLength(2);
  });

  it('is told in words', () => {
    expect(courseText('cpu', course)).toBe(
      'Used at most 3.00 cores. The limit with it: 2.00 cores, less than was wanted at 1 of 2 points. ' +
        'Compared: 4.00 cores, less than was wanted at none of 3 points.',
    );
    const none = { t: [], wanted: [], used: [], limit: [] };
    expect(courseText('cpu', { rules: none, against: null })).toMatch(/Nothing was measured/);
    expect(courseText('cpu', { rules: { ...course.rules, limit: [null, null, null] }, against: null })).toMatch(
      /no limit/,
    );
  });
});
