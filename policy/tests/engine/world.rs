//! A host without a kernel: containers with a demand, limits that bite, and a record of what was written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_actuator::{Actuator, Change};
use tidegate_model::{
    Bounds, Bytes, CgroupVersion, Clock, Container, ContainerKey, Cores, Decision, Host, Limit, Outcome, OutcomeStatus,
    Resource, Runtime, SampleBatch, SeriesKey, TimeMs, VirtualClock, Write, metrics,
};
use tidegate_policy::{Engine, PolicyConfig, TickReport};
use tidegate_store::{Durability, Store, StoreConfig};

pub const MIB: f64 = 1_048_576.0;
/// A whole multiple of ten seconds.
pub const START: TimeMs = TimeMs(1_700_000_000_000);

/// Limits as the kernel would hold them.
#[derive(Default)]
pub struct Recorder {
    pub limits: Mutex<BTreeMap<(String, Resource), f64>>,
    pub changes: Mutex<Vec<Change>>,
    /// While set, `apply` does not return.
    pub stuck: AtomicBool,
    /// While set, nothing can be written.
    pub failing: AtomicBool,
}

impl Actuator for Recorder {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        self.changes.lock().push(change.clone());
        while self.stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let key = (change.container.name.clone(), change.resource);
        let failing = self.failing.load(Ordering::SeqCst);
        if !failing {
            self.limits.lock().insert(key.clone(), change.target);
        }
        Outcome {
            status: if failing { OutcomeStatus::Failed } else { OutcomeStatus::Applied },
            limit_after: self.limits.lock().get(&key).copied(),
            writes: vec![Write { target: "test".to_owned(), value: change.target.to_string() }],
            message: String::new(),
            at: clock.now(),
            took_us: 1,
        }
    }

    fn adopt(&self, container: &ContainerKey, resource: Resource, clock: &dyn Clock) -> Outcome {
        let limit_after = self.limits.lock().get(&(container.name.clone(), resource)).copied();
        Outcome { limit_after, ..Outcome::unwritten(OutcomeStatus::Unchanged, "adopted".to_owned(), clock.now()) }
    }

    fn simulated(&self) -> Option<String> {
        Some("a test".to_owned())
    }
}

pub struct World {
    pub store: Arc<Store>,
    pub actuator: Arc<Recorder>,
    pub clock: Arc<VirtualClock>,
    pub engine: Arc<Engine>,
    /// OOM kills of containers so far; those that are not in it have no counter.
    pub kills: Mutex<BTreeMap<String, f64>>,
    _dir: Arc<tempfile::TempDir>,
}

/// One second of one container's life.
#[derive(Clone, Copy)]
pub struct Second {
    pub resource: Resource,
    pub demand: f64,
}

impl World {
    pub async fn new() -> Self {
        // A busy machine must not change which rules are judged together.
        Self::with(PolicyConfig { gather_ms: 60_000, rule_timeout_ms: 60_000, ..PolicyConfig::default() })
    }

