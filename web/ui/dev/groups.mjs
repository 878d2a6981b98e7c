// Apps and users of the made-up fleet, with bounds that can be set.
const bounds = new Map();

const ownerOf = (app) => (app === 'shop' ? 'alice' : 'bob');

function rowOf(sim, kind, name, resource) {
  const members = sim.containers.filter((c) => c.app && (kind === 'app' ? c.app === name : ownerOf(c.app) === name));
  const [used, limit] = resource === 'cpu' ? [1, 2] : [3, 4];
  const sum = (at) => members.reduce((total, c) => total + c.series.at(-1)[at], 0);
  const allocated = sum(limit);
  return {
    kind,
    name,
    user_name: kind === 'app' ? ownerOf(name) : name,
    resource,
    missing: null,
    members: members.length,
    members_reporting: members.length,
    members_limited: members.length,
    samples: 60,
    partial: 0,
    age: 0.4,
    step: 1,
    usage: sum(used),
    usage_avg: sum(used),
    usage_max: sum(used),
    allocated,
    min: null,
    max: null,
    upper: allocated * 0.9,
    lower: allocated * 0.8,
    ...bounds.get(`${kind}/${name}/${resource}`),
  };
}

/** `rest` is what follows `groups` in the path. */
export function groups(sim, method, [kind, name], body) {
  if (method === 'POST')
    bounds.set(`${kind}/${name}/${body.resource}`, { min: body.min ?? null, max: body.max ?? null });
  const apps = [...new Set(sim.containers.map((c) => c.app).filter(Boolean))];
  const all = [...apps.map((app) => ['app', app]), ...['alice', 'bob'].map((user) => ['user', user])];
  return {
    now: sim.t,
    groups: all
      .filter((one) => kind === undefined || (one[0] === kind && one[1] === name))
      .flatMap((one) => ['cpu', 'memory'].map((resource) => rowOf(sim, ...one, resource))),
  };
}
