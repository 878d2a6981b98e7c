//! Questions as rules and people ask them, planning included, over 15 minutes of 1,000 containers: in memory, and in a
//! segment.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

mod fixture;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{NOW, Scratch, runtime};

const STEPS: usize = 90;
const QUESTIONS: [(&str, &str); 5] = [
    ("count", "SELECT count(*) FROM metric.cpu_user"),
    (
        "last of all",
        "SELECT container, last_value(value ORDER BY time) FROM metric.cpu_user
         WHERE time > now() - INTERVAL '5 minutes' GROUP BY container",
    ),
    (
        "60 s average of all",
        "SELECT container, avg(value) FROM metric.cpu_user WHERE time > now() - INTERVAL '60 seconds' GROUP BY container",
    ),
    (
        "p95 of one",
        "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY value) FROM metric.cpu_user
         WHERE container = 'node003-c04' AND time > now() - INTERVAL '1 hour'",
    ),
    (
        "per-minute maxima of one",
        "SELECT date_bin(INTERVAL '1 minute', time) AS minute, max(value) FROM metric.cpu_user
         WHERE container = 'node003-c04' GROUP BY minute",
    ),
];

fn query(c: &mut Criterion) {
    let runtime = runtime();
    let scratch = Scratch::filled(&runtime, STEPS);
    let options = scratch.store.default_query_options(NOW);
    for place in ["in memory", "in a segment"] {
        let mut group = c.benchmark_group(format!("query {place}"));
        for (name, sql) in QUESTIONS {
            group.bench_function(name, |bencher| {
                bencher.iter(|| runtime.block_on(scratch.store.query(sql, &options)).unwrap());
            });
        }
        group.finish();
        // The second time round it is all in a segment.
        runtime.block_on(scratch.store.flush(NOW)).unwrap();
    }
}

criterion_group!(benches, query);
criterion_main!(benches);
