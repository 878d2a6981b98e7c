/** The one stream of this tab and what came through it. */
import { api, apiUrl } from './api';
import { loadHistory } from './backfill';
import { isQuiet, merged } from './decision';
import { Fleet, type FleetMessage } from './fleet';
import { session } from './session.svelte';
import type { ContainerRow, Decision, Status } from './types';

/** Data older than this is shown as old. */
export const STALE_MS = 5_000;
const KEEP_DECISIONS = 200;
const KEEP_STATUSES = 300;
/** The server measures its rate over a second. */
const LEAST_APART_MS = 900;
const RETRY_MS = 3_000;
const CONTAINERS_EVERY_MS = 15_000;

export type Connection = 'connecting' | 'open' | 'lost';

class Live {
  connection = $state<Connection>('connecting');
  /** Counts fleet messages, so that what draws from `fleet` knows when to. */
  tick = $state(0);
  /** Server time of the newest fleet message. */
  t = $state(0);
  /** How long ago the newest fleet message came, by this browser's clock. */
  age = $state(0);
  status = $state.raw<Status | null>(null);
  /** Samples stored a second, as each status told. */
  ingest = $state.raw<{ t: number; v: number }[]>([]);
  containers = $state.raw<ContainerRow[]>([]);
  containersLoaded = $state(false);
  /** Those that changed something or would have; newest first. */
  effective = $state.raw<Decision[]>([]);
  /** Refused or unchanged: many, so that they must not push the others out. Newest first. */
  quiet = $state.raw<Decision[]>([]);
  decisions = $derived(merged(this.effective, this.quiet));
  readonly fleet = new Fleet();

  stale = $derived(this.tick > 0 && this.age > STALE_MS);
  simulated = $derived(this.status?.simulated ?? null);

  #source: EventSource | null = null;
  #received = 0;
  #membership = '';
  #containersAt = 0;

  start(): void {
    this.#connect();
    setInterval(() => {
      this.age = this.#received === 0 ? 0 : performance.now() - this.#received;
    }, 1000);
    void this.#first();
  }

  /** Takes a status in. */
  take(status: Status): void {
    this.status = status;
    const last = this.ingest.at(-1)?.t ?? -Infinity;
    // A server that was set back begins anew.
    const before = status.now < last ? [] : this.ingest;
    if (status.now - last < LEAST_APART_MS && before.length > 0) return;
    this.ingest = [...before, { t: status.now, v: status.ingest_per_s }].slice(-KEEP_STATUSES);
  }

  /** Takes in a container that somebody changed, before the list is read anew. */
  replace(row: ContainerRow): void {
    this.containers = this.containers.map((one) => (one.host === row.host && one.name === row.name ? row : one));
  }

  /** Server time now, going on while no message comes. */
  now(): number {
    return this.t === 0 ? Date.now() : this.t + (performance.now() - this.#received);
  }

  async #first(): Promise<void> {
    try {
      this.status = await api.status();
      const outcomes = ['', 'applied', 'shadow'];
      const answers = await Promise.all(outcomes.map((outcome) => api.decisions({ outcome, limit: 60 })));
      this.#merge(answers.flatMap((answer) => answer.decisions));
    } catch {
      // the connection's state tells it
    }
  }

  #connect(): void {
    const source = new EventSource(apiUrl('stream'), { withCredentials: false });
    this.#source = source;
    source.onopen = () => (this.connection = 'open');
    source.onerror = () => this.#lost(source);
    source.addEventListener('fleet', (event) => this.#fleet(JSON.parse(event.data as string) as FleetMessage));
    source.addEventListener('decision', (event) => this.#merge([JSON.parse(event.data as string) as Decision]));
    // The server dropped events for this client, so what it knows may have holes.
    source.addEventListener('resync', () => void this.#first());
    source.addEventListener('status', (event) => this.take(JSON.parse(event.data as string) as Status));
  }

  /** The browser reconnects by itself unless the answer was no stream at all, such as 401. */
  #lost(source: EventSource): void {
    this.connection = 'lost';
    if (source !== this.#source || source.readyState !== EventSource.CLOSED) return;
    source.close();
    setTimeout(() => {
      api
        .status()
        .then((status) => (this.status = status))
        .catch(() => undefined)
        .finally(() => {
          if (!session.asked) this.#connect();
        });
    }, RETRY_MS);
  }

  #fleet(message: FleetMessage): void {
    this.connection = 'open';
    const applied = this.fleet.apply(message);
    if (applied === 'malformed') return;
    this.#received = performance.now();
    this.age = 0;
    if (applied === 'old') return;
    this.t = this.fleet.t;
    this.tick += 1;
    this.#refreshContainers();
  }

  #refreshContainers(): void {
    const membership = this.fleet.ids.join('\n');
    const changed = membership !== this.#membership;
    if (!changed && performance.now() - this.#containersAt < CONTAINERS_EVERY_MS) return;
    const firstTime = this.#membership === '' && membership !== '';
    this.#membership = membership;
    this.#containersAt = performance.now();
    api
      .containers()
      .then((answer) => {
        this.containers = answer.containers;
        this.containersLoaded = true;
      })
      .catch(() => undefined);
    if (firstTime) void loadHistory(this.fleet).then(() => (this.tick += 1));
  }

  #merge(incoming: Decision[]): void {
    const effective = incoming.filter((decision) => !isQuiet(decision));
    const quiet = incoming.filter(isQuiet);
    if (effective.length > 0) this.effective = merged(effective, this.effective).slice(0, KEEP_DECISIONS);
    if (quiet.length > 0) this.quiet = merged(quiet, this.quiet).slice(0, KEEP_DECISIONS);
  }
}

export const live = new Live();
