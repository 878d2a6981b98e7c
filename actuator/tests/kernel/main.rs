//! What the actuator does to real cgroups, with real processes in them. The same binary runs on v1 and on v2; where
//! cgroups cannot be written it says `SKIPPED` and why.
#![allow(clippy::unwrap_used)]

mod disks;
mod knobs;
mod lab;
mod network;
mod refusals;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tidegate_actuator::{ActuatorConfig, DriftAnswer, OnDrift};
use tidegate_model::{CgroupVersion, OutcomeStatus, Resource, metrics};

use crate::lab::{Lab, MIB, remove, value};

#[test]
fn a_quota_bites_is_not_written_twice_and_can_be_raised() {
    let Some(mut lab) = Lab::open() else { return };
    lab.load.send("spin");
    for target in [0.2, 0.1, 0.3] {
        let outcome = lab.apply(Resource::Cpu, target);
        assert_eq!(
            (outcome.status, outcome.limit_after, outcome.writes.len()),
            (OutcomeStatus::Applied, Some(target), 1)
        );
        let again = lab.apply(Resource::Cpu, target * 1.004);
        assert_eq!((again.status, again.writes.len()), (OutcomeStatus::Unchanged, 0));
        // A machine that is busy with something else may not even give the quota, and one that gives just the quota does
        // not throttle: such a round is measured again.
        let mut shares = Vec::new();
        let bites = (0..5).any(|_| {
            lab.collect();
            thread::sleep(Duration::from_secs(2));
            let collected = lab.collect();
            let share = value(&collected, metrics::USAGE, Resource::Cpu).unwrap() / target;
            let throttled = value(&collected, metrics::THROTTLED, Resource::Cpu).unwrap();
            println!("{target} cores: {share:.3} of it used, throttled in {throttled:.2} of the periods");
            assert_eq!(value(&collected, metrics::LIMIT, Resource::Cpu), Some(target));
            shares.push(share);
            (0.8..1.2).contains(&share) && throttled > 0.0
        });
        assert!(bites, "{target} cores: {shares:?}");
    }
}

#[test]
fn memory_in_use_is_never_cut_and_a_limit_can_be_raised() {
    let Some(mut lab) = Lab::open() else { return };
    assert_eq!(lab.apply(Resource::Memory, 256.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.load.order("hold 64"));
    let collected = lab.collect();
    let held = value(&collected, metrics::UNRECLAIMABLE, Resource::Memory).unwrap();
    assert!((64.0 * MIB..96.0 * MIB).contains(&held), "{held}");
    assert!(value(&collected, metrics::USAGE, Resource::Memory).unwrap() >= 64.0 * MIB);

    let below = lab.apply(Resource::Memory, 48.0 * MIB);
    assert_eq!((below.status, below.limit_after), (OutcomeStatus::Infeasible, Some(256.0 * MIB)));
    assert!(below.writes.is_empty());
    assert!(lab.load.is_alive() && lab.load.order("ping"));

    let fits = lab.apply(Resource::Memory, 128.0 * MIB);
    assert_eq!((fits.status, fits.limit_after), (OutcomeStatus::Applied, Some(128.0 * MIB)));
    let raised = lab.apply(Resource::Memory, 160.0 * MIB);
    assert_eq!((raised.status, raised.limit_after), (OutcomeStatus::Applied, Some(160.0 * MIB)));
    assert!(lab.load.order("hold 64"), "128 MiB fit below 160");
    assert_eq!(lab.apply(Resource::Memory, f64::INFINITY).limit_after, None);
    assert!(lab.load.is_alive());
}

/// The kernel's own refusal: what is held does not show in what is known to be unreclaimable.
#[test]
fn memory_that_does_not_shrink_keeps_its_limit() {
    let Some(mut lab) = Lab::open_with(ActuatorConfig { squeeze_timeout_ms: 300, ..Default::default() }) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    if !lab.load.order(&format!("pin {} 64", dir.path().display())) {
        return println!("SKIPPED: a ramfs cannot be mounted here");
    }
    assert_eq!(lab.apply(Resource::Memory, 256.0 * MIB).status, OutcomeStatus::Applied);
    let below = lab.apply(Resource::Memory, 48.0 * MIB);
    assert_eq!((below.status, below.limit_after), (OutcomeStatus::Infeasible, Some(256.0 * MIB)));
    assert!(lab.load.is_alive() && lab.load.order("ping"));
    if lab.version() == CgroupVersion::V2 {
        assert_eq!(fs::read_to_string(lab.file("web", "memory.high")).unwrap(), "max\n");
    }
    assert_eq!(value(&lab.collect(), metrics::OOM_KILLS, Resource::Memory), Some(0.0));
}

#[test]
fn page_cache_makes_room_for_a_lower_limit() {
    let Some(mut lab) = Lab::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let filled = if statfs(dir.path()).unwrap().filesystem_type() != TMPFS_MAGIC {
        lab.load.order(&format!("write {} 64", dir.path().join("cache").display()))
    } else if Path::new("/dev/vda").exists() {
        // Files of a RAM disk are no cache; reading a disk itself fills it as well.
        lab.load.order("read /dev/vda 48")
    } else {
        return println!("SKIPPED: no file system on a disk here");
    };
    assert!(filled);
    let limit =
        lab.file("web", if lab.version() == CgroupVersion::V2 { "memory.current" } else { "memory.usage_in_bytes" });
    let usage = || fs::read_to_string(&limit).unwrap().trim().parse::<f64>().unwrap();
    let before = usage();
    assert!(before > 44.0 * MIB, "{before}");
    let outcome = lab.apply(Resource::Memory, 24.0 * MIB);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(24.0 * MIB)));
    println!("usage {before} to {}", usage());
    assert!(usage() <= 24.0 * MIB);
    assert!(lab.load.is_alive() && lab.load.order("ping"));
}

