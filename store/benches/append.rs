//! The write path below the wire formats: batches of 1,000 samples into the log and memory, for each durability, and the
//! flush to a segment.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

mod fixture;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fixture::{Fleet, NOW, Scratch, runtime};
use tidegate_store::Durability;

/// Batches into one store before it is thrown away: memory stays small, and it never comes to a background flush.
const BATCHES: u64 = 2_000;

fn append(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("append 1,000 samples");
    group.throughput(Throughput::Elements(1_000));
    for durability in [Durability::None, Durability::Interval, Durability::Fsync] {
        group.bench_function(BenchmarkId::from_parameter(format!("{durability:?}")), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut took) = (iterations, Duration::ZERO);
                while left > 0 {
                    let scratch = Scratch::new(durability);
                    let mut fleet = Fleet::new();
                    // Made ahead: what a decoder does is not counted here. The first batches define the series.
                    let known: Vec<_> = fleet.step(NOW);
                    known.iter().for_each(|batch| drop(runtime.block_on(scratch.store.append(batch, NOW)).unwrap()));
                    let count = left.min(BATCHES);
                    let batches: Vec<_> = fleet.batches(NOW).take(count as usize).collect();
                    let started = Instant::now();
                    for batch in &batches {
                        runtime.block_on(scratch.store.append(batch, NOW)).unwrap();
                    }
                    took += started.elapsed();
                    left -= count;
                }
                took
            });
        });
    }
    group.finish();
}

fn flush(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("flush");
    let steps = 30;
    group.throughput(Throughput::Elements(steps * fixture::SERIES as u64));
    group.sample_size(10);
    group.bench_function("300,000 samples", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let scratch = Scratch::filled(&runtime, steps as usize);
                let started = Instant::now();
                runtime.block_on(scratch.store.flush(NOW)).unwrap();
                took += started.elapsed();
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, append, flush);
criterion_main!(benches);
