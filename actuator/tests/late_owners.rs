//! A daemon that does not answer an update in time and carries it out later, when another limit is right: at no time does the
//! old one stay, and nothing is told that could kill if it came late.
#![allow(clippy::unwrap_used)]

mod daemon;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_actuator::sandbox::Sandbox;
use tidegate_actuator::{Actuator, ActuatorConfig, LocalHost};
use tidegate_model::{Clock, Outcome, OutcomeStatus, Resource, SystemClock};

use crate::daemon::late::{ALL, Apply, LateDaemon, write_memory};
use crate::daemon::{docker_path, id};
use crate::tree::{Fake, Kind, MIB, Tree, change};

/// How soon the wanted limit stands again.
const SOON: Duration = Duration::from_millis(500);

fn config(tree: &Tree, daemon: &LateDaemon) -> ActuatorConfig {
    ActuatorConfig {
        docker_socket: daemon.socket(),
        docker_root: "/no/such".into(),
        tell_owner_every_s: 0,
        roots: vec![],
        ..tree.config()
    }
}

/// A tree with the Docker container `web`, which uses 60 MiB, and a daemon that writes its files.
fn lab(kind: Kind) -> (Tree, PathBuf, LateDaemon) {
    let tree = Tree::new(kind);
    let path = docker_path(&id('a'));
    let text = path.to_str().unwrap();
    tree.cgroup(text);
    use_memory(&tree, text, 60);
    let file = tree.path(text, tree.memory_file());
    let daemon = LateDaemon::start(BTreeMap::from([(id('a'), write_memory(file.clone()))]));
    (tree, file, daemon)
}

fn use_memory(tree: &Tree, path: &str, mib: u64) {
    let file = if tree.kind == Kind::V2 { "memory.current" } else { "memory.usage_in_bytes" };
    tree.write(path, file, &(mib << 20).to_string());
}

fn limit(file: &Path) -> u64 {
    // A file that is no kernel's is empty for a moment while it is written.
    loop {
        if let Ok(bytes) = fs::read_to_string(file).unwrap().trim().parse() {
            return bytes;
        }
    }
}

fn wait_for(file: &Path, mib: u64, within: Duration) -> Duration {
    let started = Instant::now();
    while limit(file) != mib << 20 {
        assert!(started.elapsed() < within, "{} MiB instead of {mib}", limit(file) >> 20);
        thread::sleep(Duration::from_millis(1));
    }
    started.elapsed()
}

fn mentions(outcome: &Outcome, status: OutcomeStatus, parts: &[&str]) {
    assert_eq!(outcome.status, status, "{}", outcome.message);
    for part in parts {
        assert!(outcome.message.contains(part), "{part}: {}", outcome.message);
    }
}

#[test]
fn a_lower_limit_that_comes_late_after_a_raise_is_undone_at_once_and_is_nobody_elses() {
    for kind in [Kind::V1Separate, Kind::V2] {
        let (tree, file, daemon) = lab(kind);
        let mut fake = Fake::new(config(&tree, &daemon));
        let lower = fake.apply(Resource::Memory, 80.0 * MIB);
        mentions(&lower, OutcomeStatus::Applied, &["Docker", "does not answer", "may carry this out later"]);
        assert_eq!(limit(&file), 80 << 20);
        let raise = fake.apply(Resource::Memory, 128.0 * MIB);
        mentions(&raise, OutcomeStatus::Applied, &["has had an update", "the cgroup file was written instead"]);
        assert_eq!(limit(&file), 128 << 20);
        // Nor is it told of anything else before it has answered.
        thread::sleep(Duration::from_millis(2_500));
        assert_eq!(daemon.came().len(), 1);

        daemon.permit(1);
        daemon.wait_done(1);
        println!("back after {:?}", wait_for(&file, 128, SOON));
        // What was done is told a moment after the file is back.
        let (started, mut told) = (Instant::now(), Vec::new());
        while told.is_empty() && started.elapsed() < SOON {
            let collected = fake.collect(5);
            assert!(collected.drifts.is_empty(), "{:?}", collected.drifts);
            told.extend(collected.knobs);
        }
        let [news] = &told[..] else { panic!("{told:?}") };
        assert_eq!((news.knob.as_str(), news.status), ("memory late update", OutcomeStatus::Applied));
        assert!(news.message.contains("from 128.0 MiB to 80.0 MiB; it was put back"), "{}", news.message);

        // Once it has answered it is told what stands.
        daemon.permit(ALL);
        assert_eq!(daemon.wait_done(2)[1], json!({ "Memory": 128 << 20, "MemorySwap": -1 }));
        assert_eq!(limit(&file), 128 << 20);
        let outcome = fake.apply(Resource::Memory, 160.0 * MIB);
        mentions(&outcome, OutcomeStatus::Applied, &[]);
        assert!(outcome.writes[0].target.starts_with("Docker"), "{:?}", outcome.writes);
        assert!(fake.collect(6).drifts.is_empty());
    }
}

