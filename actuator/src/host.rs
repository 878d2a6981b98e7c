//! This machine: its containers, shared by the collector and by those who change limits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tidegate_model::{
    CgroupVersion, Clock, Container, ContainerKey, Limit, Outcome, OutcomeStatus, Resource, Runtime, TimeMs,
};

use crate::apply::{Job, Verdict, memory_v2, run, tell_present};
use crate::baseline::{Baselines, Life};
use crate::capacity::Capacity;
use crate::cgroup::dir::DescriptorBudget;
use crate::cgroup::disks::Disks;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::collector::Collector;
use crate::config::{ActuatorConfig, OnDrift, WriteVia};
use crate::discovery::OwnCgroups;
use crate::drift::{Owned, describe};
use crate::error::ActuatorError;
use crate::knobs::file::Place;
use crate::knobs::keeper::{Knobs, News, Round};
use crate::knobs::setting::Knob;
use crate::late;
use crate::network::Networks;
use crate::owner::late::{Late, Said};
use crate::owner::{self, Owner};
use crate::pinning::pins::Pins;
use crate::runtime::Runtimes;
use crate::{Actuator, Change, KnobMode, KnobReport, Source};

/// How often it is looked whether an owner has to be told of a limit.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a container is known before its knobs are seen to: a runtime makes a cgroup and sets what it knows a moment later.
const KNOBS_AFTER: Duration = Duration::from_secs(1);

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
    /// What came of knobs, for the next collection.
    pub(crate) knob_news: Mutex<Vec<KnobReport>>,
    /// Who looks after updates that owners have not answered.
    pub(crate) late_watch: OnceLock<Thread>,
}

/// One incarnation of one container.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) container: RwLock<Container>,
    /// Replaced when a controller's directory appears later than the first.
    pub(crate) cgroup: RwLock<Arc<Cgroup>>,
    pub(crate) knobs: Mutex<Knobs>,
    /// The update that its owner has not answered.
    pub(crate) late: Late,
    cpu: Mutex<Owned>,
    cpu_weight: Mutex<Owned>,
    disk_read: Mutex<Owned>,
    disk_write: Mutex<Owned>,
    memory: Mutex<Owned>,
    memory_high: Mutex<Owned>,
    net_receive: Mutex<Owned>,
    net_send: Mutex<Owned>,
}

impl Tracked {
    /// `recorded`, `left_alone` and `late` are what a former process knew: baselines, what it had written where somebody else
    /// has the limit since, and what an update sets that the owner may still carry out.
    pub(crate) fn new(
        container: Container,
        cgroup: Cgroup,
        recorded: &BTreeMap<Resource, Limit>,
        left_alone: &BTreeMap<Resource, Limit>,
        late: Said,
        knobs: Knobs,
    ) -> Self {
        let owned =
            |resource| Mutex::new(Owned::new(recorded.contains_key(&resource), left_alone.get(&resource).copied()));
        Self {
            container: RwLock::new(container),
            cgroup: RwLock::new(Arc::new(cgroup)),
            knobs: Mutex::new(knobs),
            late: Late::left(late),
            cpu: owned(Resource::Cpu),
            cpu_weight: owned(Resource::CpuWeight),
            disk_read: owned(Resource::DiskRead),
            disk_write: owned(Resource::DiskWrite),
            memory: owned(Resource::Memory),
            memory_high: owned(Resource::MemoryHigh),
            net_receive: owned(Resource::NetReceive),
            net_send: owned(Resource::NetSend),
        }
    }

