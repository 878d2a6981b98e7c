//! What the engine knows of every limit at one instant: one read of `recent()`, shared by all rules of the tick.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate_model::{Bounds, Container, ContainerKey, Host, Membership, Resource, TimeMs};
use tidegate_store::Override;

use crate::group::Groups;
use crate::proposal::LimitKey;
use crate::readings::{Figure, Reading, Readings};

/// The label that says how much of what is short on a host a container gets, relative to the others there.
const WEIGHT: &str = "tidegate.weight";

/// The weights that the kernel takes.
const WEIGHTS: (f64, f64) = (1.0, 10_000.0);

/// The window of `recent()` behind a [`Snapshot`].
pub(crate) const SNAPSHOT_WINDOW: Duration = Duration::from_secs(60);

/// The state of all limits at `now`, the capacity of their hosts, and what is known of the containers.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub now: TimeMs,
    pub readings: Readings,
    pub containers: Arc<BTreeMap<ContainerKey, Container>>,
    pub groups: Groups,
    /// What people have said of single containers.
    pub overrides: Arc<BTreeMap<ContainerKey, Override>>,
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
        let overrides = Arc::default();
        Self { now, readings, containers, groups, overrides, explains: true, capacity, membership }
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

    /// What is known of a limit or a knob. A knob is judged by what was read of its resource: a `memory.high` that is not set
    /// stands where the limit does, a `cpu.weight` at everybody's.
    pub fn reading(&self, key: &LimitKey) -> Option<Cow<'_, Reading>> {
        if !key.1.is_knob() {
            return self.readings.get(key).map(Cow::Borrowed);
        }
        let of = self.readings.get(&(key.0.clone(), key.1.of()))?;
        Some(Cow::Owned(of.of_knob(key.1)))
    }

    /// The operator's bounds of a limit, where they are set. They hold also while nothing is measured.
    pub fn bounds(&self, key: &LimitKey) -> (Option<f64>, Option<f64>) {
        self.bounds_as_read(key, &self.reading(key).unwrap_or_default())
    }

    /// As [`Snapshot::bounds`], where the limit's reading is known.
    pub fn bounds_as_read(&self, key: &LimitKey, reading: &Reading) -> (Option<f64>, Option<f64>) {
        if key.1 == Resource::CpuWeight {
            return (Some(WEIGHTS.0), Some(WEIGHTS.1));
        }
        let (mut min, mut max) = (reading.get(Figure::Min), reading.get(Figure::Max));
        if min.is_none() || max.is_none() {
            let bounds = self.containers.get(&key.0).and_then(|container| container.bounds.get(&key.1.of()));
            min = min.or(bounds.map(|bounds| bounds.min));
            max = max.or(bounds.map(|bounds| bounds.max));
        }
        if key.1 == Resource::MemoryHigh {
            // That it is taken away is always allowed; what is above the bound is the limit's affair.
            let limit = self.readings.get(&(key.0.clone(), Resource::Memory)).and_then(|of| of.get(Figure::Allocated));
            max = max.map(|max| limit.map_or(max, |limit| max.max(limit)));
        }
        // A bound of nothing would stop a container; it is taken for a bound that was not set.
        (min.filter(|min| *min > 0.0), max.filter(|max| *max > 0.0 && *max < Bounds::OPEN))
    }

    /// What the host of a limit has of its resource, when that is known. No knob is of use beyond it.
    pub fn capacity(&self, (container, resource): &LimitKey) -> Option<f64> {
        match resource {
            Resource::CpuWeight => None,
            resource => self.capacity_of(&container.host, resource.of()),
        }
    }

    /// What a host has of a resource, when that is known: what its disks and its network can do is not, and of a knob it has
    /// nothing that could run out.
    pub fn capacity_of(&self, host: &str, resource: Resource) -> Option<f64> {
        let (cpu, memory) = self.capacity.get(host)?;
        let value = match resource {
            Resource::Cpu => *cpu,
            Resource::Memory => *memory,
            // Of the others, rates and knobs.
            _ => return None,
        };
        // A host that reports nothing yet has no capacity, not a capacity of nothing.
        (value > 0.0).then_some(value)
    }

    /// Whether a container's limits may be changed at all; where they may not, all rules are shadows.
    pub fn scales(&self, container: &ContainerKey) -> bool {
        self.containers.get(container).is_none_or(Container::is_scaled)
    }

    /// Why rules leave this limit alone, whatever their mode; `None` where they do not.
    pub fn left_alone(&self, (container, resource): &LimitKey) -> Option<String> {
        if !self.scales(container) {
            return Some(format!("{container} is only measured: its label tidegate.scale says so"));
        }
        let said = self.overrides.get(container).filter(|said| said.pinned.contains(&resource.of()))?;
        let why = if said.why.is_empty() { String::new() } else { format!(": {}", said.why) };
        Some(format!("{} has pinned the {} of {container}{why}", said.changed_by, resource.of()))
    }

    /// A container's weight among those that want what is short: its label `tidegate.weight`, 1 without a usable one.
    pub fn weight(&self, container: &ContainerKey) -> f64 {
        let label = self.containers.get(container).and_then(|container| container.labels.get(WEIGHT));
        label.and_then(|text| text.parse().ok()).filter(|weight: &f64| *weight > 0.0 && *weight <= 1e6).unwrap_or(1.0)
    }
}
