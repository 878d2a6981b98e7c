// The mock's reports and experiments: as much arithmetic as it takes to develop their pages.

const POINT = { cpu: [1, 2], memory: [3, 4] };

/** One point a second, so that an integral is a sum. */
function figures(lists, resource, decisions, throttledAt) {
  const [usedAt, allocatedAt] = POINT[resource];
  const all = lists.flat();
  const sum = (at) => all.reduce((total, point) => total + point[at], 0);
  const seconds = new Set(all.map(([t]) => t)).size;
  const [used, allocated] = [sum(usedAt), sum(allocatedAt)];
  const changes = decisions.filter((d) => d.resource === resource && d.outcome.status === 'applied');
  const sums = new Map();
  for (const point of all) sums.set(point[0], (sums.get(point[0]) ?? 0) + point[usedAt]);
  const known = all.length > 0;
  return {
    unit: resource === 'cpu' ? 'cores' : 'bytes',
    used,
    allocated: known ? allocated : null,
    reserved: known ? all.length * (resource === 'cpu' ? 4 : 2 ** 31) : null,
    reserved_by: known ? (resource === 'cpu' ? 'bounds' : 'host_share') : null,
    utilisation: known ? used / allocated : null,
    average: known ? used / seconds : null,
    average_allocated: known ? allocated / seconds : null,
    maximum: known ? Math.max(...sums.values()) : null,
    time_s: all.length,
    covered_s: seconds,
    limited_s: all.length,
    at_limit_s: all.filter((point) => point[usedAt] >= point[allocatedAt] * 0.99).length,
    throttled_s: resource === 'cpu' && known ? sum(throttledAt) : null,
    oom_kills: resource === 'memory' && known ? sum(6) : null,
    changes: changes.length,
    raised: changes.filter((d) => d.decided > d.limit_before).length,
    samples: all.length,
    gaps: 0,
  };
}

export function report(sim, rows, query) {
  const kind = ['container', 'app', 'user'].find((one) => query.get(one) !== null);
  const name = query.get(kind);
  const [from, to] = [Number(query.get('from')), Number(query.get('to'))];
  const of = { container: (row) => `${row.host}/${row.name}`, app: (row) => row.app, user: (row) => row.user }[kind];
  const members = sim.containers.filter((_, at) => of(rows[at]) === name);
  if (members.length === 0) return null;
  const lists = members.map((c) => c.series.filter(([t]) => t >= from && t < to));
  const decided = (c) => sim.decisions.filter((d) => d.container.name === c.name && d.time >= from && d.time < to);
  const step = Math.max(1000, Math.ceil((to - from) / Number(query.get('points') ?? 600) / 1000) * 1000);
  const t = [];
  for (let at = Math.floor(from / step) * step; at < to; at += step) t.push(at);
  const bucketed = (column) => {
    const [sums, seconds] = [new Map(), new Map()];
    for (const point of lists.flat()) {
      const at = Math.floor(point[0] / step) * step;
      sums.set(at, (sums.get(at) ?? 0) + point[column]);
      seconds.set(at, (seconds.get(at) ?? new Set()).add(point[0]));
    }
    return t.map((at) => (sums.has(at) ? sums.get(at) / seconds.get(at).size : null));
  };
  const both = (lists, decisions) => ({
    cpu: figures(lists, 'cpu', decisions, 5),
    memory: figures(lists, 'memory', decisions, 5),
  });
  return {
    now: sim.t,
    kind,
    name,
    from,
    to,
    total: { ...both(lists, members.flatMap(decided)), energy: null },
    containers: members.map((c, at) => ({ host: c.host, name: c.name, ...both([lists[at]], decided(c)) })),
    step_ms: step,
    t,
    series: Object.fromEntries(
      Object.entries(POINT).map(([resource, [used, allocated]]) => [
        resource,
        { used: bucketed(used), allocated: bucketed(allocated) },
      ]),
    ),
    took_ms: 12,
  };
}

/** Answers what the routes below `experiments` do; `null` for what there is none of. */
export class Experiments {
  constructor(now, empty) {
    const stretch = (name, start, end, tags = {}) => ({ name, start, end, info: '', tags });
    const of = (one, tests) => ({ ...one, user: 'alice', tests, changed_by: 'alice', changed_at: now });
    this.all = empty
      ? []
      : [
          of(stretch('terasort 1 TB', now - 1_500_000, null, { size: '1 TB', nodes: '4' }), [
            stretch('generate', now - 1_480_000, now - 1_100_000),
            stretch('sort', now - 1_080_000, null, { run: '2' }),
          ]),
          of(stretch('page rank', now - 5_400_000, now - 3_600_000, { size: 'small' }), []),
        ];
  }

  route(method, [name, , test], body, now) {
    if (name === undefined && method === 'GET') return { now, experiments: this.all };
    const time = (value, before) => (value === undefined ? before : value === 'now' ? now : value);
    const begun = () => ({
      name: body.name,
      start: time(body.start, now),
      end: time(body.end, null),
      info: body.info ?? '',
      tags: body.tags ?? {},
    });
    if (name === undefined) {
      if (this.all.some((one) => one.name === body.name))
        return { error: `there is an experiment '${body.name}' already` };
      this.all.unshift({ ...begun(), user: 'local', tests: [], changed_by: 'local', changed_at: now });
      return this.all[0];
    }
    const found = this.all.find((one) => one.name === name);
    if (found === undefined) return null;
    const inside = found.tests.find((one) => one.name === test);
    if (method === 'POST') found.tests.push(begun());
    else if (method === 'PATCH') {
      const changed = inside ?? found;
      const { start, end } = changed;
      Object.assign(changed, body, { start: time(body.start, start), end: time(body.end, end) });
    } else if (inside) found.tests = found.tests.filter((one) => one !== inside);
    else this.all = this.all.filter((one) => one !== found);
    if (method === 'PATCH' && !inside && body.end) found.tests.forEach((one) => (one.end ??= found.end));
    return found;
  }
}
