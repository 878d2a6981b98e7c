//! Knobs that rules move, and what becomes of them when their rule goes.

use std::collections::BTreeSet;

use tidegate_model::{Clock, OutcomeStatus, Resource};
use tidegate_policy::{TickReport, explain_sentence};

use crate::simulated::Fleet;
use crate::world::of;

/// Moves both knobs of all containers, and their CPU limits.
const RULES: &str = "
    CREATE RULE hold_back WITH (mode = 'on', cooldown_down = '1s', warm_up = '1s', step_down = 0.9) AS
    SELECT host, container, 'memory.high' AS resource, greatest(1.5 * usage, 0.5 * allocated) AS target, 'less' AS reason
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'memory';
    CREATE RULE rank WITH (mode = 'on', cooldown_down = '1s', cooldown_up = '1s') AS
    SELECT host, container, 'cpu.weight' AS resource, 250 AS target, 'more' AS reason
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu';
    CREATE RULE cap WITH (mode = 'on', cooldown_down = '1s', warm_up = '1s', step_down = 0.9) AS
    SELECT host, container, resource, 0.9 * allocated AS target, 'less' AS reason
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu' AND allocated > 1.9";

/// The containers at which something was applied in the name of `rule`, of one resource.
fn applied(reports: &[TickReport], rule: &str, resource: Resource) -> BTreeSet<String> {
    let decisions = reports.iter().flat_map(|report| of(report, rule));
    let applied =
        decisions.filter(|decision| decision.resource == resource && decision.outcome.status == OutcomeStatus::Applied);
    applied.map(|decision| decision.container.name.clone()).collect()
}

async fn seconds(fleet: &mut Fleet, seconds: usize) -> Vec<TickReport> {
    let mut reports = Vec::new();
    for _ in 0..seconds {
        reports.push(fleet.second().await);
    }
    reports
}

async fn run_sql(fleet: &Fleet, sql: &str) {
    fleet.engine.execute(sql, "test", fleet.clock.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_goes_gives_its_knobs_back_and_leaves_limits_as_they_are() {
    let mut fleet = Fleet::new(RULES).await;
    let reports = seconds(&mut fleet, 30).await;
    let (high, weight) =
        (applied(&reports, "hold_back", Resource::MemoryHigh), applied(&reports, "rank", Resource::CpuWeight));
    let capped = applied(&reports, "cap", Resource::Cpu);
    assert!(high.len() > 2 && weight.len() > 2 && !capped.is_empty(), "{high:?} {weight:?} {capped:?}");
    let returned = |reports: &[TickReport], resource| applied(reports, "(return)", resource);
    assert!(Resource::with_knobs().all(|resource| returned(&reports, resource).is_empty()));

    run_sql(&fleet, "DROP RULE rank; DROP RULE cap").await;
    // A minute after its last change something may be lowered again.
    let reports = seconds(&mut fleet, 60).await;
    assert_eq!(returned(&reports, Resource::CpuWeight), weight);
    assert!(returned(&reports, Resource::MemoryHigh).is_empty(), "its rule is there");
    assert!(returned(&reports, Resource::Cpu).is_empty(), "a container has some limit or other");
    let one = reports.iter().flat_map(|report| of(report, "(return)")).last().unwrap();
    let sentence = explain_sentence(one);
    assert!(sentence.contains("rule rank set it, which does not act here any more"), "{sentence}");

    // Nothing else is left to wake the engine for.
    run_sql(&fleet, "ALTER RULE hold_back SET (mode = 'shadow')").await;
    let reports = seconds(&mut fleet, 11).await;
    assert_eq!(returned(&reports, Resource::MemoryHigh), high);
    let reports = seconds(&mut fleet, 21).await;
    assert!(Resource::with_knobs().all(|resource| returned(&reports, resource).is_empty()), "once is enough");
}
