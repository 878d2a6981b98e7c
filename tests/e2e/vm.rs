//! The scaling tests once more, on a kernel with cgroup v2, in a small virtual machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::conformance::engines::engine;
use super::support::{binary, installed, repository, skip};

/// The test binary of that name that was built last, beside this one.
fn newest(dir: &Path, prefix: &str) -> PathBuf {
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && path.extension().is_none()
    };
    let built = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    let files = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).filter(named);
    files.max_by_key(built).unwrap_or_else(|| panic!("no {prefix}* beside this test; build with --workspace"))
}

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
    let this = std::env::current_exe().unwrap();
    let tests = stripped(&this, "e2e");
    let program = stripped(&binary(), "tidegate");
    let kernel = stripped(&newest(this.parent().unwrap(), "kernel-"), "kernel");
    // The actuator's own tests first: what they find is easier to understand.
    let script = dir.path().join("all.sh");
    let mut from_outside = "scaling:: conformance::a_bare_cgroup".to_owned();
    let mut files = vec![format!("-f{}:/root/bin/tidegate", program.display())];
    files.extend([&tests, &kernel].map(|file| {
        let name = file.file_name().unwrap().to_string_lossy();
        format!("-f{}:/root/bin/{name}", file.display())
    }));
    if let Some(runc) = engine("runc") {
        files.push(format!("-f{}:/usr/bin/runc", runc.display()));
        from_outside += " conformance::runc::";
    }
    let commands = format!("bin/kernel --test-threads 1 && bin/e2e {from_outside} --test-threads 1 --nocapture");
    std::fs::write(&script, format!("#!/bin/sh\n{commands}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("bash")
        .arg(repository().join("tests/vm/run.sh"))
        .args(["-t", "1500", "-m", "3072", "-d", "128"])
        .args(files)
        .arg(&script)
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