#[test]
fn a_collection_and_a_change_undo_it_as_well_before_they_look() {
    let (tree, file, daemon) = lab(Kind::V2);
    let mut fake = Fake::new(config(&tree, &daemon));
    fake.apply(Resource::Memory, 80.0 * MIB);
    fake.apply(Resource::Memory, 128.0 * MIB);
    for seconds in 2..30 {
        // What the daemon does, at moments at which nobody has looked yet.
        fs::write(&file, (80 << 20).to_string()).unwrap();
        if seconds % 2 == 0 {
            assert!(fake.collect(seconds).drifts.is_empty());
        } else {
            let outcome = fake.apply_from(128.0 * MIB, Resource::Memory, (128.0 + seconds as f64) * MIB);
            assert_eq!(outcome.status, OutcomeStatus::Applied, "{}", outcome.message);
        }
        assert!(limit(&file) >= 128 << 20);
    }
    // One that somebody else sets is somebody else's all the same.
    fs::write(&file, (200 << 20).to_string()).unwrap();
    assert_eq!(fake.collect(31).drifts.len(), 1);
}

#[test]
fn an_answer_that_says_it_was_done_needs_no_second_update() {
    let (tree, file, daemon) = lab(Kind::V2);
    let fake = Fake::new(config(&tree, &daemon));
    let lower = fake.apply(Resource::Memory, 80.0 * MIB);
    mentions(&lower, OutcomeStatus::Applied, &["may carry this out later"]);
    daemon.permit(ALL);
    daemon.wait_done(1);
    thread::sleep(Duration::from_millis(3_500));
    assert_eq!((daemon.came().len(), limit(&file)), (1, 80 << 20));
    let raise = fake.apply(Resource::Memory, 96.0 * MIB);
    assert!(raise.writes[0].target.starts_with("Docker"), "{:?} {}", raise.writes, raise.message);
}

#[test]
fn while_a_daemon_is_behind_it_is_told_of_no_limit_near_what_is_used() {
    let (tree, _, daemon) = lab(Kind::V2);
    drop(daemon);
    let paths = ['a', 'b'].map(|digit| docker_path(&id(digit)));
    tree.cgroup(paths[1].to_str().unwrap());
    use_memory(&tree, paths[1].to_str().unwrap(), 60);
    let apply = |digit: char, path: &Path| -> (String, Apply) {
        (id(digit), write_memory(tree.path(path.to_str().unwrap(), "memory.max")))
    };
    let daemon = LateDaemon::start([apply('a', &paths[0]), apply('b', &paths[1])].into());
    let fake = Fake::new(config(&tree, &daemon));
    fake.apply_to("web", Resource::Memory, 80.0 * MIB);
    // By then it would be asked again.
    thread::sleep(Duration::from_millis(1_100));
    let near = fake.apply_to("bbbb", Resource::Memory, 70.0 * MIB);
    mentions(&near, OutcomeStatus::Applied, &["told later", "70.0 MiB", "60.0 MiB in use"]);
    assert_eq!(daemon.came().len(), 1);
    let far = fake.apply_to("bbbb", Resource::Memory, 100.0 * MIB);
    mentions(&far, OutcomeStatus::Applied, &["may carry this out later"]);
    assert_eq!(daemon.came().len(), 2);
}

