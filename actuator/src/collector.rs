//! Measures a host each second: which containers there are, what they use, what limits them, what holds them up.

mod disks;
mod network;
mod rates;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_model::{Container, ContainerKey, Limit, Resource, Runtime, SampleBatch, SeriesKey, TimeMs, metrics};

use crate::arrivals::Arrivals;
use crate::baseline::Life;
use crate::capacity::Capacity;
use crate::cgroup::parse::{Stall, Transferred};
use crate::cgroup::sampler::{Gaps, Reading, Sampler, Throttling, sampler};
use crate::discovery::{Found, identify, is_pause, walk};
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::host::{LocalHost, Tracked};
use crate::knobs::keeper::Knobs;
use crate::knobs::setting::Wishes;
use crate::labels::settings;
use crate::runtime::Described;
use crate::{Collected, Drift, DriftAnswer, Source};

/// How long the runtimes are asked about containers in one collection; whoever is left appears with the next one.
const ASKING_TIME: Duration = Duration::from_secs(1);
/// How long a container is kept back whose runtime cannot tell its name, or whose name a container has that is about to go.
/// After that it goes by its short identifier or its path, for as long as it lives: a name is a history.
const NAME_PATIENCE: Duration = Duration::from_secs(5);
/// How long the directory of a new container in which disks are limited is waited for: many never get one.
const IO_PATIENCE: Duration = Duration::from_secs(10);
/// The `cpu.weight` of whoever was given none.
pub(crate) const USUAL_WEIGHT: f64 = 100.0;

/// The collector of one host.
pub(crate) struct Collector {
    host: Arc<LocalHost>,
    capacity: Capacity,
    arrivals: Arrivals,
    /// What the last walk found.
    found: Vec<Found>,
    /// By cgroup path.
    watched: BTreeMap<PathBuf, Watched>,
    /// Containers that only hold a pod's namespaces, by path and inode.
    pauses: BTreeSet<(PathBuf, u64)>,
    /// Since when containers are kept back for their names, by path and inode.
    nameless: BTreeMap<(PathBuf, u64), TimeMs>,
}

struct Watched {
    tracked: Arc<Tracked>,
    sampler: Box<dyn Sampler>,
    former: Option<Reading>,
    /// Of what something is known: usage, a bound or a limit.
    uses: Uses,
    /// What came and went over its network.
    former_traffic: Option<(Transferred, Instant)>,
    /// The runtime could not be asked, and shall be as soon as it can.
    incomplete: bool,
    /// What is wrong with its labels.
    problems: Vec<String>,
}

/// Bandwidths of which a container has rows from now on.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    disks: bool,
    network: bool,
}

/// The tightest limit above the containers of one parent, for one collection.
type Ancestors = HashMap<(PathBuf, Resource), Option<Limit>>;

impl Collector {
    pub(crate) fn new(host: Arc<LocalHost>) -> Self {
        Self {
            capacity: host.capacity,
            host,
            arrivals: Arrivals::new(),
            found: Vec::new(),
            watched: BTreeMap::new(),
            pauses: BTreeSet::new(),
            nameless: BTreeMap::new(),
        }
    }
}

impl Source for Collector {
    fn collect(&mut self, now: TimeMs) -> Collected {
        let mut gaps = Gaps::default();
        // Capacity changes rarely; if it cannot be read, what was last read is still the best that is known.
        self.capacity = gaps.take(Capacity::read()).unwrap_or(self.capacity);
        if self.host.hierarchy.refresh_disks() {
            // A disk that came has no limits yet, and nobody took them away.
            let tracked = self.watched.values().map(|watched| &watched.tracked);
            tracked.flat_map(|tracked| Resource::DISKS.map(|disk| tracked.owned(disk))).for_each(|owned| {
                owned.lock().claim.doubt();
            });
        }

        let mut problems = Vec::new();
        self.look_around(&mut problems);
        let vanished = self.drop_vanished(now);
        let appeared = self.add_appeared(now, &mut gaps);
        self.ask_again();
        problems.extend(self.runtime_problems());

        let (samples, capacity) = (SampleBatch::new(), self.capacity);
        let (drifts, text) = Default::default();
        let mut round = Round { now, capacity, gaps, samples, drifts, ancestors: HashMap::new(), text };
        let mut present = Vec::with_capacity(self.watched.len());
        for watched in self.watched.values_mut() {
            present.push(round.sample(&self.host, watched));
        }
        problems.extend(round.gaps.into_problems());
        Collected {
            samples: round.samples,
            host: self.capacity.host(&self.host.config.host, now),
            appeared,
            vanished,
            present,
            drifts: round.drifts,
            knobs: std::mem::take(&mut *self.host.knob_news.lock()),
            problems,
        }
    }
}

