//! What the kernel refuses, provoked for real: first by hand, to see that it does and with which error, then through Tidegate,
//! to see that the outcome is clear. The table of docs/runtimes.md says the same in words.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use nix::libc;
use nix::unistd::{Uid, setfsuid};
use tidegate_actuator::{ActuatorConfig, KnobMode, KnobRule};
use tidegate_model::CgroupVersion::{self, V1, V2};
use tidegate_model::OutcomeStatus::{self, Applied, Failed, Infeasible, Refused};
use tidegate_model::Resource::{self, Cpu, CpuWeight, Memory};

use crate::knobs::{Further, text, with_knobs};
use crate::lab::{Lab, MIB, remove};

/// One write by hand, and the error that the kernel answers with.
struct ByHand {
    group: &'static str,
    file: &'static str,
    text: &'static str,
    errno: i32,
}

/// One change that the kernel would refuse, or refuses.
struct Case {
    what: &'static str,
    versions: &'static [CgroupVersion],
    /// Makes it so; false where that cannot be done here.
    prepare: fn(&mut Lab) -> bool,
    by_hand: Option<ByHand>,
    change: (Resource, f64),
    status: OutcomeStatus,
    /// What the outcome says, the next step included.
    says: &'static str,
}

const BOTH: &[CgroupVersion] = &[V1, V2];
const NEXT_TO_NOTHING: f64 = 0.000_1;

fn by_hand(group: &'static str, file: &'static str, text: &'static str, errno: i32) -> Option<ByHand> {
    Some(ByHand { group, file, text, errno })
}

const MIB_48: &str = "50331648";
const MIB_128: &str = "134217728";

