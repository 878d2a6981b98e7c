//! Bandwidth of the network: what a rule says is what the kernel leaves of a load, and the kill switch gives all of it back.
//!
//! The test plays the host in a network namespace of its own; the server runs there, and the container in another one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::support::{Process, Server, TestContainers, installed, skip, wait_for};

const LONG: Duration = Duration::from_secs(240);
const MIB: f64 = 1_048_576.0;
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
fn load(port: u16) -> Result<Process, String> {
    let send = format!("read go; while :; do cat /dev/zero > /dev/tcp/{OUTSIDE}/{port}; done");
    let child = Command::new("unshare")
        .args(["--net", "bash", "-c", &format!("echo there; {send}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut load = Process(child.map_err(|error| error.to_string())?);
    load.0.stdout.take().unwrap().read_exact(&mut [0; 6]).map_err(|error| format!("no namespace: {error}"))?;
    let pid = load.0.id();
    run(&format!("ip link add outer type veth peer name eth0 netns {pid}"))?;
    run("ip link set outer up")?;
    run(&format!("ip addr add {OUTSIDE}/24 dev outer"))?;
    run(&format!("nsenter --net=/proc/{pid}/ns/net ip addr add 10.78.0.2/24 dev eth0"))?;
    run(&format!("nsenter --net=/proc/{pid}/ns/net ip link set eth0 up"))?;
    Ok(load)
}

fn rule(server: &Server, target: f64) {
    let rule = format!(
        "CREATE OR REPLACE RULE bandwidth WITH (every = '1s', mode = 'on', cooldown_down = '1s', step_down = 1.0) AS \
         SELECT host, container, resource, {target:.1} AS target, 'a share of what it had' AS reason \
         FROM recent(INTERVAL '10 seconds') WHERE resource = 'net_send'"
    );
    let (status, text) = server.post("/api/v1/sql", &[], rule.as_bytes());
    assert_eq!(status, 200, "{text}");
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
    let settings = [containers.settings(), vec!["--install-default-rules".into(), "false".into()]].concat();
    let server = Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let recent = |column: &str| {
        server.number(&format!("SELECT {column} FROM recent(INTERVAL '5 seconds') WHERE resource = 'net_send'"))
    };
    let counted = "SELECT count(*) FROM usage WHERE resource = 'net_send' AND value > 0";
    wait_for("ten seconds of usage", LONG, || server.number(counted).filter(|samples| *samples >= 10.0));
    let free = recent("usage_avg").unwrap();
    println!("{:.1} MiB/s without a limit", free / MIB);
    assert_eq!(recent("allocated"), None);

    let mut limit = (free / 4.0).min(64.0 * MIB).floor();
    for _ in 0..2 {
        rule(&server, limit);
        wait_for("the limit", LONG, || recent("allocated").filter(|allocated| *allocated == limit));
        // What is measured is without the headers that the queue counts.
        let got = wait_for("usage to follow the limit", LONG, || {
            let (got, least) = (recent("usage_avg")?, recent("samples")?);
            (least >= 4.0 && (0.85..=1.05).contains(&(got / limit))).then_some(got)
        });
        println!("{:.1} MiB/s of {:.1} MiB/s", got / MIB, limit / MIB);
        limit = (limit / 4.0).floor();
    }
    let decided = "SELECT id, message FROM decisions WHERE rule = 'bandwidth' AND outcome = 'applied' ORDER BY time";
    let decisions = server.sql(decided);
    assert_eq!(decisions.len(), 2, "each limit is written once: {decisions:?}");
    assert!(decisions[0][1].as_str().unwrap().starts_with("unlimited to "), "{decisions:?}");
    let id = decisions[1][0].as_str().unwrap();
    let explained: Value = server.get(&format!("/api/v1/decisions/{id}/explain")).unwrap();
    assert!(explained.to_string().contains("limit on sending over the network"), "{explained}");
    let eth0 = || run(&format!("nsenter --net=/proc/{}/ns/net tc qdisc show dev eth0", load.0.id())).unwrap();
    assert!(eth0().contains("tbf 7d9e:"), "{}", eth0());

    // A limit that is taken away again, and a load that has the network to itself.
    let restored = server.command(&["freeze", "--restore"]);
    assert!(restored.status.success(), "{restored:?}");
    assert!(!eth0().contains("tbf"), "{}", eth0());
    wait_for("the load to be free again", LONG, || recent("usage_avg").filter(|got| *got > 2.0 * 4.0 * limit));
    drop((server, load));
}
