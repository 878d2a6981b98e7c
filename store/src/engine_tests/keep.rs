//! Backups, restoring them, and checking what is on disk.

use tidegate_model::Mode;

use super::*;
use crate::{FindingStatus, RuleRow, Snapshot, StoreError, check, receive, restore};

pub(super) fn rule(name: &str, version: u32) -> RuleRow {
    RuleRow {
        name: name.to_owned(),
        sql: format!("CREATE RULE {name} AS SELECT 1"),
        query: "SELECT 1".to_owned(),
        version,
        mode: Mode::Shadow,
        class: "protect".to_owned(),
        every_ms: 1_000,
        options: BTreeMap::new(),
        created_by: "me".to_owned(),
        updated_at: NOW,
        note: None,
        last_run: None,
        last_latency_ms: None,
        last_rows: None,
        last_error: None,
    }
}

/// A store with something of every kind: in segments, in the log, and facts.
async fn filled(dir: &Path) -> Arc<Store> {
    let store = open(dir);
    store.append(&batch(&[("a", 0, 1.0), ("b", 1, 2.0)]), NOW).await.unwrap();
    store.append_decisions(&[decision("1", 0, 1.0)]).await.unwrap();
    store.append_events(&[event("x", 0)]).await.unwrap();
    store.flush(NOW).await.unwrap();
    store.append(&batch(&[("a", 2, 3.0), ("c", 3, 4.0)]), NOW).await.unwrap();
    store.append_decisions(&[decision("2", 1, 1.0)]).await.unwrap();
    store.put_rules(vec![rule("r", 3)]).unwrap();
    store
}

fn assert_filled(store: &Store) {
    assert_eq!(everything(store), expected(&[("a", 0, 1.0), ("a", 2, 3.0), ("b", 1, 2.0), ("c", 3, 4.0)]));
    let ids: Vec<_> = store.scan_decisions(0, i64::MAX).unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["1", "2"]);
    assert_eq!(store.scan_events(0, i64::MAX).unwrap(), [event("x", 0)]);
    assert_eq!(store.rules(), [rule("r", 3)]);
}

fn checked(dir: &Path) -> crate::CheckReport {
    check(dir, |_, done, all| assert!(done <= all)).unwrap()
}

/// Every file of a directory with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for path in files(dir) {
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

async fn backup_of(store: &Store, target: &Path) {
    let snapshot = store.snapshot(NOW).await.unwrap();
    let mut stream = Vec::new();
    let sent = snapshot
        .stream(|piece| {
            stream.extend(piece);
            true
        })
        .unwrap();
    let received = receive(stream.as_slice(), target, |done, all| assert!(done <= all)).unwrap();
    assert_eq!(sent, received);
}

#[tokio::test]
async fn a_backup_of_a_running_store_has_everything_acknowledged_before_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let target = dir.path().join("backup");
    backup_of(&store, &target).await;
    store.append(&batch(&[("later", 9, 9.0)]), NOW).await.unwrap();

    let report = checked(&target);
    assert!(report.backup && report.is_intact(), "{report:?}");
    let before = contents(&target);
    for name in ["one", "two"] {
        let restored = dir.path().join(name);
        restore(&target, &restored, |done, all| assert!(done <= all)).unwrap();
        let report = checked(&restored);
        assert!(report.is_intact() && report.in_use.is_none(), "{report:?}");
        let store = open(&restored);
        assert_filled(&store);
        assert!(checked(&restored).in_use.unwrap().contains("pid"));
        // It is a store like any other from here on.
        store.append(&batch(&[("d", 4, 5.0)]), NOW).await.unwrap();
        store.flush(NOW).await.unwrap();
        assert_eq!(everything(&store).len(), 5);
    }
    assert_eq!(contents(&target), before, "restoring, checking and using the copies changed the backup");
}

#[tokio::test]
async fn a_backup_of_a_stopped_store_keeps_its_log_and_leaves_the_directory_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (live, target) = (dir.path().join("data/store"), dir.path().join("backup"));
    let store = filled(&live).await;
    let in_use = Snapshot::of_directory(&live, NOW).err().unwrap();
    assert!(matches!(in_use, StoreError::Locked { .. }), "{in_use}");
    drop(store);
    let mut before = contents(&live);
    // A server's data directory, of which the store is a part.
    Snapshot::of_directory(&dir.path().join("data"), NOW).unwrap().write_to(&target, |_| {}).unwrap();
    let mut after = contents(&live);
    before.remove(&live.join("LOCK"));
    after.remove(&live.join("LOCK"));
    assert_eq!(before, after);
    assert!(checked(&target).is_intact());
    let restored = dir.path().join("restored");
    restore(&target, &restored, |_, _| {}).unwrap();
    assert_filled(&open(&restored));
}

