// What a container's page asks SQL for, answered for the made-up fleet: knobs, pressure, events of knobs and who decided.
const iso = (ms) => new Date(ms).toISOString();
const named = (...names) =>
  names.map((name) => ({ name, type: name === 't' || name === 'time' ? 'timestamp' : 'text' }));

/** `null` when it is another query. */
export function beside(sql, sim) {
  // What a rule did on trial.
  if (/split_part\(mode/.test(sql)) {
    const shadow = sim.decisions.filter((d) => sql.includes(`'${d.rule}'`) && d.outcome.status === 'shadow');
    const since = shadow.length === 0 ? [] : [['shadow', 'shadow', shadow.length, 1, 0, iso(shadow.at(-1).time)]];
    return {
      columns: named('mode', 'outcome', 'n', 'containers', 'up', 'since'),
      rows: since,
      truncated: false,
      took_ms: 2,
    };
  }
  const name = /container = '((?:[^']|'')*)'/.exec(sql)?.[1];
  const step = Number(/date_bin\(INTERVAL '(\d+) milliseconds'/.exec(sql)?.[1] ?? 0);
  const c = sim.containers.find((one) => one.name === name);
  const answer = (columns, rows) => ({ columns, rows, truncated: false, took_ms: 1.8 });
  if (c === undefined) return null;
  const times = () => c.series.filter(([t]) => t % Math.max(1000, Math.round(step / 1000) * 1000) === 0);
  if (step > 0 && /FROM limits\b/.test(sql)) {
    const high = (limit) => (c.app === 'batch' ? Math.round(limit * 0.85) : null);
    return answer(
      named('t', 'resource', 'value'),
      times().flatMap(([t, , , , memory]) =>
        high(memory) === null
          ? []
          : [
              [iso(t), 'memory.high', high(memory)],
              [iso(t), 'cpu.weight', t % 600_000 < 300_000 ? 100 : 50],
            ],
      ),
    );
  }
  if (step > 0 && /FROM pressure\b/.test(sql))
    return answer(
      named('t', 'resource', 'value'),
      times().flatMap(([t, , , , , throttled]) => [
        [iso(t), 'cpu', throttled * 0.7],
        [iso(t), 'memory', throttled * 0.1],
      ]),
    );
  if (/FROM events WHERE rule = '\(knobs\)'/.test(sql))
    return answer(named('time', 'name', 'value'), [[iso(sim.start), 'cpu.max.burst applied', 30_000]]);
  if (/FROM decisions WHERE host\b/.test(sql)) {
    const counts = new Map();
    for (const one of sim.decisions.filter((d) => d.container.name === name)) {
      const key = JSON.stringify([one.rule, one.outcome.status]);
      const [n, newest] = counts.get(key) ?? [0, 0];
      counts.set(key, [n + 1, Math.max(newest, one.time)]);
    }
    return answer(
      named('rule', 'outcome', 'n', 'newest'),
      [...counts].map(([key, [n, newest]]) => [...JSON.parse(key), n, iso(newest)]),
    );
  }
  return null;
}
