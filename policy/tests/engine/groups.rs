//! Apps and users: what bounds them as a whole, and decisions about them as a whole.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate_actuator::simulated::SimulatedHost;
use tidegate_actuator::{Actuator, ActuatorConfig};
use tidegate_model::{
    Clock, Container, Decision, GroupBounds, GroupKey, GroupKind, Limit, Mode, Resource, VirtualClock,
};
use tidegate_policy::{Engine, PolicyConfig, explain_sentence};
use tidegate_store::{Durability, GroupRow, Store, StoreConfig};

use crate::world::{START, World, cpu, of, refused_by};

const GREEDY: &str = "CREATE RULE greedy WITH (mode = 'on') AS
    SELECT host, container, resource, allocated + 1 AS target, 'more' AS reason FROM recent(INTERVAL '10 seconds')";

fn bound(store: &Store, kind: GroupKind, name: &str, min: Option<f64>, max: Option<f64>) {
    let row = GroupRow {
        key: GroupKey { kind, name: name.to_owned() },
        bounds: [(Resource::Cpu, GroupBounds { min, max })].into(),
        changed_by: "test".to_owned(),
        changed_at: START,
    };
    store.put_group(row).unwrap();
}

/// Containers of an app, each with its limit; the app is alice's.
fn shop(world: &World, limits: &[(&str, f64)]) {
    for (name, limit) in limits {
        world.put_container(name, Some("shop"), &[], Limit::Unlimited);
        world.set_limit(name, Resource::Cpu, *limit);
    }
    let alices = |container: Container| Container { user: Some("alice".to_owned()), ..container };
    let containers: Vec<Container> = world.store.containers().into_iter().map(alices).collect();
    world.store.put_containers(&containers).unwrap();
}

