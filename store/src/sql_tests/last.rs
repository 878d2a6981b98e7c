//! `last(metric)` shows no sample that the metric's own table does not show.

use tidegate_model::{SampleBatch, TimeMs};

use super::{NOW, TestStore, open_with, series};
use crate::{RetentionRule, StoreConfig};

const HOUR_MS: i64 = 3_600_000;

async fn counts(store: &TestStore) -> Vec<String> {
    let mut counts = Vec::new();
    for metric in ["short.lived", "kept"] {
        for table in [format!("last('{metric}', INTERVAL '6 hours')"), format!("metric.\"{metric}\"")] {
            counts.push(store.rows(&format!("SELECT count(value) FROM {table}")).await);
        }
    }
    counts
}

#[tokio::test]
async fn what_the_retention_of_a_metric_hides_is_not_its_newest_sample() {
    let rule = RetentionRule { prefix: "short.".to_owned(), max_age_s: Some(3_600), max_bytes: None };
    let store = open_with(StoreConfig { retention: vec![rule], ..StoreConfig::default() });
    let push = async |ago: i64, now: TimeMs| {
        let mut batch = SampleBatch::new();
        ["short.lived", "kept"].iter().for_each(|metric| batch.push(series(metric, &[]), TimeMs(NOW.0 - ago), 1.0));
        store.store.append(&batch, now).await.unwrap();
    };
    push(3 * HOUR_MS, TimeMs(NOW.0 - 3 * HOUR_MS)).await;
    assert_eq!(counts(&store).await, ["[[1]]"; 4]);
    store.store.flush(NOW).await.unwrap();
    assert_eq!(counts(&store).await, ["[[0]]", "[[0]]", "[[1]]", "[[1]]"]);
    // One that is late is in memory, but no less old.
    push(2 * HOUR_MS, NOW).await;
    assert_eq!(counts(&store).await, ["[[0]]", "[[0]]", "[[1]]", "[[2]]"]);
    push(60_000, NOW).await;
    assert_eq!(counts(&store).await, ["[[1]]", "[[1]]", "[[1]]", "[[3]]"]);
}

#[tokio::test]
async fn who_asks_for_one_series_after_a_start_does_not_hide_the_others() {
    let store = open_with(StoreConfig::default());
    let mut batch = SampleBatch::new();
    for host in ["a", "b"] {
        batch.push(series("load", &[("host", host)]), TimeMs(NOW.0 - 60_000), 1.0);
    }
    store.store.append(&batch, NOW).await.unwrap();
    store.store.flush(NOW).await.unwrap();
    let store = store.reopened().await;
    let newest = "SELECT last(value, time) FROM metric.load WHERE host = 'a' AND time > now() - INTERVAL '1 hour'";
    assert_eq!(store.rows(newest).await, "[[1.0]]");
    assert_eq!(store.rows("SELECT host FROM last('load', INTERVAL '1 hour') ORDER BY host").await, r#"[["a"],["b"]]"#);
}