impl Collector {
    /// Walks the hierarchies if something may have come or gone.
    fn look_around(&mut self, problems: &mut Vec<String>) {
        if !self.arrivals.may_have_come() {
            return;
        }
        let host = &self.host;
        let known_problems = problems.len();
        self.arrivals.begin_walk();
        let mut listing = |dir: &Path| self.arrivals.watch(dir);
        self.found = walk(&host.hierarchy, &host.config.roots, host.config.discover, &mut listing, problems);
        self.found.retain(|found| !host.own_cgroups.are_within(&found.identity.path));
        if problems.len() > known_problems {
            self.arrivals.doubt();
        }
    }

    fn drop_vanished(&mut self, now: TimeMs) -> Vec<ContainerKey> {
        let inodes: HashMap<_, _> =
            self.found.iter().map(|found| (found.identity.path.as_path(), found.inode)).collect();
        let mut vanished = Vec::new();
        self.watched.retain(|path, watched| {
            let (key, incarnation, id) = {
                let container = watched.tracked.container.read();
                (container.key.clone(), container.incarnation, container.id.clone())
            };
            match inodes.get(path.as_path()) {
                Some(inode) if *inode == incarnation => return true,
                // crun has made the container below it since.
                None if self.found.iter().any(|found| found.identity.path.starts_with(path)) => {}
                // Not listed is not gone: a directory above may have been unreadable for a moment.
                None if watched.tracked.cgroup.read().still_exists() => return true,
                _ => {}
            }
            let mut containers = self.host.containers.write();
            if containers.get(&key.name).is_some_and(|known| Arc::ptr_eq(known, &watched.tracked)) {
                containers.remove(&key.name);
                if let Some(pins) = &self.host.pins {
                    pins.release(&key.name);
                }
            }
            self.host.baselines.forget(Life { name: &key.name, incarnation, id: &id }, now);
            vanished.push(key);
            false
        });
        self.pauses.retain(|(path, inode)| inodes.get(path.as_path()) == Some(inode));
        self.nameless.retain(|(path, inode), _| inodes.get(path.as_path()) == Some(inode));
        vanished
    }

    fn add_appeared(&mut self, now: TimeMs, gaps: &mut Gaps) -> Vec<Container> {
        let mut appeared = Vec::new();
        let started = Instant::now();
        let is_new = |found: &&Found| !self.watched.contains_key(&found.identity.path);
        let found: Vec<Found> = self.found.iter().filter(is_new).cloned().collect();
        for found in found {
            if started.elapsed() >= ASKING_TIME {
                break;
            }
            match self.add(&found, now, gaps) {
                Ok(Some(container)) => appeared.push(container),
                Ok(None) => {}
                Err(error) => gaps.note(format!("{}: {error}", found.identity.path.display())),
            }
        }
        appeared
    }

