//! What a host's containers share: its capacity, and how many of them may shrink within a minute.

use tidegate_model::{Clock, Limit, Resource};
use tidegate_policy::PolicyConfig;

use crate::world::{World, cpu, refused_by};

const GREEDY: &str = "CREATE RULE greedy WITH (mode = 'on') AS
    SELECT host, container, resource, allocated + 2 AS target, 'more' AS reason FROM recent(INTERVAL '10 seconds')";

fn config() -> PolicyConfig {
    PolicyConfig { gather_ms: 60_000, rule_timeout_ms: 60_000, ..PolicyConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_grow_to_what_the_host_may_promise_and_share_what_is_left_by_weight() {
    let world = World::new().await;
    world.put_container("a", None, &[("tidegate.weight", "3")], Limit::Unlimited);
    world.put_container("b", None, &[], Limit::Unlimited);
    for container in ["a", "b"] {
        world.set_limit(container, Resource::Cpu, 5.0);
    }
    world.run_sql(GREEDY).await;
    let demands = [("a", cpu(4.0)), ("b", cpu(4.0))];
    // 8 cores, of which 1.5 times as many may be promised: 12, and 10 are.
    let mut report = world.second(&demands).await;
    report.decisions.sort_by(|a, b| a.container.cmp(&b.container));
    assert_eq!(["a", "b"].map(|container| world.limit(container, Resource::Cpu)), [6.5, 5.5]);
    let note = report.decisions[0].guards.last().unwrap();
    assert_eq!(note.guard, "capacity");
    assert_eq!(
        note.why,
        "the limits on node0 add up to 10.00 cores and may grow to 12.00 cores, 1.50 times what it has; of the 2.00 cores \
         wanted, there is 1.50 cores"
    );
    let full = world.second(&demands).await;
    assert!(full.decisions.iter().all(|decision| refused_by(decision) == Some("capacity")), "{:?}", full.decisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_limit_of_its_own_counts_as_what_it_uses() {
    let world = World::new().await;
    for container in ["free-1", "free-2", "free-3"] {
        world.set_limit(container, Resource::Cpu, 8.0);
    }
    world.set_limit("web", Resource::Cpu, 1.0);
    world.run_sql(GREEDY).await;
    world.second(&[("free-1", cpu(0.5)), ("free-2", cpu(0.5)), ("free-3", cpu(0.5)), ("web", cpu(0.5))]).await;
    assert_eq!(world.limit("web", Resource::Cpu), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_rules_take_no_room_from_those_that_act() {
    let world = World::with(PolicyConfig { capacity_ratio_cpu: 0.5, ..config() });
    world.set_limit("a", Resource::Cpu, 1.0);
    world.set_limit("b", Resource::Cpu, 1.0);
    world
        .run_sql(
            &GREEDY.replace(
                "FROM recent(INTERVAL '10 seconds')",
                "FROM recent(INTERVAL '10 seconds') WHERE container = 'a'",
            ),
        )
        .await;
    world.run_sql(&GREEDY.replace("RULE greedy", "RULE looking").replace("'on'", "'shadow'")).await;
    world.second(&[("a", cpu(0.5)), ("b", cpu(0.5))]).await;
    assert_eq!(world.limit("a", Resource::Cpu), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_share_of_a_hosts_containers_is_shrunk_within_a_minute() {
    let world = World::with(PolicyConfig { shrink_share: 0.4, ..config() });
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        world.set_limit(name, Resource::Cpu, 4.0);
    }
    let rule = "CREATE RULE down WITH (mode = 'on', cooldown_down = '1h', warm_up = '0s') AS
        SELECT host, container, resource, allocated / 2 AS target, 'less' AS reason FROM recent(INTERVAL '60 seconds')";
    world.run_sql(rule).await;
    let demands = names.map(|name| (name, cpu(0.1)));
    let shrunk = || names.into_iter().filter(|name| world.limit(name, Resource::Cpu) < 4.0).count();
    let mut counts = Vec::new();
    for second in 0..130 {
        let report = world.second(&demands).await;
        if second == 0 {
            let refused = report.decisions.iter().filter(|decision| refused_by(decision) == Some("shrink_share"));
            assert_eq!(refused.count(), 3, "{:?}", report.decisions);
        }
        counts.push(shrunk());
    }
    assert_eq!([0, 59, 60, 119, 120].map(|second: usize| counts[second]), [2, 2, 4, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_decrease_took_is_free_when_the_container_is_known_to_do_without() {
    let world = World::with(PolicyConfig { capacity_ratio_cpu: 1.0, warm_up_s: 0, ..config() });
    world.set_limit("gives", Resource::Cpu, 6.0);
    world.set_limit("wants", Resource::Cpu, 2.0);
    let one = |name: &str, target: f64| {
        format!(
            "CREATE RULE {name} WITH (mode = 'on', step_down = 1, cooldown_down = '0s', watch = '10s') AS
             SELECT host, container, resource, {target} AS target, 'a test' AS reason
             FROM recent(INTERVAL '10 seconds') WHERE container = '{name}'"
        )
    };
    world.run_sql(&one("gives", 3.0)).await;
    world.run_sql(&one("wants", 4.0)).await;
    let demands = [("gives", cpu(1.0)), ("wants", cpu(1.0))];
    let mut waited = 0;
    while world.limit("wants", Resource::Cpu) < 4.0 {
        world.second(&demands).await;
        assert_eq!(world.limit("gives", Resource::Cpu), 3.0);
        waited += 1;
        assert!(waited < 30, "it never got what it wants");
    }
    assert!(waited > 10, "it got after {waited} s what may have to be given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_made_anew_owes_nothing_to_the_former_one() {
    let world = World::new().await;
    world.put_container("job", None, &[], Limit::Unlimited);
    world.set_limit("job", Resource::Cpu, 1.0);
    let lease = "CREATE RULE shift WITH (mode = 'on', ttl = '5s') AS
        SELECT host, container, resource, 4.0 AS target, 'a long queue' AS reason
        FROM recent(INTERVAL '10 seconds') WHERE now() < to_timestamp_millis(1700000002000)";
    world.run_sql(lease).await;
    let demand = [("job", cpu(0.5))];
    world.second(&demand).await;
    assert_eq!(world.limit("job", Resource::Cpu), 4.0);
    // It ends, and another one of that name begins with a limit of its own.
    let mut anew = world.store.containers().remove(0);
    (anew.incarnation, anew.first_seen) = (2, world.clock.now().plus(std::time::Duration::from_millis(500)));
    world.store.put_containers(&[anew]).unwrap();
    world.set_limit("job", Resource::Cpu, 2.0);
    for _ in 0..20 {
        world.second(&demand).await;
    }
    assert_eq!(world.limit("job", Resource::Cpu), 2.0, "what the former one had before is no business of this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_measured_any_more_still_has_its_limit() {
    let world = World::with(PolicyConfig { capacity_ratio_cpu: 1.0, hold_max_s: 120, ..config() });
    world.put_container("silent", None, &[], Limit::Unlimited);
    world.set_limit("silent", Resource::Cpu, 5.0);
    world.set_limit("web", Resource::Cpu, 1.0);
    let both = [("silent", cpu(1.0)), ("web", cpu(0.5))];
    for _ in 0..3 {
        world.second(&both).await;
    }
    world.run_sql(&format!("{GREEDY} WHERE container = 'web'")).await;
    for _ in 0..100 {
        world.second(&both[1..]).await;
    }
    assert_eq!(world.limit("web", Resource::Cpu), 3.0, "five of eight cores are promised to somebody");
    for _ in 0..100 {
        world.second(&both[1..]).await;
    }
    assert!(world.limit("web", Resource::Cpu) > 3.0, "after a while it counts as gone");
}
