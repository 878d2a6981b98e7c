import { api } from './api';
import type { Schema } from './types';

/** Tables, columns and functions for completion; read once and again when asked for. */
class SchemaCache {
  current = $state.raw<Schema>({ tables: [], functions: [] });
  #asked = false;

  async load(again = false): Promise<void> {
    if (this.#asked && !again) return;
    this.#asked = true;
    try {
      this.current = await api.schema();
    } catch {
      this.#asked = false; // completion offers keywords until it succeeds
    }
  }
}

export const schema = new SchemaCache();
