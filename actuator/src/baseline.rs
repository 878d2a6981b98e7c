//! The limits that stood before Tidegate changed anything, and squeezes under way, kept on disk so that a restart does not
//! forget them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_model::{Limit, Resource, TimeMs};

use crate::error::ActuatorError;
use crate::knobs::keeper::KnobRecord;
use crate::knobs::setting::Knob;
use crate::state_file;

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

/// One incarnation of one container, for the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life<'a> {
    pub(crate) name: &'a str,
    pub(crate) incarnation: u64,
    /// The runtime's identifier.
    pub(crate) id: &'a str,
}

impl BaselineFile {
    /// What is known of this incarnation, which may be nothing.
    fn entry(&self, life: Life<'_>) -> Entry {
        let Life { name, incarnation, id } = life;
        let same_id = |entry: &Entry| entry.kept.as_ref().map(|kept| kept.id == id);
        match self.containers.get(name) {
            Some(entry) if entry.incarnation == incarnation && same_id(entry) != Some(false) => entry.clone(),
            Some(entry) if same_id(entry) == Some(true) => {
                Entry { incarnation, gone_at: None, squeeze: None, knobs: BTreeMap::new(), ..entry.clone() }
            }
            _ => Entry { incarnation, ..Entry::default() },
        }
    }
}

/// No cgroup has this inode: the incarnation of a container that is not running.
const NOT_RUNNING: u64 = 0;
/// How many containers that are not running are remembered; the ones that went first are forgotten first.
const REMEMBERED: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    incarnation: u64,
    limits: BTreeMap<Resource, Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_at: Option<TimeMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    squeeze: Option<Squeeze>,
    /// What we had written of limits that somebody else changed and that are left alone since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    left_alone: BTreeMap<Resource, Limit>,
    /// What an update sets that the owner was sent and has not answered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    late: BTreeMap<Resource, Limit>,
    /// By the knob's name. Other programs know nothing of them, so a container that is started again has its own anew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    knobs: BTreeMap<String, KnobRecord>,
}

