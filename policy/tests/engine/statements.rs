//! Rule statements as an operator writes them.

use tidegate_model::{Clock, Mode, OutcomeStatus, Resource};
use tidegate_policy::{PolicyError, PolicyErrorKind};

use crate::world::{START, World, cpu};

const RULE: &str = "SELECT host, container, resource, usage * 2 AS target, 'double' AS reason, usage_max AS peak
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";

async fn error(world: &World, sql: &str) -> PolicyError {
    world.engine.execute(sql, "test", START).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_select_is_placed_in_the_whole_text() {
    let world = World::new().await;
    let head = "-- pack\nCREATE RULE a AS ";
    let unknown = error(&world, &format!("{head}{}", RULE.replace("usage * 2", "usge * 2"))).await;
    assert_eq!(unknown.kind, PolicyErrorKind::Query);
    assert!(unknown.message.contains("usge"), "{unknown:?}");
    // `SELECT host, container, resource, usge` begins behind the 17 characters of the head's second line.
    assert_eq!((unknown.line, unknown.column), (Some(2), Some(17 + 35)), "{unknown:?}");
    let syntax = error(&world, &format!("{head}{RULE} WHERE")).await;
    assert_eq!(syntax.line, Some(3), "{syntax:?}");
    assert!(world.engine.rules().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_must_return_what_the_engine_reads() {
    let world = World::new().await;
    let missing = error(
        &world,
        "CREATE RULE a AS SELECT host, container, resource, usage AS target FROM recent(INTERVAL '1 minute')",
    )
    .await;
    assert_eq!(missing.kind, PolicyErrorKind::Schema);
    assert!(missing.message.contains("'reason'"), "{missing:?}");
    let wrong = error(&world, &format!("CREATE RULE a AS {}", RULE.replace("usage * 2", "container"))).await;
    assert!(wrong.message.contains("'target'") && wrong.message.contains("number"), "{wrong:?}");
    let writing = error(&world, "CREATE RULE a AS WITH x AS (SELECT 1) INSERT INTO samples SELECT * FROM x").await;
    assert_eq!(writing.kind, PolicyErrorKind::Query);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_apply_together_or_not_at_all() {
    let world = World::new().await;
    let text = format!("CREATE RULE a AS {RULE};\nCREATE RULE b WITH (evry = '1s') AS {RULE};");
    let mistake = error(&world, &text).await;
    assert_eq!((mistake.line, mistake.kind), (Some(3), PolicyErrorKind::Option));
    assert!(mistake.message.contains("did you mean 'every'"), "{mistake:?}");
    assert!(world.engine.rules().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_count_what_decides_and_the_mode_is_kept() {
    let world = World::new().await;
    let version = || {
        let rules = world.engine.rules();
        (rules[0].version, rules[0].mode)
    };
    world.run_sql(&format!("CREATE RULE a AS {RULE}")).await;
    assert_eq!(version(), (1, Mode::Shadow));
    world.run_sql("ALTER RULE a SET (mode = 'on')").await;
    assert_eq!(version(), (1, Mode::On));
    world.run_sql(&format!("CREATE OR REPLACE RULE a AS {RULE}")).await;
    assert_eq!(version(), (1, Mode::On));
    world.run_sql(&format!("CREATE OR REPLACE RULE a AS {}", RULE.replace('2', "3"))).await;
    assert_eq!(version(), (2, Mode::On));
    world.run_sql("ALTER RULE a SET (step_up = 0.5)").await;
    assert_eq!(version(), (3, Mode::On));
    let canonical = world.engine.rules()[0].sql.clone();
    world.run_sql(&canonical).await;
    assert_eq!(version(), (3, Mode::On));

    let exists = error(&world, &format!("CREATE RULE a AS {RULE}")).await;
    assert_eq!(exists.kind, PolicyErrorKind::Exists);
    let shown = world.engine.execute("SHOW RULES", "test", START).await.unwrap();
    assert_eq!(shown[0].rules.as_ref().unwrap()[0].version, 3);
    world.run_sql("DROP RULE a; DROP RULE IF EXISTS a").await;
    assert_eq!(error(&world, "DROP RULE a").await.kind, PolicyErrorKind::NotFound);
    assert_eq!(world.count("SELECT name FROM rules").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_and_previewing_store_nothing() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    for _ in 0..3 {
        world.second(&[("web", cpu(0.9))]).await;
    }
    let text = format!("CREATE RULE a WITH (mode = 'on', every = '7s') AS {RULE}");
    let rule = world.engine.validate(&text, world.clock.now()).await.unwrap();
    assert_eq!((rule.every_ms, rule.mode, rule.version), (7_000, Mode::On, 1));
    let decisions = world.engine.preview(&text, world.clock.now()).await.unwrap();
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].outcome.status, OutcomeStatus::Shadow);
    assert_eq!((decisions[0].limit_before, decisions[0].decided), (Some(1.0), Some(1.8)));
    assert_eq!(decisions[0].inputs["row"]["peak"], 0.9);
    assert!(world.engine.rules().is_empty());
    assert_eq!(world.count("SELECT id FROM decisions").await, 0);
    assert!(world.actuator.changes.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_several_statements_is_validated_as_it_would_be_executed() {
    let world = World::new().await;
    let validate = async |sql: &str| world.engine.validate(sql, START).await;
    assert_eq!(validate(tidegate_policy::DEFAULT_PACK).await.unwrap().name, "memory_fit");
    let text = format!("CREATE RULE a AS {RULE};\nALTER RULE a SET (mode = 'on');");
    assert_eq!(validate(&text).await.unwrap().name, "a");
    let mistake = validate(&format!("CREATE RULE a AS {RULE};\nALTER RULE b SET (mode = 'on')")).await.unwrap_err();
    assert_eq!((mistake.kind, mistake.line), (PolicyErrorKind::NotFound, Some(3)), "{mistake:?}");
    assert_eq!(validate("SHOW RULES").await.unwrap_err().kind, PolicyErrorKind::Syntax);
    assert!(world.engine.rules().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_rule_writes_events_which_another_rule_can_count() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let event = "CREATE RULE busy WITH (emit = 'event', mode = 'on') AS
        SELECT host, container, resource, 'busy' AS name, usage AS value FROM recent(INTERVAL '10 seconds') WHERE usage > 0.8";
    world.run_sql(event).await;
    let counting = "CREATE RULE after_three WITH (mode = 'on') AS
        SELECT host, container, resource, 2.0 AS target, 'three busy seconds' AS reason FROM events
        WHERE name = 'busy' AND time > now() - INTERVAL '10 seconds' GROUP BY host, container, resource HAVING count(*) >= 3";
    world.run_sql(counting).await;
    for _ in 0..2 {
        world.second(&[("web", cpu(0.9))]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 1.0);
    world.second(&[("web", cpu(0.9))]).await;
    assert_eq!(world.limit("web", Resource::Cpu), 2.0);
    assert_eq!(world.count("SELECT name FROM events WHERE rule = 'busy' AND value = 0.9").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_runs_at_the_multiples_of_its_period() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(&format!("CREATE RULE a WITH (every = '3s') AS {RULE}")).await;
    let mut ran = 0;
    for _ in 0..9 {
        ran += world.second(&[("web", cpu(0.9))]).await.runs.len();
    }
    assert_eq!(ran, 3);
    world.run_sql("ALTER RULE a SET (mode = 'off')").await;
    for _ in 0..3 {
        assert!(world.second(&[("web", cpu(0.9))]).await.runs.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_rule_is_kept_with_its_text_and_who_made_it() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    let at = |seconds| START.plus(std::time::Duration::from_secs(seconds));
    let execute = async |world: &World, sql: &str, who: &str, seconds| {
        world.engine.execute(sql, who, at(seconds)).await.unwrap();
    };
    execute(&world, &format!("CREATE RULE a AS {RULE}"), "alice", 0).await;
    world.second(&[("web", cpu(0.9))]).await;
    execute(&world, "ALTER RULE a SET (mode = 'on')", "bob", 2).await;
    execute(&world, &format!("CREATE OR REPLACE RULE a AS {}", RULE.replace('2', "3")), "carol", 3).await;
    execute(&world, &format!("CREATE OR REPLACE RULE a AS {}", RULE.replace('2', "3")), "dave", 4).await;
    let world = world.restarted().await;
    execute(&world, "DROP RULE a", "erin", 5).await;

    let changes = world.engine.rule_changes();
    let told: Vec<_> =
        changes.iter().map(|change| (&*change.change, &*change.changed_by, change.version, change.mode)).collect();
    let expected = [
        ("created", "alice", 1, Mode::Shadow),
        ("mode", "bob", 1, Mode::On),
        ("changed", "carol", 2, Mode::On),
        ("dropped", "erin", 2, Mode::On),
    ];
    assert_eq!(told, expected, "what changes nothing is no change");
    assert!(changes[0].sql.contains("usage * 2") && changes[2].sql.contains("usage * 3"));
    assert_eq!(world.count("SELECT sql FROM rule_changes WHERE rule = 'a' AND changed_by = 'carol'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained_with_the_text_that_the_rule_had_then() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(&format!("CREATE RULE a AS {RULE}")).await;
    let first = world.second(&[("web", cpu(0.9))]).await.decisions.remove(0);
    world.run_sql(&format!("CREATE OR REPLACE RULE a AS {}", RULE.replace('2', "3"))).await;
    let second = world.second(&[("web", cpu(0.9))]).await.decisions.remove(0);
    for (decision, text) in [(first, "usage * 2"), (second, "usage * 3")] {
        let sql = world.engine.explain(&decision).rule_sql;
        assert!(sql.as_ref().is_some_and(|sql| sql.contains(text)), "{sql:?}");
    }
}
