//! Knobs beside the limits, on trees made in a temporary directory: v1 with separate and with combined mounts, v2.
#![allow(clippy::unwrap_used)]

mod tree;

use std::fs;

use tidegate_actuator::{Actuator, ActuatorConfig, KnobMode, KnobReport, KnobRule, LocalHost, OnDrift};
use tidegate_model::{OutcomeStatus, Resource};

use crate::tree::{Fake, KINDS, Kind, MIB, Tree};

const GIB: f64 = 1_073_741_824.0;

/// Files of knobs as a kernel has them for a container that nobody gave anything.
fn plain(kind: Kind) -> Tree {
    let tree = Tree::new(kind);
    let v2 = kind == Kind::V2;
    for path in ["/own", "/own/web"] {
        let file = |v1: &str, v1_text: &str, name: &str, text: &str| match v2 {
            true => tree.write(path, name, text),
            false => tree.write(path, v1, v1_text),
        };
        file("cpu.shares", "1024\n", "cpu.weight", "100\n");
        file("cpu.cfs_burst_us", "0\n", "cpu.max.burst", "0\n");
        file("memory.soft_limit_in_bytes", "1073741824\n", "memory.high", "max\n");
        file("memory.memsw.limit_in_bytes", "1610612736\n", "memory.swap.max", "536870912\n");
        file("memory.limit_in_bytes", "1073741824\n", "memory.max", "max\n");
        tree.write(path, "cpuset.cpus", "0-3\n");
        if v2 {
            tree.write(path, "cpuset.cpus.effective", "0-3\n");
            tree.write(path, "io.max", "8:16 rbps=5 wbps=max riops=max wiops=max\n");
        } else {
            for rate in ["read_bps", "write_bps", "read_iops", "write_iops"] {
                tree.write(path, &format!("blkio.throttle.{rate}_device"), "");
            }
        }
    }
    tree
}

fn rule() -> KnobRule {
    KnobRule {
        container: "w*".into(),
        cpu_weight: Some(200),
        cpu_burst_us: Some(30_000),
        cpus: Some("1,2".into()),
        memory_high: Some("512MiB".into()),
        memory_swap_max: Some("256MiB".into()),
        io_max: vec!["8:0 wbps=10MiB riops=50".into()],
    }
}

fn config(tree: &Tree, rule: KnobRule) -> ActuatorConfig {
    ActuatorConfig { knobs: vec![rule], ..tree.config() }
}

/// A look at the knobs, and what came of it.
fn tend(fake: &mut Fake, mode: KnobMode, seconds: i64) -> Vec<KnobReport> {
    fake.clock.set(tidegate_model::TimeMs(seconds * 1_000));
    fake.host.tend_knobs(mode, &fake.clock);
    fake.collect(seconds).knobs
}

fn statuses(reports: &[KnobReport]) -> Vec<(&str, OutcomeStatus)> {
    reports.iter().map(|report| (report.knob.as_str(), report.status)).collect()
}

/// What stands in the files of all knobs.
fn standing(tree: &Tree) -> Vec<String> {
    let names: &[&str] = match tree.kind {
        Kind::V2 => &["cpu.weight", "cpu.max.burst", "cpuset.cpus", "memory.high", "memory.swap.max", "io.max"],
        _ => &[
            "cpu.shares",
            "cpu.cfs_burst_us",
            "cpuset.cpus",
            "memory.soft_limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
        ],
    };
    names.iter().map(|name| tree.read("/own/web", name).trim().to_owned()).collect()
}

