//! What the actuator does to files, on trees made in a temporary directory: v1 with separate and with combined mounts, v2.
#![allow(clippy::unwrap_used)]

mod tree;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tidegate_actuator::{Actuator, ActuatorConfig, DriftAnswer, OnDrift};
use tidegate_model::{CgroupVersion, Limit, Outcome, OutcomeStatus, Resource, Runtime, TimeMs, VirtualClock, metrics};

use crate::tree::{Fake, KINDS, Kind, MIB, Tree, change, tidy, value, writes};

#[test]
fn a_container_is_found_and_measured() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        tree.set_cpu("/own/web", 50_000);
        tree.set_memory("/own/web", 200.0 * MIB);
        let mut fake = tree.host();
        let version = if kind == Kind::V2 { CgroupVersion::V2 } else { CgroupVersion::V1 };
        let found = &fake.first.appeared[0];
        assert_eq!((found.key.name.as_str(), found.runtime, found.cgroup), ("web", Runtime::Bare, version));
        assert_eq!((found.path.as_path(), found.app.as_deref()), (Path::new("/own/web"), Some("shop")));
        assert_eq!(found.baseline[&Resource::Cpu], Limit::At(0.5));
        assert_eq!(found.baseline[&Resource::Memory], Limit::At(200.0 * MIB));
        assert_eq!(fake.first.problems, Vec::<String>::new());

        assert_eq!(value(&fake.first, metrics::USAGE, Resource::Cpu), None, "a counter needs two readings");
        assert_eq!(value(&fake.first, metrics::USAGE, Resource::Memory), Some(70.0 * MIB));
        assert_eq!(value(&fake.first, metrics::UNRECLAIMABLE, Resource::Memory), Some(40.0 * MIB));
        assert_eq!(value(&fake.first, metrics::LIMIT, Resource::Cpu), Some(0.5));
        assert_eq!(value(&fake.first, metrics::LIMIT, Resource::Memory), Some(200.0 * MIB));
        assert_eq!(value(&fake.first, metrics::OOM_KILLS, Resource::Memory), Some(3.0));

        thread::sleep(Duration::from_millis(20));
        tree.set_cpu_usage("/own/web", 1_000);
        let second = fake.collect(2);
        let used = value(&second, metrics::USAGE, Resource::Cpu).unwrap();
        assert!(used > 0.0 && used <= 0.05, "1 ms of CPU in at least 20 ms is {used} cores");
        assert_eq!(value(&second, metrics::THROTTLED, Resource::Cpu), Some(0.4));
        assert_eq!(value(&second, metrics::PRESSURE_SOME, Resource::Cpu).is_some(), kind == Kind::V2);
        assert!(second.samples.times().iter().all(|time| *time == 2_000));
        assert!(second.samples.keys().iter().all(|key| key.tag("app") == Some("shop") && key.tag("host") == Some("h")));

        tree.set_cpu_usage("/own/web", 500);
        assert_eq!(value(&fake.collect(3), metrics::USAGE, Resource::Cpu), None, "a counter that went backwards");
    }
}

#[test]
fn the_limit_in_force_is_the_tightest_one() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let mut fake = tree.host();
        let capacity = fake.first.host.clone();
        assert_eq!(value(&fake.first, metrics::LIMIT, Resource::Cpu), Some(capacity.cpu.0));
        assert_eq!(value(&fake.first, metrics::LIMIT, Resource::Memory), Some(capacity.memory.0 as f64));
        tree.set_cpu("/own", 30_000);
        tree.set_cpu("/own/web", 50_000);
        tree.set_memory("/own", 64.0 * MIB);
        let second = fake.collect(2);
        assert_eq!(value(&second, metrics::LIMIT, Resource::Cpu), Some(0.3));
        assert_eq!(value(&second, metrics::LIMIT, Resource::Memory), Some(64.0 * MIB));
    }
}

#[test]
fn what_cannot_be_read_is_a_problem_and_not_zero() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let mut fake = tree.host();
        tree.write("/own/web", "memory.stat", "nonsense\n");
        fs::remove_file(tree.path("/own/web", tree.cpu_file())).unwrap();
        // The kept descriptor still reads the removed file here; the kernel's own files cannot be removed one by one.
        let mut other = Fake::new(tree.config());
        for collected in [fake.collect(2), other.collect(2)] {
            assert_eq!(value(&collected, metrics::USAGE, Resource::Memory), None);
            assert!(collected.problems.iter().any(|problem| problem.contains("memory.stat holds 'nonsense'")));
            assert_eq!(collected.present.len(), 1);
        }
        assert_eq!(value(&other.first, metrics::LIMIT, Resource::Cpu), None);
        assert!(other.first.problems.iter().any(|problem| problem.contains(tree.cpu_file())));
    }
}

