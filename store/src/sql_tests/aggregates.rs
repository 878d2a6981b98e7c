//! Aggregates that are made without showing rows say what the rows say, and `last()` what the newest of them says.

use proptest::prelude::*;
use tidegate_model::{SampleBatch, TimeMs};

use super::{NOW, TestStore, open, series};
use crate::QueryOptions;

/// Metric, host, container, ms before now, value.
type Point = (usize, usize, usize, i64, f64);

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Point>),
    Flush,
    Compact,
}

fn points() -> impl Strategy<Value = Vec<Point>> {
    let point = (0..2usize, 0..3usize, 0..2usize, 0..1_200_000_i64, 0_u32..1_000);
    let point = point.prop_map(|(metric, host, container, ago, value)| {
        // A coarse grid, so that some samples are sent twice; sums of these values are exact, whatever their order.
        (metric, host, container, ago / 7_500 * 7_500, f64::from(value) / 64.0)
    });
    proptest::collection::vec(point, 1..60)
}

/// What senders do as a rule: each series in the order of time.
fn orderly() -> impl Strategy<Value = Vec<Point>> {
    points().prop_map(|mut points| {
        points.sort_by_key(|point| -point.3);
        points.dedup_by_key(|point| (point.0, point.1, point.2, point.3));
        points
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => points().prop_map(Step::Append),
        2 => orderly().prop_map(Step::Append),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..6)
}

async fn apply(store: &TestStore, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Append(points) => {
                let mut batch = SampleBatch::new();
                for (metric, host, container, ago, value) in points {
                    let (host, container) = (format!("h{host}"), format!("c{container}"));
                    let key = series(["m", "n"][*metric], &[("host", &host), ("container", &container)]);
                    batch.push(key, TimeMs(NOW.0 - ago), *value);
                }
                store.store.append(&batch, NOW).await.unwrap();
            }
            Step::Flush => drop(store.store.flush(NOW).await.unwrap()),
            Step::Compact => {
                store.store.flush(NOW).await.unwrap();
                store.store.compact().await.unwrap();
            }
        }
    }
}