fn cases() -> Vec<Case> {
    vec![
        Case {
            what: "a quota above that of the cgroup above",
            versions: &[V1],
            prepare: |lab| write(lab, "", "cpu.cfs_quota_us", "50000"),
            by_hand: by_hand("web", "cpu.cfs_quota_us", "80000", libc::EINVAL),
            change: (Cpu, 0.8),
            status: Refused,
            says: "0.80 cores are above the 0.50 cores of",
        },
        Case {
            what: "a quota below that of a cgroup below",
            versions: &[V1],
            prepare: |lab| inner(lab) && write(lab, "web/inner", "cpu.cfs_quota_us", "50000"),
            by_hand: by_hand("web", "cpu.cfs_quota_us", "20000", libc::EINVAL),
            change: (Cpu, 0.2),
            status: Refused,
            says: "lower those first",
        },
        Case {
            what: "a quota of less than a millisecond",
            versions: &[V1],
            prepare: |_| true,
            by_hand: by_hand("web", "cpu.cfs_quota_us", "999", libc::EINVAL),
            change: (Cpu, NEXT_TO_NOTHING),
            status: Applied,
            says: "unlimited to 0.01 cores",
        },
        Case {
            what: "a quota of less than a millisecond",
            versions: &[V2],
            prepare: |_| true,
            by_hand: by_hand("web", "cpu.max", "999 100000", libc::EINVAL),
            change: (Cpu, NEXT_TO_NOTHING),
            status: Applied,
            says: "unlimited to 0.01 cores",
        },
        Case {
            what: "a quota that is larger than the kernel counts",
            versions: &[V1],
            prepare: |_| true,
            by_hand: by_hand("web", "cpu.cfs_quota_us", "17592186044417", libc::EINVAL),
            change: (Cpu, 1e30),
            status: Applied,
            says: "unlimited to",
        },
        Case {
            what: "a quota below the burst",
            versions: &[V1],
            prepare: |lab| {
                write(lab, "web", "cpu.cfs_quota_us", "50000") && write(lab, "web", "cpu.cfs_burst_us", "30000")
            },
            by_hand: by_hand("web", "cpu.cfs_quota_us", "20000", libc::EINVAL),
            change: (Cpu, 0.2),
            status: Applied,
            says: "0.50 cores to 0.20 cores",
        },
        Case {
            what: "a quota below the burst",
            versions: &[V2],
            prepare: |lab| write(lab, "web", "cpu.max", "50000 100000") && write(lab, "web", "cpu.max.burst", "30000"),
            by_hand: by_hand("web", "cpu.max", "20000 100000", libc::EINVAL),
            change: (Cpu, 0.2),
            status: Applied,
            says: "0.50 cores to 0.20 cores",
        },
        Case {
            what: "memory below what cannot be reclaimed",
            versions: &[V1],
            prepare: holds_64_of_256,
            by_hand: by_hand("web", "memory.limit_in_bytes", MIB_48, libc::EBUSY),
            change: (Memory, 48.0 * MIB),
            status: Infeasible,
            says: "are held that cannot be reclaimed",
        },
        // By hand this would succeed, and kill.
        Case {
            what: "memory below what cannot be reclaimed",
            versions: &[V2],
            prepare: holds_64_of_256,
            by_hand: None,
            change: (Memory, 48.0 * MIB),
            status: Infeasible,
            says: "are held that cannot be reclaimed",
        },
        Case {
            what: "memory below what is held, where nothing shows that it is",
            versions: &[V1],
            prepare: pins_64_of_256,
            by_hand: by_hand("web", "memory.limit_in_bytes", MIB_48, libc::EBUSY),
            change: (Memory, 48.0 * MIB),
            status: Infeasible,
            says: "the kernel could not reclaim down to 48.0 MiB",
        },
        Case {
            what: "memory above memory and swap",
            versions: &[V1],
            prepare: |lab| {
                lab.sandbox.limit_memory("web", 64 << 20).unwrap();
                write(lab, "web", "memory.memsw.limit_in_bytes", "83886080")
            },
            by_hand: by_hand("web", "memory.limit_in_bytes", MIB_128, libc::EINVAL),
            change: (Memory, 128.0 * MIB),
            status: Applied,
            says: "64.0 MiB to 128.0 MiB",
        },
        Case {
            what: "memory and swap below memory",
            versions: &[V1],
            prepare: |lab| {
                lab.sandbox.limit_memory("web", 64 << 20).unwrap();
                write(lab, "web", "memory.memsw.limit_in_bytes", "83886080")
            },
            by_hand: by_hand("web", "memory.memsw.limit_in_bytes", MIB_48, libc::EINVAL),
            change: (Memory, 48.0 * MIB),
            status: Applied,
            says: "64.0 MiB to 48.0 MiB",
        },
        Case {
            what: "less memory than a page",
            versions: BOTH,
            prepare: |_| true,
            by_hand: None,
            change: (Memory, 100.0),
            status: Refused,
            says: "the kernel counts in pages",
        },
        Case {
            what: "a weight beyond the range",
            versions: &[V2],
            prepare: |_| true,
            by_hand: by_hand("web", "cpu.weight", "10001", libc::ERANGE),
            change: (CpuWeight, 10_001.0),
            status: Refused,
            says: "10000",
        },
        Case {
            what: "a weight of a cgroup that is idle",
            versions: &[V1],
            prepare: |lab| write(lab, "web", "cpu.idle", "1"),
            by_hand: by_hand("web", "cpu.shares", "2048", libc::EINVAL),
            change: (CpuWeight, 200.0),
            status: Refused,
            says: "cpu.idle",
        },
        Case {
            what: "a weight of a cgroup that is idle",
            versions: &[V2],
            prepare: |lab| write(lab, "web", "cpu.idle", "1"),
            by_hand: by_hand("web", "cpu.weight", "200", libc::EINVAL),
            change: (CpuWeight, 200.0),
            status: Refused,
            says: "cpu.idle",
        },
        Case {
            what: "a cgroup that is gone",
            versions: BOTH,
            prepare: |lab| {
                lab.load.end();
                remove(&lab.dirs("web"));
                true
            },
            by_hand: None,
            change: (Cpu, 0.5),
            status: Failed,
            says: "the container is gone",
        },
        Case {
            what: "a user who may not",
            versions: BOTH,
            prepare: |_| nix::unistd::geteuid().is_root() && lose_privileges(),
            by_hand: None,
            change: (Cpu, 0.5),
            status: Failed,
            says: "run as root",
        },
    ]
}