#[test]
fn a_foreign_change_is_noticed_and_respected() {
    let Some(mut lab) = Lab::open() else { return };
    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    assert_eq!(lab.apply(Resource::Memory, 256.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.collect().drifts.is_empty());
    lab.sandbox.limit_cpu("web", 0.7).unwrap();
    lab.sandbox.limit_memory("web", 128 << 20).unwrap();
    let drifts = lab.collect().drifts;
    let found: Vec<_> = drifts.iter().map(|drift| (drift.resource, drift.expected, drift.found)).collect();
    assert_eq!(found, [(Resource::Cpu, 0.5, Some(0.7)), (Resource::Memory, 256.0 * MIB, Some(128.0 * MIB))]);
    assert!(lab.collect().drifts.is_empty());
    for (resource, target) in [(Resource::Cpu, 0.4), (Resource::Memory, 200.0 * MIB)] {
        let outcome = lab.apply(resource, target);
        assert_eq!((outcome.status, outcome.writes.len()), (OutcomeStatus::Drifted, 0));
    }
    assert_eq!(lab.sandbox.cpu_limit("web").unwrap(), Some(0.7));
}

#[test]
fn what_somebody_else_changed_is_put_back_after_its_hold_or_left_alone_until_it_is_given_back() {
    let hands_off = ActuatorConfig { on_drift: OnDrift::HandsOff, drift_hold_s: 0, ..Default::default() };
    let Some(mut lab) = Lab::open_with(hands_off) else { return };
    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    lab.sandbox.limit_cpu("web", 0.7).unwrap();
    assert_eq!(lab.collect().drifts[0].answer, DriftAnswer::HandsOff);
    let left = lab.apply(Resource::Cpu, 0.4);
    assert_eq!((left.status, left.writes.len(), left.limit_after), (OutcomeStatus::Drifted, 0, Some(0.7)));
    lab.sandbox.limit_cpu("web", 0.5).unwrap();
    assert_eq!(lab.collect().drifts[0].answer, DriftAnswer::Over);
    assert_eq!(lab.apply(Resource::Cpu, 0.4).status, OutcomeStatus::Applied);
    drop(lab);

    let restore = ActuatorConfig { on_drift: OnDrift::Restore, drift_hold_s: 0, ..Default::default() };
    let Some(mut lab) = Lab::open_with(restore) else { return };
    assert_eq!(lab.apply(Resource::Memory, 96.0 * MIB).status, OutcomeStatus::Applied);
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    let drift = lab.collect().drifts.remove(0);
    assert_eq!((drift.answer, drift.expected), (DriftAnswer::Restore, 96.0 * MIB));
    assert!(lab.load.order("hold 128"));
    let below = lab.apply(Resource::Memory, drift.expected);
    assert_eq!((below.status, below.limit_after), (OutcomeStatus::Infeasible, Some(256.0 * MIB)));
    assert!(lab.load.is_alive() && lab.load.order("ping"));

    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    for _ in 0..3 {
        lab.sandbox.limit_cpu("web", 0.7).unwrap();
        let drift = lab.collect().drifts.remove(0);
        assert_eq!((drift.resource, drift.answer), (Resource::Cpu, DriftAnswer::Restore));
        assert_eq!(lab.apply(Resource::Cpu, drift.expected).status, OutcomeStatus::Applied);
        assert!(lab.collect().drifts.is_empty());
    }
    lab.sandbox.limit_cpu("web", 0.7).unwrap();
    assert_eq!(lab.collect().drifts[0].answer, DriftAnswer::GivenUp);
    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Drifted);
    assert_eq!(lab.sandbox.cpu_limit("web").unwrap(), Some(0.7));
}

