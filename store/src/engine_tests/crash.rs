//! A process that is killed again and again while it writes, and what it said it had written.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ledger::{Ledger, check_catalog, ledger_config, make};
use super::*;

/// Names the data directory to the process that is killed.
const DIR: &str = "TIDEGATE_TEST_CRASH_DIR";
/// Names the first change that it makes.
const FIRST: &str = "TIDEGATE_TEST_CRASH_FIRST";
/// How long the test runs; 20 seconds when not set.
const SECONDS: &str = "TIDEGATE_TEST_CRASH_SECONDS";

/// Not a test by itself: makes changes until it is killed, and says which it begins and which are acknowledged.
#[tokio::test]
async fn process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Store::open(ledger_config(Path::new(&dir)), ledger::now(first)).unwrap();
    for n in first.. {
        println!("change {n} begun");
        make(&store, n).await.unwrap();
        println!("change {n} done");
    }
}

fn start(dir: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine_tests::crash::process_that_is_killed", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the dead process said: changes with whether each was acknowledged.
fn said(lines: impl Iterator<Item = String>) -> BTreeMap<u64, bool> {
    let mut changes = BTreeMap::new();
    for line in lines {
        // The test harness may have begun the line.
        let Some(at) = line.find("change ") else { continue };
        let mut words = line[at..].split(' ').skip(1);
        let (Some(Ok(n)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
        match what {
            "begun" => drop(changes.entry(n).or_insert(false)),
            "done" => drop(changes.insert(n, true)),
            _ => {}
        }
    }
    changes
}

/// One directory's lives, until `end`. Gives the numbers of deaths and of changes.
fn live_and_die(seed: u64, end: Instant) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, mut kills, mut first, mut random) = (Ledger::default(), 0, 1, seed | 1);
    while Instant::now() < end {
        // xorshift64 (Marsaglia 2003): spread enough for instants of death, and repeatable.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = start(dir.path(), first);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // One in four dies at any instant of its start and its recovery, the others while they write.
        let mut heard = Vec::new();
        if !random.is_multiple_of(4) {
            for line in lines.by_ref() {
                heard.push(line);
                if heard.last().is_some_and(|line| line.contains("change ")) {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros((random >> 8) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        for (n, acknowledged) in said(heard.into_iter().chain(lines)) {
            ledger.note(n, acknowledged);
            first = first.max(n + 1);
        }
        let store = Store::open(ledger_config(dir.path()), ledger::now(first)).unwrap();
        ledger.check(&store, &format!("seed {seed}, death {kills}, up to change {first}"));
        check_catalog(&store, dir.path());
        ledger.settle(&store);
    }
    (kills, first)
}

#[test]
fn everything_acknowledged_survives_hundreds_of_kills() {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let end = Instant::now() + Duration::from_secs(seconds);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let lives: Vec<_> = (0..3).map(|life| std::thread::spawn(move || live_and_die(seed + 2 * life, end))).collect();
    let lives = lives.into_iter().map(|life| life.join().unwrap());
    let (kills, changes) = lives.fold((0, 0), |sum, life| (sum.0 + life.0, sum.1 + life.1));
    println!("{kills} kills over {changes} changes, seed {seed}");
    assert!(kills >= 3 && changes > 3, "{kills} kills over {changes} changes");
}
