//! A host that exists in memory only: containers with a demand behind limits that bite. For demonstrations, for machines
//! without writable cgroups, and for replays of what real containers wanted.
//!
//! Where the demand comes from is a [`Workload`]: the demo's fleet, or a trace. What a limit does to it follows the kernel:
//! CPU above the limit is throttled, memory above the limit kills the process, which starts again with little memory, cache
//! above `memory.high` is dropped. The
//! same workload that is measured at the same times under the same limits gives the same samples.

mod fleet;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::{
    Bounds, Bytes, CgroupVersion, Clock, Container, ContainerKey, Host, Limit, Outcome, OutcomeStatus, Resource,
    Runtime, SampleBatch, SeriesKey, SeriesRef, TimeMs, Write, metrics,
};

use crate::apply::Verdict;
use crate::capacity::Capacity;
use crate::cgroup::WEIGHTS;
use crate::collector::{Tags, USUAL_WEIGHT};
use crate::config::ActuatorConfig;
use crate::drift::describe;
use crate::quota::{CpuMax, Plan, plan_cpu, plan_memory};
use crate::{Actuator, Change, Collected, Source};

const CAPACITY: Capacity = Capacity { cpus: 32, memory: 64 << 30 };
const PERIOD_US: u64 = 100_000;
const PAGE: u64 = 4096;
/// Room that the kernel needs above what cannot be reclaimed, as for real containers.
const FLOOR: f64 = 1.02;
/// What a process that was killed holds, as a share of what it held before, when it has started again.
pub const AFTER_KILL: f64 = 0.2;

/// How long a container's process has been running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Life {
    /// Since its start, or since it was first measured.
    pub age: Duration,
    /// Whether it was started because the one before was killed for memory.
    pub killed: bool,
}

/// Memory that a container would hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// What the kernel cannot reclaim, in bytes.
    pub anon: f64,
    /// That and the file cache in use, in bytes.
    pub working_set: f64,
}

/// What a container would use if no limit held it. `None` is what is not known, and then not measured either.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// In cores.
    pub cpu: Option<f64>,
    /// In bytes.
    pub memory: Option<Held>,
    /// Read from and written to disks, in bytes a second.
    pub io: Option<[f64; 2]>,
}

/// Where the demand of a simulated host's containers comes from.
pub trait Workload: Send + Sync + fmt::Debug {
    /// What container number `container` wants in the interval that ends at `now`.
    fn demand(&self, container: usize, now: TimeMs, life: Life) -> Demand;
}

/// A container of a simulated host.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The host that it is on.
    pub host: String,
    /// Which cgroups that host has. With v1 `memory.high` is a soft limit, of which nothing comes here.
    pub cgroup: CgroupVersion,
    /// Its name.
    pub name: String,
    /// Its app, if any.
    pub app: Option<String>,
    /// Its user, if any.
    pub user: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What the operator allows.
    pub bounds: BTreeMap<Resource, Bounds>,
    /// Its first CPU limit, in cores.
    pub cpu: Limit,
    /// Its first memory limit, in bytes.
    pub memory: Limit,
}

/// What was measured of one limit in one interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// What would have been used without a limit, in cores or bytes.
    pub wanted: f64,
    /// The limit that was in force, of memory the lower one of the hard limit and `memory.high`; infinite when there was none.
    pub limit: f64,
    /// What was used.
    pub used: f64,
    /// Share of the periods in which the container was throttled.
    pub throttled: f64,
    /// Whether the kernel killed its process for memory.
    pub killed: bool,
}

impl Reading {
    /// What a CPU limit leaves of `wanted` cores.
    pub fn of_cpu(wanted: f64, limit: f64) -> Self {
        // A group that wants a third more than its quota runs out of it in each period; one that wants less, in some.
        let throttled = ((wanted / limit - 1.0) * 3.0).clamp(0.0, 1.0);
        Self { wanted, limit, used: wanted.min(limit), throttled, killed: false }
    }

