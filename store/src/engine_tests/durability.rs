//! What crashes, torn files and damaged bytes cost.

use std::io::BufRead;

use super::*;

#[tokio::test]
async fn acknowledged_samples_survive_a_drop_without_close_in_every_durability() {
    for durability in [Durability::None, Durability::Interval, Durability::Fsync] {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { durability, ..config(dir.path()) };
        let store = Store::open(config.clone(), NOW).unwrap();
        store.append(&batch(&[("a", 0, 1.0), ("b", 0, 2.0)]), NOW).await.unwrap();
        store.append(&batch(&[("a", 1, 3.0)]), NOW).await.unwrap();
        drop(store);
        let store = Store::open(config, NOW).unwrap();
        assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("a", 1, 3.0), ("b", 0, 2.0)]));
        assert_eq!(store.stats().series, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_fsync_writers_all_keep_their_samples() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { durability: Durability::Fsync, ..config(dir.path()) };
    let store = Store::open(config.clone(), NOW).unwrap();
    let writers: Vec<_> = (0..20i64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for step in 0..10 {
                    let rows = [("a", writer * 10 + step, writer as f64)];
                    store.append(&batch(&rows), NOW).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    drop(store);
    assert_eq!(everything(&Store::open(config, NOW).unwrap()).len(), 200);
}

#[tokio::test]
async fn a_torn_end_of_the_log_costs_only_the_last_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    let log = files(&dir.path().join("wal")).pop().unwrap();
    let intact = fs::metadata(&log).unwrap().len() as usize;
    store.append(&batch(&[("a", 1, 2.0)]), NOW).await.unwrap();
    drop(store);
    let bytes = fs::read(&log).unwrap();
    for end in intact..bytes.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir_all(copy.path().join("wal")).unwrap();
        for name in ["catalog.json", "series.log"] {
            fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        fs::write(copy.path().join("wal").join(log.file_name().unwrap()), &bytes[..end]).unwrap();
        let store = open(copy.path());
        assert_eq!(everything(&store), expected(&[("a", 0, 1.0)]), "cut at {end}");
        // Writing goes on behind the tear.
        store.append(&batch(&[("a", 2, 3.0)]), NOW).await.unwrap();
        drop(store);
        assert_eq!(everything(&open(copy.path())), expected(&[("a", 0, 1.0), ("a", 2, 3.0)]));
    }
}

#[tokio::test]
async fn a_damaged_series_definition_in_one_log_is_covered_by_the_other() {
    for damaged in ["wal/00000001.wal", "series.log"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
        store.append(&batch(&[("a", 1, 2.0), ("b", 1, 3.0)]), NOW).await.unwrap();
        drop(store);
        let path = dir.path().join(damaged);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 0xff; // the payload of the first record, which defines series a
        fs::write(&path, bytes).unwrap();
        let all = expected(&[("a", 0, 1.0), ("a", 1, 2.0), ("b", 1, 3.0)]);
        assert_eq!(everything(&open(dir.path())), all, "{damaged}");
        assert_eq!(everything(&open(dir.path())), all, "{damaged}, again");
    }
}

#[tokio::test]
async fn a_lost_series_log_is_restored_from_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    store.append(&batch(&[("b", 0, 2.0)]), NOW).await.unwrap();
    store.flush(NOW).await.unwrap();
    drop(store);
    let path = dir.path().join("series.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path());
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("b", 0, 2.0)]));
    store.append(&batch(&[("c", 0, 3.0)]), NOW).await.unwrap();
    assert_eq!(store.stats().series, 3);
}

#[tokio::test]
async fn a_crash_between_segment_and_catalog_loses_and_duplicates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    store.append_events(&[event("x", 0)]).await.unwrap();
    let log = files(&dir.path().join("wal")).pop().unwrap();
    let (catalog, bytes) = (fs::read(dir.path().join("catalog.json")).unwrap(), fs::read(&log).unwrap());
    store.flush(NOW).await.unwrap();
    drop(store);
    let after = fs::read(dir.path().join("catalog.json")).unwrap();

    // Before the catalog was replaced: the log is there, the segments are nobody's.
    fs::write(dir.path().join("catalog.json"), catalog).unwrap();
    fs::write(&log, &bytes).unwrap();
    let store = open(dir.path());
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0)]));
    assert_eq!(store.scan_events(0, i64::MAX).unwrap().len(), 1);
    assert_eq!(files(&dir.path().join("segments")), Vec::<PathBuf>::new());
    store.flush(NOW).await.unwrap();
    drop(store);

    // After it was replaced: the log is still there, but below the floor.
    assert!(fs::read(dir.path().join("catalog.json")).unwrap().len() >= after.len());
    fs::write(&log, &bytes).unwrap();
    let store = open(dir.path());
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0)]));
    assert_eq!(store.scan_events(0, i64::MAX).unwrap().len(), 1);
    assert_eq!(store.stats().hot_samples, 0);
}

/// Names the data directory to the process that [`acknowledged_samples_survive_kill_9`] kills.
const KILLED_DIR: &str = "TIDEGATE_TEST_KILLED_DIR";

/// Not a test by itself: appends and flushes until it is killed, and prints each acknowledged time.
#[tokio::test]
async fn process_to_kill() {
    let Some(dir) = std::env::var_os(KILLED_DIR) else { return };
    let store = open(Path::new(&dir));
    let first = everything(&store).len() as i64;
    for time in first.. {
        store.append(&batch(&[("a", time, time as f64)]), NOW).await.unwrap();
        println!("acknowledged {time}");
        if time % 40 == 0 {
            store.flush(NOW).await.unwrap();
        }
    }
}

#[test]
fn acknowledged_samples_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine_tests::durability::process_to_kill", "--nocapture"])
            .env(KILLED_DIR, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = |line: String| line.split("acknowledged ").nth(1)?.parse::<i64>().ok();
        let some: Vec<i64> = lines.by_ref().map_while(Result::ok).filter_map(acknowledged).take(90 + round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.map_while(Result::ok).filter_map(acknowledged).last().or(some.last().copied()).unwrap();
        let rows = everything(&open(dir.path()));
        assert!(rows.len() as i64 > last, "{} samples, {last} was acknowledged", rows.len());
        assert!((0..).zip(&rows).all(|(at, (_, time, value))| *time == at && *value == at as f64));
    }
}

#[tokio::test]
async fn a_start_with_nothing_new_writes_no_catalog() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let config = || StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let file = || std::fs::metadata(dir.path().join("catalog.json")).unwrap().ino();
    drop(Store::open(config(), NOW).unwrap());
    let first = file();
    // On a disk that is full there is no room for another one.
    drop(Store::open(config(), NOW).unwrap());
    assert_eq!(file(), first);
}
