//! What the rules that move CPU within an app do, and what they never do.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tidegate_model::{OutcomeStatus, Resource};
use tidegate_policy::{PolicyConfig, TickReport};

use crate::conformance::{Tally, files};
use crate::world::{Second, World, cpu, of, pack};

/// A world in which half of the containers need not wait a minute for the others to shrink.
fn world() -> World {
    World::with(PolicyConfig {
        gather_ms: 60_000,
        rule_timeout_ms: 60_000,
        shrink_share: 1.0,
        ..PolicyConfig::default()
    })
}

async fn second(world: &World, demands: &[(&str, Second)]) -> TickReport {
    let report = world.second(demands).await;
    let errors: Vec<_> = report.runs.iter().filter_map(|run| run.error.as_ref()).collect();
    assert_eq!(errors, Vec::<&String>::new());
    report
}

async fn shop(members: &[(&str, f64)]) -> World {
    let world = world();
    for (name, limit) in members {
        world.put_bounded(name, "shop", (0.1, 4.0));
        world.set_limit(name, Resource::Cpu, *limit);
    }
    world.apply_rules(&pack("rebalance"), "on").await;
    world
}

fn sum(world: &World) -> f64 {
    world.actuator.limits.lock().values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_moves_from_who_has_too_much_to_who_has_too_little() {
    let world = shop(&[("web", 1.0), ("batch", 3.0), ("db", 1.0)]).await;
    let demands = [("web", cpu(2.2)), ("batch", cpu(0.2)), ("db", cpu(0.5))];
    let mut received = None;
    for at in 0..90 {
        let report = second(&world, &demands).await;
        assert!(sum(&world) <= 5.0 + 1e-9, "second {at}: {}", sum(&world));
        if received.is_none() && !of(&report, "rebalance_take").is_empty() {
            received = Some(at);
            assert!(world.limit("batch", Resource::Cpu) < 3.0, "who gives goes first");
        }
    }
    assert!(received.is_some_and(|at| at <= 13), "after ten seconds of warm-up: {received:?}");
    assert!(world.limit("web", Resource::Cpu) > 2.2, "{}", world.limit("web", Resource::Cpu));
    assert!(world.limit("db", Resource::Cpu) > 0.55, "nobody gives what he needs");
    assert!(sum(&world) > 4.95, "what nobody needs went back: {}", sum(&world));
    // Once everybody has enough nothing moves.
    for _ in 0..20 {
        let report = second(&world, &demands).await;
        assert!(report.decisions.is_empty(), "{:?}", report.decisions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gave_gets_it_back_when_it_needs_it() {
    let world = shop(&[("web", 1.0), ("batch", 3.0)]).await;
    for _ in 0..60 {
        second(&world, &[("web", cpu(2.0)), ("batch", cpu(0.2))]).await;
    }
    let lent = world.limit("batch", Resource::Cpu);
    assert!(lent < 2.2, "{lent}");
    for _ in 0..140 {
        second(&world, &[("web", cpu(0.5)), ("batch", cpu(2.5))]).await;
        assert!(sum(&world) <= 4.0 + 1e-9);
    }
    assert!(world.limit("batch", Resource::Cpu) > 2.5, "{}", world.limit("batch", Resource::Cpu));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_receives_what_a_guard_did_not_let_others_give() {
    let refusing =
        ["ALTER RULE rebalance_give SET (mode = 'shadow')", "ALTER RULE rebalance_give SET (warm_up = '1h')"];
    for how in refusing {
        let world = shop(&[("web", 1.0), ("batch", 3.0)]).await;
        world.run_sql(how).await;
        for _ in 0..40 {
            let report = second(&world, &[("web", cpu(2.0)), ("batch", cpu(0.2))]).await;
            assert!(of(&report, "rebalance_take").is_empty(), "{how}: {:?}", report.decisions);
            for decision in of(&report, "rebalance_give") {
                assert_ne!(decision.outcome.status, OutcomeStatus::Applied, "{how}: {decision:?}");
            }
        }
        assert_eq!((world.limit("web", Resource::Cpu), world.limit("batch", Resource::Cpu)), (1.0, 3.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_receiver_that_falls_silent_nothing_is_handed_out_again() {
    let world = shop(&[("web", 1.0), ("batch", 3.0), ("db", 1.0)]).await;
    for _ in 0..40 {
        second(&world, &[("web", cpu(2.0)), ("batch", cpu(0.2)), ("db", cpu(0.3))]).await;
    }
    assert!(world.limit("web", Resource::Cpu) > 1.5);
    for _ in 0..100 {
        second(&world, &[("batch", cpu(0.2)), ("db", cpu(3.0))]).await;
        assert!(sum(&world) <= 5.0 + 1e-9, "{}", sum(&world));
    }
    assert!(world.limit("db", Resource::Cpu) > 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_mode_nothing_moves() {
    let world = shop(&[("web", 1.0), ("batch", 3.0)]).await;
    world.apply_rules(&pack("rebalance"), "shadow").await;
    let mut shown = 0;
    for _ in 0..20 {
        let report = second(&world, &[("web", cpu(2.0)), ("batch", cpu(0.2))]).await;
        shown += report.decisions.iter().filter(|one| one.outcome.status == OutcomeStatus::Shadow).count();
    }
    assert!(shown > 0);
    assert_eq!(world.actuator.changes.lock().len(), 0);
}

/// A small generator, so that a failure can be played again.
struct Random(u64);

impl Random {
    fn below(&mut self, most: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64 * most
    }
}

/// Two apps with demands that jump, on a host on which writes fail now and then and changes have all kinds of guards in
/// their way.
async fn random_life(seed: u64) -> usize {
    let mut random = Random(seed);
    let share = 0.3 + random.below(0.7);
    let config =
        PolicyConfig { gather_ms: 60_000, rule_timeout_ms: 60_000, shrink_share: share, ..PolicyConfig::default() };
    let world = World::with(config);
    let names = ["a0", "a1", "a2", "b0", "b1"];
    let mut start = BTreeMap::<&str, f64>::new();
    for name in names {
        let limit = 0.2 + random.below(2.0);
        world.put_bounded(name, &name[..1], (0.15, 2.5));
        world.set_limit(name, Resource::Cpu, limit);
        *start.entry(&name[..1]).or_default() += limit;
    }
    world.apply_rules(&pack("rebalance"), "on").await;
    world.run_sql("ALTER RULE rebalance_give SET (warm_up = '2s', cooldown_down = '2s')").await;
    let mut demands = names.map(|name| (name, 0.0));
    let mut moved = 0;
    for at in 0..70 {
        for (_, demand) in &mut demands {
            if at == 0 || random.below(1.0) < 0.08 {
                *demand = random.below(2.0);
            }
        }
        world.actuator.failing.store(random.below(1.0) < 0.1, Ordering::SeqCst);
        // Somebody's measurements are missing for a while.
        let silent = (at / 20) % names.len();
        let measured = demands.iter().enumerate().filter(|(place, _)| *place != silent || at % 20 > 8);
        let measured: Vec<_> = measured.map(|(_, (name, demand))| (*name, cpu(*demand))).collect();
        let usage = demands.map(|(name, demand)| (name, demand.min(world.limit(name, Resource::Cpu))));
        let report = second(&world, &measured).await;
        for (app, most) in &start {
            let sum: f64 =
                names.iter().filter(|name| name.starts_with(app)).map(|name| world.limit(name, Resource::Cpu)).sum();
            assert!(sum <= most + 1e-9, "seed {seed}, second {at}: {app} has {sum} of {most}");
        }
        let applied = report.decisions.iter().filter(|one| one.outcome.status == OutcomeStatus::Applied);
        for decision in applied {
            moved += 1;
            let (Some(before), Some(after)) = (decision.limit_before, decision.outcome.limit_after) else { continue };
            let used = usage.iter().find(|(name, _)| *name == decision.container.name).unwrap().1;
            if after < before {
                assert!(after >= used && after >= 0.15, "seed {seed}, second {at}: {decision:?}");
            }
        }
    }
    moved
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_never_grows_and_nobody_goes_below_usage_or_bound() {
    let mut moved = 0;
    for seed in 1..=6 {
        moved += random_life(seed * 7_919).await;
    }
    assert!(moved > 6, "{moved} changes");
}

/// What the reference asks of one container, in shares of a core.
type Amounts = BTreeMap<String, f64>;

/// One share of a core in these tests, in cores: so small that all cases fit on the host.
const SHARE: f64 = 0.0025;

/// What decisions of one instant can be compared with: one round of the thresholds policy over limits of CPU, in which nobody
/// gives to himself, and whose donors have what they do not use. A rule that looks at an instant has no credits and debts.
fn comparable(case: &Value) -> Result<(), String> {
    let input = &case["in"];
    let config = &input["config"];
    if case["note"].as_str().is_some_and(|note| note.starts_with("DEFECT")) {
        return Err("a defect of the original".to_owned());
    }
    if case["kind"] != "pair_swap" {
        return Err(format!("{} is no swap", case["kind"]));
    }
    if input["level"] != "container" || config["resources"] != serde_json::json!(["cpu"]) {
        return Err(format!("it moves {} of {}s, not CPU limits of containers", config["resources"], input["level"]));
    }
    if config["policy"] != "thresholds" || config["compensate"] == true {
        return Err("another policy than thresholds, or credits and debts".to_owned());
    }
    if input["rounds"].as_array().unwrap().len() != 1 {
        return Err("several rounds, which the original plays on unchanged containers".to_owned());
    }
    let requests = case["out"]["rounds"][0]["requests"].as_array().unwrap();
    if requests.iter().any(|request| request["donor"] == request["receiver"]) {
        return Err("a container gives to itself, a defect of the original".to_owned());
    }
    if requests.len() > 1 {
        return Err("several pairs: slices are dealt out in an order, where these rules share by need".to_owned());
    }
    Ok(())
}

/// Donors and receivers of swaps of CPU between containers. Slices, credits and the moves of maxima are not these rules'.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_serverless_containers_pair_swap() {
    for file in files("serverless-containers/rebalancer_cases.jsonl") {
        let mut tally = Tally::default();
        for line in fs::read_to_string(&file).unwrap().lines().filter(|line| !line.trim().is_empty()) {
            let case: Value = serde_json::from_str(line).unwrap();
            match comparable(&case) {
                Err(why) => tally.left_out.push(format!("{}: {why}", case["id"])),
                Ok(()) => {
                    let (expected, found) = (requested(&case), swapped(&case).await);
                    let same = expected.len() == found.len()
                        && expected
                            .iter()
                            .all(|(name, amount)| found.get(name).is_some_and(|found| (found - amount).abs() < 1.0));
                    tally.count(same, || format!("{}: {expected:?}, not {found:?}", case["id"]));
                }
            }
        }
        tally.conclude(&file, "swaps");
    }
}

fn requested(case: &Value) -> Amounts {
    let mut amounts = Amounts::new();
    for request in case["out"]["rounds"][0]["requests"].as_array().unwrap() {
        let amount = request["amount"].as_f64().unwrap();
        *amounts.entry(request["donor"].as_str().unwrap().to_owned()).or_default() -= amount;
        *amounts.entry(request["receiver"].as_str().unwrap().to_owned()).or_default() += amount;
    }
    amounts
}

/// By how much limits have moved once the pack has had its first way, in shares.
async fn swapped(case: &Value) -> Amounts {
    let config = &case["in"]["config"];
    let (near, stolen) = (config["diff_percentage"].as_f64().unwrap(), config["stolen_percentage"].as_f64().unwrap());
    let ours = ["0.4 AS stolen", "0.1 AS near", "1.1 AS headroom", "0.5 AS growth"];
    let theirs = [
        format!("{stolen:?} AS stolen"),
        format!("{near:?} AS near"),
        "1.0 AS headroom".into(),
        "1.0 AS growth".into(),
    ];
    let pack = pack("rebalance");
    assert!(ours.iter().all(|value| pack.contains(value)));
    let pack = ours.iter().zip(&theirs).fold(pack, |pack, (ours, theirs)| pack.replace(ours, theirs));
    let world = world();
    let structures = case["in"]["rounds"][0].as_array().unwrap();
    let field = |one: &Value, name: &str| one["resources"]["cpu"][name].as_f64().unwrap() * SHARE;
    let mut demands = Vec::new();
    for one in structures {
        let name = one["name"].as_str().unwrap();
        // Swaps are made on a host, and so within an app on it.
        world.put_bounded(name, one["host"].as_str().unwrap(), (field(one, "min"), field(one, "max")));
        world.set_limit(name, Resource::Cpu, field(one, "current"));
        demands.push((name, cpu(field(one, "usage"))));
    }
    for _ in 0..10 {
        world.measure(&demands).await;
        world.clock.advance(std::time::Duration::from_secs(1));
    }
    world.apply_rules(&pack, "on").await;
    for _ in 0..3 {
        second(&world, &demands).await;
    }
    let moved = structures.iter().map(|one| {
        let name = one["name"].as_str().unwrap();
        (name.to_owned(), (world.limit(name, Resource::Cpu) - field(one, "current")) / SHARE)
    });
    moved.filter(|(_, amount)| amount.abs() > 0.5).collect()
}
