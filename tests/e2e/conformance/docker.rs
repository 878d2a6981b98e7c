//! A container of a real Docker daemon, which remembers limits and has names and labels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tidegate_actuator::{Actuator, ActuatorConfig, Change, LocalHost};
use tidegate_model::{Clock, OutcomeStatus, Resource, SeriesKey, SystemClock, metrics};

use super::engines::{command, engine, has_systemd, reload_systemd, remove_groups, root_with_load, run, with_engine};
use super::{BEFORE, LONG, Subject, WANTED, is_given_back, is_raised, pid, start};
use crate::support::{Process, wait_for};

/// Who makes the cgroups of Docker's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Cgroupfs,
    Systemd,
}

/// A Docker daemon of the test's own: no bridge, no firewall rules, mounts in a namespace of its own.
struct Docker {
    daemon: Option<Process>,
    dir: tempfile::TempDir,
    root: String,
}

impl Docker {
    fn start(root: &str, driver: Driver) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut path: Vec<PathBuf> = vec![engine("dockerd").unwrap(), engine("runc").unwrap()];
        path.iter_mut().for_each(|program| assert!(program.pop()));
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut daemon = Command::new("unshare");
        match driver {
            Driver::Cgroupfs => daemon
                .args(["--mount", "dockerd", "--exec-opt=native.cgroupdriver=cgroupfs"])
                .args(["--cgroup-parent", &format!("/{root}/docker")]),
            // Its containers are in system.slice.
            Driver::Systemd => daemon.args(["--mount", "dockerd", "--exec-opt=native.cgroupdriver=systemd"]),
        };
        let daemon = daemon
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false", "--storage-driver=vfs"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("docker.sock"))])
            .env("PATH", std::env::join_paths(path).unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let docker = Self { daemon: Some(Process(daemon.unwrap())), dir, root: root.to_owned() };
        wait_for("the Docker daemon", LONG, || {
            docker.command(&["info"]).output().unwrap().status.success().then_some(())
        });
        docker
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command("docker");
        command.args(["--host", &format!("unix://{}", self.at("docker.sock"))]).args(args);
        command
    }

    /// Makes an image with nothing but the load.
    fn import(&self) {
        let image = self.dir.path().join("image");
        root_with_load(&image);
        run(Command::new("tar").arg("-cf").arg(self.at("image.tar")).arg("-C").arg(&image).arg("."));
        run(&mut self.command(&["import", &self.at("image.tar"), "busybox"]));
    }

    /// The process that starts runtimes for this daemon.
    fn containerd(&self) -> Pid {
        let daemon = pid(&self.daemon.as_ref().unwrap().0);
        let is_child = |entry: &fs::DirEntry| {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let (head, rest) = stat.rsplit_once(')').unwrap_or_default();
            head.ends_with("(containerd") && rest.split_whitespace().nth(1) == Some(&daemon.to_string())
        };
        let found = fs::read_dir("/proc").unwrap().flatten().find(is_child).unwrap();
        Pid::from_raw(found.file_name().to_str().unwrap().parse().unwrap())
    }

