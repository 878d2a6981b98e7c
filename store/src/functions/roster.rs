//! Who has a row in `recent(window)`: made once for each set of series and facts, not once for each question.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use datafusion::common::Result;
use parking_lot::{Mutex, MutexGuard};
use tidegate_model::{Bounds, Resource, metrics};

use super::history::Answered;
use super::recent::{Asked, WAIT};
use super::recent_columns::Known;
use super::trail::Trails;
use crate::query::run::Run;
use crate::store::Store;
use crate::tables::{LabelTable, Subject, subjects};

/// The label tables that `recent` reads.
pub(super) struct Tables {
    pub(super) usage: Vec<Arc<LabelTable>>,
    pub(super) limits: Arc<LabelTable>,
    pub(super) throttled: Arc<LabelTable>,
    pub(super) pressure: Arc<LabelTable>,
    pub(super) oom_kills: Arc<LabelTable>,
    pub(super) unreclaimable: Arc<LabelTable>,
}

impl Tables {
    fn all(&self) -> impl Iterator<Item = &Arc<LabelTable>> {
        let Tables { usage, limits, throttled, pressure, oom_kills, unreclaimable } = self;
        usage.iter().chain([limits, throttled, pressure, oom_kills, unreclaimable])
    }

    /// The columns of all tables, which are the same as long as nobody has a new label.
    fn columns(&self) -> impl Iterator<Item = &[ArrayRef]> {
        self.all().map(|table| table.columns.as_slice())
    }
}

/// A part of usage.
pub(super) struct UsagePart {
    /// The row of each label.
    pub(super) rows: Vec<Option<u32>>,
    /// The app of each label.
    pub(super) apps: Vec<Option<String>>,
}

/// Everybody who has usage or a limit, of one resource or of all, sorted by host, container and resource, and which row each label
/// belongs to.
pub(super) struct Roster {
    /// The columns of the label tables that it was made from.
    tables: Vec<Vec<ArrayRef>>,
    facts: u64,
    pub(super) subjects: Vec<Subject>,
    /// Host, container and resource of each row.
    pub(super) columns: Vec<ArrayRef>,
    pub(super) usage: Vec<UsagePart>,
    pub(super) limits: Vec<Option<u32>>,
    /// The rows that labels of limits belong to which say where a knob of the resource stands.
    pub(super) knobs: Vec<Option<u32>>,
    pub(super) throttled: Vec<Option<u32>>,
    pub(super) pressure: Vec<Option<u32>>,
    pub(super) oom_kills: Vec<Option<u32>>,
    pub(super) unreclaimable: Vec<Option<u32>>,
    /// What operators allow each row.
    pub(super) bounds: Vec<Option<Bounds>>,
    /// What hosts have of a resource, and which of them each row shares.
    capacity: Vec<f64>,
    shares: Vec<Option<u32>>,
}

