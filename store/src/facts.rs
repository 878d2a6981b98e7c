//! Current facts: containers, groups, hosts and rules as they are now, kept across restarts.
//!
//! Changes are written before they are visible. When something was last seen changes every second, so it is kept in memory
//! and only written along with something else or at a flush. How a rule's last run went is noted by the tick, which must
//! not wait for the disk, and is forgotten with the process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tidegate_model::{Container, ContainerKey, GroupBounds, GroupKey, Host, Mode, Resource, TimeMs};

use crate::catalog::{read_json, replace_json, sealed_json};
use crate::dir::FACTS;
use crate::error::StoreError;
use crate::experiments::Experiment;
use crate::overrides::Override;
use crate::store::Store;

/// Most changes of rules that are kept in all: the facts are one file, which is written as a whole.
const MOST_RULE_CHANGES: usize = 10_000;
/// Most bytes of their texts in all.
const MOST_RULE_CHANGE_BYTES: usize = 16 << 20;

/// A rule and how its last run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// The whole `CREATE RULE` statement, canonical.
    pub sql: String,
    /// The SELECT in it.
    pub query: String,
    /// Counts the rule's changes from 1.
    pub version: u32,
    /// How far its proposals go.
    pub mode: Mode,
    /// Its class, which decides between rules that want different things.
    pub class: String,
    /// How often it is evaluated.
    pub every_ms: u64,
    /// All options as they were given.
    pub options: BTreeMap<String, String>,
    /// Who wrote this version.
    pub created_by: String,
    /// When this version was written.
    pub updated_at: TimeMs,
    /// What the engine did to the rule by itself, and why: a change by anybody else takes it away.
    #[serde(default)]
    pub note: Option<String>,
    /// The last tick it was evaluated for; this and what follows is not kept across restarts.
    pub last_run: Option<TimeMs>,
    /// How long that took, in ms.
    pub last_latency_ms: Option<f64>,
    /// How many rows it returned.
    pub last_rows: Option<u64>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
}

/// One change of a rule, with the text as it was from then on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleChange {
    /// When.
    pub time: TimeMs,
    /// The rule's name.
    pub rule: String,
    /// `created`, `changed`, `mode` (nothing but its mode) or `dropped`.
    pub change: String,
    /// The rule's version from then on.
    pub version: u32,
    /// Its mode from then on.
    pub mode: Mode,
    /// Who did it.
    pub changed_by: String,
    /// Why, when the engine did it by itself.
    pub note: Option<String>,
    /// The whole statement from then on; of a rule that was dropped, the last one.
    pub sql: String,
}

/// How a rule's run went.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleStatus {
    /// The tick.
    pub run: TimeMs,
    /// How long it took, in ms.
    pub latency_ms: f64,
    /// How many rows it returned; `None` when it failed.
    pub rows: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The kill switch is on: no limit may be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Since when.
    pub since: TimeMs,
    /// Who turned it on.
    pub by: String,
    /// What for; may be empty.
    pub why: String,
    /// What was found before the first change was wanted back, too.
    #[serde(default)]
    pub restore: bool,
}

/// Which of the controllers that a host's agent may have heard this one is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Of this start: a copy of the data directory that is started, too, is another controller.
    pub id: String,
    /// Counts its starts, so that agents know the newest; a directory that takes over from another one begins higher.
    pub epoch: u64,
}

/// What an operator allows a group. A group is bounded whether or not it has members now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Which group.
    pub key: GroupKey,
    /// What the limits of its members may add up to.
    pub bounds: BTreeMap<Resource, GroupBounds>,
    /// Who said so last.
    pub changed_by: String,
    /// When.
    pub changed_at: TimeMs,
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Shared with who looks at all of them, such as each tick.
    pub(crate) containers: Arc<BTreeMap<ContainerKey, Container>>,
    groups: BTreeMap<GroupKey, GroupRow>,
    hosts: BTreeMap<String, Host>,
    rules: Vec<RuleRow>,
    freeze: Option<Freeze>,
    rule_changes: Vec<RuleChange>,
    controller: Controller,
    /// By name. Shared, since facts are copied at each change.
    pub(crate) experiments: Arc<BTreeMap<String, Experiment>>,
    pub(crate) overrides: Arc<BTreeMap<ContainerKey, Override>>,
}

/// The facts' file. Lists, since a JSON object's keys can only be texts.
#[derive(Default, Serialize, Deserialize)]
struct FactsFile {
    containers: Vec<Container>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupRow>,
    hosts: Vec<Host>,
    rules: Vec<RuleRow>,
    /// Not in files of before there was one.
    #[serde(default)]
    freeze: Option<Freeze>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rule_changes: Vec<RuleChange>,
    #[serde(default)]
    controller: Controller,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    experiments: Vec<Experiment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<Override>,
}

