//! Containers of LXD and Incus: their labels, limits that go through the daemon and what it keeps of them, and what happens
//! when it fails or is not there. The daemon is made up here; as the real one does, it writes the kernel's files.
#![allow(clippy::unwrap_used)]

#[path = "../daemon/mod.rs"]
mod daemon;
mod instance;
#[path = "../tree/mod.rs"]
mod tree;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_actuator::{ActuatorConfig, WriteVia};
use tidegate_model::{Bounds, Limit, Outcome, OutcomeStatus, Resource, Runtime};

use crate::daemon::Daemon;
use crate::instance::{LIST, Shared, Way, instance};
use crate::tree::{Fake, KINDS, Kind, MIB, Tree};

const WEB: &str = "/lxc.payload.web";
const CPU: &str = "limits.cpu.allowance";
const MEMORY: &str = "limits.memory";

fn config(tree: &Tree, daemon: &Daemon) -> ActuatorConfig {
    ActuatorConfig {
        lxd_sockets: vec!["/no/such".into(), daemon.socket()],
        lxc_root: tree.dir.path().join("lxc-root"),
        tell_owner_every_s: 0,
        roots: vec![],
        apps: vec![],
        ..tree.config()
    }
}

/// A host with the container `web`, which is an instance with this configuration.
fn host(own: &[(&str, &str)]) -> (Tree, Shared, Daemon, Fake) {
    let tree = Tree::new(Kind::V2);
    tree.cgroup(WEB);
    let (web, daemon) = instance(&tree, WEB, "default", own);
    let fake = Fake::new(config(&tree, &daemon));
    daemon.asked();
    (tree, web, daemon, fake)
}

/// What changes asked for since the last look.
fn changes(daemon: &Daemon) -> Vec<Value> {
    let asked = daemon.asked().into_iter().filter(|asked| asked.method == "PATCH");
    asked.map(|asked| asked.body["config"].clone()).collect()
}

fn says(web: &Shared, key: &str) -> Option<String> {
    web.lock().config.get(key).cloned()
}

fn applied(outcome: &Outcome, limit: Option<f64>) {
    assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, limit), "{}", outcome.message);
}

#[test]
fn labels_and_projects_come_from_the_daemon_and_plain_lxc_goes_on_beside_it() {
    for kind in KINDS {
        let tree = Tree::new(kind);
        for path in ["/lxc.payload.shop_web", "/lxc.payload.plain", "/lxc/web"] {
            tree.cgroup(path);
        }
        let own = [("user.tidegate.cpu.max", "4"), ("user.tidegate.app", "shop"), ("user.tidegate.user", "alice")];
        let (_, daemon) = instance(&tree, "/lxc.payload.shop_web", "shop", &own);
        let config = config(&tree, &daemon);
        for name in ["plain", "web"] {
            fs::create_dir_all(config.lxc_root.join(name)).unwrap();
            fs::write(config.lxc_root.join(name).join("config"), "lxc.environment = tidegate.app=old\n").unwrap();
        }
        let fake = Fake::new(config);
        assert_eq!(fake.first.problems, Vec::<String>::new());
        let find = |name: &str| fake.first.present.iter().find(|container| container.key.name == name).unwrap();
        let web = find("shop_web");
        assert_eq!((web.runtime, web.app.as_deref(), web.user.as_deref()), (Runtime::Lxc, Some("shop"), Some("alice")));
        assert_eq!(web.bounds[&Resource::Cpu], Bounds { min: 0.0, max: 4.0 });
        assert_eq!((web.labels["project"].as_str(), web.labels["instance"].as_str()), ("shop", "web"));
        for name in ["plain", "web"] {
            let plain = find(name);
            assert_eq!((plain.app.as_deref(), plain.labels.get("project")), (Some("old"), None));
        }
        assert!(daemon.asked().iter().all(|asked| asked.target == LIST));

        applied(&fake.apply_to("plain", Resource::Cpu, 0.5), Some(0.5));
        assert!(daemon.asked().is_empty(), "nobody is told of a container that it does not know");
    }
}

