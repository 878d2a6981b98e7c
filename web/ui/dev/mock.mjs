// A server for developing the dashboard and for its journeys: the built files and a made-up API, node alone.
//   node dev/mock.mjs            PORT (8499), TOKEN (asks for it), SIMULATED=0 (no badge), COPIES (times 14 containers), DIST, PREFIX (such as /tide/), EMPTY=1
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beside } from './beside.mjs';
import { Experiments, report } from './report.mjs';
import { groups } from './groups.mjs';
import { HOSTS, MIB, Sim, pathOf } from './sim.mjs';
import { answer, check, FUNCTIONS, TABLES } from './sql.mjs';

const PORT = Number(process.env.PORT ?? 8499);
const DIST = process.env.DIST ?? fileURLToPath(new URL('../../dist', import.meta.url));
const OPENAPI = fileURLToPath(new URL('../../../docs/openapi.json', import.meta.url));
const TOKEN = process.env.TOKEN ?? '';
const PREFIX = process.env.PREFIX ?? '/';
/** Nothing is known yet, to look at what pages say then. */
const EMPTY = process.env.EMPTY === '1';
const CSP = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'";
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};

const started = Date.now();
const sim = new Sim(started, 7, Number(process.env.COPIES ?? 1));
const experiments = new Experiments(started, EMPTY);
const clients = new Set();
let frozen = null;
const ruleSql = (name, mode, where) =>
  `CREATE RULE ${name}\nWITH (every = '1s', class = 'protect', mode = '${mode}', cooldown_down = '60s')\nAS\nSELECT host, container, resource,\n       usage_max * 1.25 AS target,\n       'peak of the last minute plus 25 %' AS reason\nFROM recent(INTERVAL '60 seconds')\nWHERE ${where}`;
const rules = new Map(
  [
    ['cpu_headroom', 'on', "resource = 'cpu' AND usage_max > upper", null],
    ['memory_headroom', 'on', "resource = 'memory' AND usage_max > upper", null],
    ['give_back', 'on', 'usage_max < lower', null],
    ['night_saver', 'shadow', "resource = 'cpu' AND usage_p95 < lower", null],
    [
      'burst_guard',
      'off',
      "app = 'shop' AND throttled > 0.05",
      "schema error: no field named 'throtled' at the last reload",
    ],
  ].map(([name, mode, where, error], at) => {
    const sql = ruleSql(name, mode, where);
    return [
      name,
      {
        name,
        sql,
        query: sql.split('\nAS\n')[1],
        version: 3,
        mode,
        class: at === 2 ? 'save' : 'protect',
        every_ms: at === 3 ? 5000 : 1000,
        options: {},
        created_by: 'default pack',
        updated_at: started - 3_600_000,
        last_error: error,
      },
    ];
  }),
);

const PACKS = [
  ['headroom', 'Limits that follow the peak of the last minute.', ['cpu_headroom', 'memory_headroom']],
  [
    'night',
    'Saves what nobody needs at night, and asks for it back in the morning before anybody does.',
    ['night_saver', 'morning_call'],
  ],
  ['serverless', 'What starts and ends within seconds gets what it took the last time.', ['cold_start']],
].map(([name, summary, names]) => ({
  name,
  summary,
  rules: names,
  sql: names
    .map((rule) => rules.get(rule)?.sql ?? ruleSql(rule, 'shadow', "resource = 'cpu'"))
    .map((sql) => sql.replace('CREATE', 'CREATE OR REPLACE'))
    .join(';\n\n'),
}));

const ruleRow = (rule) => ({
  note: null,
  ...rule,
  last_run: rule.mode === 'off' ? null : sim.t,
  last_latency_ms: rule.mode === 'off' ? null : 3.1 + (rule.name.length % 4) + ((sim.t / 1000) % 10) / 10,
  last_rows: rule.mode === 'off' ? null : (sim.t / 1000 + rule.name.length) % 4,
});