#[test]
fn knobs_are_set_once_read_back_and_given_back() {
    for kind in KINDS {
        let (tree, state) = (plain(kind), tempfile::tempdir().unwrap());
        let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..config(&tree, rule()) };
        let mut fake = Fake::new(config);
        let found = standing(&tree);
        let applied = tend(&mut fake, KnobMode::Keep, 2);
        let all = ["cpu.weight", "cpu.burst", "cpuset.cpus", "memory.high", "memory.swap.max", "io.max 8:0"];
        assert_eq!(statuses(&applied), all.map(|knob| (knob, OutcomeStatus::Applied)), "{applied:?}");
        let (high, swap) = ((512u64 << 20).to_string(), 256u64 << 20);
        let expected = match kind {
            Kind::V2 => vec![
                "200".to_owned(),
                "30000".into(),
                "1-2".into(),
                high,
                swap.to_string(),
                "8:0 rbps=max wbps=10485760 riops=50 wiops=max".into(),
            ],
            _ => vec![
                "2048".to_owned(),
                "30000".into(),
                "1-2".into(),
                high,
                (GIB as u64 + swap).to_string(),
                "8:0 10485760".into(),
                "8:0 50".into(),
            ],
        };
        assert_eq!(standing(&tree), expected);
        let weight = &applied[0];
        assert_eq!((weight.value, weight.container.name.as_str()), (200.0, "web"));
        let shown = if kind == Kind::V2 { "100 to 200" } else { "100 (1024 shares) to 200 (2048 shares)" };
        assert!(weight.message.contains(shown), "{}", weight.message);

        let path = tree.path("/own/web", "cpuset.cpus");
        let touched = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(tend(&mut fake, KnobMode::Keep, 3).is_empty());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), touched, "nothing is written twice");

        // What was found is on disk: another process puts it back, too.
        let mut other = Fake::new(ActuatorConfig { state_dir: Some(state.path().to_owned()), ..tree.config() });
        let back = tend(&mut other, KnobMode::GiveBack, 4);
        assert_eq!(statuses(&back), all.map(|knob| (knob, OutcomeStatus::Applied)), "{back:?}");
        let mut given = standing(&tree);
        if kind == Kind::V2 {
            assert_eq!(given.pop().unwrap(), "8:0 rbps=max wbps=max riops=max wiops=max");
            assert_eq!(given, found[..5]);
        } else {
            assert_eq!(given[5..], ["8:0 0", "8:0 0"]);
            assert_eq!(given[..5], found[..5]);
        }
        assert!(tend(&mut other, KnobMode::GiveBack, 5).is_empty());
    }
}

#[test]
fn while_the_kill_switch_is_on_nothing_is_set_and_afterwards_everything() {
    for kind in KINDS {
        let tree = plain(kind);
        let mut fake = Fake::new(config(&tree, rule()));
        let found = standing(&tree);
        assert!(tend(&mut fake, KnobMode::Hold, 2).is_empty());
        assert!(tend(&mut fake, KnobMode::GiveBack, 3).is_empty(), "nothing was changed");
        assert_eq!(standing(&tree), found);
        assert_eq!(tend(&mut fake, KnobMode::Keep, 4).len(), 6);
        assert_eq!(tend(&mut fake, KnobMode::GiveBack, 5).len(), 6);
        assert_eq!(tend(&mut fake, KnobMode::Keep, 6).len(), 6, "as it shall be again");
    }
}

#[test]
fn what_somebody_else_sets_is_told_once_and_left_alone_or_put_back() {
    for kind in KINDS {
        let (file, ours, theirs) = match kind {
            Kind::V2 => ("cpu.weight", "200", "300\n"),
            _ => ("cpu.shares", "2048", "3000\n"),
        };
        let weight = KnobRule { container: "web".into(), cpu_weight: Some(200), ..Default::default() };
        for on_drift in [OnDrift::Adopt, OnDrift::HandsOff] {
            let tree = plain(kind);
            let mut fake = Fake::new(ActuatorConfig { on_drift, ..config(&tree, weight.clone()) });
            tend(&mut fake, KnobMode::Keep, 2);
            tree.write("/own/web", file, theirs);
            let told = tend(&mut fake, KnobMode::Keep, 3);
            assert_eq!(statuses(&told), [("cpu.weight", OutcomeStatus::Drifted)]);
            assert!(told[0].message.contains("somebody else changed cpu.weight from 200"), "{}", told[0].message);
            assert!(tend(&mut fake, KnobMode::Keep, 4_000).is_empty());
            assert!(tend(&mut fake, KnobMode::GiveBack, 4_001).is_empty());
            assert_eq!(tree.read("/own/web", file), theirs);
            tree.write("/own/web", file, ours);
            let over = tend(&mut fake, KnobMode::Keep, 4_002);
            assert_eq!(statuses(&over), [("cpu.weight", OutcomeStatus::Unchanged)]);
        }
        let tree = plain(kind);
        let mut fake = Fake::new(ActuatorConfig { on_drift: OnDrift::Restore, ..config(&tree, weight) });
        tend(&mut fake, KnobMode::Keep, 2);
        let mut now = 3;
        for _ in 0..3 {
            tree.write("/own/web", file, theirs);
            assert_eq!(statuses(&tend(&mut fake, KnobMode::Keep, now)), [("cpu.weight", OutcomeStatus::Drifted)]);
            assert!(tend(&mut fake, KnobMode::Keep, now + 59).is_empty());
            assert_eq!(statuses(&tend(&mut fake, KnobMode::Keep, now + 60)), [("cpu.weight", OutcomeStatus::Applied)]);
            assert_eq!(tree.read("/own/web", file), ours);
            now += 61;
        }
        tree.write("/own/web", file, theirs);
        let given_up = tend(&mut fake, KnobMode::Keep, now);
        assert!(given_up[0].message.contains("did not last"), "{}", given_up[0].message);
        assert!(tend(&mut fake, KnobMode::Keep, now + 7_200).is_empty());
    }
}

