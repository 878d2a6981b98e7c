//! Containers of a real containerd, made by `ctr`: in a cgroup named after their namespace, or in a scope of systemd.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::engines::{command, has_systemd, reload_systemd, remove_groups, root_with_load, run, with_engine};
use super::{BEFORE, LONG, Subject, WANTED, is_given_back, is_known, is_raised, is_set, start, went_through};
use crate::support::{Process, wait_for};

/// A containerd of the test's own, whose namespace is the test's root.
struct Containerd {
    daemon: Option<Process>,
    dir: tempfile::TempDir,
    root: String,
}

impl Containerd {
    fn start(root: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("config.toml"), "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n").unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let daemon = command("containerd")
            .args(["--config", &at("config.toml"), "--root", &at("root"), "--state", &at("state")])
            .args(["--address", &at("containerd.sock")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        root_with_load(&dir.path().join("rootfs"));
        let containerd = Self { daemon: Some(Process(daemon.unwrap())), dir, root: root.to_owned() };
        wait_for("containerd", LONG, || containerd.ctr(&["version"]).output().unwrap().status.success().then_some(()));
        containerd
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(self.dir.path().join("containerd.sock")).args(["--namespace", &self.root]).args(args);
        ctr
    }

    fn run(&self, options: &[&str], name: &str) {
        let (quota, memory) = ((BEFORE.0 * 100_000.0).to_string(), BEFORE.1.to_string());
        run(self
            .ctr(&["run", "--detach", "--rootfs"])
            .args(["--cpu-quota", &quota, "--cpu-period", "100000", "--memory-limit", &memory])
            .args(options)
            .arg(self.dir.path().join("rootfs"))
            .args([name, "/bin/sh", "/load"]));
    }

    fn remove(&self, name: &str) {
        let _ = self.ctr(&["task", "kill", "--signal", "KILL", name]).output();
        let _ = self.ctr(&["task", "delete", "--force", name]).output();
        let _ = self.ctr(&["container", "delete", name]).output();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        ["plain", &self.root].iter().for_each(|name| self.remove(name));
        self.daemon = None;
        remove_groups(&self.root, &[]);
    }
}

#[test]
fn containers_of_containerd_get_what_a_rule_says() {
    const TEST: &str = "conformance::containerd::containers_of_containerd";
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["containerd", "ctr", "runc", "busybox"]) else { return };
    let containerd = Containerd::start(&containers.root);
    // In /NAMESPACE/NAME, which says nothing of containerd: the namespace is named as a root.
    containerd.run(&[], "plain");
    let subject = Subject::new("plain", Path::new(&containers.root).join("plain"), containerd.dir.path());
    let server = start(&containers.settings());
    is_known(&server, "plain", "bare", None);
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
    drop(server);
    containerd.remove("plain");

    let name = containers.root.clone();
    containerd.run(&["--runc-systemd-cgroup", "--cgroup", &format!("machine.slice:machine:{name}")], &name);
    let cgroup = Path::new("machine.slice").join(format!("machine-{name}.scope"));
    let subject = Subject::new(&name, cgroup, containerd.dir.path());
    let server = start(&[]);
    is_known(&server, &name, "machine", None);
    is_set(&server, &subject);
    went_through(&server, &name, "SetUnitProperties");
    reload_systemd();
    assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());
    is_given_back(&server, &subject);
}
