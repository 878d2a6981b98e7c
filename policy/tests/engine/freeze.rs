//! The kill switch: nothing is written, whatever rules want, until somebody turns it off.

use tidegate_actuator::KnobMode;
use tidegate_model::{Clock, Container, ContainerKey, Limit, Resource, Runtime};
use tidegate_policy::explain_sentence;

use crate::world::{Second, World};

const RULE: &str = "CREATE RULE more WITH (mode = 'on', cooldown_up = '1s') AS
    SELECT host, container, resource, allocated * 1.2 AS target, 'more' AS reason
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";

fn cpu(demand: f64) -> [(&'static str, Second); 1] {
    [("web", Second { resource: Resource::Cpu, demand })]
}

async fn world() -> World {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(RULE).await;
    world
}

fn container(baseline: f64) -> Container {
    Container {
        key: ContainerKey { host: "node0".to_owned(), name: "web".to_owned() },
        path: "/web".into(),
        cgroup: tidegate_model::CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: "web".to_owned(),
        incarnation: 1,
        app: None,
        user: None,
        labels: Default::default(),
        first_seen: crate::world::START,
        last_seen: crate::world::START,
        baseline: [(Resource::Cpu, Limit::At(baseline))].into(),
        bounds: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_changes_while_frozen_not_even_after_a_restart() {
    let world = world().await;
    assert_eq!(world.second(&cpu(0.5)).await.decisions.len(), 1);
    let written = world.actuator.changes.lock().len();
    let frozen = world.engine.freeze("anna", "load test", false, world.clock.now()).await.unwrap();
    assert_eq!((frozen.restored, frozen.freeze.by.as_str(), frozen.failed.len()), (0, "anna", 0));
    for _ in 0..3 {
        let report = world.second(&cpu(0.5)).await;
        assert!(report.frozen && report.runs.is_empty() && report.decisions.is_empty(), "{report:?}");
    }
    assert_eq!(world.actuator.changes.lock().len(), written);
    assert!(world.engine.ready());

    let world = world.restarted().await;
    assert_eq!(world.engine.frozen().map(|freeze| freeze.why), Some("load test".to_owned()));
    assert!(world.second(&cpu(0.5)).await.frozen);
    assert_eq!(world.actuator.changes.lock().len(), written);
    // Who turned it on first stays known.
    let again = world.engine.freeze("bert", "", false, world.clock.now()).await.unwrap();
    assert_eq!(again.freeze.by, "anna");

    assert!(world.engine.thaw("anna").await.unwrap());
    assert!(!world.engine.thaw("anna").await.unwrap());
    let report = world.second(&cpu(0.5)).await;
    assert!(!report.frozen && report.decisions.len() == 1, "{report:?}");
    assert_eq!(world.actuator.changes.lock().len(), written + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restoring_freeze_ends_at_the_baselines_and_says_so() {
    let world = world().await;
    world.store.put_containers(&[container(3.0)]).unwrap();
    world.second(&cpu(0.5)).await;
    assert!(world.limit("web", Resource::Cpu) < 3.0);
    let mut told = world.engine.decisions();
    let frozen = world.engine.freeze("anna", "", true, world.clock.now()).await.unwrap();
    assert_eq!((frozen.restored, frozen.failed.len()), (1, 0), "{frozen:?}");
    assert_eq!(world.limit("web", Resource::Cpu), 3.0);
    let sentence = explain_sentence(&told.try_recv().unwrap());
    assert!(sentence.contains("the kill switch puts the baseline back, 3.00 cores"), "{sentence}");
    assert_eq!(world.count("SELECT * FROM decisions WHERE rule = '(freeze)' AND outcome = 'applied'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_waits_for_the_write_under_way_and_stops_those_behind_it() {
    use std::sync::atomic::Ordering;
    let world = world().await;
    world.set_limit("db", Resource::Cpu, 1.0);
    world.actuator.stuck.store(true, Ordering::SeqCst);
    let engine = world.engine.clone();
    let now = world.clock.now();
    let (tick, freeze) = {
        world.clock.advance(std::time::Duration::from_secs(1));
        world.measure(&cpu(0.5)).await;
        let at = world.clock.now();
        let ticking = {
            let engine = engine.clone();
            tokio::spawn(async move { engine.tick(at).await })
        };
        while world.actuator.changes.lock().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let freezing = tokio::spawn(async move { engine.freeze("anna", "", false, now).await });
        while world.engine.frozen().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(!freezing.is_finished(), "a write is still under way");
        world.actuator.stuck.store(false, Ordering::SeqCst);
        (ticking.await.unwrap(), freezing.await.unwrap().unwrap())
    };
    assert_eq!((tick.decisions.len(), freeze.failed.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn knobs_are_kept_but_for_the_kill_switch_which_may_want_them_back() {
    let world = World::new().await;
    assert_eq!(world.engine.knob_mode(), KnobMode::Keep);
    world.engine.freeze("me", "", false, world.clock.now()).await.unwrap();
    assert_eq!(world.engine.knob_mode(), KnobMode::Hold);
    world.engine.freeze("me", "", true, world.clock.now()).await.unwrap();
    assert_eq!(world.engine.knob_mode(), KnobMode::GiveBack);
    let world = world.restarted().await;
    assert_eq!(world.engine.knob_mode(), KnobMode::GiveBack);
    world.engine.thaw("me").await.unwrap();
    assert_eq!(world.engine.knob_mode(), KnobMode::Keep);
}
