//! Limits that go through Docker or Podman: what is asked of them, what is read back, and what happens when they fail. The
//! daemons are made up here; as the real ones do, they write the kernel's files.
#![allow(clippy::unwrap_used)]

mod daemon;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_actuator::{Actuator, ActuatorConfig, KnobMode, KnobRule, WriteVia};
use tidegate_model::{Limit, Outcome, OutcomeStatus, Resource, TimeMs};

use crate::daemon::{Asked, Daemon, docker_path, id};
use crate::tree::{Fake, Kind, MIB, Tree, UNLIMITED_V1, change};

/// A tree with one Docker container, `web`.
fn tree(kind: Kind) -> (Tree, PathBuf) {
    let tree = Tree::new(kind);
    let path = docker_path(&id('a'));
    tree.cgroup(path.to_str().unwrap());
    (tree, path)
}

/// What Docker does with an update: quota and limit land in the files, and are kept.
struct Engine {
    cpu: Option<PathBuf>,
    memory: PathBuf,
    host_config: Value,
    /// Refuses the next update.
    refuses: bool,
}

impl Engine {
    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        if asked.method == "GET" {
            let labels = json!({ "Labels": {} });
            return (200, json!({ "Name": "/web", "Config": labels, "HostConfig": self.host_config }));
        }
        if std::mem::take(&mut self.refuses) {
            return (500, json!({ "message": "out of order" }));
        }
        if asked.body["Memory"].is_i64() {
            let [memory, swap] = ["Memory", "MemorySwap"].map(|name| asked.body[name].as_i64().unwrap_or(0));
            assert!(swap == -1 || swap >= memory, "as Docker demands it");
        }
        for (name, value) in asked.body.as_object().unwrap() {
            self.host_config[name] = value.clone();
        }
        self.set_all();
        (200, json!({ "Warnings": null }))
    }

    /// The low-level runtime sets all limits that it knows with each update.
    fn set_all(&self) {
        let number = |name: &str| self.host_config[name].as_i64().filter(|number| *number != 0);
        let cpu = number("NanoCpus").map(|nano| format!("{} 100000", nano / 10_000)).or_else(|| {
            let quota = number("CpuQuota")?;
            let period = number("CpuPeriod").unwrap_or(100_000);
            Some(if quota < 0 { format!("max {period}") } else { format!("{quota} {period}") })
        });
        if let (Some(text), Some(file)) = (cpu, &self.cpu) {
            fs::write(file, text).unwrap();
        }
        if let Some(memory) = number("Memory") {
            fs::write(&self.memory, memory.to_string()).unwrap();
        }
    }
}

fn engine(tree: &Tree, path: &Path, host_config: Value) -> Daemon {
    let path = path.to_str().unwrap();
    let cpu = (tree.kind == Kind::V2).then(|| tree.path(path, "cpu.max"));
    let mut engine = Engine { cpu, memory: tree.path(path, tree.memory_file()), host_config, refuses: false };
    Daemon::start(move |asked| engine.answer(asked))
}

fn config(tree: &Tree, daemon: &Daemon) -> ActuatorConfig {
    ActuatorConfig {
        docker_socket: daemon.socket(),
        docker_root: "/no/such".into(),
        tell_owner_every_s: 0,
        roots: vec![],
        ..tree.config()
    }
}

/// The bodies of the updates since the last look.
fn updates(daemon: &Daemon) -> Vec<Value> {
    let asked = daemon.asked().into_iter().filter(|asked| asked.method == "POST");
    asked
        .map(|asked| {
            assert_eq!(asked.target, format!("/containers/{}/update", id('a')));
            asked.body
        })
        .collect()
}

fn targets(outcome: &Outcome) -> Vec<&str> {
    outcome.writes.iter().map(|write| write.target.rsplit('/').next().unwrap()).collect()
}

