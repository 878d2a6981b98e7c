//! What this machine offers, for `tidegate doctor`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use tidegate_model::{Bytes, CgroupVersion, Runtime};

use crate::capacity::Capacity;
use crate::cgroup::Hierarchy;
use crate::cgroup::disks::Disks;
use crate::cgroup::mounts::{Mount, Mounts};
use crate::config::ActuatorConfig;
use crate::discovery::walk;
use crate::knobs::setting::Device;
use crate::network;
use crate::owner;
use crate::runtime::Runtimes;
use crate::runtime::daemon::NoAnswer;

/// How long a daemon may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingStatus {
    /// As it should be.
    Ok,
    /// It works, but something will be missed.
    Warn,
    /// It is not there, and what needs it will not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What: `cpu controller`, `psi`, ...
    pub name: String,
    /// How it is.
    pub status: FindingStatus,
    /// What was seen.
    pub detail: String,
    /// What to do about it, when something is to be done.
    pub next: Option<String>,
}

/// All that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroup: String,
    /// The kernel's release.
    pub kernel: String,
    /// In the order in which a person would look.
    pub findings: Vec<Finding>,
}

/// Looks at the machine without changing anything. `mount` is where the hierarchies are, usually `/sys/fs/cgroup`.
pub fn inspect(mount: &Path) -> HostReport {
    inspect_configured(&ActuatorConfig { mount: mount.to_owned(), ..Default::default() })
}