    /// Cores and bytes, as Docker remembers them.
    fn remembers(&self, name: &str) -> (f64, u64) {
        let inspected: Value = serde_json::from_str(&run(&mut self.command(&["inspect", name]))).unwrap();
        let host = &inspected[0]["HostConfig"];
        (host["NanoCpus"].as_f64().unwrap() / 1e9, host["Memory"].as_u64().unwrap())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let containers = self.command(&["ps", "--all", "--quiet"]).output();
        for id in String::from_utf8_lossy(&containers.map(|output| output.stdout).unwrap_or_default()).lines() {
            let _ = self.command(&["rm", "--force", id]).output();
        }
        // It ends its containerd when it is asked to end, not when it is killed.
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(pid(&daemon.0), Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(20);
            while daemon.is_alive() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        remove_groups(&self.root, &["docker"]);
    }
}

#[test]
fn a_container_of_docker_gets_what_a_rule_says_and_docker_knows_it() {
    check("conformance::a_container_of_docker", Driver::Cgroupfs);
}

#[test]
fn a_container_under_dockers_systemd_driver_does_as_well() {
    if has_systemd() {
        check("conformance::a_container_under_dockers_systemd_driver", Driver::Systemd);
    }
}

/// The daemon's containerd, which does the work, stands still meanwhile: Docker takes the update and does not answer.
#[test]
fn what_docker_carries_out_late_is_undone_at_once() {
    const TEST: &str = "conformance::what_docker_carries_out_late";
    const MIB: f64 = 1_048_576.0;
    if has_systemd() {
        return;
    }
    let Some(containers) = with_engine(TEST, &["dockerd", "docker", "containerd", "runc", "busybox", "unshare"]) else {
        return;
    };
    let docker = Docker::start(&containers.root, Driver::Cgroupfs);
    docker.import();
    let name = format!("{}-web", containers.root);
    let program = ["--network", "none", "--memory", "512m", "busybox", "/bin/cat"];
    run(docker.command(&["run", "--detach", "--interactive", "--name", &name]).args(program));
    let config = ActuatorConfig {
        host: "h".into(),
        docker_socket: docker.at("docker.sock").into(),
        docker_root: docker.at("data").into(),
        ..Default::default()
    };
    let host = LocalHost::new(config).unwrap();
    let mut source = host.source();
    let container = source.collect(SystemClock.now()).present.into_iter().find(|container| container.key.name == name);
    let container = container.unwrap();
    let apply = |mib: f64| {
        let key = container.key.clone();
        let change = Change {
            container: key,
            resource: Resource::Memory,
            target: mib * MIB,
            limit_before: None,
            decision: "d".into(),
        };
        let outcome = host.apply(&change, &SystemClock);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(mib * MIB)), "{outcome:?}");
        outcome.message
    };
    let limit = || {
        let limits = source.collect(SystemClock.now());
        let mut rows = limits.samples.rows();
        let mine = |key: &SeriesKey| key.tag("container") == Some(&name) && key.tag("resource") == Some("memory");
        let found = rows.find(|(key, ..)| key.metric() == metrics::LIMIT && mine(key)).map(|row| row.2 / MIB);
        (found, limits.knobs, limits.drifts)
    };
    apply(128.0);
    assert_eq!(docker.remembers(&name).1, 128 << 20);
    let worker = docker.containerd();
    kill(worker, Signal::SIGSTOP).unwrap();
    let lower = apply(64.0);
    let raise = apply(256.0);
    kill(worker, Signal::SIGCONT).unwrap();
    assert!(lower.contains("may carry this out later"), "{lower}");
    assert!(raise.contains("has had an update of this container to answer"), "{raise}");
    let mut limit = limit;
    let told = wait_for("Docker to carry it out late", LONG, || {
        let (found, news, drifts) = limit();
        assert!(drifts.is_empty(), "{drifts:?}");
        assert_eq!(found, Some(256.0));
        news.into_iter().find(|news| news.knob == "memory late update")
    });
    println!("{}", told.message);
    wait_for("Docker to know what stands", LONG, || (docker.remembers(&name).1 == 256 << 20).then_some(()));
    assert_eq!(limit().0, Some(256.0));
}

fn check(test: &str, driver: Driver) {
    let Some(containers) = with_engine(test, &["dockerd", "docker", "containerd", "runc", "busybox", "unshare"]) else {
        return;
    };
    let docker = Docker::start(&containers.root, driver);
    docker.import();
    // Of no other container on this machine.
    let name = format!("{}-web", containers.root);
    let (cpus, memory) = (BEFORE.0.to_string(), BEFORE.1.to_string());
    let id = run(&mut docker.command(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--network",
        "none",
        "--cpus",
        &cpus,
        "--memory",
        &memory,
        "--label",
        "tidegate.app=shop",
        "--label",
        "tidegate.cpu.max=1.5",
        "busybox",
        "/bin/sh",
        "/load",
    ]));
    let cgroup = match driver {
        Driver::Cgroupfs => Path::new(&containers.root).join("docker").join(id.trim()),
        Driver::Systemd => Path::new("system.slice").join(format!("docker-{}.scope", id.trim())),
    };
    let subject = Subject::new(&name, cgroup, docker.dir.path());
    // All of the machine's containers are looked at here, since the runtimes' patterns are what it is about; no rule but
    // that of this test is there to change any.
    let server = start(&[
        "--actuator-docker-socket".to_owned(),
        docker.at("docker.sock"),
        "--actuator-docker-root".to_owned(),
        docker.at("data"),
    ]);
    let known = format!("SELECT runtime, app FROM containers WHERE container = '{name}'");
    wait_for("Docker's name and labels", LONG, || {
        (server.sql(&known) == [[json!("docker"), json!("shop")]]).then_some(())
    });
    is_raised(&server, &subject);
    wait_for("Docker to know the limits", LONG, || (docker.remembers(&name) == WANTED).then_some(()));
    if driver == Driver::Systemd {
        reload_systemd();
        assert!(subject.has_limits(WANTED), "{:?} after a daemon-reload", subject.limits());
    }

    run(&mut docker.command(&["restart", "--time", "1", &name]));
    wait_for("the limits to outlive a restart", LONG, || subject.has_limits(WANTED).then_some(()));
    // The one that was found first is the baseline, not what Docker brought back.
    is_given_back(&server, &subject);
    wait_for("Docker to know the baseline", LONG, || (docker.remembers(&name) == BEFORE).then_some(()));
}