    /// What a memory limit leaves of what would be held, and `memory.high`, which never kills: above it cache is dropped, and
    /// what cannot be dropped stays. A process that is killed holds little when it has started again.
    pub fn of_memory(held: Held, limit: f64, high: f64) -> Self {
        let killed = held.anon > limit;
        let used = if killed { AFTER_KILL * held.anon } else { held.working_set.min(limit).min(high.max(held.anon)) };
        Self { wanted: held.working_set, limit: limit.min(high), used, throttled: 0.0, killed }
    }
}

/// A host (or several) that exists in memory only.
#[derive(Debug)]
pub struct SimulatedHost {
    about: String,
    hosts: Vec<Host>,
    workload: Box<dyn Workload>,
    containers: Mutex<Vec<Simulated>>,
    /// Where each container is among them.
    places: HashMap<ContainerKey, usize>,
    terse: AtomicBool,
}

#[derive(Debug)]
struct Simulated {
    container: Container,
    /// What its host has; infinite when that is not known.
    capacity: [f64; 2],
    cpu: CpuMax,
    memory: Limit,
    memory_high: Limit,
    cpu_weight: f64,
    /// Of reading and writing.
    disks: [Limit; 2],
    /// Anonymous memory in use at the last measurement, in bytes.
    anon: f64,
    /// Since when the process runs; `None` before the first measurement.
    started: Option<TimeMs>,
    killed: bool,
    oom_kills: u64,
    announced: bool,
    /// By which it is known to the store, one for each of [`SERIES`], then those of disks: transfers, usage and limits.
    series: Vec<(SeriesKey, Option<u32>)>,
}

/// What a container is measured by, in the order in which it is.
const SERIES: [(&str, Resource); 13] = [
    (metrics::USAGE, Resource::Cpu),
    (metrics::LIMIT, Resource::Cpu),
    (metrics::THROTTLED, Resource::Cpu),
    (metrics::PRESSURE_SOME, Resource::Cpu),
    (metrics::PRESSURE_FULL, Resource::Cpu),
    (metrics::USAGE, Resource::Memory),
    (metrics::LIMIT, Resource::Memory),
    (metrics::UNRECLAIMABLE, Resource::Memory),
    (metrics::OOM_KILLS, Resource::Memory),
    (metrics::PRESSURE_SOME, Resource::Memory),
    (metrics::PRESSURE_FULL, Resource::Memory),
    (metrics::LIMIT, Resource::MemoryHigh),
    (metrics::LIMIT, Resource::CpuWeight),
];

/// A measurement's samples, and which series of which container each of its keys stands for.
#[derive(Debug, Default)]
pub struct Measured {
    /// All samples, stamped with the instant.
    pub samples: SampleBatch,
    keys: Vec<(usize, usize)>,
}

impl SimulatedHost {
    /// The demo's fleet. Of `config`, the host's name, bounds and apps count; without bounds there are sensible ones.
    pub fn new(config: ActuatorConfig, seed: u64) -> Arc<Self> {
        let host = CAPACITY.host(&config.host, TimeMs(0));
        let about = format!("made-up containers with seed {seed}; no kernel is measured or changed");
        Self::of(vec![host], fleet::members(&config), Box::new(fleet::Fleet { seed }), about)
    }

    /// Containers with a demand of one's own; `about` says what they are. A host that is not in `hosts` has no capacity
    /// that is known, so nothing but its own limit holds a container there.
    pub fn of(hosts: Vec<Host>, members: Vec<Member>, workload: Box<dyn Workload>, about: String) -> Arc<Self> {
        let simulated = |(row, member): (usize, Member)| {
            let host = hosts.iter().find(|host| host.name == member.host);
            let capacity = host.map_or([f64::INFINITY; 2], |host| [host.cpu.0, host.memory.0 as f64]);
            Simulated::new(row, member, capacity)
        };
        let containers: Vec<Simulated> = members.into_iter().enumerate().map(simulated).collect();
        let mut places = HashMap::new();
        for (place, simulated) in containers.iter().enumerate() {
            places.entry(simulated.container.key.clone()).or_insert(place);
        }
        let terse = AtomicBool::new(false);
        Arc::new(Self { about, hosts, workload, containers: Mutex::new(containers), places, terse })
    }