#[test]
fn a_cpu_limit_is_written_once_and_read_back() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let fake = tree.host();
        let text = if kind == Kind::V2 { "45000 100000" } else { "45000" };
        let outcome = fake.apply(Resource::Cpu, 0.45);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.45)), "{}", outcome.message);
        assert_eq!(writes(&outcome), [(tree.cpu_file(), text)]);
        assert_eq!(tree.read("/own/web", tree.cpu_file()), text);

        let again = fake.apply(Resource::Cpu, 0.452);
        assert_eq!((again.status, again.limit_after), (OutcomeStatus::Unchanged, Some(0.45)));
        assert!(again.writes.is_empty());

        let away = fake.apply(Resource::Cpu, f64::INFINITY);
        assert_eq!((away.status, away.limit_after), (OutcomeStatus::Applied, None));
        assert_eq!(fake.apply(Resource::Cpu, f64::NAN).status, OutcomeStatus::Refused);
        let stranger = fake.apply_to("nobody", Resource::Cpu, 1.0);
        assert_eq!(stranger.status, OutcomeStatus::Refused);
        assert!(stranger.message.contains("h/nobody"));
    }
}

#[test]
fn the_period_is_kept_and_the_burst_goes_first_and_comes_back() {
    let tree = Tree::new(Kind::V1Separate);
    tree.write("/own/web", "cpu.cfs_period_us", "50000");
    tree.set_cpu("/own/web", 40_000);
    tree.write("/own/web", "cpu.cfs_burst_us", "30000");
    let fake = tree.host();
    let down = fake.apply(Resource::Cpu, 0.2);
    assert_eq!(writes(&down), [("cpu.cfs_burst_us", "10000"), ("cpu.cfs_quota_us", "10000")]);
    let up = fake.apply(Resource::Cpu, 1.0);
    assert_eq!(writes(&up), [("cpu.cfs_quota_us", "50000"), ("cpu.cfs_burst_us", "30000")]);
    assert_eq!(tree.read("/own/web", "cpu.cfs_period_us"), "50000");

    tree.write("/own/web", "cpu.cfs_burst_us", "0");
    let after = fake.apply(Resource::Cpu, 0.9);
    assert_eq!(writes(&after), [("cpu.cfs_quota_us", "45000")], "a burst taken away by its owner stays away");
}

#[test]
fn an_increase_below_the_own_limit_writes_nothing() {
    for kind in KINDS {
        for own in [Some(2.0), None] {
            let tree = Tree::new(kind);
            tree.set_cpu("/own", 50_000);
            tree.set_memory("/own", 128.0 * MIB);
            if let Some(own) = own {
                tree.set_cpu("/own/web", (own * 100_000.0) as u64);
                tree.set_memory("/own/web", own * 256.0 * MIB);
            }
            let fake = tree.host();
            for (resource, before, target) in [(Resource::Cpu, 0.5, 0.8), (Resource::Memory, 128.0 * MIB, 192.0 * MIB)]
            {
                let outcome = fake.apply_from(before, resource, target);
                assert_eq!(
                    (outcome.status, outcome.limit_after, outcome.writes.len()),
                    (OutcomeStatus::Unchanged, Some(before), 0),
                    "{}",
                    outcome.message
                );
                assert!(outcome.message.ends_with("at /own"), "{}", outcome.message);
            }
            let lower = fake.apply_from(0.5, Resource::Cpu, 0.4);
            assert_eq!((lower.status, lower.limit_after), (OutcomeStatus::Applied, Some(0.4)));
            let higher = fake.apply_from(0.4, Resource::Cpu, 0.5);
            assert_eq!((higher.status, higher.limit_after), (OutcomeStatus::Applied, Some(0.5)));
        }
    }
}

#[test]
fn a_limit_that_stands_is_applied_though_those_above_cannot_be_read() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        tree.set_memory("/own/web", 128.0 * MIB);
        let fake = tree.host();
        tree.write("/own", tree.memory_file(), "nonsense\n");
        let outcome = fake.apply(Resource::Memory, 192.0 * MIB);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(192.0 * MIB)));
        assert!(outcome.message.contains("nonsense"), "{}", outcome.message);
    }
}

