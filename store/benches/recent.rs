//! `recent(window)` of containers with a measurement each second: the first rule of a tick, and each further one, over usage
//! that the host collects and over usage that is summed up from pushed metrics.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

mod fixture;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{NOW, Scratch, runtime};
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};
use tidegate_store::{Durability, QueryOptions};

const CONTAINERS: usize = 10_000;
/// Those whose usage is pushed.
const PUSHED: usize = 20_000;
const SECONDS: i64 = 90;
const METRICS: [&str; 4] = ["tidegate.usage", "tidegate.limit", "tidegate.throttled", "tidegate.pressure.some"];
const RULE: &str = "SELECT container FROM recent(INTERVAL '60 seconds') WHERE usage_p95 > 0.9 * allocated AND age < 5";

fn second(at: TimeMs) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for container in 0..CONTAINERS {
        for resource in ["cpu", "memory"] {
            for (number, metric) in METRICS.iter().enumerate() {
                let name = format!("c{container:05}");
                let tags = [("host", format!("node{:03}", container / 20)), ("container", name)];
                let tags = tags.into_iter().chain([("resource", resource.to_owned())]);
                let key = SeriesKey::new(*metric, tags.map(|(tag, value)| (tag.to_owned(), value)));
                // Something that moves.
                let value = ((at.0 / 1_000 * 7 + container as i64 * 13 + number as i64) % 1_000) as f64 / 100.0;
                batch.push(key, at, value);
            }
        }
    }
    batch
}

/// As BDWatchdog pushes it: CPU is the sum of two metrics, and the host of a sample is the container.
fn pushed_second(at: TimeMs) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for container in 0..PUSHED {
        for (number, metric) in ["proc.cpu.user", "proc.cpu.kernel", "proc.mem.resident"].into_iter().enumerate() {
            let tags = [("host", format!("c{container:05}")), ("command", "java".to_owned()), ("pid", "1".to_owned())];
            let key = SeriesKey::new(metric, tags.map(|(tag, value)| (tag.to_owned(), value)));
            batch.push(key, at, ((at.0 / 1_000 * 7 + container as i64 * 13 + number as i64) % 1_000) as f64 / 10.0);
        }
    }
    batch
}

fn recent(c: &mut Criterion) {
    measure(c, "recent", second);
    measure(c, "recent of pushed metrics", pushed_second);
}

fn measure(c: &mut Criterion, name: &str, second: fn(TimeMs) -> SampleBatch) {
    let runtime = runtime();
    let scratch = Scratch::new(Durability::None);
    for ago in (0..SECONDS).rev() {
        let batch = second(TimeMs(NOW.0 - ago * 1_000));
        runtime.block_on(scratch.store.append(&batch, NOW)).unwrap();
    }
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    let mut options = scratch.store.default_query_options(NOW);
    group.bench_function("first rule of a tick", |bencher| {
        bencher.iter(|| {
            // Another instant, so that nothing is kept of the rows.
            options = QueryOptions { now: TimeMs(options.now.0 + 1), ..options.clone() };
            runtime.block_on(scratch.store.query(RULE, &options)).unwrap()
        });
    });
    group.bench_function("further rule of a tick", |bencher| {
        bencher.iter(|| runtime.block_on(scratch.store.query(RULE, &options)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, recent);
criterion_main!(benches);
