//! The agent's side: a process of its own, which does as it is told over its standard input and can be killed at any instant.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use nix::sys::resource::{Resource as Limited, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use tidegate_actuator::agent::wire::{FrameHeader, pack};
use tidegate_actuator::agent::{Spool, restore_baselines};
use tidegate_actuator::{Actuator, ActuatorConfig, Change, Drift, KnobReport, LocalHost, Source};
use tidegate_model::{ContainerKey, Outcome, Resource, TimeMs, VirtualClock};

const IS_AGENT: &str = "TIDEGATE_TEST_CHAOS";
const MARK: &str = "CHAOS ";
/// Files end here while the disk is full: a limit has room, what an agent keeps has not.
const FULL: u64 = 64;

/// Where the agent finds what it needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct Setting {
    pub mount: PathBuf,
    pub state: PathBuf,
    pub docker: PathBuf,
}

/// What an agent is told to do, at which time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    Collect,
    Apply {
        name: String,
        resource: Resource,
        target: f64,
        before: Option<f64>,
    },
    /// As after a long silence, or by the kill switch.
    Restore,
    /// No file gets any longer.
    Disk {
        full: bool,
    },
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Of whom and of which limit, and what.
    pub outcomes: Vec<(String, Resource, Outcome)>,
    pub drifts: Vec<Drift>,
    pub news: Vec<KnobReport>,
    pub present: Vec<String>,
    /// The number of the frame that was kept, and whether the disk took it.
    pub frame: Option<(u64, bool)>,
}

pub fn config(setting: &Setting) -> ActuatorConfig {
    ActuatorConfig {
        host: "h".into(),
        mount: setting.mount.clone(),
        roots: vec!["/own".into()],
        state_dir: Some(setting.state.clone()),
        docker_socket: setting.docker.clone(),
        docker_root: "/no/such".into(),
        podman_socket: PathBuf::new(),
        system_bus: PathBuf::new(),
        squeeze_timeout_ms: 5,
        tell_owner_every_s: 0,
        ..Default::default()
    }
}

/// The body of the process. Not a test.
#[test]
#[ignore = "the agent of the other tests"]
fn obey() {
    let Some(setting) = std::env::var_os(IS_AGENT) else { return };
    let setting: Setting = serde_json::from_str(setting.to_str().unwrap()).unwrap();
    // Or a file that may not get longer would end the process.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGXFSZ);
    blocked.thread_block().unwrap();
    let host = LocalHost::new(config(&setting)).unwrap();
    let mut source = host.source();
    let mut spool = Spool::open(&setting.state.join("spool"), 1 << 20).unwrap();
    println!("\n{MARK}{}", serde_json::to_string(&Answer::default()).unwrap());
    for line in std::io::stdin().lines() {
        let (at, order): (i64, Order) = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = carry_out(&order, TimeMs(at), &host, source.as_mut(), &mut spool);
        println!("\n{MARK}{}", serde_json::to_string(&answer).unwrap());
    }
}

fn carry_out(order: &Order, at: TimeMs, host: &Arc<LocalHost>, source: &mut dyn Source, spool: &mut Spool) -> Answer {
    let clock = VirtualClock::new(at);
    let mut answer = Answer::default();
    match order {
        Order::Collect => {
            let found = source.collect(at);
            let header = FrameHeader {
                time: at,
                host: found.host,
                appeared: found.appeared,
                vanished: found.vanished,
                present: None,
                drifts: found.drifts.clone(),
                knobs: found.knobs.clone(),
                problems: found.problems,
                reports: Vec::new(),
            };
            let (number, error) = spool.append(pack(&header, &[]).unwrap());
            answer.frame = Some((number, error.is_none()));
            (answer.drifts, answer.news) = (found.drifts, found.knobs);
            answer.present = found.present.into_iter().map(|container| container.key.name).collect();
        }
        Order::Apply { name, resource, target, before } => {
            let container = ContainerKey { host: "h".into(), name: name.clone() };
            let (resource, target, limit_before) = (*resource, *target, *before);
            let change = Change { container, resource, target, limit_before, decision: "d".into() };
            answer.outcomes.push((name.clone(), resource, host.apply(&change, &clock)));
        }
        Order::Restore => {
            let reports = restore_baselines(host, "a long silence", &|| None, &clock);
            answer.outcomes =
                reports.into_iter().map(|report| (report.container.name, report.resource, report.outcome)).collect();
        }
        Order::Disk { full } => {
            let (_, hard) = getrlimit(Limited::RLIMIT_FSIZE).unwrap();
            setrlimit(Limited::RLIMIT_FSIZE, if *full { FULL } else { hard }, hard).unwrap();
        }
    }
    answer
}

/// A running agent.
pub struct Agent {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    pub fn start(setting: &Setting) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent::obey", "--ignored", "--nocapture", "--test-threads=1"])
            .env(IS_AGENT, serde_json::to_string(setting).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut agent = Self { child, orders, answers };
        agent.answer();
        agent
    }

    pub fn send(&mut self, at: i64, order: &Order) {
        writeln!(self.orders, "{}", serde_json::to_string(&(at, order)).unwrap()).unwrap();
    }

    pub fn answer(&mut self) -> Answer {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the agent ended by itself");
            if let Some(text) = line.strip_prefix(MARK) {
                return serde_json::from_str(text).unwrap();
            }
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
