/**
 * The JSON of the HTTP API by the names that the dashboard uses. Values are in base units: cores, bytes, ms UTC, shares of 1.
 *
 * All of it is what `schema.d.ts` says, which is made of docs/openapi.json; only what that cannot say as exactly as the
 * dashboard wants it is said here.
 */
import type { components } from './schema';

type Schemas = components['schemas'];

export type ResourceName = Schemas['Resource'];
/** The document knows it as a text that fits a pattern. */
export type Mode = 'off' | 'shadow' | `canary ${number} %` | 'on';
export type Num = number | null;

type WithMode<T> = Omit<T, 'mode'> & { mode: Mode };

export type Freeze = Schemas['Freeze'];
export type Frozen = Schemas['Frozen'];
export type Figures = Schemas['Figures'];
export type LimitScore = Schemas['LimitScore'];
export type BacktestReport = Schemas['BacktestReport'];
export type Backtest = Schemas['Backtest'];
export type BacktestCourse = Schemas['BacktestCourse'];
export type CourseColumns = Schemas['CourseColumns'];
export type Status = Schemas['Status'];
export type Setting = Schemas['Setting'];
export type PushCounts = Schemas['PushCounts'];
export type BoundsPair = Schemas['BoundsPair'];
export type ContainerRow = Schemas['ContainerRow'];
export type Override = Schemas['OverrideRow'];
export type Agent = Schemas['Agent'];
export type KnobTrouble = Schemas['KnobTrouble'];
export type HostRow = Schemas['HostRow'];
export type GroupRow = Schemas['GroupRow'];
export type ContainerSeries = Schemas['ContainerSeries'];
export type GuardReport = Schemas['GuardReport'];
export type OutcomeStatus = Schemas['OutcomeStatus'];
export type Outcome = Schemas['Outcome'];
export type RuleChange = Schemas['RuleChange'];
export type Pack = Schemas['Pack'];
export type IngestPreview = Schemas['IngestPreview'];
export type SqlResult = Schemas['SqlRows'];
export type StatementResults = Schemas['StatementResults'];
/** An error with the place in the submitted text that it is about; lines and columns count from 1. */
export type ErrorPlace = Schemas['ErrorBody'];

type Both<Cpu, Memory> = Pick<Cpu & Memory, keyof Cpu & keyof Memory> & Partial<Cpu & Memory>;
/** The newest values of either resource; what only one of them has may be missing. */
export type ResourceNow = Both<Schemas['CpuNow'], Schemas['MemoryNow']>;
/** The past of either resource. */
export type SeriesColumns = Both<Schemas['CpuSeries'], Schemas['MemorySeries']>;

type Column = Omit<Schemas['TableColumn'], 'doc'> & { doc?: string };
/** Those that the completion knows by itself have no texts. */
export type SchemaTable = Omit<Schemas['Table'], 'columns'> & { columns: Column[] };
export type Schema = Omit<Schemas['Schema'], 'tables'> & { tables: SchemaTable[] };

export type Decision = WithMode<Schemas['Decision']>;
export type Explanation = Omit<Schemas['Explanation'], 'decision'> & { decision: Decision };
export type Rule = WithMode<Schemas['Rule']>;
export type Validation = { ok: true; rule: WithMode<Schemas['RuleDefinition']> } | { ok: false; error: ErrorPlace };
