//! What follows a decrease: a look at its effects, the former limit back, a back-off, and the circuit breaker.

use std::sync::atomic::Ordering;

use tidegate_model::{Clock, Mode, OutcomeStatus, Resource};
use tidegate_policy::{TickReport, explain_sentence};

use crate::world::{MIB, World, cpu, memory, of, refused_by};

/// Halves each CPU limit, whatever is used.
const HALVE: &str = "CREATE RULE halve WITH (mode = 'on', cooldown_down = '30s') AS
    SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')
    WHERE resource = 'cpu'";

/// A world in which `web` has used `demand` cores of 4 for twenty seconds.
async fn world(demand: f64) -> World {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 4.0);
    for _ in 0..20 {
        world.second(&[("web", cpu(demand))]).await;
    }
    world
}

fn applied(report: &TickReport, rule: &str) -> bool {
    of(report, rule).iter().any(|decision| decision.outcome.status == OutcomeStatus::Applied)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_decrease_should_not_have_taken_is_given_back_and_the_rule_backs_off() {
    let world = world(3.0).await;
    world.run_sql(HALVE).await;
    assert!(applied(&world.second(&[("web", cpu(3.0))]).await, "halve"));
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    let mut seconds = 0;
    let restored = loop {
        seconds += 1;
        let report = world.second(&[("web", cpu(3.0))]).await;
        if let [decision] = of(&report, "(watch)").as_slice() {
            break (*decision).clone();
        }
    };
    // The second that holds the write is not looked at, and three samples make a mean.
    assert_eq!(seconds, 4);
    assert_eq!((restored.decided, restored.outcome.status), (Some(4.0), OutcomeStatus::Applied));
    assert_eq!(world.limit("web", Resource::Cpu), 4.0);
    let sentence = explain_sentence(&restored);
    for part in ["rule halve v1 lowered it from 4.00 cores to 2.00 cores 4 s ago", "throttled in 90.0 % of the periods"]
    {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(restored.inputs["row"]["lowered_to"], 2.0);

    for _ in 0..59 {
        let report = world.second(&[("web", cpu(3.0))]).await;
        assert_eq!(refused_by(of(&report, "halve")[0]), Some("backoff"));
    }
    assert!(applied(&world.second(&[("web", cpu(3.0))]).await, "halve"), "a back-off ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decrease_that_hurts_nobody_stands() {
    let world = world(1.5).await;
    world.run_sql(HALVE).await;
    for _ in 0..30 {
        let report = world.second(&[("web", cpu(1.5))]).await;
        assert_eq!(of(&report, "(watch)"), [] as [&_; 0]);
    }
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    // What comes long after is not its fault.
    world.run_sql("DROP RULE halve").await;
    for _ in 0..10 {
        world.second(&[("web", cpu(1.5))]).await;
    }
    for _ in 0..10 {
        let report = world.second(&[("web", cpu(3.0))]).await;
        assert!(report.decisions.is_empty(), "{:?}", report.decisions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_has_to_be_corrected_too_often_falls_back_to_shadow_and_says_so() {
    let world = world(3.0).await;
    world.run_sql(HALVE).await;
    let (mut lowered, mut restored, mut events) = (Vec::new(), 0, Vec::new());
    for second in 0..200 {
        let report = world.second(&[("web", cpu(3.0))]).await;
        if applied(&report, "halve") {
            lowered.push(second);
        }
        restored += usize::from(applied(&report, "(watch)"));
        events.extend(report.events);
    }
    // Each time it waits twice as long: a minute, two minutes, and then no more.
    assert_eq!(lowered, [0, 64, 188]);
    assert_eq!(restored, 3);
    assert_eq!(world.limit("web", Resource::Cpu), 4.0);
    let rule = world.engine.rules().remove(0);
    assert_eq!((rule.mode, rule.created_by.as_str(), rule.version), (Mode::Shadow, "(breaker)", 1));
    let note = rule.note.unwrap();
    assert!(note.contains("circuit breaker") && note.contains("3 of its 3 decreases of the last 10m"), "{note}");
    assert_eq!(
        events.iter().map(|event| (event.rule.as_str(), event.name.as_str())).collect::<Vec<_>>(),
        [("halve", "circuit_breaker")]
    );
    assert_eq!(world.count("SELECT time FROM events WHERE rule = 'halve' AND name = 'circuit_breaker'").await, 1);
    assert_eq!(world.count("SELECT name FROM rules WHERE note LIKE '%circuit breaker%' AND mode = 'shadow'").await, 1);

    world.run_sql("ALTER RULE halve SET (mode = 'on')").await;
    assert_eq!(world.engine.rules()[0].note, None);
    let report = world.second(&[("web", cpu(3.0))]).await;
    assert_ne!(refused_by(of(&report, "halve")[0]), Some("backoff"), "whoever switches it on means it");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_oom_kill_after_a_decrease_is_one_too_many() {
    let world = World::new().await;
    world.set_limit("db", Resource::Memory, 1_000.0 * MIB);
    world.kills.lock().insert("db".to_owned(), 7.0);
    for _ in 0..20 {
        world.second(&[("db", memory(300.0 * MIB))]).await;
    }
    world.run_sql(&HALVE.replace("'cpu'", "'memory'")).await;
    assert!(applied(&world.second(&[("db", memory(300.0 * MIB))]).await, "halve"));
    assert_eq!(world.limit("db", Resource::Memory), 900.0 * MIB);
    world.second(&[("db", memory(300.0 * MIB))]).await;
    world.kills.lock().insert("db".to_owned(), 8.0);
    let report = world.second(&[("db", memory(300.0 * MIB))]).await;
    assert!(applied(&report, "(watch)"), "{report:?}");
    assert!(of(&report, "(watch)")[0].reason.contains("the kernel killed 1 of its processes"));
    assert_eq!(world.limit("db", Resource::Memory), 1_000.0 * MIB);
    assert_eq!(world.engine.rules()[0].mode, Mode::Shadow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_somebody_has_raised_meanwhile_is_left_there_and_the_rule_backs_off_all_the_same() {
    let world = world(3.0).await;
    world.run_sql(HALVE).await;
    for _ in 0..3 {
        world.second(&[("web", cpu(3.0))]).await;
    }
    world
        .run_sql(
            "CREATE RULE up WITH (mode = 'on') AS SELECT host, container, resource, 6.0 AS target, 'throttled' AS reason
             FROM recent(INTERVAL '2 seconds') WHERE resource = 'cpu' AND throttled_last > 0.5",
        )
        .await;
    let mut found_out = Vec::new();
    for _ in 0..10 {
        let report = world.second(&[("web", cpu(5.0))]).await;
        found_out.extend(of(&report, "(watch)").into_iter().cloned());
        assert_eq!(world.limit("web", Resource::Cpu), 6.0);
    }
    let [found_out] = found_out.as_slice() else { panic!("{found_out:?}") };
    assert_eq!(refused_by(found_out), Some("rise"));
    world.run_sql("DROP RULE up").await;
    let report = world.second(&[("web", cpu(5.0))]).await;
    assert_eq!(refused_by(of(&report, "halve")[0]), Some("backoff"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_neither_a_watch_nor_a_back_off() {
    let world = world(3.0).await;
    world.run_sql(HALVE).await;
    world.second(&[("web", cpu(3.0))]).await;
    world.second(&[("web", cpu(3.0))]).await;
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    let world = world.restarted().await;
    for _ in 0..3 {
        world.second(&[("web", cpu(3.0))]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 4.0, "it was watched on");

    let world = world.restarted().await;
    for _ in 0..40 {
        let report = world.second(&[("web", cpu(3.0))]).await;
        assert_eq!(refused_by(of(&report, "halve")[0]), Some("backoff"), "{:?}", report.decisions);
        assert_eq!(of(&report, "(watch)"), [] as [&_; 0], "what was found out is not found out again");
    }
    let world = world.restarted().await;
    let (mut lowered, mut seconds) = (0, 0);
    while world.engine.rules()[0].mode == Mode::On {
        seconds += 1;
        assert!(seconds < 200, "the breaker counts what happened before a restart");
        lowered += usize::from(applied(&world.second(&[("web", cpu(3.0))]).await, "halve"));
    }
    assert_eq!(lowered, 2, "the third one is the last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_is_not_watched_unless_it_says_so() {
    for (options, watched) in
        [("class = 'cap'", false), ("class = 'cap', watch = '20s'", true), ("watch = '0s'", false)]
    {
        let world = world(3.0).await;
        world.run_sql(&HALVE.replace("mode = 'on'", &format!("mode = 'on', {options}"))).await;
        let mut restored = false;
        for _ in 0..10 {
            restored |= applied(&world.second(&[("web", cpu(3.0))]).await, "(watch)");
        }
        assert_eq!(restored, watched, "{options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_and_a_shadow_rule_start_no_watch() {
    let world = world(3.0).await;
    world.run_sql(&HALVE.replace("'on'", "'shadow'")).await;
    for _ in 0..8 {
        world.engine.preview(HALVE, world.clock.now()).await.unwrap();
        let report = world.second(&[("web", cpu(5.0))]).await;
        assert_eq!(of(&report, "(watch)"), [] as [&_; 0]);
    }
    assert_eq!(world.actuator.changes.lock().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_put_back_before_a_restart_is_put_back_after_it() {
    let world = world(3.0).await;
    world.run_sql(HALVE).await;
    for _ in 0..4 {
        world.second(&[("web", cpu(3.0))]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    world.actuator.failing.store(true, Ordering::SeqCst);
    let report = world.second(&[("web", cpu(3.0))]).await;
    assert_eq!(of(&report, "(watch)")[0].outcome.status, OutcomeStatus::Failed);
    let world = world.restarted().await;
    world.actuator.failing.store(false, Ordering::SeqCst);
    world.second(&[("web", cpu(3.0))]).await;
    assert_eq!(world.limit("web", Resource::Cpu), 4.0);
    assert_eq!(of(&world.second(&[("web", cpu(3.0))]).await, "(watch)"), [] as [&_; 0]);
}
