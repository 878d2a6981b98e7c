//! Units of systemd, which keeps what it is told and writes it again with each daemon-reload.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::engines::{has_systemd, reload_systemd, run, with_engine};
use super::{BEFORE, LOAD, LONG, MIB, Subject, WANTED, is_given_back, is_raised, start};
use crate::support::{ProcessGroup, Server, wait_for};

/// What a rule makes of memory.high.
const HIGH: u64 = 112 * MIB;

/// A unit with a load in it, which is stopped with its owner.
struct Unit {
    name: String,
    subject: Subject,
    /// The process of a scope is no child of systemd's.
    _process: Option<ProcessGroup>,
}

impl Unit {
    /// `container` is how Tidegate calls it, `slice` where it is.
    fn start(name: String, container: &str, slice: &str, files: &Path) -> Self {
        let mut command = Command::new("systemd-run");
        let (quota, memory) = (format!("CPUQuota={}%", BEFORE.0 * 100.0), format!("MemoryMax={}", BEFORE.1));
        command.args(["--quiet", "--unit", &name, "--slice", slice, "--property", &quota, "--property", &memory]);
        let is_scope = name.ends_with(".scope");
        if is_scope {
            command.arg("--scope").current_dir(files);
        } else {
            command.arg(format!("--working-directory={}", files.display()));
        }
        // As a file, since systemd 252 does not understand the semicolons of its own transient units after a daemon-reload.
        fs::write(files.join("load"), LOAD).unwrap();
        command.args(["busybox", "sh", "load"]);
        let process = is_scope.then(|| ProcessGroup::spawn(&mut command).unwrap());
        if !is_scope {
            run(&mut command);
        }
        let subject = Subject::new(container, Path::new(slice).join(&name), files);
        wait_for("its cgroup", LONG, || subject.exists().then_some(()));
        Self { name, subject, _process: process }
    }

    fn shows(&self, property: &str) -> String {
        run(Command::new("systemctl").args(["show", "--property", property, "--value", &self.name])).trim().to_owned()
    }

    fn high(&self) -> String {
        self.subject.file("", "memory.high").trim().to_owned()
    }

    /// That systemd knows these limits, and writes the same again.
    fn keeps(&self, limits: (f64, u64)) {
        wait_for("systemd to know the limits", LONG, || {
            let quota = format!("{}ms", (limits.0 * 1_000.0).round());
            (self.shows("CPUQuotaPerSecUSec") == quota && self.shows("MemoryMax") == limits.1.to_string()).then_some(())
        });
        reload_systemd();
        assert!(self.subject.has_limits(limits), "{:?} after a daemon-reload", self.subject.limits());
    }

    /// That systemd knows this memory.high, and writes the same again.
    fn keeps_high(&self, file: &str, property: &str) {
        wait_for("memory.high in the kernel's file", LONG, || (self.high() == file).then_some(()));
        wait_for("systemd to know memory.high", LONG, || (self.shows("MemoryHigh") == property).then_some(()));
        reload_systemd();
        assert_eq!(self.high(), file, "after a daemon-reload");
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["kill", "--signal=KILL", &self.name]).output();
        let _ = Command::new("systemctl").args(["stop", &self.name]).output();
    }
}

/// What is written past systemd is undone by a daemon-reload. So what outlives one was told.
fn a_reload_undoes_what_systemd_does_not_know(unit: &Unit) {
    let file = Path::new("/sys/fs/cgroup").join(&unit.subject.cgroup).join("cpu.max");
    fs::write(file, "30000 100000").unwrap();
    reload_systemd();
    wait_for("systemd to write its own limit again", LONG, || unit.subject.has_limits(BEFORE).then_some(()));
}

/// A rule moves memory.high, and takes it away again by being dropped.
fn memory_high_is_moved_and_gone_again(server: &Server, unit: &Unit) {
    let rule = format!(
        "CREATE RULE squeeze WITH (every = '1s', mode = 'on', cooldown_up = '1s', cooldown_down = '1s', step_down = 1.0, \
         warm_up = '1s', watch = '0s', dead_band = 0) AS \
         SELECT host, container, 'memory.high' AS resource, {HIGH}.0 AS target, 'a test' AS reason \
         FROM recent(INTERVAL '10 seconds') WHERE resource = 'memory' AND container = '{}'",
        unit.subject.name
    );
    for (sql, file, property) in
        [(rule.as_str(), HIGH.to_string(), HIGH.to_string()), ("DROP RULE squeeze", "max".into(), "infinity".into())]
    {
        let (status, text) = server.post("/api/v1/sql", &[], sql.as_bytes());
        assert_eq!(status, 200, "{text}");
        unit.keeps_high(&file, &property);
    }
    assert!(unit.subject.has_limits(WANTED), "{:?}", unit.subject.limits());
}

fn check(unit: &Unit) {
    a_reload_undoes_what_systemd_does_not_know(unit);
    let server = start(&["--actuator-tell-owner-every-s", "1"].map(str::to_owned));
    is_raised(&server, &unit.subject);
    unit.keeps(WANTED);
    memory_high_is_moved_and_gone_again(&server, unit);
    is_given_back(&server, &unit.subject);
    unit.keeps(BEFORE);
}

#[test]
fn a_service_gets_what_a_rule_says_and_systemd_keeps_it() {
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine("conformance::systemd::a_service", &["busybox", "systemd-run"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{}.service", containers.root);
    let unit = Unit::start(name.clone(), &name, "system.slice", dir.path());
    check(&unit);
    run(Command::new("systemctl").args(["restart", &name]));
    wait_for("its cgroup", LONG, || unit.subject.exists().then_some(()));
    wait_for("the limits to be there after a restart", LONG, || unit.subject.has_limits(BEFORE).then_some(()));
}

#[test]
fn a_scope_gets_what_a_rule_says_and_systemd_keeps_it() {
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine("conformance::systemd::a_scope", &["busybox", "systemd-run"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = format!("machine-{}.scope", containers.root);
    check(&Unit::start(name, &containers.root, "machine.slice", dir.path()));
}
