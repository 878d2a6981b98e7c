// As much SQL as the mock needs: it knows the columns' names, and answers a few shapes of queries.
const RESOURCE = [
  ['host', 'text'],
  ['container', 'text'],
  ['app', 'text'],
  ['resource', 'text'],
];
const COLUMNS = {
  usage: [['time', 'timestamp'], ...RESOURCE, ['value', 'double']],
  limits: [
    ['time', 'timestamp'],
    ['host', 'text'],
    ['container', 'text'],
    ['resource', 'text'],
    ['value', 'double'],
  ],
  pressure: [
    ['time', 'timestamp'],
    ['host', 'text'],
    ['container', 'text'],
    ['resource', 'text'],
    ['some_share', 'double'],
    ['full_share', 'double'],
    ['throttled', 'double'],
  ],
  containers: [
    ['host', 'text'],
    ['name', 'text'],
    ['app', 'text'],
    ['runtime', 'text'],
    ['path', 'text'],
  ],
  decisions: [
    ['time', 'timestamp'],
    ['id', 'text'],
    ['rule', 'text'],
    ['version', 'bigint'],
    ['container', 'text'],
    ['resource', 'text'],
    ['limit_before', 'double'],
    ['proposed', 'double'],
    ['decided', 'double'],
    ['reason', 'text'],
    ['mode', 'text'],
    ['outcome', 'text'],
  ],
  rules: [
    ['name', 'text'],
    ['sql', 'text'],
    ['mode', 'text'],
  ],
  recent: [
    ...RESOURCE,
    ['samples', 'bigint'],
    ...[
      'age',
      'usage',
      'usage_avg',
      'usage_max',
      'usage_p50',
      'usage_p95',
      'usage_p99',
      'usage_stddev',
      'usage_slope',
      'allocated',
      'allocated_age',
      'min',
      'max',
      'upper',
      'lower',
      'throttled',
      'throttled_last',
      'pressure',
      'oom_kills',
      'unreclaimable',
      'host_free',
    ].map((n) => [n, 'double']),
  ],
};
export const TABLES = [
  ...Object.entries(COLUMNS).map(([name, columns]) => ({
    schema: 'public',
    name,
    columns: columns.map(([n, type]) => ({ name: n, type })),
  })),
  ...['proc.cpu.user', 'proc.mem.resident', 'tidegate.cpu.usage'].map((name) => ({
    schema: 'metric',
    name,
    columns: [
      ['time', 'timestamp'],
      ['host', 'text'],
      ['container', 'text'],
      ['value', 'double'],
    ].map(([n, type]) => ({ name: n, type })),
  })),
];
export const FUNCTIONS = [
  { name: 'avg', signature: 'avg(Float64)', doc: 'the mean' },
  { name: 'max', signature: 'max(any)', doc: 'the largest' },
  { name: 'greatest', signature: 'greatest(any, ...)', doc: 'the largest of its arguments' },
  { name: 'date_bin', signature: 'date_bin(interval, time)', doc: 'the bucket a time falls into' },
  { name: 'now', signature: 'now()', doc: 'the tick' },
];
const WORDS = new Set(
  (
    'select from where group by order having limit as and or not in is null between like case when then else end join left on using union all distinct with ' +
    'interval desc asc samples metric tags newest series over partition explain cast create replace rule every class mode cooldown_down cooldown_up step_down step_up true false bigint t v bin cores ' +
    'target reason min max count sum avg greatest least coalesce date_bin now recent abs round p metric'
  ).split(' '),
);
const known = new Set([
  ...WORDS,
  ...Object.keys(COLUMNS),
  ...Object.values(COLUMNS)
    .flat()
    .map(([name]) => name),
]);

/** The first name that is neither a column nor a word, with its place; or what is missing. */
export function check(sql) {
  const blank = sql.replace(/'(?:[^']|'')*'|"[^"]*"|--[^\n]*/g, (text) => text.replace(/[^\n]/g, ' '));
  const named = /\brule\s+(\w+)/i.exec(blank)?.[1];
  if (!/\b(select|with|explain)\b/i.test(blank))
    return { message: 'sql parser error: expected SELECT', line: 1, column: 1 };
  for (const found of blank.matchAll(/[a-z_]\w*/gi)) {
    const word = found[0];
    if (
      known.has(word.toLowerCase()) ||
      word === named ||
      /\.$/.test(blank.slice(0, found.index)) ||
      new RegExp(`\\bas\\s+${word}\\b`, 'i').test(blank)
    )
      continue;
    const before = sql.slice(0, found.index).split('\n');
    const [line, column] = [before.length, before.at(-1).length + 1];
    const near = [...known].find(
      (one) => one[0] === word[0] && Math.abs(one.length - word.length) <= 1 && one.length > 3,
    );
    return {
      message: `schema error: no field named ${word}`,
      line,
      column,
      endLine: line,
      endColumn: column + word.length,
      ...(near ? { help: `did you mean '${near}'?` } : {}),
    };
  }
  return null;
}

