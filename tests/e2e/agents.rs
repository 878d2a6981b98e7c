//! Three hosts and one controller, each in a network namespace of its own: orders, outages, restarts, the kill switch.

mod hosts;
mod outages;

use std::fs;
use std::process::Command;
use std::time::Duration;

use hosts::{FOUND, TestHost, connected, controller, own_network, wait_until_connected, wait_until_scaled};
use serde_json::{Value, json};

use super::support::{Process, TestContainers, binary, wait_for};

const LONG: Duration = Duration::from_secs(120);
/// After how many seconds of silence an agent puts baselines back: in a moment, or not within an outage of a minute.
const SOON_S: u64 = 14;
const LATE_S: u64 = 600;

#[test]
fn three_hosts_are_scaled_through_outages_of_the_network_and_of_the_controller() {
    const TEST: &str = "agents::three_hosts";
    if !own_network(TEST) {
        return;
    }
    let names = [("alpha", 2), ("beta", 3), ("gamma", 4)];
    let Some(mut hosts) =
        names.iter().map(|(name, number)| TestHost::new(TEST, name, *number)).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let server = controller(tempfile::tempdir().unwrap(), &[]);
    hosts.iter_mut().for_each(|host| host.start_agent(LATE_S));
    hosts.iter_mut().for_each(TestHost::start_load);
    wait_until_connected(&server, &hosts);
    wait_until_scaled(&hosts);

    outages::a_minute_without_the_network(&server, &mut hosts[1]);
    wait_until_connected(&server, &hosts);
    outages::the_network_holds_an_order_back(&server, &hosts[1]);
    hosts[1].start_load();

    // Agents that are started again go on with the limits that they find.
    hosts.iter_mut().for_each(|host| host.start_agent(SOON_S));
    wait_until_connected(&server, &hosts);
    wait_until_scaled(&hosts);

    // The controller dies: limits are held, then the baselines come back.
    let data = server.kill_9();
    wait_for("the baselines on all hosts", LONG, || {
        hosts.iter().all(|host| (host.limit() - FOUND).abs() < 0.001).then_some(())
    });
    let server = controller(data, &[]);
    wait_until_connected(&server, &hosts);
    wait_until_scaled(&hosts);
    let accounted = server.sql(
        "SELECT DISTINCT host FROM decisions WHERE rule = '(agent)' AND outcome = 'applied' AND reason LIKE '%silent%' \
         ORDER BY host",
    );
    assert_eq!(accounted, [["alpha"], ["beta"], ["gamma"]], "what agents did by themselves stands in the log");

    // Another controller, which knows nothing of that one's epoch, is refused until it is told to take over.
    drop(server);
    let server = controller(tempfile::tempdir().unwrap(), &[]);
    wait_for("the agents to refuse", LONG, || {
        let refused =
            hosts.iter().all(|host| host.log().contains("older controller") || host.log().contains("epoch 1"));
        refused.then_some(())
    });
    assert_eq!(connected(&server), Vec::<String>::new());
    let applied = "SELECT count(*) FROM decisions WHERE outcome = 'applied' AND rule <> '(agent)'";
    assert_eq!(server.number(applied), Some(0.0), "an older controller changes nothing");
    drop(server);
    let server = controller(tempfile::tempdir().unwrap(), &["--epoch-at-least", "9"]);
    wait_until_connected(&server, &hosts);
    wait_until_scaled(&hosts);
    for host in &hosts {
        assert_eq!(host.containers.sandbox.oom_kills("app").unwrap(), 0);
    }
}

