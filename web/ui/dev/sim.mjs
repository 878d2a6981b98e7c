// A made-up fleet for developing the dashboard without a server: demand that changes, limits that follow it.
// The same seed and time give the same fleet.

export const MIB = 1024 * 1024;
const HISTORY_S = 2 * 3600;
/** Containers times seconds that are kept, so that a large fleet has a shorter past. */
const MOST_POINTS = 200_000;
const BOUNDARY = 0.1;

function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const KINDS = [
  ['web-1', 'shop', 'docker', 0.6, 220],
  ['web-2', 'shop', 'docker', 0.5, 210],
  ['web-3', 'shop', 'docker', 0.7, 230],
  ['cart', 'shop', 'docker', 0.25, 130],
  ['checkout', 'shop', 'docker', 0.35, 160],
  ['postgres-main', 'data', 'podman', 1.1, 900],
  ['redis', 'data', 'podman', 0.18, 300],
  ['kafka-0', 'data', 'podman', 0.8, 1200],
  ['etl-nightly', 'batch', 'lxc', 1.6, 700],
  ['spark-worker-1', 'batch', 'lxc', 1.9, 1500],
  ['spark-worker-2', 'batch', 'lxc', 1.7, 1400],
  ['thumbnailer', 'batch', 'docker', 0.9, 380],
  ['metrics-agent', '', 'systemd', 0.06, 48],
  ['backup.service', '', 'systemd', 0.12, 64],
];

/** `own` is the server itself, the others have agents; the last one has fallen silent. */
export const HOSTS = [
  { name: 'node0', cpu: 16, memory: 64 * 1024 * MIB, own: true },
  { name: 'node1', cpu: 8, memory: 16 * 1024 * MIB, agent: { version: '0.1.0' } },
  { name: 'node2', cpu: 4, memory: 8 * 1024 * MIB, agent: { version: '0.0.9', behind: 14 }, knobs: true },
  { name: 'node3', cpu: 8, memory: 32 * 1024 * MIB, agent: { version: '0.1.0' }, silentSince: 95_000 },
];
/** Hosts that are heard of. */
const HEARD = HOSTS.filter((host) => host.silentSince === undefined);

export class Sim {
  constructor(now, seed = 7, copies = 1) {
    const all = Array.from({ length: copies }, (_, copy) =>
      KINDS.map(([name, ...rest]) => [copy === 0 ? name : `${name}-${copy}`, ...rest]),
    ).flat();
    this.history = Math.min(HISTORY_S, Math.floor(MOST_POINTS / all.length));
    this.random = random(seed);
    this.host = 'node0';
    this.containers = all.map(([name, app, runtime, cpu, mem], at) => ({
      name,
      app,
      runtime,
      at,
      host: HEARD[[0, 0, 1, 0, 2][at % 5]].name,
      base: { cpu, memory: mem * MIB },
      limit: { cpu: Math.max(0.1, cpu * 1.25), memory: mem * 1.3 * MIB },
      phase: this.random() * 600,
      period: 180 + this.random() * 400,
      noise: 0,
      oom: 0,
      lastChange: { cpu: 0, memory: 0 },
      series: [],
    }));
    this.decisions = [];
    this.listeners = new Set();
    this.t = Math.floor(now / 1000) * 1000 - this.history * 1000;
    this.start = this.t;
    while (this.t < now - 1000) this.step();
  }

  demand(c, resource) {
    const s = this.t / 1000;
    const wave = 0.55 + 0.35 * Math.sin(((s + c.phase) / c.period) * 2 * Math.PI);
    c.noise = c.noise * 0.9 + (this.random() - 0.5) * 0.12;
    const burst = c.at % 5 === 0 && (s + c.phase) % 420 < 40 ? 0.9 : 0;
    if (resource === 'cpu') return Math.max(0.01, c.base.cpu * (wave + c.noise + burst));
    const leak = c.at % 14 === 11 ? (((s + c.phase) % 900) / 900) * 0.6 : 0;
    return c.base.memory * (0.75 + 0.15 * wave + c.noise * 0.12 + leak);
  }

  step() {
    this.t += 1000;
    for (const c of this.containers) {
      const cpu = this.demand(c, 'cpu');
      const mem = this.demand(c, 'memory');
      const throttled = cpu > c.limit.cpu ? Math.min(0.9, (cpu / c.limit.cpu - 1) * 1.2 + 0.02) : 0;
      let killed = 0;
      if (mem > c.limit.memory && c.at % 14 === 11) {
        killed = 1;
        c.oom += 1;
        c.phase = -this.t / 1000;
      }
      c.series.push([
        this.t,
        Math.min(cpu, c.limit.cpu),
        c.limit.cpu,
        Math.min(mem, c.limit.memory),
        c.limit.memory,
        throttled,
        killed,
      ]);
      if (c.series.length > this.history + 600) c.series.shift();
      if (c.at % 14 !== 11) this.rule(c, 'cpu', 1, 2, 0.1, 4);
      if (c.at % 14 !== 11 && c.at % 14 !== 12) this.rule(c, 'memory', 3, 4, 24 * MIB, 4096 * MIB);
      else this.shadow(c);
    }
    for (const listener of this.listeners) listener(this.t);
  }

