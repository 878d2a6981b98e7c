//! Machines of systemd-nspawn, registered with systemd-machined: as a service that `machinectl` starts, and as a scope.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::engines::{has_systemd, reload_systemd, root_with_load, run, with_engine};
use super::{BEFORE, LONG, Subject, WANTED, is_given_back, is_known, is_raised, is_set, start, went_through};
use crate::support::{Process, wait_for};

/// Where `machinectl` looks for machines: there is none but the tests' in a virtual machine.
const MACHINES: &str = "/var/lib/machines";

/// A machine with its files, which is ended with its owner.
struct Machine {
    name: String,
    root: PathBuf,
    /// Of one that `machinectl` did not start.
    nspawn: Option<Process>,
}

impl Machine {
    fn new(name: &str) -> Self {
        let machine = Self { name: name.to_owned(), root: Path::new(MACHINES).join(name), nspawn: None };
        let put = |path: &str, text: &str| {
            let path = machine.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        root_with_load(&machine.root);
        // Without these it is no system to boot.
        put("etc/os-release", "ID=none\n");
        put("usr/none", "");
        put("sbin/init", "#!/bin/sh\nexec /bin/sh /load\n");
        run(Command::new("chmod").arg("755").arg(machine.root.join("sbin/init")));
        machine
    }

    /// As a service. Its limits are a drop-in of an administrator's.
    fn boot(&self) {
        let (quota, memory) = (BEFORE.0 * 100.0, BEFORE.1);
        let put = |path: String, text: String| {
            fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limits = format!("[Service]\nCPUQuota={quota}%\nMemoryMax={memory}\n");
        // Its name sorts before those of what systemd is told, or it would count instead of that from a daemon-reload on.
        put(format!("/run/systemd/system/{}.d/10-limits.conf", self.service()), limits);
        // No interface towards the host, and no users of its own, for which the files would have to be given away.
        let own = "[Exec]\nPrivateUsers=no\n[Network]\nPrivate=yes\nVirtualEthernet=no\n";
        put(format!("/run/systemd/nspawn/{}.nspawn", self.name), own.to_owned());
        run(Command::new("systemctl").arg("daemon-reload"));
        run(Command::new("machinectl").args(["start", &self.name]));
    }

    /// As a scope, by hand.
    fn spawn(&mut self) {
        let (quota, memory) =
            (format!("--property=CPUQuota={}%", BEFORE.0 * 100.0), format!("--property=MemoryMax={}", BEFORE.1));
        let nspawn = Command::new("systemd-nspawn")
            .args(["--quiet", "--as-pid2", "--private-network", "--machine", &self.name, "--directory"])
            .arg(&self.root)
            .args([&quota, &memory, "/bin/sh", "/load"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.nspawn = Some(Process(nspawn.unwrap()));
    }

    /// The first process of a machine has to be killed: a shell does not end on request.
    fn stop(&self) {
        for args in [["kill", "--signal=KILL"], ["stop", "--quiet"]] {
            let _ = Command::new("systemctl").args(args).arg(self.service()).output();
        }
    }

    fn service(&self) -> String {
        format!("systemd-nspawn@{}.service", self.name)
    }

    fn is_registered(&self, unit: &str) {
        let show = ["show", "--property", "Unit", "--value", &self.name];
        wait_for("the machine to be registered", LONG, || {
            let output = Command::new("machinectl").args(show).output().unwrap();
            (String::from_utf8_lossy(&output.stdout).trim() == unit).then_some(())
        });
    }

    fn subject(&self, unit: &str) -> Subject {
        let subject = Subject::new(&self.name, Path::new("machine.slice").join(unit), &self.root);
        wait_for("its cgroup", LONG, || subject.exists().then_some(()));
        subject
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        self.nspawn = None;
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_machine_that_machinectl_starts_gets_what_a_rule_says_and_keeps_it() {
    const TEST: &str = "conformance::nspawn::a_machine_that_machinectl_starts";
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["machinectl", "systemd-nspawn", "busybox"]) else { return };
    let machine = Machine::new(&containers.root);
    let unit = machine.service();
    machine.boot();
    machine.is_registered(&unit);
    let subject = machine.subject(&unit);
    let server = start(&[]);
    is_known(&server, &machine.name, "machine", None);
    is_raised(&server, &subject);
    went_through(&server, &machine.name, "SetUnitProperties");
    reload_systemd();
    assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());
    machine.stop();
    // A moment later, since machined still knows the former one by that name.
    wait_for("the machine to start again", LONG, || {
        Command::new("systemctl").args(["start", &unit]).output().unwrap().status.success().then_some(())
    });
    wait_for("the limits to outlive a restart", LONG, || {
        (subject.exists() && subject.has_limits(WANTED)).then_some(())
    });
    // The one that was found first is the baseline, not what systemd brought back.
    wait_for("the machine to be known again", LONG, || {
        let sql = format!(
            "SELECT count(*) FROM limits WHERE container = '{}' AND time > now() - INTERVAL '2 seconds'",
            machine.name
        );
        server.number(&sql).filter(|count| *count > 0.0)
    });
    is_given_back(&server, &subject);
}

#[test]
fn a_machine_in_a_scope_gets_what_a_rule_says() {
    const TEST: &str = "conformance::nspawn::a_machine_in_a_scope";
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["machinectl", "systemd-nspawn", "busybox"]) else { return };
    let mut machine = Machine::new(&format!("{}.by-hand", containers.root));
    machine.spawn();
    let unit = format!("machine-{}.scope", machine.name.replace('-', "\\x2d"));
    machine.is_registered(&unit);
    let subject = machine.subject(&unit);
    let server = start(&[]);
    is_known(&server, &machine.name, "machine", None);
    is_set(&server, &subject);
    went_through(&server, &machine.name, "SetUnitProperties");
    reload_systemd();
    assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());
}
