//! `history(half_life)` says what a plain look at `usage` says, whatever came when and whatever was asked before.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use proptest::prelude::*;
use tidegate_model::{SampleBatch, TimeMs};

use super::{NOW, TestStore, open, series};
use crate::history::RATIO;
use crate::{QueryOptions, QueryResult};

const DAY_MS: i64 = 86_400_000;
const PERCENTILES: [(f64, &str); 5] =
    [(0.5, "usage_p50"), (0.9, "usage_p90"), (0.95, "usage_p95"), (0.98, "usage_p98"), (0.99, "usage_p99")];

/// Container, how long ago in ms, value.
type Point = (usize, i64, f64);

/// What one container's usage came to.
#[derive(Debug, PartialEq)]
struct Known {
    samples: i64,
    first: i64,
    age: f64,
    max: f64,
    avg: f64,
    peak: f64,
    confidence: f64,
    percentiles: Vec<f64>,
}

fn points() -> impl Strategy<Value = Vec<Point>> {
    // Most within the last minutes, where states and what they have not yet taken in meet.
    let ago = prop_oneof![0_i64..180_000, 0_i64..3 * DAY_MS].prop_map(|ago| ago / 1_000 * 1_000);
    let value = prop_oneof![Just(0.0), (1_u32..1_000_000).prop_map(|value| f64::from(value) / 1_000.0)];
    proptest::collection::vec((0_usize..3, ago, value), 1..40)
}

async fn push(store: &TestStore, points: &[Point]) {
    let mut batch = SampleBatch::new();
    for (container, ago, value) in points {
        // The third one is pushed by processes, whose values at the same time are added up.
        let key = match container {
            2 => series("proc.cpu.user", &[("host", "c2"), ("pid", if ago % 2_000 == 0 { "1" } else { "2" })]),
            other => {
                series("tidegate.usage", &[("host", "h"), ("container", &format!("c{other}")), ("resource", "cpu")])
            }
        };
        batch.push(key, TimeMs(NOW.0 - ago), *value);
    }
    store.store.append(&batch, NOW).await.unwrap();
}

async fn ask(store: &TestStore, sql: &str, now: i64) -> QueryResult {
    store.store.query(sql, &QueryOptions { now: TimeMs(now), ..store.options() }).await.unwrap()
}

async fn history(store: &TestStore, half_life_s: i64, now: i64) -> BTreeMap<String, Known> {
    let result = ask(store, &format!("SELECT * FROM history({half_life_s})"), now).await;
    let mut all = BTreeMap::new();
    for batch in &result.batches {
        let double = |name: &str, row: usize| batch[name].as_primitive::<Float64Type>().value(row);
        for row in 0..batch.num_rows() {
            let container = batch["container"].as_string::<i32>().value(row).to_owned();
            let known = Known {
                samples: batch["samples"].as_primitive::<Int64Type>().value(row),
                first: batch["first_seen"].as_primitive::<TimestampMillisecondType>().value(row),
                age: double("age", row),
                max: double("usage_max", row),
                avg: double("usage_avg", row),
                peak: double("usage_peak", row),
                confidence: double("confidence", row),
                percentiles: PERCENTILES.iter().map(|(_, name)| double(name, row)).collect(),
            };
            assert!(all.insert(container, known).is_none());
        }
    }
    all
}

async fn usage(store: &TestStore, now: i64) -> BTreeMap<String, Vec<(i64, f64)>> {
    let result = ask(store, "SELECT container, time, value FROM usage ORDER BY time", now).await;
    let mut all: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for batch in &result.batches {
        let time = batch["time"].as_primitive::<TimestampMillisecondType>();
        let value = batch["value"].as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let container = batch["container"].as_string::<i32>().value(row).to_owned();
            all.entry(container).or_default().push((time.value(row), value.value(row)));
        }
    }
    all
}

/// The smallest value up to which the share `p` of the weights lies.
fn weighted_percentile(sorted: &[(f64, f64)], p: f64) -> f64 {
    let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0.0;
    for (value, weight) in sorted {
        reached += weight;
        if reached >= p * total {
            return *value;
        }
    }
    sorted.last().unwrap().0
}

