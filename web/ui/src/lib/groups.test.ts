import { describe, expect, it } from 'vitest';
import { amountText, groupsOf, judge, parseAmount } from './groups';
import type { GroupRow } from './types';

const row = (kind: string, name: string, resource: 'cpu' | 'memory', rest: Partial<GroupRow> = {}) =>
  ({ kind, name, resource, user_name: 'ann', members: 2, missing: null, ...rest }) as GroupRow;
const GIB = 2 ** 30;

describe('groups', () => {
  it('are one of each, with a row a resource, apps first', () => {
    const groups = groupsOf([
      row('user', 'ann', 'cpu'),
      row('app', 'shop 10', 'cpu', { missing: 'n1/a,n2/b' }),
      row('app', 'shop 9', 'memory'),
      row('app', 'shop 9', 'cpu', { usage: 1 }),
      { ...row('app', '', 'cpu'), name: null },
    ]);
    expect(groups.map(({ kind, name, user }) => [kind, name, user])).toEqual([
      ['app', 'shop 9', 'ann'],
      ['app', 'shop 10', 'ann'],
      ['user', 'ann', ''],
    ]);
    expect(Object.keys(groups[0]?.rows ?? {}).sort()).toEqual(['cpu', 'memory']);
    expect(groups[1]?.missing).toEqual(['n1/a', 'n2/b']);
  });

  it('have bounds that are typed as people write amounts', () => {
    expect(['', '1.5', '2 cores', '0,25', '1 GiB', 'x'].map((text) => parseAmount('cpu', text))).toEqual([
      null,
      1.5,
      2,
      0.25,
      undefined,
      undefined,
    ]);
    expect(['512 MiB', '2g', '1.5GB', '1024', '3 q', '-1'].map((text) => parseAmount('memory', text))).toEqual([
      512 * 2 ** 20,
      2 * GIB,
      1.5 * GIB,
      1024,
      undefined,
      undefined,
    ]);
  });

  it('show an amount so that it comes back as the same', () => {
    expect([amountText('cpu', 0.1 + 0.2), amountText('memory', 2 * GIB), amountText('memory', 1_000_000_001)]).toEqual([
      '0.3',
      '2.0 GiB',
      '1000000001',
    ]);
    expect(amountText('memory', null)).toBe('');
  });

  it('are judged before they are bounded', () => {
    expect(judge('cpu', { min: '3', max: '2' }, 1, 8).wrong).toContain('more than the most');
    expect(judge('cpu', { min: 'a', max: '' }, 1, 8).wrong).toContain('like 1.5');
    expect(judge('cpu', { min: '', max: '4' }, 2, 8)).toEqual({ bounds: { min: null, max: 4 }, notes: [] });
    expect(judge('cpu', { min: '1', max: '9' }, 2, 8).notes.join()).toContain('all hosts have together, 8 cores');
    expect(judge('cpu', { min: '', max: '1' }, 2, null).notes.join()).toContain('grow no further');
    expect(judge('cpu', { min: '3', max: '' }, 2, null).notes.join()).toContain('shrink no further');
  });
});
