import { api } from './api';
import { isShown, progressOf, storedOf, withDone, type Progress, type Step } from './firststeps';
import { keep, kept } from './stored';

const KEY = 'tidegate.firststeps';

/** How far this browser's visitor has come. */
class FirstSteps {
  progress = $state.raw<Progress>(progressOf(kept(KEY)));

  /** A demo on real containers does not say that it is simulated; its settings say whose they are. */
  #demo = $state(false);

  /** Finds out whether this is a demo, unless the visitor has said what is wanted. */
  ask(): void {
    if (this.progress.wanted !== null || this.#demo) return;
    api.config().then(
      ({ settings }) => (this.#demo = settings.some((setting) => setting.origin === 'demo')),
      () => undefined,
    );
  }

  did(step: Step): void {
    this.#set(withDone(this.progress, step));
  }

  /** Brings them back from the start, or takes them away. */
  want(wanted: boolean): void {
    this.#set({ done: wanted ? [] : this.progress.done, wanted });
  }

  shown(simulated: boolean): boolean {
    return isShown(this.progress, simulated || this.#demo);
  }

  #set(progress: Progress): void {
    if (progress === this.progress) return;
    this.progress = progress;
    keep(KEY, storedOf(progress));
  }
}

export const firstSteps = new FirstSteps();
