//! The fleet whose metrics are pushed: hosts with twenty containers of ten metrics each, from a fixed seed.
//!
//! The values have the shapes that containers have: CPU and network are random walks with two decimals, resident memory
//! walks in whole MiB, disks are idle with bursts, limits and threads are steps. They are kept as whole numbers with a
//! scale, so that every wire format writes the same value.

/// Metrics of a container, with the number of decimals of their values.
pub const METRICS: [(&str, u32); 10] = [
    ("cpu_user", 2),
    ("cpu_kernel", 2),
    ("cpu_limit", 0),
    ("mem_resident", 0),
    ("mem_limit", 0),
    ("disk_read", 2),
    ("disk_write", 2),
    ("net_in", 2),
    ("net_out", 2),
    ("threads", 0),
];
/// Containers whose samples of one step make a body: 1,000 points.
pub const GROUP: usize = 100;
const CONTAINERS_PER_HOST: usize = 20;
const APPS: usize = 25;

const CPU_USER: usize = 0;
const CPU_KERNEL: usize = 1;
const CPU_LIMIT: usize = 2;
const RESIDENT: usize = 3;
const MEM_LIMIT: usize = 4;
const DISKS: [usize; 2] = [5, 6];
const NETS: [usize; 2] = [7, 8];
const THREADS: usize = 9;

/// The tags of a container.
#[derive(Clone)]
pub struct Tags {
    pub host: String,
    pub container: String,
    pub app: String,
}

/// One container and what it measured last, in units of the last decimal.
pub struct Container {
    pub tags: Tags,
    pub values: [i64; METRICS.len()],
    burst_left: u64,
}

/// The containers of one body, with a random sequence of their own: groups can be generated in any order.
pub struct Group {
    pub containers: Vec<Container>,
    random: Random,
}

/// All groups of a fleet.
pub fn fleet(hosts: usize, seed: u64) -> Vec<Group> {
    let containers = hosts * CONTAINERS_PER_HOST;
    let firsts = (0..containers).step_by(GROUP);
    firsts.map(|first| Group::new(first, GROUP.min(containers - first), seed)).collect()
}

impl Group {
    fn new(first: usize, count: usize, seed: u64) -> Self {
        let mut random = Random(seed ^ (first as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let containers = (first..first + count).map(|number| Container::new(number, &mut random)).collect();
        Self { containers, random }
    }

    /// Goes on by one step.
    pub fn step(&mut self) {
        for container in &mut self.containers {
            container.step(&mut self.random);
        }
    }

    pub fn points(&self) -> usize {
        self.containers.len() * METRICS.len()
    }
}

impl Container {
    fn new(number: usize, random: &mut Random) -> Self {
        let host = number / CONTAINERS_PER_HOST;
        let tags = Tags {
            host: format!("node{host:03}"),
            container: format!("node{host:03}-c{:02}", number % CONTAINERS_PER_HOST),
            app: format!("app{:02}", number % APPS),
        };
        let mut values = [0; METRICS.len()];
        values[CPU_LIMIT] = 100 * random.between(1, 4);
        values[CPU_USER] = random.between(500, 100 * values[CPU_LIMIT]);
        values[CPU_KERNEL] = random.between(50, 2_000);
        values[RESIDENT] = random.between(200, 3_000);
        values[MEM_LIMIT] = 4_096;
        NETS.iter().for_each(|&net| values[net] = random.between(0, 1_000));
        values[THREADS] = random.between(4, 64);
        Self { tags, values, burst_left: 0 }
    }

    fn step(&mut self, random: &mut Random) {
        let values = &mut self.values;
        if random.one_in(30) {
            walk(&mut values[CPU_LIMIT], 25 * random.between(-1, 1), 50, 400);
        }
        let limit = 100 * values[CPU_LIMIT];
        walk(&mut values[CPU_USER], random.between(-800, 800), 100, limit);
        walk(&mut values[CPU_KERNEL], random.between(-100, 100), 10, 5_000);
        if random.one_in(60) {
            walk(&mut values[MEM_LIMIT], 256 * random.between(-2, 2), 1_024, 8_192);
        }
        let limit = values[MEM_LIMIT];
        walk(&mut values[RESIDENT], random.between(-16, 16), 64, limit);
        let busy = self.burst_left > 0;
        for (disk, most) in DISKS.into_iter().zip([20_000, 15_000]) {
            values[disk] = if busy { random.between(0, most) } else { 0 };
        }
        match busy {
            true => self.burst_left -= 1,
            false if random.one_in(20) => self.burst_left = random.between(1, 6) as u64,
            false => {}
        }
        NETS.iter().for_each(|&net| walk(&mut values[net], random.between(-300, 300), 0, 12_500));
        if random.one_in(12) {
            walk(&mut values[THREADS], random.between(-2, 2), 1, 256);
        }
    }
}

fn walk(value: &mut i64, by: i64, least: i64, most: i64) {
    *value = (*value + by).clamp(least, most);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A whole number between `least` and `most`, both included.
    fn between(&mut self, least: i64, most: i64) -> i64 {
        least + (self.next() % (most - least + 1) as u64) as i64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_fleet_and_another_seed_another() {
        let values = |seed| {
            let mut groups = fleet(10, seed);
            groups.iter_mut().for_each(|group| (0..50).for_each(|_| group.step()));
            groups.iter().flat_map(|group| group.containers.iter().map(|c| c.values)).collect::<Vec<_>>()
        };
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
        assert_eq!(values(1).len(), 200);
    }

    #[test]
    fn usage_stays_within_its_limit() {
        let mut group = Group::new(0, GROUP, 7);
        for _ in 0..1_000 {
            group.step();
            for container in &group.containers {
                let values = container.values;
                assert!(values[CPU_USER] <= 100 * values[CPU_LIMIT] && values[RESIDENT] <= values[MEM_LIMIT]);
                assert!(values.iter().all(|value| *value >= 0));
            }
        }
    }
}
