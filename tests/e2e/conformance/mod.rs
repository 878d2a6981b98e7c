//! What a limit comes to, whoever made the container: it is asked for by a rule, read from the kernel's own files, measured
//! on a real load, remembered by the owner, and given back.

mod containerd;
mod docker;
pub mod engines;
mod lxc;
mod nspawn;
mod podman;
mod runc;
mod systemd;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::{Value, json};

use super::support::{ProcessGroup, Server, TestContainers, installed, pid, skip, wait_for};

const LONG: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// What the containers are made with, and what the rule wants them to have: cores and bytes.
const BEFORE: (f64, u64) = (0.2, 64 * MIB);
const WANTED: (f64, u64) = (0.6, 128 * MIB);
/// Burns two cores and fills the page cache with more than it may have.
const LOAD: &str = "truncate -s 160M big; while :; do cat big >/dev/null; done & while :; do :; done";

/// A container with [`LOAD`] in it.
struct Subject {
    name: String,
    /// Its cgroup, from the mount of a hierarchy.
    cgroup: PathBuf,
    /// Whether what it reads is cached, and counts as its memory: not where files are in memory anyway.
    is_cached: bool,
}

impl Subject {
    /// `files` is the directory that its load reads from.
    fn new(name: &str, cgroup: PathBuf, files: &Path) -> Self {
        const RAMFS: i64 = 0x8584_58f6;
        let on = statfs(files).unwrap().filesystem_type();
        Self { name: name.to_owned(), cgroup, is_cached: on != TMPFS_MAGIC && on.0 != RAMFS }
    }

    fn file(&self, v1: &str, v2: &str) -> String {
        let mount = Path::new("/sys/fs/cgroup");
        let is_v2 = mount.join("cgroup.controllers").exists();
        let path = if is_v2 {
            mount.join(&self.cgroup).join(v2)
        } else {
            let (controller, file) = v1.split_once('/').unwrap();
            mount.join(controller).join(&self.cgroup).join(file)
        };
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Cores and bytes, from the kernel's own files.
    fn limits(&self) -> (f64, u64) {
        let cpu = match self.file("cpu/cpu.cfs_quota_us", "cpu.max").trim().split_once(' ') {
            Some((quota, period)) => quota.parse::<f64>().unwrap() / period.parse::<f64>().unwrap(),
            None => number(&self.file("cpu/cpu.cfs_quota_us", "")) / number(&self.file("cpu/cpu.cfs_period_us", "")),
        };
        (cpu, number(&self.file("memory/memory.limit_in_bytes", "memory.max")) as u64)
    }

    /// CPU seconds since it was made.
    fn cpu_seconds(&self) -> f64 {
        let text = self.file("cpuacct/cpuacct.usage", "cpu.stat");
        match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
            Some(micros) => number(micros) / 1e6,
            None => number(&text) / 1e9,
        }
    }

    fn memory_in_use(&self) -> u64 {
        number(&self.file("memory/memory.usage_in_bytes", "memory.current")) as u64
    }

    /// The cgroup is made, and gets the files of its controllers a moment later.
    fn exists(&self) -> bool {
        let cgroup = Path::new("/sys/fs/cgroup").join(&self.cgroup);
        ["cpu.max", "memory.max", "memory.high"].iter().all(|file| cgroup.join(file).exists())
    }

    fn has_limits(&self, wanted: (f64, u64)) -> bool {
        let (cpu, memory) = self.limits();
        (cpu - wanted.0).abs() < 0.005 && memory == wanted.1
    }

    /// That it gets the cores it is allowed, within a tenth. On a busy machine it may get less for a while, and in an emulated
    /// one more: time for which that was not run at all counts as used, and is made up for later.
    fn gets_cores(&self, cores: f64) {
        let is_emulated = fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpus| cpus.contains("QEMU"));
        let mut seen = Vec::new();
        for _ in 0..8 {
            let (start, before) = (Instant::now(), self.cpu_seconds());
            std::thread::sleep(Duration::from_secs(3));
            let used = (self.cpu_seconds() - before) / start.elapsed().as_secs_f64();
            assert!(is_emulated || used < 1.1 * cores, "{} used {used:.3} cores of the {cores} that it may", self.name);
            seen.push(used);
            if used > 0.9 * cores && used < 1.1 * cores {
                println!("{}: {cores} cores allowed, {used:.3} used", self.name);
                return;
            }
        }
        panic!("{} never used just the {cores} cores that it may: {seen:.3?}", self.name);
    }

    /// That its page cache takes what memory it is allowed, and no more.
    fn fills_memory(&self, bytes: u64) {
        if !self.is_cached {
            return;
        }
        let full = wait_for("memory to be filled", LONG, || {
            let used = self.memory_in_use();
            assert!(used <= bytes, "{} uses {used} bytes of the {bytes} that it may", self.name);
            (used > bytes / 10 * 9).then_some(used)
        });
        println!("{}: {} MiB allowed, {} MiB used", self.name, bytes / MIB, full / MIB);
    }
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