#[test]
fn a_cpu_limit_goes_through_docker_in_the_way_it_was_given() {
    for (host_config, expected) in [
        (json!({}), json!({ "NanoCpus": 450_000_000 })),
        (json!({ "NanoCpus": 2_000_000_000u64 }), json!({ "NanoCpus": 450_000_000 })),
        (json!({ "CpuQuota": 200_000 }), json!({ "CpuQuota": 45_000, "CpuPeriod": 100_000 })),
    ] {
        let (tree, path) = tree(Kind::V2);
        let daemon = engine(&tree, &path, host_config);
        let fake = Fake::new(config(&tree, &daemon));
        let outcome = fake.apply(Resource::Cpu, 0.45);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.45)), "{}", outcome.message);
        assert_eq!(updates(&daemon), std::slice::from_ref(&expected));
        let write = &outcome.writes[0];
        assert_eq!(write.target, format!("Docker: POST /containers/{}/update", id('a')));
        assert_eq!(serde_json::from_str::<Value>(&write.value).unwrap(), expected);
        assert_eq!(outcome.writes.len(), 1, "one write: each one refills the quota");
        assert_eq!(fake.apply(Resource::Cpu, 0.45).status, OutcomeStatus::Unchanged);
        assert!(updates(&daemon).is_empty());
    }
}

#[test]
fn a_period_of_its_own_is_kept() {
    let (tree, path) = tree(Kind::V2);
    tree.write(path.to_str().unwrap(), "cpu.max", "max 50000\n");
    let daemon = engine(&tree, &path, json!({}));
    let fake = Fake::new(config(&tree, &daemon));
    assert_eq!(fake.apply(Resource::Cpu, 0.5).limit_after, Some(0.5));
    assert_eq!(updates(&daemon), [json!({ "CpuQuota": 25_000, "CpuPeriod": 50_000 })]);
}

#[test]
fn memory_is_lowered_by_the_procedure_and_docker_is_told_afterwards() {
    let (tree, path) = tree(Kind::V2);
    let path = path.to_str().unwrap();
    tree.write(path, "memory.current", &(60u64 << 20).to_string());
    tree.write(path, "memory.swap.max", &(32u64 << 20).to_string());
    let daemon = engine(&tree, Path::new(path), json!({}));
    let mut fake = Fake::new(config(&tree, &daemon));
    let lower = fake.apply(Resource::Memory, 80.0 * MIB);
    assert_eq!((lower.status, lower.limit_after), (OutcomeStatus::Applied, Some(80.0 * MIB)), "{}", lower.message);
    assert_eq!(targets(&lower), ["memory.high", "memory.max", "memory.high", "update"]);
    assert_eq!(updates(&daemon), [json!({ "Memory": 80u64 << 20, "MemorySwap": 112u64 << 20 })]);

    let raise = fake.apply(Resource::Memory, 120.0 * MIB);
    assert_eq!((raise.status, raise.limit_after), (OutcomeStatus::Applied, Some(120.0 * MIB)), "{}", raise.message);
    assert_eq!(targets(&raise), ["update"]);
    assert!(fake.collect(2).drifts.is_empty());
}

#[test]
fn on_v1_swap_is_counted_with_memory() {
    let (tree, path) = tree(Kind::V1Combined);
    let path = path.to_str().unwrap();
    tree.set_memory(path, 200.0 * MIB);
    tree.write(path, "memory.memsw.limit_in_bytes", &(250u64 << 20).to_string());
    let daemon = engine(&tree, Path::new(path), json!({}));
    let fake = Fake::new(config(&tree, &daemon));
    assert_eq!(fake.apply(Resource::Memory, 300.0 * MIB).limit_after, Some(300.0 * MIB));
    assert_eq!(updates(&daemon), [json!({ "Memory": 300u64 << 20, "MemorySwap": 350u64 << 20 })]);
    tree.write(path, "memory.memsw.limit_in_bytes", UNLIMITED_V1);
    assert_eq!(fake.apply(Resource::Memory, 120.0 * MIB).limit_after, Some(120.0 * MIB));
    assert_eq!(updates(&daemon), [json!({ "Memory": 120u64 << 20, "MemorySwap": -1 })]);
}