    /// What this process wrote. Held by a change from its first read to its read-back, for a memory limit that goes down
    /// that is seconds: whoever must not wait uses `try_lock`. Whoever looks at a knob holds the lock of its resource, too,
    /// and takes that one first: a change of memory moves `memory.high` on its way.
    pub(crate) fn owned(&self, resource: Resource) -> &Mutex<Owned> {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::CpuWeight => &self.cpu_weight,
            Resource::DiskRead => &self.disk_read,
            Resource::DiskWrite => &self.disk_write,
            Resource::Memory => &self.memory,
            Resource::MemoryHigh => &self.memory_high,
            Resource::NetReceive => &self.net_receive,
            Resource::NetSend => &self.net_send,
        }
    }

    /// The container's owner was told of a limit or a knob and may have set back the other knobs, and limits of disks, that it
    /// knows otherwise: what stands in them then was set by nobody else. The lock of `told` is held.
    fn owner_was_told(&self, told: Resource) {
        for knob in Resource::KNOBS.into_iter().chain(Resource::DISKS).filter(|knob| *knob != told) {
            // Two knobs that are told of at once must not wait for each other.
            let owned = if told.is_knob() { self.owned(knob).try_lock() } else { Some(self.owned(knob).lock()) };
            owned.into_iter().for_each(|mut owned| owned.claim.doubt());
        }
        self.knobs.lock().owner_was_told();
    }

    /// As [`Tracked::owner_was_told`], for whoever must not wait.
    pub(crate) fn doubt_knobs(&self, told: Resource) {
        for knob in Resource::KNOBS.into_iter().filter(|knob| *knob != told) {
            self.owned(knob).try_lock().into_iter().for_each(|mut owned| owned.claim.doubt());
        }
        self.knobs.lock().owner_was_told();
    }

    /// Whether memory.high is kept where the configuration or a rule set it, whatever the limit is.
    fn keeps_high(&self) -> bool {
        let by_rule = self.memory_high.try_lock().is_some_and(|owned| owned.claim.holds_back());
        by_rule || self.knobs.lock().keeps_high()
    }
}

impl LocalHost {
    /// Finds the hierarchies and the recorded baselines. Changes nothing.
    pub fn new(config: ActuatorConfig) -> Result<Arc<Self>, ActuatorError> {
        config.check()?;
        let budget = Arc::new(DescriptorBudget::from_process_limit());
        let networks = Networks::here(&budget).unwrap_or_else(|error| {
            tracing::warn!(%error, "no routing socket: networks are neither measured nor limited");
            Networks::default()
        });
        let disks = Disks::at(&config.block_devices);
        let hierarchy = Hierarchy::find(&config.mount)?.with_disks(disks).with_networks(networks);
        let baselines = Baselines::open(config.state_dir.as_deref())?;
        let host = Arc::new(Self {
            runtimes: Runtimes::new(&config),
            pins: config.pinning.then(|| Pins::read(&config.devices)).transpose()?,
            config,
            hierarchy,
            budget,
            baselines,
            own_cgroups: OwnCgroups::read()?,
            capacity: Capacity::read()?,
            containers: RwLock::default(),
            knob_news: Mutex::default(),
            late_watch: OnceLock::new(),
        });
        if host.config.write_via != WriteVia::Cgroup {
            tell_owners(&host);
            late::watch(&host);
        }
        Ok(host)
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

    /// Limits that a former process left alone, by what it had written. That it is to adopt them now is a person's word:
    /// then they are forgotten.
    pub(crate) fn left_alone(&self, life: Life<'_>) -> Result<BTreeMap<Resource, Limit>, ActuatorError> {
        let left_alone = self.baselines.left_alone(life);
        if self.config.on_drift != OnDrift::Adopt {
            return Ok(left_alone);
        }
        for resource in left_alone.into_keys() {
            self.baselines.record_left_alone(life, resource, None)?;
        }
        Ok(BTreeMap::new())
    }

    /// A collector of this host. One is enough; each reports appearances and disappearances on its own.
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(Collector::new(Arc::clone(self)))
    }

    fn tracked(&self, container: &ContainerKey) -> Result<Arc<Tracked>, String> {
        let tracked = match container.host == self.config.host {
            true => self.containers.read().get(&container.name).cloned(),
            false => None,
        };
        tracked.ok_or_else(|| format!("no container {container} is known on host {}", self.config.host))
    }

