//! `recent(window)` says what plain SQL over `usage` and `limits` says.

use std::time::Instant;

use proptest::prelude::*;
use tidegate_model::{SampleBatch, TimeMs};

use super::{NOW, TestStore, open, series};

/// One sample: which metric, which container, how long ago in ms, value.
type Point = (usize, usize, i64, f64);

const CONTAINERS: [&str; 3] = ["a", "b", "c"];
/// Metrics whose samples are pushed: of the collector and of BDWatchdog.
const METRICS: [&str; 4] = ["tidegate.usage", "tidegate.limit", "tidegate.throttled", "proc.cpu.user"];

fn points() -> impl Strategy<Value = Vec<Point>> {
    let point = (0..METRICS.len(), 0..CONTAINERS.len(), 0_i64..90_000, 0_u32..1_000);
    let point = point.prop_map(|(metric, container, ago, value)| {
        // A coarse grid, so that some samples of one container fall on the same time.
        (metric, container, ago / 500 * 500, f64::from(value) / 64.0)
    });
    proptest::collection::vec(point, 1..120)
}

fn batch(points: &[Point]) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for (metric, container, ago, value) in points {
        let container = CONTAINERS[*container];
        let key = match METRICS[*metric] {
            "proc.cpu.user" => {
                series("proc.cpu.user", &[("host", container), ("pid", if *ago % 1_000 == 0 { "1" } else { "2" })])
            }
            metric => series(metric, &[("host", ""), ("container", container), ("resource", "cpu")]),
        };
        batch.push(key, TimeMs(NOW.0 - ago), *value);
    }
    batch
}

/// What `recent` answers, in SQL over the tables below it.
const PLAIN: &str = "\
    WITH w AS (SELECT *, (arrow_cast(now(), 'Int64') - arrow_cast(time, 'Int64')) / 1000.0 AS ago FROM usage WHERE time > now() - INTERVAL '60 seconds'), \
    u AS (SELECT host, container, resource, count(*) AS samples, min(ago) AS age, \
          first_value(value ORDER BY ago, value DESC) AS usage, avg(value) AS usage_avg, max(value) AS usage_max, \
          percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS usage_p50, \
          percentile_cont(0.95) WITHIN GROUP (ORDER BY value) AS usage_p95, \
          percentile_cont(0.99) WITHIN GROUP (ORDER BY value) AS usage_p99, \
          stddev(value) AS usage_stddev, -regr_slope(value, ago) AS usage_slope FROM w GROUP BY host, container, resource), \
    l AS (SELECT host, container, resource, last_value(value ORDER BY time) AS allocated, \
          min(arrow_cast(now(), 'Int64') - arrow_cast(time, 'Int64')) / 1000.0 AS allocated_age FROM limits GROUP BY host, container, resource), \
    t AS (SELECT host, container, resource, avg(throttled) AS throttled, \
          last_value(throttled ORDER BY time) AS throttled_last FROM pressure \
          WHERE time > now() - INTERVAL '60 seconds' GROUP BY host, container, resource) \
    SELECT u.host, u.container, u.resource, samples, age, usage, usage_avg, usage_max, usage_p50, usage_p95, usage_p99, \
          usage_stddev, usage_slope, allocated, allocated_age, allocated * 0.9 AS upper, allocated * 0.8 AS lower, \
          throttled, throttled_last \
    FROM u LEFT JOIN l ON u.host = l.host AND u.container = l.container AND u.resource = l.resource \
           LEFT JOIN t ON u.host = t.host AND u.container = t.container AND u.resource = t.resource \
    ORDER BY u.container";

const RECENT: &str = "\
    SELECT host, container, resource, samples, age, usage, usage_avg, usage_max, usage_p50, usage_p95, usage_p99, \
          usage_stddev, usage_slope, allocated, allocated_age, upper, lower, throttled, throttled_last \
    FROM recent(INTERVAL '60 seconds') ORDER BY container";

async fn table(store: &TestStore, sql: &str) -> Vec<Vec<serde_json::Value>> {
    serde_json::from_str(&store.rows(sql).await).unwrap()
}

fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        // DataFusion rounds the place of a percentile to millionths.
        (Some(a), Some(b)) => (a - b).abs() <= 1e-4 * (1.0 + a.abs().max(b.abs())),
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recent_is_plain_sql_over_usage(points in points(), flush in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open();
            // In two parts with a question in between, whose answer is kept.
            let (first, second) = points.split_at(points.len() / 2);
            store.store.append(&batch(first), NOW).await.unwrap();
            if flush {
                store.store.flush(TimeMs(NOW.0 + 3_600_000)).await.unwrap();
            }
            table(&store, RECENT).await;
            store.store.append(&batch(second), NOW).await.unwrap();
            if flush {
                store.store.flush(TimeMs(NOW.0 + 3_600_000)).await.unwrap();
            }
            let (plain, recent) = (table(&store, PLAIN).await, table(&store, RECENT).await);
            let equal = plain.len() == recent.len()
                && plain.iter().zip(&recent).all(|(a, b)| a.iter().zip(b).all(|(a, b)| same(a, b)));
            prop_assert!(equal, "plain: {plain:?}\nrecent: {recent:?}");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_is_kept_is_made_anew_for_what_comes_late() {
    let store = open();
    let usage = |container| [("host", "h"), ("container", container), ("resource", "cpu")];
    store.push(&[("tidegate.usage", &usage("a"), 5.0, 1.0)]).await;
    let sql = "SELECT container, usage, samples, app FROM recent(60) ORDER BY container";
    assert_eq!(store.rows(sql).await, r#"[["a",1.0,1,null]]"#);
    // Later than the question: no part of the answer.
    store.push(&[("tidegate.usage", &usage("a"), -5.0, 2.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",1.0,1,null]]"#);
    store.push(&[("tidegate.usage", &usage("a"), 0.0, 3.0), ("tidegate.usage", &usage("b"), 7.0, 4.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",4.0,1,null]]"#);
    // The same sample again, with another value.
    store.push(&[("tidegate.usage", &usage("b"), 7.0, 5.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",5.0,1,null]]"#);
    store.store.flush(NOW).await.unwrap();
    store.push(&[("tidegate.usage", &usage("b"), 6.0, 6.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",6.0,2,null]]"#);
}

#[tokio::test]
async fn a_hundred_containers_take_milliseconds() {
    let store = open();
    let mut batch = SampleBatch::new();
    for container in 0..100 {
        let name = format!("c{container}");
        for resource in ["cpu", "memory"] {
            for metric in ["tidegate.usage", "tidegate.limit", "tidegate.pressure.some", "tidegate.pressure.full"] {
                let key = series(metric, &[("host", "h"), ("container", &name), ("resource", resource)]);
                for second in 0..120 {
                    batch.push(key.clone(), TimeMs(NOW.0 - second * 1_000), second as f64);
                }
            }
        }
    }
    store.store.append(&batch, NOW).await.unwrap();
    let sql = "SELECT count(*), sum(samples) FROM recent(INTERVAL '60 seconds')";
    assert_eq!(store.rows(sql).await, "[[200,12000]]");
    let began = Instant::now();
    for _ in 0..10 {
        store.rows(sql).await;
    }
    println!("recent(60 s) of 100 containers: {:?}", began.elapsed() / 10);
}
