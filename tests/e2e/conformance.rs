//! What a limit comes to, whoever made the container: it is asked for by a rule, read from the kernel's own files, measured
//! on a real load, remembered by the owner, and given back.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::support::{Process, Server, TestContainers, installed, repository, skip, wait_for};

const LONG: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// What the containers are made with, and what the rule wants them to have: cores and bytes.
const BEFORE: (f64, u64) = (0.2, 64 * MIB);
const WANTED: (f64, u64) = (0.6, 128 * MIB);
/// Burns two cores and fills the page cache with more than it may have.
const LOAD: &str = "truncate -s 160M big; while :; do cat big >/dev/null; done & while :; do :; done";

/// A container with [`LOAD`] in it.
struct Subject {
    name: String,
    /// Its cgroup, from the mount of a hierarchy.
    cgroup: PathBuf,
}

impl Subject {
    fn file(&self, v1: &str, v2: &str) -> String {
        let mount = Path::new("/sys/fs/cgroup");
        let is_v2 = mount.join("cgroup.controllers").exists();
        let path = if is_v2 {
            mount.join(&self.cgroup).join(v2)
        } else {
            let (controller, file) = v1.split_once('/').unwrap();
            mount.join(controller).join(&self.cgroup).join(file)
        };
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Cores and bytes, from the kernel's own files.
    fn limits(&self) -> (f64, u64) {
        let cpu = match self.file("cpu/cpu.cfs_quota_us", "cpu.max").trim().split_once(' ') {
            Some((quota, period)) => quota.parse::<f64>().unwrap() / period.parse::<f64>().unwrap(),
            None => number(&self.file("cpu/cpu.cfs_quota_us", "")) / number(&self.file("cpu/cpu.cfs_period_us", "")),
        };
        (cpu, number(&self.file("memory/memory.limit_in_bytes", "memory.max")) as u64)
    }

    /// CPU seconds since it was made.
    fn cpu_seconds(&self) -> f64 {
        let text = self.file("cpuacct/cpuacct.usage", "cpu.stat");
        match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
            Some(micros) => number(micros) / 1e6,
            None => number(&text) / 1e9,
        }
    }

    fn memory_in_use(&self) -> u64 {
        number(&self.file("memory/memory.usage_in_bytes", "memory.current")) as u64
    }

    fn has_limits(&self, wanted: (f64, u64)) -> bool {
        let (cpu, memory) = self.limits();
        (cpu - wanted.0).abs() < 0.005 && memory == wanted.1
    }

    /// That it gets the cores it is allowed, within a tenth. On a busy machine it may get less for a while.
    fn gets_cores(&self, cores: f64) {
        let mut seen = Vec::new();
        for _ in 0..8 {
            let (start, before) = (Instant::now(), self.cpu_seconds());
            std::thread::sleep(Duration::from_secs(3));
            let used = (self.cpu_seconds() - before) / start.elapsed().as_secs_f64();
            assert!(used < 1.1 * cores, "{} used {used:.3} cores of the {cores} that it may", self.name);
            seen.push(used);
            if used > 0.9 * cores {
                println!("{}: {cores} cores allowed, {used:.3} used", self.name);
                return;
            }
        }
        panic!("{} never used its {cores} cores: {seen:.3?}", self.name);
    }

