//! A fixed course of changes, and what has to be there afterwards, whatever went wrong on the way.

use std::collections::BTreeSet;

use tidegate_model::{CgroupVersion, Container, Runtime};

use super::keep::rule;
use super::*;
use crate::StoreError;

/// Samples that are older than this many seconds go with the next flush of their segment.
const RETENTION_S: u64 = 15;

pub(super) fn ledger_config(dir: &Path) -> StoreConfig {
    StoreConfig { retention_s: RETENTION_S, max_past_s: Some(7 * 86_400), ..config(dir) }
}

/// One change. Every number stands for the same change in every process.
#[derive(Clone, Debug)]
enum Change {
    Samples(Vec<(String, i64, f64)>),
    Decision(String),
    Event(String),
    Rule(u32),
    Container(u64),
    Flush,
    Compact,
}

/// When change `n` happens: a second after the one before.
pub(super) fn now(n: u64) -> TimeMs {
    TimeMs(NOW.0 + n as i64 * 1_000)
}

fn change(n: u64) -> Change {
    let time = now(n).0 - NOW.0;
    match n % 12 {
        3 => Change::Decision(format!("d{n}")),
        5 => Change::Event(format!("e{n}")),
        7 => Change::Rule(n as u32),
        9 => Change::Container(n),
        10 => Change::Flush,
        11 if n % 24 == 11 => Change::Compact,
        // Four hosts that stay and one that is new each time, a sample for two times, and an older one anew.
        _ => {
            let host = if n % 6 == 1 { format!("new{n}") } else { format!("h{}", n % 4) };
            let again = time - 4_000;
            Change::Samples(vec![
                (host.clone(), time, n as f64),
                (host.clone(), time + 1, 0.5),
                (host, again, -(n as f64)),
            ])
        }
    }
}

/// What a key may stand for: what was acknowledged last, and what was tried since.
#[derive(Clone, Debug, Default)]
struct Known<T> {
    acknowledged: Option<T>,
    tried: Vec<T>,
}

impl<T: PartialEq + Clone> Known<T> {
    fn note(&mut self, value: T, acknowledged: bool) {
        if acknowledged {
            *self = Self { acknowledged: Some(value), tried: Vec::new() };
        } else {
            self.tried.push(value);
        }
    }

    fn allows(&self, found: Option<&T>) -> bool {
        match found {
            Some(found) => self.acknowledged.as_ref() == Some(found) || self.tried.contains(found),
            None => self.acknowledged.is_none(),
        }
    }
}

/// What was acknowledged, and what was only tried.
#[derive(Default)]
pub(super) struct Ledger {
    samples: BTreeMap<(String, i64), Known<f64>>,
    /// By id: when, and whether it was acknowledged.
    decisions: BTreeMap<String, (i64, bool)>,
    events: BTreeMap<String, (i64, bool)>,
    rule: Known<u32>,
    container: Known<u64>,
    /// What is older may be gone.
    kept_from: i64,
}

fn container(n: u64) -> Container {
    Container {
        key: ContainerKey { host: "h".to_owned(), name: "web".to_owned() },
        path: PathBuf::from("/docker/1"),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Docker,
        id: "1".to_owned(),
        incarnation: n,
        app: None,
        user: None,
        labels: BTreeMap::new(),
        first_seen: NOW,
        last_seen: NOW,
        baseline: BTreeMap::new(),
        bounds: BTreeMap::new(),
    }
}

/// Makes change `n`.
pub(super) async fn make(store: &Store, n: u64) -> Result<(), StoreError> {
    match change(n) {
        Change::Samples(rows) => {
            let rows: Vec<_> = rows.iter().map(|(host, time, value)| (host.as_str(), *time, *value)).collect();
            let report = store.append(&batch(&rows), now(n)).await?;
            assert_eq!(report.rejected, vec![]);
        }
        Change::Decision(id) => store.append_decisions(&[decision(&id, now(n).0 - NOW.0, 1.0)]).await?,
        Change::Event(name) => store.append_events(&[event(&name, now(n).0 - NOW.0)]).await?,
        Change::Rule(version) => store.put_rules(vec![rule("r", version)])?,
        Change::Container(n) => store.put_containers(&[container(n)])?,
        Change::Flush => drop(store.flush(now(n)).await?),
        Change::Compact => drop(store.compact().await?),
    }
    Ok(())
}