#[test]
fn a_plain_container_is_no_instance_of_its_name_that_is_stopped() {
    // While an instance starts it counts as stopped, too.
    for (status, is_plain, app) in [("Running", true, "shop"), ("Stopped", true, "old"), ("Stopped", false, "shop")] {
        let tree = Tree::new(Kind::V2);
        tree.cgroup(WEB);
        let (web, daemon) = instance(&tree, WEB, "default", &[("user.tidegate.app", "shop")]);
        web.lock().status = status;
        let config = config(&tree, &daemon);
        if is_plain {
            fs::create_dir_all(config.lxc_root.join("web")).unwrap();
            fs::write(config.lxc_root.join("web/config"), "lxc.environment = tidegate.app=old\n").unwrap();
        }
        let fake = Fake::new(config);
        assert_eq!(fake.first.present[0].app.as_deref(), Some(app));
        applied(&fake.apply(Resource::Cpu, 0.5), Some(0.5));
        assert_eq!(changes(&daemon).is_empty(), app == "old");
    }
}

#[test]
fn a_cpu_limit_is_kept_by_the_daemon_and_given_back_as_it_was_said() {
    for (own, said) in [(&[][..], None), (&[(CPU, "50%")][..], Some("50%"))] {
        let (tree, web, daemon, mut fake) = host(own);
        let kept = said.unwrap_or("unset");
        let outcome = fake.apply(Resource::Cpu, 0.4567);
        applied(&outcome, Some(0.46));
        assert_eq!(outcome.writes.len(), 1, "one write: each one refills the quota");
        assert_eq!(outcome.writes[0].target, "LXD: PATCH /1.0/instances/web?project=default");
        let expected = json!({ CPU: "46ms/100ms", "user.tidegate-kept.limits.cpu.allowance": kept });
        assert_eq!(serde_json::from_str::<Value>(&outcome.writes[0].value).unwrap(), json!({ "config": expected }));
        assert_eq!(changes(&daemon), [expected]);
        assert_eq!(fake.apply(Resource::Cpu, 0.4567).status, OutcomeStatus::Unchanged);
        applied(&fake.apply(Resource::Cpu, 1.5), Some(1.5));
        assert_eq!(changes(&daemon), [json!({ CPU: "150ms/100ms" })]);
        assert!(fake.collect(2).drifts.is_empty());

        applied(&fake.apply(Resource::Cpu, f64::INFINITY), None);
        assert_eq!(says(&web, CPU).as_deref(), said);
        assert_eq!(web.lock().config.len(), own.len(), "nothing of ours is left");
        assert_eq!(tree.read(WEB, "cpu.max"), "max 100000");
    }
}

#[test]
fn a_period_is_kept_and_what_has_no_whole_milliseconds_is_in_the_file() {
    let (tree, web, _daemon, fake) = host(&[]);
    tree.write(WEB, "cpu.max", "max 50000\n");
    applied(&fake.apply(Resource::Cpu, 0.5), Some(0.5));
    assert_eq!((says(&web, CPU).as_deref(), tree.read(WEB, "cpu.max").as_str()), (Some("25ms/50ms"), "25000 50000"));
    applied(&fake.apply(Resource::Cpu, 0.45), Some(0.45));
    assert_eq!((says(&web, CPU).as_deref(), tree.read(WEB, "cpu.max").as_str()), (Some("45ms/100ms"), "22500 50000"));
}

#[test]
fn memory_is_lowered_by_the_procedure_and_the_daemon_is_told_afterwards() {
    for way in [Way::AtOnce, Way::InTheBackground] {
        let (tree, web, daemon, mut fake) = host(&[(MEMORY, "256MiB")]);
        tree.set_memory(WEB, 256.0 * MIB);
        tree.write(WEB, "memory.current", &(60u64 << 20).to_string());
        web.lock().way = way;
        let lower = fake.apply(Resource::Memory, 128.0 * MIB);
        applied(&lower, Some(128.0 * MIB));
        let targets: Vec<&str> = lower.writes.iter().map(|write| write.target.rsplit('/').next().unwrap()).collect();
        assert_eq!(targets, ["memory.high", "memory.max", "memory.high", "web?project=default"]);
        let expected = json!({ MEMORY: "134217728B", "user.tidegate-kept.limits.memory": "256MiB" });
        assert_eq!(changes(&daemon), [expected]);

        let raise = fake.apply(Resource::Memory, 192.0 * MIB);
        applied(&raise, Some(192.0 * MIB));
        assert_eq!((raise.writes.len(), changes(&daemon)), (1, vec![json!({ MEMORY: "201326592B" })]));
        assert!(fake.collect(2).drifts.is_empty());

        applied(&fake.apply(Resource::Memory, f64::INFINITY), None);
        assert_eq!(changes(&daemon), [json!({ MEMORY: "" })]);
        applied(&fake.apply(Resource::Memory, 256.0 * MIB), Some(256.0 * MIB));
        assert_eq!(changes(&daemon), [json!({ MEMORY: "256MiB", "user.tidegate-kept.limits.memory": "" })]);
        assert_eq!(web.lock().config.len(), 1);
    }
}