/// As [`inspect`], with the sockets of the runtimes where the configuration has them.
pub fn inspect_configured(config: &ActuatorConfig) -> HostReport {
    let mount = config.mount.as_path();
    let mounts = Mounts::find(mount);
    let in_v1 = mounts.v1.contains_key("cpu") || mounts.v1.contains_key("memory");
    let cgroup = match (in_v1, &mounts.v2) {
        (true, Some(_)) => "hybrid",
        (true, None) => "v1",
        (false, Some(_)) => "v2",
        (false, None) => "none",
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();

    let mut report = Report(Vec::new());
    report.version(cgroup, mount);
    report.capacity();
    if in_v1 {
        for controller in ["cpu", "cpuacct", "memory"] {
            report.v1_controller(controller, mounts.v1.get(controller));
        }
    } else if let Some(root) = &mounts.v2 {
        report.v2_controllers(root);
    }
    if let Ok(hierarchy) = Hierarchy::find(mount) {
        report.knobs(&hierarchy, &mounts);
        report.disks(&mounts, in_v1, &config.block_devices);
        report.network();
        let counts = report.containers(&hierarchy);
        report.owners(&Runtimes::new(config), &counts);
    }
    report.psi(cgroup);
    report.swap();
    report.descriptors();
    HostReport { cgroup: cgroup.to_owned(), kernel, findings: report.0 }
}

struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, name: &str, status: FindingStatus, detail: impl Into<String>, next: Option<&str>) {
        let (name, detail, next) = (name.to_owned(), detail.into(), next.map(str::to_owned));
        self.0.push(Finding { name, status, detail, next });
    }

    fn ok(&mut self, name: &str, detail: impl Into<String>) {
        self.add(name, FindingStatus::Ok, detail, None);
    }

    fn warn(&mut self, name: &str, detail: impl Into<String>, next: &str) {
        self.add(name, FindingStatus::Warn, detail, Some(next));
    }

    fn missing(&mut self, name: &str, detail: impl Into<String>, next: &str) {
        self.add(name, FindingStatus::Missing, detail, Some(next));
    }

    fn version(&mut self, version: &str, mount: &Path) {
        let place = mount.display();
        match version {
            "v2" => self.ok("cgroup", format!("v2 (unified) at {place}")),
            "hybrid" => self.ok("cgroup", format!("hybrid at {place}: cpu and memory are v1 controllers")),
            "v1" => self.ok("cgroup", format!("v1 at {place}")),
            _ => self.missing(
                "cgroup",
                format!("no cgroup hierarchy below {place}"),
                "mount one (mount -t cgroup2 none /sys/fs/cgroup), or run on the host instead of in a container",
            ),
        }
    }

    fn capacity(&mut self) {
        match Capacity::read() {
            Ok(capacity) => self.ok("capacity", format!("{} CPUs, {}", capacity.cpus, Bytes(capacity.memory))),
            Err(error) => self.missing("capacity", error.to_string(), "mount /proc and /sys"),
        }
    }

    fn v1_controller(&mut self, controller: &str, mount: Option<&Mount>) {
        let name = format!("{controller} controller");
        match mount {
            Some(mount) => self.writable(&name, mount),
            None => {
                let detail = format!("no v1 hierarchy with {controller} is mounted");
                self.missing(&name, detail, "mount it, or enable it with the kernel argument cgroup_enable=");
            }
        }
    }

    fn v2_controllers(&mut self, root: &Mount) {
        let list = |name: &str| fs::read_to_string(root.path.join(name)).unwrap_or_default();
        let (available, enabled) = (list("cgroup.controllers"), list("cgroup.subtree_control"));
        let has = |list: &str, controller: &str| list.split_whitespace().any(|name| name == controller);
        for controller in ["cpu", "memory"] {
            let name = format!("{controller} controller");
            if !has(&available, controller) {
                let detail = format!("{} does not offer it", root.path.join("cgroup.controllers").display());
                self.missing(
                    &name,
                    detail,
                    "check that no v1 hierarchy holds it and that this cgroup was delegated it",
                );
            } else if !has(&enabled, controller) {
                let file = root.path.join("cgroup.subtree_control");
                let next = format!("echo +{controller} > {}", file.display());
                self.missing(&name, format!("not enabled in {}", file.display()), &next);
            } else {
                self.writable(&name, root);
            }
        }
    }

    fn writable(&mut self, name: &str, mount: &Mount) {
        let place = mount.path.display();
        if mount.read_only {
            let detail = format!("{place} is mounted read-only");
            return self.missing(name, detail, "remount it read-write, or run with --privileged or on the host");
        }
        // Membership of the root is writable to whoever may write the limits of any container below.
        match access(&mount.path.join("cgroup.procs"), AccessFlags::W_OK) {
            Ok(()) => self.ok(name, format!("{place}, writable")),
            Err(errno) => {
                let detail = format!("{place} is not writable: {}", errno.desc());
                self.warn(name, detail, "run as root, or have the containers' parent cgroup delegated to this user");
            }
        }
    }

    /// Files that not every kernel has. The root of v2 has no limits, so a child is looked at.
    fn knobs(&mut self, hierarchy: &Hierarchy, mounts: &Mounts) {
        let (quota, reclaim) = match hierarchy.version {
            CgroupVersion::V1 => (mounts.v1.get("cpu").map(|mount| mount.path.join("cpu.cfs_quota_us").exists()), None),
            CgroupVersion::V2 => {
                let child = mounts.v2.as_ref().and_then(|mount| first_child(&mount.path));
                let has = |name: &str| child.as_ref().map(|child| child.join(name).exists());
                (has("cpu.max"), has("memory.reclaim"))
            }
        };
        match quota {
            Some(true) => self.ok("cfs bandwidth", "CPU quotas can be set"),
            Some(false) => {
                self.missing("cfs bandwidth", "no CPU quota file", "use a kernel with CONFIG_CFS_BANDWIDTH");
            }
            None => self.warn("cfs bandwidth", "no cgroup to look at", "look again when a container runs"),
        }
        match (hierarchy.version, reclaim) {
            (CgroupVersion::V1, _) => self.warn(
                "memory.reclaim",
                "v1 has no memory.high and no memory.reclaim; a lower limit is tried and refused when it does not fit",
                "boot with systemd.unified_cgroup_hierarchy=1 to track memory closely",
            ),
            (CgroupVersion::V2, Some(true)) => self.ok("memory.reclaim", "memory can be reclaimed without a limit"),
            (CgroupVersion::V2, Some(false)) => {
                self.warn("memory.reclaim", "no such file", "it came with Linux 5.19; memory.high is used without it");
            }
            (CgroupVersion::V2, None) => {
                self.warn("memory.reclaim", "no cgroup to look at", "look again when a container runs");
            }
        }
    }

    /// Whether bandwidth to disks can be limited. Nothing else depends on it.
    fn disks(&mut self, mounts: &Mounts, in_v1: bool, block_devices: &Path) {
        let disks = Disks::at(block_devices).devices();
        let enabled = |root: &Mount| {
            let list = fs::read_to_string(root.path.join("cgroup.subtree_control")).unwrap_or_default();
            list.split_whitespace().any(|name| name == "io")
        };
        let limited = match in_v1 {
            true => mounts.v1.contains_key("blkio"),
            false => mounts.v2.as_ref().is_some_and(enabled),
        };
        match (limited, disks.is_empty()) {
            (_, true) => {
                let detail = format!("no disk is listed in {}", block_devices.display());
                self.warn("disks", detail, "in a container, mount /sys; bandwidth to disks is not limited without it");
            }
            (true, false) => {
                let disks: Vec<String> = disks.iter().map(Device::to_string).collect();
                self.ok("disks", format!("bandwidth to {} can be limited", disks.join(", ")));
            }
            (false, false) if in_v1 => {
                self.warn("disks", "no v1 hierarchy with blkio is mounted", "mount it to limit bandwidth to disks");
            }
            (false, false) => {
                let next = "echo +io into it, and into those below, to limit bandwidth to disks";
                self.warn("disks", "io is not enabled in cgroup.subtree_control", next);
            }
        }
    }

    /// Whether bandwidth of containers' networks can be limited. Nothing else depends on it.
    fn network(&mut self) {
        match network::probe() {
            Ok(()) => self.ok("network", "bandwidth of containers' networks can be limited"),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
                self.warn("network", "this kernel has no token buckets", "load the module sch_tbf to limit networks");
            }
            Err(error) => {
                let next = "run as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN, to measure and limit networks";
                self.warn("network", format!("no queue can be set: {error}"), next);
            }
        }
    }

    fn containers(&mut self, hierarchy: &Hierarchy) -> BTreeMap<&'static str, usize> {
        let mut problems = Vec::new();
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for found in walk(hierarchy, &[], true, &mut |_| {}, &mut problems) {
            *counts.entry(found.identity.runtime.as_str()).or_default() += 1;
        }
        let list: Vec<String> = counts.iter().map(|(runtime, count)| format!("{count} {runtime}")).collect();
        if list.is_empty() {
            let next = "start one, or name the parents of your cgroups in `roots`";
            self.warn("containers", "none of a known runtime is running", next);
        } else {
            self.ok("containers", list.join(", "));
        }
        for problem in problems {
            self.warn("containers", problem, "run as root");
        }
        counts
    }

    /// Who keeps limits besides the kernel, as far as there is somebody to keep them for.
    fn owners(&mut self, runtimes: &Runtimes, counts: &BTreeMap<&'static str, usize>) {
        let is_empty = |runtime: Runtime| !counts.contains_key(runtime.as_str());
        for (name, runtime) in [("docker api", Runtime::Docker), ("podman api", Runtime::Podman)] {
            let Some(daemon) = runtimes.daemons(runtime).pop() else { continue };
            match daemon.get("/_ping", PING_TIMEOUT) {
                Ok(_) => self.ok(name, "answers: names, labels and limits go through it"),
                Err(NoAnswer::Absent(_)) if is_empty(runtime) => {}
                Err(why) => self.warn(
                    name,
                    format!(
                        "{why}: names come from its files, limits go into the cgroup files and are lost with a restart"
                    ),
                    "start its service or name its socket in the configuration; in a container, mount it",
                ),
            }
        }
        for daemon in runtimes.daemons(Runtime::Lxc) {
            let name = format!("{} api", daemon.name().to_lowercase());
            match daemon.get("/1.0", PING_TIMEOUT) {
                Ok(_) => self.ok(&name, "answers: labels and limits go through it"),
                // Its containers look like those of plain LXC, which has no daemon.
                Err(NoAnswer::Absent(_)) => {}
                Err(why) => self.warn(
                    &name,
                    format!("{why}: limits go into the cgroup files and are lost with a restart"),
                    "start its service or name its socket in the configuration; in a container, mount it",
                ),
            }
        }
        match owner::reach_systemd(&runtimes.systemd) {
            Ok(()) => self.ok("systemd", "limits of services and scopes go through it"),
            Err(NoAnswer::Absent(_)) if is_empty(Runtime::Systemd) => {}
            Err(why) => self.warn(
                "systemd",
                format!("{why}: limits of services go into the cgroup files, and a daemon-reload undoes them"),
                "start dbus, or name the socket of the system's message bus in the configuration",
            ),
        }
    }

    fn psi(&mut self, cgroup: &str) {
        match fs::read_to_string("/proc/pressure/cpu") {
            Ok(_) if cgroup == "v2" => self.ok("psi", "pressure is measured for each container"),
            Ok(_) => self.warn(
                "psi",
                "pressure is measured for the machine only: v1 has none for a container",
                "rules that use pressure see none here; throttling is measured",
            ),
            Err(error) => self.missing("psi", format!("/proc/pressure/cpu: {error}"), "boot with psi=1"),
        }
    }

    fn swap(&mut self) {
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let kilobytes: u64 =
            swaps.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
        if kilobytes > 0 {
            self.ok("swap", Bytes(kilobytes * 1024).to_string());
        } else {
            self.warn(
                "swap",
                "none: anonymous memory cannot be reclaimed, limits go down to it only",
                "zram or zswap make memory limits more elastic",
            );
        }
    }

    fn descriptors(&mut self) {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let Some(soft) = line.and_then(|line| line.split_whitespace().next()) else { return };
        match soft.parse::<u64>() {
            Ok(soft) if soft < 4096 => {
                let detail = format!("{soft}; a container takes about 12");
                self.warn(
                    "open files",
                    detail,
                    "raise it (LimitNOFILE= or ulimit -n) for more than a few dozen containers",
                );
            }
            _ => self.ok("open files", soft),
        }
    }
}