impl FactsFile {
    fn of(facts: &Facts) -> Self {
        Self {
            containers: facts.containers.values().cloned().collect(),
            groups: facts.groups.values().cloned().collect(),
            hosts: facts.hosts.values().cloned().collect(),
            rules: facts.rules.clone(),
            freeze: facts.freeze.clone(),
            controller: facts.controller.clone(),
            rule_changes: facts.rule_changes.clone(),
            experiments: facts.experiments.values().cloned().collect(),
            overrides: facts.overrides.values().cloned().collect(),
        }
    }
}

/// The facts in memory and on disk.
pub(crate) struct FactBook {
    pub(crate) current: RwLock<Facts>,
    /// One change at a time; readers do not wait for the disk.
    writer: Mutex<()>,
    /// Whether something is only in memory.
    unwritten: AtomicBool,
    /// See [`FactBook::version`].
    version: AtomicU64,
}

impl FactBook {
    pub(crate) fn load(dir: &Path) -> Result<Self, StoreError> {
        let file: FactsFile = read_json(&dir.join(FACTS))?.unwrap_or_default();
        let mut rules = file.rules;
        for rule in &mut rules {
            (rule.last_run, rule.last_latency_ms, rule.last_rows, rule.last_error) = (None, None, None, None);
        }
        let facts = Facts {
            containers: Arc::new(file.containers.into_iter().map(|row| (row.key.clone(), row)).collect()),
            groups: file.groups.into_iter().map(|row| (row.key.clone(), row)).collect(),
            hosts: file.hosts.into_iter().map(|row| (row.name.clone(), row)).collect(),
            rules,
            freeze: file.freeze,
            controller: file.controller,
            rule_changes: file.rule_changes,
            experiments: Arc::new(file.experiments.into_iter().map(|row| (row.name.clone(), row)).collect()),
            overrides: Arc::new(file.overrides.into_iter().map(|row| (row.key.clone(), row)).collect()),
        };
        Ok(Self {
            current: RwLock::new(facts),
            writer: Mutex::new(()),
            unwritten: AtomicBool::new(false),
            version: AtomicU64::new(0),
        })
    }

    /// Changes with every fact but when something was last seen and how a rule's last run went.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Writes what is only in memory.
    pub(crate) fn write_rest(&self, dir: &Path) -> Result<(), StoreError> {
        let _writer = self.writer.lock();
        if !self.unwritten.load(Ordering::Acquire) {
            return Ok(());
        }
        let facts = self.current.read().clone();
        self.write(dir, &facts)
    }

    /// All facts as their file holds them.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, StoreError> {
        sealed_json(FACTS, &FactsFile::of(&self.current.read()))
    }

    /// Applies `change` to a copy, writes it, and only then makes it visible.
    fn change(&self, dir: &Path, change: impl FnOnce(&mut Facts)) -> Result<(), StoreError> {
        self.try_change(dir, |facts| {
            change(facts);
            Ok(())
        })
    }

    /// As [`FactBook::change`]; a change that fails leaves everything as it is.
    pub(crate) fn try_change<T, E: From<StoreError>>(
        &self,
        dir: &Path,
        change: impl FnOnce(&mut Facts) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writer = self.writer.lock();
        let mut facts = self.current.read().clone();
        let made = change(&mut facts)?;
        self.write(dir, &facts)?;
        let mut current = self.current.write();
        // Rules may have run while this was being written.
        keep_status(&mut facts.rules, &current.rules);
        *current = facts;
        self.version.fetch_add(1, Ordering::Release);
        Ok(made)
    }

    /// Notes how a rule's run went, without waiting for a change that is being written.
    fn note_status(&self, name: &str, status: RuleStatus) {
        let mut current = self.current.write();
        if let Some(rule) = current.rules.iter_mut().find(|rule| rule.name == name) {
            rule.last_run = Some(status.run);
            rule.last_latency_ms = Some(status.latency_ms);
            rule.last_rows = status.rows;
            rule.last_error = status.error;
        }
    }

    /// Applies a change that need not be on disk at once.
    fn change_in_memory(&self, change: impl FnOnce(&mut Facts)) {
        // Taken so that a change that is being written does not bring back the former state.
        let _writer = self.writer.lock();
        change(&mut self.current.write());
        self.unwritten.store(true, Ordering::Release);
    }

    fn write(&self, dir: &Path, facts: &Facts) -> Result<(), StoreError> {
        replace_json(dir, FACTS, &FactsFile::of(facts))?;
        self.unwritten.store(false, Ordering::Release);
        Ok(())
    }
}