#[test]
fn where_a_profile_has_a_limit_it_counts_again_and_never_by_surprise() {
    let (tree, web, daemon, fake) = host(&[]);
    web.lock().set_profile(&[(MEMORY, "256MiB")]);
    tree.set_memory(WEB, 256.0 * MIB);
    applied(&fake.apply(Resource::Memory, 300.0 * MIB), Some(300.0 * MIB));
    let expected = json!({ MEMORY: "314572800B", "user.tidegate-kept.limits.memory": "unset:256MiB" });
    assert_eq!(changes(&daemon), [expected]);
    applied(&fake.apply(Resource::Memory, f64::INFINITY), None);
    assert_eq!(changes(&daemon), [json!({ MEMORY: format!("{}B", fake.first.host.memory.0) })]);
    assert_eq!(tree.read(WEB, "memory.max"), "max");
    applied(&fake.apply(Resource::Memory, 256.0 * MIB), Some(256.0 * MIB));
    assert!(web.lock().config.is_empty());

    // A profile that has less by now would be below what is used.
    applied(&fake.apply(Resource::Memory, 300.0 * MIB), Some(300.0 * MIB));
    web.lock().set_profile(&[(MEMORY, "64MiB")]);
    applied(&fake.apply(Resource::Memory, 256.0 * MIB), Some(256.0 * MIB));
    assert_eq!(says(&web, MEMORY).as_deref(), Some("268435456B"));
}

#[test]
fn a_configuration_that_said_less_than_stood_there_is_not_given_back() {
    let (tree, web, _daemon, fake) = host(&[(MEMORY, "64MiB")]);
    tree.set_memory(WEB, 256.0 * MIB);
    applied(&fake.apply(Resource::Memory, 300.0 * MIB), Some(300.0 * MIB));
    applied(&fake.apply(Resource::Memory, 256.0 * MIB), Some(256.0 * MIB));
    assert_eq!(says(&web, MEMORY).as_deref(), Some("268435456B"));
}

#[test]
fn what_the_daemon_does_not_do_is_written_to_the_file_and_told() {
    for (way, why) in [
        (Way::Failing, "LXD refused it: Failed to write cgroup (status 400)"),
        (Way::Lasting, "LXD has not done it in time, and it may carry this out later"),
        (Way::Refused, "LXD refused it: Invalid value (status 400)"),
    ] {
        let (tree, web, daemon, fake) = host(&[]);
        web.lock().way = way;
        let cpu = fake.apply(Resource::Cpu, 0.5);
        applied(&cpu, Some(0.5));
        assert!(cpu.message.contains(why) && cpu.message.contains("the cgroup file was written"), "{}", cpu.message);
        let memory = fake.apply(Resource::Memory, 128.0 * MIB);
        applied(&memory, Some(128.0 * MIB));
        // What may come late is waited for before it is told of anything else.
        let why = if way == Way::Lasting { "LXD has had an update of this container to answer for" } else { why };
        assert!(memory.message.contains(why) && memory.message.contains("only the cgroup file"), "{}", memory.message);
        assert_eq!(tree.read(WEB, "memory.max"), (128u64 << 20).to_string());
        assert!(web.lock().config.is_empty());

        let owner_only = Fake::new(ActuatorConfig { write_via: WriteVia::Owner, ..config(&tree, &daemon) });
        let refused = owner_only.apply(Resource::Cpu, 0.7);
        assert_eq!((refused.status, refused.limit_after), (OutcomeStatus::Refused, Some(0.5)), "{}", refused.message);
    }
}

