//! This machine: its containers, shared by the collector and by those who change limits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tidegate_model::{CgroupVersion, Clock, Container, Limit, Outcome, OutcomeStatus, Resource};

use crate::apply::{Job, Verdict, memory_v2, run};
use crate::baseline::Baselines;
use crate::capacity::Capacity;
use crate::cgroup::dir::DescriptorBudget;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::collector::Collector;
use crate::config::ActuatorConfig;
use crate::discovery::OwnCgroups;
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::{Actuator, Change, Source};

/// One host's kernel.
///
/// Containers become known by collecting: a change of one that no [`Source`] of this host has seen yet is refused.
#[derive(Debug)]
pub struct LocalHost {
    pub(crate) config: ActuatorConfig,
    pub(crate) hierarchy: Hierarchy,
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
    pub(crate) fn release_left_squeeze(
        &self,
        name: &str,
        incarnation: u64,
        cgroup: &Cgroup,
    ) -> Result<(), ActuatorError> {
        let Some(squeeze) = self.baselines.squeeze(name, incarnation) else { return Ok(()) };
        let Some(dir) = cgroup.dir(Resource::Memory) else { return Ok(()) };
        if let Ok(write) = memory_v2::release(dir, squeeze)? {
            tracing::info!(container = name, file = write.target, value = write.value, "left squeeze taken away");
        }
        self.baselines.record_squeeze(name, incarnation, None)
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
        let mut owned = tracked.owned(resource).lock();
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let recorded = Cell::new(owned.baseline_recorded);
        let record_baseline = |limit: Limit| {
            if recorded.get() {
                return Ok(());
            }
            let incarnation = tracked.container.read().incarnation;
            self.baselines.record(&change.container.name, incarnation, resource, limit)?;
            tracked.container.write().baseline.insert(resource, limit);
            recorded.set(true);
            Ok(())
        };
        let record_squeeze = |squeeze| {
            let incarnation = tracked.container.read().incarnation;
            self.baselines.record_squeeze(&change.container.name, incarnation, squeeze)
        };
        let job = Job {
            hierarchy: &self.hierarchy,
            cgroup: &cgroup,
            resource,
            target: change.target,
            limit_before: change.limit_before,
            now: clock.now(),
            drift_hold: self.config.drift_hold(),
            squeeze_timeout: self.config.squeeze_timeout(),
            record_baseline: &record_baseline,
            record_squeeze: &record_squeeze,
        };
        let verdict = run(&job, &mut owned, writes);
        owned.baseline_recorded = recorded.get();
        verdict
    }
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