const iso = (ms) => new Date(ms).toISOString();
const typed = (columns) => columns.map(([name, type]) => ({ name, type }));

function binned(sim, seconds, step, pick, wanted) {
  const rows = [];
  for (const c of sim.containers) {
    const bins = new Map();
    for (const point of c.series.slice(-seconds)) {
      const bin = Math.floor(point[0] / step) * step;
      bins.set(bin, [...(bins.get(bin) ?? []), point]);
    }
    for (const [bin, points] of bins) {
      for (const [resource, at] of Object.entries(pick)) {
        if (wanted(resource))
          rows.push([bin, c.host, c.name, resource, points.reduce((sum, p) => sum + p[at], 0) / points.length]);
      }
    }
  }
  return rows.sort((a, b) => a[0] - b[0]);
}

function recent(sim, sql) {
  const only = (column) => new RegExp(`${column}\\s*=\\s*'([^']+)'`, 'i').exec(sql)?.[1];
  const rows = [];
  for (const c of sim.containers) {
    for (const [resource, at] of [
      ['cpu', 1],
      ['memory', 3],
    ]) {
      if ((only('container') ?? c.name) !== c.name || (only('resource') ?? resource) !== resource) continue;
      const { avg, max } = sim.recent(c, at);
      const limit = c.limit[resource];
      const value = (n) => (resource === 'cpu' ? n : Math.round(n));
      rows.push([
        c.host,
        c.name,
        c.app || null,
        resource,
        60,
        0.4,
        ...[c.series.at(-1)[at], avg, max, avg, max * 0.98, max, avg * 0.1, 0, limit].map(value),
        12.0,
        ...[limit * 0.2, limit * 4, limit * 0.9, limit * 0.8].map(value),
        sim.recent(c, 5).avg,
        c.series.at(-1)[5],
        0.01,
        c.oom,
        null,
        4,
      ]);
    }
  }
  return { columns: typed(COLUMNS.recent), rows };
}

export function answer(sql, sim, limit) {
  const from = /\bfrom\s+(\w+)/i.exec(sql)?.[1]?.toLowerCase();
  const resource = /resource\s*=\s*'(\w+)'/i.exec(sql)?.[1];
  const wanted = (one) => !resource || one === resource;
  let result;
  if (from === 'recent') result = recent(sim, sql);
  else if (from === 'usage' || from === 'limits' || from === 'pressure') {
    const pick = from === 'usage' ? { cpu: 1, memory: 3 } : from === 'limits' ? { cpu: 2, memory: 4 } : { cpu: 5 };
    const short = /'5 minutes'/.test(sql);
    const rows = binned(sim, short ? 300 : 900, short ? 5000 : 10_000, pick, wanted);
    result = short
      ? {
          columns: typed([
            ['bin', 'timestamp'],
            ['host', 'text'],
            ['container', 'text'],
            ['resource', 'text'],
            ['v', 'double'],
          ]),
          rows: rows.map(([t, ...rest]) => [iso(t), ...rest]),
        }
      : {
          columns: typed([
            ['t', 'timestamp'],
            ['container', 'text'],
            ['cores', 'double'],
          ]),
          rows: rows.map(([t, , name, , v]) => [iso(t), name, v]),
        };
  } else if (from === 'decisions') {
    result = {
      columns: typed(COLUMNS.decisions),
      rows: sim.decisions
        .slice(0, 200)
        .map((d) => [
          iso(d.time),
          d.id,
          d.rule,
          d.version,
          d.container.name,
          d.resource,
          d.limit_before,
          d.proposed,
          d.decided,
          d.reason,
          d.mode,
          d.outcome.status,
        ]),
    };
  } else if (from === 'samples') {
    const metrics = [
      ['tidegate.usage', 280, 28],
      ['tidegate.limit', 280, 28],
      ['node_cpu_seconds_total', 96, 144],
      ['queue.depth', 20, 2],
      ['http.requests', 10, 1],
    ];
    result = {
      columns: typed([
        ['metric', 'text'],
        ['samples', 'bigint'],
        ['series', 'bigint'],
        ['newest', 'timestamp'],
      ]),
      rows: metrics.map((row) => [...row, iso(sim.t)]),
    };
  } else if (from === 'containers') {
    result = {
      columns: typed(COLUMNS.containers),
      rows: sim.containers.map((c) => [c.host, c.name, c.app || null, c.runtime, `/docker/${c.name}`]),
    };
  } else {
    result = { columns: typed([['Int64(1)', 'bigint']]), rows: [[1]] };
  }
  return { ...result, rows: result.rows.slice(0, limit), truncated: result.rows.length > limit, took_ms: 2.4 };
}
