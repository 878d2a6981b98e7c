//! A made-up host: containers with changing demand behind limits that bite. For demonstrations, and for machines without
//! writable cgroups.
//!
//! Demand is a pure function of the seed, the container and the time, so two hosts with the same seed that are collected
//! at the same times behave alike. What a limit does to demand follows the kernel: CPU above the limit is throttled,
//! memory above the limit kills the process, which starts again with little memory.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::{
    Bounds, Bytes, CgroupVersion, Clock, Container, ContainerKey, Limit, Outcome, OutcomeStatus, Resource, Runtime,
    SampleBatch, TimeMs, Write, metrics,
};

use crate::apply::Verdict;
use crate::capacity::Capacity;
use crate::collector::Tags;
use crate::config::ActuatorConfig;
use crate::drift::describe;
use crate::quota::{CpuMax, Plan, plan_cpu, plan_memory};
use crate::{Actuator, Change, Collected, Source};

const CAPACITY: Capacity = Capacity { cpus: 32, memory: 64 << 30 };
const PERIOD_US: u64 = 100_000;
const PAGE: u64 = 4096;
const MIB: f64 = 1_048_576.0;
/// Room that the kernel needs above what cannot be reclaimed, as for real containers.
const FLOOR: f64 = 1.02;
/// File cache in the working set, as a share of anonymous memory.
const CACHE: f64 = 0.15;

/// How demand changes over time.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Nearly the same all the time.
    Steady,
    /// Low and high by turns, each for half of the period.
    Square { period_s: f64 },
    /// Up and down in straight lines.
    Ramp { period_s: f64 },
    /// Low, with a peak of some seconds at an unforeseeable moment of each period.
    Burst { period_s: f64, length_s: f64 },
    /// Up in a straight line, then back to the beginning: a leak and a restart.
    Growth { period_s: f64 },
}

