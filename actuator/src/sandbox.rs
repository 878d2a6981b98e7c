//! Cgroups of one's own: what the demo and the end-to-end tests put their loads into.
//!
//! The only place that makes and removes cgroups. Everything is below one root whose name must begin with one of
//! [`PREFIXES`]; that is checked before every removal, so that nothing else can be lost by a wrong name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tidegate_model::{CgroupVersion, Resource};

use crate::cgroup::{Cgroup, Hierarchy, below};
use crate::error::ActuatorError;

/// What the name of a sandbox's root begins with.
pub const PREFIXES: [&str; 2] = ["tidegate-demo-", "tidegate-test-"];

const MOUNT: &str = "/sys/fs/cgroup";
/// A removed process leaves its cgroup a moment after it was waited for; the directory is busy until then.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// A cgroup in every hierarchy that scaling needs, with groups below it. Dropping it removes all of them.
#[derive(Debug)]
pub struct Sandbox {
    hierarchy: Hierarchy,
    root: PathBuf,
}

impl Sandbox {
    /// Why no sandbox can be made here; `None` when one can. Tried for real with a group that is removed at once.
    pub fn obstacle() -> Option<String> {
        let probe = format!("{}probe-{}", PREFIXES[0], std::process::id());
        let tried = Self::create(&probe).and_then(|sandbox| {
            sandbox.add_group("probe")?;
            // A hierarchy may be there with the controller not enabled in it; then the file is missing.
            sandbox.limit_cpu("probe", 1.0)?;
            sandbox.limit_memory("probe", 64 << 20)
        });
        tried.err().map(|error| format!("cgroups cannot be written here: {error}"))
    }

    /// Makes the root group `name` in every hierarchy.
    ///
    /// # Errors
    /// The name has none of [`PREFIXES`], there is no hierarchy, or the kernel refuses.
    pub fn create(name: &str) -> Result<Self, ActuatorError> {
        check_name(name)?;
        let hierarchy = Hierarchy::find(Path::new(MOUNT))?;
        let sandbox = Self { hierarchy, root: Path::new("/").join(name) };
        sandbox.make(&sandbox.root)?;
        if sandbox.hierarchy.version == CgroupVersion::V2 {
            for root in sandbox.hierarchy.roots() {
                // On v2 a group's children have only the controllers that it hands down.
                write(&below(root, &sandbox.root).join("cgroup.subtree_control"), "+cpu +memory")?;
            }
        }
        Ok(sandbox)
    }

