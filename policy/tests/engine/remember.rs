//! What rules leave for their next tick and for one another: state, parameters, events that are acted on.

use std::time::Duration;

use tidegate_model::{Clock, OutcomeStatus, Resource};

use crate::world::{World, cpu, of, refused_by};

/// Emits an event each second in which a container uses more than half a core.
const BUSY: &str = "CREATE RULE busy WITH (emit = 'event', mode = 'on') AS
    SELECT host, container, resource, CASE WHEN usage > 0.5 THEN 'busy' END AS name
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";
/// Acts on three of them, of which it consumes two.
const AFTER_THREE: &str = "CREATE RULE after_three
    WITH (mode = 'on', dead_band = 0, cooldown_up = '1s') AS
    SELECT r.host, r.container, r.resource, r.allocated + 0.5 AS target, concat(count(*), ' busy seconds') AS reason,
           'busy' AS consume_event, 2 AS consume_count
    FROM events AS e JOIN recent(INTERVAL '10 seconds') AS r USING (host, container, resource)
    WHERE e.name = 'busy' AND e.consumed_by IS NULL
    GROUP BY r.host, r.container, r.resource, r.allocated HAVING count(*) >= 3";

async fn world(rules: &[&str]) -> World {
    let world = World::new().await;
    world.set_limit("a", Resource::Cpu, 1.0);
    for rule in rules {
        world.run_sql(rule).await;
    }
    world
}

