//! Moving from memory to segments, and out of them again.

use super::*;

#[tokio::test]
async fn a_flush_moves_samples_to_a_segment_and_drops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows = [("a", -5, 1.0), ("b", 0, 2.0), ("a", 3, 3.0)];
    store.append(&batch(&rows), NOW).await.unwrap();
    let report = store.flush(NOW).await.unwrap();
    assert_eq!((report.samples, report.wal_files_removed), (3, 1));
    let stats = store.stats();
    assert_eq!((stats.hot_samples, stats.segments, stats.wal_bytes), (0, 1, 0));
    let all = expected(&[("a", -5, 1.0), ("a", 3, 3.0), ("b", 0, 2.0)]);
    assert_eq!(everything(&store), all);
    drop(store);
    let store = open(dir.path());
    assert_eq!(everything(&store), all);
    assert_eq!(stored(&store, "cpu", 0, 2).len(), 1);
    assert_eq!(stored(&store, "unknown", 0, 2).len(), 0);
    assert_eq!(store.flush(NOW).await.unwrap(), Default::default());
}

#[tokio::test]
async fn an_aged_flush_leaves_recent_arrivals_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { hot_s: 60, ..config(dir.path()) }, NOW).unwrap();
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    assert_eq!(store.flush_aged(NOW).await.unwrap().samples, 0);
    let later = TimeMs(NOW.0 + 60_000);
    store.append(&batch(&[("a", 60_000, 2.0)]), later).await.unwrap();
    assert_eq!(store.flush_aged(later).await.unwrap().samples, 1);
    assert_eq!(store.stats().hot_samples, 1);
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("a", 60_000, 2.0)]));
}

#[tokio::test]
async fn the_last_write_wins_also_across_flushes_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&batch(&[("a", 5, 1.0), ("a", 0, 1.5), ("a", 5, 2.0)]), NOW).await.unwrap();
    assert_eq!(everything(&store), expected(&[("a", 0, 1.5), ("a", 5, 2.0)]));
    store.flush(NOW).await.unwrap();
    store.append(&batch(&[("a", 5, 3.0)]), NOW).await.unwrap();
    assert_eq!(everything(&store), expected(&[("a", 0, 1.5), ("a", 5, 3.0)]));
    store.flush(NOW).await.unwrap();
    assert_eq!(everything(&store), expected(&[("a", 0, 1.5), ("a", 5, 3.0)]));
    drop(store);
    assert_eq!(everything(&open(dir.path())), expected(&[("a", 0, 1.5), ("a", 5, 3.0)]));
}

#[tokio::test]
async fn retention_removes_old_segments_their_files_and_then_their_series() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { retention_s: 100, ..config(dir.path()) };
    let store = Store::open(config.clone(), NOW).unwrap();
    store.append(&batch(&[("old", 0, 1.0)]), NOW).await.unwrap();
    store.append_decisions(&[decision("1", 0, 1.0)]).await.unwrap();
    store.flush(NOW).await.unwrap();
    let later = TimeMs(NOW.0 + 90_000);
    store.append(&batch(&[("new", 90_000, 2.0)]), later).await.unwrap();
    assert_eq!(store.flush(later).await.unwrap().segments_removed, 0);
    let report = store.flush(TimeMs(NOW.0 + 101_000)).await.unwrap();
    assert_eq!((report.segments_removed, report.series_removed), (2, 1));
    assert_eq!(files(&dir.path().join("segments")).len(), 1);
    assert_eq!(everything(&store), expected(&[("new", 90_000, 2.0)]));
    assert_eq!(store.scan_decisions(0, i64::MAX).unwrap(), []);
    drop(store);
    let store = Store::open(config, NOW).unwrap();
    assert_eq!(everything(&store), expected(&[("new", 90_000, 2.0)]));
    assert_eq!(store.stats().series, 1);
    // The forgotten series' id is not given to another.
    store.append(&batch(&[("third", 95_000, 2.0)]), later).await.unwrap();
    assert_eq!(store.series_of("cpu", i64::MIN).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_scan_that_began_before_the_retention_can_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { retention_s: 100, ..config(dir.path()) }, NOW).unwrap();
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    store.flush(NOW).await.unwrap();
    let segments = store.data.read().segments.clone();
    store.flush(TimeMs(NOW.0 + 200_000)).await.unwrap();
    let mut rows = Vec::new();
    assert!(
        segments.0[0].read_samples(&Wanted { metric: "cpu", series: None, from: 0, to: i64::MAX }, &mut rows).unwrap()
    );
    drop(segments);
    assert_eq!(files(&dir.path().join("segments")).len(), 0);
}

#[tokio::test]
async fn a_metric_that_fills_many_row_groups_is_read_by_time_and_apart_from_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = SampleBatch::new();
    for time in 0..150_000 {
        batch.push(key("cpu", "a"), TimeMs(NOW.0 + time), time as f64);
        if time % 3 == 0 {
            batch.push(key("aaa", "a"), TimeMs(NOW.0 + time), -1.0);
            batch.push(key("zzz", "a"), TimeMs(NOW.0 + time), -2.0);
        }
    }
    assert_eq!(store.append(&batch, NOW).await.unwrap().accepted, 250_000);
    store.flush(NOW).await.unwrap();
    for (from, to) in [(0, 149_999), (0, 0), (65_530, 65_545), (149_999, 149_999), (100, 99)] {
        let rows = stored(&store, "cpu", from, to);
        assert_eq!(rows.len() as i64, to - from + 1);
        assert!(rows.iter().all(|((_, time), value)| *value == *time as f64));
        assert!(stored(&store, "zzz", from, to).values().all(|value| *value == -2.0));
    }
    assert_eq!(stored(&store, "aaa", 0, 149_999).len(), 50_000);
}

#[tokio::test]
async fn maintenance_flushes_what_is_old_enough_and_closes_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { hot_s: 0, flush_every_s: 1, durability: Durability::Interval, ..config(dir.path()) };
    let store = Store::open(config, NOW).unwrap();
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let clock = Arc::new(tidegate_model::VirtualClock::new(NOW));
    let running = tokio::spawn(store.clone().maintain(clock, shutdown.clone()));
    while store.stats().segments == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0)]));
    shutdown.cancel();
    running.await.unwrap();
    // Whoever held the store for maintenance has let go of it.
    assert_eq!(Arc::strong_count(&store), 1);
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn the_number_of_a_flush_that_failed_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    let in_the_way = dir.path().join("catalog.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    store.flush(NOW).await.unwrap_err();
    assert_eq!(files(&dir.path().join("segments")), Vec::<PathBuf>::new(), "what nobody names takes no room");
    fs::remove_dir(&in_the_way).unwrap();
    store.append(&batch(&[("a", 1, 2.0)]), NOW).await.unwrap();
    store.flush(NOW).await.unwrap();
    let written = files(&dir.path().join("segments"));
    assert!(written.len() == 1 && written[0].ends_with("00000002-samples.parquet"), "{written:?}");
    drop(store);
    assert_eq!(everything(&open(dir.path())), expected(&[("a", 0, 1.0), ("a", 1, 2.0)]));
}
