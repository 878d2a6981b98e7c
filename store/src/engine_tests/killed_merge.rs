//! A process that is killed in the middle of a compaction, again and again.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::ledger::check_catalog;
use super::*;

/// Names the data directory to the process that is killed.
const DIR: &str = "TIDEGATE_TEST_MERGE_DIR";
/// Names the first round that it makes.
const FIRST: &str = "TIDEGATE_TEST_MERGE_FIRST";
/// How long the test runs.
const SECONDS: u64 = 8;
/// Flushes of a round, which are then merged; hosts and samples of each flush.
const FLUSHES: i64 = 4;
const HOSTS: i64 = 20;
const SAMPLES: i64 = 100;

/// The samples of one flush of a round, some of which are written once more by the next one.
fn samples(round: i64, flush: i64) -> Vec<(String, i64, f64)> {
    let first = (round * FLUSHES + flush) * (SAMPLES - 1) * 1_000;
    let rows = (0..HOSTS).flat_map(|host| (0..SAMPLES).map(move |sample| (host, first + sample * 1_000)));
    rows.map(|(host, time)| (format!("h{host}"), time, (round * 7 + flush * 3 + host) as f64 / 4.0)).collect()
}

fn killed_config(dir: &Path) -> StoreConfig {
    StoreConfig { partition_s: 3_600, rollup_min_samples: 1, max_future_s: 100_000_000, ..config(dir) }
}

/// Not a test by itself: writes and merges until it is killed, and says how far it is.
#[tokio::test]
async fn process_that_is_killed_while_it_merges() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let first: i64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Store::open(killed_config(Path::new(&dir)), NOW).unwrap();
    for round in first.. {
        println!("round {round} begun");
        for flush in 0..FLUSHES {
            let rows = samples(round, flush);
            let rows: Vec<_> = rows.iter().map(|(host, time, value)| (host.as_str(), *time, *value)).collect();
            assert_eq!(store.append(&batch(&rows), NOW).await.unwrap().rejected, vec![]);
            store.flush(NOW).await.unwrap();
        }
        println!("round {round} merging");
        store.compact().await.unwrap();
        println!("round {round} merged");
    }
}

#[test]
fn whoever_is_killed_while_it_merges_loses_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut struck, mut expected) = (0, 0, Stored::new());
    let mut random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let end = Instant::now() + Duration::from_secs(SECONDS);
    // How long a merge takes, as seen so far.
    let mut merge_us = 20_000;
    while Instant::now() < end {
        // xorshift64 (Marsaglia 2003), as in the other test.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine_tests::killed_merge::process_that_is_killed_while_it_merges", "--nocapture"])
            .env(DIR, dir.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let begun = lines.by_ref().find(|line| line.contains(" merging")).is_some();
        assert!(begun, "it ended before it merged");
        let merging = Instant::now();
        std::thread::sleep(Duration::from_micros((random >> 8) % merge_us));
        child.kill().unwrap();
        let said: Vec<String> = lines.collect();
        child.wait().unwrap();
        // What was said of the first round; a later one may have begun since.
        match said.iter().any(|line| line.contains(" merged")) {
            true => merge_us = (merging.elapsed().as_micros() as u64).clamp(1_000, 200_000),
            false => {
                struck += 1;
                merge_us += 2_000;
            }
        }
        let store = Store::open(killed_config(dir.path()), NOW).unwrap();
        let found = stored(&store, "cpu", -1_000_000, i64::from(i32::MAX) * 1_000);
        let all = (0..FLUSHES).flat_map(|flush| samples(first, flush));
        expected.extend(all.map(|(host, time, value)| ((host, time), value)));
        for (key, value) in &expected {
            // Unless the next round has begun to write it again.
            let again = said.iter().any(|line| line.contains(" begun")) && key.1 >= first_time(first + 1);
            assert!(again || found.get(key) == Some(value), "{key:?} is {:?} instead of {value}", found.get(key));
        }
        assert!(found.keys().all(|key| expected.contains_key(key) || key.1 >= first_time(first + 1)), "made up");
        check_catalog(&store, dir.path());
        // What the dead one began is as good as any other now.
        expected = found;
        first = 1 + expected.keys().map(|key| key.1).max().unwrap_or(0) / (FLUSHES * (SAMPLES - 1) * 1_000);
    }
    println!("{struck} kills within a merge, up to round {first}");
    assert!(struck >= 1, "no kill struck a merge");
}

/// When the first sample of a round is, after [`NOW`].
fn first_time(round: i64) -> i64 {
    round * FLUSHES * (SAMPLES - 1) * 1_000
}
