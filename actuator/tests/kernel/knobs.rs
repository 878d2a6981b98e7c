//! Knobs in the kernel: those that the configuration sets, and those that rules move.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_actuator::{ActuatorConfig, KnobMode, KnobRule, LocalHost};
use tidegate_model::{CgroupVersion, OutcomeStatus, Resource, metrics};

use crate::lab::{Lab, MIB, remove, value};

/// What a sandbox does without: the same groups where cpusets and disks are limited. Gone when dropped.
pub struct Further(pub Vec<PathBuf>);

impl Further {
    pub fn make(lab: &Lab, controller: &str) -> Option<Self> {
        let mount = Path::new("/sys/fs/cgroup").join(controller);
        let root = mount.join(lab.root.strip_prefix("/").unwrap());
        if lab.version() == CgroupVersion::V2 {
            // The sandbox is there already; its root hands down what it is asked to, where it has it.
            let root = Path::new("/sys/fs/cgroup").join(lab.root.strip_prefix("/").unwrap());
            let name = if controller == "blkio" { "io" } else { controller };
            return fs::write(root.join("cgroup.subtree_control"), format!("+{name}"))
                .is_ok()
                .then(|| Self(Vec::new()));
        }
        mount.is_dir().then(|| {
            let made = Self(vec![root.clone(), root.join("web")]);
            for dir in &made.0 {
                fs::create_dir(dir).unwrap();
                if controller == "cpuset" {
                    for file in ["cpuset.mems", "cpuset.cpus"] {
                        let above = fs::read_to_string(dir.parent().unwrap().join(file)).unwrap();
                        fs::write(dir.join(file), above.trim()).unwrap();
                    }
                }
            }
            made
        })
    }
}

impl Drop for Further {
    fn drop(&mut self) {
        self.0.reverse();
        remove(&self.0);
    }
}

pub fn with_knobs(rule: KnobRule) -> ActuatorConfig {
    ActuatorConfig { knobs: vec![KnobRule { container: "web".into(), ..rule }], ..Default::default() }
}

pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn weight_burst_and_memory_knobs_are_set_in_the_kernel_and_given_back() {
    let rule = KnobRule {
        cpu_weight: Some(250),
        cpu_burst_us: Some(30_000),
        memory_high: Some("100000001".into()),
        memory_swap_max: Some("16MiB".into()),
        ..Default::default()
    };
    let Some(mut lab) = Lab::open_with(with_knobs(rule)) else { return };
    let v1 = lab.version() == CgroupVersion::V1;
    lab.sandbox.limit_cpu("web", 0.2).unwrap();
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    let names = match v1 {
        true => ["cpu.shares", "cpu.cfs_burst_us", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"],
        false => ["cpu.weight", "cpu.max.burst", "memory.high", "memory.swap.max"],
    };
    if let Some(missing) = names.iter().find(|name| !lab.dirs("web").iter().any(|dir| dir.join(name).exists())) {
        return println!("SKIPPED: this kernel has no {missing}");
    }
    let files = names.map(|name| lab.file("web", name));
    let found = files.each_ref().map(|file| text(file));
    let all = ["cpu.weight", "cpu.burst", "memory.high", "memory.swap.max"];
    assert_eq!(lab.tend(KnobMode::Keep), all.map(|knob| (knob.to_owned(), OutcomeStatus::Applied)));
    // Shares as the kernel converts a weight, burst within the quota, bytes down to a page, swap beside memory.
    let (shares, swap) = if v1 { ("2560", (256u64 + 16) << 20) } else { ("250", 16 << 20) };
    let expected = [shares.to_owned(), "20000".to_owned(), "99999744".to_owned(), swap.to_string()];
    assert_eq!(files.each_ref().map(|file| text(file)), expected);
    assert!(lab.tend(KnobMode::Keep).is_empty());

    // With its quota the burst grows, with its limit the room for swap stays.
    assert_eq!(lab.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    assert_eq!(lab.apply(Resource::Memory, 300.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.tend(KnobMode::Keep).is_empty());
    let swap = if v1 { (300u64 + 16) << 20 } else { 16 << 20 };
    assert_eq!(files.each_ref().map(|file| text(file)), [shares, "30000", "99999744", &swap.to_string()]);

    fs::write(&files[0], "333").unwrap();
    assert_eq!(lab.tend(KnobMode::Keep), [("cpu.weight".to_owned(), OutcomeStatus::Drifted)]);
    assert!(lab.tend(KnobMode::Keep).is_empty());
    let back = lab.tend(KnobMode::GiveBack);
    assert_eq!(back, all[1..].iter().map(|knob| ((*knob).to_owned(), OutcomeStatus::Applied)).collect::<Vec<_>>());
    assert_eq!(text(&files[0]), "333", "it is somebody else's");
    assert_eq!(text(&files[1]), found[1]);
    assert_eq!(text(&files[2]), found[2]);
    assert_eq!(text(&files[3]), found[3]);
}

#[test]
fn knobs_that_rules_move_are_written_read_back_watched_and_given_back_like_limits() {
    let Some(mut lab) = Lab::open() else { return };
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    let (weight, high) = match lab.version() {
        CgroupVersion::V1 => ("cpu.shares", "memory.soft_limit_in_bytes"),
        CgroupVersion::V2 => ("cpu.weight", "memory.high"),
    };
    let files = [lab.file("web", weight), lab.file("web", high)];
    let found = files.each_ref().map(|file| text(file));
    let before = lab.collect();
    assert_eq!(value(&before, metrics::LIMIT, Resource::MemoryHigh), None, "nobody set it");
    assert_eq!(value(&before, metrics::LIMIT, Resource::CpuWeight), None);
    assert!(!before.present[0].baseline.contains_key(&Resource::MemoryHigh));

    let done = lab.apply(Resource::CpuWeight, 249.6);
    assert_eq!((done.status, done.limit_after, done.writes.len()), (OutcomeStatus::Applied, Some(250.0), 1));
    let done = lab.apply(Resource::MemoryHigh, 128.0 * MIB + 1.0);
    assert_eq!((done.status, done.limit_after), (OutcomeStatus::Applied, Some(128.0 * MIB)));
    let shares = if lab.version() == CgroupVersion::V1 { "2560" } else { "250" };
    assert_eq!(files.each_ref().map(|file| text(file)), [shares.to_owned(), (128 << 20).to_string()]);
    assert_eq!(lab.apply(Resource::CpuWeight, 250.0).status, OutcomeStatus::Unchanged);
    assert_eq!(lab.apply(Resource::CpuWeight, 20_000.0).status, OutcomeStatus::Refused);
    let collected = lab.collect();
    assert_eq!(value(&collected, metrics::LIMIT, Resource::MemoryHigh), Some(128.0 * MIB));
    assert_eq!(value(&collected, metrics::LIMIT, Resource::CpuWeight), Some(250.0));
    assert!(collected.drifts.is_empty(), "{:?}", collected.drifts);

    // The limit's own way down and up goes by memory.high, and leaves it where the rule put it.
    assert_eq!(lab.apply(Resource::Memory, 192.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(lab.apply(Resource::Memory, 320.0 * MIB).status, OutcomeStatus::Applied);
    assert_eq!(text(&files[1]), (128 << 20).to_string());
    assert!(lab.collect().drifts.is_empty());

    // From the limit on it would say nothing.
    assert_eq!(lab.apply(Resource::MemoryHigh, 400.0 * MIB).limit_after, None);
    assert_eq!(value(&lab.collect(), metrics::LIMIT, Resource::MemoryHigh), Some(320.0 * MIB), "what is in force");
    assert_eq!(lab.apply(Resource::MemoryHigh, 100.0 * MIB).status, OutcomeStatus::Applied);

    fs::write(&files[1], (160 << 20).to_string()).unwrap();
    let drift = &lab.collect().drifts[0];
    assert_eq!((drift.resource, drift.found), (Resource::MemoryHigh, Some(160.0 * MIB)));
    assert_eq!(lab.apply(Resource::MemoryHigh, 90.0 * MIB).status, OutcomeStatus::Drifted);

    fs::write(&files[1], (100 << 20).to_string()).unwrap();
    lab.collect();
    let baseline = lab.collect().present[0].baseline.clone();
    for knob in Resource::KNOBS {
        assert_eq!(lab.apply(knob, baseline[&knob].value().unwrap_or(f64::INFINITY)).status, OutcomeStatus::Applied);
    }
    assert_eq!(files.each_ref().map(|file| text(file)), found, "as before the first change");
}

#[test]
fn memory_high_is_never_put_below_what_cannot_be_reclaimed_and_growth_beyond_it_kills_nobody() {
    let Some(mut lab) = Lab::open() else { return };
    if lab.version() == CgroupVersion::V1 {
        return println!("not on v1: its soft limit slows nobody down");
    }
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    assert!(lab.load.order("hold 48"));
    let below = lab.apply(Resource::MemoryHigh, 32.0 * MIB);
    assert_eq!((below.status, below.writes.len()), (OutcomeStatus::Infeasible, 0), "{}", below.message);
    assert_eq!(lab.apply(Resource::MemoryHigh, 80.0 * MIB).status, OutcomeStatus::Applied);
    // Slowed down, not killed: 8 MiB beyond it.
    assert!(lab.load.order("hold 24") && lab.load.is_alive());
    assert_eq!(lab.apply(Resource::MemoryHigh, 256.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.load.order("hold 64"));
    assert_eq!(value(&lab.collect(), metrics::OOM_KILLS, Resource::Memory), Some(0.0));
}

#[test]
fn a_knob_that_the_configuration_sets_is_no_rules() {
    let Some(mut lab) = Lab::open_with(with_knobs(KnobRule { cpu_weight: Some(250), ..Default::default() })) else {
        return;
    };
    lab.tend(KnobMode::Keep);
    let refused = lab.apply(Resource::CpuWeight, 300.0);
    assert_eq!(refused.status, OutcomeStatus::Refused);
    assert!(refused.message.contains("cpu.weight to 250"), "{}", refused.message);
    assert_eq!(lab.apply(Resource::MemoryHigh, 64.0 * MIB).status, OutcomeStatus::Applied, "another knob is");
}

#[test]
fn a_weight_that_the_kernel_refuses_is_told_with_the_reason() {
    let rule = KnobRule { cpu_weight: Some(250), ..Default::default() };
    let Some(mut lab) = Lab::open_with(with_knobs(rule)) else { return };
    let idle = lab.dirs("web").into_iter().map(|dir| dir.join("cpu.idle")).find(|file| file.exists());
    let Some(idle) = idle else { return println!("SKIPPED: this kernel has no cpu.idle") };
    fs::write(&idle, "1").unwrap();
    // EINVAL.
    assert_eq!(lab.tend(KnobMode::Keep), [("cpu.weight".to_owned(), OutcomeStatus::Refused)]);
    assert!(lab.tend(KnobMode::Keep).is_empty(), "told once");
}

#[test]
fn cpus_are_set_in_the_kernel_and_what_it_refuses_is_told_with_the_reason() {
    let rule = KnobRule { cpus: Some("0".into()), ..Default::default() };
    let Some(mut lab) = Lab::open_with(with_knobs(rule)) else { return };
    let Some(_further) = Further::make(&lab, "cpuset") else { return println!("SKIPPED: no cpuset controller here") };
    let set = |status| vec![("cpuset.cpus".to_owned(), status)];
    let file = lab.file("web", "cpuset.cpus");
    let found = text(&file);
    if found == "0" {
        return println!("SKIPPED: one CPU");
    }
    if lab.version() == CgroupVersion::V1 {
        // A group below that has another CPU: EBUSY.
        let inner = Further(vec![file.parent().unwrap().join("inner")]);
        fs::create_dir(&inner.0[0]).unwrap();
        fs::write(inner.0[0].join("cpuset.cpus"), &found).unwrap();
        assert_eq!(lab.tend(KnobMode::Keep), set(OutcomeStatus::Refused));
        assert_eq!(text(&file), found);
        drop(inner);
        // It is tried again after a while; another process tries at once.
        lab.host = LocalHost::new(lab.config.clone()).unwrap();
        lab.source = lab.host.source();
        lab.collect();
    }
    assert_eq!(lab.tend(KnobMode::Keep), set(OutcomeStatus::Applied));
    assert_eq!(text(&file), "0");
    assert_eq!(lab.tend(KnobMode::GiveBack), set(OutcomeStatus::Applied));
    // On v2 it had none of its own, which a group with processes cannot have again: all of them instead.
    let all = if found.is_empty() { text(&file.with_file_name("../cpuset.cpus.effective")) } else { found };
    assert_eq!(text(&file), all);
    assert!(lab.tend(KnobMode::GiveBack).is_empty());
}

#[test]
fn rates_of_a_disk_are_set_in_the_kernel_and_one_that_is_not_there_is_told() {
    let disk = fs::read_to_string("/sys/block/vda/dev").or_else(|_| fs::read_to_string("/sys/block/sda/dev"));
    let Ok(disk) = disk else { return println!("SKIPPED: no disk here") };
    let disk = disk.trim();
    let io_max = vec![format!("{disk} rbps=10MiB wiops=50"), "4095:7 rbps=1MiB".to_owned()];
    let Some(mut lab) = Lab::open_with(with_knobs(KnobRule { io_max, ..Default::default() })) else { return };
    let Some(_further) = Further::make(&lab, "blkio") else { return println!("SKIPPED: no controller of disks here") };
    let told = lab.tend(KnobMode::Keep);
    let (own, absent) = (format!("io.max {disk}"), "io.max 4095:7".to_owned());
    let mut expected = vec![(own.clone(), OutcomeStatus::Applied), (absent, OutcomeStatus::Refused)];
    expected.sort_by_key(|(knob, _)| told.iter().position(|(told, _)| told == knob));
    assert_eq!(told, expected);
    let v1 = lab.version() == CgroupVersion::V1;
    let lines = |lab: &Lab| match v1 {
        true => ["blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"]
            .map(|name| text(&lab.file("web", name)))
            .to_vec(),
        false => vec![text(&lab.file("web", "io.max"))],
    };
    let set = match v1 {
        true => vec![format!("{disk} 10485760"), format!("{disk} 50")],
        false => vec![format!("{disk} rbps=10485760 wbps=max riops=max wiops=50")],
    };
    assert_eq!(lines(&lab), set);
    assert!(lab.tend(KnobMode::Keep).is_empty());
    assert_eq!(lab.tend(KnobMode::GiveBack), [(own, OutcomeStatus::Applied)]);
    assert!(lines(&lab).iter().all(String::is_empty));
}
