//! Containers of a real Podman, which has no daemon but a service that is asked: names, labels and updates.

use std::path::Path;
use std::process::{Command, Stdio};

use super::engines::{command, engine, has_systemd, reload_systemd, root_with_load, run, with_engine};
use super::{BEFORE, LONG, Subject, WANTED, is_given_back, is_known, is_raised, is_set, start, went_through};
use crate::support::{Process, wait_for};

/// A Podman with a storage of the test's own, and its service.
struct Podman {
    service: Option<Process>,
    dir: tempfile::TempDir,
}

impl Podman {
    fn start() -> Self {
        let mut podman = Self { service: None, dir: tempfile::tempdir().unwrap() };
        let image = podman.dir.path().join("image");
        root_with_load(&image);
        run(Command::new("tar").arg("-cf").arg(podman.at("image.tar")).arg("-C").arg(&image).arg("."));
        run(&mut podman.command(&["import", &podman.at("image.tar"), "busybox"]));
        let socket = podman.at("podman.sock");
        let service = podman
            .command(&["system", "service", "--time=0", &format!("unix://{socket}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        podman.service = Some(Process(service.unwrap()));
        wait_for("Podman's service", LONG, || Path::new(&socket).exists().then_some(()));
        podman
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command("podman");
        let (storage, state) = (self.at("storage"), self.at("state"));
        command.args(["--root", &storage, "--runroot", &state, "--storage-driver", "vfs"]).args(args);
        command
    }

    /// Starts a container, with the options of Podman that say how, and gives its identifier.
    fn run(&self, options: &[&str], name: &str) -> String {
        let (cpus, memory) = (BEFORE.0.to_string(), BEFORE.1.to_string());
        let id = run(self
            .command(options)
            .args(["run", "--detach", "--name", name, "--network", "none", "--cpus", &cpus, "--memory", &memory])
            .args(["--label", "tidegate.app=shop", "--label", "tidegate.cpu.max=1.5"])
            .args(["busybox", "/bin/sh", "/load"]));
        id.trim().to_owned()
    }

    fn settings(&self, socket: &str) -> [String; 4] {
        let root = ("--actuator-podman-root", self.at("storage"));
        ["--actuator-podman-socket".into(), socket.into(), root.0.into(), root.1]
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).output();
    }
}

/// Under systemd crun makes a cgroup below its scope: there are the limits, and systemd knows of none.
#[test]
fn a_container_of_podman_gets_what_a_rule_says() {
    const TEST: &str = "conformance::podman::a_container_of_podman";
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["podman", "conmon", "crun", "runc", "busybox"]) else { return };
    let podman = Podman::start();
    let server = start(&podman.settings(&podman.at("podman.sock")));
    let name = format!("{}-web", containers.root);
    let id = podman.run(&[], &name);
    let cgroup = Path::new("machine.slice").join(format!("libpod-{id}.scope")).join("container");
    let subject = Subject::new(&name, cgroup, podman.dir.path());
    is_known(&server, &name, "podman", Some("shop"));
    is_raised(&server, &subject);
    went_through(&server, &name, "Podman: POST");
    reload_systemd();
    assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());

    // Podman 4 takes an update and does not remember it.
    let (status, text) = server.post("/api/v1/sql", &[], b"DROP RULE hold");
    assert_eq!(status, 200, "{text}");
    run(&mut podman.command(&["restart", "--time", "0", &name]));
    wait_for("it to be there again", LONG, || subject.exists().then_some(()));
    assert!(subject.has_limits(BEFORE), "{:?} after a restart", subject.limits());
    is_set(&server, &subject);
    is_given_back(&server, &subject);
}

#[test]
fn podmans_other_ways_to_make_a_cgroup_are_known_too() {
    const TEST: &str = "conformance::podman::podmans_other_ways";
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["podman", "conmon", "crun", "runc", "busybox"]) else { return };
    let podman = Podman::start();
    let runc = engine("runc").unwrap().display().to_string();
    let ways: [(&str, [&str; 2], [&str; 2]); 2] = [
        ("runc", ["--runtime", &runc], ["machine.slice/libpod-", ".scope"]),
        ("cgroupfs", ["--cgroup-manager", "cgroupfs"], ["libpod_parent/libpod-", ""]),
    ];
    let server = start(&podman.settings(&podman.at("podman.sock")));
    for (way, options, [above, end]) in ways {
        let name = format!("{}-{way}", containers.root);
        let id = podman.run(&options, &name);
        let subject = Subject::new(&name, format!("{above}{id}{end}").into(), podman.dir.path());
        is_known(&server, &name, "podman", Some("shop"));
        is_set(&server, &subject);
    }
    drop(server);
    // Without its service the list that its storage keeps tells names, and no labels.
    let server = start(&podman.settings(""));
    is_known(&server, &format!("{}-cgroupfs", containers.root), "podman", None);
}