#[test]
fn docker_is_told_the_machines_capacity_where_it_has_no_word_for_unlimited() {
    let (tree, path) = tree(Kind::V2);
    tree.set_cpu(path.to_str().unwrap(), 50_000);
    tree.set_memory(path.to_str().unwrap(), 150.0 * MIB);
    let daemon = engine(&tree, &path, json!({ "NanoCpus": 500_000_000, "Memory": 150u64 << 20 }));
    let fake = Fake::new(config(&tree, &daemon));
    let host = fake.first.host.clone();
    for resource in Resource::ALL {
        let outcome = fake.apply(resource, f64::INFINITY);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, None), "{}", outcome.message);
    }
    let told = updates(&daemon);
    assert_eq!(told[0], json!({ "NanoCpus": host.cpu.0 as u64 * 1_000_000_000 }));
    assert_eq!(told[1], json!({ "Memory": host.memory.0, "MemorySwap": -1 }));
    let path = path.to_str().unwrap();
    assert_eq!(tree.read(path, "memory.max"), "max");
    assert_eq!(
        tree.read(path, "cpu.max"),
        "max 100000",
        "the update of memory brought the capacity, and it was put back"
    );
}

/// Waits for an update that nobody waits for.
fn late_updates(daemon: &Daemon) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = updates(daemon);
        if !found.is_empty() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn of_limits_that_come_fast_docker_is_told_the_last_one() {
    let (tree, path) = tree(Kind::V2);
    let daemon = engine(&tree, &path, json!({}));
    let mut fake = Fake::new(ActuatorConfig { tell_owner_every_s: 3, ..config(&tree, &daemon) });
    fake.apply_from(4.0, Resource::Cpu, 0.5);
    assert_eq!(updates(&daemon), [json!({ "NanoCpus": 500_000_000 })]);
    for (before, target) in [(0.5, 0.6), (0.6, 0.7)] {
        let outcome = fake.apply_from(before, Resource::Cpu, target);
        assert_eq!(
            (outcome.status, targets(&outcome)),
            (OutcomeStatus::Applied, vec!["cpu.max"]),
            "{}",
            outcome.message
        );
    }
    assert_eq!(late_updates(&daemon), [json!({ "NanoCpus": 700_000_000 })]);
    assert!(fake.collect(2).drifts.is_empty());
    assert_eq!(fake.apply(Resource::Cpu, 0.9).writes.len(), 1, "what is given back is told at once");
    assert_eq!(updates(&daemon), [json!({ "NanoCpus": 900_000_000 })]);
}

#[test]
fn a_knob_that_the_owner_sets_back_with_a_limit_is_set_again_and_one_that_somebody_else_sets_is_not() {
    let (tree, path) = tree(Kind::V2);
    let text = path.to_str().unwrap();
    tree.write(text, "cpu.weight", "100");
    let (cpu, memory) = (tree.path(text, "cpu.max"), tree.path(text, "memory.max"));
    let mut engine = Engine { cpu: Some(cpu), memory, host_config: json!({}), refuses: false };
    let weight = tree.path(text, "cpu.weight");
    let daemon = Daemon::start(move |asked| {
        if asked.method == "POST" {
            fs::write(&weight, "100").unwrap();
        }
        engine.answer(asked)
    });
    let knobs = vec![KnobRule { container: "*".into(), cpu_weight: Some(200), ..Default::default() }];
    let mut fake = Fake::new(ActuatorConfig { knobs, ..config(&tree, &daemon) });
    let tend = |fake: &mut Fake, seconds: i64| {
        fake.clock.set(TimeMs(seconds * 1_000));
        fake.host.tend_knobs(KnobMode::Keep, &fake.clock);
        fake.collect(seconds).knobs.into_iter().map(|report| report.status).collect::<Vec<_>>()
    };
    assert_eq!(tend(&mut fake, 2), [OutcomeStatus::Applied]);
    assert_eq!(fake.apply(Resource::Cpu, 0.45).status, OutcomeStatus::Applied);
    assert_eq!(tree.read(text, "cpu.weight"), "100");
    assert_eq!(tend(&mut fake, 3), [OutcomeStatus::Applied]);
    assert_eq!(tree.read(text, "cpu.weight"), "200");
    tree.write(text, "cpu.weight", "100");
    assert_eq!(tend(&mut fake, 4), [OutcomeStatus::Drifted]);
    assert_eq!(fake.apply(Resource::Cpu, 0.9).status, OutcomeStatus::Applied);
    assert!(tend(&mut fake, 5).is_empty(), "it is still somebody else's");
}