#[test]
fn a_burst_is_no_more_than_the_quota_and_grows_with_it() {
    for kind in KINDS {
        let tree = plain(kind);
        tree.set_cpu("/own/web", 20_000);
        let burst = KnobRule { container: "web".into(), cpu_burst_us: Some(30_000), ..Default::default() };
        let mut fake = Fake::new(config(&tree, burst));
        let file = if kind == Kind::V2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
        let after = |fake: &mut Fake, at, cores: Option<f64>| {
            cores.map(|cores| fake.apply(Resource::Cpu, cores));
            let told = tend(fake, KnobMode::Keep, at);
            assert!(told.iter().all(|report| report.status == OutcomeStatus::Applied), "{told:?}");
            tree.read("/own/web", file).trim().to_owned()
        };
        assert_eq!(after(&mut fake, 2, None), "20000");
        assert_eq!(after(&mut fake, 3, Some(0.1)), "10000");
        assert_eq!(after(&mut fake, 4, Some(0.5)), "30000");
        assert_eq!(after(&mut fake, 5, Some(f64::INFINITY)), "30000");
        assert_eq!(tend(&mut fake, KnobMode::GiveBack, 6).len(), 1);
        assert_eq!(tree.read("/own/web", file), "0");
        fake.apply(Resource::Cpu, 0.7);
        assert_eq!(tree.read("/own/web", file), "0", "what was given back does not come again with a higher quota");
    }
}