const counts = (requests, each) => ({
  requests,
  failed_requests: 0,
  bytes: requests * each * 60,
  accepted: requests * each,
  rejected: Math.floor(requests / 50),
  skipped: 0,
});

const status = () => ({
  version: '0.1.0',
  host: sim.host,
  frozen,
  simulated: process.env.SIMULATED === '0' ? null : 'made-up containers, nothing on this machine is changed',
  started,
  uptime_s: (Date.now() - started) / 1000,
  now: sim.t,
  cgroup: 'v2',
  containers: sim.containers.length,
  rules: rules.size,
  store: {
    series: 120,
    hot_samples: 90_000,
    segments: 4,
    segment_bytes: 3_000_000,
    wal_bytes: 120_000,
    appended_total: 1_000_000,
    rejected_total: 0,
  },
  ingest_per_s: 1680 + 300 * Math.sin(sim.t / 20_000) + 60 * Math.sin(sim.t / 1700),
  pushed: {
    influx: counts(Math.floor((sim.t - sim.start) / 10_000), 40),
    opentsdb: counts(0, 0),
    monasca: counts(0, 0),
    prometheus: counts(Math.floor((sim.t - sim.start) / 15_000), 900),
  },
  clients: clients.size,
  tick_lag_ms: 1.2,
});

function fleet() {
  const last = sim.containers.map((c) => c.series.at(-1));
  const column = (at) => last.map((point) => point[at]);
  return {
    t: sim.t,
    ids: sim.containers.map((c) => `${c.host}/${c.name}`),
    cpu: column(1),
    cpu_limit: column(2),
    cpu_upper: column(2).map((v) => v * 0.9),
    mem: column(3),
    mem_limit: column(4),
    throttled: column(5),
    oom: sim.containers.map((c) => c.series.slice(-60).reduce((sum, p) => sum + p[6], 0)),
  };
}

function row(c) {
  const [, cpu, cpuLimit, mem, memLimit, throttled] = c.series.at(-1);
  const now = (usage, limit) => ({ usage, limit, upper: limit * 0.9, lower: limit * 0.8, pressure: c.at / 60 });
  return {
    host: c.host,
    name: c.name,
    app: c.app || null,
    user: c.app ? (c.app === 'shop' ? 'alice' : 'bob') : null,
    runtime: c.runtime,
    id: `${c.name}-3f2a9c`,
    path: pathOf(c),
    cgroup: 'v2',
    first_seen: sim.start,
    last_seen: sim.t,
    gone: false,
    baseline: { cpu: null, memory: 2048 * MIB },
    bounds: {
      cpu: c.override?.bounds.cpu ?? { min: 0.1, max: 4 },
      memory: c.override?.bounds.memory ?? { min: 24 * MIB, max: 4096 * MIB },
    },
    override: c.override ?? null,
    cpu: { ...now(cpu, cpuLimit), throttled },
    memory: { ...now(mem, memLimit), oom_kills: c.oom, unreclaimable: mem * 0.7 },
  };
}

function hosts() {
  const rows = HOSTS.map(({ name, cpu, memory, own = false, agent, knobs, silentSince = 0 }) => {
    const heard = silentSince > 0 ? started - silentSince : sim.t;
    return {
      name,
      cpu,
      memory,
      last_seen: heard,
      own,
      agent:
        agent === undefined
          ? null
          : {
              host: name,
              address: `10.0.0.${name.at(-1)}`,
              connected: silentSince === 0,
              since: started - 86_400_000,
              last_frame: heard,
              clock_ahead_ms: -40,
              behind: 0,
              frozen: false,
              ...agent,
            },
      knobs: knobs
        ? [
            { container: 'cart', knob: 'io.max 8:0', status: 'failed', time: sim.t - 40_000 },
            { container: 'redis', knob: 'cpu.weight', status: 'refused', time: sim.t - 400_000 },
          ]
        : [],
    };
  });
  return { now: sim.t, hosts: EMPTY ? [] : rows };
}

