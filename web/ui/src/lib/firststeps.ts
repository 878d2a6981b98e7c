/** The four steps that teach the product on a first visit, and which of them were done. */

export const STEPS = ['watch', 'explain', 'rule', 'send'] as const;
export type Step = (typeof STEPS)[number];

export interface Progress {
  done: Step[];
  /** What the visitor wants: `null` until said, then a demo shows them and a server at work does not. */
  wanted: boolean | null;
}

/** Reads what is stored; whatever is wrong with it, one begins anew. */
export function progressOf(stored: Record<string, string>): Progress {
  const told = (stored['done'] ?? '').split(' ');
  const wanted = { yes: true, no: false }[stored['wanted'] ?? ''] ?? null;
  return { done: STEPS.filter((step) => told.includes(step)), wanted };
}

export function storedOf({ done, wanted }: Progress): Record<string, string> {
  return { done: done.join(' '), ...(wanted === null ? {} : { wanted: wanted ? 'yes' : 'no' }) };
}

/** With one more step done, in their order; the same object when it was. */
export function withDone(progress: Progress, step: Step): Progress {
  if (progress.done.includes(step)) return progress;
  return { ...progress, done: STEPS.filter((one) => one === step || progress.done.includes(one)) };
}

export const isShown = (progress: Progress, isDemo: boolean) => progress.wanted ?? isDemo;

/** The first step that is left. */
export const nextStep = (progress: Progress) => STEPS.find((step) => !progress.done.includes(step));
