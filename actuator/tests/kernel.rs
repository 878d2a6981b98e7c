//! What the actuator does to real cgroups, with real processes in them. The same binary runs on v1 and on v2; where
//! cgroups cannot be written it says `SKIPPED` and why.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tidegate_actuator::agent::restore_baselines;
use tidegate_actuator::sandbox::Sandbox;
use tidegate_actuator::{
    Actuator, ActuatorConfig, ActuatorError, Change, Collected, DriftAnswer, KnobMode, KnobReport, KnobRule, LocalHost,
    OnDrift, Source,
};
use tidegate_model::{
    CgroupVersion, Clock, ContainerKey, Limit, Outcome, OutcomeStatus, Resource, SystemClock, metrics,
};

const MIB: f64 = 1_048_576.0;
/// A load waits for its orders in this environment variable's presence only.
const IS_LOAD: &str = "TIDEGATE_TEST_LOAD";

/// One container with a process in it that does as it is told. Fields go in this order: the process must be gone before
/// its cgroup can be removed.
struct Lab {
    load: Load,
    source: Box<dyn Source>,
    host: Arc<LocalHost>,
    sandbox: Sandbox,
    root: PathBuf,
    config: ActuatorConfig,
}

impl Lab {
    /// `None`, with the reason printed, where cgroups cannot be written.
    fn open() -> Option<Self> {
        Self::open_with(ActuatorConfig::default())
    }

