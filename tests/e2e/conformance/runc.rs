//! A container that runc makes from a bundle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::engines::{engine, remove_groups, root_with_load, with_engine};
use super::{BEFORE, Subject, is_given_back, is_raised, start};

/// Ends a container of runc with its owner, and removes the cgroups that runc made above it.
struct Runc {
    program: PathBuf,
    state: PathBuf,
    name: &'static str,
    root: String,
}

impl Drop for Runc {
    fn drop(&mut self) {
        let state = self.state.display().to_string();
        let _ = Command::new(&self.program).args(["--root", &state, "delete", "--force", self.name]).output();
        remove_groups(&self.root, &[]);
    }
}

#[test]
fn a_container_of_runc_gets_what_a_rule_says() {
    const TEST: &str = "conformance::a_container_of_runc";
    let Some(containers) = with_engine(TEST, &["runc", "busybox"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    root_with_load(&bundle.join("rootfs"));
    let cgroup = Path::new(&containers.root).join("oci");
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
            "cgroupsPath": Path::new("/").join(&cgroup),
            "resources": { "cpu": { "quota": quota, "period": 100_000 }, "memory": { "limit": BEFORE.1 } },
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let (program, state) = (engine("runc").unwrap(), dir.path().join("state"));
    let runc = Runc { program, state, name: "tidegate-test-oci", root: containers.root.clone() };
    let log = fs::File::create(dir.path().join("runc.log")).unwrap();
    let made = Command::new(&runc.program)
        .args(["--root", &runc.state.display().to_string(), "run", "--detach", "--bundle"])
        .args([bundle.as_os_str(), runc.name.as_ref()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status();
    let log = fs::read_to_string(dir.path().join("runc.log")).unwrap();
    assert!(made.unwrap().success(), "{log}");
    let subject = Subject::new("oci", cgroup, &bundle);
    let server = start(&containers.settings());
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}
