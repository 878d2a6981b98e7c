import { describe, expect, it } from 'vitest';
import { STEPS, isShown, nextStep, progressOf, storedOf, withDone } from './firststeps';

describe('the first steps', () => {
  it('are kept as they were done, in their order', () => {
    let progress = progressOf({});
    for (const step of ['rule', 'watch', 'rule'] as const) progress = withDone(progress, step);
    expect(progress.done).toEqual(['watch', 'rule']);
    expect(progressOf(storedOf(progress))).toEqual(progress);
    expect(nextStep(progress)).toBe('explain');
    expect(withDone(progress, 'rule')).toBe(progress);
    expect(nextStep({ ...progress, done: [...STEPS] })).toBeUndefined();
  });

  it('begin anew whatever is stored', () => {
    expect(progressOf({ done: 'nonsense send', wanted: 'perhaps' })).toEqual({ done: ['send'], wanted: null });
  });

  it('are shown by a demo until they are dismissed, and elsewhere when they are asked for', () => {
    const progress = progressOf({});
    expect([isShown(progress, true), isShown(progress, false)]).toEqual([true, false]);
    expect(isShown({ ...progress, wanted: false }, true)).toBe(false);
    expect(isShown(progressOf(storedOf({ ...progress, wanted: true })), false)).toBe(true);
  });
});
