import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  curlOf,
  exampleOf,
  fieldsOf,
  groupsOf,
  matches,
  partsOf,
  resolved,
  textOf,
  typeOf,
  type OpenApi,
} from './openapi';

const DOCUMENT = JSON.parse(readFileSync(new URL('../../../../docs/openapi.json', import.meta.url), 'utf8')) as OpenApi;
const GROUPS = groupsOf(DOCUMENT);
const find = (id: string) => {
  const found = GROUPS.flatMap((group) => group.entries).find((entry) => entry.id === id);
  if (!found) throw new Error(`there is no operation ${id}`);
  return found;
};
const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });

describe('the reference', () => {
  it('has every operation once, with its right', () => {
    const all = GROUPS.flatMap((group) => group.entries);
    const paths = Object.values(DOCUMENT.paths).flatMap((item) => Object.keys(item));
    expect(all.length).toBe(paths.length);
    expect(GROUPS.every((group) => group.description !== '')).toBe(true);
    expect([find('status').right, find('freeze').right, find('health').right]).toEqual(['read', 'operate', null]);
  });

  it('finds operations by words in any order', () => {
    expect(matches(find('sql'), 'POST sql')).toBe(true);
    expect(matches(find('sql'), 'timeout query')).toBe(true);
    expect(matches(find('sql'), 'delete')).toBe(false);
    expect(matches(find('sql'), '')).toBe(true);
  });

  it('says types in a few words', () => {
    const fields = Object.fromEntries(fieldsOf(DOCUMENT, ref('HostRow')).map((field) => [field.name, field.schema]));
    const type = (name: string) => typeOf(DOCUMENT, fields[name] ?? {});
    expect([type('name'), type('cpu'), type('own')]).toEqual(['text', 'number or null', 'boolean']);
    expect([type('agent'), type('knobs')]).toEqual(['Agent or null', 'list of KnobTrouble']);
    expect(typeOf(DOCUMENT, ref('Resource'))).toBe(
      'cpu | cpu.weight | disk_read | disk_write | memory | memory.high | net_receive | net_send',
    );
    expect(typeOf(DOCUMENT, ref('Binary'))).toBe('bytes');
    expect(typeOf(DOCUMENT, {})).toBe('anything');
    expect(textOf(DOCUMENT, fields['agent'] ?? {})).toMatch(/^The agent that does/);
  });

  it('opens lists, alternatives and what is put together', () => {
    const knobs = fieldsOf(DOCUMENT, ref('HostRow')).find((field) => field.name === 'knobs');
    expect(partsOf(DOCUMENT, knobs?.schema ?? {}).length).toBe(1);
    expect(partsOf(DOCUMENT, ref('SqlAnswer')).length).toBe(2);
    const names = fieldsOf(DOCUMENT, ref('LimitScore')).map((field) => field.name);
    expect(names).toEqual(expect.arrayContaining(['host', 'slack']));
    expect(partsOf(DOCUMENT, { type: 'string' })).toEqual([]);
  });

  it('has commands that can be pasted', () => {
    expect(curlOf(DOCUMENT, find('status'), 'http://h', false)).toBe(`curl -s 'http://h/api/v1/status'`);
    expect(curlOf(DOCUMENT, find('set_mode'), 'http://h', true)).toBe(
      `curl -s -X POST 'http://h/api/v1/rules/NAME/mode' \\\n  -H 'authorization: Bearer TOKEN' \\\n` +
        `  -H 'content-type: application/json' \\\n  -d '{"mode":"shadow"}'`,
    );
    expect(curlOf(DOCUMENT, find('preview_push'), 'http://h', false)).toContain('?protocol=influx');
    expect(curlOf(DOCUMENT, find('health'), 'http://h', true)).not.toContain('TOKEN');
    expect(curlOf(DOCUMENT, find('prometheus'), 'http://h', false)).toContain('--data-binary @FILE');
    expect(curlOf(DOCUMENT, find('stream'), 'http://h', false)).toContain('-sN');
  });

  it('makes an example of every body', () => {
    for (const entry of GROUPS.flatMap((group) => group.entries)) {
      for (const { schema, type } of entry.body?.forms ?? []) {
        if (schema === null || type !== 'application/json') continue;
        const example = exampleOf(DOCUMENT, schema);
        expect(typeof example, `${entry.id}: ${JSON.stringify(example)}`).toBe('object');
        expect(resolved(DOCUMENT, schema).schema).toBeDefined();
      }
    }
  });
});
