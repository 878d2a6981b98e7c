/** Apps and users as the groups page shows them: what their containers use together, and what they may have. */
import type { GroupRow, Num, ResourceName } from './types';
import { bytes } from './units';

export interface Group {
  kind: 'app' | 'user';
  name: string;
  /** Whose app it is; empty for a user. */
  user: string;
  members: number;
  /** Members that were not measured lately, as `host/container`. */
  missing: string[];
  rows: Partial<Record<'cpu' | 'memory', GroupRow>>;
}

/** One of each group, apps first; the answer has a row a resource. */
export function groupsOf(rows: GroupRow[]): Group[] {
  const groups = new Map<string, Group>();
  for (const row of rows) {
    if ((row.kind !== 'app' && row.kind !== 'user') || row.name === null) continue;
    const key = `${row.kind}/${row.name}`;
    const group = groups.get(key) ?? {
      kind: row.kind,
      name: row.name,
      user: row.kind === 'app' ? (row.user_name ?? '') : '',
      members: row.members ?? 0,
      missing: (row.missing ?? '').split(',').filter((one) => one !== ''),
      rows: {},
    };
    groups.set(key, group);
    if (row.resource === 'cpu' || row.resource === 'memory') group.rows[row.resource] = row;
  }
  return [...groups.values()].sort(
    (a, b) => a.kind.localeCompare(b.kind) || a.name.localeCompare(b.name, undefined, { numeric: true }),
  );
}

const UNITS: Record<string, number> = { '': 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** `1.5` cores, `512 MiB` or `2g`: in cores or bytes; `null` for nothing, `undefined` when it is no amount. */
export function parseAmount(resource: ResourceName, text: string): Num | undefined {
  const found = /^(\d+(?:[.,]\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  if (text.trim() === '') return null;
  if (found === null) return undefined;
  const value = Number(found[1]?.replace(',', '.'));
  const unit = (found[2] ?? '').toLowerCase();
  if (resource === 'cpu') return /^(cores?)?$/.test(unit) ? value : undefined;
  const factor = /^([kmgt]?)(i?b)?$/.test(unit) ? UNITS[unit.charAt(0)] : undefined;
  return factor === undefined ? undefined : Math.round(value * factor);
}

/** The same as a person would type it. */
export function amountText(resource: ResourceName, value: Num): string {
  if (value === null) return '';
  if (resource === 'cpu') return String(Number(value.toFixed(3)));
  // As short as it can be without meaning another number.
  return parseAmount('memory', bytes(value)) === value ? bytes(value) : String(value);
}

export interface Bounds {
  min: Num;
  max: Num;
}

/** Of what was typed as bounds; without any it is wrong. */
export interface Verdict {
  bounds?: Bounds;
  wrong?: string;
  notes: string[];
}

/** What is wrong with bounds, or worth knowing before they are set; `capacity` is what all hosts have together. */
export function judge(
  resource: 'cpu' | 'memory',
  texts: { min: string; max: string },
  allocated: Num,
  capacity: Num,
): Verdict {
  const [min, max] = [parseAmount(resource, texts.min), parseAmount(resource, texts.max)];
  const example = resource === 'cpu' ? '1.5' : '512 MiB or 2 GiB';
  if (min === undefined || max === undefined) return { wrong: `An amount is written like ${example}.`, notes: [] };
  if (min !== null && max !== null && min > max) return { wrong: 'The least is more than the most.', notes: [] };
  const notes: string[] = [];
  const show = (value: Num) => `${amountText(resource, value)}${resource === 'cpu' ? ' cores' : ''}`;
  if (capacity !== null && ((min ?? 0) > capacity || (max ?? 0) > capacity))
    notes.push(`That is more than all hosts have together, ${show(capacity)}.`);
  if (max !== null && allocated !== null && allocated > max)
    notes.push('Its limits add up to more already. They stay, and grow no further until rules have lowered them.');
  if (min !== null && allocated !== null && allocated < min)
    notes.push('Its limits add up to less already. They are not raised by that, and shrink no further.');
  return { bounds: { min, max }, notes };
}
