//! What the engine knows of every limit at one instant: one read of `recent()`, shared by all rules of the tick.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate_model::{Container, ContainerKey, Host, Membership, Resource, TimeMs};

use crate::group::Groups;
use crate::proposal::LimitKey;
use crate::readings::{Figure, Reading, Readings};

/// The label that says how much of what is short on a host a container gets, relative to the others there.
const WEIGHT: &str = "tidegate.weight";

/// The window of `recent()` behind a [`Snapshot`].
pub(crate) const SNAPSHOT_WINDOW: Duration = Duration::from_secs(60);

/// The state of all limits at `now`, the capacity of their hosts, and what is known of the containers.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub now: TimeMs,
    pub readings: Readings,
    pub containers: Arc<BTreeMap<ContainerKey, Container>>,
    pub groups: Groups,
    /// Whether decisions tell what was known, and why they were made. Where nobody reads that, it is not put together.
    pub explains: bool,
    capacity: HashMap<String, (f64, f64)>,
    /// Made when somebody asks.
    membership: OnceLock<Membership>,
}

impl Snapshot {
    pub fn new(
        now: TimeMs,
        readings: Readings,
        hosts: &[Host],
        containers: Arc<BTreeMap<ContainerKey, Container>>,
    ) -> Self {
        let capacity = hosts.iter().map(|host| (host.name.clone(), (host.cpu.0, host.memory.0 as f64))).collect();
        let (groups, membership) = (Groups::default(), OnceLock::new());
        Self { now, readings, containers, groups, explains: true, capacity, membership }
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
        self.bounds_as_read(key, self.readings.get(key).unwrap_or(&Reading::default()))
    }

    /// As [`Snapshot::bounds`], where the limit's reading is known.
    pub fn bounds_as_read(&self, key: &LimitKey, reading: &Reading) -> (Option<f64>, Option<f64>) {
        let (mut min, mut max) = (reading.get(Figure::Min), reading.get(Figure::Max));
        if min.is_none() || max.is_none() {
            let bounds = self.containers.get(&key.0).and_then(|container| container.bounds.get(&key.1));
            min = min.or(bounds.map(|bounds| bounds.min));
            max = max.or(bounds.map(|bounds| bounds.max));
        }
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

    /// Whether a container's limits may be changed at all; where they may not, all rules are shadows.
    pub fn scales(&self, container: &ContainerKey) -> bool {
        self.containers.get(container).is_none_or(Container::is_scaled)
    }

    /// A container's weight among those that want what is short: its label `tidegate.weight`, 1 without a usable one.
    pub fn weight(&self, container: &ContainerKey) -> f64 {
        let label = self.containers.get(container).and_then(|container| container.labels.get(WEIGHT));
        label.and_then(|text| text.parse().ok()).filter(|weight: &f64| *weight > 0.0 && *weight <= 1e6).unwrap_or(1.0)
    }
}
