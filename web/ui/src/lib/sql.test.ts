import { describe, expect, it } from 'vitest';
import { collect } from './backfill';
import { quoted } from './clipboard';
import { offers, tablesIn } from './completion';
import { matches } from './filter';
import { tabsOf, tabWord } from './queries';
import { linesOf, short } from './result';
import { replacing, ruleNameIn } from './template';
import type { Schema, SqlResult } from './types';

const SCHEMA: Schema = {
  tables: [
    {
      schema: 'public',
      name: 'usage',
      columns: [
        { name: 'time', type: 'Timestamp' },
        { name: 'value', type: 'Float64' },
      ],
    },
    { schema: 'metric', name: 'proc.cpu.user', columns: [{ name: 'host', type: 'Utf8' }] },
  ],
  functions: [{ name: 'avg', signature: 'avg(x)', doc: '' }],
};
const labels = (sql: string, type?: string) => {
  const at = sql.indexOf('|');
  return offers(SCHEMA, sql.replace('|', ''), at)
    .filter((offer) => type === undefined || offer.type === type)
    .map((offer) => offer.label);
};

describe('completion', () => {
  it('finds tables with their aliases, quotes and arguments', () => {
    expect(
      tablesIn(
        `SELECT * FROM usage u JOIN metric."proc.cpu.user" AS m ON 1=1 JOIN recent(INTERVAL '1 minute') r WHERE x`,
      ),
    ).toEqual([
      { name: 'usage', alias: 'u' },
      { name: 'metric.proc.cpu.user', alias: 'm' },
      { name: 'recent', alias: 'r' },
    ]);
    expect(tablesIn('SELECT 1 FROM usage WHERE x')).toEqual([{ name: 'usage', alias: '' }]);
  });

  it('offers the columns of the tables in use, also before FROM was reached', () => {
    expect(labels('SELECT va| FROM usage', 'column')).toEqual(['time', 'value']);
    expect(labels("SELECT | FROM recent(INTERVAL '60 seconds')", 'column')).toContain('usage_p95');
  });

  it('offers only tables after FROM, quoted where needed', () => {
    expect(new Set(offers(SCHEMA, 'SELECT * FROM ', 14).map((offer) => offer.type))).toEqual(new Set(['table']));
    expect(offers(SCHEMA, 'SELECT * FROM ', 14).map((offer) => offer.apply)).toContain('metric."proc.cpu.user"');
  });

  it('offers the columns of an alias, and the options of a rule', () => {
    expect(labels('SELECT u.| FROM usage u')).toEqual(['time', 'value']);
    expect(labels('CREATE RULE x WITH (every = |')).toContain('cooldown_down');
  });
});

describe('rule texts', () => {
  it('replace an existing rule without moving anything else', () => {
    expect(replacing('CREATE RULE a AS SELECT 1')).toBe('CREATE OR REPLACE RULE a AS SELECT 1');
    expect(replacing('-- why\ncreate rule a AS SELECT 1')).toBe('-- why\nCREATE OR REPLACE RULE a AS SELECT 1');
    expect(replacing('CREATE OR REPLACE RULE a')).toBe('CREATE OR REPLACE RULE a');
  });

  it('tell their name', () => {
    expect(['CREATE RULE a_1 WITH', 'create or replace rule "x y" as', 'SELECT 1'].map(ruleNameIn)).toEqual([
      'a_1',
      'x y',
      null,
    ]);
  });
});

describe('results', () => {
  const result: SqlResult = {
    columns: [
      { name: 't', type: 'Timestamp(Millisecond, None)' },
      { name: 'container', type: 'Utf8' },
      { name: 'cores', type: 'Float64' },
    ],
    rows: [
      ['2026-11-21T20:00:00', 'a', 1],
      ['2026-11-21T20:00:10', 'a', 2],
      ['2026-11-21T20:00:10', 'b', 3],
    ],
    truncated: false,
    took_ms: 1,
  };

  it('with a time column are one line per text', () => {
    expect(linesOf(result)?.lines).toEqual([
      { label: 'a', values: [1, 2] },
      { label: 'b', values: [null, 3] },
    ]);
  });

  it('without one are no plot', () => {
    expect(
      linesOf({
        ...result,
        columns: [{ name: 'x', type: 'Utf8' }, ...result.columns.slice(1)],
        rows: [
          ['p', 'a', 1],
          ['q', 'a', 2],
        ],
      }),
    ).toBeNull();
  });

  it('show six figures of a fraction and all of an integer', () => {
    expect([short(0.123456789), short(1865130000.5), short(123456789), short(null), short('x')]).toEqual([
      '0.123457',
      '1865130001',
      '123456789',
      'NULL',
      'x',
    ]);
  });

  it('of the backfill go to their container and column', () => {
    const points = new Map();
    collect(
      points,
      {
        ...result,
        rows: [
          [1000, 'h', 'a', 'cpu', 0.5],
          [1000, 'h', 'a', 'io', 1],
          [1000, 'h', 'a', 'cpu', null],
        ],
      },
      (r) => (r === 'cpu' ? 'cpu' : null),
    );
    expect([...points]).toEqual([['h/a', new Map([[1000, { cpu: 0.5 }]])]]);
  });
});

it('a text is one argument of a shell, whatever is in it', () => {
  expect(quoted(`it's "x" $y`)).toBe(`'it'\\''s "x" $y'`);
});

it('a filter wants all of its words', () => {
  const row = { host: 'n1', name: 'web-1', app: 'shop', user: 'ann', throttled: true, oom: false, pin: '' };
  expect(
    ['', 'web', 'WEB shop', 'app:shop n1', 'throttled', 'host:n1', 'user:ann'].every((filter) => matches(row, filter)),
  ).toBe(true);
  expect(['web db', 'user:bob', 'app:web', 'oom', 'host:n2'].some((filter) => matches(row, filter))).toBe(false);
});

describe('the tabs of the console', () => {
  it('are as they were left', () => {
    expect(tabsOf({}, undefined, 'SELECT 1')).toEqual({ texts: ['SELECT 1'], at: 0 });
    expect(tabsOf({ 0: 'a', 10: 'c', 2: 'b', at: '1' }, undefined, '')).toEqual({ texts: ['a', 'b', 'c'], at: 1 });
    expect(tabsOf({ 0: 'a', at: '7' }, undefined, '').at).toBe(0);
  });

  it('show what an address asks for, in a tab that has it or is free, else in one more', () => {
    expect(tabsOf({ 0: 'a', 1: 'b', at: '0' }, 'b ', '')).toEqual({ texts: ['a', 'b '], at: 1 });
    expect(tabsOf({ 0: 'a', 1: '', at: '0' }, 'c', '')).toEqual({ texts: ['a', 'c'], at: 1 });
    expect(tabsOf({ 0: 'a', at: '0' }, 'c', '')).toEqual({ texts: ['a', 'c'], at: 1 });
    const many = Object.fromEntries(Array.from({ length: 12 }, (_, at) => [String(at), `q${at}`]));
    expect(tabsOf(many, 'new', '')).toMatchObject({ at: 11, texts: expect.not.arrayContaining(['q0']) as unknown });
  });

  it('are called by what they are about', () => {
    expect(tabWord('SELECT * FROM usage', 0)).toBe('usage');
    expect(tabWord('SELECT 1', 2)).toBe('query 3');
  });
});
