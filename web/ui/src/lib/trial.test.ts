import { describe, expect, it } from 'vitest';
import { skipped, told, trialsOf, trialSql } from './trial';
import type { SqlResult } from './types';

const answer = (...rows: unknown[][]) => ({ columns: [], rows, truncated: false, took_ms: 1 }) as SqlResult;
const T = '2026-11-28T11:00:00.000Z';

describe('a rule on trial', () => {
  it('is asked about by name', () => {
    expect(trialSql("o'neil")).toContain("rule = 'o''neil'");
  });

  it('is told of by mode', () => {
    const trials = trialsOf(
      answer(
        ['shadow', 'shadow', 34, 5, 20, T],
        ['shadow', 'refused', 3, 2, 3, T],
        ['canary', 'applied', 1, 1, 0, T],
        ['canary', 'rolled_back', 1, 1, 0, T],
      ),
    );
    expect(told('shadow', trials['shadow'])).toBe(
      'In shadow it would have changed 34 limits of 5 containers: 20 up, 14 down; guards refused 3 proposals.',
    );
    expect(told('canary', trials['canary'])).toBe(
      'In canary it changed or would have changed 1 limit of 1 container: 0 up, 1 down; 1 went wrong or were taken back.',
    );
    expect(trials['shadow']?.since).toBe(Date.parse(T));
    expect(told('shadow', undefined)).toContain('nothing in shadow');
    expect(told('canary', undefined)).toBe('');
  });

  it('goes through shadow first', () => {
    const seen = trialsOf(answer(['shadow', 'shadow', 1, 1, 1, T]));
    expect([skipped('on', 'off', {}), skipped('on', 'off', seen), skipped('on', 'shadow', {})]).toEqual([
      'shadow',
      null,
      null,
    ]);
    expect(skipped('shadow', 'off', {})).toBeNull();
  });
});