#[test]
fn a_target_above_an_ancestor_is_refused_on_v1_and_told_on_v2() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        tree.set_cpu("/own", 50_000);
        let outcome = tree.host().apply(Resource::Cpu, 0.8);
        let expected = if kind == Kind::V2 { OutcomeStatus::Applied } else { OutcomeStatus::Refused };
        assert_eq!(outcome.status, expected);
        assert!(outcome.message.contains("0.50 cores") && outcome.message.contains("/own"), "{}", outcome.message);
    }
}

#[test]
fn memory_is_lowered_to_whole_pages_with_a_squeeze_on_v2() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let current = if kind == Kind::V2 { "memory.current" } else { "memory.usage_in_bytes" };
        tree.write("/own/web", current, &(60u64 << 20).to_string());
        let fake = tree.host();
        let outcome = fake.apply(Resource::Memory, 80.0 * MIB + 1.0);
        assert_eq!(outcome.limit_after, Some(80.0 * MIB), "{}", outcome.message);
        let text = (80u64 << 20).to_string();
        match kind {
            Kind::V2 => {
                let high = tidy(0.98 * 80.0 * MIB);
                assert_eq!(
                    writes(&outcome),
                    [("memory.high", high.as_str()), ("memory.max", text.as_str()), ("memory.high", "max")]
                );
            }
            _ => assert_eq!(writes(&outcome), [("memory.limit_in_bytes", text.as_str())]),
        }
        let up = fake.apply(Resource::Memory, 120.0 * MIB);
        assert_eq!((up.status, up.limit_after), (OutcomeStatus::Applied, Some(120.0 * MIB)));
        assert_eq!(fake.apply(Resource::Memory, 120.0 * MIB).status, OutcomeStatus::Unchanged);
    }
}

#[test]
fn memory_below_what_cannot_be_reclaimed_is_infeasible_without_a_write() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        tree.set_memory("/own/web", 200.0 * MIB);
        let outcome = tree.host().apply(Resource::Memory, 40.5 * MIB);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Infeasible, Some(200.0 * MIB)));
        assert!(outcome.writes.is_empty());
        assert!(outcome.message.contains("40.0 MiB"), "{}", outcome.message);
    }
}

#[test]
fn a_group_that_does_not_shrink_keeps_its_limit_and_loses_the_squeeze() {
    let tree = Tree::new(Kind::V2);
    tree.write("/own/web", "memory.high", "500000000");
    let outcome = tree.host().apply(Resource::Memory, 60.0 * MIB);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Infeasible, None));
    assert_eq!(tree.read("/own/web", "memory.max"), "max\n");
    assert_eq!(tree.read("/own/web", "memory.high"), "500000000");
    assert!(outcome.message.contains("100.0 MiB"), "{}", outcome.message);
}

#[test]
fn a_group_that_shrinks_in_time_gets_the_limit_and_others_do_not_wait() {
    let tree = Tree::new(Kind::V2);
    tree.cgroup("/own/other");
    let mut fake = Fake::new(ActuatorConfig { squeeze_timeout_ms: 60_000, ..tree.config() });
    let change = change("web", Resource::Memory, 60.0 * MIB, None);
    let host = Arc::clone(&fake.host);
    let squeeze = thread::spawn(move || host.apply(&change, &VirtualClock::new(TimeMs(1_000))));
    while tree.read("/own/web", "memory.high") == "max\n" {
        thread::sleep(Duration::from_millis(1));
    }
    // While the squeeze waits, the collector measures, and another container is changed. Both would hang here if not.
    assert_eq!(fake.collect(2).present.len(), 2);
    assert_eq!(fake.apply_to("other", Resource::Memory, 120.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(fake.apply(Resource::Cpu, 1.0).status, OutcomeStatus::Applied);
    assert!(!squeeze.is_finished());
    tree.write("/own/web", "memory.current", &(50u64 << 20).to_string());
    let outcome = squeeze.join().unwrap();
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(60.0 * MIB)));
    assert!(fake.collect(3).drifts.is_empty());
}

