import { describe, expect, it } from 'vitest';
import { metricSql, seenOf } from './seen';
import { PROTOCOLS, PROTOCOL_NAMES, lineRange, protocolOf, tagText } from './send';

const SERVER = 'https://tide.example/gate';

describe('snippets', () => {
  it('name this server, and a token only where one is needed', () => {
    expect(PROTOCOLS.map((protocol) => protocol.name)).toEqual([...PROTOCOL_NAMES]);
    for (const protocol of PROTOCOLS) {
      expect(protocol.routes.length).toBeGreaterThan(0);
      for (const snippet of protocol.snippets(SERVER, false)) {
        expect(snippet.text).toContain(SERVER);
        expect(snippet.text).not.toMatch(/TIDEGATE_TOKEN|credentials|bearer/i);
      }
      for (const snippet of protocol.snippets(SERVER, true)) expect(snippet.text).toMatch(/token/i);
    }
  });

  it('start from a body of the present', () => {
    const now = 1_800_000_000_500;
    const points = (name: string) => JSON.parse(protocolOf(name).example(now)) as { timestamp: number }[];
    expect(points('opentsdb')[0]?.timestamp).toBe(1_800_000_000);
    expect(points('monasca')[0]?.timestamp).toBe(now);
    expect(protocolOf('influx').example(now).split('\n')[0]).toMatch(/ 1800000000$/);
    expect(protocolOf('nothing').name).toBe('influx');
  });
});

describe('the preview', () => {
  it('finds the line that an error is about', () => {
    const text = 'ab\n\ncde';
    expect([1, 2, 3, 9, 0].map((line) => text.slice(...lineRange(text, line)))).toEqual(['ab', '', 'cde', 'cde', 'ab']);
  });

  it('writes tags as a query would', () => {
    expect(tagText({ host: 'a', app: 'b c' })).toBe('host=a app=b c');
  });
});

describe('what was seen', () => {
  const columns = ['metric', 'samples', 'series', 'newest'].map((name) => ({ name, type: 'text' }));

  it('is a rate for each metric', () => {
    const rows = [
      ['queue.depth', 25, 3, '2026-11-28T04:42:34.000Z'],
      ['tidegate.usage', 10, 1, null],
    ];
    const seen = seenOf({ columns, rows, truncated: false, took_ms: 1 });
    expect(seen.map((one) => [one.metric, one.rate, one.series, one.own])).toEqual([
      ['queue.depth', 2.5, 3, false],
      ['tidegate.usage', 1, 1, true],
    ]);
    expect(seen[0]?.newest).toBe(Date.UTC(2026, 10, 28, 4, 42, 34));
    expect(seen[1]?.newest).toBeNull();
    expect(seenOf({ columns: [], rows: [[1]], truncated: false, took_ms: 1 })).toEqual([]);
  });

  it('leads to a query that no name can break', () => {
    expect(metricSql('a"b')).toContain('FROM metric."a""b"\n');
  });
});