/// Questions with `$` for the value. As `abs(value)` it says the same, and the aggregate is made from rows.
const QUESTIONS: [&str; 22] = [
    "SELECT host, min($), max($), count(*) FROM metric.m GROUP BY 1 ORDER BY 1",
    "SELECT date_bin(INTERVAL '5 minutes', time) AS t, max($), count($) FROM metric.m WHERE host IN ('h0', 'h1') AND \
     time BETWEEN now() - INTERVAL '1000 seconds' AND now() - INTERVAL '95 seconds' GROUP BY t ORDER BY t",
    "SELECT metric, date_trunc('minute', time) AS t, min($) FROM samples GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, container, last_value($ ORDER BY time) FROM metric.m GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, container, last_value($ ORDER BY time) FROM metric.m WHERE time < now() - INTERVAL '3 minutes' AND \
     time > now() - INTERVAL '11 minutes' GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, last($, time), max($) FROM metric.m GROUP BY 1 ORDER BY 1",
    "SELECT host, last($, time) FROM metric.m WHERE container = 'c1' GROUP BY 1 ORDER BY 1",
    "SELECT host, container, first_value($ ORDER BY time), last_value($ ORDER BY time DESC), first($, time) FROM metric.m \
     GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, container, avg($), min($), max($), sum($), count($) FROM metric.m GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, sum($), count(*) FROM metric.m WHERE time > now() - INTERVAL '5 minutes' GROUP BY host ORDER BY host",
    "SELECT date_bin(INTERVAL '1 minute', time) AS t, max($) FROM metric.m WHERE host = 'h1' GROUP BY t ORDER BY t",
    "SELECT date_bin(INTERVAL '90 seconds', time) AS t, container, avg($) FROM metric.m WHERE host IN ('h0', 'h2') AND \
     time BETWEEN now() - INTERVAL '15 minutes' AND now() - INTERVAL '100 seconds' GROUP BY t, container ORDER BY t, container",
    "SELECT date_trunc('hour', time) AS t, host, min($), max($) FROM metric.m GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT avg($), sum($), count($), min($), max($) FROM metric.m WHERE container = 'c1'",
    "SELECT avg($), sum($), count($), min($), max($) FROM metric.m WHERE host = 'nowhere'",
    "SELECT host, max($) FROM metric.m WHERE host = 'nowhere' GROUP BY host",
    "SELECT host || '/' || container AS who, max($) FROM metric.m GROUP BY who ORDER BY who",
    "SELECT metric, count($), max($) FROM samples GROUP BY metric ORDER BY metric",
    "SELECT metric, date_bin(INTERVAL '1 minute', time) AS t, avg($) FROM samples WHERE tag(tags, 'host') = 'h1' AND \
     tag(tags, 'container') = 'c0' GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT tag(tags, 'host') AS h, sum($) FROM samples WHERE metric IN ('m', 'x') GROUP BY h ORDER BY h",
    "SELECT tag(tags, 'container') AS c, sum($), count(*) FROM samples GROUP BY c ORDER BY c",
    "WITH b AS (SELECT date_bin(INTERVAL '2 minutes', time) AS t, host AS h, $ AS v FROM metric.m) \
     SELECT t, h, max(v), count(v) FROM b GROUP BY t, h ORDER BY t, h",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn aggregates_without_rows_are_those_of_the_rows(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open();
            // Both metrics exist whatever the steps are.
            store.push(&[("m", &[("host", "h0"), ("container", "c0")], 5_000.0, 1.0)]).await;
            store.push(&[("n", &[("host", "h0"), ("container", "c0")], 5_000.0, 1.0)]).await;
            apply(&store, &steps).await;
            for question in QUESTIONS {
                let (short, long) = (question.replace('$', "value"), question.replace('$', "abs(value)"));
                prop_assert_eq!(store.rows(&short).await, store.rows(&long).await, "{}", short);
            }
            Ok(())
        })?;
    }

    /// Of whole numbers, of decimals, whose sums depend on the order, and of both: with roll-ups every digit is as without.
    #[test]
    fn rollups_change_no_digit_of_a_sum(
        metrics in proptest::collection::vec((prop_oneof![3 => Just(1.0), 1 => Just(100.0), 1 => Just(3.0)], 0..600_u32), 3..6),
        huge: bool,
        step_s in 5_i64..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut answers = Vec::new();
            for rollup_min_samples in [1, usize::MAX] {
                let dir = tempfile::tempdir().unwrap();
                let dir_of = dir.path().join("data");
                let config = crate::StoreConfig { dir: dir_of, rollup_min_samples, ..crate::StoreConfig::default() };
                let store = TestStore { store: crate::Store::open(config, NOW).unwrap(), _dir: dir };
                let (mut ago, last) = (6 * 3_600_000, metrics.len() - 1);
                for (turn, (divisor, count)) in metrics.iter().enumerate() {
                    let mut batch = SampleBatch::new();
                    for sample in 0..*count {
                        ago -= step_s * 1_000;
                        let value = f64::from(sample * 7_919 % 10_007) / divisor;
                        let value = if huge && turn == 0 { value * 1e12 } else { value };
                        let container = ["c0", "c1"][sample as usize % 2];
                        batch.push(series("m", &[("host", "h0"), ("container", container)]), TimeMs(NOW.0 - ago.max(0)), value);
                    }
                    store.store.append(&batch, NOW).await.unwrap();
                    if turn < last {
                        store.store.flush(NOW).await.unwrap();
                    }
                    if turn == last / 2 {
                        store.store.compact().await.unwrap();
                    }
                }
                let mut of_store = Vec::new();
                for question in [
                    "SELECT sum(value), avg(value), count(*) FROM metric.m",
                    "SELECT container, sum(value), max(value) FROM metric.m GROUP BY 1 ORDER BY 1",
                    "SELECT date_trunc('hour', time) AS t, avg(value), min(value) FROM metric.m GROUP BY 1 ORDER BY 1",
                    "SELECT date_bin(INTERVAL '2 minutes', time) AS t, container, sum(value) FROM metric.m \
                     WHERE time > now() - INTERVAL '4 hours' GROUP BY 1, 2 ORDER BY 1, 2",
                ] {
                    of_store.push((question, store.rows(question).await));
                }
                answers.push(of_store);
            }
            prop_assert_eq!(&answers[0], &answers[1]);
            Ok(())
        })?;
    }

    #[test]
    fn last_is_the_newest_row_of_each_series(steps in steps(), asked in -1_300_000_i64..0, age in 1_000_i64..1_500_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let config = crate::StoreConfig { dir: dir.path().join("data"), ..crate::StoreConfig::default() };
            let store = TestStore { store: crate::Store::open(config.clone(), NOW).unwrap(), _dir: dir };
            store.push(&[("m", &[("host", "h0"), ("container", "c0")], 5_000.0, 1.0)]).await;
            apply(&store, &steps).await;
            let same = async |store: &TestStore| {
                for now in [NOW, TimeMs(NOW.0 + asked), TimeMs(NOW.0 + asked / 2)] {
                    let age = age as f64 / 1000.0;
                    let last = format!("SELECT host, container, time, value FROM last('m', {age}) ORDER BY 1, 2");
                    let plain = format!(
                        "SELECT host, container, max(time), last_value(value ORDER BY time) FROM metric.m \
                         WHERE time >= now() - INTERVAL '{age} seconds' GROUP BY 1, 2 ORDER BY 1, 2"
                    );
                    // Twice: the second answer may come from what the first one learned.
                    for question in [&last, &last] {
                        let (last, plain) = (at(store, question, now).await, at(store, &plain, now).await);
                        prop_assert_eq!(last, plain, "{} ms old at {}", age, now.0 - NOW.0);
                    }
                }
                Ok(())
            };
            same(&store).await?;
            let TestStore { store: before, _dir } = store;
            drop(before);
            let store = TestStore { store: crate::Store::open(config, NOW).unwrap(), _dir };
            same(&store).await?;
            apply(&store, &steps).await;
            same(&store).await
        })?;
    }
}