    /// Outcomes say from now on what became of a change, but have no messages and no writes: for a replay, where nobody reads
    /// them.
    pub fn be_terse(&self) {
        self.terse.store(true, Ordering::Relaxed);
    }

    /// A collector of the first host. Appearances are reported once, by whichever source collects first.
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(SimulatedSource(Arc::clone(self)))
    }

    /// All containers as they are.
    pub fn containers(&self) -> Vec<Container> {
        self.containers.lock().iter().map(|simulated| simulated.container.clone()).collect()
    }

    /// Lives on until `now`. `each` is told what was measured of each container, by its number.
    pub fn measure(&self, now: TimeMs, mut each: impl FnMut(usize, Resource, &Reading)) -> Measured {
        let mut containers = self.containers.lock();
        let samples = SampleBatch::with_capacity(containers.len() * SERIES.len());
        let mut measured = Measured { samples, keys: Vec::new() };
        for (row, simulated) in containers.iter_mut().enumerate() {
            let life = simulated.life(now);
            let demand = self.workload.demand(row, now, life);
            simulated.measure(row, demand, now, &mut measured, &mut each);
        }
        measured
    }

    /// Notes the ids under which the store knows the series of a measurement, as its report of the append gives them: the
    /// next measurement then names its series by them, which saves the store from looking them up.
    pub fn learn(&self, measured: &Measured, ids: &[Option<u32>]) {
        let mut containers = self.containers.lock();
        for ((row, number), id) in measured.keys.iter().zip(ids) {
            containers[*row].series[*number].1 = *id;
        }
    }

    fn change(&self, change: &Change, writes: Option<&mut Vec<Write>>) -> Verdict {
        let mut containers = self.containers.lock();
        let place = self.places.get(&change.container);
        let Some(found) = place.and_then(|place| containers.get_mut(*place)) else {
            let message = format!("no container {} is known on this simulated host", change.container);
            return Verdict::new(OutcomeStatus::Refused, None, message);
        };
        match change.resource {
            Resource::Cpu => found.change_cpu(change.target, writes),
            Resource::Memory => found.change_memory(change.target, writes),
            Resource::DiskRead | Resource::DiskWrite => found.change_disk(change.resource, change.target, writes),
            Resource::NetReceive | Resource::NetSend => {
                Verdict::new(OutcomeStatus::Refused, None, "simulated containers have no network of their own")
            }
            Resource::CpuWeight => found.change_weight(change.target, writes),
            Resource::MemoryHigh => found.change_high(change.target, writes),
        }
    }
}

impl Actuator for SimulatedHost {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        let mut writes = Vec::new();
        let told = (!self.terse.load(Ordering::Relaxed)).then_some(&mut writes);
        let verdict = self.change(change, told);
        let limit_after = verdict.limit.and_then(Limit::value);
        Outcome { status: verdict.status, limit_after, writes, message: verdict.message, at: clock.now(), took_us: 1 }
    }

    fn simulated(&self) -> Option<String> {
        Some(self.about.clone())
    }

    fn is_instant(&self) -> bool {
        true
    }
}

impl Simulated {
    fn new(row: usize, member: Member, capacity: [f64; 2]) -> Self {
        let quota = member.cpu.value().map(|cores| (cores * PERIOD_US as f64).round() as u64);
        let cpu = CpuMax { quota, period: PERIOD_US };
        let container = Container {
            path: PathBuf::from("/simulated").join(&member.name),
            id: member.name.clone(),
            key: ContainerKey { host: member.host, name: member.name },
            cgroup: member.cgroup,
            runtime: Runtime::Simulated,
            incarnation: row as u64 + 1,
            app: member.app,
            user: member.user,
            labels: member.labels,
            first_seen: TimeMs(0),
            last_seen: TimeMs(0),
            baseline: [(Resource::Cpu, cpu.limit()), (Resource::Memory, member.memory)].into(),
            bounds: member.bounds,
        };
        let tags = Tags::of(&container);
        let disks = [metrics::USAGE, metrics::LIMIT];
        let disks = disks.iter().flat_map(|metric| Resource::DISKS.map(|disk| tags.series(metric, disk)));
        let series = SERIES.iter().map(|(metric, resource)| tags.series(metric, *resource)).chain(disks);
        let series = series.map(|key| (key, None)).collect();
        Self {
            container,
            capacity,
            cpu,
            memory: member.memory,
            memory_high: Limit::Unlimited,
            cpu_weight: USUAL_WEIGHT,
            disks: [Limit::Unlimited; 2],
            anon: 0.0,
            started: None,
            killed: false,
            oom_kills: 0,
            announced: false,
            series,
        }
    }