/// Name, app, user, CPU shape with low and high in cores, memory shape with low and high in MiB.
type Row = (&'static str, &'static str, &'static str, Shape, [f64; 2], Shape, [f64; 2]);

const FLEET: [Row; 12] = {
    use Shape::{Burst, Growth, Ramp, Square, Steady};
    const DAY: Shape = Ramp { period_s: 300.0 };
    [
        ("shop-web-1", "shop", "alice", Square { period_s: 120.0 }, [0.3, 1.4], DAY, [180.0, 320.0]),
        ("shop-web-2", "shop", "alice", Square { period_s: 120.0 }, [0.3, 1.2], DAY, [180.0, 300.0]),
        ("shop-cart", "shop", "alice", Burst { period_s: 60.0, length_s: 8.0 }, [0.2, 1.8], Steady, [120.0, 130.0]),
        ("shop-db", "shop", "alice", Steady, [0.9, 1.0], Steady, [900.0, 950.0]),
        ("search-api-1", "search", "alice", DAY, [0.2, 1.9], DAY, [250.0, 500.0]),
        ("search-api-2", "search", "alice", DAY, [0.2, 1.7], DAY, [250.0, 480.0]),
        ("search-index", "search", "alice", Burst { period_s: 150.0, length_s: 25.0 }, [0.1, 2.4], DAY, [400.0, 700.0]),
        (
            "batch-etl-1",
            "batch",
            "bob",
            Square { period_s: 400.0 },
            [0.1, 2.6],
            Square { period_s: 400.0 },
            [150.0, 800.0],
        ),
        ("batch-etl-2", "batch", "bob", Steady, [0.6, 0.7], Growth { period_s: 900.0 }, [200.0, 1400.0]),
        ("batch-report", "batch", "bob", Burst { period_s: 240.0, length_s: 40.0 }, [0.05, 1.1], Steady, [90.0, 100.0]),
        ("ml-train", "ml", "bob", Steady, [2.7, 3.0], Growth { period_s: 1800.0 }, [1200.0, 2600.0]),
        ("ml-serve", "ml", "bob", Burst { period_s: 45.0, length_s: 5.0 }, [0.5, 2.2], Steady, [1500.0, 1550.0]),
    ]
};

/// What a generous operator would have set by hand, before any rule: far above what is used.
const FIRST_CPU: f64 = 4.0;
const FIRST_MEMORY: f64 = 4096.0 * MIB;
const DEFAULT_BOUNDS: [(Resource, Bounds); 2] = [
    (Resource::Cpu, Bounds { min: 0.1, max: FIRST_CPU }),
    (Resource::Memory, Bounds { min: 32.0 * MIB, max: FIRST_MEMORY }),
];

/// A host that exists in memory only.
#[derive(Debug)]
pub struct SimulatedHost {
    name: String,
    seed: u64,
    containers: Mutex<Vec<Simulated>>,
}

#[derive(Debug)]
struct Simulated {
    container: Container,
    row: usize,
    cpu: CpuMax,
    memory: Limit,
    /// Anonymous memory in use at the last collection, in bytes.
    anon: f64,
    /// Since when the process runs; `None` before the first collection.
    started: Option<TimeMs>,
    oom_kills: u64,
    announced: bool,
}

impl SimulatedHost {
    /// Makes the containers. Of `config`, the host's name, bounds and apps count; without bounds there are sensible ones.
    pub fn new(config: ActuatorConfig, seed: u64) -> Arc<Self> {
        let containers = (0..FLEET.len()).map(|row| Simulated::new(&config, row)).collect();
        Arc::new(Self { name: config.host, seed, containers: Mutex::new(containers) })
    }

    /// A collector of this host. Appearances are reported once, by whichever source collects first.
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(SimulatedSource(Arc::clone(self)))
    }

    fn change(&self, change: &Change, writes: &mut Vec<Write>) -> Verdict {
        let mut containers = self.containers.lock();
        let Some(found) = containers.iter_mut().find(|known| known.container.key == change.container) else {
            let message = format!("no container {} is known on host {}", change.container, self.name);
            return Verdict::new(OutcomeStatus::Refused, None, message);
        };
        match change.resource {
            Resource::Cpu => found.change_cpu(change.target, writes),
            Resource::Memory => found.change_memory(change.target, writes),
        }
    }
}

impl Actuator for SimulatedHost {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        let mut writes = Vec::new();
        let verdict = self.change(change, &mut writes);
        let limit_after = verdict.limit.and_then(Limit::value);
        Outcome { status: verdict.status, limit_after, writes, message: verdict.message, at: clock.now(), took_us: 1 }
    }

    fn simulated(&self) -> Option<String> {
        Some(format!("made-up containers with seed {}; no kernel is measured or changed", self.seed))
    }
}

impl Simulated {
    fn new(config: &ActuatorConfig, row: usize) -> Self {
        let (name, app, user, ..) = FLEET[row];
        let (own_app, own_user) = config.app_of(name);
        let mut bounds: BTreeMap<Resource, Bounds> = DEFAULT_BOUNDS.into();
        bounds.extend(config.bounds_of(name, CAPACITY));
        let cpu = CpuMax { quota: Some((FIRST_CPU * PERIOD_US as f64) as u64), period: PERIOD_US };
        let memory = Limit::At(FIRST_MEMORY);
        let container = Container {
            key: ContainerKey { host: config.host.clone(), name: name.to_owned() },
            path: PathBuf::from("/simulated").join(name),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Simulated,
            id: name.to_owned(),
            incarnation: row as u64 + 1,
            app: own_app.or(Some(app.to_owned())),
            user: own_user.or(Some(user.to_owned())),
            labels: BTreeMap::new(),
            first_seen: TimeMs(0),
            last_seen: TimeMs(0),
            baseline: [(Resource::Cpu, cpu.limit()), (Resource::Memory, memory)].into(),
            bounds,
        };
        Self { container, row, cpu, memory, anon: 0.0, started: None, oom_kills: 0, announced: false }
    }

