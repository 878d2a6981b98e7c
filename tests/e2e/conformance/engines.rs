//! Where the programs of container engines are, what runs in their containers, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::LOAD;
use crate::support::{TestContainers, repository, skip};

/// What `tests/run` unpacks: the programs of engines that are not installed, with their libraries.
fn unpacked() -> PathBuf {
    repository().join("target/e2e-engines/usr")
}

/// Where a program is: unpacked or installed.
pub fn engine(program: &str) -> Option<PathBuf> {
    let dirs = ["bin", "sbin"].map(|dir| unpacked().join(dir));
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A program that is there.
pub fn command(program: &str) -> Command {
    let program = engine(program).unwrap();
    let mut command = Command::new(&program);
    if program.starts_with(unpacked()) {
        command.env("LD_LIBRARY_PATH", unpacked().join("lib/x86_64-linux-gnu"));
    }
    command
}

/// Why a program cannot be used; one that was only unpacked may lack libraries.
fn obstacle(program: &str) -> Option<String> {
    let Some(path) = engine(program) else { return Some(format!("no {program}; tests/run unpacks it on Debian")) };
    if !path.starts_with(unpacked()) {
        return None;
    }
    let tried = command(program).arg("--version").output().unwrap();
    (!tried.status.success()).then(|| format!("{program} does not run: {}", String::from_utf8_lossy(&tried.stderr)))
}

/// A root file system with nothing but busybox, and the load as the script `/load`.
pub fn root_with_load(dir: &Path) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for path in ["proc", "dev"] {
        fs::create_dir_all(dir.join(path)).unwrap();
    }
    fs::copy(engine("busybox").unwrap(), bin.join("busybox")).unwrap();
    fs::write(dir.join("load"), format!("cd /; {LOAD}\n")).unwrap();
    for applet in ["sh", "cat", "truncate"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
}

/// Whether systemd runs this machine, and may be told to change: that is so in a virtual machine of `vm.rs` alone.
pub fn has_systemd() -> bool {
    let is_first = fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim() == "systemd");
    is_first && std::env::var_os("TIDEGATE_TEST_BIN").is_some()
}

/// As an operator does who has changed a unit: systemd writes all that it knows into the kernel's files.
pub fn reload_systemd() {
    run(Command::new("systemctl").arg("daemon-reload"));
    // It answers before it has written.
    std::thread::sleep(Duration::from_secs(2));
}

/// What a test needs of a container engine, and a root of its own in each hierarchy; `None`, and a report, without.
pub fn with_engine(test: &str, programs: &[&str]) -> Option<TestContainers> {
    let containers = TestContainers::new(test)?;
    if let Some(why) = programs.iter().find_map(|program| obstacle(program)) {
        skip(test, why.trim());
        return None;
    }
    Some(containers)
}

pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Removes what an engine left of a test's own root in hierarchies that the test does not know.
pub fn remove_groups(root: &str, below: &[&str]) {
    assert!(root.starts_with("tidegate-test-") && !root.contains('/'));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let root = hierarchy.path().join(root);
        for dir in below.iter().map(|below| root.join(below)).chain([root.clone()]) {
            let _ = fs::remove_dir(dir);
        }
    }
}
