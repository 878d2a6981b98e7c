//! Tests once more on a kernel with cgroup v2, in a small virtual machine: a bare one, or one that systemd runs.

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

/// A test binary's way into a virtual machine: what is put there, and the commands that are run.
struct Machine {
    dir: tempfile::TempDir,
    files: Vec<String>,
}

impl Machine {
    /// `None`, and a report, without what it takes.
    fn new(test: &str, commands: &[&str]) -> Option<Self> {
        for command in ["qemu-system-x86_64", "busybox", "cpio", "strip"].iter().chain(commands) {
            if !installed(command) {
                skip(test, &format!("no {command}; tests/run installs it as root"));
                return None;
            }
        }
        let mut machine = Self { dir: tempfile::tempdir().unwrap(), files: Vec::new() };
        machine.put(&binary(), "tidegate");
        machine.put(&std::env::current_exe().unwrap(), "e2e");
        Some(machine)
    }

    /// Puts a program into `/root/bin`.
    fn put(&mut self, from: &Path, name: &str) {
        // Debug information would be most of what the emulated machine has to read.
        let to = self.dir.path().join(name);
        assert!(Command::new("strip").arg("-o").arg(&to).arg(from).status().unwrap().success());
        self.files.push(format!("-f{}:/root/bin/{name}", to.display()));
    }

    fn run(&self, test: &str, options: &[&str], commands: &str) {
        let script = self.dir.path().join("all.sh");
        std::fs::write(&script, format!("#!/bin/sh\n{commands}\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new("bash")
            .arg(repository().join("tests/vm/run.sh"))
            .args(["-m", "3072", "-d", "128"])
            .args(options)
            .args(&self.files)
            .arg(&script)
            .env("VM_ENV", "TIDEGATE_TEST_BIN")
            .env("TIDEGATE_TEST_BIN", "/root/bin/tidegate")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(125) && text.contains("could not fetch") {
            return skip(test, "the kernel package could not be fetched");
        }
        println!("{text}");
        assert!(output.status.success(), "in the virtual machine: {text}");
        assert!(!text.contains("SKIPPED"), "the virtual machine skipped tests: {text}");
    }
}

/// Whether we are in the virtual machine already.
fn is_inside() -> bool {
    std::env::var_os("TIDEGATE_TEST_BIN").is_some()
}

#[test]
fn the_loop_closes_on_cgroup_v2_too() {
    const TEST: &str = "vm::the_loop_closes_on_cgroup_v2_too";
    if is_inside() {
        return;
    }
    let Some(mut machine) = Machine::new(TEST, &[]) else { return };
    machine.put(&newest(std::env::current_exe().unwrap().parent().unwrap(), "kernel-"), "kernel");
    let mut from_outside = "scaling:: disks:: conformance::a_bare_cgroup".to_owned();
    if let Some(runc) = engine("runc") {
        machine.files.push(format!("-f{}:/usr/bin/runc", runc.display()));
        from_outside += " conformance::runc::";
    }
    // With these it plays a container's network and its host's; those of busybox know too little.
    for tool in ["ip", "tc", "nsenter"] {
        machine.files.extend(engine(tool).map(|path| format!("-f{}:/bin/{tool}", path.display())));
    }
    // The actuator's own tests first: what they find is easier to understand.
    let commands =
        format!("bin/kernel --test-threads 1 --nocapture && bin/e2e {from_outside} --test-threads 1 --nocapture");
    machine.run(TEST, &["-t", "1500"], &commands);
}

/// Runs tests in a Debian whose first process is systemd, with the container engines of its packages.
fn under_systemd(test: &str, tests: &str) {
    let Some(machine) = Machine::new(test, &["mke2fs", "apt-get", "dpkg-deb"]) else { return };
    let image = repository().join("target/e2e-vm/debian.ext4");
    let made = Command::new("bash").arg(repository().join("tests/vm/debian.sh")).arg(&image).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(125) && said.contains("could not fetch") {
        return skip(test, said.trim());
    }
    assert!(made.status.success(), "{said}");
    let commands = format!("bin/e2e {tests} --test-threads 1 --nocapture");
    machine.run(test, &["-t", "1500", "-s", &image.display().to_string()], &commands);
}

/// As [`under_systemd`], of what takes minutes: part of `tests/run --full`.
fn long_under_systemd(test: &str, tests: &str) {
    match std::env::var_os("TIDEGATE_TEST_FULL") {
        Some(_) => under_systemd(test, tests),
        None => skip(test, "it takes minutes; it is part of tests/run --full"),
    }
}

#[test]
fn systemd_keeps_what_a_rule_says() {
    if !is_inside() {
        under_systemd("vm::systemd_keeps_what_a_rule_says", "conformance::systemd::a_service");
    }
}

#[test]
fn a_page_cache_keeps_what_is_read_under_the_default_rules() {
    if !is_inside() {
        long_under_systemd("vm::a_page_cache_keeps_what_is_read_under_the_default_rules", "page_cache::");
    }
}

#[test]
fn scopes_and_container_engines_get_what_a_rule_says_under_systemd() {
    const TESTS: &str = "conformance::systemd::a_scope conformance::runc:: conformance::docker:: conformance::lxc::";
    if !is_inside() {
        long_under_systemd("vm::scopes_and_container_engines_get_what_a_rule_says_under_systemd", TESTS);
    }
}

#[test]
fn podman_containerd_and_nspawn_get_what_a_rule_says_under_systemd() {
    const TESTS: &str = "conformance::podman:: conformance::containerd:: conformance::nspawn::";
    if !is_inside() {
        long_under_systemd("vm::podman_containerd_and_nspawn_get_what_a_rule_says_under_systemd", TESTS);
    }
}