    /// Starts to watch a container; `None` when it is none, or not yet.
    fn add(&mut self, found: &Found, now: TimeMs, gaps: &mut Gaps) -> Result<Option<Container>, ActuatorError> {
        let host = &self.host;
        let identity = &found.identity;
        let cgroup = host.hierarchy.open(&identity.path)?;
        // Between the walk and now the cgroup may have gone away or been made anew; the next walk sees which.
        let Some(primary) = cgroup.primary().filter(|dir| dir.inode() == found.inode) else { return Ok(None) };
        if identity.runtime == Runtime::Cri {
            let pause = (identity.path.clone(), found.inode);
            if self.pauses.contains(&pause) {
                return Ok(None);
            }
            match is_pause(primary.path()) {
                Some(false) => {}
                Some(true) => {
                    self.pauses.insert(pause);
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
        let described = host.runtimes.describe(identity);
        let unnamed = described.incomplete && described.name.is_none();
        let wanted = described.name.clone().unwrap_or_else(|| identity.name.clone());
        let taken = described.name.is_some() && is_taken(&wanted, found, &host.containers.read());
        if (unnamed || taken) && is_patient(&mut self.nameless, found, now) {
            return Ok(None);
        }
        let mut containers = host.containers.write();
        let name = free_name(wanted, found, &containers);
        let mut problems = Vec::new();
        let tracked = match containers.entry(name.clone()) {
            // Another source of this host knows it already.
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(vacant) => {
                let life = Life { name: &name, incarnation: found.inode, id: &identity.id };
                if identity.runtime == Runtime::Lxc && host.runtimes.lxd.brings_nothing_back(&identity.id) {
                    host.baselines.begin_anew(life);
                }
                let baseline = host.baselines.recorded(life);
                gaps.take(host.release_left_squeeze(life, &cgroup));
                gaps.take(host.adopt_pin(&name, &cgroup));
                let left_alone = gaps.take(host.left_alone(life)).unwrap_or_default();
                let late = host.baselines.late(life);
                let mut container = Container {
                    key: ContainerKey { host: host.config.host.clone(), name: name.clone() },
                    path: identity.path.clone(),
                    cgroup: host.hierarchy.version,
                    runtime: identity.runtime,
                    id: identity.id.clone(),
                    incarnation: found.inode,
                    app: None,
                    user: None,
                    labels: identity.labels.clone(),
                    first_seen: now,
                    last_seen: now,
                    baseline: first_limits(&cgroup, &baseline),
                    bounds: BTreeMap::new(),
                };
                let wishes;
                (problems, wishes) = label(&mut container, &described, host, self.capacity);
                let knobs = Knobs::new(wishes, host.baselines.knobs(life), described.incomplete);
                Arc::clone(vacant.insert(Arc::new(Tracked::new(
                    container,
                    cgroup,
                    &baseline,
                    &left_alone,
                    late,
                    knobs,
                ))))
            }
        };
        drop(containers);
        let sampler = sampler(&tracked.cgroup.read(), &host.budget);
        let container = tracked.container.read().clone();
        let incomplete = described.incomplete;
        let (uses, former, former_traffic) = Default::default();
        let watched = Watched { tracked, sampler, former, uses, former_traffic, incomplete, problems };
        self.watched.insert(identity.path.clone(), watched);
        Ok(Some(container))
    }

    /// Takes over the labels that a runtime could not tell when the container appeared. The name stays.
    fn ask_again(&mut self) {
        let runtimes = &self.host.runtimes;
        let started = Instant::now();
        for watched in self.watched.values_mut().filter(|watched| watched.incomplete) {
            let runtime = watched.tracked.container.read().runtime;
            if !runtimes.are_ready(runtime) || started.elapsed() >= ASKING_TIME {
                continue;
            }
            let Some(identity) = identify(&watched.tracked.cgroup.read().path) else { continue };
            let described = runtimes.describe(&identity);
            watched.incomplete = described.incomplete;
            if !described.incomplete {
                let mut container = watched.tracked.container.write();
                let (problems, wishes) = label(&mut container, &described, &self.host, self.capacity);
                drop(container);
                watched.problems = problems;
                watched.tracked.knobs.lock().complete(wishes);
            }
        }
    }

    /// What is wrong with the labels, and with a daemon that somebody still waits for.
    fn runtime_problems(&self) -> Vec<String> {
        let runtimes = &self.host.runtimes;
        let waiting = |runtime| {
            let mut incomplete = self.watched.values().filter(|watched| watched.incomplete);
            !self.nameless.is_empty() || incomplete.any(|w| w.tracked.container.read().runtime == runtime)
        };
        let asked = [Runtime::Docker, Runtime::Podman, Runtime::Lxc].into_iter().filter(|runtime| waiting(*runtime));
        let daemons = asked.flat_map(|runtime| runtimes.daemons(runtime));
        let mut problems: Vec<String> = daemons.filter_map(|daemon| daemon.problem()).collect();
        problems.extend(self.watched.values().flat_map(|watched| watched.problems.iter().cloned()));
        problems
    }
}

/// Gives a container what its labels and the configuration say; tells what cannot be understood of it, and what its knobs
/// shall be.
fn label(
    container: &mut Container,
    described: &Described,
    host: &LocalHost,
    capacity: Capacity,
) -> (Vec<String>, Wishes) {
    let name = &container.key.name;
    let mut problems = Vec::new();
    container.labels.extend(described.labels.clone());
    let settings = settings(name, &container.labels, &mut problems);
    let (app, user) = host.config.app_of(name);
    container.bounds = host.config.bounds_with(name, &settings.bounds, capacity, &mut problems);
    container.app = app.or(settings.app);
    container.user = user.or(settings.user);
    if settings.unscaled || host.config.never_scales(name) {
        // One word for whoever looks, wherever it was said.
        container.labels.insert(Container::SCALE.to_owned(), "false".to_owned());
    }
    let wishes = host.config.knobs_with(name, &settings.knobs, &mut problems);
    (problems, wishes)
}

/// Whether a container shall still be kept back.
fn is_patient(nameless: &mut BTreeMap<(PathBuf, u64), TimeMs>, found: &Found, now: TimeMs) -> bool {
    let since = nameless.entry((found.identity.path.clone(), found.inode)).or_insert(now);
    now.since(*since) < NAME_PATIENCE
}

/// The own limits as found, those of a former process's record first.
fn first_limits(cgroup: &crate::cgroup::Cgroup, recorded: &BTreeMap<Resource, Limit>) -> BTreeMap<Resource, Limit> {
    let found = |resource| recorded.get(&resource).copied().or_else(|| cgroup.own_limit(resource).ok());
    let limits = Resource::ALL.into_iter().filter_map(|resource| Some((resource, found(resource)?)));
    // What a knob or the limit of a rate was is of interest once a rule has moved it.
    limits
        .chain(
            recorded
                .iter()
                .filter(|(resource, _)| !Resource::ALL.contains(resource))
                .map(|(knob, found)| (*knob, *found)),
        )
        .collect()
}

/// `name`, or when another container has it, the path with dots for slashes, which no other has.
fn free_name(name: String, found: &Found, containers: &BTreeMap<String, Arc<Tracked>>) -> String {
    match is_taken(&name, found, containers) {
        true => found.identity.path.display().to_string().trim_start_matches('/').replace('/', "."),
        false => name,
    }
}

/// Whether another container has the name.
fn is_taken(name: &str, found: &Found, containers: &BTreeMap<String, Arc<Tracked>>) -> bool {
    containers.get(name).is_some_and(|other| other.container.read().path != found.identity.path)
}

/// One collection in progress.
struct Round {
    now: TimeMs,
    capacity: Capacity,
    gaps: Gaps,
    samples: SampleBatch,
    drifts: Vec<Drift>,
    ancestors: Ancestors,
    /// What was read last.
    text: Vec<u8>,
}

impl Round {
    fn sample(&mut self, host: &LocalHost, watched: &mut Watched) -> Container {
        let known_gaps = self.gaps.len();
        self.reopen_where_needed(host, watched);
        let tags = Tags::of(&watched.tracked.container.read());
        for resource in Resource::ALL {
            let in_force = self.sample_limit(host, watched, &tags, resource);
            for knob in Resource::KNOBS.into_iter().filter(|knob| knob.of() == resource) {
                self.sample_knob(host, watched, &tags, knob, in_force);
            }
        }
        let reading = watched.sampler.read(&mut self.gaps);
        let former = watched.former.replace(reading);
        self.sample_usage(&tags, &reading, former.as_ref());
        self.sample_disks(host, watched, &tags, former.and_then(|former| former.transferred), reading.transferred);
        self.sample_network(host, watched, &tags);
        if self.gaps.len() > known_gaps && !watched.tracked.cgroup.read().still_exists() {
            // It went away between the walk and the reading; the next walk reports that, and there is no problem.
            self.gaps.truncate(known_gaps);
        }

        let mut container = watched.tracked.container.write();
        container.last_seen = self.now;
        container.clone()
    }

    /// A runtime makes a v1 container's directories one after the other: those that were missing may be there now.
    fn reopen_where_needed(&mut self, host: &LocalHost, watched: &mut Watched) {
        let cgroup = Arc::clone(&watched.tracked.cgroup.read());
        let is_new = self.now.since(watched.tracked.container.read().first_seen) < IO_PATIENCE;
        if host.hierarchy.is_current(&cgroup) && !(is_new && host.hierarchy.lacks_io(&cgroup)) {
            return;
        }
        if let Some(mut opened) = self.gaps.take(host.hierarchy.open(&cgroup.path))
            && !opened.is_same(&cgroup)
        {
            // What its processes are in has nothing to do with its directories.
            opened.network = cgroup.network.clone();
            watched.sampler = sampler(&opened, &host.budget);
            watched.former = None;
            *watched.tracked.cgroup.write() = Arc::new(opened);
        }
    }

    /// The limit in force, if it is known.
    fn sample_limit(
        &mut self,
        host: &LocalHost,
        watched: &mut Watched,
        tags: &Tags,
        resource: Resource,
    ) -> Option<f64> {
        // Locked before the file is read: otherwise a change that ends in between would look like somebody else's. While a
        // change is in progress nothing is compared.
        let mut owned = watched.tracked.owned(resource).try_lock();
        owned.iter_mut().for_each(|owned| host.settle_late(&watched.tracked, resource, owned));
        let limit = watched.sampler.limit(resource);
        let Some(own) = self.gaps.take(limit)? else {
            let container = watched.tracked.container.read();
            self.gaps.note(format!("{} has no directory in the {resource} hierarchy", container.path.display()));
            return None;
        };
        let drifted = owned.as_mut().and_then(|owned| {
            if !owned.baseline_recorded {
                watched.tracked.container.write().baseline.insert(resource, own);
            }
            self.compare(host, owned, own)
        });
        drop(owned);
        if let Some(drifted) = drifted {
            self.note_drift(host, &watched.tracked, resource, drifted);
        }
        let effective = self.effective(host, watched, resource, own)?;
        self.push(metrics::LIMIT, tags, resource, effective);
        Some(effective)
    }

    /// A knob that stands where everybody's does has no sample, unless a rule moved it: most containers have none to tell of.
    /// A memory.high that is none is the limit `in_force` then.
    fn sample_knob(
        &mut self,
        host: &LocalHost,
        watched: &mut Watched,
        tags: &Tags,
        knob: Resource,
        in_force: Option<f64>,
    ) {
        let of = watched.tracked.owned(knob.of()).try_lock();
        let mut owned = of.as_ref().and_then(|_| watched.tracked.owned(knob).try_lock());
        owned.iter_mut().for_each(|owned| host.settle_late(&watched.tracked, knob, owned));
        let limit = watched.sampler.limit(knob);
        // Where the controller is missing, the limit's sample said so.
        let Some(own) = self.gaps.take_optional(limit).flatten() else { return };
        let moved = owned.as_ref().is_some_and(|owned| owned.baseline_recorded);
        // What the configuration sets meanwhile, who keeps it compares.
        if watched.tracked.knobs.lock().is_configured(knob).is_some() {
            owned.iter_mut().for_each(|owned| owned.claim.doubt());
        }
        let drifted = owned.as_mut().and_then(|owned| self.compare(host, owned, own));
        drop((owned, of));
        if let Some(drifted) = drifted {
            self.note_drift(host, &watched.tracked, knob, drifted);
        }
        let usual = if knob == Resource::CpuWeight { Limit::At(USUAL_WEIGHT) } else { Limit::Unlimited };
        if moved || own != usual {
            self.push_some(metrics::LIMIT, tags, knob, own.value().or(in_force));
        }
    }

    /// Whether somebody else changed what was written, as far as that was not told yet.
    fn compare(&self, host: &LocalHost, owned: &mut Owned, found: Limit) -> Option<Drifted> {
        owned.claim.observe(found, self.now, host.config.drift());
        let (answer, expected) = owned.claim.take_news()?;
        Some(Drifted { expected, found, answer })
    }

    fn note_drift(&mut self, host: &LocalHost, tracked: &Tracked, resource: Resource, drifted: Drifted) {
        let Drifted { expected, found, answer } = drifted;
        let (container, incarnation, id) = {
            let container = tracked.container.read();
            (container.key.clone(), container.incarnation, container.id.clone())
        };
        if answer.is_hands_off() || answer == DriftAnswer::Over {
            // A restart must not make a person's limit ours.
            let life = Life { name: &container.name, incarnation, id: &id };
            let left_alone = answer.is_hands_off().then_some(expected);
            self.gaps.take(host.baselines.record_left_alone(life, resource, left_alone));
        }
        let expected = expected.value().unwrap_or(f64::INFINITY);
        self.drifts.push(Drift { container, resource, expected, found: found.value(), at: self.now, answer });
    }

    /// What is in force: the least of the own limit, those above, and what the machine has. `None` when one is unknown.
    fn effective(&mut self, host: &LocalHost, watched: &Watched, resource: Resource, own: Limit) -> Option<f64> {
        let path = watched.tracked.container.read().path.clone();
        let parent = path.parent()?.to_owned();
        let above = match self.ancestors.entry((parent, resource)) {
            std::collections::hash_map::Entry::Occupied(known) => *known.get(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let tightest = self.gaps.take(host.hierarchy.tightest_ancestor(&path, resource));
                *vacant.insert(tightest.map(|t| t.map_or(Limit::Unlimited, |t| Limit::At(t.value))))
            }
        }?;
        let limits = [own, above].into_iter().filter_map(Limit::value);
        Some(limits.fold(self.capacity.of(resource), f64::min))
    }

    fn sample_usage(&mut self, tags: &Tags, reading: &Reading, former: Option<&Reading>) {
        use Resource::{Cpu, Memory};

        let former = former.copied().unwrap_or_default();
        self.push_some(metrics::USAGE, tags, Cpu, cores(former.cpu_ns, reading.cpu_ns));
        self.push_some(metrics::THROTTLED, tags, Cpu, throttled(former.throttling, reading.throttling));
        for (resource, before, after) in
            [(Cpu, former.cpu_stall, reading.cpu_stall), (Memory, former.memory_stall, reading.memory_stall)]
        {
            let (some, full) = stalled(before, after);
            self.push_some(metrics::PRESSURE_SOME, tags, resource, some);
            self.push_some(metrics::PRESSURE_FULL, tags, resource, full);
        }
        let bytes = |value: Option<u64>| value.map(|value| value as f64);
        self.push_some(metrics::USAGE, tags, Memory, bytes(reading.working_set));
        self.push_some(metrics::UNRECLAIMABLE, tags, Memory, bytes(reading.unreclaimable));
        self.push_some(metrics::OOM_KILLS, tags, Memory, bytes(reading.oom_kills));
    }

    fn push_some(&mut self, metric: &str, tags: &Tags, resource: Resource, value: Option<f64>) {
        if let Some(value) = value {
            self.push(metric, tags, resource, value);
        }
    }

    fn push(&mut self, metric: &str, tags: &Tags, resource: Resource, value: f64) {
        self.samples.push(tags.series(metric, resource), self.now, value);
    }
}

/// A limit of which it has to be told that somebody else changed it, or gave it back.
struct Drifted {
    expected: Limit,
    found: Limit,
    answer: DriftAnswer,
}

/// The tags of one container's samples.
pub(crate) struct Tags(Vec<(String, String)>);

impl Tags {
    pub(crate) fn of(container: &Container) -> Self {
        let mut tags =
            vec![("host".to_owned(), container.key.host.clone()), ("container".to_owned(), container.key.name.clone())];
        tags.extend(container.app.clone().map(|app| ("app".to_owned(), app)));
        Self(tags)
    }

    pub(crate) fn series(&self, metric: &str, resource: Resource) -> SeriesKey {
        let tag = ("resource".to_owned(), resource.as_str().to_owned());
        SeriesKey::new(metric, self.0.iter().cloned().chain([tag]))
    }
}

/// CPU time over real time. Nothing for the first reading, nor when the counter went backwards.
fn cores(former: Option<(u64, Instant)>, now: Option<(u64, Instant)>) -> Option<f64> {
    let ((before, from), (after, to)) = former.zip(now)?;
    let elapsed = elapsed(from, to)?;
    Some(after.checked_sub(before)? as f64 / 1e9 / elapsed.as_secs_f64())
}

/// The share of periods in which the quota ran out. An idle container has no periods and is not throttled.
fn throttled(former: Option<Throttling>, now: Option<Throttling>) -> Option<f64> {
    let (former, now) = former.zip(now)?;
    let periods = now.periods.checked_sub(former.periods)?;
    let throttled = now.throttled.checked_sub(former.throttled)?;
    Some(if periods == 0 { 0.0 } else { (throttled as f64 / periods as f64).min(1.0) })
}

/// The shares of real time in which some, and all, tasks stalled.
fn stalled(former: Option<(Stall, Instant)>, now: Option<(Stall, Instant)>) -> (Option<f64>, Option<f64>) {
    let Some(((before, from), (after, to))) = former.zip(now) else { return (None, None) };
    let Some(elapsed) = elapsed(from, to) else { return (None, None) };
    let share =
        |before: u64, after: u64| Some((after.checked_sub(before)? as f64 / 1e6 / elapsed.as_secs_f64()).min(1.0));
    (share(before.some_us, after.some_us), before.full_us.zip(after.full_us).and_then(|(b, a)| share(b, a)))
}

fn elapsed(from: Instant, to: Instant) -> Option<Duration> {
    to.checked_duration_since(from).filter(|elapsed| !elapsed.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(ms: u64) -> Instant {
        // One origin for all, as the instants of a process have.
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *ORIGIN.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn cpu_usage_is_over_the_time_that_really_passed() {
        assert_eq!(cores(Some((0, at(0))), Some((1_000_000_000, at(2_000)))), Some(0.5));
        assert_eq!(cores(None, Some((7, at(0)))), None, "first reading");
        assert_eq!(cores(Some((9, at(0))), Some((7, at(1_000)))), None, "backwards");
        assert_eq!(cores(Some((7, at(0))), Some((9, at(0)))), None, "no time passed");
        assert_eq!(cores(Some((7, at(0))), Some((7, at(1_000)))), Some(0.0), "idle is zero");
    }

    #[test]
    fn an_idle_container_is_not_throttled() {
        let counters = |periods, throttled| Some(Throttling { periods, throttled });
        assert_eq!(throttled(counters(10, 5), counters(20, 8)), Some(0.3));
        assert_eq!(throttled(counters(10, 5), counters(10, 5)), Some(0.0));
        assert_eq!(throttled(counters(10, 5), counters(12, 4)), None);
        assert_eq!(throttled(None, counters(10, 5)), None);
    }

    #[test]
    fn stall_shares_come_from_the_totals() {
        let stall = |some_us, full_us, ms| Some((Stall { some_us, full_us }, at(ms)));
        assert_eq!(stalled(stall(0, Some(0), 0), stall(250_000, Some(100_000), 1_000)), (Some(0.25), Some(0.1)));
        assert_eq!(stalled(stall(0, None, 0), stall(250_000, None, 1_000)), (Some(0.25), None));
        assert_eq!(stalled(None, stall(250_000, None, 1_000)), (None, None));
    }
}