/// Lowers the memory limit to 60 MiB, and does `meanwhile` once the squeeze is on.
fn squeeze(tree: &Tree, config: ActuatorConfig, meanwhile: impl FnOnce()) -> Outcome {
    let fake = Fake::new(ActuatorConfig { squeeze_timeout_ms: 60_000, ..config });
    let host = Arc::clone(&fake.host);
    let change = change("web", Resource::Memory, 60.0 * MIB, None);
    let squeeze = thread::spawn(move || host.apply(&change, &VirtualClock::new(TimeMs(1_000))));
    // Emptied and filled are two steps on a fake tree.
    while tree.read("/own/web", "memory.high") != tidy(0.98 * 60.0 * MIB) {
        thread::sleep(Duration::from_millis(1));
    }
    meanwhile();
    squeeze.join().unwrap()
}

#[test]
fn the_kernel_is_asked_to_reclaim_before_anybody_is_slowed_down() {
    let tree = Tree::new(Kind::V2);
    tree.write("/own/web", "memory.reclaim", "");
    let outcome = squeeze(&tree, tree.config(), || {
        assert_eq!(tree.read("/own/web", "memory.reclaim"), (32u64 << 20).to_string());
        replace(&tree, "memory.current", &(50u64 << 20).to_string());
    });
    assert_eq!(
        (outcome.status, outcome.limit_after),
        (OutcomeStatus::Applied, Some(60.0 * MIB)),
        "{}",
        outcome.message
    );
    let (piece, goal, limit) = ((32u64 << 20).to_string(), tidy(0.98 * 60.0 * MIB), (60u64 << 20).to_string());
    let expected =
        [("memory.reclaim", piece.as_str()), ("memory.high", &goal), ("memory.max", &limit), ("memory.high", "max")];
    assert_eq!(writes(&outcome), expected, "what brings nothing is not asked for again");
}

/// Replaced in one step, or a reader could find it empty.
fn replace(tree: &Tree, file: &str, text: &str) {
    tree.write("/own/web", "new", text);
    fs::rename(tree.path("/own/web", "new"), tree.path("/own/web", file)).unwrap();
}

#[test]
fn memory_that_becomes_unreclaimable_during_the_squeeze_ends_it() {
    let tree = Tree::new(Kind::V2);
    let outcome = squeeze(&tree, tree.config(), || {
        replace(&tree, "memory.stat", &format!("anon {}\n", (59.5 * MIB) as u64));
        replace(&tree, "memory.current", &(58u64 << 20).to_string());
    });
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Infeasible, None), "{}", outcome.message);
    assert!(outcome.message.contains("59.5 MiB"), "{}", outcome.message);
    assert_eq!(tree.read("/own/web", "memory.high"), "max");
}

#[test]
fn a_squeeze_that_a_killed_process_left_is_taken_away() {
    for (left, expected) in [(None, "max"), (Some("50000000"), "50000000")] {
        let tree = Tree::new(Kind::V2);
        let state = tempfile::tempdir().unwrap();
        let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..tree.config() };
        let file = state.path().join("baselines.json");
        let mut recorded = Vec::new();
        squeeze(&tree, config.clone(), || {
            recorded = fs::read(&file).unwrap();
            replace(&tree, "memory.current", &(50u64 << 20).to_string());
        });
        assert_ne!(fs::read(&file).unwrap(), recorded, "a squeeze that has ended is forgotten");

        fs::write(&file, &recorded).unwrap();
        tree.write("/own/web", "memory.high", left.unwrap_or(&tidy(0.98 * 60.0 * MIB)));
        let restarted = Fake::new(config);
        assert_eq!(restarted.first.problems, Vec::<String>::new());
        assert_eq!(tree.read("/own/web", "memory.high"), expected);
        assert_ne!(fs::read(&file).unwrap(), recorded);
    }
}

#[test]
fn usage_right_below_the_new_limit_is_too_much() {
    let tree = Tree::new(Kind::V2);
    tree.write("/own/web", "memory.current", &((59.5 * MIB) as u64).to_string());
    let outcome = tree.host().apply(Resource::Memory, 60.0 * MIB);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Infeasible, None), "{}", outcome.message);
    assert_eq!(tree.read("/own/web", "memory.max"), "max\n");
}

#[test]
fn memory_high_that_somebody_else_sets_during_the_squeeze_stays() {
    let tree = Tree::new(Kind::V2);
    let outcome = squeeze(&tree, tree.config(), || {
        replace(&tree, "memory.high", "50000000");
        replace(&tree, "memory.current", &(50u64 << 20).to_string());
    });
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(60.0 * MIB)));
    assert!(outcome.message.contains("memory.high"), "{}", outcome.message);
    assert_eq!(tree.read("/own/web", "memory.high"), "50000000");
}