impl Roster {
    fn new(store: &Store, tables: &Tables, facts: u64, resource: Option<Resource>) -> Self {
        let usage: Vec<_> = tables.usage.iter().map(|table| subjects(&table.columns)).collect();
        let mut limits: Vec<_> =
            subjects(&tables.limits.columns).into_iter().map(|(subject, _)| Some(subject)).collect();
        let mut knobs = vec![None; limits.len()];
        for (limit, knob) in limits.iter_mut().zip(&mut knobs) {
            if let Some(of) = limit.as_ref().and_then(resource_of_knob) {
                (*limit, *knob) = (None, Some(of));
            }
        }
        let everybody = usage.iter().flatten().map(|(subject, _)| subject).chain(limits.iter().flatten()).cloned();
        let is_asked = |subject: &Subject| resource.is_none_or(|resource| subject.resource == resource.as_str());
        let everybody: Vec<Subject> = everybody.filter(is_asked).collect::<BTreeSet<_>>().into_iter().collect();
        let numbers: HashMap<&Subject, u32, ahash::RandomState> = everybody.iter().zip(0u32..).collect();
        let rows = |labels: &[(Subject, Option<String>)]| -> Vec<Option<u32>> {
            labels.iter().map(|(subject, _)| numbers.get(subject).copied()).collect()
        };
        let places = |subjects: Vec<Option<Subject>>| -> Vec<Option<u32>> {
            subjects.iter().map(|subject| numbers.get(subject.as_ref()?).copied()).collect()
        };
        let other = |table: &Arc<LabelTable>| rows(&subjects(&table.columns));
        let parts = usage
            .into_iter()
            .map(|labels| UsagePart { rows: rows(&labels), apps: labels.into_iter().map(|(_, app)| app).collect() });
        let mut bounds = vec![None; everybody.len()];
        for container in store.containers() {
            for (resource, allowed) in container.bounds {
                let (host, container) = (container.key.host.clone(), container.key.name.clone());
                let subject = Subject { host, container, resource: resource.as_str().to_owned() };
                if let Some(row) = numbers.get(&subject) {
                    bounds[*row as usize] = Some(allowed);
                }
            }
        }
        let text = |of: fn(&Subject) -> &String| -> ArrayRef {
            Arc::new(everybody.iter().map(|subject| Some(of(subject))).collect::<StringViewArray>())
        };
        let mut capacity = Vec::new();
        let mut capacities: HashMap<(&str, &str), u32> = HashMap::new();
        let hosts = store.hosts();
        for (host, resource) in hosts.iter().flat_map(|host| Resource::ALL.map(|resource| (host, resource))) {
            // Rows are counted in u32.
            capacities.insert((&host.name, resource.as_str()), capacity.len() as u32);
            capacity.push(if resource == Resource::Cpu { host.cpu.0 } else { host.memory.0 as f64 });
        }
        let place = |subject: &Subject| capacities.get(&(&*subject.host, &*subject.resource)).copied();
        let shares = everybody.iter().map(place).collect();
        Self {
            capacity,
            shares,
            facts,
            columns: vec![text(|of| &of.host), text(|of| &of.container), text(|of| &of.resource)],
            usage: parts.collect(),
            limits: places(limits),
            knobs: places(knobs),
            throttled: other(&tables.throttled),
            pressure: other(&tables.pressure),
            oom_kills: other(&tables.oom_kills),
            unreclaimable: other(&tables.unreclaimable),
            bounds,
            tables: tables.columns().map(<[ArrayRef]>::to_vec).collect(),
            subjects: everybody,
        }
    }

    /// Whether the labels of `tables` are those that it was made from.
    fn is_of(&self, tables: &Tables) -> bool {
        let same = |(a, b): (&Vec<ArrayRef>, &[ArrayRef])| a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b));
        self.tables.len() == tables.all().count() && self.tables.iter().zip(tables.columns()).all(same)
    }

    /// For each row what its host has left when every container uses up its limit; `None` where the host is not known.
    pub(super) fn free(&self, limits: &[Option<(i64, f64)>]) -> Vec<Option<f64>> {
        let mut left = self.capacity.clone();
        // In a fixed order, so that the sums are the same for the same limits.
        for (place, limit) in self.shares.iter().zip(limits) {
            if let (Some((_, limit)), Some(place)) = (limit, place) {
                left[*place as usize] -= limit;
            }
        }
        self.shares.iter().map(|place| place.map(|place| left[place as usize].max(0.0))).collect()
    }
}

/// Whose knob a subject is, if it is one's.
fn resource_of_knob(subject: &Subject) -> Option<Subject> {
    let knob = Resource::KNOBS.into_iter().find(|knob| knob.as_str() == subject.resource)?;
    Some(Subject { resource: knob.of().as_str().to_owned(), ..subject.clone() })
}

/// Frames that are kept at most: rules of one tick ask for a few windows of each resource.
const MAX_FRAMES: usize = 32;

/// What was asked for, and what it was answered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameKey {
    pub(super) now: i64,
    pub(super) asked: Asked,
}

/// When an answer is still the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Of the samples; see [`crate::hot::Generation::watch`].
    pub(super) samples: (u64, u64),
    /// How many of the metrics that are looked at have been seen at all. A further series of one of them changes the answer
    /// by its samples only.
    pub(super) metrics: usize,
    pub(super) facts: u64,
}

impl Version {
    /// Whether all that changed since `former` are samples: those that came late, and those after the last question.
    pub(super) fn goes_on_from(&self, former: &Version) -> bool {
        (self.samples.0, self.metrics, self.facts) == (former.samples.0, former.metrics, former.facts)
    }
}

type Frame = Arc<Mutex<Option<(Version, Known)>>>;

/// What the last questions of `recent` were answered with.
#[derive(Default)]
pub(crate) struct Recents {
    /// The newest last.
    frames: Mutex<Vec<(FrameKey, Frame)>>,
    /// Of each resource that somebody asked for, and of all.
    parts: Mutex<HashMap<Option<Resource>, Arc<Part>>>,
    histories: Mutex<Vec<Answered>>,
}

