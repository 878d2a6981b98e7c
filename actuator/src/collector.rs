//! Measures a host each second: which containers there are, what they use, what limits them, what holds them up.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_model::{Container, ContainerKey, Limit, Resource, Runtime, SampleBatch, SeriesKey, TimeMs, metrics};

use crate::capacity::Capacity;
use crate::cgroup::parse::Stall;
use crate::cgroup::sampler::{Gaps, Reading, Sampler, Throttling, sampler};
use crate::discovery::{Found, is_pause, walk};
use crate::drift::Standing;
use crate::error::ActuatorError;
use crate::host::{LocalHost, Tracked};
use crate::runtime::describe;
use crate::{Collected, Drift, Source};

/// The collector of one host.
pub(crate) struct Collector {
    host: Arc<LocalHost>,
    capacity: Capacity,
    /// By cgroup path.
    watched: BTreeMap<PathBuf, Watched>,
    /// Containers that only hold a pod's namespaces, by path and inode.
    pauses: BTreeSet<(PathBuf, u64)>,
}

struct Watched {
    tracked: Arc<Tracked>,
    sampler: Box<dyn Sampler>,
    former: Option<Reading>,
}

/// The tightest limit above the containers of one parent, for one collection.
type Ancestors = HashMap<(PathBuf, Resource), Option<Limit>>;

impl Collector {
    pub(crate) fn new(host: Arc<LocalHost>) -> Self {
        Self { capacity: host.capacity, host, watched: BTreeMap::new(), pauses: BTreeSet::new() }
    }
}

impl Source for Collector {
    fn collect(&mut self, now: TimeMs) -> Collected {
        let mut gaps = Gaps::default();
        // Capacity changes rarely; if it cannot be read, what was last read is still the best that is known.
        self.capacity = gaps.take(Capacity::read()).unwrap_or(self.capacity);

        let mut problems = Vec::new();
        let mut found = walk(&self.host.hierarchy, &self.host.config.roots, self.host.config.discover, &mut problems);
        found.retain(|found| !self.host.own_cgroups.are_within(&found.identity.path));
        let vanished = self.drop_vanished(&found);
        let appeared = self.add_appeared(found, now, &mut gaps);

        let mut round = Round { now, gaps, samples: SampleBatch::new(), drifts: Vec::new(), ancestors: HashMap::new() };
        let mut present = Vec::with_capacity(self.watched.len());
        for watched in self.watched.values_mut() {
            present.push(round.sample(&self.host, self.capacity, watched));
        }
        problems.extend(round.gaps.into_problems());
        Collected {
            samples: round.samples,
            host: self.capacity.host(&self.host.config.host, now),
            appeared,
            vanished,
            present,
            drifts: round.drifts,
            problems,
        }
    }
}

impl Collector {
    fn drop_vanished(&mut self, found: &[Found]) -> Vec<ContainerKey> {
        let inodes: HashMap<_, _> = found.iter().map(|found| (found.identity.path.as_path(), found.inode)).collect();
        let mut vanished = Vec::new();
        self.watched.retain(|path, watched| {
            let (key, incarnation) = {
                let container = watched.tracked.container.read();
                (container.key.clone(), container.incarnation)
            };
            match inodes.get(path.as_path()) {
                Some(inode) if *inode == incarnation => return true,
                // Not listed is not gone: a directory above may have been unreadable for a moment.
                None if watched.tracked.cgroup.read().still_exists() => return true,
                _ => {}
            }
            let mut containers = self.host.containers.write();
            if containers.get(&key.name).is_some_and(|known| Arc::ptr_eq(known, &watched.tracked)) {
                containers.remove(&key.name);
            }
            self.host.baselines.forget(&key.name, incarnation);
            vanished.push(key);
            false
        });
        self.pauses.retain(|(path, inode)| inodes.get(path.as_path()) == Some(inode));
        vanished
    }

