//! What goes over a container's network: measured, limited on each interface, and given back.
//!
//! Each test plays the host in a network namespace of its own: nothing outside is touched.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use tidegate_actuator::agent::restore_baselines;
use tidegate_actuator::{Actuator, ActuatorConfig, Change, Collected, LocalHost};
use tidegate_model::{ContainerKey, Limit, Outcome, OutcomeStatus, Resource, SystemClock, metrics};

use crate::lab::{Lab, MIB, value};

const OUTSIDE: &str = "10.77.0.1";
const INSIDE: &str = "10.77.0.2";
/// What a bucket holds is over by then, and TCP has found its pace.
const SETTLED: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(3);

/// A container with a process in a network of its own, and a veth pair from there to a network that plays the host's. Fields go
/// in this order: the process must be gone before its cgroup can be removed.
struct NetLab {
    inside: Inside,
    lab: Lab,
}

/// A process in a namespace that it keeps alive.
struct Inside(Child);

impl Inside {
    fn start() -> Result<Self, String> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut there = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut there).map_err(|error| format!("unshare: {error}"))?;
        Ok(Self(child))
    }

    /// Runs a command in the namespace.
    fn run(&self, command: &str) -> Result<String, String> {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.0.id()))
    }

    /// In the namespace, on a thread that goes there and ends.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &str) -> Result<String, String> {
    let mut words = command.split(' ');
    let output =
        Command::new(words.next().unwrap()).args(words).output().map_err(|error| format!("{command}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// `None`, with the reason printed, where there are no namespaces, veth pairs or token buckets.
fn network() -> Option<Inside> {
    let outer = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace can be made: {error}"))?;
        run("ip link set lo up")?;
        run("tc qdisc add dev lo root tbf rate 8mbit burst 64kb latency 50ms")?;
        run("tc qdisc del dev lo root")?;
        let inside = Inside::start()?;
        run(&format!("ip link add outer type veth peer name eth0 netns {}", inside.0.id()))?;
        run(&format!("ip addr add {OUTSIDE}/24 dev outer"))?;
        run("ip link set outer up")?;
        inside.run(&format!("ip addr add {INSIDE}/24 dev eth0"))?;
        inside.run("ip link set eth0 up")?;
        Ok(inside)
    };
    outer().map_err(|why: String| println!("SKIPPED: {why}")).ok()
}

fn open(config: ActuatorConfig) -> Option<NetLab> {
    let inside = network()?;
    let mut lab = Lab::open_with(config)?;
    lab.sandbox.move_process("web", inside.0.id()).unwrap();
    // Beside the lab's own process, which is on the host: it has to be there for a second.
    thread::sleep(Duration::from_millis(1_100));
    lab.collect();
    Some(NetLab { inside, lab })
}

impl NetLab {
    /// Bytes a second that a TCP connection gets, into the container or out of it.
    fn pace(&self, direction: Resource) -> f64 {
        let address = if direction == Resource::NetReceive { INSIDE } else { OUTSIDE };
        let listen = || TcpListener::bind((address, 0)).unwrap();
        // A socket stays in the namespace where it was opened.
        let listener = if direction == Resource::NetReceive { self.inside.within(listen) } else { listen() };
        let at = listener.local_addr().unwrap();
        let connect = || TcpStream::connect(at).unwrap();
        let mut from = if direction == Resource::NetReceive { connect() } else { self.inside.within(connect) };
        let mut to = listener.accept().unwrap().0;
        let sends = thread::spawn(move || {
            let bytes = vec![7; 1 << 18];
            while from.write_all(&bytes).is_ok() {}
        });
        let mut bytes = vec![0; 1 << 18];
        let mut read_for = |span: Duration| {
            let (began, mut count) = (Instant::now(), 0);
            while began.elapsed() < span {
                count += to.read(&mut bytes).unwrap();
            }
            count as f64 / began.elapsed().as_secs_f64()
        };
        read_for(SETTLED);
        let pace = read_for(MEASURED);
        drop(to);
        sends.join().unwrap();
        pace
    }

    fn roots(&self) -> [String; 2] {
        let outside = run("tc qdisc show dev outer").unwrap();
        [outside, self.inside.run("tc qdisc show dev eth0").unwrap()]
    }
}

fn limits(collected: &Collected) -> [Option<f64>; 2] {
    Resource::NETWORK.map(|rate| value(collected, metrics::LIMIT, rate))
}

#[test]
fn what_a_load_gets_over_the_network_is_what_it_is_limited_to() {
    let Some(mut of) = open(ActuatorConfig::default()) else { return };
    let free = Resource::NETWORK.map(|direction| of.pace(direction));
    println!("{free:?} bytes a second without a limit");
    let first = of.lab.collect();
    assert_eq!((limits(&first), &first.problems), ([None; 2], &Vec::new()));
    assert!(!first.present[0].baseline.contains_key(&Resource::NetSend), "nothing was changed yet");

    for (direction, target) in
        [(Resource::NetSend, 8.0 * MIB), (Resource::NetReceive, 4.0 * MIB), (Resource::NetSend, MIB / 8.0)]
    {
        let down = of.lab.apply(direction, target);
        assert_eq!((down.status, down.limit_after), (OutcomeStatus::Applied, Some(target)), "{}", down.message);
        assert_eq!(of.lab.apply(direction, target).status, OutcomeStatus::Unchanged);
        let before = of.lab.collect();
        assert_eq!(value(&before, metrics::LIMIT, direction), Some(target));
        let pace = of.pace(direction);
        let usage = value(&of.lab.collect(), metrics::USAGE, direction).unwrap();
        println!("{direction}: {:.3} of the limit got through, {:.3} were measured", pace / target, usage / target);
        assert!((0.9..1.1).contains(&(pace / target)), "{pace} of {target}");
        // Over the whole of it, with what the bucket held and the other direction's answers.
        assert!((0.8..1.3).contains(&(usage / target)), "{usage} of {target}");
    }
    let seen = of.lab.collect();
    assert_eq!(limits(&seen), [Some(4.0 * MIB), Some(MIB / 8.0)]);
    assert_eq!(seen.present[0].baseline[&Resource::NetSend], Limit::Unlimited);
    assert!(of.roots().iter().all(|root| root.contains("tbf 7d9e:")), "{:?}", of.roots());

    for direction in Resource::NETWORK {
        let back = of.lab.apply(direction, f64::INFINITY);
        assert_eq!((back.status, back.limit_after), (OutcomeStatus::Applied, None), "{}", back.message);
    }
    assert!(!of.roots().iter().any(|root| root.contains("tbf")), "{:?}", of.roots());
    assert_eq!(of.lab.apply(Resource::NetSend, 0.0).status, OutcomeStatus::Refused);
    let again = of.pace(Resource::NetSend);
    assert!(again > 4.0 * 8.0 * MIB.min(free[1] / 64.0), "{again} bytes a second");
}

#[test]
fn what_somebody_else_makes_of_a_limit_on_the_network_is_seen_and_left_alone() {
    let Some(mut of) = open(ActuatorConfig::default()) else { return };
    for (direction, command) in [
        (Resource::NetSend, "tc qdisc change dev eth0 root handle 7d9e: tbf rate 1000000bps burst 64kb latency 50ms"),
        (Resource::NetReceive, "tc qdisc del dev outer root"),
    ] {
        assert_eq!(of.lab.apply(direction, 8.0 * MIB).status, OutcomeStatus::Applied);
        assert!(of.lab.collect().drifts.is_empty());
        match direction {
            Resource::NetSend => of.inside.run(command).unwrap(),
            _ => run(command).unwrap(),
        };
        let drifts = of.lab.collect().drifts;
        let found = (direction == Resource::NetSend).then_some(1e6);
        assert_eq!((drifts.len(), drifts[0].resource, drifts[0].found), (1, direction, found), "{drifts:?}");
        let left_alone = of.lab.apply(direction, 5.0 * MIB);
        assert_eq!(left_alone.status, OutcomeStatus::Drifted);
        assert!(
            left_alone.message.contains("somebody else changed the limit of its network"),
            "{}",
            left_alone.message
        );
    }
    // An interface that comes has no limit, and nobody took one away.
    let Some(mut of) = open(ActuatorConfig::default()) else { return };
    assert_eq!(of.lab.apply(Resource::NetReceive, 8.0 * MIB).status, OutcomeStatus::Applied);
    run(&format!("ip link add further type veth peer name eth1 netns {}", of.inside.0.id())).unwrap();
    of.inside.run("ip link set eth1 up").unwrap();
    let seen = of.lab.collect();
    assert_eq!((limits(&seen)[0], seen.drifts.len()), (None, 0), "one of its interfaces has none");
    assert_eq!(of.lab.apply(Resource::NetReceive, 8.0 * MIB).status, OutcomeStatus::Applied);
    assert!(run("tc qdisc show dev further").unwrap().contains("tbf 7d9e:"));
}

#[test]
fn a_queue_of_somebody_else_is_never_replaced_nor_half_a_limit_left() {
    let Some(of) = open(ActuatorConfig::default()) else { return };
    run(&format!("ip link add further type veth peer name eth1 netns {}", of.inside.0.id())).unwrap();
    of.inside.run("ip link set eth1 up").unwrap();
    of.inside.run("tc qdisc add dev eth1 root handle 1: pfifo limit 100").unwrap();
    // What the kernel says to whoever asks for no replacement.
    let ours = "tc qdisc add dev eth1 root handle 7d9e: tbf rate 8mbit burst 64kb latency 50ms";
    assert!(of.inside.run(ours).is_err());
    let before = of.roots();
    for target in [8.0 * MIB, f64::INFINITY] {
        let refused = of.lab.apply(Resource::NetSend, target);
        let status = if target.is_finite() { OutcomeStatus::Refused } else { OutcomeStatus::Unchanged };
        assert_eq!((refused.status, refused.writes.len()), (status, 0), "eth0 has none: {}", refused.message);
        assert!(!target.is_finite() || refused.message.contains("pfifo 1:"), "{}", refused.message);
    }
    assert_eq!(of.roots(), before);

    // A pair that begins and ends in the container: what it receives there nobody on the host sends.
    of.inside.run("ip link add within type veth peer name other").unwrap();
    of.inside.run("ip link set within up").unwrap();
    of.inside.run("ip link set other up").unwrap();
    let refused = of.lab.apply(Resource::NetReceive, 8.0 * MIB);
    assert_eq!((refused.status, refused.writes.len()), (OutcomeStatus::Refused, 0), "{}", refused.message);
    assert!(refused.message.contains("has no other end on this host"), "{}", refused.message);
    assert_eq!(of.roots(), before);
}

#[test]
fn the_network_of_the_host_and_one_that_is_shared_are_nobodys_to_limit() {
    if network().is_none() {
        return;
    }
    // All that runs in this one is on the host.
    let Some(mut lab) = Lab::open() else { return };
    let refused = lab.apply(Resource::NetSend, 8.0 * MIB);
    assert_eq!(refused.status, OutcomeStatus::Refused);
    assert!(refused.message.contains("on the network of the host"), "{}", refused.message);
    // Taking a limit away is no change where there can be none.
    assert_eq!(lab.apply(Resource::NetSend, f64::INFINITY).status, OutcomeStatus::Unchanged);
    let usage = value(&lab.collect(), metrics::USAGE, Resource::NetSend);
    assert_eq!(usage, None);
    drop(lab);

    let Some(mut of) = open(ActuatorConfig::default()) else { return };
    assert_eq!(of.lab.apply(Resource::NetSend, 8.0 * MIB).status, OutcomeStatus::Applied);
    of.lab.sandbox.add_group("db").unwrap();
    let joined = Command::new("nsenter")
        .args([&format!("--net=/proc/{}/ns/net", of.inside.0.id()), "sh", "-c", "echo there; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut joined = Inside(joined.unwrap());
    joined.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    of.lab.sandbox.move_process("db", joined.0.id()).unwrap();
    let seen = of.lab.collect();
    assert_eq!((seen.present.len(), &seen.problems), (2, &Vec::new()));
    assert_eq!((limits(&seen), seen.drifts.len()), ([None; 2], 0));
    let apply = |name: &str, target: f64| -> Outcome {
        let container = ContainerKey { host: "h".into(), name: name.into() };
        let change =
            Change { container, resource: Resource::NetSend, target, limit_before: None, decision: "d1".into() };
        of.lab.host.apply(&change, &SystemClock)
    };
    for (name, other) in [("web", "db"), ("db", "web")] {
        let refused = apply(name, 4.0 * MIB);
        assert_eq!(refused.status, OutcomeStatus::Refused, "{}", refused.message);
        assert!(refused.message.contains(&format!("shares its network with {other}")), "{}", refused.message);
    }
    // What was written before can be given back.
    assert_eq!(apply("web", f64::INFINITY).status, OutcomeStatus::Applied);
    assert!(!of.roots()[1].contains("tbf"), "{:?}", of.roots());
    drop(joined);
}

#[test]
fn the_baseline_of_a_network_is_kept_over_a_restart_and_given_back_without_a_controller() {
    let state = tempfile::tempdir().unwrap();
    let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..Default::default() };
    let Some(mut of) = open(config) else { return };
    for direction in Resource::NETWORK {
        assert_eq!(of.lab.apply(direction, 8.0 * MIB).status, OutcomeStatus::Applied);
    }
    of.lab.host = LocalHost::new(of.lab.config.clone()).unwrap();
    of.lab.source = of.lab.host.source();
    let seen = of.lab.collect();
    assert_eq!(limits(&seen), [Some(8.0 * MIB); 2], "they stand in the kernel, whoever is there to see them");
    assert_eq!(seen.present[0].baseline[&Resource::NetReceive], Limit::Unlimited);
    assert_eq!(of.lab.apply(Resource::NetSend, 5.0 * MIB).status, OutcomeStatus::Applied);

    let reports = restore_baselines(&of.lab.host, "the controller is silent", &|| None, &SystemClock);
    let restored: Vec<_> = reports.iter().map(|report| (report.resource, report.outcome.status)).collect();
    assert_eq!(restored, Resource::NETWORK.map(|rate| (rate, OutcomeStatus::Applied)), "nothing else was changed");
    assert!(!of.roots().iter().any(|root| root.contains("tbf")), "{:?}", of.roots());
}