  recent(c, column, seconds = 60) {
    const values = c.series.slice(-seconds).map((point) => point[column]);
    return { avg: values.reduce((a, b) => a + b, 0) / values.length, max: Math.max(...values) };
  }

  rule(c, resource, column, _limitColumn, min, max) {
    const limit = c.limit[resource];
    const { avg, max: peak } = this.recent(c, column, 60);
    const upper = limit * (1 - BOUNDARY);
    const since = (this.t - c.lastChange[resource]) / 1000;
    if (peak > upper && since > 8)
      this.decide(
        c,
        resource,
        resource === 'cpu' ? 'cpu_headroom' : 'memory_headroom',
        peak * 1.25,
        avg,
        peak,
        min,
        max,
        'peak of the last minute plus 25 %',
      );
    else if (peak < limit * 0.55 && since > 90)
      this.decide(c, resource, 'give_back', peak * 1.3, avg, peak, min, max, 'the last minute needed much less');
  }

  shadow(c) {
    if ((this.t / 1000) % 240 !== c.at) return;
    const { avg, max: peak } = this.recent(c, 1, 60);
    this.decide(c, 'cpu', 'night_saver', peak * 1.1, avg, peak, 0.05, 4, 'night hours', 'shadow');
  }

  decide(c, resource, rule, proposed, avg, peak, min, max, reason, mode = 'on') {
    const before = c.limit[resource];
    const guards = [];
    let target = proposed;
    const floor = before * 0.85;
    if (target < floor) {
      guards.push({
        guard: 'step',
        action: 'changed',
        before: target,
        after: floor,
        why: `a cut of more than 15 % at once is not allowed: ${(before * 0.85).toPrecision(3)}`,
      });
      target = floor;
    }
    if (target > max) {
      guards.push({
        guard: 'bounds',
        action: 'changed',
        before: target,
        after: max,
        why: `above the highest limit allowed`,
      });
      target = max;
    }
    if (target < min) {
      guards.push({
        guard: 'bounds',
        action: 'changed',
        before: target,
        after: min,
        why: `below the lowest limit allowed`,
      });
      target = min;
    }
    if (Math.abs(target - before) < before * 0.01) return;
    const refused = mode === 'on' && this.decisions.length % 17 === 5;
    if (refused)
      guards.push({
        guard: 'cooldown',
        action: 'refused',
        before: target,
        after: target,
        why: 'the last change is 4 s old, the rule waits 10 s',
      });
    c.lastChange[resource] = this.t;
    const status = refused ? 'refused' : mode === 'shadow' ? 'shadow' : 'applied';
    if (status === 'applied') c.limit[resource] = target;
    const file = resource === 'cpu' ? 'cpu.max' : 'memory.max';
    const path = `/sys/fs/cgroup${pathOf(c)}/${file}`;
    const value = resource === 'cpu' ? `${Math.round(target * 100000)} 100000` : String(Math.round(target));
    const decision = {
      id: `${rule}-${this.t / 1000}-${c.at}-${resource}`,
      time: this.t,
      rule,
      version: 3,
      container: { host: c.host, name: c.name },
      resource,
      limit_before: before,
      proposed,
      decided: refused ? null : target,
      guards,
      reason,
      mode,
      inputs: {
        usage: peak * 0.97,
        usage_avg: avg,
        usage_max: peak,
        allocated: before,
        upper: before * 0.9,
        lower: before * 0.8,
        min,
        max,
        samples: 60,
        age: 0.4,
        throttled: this.recent(c, 5, 10).avg,
        host_free: resource === 'cpu' ? 3.2 : 5 * 1024 * MIB,
      },
      outcome: {
        status,
        limit_after: status === 'applied' ? target : before,
        writes: status === 'applied' ? [{ target: path, value }] : [],
        message: refused ? guards.at(-1).why : '',
        at: this.t + 1,
        took_us: 380 + ((this.t / 1000) % 200),
      },
    };
    decision.sentence = sentenceOf(decision);
    this.decisions.unshift(decision);
    if (this.decisions.length > 2000) this.decisions.pop();
    this.onDecision?.(decision);
  }
}

export const pathOf = (c) =>
  c.runtime === 'docker'
    ? `/docker/${c.name}`
    : c.runtime === 'systemd'
      ? `/system.slice/${c.name}`
      : `/machine.slice/${c.runtime}-${c.name}.scope`;

const show = (resource, value) =>
  resource === 'cpu' ? `${value.toFixed(2)} cores` : `${(value / MIB).toFixed(1)} MiB`;

function sentenceOf(d) {
  const to = d.decided ?? d.proposed;
  const verb =
    d.outcome.status === 'applied'
      ? to > d.limit_before
        ? 'Raised'
        : 'Lowered'
      : d.outcome.status === 'shadow'
        ? 'Would have set'
        : 'Refused to set';
  return `${verb} the ${d.resource} limit of ${d.container.name} from ${show(d.resource, d.limit_before)} to ${show(d.resource, to)}, because the highest usage of the last minute, ${show(d.resource, d.inputs.usage_max)}, asked for it: ${d.reason}.`;
}
