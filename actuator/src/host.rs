//! This machine: its containers, shared by the collector and by those who change limits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tidegate_model::{CgroupVersion, Clock, Container, Limit, Outcome, OutcomeStatus, Resource};

use crate::apply::{Job, Verdict, memory_v2, run};
use crate::baseline::{Baselines, Life};
use crate::capacity::Capacity;
use crate::cgroup::dir::DescriptorBudget;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::collector::Collector;
use crate::config::{ActuatorConfig, WriteVia};
use crate::discovery::OwnCgroups;
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::labels;
use crate::owner;
use crate::pinning::pins::Pins;
use crate::runtime::Runtimes;
use crate::{Actuator, Change, Source};

/// One host's kernel.
///
/// Containers become known by collecting: a change of one that no [`Source`] of this host has seen yet is refused.
#[derive(Debug)]
pub struct LocalHost {
    pub(crate) config: ActuatorConfig,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) runtimes: Runtimes,
    /// Who has which CPUs, when containers are pinned.
    pub(crate) pins: Option<Pins>,
    pub(crate) budget: Arc<DescriptorBudget>,
    pub(crate) baselines: Baselines,
    /// Never watched, never changed.
    pub(crate) own_cgroups: OwnCgroups,
    /// As read at the start; the collector reads it again.
    pub(crate) capacity: Capacity,
    /// By name. Locked only to look up, insert and remove; what takes long locks one [`Tracked`] alone.
    pub(crate) containers: RwLock<BTreeMap<String, Arc<Tracked>>>,
}

/// One incarnation of one container.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) container: RwLock<Container>,
    /// Replaced when a controller's directory appears later than the first.
    pub(crate) cgroup: RwLock<Arc<Cgroup>>,
    cpu: Mutex<Owned>,
    memory: Mutex<Owned>,
}

impl Tracked {
    pub(crate) fn new(container: Container, cgroup: Cgroup, recorded: &BTreeMap<Resource, Limit>) -> Self {
        let owned = |resource| Mutex::new(Owned::new(recorded.contains_key(&resource)));
        Self {
            container: RwLock::new(container),
            cgroup: RwLock::new(Arc::new(cgroup)),
            cpu: owned(Resource::Cpu),
            memory: owned(Resource::Memory),
        }
    }

    /// What this process wrote. Held by a change from its first read to its read-back, for a memory limit that goes down
    /// that is seconds: whoever must not wait uses `try_lock`.
    pub(crate) fn owned(&self, resource: Resource) -> &Mutex<Owned> {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }
}

impl LocalHost {
    /// Finds the hierarchies and the recorded baselines. Changes nothing.
    pub fn new(config: ActuatorConfig) -> Result<Arc<Self>, ActuatorError> {
        config.check()?;
        let hierarchy = Hierarchy::find(&config.mount)?;
        let baselines = Baselines::open(config.state_dir.as_deref())?;
        Ok(Arc::new(Self {
            runtimes: Runtimes::new(&config),
            pins: config.pinning.then(|| Pins::read(&config.devices)).transpose()?,
            config,
            hierarchy,
            budget: Arc::new(DescriptorBudget::from_process_limit()),
            baselines,
            own_cgroups: OwnCgroups::read()?,
            capacity: Capacity::read()?,
            containers: RwLock::default(),
        }))
    }

    /// Which hierarchy holds the cpu and memory controllers.
    pub fn version(&self) -> CgroupVersion {
        self.hierarchy.version
    }

    /// Takes away the squeeze that a former process was killed in.
    pub(crate) fn release_left_squeeze(&self, life: Life<'_>, cgroup: &Cgroup) -> Result<(), ActuatorError> {
        let Some(squeeze) = self.baselines.squeeze(life) else { return Ok(()) };
        let Some(dir) = cgroup.dir(Resource::Memory) else { return Ok(()) };
        if let Ok(write) = memory_v2::release(dir, squeeze)? {
            tracing::info!(container = life.name, file = write.target, value = write.value, "left squeeze taken away");
        }
        self.baselines.record_squeeze(life, None)
    }

