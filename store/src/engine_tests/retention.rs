//! Retention by age and by size, for some metrics or for all.

use super::*;
use crate::RetentionRule;

const HOUR: i64 = 3_600_000;

fn rule(prefix: &str, max_age_s: Option<u64>, max_bytes: Option<u64>) -> RetentionRule {
    RetentionRule { prefix: prefix.to_owned(), max_age_s, max_bytes }
}

fn after(hours: i64) -> TimeMs {
    TimeMs(NOW.0 + hours * HOUR)
}

/// One sample of each metric at each of the hours, and a flush after each hour.
async fn fill(store: &Store, metrics: &[&str], hours: std::ops::Range<i64>) {
    for hour in hours {
        let mut batch = SampleBatch::new();
        for metric in metrics {
            batch.push(key(metric, "a"), TimeMs(after(hour).0 + 1), 1.0);
        }
        assert_eq!(store.append(&batch, after(hour)).await.unwrap().rejected, vec![]);
        store.flush(after(hour)).await.unwrap();
    }
}

fn hours(store: &Store, metric: &str) -> Vec<i64> {
    stored(store, metric, 0, 1_000 * HOUR).into_keys().map(|(_, time)| time / HOUR).collect()
}

#[tokio::test]
async fn a_prefix_may_have_an_age_of_its_own_which_hides_at_once_and_frees_bytes_with_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let retention = vec![rule("proc.", Some(7_200), None), rule("proc.mem", Some(1_000_000), None)];
    let config = StoreConfig { retention, retention_s: 36_000, ..config(dir.path()) };
    let store = Store::open(config.clone(), NOW).unwrap();
    fill(&store, &["proc.cpu", "proc.mem", "sys"], 0..2).await;
    store.compact().await.unwrap();
    let rows = |store: &Store| store.data.read().segments.0.iter().map(|segment| segment.meta.rows).sum::<u64>();
    assert_eq!((hours(&store, "proc.cpu"), rows(&store)), (vec![0, 1], 6));

    store.flush(after(3)).await.unwrap();
    assert_eq!((hours(&store, "proc.cpu"), hours(&store, "sys")), (vec![1], vec![0, 1]));
    store.flush(after(4)).await.unwrap();
    assert_eq!((hours(&store, "proc.cpu"), rows(&store)), (vec![], 6));
    drop(store);
    let store = Store::open(config.clone(), after(4)).unwrap();
    assert_eq!(hours(&store, "proc.cpu"), Vec::<i64>::new());
    store.compact().await.unwrap();
    assert_eq!((hours(&store, "proc.cpu"), rows(&store)), (vec![], 4));

    // The longer prefix counts alone, also beyond what holds for all.
    store.flush(after(12)).await.unwrap();
    assert_eq!((hours(&store, "proc.mem"), hours(&store, "sys")), (vec![0, 1], vec![]));
    store.compact().await.unwrap();
    assert_eq!(rows(&store), 2);
}

#[tokio::test]
async fn beyond_a_size_the_oldest_partitions_go_first_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let unbounded = StoreConfig { partition_s: 3_600, ..config(dir.path()) };
    let store = Store::open(unbounded.clone(), NOW).unwrap();
    fill(&store, &["a.x", "b.x"], 0..4).await;
    store.append_events(&[event("x", 0)]).await.unwrap();
    store.flush(after(4)).await.unwrap();
    let each = store.data.read().segments.0.iter().find(|s| s.meta.min_time.0 > NOW.0).unwrap().meta.bytes;
    drop(store);

    let reopen = |config: StoreConfig| Store::open(config, after(4)).unwrap();
    let some = StoreConfig { retention: vec![rule("a.", None, Some(each + each / 4))], ..unbounded.clone() };
    let store = reopen(some);
    store.flush(after(4)).await.unwrap();
    assert_eq!((hours(&store, "a.x"), hours(&store, "b.x")), (vec![2, 3], vec![0, 1, 2, 3]));
    drop(store);

    let store = reopen(StoreConfig { max_bytes: Some(each * 5 / 2), ..unbounded.clone() });
    let report = store.flush(after(4)).await.unwrap();
    assert_eq!(report.segments_removed, 3, "two of samples, one of events");
    assert_eq!((hours(&store, "a.x"), hours(&store, "b.x")), (vec![2, 3], vec![2, 3]));
    assert_eq!(store.scan_events(0, i64::MAX).unwrap(), []);
    assert!(store.stats().segment_bytes <= each * 5 / 2);
    drop(store);

    let store = reopen(StoreConfig { max_bytes: Some(1), ..unbounded });
    store.flush(after(4)).await.unwrap();
    assert_eq!(hours(&store, "b.x"), [3]);
}

#[tokio::test]
async fn a_setting_that_makes_no_sense_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let config = StoreConfig { retention: vec![rule("a.", None, None)], ..config(&path) };
    let error = Store::open(config, NOW).err().unwrap().to_string();
    assert!(error.contains("store.retention[0] cannot be used: prefix 'a.' has neither max_age_s"), "{error}");
    assert!(!path.exists());
}