fn check(found: &Known, points: &[(i64, f64)], half_life_s: i64, now: i64) -> Result<(), TestCaseError> {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()));
    let weight = |time: i64| 2.0_f64.powf(-((now - time) as f64) / (half_life_s * 1_000) as f64);
    let (first, last) = (points[0].0, points.last().unwrap().0);
    prop_assert_eq!(found.samples, points.len() as i64);
    prop_assert_eq!(found.first, first);
    prop_assert!(close(found.age, (now - last) as f64 / 1_000.0));
    prop_assert_eq!(found.max, points.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max));
    let peak = points.iter().map(|(time, value)| value * weight(*time)).fold(0.0, f64::max);
    prop_assert!(close(found.peak, peak), "{} {}", found.peak, peak);
    let weights: f64 = points.iter().map(|(time, _)| weight(*time)).sum();
    let avg = points.iter().map(|(time, value)| value * weight(*time)).sum::<f64>() / weights;
    prop_assert!(close(found.avg, avg), "{} {}", found.avg, avg);
    let days = (last - first) as f64 / DAY_MS as f64;
    prop_assert!(close(found.confidence, days.min(points.len() as f64 / 1_440.0)));
    let mut sorted: Vec<(f64, f64)> = points.iter().map(|(time, value)| (*value, weight(*time))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    for ((p, name), found) in PERCENTILES.iter().zip(&found.percentiles) {
        // Where a share is reached exactly, the last bit of a sum decides which of two values it is.
        let (low, high) = (weighted_percentile(&sorted, p - 1e-9), weighted_percentile(&sorted, p + 1e-9));
        let within = *found >= low * (1.0 - 1e-9) && *found <= high * RATIO * (1.0 + 1e-9);
        prop_assert!(within, "{}: {} is not in {} to {}", name, found, low, high);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn history_is_a_plain_look_at_usage(
        pushes in proptest::collection::vec((points(), any::<bool>(), 0_i64..400_000, any::<bool>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open();
            for (points, flush, ago, past) in pushes {
                push(&store, &points).await;
                if flush {
                    store.store.flush(TimeMs(NOW.0 + 3_600_000)).await.unwrap();
                }
                // The present, then perhaps a replay, for a half-life that is kept up and for one that is not.
                let past = if past { vec![NOW.0, NOW.0 - ago, NOW.0 - ago / 2] } else { vec![NOW.0] };
                for now in past {
                    for half_life_s in [86_400, 3_600] {
                        let (found, plain) = (history(&store, half_life_s, now).await, usage(&store, now).await);
                        prop_assert_eq!(found.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
                        for (container, points) in &plain {
                            check(&found[container], points, half_life_s, now)?;
                        }
                    }
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_replay_gives_the_same_to_the_last_bit_as_the_present_gave() {
    let store = open();
    let mut given = Vec::new();
    for minute in 0..30 {
        let now = NOW.0 - (30 - minute) * 60_000;
        let points: Vec<Point> =
            (0..60).map(|second| (0, NOW.0 - now - second * 1_000, (minute * 7 + second * 3) as f64 / 11.0)).collect();
        push(&store, &points).await;
        given.push((now, history(&store, 86_400, now).await));
    }
    for (now, given) in &given {
        // Each an instant before the one that the state of the present stands at.
        assert_eq!(history(&store, 86_400, *now).await, *given);
    }
}

#[tokio::test]
async fn a_state_is_read_once_and_then_only_followed() {
    let store = open();
    let mut batch = SampleBatch::new();
    for container in 0..100 {
        let name = format!("c{container}");
        let key = series("tidegate.usage", &[("host", "h"), ("container", &name), ("resource", "cpu")]);
        for second in 0..1_000 {
            batch.push(key.clone(), TimeMs(NOW.0 - second * 10_000), f64::from((second % 50) as u32) / 10.0);
        }
    }
    store.store.append(&batch, NOW).await.unwrap();
    let sql = "SELECT count(*), sum(samples) FROM history(86400)";
    for way in ["first", "then"] {
        let began = std::time::Instant::now();
        assert_eq!(store.rows(sql).await, "[[100,100000]]");
        println!("history of 100 containers x 1,000 samples, {way}: {:?}", began.elapsed());
    }
    assert!(store.store.history.is_behind(TimeMs(NOW.0 + 600_000)));
    store.store.history.catch_up(&store.store, TimeMs(NOW.0 + 600_000)).unwrap();
    assert!(!store.store.history.is_behind(TimeMs(NOW.0 + 600_000)));
    assert_eq!(store.rows(sql).await, "[[100,100000]]");
}