#[test]
fn a_daemon_that_failed_is_told_later() {
    let (tree, path) = tree(Kind::V2);
    let text = path.to_str().unwrap();
    let (cpu, memory) = (tree.path(text, "cpu.max"), tree.path(text, "memory.max"));
    let mut engine = Engine { cpu: Some(cpu), memory, host_config: json!({}), refuses: true };
    let daemon = Daemon::start(move |asked| engine.answer(asked));
    let fake = Fake::new(config(&tree, &daemon));
    assert_eq!(targets(&fake.apply(Resource::Cpu, 0.5)), ["cpu.max"]);
    let told = json!({ "NanoCpus": 500_000_000 });
    // The refused one was asked for as well.
    let mut asked = late_updates(&daemon);
    if asked.len() == 1 {
        asked.extend(late_updates(&daemon));
    }
    assert_eq!(asked, [told.clone(), told]);
}

#[test]
fn what_docker_does_not_know_of_is_told_along_before_it_brings_the_old_limit_back() {
    let (tree, path) = tree(Kind::V2);
    let text = path.to_str().unwrap();
    let (cpu, memory) = (tree.path(text, "cpu.max"), tree.path(text, "memory.max"));
    tree.set_memory(text, 120.0 * MIB);
    let host_config = json!({ "Memory": 120u64 << 20, "MemorySwap": -1 });
    let mut engine = Engine { cpu: Some(cpu), memory, host_config, refuses: true };
    let daemon = Daemon::start(move |asked| engine.answer(asked));
    let fake = Fake::new(ActuatorConfig { tell_owner_every_s: 3600, ..config(&tree, &daemon) });
    let raised = fake.apply(Resource::Memory, 200.0 * MIB);
    assert_eq!((raised.status, targets(&raised)), (OutcomeStatus::Applied, vec!["memory.max"]), "{}", raised.message);
    updates(&daemon);

    // A group that has grown into its new limit would be killed if the old one came back.
    let outcome = fake.apply(Resource::Cpu, 0.5);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.5)), "{}", outcome.message);
    assert_eq!(updates(&daemon), [json!({ "NanoCpus": 500_000_000, "Memory": 200u64 << 20, "MemorySwap": -1 })]);
    assert_eq!(tree.read(text, "memory.max"), (200u64 << 20).to_string());
    fake.apply(Resource::Cpu, 0.4);
    assert_eq!(updates(&daemon), [json!({ "NanoCpus": 400_000_000 })], "from here on it knows");
}

#[test]
fn where_docker_fails_the_file_is_written_and_the_outcome_says_so() {
    for via in [WriteVia::Auto, WriteVia::Owner] {
        let (tree, path) = tree(Kind::V2);
        let path = path.to_str().unwrap();
        tree.write(path, "memory.current", &(60u64 << 20).to_string());
        let daemon = Daemon::start(|asked| match asked.method.as_str() {
            "GET" => (200, json!({ "Name": "/web", "Config": {}, "HostConfig": {} })),
            _ => (409, json!({ "message": "container is marked for removal" })),
        });
        let fake = Fake::new(ActuatorConfig { write_via: via, ..config(&tree, &daemon) });
        for (resource, target) in
            [(Resource::Cpu, 0.5), (Resource::Memory, 120.0 * MIB), (Resource::Memory, 80.0 * MIB)]
        {
            let before = tree.read(path, if resource == Resource::Cpu { "cpu.max" } else { "memory.max" });
            let outcome = fake.apply(resource, target);
            assert!(outcome.message.contains("marked for removal"), "{}", outcome.message);
            if via == WriteVia::Auto {
                assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(target)));
                assert!(outcome.message.contains("cgroup file"), "{}", outcome.message);
            } else {
                assert_eq!(outcome.status, OutcomeStatus::Refused);
                assert!(outcome.message.contains("write_via"), "{}", outcome.message);
                let after = tree.read(path, if resource == Resource::Cpu { "cpu.max" } else { "memory.max" });
                assert_eq!(after.trim(), before.trim(), "the former limit stands");
                assert_eq!(tree.read(path, "memory.high").trim(), "max");
            }
        }
    }
}

