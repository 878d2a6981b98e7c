//! Bandwidth of the network: the pack `network`. What it shares with that of disks is tested there.

use std::collections::BTreeMap;

use tidegate_model::{Bounds, Container, Limit, Resource};

use crate::world::{MIB, Second, World, key};

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_container_gets_a_limit_that_follows_what_it_sends() {
    let world = World::new().await;
    world.apply_packs(&["network"], "on").await;
    world.put_container("web", None, &[], Limit::Unlimited);
    let known = world.store.containers().into_iter().find(|container| container.key == key("web")).unwrap();
    let bounds = BTreeMap::from([(Resource::NetSend, Bounds { min: 0.0, max: 200.0 * MIB })]);
    world.store.put_containers(&[Container { bounds, ..known }]).unwrap();
    world.set_limit("web", Resource::NetSend, f64::INFINITY);
    let seconds = async |count: usize, demand: f64| {
        for _ in 0..count {
            world.second(&[("web", Second { resource: Resource::NetSend, demand })]).await;
        }
        world.limit("web", Resource::NetSend)
    };
    assert_eq!(seconds(20, 10.0 * MIB).await, 200.0 * MIB, "what it may have at most");
    assert!((seconds(320, 10.0 * MIB).await - 13.0 * MIB).abs() < 1.0, "its peak and a third");
    // What is measured of a container at its limit is less than that: headers are counted in the queue alone.
    assert_eq!(seconds(12, 0.95 * 13.0 * MIB).await, 26.0 * MIB, "it is at its limit");
    assert_eq!(seconds(12, 150.0 * MIB).await, 200.0 * MIB, "doubled each two seconds, and never above its bound");
    assert_eq!(seconds(900, 0.0).await, 131_072.0, "the floor");
}