    fn change(
        &self,
        change: &Change,
        refuse: &dyn Fn() -> Option<String>,
        clock: &dyn Clock,
        writes: &mut Vec<tidegate_model::Write>,
    ) -> Verdict {
        let tracked = match self.tracked(&change.container) {
            Ok(tracked) => tracked,
            Err(message) => return Verdict::new(OutcomeStatus::Refused, None, message),
        };
        let resource = change.resource;
        if let Some(verdict) = forbidden(&tracked.container.read(), change) {
            return verdict;
        }
        let _of = resource.is_knob().then(|| tracked.owned(resource.of()).lock());
        let mut owned = tracked.owned(resource).lock();
        if let Some(message) = refuse().or_else(|| tracked.knobs.lock().is_configured(resource)) {
            return Verdict::new(OutcomeStatus::Refused, None, message);
        }
        self.settle_late(&tracked, resource, &mut owned);
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let whom = Whom::of(&tracked.container.read());
        // Knobs go into the file, and an owner who keeps them is told afterwards; none keeps limits of rates.
        let owner = if resource.is_knob() || resource.is_rate() { None } else { self.owner_of(&whom, &cgroup) };
        // Giving a baseline back is told at once, as is what has no limit: that is how things are left.
        let is_final = change.limit_before.is_none() || change.target.is_infinite();
        let waits = self.config.write_via == WriteVia::Auto
            && !is_final
            && owned.told_at.is_some_and(|told| told.elapsed() < self.config.tell_owner_every());
        let recorded = Cell::new(owned.baseline_recorded);
        let record_baseline = |limit: Limit| {
            if recorded.get() {
                return Ok(());
            }
            let via_owner = self.config.write_via != WriteVia::Cgroup;
            let kept = via_owner.then(|| owner::keeps(&self.runtimes, whom.runtime, &whom.id, &cgroup.path)).flatten();
            self.baselines.record(whom.life(), kept, resource, limit)?;
            tracked.container.write().baseline.insert(resource, limit);
            recorded.set(true);
            Ok(())
        };
        let record_squeeze = |squeeze| self.baselines.record_squeeze(whom.life(), squeeze);
        let told = Cell::new(false);
        let job = Job {
            target: change.target,
            limit_before: change.limit_before,
            owner: owner.as_deref().filter(|_| !waits),
            record_baseline: &record_baseline,
            record_squeeze: &record_squeeze,
            keeps_high: tracked.keeps_high(),
            ..self.job(&tracked, &whom, &cgroup, resource, clock.now(), &told)
        };
        let burst = tracked.knobs.lock().kept_burst().filter(|_| resource == Resource::Cpu);
        if burst.is_some() {
            // So that a higher quota brings it along at once.
            owned.burst_found = burst;
        }
        let mut verdict = run(&job, &mut owned, writes);
        self.note_late(&tracked, &whom);
        owned.burst_found = owned.burst_found.filter(|_| burst.is_none());
        owned.baseline_recorded = recorded.get();
        if told.get() {
            tracked.owner_was_told(resource);
            (owned.told_at, owned.untold) = (Some(Instant::now()), false);
        } else if resource.is_knob() && verdict.status == OutcomeStatus::Applied {
            owned.untold = true;
            if is_final {
                owned.told_at = None;
                self.tell_of(&tracked, resource, &mut owned);
            }
        } else if owner.is_some() && verdict.status == OutcomeStatus::Applied {
            owned.untold = true;
        }
        if resource == Resource::Cpu && verdict.status == OutcomeStatus::Applied {
            self.pin(&change.container.name, &cgroup, &mut verdict, writes);
        }
        verdict
    }

