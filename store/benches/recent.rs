//! `recent(window)` as ticks ask for it: 20 window rules over 10,000 containers with a measurement of each resource a second, on
//! one core, over usage that the host collects and over usage that is summed up from pushed metrics.
//!
//! A second passes between two ticks: its samples are appended, which is not measured, and then the rules run one after the
//! other. `late` pushes half of a second's samples after the tick that should have seen them, as senders do that are not in
//! step with it.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

mod fixture;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{NOW, Scratch, runtime};
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};
use tidegate_store::{Durability, QueryOptions, QueryPool};
use tokio::runtime::Runtime;

const CONTAINERS: usize = 10_000;
/// Seconds that are there when the first tick comes.
const SECONDS: i64 = 130;
const METRICS: [&str; 4] = ["tidegate.usage", "tidegate.limit", "tidegate.throttled", "tidegate.pressure.some"];
const RULES: usize = 20;

/// Rules over some windows, as rules are: each compares something else, and few let anything through.
fn rules(windows: &[i64]) -> Vec<String> {
    const CONDITIONS: [&str; 5] = [
        "usage_p95 > 2 * allocated AND age < 5",
        "usage_max > upper AND usage_max > 99",
        "usage_avg < 0.001 * lower",
        "usage_slope > 50",
        "usage > 1.2 * usage_p99 AND resource = 'cpu'",
    ];
    let rule = |number: usize| {
        let window = windows[number % windows.len()];
        let condition = CONDITIONS[number / windows.len() % CONDITIONS.len()];
        format!(
            "SELECT host, container, resource, usage_max * {}.1 AS target FROM recent(INTERVAL '{window} seconds') \
             WHERE {condition}",
            number + 1
        )
    };
    (0..RULES).map(rule).collect()
}

fn value(container: usize, number: usize, at: TimeMs) -> f64 {
    // Something that moves.
    ((at.0 / 1_000 * 7 + container as i64 * 13 + number as i64) % 1_000) as f64 / 100.0
}

fn collected(at: TimeMs, containers: &mut dyn Iterator<Item = usize>) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for container in containers {
        for resource in ["cpu", "memory"] {
            for (number, metric) in METRICS.iter().enumerate() {
                let name = format!("c{container:05}");
                let tags = [("host", format!("node{:03}", container / 20)), ("container", name)];
                let tags = tags.into_iter().chain([("resource", resource.to_owned())]);
                let key = SeriesKey::new(*metric, tags.map(|(tag, value)| (tag.to_owned(), value)));
                batch.push(key, at, value(container, number, at));
            }
        }
    }
    batch
}

/// As BDWatchdog pushes it: CPU is the sum of two metrics, and the host of a sample is the container.
fn pushed(at: TimeMs, containers: &mut dyn Iterator<Item = usize>) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for container in containers {
        for (number, metric) in ["proc.cpu.user", "proc.cpu.kernel", "proc.mem.resident"].into_iter().enumerate() {
            let tags = [("host", format!("c{container:05}")), ("command", "java".to_owned()), ("pid", "1".to_owned())];
            let key = SeriesKey::new(metric, tags.map(|(tag, value)| (tag.to_owned(), value)));
            batch.push(key, at, 10.0 * value(container, number, at));
        }
    }
    batch
}

type Second = fn(TimeMs, &mut dyn Iterator<Item = usize>) -> SampleBatch;

/// A store whose time passes.
struct Passing<'a> {
    runtime: &'a Runtime,
    scratch: Scratch,
    second: Second,
    now: TimeMs,
}

impl Passing<'_> {
    fn push(&self, at: TimeMs, containers: &mut dyn Iterator<Item = usize>) {
        let batch = (self.second)(at, containers);
        self.runtime.block_on(self.scratch.store.append(&batch, NOW)).unwrap();
    }

    fn tick(&self, rules: &[String]) -> Duration {
        let options = self.scratch.store.default_query_options(self.now);
        let options = QueryOptions { pool: QueryPool::Rules, ..options };
        let began = Instant::now();
        for rule in rules {
            self.runtime.block_on(self.scratch.store.query(rule, &options)).unwrap();
        }
        began.elapsed()
    }
}

fn ticks(c: &mut Criterion) {
    let mut group = c.benchmark_group("a tick of 20 window rules");
    group.sample_size(10);
    let runtime = runtime();
    let kinds: [(&str, Second, bool); 3] =
        [("collected", collected, false), ("pushed", pushed, false), ("pushed late", pushed, true)];
    for (name, second, late) in kinds {
        let start = TimeMs(NOW.0 - 1_000_000);
        let mut passing = Passing { runtime: &runtime, scratch: Scratch::new(Durability::None), second, now: start };
        for ago in (0..SECONDS).rev() {
            passing.push(TimeMs(start.0 - ago * 1_000), &mut (0..CONTAINERS));
        }
        for windows in [&[60][..], &[10, 30, 60, 120]] {
            let rules = rules(windows);
            group.bench_function(format!("{name}, windows of {windows:?} s"), |bencher| {
                bencher.iter_custom(|ticks| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..ticks {
                        passing.now.0 += 1_000;
                        if late {
                            passing.push(TimeMs(passing.now.0 - 1_000), &mut (0..CONTAINERS).step_by(2));
                            passing.push(passing.now, &mut (1..CONTAINERS).step_by(2));
                        } else {
                            passing.push(passing.now, &mut (0..CONTAINERS));
                        }
                        spent += passing.tick(&rules);
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, ticks);
criterion_main!(benches);