    fn open_with(config: ActuatorConfig) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidegate-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let sandbox = match Sandbox::create(&name) {
            Ok(sandbox) => sandbox,
            Err(error) if is_obstacle(&error) => {
                println!("SKIPPED: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let root = Path::new("/").join(&name);
        sandbox.add_group("web").unwrap();
        let load = Load::start();
        sandbox.move_process("web", load.child.id()).unwrap();
        let config = ActuatorConfig { host: "h".into(), roots: vec![root.clone()], discover: false, ..config };
        let host = LocalHost::new(config.clone()).unwrap();
        let mut lab = Self { load, source: host.source(), host, sandbox, root, config };
        let first = lab.collect();
        assert_eq!(first.appeared.len(), 1, "{:?}", first.problems);
        assert_eq!(first.problems, Vec::<String>::new());
        Some(lab)
    }

    fn version(&self) -> CgroupVersion {
        self.host.version()
    }

    fn collect(&mut self) -> Collected {
        self.source.collect(SystemClock.now())
    }

    fn apply(&self, resource: Resource, target: f64) -> Outcome {
        let container = ContainerKey { host: "h".into(), name: "web".into() };
        let change = Change { container, resource, target, limit_before: None, decision: "d1".into() };
        let outcome = self.host.apply(&change, &SystemClock);
        println!("{resource} {target}: {} ({} us) {}", outcome.status.as_str(), outcome.took_us, outcome.message);
        outcome
    }

    /// A look at the knobs, and what came of them. None is seen to in a container's first second.
    fn tend(&mut self, mode: KnobMode) -> Vec<(String, OutcomeStatus)> {
        let known = self.collect();
        let age = SystemClock.now().since(known.present[0].first_seen);
        thread::sleep(Duration::from_millis(1_050).saturating_sub(age));
        self.host.tend_knobs(mode, &SystemClock);
        let reports = self.collect().knobs;
        let tell = |KnobReport { knob, status, message, .. }| {
            println!("{knob}: {} {message}", status.as_str());
            (knob, status)
        };
        reports.into_iter().map(tell).collect()
    }

    /// The directories of a group below the root, in each hierarchy that has it.
    fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let mounts =
            ["", "cpu", "cpuacct", "memory", "cpuset", "blkio"].map(|mount| Path::new("/sys/fs/cgroup").join(mount));
        let path = Path::new(self.root.file_name().unwrap()).join(group);
        assert!(
            path.starts_with(self.root.strip_prefix("/").unwrap())
                && path.to_str().unwrap().starts_with("tidegate-test-")
        );
        mounts.iter().map(|mount| mount.join(&path)).filter(|dir| dir.is_dir()).collect()
    }

    /// The path of a file of a group.
    fn file(&self, group: &str, name: &str) -> PathBuf {
        let file = self.dirs(group).into_iter().map(|dir| dir.join(name)).find(|file| file.exists());
        file.unwrap_or_else(|| panic!("no {name} in {group}"))
    }
}

fn is_obstacle(error: &ActuatorError) -> bool {
    match error {
        ActuatorError::NoHierarchy { .. } => true,
        ActuatorError::File { source, .. } => {
            matches!(source.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
        }
        _ => false,
    }
}

fn value(collected: &Collected, metric: &str, resource: Resource) -> Option<f64> {
    let mut rows = collected.samples.rows();
    rows.find(|(key, ..)| key.metric() == metric && key.tag("resource") == Some(resource.as_str())).map(|row| row.2)
}

/// A process of ours: this very binary, told to run the test `obey` alone. It exists on every machine that runs the tests.
struct Load {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Load {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "obey", "--ignored", "--nocapture", "--test-threads=1"])
            .env(IS_LOAD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut load = Self { child, orders, answers };
        assert!(load.order("ping"));
        load
    }

    /// Gives an order and waits until it is carried out; false when the process ended or could not.
    fn order(&mut self, order: &str) -> bool {
        self.send(order);
        let mut line = String::new();
        while self.answers.read_line(&mut line).unwrap_or(0) > 0 {
            match line.trim_end().rsplit(' ').next() {
                Some("DONE") => return true,
                Some("FAILED") => return false,
                _ => line.clear(),
            }
        }
        false
    }

    fn send(&mut self, order: &str) {
        let _ = writeln!(self.orders, "{order}");
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn end(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Not a test: the body of [`Load`].
#[test]
#[ignore = "the load of the other tests"]
fn obey() {
    if std::env::var_os(IS_LOAD).is_none() {
        return;
    }
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut open: Vec<File> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let done = match line.split(' ').collect::<Vec<_>>()[..] {
            ["ping"] => true,
            ["spin"] => loop {
                std::hint::spin_loop();
            },
            ["hold", mib] => {
                // One page after the other is written to, or the kernel would not give any.
                let mut block = vec![0u8; mib.parse::<usize>().unwrap() << 20];
                block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                held.push(block);
                true
            }
            ["read", path, mib] => {
                let mut file = File::open(path).unwrap();
                let copied =
                    std::io::copy(&mut (&mut file).take(mib.parse::<u64>().unwrap() << 20), &mut std::io::sink());
                // A disk loses its cache when its last reader closes it.
                open.push(file);
                copied.is_ok()
            }
            ["write", path, mib] => write_file(Path::new(path), mib.parse().unwrap()),
            ["pin", path, mib] => pin(Path::new(path), mib.parse().unwrap()),
            _ => false,
        };
        println!(" {}", if done { "DONE" } else { "FAILED" });
    }
}

fn write_file(path: &Path, mib: usize) -> bool {
    let write = || {
        let mut file = File::create(path)?;
        for _ in 0..mib {
            file.write_all(&[1; 1 << 20])?;
        }
        file.sync_all()
    };
    write().is_ok()
}

/// Fills a ramfs that only this process sees. Its pages count as page cache and can never be reclaimed.
fn pin(dir: &Path, mib: usize) -> bool {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_ok()
        && mount(Some("none"), dir, Some("ramfs"), MsFlags::empty(), none).is_ok()
        && write_file(&dir.join("pinned"), mib)
}

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
fn remove(dirs: &[PathBuf]) {
    for dir in dirs {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = fs::remove_dir(dir) {
            assert!(Instant::now() < deadline, "{}: {error}", dir.display());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

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

/// What a sandbox does without: the same groups where cpusets and disks are limited. Gone when dropped.
struct Further(Vec<PathBuf>);

impl Further {
    fn make(lab: &Lab, controller: &str) -> Option<Self> {
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

fn with_knobs(rule: KnobRule) -> ActuatorConfig {
    ActuatorConfig { knobs: vec![KnobRule { container: "web".into(), ..rule }], ..Default::default() }
}

fn text(path: &Path) -> String {
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

#[test]
fn what_goes_to_a_disk_is_measured() {
    let Some(lab) = Lab::open() else { return };
    let Some(_further) = Further::make(&lab, "blkio") else { return println!("SKIPPED: no controller of disks here") };
    // The lab's own host has seen the container before it had a group for disks.
    let mut source = LocalHost::new(lab.config.clone()).unwrap().source();
    let collect = |source: &mut Box<dyn Source>| source.collect(SystemClock.now());
    let rate = |collected: &Collected, disk: Resource| {
        let mut rows = collected.samples.rows();
        rows.find(|(key, ..)| key.metric() == metrics::USAGE && key.tag("resource") == Some(disk.as_str()))
            .map(|row| row.2)
    };
    let first = collect(&mut source);
    assert_eq!((rate(&first, Resource::DiskWrite), first.problems), (None, Vec::new()), "nothing was written yet");
    let counts = ["blkio.throttle.io_service_bytes_recursive", "io.stat"];
    let is_counted = |dir: &PathBuf| counts.iter().any(|name| dir.join(name).exists());
    let Some(group) = lab.dirs("web").into_iter().find(is_counted) else {
        return println!("SKIPPED: this kernel does not count what goes to disks");
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let of = format!("of={}", file.path().display());
    // Past the page cache, of which nobody is charged for with v1; a RAM disk is none, but reading a disk itself is counted.
    let copied: &[&str] = match statfs(file.path()).unwrap().filesystem_type() {
        TMPFS_MAGIC if Path::new("/dev/vda").exists() => &["if=/dev/vda", "of=/dev/null", "skip=100"],
        TMPFS_MAGIC => return println!("SKIPPED: no file system on a disk here"),
        _ => &["if=/dev/zero", &of, "oflag=direct"],
    };
    let script = r#"echo $$ > "$0/cgroup.procs" && exec dd bs=1M count=8 "$@" 2> /dev/null"#;
    let began = Instant::now();
    assert!(Command::new("sh").args(["-c", script]).arg(&group).args(copied).status().unwrap().success());
    let collected = collect(&mut source);
    let elapsed = began.elapsed().as_secs_f64();
    let [read, written] = Resource::DISKS.map(|disk| rate(&collected, disk).unwrap());
    println!("{read} and {written} bytes a second");
    assert!((read + written) * elapsed > 4.0 * MIB);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(rate(&collect(&mut source), Resource::DiskWrite), Some(0.0), "idle is zero");
}

/// Lists these devices as `/sys/block` does.
fn block_devices(devices: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (at, device) in devices.iter().enumerate() {
        let disk = dir.path().join(format!("disk{at}"));
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::write(disk.join("dev"), device).unwrap();
    }
    dir
}

/// The disk, and one or two devices that are there, as the kernel numbers them.
fn real_devices() -> Option<(String, Vec<String>)> {
    let dev = |name: &str| Some(fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?.trim().to_owned());
    let disk = dev("vda").or_else(|| dev("sda"))?;
    let devices = [Some(disk.clone()), dev("loop0").or_else(|| dev("zram0"))].into_iter().flatten().collect();
    Some((disk, devices))
}

/// A lab whose host has these disks, and what says where a limit on writing stands.
fn open_with_disks(config: ActuatorConfig, devices: &tempfile::TempDir) -> Option<(Lab, Further, PathBuf)> {
    let config = ActuatorConfig { block_devices: devices.path().to_owned(), ..config };
    let mut lab = Lab::open_with(config)?;
    let Some(further) = Further::make(&lab, "blkio") else {
        println!("SKIPPED: no controller of disks here");
        return None;
    };
    // The directory of disks is looked for as long as a container is new.
    lab.collect();
    let name = if lab.version() == CgroupVersion::V1 { "blkio.throttle.write_bps_device" } else { "io.max" };
    let file = lab.file("web", name);
    Some((lab, further, file))
}

#[test]
fn bandwidth_is_limited_on_each_disk_read_back_and_given_back() {
    let Some((_, devices)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&devices.iter().map(String::as_str).collect::<Vec<_>>());
    let Some((mut lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let limit = |collected: &Collected, disk| value(collected, metrics::LIMIT, disk);
    let first = lab.collect();
    assert_eq!((limit(&first, Resource::DiskWrite), value(&first, metrics::USAGE, Resource::DiskWrite)), (None, None));
    assert!(!first.present[0].baseline.contains_key(&Resource::DiskWrite), "nothing is known of its disks");

    let down = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((down.status, down.limit_after), (OutcomeStatus::Applied, Some(8.0 * MIB)), "{}", down.message);
    assert_eq!((down.writes.len(), down.message.as_str()), (devices.len(), "unlimited to 8.0 MiB/s"));
    let stands = text(&file);
    assert!(devices.iter().all(|device| stands.contains(device.as_str()) && stands.contains("8388608")), "{stands}");
    assert_eq!(lab.apply(Resource::DiskWrite, 8.0 * MIB).status, OutcomeStatus::Unchanged);
    let seen = lab.collect();
    assert_eq!((limit(&seen, Resource::DiskWrite), limit(&seen, Resource::DiskRead)), (Some(8.0 * MIB), None));
    let usage = Resource::DISKS.map(|disk| value(&seen, metrics::USAGE, disk));
    assert_eq!(usage, [Some(0.0); 2], "whoever has a limit is measured");
    assert_eq!(seen.present[0].baseline[&Resource::DiskWrite], Limit::Unlimited);

    // Reading has a limit of its own, and neither touches the other.
    assert_eq!(lab.apply(Resource::DiskRead, 3.0 * MIB).status, OutcomeStatus::Applied);
    let seen = lab.collect();
    assert_eq!(
        (limit(&seen, Resource::DiskWrite), limit(&seen, Resource::DiskRead)),
        (Some(8.0 * MIB), Some(3.0 * MIB))
    );

    // What somebody else makes of it is seen, and left alone for a while.
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    for device in &devices {
        fs::write(&file, format!("{device} {key}1000000")).unwrap();
    }
    let drifts = lab.collect().drifts;
    assert_eq!((drifts.len(), drifts[0].resource, drifts[0].found), (1, Resource::DiskWrite, Some(1e6)));
    assert_eq!(lab.apply(Resource::DiskWrite, 5.0 * MIB).status, OutcomeStatus::Drifted);
    for device in &devices {
        fs::write(&file, format!("{device} {key}8388608")).unwrap();
    }

    for disk in Resource::DISKS {
        let back = lab.apply(disk, f64::INFINITY);
        assert_eq!((back.status, back.limit_after), (OutcomeStatus::Applied, None), "{}", back.message);
    }
    assert_eq!(text(&file), "");
    assert_eq!(lab.apply(Resource::DiskRead, 0.0).status, OutcomeStatus::Refused);
}

#[test]
fn the_baseline_of_a_disk_is_kept_over_a_restart_and_given_back_without_a_controller() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let (listed, state) = (block_devices(&[&disk]), tempfile::tempdir().unwrap());
    let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..Default::default() };
    let Some((mut lab, _further, file)) = open_with_disks(config, &listed) else { return };
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    fs::write(&file, format!("{disk} {key}20971520")).unwrap();
    assert_eq!(lab.apply(Resource::DiskWrite, 8.0 * MIB).status, OutcomeStatus::Applied);
    assert!(text(&file).contains("8388608"), "{}", text(&file));

    lab.host = LocalHost::new(lab.config.clone()).unwrap();
    lab.source = lab.host.source();
    assert_eq!(lab.collect().present[0].baseline[&Resource::DiskWrite], Limit::At(20.0 * MIB));
    assert_eq!(lab.apply(Resource::DiskWrite, 5.0 * MIB).status, OutcomeStatus::Applied);
    let reports = restore_baselines(&lab.host, "the controller is silent", &|| None, &SystemClock);
    let restored: Vec<_> = reports.iter().map(|report| (report.resource, report.outcome.status)).collect();
    assert_eq!(restored, [(Resource::DiskWrite, OutcomeStatus::Applied)], "nothing else was changed");
    assert!(text(&file).contains("20971520"), "{}", text(&file));
}

#[test]
fn a_disk_that_cannot_be_limited_leaves_no_limit_on_the_others() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&[&disk, "4095:7"]);
    let Some((lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let refused = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((refused.status, refused.limit_after), (OutcomeStatus::Refused, None));
    assert!(refused.message.contains("no such disk any more"), "{}", refused.message);
    assert_eq!(text(&file), "");

    // Limits that differ were set by somebody, and could not be put back by one number.
    let Some((_, devices)) = real_devices().filter(|(_, devices)| devices.len() > 1) else { return };
    let listed = block_devices(&[&devices[0], &devices[1]]);
    drop((lab, _further));
    let Some((lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    fs::write(&file, format!("{disk} {key}1000000")).unwrap();
    let refused = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((refused.status, refused.writes.len()), (OutcomeStatus::Refused, 0), "{}", refused.message);
    assert!(refused.message.contains("different limits"), "{}", refused.message);
}

#[test]
fn a_configured_rate_is_refused_to_rules_and_one_that_is_not_stays_theirs() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&[&disk]);
    let io_max = vec![format!("{disk} wbps=10MiB riops=500")];
    let config = with_knobs(KnobRule { io_max, ..Default::default() });
    let Some((mut lab, _further, file)) = open_with_disks(config, &listed) else { return };
    let knob = format!("io.max {disk}");
    assert_eq!(lab.tend(KnobMode::Keep), [(knob.clone(), OutcomeStatus::Applied)]);
    let write = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!(write.status, OutcomeStatus::Refused);
    assert!(write.message.contains("sets io.max") && write.message.contains("no rule limits disk_write"), "{write:?}");
    assert!(text(&file).contains("10485760"), "{}", text(&file));
    assert_eq!(lab.apply(Resource::DiskRead, 3.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.tend(KnobMode::Keep).is_empty(), "the rate that it does not name is none of its affair");
    assert!(lab.collect().drifts.is_empty());

    // The kill switch gives back both, in whatever order.
    assert_eq!(lab.tend(KnobMode::GiveBack), [(knob, OutcomeStatus::Applied)]);
    assert_eq!(
        value(&lab.collect(), metrics::LIMIT, Resource::DiskRead),
        Some(3.0 * MIB),
        "a rule's limit is not the knob's"
    );
    assert_eq!(lab.apply(Resource::DiskRead, f64::INFINITY).status, OutcomeStatus::Applied);
    assert_eq!(text(&file), "");
}
