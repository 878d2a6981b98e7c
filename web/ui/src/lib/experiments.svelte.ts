/** The experiments of the server, loaded once for all that pick from them and again after each change. */
import { api, placeOf } from './api';
import type { Experiment } from './experiments';
import type { ErrorPlace } from './types';

class Experiments {
  all = $state.raw<Experiment[]>([]);
  loaded = $state(false);
  problem = $state.raw<ErrorPlace | null>(null);
  #asked = false;

  /** Loads them unless somebody has. */
  need(): void {
    if (!this.#asked) void this.load();
  }

  async load(): Promise<void> {
    this.#asked = true;
    try {
      this.all = (await api.experiments()).experiments;
      this.loaded = true;
      this.problem = null;
    } catch (error) {
      this.#asked = false;
      this.problem = placeOf(error);
    }
  }

  /** Makes a change and loads them anew; whether it worked. */
  async change(change: () => Promise<unknown>): Promise<boolean> {
    try {
      await change();
    } catch (error) {
      this.problem = placeOf(error);
      return false;
    }
    await this.load();
    return true;
  }
}

export const experiments = new Experiments();