    /// A job that changes nothing yet.
    pub(crate) fn job<'a>(
        &'a self,
        tracked: &'a Tracked,
        whom: &Whom,
        cgroup: &'a Cgroup,
        resource: Resource,
        now: TimeMs,
        told: &'a Cell<bool>,
    ) -> Job<'a> {
        let via_owner = self.config.write_via != WriteVia::Cgroup;
        Job {
            hierarchy: &self.hierarchy,
            cgroup,
            resource,
            target: f64::NAN,
            limit_before: None,
            now,
            drift: self.config.drift(),
            squeeze_timeout: self.config.squeeze_timeout(),
            owner: None,
            late: &tracked.late,
            told,
            other_changed: via_owner
                && self
                    .baselines
                    .recorded(whom.life())
                    .keys()
                    .any(|changed| Resource::ALL.contains(changed) && *changed != resource),
            keeps_high: false,
            high_moved: self.baselines.recorded(whom.life()).contains_key(&Resource::MemoryHigh),
            squeeze: self.baselines.squeeze(whom.life()),
            owner_only: self.config.write_via == WriteVia::Owner,
            whole_percent: via_owner && owner::counts_percents(&self.runtimes, whom.runtime, &whom.id, &cgroup.path),
            record_baseline: &|_| Ok(()),
            record_squeeze: &|_| Ok(()),
        }
    }

    /// One look at the knobs of one container.
    fn tend(&self, tracked: &Tracked, mode: KnobMode, now: TimeMs) {
        let is_new = now.since(tracked.container.read().first_seen) < KNOBS_AFTER;
        if is_new || tracked.knobs.lock().is_empty() {
            return;
        }
        // A change under way moves burst and memory.high by itself; what it leaves is looked at the next time.
        let mut cpu = tracked.cpu.try_lock();
        let memory = tracked.memory.try_lock();
        let disks = (tracked.disk_read.try_lock(), tracked.disk_write.try_lock());
        let mut knobs = tracked.knobs.lock();
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let (whom, unscaled) = {
            let container = tracked.container.read();
            (Whom::of(&container), !container.is_scaled())
        };
        let may = |knob| match knob {
            Knob::CpuWeight | Knob::CpuBurst => cpu.is_some(),
            Knob::MemoryHigh | Knob::SwapMax => memory.is_some(),
            Knob::IoMax(_) => disks.0.is_some() && disks.1.is_some(),
            Knob::Cpus => true,
        };
        let round = Round {
            place: Place { hierarchy: &self.hierarchy, cgroup: &cgroup },
            now,
            drift: self.config.drift(),
            unscaled,
            may: &may,
            owner_knows: &|knob| self.owner_may_know(knob, &whom, &cgroup),
            record: &|knob, record| self.baselines.record_knob(whom.life(), knob, record),
        };
        let news = knobs.tend(&round, mode);
        let to_tell = knobs.to_tell(now);
        drop(knobs);
        for knob in to_tell {
            let is_told = self.tell_given_back(tracked, &whom, &cgroup);
            tracked.knobs.lock().told_owner(knob, is_told, now);
        }
        let is_burst = |news: &News| news.knob == Knob::CpuBurst && !news.writes.is_empty();
        if let (true, Some(cpu)) = (news.iter().any(is_burst), &mut cpu) {
            // What a lower quota had no room for is for the knob to give back from here on.
            cpu.burst_found = None;
        }
        let container = tracked.container.read().key.clone();
        let report = |News { knob, status, value, message, writes }| {
            tracing::info!(%container, %knob, status = status.as_str(), message, ?writes, "knob");
            KnobReport { container: container.clone(), knob: knob.to_string(), status, value, message, at: now }
        };
        self.knob_news.lock().extend(news.into_iter().map(report));
    }

    /// Whether a container's owner was told of a knob that the configuration set: memory.high goes with each memory limit.
    fn owner_may_know(&self, knob: Knob, whom: &Whom, cgroup: &Cgroup) -> bool {
        let is_told = || self.baselines.recorded(whom.life()).contains_key(&Resource::Memory);
        let via_owner = self.config.write_via != WriteVia::Cgroup;
        knob == Knob::MemoryHigh && via_owner && owner::keeps_knobs(whom.runtime, cgroup) && is_told()
    }

    /// Tells a container's owner of the memory.high that was given back, or it would bring ours again. The lock on memory is
    /// held.
    fn tell_given_back(&self, tracked: &Tracked, whom: &Whom, cgroup: &Cgroup) -> bool {
        let told = Cell::new(false);
        let Some(owner) = self.owner_of(whom, cgroup) else { return true };
        let job = self.job(tracked, whom, cgroup, Resource::MemoryHigh, TimeMs(0), &told);
        let job = Job { owner: Some(owner.as_ref()), ..job };
        let mut writes = Vec::new();
        let result = tell_present(&job, &mut writes);
        self.note_late(tracked, whom);
        tracing::info!(container = whom.name, ?writes, error = ?result.as_ref().err(), "owner told of what was given back");
        result.is_ok()
    }

    fn owner_of<'a>(&'a self, whom: &'a Whom, cgroup: &Cgroup) -> Option<Box<dyn Owner + 'a>> {
        let via_owner = self.config.write_via != WriteVia::Cgroup;
        let baseline = self.baselines.recorded(whom.life());
        via_owner
            .then(|| owner::owner(&self.runtimes, whom.runtime, &whom.id, &cgroup.path, self.capacity, baseline))
            .flatten()
    }

    /// Tells owners of limits that went into the file alone: because they were told of another one just before, or because
    /// they failed.
    fn tell_late(&self) {
        let containers: Vec<Arc<Tracked>> = self.containers.read().values().cloned().collect();
        for tracked in containers {
            for resource in Resource::with_knobs() {
                // A change in progress tells by itself.
                if let Some(mut owned) = tracked.owned(resource).try_lock() {
                    self.tell_of(&tracked, resource, &mut owned);
                }
            }
        }
    }

    fn tell_of(&self, tracked: &Tracked, resource: Resource, owned: &mut Owned) {
        let every = self.config.tell_owner_every().max(TELL_EVERY);
        if !owned.untold || owned.told_at.is_some_and(|told| told.elapsed() < every) {
            return;
        }
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let whom = Whom::of(&tracked.container.read());
        let keeps = !resource.is_knob() || owner::keeps_knobs(whom.runtime, &cgroup);
        let owner = self.owner_of(&whom, &cgroup).filter(|_| keeps);
        let stands = cgroup.own_limit(resource).is_ok_and(|found| owned.claim.is_as_written(&found));
        let Some(owner) = owner.filter(|_| stands) else {
            // Somebody else's limit is not ours to spread.
            owned.untold = false;
            return;
        };
        let told = Cell::new(false);
        let job = Job { owner: Some(owner.as_ref()), ..self.job(tracked, &whom, &cgroup, resource, TimeMs(0), &told) };
        let mut writes = Vec::new();
        let result = tell_present(&job, &mut writes);
        self.note_late(tracked, &whom);
        if told.get() {
            tracked.owner_was_told(resource);
        }
        (owned.told_at, owned.untold) = (Some(Instant::now()), result.is_err());
        tracing::debug!(container = whom.name, %resource, ?writes, error = ?result.err(), "owner told");
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

/// A container as far as its owner and the record of baselines need it.
pub(crate) struct Whom {
    pub(crate) name: String,
    runtime: Runtime,
    id: String,
    incarnation: u64,
}

impl Whom {
    pub(crate) fn of(container: &Container) -> Self {
        let Container { key, runtime, id, incarnation, .. } = container;
        Self { name: key.name.clone(), runtime: *runtime, id: id.clone(), incarnation: *incarnation }
    }

    pub(crate) fn life(&self) -> Life<'_> {
        Life { name: &self.name, incarnation: self.incarnation, id: &self.id }
    }
}