    fn add_appeared(&mut self, found: Vec<Found>, now: TimeMs, gaps: &mut Gaps) -> Vec<Container> {
        let mut appeared = Vec::new();
        for found in found {
            if self.watched.contains_key(&found.identity.path) {
                continue;
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
        let described = describe(identity, &host.config.docker_root);
        let mut containers = host.containers.write();
        let name = free_name(described.name.unwrap_or_else(|| identity.name.clone()), found, &containers);
        let tracked = match containers.entry(name.clone()) {
            // Another source of this host knows it already.
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(vacant) => {
                let mut labels = identity.labels.clone();
                labels.extend(described.labels);
                let (app, user) = host.config.app_of(&name);
                let baseline = host.baselines.recorded(&name, found.inode);
                gaps.take(host.release_left_squeeze(&name, found.inode, &cgroup));
                let container = Container {
                    key: ContainerKey { host: host.config.host.clone(), name: name.clone() },
                    path: identity.path.clone(),
                    cgroup: host.hierarchy.version,
                    runtime: identity.runtime,
                    id: identity.id.clone(),
                    incarnation: found.inode,
                    app: app.or_else(|| labels.get("tidegate.app").cloned()),
                    user: user.or_else(|| labels.get("tidegate.user").cloned()),
                    labels,
                    first_seen: now,
                    last_seen: now,
                    baseline: first_limits(&cgroup, &baseline),
                    bounds: host.config.bounds_of(&name, self.capacity),
                };
                Arc::clone(vacant.insert(Arc::new(Tracked::new(container, cgroup, &baseline))))
            }
        };
        drop(containers);
        let sampler = sampler(&tracked.cgroup.read(), &host.budget);
        let container = tracked.container.read().clone();
        self.watched.insert(identity.path.clone(), Watched { tracked, sampler, former: None });
        Ok(Some(container))
    }
}

/// The own limits as found, those of a former process's record first.
fn first_limits(cgroup: &crate::cgroup::Cgroup, recorded: &BTreeMap<Resource, Limit>) -> BTreeMap<Resource, Limit> {
    let found = |resource| recorded.get(&resource).copied().or_else(|| cgroup.own_limit(resource).ok());
    Resource::ALL.into_iter().filter_map(|resource| Some((resource, found(resource)?))).collect()
}

/// `name`, or when another container has it, the path with dots for slashes, which no other has.
fn free_name(name: String, found: &Found, taken: &BTreeMap<String, Arc<Tracked>>) -> String {
    let path = &found.identity.path;
    match taken.get(&name) {
        Some(other) if other.container.read().path != *path => {
            path.display().to_string().trim_start_matches('/').replace('/', ".")
        }
        _ => name,
    }
}

/// One collection in progress.
struct Round {
    now: TimeMs,
    gaps: Gaps,
    samples: SampleBatch,
    drifts: Vec<Drift>,
    ancestors: Ancestors,
}

impl Round {
    fn sample(&mut self, host: &LocalHost, capacity: Capacity, watched: &mut Watched) -> Container {
        let known_gaps = self.gaps.len();
        self.reopen_where_needed(host, watched);
        let tags = Tags::of(&watched.tracked.container.read());
        for resource in Resource::ALL {
            self.sample_limit(host, capacity, watched, &tags, resource);
        }
        let reading = watched.sampler.read(&mut self.gaps);
        let former = watched.former.replace(reading);
        self.sample_usage(&tags, &reading, former.as_ref());
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
        if host.hierarchy.is_current(&cgroup) {
            return;
        }
        if let Some(opened) = self.gaps.take(host.hierarchy.open(&cgroup.path))
            && !opened.is_same(&cgroup)
        {
            watched.sampler = sampler(&opened, &host.budget);
            watched.former = None;
            *watched.tracked.cgroup.write() = Arc::new(opened);
        }
    }

    fn sample_limit(
        &mut self,
        host: &LocalHost,
        capacity: Capacity,
        watched: &mut Watched,
        tags: &Tags,
        resource: Resource,
    ) {
        // Locked before the file is read: otherwise a change that ends in between would look like somebody else's. While a
        // change is in progress nothing is compared.
        let mut owned = watched.tracked.owned(resource).try_lock();
        let limit = watched.sampler.limit(resource);
        let Some(own) = self.gaps.take(limit) else { return };
        let Some(own) = own else {
            let container = watched.tracked.container.read();
            return self
                .gaps
                .note(format!("{} has no directory in the {resource} hierarchy", container.path.display()));
        };
        if let Some(owned) = &mut owned {
            if !owned.baseline_recorded {
                watched.tracked.container.write().baseline.insert(resource, own);
            }
            let standing = owned.observe(own, self.now, host.config.drift_hold());
            if let Standing::Foreign { expected, .. } = standing
                && owned.take_report()
            {
                let container = watched.tracked.container.read().key.clone();
                let expected = expected.value().unwrap_or(f64::INFINITY);
                self.drifts.push(Drift { container, resource, expected, found: own.value(), at: self.now });
            }
        }
        drop(owned);
        if let Some(effective) = self.effective(host, capacity, watched, resource, own) {
            self.push(metrics::LIMIT, tags, resource, effective);
        }
    }

    /// What is in force: the least of the own limit, those above, and what the machine has. `None` when one is unknown.
    fn effective(
        &mut self,
        host: &LocalHost,
        capacity: Capacity,
        watched: &Watched,
        resource: Resource,
        own: Limit,
    ) -> Option<f64> {
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
        Some(limits.fold(capacity.of(resource), f64::min))
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

    fn at(ms: u64) -> Instant {
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