#[test]
fn memory_high_is_raised_when_it_would_be_in_the_way() {
    let tree = Tree::new(Kind::V2);
    tree.set_memory("/own/web", 200.0 * MIB);
    tree.write("/own/web", "memory.high", &(150u64 << 20).to_string());
    let outcome = tree.host().apply(Resource::Memory, 300.0 * MIB);
    let text = (300u64 << 20).to_string();
    assert_eq!(writes(&outcome), [("memory.high", text.as_str()), ("memory.max", text.as_str())]);
}

#[test]
fn swap_room_moves_with_a_v1_limit_in_the_order_the_kernel_takes() {
    let tree = Tree::new(Kind::V1Separate);
    tree.set_memory("/own/web", 200.0 * MIB);
    tree.write("/own/web", "memory.memsw.limit_in_bytes", &(250u64 << 20).to_string());
    let fake = tree.host();
    let text = |mib: u64| (mib << 20).to_string();
    let up = fake.apply(Resource::Memory, 300.0 * MIB);
    let expected = [("memory.memsw.limit_in_bytes", &text(350)[..]), ("memory.limit_in_bytes", &text(300)[..])];
    assert_eq!(writes(&up), expected);
    let down = fake.apply(Resource::Memory, 120.0 * MIB);
    let expected = [("memory.limit_in_bytes", &text(120)[..]), ("memory.memsw.limit_in_bytes", &text(170)[..])];
    assert_eq!(writes(&down), expected);
}

#[test]
fn a_foreign_change_is_reported_once_left_alone_and_then_adopted() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let mut fake = tree.host();
        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
        assert!(fake.collect(2).drifts.is_empty());

        tree.set_cpu("/own/web", 70_000);
        let drift = &fake.collect(3).drifts[0];
        assert_eq!(
            (drift.resource, drift.expected, drift.found, drift.at),
            (Resource::Cpu, 0.5, Some(0.7), TimeMs(3_000))
        );
        assert!(fake.collect(4).drifts.is_empty(), "one change, one report");
        let held = fake.apply(Resource::Cpu, 0.4);
        assert_eq!((held.status, held.limit_after), (OutcomeStatus::Drifted, Some(0.7)));
        assert!(held.writes.is_empty() && held.message.contains("0.50 cores"), "{}", held.message);
        let same = fake.apply(Resource::Cpu, 0.7);
        assert_eq!(
            (same.status, same.limit_after),
            (OutcomeStatus::Unchanged, Some(0.7)),
            "there is nothing to put back"
        );

        fake.clock.set(TimeMs(63_000));
        assert_eq!(fake.apply(Resource::Cpu, 0.4).status, OutcomeStatus::Applied);
        assert!(fake.collect(64).drifts.is_empty());
    }
}

#[test]
fn a_foreign_limit_is_left_alone_for_good_also_after_a_restart_until_it_is_given_back() {
    for kind in KINDS {
        let (tree, state) = (Tree::new(kind), tempfile::tempdir().unwrap());
        let state_dir = Some(state.path().to_owned());
        let config = |on_drift| ActuatorConfig { on_drift, state_dir: state_dir.clone(), ..tree.config() };
        let mut fake = Fake::new(config(OnDrift::HandsOff));
        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
        tree.set_cpu("/own/web", 70_000);
        assert_eq!(fake.collect(2).drifts[0].answer, DriftAnswer::HandsOff);
        let left_alone = |fake: &Fake| {
            let outcome = fake.apply(Resource::Cpu, 0.4);
            assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Drifted, Some(0.7)));
            assert!(
                outcome.writes.is_empty() && outcome.message.contains("until it is 0.50 cores again"),
                "{outcome:?}"
            );
        };
        assert!(fake.collect(3_600).drifts.is_empty());
        left_alone(&fake);

        let mut restarted = Fake::new(config(OnDrift::HandsOff));
        let told = &restarted.first.drifts[0];
        assert_eq!((told.answer, told.expected, told.found), (DriftAnswer::HandsOff, 0.5, Some(0.7)));
        left_alone(&restarted);
        tree.set_cpu("/own/web", 50_000);
        assert_eq!(restarted.collect(2).drifts[0].answer, DriftAnswer::Over);
        assert_eq!(restarted.apply(Resource::Cpu, 0.4).status, OutcomeStatus::Applied);

        tree.set_cpu("/own/web", 60_000);
        assert_eq!(restarted.collect(3).drifts[0].answer, DriftAnswer::HandsOff);
        let web = change("web", Resource::Cpu, 0.0, None).container;
        let adopted = restarted.host.adopt(&web, Resource::Cpu, &restarted.clock);
        assert_eq!((adopted.status, adopted.limit_after), (OutcomeStatus::Unchanged, Some(0.6)), "{}", adopted.message);
        assert_eq!(restarted.collect(4).drifts[0].answer, DriftAnswer::Over);
        assert_eq!(restarted.apply(Resource::Cpu, 0.4).status, OutcomeStatus::Applied);
        assert!(
            Fake::new(config(OnDrift::HandsOff)).first.drifts.is_empty(),
            "a person said so, and it was remembered"
        );

        tree.set_cpu("/own/web", 70_000);
        assert_eq!(restarted.collect(5).drifts[0].answer, DriftAnswer::HandsOff);
        let adopting = Fake::new(config(OnDrift::Adopt));
        assert!(adopting.first.drifts.is_empty(), "a person said so");
        assert_eq!(adopting.apply(Resource::Cpu, 0.4).status, OutcomeStatus::Applied);
        tree.set_cpu("/own/web", 70_000);
        assert!(Fake::new(config(OnDrift::HandsOff)).first.drifts.is_empty(), "and it was remembered");
    }
}