/// The limit after each of some seconds of a demand.
async fn limits(world: &World, seconds: usize, demand: f64) -> Vec<f64> {
    let mut limits = Vec::new();
    for _ in 0..seconds {
        world.second(&[("a", cpu(demand))]).await;
        limits.push(world.limit("a", Resource::Cpu));
    }
    limits
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_returns_comes_back_as_its_state() {
    // Counts seconds, keeps a text and an instant, and proposes nothing until the third.
    let world = world(&["CREATE RULE counter WITH (mode = 'on', dead_band = 0) AS
        SELECT r.host, r.container, r.resource, CASE WHEN s.seconds >= 2 THEN 2.0 END AS target,
               concat('began as ', coalesce(s.phase, 'new'), ' at ', coalesce(s.began, now())) AS reason,
               coalesce(s.seconds, 0) + 1 AS seconds,
               CASE WHEN s.phase IS NULL THEN 'first' ELSE s.phase END AS phase,
               coalesce(s.began, now()) AS began, s.time IS NOT NULL AS again
        FROM recent(INTERVAL '10 seconds') AS r LEFT JOIN state AS s USING (host, container, resource)
        WHERE r.resource = 'cpu'"])
    .await;
    assert_eq!(limits(&world, 2, 0.2).await, [1.0, 1.0]);
    let report = world.second(&[("a", cpu(0.2))]).await;
    let decision = of(&report, "counter")[0];
    assert_eq!(decision.reason, "began as first at 2023-11-14T22:13:21Z");
    assert_eq!((&decision.inputs["row"]["seconds"], &decision.inputs["row"]["again"]), (&3.0.into(), &true.into()));
    let kept = "SELECT * FROM state WHERE rule = 'counter' AND columns LIKE '%\"phase\":\"first\"%'";
    assert_eq!(world.count(kept).await, 1, "people see it, too");

    let world = world.restarted().await;
    let report = world.second(&[("a", cpu(0.2))]).await;
    assert_eq!(of(&report, "counter")[0].inputs["row"]["seconds"], 4.0, "it survives a restart");
    world.run_sql("DROP RULE counter").await;
    assert_eq!(world.count("SELECT * FROM state").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_whose_type_is_not_told_is_a_mistake_with_a_way_out() {
    let world = World::new().await;
    let rule = "CREATE RULE r AS SELECT r.host, r.container, r.resource, s.nothing AS target, 'x' AS reason
        FROM recent(INTERVAL '10 seconds') AS r LEFT JOIN state AS s USING (host, container, resource)";
    let error = world.engine.execute(rule, "test", world.clock.now()).await.unwrap_err();
    assert!(error.message.contains("nothing"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_acted_on_at_their_instant_and_only_once() {
    let world = world(&[BUSY, AFTER_THREE]).await;
    // The third event is the first to act on; one of three is left, so two more are needed each time.
    assert_eq!(limits(&world, 7, 0.9).await, [1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.5]);
    assert_eq!(world.count("SELECT * FROM events WHERE consumed_by = 'after_three'").await, 6);
    assert_eq!(limits(&world, 3, 0.1).await, [2.5; 3], "nobody is busy any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_behind_a_refused_proposal_stay_open() {
    let world = world(&[BUSY, AFTER_THREE, "ALTER RULE after_three SET (cooldown_up = '10s')"]).await;
    assert_eq!(limits(&world, 3, 0.9).await, [1.0, 1.0, 1.5]);
    world.second(&[("a", cpu(0.9))]).await;
    let report = world.second(&[("a", cpu(0.9))]).await;
    assert_eq!(refused_by(of(&report, "after_three")[0]), Some("cooldown"));
    assert_eq!(world.count("SELECT * FROM events WHERE consumed_by IS NULL").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_in_shadow_shows_what_it_would_do_and_moves_nobody() {
    let both = ["busy", "after_three"].map(|rule| format!("ALTER RULE {rule} SET (mode = 'shadow')"));
    let world = world(&[BUSY, AFTER_THREE, &both[0], &both[1]]).await;
    let acting = AFTER_THREE.replace("after_three", "acting").replace("+ 0.5", "+ 0.25");
    world.run_sql(&acting).await;
    let mut shown = Vec::new();
    for _ in 0..5 {
        let report = world.second(&[("a", cpu(0.9))]).await;
        assert!(report.events.is_empty() && of(&report, "acting").is_empty(), "what happens in shadow moves nobody");
        let decisions = of(&report, "after_three");
        assert!(decisions.iter().all(|decision| decision.outcome.status == OutcomeStatus::Shadow));
        shown.push(decisions.len());
    }
    assert_eq!(shown, [0, 0, 1, 0, 1], "it consumes for itself what it would have consumed");
    assert_eq!(world.limit("a", Resource::Cpu), 1.0);
    assert_eq!(world.count("SELECT * FROM events WHERE mode = 'shadow'").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_rule_sets_what_a_fast_rule_reads() {
    let slow = "CREATE RULE slow WITH (emit = 'param', mode = 'on', every = '10s', ttl = '15s') AS
        SELECT host, container, resource, 'headroom' AS name, 1.0 + usage AS value
        FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";
    let fast =
        "CREATE RULE fast WITH (mode = 'on', dead_band = 0, cooldown_up = '1s', cooldown_down = '0s', watch = '0s',
            warm_up = '0s', step_down = 1) AS
        SELECT r.host, r.container, r.resource, p.value AS target, concat('as ', p.rule, ' says') AS reason
        FROM recent(INTERVAL '10 seconds') AS r JOIN params AS p USING (host, container, resource)
        WHERE p.name = 'headroom'";
    let world = world(&[slow, fast]).await;
    let nine = limits(&world, 9, 0.5).await;
    assert_eq!(nine, [1.0; 9], "nothing is set before the slow rule's first instant");
    assert_eq!(limits(&world, 1, 0.5).await, [1.5], "at that instant it is read");
    assert_eq!(world.count("SELECT * FROM params WHERE rule = 'slow' AND value = 1.5 AND mode = 'on'").await, 1);
    world.run_sql("ALTER RULE slow SET (mode = 'off')").await;
    world.clock.advance(Duration::from_secs(16));
    assert_eq!(world.count("SELECT * FROM params").await, 0, "it ends with its ttl");
    let report = world.second(&[("a", cpu(0.5))]).await;
    assert!(of(&report, "fast").is_empty());
}