/// A rule that wants what this test wants, of this container alone.
fn rule(name: &str) -> String {
    format!(
        "CREATE OR REPLACE RULE hold WITH (every = '1s', mode = 'on', cooldown_up = '1s', dead_band = 0) AS \
         SELECT host, container, resource, CASE resource WHEN 'cpu' THEN {} ELSE {}.0 END AS target, 'a test' AS reason \
         FROM recent(INTERVAL '10 seconds') WHERE container = '{name}'",
        WANTED.0, WANTED.1
    )
}

/// The limits go up by a rule, and what the load gets follows.
fn is_raised(server: &Server, subject: &Subject) {
    assert!(subject.has_limits(BEFORE), "it was made with {:?}", subject.limits());
    subject.gets_cores(BEFORE.0);
    subject.fills_memory(BEFORE.1);
    is_set(server, subject);
    subject.gets_cores(WANTED.0);
    subject.fills_memory(WANTED.1);
    let gone_wrong = "SELECT outcome, message FROM decisions WHERE outcome IN ('failed', 'infeasible', 'drifted')";
    assert_eq!(server.sql(gone_wrong), Vec::<Vec<Value>>::new());
}

/// The limits that the rule wants are in the kernel's files, and were read from there.
fn is_set(server: &Server, subject: &Subject) {
    let (status, text) = server.post("/api/v1/sql", &[], rule(&subject.name).as_bytes());
    assert_eq!(status, 200, "{text}");
    wait_for("both limits in the kernel's files", LONG, || subject.has_limits(WANTED).then_some(()));
    wait_for("both decisions to be read back", LONG, || {
        let sql = format!(
            "SELECT count(*) FROM decisions WHERE container = '{}' AND outcome = 'applied' AND limit_after = decided",
            subject.name
        );
        server.number(&sql).filter(|applied| *applied >= 2.0)
    });
}

/// How a container is listed: who made it, and the application that its labels tell.
fn is_known(server: &Server, name: &str, runtime: &str, app: Option<&str>) {
    let known = format!("SELECT runtime, app FROM containers WHERE container = '{name}'");
    wait_for("its name and labels", LONG, || (server.sql(&known) == [[json!(runtime), json!(app)]]).then_some(()));
}

/// What went through the owner, as the decisions tell it, without a word of the file that was written instead.
fn went_through(server: &Server, name: &str, owner: &str) {
    let sql = format!("SELECT written, message FROM decisions WHERE container = '{name}' AND outcome = 'applied'");
    let told = server.sql(&sql);
    assert!(told.iter().any(|row| row[0].as_str().is_some_and(|writes| writes.contains(owner))), "{told:?}");
    assert!(told.iter().all(|row| row[1].as_str().is_none_or(|why| !why.contains("instead"))), "{told:?}");
}

/// The kill switch gives the limits back that were found.
fn is_given_back(server: &Server, subject: &Subject) {
    let output = server.command(&["freeze", "--restore"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("both baselines in the kernel's files", LONG, || subject.has_limits(BEFORE).then_some(()));
    subject.gets_cores(BEFORE.0);
}

fn start(settings: &[String]) -> Server {
    let quiet = ["--install-default-rules", "false"].map(str::to_owned);
    let settings: Vec<&str> = settings.iter().chain(&quiet).map(String::as_str).collect();
    Server::start(&settings)
}

#[test]
fn a_bare_cgroup_gets_what_a_rule_says() {
    let Some(containers) = TestContainers::new("conformance::a_bare_cgroup") else { return };
    if !installed("busybox") {
        return skip("conformance::a_bare_cgroup", "no busybox; tests/run installs it as root");
    }
    containers.sandbox.add_group("bare").unwrap();
    containers.sandbox.limit_cpu("bare", BEFORE.0).unwrap();
    containers.sandbox.limit_memory("bare", BEFORE.1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // It waits for a line, so that nothing of it is done outside of its cgroup.
    let script = format!("read go; {LOAD}");
    let mut command = Command::new("busybox");
    let mut load =
        ProcessGroup::spawn(command.args(["sh", "-c", &script]).current_dir(&dir).stdin(Stdio::piped())).unwrap();
    containers.sandbox.move_process("bare", load.0.id()).unwrap();
    load.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    let subject = Subject::new("bare", Path::new(&containers.root).join("bare"), dir.path());
    let server = start(&containers.settings());
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}
