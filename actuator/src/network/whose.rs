//! Whose network a container has: found by its processes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many processes, and how many cgroups below the container's own, are looked at.
const MOST_PROCESSES: usize = 64;
const MOST_GROUPS: usize = 64;
/// How old a process is that is in another network than those that were there before it: who makes containers enters theirs
/// for a moment.
const SETTLED: Duration = Duration::from_secs(1);
/// What the kernel counts the age of processes in, on all machines (`USER_HZ` in include/asm-generic/param.h).
const TICKS_A_SECOND: f64 = 100.0;

/// In which network a container's processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The first process that is in one of its own, and the inode of that.
    Own(u32, u64),
    /// All that were looked at are in the host's, the first one among them.
    Host(u32),
    /// There is no process, or none that may be looked at.
    Nobody,
}

/// Looks at the processes of the cgroup at `dir` and below, those that are there for longest first: the one that a runtime
/// started is before all that it started itself. `proc` is where processes are listed.
pub(crate) fn find(dir: &Path, proc: &Path, host: u64) -> Whose {
    let mut whose = Whose::Nobody;
    for process in processes(dir) {
        match inode(proc, process) {
            Some(inode) if inode != host && (whose == Whose::Nobody || has_settled(proc, process)) => {
                return Whose::Own(process, inode);
            }
            Some(inode) if inode == host && whose == Whose::Nobody => whose = Whose::Host(process),
            _ => {}
        }
    }
    whose
}

fn has_settled(proc: &Path, process: u32) -> bool {
    let age = || {
        let uptime: f64 = fs::read_to_string(proc.join("uptime")).ok()?.split(' ').next()?.parse().ok()?;
        let stat = fs::read_to_string(proc.join(process.to_string()).join("stat")).ok()?;
        // Its name may have any characters; of the fields behind it this is the 22nd of all (proc_pid_stat(5)).
        let started: f64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
        Some(uptime - started / TICKS_A_SECOND)
    };
    age().is_some_and(|age| age >= SETTLED.as_secs_f64())
}

/// The inode of a process's network namespace; `None` when there is no such process, or it may not be looked at.
pub(crate) fn inode(proc: &Path, process: u32) -> Option<u64> {
    fs::metadata(namespace(proc, process)).ok().map(|found| found.ino())
}

pub(crate) fn namespace(proc: &Path, process: u32) -> PathBuf {
    proc.join(process.to_string()).join("ns/net")
}

fn processes(dir: &Path) -> Vec<u32> {
    let mut groups = vec![dir.to_owned()];
    let (mut at, mut processes) = (0, Vec::new());
    while let Some(group) = groups.get(at).cloned().filter(|_| processes.len() < MOST_PROCESSES) {
        at += 1;
        // Cgroups of threads have no processes to list, and those that are gone neither.
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        // Zero is a process that this one cannot see.
        processes.extend(listed.lines().filter_map(|line| line.parse().ok()).filter(|process: &u32| *process > 0));
        if groups.len() < MOST_GROUPS {
            let below = fs::read_dir(&group).into_iter().flatten().flatten();
            groups.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
        }
    }
    processes.sort_unstable();
    processes.truncate(MOST_PROCESSES);
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_the_network_of_its_first_process_that_has_one_of_its_own() {
        let tree = tempfile::tempdir().unwrap();
        let (proc, group) = (tree.path().join("proc"), tree.path().join("group"));
        let namespaces = ["host", "web", "other"].map(|name| {
            fs::write(tree.path().join(name), name).unwrap();
            fs::metadata(tree.path().join(name)).unwrap().ino()
        });
        let [host, web, _] = namespaces;
        let process = |number: u32, network: &str| {
            let dir = proc.join(number.to_string()).join("ns");
            fs::create_dir_all(&dir).unwrap();
            std::os::unix::fs::symlink(tree.path().join(network), dir.join("net")).unwrap();
        };
        process(7, "host");
        process(30, "web");
        process(40, "other");
        fs::create_dir_all(group.join("init/deeper")).unwrap();
        assert_eq!(find(&group, &proc, host), Whose::Nobody);
        // One that is gone, and one that cannot be seen.
        fs::write(group.join("cgroup.procs"), "5\n0\n").unwrap();
        assert_eq!(find(&group, &proc, host), Whose::Nobody);
        fs::write(group.join("cgroup.procs"), "5\n7\n").unwrap();
        assert_eq!(find(&group, &proc, host), Whose::Host(7));
        fs::write(group.join("init/deeper/cgroup.procs"), "40\n30\n").unwrap();
        fs::write(proc.join("uptime"), "50.00 90.00\n").unwrap();
        let started = |process: &str, ticks: u32| {
            let before = "1 ".repeat(18);
            fs::write(proc.join(process).join("stat"), format!("{process} (a) b) S {before}{ticks} 0\n")).unwrap();
        };
        started("30", 4_950);
        started("40", 4_950);
        assert_eq!(find(&group, &proc, host), Whose::Host(7), "on their way somewhere");
        started("30", 4_900);
        assert_eq!(find(&group, &proc, host), Whose::Own(30, web), "what was there first");
    }
}