async fn at(store: &TestStore, sql: &str, now: TimeMs) -> String {
    let options = QueryOptions { now, ..store.options() };
    let result = store.store.query(sql, &options).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    String::from_utf8(crate::export::json_rows(&result.batches).unwrap()).unwrap()
}

#[tokio::test]
async fn what_can_be_answered_without_rows_is() {
    let store = open();
    store.push(&[("m", &[("host", "h0"), ("container", "c0")], 5.0, 1.0)]).await;
    for question in &QUESTIONS {
        let (short, long) = (question.replace('$', "value"), question.replace('$', "abs(value)"));
        let plan = store.rows(&format!("EXPLAIN {short}")).await;
        assert!(plan.contains("AggregateScanExec") && !plan.contains("TimedScanExec"), "{short}: {plan}");
        let plan = store.rows(&format!("EXPLAIN {long}")).await;
        assert!(plan.contains("TimedScanExec") && !plan.contains("AggregateScanExec"), "{long}: {plan}");
    }
}

#[tokio::test]
async fn rows_that_come_in_the_order_of_labels_and_bins_are_not_sorted_again() {
    let store = open();
    for (host, container, ago) in [("b", "x", 5.0), ("a", "y", 70.0), ("a", "x", 80.0), ("b", "x", 130.0)] {
        store
            .push(&[("m", &[("host", host), ("container", container)], ago, 1.0), ("m", &[("host", host)], ago, 2.0)])
            .await;
    }
    let minute = "date_bin(INTERVAL '1 minute', time)";
    for (select, group_and_order, is_sorted) in [
        (format!("{minute} AS t, max(value)"), "GROUP BY t ORDER BY t", true),
        (format!("host, {minute} AS t, max(value)"), "GROUP BY 1, 2 ORDER BY host, t", true),
        (format!("{minute} AS t, host, max(value)"), "GROUP BY 1, 2 ORDER BY host, t", true),
        (format!("max(value) AS most, host, container, {minute} AS t"), "GROUP BY 2, 3, 4 ORDER BY 2, 3, 4", true),
        ("container, max(value)".to_owned(), "GROUP BY 1 ORDER BY 1", true),
        ("container, max(value)".to_owned(), "GROUP BY 1 ORDER BY 1 NULLS FIRST", false),
        ("container, max(value)".to_owned(), "GROUP BY 1 ORDER BY 1 DESC", false),
        (format!("host, {minute} AS t, max(value)"), "GROUP BY 1, 2 ORDER BY t, host", false),
        ("container, max(value)".to_owned(), "GROUP BY 1 ORDER BY 2, 1", false),
    ] {
        let sql = format!("SELECT {select} FROM metric.m {group_and_order}");
        let plan = store.rows(&format!("EXPLAIN {sql}")).await;
        assert_eq!(plan.contains("AggregateScanExec") && !plan.contains("SortExec"), is_sorted, "{sql}: {plan}");
        assert_eq!(store.rows(&sql).await, store.rows(&sql.replace("max(value)", "max(abs(value))")).await, "{sql}");
    }
}

#[tokio::test]
async fn what_needs_rows_gets_them() {
    let store = open();
    store.push(&[("m", &[("host", "h0")], 5.0, 1.0)]).await;
    for question in [
        "SELECT host, max(value) FILTER (WHERE value > 1) FROM metric.m GROUP BY host",
        "SELECT count(DISTINCT value) FROM metric.m",
        "SELECT host, count(host) FROM metric.m GROUP BY host",
        "SELECT max(time) FROM metric.m",
        "SELECT max(value) FROM metric.m WHERE value < 5",
        "SELECT value, count(*) FROM metric.m GROUP BY value",
        "SELECT date_bin(INTERVAL '1 month', time) AS t, max(value) FROM metric.m GROUP BY t",
        "SELECT host, max(value) FROM metric.m GROUP BY ROLLUP (host)",
        "SELECT date_bin(INTERVAL '1 minute', time, TIMESTAMP '2020-01-01T00:00:30Z') AS t, max(value) FROM metric.m GROUP BY t",
        "SELECT max(some_share) FROM pressure",
    ] {
        let plan = store.rows(&format!("EXPLAIN {question}")).await;
        assert!(plan.contains("TimedScanExec") && !plan.contains("AggregateScanExec"), "{question}: {plan}");
        store.rows(question).await;
    }
}

#[tokio::test]
async fn last_says_what_it_wants() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 7_200.0, 1.0), ("m", &[("host", "b")], 5.0, 2.0)]).await;
    assert_eq!(store.rows("SELECT host, value FROM last('m')").await, r#"[["b",2.0]]"#);
    assert_eq!(store.rows("SELECT count(*) FROM last('m', INTERVAL '1 day')").await, "[[2]]");
    for (sql, message) in [
        ("SELECT * FROM last('nothing')", "metric 'nothing' not found in last()"),
        ("SELECT * FROM last(5)", "last() takes a metric's name"),
        ("SELECT * FROM last('m', INTERVAL '1 month')", "give the age of last() in days or less"),
    ] {
        let error = store.store.query(sql, &store.options()).await.unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!((error.line, error.column), (Some(1), Some(15)), "{error}");
    }
}
