//! The default mode, under all guards, in a world that measures each second.

use std::collections::BTreeMap;

use serde_json::Value;
use tidegate_model::{Bounds, CgroupVersion, Clock, Container, Limit, OutcomeStatus, Resource, Runtime};

use super::cases::{Case, trees};
use super::text;
use crate::world::{MIB, START, Second, World, cpu, key, memory, of};

/// A window, in seconds.
const WINDOW: usize = 10;

/// The pack switched on for one container, in one of its modes.
async fn world(compatible: bool, resource: Resource, limit: f64, bounds: Bounds) -> World {
    let world = World::new().await;
    let container = Container {
        key: key("web"),
        path: "/web".into(),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: "web".to_owned(),
        incarnation: 1,
        app: None,
        user: None,
        labels: BTreeMap::new(),
        first_seen: START,
        last_seen: START,
        baseline: BTreeMap::from([(resource, Limit::At(limit))]),
        bounds: BTreeMap::from([(resource, bounds)]),
    };
    world.store.put_containers(&[container]).unwrap();
    world.set_limit("web", resource, limit);
    let (off, on) = ("policy(compatible) AS (VALUES (false))", "policy(compatible) AS (VALUES (true))");
    let pack = text::pack();
    assert!(pack.contains(off));
    let pack = if compatible { pack.replace(off, on) } else { pack };
    world.run_sql(&pack).await;
    for rule in world.engine.rules() {
        world.run_sql(&format!("ALTER RULE {} SET (mode = 'on')", rule.name)).await;
    }
    world
}

/// A window of a demand. Returns how often the limit was changed in it.
async fn window(world: &World, demand: impl Fn(f64) -> Second) -> usize {
    let mut changes = 0;
    for _ in 0..WINDOW {
        let (resource, second) = (demand(0.0).resource, &demand);
        let report = world.second(&[("web", second(world.limit("web", resource)))]).await;
        let errors: Vec<_> = report.runs.iter().filter_map(|run| run.error.as_ref()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        let applied = |decision: &&&tidegate_model::Decision| decision.outcome.status == OutcomeStatus::Applied;
        changes += of(&report, "serverless_scale").iter().filter(applied).count();
    }
    changes
}

fn cores() -> Bounds {
    Bounds { min: 0.1, max: 4.0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saturated_container_grows_in_each_window() {
    let world = world(false, Resource::Cpu, 0.3, cores()).await;
    let mut limits = Vec::new();
    for _ in 0..3 {
        window(&world, |_| cpu(1.5)).await;
        limits.push((100.0 * world.limit("web", Resource::Cpu)).round());
    }
    assert_eq!(limits, [105.0, 180.0, 180.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calm_container_gives_back_to_just_above_what_it_uses() {
    for resource in Resource::ALL {
        let (limit, bounds, used) = match resource {
            Resource::Cpu => (2.0, cores(), cpu(0.2)),
            _ => (2_000.0 * MIB, Bounds { min: 64.0 * MIB, max: 4_000.0 * MIB }, memory(200.0 * MIB)),
        };
        let world = world(false, resource, limit, bounds).await;
        for _ in 0..48 {
            window(&world, |_| used).await;
            assert!(world.limit("web", resource) > used.demand);
        }
        let left = world.limit("web", resource) / used.demand;
        assert!((1.05..1.4).contains(&left), "{resource}: {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_acted_on_once() {
    let world = world(false, Resource::Cpu, 0.5, cores()).await;
    let mut changes = Vec::new();
    for _ in 0..8 {
        // Above upper, below saturation.
        changes.push(window(&world, |limit| cpu(0.93 * limit)).await);
    }
    assert_eq!(changes, [0, 1, 0, 1, 0, 1, 0, 1], "two bottlenecks for each change");
    assert_eq!(world.count("SELECT * FROM events WHERE name = 'CpuBottleneck'").await, 8);
    assert_eq!(world.count("SELECT * FROM events WHERE consumed_by = 'serverless_scale'").await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_container_gives_back_although_it_uses_nothing() {
    for (compatible, lowered) in [(true, false), (false, true)] {
        let world = world(compatible, Resource::Cpu, 1.0, cores()).await;
        for _ in 0..7 {
            window(&world, |_| cpu(0.0)).await;
        }
        assert_eq!(world.limit("web", Resource::Cpu) < 1.0, lowered, "compatible: {compatible}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_that_comes_and_goes_gets_what_it_needs() {
    for (compatible, enough) in [(true, false), (false, true)] {
        let world = world(compatible, Resource::Cpu, 1.0, cores()).await;
        for at in 0..24 {
            window(&world, |_| cpu(if at / 4 % 2 == 0 { 0.2 } else { 2.0 })).await;
        }
        assert_eq!(world.limit("web", Resource::Cpu) > 2.0, enough, "compatible: {compatible}");
    }
}

/// Used of what was allocated, and what was wanted and not got of all that was wanted.
async fn played(case: &Case, name: &str, compatible: bool) -> (f64, f64) {
    let (resource, unit) = if name == "cpu" { (Resource::Cpu, 0.01) } else { (Resource::Memory, MIB) };
    let of = |key: &str| unit * case.input["resources"][name][key].as_f64().unwrap();
    let world = world(compatible, resource, of("current"), Bounds { min: of("min"), max: of("max") }).await;
    let (mut wanted, mut used, mut allocated) = (0.0, 0.0, 0.0);
    for one in case.input["windows"].as_array().unwrap() {
        let Some(demand) = one["demand"][name].as_f64().map(|demand| demand * unit) else { continue };
        for _ in 0..WINDOW {
            let limit = world.limit("web", resource);
            (wanted, used, allocated) = (wanted + demand, used + demand.min(limit), allocated + limit);
            world.second(&[("web", Second { resource, demand })]).await;
        }
    }
    assert!(world.clock.now() > START);
    (used / allocated, 1.0 - used / wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn less_is_left_unmet_than_in_the_compatible_mode() {
    let tree = trees("sequence").remove(0);
    for (id, name) in [("sequence-0040", "cpu"), ("sequence-0064", "mem")] {
        let case = tree.cases.iter().find(|case| case.id == id).unwrap();
        let (original, fixed) = (played(case, name, true).await, played(case, name, false).await);
        let reference: &Value = &case.out["summary"][name];
        println!(
            "{id}: used/allocated and unmet: compatible {original:.3?}, default {fixed:.3?}; reference {reference}"
        );
        assert!(fixed.1 < original.1, "{id}");
    }
}
