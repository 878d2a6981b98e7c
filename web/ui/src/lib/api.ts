/** Calls of the HTTP API. Addresses are relative to the page, so that a path prefix in front of it does not matter. */
import { quoted } from './clipboard';
import type { Experiment } from './experiments';
import type { Report } from './report';
import type { OpenApi } from './openapi';
import type { Said } from './override';
import { session } from './session.svelte';
import type {
  Backtest,
  BacktestCourse,
  ContainerRow,
  ContainerSeries,
  Decision,
  ErrorPlace,
  Explanation,
  Frozen,
  GroupRow,
  HostRow,
  IngestPreview,
  Mode,
  Pack,
  Rule,
  RuleChange,
  Schema,
  Setting,
  SqlResult,
  StatementResults,
  Status,
  Validation,
} from './types';

export class ApiError extends Error {
  readonly status: number;
  readonly place: ErrorPlace;

  constructor(status: number, place: ErrorPlace) {
    super(place.message);
    this.status = status;
    this.place = place;
  }
}

export function apiUrl(path: string): string {
  return new URL(`api/v1/${path}`, document.baseURI.replace(/#.*$/, '')).href;
}

/** Where this server is, as agents and senders are told: without the slash at its end. */
export function serverUrl(): string {
  return new URL('.', document.baseURI.replace(/#.*$/, '')).href.replace(/\/$/, '');
}

/** The command that sends a text of SQL to this server. */
export function curlOf(sql: string): string {
  return `curl -s ${apiUrl('sql')} -H 'content-type: application/json' -d ${quoted(JSON.stringify({ sql }))}`;
}

async function errorOf(response: Response): Promise<ApiError> {
  let place: ErrorPlace = { message: `the server answered ${response.status} ${response.statusText}`.trim() };
  try {
    const body = (await response.json()) as { error?: ErrorPlace };
    if (typeof body.error?.message === 'string') place = body.error;
  } catch {
    // no JSON: the status must do
  }
  return new ApiError(response.status, place);
}

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(apiUrl(path), { credentials: 'same-origin', ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, { message: 'the server cannot be reached', help: 'is tidegate running?' });
  }
  if (response.status === 401 && path !== 'login') session.ask();
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await call(path, signal ? { signal } : {})).json()) as T;
}

function posted(body: unknown, signal?: AbortSignal): RequestInit {
  return {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  };
}

async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const text = await (await call(path, posted(body, signal))).text();
  return (text === '' ? {} : JSON.parse(text)) as T;
}

const seg = encodeURIComponent;
/** More than any server hands out; its own bound counts. */
const MOST_EXPORTED = 10_000_000;

export interface DecisionFilter {
  host?: string;
  container?: string;
  rule?: string;
  resource?: string;
  outcome?: string;
  from?: number;
  to?: number;
  limit?: number;
  before?: string;
}

function search(filter: DecisionFilter): string {
  const kept = Object.entries(filter).filter(([, value]) => value !== undefined && value !== '');
  return new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
}

const experimentPath = (names: string[]) => `experiments/${names.map(seg).join('/tests/')}`;