    fn life(&mut self, now: TimeMs) -> Life {
        let started = *self.started.get_or_insert(now);
        Life { age: now.since(started), killed: self.killed }
    }

    fn file(&self, name: &str) -> String {
        format!("simulated:{}/{name}", self.container.path.display())
    }

    /// What is written goes to `writes`; without that, the verdict has no message either.
    fn change_cpu(&mut self, target: f64, writes: Option<&mut Vec<Write>>) -> Verdict {
        let before = self.cpu.limit();
        let quota = match plan_cpu(target, self.cpu, false) {
            Err(why) => return Verdict::new(OutcomeStatus::Refused, before, why),
            Ok(Plan::Unchanged) => return unchanged(before, Resource::Cpu, writes.is_some()),
            Ok(Plan::Write(quota)) => quota,
        };
        self.cpu.quota = quota;
        let Some(writes) = writes else { return silent(OutcomeStatus::Applied, self.cpu.limit()) };
        let value = quota.map_or_else(|| format!("max {PERIOD_US}"), |quota| format!("{quota} {PERIOD_US}"));
        writes.push(Write { target: self.file("cpu.max"), value });
        applied(before, self.cpu.limit(), Resource::Cpu)
    }

    /// As [`Simulated::change_cpu`].
    fn change_memory(&mut self, target: f64, writes: Option<&mut Vec<Write>>) -> Verdict {
        let before = self.memory;
        let bytes = match plan_memory(target, before, PAGE) {
            Err(why) => return Verdict::new(OutcomeStatus::Refused, before, why),
            Ok(Plan::Unchanged) => return unchanged(before, Resource::Memory, writes.is_some()),
            Ok(Plan::Write(bytes)) => bytes,
        };
        let lowered = bytes.filter(|bytes| before.value().is_none_or(|before| (*bytes as f64) < before));
        if let Some(bytes) = lowered.filter(|bytes| (*bytes as f64) < self.anon * FLOOR) {
            let (held, bytes) = (Bytes(self.anon as u64), Bytes(bytes));
            let message =
                format!("{held} are held that cannot be reclaimed; {bytes} would be too close to it or below it");
            return Verdict::new(OutcomeStatus::Infeasible, before, message);
        }
        self.memory = bytes.map_or(Limit::Unlimited, |bytes| Limit::At(bytes as f64));
        let Some(writes) = writes else { return silent(OutcomeStatus::Applied, self.memory) };
        let value = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        writes.push(Write { target: self.file("memory.max"), value });
        applied(before, self.memory, Resource::Memory)
    }

    /// As [`Simulated::change_cpu`].
    fn change_high(&mut self, target: f64, writes: Option<&mut Vec<Write>>) -> Verdict {
        let before = self.memory_high;
        // From the hard limit on it says nothing.
        let target = if self.memory.value().is_some_and(|limit| target >= limit) { f64::INFINITY } else { target };
        let bytes = match plan_memory(target, before, PAGE) {
            Err(why) => return Verdict::new(OutcomeStatus::Refused, before, why),
            Ok(Plan::Unchanged) => return unchanged(before, Resource::MemoryHigh, writes.is_some()),
            Ok(Plan::Write(bytes)) => bytes,
        };
        self.container.baseline.entry(Resource::MemoryHigh).or_insert(before);
        self.memory_high = bytes.map_or(Limit::Unlimited, |bytes| Limit::At(bytes as f64));
        let Some(writes) = writes else { return silent(OutcomeStatus::Applied, self.memory_high) };
        let value = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        writes.push(Write { target: self.file("memory.high"), value });
        applied(before, self.memory_high, Resource::MemoryHigh)
    }