#[test]
fn a_container_that_vanishes_and_one_that_is_made_anew_are_noticed() {
    let Some(mut lab) = Lab::open() else { return };
    let old = lab.collect().present[0].incarnation;
    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    lab.load.end();
    remove(&lab.dirs("web"));
    let gone = lab.apply(Resource::Cpu, 0.3);
    assert_eq!(gone.status, OutcomeStatus::Failed);
    assert!(gone.message.contains("the container is gone"), "{}", gone.message);
    lab.sandbox.add_group("web").unwrap();
    let stale = lab.apply(Resource::Cpu, 0.3);
    assert_eq!((stale.status, stale.writes.len()), (OutcomeStatus::Failed, 0), "not the container that was seen");

    let collected = lab.collect();
    assert_eq!((collected.vanished.len(), collected.appeared.len()), (1, 1));
    assert_ne!(collected.appeared[0].incarnation, old);
    assert_eq!(lab.apply(Resource::Cpu, 0.3).status, OutcomeStatus::Applied);
    remove(&lab.dirs("web"));
    let collected = lab.collect();
    assert_eq!((collected.vanished.len(), collected.present.len()), (1, 0));
    assert_eq!(collected.problems, Vec::<String>::new());
}

/// A group is busy for a moment after its last process was waited for.

#[test]
fn an_oom_kill_is_counted() {
    let Some(mut lab) = Lab::open() else { return };
    assert_eq!(lab.apply(Resource::Memory, 64.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(value(&lab.collect(), metrics::OOM_KILLS, Resource::Memory), Some(0.0));
    assert!(!lab.load.order("hold 200"));
    assert_eq!(lab.load.child.wait().unwrap().signal(), Some(9));
    assert_eq!(value(&lab.collect(), metrics::OOM_KILLS, Resource::Memory), Some(1.0));
}

#[test]
fn a_child_with_more_is_named_on_v1_and_no_obstacle_on_v2() {
    let Some(lab) = Lab::open() else { return };
    for dir in lab.dirs("web") {
        fs::create_dir(dir.join("inner")).unwrap();
    }
    if lab.version() == CgroupVersion::V1 {
        fs::write(lab.file("web/inner", "cpu.cfs_quota_us"), "50000").unwrap();
        let lower = lab.apply(Resource::Cpu, 0.3);
        assert_eq!((lower.status, lower.writes.len(), lower.limit_after), (OutcomeStatus::Refused, 0, None));
        assert!(lower.message.contains("web/inner (0.50 cores)"), "{}", lower.message);
    }
    assert_eq!(lab.apply(Resource::Cpu, 0.6).status, OutcomeStatus::Applied);
}

#[test]
fn a_burst_gives_way_to_a_lower_quota_and_comes_back() {
    let Some(lab) = Lab::open() else { return };
    lab.sandbox.limit_cpu("web", 0.5).unwrap();
    let name = if lab.version() == CgroupVersion::V1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
    let burst = lab.file("web", name);
    fs::write(&burst, "40000").unwrap();
    let read = || fs::read_to_string(&burst).unwrap().trim().to_owned();
    let down = lab.apply(Resource::Cpu, 0.2);
    assert_eq!((down.status, down.writes.len()), (OutcomeStatus::Applied, 2), "{}", down.message);
    assert_eq!(read(), "20000");
    assert_eq!(lab.apply(Resource::Cpu, 0.6).status, OutcomeStatus::Applied);
    assert_eq!(read(), "40000");
}
