//! The limits that stood before Tidegate changed anything, and squeezes under way, kept on disk so that a restart does not
//! forget them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_model::{Limit, Resource};

use crate::error::ActuatorError;

const FILE: &str = "baselines.json";

/// The recorded baselines of this host.
///
/// A limit is recorded right before its first change, so a crash in between can lose neither. Until then the limit that is
/// found counts: a runtime that makes a cgroup and sets its limits a moment later shall not be restored to "unlimited".
#[derive(Debug)]
pub(crate) struct Baselines {
    path: Option<PathBuf>,
    file: Mutex<BaselineFile>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct BaselineFile {
    /// Inodes of cgroups start anew with each boot, so entries of another boot mean other containers.
    boot_id: String,
    /// By container name.
    containers: BTreeMap<String, Entry>,
}

impl BaselineFile {
    /// What is known of this incarnation, which may be nothing.
    fn entry(&self, name: &str, incarnation: u64) -> Entry {
        let known = self.containers.get(name).filter(|entry| entry.incarnation == incarnation).cloned();
        known.unwrap_or(Entry { incarnation, limits: BTreeMap::new(), squeeze: None })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    incarnation: u64,
    limits: BTreeMap<Resource, Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    squeeze: Option<Squeeze>,
}

/// A memory.high that is lowered for the moment. A process that is killed meanwhile leaves it behind, and the container
/// would be throttled for good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Squeeze {
    /// What stood there before.
    pub(crate) former: Limit,
    /// What is written for the moment, in bytes.
    pub(crate) goal: u64,
}

impl Baselines {
    /// Reads what a former process recorded. A file that cannot be understood stops the start: going on would record the
    /// limits that Tidegate itself set as baselines.
    pub(crate) fn open(state_dir: Option<&Path>) -> Result<Self, ActuatorError> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self::open_at_boot(state_dir, boot_id)
    }

    fn open_at_boot(state_dir: Option<&Path>, boot_id: String) -> Result<Self, ActuatorError> {
        let mut file = BaselineFile { boot_id, ..Default::default() };
        let Some(dir) = state_dir else { return Ok(Self { path: None, file: Mutex::new(file) }) };
        fs::create_dir_all(dir).map_err(|error| ActuatorError::file("create directory", dir, error))?;
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let kept: BaselineFile = serde_json::from_slice(&bytes).map_err(|error| {
                    let path = path.display();
                    ActuatorError::Config(format!(
                        "{path} is damaged ({error}); move it away to start without baselines"
                    ))
                })?;
                if kept.boot_id == file.boot_id {
                    file = kept;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ActuatorError::file("read", path, error)),
        }
        Ok(Self { path: Some(path), file: Mutex::new(file) })
    }

    /// What was recorded for this incarnation.
    pub(crate) fn recorded(&self, name: &str, incarnation: u64) -> BTreeMap<Resource, Limit> {
        self.file.lock().entry(name, incarnation).limits
    }

    /// Records a limit before its first change and returns once it is on disk. What is recorded already stays.
    pub(crate) fn record(
        &self,
        name: &str,
        incarnation: u64,
        resource: Resource,
        limit: Limit,
    ) -> Result<(), ActuatorError> {
        // The lock is held while writing so that two containers' first changes cannot overwrite each other's file.
        let mut file = self.file.lock();
        let mut entry = file.entry(name, incarnation);
        if entry.limits.contains_key(&resource) {
            return Ok(());
        }
        entry.limits.insert(resource, limit);
        self.put(&mut file, name, entry)
    }

    /// The squeeze of this incarnation that has begun and not ended.
    pub(crate) fn squeeze(&self, name: &str, incarnation: u64) -> Option<Squeeze> {
        self.file.lock().entry(name, incarnation).squeeze
    }

    /// Records that a squeeze begins, or with `None` that it has ended, and returns once that is on disk.
    pub(crate) fn record_squeeze(
        &self,
        name: &str,
        incarnation: u64,
        squeeze: Option<Squeeze>,
    ) -> Result<(), ActuatorError> {
        let mut file = self.file.lock();
        let entry = file.entry(name, incarnation);
        if entry.squeeze == squeeze {
            return Ok(());
        }
        self.put(&mut file, name, Entry { squeeze, ..entry })
    }

    fn put(&self, file: &mut BaselineFile, name: &str, entry: Entry) -> Result<(), ActuatorError> {
        let former = file.containers.insert(name.to_owned(), entry);
        let saved = self.save(file);
        if saved.is_err() {
            // Memory must not claim more than the disk holds, or the next attempt would skip the write.
            match former {
                Some(former) => file.containers.insert(name.to_owned(), former),
                None => file.containers.remove(name),
            };
        }
        saved
    }

    /// Forgets a container that is gone; the file follows with the next record.
    pub(crate) fn forget(&self, name: &str, incarnation: u64) {
        let mut file = self.file.lock();
        if file.containers.get(name).is_some_and(|entry| entry.incarnation == incarnation) {
            file.containers.remove(name);
        }
    }

    fn save(&self, file: &BaselineFile) -> Result<(), ActuatorError> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_vec_pretty(file).map_err(|error| ActuatorError::Config(error.to_string()))?;
        let new = path.with_extension("json.new");
        let replace = || {
            let mut out = File::create(&new)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(&new, path)?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        replace().map_err(|error| ActuatorError::file("write", path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, boot: &str) -> Baselines {
        Baselines::open_at_boot(Some(dir), boot.to_owned()).unwrap()
    }

    #[test]
    fn the_first_record_survives_a_restart_and_later_ones_do_not_replace_it() {
        let dir = tempfile::tempdir().unwrap();
        let baselines = open(dir.path(), "boot-1");
        baselines.record("web", 7, Resource::Memory, Limit::Unlimited).unwrap();
        baselines.record("web", 7, Resource::Cpu, Limit::At(2.0)).unwrap();
        baselines.record("web", 7, Resource::Cpu, Limit::At(0.5)).unwrap();
        drop(baselines);

        let kept = open(dir.path(), "boot-1").recorded("web", 7);
        assert_eq!(kept, [(Resource::Cpu, Limit::At(2.0)), (Resource::Memory, Limit::Unlimited)].into());
        assert!(open(dir.path(), "boot-1").recorded("web", 8).is_empty(), "another incarnation");
        assert!(open(dir.path(), "boot-2").recorded("web", 7).is_empty(), "inodes start anew with each boot");
    }

    #[test]
    fn a_damaged_file_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Baselines::open(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn what_could_not_be_saved_is_not_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let baselines = open(dir.path(), "boot-1");
        // A directory in the place of the new file makes the replacement fail, also for root.
        fs::create_dir(dir.path().join("baselines.json.new")).unwrap();
        assert!(baselines.record("web", 7, Resource::Cpu, Limit::At(2.0)).is_err());
        assert!(baselines.recorded("web", 7).is_empty());
    }
}
