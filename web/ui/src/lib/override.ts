/** What a person says of one container, over labels and configuration: bounds, and what rules leave alone. */
import { amountText, parseAmount, type Bounds, type Verdict } from './groups';
import { moment } from './time';
import type { ContainerRow, Num, Override } from './types';

export type Limited = 'cpu' | 'memory';
export const LIMITED: readonly Limited[] = ['cpu', 'memory'];
export const wordOf = (resource: Limited): string => (resource === 'cpu' ? 'CPU' : 'memory');

export interface Range {
  min: number;
  max: number;
}

/** What is said of disks and the network by the API; here it is only kept. */
type Kept = Limited | 'disk_read' | 'disk_write' | 'net_receive' | 'net_send';
const KEPT: readonly Kept[] = [...LIMITED, 'disk_read', 'disk_write', 'net_receive', 'net_send'];

/** As the server takes it; it replaces all that was said before. */
export interface Said {
  bounds: Partial<Record<Kept, Range>>;
  pinned: Kept[];
  why: string;
}

/** Said bounds have both ends. */
function rangeOf(bounds: Bounds | null | undefined): Range | null {
  if (!bounds || bounds.max === null) return null;
  return { min: bounds.min ?? 0, max: bounds.max };
}

/** What was said, to be said again with a change. */
export function saidOf(override: Override | null | undefined): Said {
  const bounds: Said['bounds'] = {};
  for (const resource of KEPT) {
    const range = rangeOf(override?.bounds[resource]);
    if (range !== null) bounds[resource] = range;
  }
  return { bounds, pinned: KEPT.filter((one) => override?.pinned.includes(one)), why: override?.why ?? '' };
}

export function pinnedOf(override: Override | null | undefined): Limited[] {
  return LIMITED.filter((resource) => override?.pinned.includes(resource));
}

/** With other bounds of one resource, or without. Without a new reason the old one still holds. */
export function withBounds(said: Said, resource: Limited, given: Bounds | null, why = ''): Said {
  const bounds: Said['bounds'] = {};
  for (const one of KEPT) {
    const range = rangeOf(one === resource ? given : said.bounds[one]);
    if (range !== null) bounds[one] = range;
  }
  return { ...said, bounds, why: why.trim() || said.why };
}

/** With these pinned as well. */
export function withPins(said: Said, pinned: readonly Limited[], why: string): Said {
  return {
    ...said,
    pinned: KEPT.filter((one) => said.pinned.includes(one) || pinned.some((pin) => pin === one)),
    why: why.trim() || said.why,
  };
}

export function withoutPins(said: Said, released: readonly Limited[]): Said {
  return { ...said, pinned: said.pinned.filter((one) => !released.some((free) => free === one)) };
}

/** Then it is taken back rather than said. */
export const isNothing = (said: Said): boolean => said.pinned.length === 0 && Object.keys(said.bounds).length === 0;

/** The bounds of a container for people. */
export function boundsText(resource: Limited, { min, max }: { min: Num; max: Num }): string {
  const show = (value: Num) => `${amountText(resource, value)}${resource === 'cpu' ? ' cores' : ''}`;
  if (min === null && max === null) return 'none';
  if (min === null) return `at most ${show(max)}`;
  return max === null ? `at least ${show(min)}` : `${amountText(resource, min)} to ${show(max)}`;
}

/** Who says so. */
export function originOf(row: ContainerRow, resource: Limited): { kind: 'override' | 'given' | 'none'; text: string } {
  const { override } = row;
  if (override?.bounds[resource])
    return {
      kind: 'override',
      text: `set here by ${override.changed_by}, ${moment(override.changed_at)}; labels and the configuration do not count`,
    };
  const { min, max } = row.bounds[resource];
  if (min === null && max === null) return { kind: 'none', text: 'neither its labels nor the configuration set any' };
  return { kind: 'given', text: 'from its labels or the configuration' };
}

/** One line for a mark: `CPU pinned by ann: she looks into it`. */
export function pinText(override: Override): string {
  const pinned = pinnedOf(override);
  if (pinned.length === 0) return '';
  const what = pinned.length === LIMITED.length ? 'excluded from rules' : `${wordOf(pinned[0] ?? 'cpu')} pinned`;
  return `${what} by ${override.changed_by}${override.why ? `: ${override.why}` : ''}`;
}

/** The room for the limits of one container's host: what it has, and what the other containers there may have at most. */
export interface Room {
  host: string;
  capacity: Num;
  others: number;
  /** Others that may have as much as they like. */
  unbounded: number;
}

export function roomOf(
  resource: Limited,
  row: { host: string; name: string },
  capacity: Num,
  containers: ContainerRow[],
): Room {
  const others = containers.filter((one) => one.host === row.host && one.name !== row.name && !one.gone);
  const most = others.map((one) => one.bounds[resource].max);
  return {
    host: row.host,
    capacity,
    others: most.reduce<number>((sum, max) => sum + (max ?? 0), 0),
    unbounded: most.filter((max) => max === null).length,
  };
}

/** What is wrong with the bounds of a container, or worth knowing before they are set. */
export function judgeOne(resource: Limited, texts: { min: string; max: string }, limit: Num, room: Room): Verdict {
  const [min, typed] = [parseAmount(resource, texts.min), parseAmount(resource, texts.max)];
  const example = resource === 'cpu' ? '1.5' : '512 MiB or 2 GiB';
  if (min === undefined || typed === undefined) return { wrong: `An amount is written like ${example}.`, notes: [] };
  const max = typed ?? room.capacity;
  const show = (value: number) => `${amountText(resource, value)}${resource === 'cpu' ? ' cores' : ''}`;
  if (max === null) return { wrong: 'Say the most, since it is not known what its host has.', notes: [] };
  if (max === 0) return { wrong: 'With nothing at most it could not run.', notes: [] };
  if ((min ?? 0) > max) return { wrong: 'The least is more than the most.', notes: [] };
  if (room.capacity !== null && max > room.capacity)
    return { wrong: `That is more than ${room.host} has, ${show(room.capacity)}.`, notes: [] };
  const notes: string[] = [];
  const together = room.others + max;
  if (room.capacity !== null && together > room.capacity) {
    const share = (together / room.capacity).toFixed(1);
    notes.push(
      `All containers of ${room.host} may then have ${share} times what it has, so not all of it at once.${
        room.unbounded > 0 ? ` Besides, ${room.unbounded} there have no bounds.` : ''
      }`,
    );
  }
  if (limit === null || limit > max || limit < (min ?? 0))
    notes.push(
      `${limit === null ? 'It has no limit now' : `Its limit is ${show(limit)} now`}. That stays until a rule changes it, and then the bounds hold.`,
    );
  return { bounds: { min: min ?? 0, max }, notes };
}
