//! What the rules do that a server begins with, and the cautious ones in their place.

use tidegate_model::{OutcomeStatus, Resource};

use crate::world::{MIB, World, cpu, memory};

/// The rules that a server begins with, and those that may stand in their place.
const BOTH: [&[&str]; 2] = [&["default"], &["cautious"]];

#[tokio::test(flavor = "multi_thread")]
async fn the_cautious_rules_feed_a_starving_container_within_three_seconds() {
    let world = World::new().await;
    world.apply_packs(&["cautious"], "on").await;
    world.set_limit("web", Resource::Cpu, 0.3);
    let mut limits = vec![0.3];
    for _ in 0..3 {
        world.second(&[("web", cpu(1.5))]).await;
        limits.push(world.limit("web", Resource::Cpu));
    }
    assert!(limits[3] >= 1.5, "{limits:?}");
    assert!(limits[1] > 0.45 && limits[1] <= 0.9, "the more it is throttled the larger the step: {limits:?}");
    assert!(limits.windows(2).all(|pair| pair[1] <= pair[0] * 3.0 + 1e-9), "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_cautious_rules_an_idle_container_gives_back_and_is_never_throttled_for_it() {
    let world = World::new().await;
    world.apply_packs(&["cautious"], "on").await;
    world.set_limit("web", Resource::Cpu, 2.0);
    for second in 0..180 {
        let demand = if second < 10 { 1.0 } else { 0.2 };
        world.second(&[("web", cpu(demand))]).await;
        assert!(world.limit("web", Resource::Cpu) > demand, "throttled in second {second}");
    }
    let limit = world.limit("web", Resource::Cpu);
    assert!((0.22..0.26).contains(&limit), "{limit}");
    let changes = world.actuator.changes.lock();
    assert!(changes.len() > 2 && changes.len() <= 18, "one change each ten seconds at most: {}", changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_cautious_rules_a_container_that_goes_idle_comes_back_by_half_each_ten_seconds() {
    let world = World::new().await;
    world.apply_packs(&["cautious"], "on").await;
    world.set_limit("web", Resource::Cpu, 2.0);
    let mut lowered = Vec::new();
    let mut former = 2.0;
    for second in 0..130 {
        let report = world.second(&[("web", cpu(if second < 30 { 1.9 } else { 0.1 }))]).await;
        let limit = world.limit("web", Resource::Cpu);
        if limit < former {
            // Its peak of 0.1 plus 10 % is where it ends.
            assert!((limit - (0.5 * former).max(0.11)).abs() < 1e-9, "from {former} to {limit}");
            lowered.push(second - 30);
        }
        assert!(report.decisions.iter().all(|decision| decision.outcome.status == OutcomeStatus::Applied));
        former = limit;
    }
    assert!(lowered[0] <= 70, "{lowered:?}");
    assert!(lowered.len() >= 3 && lowered.windows(2).all(|pair| pair[1] - pair[0] == 10), "{lowered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_at_its_floor_is_quiet() {
    for packs in BOTH {
        let world = World::new().await;
        world.apply_packs(packs, "on").await;
        world.set_limit("idle", Resource::Cpu, 0.05);
        world.set_limit("idle", Resource::Memory, 8.0 * MIB);
        for _ in 0..130 {
            let report = world.second(&[("idle", cpu(0.001)), ("idle", memory(MIB))]).await;
            assert!(report.decisions.is_empty(), "{:?}", report.decisions);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_container_is_left_alone() {
    for packs in BOTH {
        let world = World::new().await;
        world.apply_packs(packs, "on").await;
        world.set_limit("web", Resource::Cpu, 1.1);
        world.set_limit("db", Resource::Memory, 125.0 * MIB);
        for _ in 0..30 {
            world.second(&[("web", cpu(1.0)), ("db", memory(100.0 * MIB))]).await;
        }
        assert_eq!(world.actuator.changes.lock().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growing_process_never_reaches_its_memory_limit() {
    for packs in BOTH {
        let world = World::new().await;
        world.apply_packs(packs, "on").await;
        let growths = [("slow", 1.0), ("fast", 8.0), ("faster", 30.0)];
        for (name, _) in growths {
            world.set_limit(name, Resource::Memory, 150.0 * MIB);
        }
        for second in 0..60 {
            let usage = |growth: f64| (100.0 + growth * f64::from(second)).min(1_500.0) * MIB;
            let demands = growths.map(|(name, growth)| (name, memory(usage(growth))));
            for (name, now) in &demands {
                let limit = world.limit(name, Resource::Memory);
                assert!(now.demand < limit, "{name} would have been killed in second {second} at {} MiB", limit / MIB);
            }
            world.second(&demands).await;
        }
        assert!(world.limit("slow", Resource::Memory) < 300.0 * MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_memory_comes_down_slowly_and_stays_above_usage() {
    for packs in BOTH {
        let world = World::new().await;
        world.apply_packs(packs, "on").await;
        world.set_limit("db", Resource::Memory, 1_000.0 * MIB);
        let mut former = 1_000.0 * MIB;
        for _ in 0..240 {
            world.second(&[("db", memory(300.0 * MIB))]).await;
            let limit = world.limit("db", Resource::Memory);
            assert!(limit >= former * 0.95 - 1.0 && limit <= former && limit > 375.0 * MIB);
            former = limit;
        }
        assert!((810.0..910.0).contains(&(former / MIB)), "5 % a minute: {}", former / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_mode_nothing_is_ever_written() {
    for packs in BOTH {
        let world = World::new().await;
        world.apply_packs(packs, "shadow").await;
        world.set_limit("web", Resource::Cpu, 0.3);
        world.set_limit("idle", Resource::Cpu, 4.0);
        world.set_limit("db", Resource::Memory, 150.0 * MIB);
        let mut shadowed = 0;
        for second in 0..30 {
            let growing = memory((100.0 + 2.0 * f64::from(second)) * MIB);
            let report = world.second(&[("web", cpu(1.5)), ("idle", cpu(0.1)), ("db", growing)]).await;
            for decision in &report.decisions {
                assert!(matches!(decision.outcome.status, OutcomeStatus::Shadow | OutcomeStatus::Refused));
                assert!(decision.outcome.writes.is_empty());
                shadowed += usize::from(decision.outcome.status == OutcomeStatus::Shadow);
            }
        }
        assert!(shadowed > 10, "{shadowed}");
        assert_eq!(world.actuator.changes.lock().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_pack_again_changes_nothing() {
    let world = World::new().await;
    world.apply_packs(&["default"], "on").await;
    let before = world.engine.rules();
    let outcomes = world.engine.execute(tidegate_policy::DEFAULT_PACK, "other", crate::world::START).await.unwrap();
    assert!(outcomes.iter().all(|outcome| !outcome.changed), "{outcomes:?}");
    let after = world.engine.rules();
    assert_eq!(after, before);
    // They are those of the two packs.
    for pack in ["hybrid", "memory"] {
        let outcomes = world.engine.execute(&crate::world::pack(pack), "other", crate::world::START).await.unwrap();
        assert!(!outcomes.is_empty() && outcomes.iter().all(|outcome| !outcome.changed), "{outcomes:?}");
    }
}