export const api = {
  status: () => get<Status>('status'),
  backtest: (rules: string, against: string, from: number) =>
    post<Backtest>('backtests', { rules, on_top: true, against, from: Math.floor(from) }),
  backtestState: (id: string) => get<Backtest>(`backtests/${seg(id)}`),
  backtestCourse: (id: string, of: { host: string; container: string; resource: string }, signal?: AbortSignal) =>
    get<BacktestCourse>(`backtests/${seg(id)}/course?${new URLSearchParams(of).toString()}`, signal),
  /** Also while the page goes away, so that none is left that nobody waits for. */
  stopBacktest: async (id: string) => void (await call(`backtests/${seg(id)}`, { method: 'DELETE', keepalive: true })),
  backtests: () => get<{ backtests: Backtest[] }>('backtests'),
  freeze: (restore: boolean, why: string) => post<Frozen>('freeze', { restore, why }),
  thaw: async () => void (await call('freeze', { method: 'DELETE' })),
  login: (token: string) => post<unknown>('login', { token }),
  containers: () => get<{ now: number; containers: ContainerRow[] }>('containers'),
  config: () => get<{ settings: Setting[] }>('config'),
  hosts: () => get<{ now: number; hosts: HostRow[] }>('hosts'),
  groups: () => get<{ now: number; groups: GroupRow[] }>('groups'),
  setBounds: (kind: string, name: string, body: object) => post<unknown>(`groups/${kind}/${seg(name)}`, body),
  container: (host: string, name: string) => get<ContainerRow>(`containers/${seg(host)}/${seg(name)}`),
  /** `null` takes back what was said of it. */
  setOverride: async (host: string, name: string, said: Said | null) => {
    const init = said === null ? { method: 'DELETE' } : { ...posted(said), method: 'PUT' };
    const answer = await call(`containers/${seg(host)}/${seg(name)}/override`, init);
    return (await answer.json()) as ContainerRow;
  },
  series: (host: string, name: string, from: number, to: number, points: number, signal?: AbortSignal) =>
    get<ContainerSeries>(
      `containers/${seg(host)}/${seg(name)}/series?from=${Math.floor(from)}&to=${Math.ceil(to)}&points=${points}`,
      signal,
    ),
  decisions: (filter: DecisionFilter, signal?: AbortSignal) =>
    get<{ decisions: Decision[] }>(`decisions?${search(filter)}`, signal),
  explain: (id: string) => get<Explanation>(`decisions/${seg(id)}/explain`),
  packs: () => get<{ packs: Pack[] }>('packs'),
  rules: () => get<{ rules: Rule[] }>('rules'),
  rule: (name: string) => get<Rule>(`rules/${seg(name)}`),
  ruleChanges: (name: string) => get<{ changes: RuleChange[] }>(`rules/${seg(name)}/changes`),
  saveRule: (sql: string) => post<StatementResults>('rules', { sql }),
  deleteRule: async (name: string) => void (await call(`rules/${seg(name)}`, { method: 'DELETE' })),
  setMode: (name: string, mode: Mode) => post<unknown>(`rules/${seg(name)}/mode`, { mode }),
  validate: (sql: string, signal?: AbortSignal) => post<Validation>('rules/validate', { sql }, signal),
  preview: (sql: string, signal?: AbortSignal) => post<{ decisions: Decision[] }>('rules/preview', { sql }, signal),
  previewPush: async (protocol: string, precision: string, body: Blob | string, signal?: AbortSignal) => {
    const type = protocol === 'prometheus' ? 'application/x-protobuf' : 'text/plain';
    const query = new URLSearchParams({ protocol, ...(precision ? { precision } : {}) }).toString();
    const init = { method: 'POST', headers: { 'content-type': type }, body, ...(signal ? { signal } : {}) };
    return (await (await call(`ingest/preview?${query}`, init)).json()) as IngestPreview;
  },
  report: (query: string, signal?: AbortSignal) => get<Report>(`report?${query}`, signal),
  experiments: () => get<{ now: number; experiments: Experiment[] }>('experiments'),
  newExperiment: (body: object) => post<Experiment>('experiments', body),
  newTest: (experiment: string, body: object) => post<Experiment>(`experiments/${seg(experiment)}/tests`, body),
  /** Of an experiment, or of a test in it. */
  changeExperiment: (names: string[], body: object) =>
    call(experimentPath(names), { ...posted(body), method: 'PATCH' }),
  deleteExperiment: (names: string[]) => call(experimentPath(names), { method: 'DELETE' }),
  schema: () => get<Schema>('schema'),
  /** It describes all versions, and so is beside them. */
  description: () => get<OpenApi>('../openapi.json'),
  sql: (sql: string, limit?: number, signal?: AbortSignal) =>
    post<SqlResult | StatementResults>('sql', { sql, format: 'json', ...(limit ? { limit } : {}) }, signal),
  sqlBlob: async (sql: string, format: string) =>
    (await call('sql', posted({ sql, format, limit: MOST_EXPORTED }))).blob(),
};

/** What to show of anything that was thrown. */
export function placeOf(error: unknown): ErrorPlace {
  if (error instanceof ApiError) return error.place;
  return { message: error instanceof Error ? error.message : String(error) };
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}