    fn file(&self, name: &str) -> String {
        format!("simulated:{}/{name}", self.container.path.display())
    }

    fn change_cpu(&mut self, target: f64, writes: &mut Vec<Write>) -> Verdict {
        let before = self.cpu.limit();
        let quota = match plan_cpu(target, self.cpu) {
            Err(why) => return Verdict::new(OutcomeStatus::Refused, before, why),
            Ok(Plan::Unchanged) => return unchanged(before, Resource::Cpu),
            Ok(Plan::Write(quota)) => quota,
        };
        self.cpu.quota = quota;
        let value = quota.map_or_else(|| format!("max {PERIOD_US}"), |quota| format!("{quota} {PERIOD_US}"));
        writes.push(Write { target: self.file("cpu.max"), value });
        applied(before, self.cpu.limit(), Resource::Cpu)
    }

    fn change_memory(&mut self, target: f64, writes: &mut Vec<Write>) -> Verdict {
        let before = self.memory;
        let bytes = match plan_memory(target, before, PAGE) {
            Err(why) => return Verdict::new(OutcomeStatus::Refused, before, why),
            Ok(Plan::Unchanged) => return unchanged(before, Resource::Memory),
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
        let value = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        writes.push(Write { target: self.file("memory.max"), value });
        applied(before, self.memory, Resource::Memory)
    }

    /// Lives on until `now` and says what was measured.
    fn measure(&mut self, seed: u64, now: TimeMs, samples: &mut SampleBatch) {
        let (_, _, _, cpu_shape, cpu_range, memory_shape, memory_range) = FLEET[self.row];
        let key = seed ^ (self.row as u64 + 1).wrapping_mul(0x9e37_79b9);
        let seconds = now.0 as f64 / 1e3;

        let wanted = demand(cpu_shape, cpu_range, key, seconds);
        let limit =
            self.cpu.limit().value().map_or(CAPACITY.of(Resource::Cpu), |own| own.min(CAPACITY.of(Resource::Cpu)));
        let used = wanted.min(limit);
        // A group that wants twice its quota runs out of it in each period; one that wants a little more, in most.
        let throttled = ((wanted / limit - 1.0) * 3.0).clamp(0.0, 1.0);

        let started = *self.started.get_or_insert_with(|| now.minus(Duration::from_secs(key % 120)));
        let age = match memory_shape {
            Shape::Growth { .. } => now.since(started).as_secs_f64(),
            _ => seconds,
        };
        let memory_limit = self.memory.value().unwrap_or(f64::MAX).min(CAPACITY.of(Resource::Memory));
        let anon = demand(memory_shape, memory_range, key ^ 1, age) * MIB;
        if anon > memory_limit {
            self.oom_kills += 1;
            self.started = Some(now);
            self.anon = memory_range[0] * MIB * 0.3;
        } else {
            self.anon = anon;
        }
        let working_set = (self.anon * (1.0 + CACHE)).min(memory_limit);

        let tags = Tags::of(&self.container);
        let mut push = |metric, resource, value| samples.push(tags.series(metric, resource), now, value);
        push(metrics::USAGE, Resource::Cpu, used);
        push(metrics::LIMIT, Resource::Cpu, limit);
        push(metrics::THROTTLED, Resource::Cpu, throttled);
        push(metrics::PRESSURE_SOME, Resource::Cpu, throttled * 0.8);
        push(metrics::PRESSURE_FULL, Resource::Cpu, throttled * 0.5);
        push(metrics::USAGE, Resource::Memory, working_set);
        push(metrics::LIMIT, Resource::Memory, memory_limit);
        push(metrics::UNRECLAIMABLE, Resource::Memory, self.anon);
        push(metrics::OOM_KILLS, Resource::Memory, self.oom_kills as f64);
        // Less cache than it would like means that pages are read again and again.
        let squeezed = (1.0 - working_set / (self.anon * (1.0 + CACHE))).clamp(0.0, 1.0);
        push(metrics::PRESSURE_SOME, Resource::Memory, squeezed);
        push(metrics::PRESSURE_FULL, Resource::Memory, squeezed * 0.3);
        self.container.last_seen = now;
    }
}

fn unchanged(limit: Limit, resource: Resource) -> Verdict {
    Verdict::new(OutcomeStatus::Unchanged, limit, format!("{} stand there already", describe(limit, resource)))
}

fn applied(before: Limit, after: Limit, resource: Resource) -> Verdict {
    let message = format!("{} to {}", describe(before, resource), describe(after, resource));
    Verdict::new(OutcomeStatus::Applied, after, message)
}

struct SimulatedSource(Arc<SimulatedHost>);

impl Source for SimulatedSource {
    fn collect(&mut self, now: TimeMs) -> Collected {
        let mut containers = self.0.containers.lock();
        let (mut samples, mut appeared) = (SampleBatch::new(), Vec::new());
        for simulated in containers.iter_mut() {
            let first = !std::mem::replace(&mut simulated.announced, true);
            if first {
                simulated.container.first_seen = now;
            }
            simulated.measure(self.0.seed, now, &mut samples);
            if first {
                appeared.push(simulated.container.clone());
            }
        }
        let present = containers.iter().map(|simulated| simulated.container.clone()).collect();
        Collected {
            samples,
            host: CAPACITY.host(&self.0.name, now),
            appeared,
            vanished: Vec::new(),
            present,
            drifts: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// What a container would use without a limit, at a time in seconds.
fn demand(shape: Shape, [low, high]: [f64; 2], key: u64, seconds: f64) -> f64 {
    let span = high - low;
    let offset = unit(key) * 60.0;
    let part = |period: f64| ((seconds + offset) / period).rem_euclid(1.0);
    let level = match shape {
        Shape::Steady => 0.5 + 0.2 * (TAU * part(97.0)).sin(),
        Shape::Square { period_s } => f64::from(part(period_s) < 0.5),
        Shape::Ramp { period_s } => 1.0 - (2.0 * part(period_s) - 1.0).abs(),
        Shape::Burst { period_s, length_s } => {
            let turn = ((seconds + offset) / period_s).floor();
            let start = unit(key ^ (turn as i64 as u64).wrapping_mul(0xff51_afd7)) * (period_s - length_s);
            let within = part(period_s) * period_s - start;
            f64::from((0.0..length_s).contains(&within))
        }
        Shape::Growth { period_s } => (seconds / period_s).rem_euclid(1.0),
    };
    let noise = unit(key ^ (seconds.floor() as i64 as u64).wrapping_mul(0xc4ce_b9fe)) - 0.5;
    (low + span * level) * (1.0 + 0.06 * noise)
}

/// A number in 0..1 that looks random and is the same for the same key (splitmix64).
fn unit(key: u64) -> f64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
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
    fn memory_below_what_is_held_is_infeasible_and_growth_into_a_limit_kills() {
        let host = host(1);
        let mut source = host.source();
        let first = source.collect(TimeMs(0));
        let held = value(&first, metrics::UNRECLAIMABLE, "batch-etl-2", Resource::Memory);
        let below = host.apply(&change("batch-etl-2", Resource::Memory, held * 0.9), &SystemClock);
        assert_eq!((below.status, below.limit_after), (OutcomeStatus::Infeasible, Some(FIRST_MEMORY)));
        let above = host.apply(&change("batch-etl-2", Resource::Memory, held * 1.2), &SystemClock);
        assert_eq!(above.status, OutcomeStatus::Applied);
        let kills = |collected: &Collected| value(collected, metrics::OOM_KILLS, "batch-etl-2", Resource::Memory);
        let later: Vec<f64> = (1..900).map(|s| kills(&source.collect(TimeMs(s * 1000)))).collect();
        assert_eq!(later[0], 0.0);
        assert!(*later.last().unwrap() >= 1.0);
    }
}