fn limits<const N: usize>(world: &World, names: [&str; N]) -> [f64; N] {
    // What sums of slices lose is no difference.
    names.map(|name| (world.limit(name, Resource::Cpu) * 1e6).round() / 1e6)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_limits_grow_to_its_maximum_and_a_silent_member_counts_with_what_it_had() {
    let world = World::new().await;
    shop(&world, &[("a", 1.0), ("b", 1.0), ("c", 1.5)]);
    bound(&world.store, GroupKind::App, "shop", None, Some(4.5));
    world.second(&[("a", cpu(0.5)), ("b", cpu(0.5)), ("c", cpu(0.5))]).await;
    // Longer ago than a minute, in which nothing is read of its limit either.
    world.clock.advance(Duration::from_secs(90));
    world.run_sql(GREEDY).await;
    let demands = [("a", cpu(0.5)), ("b", cpu(0.5))];
    let report = world.second(&demands).await;
    assert_eq!(limits(&world, ["a", "b", "c"]), [1.5, 1.5, 1.5]);
    let note = report.decisions[0].guards.last().unwrap();
    assert_eq!(note.guard, "group");
    assert_eq!(
        note.why,
        "the limits of app shop add up to 3.50 cores (of one member the last that is known) and may grow to 4.50 cores; of \
         the 1.00 cores wanted, there is 0.50 cores"
    );
    let full = world.second(&demands).await;
    assert!(full.decisions.iter().all(|decision| refused_by(decision) == Some("group")), "{:?}", full.decisions);
    // Forgotten is not silent.
    world.store.remove_container(&crate::world::key("c")).unwrap();
    world.second(&demands).await;
    assert_eq!(limits(&world, ["a", "b"]), [2.25, 2.25]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_known_limit_of_a_silent_member_is_known_after_a_restart() {
    let world = World::new().await;
    shop(&world, &[("a", 1.0), ("b", 2.0)]);
    bound(&world.store, GroupKind::User, "alice", None, Some(3.5));
    world.second(&[("a", cpu(0.5)), ("b", cpu(0.5))]).await;
    let world = world.restarted().await;
    world.clock.advance(Duration::from_secs(600));
    world.run_sql(GREEDY).await;
    world.second(&[("a", cpu(0.5))]).await;
    assert_eq!(limits(&world, ["a", "b"]), [1.5, 2.0], "bounds and limits survive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_about_an_app_is_split_over_its_members_by_need_and_explained() {
    let world = World::new().await;
    shop(&world, &[("a", 1.0), ("b", 2.0), ("c", 1.0)]);
    bound(&world.store, GroupKind::App, "shop", Some(2.0), Some(5.0));
    // c is not heard of; a is short, b has room.
    world.second(&[("a", cpu(0.5)), ("b", cpu(0.5)), ("c", cpu(0.5))]).await;
    world.clock.advance(Duration::from_secs(90));
    let rule = "CREATE RULE shop_grows WITH (mode = 'on') AS
        SELECT name AS app, resource, allocated + 0.5 AS target, 'orders wait' AS reason, usage
        FROM group_recent(INTERVAL '10 seconds') WHERE kind = 'app' AND resource = 'cpu'";
    world.run_sql(rule).await;
    let report = world.second(&[("a", cpu(0.95)), ("b", cpu(0.5))]).await;
    assert!(report.runs.iter().all(|run| run.error.is_none()), "{:?}", report.runs);
    assert_eq!(limits(&world, ["a", "b", "c"]), [1.5, 2.0, 1.0]);
    let [decision] = of(&report, "shop_grows")[..] else { panic!("{:?}", report.decisions) };
    assert_eq!(decision.reason, "orders wait; app shop as a whole goes from 4.00 cores to 4.50 cores");
    let group = &decision.inputs["row"]["group"];
    assert_eq!(group["left_out"], json!({ "node0/c": "has no data" }));
    assert_eq!((&group["total"], &group["aim"], &group["members"]), (&json!(4.0), &json!(4.5), &json!(3)));
    assert_eq!(decision.inputs["row"]["usage"], json!(1.45));
    let sentence = explain_sentence(decision);
    assert!(
        sentence.starts_with(
            "Raised the CPU limit of a on node0 from 1.00 to 1.50 cores because orders wait; app shop as a whole goes from \
             4.00 cores to 4.50 cores (rule shop_grows v1)"
        ),
        "{sentence}"
    );
    let explained = world.engine.explain(decision);
    assert!(explained.rule_sql.unwrap().contains("group_recent"));
    // 5 cores are the app's maximum, so the next half is its last.
    for _ in 0..3 {
        world.second(&[("a", cpu(0.95)), ("b", cpu(0.5))]).await;
    }
    assert_eq!(limits(&world, ["a", "b", "c"]), [2.0, 2.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_about_a_user_takes_from_the_member_with_the_most_room_through_all_guards() {
    let world = World::new().await;
    shop(&world, &[("a", 2.0), ("b", 2.0)]);
    let rule = "CREATE RULE alice_gives WITH (mode = 'on', warm_up = '0s', step_down = 0.25) AS
        SELECT 'alice' AS \"user\", 'cpu' AS resource, 3.0 AS target, 'her budget' AS reason";
    world.run_sql(rule).await;
    let demands = [("a", cpu(0.1)), ("b", cpu(1.5))];
    let report = world.second(&demands).await;
    assert_eq!(limits(&world, ["a", "b"]), [1.5, 2.0]);
    assert_eq!(of(&report, "alice_gives")[0].guards.last().unwrap().guard, "step");
    let preview = world.engine.preview(&world.engine.rules()[0].sql, world.clock.now()).await.unwrap();
    assert!(preview.iter().all(|decision| decision.mode == Mode::Shadow) && !preview.is_empty());
    assert_eq!(world.actuator.changes.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_about_an_app_finds_what_it_returned_about_it_before() {
    let world = World::new().await;
    shop(&world, &[("a", 1.0), ("b", 1.0)]);
    let rule = "CREATE RULE third_time WITH (mode = 'on', class = 'protect') AS
        SELECT g.name AS app, g.resource, CASE WHEN coalesce(s.seen, 0) >= 2 THEN 3.0 END AS target,
               concat('seen ', CAST(CAST(coalesce(s.seen, 0) AS BIGINT) AS VARCHAR), ' times before') AS reason,
               coalesce(s.seen, 0) + 1 AS seen
        FROM group_recent(INTERVAL '10 seconds') AS g LEFT JOIN state AS s ON s.app = g.name AND s.resource = g.resource
        WHERE g.kind = 'app' AND g.resource = 'cpu'";
    world.run_sql(rule).await;
    let demands = [("a", cpu(0.5)), ("b", cpu(0.5))];
    for _ in 0..2 {
        let report = world.second(&demands).await;
        assert!(report.decisions.is_empty() && report.runs[0].error.is_none(), "{:?}", report.runs);
    }
    let report = world.second(&demands).await;
    assert_eq!(limits(&world, ["a", "b"]), [1.5, 1.5]);
    assert!(report.decisions[0].reason.contains("seen 2 times before"), "{}", report.decisions[0].reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_moved_is_an_error_of_the_rule_and_changes_nothing() {
    let world = World::new().await;
    shop(&world, &[("a", 1.0)]);
    let rule = "CREATE RULE nowhere WITH (mode = 'on') AS
        SELECT 'nobody' AS app, 'cpu' AS resource, 3.0 AS target, 'more' AS reason";
    world.run_sql(rule).await;
    let report = world.second(&[("a", cpu(0.5))]).await;
    assert_eq!(report.runs[0].error.as_deref(), Some("row 1: there is no app nobody with containers"));
    assert!(report.decisions.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_simulated_host_users_come_down_as_decided_and_grow_to_their_maximum_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::new(START));
    let store = StoreConfig { dir: dir.path().join("data"), durability: Durability::None, ..StoreConfig::default() };
    let store = Store::open(store, START).unwrap();
    let host = SimulatedHost::new(ActuatorConfig::default(), 7);
    let mut source = host.source();
    let config =
        PolicyConfig { gather_ms: 60_000, rule_timeout_ms: 60_000, shrink_share: 1.0, ..PolicyConfig::default() };
    let actuator = Arc::clone(&host) as Arc<dyn Actuator>;
    let engine = Engine::new(Arc::clone(&store), actuator, config, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let mut seconds = async |count: usize, max: f64| {
        let mut cut = 0;
        for _ in 0..count {
            clock.advance(Duration::from_secs(1));
            let now = clock.now();
            let collected = source.collect(now);
            store.put_host(collected.host.clone()).unwrap();
            store.put_containers(&collected.present).unwrap();
            store.append(&collected.samples, now).await.unwrap();
            let report = engine.tick(now).await;
            assert_eq!(report.problems, Vec::<String>::new());
            assert!(report.runs.iter().all(|run| run.error.is_none()), "{:?}", report.runs);
            let by_group = |decision: &&Decision| decision.guards.iter().any(|note| note.guard == "group");
            cut += report.decisions.iter().filter(by_group).count();
            let has = allocated(&store, "alice", &clock).await;
            // Quotas are whole microseconds.
            assert!(has <= max + 1e-3, "{has} of {max}");
        }
        (cut, allocated(&store, "alice", &clock).await)
    };

    let down =
        "CREATE RULE budget WITH (mode = 'on', warm_up = '0s', cooldown_down = '1s', watch = '0s', dead_band = 0) AS
        SELECT name AS \"user\", resource, 5.0 AS target, 'the night' AS reason FROM group_recent(INTERVAL '10 seconds')
        WHERE kind = 'user' AND resource = 'cpu' AND allocated > 5";
    engine.execute(down, "test", START).await.unwrap();
    let (cut, has) = seconds(20, f64::INFINITY).await;
    assert_eq!(cut, 0, "nothing bounds them yet");
    assert!((has - 5.0).abs() < 0.1, "{has}");

    engine.execute("DROP RULE budget", "test", clock.now()).await.unwrap();
    bound(&store, GroupKind::User, "alice", None, Some(7.5));
    let up = "CREATE RULE grow WITH (mode = 'on', cooldown_up = '1s') AS
        SELECT host, container, resource, allocated * 1.3 AS target, 'more' AS reason
        FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";
    engine.execute(up, "test", clock.now()).await.unwrap();
    let (cut, has) = seconds(10, 7.5).await;
    assert!(cut > 0 && has > 0.9 * 7.5, "what there is, is given: {has}, {cut} cut");
}

/// What the limits of a user's containers add up to, as SQL has it.
async fn allocated(store: &Store, user: &str, clock: &VirtualClock) -> f64 {
    let sql =
        format!("SELECT allocated FROM group_recent(10) WHERE kind = 'user' AND name = '{user}' AND resource = 'cpu'");
    let answer = store.query(&sql, &store.default_query_options(clock.now())).await.unwrap();
    let column = answer.batches[0].column(0);
    column.as_any().downcast_ref::<tidegate_store::arrow::array::Float64Array>().unwrap().value(0)
}
