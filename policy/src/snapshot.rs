//! What the engine knows of every limit at one instant: one read of `recent()`, shared by all rules of the tick.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};
use tidegate_model::{Container, ContainerKey, Host, Membership, Resource, TimeMs};

use crate::group::Groups;
use crate::proposal::{LimitKey, numbers, text_at, texts};

/// The label that says how much of what is short on a host a container gets, relative to the others there.
const WEIGHT: &str = "tidegate.weight";

/// The query behind a [`Snapshot`].
pub(crate) const SNAPSHOT_QUERY: &str = "SELECT * FROM recent(INTERVAL '60 seconds')";

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

/// One row of `recent()`: the columns that are not null, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading(HashMap<&'static str, f64>);

impl Reading {
    /// A column's value; `None` when it is null or not a finite number.
    pub fn get(&self, column: &str) -> Option<f64> {
        self.0.get(column).copied()
    }

    /// Of a limit that was read so many seconds ago, when nothing else is known.
    pub fn last_limit(limit: f64, age: f64) -> Self {
        Self([("allocated", limit), ("allocated_age", age)].into())
    }

    /// The reading as a JSON object, nulls left out.
    pub fn to_json(&self) -> Map<String, Value> {
        KEPT.iter().filter_map(|name| Some(((*name).to_owned(), Value::from(self.get(name)?)))).collect()
    }

    #[cfg(test)]
    pub fn of(values: &[(&'static str, f64)]) -> Self {
        Self(values.iter().copied().collect())
    }
}

/// The state of all limits at `now`, the capacity of their hosts, and what is known of the containers.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub now: TimeMs,
    pub readings: HashMap<LimitKey, Reading>,
    pub containers: BTreeMap<ContainerKey, Container>,
    pub groups: Groups,
    capacity: HashMap<String, (f64, f64)>,
    /// Made when somebody asks.
    membership: OnceLock<Membership>,
}

impl Snapshot {
    /// Reads the rows of [`SNAPSHOT_QUERY`]. Rows that name no container or resource are left out.
    pub fn read(now: TimeMs, batches: &[RecordBatch], hosts: &[Host], containers: Vec<Container>) -> Self {
        let mut readings = HashMap::new();
        for batch in batches {
            let (Some(host), Some(container), Some(resource)) =
                (texts(batch, "host"), texts(batch, "container"), texts(batch, "resource"))
            else {
                continue;
            };
            let columns: Vec<_> = KEPT.iter().filter_map(|name| Some((*name, numbers(batch, name)?))).collect();
            for row in 0..batch.num_rows() {
                let (Some(host), Some(name)) = (text_at(&host, row), text_at(&container, row)) else { continue };
                let Some(Ok(resource)) = text_at(&resource, row).map(str::parse::<Resource>) else { continue };
                let values = columns.iter().filter(|(_, column)| column.is_valid(row) && column.value(row).is_finite());
                let reading = Reading(values.map(|(column, values)| (*column, values.value(row))).collect());
                readings.insert((ContainerKey { host: host.to_owned(), name: name.to_owned() }, resource), reading);
            }
        }
        Self::new(now, readings, hosts, containers)
    }

    pub fn new(now: TimeMs, readings: HashMap<LimitKey, Reading>, hosts: &[Host], containers: Vec<Container>) -> Self {
        let containers = containers.into_iter().map(|container| (container.key.clone(), container)).collect();
        let capacity = hosts.iter().map(|host| (host.name.clone(), (host.cpu.0, host.memory.0 as f64))).collect();
        let (groups, membership) = (Groups::default(), OnceLock::new());
        Self { now, readings, containers, groups, capacity, membership }
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
