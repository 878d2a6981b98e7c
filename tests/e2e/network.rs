//! Bandwidth of the network: what a rule says is what the kernel leaves of a load, and the kill switch gives all of it back.
//!
//! The test plays the host in a network namespace of its own; the server runs there, and the container in another one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::bandwidth::{Bandwidth, MIB};
use super::support::{ProcessGroup, TestContainers, installed, skip};

const TEST: &str = "network::what_a_rule_limits_is_what_a_load_gets";
const OUTSIDE: &str = "10.78.0.1";

fn run(command: &str) -> Result<String, String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    output.status.success().then(|| said(&output.stdout)).ok_or_else(|| format!("{command}: {}", said(&output.stderr)))
}

/// A process in a network of its own, with a veth pair to that of this thread, which is a new one; it sends as much as it can
/// to `port` once it is told to.
fn load(port: u16) -> Result<ProcessGroup, String> {
    let send = format!("read go; while :; do cat /dev/zero > /dev/tcp/{OUTSIDE}/{port}; done");
    let mut command = Command::new("unshare");
    command
        .args(["--net", "bash", "-c", &format!("echo there; {send}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut load = ProcessGroup::spawn(&mut command).map_err(|error| error.to_string())?;
    load.0.stdout.take().unwrap().read_exact(&mut [0; 6]).map_err(|error| format!("no namespace: {error}"))?;
    let pid = load.0.id();
    run(&format!("ip link add outer type veth peer name eth0 netns {pid}"))?;
    run("ip link set outer up")?;
    run(&format!("ip addr add {OUTSIDE}/24 dev outer"))?;
    run(&format!("nsenter --net=/proc/{pid}/ns/net ip addr add 10.78.0.2/24 dev eth0"))?;
    run(&format!("nsenter --net=/proc/{pid}/ns/net ip link set eth0 up"))?;
    Ok(load)
}

#[test]
fn what_a_rule_limits_is_what_a_load_gets() {
    let Some(containers) = TestContainers::new(TEST) else { return };
    containers.sandbox.add_group("app").unwrap();
    if let Some(missing) = ["ip", "tc", "nsenter", "unshare", "bash"].into_iter().find(|tool| !installed(tool)) {
        return skip(TEST, &format!("no {missing}"));
    }
    let prepare = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace can be made: {error}"))?;
        run("ip link set lo up")?;
        run("tc qdisc add dev lo root tbf rate 8mbit burst 64kb latency 50ms")?;
        run("tc qdisc del dev lo root")
    };
    if let Err(why) = prepare() {
        return skip(TEST, &why);
    }
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut load = match load(listener.local_addr().unwrap().port()) {
        Ok(load) => load,
        Err(why) => return skip(TEST, &why),
    };
    containers.sandbox.move_process("app", load.0.id()).unwrap();
    // It ends with the test's process, or when the load does.
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 18];
        for mut from in listener.incoming().flatten() {
            while from.read(&mut bytes).is_ok_and(|count| count > 0) {}
        }
    });
    load.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    let bandwidth = Bandwidth::start(&containers, "net_send");
    let mut limit = (bandwidth.free() / 4.0).min(64.0 * MIB).floor();
    for _ in 0..2 {
        // What is measured is without the headers that the queue counts.
        bandwidth.follows(limit, 0.85..=1.05);
        limit = (limit / 4.0).floor();
    }
    bandwidth.is_explained("limit on sending over the network");
    let eth0 = || run(&format!("nsenter --net=/proc/{}/ns/net tc qdisc show dev eth0", load.0.id())).unwrap();
    assert!(eth0().contains("tbf 7d9e:"), "{}", eth0());
    bandwidth.restore();
    assert!(!eth0().contains("tbf"), "{}", eth0());
    bandwidth.is_free_again(2.0 * 4.0 * limit);
    drop((bandwidth, load));
}
