//! The made-up containers of the demo: their names, their shapes of demand, what an operator would have given them.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use tidegate_model::{Bounds, CgroupVersion, Limit, Resource, TimeMs};

use super::{CAPACITY, Demand, Held, Life, Member, Workload};
use crate::config::ActuatorConfig;

const MIB: f64 = 1_048_576.0;
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
/// Most bytes a second that a container reads or writes for each core that it uses.
const DISK: f64 = 80.0 * MIB;
const DEFAULT_BOUNDS: [(Resource, Bounds); 2] = [
    (Resource::Cpu, Bounds { min: 0.1, max: FIRST_CPU }),
    (Resource::Memory, Bounds { min: 32.0 * MIB, max: FIRST_MEMORY }),
];

/// What the fleet wants: a pure function of the seed, the container and the time.
#[derive(Debug)]
pub(super) struct Fleet {
    pub seed: u64,
}

impl Workload for Fleet {
    fn demand(&self, container: usize, now: TimeMs, life: Life) -> Demand {
        let (_, _, _, cpu_shape, cpu_range, memory_shape, memory_range) = FLEET[container % FLEET.len()];
        let key = self.seed ^ (container as u64 + 1).wrapping_mul(0x9e37_79b9);
        let seconds = now.0 as f64 / 1e3;
        // What grows does so from its start; the first processes started some time before they were first seen.
        let before = if life.killed { 0.0 } else { (key % 120) as f64 };
        let age = match memory_shape {
            Shape::Growth { .. } => life.age.as_secs_f64() + before,
            _ => seconds,
        };
        let anon = demand(memory_shape, memory_range, key ^ 1, age) * MIB;
        let cpu = demand(cpu_shape, cpu_range, key, seconds);
        // Who works reads and writes, some of them more than others.
        let io = [key ^ 2, key ^ 3].map(|key| (unit(key) > 0.4).then(|| cpu * unit(key) * DISK));
        Demand {
            cpu: Some(cpu),
            memory: Some(Held { anon, working_set: anon * (1.0 + CACHE) }),
            io: io.iter().any(Option::is_some).then(|| io.map(|rate| rate.unwrap_or(0.0))),
        }
    }
}

/// The fleet's containers, with the bounds and apps that `config` gives them, and sensible ones where it gives none.
pub(super) fn members(config: &ActuatorConfig) -> Vec<Member> {
    let member = |(name, app, user, ..): &Row| {
        let (own_app, own_user) = config.app_of(name);
        let mut bounds: BTreeMap<Resource, Bounds> = DEFAULT_BOUNDS.into();
        bounds.extend(config.bounds_of(name, CAPACITY));
        Member {
            host: config.host.clone(),
            cgroup: CgroupVersion::V2,
            name: (*name).to_owned(),
            app: own_app.or(Some((*app).to_owned())),
            user: own_user.or(Some((*user).to_owned())),
            labels: BTreeMap::new(),
            bounds,
            cpu: Limit::At(FIRST_CPU),
            memory: Limit::At(FIRST_MEMORY),
        }
    };
    FLEET.iter().map(member).collect()
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