/** As much of the decoders as it takes to develop the page: one sample a line, or a point of JSON. */
function previewPush(protocol, text) {
  const [samples, errors] = [[], []];
  const push = (line, metric, tags, value) => samples.push({ line, metric, tags, time: sim.t, value });
  if (protocol === 'influx') {
    text.split('\n').forEach((line, at) => {
      if (line.trim() === '' || line.startsWith('#')) return;
      const [, series, fields] = /^(\S+) (\S+)( \d+)?$/.exec(line.trim()) ?? [];
      const good = fields?.split(',').every((field) => /^[^=]+=[\d.]+i?$/.test(field));
      if (!good) return void errors.push({ line: at + 1, column: null, message: 'field has no value' });
      const [measurement, ...tags] = series.split(',');
      for (const field of fields.split(',')) {
        const [name, value] = field.split('=');
        push(
          at + 1,
          `${measurement}.${name}`,
          Object.fromEntries(tags.map((tag) => tag.split('='))),
          parseFloat(value),
        );
      }
    });
  } else if (protocol !== 'prometheus') {
    try {
      const points = [JSON.parse(text)].flat();
      points.forEach((point, at) =>
        push(at + 2, point.metric ?? point.name, point.tags ?? point.dimensions, point.value),
      );
    } catch (error) {
      errors.push({ line: 1, column: 1, message: String(error.message) });
    }
  }
  const series = new Set(samples.map(({ metric, tags }) => metric + JSON.stringify(tags))).size;
  return { samples, total: samples.length, series, errors, failed: errors.length, skipped: 0 };
}

function series(c, from, to, points) {
  const step = Math.max(1000, Math.ceil((to - from) / points / 1000) * 1000);
  const buckets = new Map();
  for (let t = Math.floor(from / step) * step; t <= to; t += step) buckets.set(t, []);
  for (const point of c.series) buckets.get(Math.floor(point[0] / step) * step)?.push(point);
  const t = [...buckets.keys()];
  const column = (at, reduce) =>
    [...buckets.values()].map((list) => (list.length === 0 ? null : reduce(list.map((point) => point[at]))));
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  const [max, last, sum] = [
    (list) => Math.max(...list),
    (list) => list.at(-1),
    (list) => list.reduce((a, b) => a + b, 0),
  ];
  const scale = (list, by) => list.map((v) => (v === null ? null : v * by));
  const [cpuLimit, memLimit] = [column(2, last), column(4, last)];
  return {
    step_ms: step,
    t,
    cpu: {
      usage: column(1, mean),
      usage_max: column(1, max),
      limit: cpuLimit,
      upper: scale(cpuLimit, 0.9),
      lower: scale(cpuLimit, 0.8),
      throttled: column(5, mean),
    },
    memory: {
      usage: column(3, mean),
      usage_max: column(3, max),
      limit: memLimit,
      upper: scale(memLimit, 0.9),
      lower: scale(memLimit, 0.8),
      oom_kills: column(6, sum),
      unreclaimable: column(3, mean),
    },
  };
}

function explain(d) {
  const c = sim.containers.find((one) => one.name === d.container.name);
  const at = d.resource === 'cpu' ? 1 : 3;
  const after = c.series.filter((p) => p[0] > d.time && p[0] <= d.time + 60_000);
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  return {
    decision: d,
    sentence: d.sentence,
    rule_sql: rules.get(d.rule)?.sql ?? null,
    query_as_of: `SELECT *\nFROM recent(INTERVAL '60 seconds')\nWHERE container = '${d.container.name}' AND resource = '${d.resource}' -- as of ${new Date(d.time).toISOString()}`,
    after:
      after.length < 5
        ? null
        : {
            usage_avg: mean(after.map((p) => p[at])),
            usage_max: Math.max(...after.map((p) => p[at])),
            throttled_avg: mean(after.map((p) => p[5])),
            limit_now: c.limit[d.resource],
          },
  };
}