#[test]
fn what_the_daemon_carries_out_late_is_undone() {
    let (tree, web, daemon, mut fake) = host(&[]);
    tree.write(WEB, "memory.current", &(60u64 << 20).to_string());
    web.lock().way = Way::Late;
    let lower = fake.apply(Resource::Memory, 80.0 * MIB);
    applied(&lower, Some(80.0 * MIB));
    assert!(lower.message.contains("does not answer, and it may carry this out later"), "{}", lower.message);
    let raise = fake.apply(Resource::Memory, 128.0 * MIB);
    applied(&raise, Some(128.0 * MIB));
    assert!(raise.message.contains("LXD has had an update"), "{}", raise.message);

    let deadline = Instant::now() + Duration::from_secs(20);
    while daemon.asked().iter().all(|asked| asked.method != "PATCH") {
        assert!(Instant::now() < deadline, "it is carried out in the end");
        thread::sleep(Duration::from_millis(5));
    }
    web.lock().way = Way::AtOnce;
    thread::sleep(Duration::from_millis(500));
    assert_eq!(tree.read(WEB, "memory.max"), (128u64 << 20).to_string());
    assert!(fake.collect(5).drifts.is_empty());
    let told = |web: &Shared| says(web, MEMORY).as_deref() == Some("134217728B");
    while !told(&web) {
        assert!(Instant::now() < deadline, "it is told what stands");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_soft_memory_limit_is_none_that_could_be_set() {
    let (_tree, web, daemon, fake) = host(&[("limits.memory.enforce", "soft"), (MEMORY, "64MiB")]);
    let outcome = fake.apply(Resource::Memory, 128.0 * MIB);
    applied(&outcome, Some(128.0 * MIB));
    assert!(outcome.message.contains("soft"), "{}", outcome.message);
    assert!(changes(&daemon).is_empty());
    assert_eq!(says(&web, MEMORY).as_deref(), Some("64MiB"));
}

#[test]
fn what_the_configuration_says_already_is_written_to_the_file() {
    let (tree, web, daemon, fake) = host(&[]);
    applied(&fake.apply(Resource::Cpu, 0.5), Some(0.5));
    web.lock().way = Way::Refused;
    applied(&fake.apply(Resource::Cpu, 0.3), Some(0.3));
    web.lock().way = Way::AtOnce;
    changes(&daemon);
    applied(&fake.apply(Resource::Cpu, 0.5), Some(0.5));
    assert_eq!(tree.read(WEB, "cpu.max"), "50000 100000");
}

#[test]
fn without_a_daemon_it_is_plain_lxc_and_one_that_fails_costs_no_name() {
    let tree = Tree::new(Kind::V2);
    tree.cgroup(WEB);
    let config =
        |sockets| ActuatorConfig { lxd_sockets: sockets, lxc_root: "/no/such".into(), roots: vec![], ..tree.config() };
    let none = Fake::new(config(vec!["/no/such".into()]));
    assert_eq!((none.first.present[0].key.name.as_str(), none.first.problems.len()), ("web", 0));
    let outcome = none.apply(Resource::Cpu, 0.5);
    applied(&outcome, Some(0.5));
    assert!(outcome.writes[0].target.ends_with("cpu.max") && !outcome.message.contains("LXD"), "{}", outcome.message);

    let (_wake, woken) = daemon::alarm();
    let hangs = Daemon::hanging(|_| (200, json!({ "metadata": [] })), woken);
    let failing = Fake::new(config(vec![hangs.socket()]));
    assert_eq!(failing.first.present[0].key.name, "web");
    assert!(failing.first.problems.iter().any(|problem| problem.contains("LXD")), "{:?}", failing.first.problems);
    applied(&failing.apply(Resource::Cpu, 0.7), Some(0.7));
}

#[test]
fn the_baseline_outlives_a_restart_of_the_instance_and_ends_with_the_instance() {
    let tree = Tree::new(Kind::V2);
    tree.cgroup(WEB);
    tree.set_cpu(WEB, 200_000);
    let (web, daemon) = instance(&tree, WEB, "default", &[(CPU, "200ms/100ms")]);
    let mut fake = Fake::new(config(&tree, &daemon));
    applied(&fake.apply(Resource::Cpu, 0.5), Some(0.5));
    let restart = |fake: &mut Fake, at: i64, quota: u64| {
        let dir = tree.path(WEB, "cpu.max").parent().unwrap().to_owned();
        fs::rename(&dir, tree.dir.path().join(format!("aside-{at}"))).unwrap();
        assert_eq!(fake.collect(at).vanished.len(), 1);
        // A list may be that old.
        thread::sleep(Duration::from_millis(1_050));
        tree.cgroup(WEB);
        tree.set_cpu(WEB, quota);
        fake.collect(at + 1).appeared.remove(0).baseline[&Resource::Cpu]
    };
    assert_eq!(restart(&mut fake, 2, 50_000), Limit::At(2.0), "the daemon brought ours back");
    // Deleted, and made anew under the same name.
    web.lock().config = [(CPU.to_owned(), "100ms/100ms".to_owned())].into();
    assert_eq!(restart(&mut fake, 5, 100_000), Limit::At(1.0));
}
