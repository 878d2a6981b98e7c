//! `rollup()` says what plain SQL over the samples says, to the last bit whether they are rolled up yet or not.

use proptest::prelude::*;
use tidegate_model::{SampleBatch, TimeMs};

use super::{NOW, TestStore, open, open_with, series};
use crate::{QueryOptions, StoreConfig};

#[derive(Clone, Debug)]
enum Step {
    /// Container, seconds before now, value.
    Append(Vec<(usize, i64, f64)>),
    Flush,
    Compact,
}

/// Decimals, whole numbers, and what is neither.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => (-100_000..100_000_i32).prop_map(|hundredths| f64::from(hundredths) / 100.0),
        1 => (0..1_000_i32).prop_map(f64::from),
        1 => (1..1_000_i32).prop_map(|part| 1.0 / f64::from(part)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A coarse grid, so that some samples are sent twice.
    let rows = || prop::collection::vec((0..3_usize, (0..4_000_i64).prop_map(|steps| steps * 5), value()), 1..200);
    let orderly = rows().prop_map(|mut rows| {
        rows.sort_by_key(|row| -row.1);
        rows
    });
    let step = prop_oneof![
        1 => rows().prop_map(Step::Append),
        2 => orderly.prop_map(Step::Append),
        1 => Just(Step::Flush),
        2 => Just(Step::Compact),
    ];
    prop::collection::vec(step, 1..7)
}

/// `moves`: whether samples are flushed and compacted, or stay in memory.
async fn apply(store: &TestStore, steps: &[Step], moves: bool) {
    for step in steps {
        match step {
            Step::Append(rows) => {
                let mut batch = SampleBatch::new();
                for (container, ago, value) in rows {
                    let key = series("m", &[("container", ["a", "b", "c"][*container])]);
                    batch.push(key, TimeMs(NOW.0 - ago * 1_000), *value);
                }
                store.store.append(&batch, NOW).await.unwrap();
            }
            Step::Flush if moves => drop(store.store.flush(NOW).await.unwrap()),
            Step::Compact if moves => {
                store.store.flush(NOW).await.unwrap();
                store.store.compact().await.unwrap();
            }
            _ => {}
        }
    }
}

async fn at(store: &TestStore, sql: &str, now: TimeMs) -> Vec<Vec<serde_json::Value>> {
    let options = QueryOptions { now, ..store.options() };
    let result = store.store.query(sql, &options).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    serde_json::from_slice(&crate::export::json_rows(&result.batches).unwrap()).unwrap()
}

/// Place of the sum in a row.
const SUM: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn buckets_are_those_of_plain_sql_wherever_samples_are(
        steps in steps(),
        ago in 0..15_000_i64,
        from in 0..20_000_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Every bin has a roll-up, none has, and nothing ever leaves the memory.
            let stores = [(1, true), (usize::MAX, true), (1, false)];
            let stores = stores.map(|(rollup_min_samples, moves)| {
                (open_with(StoreConfig { rollup_min_samples, ..StoreConfig::default() }), moves)
            });
            for (store, moves) in &stores {
                store.push(&[("m", &[("container", "a")], 20_000.0, 0.25)]).await;
                apply(store, &steps, *moves).await;
            }
            for step in ["1 minute", "5 minutes", "90 seconds", "1 hour", "1 day"] {
                for (filter, now) in [
                    ("true".to_owned(), NOW),
                    (format!("time > now() - INTERVAL '{from} seconds' AND container IN ('a', 'c')"), TimeMs(NOW.0 - ago * 1_000)),
                ] {
                    let columns = "time, container, min, max, sum, count, last";
                    let asked = format!("SELECT {columns} FROM rollup('m', INTERVAL '{step}') WHERE {filter} ORDER BY 2, 1");
                    let plain = format!(
                        "SELECT {columns} FROM (SELECT date_bin(INTERVAL '{step}', time) AS time, container, min(value) AS min, \
                         max(value) AS max, sum(value) AS sum, count(*) AS count, last(value, time) AS last FROM metric.m \
                         GROUP BY 1, 2) WHERE {filter} ORDER BY 2, 1"
                    );
                    let given = at(&stores[0].0, &asked, now).await;
                    for (store, _) in &stores[1..] {
                        prop_assert_eq!(&given, &at(store, &asked, now).await, "{}", asked);
                    }
                    let expected = at(&stores[0].0, &plain, now).await;
                    prop_assert_eq!(given.len(), expected.len(), "{}", asked);
                    for (given, expected) in given.into_iter().zip(expected) {
                        let [sum, running] = [&given, &expected].map(|row| row[SUM].as_f64().unwrap());
                        prop_assert!((sum - running).abs() <= 1e-6, "{} {:?} {:?}", asked, given, expected);
                        let without_sum = |mut row: Vec<serde_json::Value>| {
                            row.remove(SUM);
                            row
                        };
                        prop_assert_eq!(without_sum(given), without_sum(expected), "{}", asked);
                    }
                }
            }
            // Of one figure alone no other is read.
            let all = at(&stores[0].0, "SELECT container, max FROM (SELECT * FROM rollup('m', 60) LIMIT 100000) ORDER BY 1, 2", NOW).await;
            prop_assert_eq!(at(&stores[0].0, "SELECT container, max FROM rollup('m', 60) ORDER BY 1, 2", NOW).await, all);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_kept_plan_of_a_rollup_moves_with_now_and_is_made_anew_with_a_new_tag() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 30.0, 1.0), ("m", &[("host", "a")], 20.0, 2.5)]).await;
    let sql = "SELECT * FROM rollup('m', INTERVAL '1 minute')";
    assert_eq!(store.rows(sql).await, r#"[["2026-11-21T19:59:00.000Z","a",1.0,2.5,3.5,2,2.5]]"#);
    assert_eq!(store.store.plans.of(crate::QueryPool::Interactive).idle(), 1);
    let before = at(&store, sql, TimeMs(NOW.0 - 25_000)).await;
    assert_eq!(
        before[0][2..],
        [1.0, 1.0, 1.0].map(serde_json::Value::from).into_iter().chain([1.into(), 1.0.into()]).collect::<Vec<_>>()
    );
    store.push(&[("m", &[("host", "a"), ("max", "x")], 10.0, 7.0)]).await;
    let rows = store.rows("SELECT host, tag_max, max FROM rollup('m', 60) ORDER BY max").await;
    assert_eq!(rows, r#"[["a",null,2.5],["a","x",7.0]]"#);
    assert_eq!(store.rows(sql).await.matches("\"x\"").count(), 1);
}

#[tokio::test]
async fn rollup_says_what_it_wants() {
    let store = open();
    store.push(&[("m", &[], 5.0, 1.0)]).await;
    for (sql, message) in [
        ("SELECT * FROM rollup('nothing', 60)", "metric 'nothing' not found in rollup()"),
        ("SELECT * FROM rollup('m')", "rollup() takes a metric's name and a step"),
        ("SELECT * FROM rollup('m', INTERVAL '1 month')", "give the step of rollup() in days or less"),
        ("SELECT * FROM rollup('m', 0)", "the step of rollup() must be longer than nothing"),
    ] {
        let error = store.store.query(sql, &store.options()).await.unwrap_err();
        assert!(error.message.contains(message), "{error}");
    }
}