    /// As [`Simulated::change_cpu`]. Nothing comes of it: there is enough CPU for all.
    fn change_weight(&mut self, target: f64, writes: Option<&mut Vec<Write>>) -> Verdict {
        let (before, after) = (Limit::At(self.cpu_weight), target.round());
        if !(WEIGHTS.contains(&(after as u64)) && after > 0.0) {
            return Verdict::new(OutcomeStatus::Refused, before, format!("'{target}' is no weight"));
        }
        if after == self.cpu_weight {
            return unchanged(before, Resource::CpuWeight, writes.is_some());
        }
        self.container.baseline.entry(Resource::CpuWeight).or_insert(before);
        self.cpu_weight = after;
        let Some(writes) = writes else { return silent(OutcomeStatus::Applied, Limit::At(after)) };
        writes.push(Write { target: self.file("cpu.weight"), value: after.to_string() });
        applied(before, Limit::At(after), Resource::CpuWeight)
    }

    /// As [`Simulated::change_cpu`].
    fn change_disk(&mut self, disk: Resource, target: f64, writes: Option<&mut Vec<Write>>) -> Verdict {
        let at = usize::from(disk == Resource::DiskWrite);
        let before = self.disks[at];
        let after = match target {
            f64::INFINITY => Limit::Unlimited,
            target if target.is_finite() && target >= 1.0 => Limit::At(target.floor()),
            _ => return Verdict::new(OutcomeStatus::Refused, before, format!("a limit of {target} makes no sense")),
        };
        if after == before {
            return unchanged(before, disk, writes.is_some());
        }
        self.container.baseline.entry(disk).or_insert(before);
        self.disks[at] = after;
        let Some(writes) = writes else { return silent(OutcomeStatus::Applied, after) };
        let value = after.value().map_or_else(|| "max".to_owned(), |rate| rate.to_string());
        writes.push(Write { target: self.file("io.max"), value: format!("8:0 {}={value}", ["rbps", "wbps"][at]) });
        applied(before, after, disk)
    }

    /// Lives on until `now` and says what was measured.
    fn measure(
        &mut self,
        row: usize,
        demand: Demand,
        now: TimeMs,
        measured: &mut Measured,
        each: &mut impl FnMut(usize, Resource, &Reading),
    ) {
        let [cpus, bytes] = self.capacity;
        if let Some(wanted) = demand.cpu {
            let limit = self.cpu.limit().value().map_or(cpus, |own| own.min(cpus));
            let reading = Reading::of_cpu(wanted, limit);
            let throttled = reading.throttled;
            let finite = limit.is_finite().then_some(limit);
            let values = [Some(reading.used), finite, Some(throttled), Some(throttled * 0.8), Some(throttled * 0.5)];
            self.push(row, 0, &values, now, measured);
            let weight = self.container.baseline.contains_key(&Resource::CpuWeight).then_some(self.cpu_weight);
            self.push(row, 12, &[weight], now, measured);
            each(row, Resource::Cpu, &reading);
        }
        if let Some(held) = demand.memory {
            let limit = self.memory.value().map_or(bytes, |own| own.min(bytes));
            let high = self.memory_high.value().filter(|_| self.container.cgroup == CgroupVersion::V2);
            let reading = Reading::of_memory(held, limit, high.unwrap_or(f64::INFINITY));
            let Reading { wanted, used, killed, .. } = reading;
            if killed {
                self.oom_kills += 1;
                self.started = Some(now);
                self.killed = true;
            }
            self.anon = if killed { used } else { held.anon };
            // Less cache than it would like means that pages are read again and again.
            let squeezed = if killed || wanted <= 0.0 { 0.0 } else { (1.0 - used / wanted).clamp(0.0, 1.0) };
            let finite = limit.is_finite().then_some(limit);
            let kills = Some(self.oom_kills as f64);
            let values = [Some(used), finite, Some(self.anon), kills, Some(squeezed), Some(squeezed * 0.3)];
            self.push(row, 5, &values, now, measured);
            let moved = self.container.baseline.contains_key(&Resource::MemoryHigh);
            self.push(row, 11, &[high.or(finite).filter(|_| moved)], now, measured);
            each(row, Resource::Memory, &reading);
        }
        if let Some([read, write]) = demand.io {
            let limits = self.disks.map(Limit::value);
            let used =
                [read, write].into_iter().zip(limits).map(|(wanted, limit)| limit.map_or(wanted, |l| wanted.min(l)));
            let used: Vec<Option<f64>> = used.map(Some).collect();
            let values: Vec<Option<f64>> = used.iter().chain(&used).chain(&limits).copied().collect();
            self.push(row, SERIES.len(), &values, now, measured);
        }
        self.container.last_seen = now;
    }

