//! The fixed cost of a query: the first time, when it is planned, and from then on, when its plan is kept. On a small store,
//! so that reading costs next to nothing.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop there")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};
use tidegate_store::{Parameter, QueryOptions, Store, StoreConfig, export};

const NOW: TimeMs = TimeMs(1_795_291_200_000);
const CONTAINERS: usize = 100;

/// The questions that the READMEs of time-series databases compare themselves by, on tables of this store.
const QUERIES: [(&str, &str); 7] = [
    ("one", "SELECT 1"),
    (
        "last",
        "SELECT container, last_value(value ORDER BY time) FROM metric.cpu WHERE time > now() - INTERVAL '60 seconds' GROUP BY container",
    ),
    (
        "average",
        "SELECT container, avg(value) FROM metric.cpu WHERE time > now() - INTERVAL '60 seconds' GROUP BY container",
    ),
    (
        "against_limit",
        "SELECT u.container, u.mean / l.value FROM \
         (SELECT container, avg(value) AS mean FROM metric.cpu WHERE time > now() - INTERVAL '5 minutes' GROUP BY container) u \
         JOIN (SELECT container, max(value) AS value FROM metric.cap WHERE time > now() - INTERVAL '5 minutes' GROUP BY container) l \
         ON u.container = l.container WHERE u.mean > 0.8 * l.value",
    ),
    (
        "percentile",
        "SELECT approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY value) FROM metric.cpu \
         WHERE container = 'c7' AND time > now() - INTERVAL '1 hour'",
    ),
    (
        "per_minute",
        "SELECT container, date_bin(INTERVAL '1 minute', time) AS minute, max(value) FROM metric.cpu \
         WHERE container IN ('c1', 'c2', 'c3', 'c4') AND time > now() - INTERVAL '12 hours' GROUP BY container, minute \
         ORDER BY container, minute",
    ),
    (
        "recent",
        "SELECT host, container, resource, usage_max FROM recent(INTERVAL '60 seconds') WHERE usage_max > upper",
    ),
];

fn store(dir: &tempfile::TempDir, runtime: &tokio::runtime::Runtime) -> Arc<Store> {
    let config = StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() };
    let store = Store::open(config, NOW).unwrap();
    let mut batch = SampleBatch::new();
    for container in 0..CONTAINERS {
        let tags = || [("container".to_owned(), format!("c{container}")), ("host".to_owned(), "h".to_owned())];
        for ago in 0..6 {
            let time = TimeMs(NOW.0 - ago * 10_000);
            batch.push(SeriesKey::new("cpu", tags()), time, container as f64);
            batch.push(SeriesKey::new("cap", tags()), time, 50.0);
        }
    }
    runtime.block_on(store.append(&batch, NOW)).unwrap();
    store
}

fn queries(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &runtime);
    let mut moment = 0;
    for (name, sql) in QUERIES {
        let mut options = store.default_query_options(NOW);
        criterion.bench_function(&format!("first/{name}"), |bencher| {
            bencher.iter(|| {
                moment += 1;
                // A text that was never seen.
                let sql = format!("{sql} -- {moment}");
                runtime.block_on(store.query(black_box(&sql), &options)).unwrap()
            });
        });
        criterion.bench_function(&format!("kept/{name}"), |bencher| {
            bencher.iter(|| {
                options.now = TimeMs(options.now.0 + 1);
                runtime.block_on(store.query(black_box(sql), &options)).unwrap()
            });
        });
    }
    let (_, percentile) = QUERIES[4];
    criterion.bench_function("kept/percentile_of_another", |bencher| {
        bencher.iter(|| {
            moment += 1;
            let sql = percentile.replace("c7", &format!("c{}", moment % CONTAINERS));
            runtime.block_on(store.query(black_box(&sql), &store.default_query_options(NOW))).unwrap()
        });
    });
    let bound = percentile.replace("'c7'", "$c");
    criterion.bench_function("kept/percentile_by_parameter", |bencher| {
        bencher.iter(|| {
            moment += 1;
            let parameters = vec![("c".to_owned(), Parameter::Text(format!("c{}", moment % CONTAINERS)))];
            let options = QueryOptions { parameters, ..store.default_query_options(NOW) };
            runtime.block_on(store.query(black_box(&bound), &options)).unwrap()
        });
    });
}

fn answers(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &runtime);
    let sql = "SELECT container, time, value * 1.01 AS value FROM metric.cpu a, generate_series(1, 2) LIMIT 1000";
    let result = runtime.block_on(store.query(sql, &store.default_query_options(NOW))).unwrap();
    assert_eq!(result.num_rows(), 1_000);
    criterion
        .bench_function("json/1000_rows_of_3", |bencher| bencher.iter(|| export::json(black_box(&result)).unwrap()));
}

criterion_group!(benches, queries, answers);
criterion_main!(benches);