#[test]
fn a_socket_that_is_gone_costs_the_notice_alone() {
    let (tree, path) = tree(Kind::V2);
    let daemon = engine(&tree, &path, json!({}));
    let fake = Fake::new(config(&tree, &daemon));
    fs::remove_file(daemon.socket()).unwrap();
    let outcome = fake.apply(Resource::Cpu, 0.5);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.5)));
    assert!(outcome.message.contains("Docker has no socket"), "{}", outcome.message);
    assert_eq!(targets(&outcome), ["cpu.max"]);
}

#[test]
fn an_owner_that_says_yes_and_does_not_is_found_out() {
    let (tree, path) = tree(Kind::V2);
    let daemon = Daemon::start(|_| (200, json!({ "Name": "/web", "Config": {}, "HostConfig": {} })));
    let fake = Fake::new(config(&tree, &daemon));
    let outcome = fake.apply(Resource::Cpu, 0.5);
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Failed, None));
    assert!(outcome.message.contains("0.50 cores was written, but unlimited stands"), "{}", outcome.message);
    assert_eq!(tree.read(path.to_str().unwrap(), "cpu.max"), "max 100000\n");
}

#[test]
fn through_the_cgroup_file_alone_docker_is_not_told() {
    let (tree, path) = tree(Kind::V2);
    let daemon = engine(&tree, &path, json!({}));
    let fake = Fake::new(ActuatorConfig { write_via: WriteVia::Cgroup, ..config(&tree, &daemon) });
    assert_eq!(targets(&fake.apply(Resource::Cpu, 0.5)), ["cpu.max"]);
    assert!(updates(&daemon).is_empty());
}

#[test]
fn the_baseline_outlives_a_restart_that_brings_our_limit_back() {
    let (tree, path) = tree(Kind::V2);
    let path = path.to_str().unwrap();
    tree.set_cpu(path, 200_000);
    let state = tempfile::tempdir().unwrap();
    let daemon = engine(&tree, Path::new(path), json!({}));
    let mut fake = Fake::new(ActuatorConfig { state_dir: Some(state.path().to_owned()), ..config(&tree, &daemon) });
    assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);

    // The cgroup goes and comes back under the same identifier, with the limit that Docker was told.
    let dir = tree.path(path, "cpu.max").parent().unwrap().to_owned();
    let aside = tree.dir.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    assert_eq!(fake.collect(2).vanished.len(), 1);
    tree.cgroup(path);
    tree.set_cpu(path, 50_000);
    let back = fake.collect(3);
    assert_eq!(back.appeared[0].baseline[&Resource::Cpu], Limit::At(2.0));
    assert_eq!(fake.collect(4).present[0].baseline[&Resource::Cpu], Limit::At(2.0));
    assert_eq!(fake.apply(Resource::Cpu, 2.0).limit_after, Some(2.0));
}

#[test]
fn under_the_systemd_driver_a_limit_is_a_whole_percent_of_a_cpu() {
    let tree = Tree::new(Kind::V2);
    let path = format!("/system.slice/docker-{}.scope", id('a'));
    tree.cgroup(&path);
    let daemon = engine(&tree, Path::new(&path), json!({}));
    let fake = Fake::new(config(&tree, &daemon));
    assert_eq!(fake.apply(Resource::Cpu, 0.4567).limit_after, Some(0.46));
    assert_eq!(updates(&daemon), [json!({ "NanoCpus": 460_000_000 })]);
    assert_eq!(fake.apply(Resource::Cpu, 0.4567).status, OutcomeStatus::Unchanged);
}