/// Leaves the last `kept` changes of each rule, and of all the last [`MOST_RULE_CHANGES`] and [`MOST_RULE_CHANGE_BYTES`].
fn trim(changes: &mut Vec<RuleChange>, kept: usize) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut left, mut bytes) = (MOST_RULE_CHANGES, MOST_RULE_CHANGE_BYTES);
    let mut newest_first: Vec<RuleChange> = std::mem::take(changes).into_iter().rev().collect();
    newest_first.retain(|change| {
        let of_rule = seen.entry(change.rule.clone()).or_default();
        *of_rule += 1;
        let stays = *of_rule <= kept && left > 0 && change.sql.len() <= bytes;
        if stays {
            (left, bytes) = (left - 1, bytes - change.sql.len());
        }
        stays
    });
    newest_first.reverse();
    *changes = newest_first;
}

/// Takes over from `former` how the last run of each rule went, if its version is still the same.
fn keep_status(rules: &mut [RuleRow], former: &[RuleRow]) {
    for rule in rules {
        let same = former.iter().find(|old| old.name == rule.name && old.version == rule.version);
        if let Some(old) = same.filter(|old| old.last_run >= rule.last_run) {
            rule.last_run = old.last_run;
            rule.last_latency_ms = old.last_latency_ms;
            rule.last_rows = old.last_rows;
            rule.last_error.clone_from(&old.last_error);
        }
    }
}

impl Store {
    /// Adds or replaces containers by key, with the bounds that a person has given them. Rows that differ only in `last_seen` are
    /// not written to disk.
    pub fn put_containers(&self, rows: &[Container]) -> Result<(), StoreError> {
        let overrides = self.overrides();
        let mut rows = Cow::Borrowed(rows);
        if !overrides.is_empty() {
            for row in rows.to_mut() {
                overrides.get(&row.key).into_iter().for_each(|said| said.apply(row));
            }
        }
        let known = |row: &Container, facts: &Facts| {
            let old = facts.containers.get(&row.key);
            old.is_some_and(|old| Container { last_seen: row.last_seen, ..old.clone() } == *row)
        };
        let all_known = {
            let facts = self.facts.current.read();
            rows.iter().all(|row| known(row, &facts))
        };
        let put = |facts: &mut Facts| {
            let containers = Arc::make_mut(&mut facts.containers);
            rows.iter().for_each(|row| drop(containers.insert(row.key.clone(), row.clone())));
        };
        if all_known {
            self.facts.change_in_memory(put);
            return Ok(());
        }
        self.facts.change(self.dir.path(), put)
    }

    /// Forgets a container; its samples and decisions stay.
    pub fn remove_container(&self, key: &ContainerKey) -> Result<(), StoreError> {
        if !self.facts.current.read().containers.contains_key(key) {
            return Ok(());
        }
        self.facts.change(self.dir.path(), |facts| drop(Arc::make_mut(&mut facts.containers).remove(key)))
    }

    /// All containers, sorted by key.
    pub fn containers(&self) -> Vec<Container> {
        self.facts.current.read().containers.values().cloned().collect()
    }

    /// As [`Store::containers`], by key and without copying them.
    pub fn container_map(&self) -> Arc<BTreeMap<ContainerKey, Container>> {
        Arc::clone(&self.facts.current.read().containers)
    }

    /// Adds or replaces what is allowed a group; a row without any bounds takes it away.
    pub fn put_group(&self, row: GroupRow) -> Result<(), StoreError> {
        self.facts.change(self.dir.path(), |facts| {
            let is_bounded = row.bounds.values().any(|bounds| !bounds.is_none());
            match is_bounded {
                true => drop(facts.groups.insert(row.key.clone(), row)),
                false => drop(facts.groups.remove(&row.key)),
            }
        })
    }

    /// All groups that are bounded, apps first, each kind by name.
    pub fn groups(&self) -> Vec<GroupRow> {
        self.facts.current.read().groups.values().cloned().collect()
    }

    /// Adds or replaces a host by name. A change of `last_seen` alone is not written to disk.
    pub fn put_host(&self, host: Host) -> Result<(), StoreError> {
        let known = {
            let facts = self.facts.current.read();
            let old = facts.hosts.get(&host.name);
            old.is_some_and(|old| Host { last_seen: host.last_seen, ..old.clone() } == host)
        };
        let put = |facts: &mut Facts| drop(facts.hosts.insert(host.name.clone(), host));
        if known {
            self.facts.change_in_memory(put);
            return Ok(());
        }
        self.facts.change(self.dir.path(), put)
    }

