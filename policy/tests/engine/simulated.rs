//! The shipped rules on the simulated host: the same loop as the demo's, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actuator::simulated::SimulatedHost;
use tidegate_actuator::{ActuatorConfig, Collected, Source};
use tidegate_model::{Clock, Mode, OutcomeStatus, VirtualClock, metrics};
use tidegate_policy::{DEFAULT_PACK, Engine, PolicyConfig, TickReport, explain_sentence};
use tidegate_store::{Durability, Store, StoreConfig};

use crate::world::START;

/// Sum of one metric of one resource in a collection.
fn total(collected: &Collected, metric: &str, resource: &str) -> f64 {
    let rows = collected.samples.rows();
    let fitting = rows.filter(|(key, ..)| key.metric() == metric && key.tag("resource") == Some(resource));
    fitting.map(|(_, _, value)| value).sum()
}

/// The simulated host, an engine for it and their clock.
pub struct Fleet {
    pub store: Arc<Store>,
    pub clock: Arc<VirtualClock>,
    pub engine: Arc<Engine>,
    source: Box<dyn Source>,
    /// What was collected last.
    pub collected: Option<Collected>,
    _dir: tempfile::TempDir,
}

impl Fleet {
    pub async fn new(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(VirtualClock::new(START));
        let store =
            StoreConfig { dir: dir.path().join("data"), durability: Durability::None, ..StoreConfig::default() };
        let store = Store::open(store, START).unwrap();
        let host = SimulatedHost::new(ActuatorConfig::default(), 7);
        let source = host.source();
        let config = PolicyConfig {
            default_mode: Mode::On,
            gather_ms: 60_000,
            rule_timeout_ms: 60_000,
            // Two minutes are too short for one half of the fleet after the other.
            shrink_share: 1.0,
            ..PolicyConfig::default()
        };
        let engine = Engine::new(Arc::clone(&store), host, config, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        engine.execute(rules, "test", START).await.unwrap();
        Self { store, clock, engine, source, collected: None, _dir: dir }
    }

    pub async fn second(&mut self) -> TickReport {
        self.clock.advance(Duration::from_secs(1));
        let now = self.clock.now();
        let collected = self.source.collect(now);
        self.store.put_host(collected.host.clone()).unwrap();
        self.store.put_containers(&collected.present).unwrap();
        self.store.append(&collected.samples, now).await.unwrap();
        self.collected = Some(collected);
        self.engine.tick(now).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_fleet_gets_by_with_less_and_nobody_is_killed() {
    let mut fleet = Fleet::new(DEFAULT_PACK).await;
    let mut limits = Vec::new();
    for _ in 0..120 {
        let report = fleet.second().await;
        let collected = fleet.collected.as_ref().unwrap();
        assert_eq!(total(collected, metrics::OOM_KILLS, "memory"), 0.0);
        limits.push((total(collected, metrics::LIMIT, "cpu"), total(collected, metrics::LIMIT, "memory")));
        for decision in &report.decisions {
            let status = decision.outcome.status;
            let bad = matches!(status, OutcomeStatus::Failed | OutcomeStatus::Drifted | OutcomeStatus::Infeasible);
            assert!(!bad, "{}", explain_sentence(decision));
        }
    }
    let ((cpu_before, memory_before), (cpu, memory)) = (limits[0], limits[119]);
    assert!(cpu < 0.5 * cpu_before, "{cpu} of {cpu_before} cores");
    assert!(memory < 0.97 * memory_before, "{memory} of {memory_before} bytes");
}
