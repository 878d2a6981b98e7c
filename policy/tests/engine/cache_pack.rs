//! Page cache under the pack `memory`, with a kernel that counts what is read all the time as unused until something of it is
//! reclaimed: only pressure tells how much is needed.

use std::time::Duration;

use tidegate_model::{Clock, Limit, Resource, metrics};

use crate::world::{MIB, World};

const LIMIT: f64 = 512.0 * MIB;
/// What is read all the time.
const CACHE: f64 = 256.0 * MIB;

/// Where memory.high stands after each of some seconds.
async fn seconds(world: &World, count: usize) -> Vec<f64> {
    let mut stood = Vec::new();
    for _ in 0..count {
        world.clock.advance(Duration::from_secs(1));
        let high = world.limit("web", Resource::MemoryHigh).min(LIMIT);
        let of = |resource| [("host", "node0"), ("container", "web"), ("resource", resource)];
        world.push(metrics::LIMIT, &of("memory"), LIMIT).await;
        world.push(metrics::LIMIT, &of("memory.high"), high).await;
        world.push(metrics::UNRECLAIMABLE, &of("memory"), 0.0).await;
        world.push(metrics::USAGE, &of("memory"), MIB).await;
        world.push(metrics::PRESSURE_SOME, &of("memory"), if high < CACHE { 0.04 } else { 0.0 }).await;
        let report = world.engine.tick(world.clock.now()).await;
        assert_eq!(report.problems, Vec::<String>::new());
        stood.push(world.limit("web", Resource::MemoryHigh));
    }
    stood
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_needed_is_taken_once_and_then_left_alone_for_an_hour() {
    let world = World::new().await;
    world.apply_packs(&["memory"], "on").await;
    world.put_container("web", None, &[], Limit::At(LIMIT));
    world.set_limit("web", Resource::Memory, LIMIT);
    world.set_limit("web", Resource::MemoryHigh, LIMIT);
    let stood = seconds(&world, 20).await;
    let waited = stood.iter().filter(|high| **high < CACHE).count();
    assert!((1..=3).contains(&waited), "it waits for seconds: {stood:?}");
    let stood = seconds(&world, 600).await;
    assert!(stood.iter().all(|high| *high >= CACHE), "{stood:?}");
    let half_way = 0.5 * (65.0 * MIB + LIMIT);
    assert!((stood[599] - half_way).abs() < MIB, "half way from what was too little: {}", stood[599] / MIB);
    assert!(seconds(&world, 3_600).await.iter().any(|high| *high < CACHE), "an hour later it is tried again");
}