#[test]
fn a_limit_may_be_put_back_after_its_hold_and_three_times_in_a_row_at_most() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let mut fake = Fake::new(ActuatorConfig { on_drift: OnDrift::Restore, ..tree.config() });
        fake.apply(Resource::Cpu, 0.5);
        let mut now = 2;
        for _ in 0..3 {
            tree.set_cpu("/own/web", 70_000);
            let drift = fake.collect(now).drifts.remove(0);
            assert_eq!((drift.answer, drift.expected), (DriftAnswer::Restore, 0.5));
            assert_eq!(fake.apply(Resource::Cpu, drift.expected).status, OutcomeStatus::Drifted);
            now += 60;
            assert!(fake.collect(now).drifts.is_empty());
            assert_eq!(fake.apply(Resource::Cpu, drift.expected).status, OutcomeStatus::Applied);
            now += 1;
            assert!(fake.collect(now).drifts.is_empty());
        }
        tree.set_cpu("/own/web", 70_000);
        assert_eq!(fake.collect(now).drifts[0].answer, DriftAnswer::GivenUp);
        fake.collect(now + 7_200);
        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Drifted);
    }
}

#[test]
fn memory_is_never_put_back_below_what_is_held() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let mut fake = Fake::new(ActuatorConfig { on_drift: OnDrift::Restore, drift_hold_s: 1, ..tree.config() });
        tree.set_memory("/own/web", 200.0 * MIB);
        assert_eq!(fake.apply(Resource::Memory, 300.0 * MIB).status, OutcomeStatus::Applied);
        tree.set_memory("/own/web", 400.0 * MIB);
        let drift = fake.collect(2).drifts.remove(0);
        let stat = if kind == Kind::V2 { ("anon", "kernel") } else { ("total_rss", "total_shmem") };
        let held = format!("{} {}\n{} 0\ntotal_inactive_file 0\ninactive_file 0\n", stat.0, 350u64 << 20, stat.1);
        tree.write("/own/web", "memory.stat", &held);
        fake.collect(3);
        let below = fake.apply(Resource::Memory, drift.expected);
        assert_eq!((below.status, below.writes.len()), (OutcomeStatus::Infeasible, 0), "{}", below.message);
        assert_eq!(below.limit_after, Some(400.0 * MIB));
    }
}