fn first_child(root: &Path) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(root).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.join("cgroup.procs").is_file() && path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding<'r>(report: &'r HostReport, name: &str) -> &'r Finding {
        report.findings.iter().find(|finding| finding.name == name).unwrap()
    }

    #[test]
    fn a_place_without_hierarchies_says_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let report = inspect(empty.path());
        assert_eq!(report.cgroup, "none");
        assert_eq!(finding(&report, "cgroup").status, FindingStatus::Missing);
        assert!(finding(&report, "cgroup").next.is_some());
    }

    #[test]
    fn a_unified_tree_without_its_controllers_says_which_file_enables_them() {
        let tree = tempfile::tempdir().unwrap();
        for (name, text) in
            [("cgroup.controllers", "cpu io memory\n"), ("cgroup.subtree_control", "memory\n"), ("cgroup.procs", "")]
        {
            fs::write(tree.path().join(name), text).unwrap();
        }
        let report = inspect(tree.path());
        assert_eq!(report.cgroup, "v2");
        let cpu = finding(&report, "cpu controller");
        assert_eq!(cpu.status, FindingStatus::Missing);
        assert!(cpu.next.as_ref().unwrap().starts_with("echo +cpu > "));
        assert_eq!(finding(&report, "memory controller").status, FindingStatus::Ok);
    }

    #[test]
    fn owners_are_looked_at_where_they_are_or_should_be() {
        let tree = tempfile::tempdir().unwrap();
        let docker = tree.path().join("docker").join("a".repeat(64));
        fs::create_dir_all(docker).unwrap();
        fs::write(tree.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let config = ActuatorConfig {
            mount: tree.path().to_owned(),
            docker_socket: tree.path().join("no-socket"),
            podman_socket: tree.path().join("no-socket"),
            system_bus: tree.path().join("no-socket"),
            ..Default::default()
        };
        let report = inspect_configured(&config);
        let api = finding(&report, "docker api");
        assert_eq!(api.status, FindingStatus::Warn);
        assert!(api.detail.contains("no socket") && api.next.is_some(), "{}", api.detail);
        // Neither runs anything here, so nobody misses them.
        assert!(!report.findings.iter().any(|finding| ["podman api", "systemd"].contains(&finding.name.as_str())));
    }

    #[test]
    fn a_hybrid_tree_is_called_so() {
        let tree = tempfile::tempdir().unwrap();
        for dir in ["cpu,cpuacct", "memory", "unified"] {
            fs::create_dir(tree.path().join(dir)).unwrap();
        }
        fs::write(tree.path().join("unified/cgroup.controllers"), "").unwrap();
        fs::write(tree.path().join("cpu,cpuacct/cpu.cfs_quota_us"), "-1").unwrap();
        let report = inspect(tree.path());
        assert_eq!(report.cgroup, "hybrid");
        assert_eq!(finding(&report, "cfs bandwidth").status, FindingStatus::Ok);
    }
}