/// What the rows about one resource, or all rows, are made from.
#[derive(Default)]
pub(super) struct Part {
    resource: Option<Resource>,
    roster: Mutex<Option<Arc<Roster>>>,
    pub(super) trails: Trails,
}

impl Part {
    /// The roster of `tables`.
    pub(super) fn roster(&self, store: &Store, tables: &Tables) -> Arc<Roster> {
        let facts = store.facts.version();
        let mut known = self.roster.lock();
        if let Some(roster) = known.as_ref().filter(|roster| roster.facts == facts && roster.is_of(tables)) {
            return Arc::clone(roster);
        }
        let roster = Arc::new(Roster::new(store, tables, facts, self.resource));
        *known = Some(Arc::clone(&roster));
        roster
    }
}

/// Which version of everything that `recent` looks at there is now.
pub(super) fn version(store: &Store) -> Version {
    version_of(store, numbers_of_metrics(store).len())
}

/// As [`version`], of what has samples up to `now`: one that arrives later changes it.
pub(super) fn watch(store: &Store, now: i64) -> Version {
    let metrics = numbers_of_metrics(store);
    store.data.write().active.watch(&metrics, now);
    // A metric that appears from here on is not watched, and counted next time.
    version_of(store, metrics.len())
}

fn version_of(store: &Store, metrics: usize) -> Version {
    let facts = store.facts.version();
    Version { samples: store.data.read().active.watched(), metrics, facts }
}

fn numbers_of_metrics(store: &Store) -> Vec<u32> {
    let index = store.index.read();
    metrics_of(store).filter_map(|metric| index.metric_id(metric)).collect()
}

/// The metrics that `recent` looks at.
fn metrics_of(store: &Store) -> impl Iterator<Item = &str> {
    const COLLECTED: [&str; 6] = [
        metrics::USAGE,
        metrics::LIMIT,
        metrics::THROTTLED,
        metrics::PRESSURE_SOME,
        metrics::OOM_KILLS,
        metrics::UNRECLAIMABLE,
    ];
    let mapped = store.config().usage_maps.iter().flat_map(|map| &map.metrics).map(String::as_str);
    COLLECTED.into_iter().chain(mapped)
}

impl Recents {
    /// What `history` was answered with last. Whoever makes an answer holds it, so that others wait for that.
    ///
    /// # Errors
    /// When the query has to end.
    pub(super) fn histories(&self, run: &Run) -> Result<MutexGuard<'_, Vec<Answered>>> {
        loop {
            run.deadline.check()?;
            if let Some(histories) = self.histories.try_lock_for(WAIT) {
                return Ok(histories);
            }
        }
    }

    pub(super) fn part(&self, resource: Option<Resource>) -> Arc<Part> {
        let mut parts = self.parts.lock();
        Arc::clone(parts.entry(resource).or_insert_with(|| Arc::new(Part { resource, ..Part::default() })))
    }

    /// All that was answered.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.frames.lock().clear();
        self.parts.lock().clear();
    }

    /// Where the answer for `key` is kept. Whoever makes it holds its lock, so that others with the same question wait for
    /// the answer instead of making it too.
    pub(super) fn frame(&self, key: FrameKey) -> Frame {
        let mut frames = self.frames.lock();
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == key) {
            return Arc::clone(frame);
        }
        if frames.len() >= MAX_FRAMES {
            frames.remove(0);
        }
        let frame = Frame::default();
        frames.push((key, Arc::clone(&frame)));
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql_tests::{NOW, open};

    #[tokio::test]
    async fn a_new_container_changes_the_answer_with_its_first_sample_in_the_window() {
        let store = open();
        let usage = |container| [("host", "h"), ("container", container), ("resource", "cpu")];
        store.push(&[("tidegate.usage", &usage("a"), 1.0, 1.0)]).await;
        let before = watch(&store.store, NOW.0);
        assert_eq!(version(&store.store), before);
        store.push(&[("tidegate.usage", &usage("b"), -1.0, 1.0), ("other", &[], 0.0, 1.0)]).await;
        assert_eq!(version(&store.store), before);
        store.push(&[("tidegate.usage", &usage("c"), 0.0, 1.0)]).await;
        let after = watch(&store.store, NOW.0);
        assert_ne!(after, before);
        // Of a metric that nobody could watch.
        store.push(&[("proc.mem.resident", &[("host", "a")], 0.0, 1.0)]).await;
        assert_ne!(version(&store.store), after);
    }
}
