//! A container that runc makes from a bundle: in a cgroup of the test's own, and in a scope that it asks systemd for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::engines::{engine, has_systemd, reload_systemd, remove_groups, root_with_load, with_engine};
use super::{BEFORE, Subject, WANTED, is_given_back, is_raised, start};

/// Ends a container of runc with its owner, and removes the cgroups that runc made above it.
struct Runc {
    program: PathBuf,
    dir: tempfile::TempDir,
    name: &'static str,
    root: String,
}

impl Runc {
    /// Makes a container of which `cgroup` says where it is, with the options of runc that this needs.
    fn start(root: &str, name: &'static str, options: &[&str], cgroup: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runc = Self { program: engine("runc").unwrap(), dir, name, root: root.to_owned() };
        let bundle = runc.bundle();
        root_with_load(&bundle.join("rootfs"));
        let namespaces = ["pid", "mount", "network", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        let quota = (BEFORE.0 * 100_000.0) as i64;
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "args": ["/bin/sh", "/load"], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] },
            "root": { "path": "rootfs", "readonly": false },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": cgroup,
                "resources": { "cpu": { "quota": quota, "period": 100_000 }, "memory": { "limit": BEFORE.1 } },
            },
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let log = fs::File::create(runc.dir.path().join("runc.log")).unwrap();
        let made = runc
            .command()
            .args(options)
            .args(["run", "--detach", "--bundle"])
            .args([bundle.as_os_str(), name.as_ref()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status();
        let log = fs::read_to_string(runc.dir.path().join("runc.log")).unwrap();
        assert!(made.unwrap().success(), "{log}");
        runc
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.path().join("state"));
        command
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let _ = self.command().args(["delete", "--force", self.name]).output();
        remove_groups(&self.root, &[]);
    }
}

#[test]
fn a_container_of_runc_gets_what_a_rule_says() {
    let Some(containers) = with_engine("conformance::a_container_of_runc", &["runc", "busybox"]) else { return };
    let cgroup = Path::new(&containers.root).join("oci");
    let path = format!("/{}", cgroup.display());
    let runc = Runc::start(&containers.root, "tidegate-test-oci", &[], &path);
    let subject = Subject::new("oci", cgroup, &runc.bundle());
    let server = start(&containers.settings());
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}

#[test]
fn a_scope_that_runc_asks_systemd_for_gets_it_too() {
    if !has_systemd() {
        return;
    }
    let Some(containers) = with_engine("conformance::a_scope_of_runc", &["runc", "busybox"]) else { return };
    let name = containers.root.clone();
    let runc = Runc::start(
        &containers.root,
        "tidegate-test-scope",
        &["--systemd-cgroup"],
        &format!("machine.slice:machine:{name}"),
    );
    let cgroup = Path::new("machine.slice").join(format!("machine-{name}.scope"));
    let subject = Subject::new(&name, cgroup, &runc.bundle());
    let server = start(&[]);
    is_raised(&server, &subject);
    reload_systemd();
    assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());
    is_given_back(&server, &subject);
}
