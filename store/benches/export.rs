//! Answers as bytes: 1,000 rows of a container, a time and a value in each format.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

mod fixture;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixture::{NOW, Scratch, runtime};
use tidegate_store::export;

fn encode(c: &mut Criterion) {
    let runtime = runtime();
    let scratch = Scratch::filled(&runtime, 1);
    let options = scratch.store.default_query_options(NOW);
    let sql = "SELECT container, time, value FROM metric.cpu_user";
    let result = runtime.block_on(scratch.store.query(sql, &options)).unwrap();
    assert_eq!(result.num_rows(), 1_000);
    let mut group = c.benchmark_group("export 1,000 rows");
    group.throughput(Throughput::Elements(result.num_rows() as u64));
    group.bench_function("JSON", |bencher| bencher.iter(|| export::json(&result).unwrap()));
    group.bench_function("NDJSON", |bencher| bencher.iter(|| export::ndjson(&result.batches).unwrap()));
    group.bench_function("CSV", |bencher| bencher.iter(|| export::csv(&result.schema, &result.batches).unwrap()));
    group.bench_function("Arrow", |bencher| {
        bencher.iter(|| export::arrow_stream(&result.schema, &result.batches).unwrap())
    });
    group.bench_function("Parquet", |bencher| {
        bencher.iter(|| export::parquet(&result.schema, &result.batches).unwrap())
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