    /// All hosts, sorted by name.
    pub fn hosts(&self) -> Vec<Host> {
        self.facts.current.read().hosts.values().cloned().collect()
    }

    /// Replaces all rules. A rule whose version did not change keeps the status of its last run.
    pub fn put_rules(&self, rows: Vec<RuleRow>) -> Result<(), StoreError> {
        self.put_changed_rules(rows, Vec::new(), usize::MAX)
    }

    /// As [`Store::put_rules`], with what changed. Of each rule the last `kept` changes stay.
    pub fn put_changed_rules(
        &self,
        rows: Vec<RuleRow>,
        changes: Vec<RuleChange>,
        kept: usize,
    ) -> Result<(), StoreError> {
        self.facts.change(self.dir.path(), |facts| {
            facts.rules = rows;
            facts.rule_changes.extend(changes);
            trim(&mut facts.rule_changes, kept);
        })
    }

    /// All changes of rules that are kept, oldest first, of rules that were dropped too.
    pub fn rule_changes(&self) -> Vec<RuleChange> {
        self.facts.current.read().rule_changes.clone()
    }

    /// Turns the kill switch on or off, on disk before this returns.
    pub fn put_freeze(&self, freeze: Option<Freeze>) -> Result<(), StoreError> {
        self.facts.change(self.dir.path(), |facts| facts.freeze = freeze)
    }

    /// Begins the next epoch, which is on disk when this returns. It is at least `at_least`; `id` is a name that no other
    /// start has.
    pub fn begin_epoch(&self, at_least: u64, id: String) -> Result<Controller, StoreError> {
        let epoch = (self.facts.current.read().controller.epoch + 1).max(at_least);
        let controller = Controller { id, epoch };
        self.facts.change(self.dir.path(), |facts| facts.controller = controller.clone())?;
        Ok(controller)
    }

    /// Whether the kill switch is on.
    pub fn frozen(&self) -> Option<Freeze> {
        self.facts.current.read().freeze.clone()
    }

    /// All rules, in the order in which they were put.
    pub fn rules(&self) -> Vec<RuleRow> {
        self.facts.current.read().rules.clone()
    }

    pub(crate) fn rule_count(&self) -> usize {
        self.facts.current.read().rules.len()
    }

    /// Notes how a rule's run went, in memory only. An unknown rule is ignored: it was dropped while it ran.
    pub fn put_rule_status(&self, name: &str, status: RuleStatus) {
        self.facts.note_status(name, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_run_is_noted_while_a_change_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let book = FactBook::load(dir.path()).unwrap();
        let row = RuleRow {
            name: "r".to_owned(),
            sql: String::new(),
            query: String::new(),
            version: 1,
            mode: Mode::Shadow,
            class: String::new(),
            every_ms: 1_000,
            options: BTreeMap::new(),
            created_by: String::new(),
            updated_at: TimeMs(0),
            note: None,
            last_run: None,
            last_latency_ms: None,
            last_rows: None,
            last_error: None,
        };
        book.change(dir.path(), |facts| facts.rules.push(row)).unwrap();
        let status = RuleStatus { run: TimeMs(5), latency_ms: 1.0, rows: Some(2), error: None };
        book.change(dir.path(), |_| book.note_status("r", status)).unwrap();
        assert_eq!(book.current.read().rules[0].last_run, Some(TimeMs(5)));
    }

    #[test]
    fn of_each_rule_the_last_changes_stay() {
        let change = |rule: &str, time| RuleChange {
            time: TimeMs(time),
            rule: rule.to_owned(),
            change: "changed".to_owned(),
            version: 1,
            mode: Mode::On,
            changed_by: "me".to_owned(),
            note: None,
            sql: String::new(),
        };
        let mut changes = vec![change("a", 1), change("b", 2), change("a", 3), change("a", 4)];
        trim(&mut changes, 2);
        assert_eq!(changes, [change("b", 2), change("a", 3), change("a", 4)]);
        let mut many: Vec<_> = (0..MOST_RULE_CHANGES as i64 + 5).map(|time| change(&time.to_string(), time)).collect();
        trim(&mut many, 2);
        assert_eq!((many.len(), many[0].time), (MOST_RULE_CHANGES, TimeMs(5)));
        let text = "x".repeat(MOST_RULE_CHANGE_BYTES / 3);
        let mut long: Vec<_> = (0..5).map(|time| RuleChange { sql: text.clone(), ..change("a", time) }).collect();
        trim(&mut long, 5);
        assert_eq!((long.len(), long[0].time), (3, TimeMs(2)));
    }
}
