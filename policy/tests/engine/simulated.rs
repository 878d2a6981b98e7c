//! The shipped rules on the simulated host: the same loop as the demo's, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actuator::simulated::SimulatedHost;
use tidegate_actuator::{Actuator, ActuatorConfig, Collected};
use tidegate_model::{Clock, Mode, OutcomeStatus, VirtualClock, metrics};
use tidegate_policy::{DEFAULT_PACK, Engine, PolicyConfig, explain_sentence};
use tidegate_store::{Durability, Store, StoreConfig};

use crate::world::START;

/// Sum of one metric of one resource in a collection.
fn total(collected: &Collected, metric: &str, resource: &str) -> f64 {
    let rows = collected.samples.rows();
    let fitting = rows.filter(|(key, ..)| key.metric() == metric && key.tag("resource") == Some(resource));
    fitting.map(|(_, _, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_fleet_gets_by_with_less_and_nobody_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::new(START));
    let store = StoreConfig { dir: dir.path().join("data"), durability: Durability::None, ..StoreConfig::default() };
    let store = Store::open(store, START).unwrap();
    let host = SimulatedHost::new(ActuatorConfig::default(), 7);
    let mut source = host.source();
    let config = PolicyConfig {
        default_mode: Mode::On,
        gather_ms: 60_000,
        rule_timeout_ms: 60_000,
        // Two minutes are too short for one half of the fleet after the other.
        shrink_share: 1.0,
        ..PolicyConfig::default()
    };
    let actuator = Arc::clone(&host) as Arc<dyn Actuator>;
    let engine = Engine::new(Arc::clone(&store), actuator, config, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    engine.execute(DEFAULT_PACK, "test", START).await.unwrap();

    let mut limits = Vec::new();
    for _ in 0..120 {
        clock.advance(Duration::from_secs(1));
        let now = clock.now();
        let collected = source.collect(now);
        store.put_host(collected.host.clone()).unwrap();
        store.put_containers(&collected.present).unwrap();
        store.append(&collected.samples, now).await.unwrap();
        assert_eq!(total(&collected, metrics::OOM_KILLS, "memory"), 0.0);
        limits.push((total(&collected, metrics::LIMIT, "cpu"), total(&collected, metrics::LIMIT, "memory")));
        for decision in &engine.tick(now).await.decisions {
            let status = decision.outcome.status;
            let bad = matches!(status, OutcomeStatus::Failed | OutcomeStatus::Drifted | OutcomeStatus::Infeasible);
            assert!(!bad, "{}", explain_sentence(decision));
        }
    }
    let ((cpu_before, memory_before), (cpu, memory)) = (limits[0], limits[119]);
    assert!(cpu < 0.5 * cpu_before, "{cpu} of {cpu_before} cores");
    assert!(memory < 0.97 * memory_before, "{memory} of {memory_before} bytes");
}
