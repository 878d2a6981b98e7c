//! Segments in an object store, here a second directory.

use super::keep::rule;
use super::*;
use crate::{ObjectStoreConfig, StoreError, restore_uploaded};

fn bucket(dir: &Path) -> ObjectStoreConfig {
    ObjectStoreConfig { url: format!("file://{}", dir.display()), ..ObjectStoreConfig::default() }
}

fn remote_config(dir: &Path, bucket_dir: &Path, local_cache_bytes: Option<u64>) -> StoreConfig {
    StoreConfig { object_store: Some(bucket(bucket_dir)), local_cache_bytes, ..config(dir) }
}

/// Three segments of samples, one of decisions.
async fn fill(store: &Store) {
    for round in 0..3 {
        store.append(&batch(&[("a", round, round as f64), ("b", round, -1.0)]), NOW).await.unwrap();
        if round == 1 {
            store.append_decisions(&[decision("1", 0, 1.0)]).await.unwrap();
        }
        store.flush(NOW).await.unwrap();
    }
    store.put_rules(vec![rule("r", 3)]).unwrap();
}

fn local(dir: &Path) -> usize {
    files(&dir.join("segments")).len()
}

#[tokio::test]
async fn uploaded_segments_rebuild_a_lost_store() {
    let dir = tempfile::tempdir().unwrap();
    let (live, away, new) = (dir.path().join("live"), dir.path().join("away"), dir.path().join("new"));
    let store = Store::open(remote_config(&live, &away, None), NOW).unwrap();
    fill(&store).await;
    let report = store.upload().await.unwrap();
    assert_eq!((report.uploaded, report.catalog, report.dropped), (4, true, 0));
    assert_eq!(store.upload().await.unwrap(), Default::default(), "nothing is new");
    let all = everything(&store);
    // In the log only, and so on this machine only.
    store.append(&batch(&[("late", 9, 9.0)]), NOW).await.unwrap();
    drop(store);

    restore_uploaded(&bucket(&away), &new, |_, _| {}).unwrap();
    let store = Store::open(remote_config(&new, &away, None), NOW).unwrap();
    assert_eq!(everything(&store), all);
    assert_eq!(store.rules(), [rule("r", 3)]);
    assert_eq!(store.scan_decisions(0, i64::MAX).unwrap().len(), 1);
    // It goes on where the lost one was.
    store.append(&batch(&[("c", 9, 9.0)]), NOW).await.unwrap();
    store.flush(NOW).await.unwrap();
    assert_eq!(store.upload().await.unwrap().uploaded, 1);
    assert_eq!(local(&away), 5);
}

#[tokio::test]
async fn old_segments_leave_the_directory_and_come_back_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (live, away) = (dir.path().join("live"), dir.path().join("away"));
    let config = remote_config(&live, &away, Some(1));
    let store = Store::open(config.clone(), NOW).unwrap();
    fill(&store).await;
    let all = everything(&store);
    assert_eq!(store.upload().await.unwrap().dropped, 4);
    assert_eq!(local(&live), 0);
    assert_eq!(everything(&store), all);
    assert_eq!(local(&live), 3, "decisions were not asked for");
    drop(store);
    for path in files(&live.join("segments")) {
        fs::remove_file(path).unwrap();
    }
    let store = Store::open(config.clone(), NOW).unwrap();
    let report = crate::check(&live, |_, _, _| {}).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(everything(&store), all);
    // A backup has them all, wherever they are.
    let copy = dir.path().join("backup");
    store.upload().await.unwrap();
    store.snapshot(NOW).await.unwrap().write_to(&copy, |_| {}).unwrap();
    assert!(crate::check(&copy, |_, _, _| {}).unwrap().is_intact());
    crate::restore(&copy, &dir.path().join("restored"), |_, _| {}).unwrap();
    assert_eq!(everything(&open(&dir.path().join("restored"))), all);
    drop(store);

    // What came back with other bytes is not taken for the segment, and is named.
    for path in files(&live.join("segments")) {
        fs::remove_file(path).unwrap();
    }
    let damaged = files(&away.join("segments")).into_iter().find(|path| path.ends_with("00000001-samples.parquet"));
    let damaged = damaged.unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[9] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let store = Store::open(config, NOW).unwrap();
    let wanted = Wanted { metric: "cpu", series: None, from: i64::MIN, to: i64::MAX };
    let error = store.scan(&wanted).unwrap_err().to_string();
    assert!(error.contains("00000001-samples.parquet") && error.contains("checksum"), "{error}");
    drop(store);
    let error =
        Store::open(StoreConfig { object_store: None, ..remote_config(&live, &away, None) }, NOW).err().unwrap();
    assert!(matches!(&error, StoreError::RemoteOnly { .. }) && error.to_string().contains("away"), "{error}");
}

#[tokio::test]
async fn what_the_retention_removes_goes_from_the_object_store_after_its_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let (live, away) = (dir.path().join("live"), dir.path().join("away"));
    let config = StoreConfig { retention_s: 100, max_past_s: Some(1_000), ..remote_config(&live, &away, Some(0)) };
    let store = Store::open(config.clone(), NOW).unwrap();
    store.append(&batch(&[("old", 0, 1.0)]), NOW).await.unwrap();
    store.flush(NOW).await.unwrap();
    assert_eq!(store.upload().await.unwrap().uploaded, 1);
    let later = TimeMs(NOW.0 + 200_000);
    store.append(&batch(&[("new", 200_000, 2.0)]), later).await.unwrap();
    assert_eq!(store.flush(later).await.unwrap().segments_removed, 1);
    let report = store.upload().await.unwrap();
    assert_eq!((report.uploaded, report.deleted), (1, 1));
    assert_eq!(local(&away), 1);
    // Left over by a crash between upload and catalog.
    drop(store);
    fs::write(away.join("segments/00000009-samples.parquet"), "x").unwrap();
    let store = Store::open(config, later).unwrap();
    assert_eq!(store.upload().await.unwrap().deleted, 1);
    assert_eq!(everything(&store), expected(&[("new", 200_000, 2.0)]));
}

#[tokio::test]
async fn a_prefix_that_belongs_to_another_store_is_left_alone_and_ingest_goes_on_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("away");
    let first = Store::open(remote_config(&dir.path().join("one"), &away, None), NOW).unwrap();
    fill(&first).await;
    first.upload().await.unwrap();
    let second = Store::open(remote_config(&dir.path().join("two"), &away, None), NOW).unwrap();
    fill(&second).await;
    let error = second.upload().await.unwrap_err().to_string();
    assert!(error.contains("belongs to another store") && error.contains("choose another prefix"), "{error}");
    assert_eq!(everything(&second).len(), 6);
    let unknown = ObjectStoreConfig { url: "ftp://x".to_owned(), ..ObjectStoreConfig::default() };
    let config = StoreConfig { object_store: Some(unknown), ..config(&dir.path().join("three")) };
    let error = Store::open(config, NOW).err().unwrap().to_string();
    assert!(error.contains("'ftp://x' cannot be used"), "{error}");
}