#[tokio::test]
async fn targets_that_hold_something_are_refused_and_backups_are_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.tex"), "x").unwrap();
    let error = store.snapshot(NOW).await.unwrap().write_to(&taken, |_| {}).unwrap_err();
    assert!(matches!(&error, StoreError::NotEmpty { found, .. } if found == "thesis.tex"), "{error}");

    let target = dir.path().join("backup");
    store.snapshot(NOW).await.unwrap().write_to(&target, |_| {}).unwrap();
    assert!(matches!(restore(&target, &taken, |_, _| {}).unwrap_err(), StoreError::NotEmpty { .. }));
    assert_eq!(files(&taken).len(), 1);
    let error = Store::open(config(&target), NOW).err().unwrap();
    assert!(error.to_string().contains("tidegate restore"), "{error}");
    let error = restore(&taken, &dir.path().join("new"), |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("no complete backup"), "{error}");
    assert!(matches!(check(&taken, |_, _, _| {}).unwrap_err(), StoreError::NotAStore { .. }));
}

#[tokio::test]
async fn a_stream_that_breaks_off_anywhere_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let mut stream = Vec::new();
    store
        .snapshot(NOW)
        .await
        .unwrap()
        .stream(|piece| {
            stream.extend(piece);
            true
        })
        .unwrap();
    let target = dir.path().join("backup");
    for end in (0..stream.len()).step_by(97).chain([stream.len() - 1]) {
        let error = receive(&stream[..end], &target, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("run `tidegate backup` again"), "{error}");
        assert_eq!(files(&target), Vec::<PathBuf>::new(), "cut at {end}");
    }
    // A changed byte of a file's content arrives as a wrong checksum.
    let at = stream.windows(4).position(|window| window == b"PAR1").unwrap() + 10;
    stream[at] ^= 1;
    let error = receive(stream.as_slice(), &target, |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("did not arrive as it was sent"), "{error}");
}

#[tokio::test]
async fn a_damaged_backup_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let target = dir.path().join("backup");
    backup_of(&store, &target).await;
    for path in contents(&target).into_keys() {
        let good = fs::read(&path).unwrap();
        for (what, bad) in [("cut", good[..good.len() - 1].to_vec()), ("flipped", flipped(&good, good.len() / 2))] {
            fs::write(&path, bad).unwrap();
            let restored = dir.path().join("restored");
            let error = restore(&target, &restored, |_, _| {}).unwrap_err().to_string();
            assert!(
                error.contains(&*path.file_name().unwrap().to_string_lossy()),
                "{what} {}: {error}",
                path.display()
            );
            assert!(!restored.exists());
            let report = checked(&target);
            let named = |finding: &crate::Finding| path.ends_with(&finding.file) && finding.offset.is_some();
            assert!(!report.is_intact(), "{what} {}", path.display());
            assert!(report.findings.iter().any(|f| f.status == FindingStatus::Damaged && named(f)), "{report:?}");
        }
        fs::write(&path, good).unwrap();
    }
    assert!(checked(&target).is_intact());
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x20;
    bytes
}

#[tokio::test]
async fn a_restore_that_was_cut_off_is_never_taken_for_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let target = dir.path().join("backup");
    backup_of(&store, &target).await;
    let restored = dir.path().join("restored");
    restore(&target, &restored, |_, _| {}).unwrap();
    // As it is before the last step.
    fs::write(restored.join("RESTORING"), "").unwrap();
    for error in [
        Store::open(config(&restored), NOW).err().unwrap(),
        restore(&target, &restored, |_, _| {}).unwrap_err(),
        check(&restored, |_, _, _| {}).unwrap_err(),
    ] {
        assert!(error.to_string().contains("run `tidegate restore` again"), "{error}");
    }
}

#[tokio::test]
async fn a_check_names_what_is_damaged_and_what_that_costs() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    drop(store);
    assert!(checked(dir.path()).is_intact());
    let segment =
        files(&dir.path().join("segments")).into_iter().find(|path| path.ends_with("00000001-samples.parquet"));
    let segment = segment.unwrap();
    let good = fs::read(&segment).unwrap();
    fs::write(&segment, flipped(&good, 6)).unwrap();
    let wal = files(&dir.path().join("wal")).pop().unwrap();
    let log = fs::read(&wal).unwrap();
    fs::write(&wal, flipped(&log, 20)).unwrap();
    let report = checked(dir.path());
    let damaged: Vec<_> = report.findings.iter().filter(|f| f.status == FindingStatus::Damaged).collect();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert_eq!((damaged[0].offset, damaged[0].file.starts_with("wal/")), (Some(0), true), "{damaged:?}");
    assert!(damaged[1].lost.contains("2 samples from 2027-01-15T08:00:00Z"), "{damaged:?}");

    // The end of a write that a crash cut off is no damage, a segment that is not there is.
    fs::write(&wal, &log[..log.len() - 3]).unwrap();
    fs::write(&segment, good).unwrap();
    let report = checked(dir.path());
    assert!(report.is_intact(), "{report:?}");
    assert!(report.findings.iter().any(|f| f.status == FindingStatus::Torn), "{report:?}");
    fs::remove_file(&segment).unwrap();
    let report = checked(dir.path());
    assert!(report.findings.iter().any(|f| f.status == FindingStatus::Missing && f.lost.contains("2 samples")));
}