#[test]
fn memory_high_stays_where_it_was_set_when_the_limit_is_raised() {
    let tree = plain(Kind::V2);
    tree.set_memory("/own/web", 600.0 * MIB);
    let high = KnobRule { container: "web".into(), memory_high: Some("200MiB".into()), ..Default::default() };
    let mut fake = Fake::new(config(&tree, high));
    assert_eq!(tend(&mut fake, KnobMode::Keep, 2).len(), 1);
    assert_eq!(fake.apply(Resource::Memory, 800.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(tree.read("/own/web", "memory.high"), (200u64 << 20).to_string());
    assert!(tend(&mut fake, KnobMode::Keep, 3).is_empty());
}

#[test]
fn memory_high_below_what_is_held_is_told_once_and_set_when_it_fits() {
    let tree = plain(Kind::V2);
    let high = KnobRule { container: "web".into(), memory_high: Some("40MiB".into()), ..Default::default() };
    let mut fake = Fake::new(config(&tree, high));
    let told = tend(&mut fake, KnobMode::Keep, 2);
    assert_eq!(statuses(&told), [("memory.high", OutcomeStatus::Infeasible)]);
    assert!(told[0].message.contains("40.0 MiB are held"), "{}", told[0].message);
    assert!(tend(&mut fake, KnobMode::Keep, 3).is_empty() && tend(&mut fake, KnobMode::Keep, 70).is_empty());
    assert_eq!(tree.read("/own/web", "memory.high"), "max\n");
    tree.write("/own/web", "memory.stat", "anon 4096\nfile 0\nkernel 0\nshmem 0\ninactive_file 0\n");
    assert_eq!(statuses(&tend(&mut fake, KnobMode::Keep, 140)), [("memory.high", OutcomeStatus::Applied)]);
}

#[test]
fn a_limit_on_swap_waits_on_v1_for_a_limit_on_memory_and_stays_beside_it() {
    let tree = plain(Kind::V1Separate);
    for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
        tree.write("/own/web", file, tree::UNLIMITED_V1);
    }
    let swap = KnobRule { container: "web".into(), memory_swap_max: Some("64MiB".into()), ..Default::default() };
    let mut fake = Fake::new(config(&tree, swap));
    let told = tend(&mut fake, KnobMode::Keep, 2);
    assert_eq!(statuses(&told), [("memory.swap.max", OutcomeStatus::Infeasible)]);
    assert!(told[0].message.contains("waits for the container to have a memory limit"), "{}", told[0].message);
    assert_eq!(fake.apply(Resource::Memory, 200.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(statuses(&tend(&mut fake, KnobMode::Keep, 70)), [("memory.swap.max", OutcomeStatus::Applied)]);
    let both = || tree.read("/own/web", "memory.memsw.limit_in_bytes");
    assert_eq!(both(), (264u64 << 20).to_string());
    assert_eq!(fake.apply(Resource::Memory, 300.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(both(), (364u64 << 20).to_string(), "as much swap as before");
    assert!(tend(&mut fake, KnobMode::Keep, 71).is_empty());
}

#[test]
fn a_rule_that_is_gone_gives_back_what_it_set_and_a_changed_one_sets_what_it_says_now() {
    for kind in KINDS {
        let (tree, state) = (plain(kind), tempfile::tempdir().unwrap());
        let with = |weight: Option<u64>| {
            let rule = KnobRule { container: "web".into(), cpu_weight: weight, ..Default::default() };
            Fake::new(ActuatorConfig { state_dir: Some(state.path().to_owned()), ..config(&tree, rule) })
        };
        let file = if kind == Kind::V2 { "cpu.weight" } else { "cpu.shares" };
        let stands = || tree.read("/own/web", file).trim().to_owned();
        tend(&mut with(Some(200)), KnobMode::Keep, 2);
        tend(&mut with(Some(400)), KnobMode::Keep, 2);
        assert_eq!(stands(), if kind == Kind::V2 { "400" } else { "4096" });
        let mut without = with(None);
        assert_eq!(statuses(&tend(&mut without, KnobMode::Keep, 2)), [("cpu.weight", OutcomeStatus::Applied)]);
        assert_eq!(stands(), if kind == Kind::V2 { "100" } else { "1024" });
        assert!(tend(&mut without, KnobMode::Keep, 3).is_empty());
        tend(&mut with(Some(200)), KnobMode::Keep, 2);
        tree.write("/own/web", file, "777\n");
        assert!(tend(&mut with(None), KnobMode::Keep, 2).is_empty(), "it is somebody else's now");
        assert_eq!(stands(), "777");
    }
}

#[test]
fn a_container_that_is_never_scaled_keeps_its_knobs() {
    for kind in KINDS {
        let tree = plain(kind);
        let config = ActuatorConfig { never_scale: vec!["web".into()], ..config(&tree, rule()) };
        let found = standing(&tree);
        assert!(tend(&mut Fake::new(config), KnobMode::Keep, 2).is_empty());
        assert_eq!(standing(&tree), found);
    }
}

#[test]
fn what_the_kernel_does_not_have_and_what_the_cgroup_above_does_not_is_told_with_the_reason() {
    for kind in KINDS {
        let tree = plain(kind);
        let (weight, above) =
            if kind == Kind::V2 { ("cpu.weight", "cpuset.cpus.effective") } else { ("cpu.shares", "cpuset.cpus") };
        fs::remove_file(tree.path("/own/web", weight)).unwrap();
        tree.write("/own", above, "0-1\n");
        let mut fake = Fake::new(config(&tree, rule()));
        let told = tend(&mut fake, KnobMode::Keep, 2);
        let of = |knob: &str| told.iter().find(|report| report.knob == knob).unwrap();
        assert_eq!(of("cpu.weight").status, OutcomeStatus::Refused);
        assert!(of("cpu.weight").message.contains("this kernel does not have it"), "{:?}", of("cpu.weight"));
        assert_eq!(of("cpuset.cpus").status, OutcomeStatus::Infeasible);
        let why = "CPU 2 is not among 0-1";
        assert!(of("cpuset.cpus").message.contains(why), "{:?}", of("cpuset.cpus"));
        assert_eq!(of("cpu.burst").status, OutcomeStatus::Applied, "one knob does not stop another");
    }
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused_at_the_start() {
    let tree = plain(Kind::V2);
    let wrong = KnobRule { cpu_weight: Some(20_000), ..rule() };
    let error = LocalHost::new(config(&tree, wrong)).unwrap_err().to_string();
    for part in ["'w*'", "cpu_weight", "'20000'", "1 to 10000"] {
        assert!(error.contains(part), "{error}");
    }
    let error = LocalHost::new(ActuatorConfig { pinning: true, ..config(&tree, rule()) }).unwrap_err().to_string();
    assert!(error.contains("cpus cannot be set where containers are pinned"), "{error}");
}
