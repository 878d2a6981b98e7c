//! The loop on real cgroups: v1 or v2, whichever this machine has. The same tests run in a virtual machine with v2.

use std::time::Duration;

use super::support::{Server, TestContainers, wait_for};

/// Generous, since an emulated machine runs these tests too.
const LONG: Duration = Duration::from_secs(240);

fn server(containers: &TestContainers, more: &[&str]) -> Server {
    let mut settings = containers.settings();
    settings.extend(more.iter().map(|s| (*s).to_owned()));
    Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn limit(server: &Server, resource: &str) -> Option<f64> {
    server.number(&format!(
        "SELECT value FROM limits WHERE container = 'app' AND resource = '{resource}' ORDER BY time DESC LIMIT 1"
    ))
}

#[test]
fn a_starved_container_gets_its_cores_step_by_step_and_gives_them_back_when_idle() {
    let Some(containers) = TestContainers::new("scaling::a_starved_container") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_cpu("app", 0.3).unwrap();
    let mut load = containers.load("app", &["--cores", "1.5"]);
    let server = server(&containers, &["--policy-default-mode", "on"]);
    wait_for("a limit of at least 1.45 cores", LONG, || limit(&server, "cpu").filter(|cores| *cores >= 1.45));
    let ups = server.sql(
        "SELECT limit_before, decided, limit_after FROM decisions \
         WHERE container = 'app' AND resource = 'cpu' AND outcome = 'applied' AND decided > limit_before ORDER BY time",
    );
    assert!(ups.len() >= 2, "the limit should go up in several steps: {ups:?}");
    let first = ups[0].iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    assert!((first[0] - 0.3).abs() < 0.01, "the first step starts at the limit that was found: {first:?}");
    for step in &ups {
        let step = step.iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        assert!(step[1] <= step[0] * 3.45, "no step to more than 3.4 times: {step:?}");
        assert!((step[2] - step[1]).abs() < 0.01, "what was read back is what was decided: {step:?}");
    }
    // What the kernel's own file says is what the last decision says; the limit may be on its way down already.
    wait_for("the kernel's file and the decisions to agree", LONG, || {
        let own = containers.sandbox.cpu_limit("app").unwrap().unwrap();
        let last = server.number(
            "SELECT limit_after FROM decisions WHERE container = 'app' AND resource = 'cpu' AND outcome = 'applied' \
             ORDER BY time DESC LIMIT 1",
        );
        last.filter(|after| (after - own).abs() < 0.001)
    });

    load.kill();
    let _idle = containers.load("app", &["--cores", "0.05"]);
    let idle_since = server.sql("SELECT CAST(now() AS VARCHAR)")[0][0].as_str().unwrap().to_owned();
    wait_for("the limit to come down to 0.8 cores", LONG, || limit(&server, "cpu").filter(|cores| *cores <= 0.8));
    let throttled = server
        .number(&format!(
            "SELECT avg(throttled) FROM pressure WHERE container = 'app' AND resource = 'cpu' AND time > '{idle_since}'"
        ))
        .unwrap_or(0.0);
    assert!(throttled <= 0.10, "an idle container was throttled in {throttled} of its periods on the way down");
}

#[test]
fn a_growing_process_is_never_killed_by_a_limit_of_ours() {
    let Some(containers) = TestContainers::new("scaling::a_growing_process") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_memory("app", 64 << 20).unwrap();
    let server = server(&containers, &["--policy-default-mode", "on", "--actuator-bounds", &bounds(16, 512)]);
    wait_for("the container to be known", LONG, || {
        server.number("SELECT count(*) FROM containers").filter(|n| *n == 1.0)
    });
    // 150 MiB in a minute; given back at the end of the cycle, after which it would start again.
    let mut load = containers.load("app", &["--shape", "ramp", "--memory", "150", "--cycle", "60"]);
    wait_for("140 MiB to be in use", LONG, || {
        assert!(load.is_alive(), "the process was killed");
        server.number("SELECT max(value) FROM usage WHERE resource = 'memory'").filter(|bytes| *bytes >= 140e6)
    });
    assert!(load.is_alive(), "the process was killed");
    assert_eq!(containers.sandbox.oom_kills("app").unwrap(), 0);
    // How many steps it takes is the rule's affair: samples of a busy machine may make one large one of them.
    let first = server.sql(
        "SELECT limit_before, limit_after FROM decisions \
         WHERE resource = 'memory' AND outcome = 'applied' AND decided > limit_before ORDER BY time LIMIT 1",
    );
    assert_eq!(first[0][0].as_f64(), Some(f64::from(64 << 20)), "it went up from the limit that was found: {first:?}");
    let own = containers.sandbox.memory_limit("app").unwrap().unwrap();
    assert!((140_000_000..=512 << 20).contains(&own), "the kernel's own file says {own} bytes");
}

#[test]
fn a_memory_target_below_what_is_held_is_infeasible_and_kills_nobody() {
    let Some(containers) = TestContainers::new("scaling::a_memory_target_below") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_memory("app", 256 << 20).unwrap();
    let mut load = containers.load("app", &["--memory", "80"]);
    let server = server(&containers, &["--actuator-bounds", &bounds(4, 4096), "--install-default-rules", "false"]);
    wait_for("80 MiB to be in use", LONG, || {
        server.number("SELECT max(value) FROM usage WHERE resource = 'memory'").filter(|bytes| *bytes >= 80e6)
    });
    let rule = "CREATE RULE squeeze WITH (every = '1s', mode = 'on', cooldown_down = '1s') AS \
                SELECT host, container, resource, 8.0 * 1048576 AS target, 'too low on purpose' AS reason \
                FROM recent(INTERVAL '60 seconds') WHERE resource = 'memory'";
    let (status, text) = server.post("/api/v1/sql", &[], rule.as_bytes());
    assert_eq!(status, 200, "{text}");
    wait_for("an infeasible outcome", LONG, || {
        server
            .number("SELECT count(*) FROM decisions WHERE rule = 'squeeze' AND outcome = 'infeasible'")
            .filter(|n| *n > 0.0)
    });
    assert!(load.is_alive(), "the process was killed");
    assert_eq!(containers.sandbox.oom_kills("app").unwrap(), 0);
    let limit = containers.sandbox.memory_limit("app").unwrap().unwrap();
    assert!((80 << 20..256 << 20).contains(&limit), "it came down as far as it can, and it is {limit} bytes");
}

#[test]
fn a_rule_aims_at_knobs_and_the_kill_switch_gives_them_back() {
    let Some(containers) = TestContainers::new("scaling::a_rule_aims_at_knobs") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_memory("app", 256 << 20).unwrap();
    let mut load = containers.load("app", &["--memory", "40"]);
    let server = server(&containers, &["--actuator-bounds", &bounds(4, 4096), "--install-default-rules", "false"]);
    let rule = "CREATE RULE knobs WITH (every = '1s', mode = 'on', cooldown_down = '1s', step_down = 0.9) AS \
                SELECT r.host, r.container, k.resource, k.target, 'on purpose' AS reason \
                FROM recent(INTERVAL '60 seconds') AS r \
                CROSS JOIN (VALUES ('memory.high', 134217728.0), ('cpu.weight', 300.0)) AS k(resource, target) \
                WHERE r.resource = 'memory'";
    let (status, text) = server.post("/api/v1/sql", &[], rule.as_bytes());
    assert_eq!(status, 200, "{text}");
    wait_for("both knobs to stand", LONG, || {
        (limit(&server, "memory.high") == Some(134_217_728.0) && limit(&server, "cpu.weight") == Some(300.0))
            .then_some(())
    });
    let explained = server
        .sql("SELECT resource, limit_before, limit_after FROM decisions WHERE outcome = 'applied' ORDER BY resource");
    let explained: Vec<_> =
        explained.iter().map(|row| (row[0].as_str().unwrap(), row[1].as_f64(), row[2].as_f64())).collect();
    assert_eq!(
        explained,
        [("cpu.weight", Some(100.0), Some(300.0)), ("memory.high", Some(268_435_456.0), Some(134_217_728.0))],
        "a memory.high that is not set stands where the limit does"
    );
    assert!(load.is_alive());
    let (status, text) = server.post("/api/v1/freeze", &[("Content-Type", "application/json")], br#"{"restore":true}"#);
    assert_eq!(status, 200, "{text}");
    wait_for("the baselines", LONG, || {
        (limit(&server, "memory.high") == Some(268_435_456.0) && limit(&server, "cpu.weight") == Some(100.0))
            .then_some(())
    });
}

#[test]
fn a_limit_changed_by_someone_else_is_noticed_and_left_alone() {
    let Some(containers) = TestContainers::new("scaling::a_limit_changed") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_cpu("app", 0.3).unwrap();
    let _load = containers.load("app", &["--cores", "1.0"]);
    let server = server(&containers, &["--policy-default-mode", "on"]);
    // Its memory may follow usage meanwhile; it is the CPU limit that somebody takes over.
    let applied = "SELECT count(*) FROM decisions WHERE outcome = 'applied' AND resource = 'cpu'";
    wait_for("a first change", LONG, || server.number(applied).filter(|n| *n > 0.0));
    containers.sandbox.limit_cpu("app", 0.2).unwrap();
    wait_for("the foreign change to be noticed", LONG, || {
        server.number("SELECT count(*) FROM decisions WHERE outcome = 'drifted'").filter(|n| *n > 0.0)
    });
    let before = server.number(applied).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let own = containers.sandbox.cpu_limit("app").unwrap().unwrap();
    assert!((own - 0.2).abs() < 0.001, "someone's 0.2 cores became {own}");
    assert_eq!(server.number(applied).unwrap(), before, "it was fought over");
}

#[test]
fn in_shadow_mode_everything_is_decided_and_nothing_is_written() {
    let Some(containers) = TestContainers::new("scaling::in_shadow_mode") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_cpu("app", 0.3).unwrap();
    let _load = containers.load("app", &["--cores", "1.0"]);
    let server = server(&containers, &[]);
    wait_for("five shadow decisions", LONG, || {
        server.number("SELECT count(*) FROM decisions WHERE outcome = 'shadow'").filter(|n| *n >= 5.0)
    });
    let own = containers.sandbox.cpu_limit("app").unwrap().unwrap();
    assert!((own - 0.3).abs() < 0.001, "a shadow rule wrote {own}");
    let others = server.number("SELECT count(*) FROM decisions WHERE outcome IN ('applied', 'failed', 'infeasible')");
    assert_eq!(others, Some(0.0));
}

fn bounds(min_mib: u64, max_mib: u64) -> String {
    let (min, max) = (min_mib << 20, max_mib << 20);
    format!("[{{ container = \"*\", resource = \"memory\", min = {min}.0, max = {max}.0 }}]")
}