const SETTINGS = [
  ['agent.hold_after_s', 30],
  ['collect_every_ms', 1000, 'environment'],
  ['data_dir', '/var/lib/tidegate', 'file'],
  ['listen', '0.0.0.0:8642', 'flag'],
  ['actuator.bounds', [{ container: '*', resource: 'cpu', min: 0.05, max: 4 }], 'file'],
  ['actuator.state_dir', '/var/lib/tidegate/actuator', 'derived'],
  ['policy.default_mode', 'shadow'],
  ['store.dir', '/var/lib/tidegate/store', 'derived'],
  ['store.max_bytes', null],
  ['store.page_cache_bytes', 32 * MIB],
  ['store.retention_s', 604_800],
  ['tokens', [{ name: 'ops', rights: ['operate', 'read'], sha256: '•••' }], 'file'],
  ['web.max_sse_clients', 64],
].map(([path, value, origin = 'default']) => ({ path, value, origin }));

const fail = (code, error) => ({ code, body: { error } });
const ok = (body) => ({ code: 200, body });

function preview() {
  return sim.containers.slice(0, 3).map((c, at) => {
    const before = c.limit.cpu;
    const guards =
      at === 1
        ? [
            {
              guard: 'bounds',
              action: 'changed',
              before: 5,
              after: 4,
              why: '5.00 cores is above the bound of 4.00 cores',
            },
          ]
        : [];
    const template = {
      ...(sim.decisions[0] ?? {}),
      container: { host: c.host, name: c.name },
      resource: 'cpu',
      guards,
      mode: 'shadow',
    };
    return {
      ...template,
      id: `preview-${at}`,
      limit_before: before,
      proposed: before * 1.3,
      decided: at === 1 ? 4 : before * 1.3,
      reason: 'peak of the last minute plus 25 %',
      outcome: { status: 'shadow', limit_after: null, writes: [], message: '', at: sim.t, took_us: 0 },
    };
  });
}

/** What was changed of each rule, newest first. */
const pasts = new Map();
function note(rule, change) {
  const { name, version, mode, sql, created_by } = rule;
  const one = { time: Date.now(), rule: name, change, version, mode, changed_by: created_by, sql, note: null };
  pasts.set(name, [one, ...(pasts.get(name) ?? [])]);
}
for (const rule of rules.values()) note(rule, 'created');

function applyStatement(sql) {
  const created = /create\s+(or\s+replace\s+)?rule\s+"?(\w+)"?/i.exec(sql);
  if (!created) return [{ statement: 'ALTER RULE', name: /rule\s+(\w+)/i.exec(sql)?.[1] ?? '', message: 'altered' }];
  const [, replace, name] = created;
  const old = rules.get(name);
  if (old && !replace) return null;
  const mode = /mode\s*=\s*'(\w+)'/i.exec(sql)?.[1] ?? 'shadow';
  rules.set(name, {
    name,
    sql: sql.replace(/or\s+replace\s+/i, ''),
    query: sql.split(/\nAS\n/i)[1] ?? '',
    version: (old?.version ?? 0) + 1,
    mode,
    class: 'protect',
    every_ms: 1000,
    options: {},
    created_by: 'dashboard',
    updated_at: Date.now(),
    last_error: null,
  });
  note(rules.get(name), old ? 'changed' : 'created');
  return [{ statement: 'CREATE RULE', name, message: old ? `replaced, version ${old.version + 1}` : 'created' }];
}

function decisions(query) {
  const wanted = (key, of) => !query.get(key) || query.get(key) === of;
  let list = sim.decisions.filter(
    (d) =>
      wanted('host', d.container.host) &&
      wanted('container', d.container.name) &&
      wanted('rule', d.rule) &&
      wanted('resource', d.resource) &&
      wanted('outcome', d.outcome.status) &&
      d.time >= Number(query.get('from') ?? 0) &&
      d.time <= Number(query.get('to') ?? Infinity),
  );
  if (query.get('before')) list = list.slice(list.findIndex((d) => d.id === query.get('before')) + 1);
  return list.slice(0, Number(query.get('limit') ?? 100));
}

