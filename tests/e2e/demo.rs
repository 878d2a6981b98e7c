//! The demo cleans up after itself, however it ends, and says what is not real.

use std::path::Path;
use std::time::Duration;

use tidegate_actuator::sandbox::Sandbox;

use super::support::{Process, skip, spawn, wait_for};

/// Directories below the cgroup mounts, two levels deep, that the demo of process `pid` made.
fn leftovers(pid: u32) -> Vec<String> {
    let name = format!("tidegate-demo-{pid}");
    let mount = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(mount.to_owned())
        .chain(hierarchies)
        .map(|dir| dir.join(&name))
        .chain([std::env::temp_dir().join(&name)])
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect()
}

/// Processes of ours that are loads started for the demo of process `pid`.
fn loads_of(warden: u32) -> usize {
    let children = format!("/proc/{warden}/task/{warden}/children");
    std::fs::read_to_string(children).map_or(0, |text| text.split_whitespace().count())
}

fn warden_of(demo: &Process) -> Option<u32> {
    let pid = demo.0.id();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

#[test]
fn nothing_is_left_of_a_demo_that_is_killed() {
    if let Some(why) = Sandbox::obstacle() {
        return skip("demo::nothing_is_left_of_a_demo_that_is_killed", &why);
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, base) = spawn(&["demo", "--listen", "127.0.0.1:0"], dir.path());
    let pid = demo.0.id();
    wait_for("the demo to answer", Duration::from_secs(120), || ureq::get(format!("{base}/ready")).call().ok());
    assert!(!leftovers(pid).is_empty(), "a running demo has containers");
    let warden = wait_for("the warden", Duration::from_secs(10), || warden_of(&demo));
    assert_eq!(loads_of(warden), 6);
    demo.kill();
    wait_for("everything to be gone", Duration::from_secs(60), || leftovers(pid).is_empty().then_some(()));
    wait_for("the warden to be gone", Duration::from_secs(30), || {
        (!Path::new(&format!("/proc/{warden}")).exists()).then_some(())
    });
}

#[test]
fn a_simulated_demo_says_so_and_changes_limits_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, base) = spawn(&["demo", "--simulate", "--listen", "127.0.0.1:0"], dir.path());
    let get = |path: &str| -> Option<serde_json::Value> {
        ureq::get(format!("{base}{path}")).call().ok()?.into_body().read_json().ok()
    };
    let status = wait_for("the demo's status", Duration::from_secs(120), || get("/api/v1/status"));
    assert!(status["simulated"].as_str().is_some_and(|why| !why.is_empty()), "{status}");
    wait_for("an applied decision", Duration::from_secs(120), || {
        get("/api/v1/decisions?outcome=applied&limit=1")?["decisions"]
            .as_array()
            .filter(|rows| !rows.is_empty())
            .map(|_| ())
    });
    let pid = demo.0.id();
    demo.kill();
    wait_for("its data to be gone", Duration::from_secs(30), || leftovers(pid).is_empty().then_some(()));
}
