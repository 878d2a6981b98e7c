//! What container runtimes tell of their containers: names, labels, and what follows from them. Daemons are made up here and
//! answer on Unix sockets as Docker and Podman do.
#![allow(clippy::unwrap_used)]

mod daemon;
mod tree;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_actuator::{ActuatorConfig, BoundsRule, Collected, WriteVia};
use tidegate_model::{Bounds, Container, OutcomeStatus, Resource, Runtime};

use crate::daemon::{Asked, Daemon, alarm, docker_path, id};
use crate::tree::{Fake, KINDS, Kind, MIB, Tree};

/// A tree with Docker containers beside its own.
fn tree_with(kind: Kind, ids: &[&str]) -> Tree {
    let tree = Tree::new(kind);
    for id in ids {
        tree.cgroup(docker_path(id).to_str().unwrap());
    }
    tree
}

fn inspected(name: &str, labels: Value) -> (u16, Value) {
    (200, json!({ "Name": format!("/{name}"), "Config": { "Labels": labels }, "HostConfig": { "NanoCpus": 0 } }))
}

fn find<'c>(collected: &'c Collected, name: &str) -> Option<&'c Container> {
    collected.present.iter().find(|container| container.key.name == name)
}

fn docker(tree: &Tree, daemon: &Daemon) -> ActuatorConfig {
    ActuatorConfig {
        docker_socket: daemon.socket(),
        docker_root: "/no/such".into(),
        write_via: WriteVia::Cgroup,
        roots: vec![],
        ..tree.config()
    }
}

#[test]
fn names_and_labels_come_from_the_api_once_for_each_container() {
    for kind in KINDS {
        let (web, db) = (id('a'), id('b'));
        let tree = tree_with(kind, &[&web, &db]);
        let target = format!("/containers/{web}/json");
        let daemon = Daemon::start(move |asked| match asked.target == target {
            true => inspected("shop-web-1", json!({ "tidegate.app": "shop", "tidegate.cpu.max": "1500m" })),
            false => inspected("db", Value::Null),
        });
        let mut fake = Fake::new(docker(&tree, &daemon));
        assert_eq!(fake.first.problems, Vec::<String>::new());
        let found = find(&fake.first, "shop-web-1").unwrap();
        assert_eq!((found.runtime, found.id.as_str(), found.app.as_deref()), (Runtime::Docker, &web[..], Some("shop")));
        assert_eq!(found.bounds[&Resource::Cpu], Bounds { min: 0.0, max: 1.5 });
        assert!(find(&fake.first, "db").is_some_and(|db| db.bounds.is_empty()));
        assert_eq!(daemon.asked().len(), 2);
        assert_eq!(fake.collect(2).present.len(), 2);
        assert_eq!(daemon.asked(), Vec::<Asked>::new(), "nothing new, nothing to ask");
    }
}

#[test]
fn a_label_that_cannot_be_understood_is_a_lasting_problem_and_costs_only_itself() {
    let web = id('a');
    let tree = tree_with(Kind::V2, &[&web]);
    let daemon = Daemon::start(|_| {
        inspected("web", json!({ "tidegate.cpu.max": "lots", "tidegate.memory.max": "64MiB", "tidegate.app": "shop" }))
    });
    let mut fake = Fake::new(docker(&tree, &daemon));
    for collected in [fake.first.clone(), fake.collect(2)] {
        assert_eq!(collected.problems.len(), 1);
        for part in ["container web", "tidegate.cpu.max", "'lots'", "cores"] {
            assert!(collected.problems[0].contains(part), "{:?}", collected.problems);
        }
        let found = find(&collected, "web").unwrap();
        assert_eq!(found.bounds.len(), 1);
        assert_eq!(found.bounds[&Resource::Memory], Bounds { min: 0.0, max: 64.0 * MIB });
    }
}

