//! A container of LXC, which is named by its path and whose labels are in its configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::engines::{command, remove_groups, root_with_load, run, with_engine};
use super::{BEFORE, LONG, Subject, is_given_back, is_raised, start};
use crate::support::wait_for;

/// Ends a container with its owner, and removes the cgroups that LXC made above it.
struct Lxc {
    path: PathBuf,
    name: String,
    root: String,
}

impl Lxc {
    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.arg("--lxcpath").arg(&self.path).args(["--name", &self.name]);
        command
    }
}

impl Drop for Lxc {
    fn drop(&mut self) {
        let _ = self.command("lxc-stop").arg("--kill").output();
        remove_groups(&self.root, &[&format!("lxc.payload.{}", self.name), &format!("lxc.monitor.{}", self.name)]);
    }
}

#[test]
fn a_container_of_lxc_gets_what_a_rule_says() {
    const TEST: &str = "conformance::lxc::a_container_of_lxc";
    let Some(containers) = with_engine(TEST, &["lxc-start", "lxc-stop", "busybox"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    // Of no other container on this machine.
    let name = format!("{}-lxc", containers.root);
    let lxc = Lxc { path: dir.path().join("containers"), name: name.clone(), root: containers.root.clone() };
    let (rootfs, mount) = (dir.path().join("rootfs"), dir.path().join("mount"));
    root_with_load(&rootfs);
    fs::create_dir(&mount).unwrap();
    let place = lxc.path.join(&name);
    fs::create_dir_all(&place).unwrap();
    let (quota, memory) = ((BEFORE.0 * 100_000.0) as i64, BEFORE.1);
    let limits = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => format!("lxc.cgroup2.cpu.max = {quota} 100000\nlxc.cgroup2.memory.max = {memory}\n"),
        false => format!("lxc.cgroup.cpu.cfs_quota_us = {quota}\nlxc.cgroup.memory.limit_in_bytes = {memory}\n"),
    };
    let config = format!(
        "lxc.uts.name = app\n\
         lxc.rootfs.path = dir:{}\n\
         lxc.rootfs.mount = {}\n\
         lxc.init.cmd = /bin/sh /load\n\
         lxc.environment = PATH=/bin\n\
         lxc.environment = tidegate.app=shop\n\
         lxc.net.0.type = empty\n\
         lxc.mount.auto = proc\n\
         lxc.cgroup.dir.container = {root}/lxc.payload.{name}\n\
         lxc.cgroup.dir.monitor = {root}/lxc.monitor.{name}\n\
         {limits}",
        rootfs.display(),
        mount.display(),
        root = containers.root,
    );
    fs::write(place.join("config"), config).unwrap();
    run(lxc.command("lxc-start").arg("--daemon").arg("--logfile").arg(dir.path().join("log")));
    let cgroup = Path::new(&containers.root).join(format!("lxc.payload.{name}"));
    let subject = Subject::new(&name, cgroup, &rootfs);
    // All of the machine's containers are looked at here; no rule but that of this test is there to change any.
    let server = start(&["--actuator-lxc-root".to_owned(), lxc.path.display().to_string()]);
    let known = format!("SELECT runtime, app FROM containers WHERE container = '{name}'");
    wait_for("LXC's name and labels", LONG, || (server.sql(&known) == [[json!("lxc"), json!("shop")]]).then_some(()));
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}
