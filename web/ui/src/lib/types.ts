/** The JSON of the HTTP API, as the server writes it. Values are in base units: cores, bytes, ms UTC, shares of 1. */

export type ResourceName = 'cpu' | 'memory';
export type Mode = 'off' | 'shadow' | `canary ${number} %` | 'on';
export type Num = number | null;

/** The kill switch is on. */
export interface Freeze {
  since: number;
  by: string;
  why: string;
}

/** What a backtest came to for one resource; shares are of 1. */
export interface Figures {
  slack: number;
  utilisation: number;
  over_limit: number;
  unmet: number;
  throttled_s: number;
  oom_kills: number;
  changes: number;
  changes_per_day: number;
  flaps: number;
}

export interface LimitScore extends Figures {
  host: string;
  container: string;
  resource: ResourceName;
}

export interface BacktestReport {
  ticks: number;
  took_ms: number;
  containers: number;
  resources: Partial<Record<ResourceName, Figures>>;
  limits: LimitScore[];
  problems: string[];
}

export interface Backtest {
  id: string;
  phase: 'reading' | 'running' | 'comparing' | 'done' | 'failed' | 'stopped';
  progress: number;
  error?: ErrorPlace;
  report?: BacktestReport;
  against?: BacktestReport;
}

export interface Status {
  version: string;
  host: string;
  simulated: string | null;
  started: number;
  uptime_s: number;
  now: number;
  cgroup: string;
  frozen: Freeze | null;
  containers: number;
  rules: number;
  store: Record<string, number>;
  ingest_per_s: number;
  /** What came in through each protocol since the start. */
  pushed?: Record<string, PushCounts>;
  clients: number;
  tick_lag_ms: Num;
}

/** A setting in force; a secret is masked. */
export interface Setting {
  path: string;
  value: unknown;
  origin: 'default' | 'derived' | 'file' | 'environment' | 'flag' | 'demo';
}

export interface PushCounts {
  requests: number;
  failed_requests: number;
  bytes: number;
  accepted: number;
  rejected: number;
  skipped: number;
}

export interface ResourceNow {
  usage: Num;
  limit: Num;
  upper: Num;
  lower: Num;
  pressure?: Num;
  throttled?: Num;
  oom_kills?: Num;
  unreclaimable?: Num;
}

export interface BoundsPair {
  min: Num;
  max: Num;
}

export interface ContainerRow {
  host: string;
  name: string;
  app: string | null;
  user: string | null;
  runtime: string;
  id: string;
  path: string;
  cgroup: string;
  first_seen: number;
  last_seen: number;
  gone: boolean;
  baseline: Partial<Record<ResourceName, Num>>;
  bounds: Partial<Record<ResourceName, BoundsPair | null>>;
  cpu: ResourceNow;
  memory: ResourceNow;
}

/** What the server knows of an agent. */
export interface Agent {
  host: string;
  version: string;
  address: string;
  connected: boolean;
  since: number;
  last_frame: Num;
  clock_ahead_ms: number;
  behind: number;
  frozen: boolean;
}

/** A knob that does not stand as it was asked for. */
export interface KnobTrouble {
  container: string;
  knob: string;
  status: string;
  time: number;
}

export interface HostRow {
  name: string;
  cpu: Num;
  memory: Num;
  last_seen: Num;
  /** The server measures and changes it itself. */
  own: boolean;
  agent: Agent | null;
  knobs: KnobTrouble[];
}

export interface SeriesColumns {
  usage: Num[];
  usage_max: Num[];
  limit: Num[];
  upper: Num[];
  lower: Num[];
  throttled?: Num[];
  oom_kills?: Num[];
  unreclaimable?: Num[];
}

export interface ContainerSeries {
  step_ms: number;
  t: number[];
  cpu: SeriesColumns;
  memory: SeriesColumns;
}

export interface GuardReport {
  guard: string;
  action: 'passed' | 'changed' | 'refused';
  before: number;
  after: number;
  why: string;
}

export type OutcomeStatus =
  'applied' | 'unchanged' | 'refused' | 'infeasible' | 'drifted' | 'rolled_back' | 'shadow' | 'failed';

export interface Outcome {
  status: OutcomeStatus;
  limit_after: Num;
  writes: { target: string; value: string }[];
  message: string;
  at: number;
  took_us: number;
}

export interface Decision {
  id: string;
  time: number;
  rule: string;
  version: number;
  container: { host: string; name: string };
  resource: ResourceName;
  limit_before: Num;
  proposed: number;
  decided: Num;
  guards: GuardReport[];
  reason: string;
  mode: Mode;
  inputs: Record<string, unknown> | null;
  outcome: Outcome;
  sentence?: string;
}

export interface Explanation {
  decision: Decision;
  sentence: string;
  rule_sql: string | null;
  query_as_of: string | null;
  after: { usage_avg: Num; usage_max: Num; throttled_avg: Num; limit_now: Num } | null;
}

/** A rule pack that ships with the program. */
export interface Pack {
  name: string;
  /** Its first sentence. */
  summary: string;
  rules: string[];
  sql: string;
}

export interface Rule {
  name: string;
  sql: string;
  query: string;
  version: number;
  mode: Mode;
  class: string;
  every_ms: number;
  options: Record<string, string>;
  created_by: string;
  updated_at: number;
  last_run: Num;
  last_latency_ms: Num;
  last_rows: Num;
  last_error: string | null;
}

/** An error with the place in the submitted text it is about; lines and columns count from 1. */
export interface ErrorPlace {
  message: string;
  line?: number | null;
  column?: number | null;
  endLine?: number | null;
  endColumn?: number | null;
  help?: string | null;
}

export type Validation = { ok: true; rule: Partial<Rule> & { name: string } } | { ok: false; error: ErrorPlace };

/** What a pushed body would become. */
export interface IngestPreview {
  samples: { line: Num; metric: string; tags: Record<string, string>; time: number; value: number }[];
  total: number;
  series: number;
  errors: { line: Num; column: Num; message: string }[];
  failed: number;
  skipped: number;
}

export interface SqlResult {
  columns: { name: string; type: string }[];
  rows: unknown[][];
  truncated: boolean;
  took_ms: number;
}

export interface StatementResults {
  results: { statement: string; name: string; message: string }[];
}

export interface SchemaTable {
  schema: string;
  name: string;
  columns: { name: string; type: string; doc?: string }[];
}

export interface Schema {
  tables: SchemaTable[];
  functions: { name: string; signature?: string; doc?: string }[];
}