#[test]
fn what_the_kernel_refuses_is_an_outcome_that_says_what_to_do() {
    let mut seen = 0;
    for case in cases() {
        let Some(mut lab) = Lab::open_with(ActuatorConfig { squeeze_timeout_ms: 300, ..Default::default() }) else {
            return;
        };
        if !case.versions.contains(&lab.version()) {
            continue;
        }
        println!("# {}", case.what);
        if !(case.prepare)(&mut lab) {
            println!("SKIPPED: {} cannot be provoked here", case.what);
            continue;
        }
        if let Some(ByHand { group, file, text, errno }) = case.by_hand {
            assert_eq!(answer(&lab, group, file, text), Some(errno), "{}: '{text}' to {file}", case.what);
        }
        let (resource, target) = case.change;
        let outcome = lab.apply(resource, target);
        setfsuid(Uid::from_raw(0));
        assert_eq!(outcome.status, case.status, "{}: {}", case.what, outcome.message);
        assert!(outcome.message.contains(case.says), "{}: {}", case.what, outcome.message);
        let wrote = outcome.writes.len();
        assert!((wrote > 0) == (case.status == Applied), "{}: {:?}", case.what, outcome.writes);
        // Twice is no worse than once: nothing was half done.
        if case.status != Applied {
            assert!(lab.apply(resource, target).writes.is_empty() || case.says.contains("root"));
        }
        if !case.what.contains("gone") {
            assert!(lab.load.is_alive() && lab.load.order("ping"), "{}", case.what);
        }
        seen += 1;
        remove(&lab.dirs("web/inner"));
        let _ = fs::remove_dir(pinned(&lab));
    }
    println!("{seen} cases");
}

/// The same for knobs that the configuration sets.
struct KnobCase {
    what: &'static str,
    rule: KnobRule,
    controller: Option<&'static str>,
    prepare: fn(&mut Lab) -> bool,
    by_hand: Option<ByHand>,
    status: OutcomeStatus,
    says: &'static str,
}

fn knob_cases() -> Vec<KnobCase> {
    let cpus = |cpus: &str| KnobRule { cpus: Some(cpus.to_owned()), ..Default::default() };
    vec![
        KnobCase {
            what: "CPUs of which a cgroup below has others",
            rule: cpus("0"),
            controller: Some("cpuset"),
            prepare: |lab| inner_cpuset(lab, "1"),
            by_hand: by_hand("web", "cpuset.cpus", "0", libc::EBUSY),
            status: Refused,
            says: "a cgroup below has a CPU that is not among them",
        },
        KnobCase {
            what: "CPUs that the cgroup above has not",
            rule: cpus("0-1"),
            controller: Some("cpuset"),
            prepare: |lab| write(lab, "web", "cpuset.cpus", "0") && write(lab, "", "cpuset.cpus", "0"),
            by_hand: by_hand("web", "cpuset.cpus", "0-1", libc::EACCES),
            status: Infeasible,
            says: "which the cgroup above has",
        },
        KnobCase {
            what: "no CPU for a group with processes",
            rule: cpus("0"),
            controller: Some("cpuset"),
            prepare: |lab| {
                fs::write(
                    lab.file("web", "cpuset.cpus").with_file_name("cgroup.procs"),
                    lab.load.child.id().to_string(),
                )
                .is_ok()
            },
            by_hand: by_hand("web", "cpuset.cpus", "\n", libc::ENOSPC),
            status: Applied,
            says: "to 0",
        },
        KnobCase {
            what: "a disk that is not there",
            rule: KnobRule { io_max: vec!["4095:7 rbps=1MiB".to_owned()], ..Default::default() },
            controller: Some("blkio"),
            prepare: |_| true,
            by_hand: by_hand("web", "blkio.throttle.read_bps_device", "4095:7 1048576", libc::ENODEV),
            status: Refused,
            says: "there is no such disk",
        },
        KnobCase {
            what: "swap without a limit on memory",
            rule: KnobRule { memory_swap_max: Some("16MiB".to_owned()), ..Default::default() },
            controller: None,
            prepare: |_| true,
            by_hand: by_hand("web", "memory.memsw.limit_in_bytes", MIB_48, libc::EINVAL),
            status: Infeasible,
            says: "it waits for the container to have a memory limit",
        },
        KnobCase {
            what: "a weight of a cgroup that is idle",
            rule: KnobRule { cpu_weight: Some(250), ..Default::default() },
            controller: None,
            prepare: |lab| write(lab, "web", "cpu.idle", "1"),
            by_hand: by_hand("web", "cpu.shares", "2560", libc::EINVAL),
            status: Refused,
            says: "while cpu.idle of the cgroup is 1",
        },
    ]
}