#[test]
fn the_configuration_wins_over_labels() {
    let web = id('a');
    let tree = tree_with(Kind::V2, &[&web]);
    let labels =
        json!({ "tidegate.app": "mine", "tidegate.user": "alice", "tidegate.cpu.min": "0.5", "tidegate.cpu.max": "8" });
    let daemon = Daemon::start(move |_| inspected("web", labels.clone()));
    let rule = BoundsRule { container: "w*".into(), resource: Resource::Cpu, min: None, max: Some(2.0) };
    let fake = Fake::new(ActuatorConfig { bounds: vec![rule], ..docker(&tree, &daemon) });
    let found = find(&fake.first, "web").unwrap();
    assert_eq!((found.app.as_deref(), found.user.as_deref()), (Some("shop"), Some("alice")));
    assert_eq!(found.bounds[&Resource::Cpu], Bounds { min: 0.5, max: 2.0 });
}

#[test]
fn a_container_that_shall_not_be_scaled_is_measured_and_refused() {
    let web = id('a');
    let tree = tree_with(Kind::V2, &[&web]);
    tree.set_cpu(docker_path(&web).to_str().unwrap(), 200_000);
    let daemon = Daemon::start(|_| inspected("web", json!({ "tidegate.scale": "false" })));
    let by_label = Fake::new(docker(&tree, &daemon));
    let other = Daemon::start(|_| inspected("web", Value::Null));
    let by_config = Fake::new(ActuatorConfig { never_scale: vec!["w?b".into()], ..docker(&tree, &other) });
    for fake in [by_label, by_config] {
        assert_eq!(find(&fake.first, "web").unwrap().labels["tidegate.scale"], "false");
        assert!(!fake.first.samples.times().is_empty());
        let outcome = fake.apply(Resource::Cpu, 0.5);
        assert_eq!((outcome.status, outcome.writes.len()), (OutcomeStatus::Refused, 0));
        assert!(outcome.message.contains("tidegate.scale"), "{}", outcome.message);
        assert_eq!(fake.apply(Resource::Cpu, 2.0).status, OutcomeStatus::Unchanged, "its baseline may be given back");
    }
}