    pub fn with(config: PolicyConfig) -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), Arc::default(), START, config)
    }

    fn open(dir: Arc<tempfile::TempDir>, actuator: Arc<Recorder>, now: TimeMs, config: PolicyConfig) -> Self {
        let store =
            StoreConfig { dir: dir.path().join("data"), durability: Durability::None, ..StoreConfig::default() };
        let store = Store::open(store, now).unwrap();
        let host = Host { name: "node0".to_owned(), cpu: Cores(8.0), memory: Bytes(16 << 30), last_seen: now };
        store.put_host(host).unwrap();
        let clock = Arc::new(VirtualClock::new(now));
        let engine = Engine::new(
            Arc::clone(&store),
            Arc::clone(&actuator) as Arc<dyn Actuator>,
            config,
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        Self { store, actuator, clock, engine: engine.unwrap(), kills: Mutex::default(), _dir: dir }
    }

    /// The same data directory and limits after a restart of the program.
    pub async fn restarted(self) -> Self {
        let World { store, actuator, clock, engine, _dir, .. } = self;
        store.close().await.unwrap();
        drop((store, engine));
        Self::open(_dir, actuator, clock.now(), PolicyConfig::default())
    }

    /// Applies shipped packs, and lets all rules there are go so far.
    pub async fn apply_packs(&self, packs: &[&str], mode: &str) {
        self.apply_rules(&packs.iter().map(|name| pack(name)).collect::<String>(), mode).await;
    }

    /// Applies rules, and lets all there are go so far.
    pub async fn apply_rules(&self, sql: &str, mode: &str) {
        self.run_sql(sql).await;
        for rule in self.engine.rules() {
            self.run_sql(&format!("ALTER RULE {} SET (mode = '{mode}')", rule.name)).await;
        }
    }

    pub async fn run_sql(&self, sql: &str) {
        self.engine.execute(sql, "test", self.clock.now()).await.unwrap();
    }

    pub fn set_limit(&self, container: &str, resource: Resource, limit: f64) {
        self.actuator.limits.lock().insert((container.to_owned(), resource), limit);
    }

    /// Makes a container known, as a collector would.
    pub fn put_container(&self, name: &str, app: Option<&str>, labels: &[(&str, &str)], baseline: Limit) {
        self.store.put_containers(&[container(name, app, labels, baseline)]).unwrap();
    }

    /// As `put_container`, with bounds of its CPU limit.
    pub fn put_bounded(&self, name: &str, app: &str, (min, max): (f64, f64)) {
        let bounds = BTreeMap::from([(Resource::Cpu, Bounds { min, max })]);
        let container = Container { bounds, ..container(name, Some(app), &[], Limit::Unlimited) };
        self.store.put_containers(&[container]).unwrap();
    }

    /// A sample as somebody pushes it, of now.
    pub async fn push(&self, metric: &str, tags: &[(&str, &str)], value: f64) {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut batch = SampleBatch::new();
        batch.push(SeriesKey::new(metric, tags), self.clock.now(), value);
        assert_eq!(self.store.append(&batch, self.clock.now()).await.unwrap().rejected.len(), 0);
    }

    pub fn limit(&self, container: &str, resource: Resource) -> f64 {
        self.actuator.limits.lock()[&(container.to_owned(), resource)]
    }

    /// Measures all containers: usage is what the demand leaves under the limit.
    pub async fn measure(&self, demands: &[(&str, Second)]) {
        let now = self.clock.now();
        let mut batch = SampleBatch::new();
        for (container, Second { resource, demand }) in demands {
            let limit = self.limit(container, *resource);
            let mut push = |metric: &str, value: f64| {
                let tags = [("host", "node0"), ("container", container), ("resource", resource.as_str())];
                let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
                batch.push(SeriesKey::new(metric, tags), now, value);
            };
            push(metrics::USAGE, demand.min(limit));
            if limit.is_finite() {
                push(metrics::LIMIT, limit);
            }
            match resource {
                Resource::Cpu => push(metrics::THROTTLED, if *demand > limit { 0.9 } else { 0.0 }),
                rate if rate.is_rate() => {}
                _ => {
                    push(metrics::UNRECLAIMABLE, 0.8 * demand.min(limit));
                    if let Some(kills) = self.kills.lock().get(*container) {
                        push(metrics::OOM_KILLS, *kills);
                    }
                }
            }
        }
        let report = self.store.append(&batch, now).await.unwrap();
        assert_eq!(report.rejected.len(), 0);
    }

    /// A second passes: everything is measured at its end, then the rules of that instant run.
    pub async fn second(&self, demands: &[(&str, Second)]) -> TickReport {
        self.clock.advance(Duration::from_secs(1));
        self.measure(demands).await;
        let report = self.engine.tick(self.clock.now()).await;
        assert_eq!(report.problems, Vec::<String>::new());
        report
    }

    pub async fn count(&self, sql: &str) -> usize {
        let options = self.store.default_query_options(self.clock.now());
        let answer = self.store.query(sql, &options).await.unwrap();
        answer.batches.iter().map(|batch| batch.num_rows()).sum()
    }
}

/// The decisions of one rule in a report, with what came of them.
pub fn of<'a>(report: &'a TickReport, rule: &str) -> Vec<&'a Decision> {
    report.decisions.iter().filter(|decision| decision.rule == rule).collect()
}

/// The guard that refused a decision.
pub fn refused_by(decision: &Decision) -> Option<&str> {
    let last = decision.guards.last().filter(|_| decision.outcome.status == OutcomeStatus::Refused);
    last.map(|note| note.guard.as_str())
}

pub fn cpu(demand: f64) -> Second {
    Second { resource: Resource::Cpu, demand }
}

pub fn memory(demand: f64) -> Second {
    Second { resource: Resource::Memory, demand }
}

pub fn key(name: &str) -> ContainerKey {
    ContainerKey { host: "node0".to_owned(), name: name.to_owned() }
}

fn container(name: &str, app: Option<&str>, labels: &[(&str, &str)], baseline: Limit) -> Container {
    Container {
        key: key(name),
        path: format!("/{name}").into(),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: name.to_owned(),
        incarnation: 1,
        app: app.map(str::to_owned),
        user: None,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        first_seen: START,
        last_seen: START,
        baseline: Resource::ALL.map(|resource| (resource, baseline)).into(),
        bounds: BTreeMap::new(),
    }
}

/// The text of a shipped pack.
pub fn pack(name: &str) -> String {
    tidegate_policy::pack(name).unwrap().sql.to_owned()
}
