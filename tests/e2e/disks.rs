//! Bandwidth to a disk: what a rule says is what the kernel leaves of a load, and the kill switch gives all of it back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::bandwidth::{Bandwidth, MIB};
use super::support::{ProcessGroup, TestContainers, installed, skip};

/// Generous, since an emulated machine runs these tests too.
const TEST: &str = "disks::what_a_rule_limits_is_what_a_load_gets";

/// The groups of a test in the hierarchy where disks are limited, which a sandbox does without. Gone when dropped.
struct DiskGroups {
    made: Vec<PathBuf>,
    app: PathBuf,
}

impl DiskGroups {
    /// `None` where there is no controller of disks.
    fn make(containers: &TestContainers) -> Option<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        if mount.join("cgroup.controllers").exists() {
            let root = mount.join(&containers.root);
            fs::write(root.join("cgroup.subtree_control"), "+io").ok()?;
            let app = root.join("app");
            return app.join("io.max").exists().then(|| Self { made: Vec::new(), app });
        }
        let root = mount.join("blkio").join(&containers.root);
        let app = root.join("app");
        fs::create_dir(&root).ok()?;
        fs::create_dir(&app).ok()?;
        let groups = Self { made: vec![app.clone(), root], app };
        groups.app.join("blkio.throttle.io_service_bytes_recursive").exists().then_some(groups)
    }

    /// What stands in the files that limit bytes a second, of all devices.
    fn limits(&self) -> String {
        let names = ["io.max", "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"];
        names.iter().filter_map(|name| fs::read_to_string(self.app.join(name)).ok()).collect()
    }
}

impl Drop for DiskGroups {
    fn drop(&mut self) {
        for dir in &self.made {
            // A process leaves its group a moment after it was waited for.
            for _ in 0..100 {
                if fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Copies past the page cache, again and again: to a file where that is on a disk, else from the disk itself.
fn load(containers: &TestContainers, groups: &DiskGroups, dir: &Path) -> Option<(ProcessGroup, &'static str)> {
    let on_disk = nix_major(dir) != 0 && Path::new("/sys/dev/block").join(device_of(dir)).exists();
    let (resource, copy) = match ["vda", "sda"].iter().find(|disk| Path::new("/dev").join(disk).exists()) {
        _ if on_disk => {
            let file = dir.join("load").display().to_string();
            ("disk_write", format!("dd if=/dev/zero of={file} bs=128k count=64 oflag=direct conv=notrunc"))
        }
        Some(disk) => ("disk_read", format!("dd if=/dev/{disk} of=/dev/null bs=128k count=64 iflag=direct")),
        None => return None,
    };
    let script = format!("read go; while {copy} 2>/dev/null; do :; done");
    let mut load = ProcessGroup::spawn(Command::new("sh").args(["-c", &script]).stdin(Stdio::piped())).unwrap();
    let child = &mut load.0;
    containers.sandbox.move_process("app", child.id()).unwrap();
    fs::write(groups.app.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    Some((load, resource))
}

fn device_of(dir: &Path) -> String {
    let device = fs::metadata(dir).unwrap().dev();
    format!("{}:{}", nix::libc::major(device), nix::libc::minor(device))
}

/// Zero for what is in memory.
fn nix_major(dir: &Path) -> u32 {
    nix::libc::major(fs::metadata(dir).unwrap().dev())
}

#[test]
fn what_a_rule_limits_is_what_a_load_gets() {
    let Some(containers) = TestContainers::new(TEST) else { return };
    containers.sandbox.add_group("app").unwrap();
    let Some(groups) = DiskGroups::make(&containers) else {
        return skip(TEST, "there is no cgroup controller of disks here");
    };
    if !installed("dd") {
        return skip(TEST, "no dd");
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((load, resource)) = load(&containers, &groups, dir.path()) else {
        return skip(TEST, "no file system on a disk here, and no disk");
    };
    let bandwidth = Bandwidth::start(&containers, resource);
    let free = bandwidth.free();
    if free < 8.0 * MIB {
        return skip(TEST, "the disk is too slow to tell a limit from its own pace");
    }

    let mut limit = (free / 4.0).floor();
    for _ in 0..2 {
        // Never more than the limit, but for the kernel's slices, and most of it.
        bandwidth.follows(limit, 0.5..=1.2);
        assert!(groups.limits().contains(&format!("{limit:.0}")), "{}", groups.limits());
        limit = (limit / 2.0).floor();
    }
    bandwidth.is_explained(if resource == "disk_read" { "limit on reading" } else { "limit on writing" });
    bandwidth.restore();
    assert!(!groups.limits().contains(':'), "{}", groups.limits());
    bandwidth.is_free_again(2.0 * 2.0 * limit);
    drop((bandwidth, load));
}