    /// A collector of this host. One is enough; each reports appearances and disappearances on its own.
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(Collector::new(Arc::clone(self)))
    }

    fn change(&self, change: &Change, clock: &dyn Clock, writes: &mut Vec<tidegate_model::Write>) -> Verdict {
        let tracked = match change.container.host == self.config.host {
            true => self.containers.read().get(&change.container.name).cloned(),
            false => None,
        };
        let Some(tracked) = tracked else {
            let message = format!("no container {} is known on host {}", change.container, self.config.host);
            return Verdict::new(OutcomeStatus::Refused, None, message);
        };
        let resource = change.resource;
        if let Some(verdict) = forbidden(&tracked.container.read(), change) {
            return verdict;
        }
        let mut owned = tracked.owned(resource).lock();
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let (runtime, id, incarnation) = {
            let container = tracked.container.read();
            (container.runtime, container.id.clone(), container.incarnation)
        };
        let life = Life { name: &change.container.name, incarnation, id: &id };
        let via_owner = self.config.write_via != WriteVia::Cgroup;
        let owner =
            via_owner.then(|| owner::owner(&self.runtimes, runtime, &id, &cgroup.path, self.capacity)).flatten();
        let recorded = Cell::new(owned.baseline_recorded);
        let record_baseline = |limit: Limit| {
            if recorded.get() {
                return Ok(());
            }
            let kept = via_owner.then(|| owner::keeps(runtime, &id)).flatten();
            self.baselines.record(life, kept, resource, limit)?;
            tracked.container.write().baseline.insert(resource, limit);
            recorded.set(true);
            Ok(())
        };
        let record_squeeze = |squeeze| self.baselines.record_squeeze(life, squeeze);
        let job = Job {
            hierarchy: &self.hierarchy,
            cgroup: &cgroup,
            resource,
            target: change.target,
            limit_before: change.limit_before,
            now: clock.now(),
            drift_hold: self.config.drift_hold(),
            squeeze_timeout: self.config.squeeze_timeout(),
            owner: owner.as_deref(),
            other_changed: owner.is_some() && self.baselines.recorded(life).keys().any(|changed| *changed != resource),
            owner_only: self.config.write_via == WriteVia::Owner,
            whole_percent: via_owner && owner::unit(&cgroup.path).is_some(),
            record_baseline: &record_baseline,
            record_squeeze: &record_squeeze,
        };
        let mut verdict = run(&job, &mut owned, writes);
        owned.baseline_recorded = recorded.get();
        if resource == Resource::Cpu && verdict.status == OutcomeStatus::Applied {
            self.pin(&change.container.name, &cgroup, &mut verdict, writes);
        }
        verdict
    }

    /// Lets the cpuset follow a CPU limit that was applied. The limit stands whatever comes of it.
    fn pin(&self, name: &str, cgroup: &Cgroup, verdict: &mut Verdict, writes: &mut Vec<tidegate_model::Write>) {
        let (Some(pins), Some(limit)) = (&self.pins, verdict.limit) else { return };
        let note = match self.hierarchy.cpuset(cgroup) {
            Ok(Some(dir)) => pins.follow(name, &dir, cgroup.version, limit, writes),
            Ok(None) => Ok(Some("it is not pinned: its cgroup has no cpuset controller".to_owned())),
            Err(error) => Err(error),
        };
        if let Some(note) = note.unwrap_or_else(|error| Some(format!("it is not pinned: {error}"))) {
            verdict.message = format!("{}; {note}", verdict.message);
        }
    }

    /// Takes over the pin of a container that appears with one.
    pub(crate) fn adopt_pin(&self, name: &str, cgroup: &Cgroup) -> Result<(), ActuatorError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        if let (Some(dir), Ok(limit)) = (self.hierarchy.cpuset(cgroup)?, cgroup.own_limit(Resource::Cpu)) {
            pins.adopt(name, &dir, limit);
        }
        Ok(())
    }
}

/// Refuses to change a container that shall only be measured. Giving it back what it had is no change.
fn forbidden(container: &Container, change: &Change) -> Option<Verdict> {
    if container.labels.get(labels::SCALE).is_none_or(|scale| scale == "true") {
        return None;
    }
    let baseline = container.baseline.get(&change.resource);
    let restores = baseline.is_some_and(|baseline| baseline.value().unwrap_or(f64::INFINITY) == change.target);
    let message = format!("it is measured and never changed: {} = false", labels::SCALE);
    (!restores).then(|| Verdict::new(OutcomeStatus::Refused, None, message))
}

impl Actuator for LocalHost {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        let started = Instant::now();
        let mut writes = Vec::new();
        let verdict = self.change(change, clock, &mut writes);
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(
            container = %change.container, resource = %change.resource, target = change.target, decision = change.decision,
            status = verdict.status.as_str(), writes = writes.len(), took_us, "change"
        );
        Outcome {
            status: verdict.status,
            limit_after: verdict.limit.and_then(Limit::value),
            writes,
            message: verdict.message,
            at: clock.now(),
            took_us,
        }
    }

    fn simulated(&self) -> Option<String> {
        None
    }
}