/// Tells owners what they do not know yet, for as long as the host lives.
fn tell_owners(host: &Arc<LocalHost>) {
    let host = Arc::downgrade(host);
    let looks = std::thread::Builder::new().name("tidegate-owners".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(TELL_EVERY);
            let Some(host) = Weak::upgrade(&host) else { return };
            host.tell_late();
        }
    });
    if let Err(error) = looks {
        tracing::warn!(%error, "no thread to tell owners of limits that were written in between");
    }
}

/// Refuses to change a container that shall only be measured. Giving it back what it had is no change.
fn forbidden(container: &Container, change: &Change) -> Option<Verdict> {
    if container.is_scaled() {
        return None;
    }
    let baseline = container.baseline.get(&change.resource);
    let restores = baseline.is_some_and(|baseline| baseline.value().unwrap_or(f64::INFINITY) == change.target);
    let message = format!("it is measured and never changed: {} = false", Container::SCALE);
    (!restores).then(|| Verdict::new(OutcomeStatus::Refused, None, message))
}

impl Actuator for LocalHost {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        self.apply_unless(change, &|| None, clock)
    }

    fn apply_unless(&self, change: &Change, refuse: &dyn Fn() -> Option<String>, clock: &dyn Clock) -> Outcome {
        let started = Instant::now();
        let mut writes = Vec::new();
        let verdict = self.change(change, refuse, clock, &mut writes);
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

    fn adopt(&self, container: &ContainerKey, resource: Resource, clock: &dyn Clock) -> Outcome {
        let now = clock.now();
        let tracked = match self.tracked(container) {
            Ok(tracked) => tracked,
            Err(message) => return Outcome::unwritten(OutcomeStatus::Refused, message, now),
        };
        let _of = resource.is_knob().then(|| tracked.owned(resource.of()).lock());
        let mut owned = tracked.owned(resource).lock();
        match tracked.cgroup.read().own_limit(resource) {
            Ok(found) => {
                let who =
                    if owned.claim.adopt(&found) { "set by somebody else, and adopted" } else { "set by nobody else" };
                let message = format!("{}, {who}", describe(found, resource));
                Outcome { limit_after: found.value(), ..Outcome::unwritten(OutcomeStatus::Unchanged, message, now) }
            }
            Err(error) => Outcome::unwritten(OutcomeStatus::Failed, error.to_string(), now),
        }
    }

    fn tend_knobs(&self, mode: KnobMode, clock: &dyn Clock) {
        let containers: Vec<Arc<Tracked>> = self.containers.read().values().cloned().collect();
        for tracked in containers {
            self.tend(&tracked, mode, clock.now());
        }
    }

    fn simulated(&self) -> Option<String> {
        None
    }
}