    /// That its page cache takes what memory it is allowed, and no more.
    fn fills_memory(&self, bytes: u64) {
        let full = wait_for("memory to be filled", LONG, || {
            let used = self.memory_in_use();
            assert!(used <= bytes, "{} uses {used} bytes of the {bytes} that it may", self.name);
            (used > bytes / 10 * 9).then_some(used)
        });
        println!("{}: {} MiB allowed, {} MiB used", self.name, bytes / MIB, full / MIB);
    }
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

/// A rule that wants what this test wants, of this container alone.
fn rule(name: &str) -> String {
    format!(
        "CREATE RULE hold WITH (every = '1s', mode = 'on', cooldown_up = '1s', dead_band = 0) AS \
         SELECT host, container, resource, CASE resource WHEN 'cpu' THEN {} ELSE {}.0 END AS target, 'a test' AS reason \
         FROM recent(INTERVAL '10 seconds') WHERE container = '{name}'",
        WANTED.0, WANTED.1
    )
}

/// The limits go up by a rule, and what the load gets follows.
fn is_raised(server: &Server, subject: &Subject) {
    assert!(subject.has_limits(BEFORE), "it was made with {:?}", subject.limits());
    subject.gets_cores(BEFORE.0);
    subject.fills_memory(BEFORE.1);
    let (status, text) = server.post("/api/v1/sql", &[], rule(&subject.name).as_bytes());
    assert_eq!(status, 200, "{text}");
    wait_for("both limits in the kernel's files", LONG, || subject.has_limits(WANTED).then_some(()));
    wait_for("both decisions to be read back", LONG, || {
        let sql = format!(
            "SELECT count(*) FROM decisions WHERE container = '{}' AND outcome = 'applied' AND limit_after = decided",
            subject.name
        );
        server.number(&sql).filter(|applied| *applied >= 2.0)
    });
    subject.gets_cores(WANTED.0);
    subject.fills_memory(WANTED.1);
    let gone_wrong = "SELECT outcome, message FROM decisions WHERE outcome IN ('failed', 'infeasible', 'drifted')";
    assert_eq!(server.sql(gone_wrong), Vec::<Vec<Value>>::new());
}

/// The kill switch gives the limits back that were found.
fn is_given_back(server: &Server, subject: &Subject) {
    let output = server.command(&["freeze", "--restore"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("both baselines in the kernel's files", LONG, || subject.has_limits(BEFORE).then_some(()));
    subject.gets_cores(BEFORE.0);
}

fn start(settings: &[String]) -> Server {
    let quiet = ["--install-default-rules", "false"].map(str::to_owned);
    let settings: Vec<&str> = settings.iter().chain(&quiet).map(String::as_str).collect();
    Server::start(&settings)
}

#[test]
fn a_bare_cgroup_gets_what_a_rule_says() {
    let Some(containers) = TestContainers::new("conformance::a_bare_cgroup") else { return };
    if !installed("busybox") {
        return skip("conformance::a_bare_cgroup", "no busybox; tests/run installs it as root");
    }
    containers.sandbox.add_group("bare").unwrap();
    containers.sandbox.limit_cpu("bare", BEFORE.0).unwrap();
    containers.sandbox.limit_memory("bare", BEFORE.1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // It waits for a line, so that nothing of it is done outside of its cgroup.
    let script = format!("read go; {LOAD}");
    let load = Command::new("busybox")
        .args(["sh", "-c", &script])
        .current_dir(&dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn();
    let mut load = Group(load.unwrap());
    containers.sandbox.move_process("bare", load.0.id()).unwrap();
    load.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    let subject = Subject { name: "bare".to_owned(), cgroup: Path::new(&containers.root).join("bare") };
    let server = start(&containers.settings());
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}

/// A process with its children, who are ended together.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(pid(&self.0), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Where a container engine's programs are: unpacked by `tests/run`, or installed.
fn engine(program: &str) -> Option<PathBuf> {
    let unpacked = repository().join("target/e2e-docker/usr");
    let dirs = [unpacked.join("bin"), unpacked.join("sbin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A root file system with nothing but busybox.
fn root_with_busybox(dir: &Path) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for path in ["proc", "dev"] {
        fs::create_dir_all(dir.join(path)).unwrap();
    }
    let busybox = engine("busybox").unwrap();
    fs::copy(busybox, bin.join("busybox")).unwrap();
    for applet in ["sh", "cat", "truncate"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
}

/// What a test needs of a container engine, and a root of its own in each hierarchy; `None`, and a report, without.
fn with_engine(test: &str, programs: &[&str]) -> Option<TestContainers> {
    let containers = TestContainers::new(test)?;
    if let Some(missing) = programs.iter().find(|program| engine(program).is_none()) {
        skip(test, &format!("no {missing}; tests/run unpacks it on Debian"));
        return None;
    }
    Some(containers)
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Ends a container of runc with its owner, and removes the cgroups that runc made above it.
struct Runc {
    program: PathBuf,
    state: PathBuf,
    name: &'static str,
    root: String,
}

impl Drop for Runc {
    fn drop(&mut self) {
        let state = self.state.display().to_string();
        let _ = Command::new(&self.program).args(["--root", &state, "delete", "--force", self.name]).output();
        remove_groups(&self.root, &[]);
    }
}

/// Removes what an engine left of a test's own root in hierarchies that the test does not know.
fn remove_groups(root: &str, below: &[&str]) {
    assert!(root.starts_with("tidegate-test-") && !root.contains('/'));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let root = hierarchy.path().join(root);
        for dir in below.iter().map(|below| root.join(below)).chain([root.clone()]) {
            let _ = fs::remove_dir(dir);
        }
    }
}

#[test]
fn a_container_of_runc_gets_what_a_rule_says() {
    const TEST: &str = "conformance::a_container_of_runc";
    let Some(containers) = with_engine(TEST, &["runc", "busybox"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    root_with_busybox(&bundle.join("rootfs"));
    let cgroup = Path::new(&containers.root).join("oci");
    let namespaces = ["pid", "mount", "network", "ipc", "uts"].map(|kind| json!({ "type": kind }));
    let quota = (BEFORE.0 * 100_000.0) as i64;
    let config = json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["/bin/sh", "-c", LOAD], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": Path::new("/").join(&cgroup),
            "resources": { "cpu": { "quota": quota, "period": 100_000 }, "memory": { "limit": BEFORE.1 } },
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let (program, state) = (engine("runc").unwrap(), dir.path().join("state"));
    let runc = Runc { program, state, name: "tidegate-test-oci", root: containers.root.clone() };
    let log = fs::File::create(dir.path().join("runc.log")).unwrap();
    let made = Command::new(&runc.program)
        .args(["--root", &runc.state.display().to_string(), "run", "--detach", "--bundle"])
        .args([bundle.as_os_str(), runc.name.as_ref()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status();
    let log = fs::read_to_string(dir.path().join("runc.log")).unwrap();
    assert!(made.unwrap().success(), "{log}");
    let subject = Subject { name: "oci".to_owned(), cgroup };
    let server = start(&containers.settings());
    is_raised(&server, &subject);
    is_given_back(&server, &subject);
}

/// A Docker daemon of the test's own: no bridge, no firewall rules, mounts in a namespace of its own.
struct Docker {
    daemon: Option<Process>,
    dir: tempfile::TempDir,
    root: String,
}

impl Docker {
    fn start(root: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut path: Vec<PathBuf> = vec![engine("dockerd").unwrap(), engine("runc").unwrap()];
        path.iter_mut().for_each(|program| assert!(program.pop()));
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let daemon = Command::new("unshare")
            .args(["--mount", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args([
                "--ip-forward=false",
                "--ip-masq=false",
                "--storage-driver=vfs",
                "--exec-opt=native.cgroupdriver=cgroupfs",
            ])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("docker.sock"))])
            .args(["--cgroup-parent", &format!("/{root}/docker")])
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
        let mut command = Command::new(engine("docker").unwrap());
        command.args(["--host", &format!("unix://{}", self.at("docker.sock"))]).args(args);
        command
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
    const TEST: &str = "conformance::a_container_of_docker";
    let Some(containers) = with_engine(TEST, &["dockerd", "docker", "containerd", "runc", "busybox", "unshare"]) else {
        return;
    };
    let docker = Docker::start(&containers.root);
    let image = docker.dir.path().join("image");
    root_with_busybox(&image);
    run(Command::new("tar").arg("-cf").arg(docker.at("image.tar")).arg("-C").arg(&image).arg("."));
    run(&mut docker.command(&["import", &docker.at("image.tar"), "busybox"]));
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
        "-c",
        LOAD,
    ]));
    let cgroup = Path::new(&containers.root).join("docker").join(id.trim());
    let subject = Subject { name: name.clone(), cgroup };
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

    run(&mut docker.command(&["restart", "--time", "1", &name]));
    wait_for("the limits to outlive a restart", LONG, || subject.has_limits(WANTED).then_some(()));
    // The one that was found first is the baseline, not what Docker brought back.
    is_given_back(&server, &subject);
    wait_for("Docker to know the baseline", LONG, || (docker.remembers(&name) == BEFORE).then_some(()));
}