#[test]
fn a_restart_under_the_same_name_is_a_new_incarnation_of_the_same_container() {
    for kind in KINDS {
        let (old, new) = (id('a'), id('b'));
        let tree = tree_with(kind, &[&old]);
        let daemon = Daemon::start(|_| inspected("web", json!({ "tidegate.app": "shop" })));
        let mut fake = Fake::new(docker(&tree, &daemon));
        let first = find(&fake.first, "web").unwrap().clone();

        tree.cgroup(docker_path(&new).to_str().unwrap());
        let both = fake.collect(2);
        assert_eq!(both.present.len(), 1, "the new one waits for the name while the old one goes");
        for file in ["cpu.stat", "cpuacct.usage", "memory.stat"] {
            let _ = fs::remove_dir_all(tree.path(docker_path(&old).to_str().unwrap(), file).parent().unwrap());
        }
        let after = fake.collect(3);
        let second = find(&after, "web").unwrap();
        assert_eq!((after.present.len(), &after.vanished[..]), (1, &[first.key.clone()][..]));
        assert_eq!(second.key, first.key, "one history");
        assert_ne!((second.incarnation, second.id.as_str()), (first.incarnation, &old[..]));
        assert_eq!(fake.apply(Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
    }
}

#[test]
fn two_living_containers_of_one_name_are_told_apart_after_a_while() {
    let (one, two) = (id('a'), id('b'));
    let tree = tree_with(Kind::V2, &[&one, &two]);
    let daemon = Daemon::start(|_| inspected("web", Value::Null));
    let mut fake = Fake::new(docker(&tree, &daemon));
    assert_eq!(fake.first.present.len(), 1);
    assert_eq!(fake.collect(4).present.len(), 1);
    let names: Vec<String> = fake.collect(7).present.iter().map(|c| c.key.name.clone()).collect();
    assert_eq!(names, ["web".to_owned(), format!("docker.{two}")]);
}

#[test]
fn a_daemon_that_hangs_delays_one_collection_a_little_and_is_asked_again() {
    let (web, db) = (id('a'), id('b'));
    let tree = tree_with(Kind::V2, &[&web, &db]);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("containers").join(&web);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.v2.json"), r#"{"Name":"/web","Config":{"Labels":{}}}"#).unwrap();
    let (wake, woken) = alarm();
    let target = format!("/containers/{web}/json");
    let daemon = Daemon::hanging(
        move |asked| match asked.target == target {
            true => inspected("web", json!({ "tidegate.app": "late" })),
            false => inspected("db", Value::Null),
        },
        woken,
    );
    let started = Instant::now();
    let config = ActuatorConfig { apps: vec![], docker_root: root.path().to_owned(), ..docker(&tree, &daemon) };
    let mut fake = Fake::new(config);
    for _ in 0..60 {
        fake.collect(2);
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "60 time-outs of half a second are 30 s: {:?}",
        started.elapsed()
    );
    // Docker's file names one of them; the other is kept back rather than called by its identifier.
    let found = fake.collect(5);
    assert_eq!(found.present.iter().map(|c| c.key.name.as_str()).collect::<Vec<_>>(), ["web"]);
    assert!(
        found.problems[0].contains("Docker") && found.problems[0].contains("does not answer"),
        "{:?}",
        found.problems
    );

    wake.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = fake.collect(5);
        if find(&found, "db").is_some() && find(&found, "web").is_some_and(|web| web.app.as_deref() == Some("late")) {
            assert_eq!(found.problems, Vec::<String>::new());
            break;
        }
        assert!(Instant::now() < deadline, "{:?}", found.problems);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_container_that_nobody_can_name_goes_by_its_identifier_in_the_end() {
    let web = id('a');
    let tree = tree_with(Kind::V2, &[&web]);
    let (_never, woken) = alarm();
    let daemon = Daemon::hanging(|_| inspected("web", Value::Null), woken);
    let mut fake = Fake::new(docker(&tree, &daemon));
    assert!(fake.first.present.is_empty());
    assert_eq!(fake.collect(7).present[0].key.name, &web[..12]);
}

#[test]
fn podman_is_asked_by_its_own_call_and_its_storage_helps_out() {
    let web = id('a');
    let tree = Tree::new(Kind::V2);
    tree.cgroup(&format!("/machine.slice/libpod-{web}.scope"));
    let daemon =
        Daemon::start(|_| (200, json!({ "Name": "web", "Config": { "Labels": { "tidegate.user": "alice" } } })));
    let config = ActuatorConfig { roots: vec![], podman_socket: daemon.socket(), ..tree.config() };
    let fake = Fake::new(config.clone());
    let found = find(&fake.first, "web").unwrap();
    assert_eq!((found.runtime, found.user.as_deref()), (Runtime::Podman, Some("alice")));
    assert_eq!(daemon.asked()[0].target, format!("/v4.0.0/libpod/containers/{web}/json"));

    let storage = tempfile::tempdir().unwrap();
    let dir = storage.path().join("overlay-containers");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("containers.json"), json!([{ "id": web, "names": ["web"] }]).to_string()).unwrap();
    let gone = ActuatorConfig { podman_socket: "/no/such".into(), podman_root: storage.path().to_owned(), ..config };
    let fake = Fake::new(gone);
    assert!(find(&fake.first, "web").is_some());
    assert_eq!(fake.first.problems, Vec::<String>::new(), "Podman needs no service");
}

#[test]
fn what_crun_makes_below_a_scope_takes_the_place_of_the_scope() {
    let web = id('a');
    let tree = Tree::new(Kind::V2);
    let scope = format!("/machine.slice/libpod-{web}.scope");
    tree.cgroup(&scope);
    let mut fake = Fake::new(ActuatorConfig { roots: vec![], ..tree.config() });
    let path = |found: &Collected| found.present.iter().map(|one| one.path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(path(&fake.first), [scope.as_str()]);
    let own = format!("{scope}/container");
    tree.cgroup(&own);
    let found = fake.collect(1);
    assert_eq!((found.vanished.len(), path(&found)), (1, vec![own]));
    assert_eq!(found.present[0].key.name, &web[..12], "under the same name");
}