/// That the owner of a container was told of our limits and brings them back when it starts the container again. What is
/// found then is no baseline, but what we wrote; the one that was recorded goes on to count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The owner's identifier of the container. Another container of the same name has another one.
    pub(crate) id: String,
    /// Whether the owner remembers through a reboot.
    pub(crate) over_reboots: bool,
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
        match state_file::read::<BaselineFile>(&path)? {
            Some(kept) if kept.boot_id == file.boot_id => file = kept,
            Some(kept) => {
                let lasting = kept.containers.into_iter().filter_map(|(name, entry)| {
                    let lasts = entry.kept.as_ref().is_some_and(|kept| kept.over_reboots);
                    lasts.then_some((name, Entry { incarnation: NOT_RUNNING, squeeze: None, ..entry }))
                });
                file.containers.extend(lasting);
            }
            None => {}
        }
        Ok(Self { path: Some(path), file: Mutex::new(file) })
    }

    /// What was recorded for this incarnation.
    pub(crate) fn recorded(&self, life: Life<'_>) -> BTreeMap<Resource, Limit> {
        self.file.lock().entry(life).limits
    }

    /// Forgets what was recorded for a former incarnation whose owner does not bring our limits back after all: what is found
    /// of this one is its own. The file follows with the next record.
    pub(crate) fn begin_anew(&self, life: Life<'_>) {
        let mut file = self.file.lock();
        if file.containers.get(life.name).is_some_and(|entry| entry.incarnation != life.incarnation) {
            file.containers.remove(life.name);
        }
    }

    /// Records a limit before its first change and returns once it is on disk. What is recorded already stays. `kept` when
    /// an owner will be told of the changes.
    pub(crate) fn record(
        &self,
        life: Life<'_>,
        kept: Option<Kept>,
        resource: Resource,
        limit: Limit,
    ) -> Result<(), ActuatorError> {
        // The lock is held while writing so that two containers' first changes cannot overwrite each other's file.
        let mut file = self.file.lock();
        let mut entry = file.entry(life);
        if entry.limits.contains_key(&resource) {
            return Ok(());
        }
        entry.limits.insert(resource, limit);
        entry.kept = kept.or(entry.kept);
        self.put(&mut file, life.name, entry)
    }

    /// The squeeze of this incarnation that has begun and not ended.
    pub(crate) fn squeeze(&self, life: Life<'_>) -> Option<Squeeze> {
        self.file.lock().entry(life).squeeze
    }

    /// Records that a squeeze begins, or with `None` that it has ended, and returns once that is on disk.
    pub(crate) fn record_squeeze(&self, life: Life<'_>, squeeze: Option<Squeeze>) -> Result<(), ActuatorError> {
        let mut file = self.file.lock();
        let entry = file.entry(life);
        if entry.squeeze == squeeze {
            return Ok(());
        }
        self.put(&mut file, life.name, Entry { squeeze, ..entry })
    }

    /// Limits of this incarnation that are left alone, by what we had written.
    pub(crate) fn left_alone(&self, life: Life<'_>) -> BTreeMap<Resource, Limit> {
        self.file.lock().entry(life).left_alone
    }

    /// Records that a limit is left alone from now on, by what we had written, or with `None` not any more, and returns once
    /// that is on disk.
    pub(crate) fn record_left_alone(
        &self,
        life: Life<'_>,
        resource: Resource,
        expected: Option<Limit>,
    ) -> Result<(), ActuatorError> {
        let mut file = self.file.lock();
        let mut entry = file.entry(life);
        if entry.left_alone.get(&resource) == expected.as_ref() {
            return Ok(());
        }
        match expected {
            Some(expected) => entry.left_alone.insert(resource, expected),
            None => entry.left_alone.remove(&resource),
        };
        self.put(&mut file, life.name, entry)
    }

    /// What an update sets that the owner of this incarnation was sent and has not answered.
    pub(crate) fn late(&self, life: Life<'_>) -> BTreeMap<Resource, Limit> {
        self.file.lock().entry(life).late
    }

    /// Records what such an update sets, or with nothing that there is none any more, and returns once that is on disk.
    pub(crate) fn record_late(&self, life: Life<'_>, late: BTreeMap<Resource, Limit>) -> Result<(), ActuatorError> {
        let mut file = self.file.lock();
        let entry = file.entry(life);
        if entry.late == late {
            return Ok(());
        }
        self.put(&mut file, life.name, Entry { late, ..entry })
    }

    /// The knobs of this incarnation that were changed.
    pub(crate) fn knobs(&self, life: Life<'_>) -> BTreeMap<Knob, KnobRecord> {
        let recorded = self.file.lock().entry(life).knobs;
        recorded.into_iter().filter_map(|(name, record)| Some((Knob::named(&name)?, record))).collect()
    }

    /// Records what a knob was before its first change and what is written to it next, or with `None` that it is done with,
    /// and returns once that is on disk.
    pub(crate) fn record_knob(
        &self,
        life: Life<'_>,
        knob: Knob,
        record: Option<&KnobRecord>,
    ) -> Result<(), ActuatorError> {
        let mut file = self.file.lock();
        let mut entry = file.entry(life);
        let name = knob.to_string();
        if entry.knobs.get(&name) == record {
            return Ok(());
        }
        match record {
            Some(record) => entry.knobs.insert(name, record.clone()),
            None => entry.knobs.remove(&name),
        };
        self.put(&mut file, life.name, entry)
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

    /// Forgets a container that is gone, unless its owner may start it again; the file follows with the next record.
    pub(crate) fn forget(&self, life: Life<'_>, now: TimeMs) {
        let mut file = self.file.lock();
        let mut entry = file.entry(life);
        match file.containers.get(life.name) {
            Some(known) if known.incarnation == life.incarnation || entry.kept.is_some() => {}
            _ => return,
        }
        if entry.kept.is_none() {
            file.containers.remove(life.name);
            return;
        }
        entry = Entry { incarnation: NOT_RUNNING, gone_at: Some(now), squeeze: None, ..entry };
        file.containers.insert(life.name.to_owned(), entry);
        let gone = file.containers.iter().filter_map(|(name, entry)| Some((entry.gone_at?, name)));
        if gone.clone().count() > REMEMBERED
            && let Some(first) = gone.min().map(|(_, name)| name.clone())
        {
            file.containers.remove(&first);
        }
    }

    fn save(&self, file: &BaselineFile) -> Result<(), ActuatorError> {
        let Some(path) = &self.path else { return Ok(()) };
        state_file::write(path, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Resource = Resource::Cpu;

    fn open(dir: &Path, boot: &str) -> Baselines {
        Baselines::open_at_boot(Some(dir), boot.to_owned()).unwrap()
    }

    fn web(incarnation: u64, id: &str) -> Life<'_> {
        Life { name: "web", incarnation, id }
    }

    #[test]
    fn the_first_record_survives_a_restart_and_later_ones_do_not_replace_it() {
        let dir = tempfile::tempdir().unwrap();
        let baselines = open(dir.path(), "boot-1");
        baselines.record(web(7, "a"), None, Resource::Memory, Limit::Unlimited).unwrap();
        baselines.record(web(7, "a"), None, CPU, Limit::At(2.0)).unwrap();
        baselines.record(web(7, "a"), None, CPU, Limit::At(0.5)).unwrap();
        drop(baselines);

        let kept = open(dir.path(), "boot-1").recorded(web(7, "a"));
        assert_eq!(kept, [(CPU, Limit::At(2.0)), (Resource::Memory, Limit::Unlimited)].into());
        assert!(open(dir.path(), "boot-1").recorded(web(8, "a")).is_empty(), "another incarnation");
        assert!(open(dir.path(), "boot-2").recorded(web(7, "a")).is_empty(), "inodes start anew with each boot");
    }

    #[test]
    fn a_baseline_outlives_a_container_whose_owner_brings_our_limit_back() {
        for over_reboots in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let baselines = open(dir.path(), "boot-1");
            let kept = Some(Kept { id: "a".to_owned(), over_reboots });
            baselines.record(web(7, "a"), kept.clone(), CPU, Limit::At(2.0)).unwrap();
            baselines.forget(web(7, "a"), TimeMs(5));
            let recorded: BTreeMap<_, _> = [(CPU, Limit::At(2.0))].into();
            assert_eq!(baselines.recorded(web(8, "a")), recorded, "the same container, started again");
            assert!(
                baselines.recorded(web(7, "b")).is_empty(),
                "another one of the same name, though with the old inode"
            );
            baselines.record(web(8, "a"), kept, Resource::Memory, Limit::Unlimited).unwrap();
            assert_eq!(baselines.recorded(web(8, "a")).len(), 2);
            drop(baselines);

            let rebooted = open(dir.path(), "boot-2");
            assert_eq!(rebooted.recorded(web(8, "a")).len(), if over_reboots { 2 } else { 0 });
            rebooted.record(web(8, "b"), None, CPU, Limit::At(1.0)).unwrap();
            assert_eq!(rebooted.recorded(web(8, "b")), [(CPU, Limit::At(1.0))].into());
            rebooted.forget(web(8, "b"), TimeMs(6));
            assert!(rebooted.recorded(web(8, "b")).is_empty());
        }
    }

    #[test]
    fn of_the_containers_that_do_not_run_the_latest_are_remembered() {
        let baselines = Baselines::open_at_boot(None, "boot-1".to_owned()).unwrap();
        let names: Vec<String> = (0..REMEMBERED + 5).map(|number| number.to_string()).collect();
        for (number, name) in names.iter().enumerate() {
            let life = Life { name, incarnation: 1 + number as u64, id: name };
            let kept = Some(Kept { id: name.clone(), over_reboots: true });
            baselines.record(life, kept, CPU, Limit::At(2.0)).unwrap();
            baselines.forget(life, TimeMs(number as i64));
        }
        let is_known = |name: &str| !baselines.recorded(Life { name, incarnation: 1, id: name }).is_empty();
        assert_eq!(names.iter().filter(|name| is_known(name)).count(), REMEMBERED);
        assert!(!is_known("4") && is_known("5"));
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
        assert!(baselines.record(web(7, "a"), None, CPU, Limit::At(2.0)).is_err());
        assert!(baselines.recorded(web(7, "a")).is_empty());
    }
}
