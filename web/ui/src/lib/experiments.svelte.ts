/** The experiments of the server, for all that show them or pick from them. */
import { api, placeOf } from './api';
import type { Experiment } from './experiments';
import type { ErrorPlace } from './types';

class Experiments {
  all = $state.raw<Experiment[]>([]);
  loaded = $state(false);
  /** Why the last change did not work. */
  refused = $state.raw<ErrorPlace | null>(null);
  /** Why they could not be read. */
  lost = $state.raw<ErrorPlace | null>(null);

  async load(): Promise<void> {
    try {
      this.all = (await api.experiments()).experiments;
      this.loaded = true;
      this.lost = null;
    } catch (error) {
      this.lost = placeOf(error);
    }
  }

  /** Makes a change and loads them anew; whether it worked. */
  async change(change: () => Promise<unknown>): Promise<boolean> {
    try {
      await change();
    } catch (error) {
      this.refused = placeOf(error);
      return false;
    }
    this.refused = null;
    await this.load();
    return true;
  }
}

export const experiments = new Experiments();
