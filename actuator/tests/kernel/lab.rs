//! One container with a process in it that does as it is told.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tidegate_actuator::sandbox::Sandbox;
use tidegate_actuator::{
    Actuator, ActuatorConfig, ActuatorError, Change, Collected, KnobMode, KnobReport, LocalHost, Source,
};
use tidegate_model::{CgroupVersion, Clock, ContainerKey, Outcome, OutcomeStatus, Resource, SystemClock};

pub const MIB: f64 = 1_048_576.0;
/// A load waits for its orders in this environment variable's presence only.
const IS_LOAD: &str = "TIDEGATE_TEST_LOAD";

/// One container with a process in it that does as it is told. Fields go in this order: the process must be gone before
/// its cgroup can be removed.
pub struct Lab {
    pub load: Load,
    pub source: Box<dyn Source>,
    pub host: Arc<LocalHost>,
    pub sandbox: Sandbox,
    pub root: PathBuf,
    pub config: ActuatorConfig,
}

impl Lab {
    /// `None`, with the reason printed, where cgroups cannot be written.
    pub fn open() -> Option<Self> {
        Self::open_with(ActuatorConfig::default())
    }

    pub fn open_with(config: ActuatorConfig) -> Option<Self> {
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

    pub fn version(&self) -> CgroupVersion {
        self.host.version()
    }

    pub fn collect(&mut self) -> Collected {
        self.source.collect(SystemClock.now())
    }

    pub fn apply(&self, resource: Resource, target: f64) -> Outcome {
        let container = ContainerKey { host: "h".into(), name: "web".into() };
        let change = Change { container, resource, target, limit_before: None, decision: "d1".into() };
        let outcome = self.host.apply(&change, &SystemClock);
        println!("{resource} {target}: {} ({} us) {}", outcome.status.as_str(), outcome.took_us, outcome.message);
        outcome
    }

    /// A look at the knobs, and what came of them. None is seen to in a container's first second.
    pub fn tend(&mut self, mode: KnobMode) -> Vec<(String, OutcomeStatus)> {
        self.tend_told(mode).into_iter().map(|KnobReport { knob, status, .. }| (knob, status)).collect()
    }

    /// As [`Lab::tend`], with all that is told.
    pub fn tend_told(&mut self, mode: KnobMode) -> Vec<KnobReport> {
        let known = self.collect();
        let age = SystemClock.now().since(known.present[0].first_seen);
        thread::sleep(Duration::from_millis(1_050).saturating_sub(age));
        self.host.tend_knobs(mode, &SystemClock);
        let reports = self.collect().knobs;
        for KnobReport { knob, status, message, .. } in &reports {
            println!("{knob}: {} {message}", status.as_str());
        }
        reports
    }

    /// The directories of a group below the root, in each hierarchy that has it.
    pub fn dirs(&self, group: &str) -> Vec<PathBuf> {
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
    pub fn file(&self, group: &str, name: &str) -> PathBuf {
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

pub fn value(collected: &Collected, metric: &str, resource: Resource) -> Option<f64> {
    let mut rows = collected.samples.rows();
    rows.find(|(key, ..)| key.metric() == metric && key.tag("resource") == Some(resource.as_str())).map(|row| row.2)
}

/// A process of ours: this very binary, told to run the test `obey` alone. It exists on every machine that runs the tests.
pub struct Load {
    pub child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Load {
    pub fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lab::obey", "--ignored", "--nocapture", "--test-threads=1"])
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
    pub fn order(&mut self, order: &str) -> bool {
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

    pub fn send(&mut self, order: &str) {
        let _ = writeln!(self.orders, "{order}");
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn end(&mut self) -> ExitStatus {
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

/// Removes directories, which may have processes for another moment.
pub fn remove(dirs: &[PathBuf]) {
    for dir in dirs {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = std::fs::remove_dir(dir) {
            assert!(Instant::now() < deadline, "{}: {error}", dir.display());
            thread::sleep(Duration::from_millis(10));
        }
    }
}
