import { describe, expect, it } from 'vitest';
import { containerHash, hashOf, hashOfRoute, parseHash, sqlHash } from './route';

describe('addresses', () => {
  it('of every page are read and written alike', () => {
    for (const hash of [
      '#/',
      '#/c/node0/web-1?range=1h',
      '#/rules',
      '#/rules/a',
      '#/new-rule',
      '#/decisions?rule=a',
      '#/decisions/x-1',
      '#/sql',
      '#/hosts?q=a&sort=cpu',
      '#/groups?kind=app&q=shop',
      '#/send?protocol=influx&tool=curl',
      '#/status?set=1',
      '#/reports?kind=app&name=shop&range=6h&core=0.05',
      '#/reference?op=sql',
    ]) {
      expect(hashOfRoute(parseHash(hash))).toBe(hash);
    }
  });

  it('carry names with slashes, spaces, percent signs and umlauts', () => {
    const hash = containerHash('node 0', 'a/b%c ä');
    expect(parseHash(hash)).toMatchObject({ page: 'container', args: ['node 0', 'a/b%c ä'] });
  });

  it('that nobody knows are missing, not an error', () => {
    expect(parseHash('#/nothing/here').page).toBe('missing');
    expect(parseHash('#/c/only-host').page).toBe('missing');
    expect(parseHash('#/decisions/%').args).toEqual(['%']);
    expect(parseHash('').page).toBe('fleet');
  });

  it('leave empty query values out', () => {
    expect(hashOf(['sql'], { q: '', run: null, a: undefined, b: 0 })).toBe('#/sql?b=0');
  });

  it('carry a whole query', () => {
    const sql = 'SELECT \'a&b=c\' FROM "x"\nWHERE y > 1 -- 100 %';
    expect(parseHash(sqlHash(sql, true)).query).toEqual({ q: sql, run: '1' });
  });
});