    /// Adds samples of the series from number `first` on.
    fn push(&self, row: usize, first: usize, values: &[Option<f64>], now: TimeMs, measured: &mut Measured) {
        for (number, value) in values.iter().enumerate() {
            let (number, Some(value)) = (first + number, *value) else { continue };
            let (key, id) = &self.series[number];
            let series = match id {
                Some(id) => SeriesRef::Id(*id),
                None => {
                    measured.keys.push((row, number));
                    SeriesRef::Key(measured.samples.add_key(key.clone()))
                }
            };
            measured.samples.push_row(series, now, value);
        }
    }
}

fn silent(status: OutcomeStatus, limit: Limit) -> Verdict {
    Verdict::new(status, limit, String::new())
}

fn unchanged(limit: Limit, resource: Resource, told: bool) -> Verdict {
    if !told {
        return silent(OutcomeStatus::Unchanged, limit);
    }
    Verdict::unchanged(limit, resource)
}

fn applied(before: Limit, after: Limit, resource: Resource) -> Verdict {
    let message = format!("{} to {}", describe(before, resource), describe(after, resource));
    Verdict::new(OutcomeStatus::Applied, after, message)
}

struct SimulatedSource(Arc<SimulatedHost>);

impl Source for SimulatedSource {
    fn collect(&mut self, now: TimeMs) -> Collected {
        let samples = self.0.measure(now, |_, _, _| {}).samples;
        let mut containers = self.0.containers.lock();
        let mut appeared = Vec::new();
        for simulated in containers.iter_mut().filter(|simulated| !simulated.announced) {
            simulated.announced = true;
            simulated.container.first_seen = now;
            appeared.push(simulated.container.clone());
        }
        let present = containers.iter().map(|simulated| simulated.container.clone()).collect();
        let host = self.0.hosts.first().cloned().unwrap_or_else(|| CAPACITY.host("simulated", now));
        Collected {
            samples,
            host: Host { last_seen: now, ..host },
            appeared,
            vanished: Vec::new(),
            present,
            drifts: Vec::new(),
            knobs: Vec::new(),
            problems: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::SystemClock;

    use super::*;

    fn host(seed: u64) -> Arc<SimulatedHost> {
        SimulatedHost::new(ActuatorConfig { host: "sim".into(), ..Default::default() }, seed)
    }

    fn change(name: &str, resource: Resource, target: f64) -> Change {
        let container = ContainerKey { host: "sim".into(), name: name.into() };
        Change { container, resource, target, limit_before: None, decision: "d".into() }
    }

    fn value(collected: &Collected, metric: &str, name: &str, resource: Resource) -> f64 {
        let wanted = |key: &tidegate_model::SeriesKey| {
            key.metric() == metric
                && key.tag("container") == Some(name)
                && key.tag("resource") == Some(resource.as_str())
        };
        collected.samples.rows().find(|(key, ..)| wanted(key)).unwrap().2
    }

    #[test]
    fn the_same_seed_gives_the_same_samples_and_another_seed_others() {
        let run = |seed| {
            let mut source = host(seed).source();
            let rows = (0..100).flat_map(|s| source.collect(TimeMs(s * 1000)).samples.values().to_vec());
            rows.collect::<Vec<f64>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_dozen_containers_of_four_apps_appear_once() {
        let mut source = host(1).source();
        let first = source.collect(TimeMs(0));
        let apps: std::collections::BTreeSet<_> = first.present.iter().filter_map(|c| c.app.clone()).collect();
        assert_eq!((first.appeared.len(), apps.len()), (12, 4));
        let second = source.collect(TimeMs(1000));
        assert!(second.appeared.is_empty() && second.vanished.is_empty());
        assert_eq!(second.present[0].last_seen, TimeMs(1000));
        assert!(second.samples.times().iter().all(|time| *time == 1000));
    }

    #[test]
    fn a_cpu_limit_bites() {
        let host = host(1);
        let mut source = host.source();
        assert_eq!(value(&source.collect(TimeMs(0)), metrics::THROTTLED, "ml-train", Resource::Cpu), 0.0);
        let outcome = host.apply(&change("ml-train", Resource::Cpu, 1.0), &SystemClock);
        assert_eq!((outcome.status, outcome.limit_after, outcome.writes.len()), (OutcomeStatus::Applied, Some(1.0), 1));
        let after = source.collect(TimeMs(1000));
        assert_eq!(value(&after, metrics::USAGE, "ml-train", Resource::Cpu), 1.0);
        assert_eq!(value(&after, metrics::LIMIT, "ml-train", Resource::Cpu), 1.0);
        assert!(value(&after, metrics::THROTTLED, "ml-train", Resource::Cpu) > 0.9);
        let again = host.apply(&change("ml-train", Resource::Cpu, 1.001), &SystemClock);
        assert_eq!((again.status, again.writes.len()), (OutcomeStatus::Unchanged, 0));
    }

    #[test]
    fn a_terse_host_does_the_same_with_fewer_words() {
        let (talking, terse) = (host(1), host(1));
        terse.be_terse();
        for host in [&talking, &terse] {
            host.source().collect(TimeMs(0));
        }
        for target in [2.0, 2.0, 1.5, -1.0, 2e9, 1e8, 3e9] {
            for resource in Resource::ALL {
                let [said, done] =
                    [&talking, &terse].map(|host| host.apply(&change("ml-train", resource, target), &SystemClock));
                assert_eq!((done.status, done.limit_after), (said.status, said.limit_after), "{said:?}");
                let is_told = matches!(said.status, OutcomeStatus::Applied | OutcomeStatus::Unchanged);
                assert!(done.writes.is_empty() && !said.message.is_empty() && done.message.is_empty() == is_told);
            }
        }
        let [said, done] = [talking, terse].map(|host| host.source().collect(TimeMs(1_000)).samples);
        assert_eq!(said.values(), done.values());
    }

    #[test]
    fn memory_below_what_is_held_is_infeasible_and_growth_into_a_limit_kills() {
        let host = host(1);
        let mut source = host.source();
        let first = source.collect(TimeMs(0));
        let held = value(&first, metrics::UNRECLAIMABLE, "batch-etl-2", Resource::Memory);
        let below = host.apply(&change("batch-etl-2", Resource::Memory, held * 0.9), &SystemClock);
        assert_eq!((below.status, below.limit_after), (OutcomeStatus::Infeasible, Some(4096.0 * 1_048_576.0)));
        let above = host.apply(&change("batch-etl-2", Resource::Memory, held * 1.2), &SystemClock);
        assert_eq!(above.status, OutcomeStatus::Applied);
        let kills = |collected: &Collected| value(collected, metrics::OOM_KILLS, "batch-etl-2", Resource::Memory);
        let later: Vec<f64> = (1..900).map(|s| kills(&source.collect(TimeMs(s * 1000)))).collect();
        assert_eq!(later[0], 0.0);
        assert!(*later.last().unwrap() >= 1.0);
    }
}