    /// Makes a group below the root.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_group(&self, group: &str) -> Result<(), ActuatorError> {
        self.make(&self.path(group)?)
    }

    /// Moves a process, all its threads included, into a group.
    ///
    /// # Errors
    /// The process is gone, or the kernel refuses.
    pub fn move_process(&self, group: &str, pid: u32) -> Result<(), ActuatorError> {
        let path = self.path(group)?;
        for root in self.hierarchy.roots() {
            write(&below(root, &path).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Limits a group's CPU, in cores, with the kernel's default period of 100 ms.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit_cpu(&self, group: &str, cores: f64) -> Result<(), ActuatorError> {
        const PERIOD_US: u64 = 100_000;
        let cgroup = self.open(group)?;
        let dir = cgroup.dir(Resource::Cpu).ok_or_else(|| cgroup.no_controller(Resource::Cpu))?;
        let quota = (cores * PERIOD_US as f64).round() as u64;
        cgroup.write_quota(dir, Some(quota), PERIOD_US).map(|_| ())
    }

    /// Limits a group's memory, in bytes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit_memory(&self, group: &str, bytes: u64) -> Result<(), ActuatorError> {
        let cgroup = self.open(group)?;
        let dir = cgroup.dir(Resource::Memory).ok_or_else(|| cgroup.no_controller(Resource::Memory))?;
        dir.write(cgroup.limit_file(Resource::Memory), &bytes.to_string()).map(|_| ())
    }

    /// A group's own CPU limit in cores as its file says; `None` when unlimited.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn cpu_limit(&self, group: &str) -> Result<Option<f64>, ActuatorError> {
        Ok(self.open(group)?.own_limit(Resource::Cpu)?.value())
    }

    /// A group's own memory limit in bytes as its file says; `None` when unlimited.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn memory_limit(&self, group: &str) -> Result<Option<u64>, ActuatorError> {
        Ok(self.open(group)?.own_limit(Resource::Memory)?.value().map(|bytes| bytes as u64))
    }

    /// How many processes of a group the kernel killed for memory.
    ///
    /// # Errors
    /// The file cannot be read or does not count.
    pub fn oom_kills(&self, group: &str) -> Result<u64, ActuatorError> {
        let file = match self.hierarchy.version {
            CgroupVersion::V1 => "memory.oom_control",
            CgroupVersion::V2 => "memory.events",
        };
        let cgroup = self.open(group)?;
        let dir = cgroup.dir(Resource::Memory).ok_or_else(|| cgroup.no_controller(Resource::Memory))?;
        let text = dir.read(file)?;
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            .ok_or_else(|| ActuatorError::malformed(dir.path().join(file), &text, "a line 'oom_kill N'"))
    }

    /// Removes all groups. Their processes must have ended.
    ///
    /// # Errors
    /// A process is still in one of them.
    pub fn remove(self) -> Result<(), ActuatorError> {
        self.remove_all()
        // Dropping tries once more and finds nothing.
    }

    /// Removes the sandboxes named `prefix` + process id whose process is gone: what a killed demo may leave behind.
    ///
    /// # Errors
    /// There is no hierarchy, or a group still has processes.
    pub fn sweep(prefix: &str) -> Result<(), ActuatorError> {
        check_name(prefix)?;
        let hierarchy = Hierarchy::find(Path::new(MOUNT))?;
        let mut abandoned: Vec<String> = hierarchy
            .roots()
            .into_iter()
            .flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                let pid = name.strip_prefix(prefix).and_then(|pid| pid.parse::<u32>().ok());
                pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            })
            .collect();
        abandoned.sort();
        abandoned.dedup();
        for name in abandoned {
            Self { hierarchy: hierarchy.clone(), root: Path::new("/").join(name) }.remove()?;
        }
        Ok(())
    }

    fn open(&self, group: &str) -> Result<Cgroup, ActuatorError> {
        self.hierarchy.open(&self.path(group)?)
    }

    fn path(&self, group: &str) -> Result<PathBuf, ActuatorError> {
        let plain = !group.is_empty() && !group.starts_with('.') && !group.contains('/');
        plain
            .then(|| self.root.join(group))
            .ok_or_else(|| ActuatorError::Config(format!("'{group}' is no name for a group")))
    }

    fn make(&self, path: &Path) -> Result<(), ActuatorError> {
        for root in self.hierarchy.roots() {
            let dir = below(root, path);
            fs::create_dir(&dir).map_err(|error| ActuatorError::file("make", &dir, error))?;
        }
        Ok(())
    }

    fn remove_all(&self) -> Result<(), ActuatorError> {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        check_name(&name)?;
        self.hierarchy.roots().into_iter().map(|root| below(root, &self.root)).try_for_each(|dir| remove_tree(&dir))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A failure was reported by `remove`, or there is nobody left to report it to.
        let _ = self.remove_all();
    }
}

fn check_name(name: &str) -> Result<(), ActuatorError> {
    let own = PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.contains('/') && !name.contains("..");
    if own {
        Ok(())
    } else {
        Err(ActuatorError::Config(format!("'{name}' is not the name of a sandbox: {PREFIXES:?}")))
    }
}

/// Removes a cgroup and those below it. `remove_dir_all` would fail on the kernel's files, which go with their directory.
fn remove_tree(dir: &Path) -> Result<(), ActuatorError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ActuatorError::file("read", dir, error)),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    for _ in 1..REMOVAL_TRIES {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done.map_err(|error| ActuatorError::file("remove", dir, error)),
        }
    }
    fs::remove_dir(dir).map_err(|error| ActuatorError::file("remove", dir, error))
}

fn write(path: &Path, value: &str) -> Result<(), ActuatorError> {
    fs::write(path, value).map_err(|error| ActuatorError::file(format!("write '{value}' to"), path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_sandboxes_are_taken() {
        for name in ["docker", "tidegate", "tidegate-demo-1/../../docker", "../tidegate-test-1", ""] {
            assert!(Sandbox::create(name).is_err(), "{name}");
        }
    }
}