impl Ledger {
    /// Notes that change `n` was tried, and whether it was acknowledged.
    pub(super) fn note(&mut self, n: u64, acknowledged: bool) {
        match change(n) {
            Change::Samples(rows) => {
                for (host, time, value) in rows {
                    self.samples.entry((host, time)).or_default().note(value, acknowledged);
                }
            }
            Change::Decision(id) => drop(self.decisions.insert(id, (now(n).0, acknowledged))),
            Change::Event(name) => drop(self.events.insert(name, (now(n).0, acknowledged))),
            Change::Rule(version) => self.rule.note(version, acknowledged),
            Change::Container(n) => self.container.note(n, acknowledged),
            Change::Compact => {}
            Change::Flush => self.kept_from = now(n).0 - RETENTION_S as i64 * 1_000,
        }
    }

    /// Compares everything that can be read with what has to be there.
    pub(super) fn check(&self, store: &Store, when: &str) {
        let found = stored(store, "cpu", -1_000_000_000, 1_000_000_000_000);
        for (key, value) in &found {
            let known = self.samples.get(key);
            assert!(known.is_some_and(|known| known.allows(Some(value))), "{when}: {key:?} is {value}, {known:?}");
        }
        for (key, known) in &self.samples {
            let may_be_gone = NOW.0 + key.1 < self.kept_from;
            assert!(may_be_gone || known.allows(found.get(key)), "{when}: {key:?} is not there, {known:?}");
        }
        let decisions: Vec<String> = store.scan_decisions(0, i64::MAX).unwrap().into_iter().map(|row| row.id).collect();
        self.compare(&self.decisions, &decisions, when);
        let events: Vec<String> = store.scan_events(0, i64::MAX).unwrap().into_iter().map(|row| row.name).collect();
        self.compare(&self.events, &events, when);
        let version = store.rules().first().map(|rule| rule.version);
        assert!(self.rule.allows(version.as_ref()), "{when}: the rule has version {version:?}, {:?}", self.rule);
        let incarnation = store.containers().first().map(|container| container.incarnation);
        assert!(self.container.allows(incarnation.as_ref()), "{when}: {incarnation:?}, {:?}", self.container);
    }

    fn compare(&self, known: &BTreeMap<String, (i64, bool)>, found: &[String], when: &str) {
        let ids: BTreeSet<&String> = found.iter().collect();
        assert_eq!(ids.len(), found.len(), "{when}: something is there twice: {found:?}");
        assert!(ids.iter().all(|id| known.contains_key(*id)), "{when}: {found:?}");
        for (id, (time, acknowledged)) in known {
            let may_be_gone = !acknowledged || *time < self.kept_from;
            assert!(may_be_gone || ids.contains(id), "{when}: {id} is not there");
        }
    }

    /// After a restart, what is there is what there is: it was replayed and is as good as acknowledged.
    pub(super) fn settle(&mut self, store: &Store) {
        let found = stored(store, "cpu", -1_000_000_000, 1_000_000_000_000);
        let settle = |(key, known): (&(String, i64), &mut Known<f64>)| {
            *known = Known { acknowledged: found.get(key).copied(), tried: Vec::new() };
        };
        self.samples.iter_mut().for_each(settle);
        let ids: BTreeSet<String> = store.scan_decisions(0, i64::MAX).unwrap().into_iter().map(|row| row.id).collect();
        self.decisions.iter_mut().for_each(|(id, (_, acknowledged))| *acknowledged = ids.contains(id));
        let names: BTreeSet<String> = store.scan_events(0, i64::MAX).unwrap().into_iter().map(|row| row.name).collect();
        self.events.iter_mut().for_each(|(name, (_, acknowledged))| *acknowledged = names.contains(name));
        let version = store.rules().first().map(|rule| rule.version);
        self.rule = Known { acknowledged: version, tried: Vec::new() };
        let incarnation = store.containers().first().map(|container| container.incarnation);
        self.container = Known { acknowledged: incarnation, tried: Vec::new() };
    }
}

/// The catalog names each file once, every file that it names is there, and no other is.
pub(super) fn check_catalog(store: &Store, dir: &Path) {
    let catalog = store.catalog.lock();
    let mut named: Vec<String> = catalog.segments.iter().flat_map(|meta| meta.files().map(str::to_owned)).collect();
    named.sort();
    let found: Vec<String> = files(&dir.join("segments"))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, found);
    assert!(catalog.segments.iter().all(|meta| meta.number < catalog.next_segment), "{catalog:?}");
    let index = store.index.read();
    assert!(index.all().iter().all(|(id, _)| *id < index.next_id()));
}
