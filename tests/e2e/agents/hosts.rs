//! Hosts of the tests: each a network namespace with an agent in it, at a bridge to the controller.

use std::fs;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tidegate_actuator::agent::Spool;

use super::LONG;
use crate::support::{Process, Server, TestContainers, binary, installed, skip, wait_for};

/// What the controller's token file holds; its hash stands in the configuration.
const TOKEN: &str = "tg_a-token-for-tests";
/// The limit that the containers are made with, in cores. Their load wants five times as much, of which a busy machine may give
/// them half.
pub const FOUND: f64 = 0.1;
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
pub fn own_network(test: &str) -> bool {
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
pub struct TestHost {
    pub name: &'static str,
    // What runs in a cgroup ends before the cgroup is removed: fields are dropped in this order.
    pub load: Option<Process>,
    pub agent: Option<Process>,
    holder: Process,
    pub containers: TestContainers,
    pub state: TempDir,
}

impl TestHost {
    pub fn new(test: &str, name: &'static str, number: u8) -> Option<Self> {
        let containers = TestContainers::new(test)?;
        containers.sandbox.add_group("app").unwrap();
        containers.sandbox.limit_cpu("app", FOUND).unwrap();
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

    pub fn settings(&self) -> Vec<String> {
        let mut settings = self.containers.settings();
        let state = self.state.path().join("state").display().to_string();
        settings.extend(["--actuator-host", self.name, "--actuator-state-dir", &state].map(str::to_owned));
        settings
    }

    /// Starts its agent, anew where it runs. It holds limits after seven seconds of silence, and puts baselines back after `restore_after_s`.
    pub fn start_agent(&mut self, restore_after_s: u64) {
        self.agent = None; // One at a time has the state directory.
        let token = self.state.path().join("token").display().to_string();
        let log = fs::File::options().append(true).create(true).open(self.state.path().join("log")).unwrap();
        let pid = self.holder.0.id().to_string();
        let server = format!("http://{CONTROLLER}:8642");
        let agent = Command::new("nsenter")
            .args(["-t", &pid, "-n"])
            .arg(binary())
            .args(["agent", "--server", &server, "--token-file", &token])
            .args(["--agent-hold-after-s", "7", "--agent-restore-after-s", &restore_after_s.to_string()])
            .args(self.settings())
            .current_dir(self.state.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.agent = Some(Process(agent.unwrap()));
    }

    pub fn start_load(&mut self) {
        self.load = Some(self.containers.load("app", &["--cores", "0.5"]));
    }

    /// What the kernel's own file says.
    pub fn limit(&self) -> f64 {
        self.containers.sandbox.cpu_limit("app").unwrap().unwrap()
    }

    pub fn cut(&self, off: bool) {
        run(&format!("ip link set to-{} {}", self.name, if off { "down" } else { "up" }));
    }

    /// How many frames are on its disk that the controller has not taken.
    pub fn buffered(&self) -> u64 {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.state.path().join("state/spool")).unwrap().flatten() {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        Spool::open(copy.path(), u64::MAX).unwrap().waiting()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }
}

pub fn controller(dir: TempDir, more: &[&str]) -> Server {
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

pub fn connected(server: &Server) -> Vec<String> {
    let agents = server.get("/api/v1/agents").unwrap();
    let agents = agents.as_array().unwrap().iter().filter(|agent| agent["connected"] == true);
    agents.map(|agent| agent["host"].as_str().unwrap().to_owned()).collect()
}

pub fn wait_until_connected(server: &Server, hosts: &[TestHost]) {
    wait_for("all agents to ask for orders", LONG, || {
        let missing = hosts.iter().any(|host| !connected(server).contains(&host.name.to_owned()));
        (!missing).then_some(())
    });
}

pub fn wait_until_scaled(hosts: &[TestHost]) {
    wait_for("the limits on all hosts to follow the load", LONG, || {
        hosts.iter().all(|host| host.limit() >= 2.0 * FOUND).then_some(())
    });
}