function route(method, path, query, body) {
  const parts = path.split('/').map(decodeURIComponent);
  const container = () => sim.containers.find((c) => c.name === parts[2]);
  const sql = body?.sql ?? '';
  if (path === 'status') return ok(status());
  if (path === 'schema') return ok({ tables: TABLES, functions: FUNCTIONS });
  if (path === 'freeze') {
    frozen = method === 'DELETE' ? null : { since: Date.now(), by: 'local', why: body?.why ?? '' };
    return ok({ freeze: frozen, failed: [] });
  }
  if (path === 'report') {
    const made = report(sim, sim.containers.map(row), query);
    return made ? ok(made) : fail(404, { message: 'there is nobody of that name' });
  }
  if (parts[0] === 'experiments') {
    const answer = experiments.route(method, parts.slice(1), body, Date.now());
    if (answer === null) return fail(404, { message: `there is no experiment '${parts[1]}'` });
    return answer.error ? fail(409, { message: answer.error }) : ok(answer);
  }
  if (path === 'config') return ok({ settings: SETTINGS });
  if (path === 'hosts') return ok(hosts());
  if (parts[0] === 'groups' && EMPTY) return ok({ now: sim.t, groups: [] });
  if (parts[0] === 'groups') return ok(groups(sim, method, parts.slice(1), body));
  if (path === 'containers') return ok({ now: sim.t, containers: sim.containers.map(row) });
  if (parts[0] === 'containers') {
    if (!container()) return fail(404, { message: `there is no container '${parts[1]}/${parts[2]}'` });
    if (parts[3] === 'override') {
      const said = { pinned: [], why: '', changed_by: 'local', changed_at: Date.now(), ...body };
      const bounds = { cpu: null, memory: null, ...body?.bounds };
      container().override = method === 'DELETE' ? null : { ...said, bounds };
    }
    if (parts[3] !== 'series') return ok(row(container()));
    return ok(
      series(container(), Number(query.get('from')), Number(query.get('to')), Number(query.get('points') ?? 600)),
    );
  }
  if (path === 'decisions') return ok({ decisions: decisions(query) });
  if (parts[0] === 'decisions') {
    const found = sim.decisions.find((d) => d.id === parts[1]);
    return found
      ? ok(parts[2] === 'explain' ? explain(found) : found)
      : fail(404, { message: `there is no decision '${parts[1]}'` });
  }
  if (path === 'ingest/preview') return ok(previewPush(query.get('protocol'), sql));
  if (path === 'packs') return ok({ packs: PACKS });
  if (path === 'rules/validate') {
    const error = check(sql);
    return ok(
      error
        ? { ok: false, error }
        : {
            ok: true,
            rule: {
              name: /rule\s+"?(\w+)/i.exec(sql)?.[1] ?? '',
              mode: /mode\s*=\s*'(\w+)'/i.exec(sql)?.[1] ?? 'shadow',
            },
          },
    );
  }
  if (path === 'rules/preview') return check(sql) ? fail(422, check(sql)) : ok({ decisions: preview() });
  if (path === 'rules' && method === 'POST') {
    // A pack is several statements.
    const all = sql.split(/;\s*\n\s*\n/).map(applyStatement);
    const results = all.includes(null) ? null : all.flat();
    return results
      ? ok({ results })
      : fail(409, {
          message: 'the rule exists already',
          help: 'write CREATE OR REPLACE RULE to change it',
          line: 1,
          column: 1,
        });
  }
  if (path === 'rules') return ok({ rules: [...rules.values()].map(ruleRow) });
  if (parts[0] === 'rules') {
    const rule = rules.get(parts[1]);
    if (!rule) return fail(404, { message: `there is no rule '${parts[1]}'` });
    if (parts[2] === 'changes') return ok({ changes: pasts.get(rule.name) ?? [] });
    if (parts[2] === 'mode') {
      Object.assign(rule, { mode: body.mode, sql: rule.sql.replace(/mode = '[^']*'/, `mode = '${body.mode}'`) });
      note(rule, 'mode');
    }
    if (method === 'DELETE') rules.delete(parts[1]);
    return ok(ruleRow(rule));
  }
  if (path === 'sql') {
    if (/^\s*(create|alter|drop|show)\s+(or\s+replace\s+)?rule/i.test(sql))
      return ok({ results: applyStatement(sql) ?? [] });
    const known = beside(sql, sim);
    if (known !== null) return ok(known);
    const error = check(sql);
    return error ? fail(400, error) : ok(answer(sql, sim, body?.limit ?? 1000));
  }
  return fail(404, { message: `there is no ${method} /api/v1/${path}` });
}

function stream(request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  response.write('retry: 2000\n\n');
  const send = (event, data, id) =>
    response.write(`event: ${event}\n${id ? `id: ${id}\n` : ''}data: ${JSON.stringify(data)}\n\n`);
  const client = { send };
  clients.add(client);
  send('status', status());
  send('fleet', fleet());
  request.on('close', () => clients.delete(client));
}

function file(path, response) {
  const clean = normalize(path).replace(/^(\.\.[/\\])+/, '');
  let at = join(DIST, clean === '/' ? 'index.html' : clean);
  if (!existsSync(at) || statSync(at).isDirectory()) {
    if (extname(clean)) return void response.writeHead(404).end('no such file');
    at = join(DIST, 'index.html');
  }
  response.writeHead(200, {
    'content-type': TYPES[extname(at)] ?? 'application/octet-stream',
    'content-security-policy': CSP,
    'cache-control': 'no-cache',
  });
  createReadStream(at).pipe(response);
}

async function bodyOf(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  if (text === '') return null;
  return (request.headers['content-type'] ?? '').includes('json') ? JSON.parse(text) : { sql: text };
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://mock');
  if (!url.pathname.startsWith(PREFIX)) return void response.writeHead(404).end('outside the prefix');
  const path = `/${url.pathname.slice(PREFIX.length)}`;
  if (path === '/api/openapi.json') {
    response.writeHead(200, { 'content-type': 'application/json' });
    return void createReadStream(OPENAPI).pipe(response);
  }
  if (!path.startsWith('/api/v1/')) return file(path, response);
  const reply = ({ code, body }, headers = {}) =>
    response.writeHead(code, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  const name = path.slice('/api/v1/'.length);
  try {
    const body = await bodyOf(request);
    if (name === 'login') {
      return body?.token === TOKEN
        ? reply(ok({}), { 'set-cookie': `tidegate_token=${TOKEN}; HttpOnly; SameSite=Strict; Path=/` })
        : reply(fail(401, { message: 'this token is not known' }));
    }
    if (TOKEN && !(request.headers.cookie ?? '').includes(`tidegate_token=${TOKEN}`))
      return reply(fail(401, { message: 'a token is needed' }));
    if (name === 'stream') return stream(request, response);
    reply(route(request.method, name, url.searchParams, body));
  } catch (error) {
    reply(fail(500, { message: String(error) }));
  }
});

sim.onDecision = (decision) => clients.forEach((client) => client.send('decision', decision, decision.id));
sim.listeners.add(() => clients.forEach((client) => client.send('fleet', fleet())));
setInterval(() => {
  while (sim.t + 1000 <= Date.now()) sim.step();
}, 1000);
setInterval(() => clients.forEach((client) => client.send('status', status())), 5000);
server.listen(PORT, '127.0.0.1', () => console.log(`mock of Tidegate at http://127.0.0.1:${PORT}${PREFIX}`));