#[test]
fn a_vanished_and_a_recreated_container_are_noticed() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        tree.cgroup("/own/gone");
        let mut fake = tree.host();
        let old = fake.first.present.iter().find(|c| c.key.name == "web").unwrap().incarnation;
        tree.cgroup("/own/next");
        for (file, name) in [("cpu.stat", "gone"), ("cpuacct.usage", "gone"), ("memory.stat", "gone")] {
            let _ = fs::remove_dir_all(tree.path(&format!("/own/{name}"), file).parent().unwrap());
        }
        // The new one exists before the old one goes: a file system hands out freed inodes again at once.
        for file in ["cpu.stat", "cpuacct.usage", "memory.stat"] {
            let (web, next) = (tree.path("/own/web", file), tree.path("/own/next", file));
            if let (Some(web), Some(next)) = (web.parent(), next.parent().filter(|next| next.exists())) {
                fs::remove_dir_all(web).unwrap();
                fs::rename(next, web).unwrap();
            }
        }
        let collected = fake.collect(2);
        let mut vanished: Vec<_> = collected.vanished.iter().map(|key| key.name.as_str()).collect();
        vanished.sort_unstable();
        assert_eq!(vanished, ["gone", "web"]);
        assert_eq!(collected.appeared.len(), 1);
        assert_eq!(collected.appeared[0].key.name, "web");
        assert_ne!(collected.appeared[0].incarnation, old);
        assert_eq!(fake.apply_to("gone", Resource::Cpu, 1.0).status, OutcomeStatus::Refused);
        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    }
}

#[test]
fn a_container_that_died_since_it_was_seen_is_said_to_be_gone() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let fake = tree.host();
        for file in ["cpu.stat", "cpuacct.usage", "memory.stat"] {
            let _ = fs::remove_dir_all(tree.path("/own/web", file).parent().unwrap());
        }
        for resource in Resource::ALL {
            let outcome = fake.apply(resource, 64.0 * MIB);
            assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Failed, None));
            assert!(outcome.message.contains("the container is gone"), "{}", outcome.message);
        }
    }
}

#[test]
fn baselines_follow_the_runtime_until_the_first_change_and_survive_a_restart() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let state = tempfile::tempdir().unwrap();
        let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..tree.config() };
        let mut fake = Fake::new(config.clone());
        assert_eq!(fake.first.present[0].baseline[&Resource::Cpu], Limit::Unlimited);
        tree.set_cpu("/own/web", 200_000);
        assert_eq!(fake.collect(2).present[0].baseline[&Resource::Cpu], Limit::At(2.0), "the runtime sets limits late");
        assert!(!state.path().join("baselines.json").exists());

        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
        assert_eq!(fake.collect(3).present[0].baseline[&Resource::Cpu], Limit::At(2.0));
        drop(fake);

        let mut restarted = Fake::new(config);
        assert_eq!(restarted.first.present[0].baseline[&Resource::Cpu], Limit::At(2.0));
        assert_eq!(restarted.first.present[0].baseline[&Resource::Memory], Limit::Unlimited);
        assert_eq!(restarted.apply(Resource::Cpu, 0.3).status, OutcomeStatus::Applied);
        assert_eq!(restarted.collect(4).present[0].baseline[&Resource::Cpu], Limit::At(2.0));
    }
}

#[test]
fn without_a_place_for_the_baseline_nothing_is_changed() {
    let tree = Tree::new(Kind::V2);
    let state = tempfile::tempdir().unwrap();
    let fake = Fake::new(ActuatorConfig { state_dir: Some(state.path().to_owned()), ..tree.config() });
    fs::create_dir(state.path().join("baselines.json.new")).unwrap();
    let outcome = fake.apply(Resource::Cpu, 0.5);
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(outcome.message.contains("baselines.json"), "{}", outcome.message);
    assert_eq!(tree.read("/own/web", "cpu.max"), "max 100000\n");
}

#[test]
fn a_controller_whose_directory_comes_later_is_picked_up() {
    let tree = Tree::new(Kind::V1Separate);
    let memory = tree.path("/own/web", "memory.stat").parent().unwrap().to_owned();
    let aside = tree.dir.path().join("aside");
    fs::rename(&memory, &aside).unwrap();
    let mut fake = tree.host();
    assert_eq!(value(&fake.first, metrics::USAGE, Resource::Memory), None);
    assert!(fake.first.problems[0].contains("/own/web has no directory in the memory hierarchy"));
    assert_eq!(fake.apply(Resource::Memory, 80.0 * MIB).status, OutcomeStatus::Refused);

    fs::rename(&aside, &memory).unwrap();
    let second = fake.collect(2);
    assert_eq!(value(&second, metrics::USAGE, Resource::Memory), Some(70.0 * MIB));
    assert_eq!(second.present[0].baseline[&Resource::Memory], Limit::Unlimited);
    assert!(second.problems.is_empty() && second.vanished.is_empty());
}