#[test]
fn what_the_kernel_refuses_of_a_knob_is_told_with_what_to_do() {
    for case in knob_cases() {
        let Some(mut lab) = Lab::open_with(with_knobs(case.rule)) else { return };
        if lab.version() != V1 {
            return println!("these are v1's files");
        }
        println!("# {}", case.what);
        let further = case.controller.map(|controller| Further::make(&lab, controller));
        if further.as_ref().is_some_and(Option::is_none) || !(case.prepare)(&mut lab) {
            println!("SKIPPED: {} cannot be provoked here", case.what);
            continue;
        }
        if let Some(ByHand { group, file, text, errno }) = case.by_hand {
            assert_eq!(answer(&lab, group, file, text), Some(errno), "{}: '{text}' to {file}", case.what);
        }
        let told = lab.tend_told(KnobMode::Keep);
        let [report] = &told[..] else { panic!("{}: {told:?}", case.what) };
        assert_eq!(report.status, case.status, "{}: {}", case.what, report.message);
        assert!(report.message.contains(case.says), "{}: {}", case.what, report.message);
        assert!(lab.tend_told(KnobMode::Keep).is_empty(), "told once");
        remove(&lab.dirs("web/inner"));
        lab.load.end();
    }
}

/// Shares beyond their range are no error: the kernel takes what it can, and says nothing.
#[test]
fn shares_beyond_their_range_are_cut_by_the_kernel_and_never_written() {
    let Some(lab) = Lab::open() else { return };
    if lab.version() != V1 {
        return println!("v2 refuses them");
    }
    for (written, stands) in [("1", "2"), ("999999", "262144")] {
        assert_eq!(answer(&lab, "web", "cpu.shares", written), None);
        assert_eq!(text(&lab.file("web", "cpu.shares")), stands);
    }
    let refused = lab.apply(CpuWeight, 25_600.0);
    assert_eq!((refused.status, refused.writes.len()), (Refused, 0), "{}", refused.message);
}

fn holds_64_of_256(lab: &mut Lab) -> bool {
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    lab.load.order("hold 64")
}

fn pins_64_of_256(lab: &mut Lab) -> bool {
    lab.sandbox.limit_memory("web", 256 << 20).unwrap();
    let dir = pinned(lab);
    fs::create_dir(&dir).unwrap();
    lab.load.order(&format!("pin {} 64", dir.display()))
}

/// Where the load has its own ramfs, which is gone with this directory.
fn pinned(lab: &Lab) -> PathBuf {
    std::env::temp_dir().join(lab.root.file_name().unwrap())
}

/// From here on this thread writes as nobody does.
fn lose_privileges() -> bool {
    setfsuid(Uid::from_raw(65_534));
    true
}

/// Makes a cgroup below the container's.
fn inner(lab: &mut Lab) -> bool {
    lab.dirs("web").iter().all(|dir| fs::create_dir(dir.join("inner")).is_ok())
}

fn inner_cpuset(lab: &mut Lab, cpu: &str) -> bool {
    let dir = lab.file("web", "cpuset.cpus").with_file_name("inner");
    fs::create_dir(&dir).is_ok() && fs::write(dir.join("cpuset.cpus"), cpu).is_ok()
}

fn write(lab: &Lab, group: &str, file: &str, text: &str) -> bool {
    let Some(path) = lab.dirs(group).into_iter().map(|dir| dir.join(file)).find(|path| path.exists()) else {
        return false;
    };
    fs::write(path, text).is_ok()
}

/// The error of a write by hand.
fn answer(lab: &Lab, group: &str, file: &str, text: &str) -> Option<i32> {
    let mut file = fs::OpenOptions::new().write(true).open(lab.file(group, file)).unwrap();
    file.write_all(text.as_bytes()).err().and_then(|error| error.raw_os_error())
}