#[test]
fn podman_takes_the_resources_of_an_oci_configuration() {
    let tree = Tree::new(Kind::V2);
    let path = format!("/libpod_parent/libpod-{}", id('a'));
    tree.cgroup(&path);
    let (cpu, memory) = (tree.path(&path, "cpu.max"), tree.path(&path, "memory.max"));
    let daemon = Daemon::start(move |asked| {
        if let Some(quota) = asked.body["cpu"]["quota"].as_i64() {
            let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            fs::write(&cpu, format!("{quota} {}", asked.body["cpu"]["period"])).unwrap();
        }
        if let Some(limit) = asked.body["memory"]["limit"].as_u64() {
            fs::write(&memory, limit.to_string()).unwrap();
        }
        let inspected = json!({ "Name": "web", "Config": {}, "HostConfig": { "Memory": 0, "NanoCpus": 0 } });
        if asked.method == "GET" { (200, inspected) } else { (201, json!({ "id": "web" })) }
    });
    let fake = Fake::new(ActuatorConfig { podman_socket: daemon.socket(), roots: vec![], ..tree.config() });
    assert_eq!(fake.apply(Resource::Cpu, 0.5).limit_after, Some(0.5));
    assert_eq!(fake.apply(Resource::Cpu, f64::INFINITY).limit_after, None);
    assert_eq!(fake.apply(Resource::Memory, 200.0 * MIB).limit_after, Some(200.0 * MIB));
    let asked = daemon.asked().into_iter().filter(|asked| asked.method == "POST");
    let asked: Vec<(String, Value)> = asked.map(|asked| (asked.target, asked.body)).collect();
    let target = format!("/v4.0.0/libpod/containers/{}/update", id('a'));
    assert_eq!(
        asked,
        [
            (target.clone(), json!({ "cpu": { "quota": 50_000, "period": 100_000 } })),
            (target.clone(), json!({ "cpu": { "quota": -1, "period": 100_000 } })),
            (target, json!({ "memory": { "limit": 200u64 << 20, "swap": -1 } })),
        ]
    );
}

/// Owners are told the other limit along. One that is changing at that moment must not be told as it was.
#[test]
fn two_limits_that_change_at_once_are_both_told() {
    let (tree, path) = tree(Kind::V2);
    let path = path.to_str().unwrap();
    tree.write(path, "memory.max", &(200u64 << 20).to_string());
    let mut engine = Engine {
        cpu: Some(tree.path(path, "cpu.max")),
        memory: tree.path(path, "memory.max"),
        host_config: json!({ "Memory": 200u64 << 20 }),
        refuses: false,
    };
    let daemon = Daemon::start(move |asked| {
        if asked.method == "POST" && asked.body["Memory"].is_i64() {
            thread::sleep(Duration::from_millis(500));
        }
        engine.answer(asked)
    });
    let fake = Fake::new(config(&tree, &daemon));
    let (host, clock) = (fake.host.clone(), &fake.clock);
    let (memory, cpu) = thread::scope(|scope| {
        let memory = scope.spawn(|| host.apply(&change("web", Resource::Memory, 400.0 * MIB, None), clock));
        thread::sleep(Duration::from_millis(200));
        let cpu = fake.host.apply(&change("web", Resource::Cpu, 0.5, None), clock);
        (memory.join().unwrap(), cpu)
    });
    assert_eq!((memory.limit_after, cpu.limit_after), (Some(400.0 * MIB), Some(0.5)), "{memory:?} {cpu:?}");
    assert_eq!(tree.read(path, "memory.max").trim(), (400u64 << 20).to_string());
    let told = updates(&daemon);
    assert_eq!(told.iter().filter_map(|body| body["Memory"].as_u64()).collect::<Vec<_>>(), [400u64 << 20], "{told:?}");
}
