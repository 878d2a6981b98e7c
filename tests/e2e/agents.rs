//! Three hosts and one controller, each in a network namespace of its own: orders, outages, restarts, the kill switch.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Process, Server, TestContainers, binary, installed, skip, wait_for};

const LONG: Duration = Duration::from_secs(120);
/// What the controller's token file holds; its hash stands in the configuration.
const TOKEN: &str = "tg_a-token-for-tests";
const CONTROLLER: &str = "10.231.0.1";

fn try_run(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let said = || format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}

fn run(command: &str) {
    try_run(command).unwrap();
}

/// A namespace for this thread and all it starts from here on, which goes away with them.
fn own_network(test: &str) -> bool {
    if !installed("ip") || !installed("nsenter") {
        skip(test, "no ip or nsenter; tests/run installs them as root");
        return false;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(test, &format!("no network namespace can be made: {error}"));
        return false;
    }
    // Containers may be allowed a namespace, but no kernel modules for what shall be in it.
    let address = format!("ip addr add {CONTROLLER}/24 dev hosts");
    let needed = [
        "ip link set lo up",
        "ip link add hosts type bridge",
        &address,
        "ip link set hosts up",
        "ip link add probe type veth peer name probed",
        "ip link del probe",
    ];
    if let Some(why) = needed.iter().find_map(|command| try_run(command).err()) {
        skip(test, &why);
        return false;
    }
    true
}

/// A host: a namespace, an agent in it, and a container with a load.
struct TestHost {
    name: &'static str,
    // What runs in a cgroup ends before the cgroup is removed: fields are dropped in this order.
    load: Option<Process>,
    agent: Option<Process>,
    holder: Process,
    containers: TestContainers,
    state: TempDir,
}

impl TestHost {
    fn new(test: &str, name: &'static str, number: u8) -> Option<Self> {
        let containers = TestContainers::new(test)?;
        containers.sandbox.add_group("app").unwrap();
        containers.sandbox.limit_cpu("app", 0.1).unwrap();
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let holder = Process(holder);
        let pid = holder.0.id();
        // The namespace is there once it differs from ours.
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for("a network namespace", LONG, || {
            fs::read_link(format!("/proc/{pid}/ns/net")).ok().filter(|namespace| *namespace != own)
        });
        run(&format!("ip link add to-{name} type veth peer name eth0 netns {pid}"));
        run(&format!("ip link set to-{name} master hosts up"));
        run(&format!("nsenter -t {pid} -n ip addr add 10.231.0.{number}/24 dev eth0"));
        run(&format!("nsenter -t {pid} -n ip link set eth0 up"));
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("token"), TOKEN).unwrap();
        Some(Self { name, load: None, agent: None, holder, containers, state })
    }

    fn settings(&self) -> Vec<String> {
        let mut settings = self.containers.settings();
        let state = self.state.path().join("state").display().to_string();
        settings.extend(["--actuator-host", self.name, "--actuator-state-dir", &state].map(str::to_owned));
        settings
    }

    fn start_agent(&mut self) {
        let token = self.state.path().join("token").display().to_string();
        let log = fs::File::options().append(true).create(true).open(self.state.path().join("log")).unwrap();
        let pid = self.holder.0.id().to_string();
        let server = format!("http://{CONTROLLER}:8642");
        let agent = Command::new("nsenter")
            .args(["-t", &pid, "-n"])
            .arg(binary())
            .args(["agent", "--server", &server, "--token-file", &token])
            .args(["--agent-hold-after-s", "7", "--agent-restore-after-s", "14"])
            .args(self.settings())
            .current_dir(self.state.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.agent = Some(Process(agent.unwrap()));
    }

    fn start_load(&mut self) {
        self.load = Some(self.containers.load("app", &["--cores", "0.5"]));
    }

    /// What the kernel's own file says.
    fn limit(&self) -> f64 {
        self.containers.sandbox.cpu_limit("app").unwrap().unwrap()
    }

    fn cut(&self, off: bool) {
        run(&format!("ip link set to-{} {}", self.name, if off { "down" } else { "up" }));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }
}

fn controller(dir: TempDir, more: &[&str]) -> Server {
    let digest = tidegate_web::Auth::digest(TOKEN);
    let tokens = format!(
        "[[tokens]]\nname = \"test\"\nsha256 = \"{digest}\"\nrights = [\"push\", \"read\", \"operate\", \"agent\"]\n"
    );
    let file = dir.path().join("controller.toml");
    fs::write(&file, tokens).unwrap();
    let file = file.display().to_string();
    let listen = format!("{CONTROLLER}:8642");
    let settings = ["--listen", &listen, "--config", &file, "--local-host", "false", "--policy-default-mode", "on"];
    Server::start_as(dir, &[&settings, more].concat(), Some(TOKEN))
}

fn connected(server: &Server) -> Vec<String> {
    let agents = server.get("/api/v1/agents").unwrap();
    let agents = agents.as_array().unwrap().iter().filter(|agent| agent["connected"] == true);
    agents.map(|agent| agent["host"].as_str().unwrap().to_owned()).collect()
}

fn wait_until_connected(server: &Server, hosts: &[TestHost]) {
    wait_for("all agents to ask for orders", LONG, || {
        let missing = hosts.iter().any(|host| !connected(server).contains(&host.name.to_owned()));
        (!missing).then_some(())
    });
}

fn wait_until_scaled(hosts: &[TestHost]) {
    wait_for("the limits on all hosts to follow the load", LONG, || {
        hosts.iter().all(|host| host.limit() >= 0.4).then_some(())
    });
}

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
    hosts.iter_mut().for_each(TestHost::start_agent);
    hosts.iter_mut().for_each(TestHost::start_load);
    wait_until_connected(&server, &hosts);
    wait_until_scaled(&hosts);

    // One is cut off: the others go on, it keeps its limit and what it measures.
    let (cut_at, limit) = (now(&server), hosts[1].limit());
    hosts[1].cut(true);
    hosts[1].load = None; // Idle from now on: orders to shrink come, and none arrives.
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        assert_eq!(hosts[1].limit(), limit, "a host that is cut off keeps its limit");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(hosts[1].log().contains("the controller is silent: limits stay as they are"), "{}", hosts[1].log());
    let back_at = now(&server);
    hosts[1].cut(false);
    wait_for("what was measured meanwhile", LONG, || {
        let measured = server.number(&format!(
            "SELECT count(DISTINCT date_trunc('second', time)) FROM usage \
             WHERE host = 'beta' AND resource = 'cpu' AND time > '{cut_at}' AND time < '{back_at}'"
        ));
        measured.filter(|seconds| *seconds >= 10.0)
    });
    wait_until_connected(&server, &hosts);
    wait_for("the idle host's limit to come down", LONG, || (hosts[1].limit() < limit).then_some(()));
    hosts[1].start_load();
    wait_until_scaled(&hosts);
    let late =
        "SELECT count(*) FROM decisions WHERE host = 'beta' AND outcome = 'refused' AND message LIKE '%came late%'";
    println!("orders that beta refused since they came late: {:?}", server.number(late));

    // The controller dies: limits are held, then the baselines come back.
    let data = server.kill_9();
    wait_for("the baselines on all hosts", LONG, || {
        hosts.iter().all(|host| (host.limit() - 0.1).abs() < 0.001).then_some(())
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
    host.start_agent();
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
    let is_back = |host: &TestHost| ((host.limit() - 0.1).abs() < 0.001).then_some(());
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

fn now(server: &Server) -> String {
    server.sql("SELECT CAST(now() AS VARCHAR)")[0][0].as_str().unwrap().to_owned()
}
