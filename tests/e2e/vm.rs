//! The scaling tests once more, on a kernel with cgroup v2, in a small virtual machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{binary, installed, repository, skip};

#[test]
fn the_loop_closes_on_cgroup_v2_too() {
    const TEST: &str = "vm::the_loop_closes_on_cgroup_v2_too";
    if std::env::var_os("TIDEGATE_TEST_BIN").is_some() {
        return; // We are in the virtual machine.
    }
    for command in ["qemu-system-x86_64", "busybox", "cpio", "strip"] {
        if !installed(command) {
            return skip(TEST, &format!("no {command}; tests/run installs it as root"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    // Debug information would be most of what the emulated machine has to unpack.
    let stripped = |from: &Path, name: &str| -> PathBuf {
        let to = dir.path().join(name);
        assert!(Command::new("strip").arg("-o").arg(&to).arg(from).status().unwrap().success());
        to
    };
    let tests = stripped(&std::env::current_exe().unwrap(), "e2e");
    let program = stripped(&binary(), "tidegate");
    let output = Command::new("bash")
        .arg(repository().join("tests/vm/run.sh"))
        .args(["-t", "1500", "-m", "3072", "-f"])
        .arg(format!("{}:/root/bin/tidegate", program.display()))
        .arg(&tests)
        .args(["scaling::", "--test-threads", "1", "--nocapture"])
        .env("VM_ENV", "TIDEGATE_TEST_BIN")
        .env("TIDEGATE_TEST_BIN", "/root/bin/tidegate")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(125) && text.contains("could not fetch") {
        return skip(TEST, "the kernel package could not be fetched");
    }
    println!("{text}");
    assert!(output.status.success(), "in the virtual machine: {text}");
    assert!(!text.contains("SKIPPED"), "the virtual machine skipped tests: {text}");
}
