//! Every single file operation fails once: what a full or broken disk costs, and that it is over when there is room again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ledger::{Ledger, check_catalog, ledger_config, make};
use super::*;
use crate::fault::{self, Fault};

/// Changes of a course: all kinds of them, several flushes, compactions, and retention.
const CHANGES: u64 = 40;

/// Makes changes `from..to`; gives how many failed.
async fn course(store: &Store, ledger: &mut Ledger, from: u64, to: u64) -> u64 {
    let mut failed = 0;
    for n in from..to {
        let outcome = make(store, n).await;
        if let Err(error) = &outcome {
            failed += 1;
            let text = error.to_string();
            assert!(text.contains("No space left on device") && text.contains("/"), "{text}");
        }
        ledger.note(n, outcome.is_ok());
    }
    failed
}

/// A directory whose syncs cost nothing, where there is one: here it is the failures that count, hundreds of courses of them.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The file operations of a course that all succeed.
async fn operations() -> u64 {
    let dir = memory_dir();
    let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
    fault::set(dir.path(), Fault::Once(u64::MAX));
    assert_eq!(course(&store, &mut Ledger::default(), 1, CHANGES).await, 0);
    fault::clear(dir.path())
}

#[tokio::test]
async fn whichever_file_operation_fails_nothing_acknowledged_is_lost_and_it_goes_on_by_itself() {
    let all = operations().await;
    assert!(all > 100, "{all} operations");
    for number in 1..=all {
        let dir = memory_dir();
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        let mut ledger = Ledger::default();
        fault::set(dir.path(), Fault::Once(number));
        let failed = course(&store, &mut ledger, 1, CHANGES).await;
        fault::clear(dir.path());
        assert!(failed <= 1, "operation {number} made {failed} changes fail");
        ledger.check(&store, &format!("operation {number}, before the restart"));
        drop(store);
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        ledger.check(&store, &format!("operation {number}"));
        check_catalog(&store, dir.path());
    }
    println!("{all} operations failed once each");
}

#[tokio::test]
async fn a_crash_at_any_file_operation_loses_nothing_that_was_acknowledged() {
    let all = operations().await;
    for number in 1..=all {
        let dir = memory_dir();
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        let mut ledger = Ledger::default();
        fault::set(dir.path(), Fault::From(number));
        for n in 1..CHANGES {
            let acknowledged = make(&store, n).await.is_ok();
            ledger.note(n, acknowledged);
            if !acknowledged {
                break;
            }
        }
        drop(store); // nothing that it does now reaches the disk
        fault::clear(dir.path());
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        ledger.check(&store, &format!("crash at operation {number}"));
        check_catalog(&store, dir.path());
    }
    println!("{all} crash points");
}

#[tokio::test]
async fn a_disk_that_stays_full_is_survived_and_left_behind_without_a_restart() {
    let all = operations().await;
    for number in (1..=all).step_by(3) {
        let dir = memory_dir();
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        let mut ledger = Ledger::default();
        fault::set(dir.path(), Fault::From(number));
        course(&store, &mut ledger, 1, CHANGES).await;
        ledger.check(&store, &format!("full from operation {number}"));
        fault::clear(dir.path());
        assert_eq!(course(&store, &mut ledger, CHANGES, CHANGES + 30).await, 0, "full from operation {number}");
        ledger.check(&store, &format!("full from operation {number}, room again"));
        drop(store);
        let store = Store::open(ledger_config(dir.path()), NOW).unwrap();
        ledger.check(&store, &format!("full from operation {number}, restarted"));
        check_catalog(&store, dir.path());
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_error_says_how_to_recover_and_a_restart_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { durability: Durability::Fsync, ..config(dir.path()) };
    let store = Store::open(config.clone(), NOW).unwrap();
    store.append(&batch(&[("a", 0, 1.0)]), NOW).await.unwrap();
    // The write is the first operation, the sync the second.
    fault::set(dir.path(), Fault::Once(2));
    store.append(&batch(&[("a", 1, 2.0)]), NOW).await.unwrap_err();
    fault::clear(dir.path());
    let error = store.append(&batch(&[("a", 2, 3.0)]), NOW).await.unwrap_err().to_string();
    assert!(error.contains("check the disk, then restart tidegate"), "{error}");
    assert!(everything(&store).contains(&("a".to_owned(), 0, 1.0)), "reading goes on");
    drop(store);
    let store = Store::open(config, NOW).unwrap();
    store.append(&batch(&[("a", 2, 3.0)]), NOW).await.unwrap();
    let rows = everything(&store);
    assert!(rows.contains(&("a".to_owned(), 0, 1.0)) && rows.contains(&("a".to_owned(), 2, 3.0)), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_holds_up_neither_appends_nor_reads() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { durability: Durability::Interval, ..config(dir.path()) };
    let store = Store::open(config, NOW).unwrap();
    store.append(&batch(&[("a", -1, 0.0)]), NOW).await.unwrap();
    let disk_hangs = Arc::new(AtomicBool::new(true));
    fault::set(dir.path(), Fault::HeldSync(disk_hangs.clone()));
    // The sync of each second hangs in the disk, and so does a flush.
    let sync = tokio::spawn({
        let store = store.clone();
        async move { store.commit.wait_for_all(&store.wal).await }
    });
    while store.commit.is_idle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let flush = tokio::spawn({
        let store = store.clone();
        async move { store.flush(NOW).await }
    });
    while store.catalog.try_lock().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for time in 0..200 {
        // Every fourth is a series that the series log has to define too.
        let host = if time % 4 == 0 { format!("new{time}") } else { "a".to_owned() };
        let rows = [(host.as_str(), time, time as f64)];
        let samples = batch(&rows);
        let append = store.append(&samples, NOW);
        let appended = tokio::time::timeout(Duration::from_secs(60), append).await;
        assert_eq!(appended.expect("an append waits for the disk").unwrap().accepted, 1);
        assert_eq!(everything(&store).len() as i64, time + 2);
        assert_eq!(store.stats().appended_total as i64, time + 2);
    }
    assert!(!sync.is_finished() && !flush.is_finished());
    disk_hangs.store(false, Ordering::Release);
    sync.await.unwrap().unwrap();
    flush.await.unwrap().unwrap();
    fault::clear(dir.path());
    assert_eq!(everything(&store).len(), 201);
}
