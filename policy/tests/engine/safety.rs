//! What the engine holds to, whatever rules say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_actuator::{Actuator, Drift, DriftAnswer};
use tidegate_model::{Clock, Limit, OutcomeStatus, Resource, SystemClock, TimeMs};
use tidegate_policy::{Engine, PolicyConfig, TickReport};
use tidegate_store::Override;
use tokio_util::sync::CancellationToken;

use crate::world::{MIB, START, World, cpu, key, memory, of};

const GREEDY: &str = "CREATE RULE greedy WITH (mode = 'on') AS
    SELECT host, container, resource, allocated + 1 AS target, 'more' AS reason FROM recent(INTERVAL '10 seconds')";
const STINGY: &str = "CREATE RULE stingy WITH (mode = 'on', cooldown_down = '1s') AS
    SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')";

fn refusals(report: &TickReport) -> Vec<&str> {
    let refused = report.decisions.iter().filter(|decision| decision.outcome.status == OutcomeStatus::Refused);
    refused.filter_map(|decision| Some(decision.guards.last()?.guard.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_data_never_shrinks_a_limit() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 4.0);
    for _ in 0..20 {
        world.second(&[("web", cpu(0.1))]).await;
    }
    world.run_sql(STINGY).await;
    let fresh = world.second(&[("web", cpu(0.1))]).await;
    assert_eq!(fresh.decisions[0].outcome.status, OutcomeStatus::Applied);
    let limit = world.limit("web", Resource::Cpu);
    // The source falls silent; its samples are still within the rule's window.
    world.clock.advance(Duration::from_secs(3));
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        let report = world.engine.tick(world.clock.now()).await;
        assert_eq!(refusals(&report), ["stale"]);
    }
    assert_eq!(world.limit("web", Resource::Cpu), limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_container_is_not_shrunk() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 4.0);
    world.run_sql(STINGY).await;
    let mut outcomes = Vec::new();
    for _ in 0..11 {
        let report = world.second(&[("web", cpu(0.1))]).await;
        outcomes.push(report.decisions[0].outcome.status);
    }
    assert_eq!(outcomes[8], OutcomeStatus::Refused);
    assert_eq!(outcomes[10], OutcomeStatus::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proposal_is_one_recorded_decision() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.run_sql(&GREEDY.replace("greedy", "greedier").replace("+ 1", "+ 2")).await;
    world.run_sql(&GREEDY.replace("greedy", "looking").replace("'on'", "'shadow'")).await;
    let mut heard = world.engine.decisions();
    for _ in 0..3 {
        world.second(&[("web", cpu(0.5))]).await;
    }
    assert_eq!(world.count("SELECT DISTINCT id FROM decisions").await, 9);
    assert_eq!(world.count("SELECT id FROM decisions WHERE rule = 'greedy' AND outcome = 'refused'").await, 3);
    assert_eq!(world.count("SELECT id FROM decisions WHERE rule = 'greedier' AND outcome = 'applied'").await, 3);
    assert_eq!(world.limit("web", Resource::Cpu), 7.0);
    for _ in 0..9 {
        heard.recv().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_gets_more_than_the_host_has() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 7.5);
    world.run_sql(GREEDY).await;
    let report = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(report.decisions[0].decided, Some(8.0));
    assert_eq!(report.decisions[0].guards[0].guard, "bounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_rule_says_so_and_disturbs_nobody() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.run_sql(&GREEDY.replace("greedy", "broken").replace("allocated + 1", "CAST(container AS DOUBLE)")).await;
    let report = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(report.decisions.len(), 1);
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    let rules = world.engine.rules();
    let broken = rules.iter().find(|rule| rule.name == "broken").unwrap();
    assert!(broken.last_error.as_ref().is_some_and(|error| error.contains("web")), "{broken:?}");
    let greedy = rules.iter().find(|rule| rule.name == "greedy").unwrap();
    assert_eq!((greedy.last_error.as_ref(), greedy.last_rows, greedy.last_run), (None, Some(1), Some(report.now)));
}

/// Counts for longer than any test waits.
const SLOW: &str = "CREATE RULE slow WITH (mode = 'on', class = 'safety') AS
    SELECT host, container, resource, 0.1 AS target, 'never' AS reason FROM recent(INTERVAL '10 seconds')
    CROSS JOIN (SELECT count(*) AS n FROM generate_series(1, 100000000000)) WHERE n > 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_rule_delays_nobody_and_is_not_started_again() {
    let config = PolicyConfig { gather_ms: 200, rule_timeout_ms: 3_000, ..PolicyConfig::default() };
    let world = World::with(config);
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.run_sql(SLOW).await;
    world.clock.advance(Duration::from_secs(1));
    world.measure(&[("web", cpu(0.5))]).await;
    let (engine, now) = (Arc::clone(&world.engine), world.clock.now());
    let first = tokio::spawn(async move { engine.tick(now).await });
    while world.actuator.changes.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!first.is_finished(), "the fast rule's change is written while the slow rule is still running");

    let second = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(second.skipped, ["slow"]);
    let first = first.await.unwrap();
    let slow = first.runs.iter().find(|run| run.rule == "slow").unwrap();
    assert!(slow.error.as_ref().is_some_and(|error| error.contains("3000 ms")), "{slow:?}");
    assert_eq!(world.count("SELECT name FROM rules WHERE name = 'slow' AND last_error IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_ticks_by_the_clock_until_it_is_told_to_stop() {
    let world = World::with(PolicyConfig::default());
    world.run_sql(GREEDY).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let actuator = Arc::clone(&world.actuator) as Arc<dyn Actuator>;
    let engine = Engine::new(Arc::clone(&world.store), actuator, PolicyConfig::default(), clock).unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&engine).run(shutdown.clone()));
    while !engine.ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let last_run = engine.rules()[0].last_run.unwrap();
    assert_eq!(last_run.0 % 1_000, 0, "ticks lie on whole seconds");
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_being_written_is_not_written_again() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.actuator.stuck.store(true, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(1));
    world.measure(&[("web", cpu(0.5))]).await;
    let engine = Arc::clone(&world.engine);
    let first_at = world.clock.now();
    let first = tokio::spawn(async move { engine.tick(first_at).await });
    while world.actuator.changes.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let second = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(refusals(&second), ["pending"]);
    world.actuator.stuck.store(false, Ordering::SeqCst);
    assert_eq!(first.await.unwrap().decisions[0].outcome.status, OutcomeStatus::Applied);
    assert_eq!(world.second(&[("web", cpu(0.5))]).await.decisions[0].outcome.status, OutcomeStatus::Applied);
}

fn drift(name: &str, expected: f64, found: Option<f64>, at: TimeMs, answer: DriftAnswer) -> Drift {
    Drift { container: key(name), resource: Resource::Cpu, expected, found, at, answer }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_left_alone_for_good_is_until_it_is_given_back() {
    for answer in [DriftAnswer::HandsOff, DriftAnswer::GivenUp] {
        let world = World::new().await;
        world.set_limit("web", Resource::Cpu, 1.0);
        world.run_sql(GREEDY).await;
        world.engine.note_drift(&drift("web", 2.0, Some(1.0), world.clock.now(), answer));
        for _ in 0..90 {
            let report = world.second(&[("web", cpu(0.5))]).await;
            assert_eq!(refusals(&report), ["drift"]);
            assert!(report.decisions.last().unwrap().outcome.message.contains("or a person says otherwise"));
        }
        world.engine.note_drift(&drift("web", 2.0, Some(1.5), world.clock.now(), answer));
        world.engine.note_drift(&drift("web", 2.0, Some(2.0), world.clock.now(), DriftAnswer::Over));
        let report = world.second(&[("web", cpu(0.5))]).await;
        assert_eq!(report.decisions[0].outcome.status, OutcomeStatus::Applied);
        assert_eq!(world.count("SELECT id FROM decisions WHERE rule = '(outside)' AND outcome = 'drifted'").await, 1);
        let name = if answer == DriftAnswer::GivenUp { "drift_given_up" } else { "drift" };
        assert_eq!(world.count(&format!("SELECT name FROM events WHERE name = '{name}'")).await, 1);
        assert_eq!(world.count("SELECT name FROM events WHERE name = 'drift_over'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_left_alone_is_changed_again_when_a_person_says_so() {
    let world = World::new().await;
    world.put_container("web", None, &[], Limit::Unlimited);
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.engine.note_drift(&drift("web", 2.0, Some(1.0), world.clock.now(), DriftAnswer::HandsOff));
    assert_eq!(refusals(&world.second(&[("web", cpu(0.5))]).await), ["drift"]);
    assert!(world.engine.adopt(key("other"), Resource::Cpu, "anna").await.is_err());
    let decision = world.engine.adopt(key("web"), Resource::Cpu, "anna").await.unwrap();
    assert_eq!((decision.limit_before, decision.outcome.status), (Some(1.0), OutcomeStatus::Unchanged));
    assert!(decision.outcome.writes.is_empty());
    let report = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(report.decisions[0].outcome.status, OutcomeStatus::Applied);
    assert_eq!(world.count("SELECT id FROM decisions WHERE rule = '(person)' AND reason LIKE 'anna %'").await, 1);
    assert_eq!(world.count("SELECT name FROM events WHERE name = 'drift_over'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_somebody_else_lowered_or_raised_is_put_back_after_its_hold() {
    for (expected, found) in [(2.0, 1.0), (1.0, 2.0)] {
        let world = World::new().await;
        world.put_container("web", None, &[], Limit::Unlimited);
        world.set_limit("web", Resource::Cpu, found);
        world.engine.note_drift(&drift("web", expected, Some(found), world.clock.now(), DriftAnswer::Restore));
        for _ in 0..59 {
            let report = world.second(&[("web", cpu(0.5))]).await;
            assert!(report.decisions.iter().all(|decision| decision.rule == "(outside)"), "{:?}", report.decisions);
        }
        let report = world.second(&[("web", cpu(0.5))]).await;
        let decision = &report.decisions[0];
        assert_eq!((decision.rule.as_str(), decision.outcome.status), ("(drift)", OutcomeStatus::Applied));
        assert_eq!((decision.limit_before, decision.decided), (Some(found), Some(expected)));
        assert_eq!(world.limit("web", Resource::Cpu), expected);
        for _ in 0..90 {
            assert!(world.second(&[("web", cpu(0.5))]).await.decisions.is_empty(), "once");
        }
        assert_eq!(world.count("SELECT name FROM events WHERE name = 'drift_restored'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_put_back_is_tried_once_a_hold_and_not_for_ever() {
    let world = World::new().await;
    world.put_container("web", None, &[], Limit::Unlimited);
    world.set_limit("web", Resource::Cpu, 1.0);
    world.actuator.failing.store(true, Ordering::SeqCst);
    world.engine.note_drift(&drift("web", f64::INFINITY, Some(1.0), world.clock.now(), DriftAnswer::Restore));
    let mut tries = Vec::new();
    for second in 1..=300 {
        let report = world.second(&[("web", cpu(0.5))]).await;
        tries.extend(of(&report, "(drift)").iter().map(|decision| (second, decision.decided, decision.outcome.status)));
    }
    // Without a limit it had all that the host has.
    let failed = |second| (second, Some(8.0), OutcomeStatus::Failed);
    assert_eq!(tries, [failed(60), failed(120), failed(180)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_put_back_no_lower_than_what_is_held() {
    let world = World::new().await;
    world.put_container("web", None, &[], Limit::Unlimited);
    world.set_limit("web", Resource::Memory, 1e9);
    let at = world.clock.now();
    let lower = Drift { resource: Resource::Memory, ..drift("web", 1e8, Some(1e9), at, DriftAnswer::Restore) };
    world.engine.note_drift(&lower);
    for _ in 0..60 {
        world.second(&[("web", memory(5e8))]).await;
    }
    // What cannot be reclaimed, 4e8, and a tenth.
    assert_eq!(world.limit("web", Resource::Memory), 1.10 * 0.8 * 5e8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_change_is_recorded_once_and_left_alone() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    let at = world.clock.now();
    let drift = drift("web", f64::INFINITY, Some(1.0), at, DriftAnswer::Adopt);
    world.engine.note_drift(&drift);
    world.engine.note_drift(&drift);
    for _ in 0..59 {
        let report = world.second(&[("web", cpu(0.5))]).await;
        assert_eq!(refusals(&report), ["drift"]);
    }
    let report = world.second(&[("web", cpu(0.5))]).await;
    assert_eq!(report.decisions[0].limit_before, Some(1.0), "the foreign value is the new base");
    assert_eq!(report.decisions[0].outcome.status, OutcomeStatus::Applied);
    assert_eq!(world.count("SELECT id FROM decisions WHERE rule = '(outside)' AND outcome = 'drifted'").await, 1);
    assert_eq!(world.count("SELECT name FROM events WHERE name = 'drift'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_change_that_comes_again_after_its_hold_is_another_one() {
    let world = World::new().await;
    let drift = |at| drift("web", 2.0, Some(1.0), at, DriftAnswer::Adopt);
    for (after, known) in [(0, 1), (59, 1), (60, 2)] {
        world.engine.note_drift(&drift(START.plus(Duration::from_secs(after))));
        world.clock.set(START.plus(Duration::from_secs(after)));
        world.engine.tick(world.clock.now()).await;
        assert_eq!(world.count("SELECT id FROM decisions WHERE outcome = 'drifted'").await, known);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_stops_nothing() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(&GREEDY.replace("mode = 'on'", "mode = 'on', cooldown_up = '30s'")).await;
    assert_eq!(world.second(&[("web", cpu(0.5))]).await.decisions[0].outcome.status, OutcomeStatus::Applied);
    world.clock.set(world.clock.now().minus(Duration::from_secs(3_600)));
    assert_eq!(world.second(&[("web", cpu(0.5))]).await.decisions[0].outcome.status, OutcomeStatus::Applied);
    assert_eq!(refusals(&world.second(&[("web", cpu(0.5))]).await), ["cooldown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_neither_rules_nor_cooldowns_nor_foreign_changes() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.set_limit("api", Resource::Cpu, 1.0);
    world.run_sql(&GREEDY.replace("mode = 'on'", "mode = 'on', cooldown_up = '30s'")).await;
    let at = world.clock.now();
    let drift = drift("api", 2.0, Some(1.0), at, DriftAnswer::Adopt);
    world.engine.note_drift(&drift);
    world.second(&[("web", cpu(0.5)), ("api", cpu(0.5))]).await;
    let rules: Vec<_> = world.engine.rules().into_iter().map(|rule| rule.sql).collect();

    let world = world.restarted().await;
    assert_eq!(world.engine.rules().into_iter().map(|rule| rule.sql).collect::<Vec<_>>(), rules);
    for _ in 0..29 {
        let mut report = world.second(&[("web", cpu(0.5)), ("api", cpu(0.5))]).await;
        report.decisions.sort_by(|a, b| a.container.cmp(&b.container));
        assert_eq!(refusals(&report), ["drift", "cooldown"]);
    }
    let mut report = world.second(&[("web", cpu(0.5)), ("api", cpu(0.5))]).await;
    report.decisions.sort_by(|a, b| a.container.cmp(&b.container));
    assert_eq!(report.decisions[1].outcome.status, OutcomeStatus::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_tick_gives_the_same_decisions() {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let world = World::new().await;
        world.set_limit("web", Resource::Cpu, 1.0);
        world.run_sql(GREEDY).await;
        let report = world.second(&[("web", cpu(0.5))]).await;
        ids.push(report.decisions);
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_rules_in_shadow_want_nothing_reaches_the_actuator() {
    let world = World::new().await;
    let names = ["a", "b", "web"];
    for name in names {
        world.set_limit(name, Resource::Cpu, 2.0);
    }
    // Of the three, none is among the first percent.
    let modes = ["shadow", "off", "canary 1 %"];
    let targets = ["allocated * 3", "allocated / 3", "0.05", "8.0", "-1.0", "0.0 / 0.0", "1e300", "usage"];
    for (at, target) in targets.iter().enumerate() {
        for (class, mode) in ["safety", "cap", "protect", "optimise"].iter().zip(modes.iter().cycle().skip(at)) {
            let options =
                format!("class = '{class}', mode = '{mode}', cooldown_up = '0s', cooldown_down = '0s', ttl = '2s'");
            let query = format!(
                "SELECT host, container, resource, {target} AS target, 'any' AS reason FROM recent(INTERVAL '60 seconds')"
            );
            world.run_sql(&format!("CREATE RULE {class}_{at} WITH ({options}) AS {query}")).await;
        }
    }
    let mut seen = 0;
    for second in 0..30 {
        let demand = if second % 7 < 3 { 1.9 } else { 0.1 };
        let report = world.second(&names.map(|name| (name, cpu(demand)))).await;
        let harmless = [OutcomeStatus::Shadow, OutcomeStatus::Refused];
        assert!(report.decisions.iter().all(|decision| harmless.contains(&decision.outcome.status)));
        seen += report.decisions.len();
    }
    assert!(seen > 1_000, "{seen}");
    assert_eq!(world.actuator.changes.lock().len(), 0);
    assert!(names.iter().all(|name| world.limit(name, Resource::Cpu) == 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_has_pinned_no_rule_changes_and_shows_what_it_would() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.set_limit("web", Resource::Memory, 400.0 * MIB);
    world.put_container("web", None, &[], Limit::Unlimited);
    world
        .run_sql(
            "CREATE RULE up WITH (mode = 'on', cooldown_up = '0s') AS
             SELECT host, container, resource, 1.5 * allocated AS target, 'more' AS reason FROM recent(INTERVAL '10 seconds')",
        )
        .await;
    let said = |pinned: &[Resource]| Override {
        key: key("web"),
        bounds: Default::default(),
        pinned: pinned.iter().copied().collect(),
        why: "its owner looks into it".to_owned(),
        changed_by: "anna".to_owned(),
        changed_at: START,
    };
    let demand = [("web", cpu(0.5)), ("web", memory(300.0 * MIB))];
    world.store.put_override(said(&[Resource::Cpu])).unwrap();
    let report = world.second(&demand).await;
    let decision = report.decisions.iter().find(|decision| decision.resource == Resource::Cpu).unwrap();
    assert_eq!((decision.outcome.status, decision.decided), (OutcomeStatus::Shadow, Some(1.5)));
    let message = &decision.outcome.message;
    assert_eq!(message, "anna has pinned the cpu of node0/web: its owner looks into it");
    assert_eq!(world.limit("web", Resource::Cpu), 1.0);
    assert_eq!(world.limit("web", Resource::Memory), 600.0 * MIB, "that was not pinned");
    assert!(world.actuator.changes.lock().iter().all(|change| change.resource == Resource::Memory));

    // It outlives the program.
    let world = world.restarted().await;
    world.second(&demand).await;
    assert_eq!(world.limit("web", Resource::Cpu), 1.0);
    world.store.put_override(said(&[])).unwrap();
    world.second(&demand).await;
    assert_eq!(world.limit("web", Resource::Cpu), 1.5);
}
