//! Fake cgroup trees in a temporary directory, and hosts on them.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tidegate_actuator::{Actuator, ActuatorConfig, AppRule, Change, Collected, LocalHost, Source};
use tidegate_model::{ContainerKey, Outcome, Resource, TimeMs, VirtualClock};

pub const MIB: f64 = 1_048_576.0;
pub const UNLIMITED_V1: &str = "9223372036854771712";

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    V1Separate,
    V1Combined,
    V2,
}

/// A tree with containers below /own.
pub struct Tree {
    pub dir: TempDir,
    pub kind: Kind,
}

impl Tree {
    pub fn new(kind: Kind) -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap(), kind };
        if kind == Kind::V2 {
            tree.write("", "cgroup.controllers", "cpu memory");
        }
        tree.cgroup("/own");
        tree.cgroup("/own/web");
        tree
    }

    pub fn path(&self, cgroup: &str, file: &str) -> PathBuf {
        let controller = file.split('.').next().unwrap();
        let mount = match (self.kind, controller) {
            (Kind::V2, _) => "",
            (Kind::V1Separate, controller) => controller,
            (Kind::V1Combined, "cpu" | "cpuacct") => "cpu,cpuacct",
            (Kind::V1Combined, controller) => controller,
        };
        self.dir.path().join(mount).join(cgroup.trim_start_matches('/')).join(file)
    }

    pub fn write(&self, cgroup: &str, file: &str, text: &str) {
        let path = self.path(cgroup, file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, cgroup: &str, file: &str) -> String {
        fs::read_to_string(self.path(cgroup, file)).unwrap()
    }

    /// A cgroup without limits that holds 100 MiB, 40 of them unreclaimable, 30 of them inactive page cache.
    pub fn cgroup(&self, path: &str) {
        let mib = |mib: u64| mib << 20;
        if self.kind == Kind::V2 {
            self.write(path, "cpu.max", "max 100000\n");
            self.write(path, "cpu.stat", "usage_usec 0\nuser_usec 0\nnr_periods 0\nnr_throttled 0\n");
            self.write(path, "cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
            self.write(path, "memory.current", &mib(100).to_string());
            let stat = format!("anon {}\nfile 0\nkernel {}\nshmem 0\ninactive_file {}\n", mib(38), mib(2), mib(30));
            self.write(path, "memory.stat", &stat);
            self.write(path, "memory.max", "max\n");
            self.write(path, "memory.high", "max\n");
            self.write(path, "memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 3\n");
        } else {
            self.write(path, "cpu.cfs_quota_us", "-1\n");
            self.write(path, "cpu.cfs_period_us", "100000\n");
            self.write(path, "cpu.cfs_burst_us", "0\n");
            self.write(path, "cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n");
            self.write(path, "cpuacct.usage", "0\n");
            self.write(path, "memory.usage_in_bytes", &mib(100).to_string());
            let stat = format!("total_rss {}\ntotal_shmem 0\ntotal_inactive_file {}\n", mib(38), mib(30));
            self.write(path, "memory.stat", &stat);
            self.write(path, "memory.kmem.usage_in_bytes", &mib(2).to_string());
            self.write(path, "memory.limit_in_bytes", UNLIMITED_V1);
            self.write(path, "memory.memsw.limit_in_bytes", UNLIMITED_V1);
            self.write(path, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        }
    }

    pub fn set_cpu(&self, path: &str, quota: u64) {
        match self.kind {
            Kind::V2 => self.write(path, "cpu.max", &format!("{quota} 100000\n")),
            _ => self.write(path, "cpu.cfs_quota_us", &format!("{quota}\n")),
        }
    }

    pub fn set_memory(&self, path: &str, bytes: f64) {
        self.write(path, self.memory_file(), &format!("{}\n", bytes as u64));
    }

    pub fn memory_file(&self) -> &'static str {
        if self.kind == Kind::V2 { "memory.max" } else { "memory.limit_in_bytes" }
    }

    pub fn cpu_file(&self) -> &'static str {
        if self.kind == Kind::V2 { "cpu.max" } else { "cpu.cfs_quota_us" }
    }

    pub fn set_cpu_usage(&self, path: &str, us: u64) {
        match self.kind {
            Kind::V2 => {
                self.write(path, "cpu.stat", &format!("usage_usec {us}\nnr_periods 10\nnr_throttled 4\n"));
                self.write(path, "cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=10\n");
            }
            _ => {
                self.write(path, "cpuacct.usage", &format!("{}\n", us * 1000));
                self.write(path, "cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 9\n");
            }
        }
    }

    pub fn config(&self) -> ActuatorConfig {
        ActuatorConfig {
            host: "h".into(),
            roots: vec!["/own".into()],
            mount: self.dir.path().to_owned(),
            squeeze_timeout_ms: 50,
            // No daemon of the machine that runs the tests is asked.
            docker_socket: PathBuf::new(),
            podman_socket: PathBuf::new(),
            lxd_sockets: vec![],
            system_bus: PathBuf::new(),
            apps: vec![AppRule { container: "web*".into(), app: "shop".into(), user: None }],
            ..Default::default()
        }
    }

    /// A host whose containers have been seen once.
    pub fn host(&self) -> Fake {
        Fake::new(self.config())
    }
}

pub struct Fake {
    pub host: Arc<LocalHost>,
    pub source: Box<dyn Source>,
    pub clock: VirtualClock,
    pub first: Collected,
}

impl Fake {
    pub fn new(config: ActuatorConfig) -> Self {
        let host = LocalHost::new(config).unwrap();
        let mut source = host.source();
        let first = source.collect(TimeMs(1_000));
        Self { host, source, clock: VirtualClock::new(TimeMs(1_000)), first }
    }

    pub fn apply(&self, resource: Resource, target: f64) -> Outcome {
        self.apply_to("web", resource, target)
    }

    pub fn apply_to(&self, name: &str, resource: Resource, target: f64) -> Outcome {
        self.host.apply(&change(name, resource, target, None), &self.clock)
    }

    /// A change of a limit that was `before` in force.
    pub fn apply_from(&self, before: f64, resource: Resource, target: f64) -> Outcome {
        self.host.apply(&change("web", resource, target, Some(before)), &self.clock)
    }

    pub fn collect(&mut self, seconds: i64) -> Collected {
        self.clock.set(TimeMs(seconds * 1_000));
        self.source.collect(TimeMs(seconds * 1_000))
    }
}

pub fn change(name: &str, resource: Resource, target: f64, limit_before: Option<f64>) -> Change {
    let container = ContainerKey { host: "h".into(), name: name.into() };
    Change { container, resource, target, limit_before, decision: "d1".into() }
}

/// Whole pages, as text.
pub fn tidy(bytes: f64) -> String {
    (bytes as u64 / 4096 * 4096).to_string()
}

pub fn value(collected: &Collected, metric: &str, resource: Resource) -> Option<f64> {
    let mut rows = collected.samples.rows();
    rows.find(|(key, ..)| key.metric() == metric && key.tag("resource") == Some(resource.as_str())).map(|row| row.2)
}

pub fn writes(outcome: &Outcome) -> Vec<(&str, &str)> {
    outcome.writes.iter().map(|w| (w.target.rsplit('/').next().unwrap(), w.value.as_str())).collect()
}

pub const KINDS: [Kind; 3] = [Kind::V1Separate, Kind::V1Combined, Kind::V2];
