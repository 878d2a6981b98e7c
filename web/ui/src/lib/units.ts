/** Numbers for people. The API speaks base units; the conversions for display stand here and nowhere else. */
import type { Num, ResourceName } from './types';

const IEC = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
export const NONE = '–';

/** A value with as many decimals as make three figures: `0.92`, `12.4`, `128`. */
export function figure(value: number): string {
  const size = Math.abs(value);
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toFixed(decimals);
}

/** Cores without their unit: `0.92`. */
export function cores(value: Num | undefined): string {
  return value === null || value === undefined || !Number.isFinite(value) ? NONE : figure(value);
}

/** The IEC step a number of bytes is shown in. */
function step(value: number): number {
  const size = Math.abs(value);
  if (size < 1024) return 0;
  return Math.min(IEC.length - 1, Math.floor(Math.log2(size) / 10));
}

/** Bytes with their unit: `96.0 MiB`. */
export function bytes(value: Num | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const at = step(value);
  const shown = value / 1024 ** at;
  return at === 0
    ? `${Math.round(shown)} B`
    : `${Math.abs(shown) >= 100 ? shown.toFixed(0) : shown.toFixed(1)} ${IEC[at]}`;
}

/** The resource that a knob such as `memory.high` belongs to; a resource belongs to itself. */
export function resourceOf(resource: ResourceName): Exclude<ResourceName, 'cpu.weight' | 'memory.high'> {
  if (resource === 'cpu.weight') return 'cpu';
  return resource === 'memory.high' ? 'memory' : resource;
}

/** A value of a resource with its unit: `0.92 cores`, `96.0 MiB`. */
export function amount(resource: ResourceName, value: Num | undefined): string {
  const text = brief(resource, value);
  return text === NONE || resource !== 'cpu' ? text : `${text} cores`;
}

const RATES: readonly ResourceName[] = ['disk_read', 'disk_write', 'net_receive', 'net_send'];

/** A value of a resource as short as it can be: `0.92`, `96.0 MiB`. */
export function brief(resource: ResourceName, value: Num | undefined): string {
  if (resource === 'cpu.weight') return count(value);
  if (RATES.includes(resource)) return rate(value);
  return resourceOf(resource) === 'memory' ? bytes(value) : cores(value);
}

/** `1.00 → 1.50 cores`, with the unit once where both share it. */
export function change(resource: ResourceName, from: Num, to: Num): string {
  if (resource === 'cpu') return `${from === null ? 'none' : cores(from)} → ${amount('cpu', to)}`;
  const [before, after] = [from === null ? 'none' : brief(resource, from), brief(resource, to)];
  const [fromNumber, fromUnit] = before.split(' ');
  const sameUnit = fromUnit !== undefined && fromUnit === after.split(' ')[1];
  return `${sameUnit ? fromNumber : before} → ${after}`;
}

/** A share of 1 as percent: `3.1 %`; `< 0.1 %` rather than a false zero. */
export function percent(share: Num | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.1) return '< 0.1 %';
  return `${value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** A count with thin spaces between thousands: `1 284`. */
export function count(value: Num | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

/** Microseconds or milliseconds as a person would say them. */
export function tookMs(ms: Num | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 10) return `${ms.toFixed(0)} ms`;
  return ms >= 0.1 ? `${ms.toFixed(1)} ms` : `${(ms * 1000).toFixed(0)} µs`;
}

/** Distances between axis ticks: powers of two for bytes, 1-2-5 for cores. */
export function tickSteps(resource: ResourceName): number[] {
  if (resource === 'memory') return Array.from({ length: 51 }, (_, power) => 2 ** power);
  return Array.from({ length: 10 }, (_, at) => [1, 2, 5].map((m) => m * 10 ** (at - 4))).flat();
}

/** Bytes a second. */
export function rate(value: Num | undefined): string {
  return value === null || value === undefined ? bytes(value) : `${bytes(value)}/s`;
}
