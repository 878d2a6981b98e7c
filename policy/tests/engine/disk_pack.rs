//! Bandwidth to disks: the pack `disk`, and what guards make of targets where nobody knows what a disk can do.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_model::{Bounds, Clock, Container, Limit, OutcomeStatus, Resource};
use tidegate_policy::explain_sentence;

use crate::world::{MIB, Second, World, key, of, refused_by};

fn writes(demand: f64) -> Second {
    Second { resource: Resource::DiskWrite, demand }
}

/// A container with bounds on what it writes.
fn bounded(world: &World, name: &str, bounds: Bounds) {
    world.put_container(name, None, &[], Limit::Unlimited);
    let containers = world.store.containers();
    let known = containers.into_iter().find(|container| container.key == key(name)).unwrap();
    let bounds = BTreeMap::from([(Resource::DiskWrite, bounds)]);
    world.store.put_containers(&[Container { bounds, ..known }]).unwrap();
}

async fn seconds(world: &World, count: usize, demands: &[(&str, Second)]) {
    for _ in 0..count {
        world.second(demands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_container_gets_a_limit_that_follows_what_it_writes() {
    let world = World::new().await;
    world.apply_packs(&["disk"], "on").await;
    bounded(&world, "web", Bounds { min: 2.0 * MIB, max: 200.0 * MIB });
    for name in ["web", "free"] {
        world.set_limit(name, Resource::DiskWrite, f64::INFINITY);
    }
    let demands = [("web", writes(10.0 * MIB)), ("free", writes(900.0 * MIB))];
    seconds(&world, 20, &demands).await;
    let limit = || world.limit("web", Resource::DiskWrite);
    assert_eq!(limit(), 200.0 * MIB, "what it may have at most");
    assert_eq!(world.limit("free", Resource::DiskWrite), f64::INFINITY, "nobody bounded it");

    // By half at most with each step, a minute apart, down to the peak and a third.
    seconds(&world, 75, &demands).await;
    assert_eq!(limit(), 100.0 * MIB);
    seconds(&world, 240, &demands).await;
    assert!((limit() - 13.0 * MIB).abs() < 1.0, "{}", limit());

    // It wants more than it has, and shows it by using all of that.
    let hungry = [("web", writes(150.0 * MIB)), ("free", writes(900.0 * MIB))];
    seconds(&world, 12, &hungry).await;
    assert_eq!(limit(), 200.0 * MIB, "doubled each two seconds, and never above its bound");
    assert_eq!(world.limit("free", Resource::DiskWrite), f64::INFINITY);

    let idle = [("web", writes(0.0)), ("free", writes(0.0))];
    seconds(&world, 700, &idle).await;
    assert_eq!(limit(), 2.0 * MIB, "no lower than its bound");

    // Started again, by a runtime that knows nothing of its limit: that it had one is nothing to start from.
    world.set_limit("web", Resource::DiskWrite, f64::INFINITY);
    seconds(&world, 25, &idle).await;
    assert_eq!(limit(), 200.0 * MIB);
    let changes = world.actuator.changes.lock();
    assert_eq!(changes.iter().filter(|change| change.limit_before.is_none()).count(), 2, "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_in_shadow_shows_what_it_would_limit_and_changes_nothing() {
    let world = World::new().await;
    let rule = "CREATE RULE slow WITH (mode = 'shadow', cooldown_down = '1s', warm_up = '1s') AS
        SELECT host, container, resource, 5.0 * 1048576 AS target, 'it writes too fast' AS reason
        FROM recent(INTERVAL '10 seconds') WHERE resource = 'disk_write'";
    world.run_sql(rule).await;
    world.set_limit("web", Resource::DiskWrite, f64::INFINITY);
    seconds(&world, 5, &[("web", writes(50.0 * MIB))]).await;
    let report = world.second(&[("web", writes(50.0 * MIB))]).await;
    let shadow = of(&report, "slow")[0];
    assert_eq!((shadow.outcome.status, shadow.decided), (OutcomeStatus::Shadow, Some(5.0 * MIB)), "{shadow:?}");
    assert_eq!(shadow.limit_before, None);
    let sentence = explain_sentence(shadow);
    assert!(sentence.contains("limit on writing to disks of web on node0 to 5.0 MiB/s"), "{sentence}");
    assert!(world.actuator.changes.lock().is_empty());

    world.run_sql("ALTER RULE slow SET (mode = 'on')").await;
    seconds(&world, 2, &[("web", writes(50.0 * MIB))]).await;
    assert_eq!(world.limit("web", Resource::DiskWrite), 5.0 * MIB);
    assert_eq!(world.actuator.changes.lock().len(), 1, "what stands is not written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_hold_for_disks_and_capacity_does_not() {
    let world = World::new().await;
    let rule = |target: &str| {
        format!(
            "CREATE OR REPLACE RULE aim WITH (mode = 'on', cooldown_down = '1s', cooldown_up = '1s', warm_up = '1s',
             dead_band = 0.05) AS SELECT host, container, resource, {target} AS target, 'so' AS reason
             FROM recent(INTERVAL '10 seconds') WHERE resource = 'disk_write'"
        )
    };
    world.set_limit("web", Resource::DiskWrite, 100.0 * MIB);
    world.run_sql(&rule("1.02 * allocated")).await;
    seconds(&world, 3, &[("web", writes(MIB))]).await;
    let small = world.second(&[("web", writes(MIB))]).await;
    assert_eq!(refused_by(of(&small, "aim")[0]), Some("dead_band"));

    // A step, and the floor where nothing bounds it.
    world.run_sql(&rule("1000.0")).await;
    world.second(&[("web", writes(0.0))]).await;
    assert_eq!(world.limit("web", Resource::DiskWrite), 50.0 * MIB, "no more than half at once");
    seconds(&world, 60, &[("web", writes(0.0))]).await;
    assert_eq!(world.limit("web", Resource::DiskWrite), MIB, "the floor");

    // More than the host has memory: of a disk nobody knows what it can do.
    world.run_sql(&rule("1e13")).await;
    seconds(&world, 3, &[("web", writes(MIB))]).await;
    assert_eq!(world.limit("web", Resource::DiskWrite), 1e13);
    world.clock.advance(Duration::from_secs(60));
    let stale = world.engine.tick(world.clock.now()).await;
    assert!(of(&stale, "aim").iter().all(|decision| decision.outcome.status == OutcomeStatus::Refused), "{stale:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_gives_back_that_there_was_no_limit() {
    let world = World::new().await;
    world
        .run_sql(
            "CREATE RULE slow WITH (mode = 'on', cooldown_down = '1s', warm_up = '1s') AS
         SELECT host, container, resource, 5.0 * 1048576 AS target, 'too fast' AS reason
         FROM recent(INTERVAL '10 seconds') WHERE resource = 'disk_write'",
        )
        .await;
    world.set_limit("web", Resource::DiskWrite, f64::INFINITY);
    seconds(&world, 5, &[("web", writes(50.0 * MIB))]).await;
    assert_eq!(world.limit("web", Resource::DiskWrite), 5.0 * MIB);
    // As an actuator tells it once it has changed something.
    world.put_container("web", None, &[], Limit::Unlimited);
    let mut known = world.store.containers().into_iter().find(|container| container.key == key("web")).unwrap();
    known.baseline = [(Resource::DiskWrite, Limit::Unlimited)].into();
    world.store.put_containers(&[known]).unwrap();
    world.engine.freeze("test", "", true, world.clock.now()).await.unwrap();
    assert_eq!(world.limit("web", Resource::DiskWrite), f64::INFINITY);
}
