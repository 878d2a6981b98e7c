//! Options of a rule, seen from what they do.

use std::time::Duration;

use tidegate_model::{Clock, Limit, OutcomeStatus, Resource};

use tidegate_policy::PolicyConfig;

use crate::world::{World, cpu, of, refused_by};

const GREEDY: &str = "CREATE RULE greedy WITH (mode = 'on') AS
    SELECT host, container, resource, allocated + 1 AS target, 'more' AS reason FROM recent(INTERVAL '10 seconds')";

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_writes_to_its_share_of_the_containers_and_shows_what_it_would_do_to_the_others() {
    let world = World::new().await;
    for container in ["web", "db", "idle"] {
        world.set_limit(container, Resource::Cpu, 1.0);
    }
    world.run_sql(&GREEDY.replace("'on'", "'canary 50 %'")).await;
    let demands = [("web", cpu(0.5)), ("db", cpu(0.5)), ("idle", cpu(0.5))];
    world.second(&demands).await;
    world.second(&demands).await;
    // Which ones these are is decided by their names, the same on every machine.
    let limits = ["web", "db", "idle"].map(|container| world.limit(container, Resource::Cpu));
    assert_eq!(limits, [1.0, 3.0, 3.0]);
    let shown = "SELECT id FROM decisions WHERE container = 'web' AND mode = 'canary 50 %' AND outcome = 'shadow'";
    assert_eq!(world.count(shown).await, 2);
    assert_eq!(world.count("SELECT id FROM decisions WHERE outcome = 'applied'").await, 4);
    world.run_sql("ALTER RULE greedy SET (mode = 'canary 5 %')").await;
    world.second(&demands).await;
    assert_eq!(world.actuator.changes.lock().len(), 4, "none of the three is among the first 5 %");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_only_measured_shows_what_would_be_done_and_nothing_is_written() {
    let world = World::new().await;
    world.put_container("web", None, &[("tidegate.scale", "true")], Limit::Unlimited);
    world.put_container("db", None, &[("tidegate.scale", "false")], Limit::Unlimited);
    for container in ["web", "db"] {
        world.set_limit(container, Resource::Cpu, 1.0);
    }
    world.run_sql(GREEDY).await;
    world.second(&[("web", cpu(0.5)), ("db", cpu(0.5))]).await;
    assert_eq!(["web", "db"].map(|container| world.limit(container, Resource::Cpu)), [2.0, 1.0]);
    let shown =
        "SELECT id FROM decisions WHERE container = 'db' AND outcome = 'shadow' AND message LIKE '%only measured%'";
    assert_eq!(world.count(shown).await, 1);
    assert!(world.actuator.changes.lock().iter().all(|change| change.container.name == "web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_leaves_other_containers_alone() {
    let world = World::new().await;
    world.put_container("web", Some("shop"), &[("tier", "front")], Limit::Unlimited);
    world.put_container("db", Some("shop"), &[("tier", "back")], Limit::Unlimited);
    for container in ["web", "db", "unknown"] {
        world.set_limit(container, Resource::Cpu, 1.0);
    }
    world.run_sql(&GREEDY.replace("mode = 'on'", "mode = 'on', scope = 'app = shop, tier != back'")).await;
    let report = world.second(&[("web", cpu(0.5)), ("db", cpu(0.5)), ("unknown", cpu(0.5))]).await;
    assert_eq!(report.decisions.len(), 1);
    assert_eq!(report.decisions[0].container.name, "web");
    assert_eq!(report.runs[0].rows, 3, "the query itself is not changed");
    let preview = world.engine.preview(&world.engine.rules()[0].sql, world.clock.now()).await.unwrap();
    assert_eq!(preview.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_of_its_own_holds_for_a_rule() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 4.0);
    let rule = "CREATE RULE down WITH (mode = 'on', warm_up = '30s') AS
        SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')";
    world.run_sql(rule).await;
    let mut waited = 0;
    while world.limit("web", Resource::Cpu) == 4.0 {
        let report = world.second(&[("web", cpu(0.1))]).await;
        waited += usize::from(refused_by(&report.decisions[0]) == Some("warm_up"));
    }
    assert_eq!(waited, 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asks_for_any_more_ends_with_its_time() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let boost = "CREATE RULE boost WITH (mode = 'on', ttl = '5s', cooldown_down = '1s') AS
        SELECT host, container, resource, 3.0 AS target, 'busy' AS reason FROM recent(INTERVAL '2 seconds') WHERE usage > 0.8";
    world.run_sql(boost).await;
    for _ in 0..12 {
        world.second(&[("web", cpu(0.9))]).await;
        assert_eq!(world.limit("web", Resource::Cpu), 3.0, "asking for it keeps it, also without a change");
    }
    let mut limits = Vec::new();
    let mut reason = String::new();
    for _ in 0..10 {
        let report = world.second(&[("web", cpu(0.1))]).await;
        limits.push(world.limit("web", Resource::Cpu));
        reason = report.decisions.last().map_or(reason, |decision| decision.reason.clone());
    }
    // The way back is the rule's own, with its steps and cooldowns.
    assert_eq!(limits, [3.0, 3.0, 3.0, 3.0, 3.0, 1.5, 1.0, 1.0, 1.0, 1.0]);
    assert!(reason.contains("what it sets stands for 5s"), "{reason}");
    let quiet = world.second(&[("web", cpu(0.1))]).await;
    assert!(quiet.decisions.is_empty(), "{:?}", quiet.decisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_make_a_change_with_an_end_endless() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let boost = "CREATE RULE boost WITH (mode = 'on', ttl = '10s', cooldown_down = '1s') AS
        SELECT host, container, resource, 1.5 AS target, 'busy' AS reason FROM recent(INTERVAL '2 seconds') WHERE usage > 0.8";
    world.run_sql(boost).await;
    for _ in 0..3 {
        world.second(&[("web", cpu(0.9))]).await;
    }
    let world = world.restarted().await;
    for second in 0..12 {
        world.second(&[("web", cpu(0.1))]).await;
        let expected = if second < 10 { 1.5 } else { 1.0 };
        assert_eq!(world.limit("web", Resource::Cpu), expected, "second {second}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_change_takes_a_limit_over() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let boost = "CREATE RULE boost WITH (mode = 'on', ttl = '5s', cooldown_down = '1s') AS
        SELECT host, container, resource, 3.0 AS target, 'busy' AS reason FROM recent(INTERVAL '2 seconds') WHERE usage > 0.8";
    world.run_sql(boost).await;
    world.second(&[("web", cpu(0.9))]).await;
    let more =
        "CREATE RULE more WITH (mode = 'on', class = 'safety') AS SELECT host, container, resource, 5.0 AS target,
        'more' AS reason FROM recent(INTERVAL '2 seconds')";
    world.run_sql(more).await;
    world.second(&[("web", cpu(0.9))]).await;
    world.run_sql("DROP RULE more").await;
    for _ in 0..15 {
        world.second(&[("web", cpu(0.1))]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_data_a_limit_is_held_and_then_goes_back_to_its_baseline_but_never_below_itself() {
    let patient = PolicyConfig { gather_ms: 60_000, rule_timeout_ms: 60_000, ..PolicyConfig::default() };
    let world = World::with(PolicyConfig { capacity_ratio_cpu: 3.0, ..patient });
    for (container, baseline) in [("web", Limit::At(3.0)), ("api", Limit::At(1.0)), ("free", Limit::Unlimited)] {
        world.put_container(container, None, &[], baseline);
        world.set_limit(container, Resource::Cpu, 4.0);
    }
    world.set_limit("alive", Resource::Cpu, 1.0);
    let rule = "CREATE RULE down WITH (mode = 'on', hold_max = '2m', cooldown_down = '1h') AS
        SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')
        WHERE container <> 'alive'";
    world.run_sql(&rule.replace("mode = 'on'", "mode = 'on', warm_up = '0s'")).await;
    let all = [("web", cpu(0.1)), ("api", cpu(0.1)), ("free", cpu(0.1)), ("alive", cpu(0.1))];
    while world.limit("web", Resource::Cpu) == 4.0
        || world.limit("api", Resource::Cpu) == 4.0
        || world.limit("free", Resource::Cpu) == 4.0
    {
        world.second(&all).await;
    }
    let mut held = Vec::new();
    for second in 0..200 {
        let report = world.second(&[("alive", cpu(0.1))]).await;
        for decision in of(&report, "(hold)") {
            held.push((second, decision.container.name.clone(), decision.outcome.status, decision.decided));
        }
    }
    let limits = ["web", "api", "free"].map(|container| world.limit(container, Resource::Cpu));
    // Unlimited is as much as the host has.
    assert_eq!(limits, [3.0, 2.0, 8.0], "{held:?}");
    assert_eq!(held.len(), 3, "each is told once: {held:?}");
    assert!(held.iter().all(|(second, ..)| (120..131).contains(second)), "{held:?}");
    let refused = held.iter().find(|(_, container, ..)| container == "api").unwrap();
    assert_eq!(refused.2, OutcomeStatus::Refused, "a baseline below the limit takes nothing away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_without_end_is_one() {
    let world = World::new().await;
    world.put_container("web", None, &[], Limit::At(3.0));
    world.set_limit("web", Resource::Cpu, 2.0);
    world.set_limit("alive", Resource::Cpu, 1.0);
    let rule = "CREATE RULE down WITH (mode = 'on', hold_max = '0s', warm_up = '0s', cooldown_down = '1h') AS
        SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')
        WHERE container = 'web'";
    world.run_sql(rule).await;
    world.second(&[("web", cpu(0.1)), ("alive", cpu(0.1))]).await;
    assert_eq!(world.limit("web", Resource::Cpu), 1.0);
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(1_000));
        world.second(&[("alive", cpu(0.1))]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 1.0);
}