#[test]
fn the_agents_own_kill_switch_works_without_a_controller() {
    const TEST: &str = "agents::the_agents_own_kill_switch";
    if !own_network(TEST) {
        return;
    }
    let Some(mut host) = TestHost::new(TEST, "alpha", 2) else { return };
    let server = controller(tempfile::tempdir().unwrap(), &[]);
    host.start_agent(SOON_S);
    host.start_load();
    let hosts = [host];
    wait_until_scaled(&hosts);
    let [mut host] = hosts;
    let command = |what: &[&str]| {
        let output = Command::new(binary()).args(["agent"]).args(what).args(host.settings()).output().unwrap();
        assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // With an agent running, it puts the baselines back.
    let said = command(&["freeze", "--restore", "--why", "a drill"]);
    assert!(said.contains("the running agent puts the baselines back"), "{said}");
    let is_back = |host: &TestHost| ((host.limit() - FOUND).abs() < 0.001).then_some(());
    wait_for("the baseline", LONG, || is_back(&host));
    wait_for("an order that was refused for it", LONG, || {
        server
            .number("SELECT count(*) FROM decisions WHERE outcome = 'refused' AND message LIKE '%a drill%'")
            .filter(|count| *count > 0.0)
    });
    assert!(is_back(&host).is_some(), "it stays there");
    wait_for("the list of agents to show it", LONG, || {
        (server.get("/api/v1/agents").unwrap()[0]["frozen"] == Value::Bool(true)).then_some(())
    });
    assert_eq!(command(&["thaw"]).trim(), "thawed: orders are carried out again");
    wait_for("the limit to follow again", LONG, || (host.limit() >= 0.4).then_some(()));
    // With neither agent nor controller, the command does it itself.
    drop(server);
    host.agent = None;
    let command = |what: &[&str]| {
        let output = Command::new(binary()).args(["agent"]).args(what).args(host.settings()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = command(&["freeze", "--restore"]);
    // The CPU's, and memory's too if the rules had moved that by then.
    assert!(said.contains("1 baselines put back") || said.contains("2 baselines put back"), "{said}");
    assert!(is_back(&host).is_some());
}

#[test]
fn the_scaler_of_serverless_containers_can_drive_an_agent() {
    let Some(containers) = TestContainers::new("agents::the_scaler_of_serverless_containers") else { return };
    containers.sandbox.add_group("app").unwrap();
    containers.sandbox.limit_cpu("app", 2.0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").display().to_string();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    // No controller is there: this face needs none.
    let agent = Command::new(binary())
        .args(["agent", "--server", "http://127.0.0.1:1", "--actuator-state-dir", &state])
        .args(["--agent-rescaler-listen", "127.0.0.1:0"])
        .args(containers.settings())
        .stderr(log)
        .spawn();
    let _agent = Process(agent.unwrap());
    let base = wait_for("the address", LONG, || {
        let log = fs::read_to_string(dir.path().join("log")).ok()?;
        let plain = log.replace("\u{1b}[0m", "").replace("\u{1b}[2m", "").replace("\u{1b}[3m", "");
        let at = plain.find("127.0.0.1:").filter(|_| plain.contains("face listens"))?;
        plain[at..].split_whitespace().next().map(|address| format!("http://{address}"))
    });
    let http: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |path: &str| -> (u16, Value) {
        let mut answer = http.get(format!("{base}{path}")).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    };
    let put = |path: &str, body: Value| -> (u16, Value) {
        let mut answer = http.put(format!("{base}{path}")).send_json(&body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    };
    assert_eq!(get("/heartbeat"), (200, json!({ "status": "alive" })));
    wait_for("the container", LONG, || (get("/container/app").0 == 200).then_some(()));
    assert_eq!(get("/container/app").1["cpu"]["cpu_allowance_limit"], 200.0);
    let (status, state) =
        put("/container/app", json!({ "cpu": { "cpu_allowance_limit": "150" }, "mem": { "mem_limit": 256 } }));
    assert_eq!((status, &state["mem"]), (201, &json!({ "mem_limit": 256.0, "unit": "M" })), "{state}");
    assert_eq!(state["cpu"]["cpu_allowance_limit"], 150.0);
    assert_eq!(containers.sandbox.cpu_limit("app").unwrap(), Some(1.5), "the kernel's own file");
    let (status, why) = put("/container/app", json!({ "mem": { "mem_limit": 10 } }));
    assert!(status == 500 && why["mem"]["error"].as_str().unwrap().contains("too low"), "{why}");
    assert_eq!(put("/container/app", json!({ "cpu": { "cpu_allowance_limit": "abc" } })).0, 500);
    assert_eq!(put("/container/none", json!({})).0, 404);
    assert_eq!(
        put("/container/app", json!({ "cpu": { "cpu_allowance_limit": -1 } })).1["cpu"]["cpu_allowance_limit"],
        -1.0
    );
    assert_eq!(get("/container/resources/app?mem=1").1, json!({ "mem": { "mem_limit": 256.0, "unit": "M" } }));
    assert_eq!(get("/container/?name=none").1, Value::Null);
    assert!(get("/host/cpu_topology").1.as_object().is_some_and(|sockets| !sockets.is_empty()));
}