#[test]
fn an_agent_that_was_started_again_expects_what_the_former_one_sent() {
    let (tree, file, daemon) = lab(Kind::V2);
    let state = tempfile::tempdir().unwrap();
    let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..config(&tree, &daemon) };
    let fake = Fake::new(config.clone());
    fake.apply(Resource::Memory, 80.0 * MIB);
    fake.apply(Resource::Memory, 128.0 * MIB);
    drop(fake);
    let mut fake = Fake::new(config);
    fake.collect(2);
    daemon.permit(1);
    daemon.wait_done(1);
    wait_for(&file, 128, Duration::from_millis(1_500));
    assert!(fake.collect(3).drifts.is_empty());
}

#[test]
fn podman_is_no_different() {
    let tree = Tree::new(Kind::V2);
    let path = format!("/libpod_parent/libpod-{}", id('a'));
    tree.cgroup(&path);
    use_memory(&tree, &path, 60);
    let file = tree.path(&path, "memory.max");
    let daemon = LateDaemon::start(BTreeMap::from([(id('a'), write_memory(file.clone()))]));
    let fake = Fake::new(ActuatorConfig {
        podman_socket: daemon.socket(),
        docker_socket: "".into(),
        ..config(&tree, &daemon)
    });
    mentions(
        &fake.apply(Resource::Memory, 80.0 * MIB),
        OutcomeStatus::Applied,
        &["Podman", "may carry this out later"],
    );
    fake.apply(Resource::Memory, 128.0 * MIB);
    daemon.permit(1);
    daemon.wait_done(1);
    wait_for(&file, 128, SOON);
}

/// Real cgroups of v1, below one of our own.
struct Real {
    sandbox: Option<Sandbox>,
    made: Vec<PathBuf>,
}

impl Real {
    fn make() -> Option<Self> {
        let name = format!("tidegate-test-late-{}", std::process::id());
        let mount = |controller: &str| Path::new("/sys/fs/cgroup").join(controller);
        if !mount("memory/memory.limit_in_bytes").exists() {
            println!("SKIPPED: no memory controller of v1 here");
            return None;
        }
        let sandbox = match Sandbox::create(&name) {
            Ok(sandbox) => sandbox,
            Err(error) => {
                println!("SKIPPED: {error}");
                return None;
            }
        };
        let mut made = Vec::new();
        for root in ["cpu", "cpuacct", "memory"].map(mount).map(|mount| mount.join(&name)).iter().filter(|r| r.is_dir())
        {
            for dir in [root.join("docker"), root.join("docker").join(id('a'))] {
                if fs::create_dir(&dir).is_ok() {
                    made.push(dir);
                }
            }
        }
        Some(Self { sandbox: Some(sandbox), made })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        drop(self.sandbox.take());
    }
}

#[test]
fn in_the_kernel_a_raised_limit_survives_what_comes_late() {
    let Some(real) = Real::make() else { return };
    let file = real.made.iter().map(|dir| dir.join("memory.limit_in_bytes")).rfind(|file| file.exists()).unwrap();
    let daemon = LateDaemon::start(BTreeMap::from([(id('a'), write_memory(file.clone()))]));
    let config = ActuatorConfig {
        host: "h".into(),
        // The runtimes' paths are looked for in the whole tree.
        roots: vec![],
        docker_socket: daemon.socket(),
        tell_owner_every_s: 0,
        ..Default::default()
    };
    let host = LocalHost::new(config).unwrap();
    let mut source = host.source();
    let first = source.collect(SystemClock.now());
    assert!(first.present.iter().any(|container| container.key.name == "web"), "{:?}", first.problems);
    let apply = |mib: f64| host.apply(&change("web", Resource::Memory, mib * MIB, None), &SystemClock);
    daemon.permit(1);
    mentions(&apply(128.0), OutcomeStatus::Applied, &[]);
    daemon.wait_done(1);
    mentions(&apply(64.0), OutcomeStatus::Applied, &["may carry this out later"]);
    mentions(&apply(256.0), OutcomeStatus::Applied, &["has had an update"]);
    daemon.permit(1);
    let done: Vec<Value> = daemon.wait_done(2);
    assert_eq!(done[1]["Memory"], json!(64 << 20));
    println!("back after {:?}", wait_for(&file, 256, SOON));
    assert!(source.collect(SystemClock.now()).drifts.is_empty());
    daemon.permit(ALL);
    assert_eq!(daemon.wait_done(3)[2]["Memory"], json!(256 << 20));
    assert_eq!(limit(&file), 256 << 20);
}
