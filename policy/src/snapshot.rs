//! What the engine knows of every limit at one instant: one read of `recent()`, shared by all rules of the tick.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};
use tidegate_model::{Container, ContainerKey, Host, Membership, Resource, TimeMs};

use crate::group::Groups;
use crate::proposal::{Keys, LimitKey, numbers};

/// The label that says how much of what is short on a host a container gets, relative to the others there.
const WEIGHT: &str = "tidegate.weight";

/// The window of `recent()` behind a [`Snapshot`].
pub(crate) const SNAPSHOT_WINDOW: Duration = Duration::from_secs(60);

/// The columns of `recent()` that a decision keeps among its inputs.
const KEPT: [&str; 23] = [
    "samples",
    "age",
    "usage",
    "usage_avg",
    "usage_max",
    "usage_p50",
    "usage_p95",
    "usage_p99",
    "usage_stddev",
    "usage_slope",
    "allocated",
    "allocated_age",
    "min",
    "max",
    "upper",
    "lower",
    "throttled",
    "throttled_last",
    "pressure",
    "oom_kills",
    "unreclaimable",
    "host_free",
    "host_capacity",
];

/// One row of `recent()`: the columns of [`KEPT`], NaN where one is null. A tick reads one of each limit and looks at few of
/// them, so it is a plain row of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Reading([f64; KEPT.len()]);

impl Default for Reading {
    fn default() -> Self {
        Self([f64::NAN; KEPT.len()])
    }
}

impl Reading {
    /// A column's value; `None` when it is null or not a finite number.
    pub fn get(&self, column: &str) -> Option<f64> {
        let at = KEPT.iter().position(|name| *name == column)?;
        Some(self.0[at]).filter(|value| value.is_finite())
    }

    /// Of a limit that was read so many seconds ago, when nothing else is known.
    pub fn last_limit(limit: f64, age: f64) -> Self {
        let mut reading = Self::default();
        for (name, value) in [("allocated", limit), ("allocated_age", age)] {
            if let Some(at) = KEPT.iter().position(|kept| *kept == name) {
                reading.0[at] = value;
            }
        }
        reading
    }

    /// The reading as a JSON object, nulls left out.
    pub fn to_json(&self) -> Map<String, Value> {
        let known = KEPT.iter().zip(self.0).filter(|(_, value)| value.is_finite());
        known.map(|(name, value)| ((*name).to_owned(), Value::from(value))).collect()
    }

    #[cfg(test)]
    pub fn of(values: &[(&'static str, f64)]) -> Self {
        let mut reading = Self::default();
        for (column, value) in values {
            reading.0[KEPT.iter().position(|name| name == column).expect("a column of recent()")] = *value;
        }
        reading
    }
}

/// The state of all limits at `now`, the capacity of their hosts, and what is known of the containers.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub now: TimeMs,
    pub readings: HashMap<LimitKey, Reading>,
    pub containers: Arc<BTreeMap<ContainerKey, Container>>,
    pub groups: Groups,
    capacity: HashMap<String, (f64, f64)>,
    /// Made when somebody asks.
    membership: OnceLock<Membership>,
}

impl Snapshot {
    /// Reads the rows of `recent()` with all columns. Rows that name no container or resource are left out.
    pub fn read(
        now: TimeMs,
        batches: &[RecordBatch],
        hosts: &[Host],
        containers: Arc<BTreeMap<ContainerKey, Container>>,
    ) -> Self {
        let mut readings = HashMap::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        for batch in batches {
            let keys = Keys::of(batch);
            let columns = KEPT.map(|name| numbers(batch, name));
            for row in 0..batch.num_rows() {
                let Ok(key) = keys.at(row) else { continue };
                let value = |column: &Option<arrow::array::Float64Array>| {
                    column.as_ref().filter(|column| column.is_valid(row)).map_or(f64::NAN, |column| column.value(row))
                };
                readings.insert(key, Reading(columns.each_ref().map(value)));
            }
        }
        Self::new(now, readings, hosts, containers)
    }

    pub fn new(
        now: TimeMs,
        readings: HashMap<LimitKey, Reading>,
        hosts: &[Host],
        containers: Arc<BTreeMap<ContainerKey, Container>>,
    ) -> Self {
        let capacity = hosts.iter().map(|host| (host.name.clone(), (host.cpu.0, host.memory.0 as f64))).collect();
        let (groups, membership) = (Groups::default(), OnceLock::new());
        Self { now, readings, containers, groups, capacity, membership }
    }

    #[cfg(test)]
    pub fn by_key(containers: impl IntoIterator<Item = Container>) -> Arc<BTreeMap<ContainerKey, Container>> {
        Arc::new(containers.into_iter().map(|container| (container.key.clone(), container)).collect())
    }

    /// Who is in which app and which user's.
    pub fn membership(&self) -> &Membership {
        self.membership.get_or_init(|| Membership::of(self.containers.values()))
    }

    /// What was read of a limit in the last minute, or of a silent member of a group the last that is known.
    pub fn newest(&self, key: &LimitKey) -> Option<&Reading> {
        self.readings.get(key).or_else(|| self.groups.silent.get(key))
    }

    /// The operator's bounds of a limit, where they are set. They hold also while nothing is measured.
    pub fn bounds(&self, key: &LimitKey) -> (Option<f64>, Option<f64>) {
        let reading = self.readings.get(key);
        let bounds = self.containers.get(&key.0).and_then(|container| container.bounds.get(&key.1));
        let read = |end: &str| reading.and_then(|reading| reading.get(end));
        let (min, max) =
            (read("min").or(bounds.map(|bounds| bounds.min)), read("max").or(bounds.map(|bounds| bounds.max)));
        // A bound of nothing would stop a container; it is taken for a bound that was not set.
        (min.filter(|min| *min > 0.0), max.filter(|max| *max > 0.0))
    }

    /// What the host of a limit has of its resource, when that is known.
    pub fn capacity(&self, (container, resource): &LimitKey) -> Option<f64> {
        self.capacity_of(&container.host, *resource)
    }

    /// What a host has of a resource, when that is known.
    pub fn capacity_of(&self, host: &str, resource: Resource) -> Option<f64> {
        let (cpu, memory) = self.capacity.get(host)?;
        let value = match resource {
            Resource::Cpu => *cpu,
            Resource::Memory => *memory,
        };
        // A host that reports nothing yet has no capacity, not a capacity of nothing.
        (value > 0.0).then_some(value)
    }

    /// A container's weight among those that want what is short: its label `tidegate.weight`, 1 without a usable one.
    pub fn weight(&self, container: &ContainerKey) -> f64 {
        let label = self.containers.get(container).and_then(|container| container.labels.get(WEIGHT));
        label.and_then(|text| text.parse().ok()).filter(|weight: &f64| *weight > 0.0 && *weight <= 1e6).unwrap_or(1.0)
    }
}