#[test]
fn a_disabled_v2_controller_names_the_file_that_enables_it() {
    let tree = Tree::new(Kind::V2);
    let fake = tree.host();
    fs::remove_file(tree.path("/own/web", "memory.max")).unwrap();
    let outcome = fake.apply(Resource::Memory, 80.0 * MIB);
    assert_eq!(outcome.status, OutcomeStatus::Refused);
    assert!(
        outcome.message.contains("'+memory'") && outcome.message.contains("own/cgroup.subtree_control"),
        "{}",
        outcome.message
    );
}

#[test]
fn docker_names_come_from_its_data_directory_and_equal_names_are_told_apart() {
    let tree = Tree::new(Kind::V1Combined);
    let id = "3f2a9c0d11223344556677889900aabbccddeeff00112233445566778899aabb";
    tree.cgroup(&format!("/docker/{id}"));
    tree.cgroup("/lxc/web");
    let docker = tempfile::tempdir().unwrap();
    let dir = docker.path().join("containers").join(id);
    fs::create_dir_all(&dir).unwrap();
    let text = r#"{"Name":"/cache","Config":{"Labels":{"tidegate.app":"shop","tidegate.user":"alice"}}}"#;
    fs::write(dir.join("config.v2.json"), text).unwrap();
    let fake = Fake::new(ActuatorConfig { docker_root: docker.path().to_owned(), ..tree.config() });
    let mut names: Vec<_> = fake.first.present.iter().map(|c| (c.key.name.as_str(), c.runtime)).collect();
    names.sort_by_key(|(name, _)| *name);
    assert_eq!(names, [("cache", Runtime::Docker), ("own.web", Runtime::Bare), ("web", Runtime::Lxc)]);
    let cache = fake.first.present.iter().find(|c| c.key.name == "cache").unwrap();
    assert_eq!((cache.app.as_deref(), cache.user.as_deref()), (Some("shop"), Some("alice")));
}

#[test]
fn with_pinning_the_cpuset_follows_the_limit() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        let devices = tempfile::tempdir().unwrap();
        let put = |path: String, text: &str| {
            let path = devices.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpu/online".to_owned(), "0-3\n");
        for cpu in 0..4 {
            put(format!("cpu/cpu{cpu}/topology/physical_package_id"), "0\n");
            put(format!("cpu/cpu{cpu}/topology/core_id"), &format!("{cpu}\n"));
        }
        for (cgroup, cpus) in [("/own", "0-3\n"), ("/own/web", "0-3\n")] {
            tree.write(cgroup, "cpuset.cpus", cpus);
        }
        tree.cgroup("/own/db");
        tree.write("/own/db", "cpuset.cpus", "0-3\n");
        let config = ActuatorConfig { pinning: true, devices: devices.path().to_owned(), ..tree.config() };
        let mut fake = Fake::new(config);
        let web = fake.apply(Resource::Cpu, 1.5);
        assert_eq!(web.status, OutcomeStatus::Applied, "{}", web.message);
        assert_eq!(writes(&web)[1], ("cpuset.cpus", "0-1"));
        let db = fake.apply_to("db", Resource::Cpu, 2.0);
        assert_eq!(writes(&db)[1], ("cpuset.cpus", "2-3"));
        let more = fake.apply(Resource::Cpu, 3.0);
        assert!(more.message.contains("not pinned") && more.message.contains("300 shares"), "{}", more.message);
        assert_eq!(
            fake.apply(Resource::Memory, 200.0 * MIB).writes.iter().filter(|w| w.target.contains("cpuset")).count(),
            0
        );

        for file in ["cpu.stat", "cpuacct.usage", "memory.stat", "cpuset.cpus"] {
            let _ = fs::remove_dir_all(tree.path("/own/db", file).parent().unwrap());
        }
        assert_eq!(fake.collect(2).vanished.len(), 1);
        assert_eq!(fake.apply(Resource::Cpu, 4.0).limit_after, Some(4.0));
        assert_eq!(writes(&fake.apply(Resource::Cpu, 0.5))[1], ("cpuset.cpus", "0"));
    }
}

#[test]
fn without_a_cpuset_a_container_is_scaled_and_not_pinned() {
    let tree = Tree::new(Kind::V2);
    let fake = Fake::new(ActuatorConfig { pinning: true, ..tree.config() });
    let outcome = fake.apply(Resource::Cpu, 0.5);
    assert_eq!((outcome.status, outcome.writes.len()), (OutcomeStatus::Applied, 1));
    assert!(outcome.message.contains("no cpuset controller"), "{}", outcome.message);
}
