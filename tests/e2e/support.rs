//! A running server, a user's HTTP client, containers of the test's own, and how a test is skipped.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_actuator::sandbox::Sandbox;

/// The binary under test. A virtual machine has it elsewhere than where it was built.
pub fn binary() -> PathBuf {
    std::env::var_os("TIDEGATE_TEST_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tidegate")), PathBuf::from)
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reports the calling test as skipped; `tests/run` takes it out of those that passed.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("TIDEGATE_TEST_SKIPS") {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

/// Whether a command of this name is on the path.
pub fn installed(command: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(command).is_file())
}

/// Calls `check` until it gives something or `limit` is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s in vain for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A process that is ended with its owner.
pub struct Process(pub Child);

impl Process {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process and all that it starts, ended with their owner: a child that outlives its parent would keep a cgroup.
pub struct ProcessGroup(pub Child);

impl ProcessGroup {
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).spawn().map(Self)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let _ = killpg(pid(&self.0), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// A `tidegate serve` (or `demo`) on a port of its own.
pub struct Server {
    pub process: Process,
    pub base: String,
    pub dir: TempDir,
    token: Option<String>,
}

impl Server {
    /// One that somebody else has started.
    pub fn of(process: Process, base: String) -> Self {
        Self { process, base, dir: tempfile::tempdir().unwrap(), token: None }
    }

    /// Starts `serve` with `settings` on a data directory of its own.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts `serve` on a data directory that may hold data already.
    pub fn start_in(dir: TempDir, settings: &[&str]) -> Self {
        Self::start_with(dir, settings, &[])
    }

    /// As [`Server::start_in`], with variables in its environment.
    pub fn start_with(dir: TempDir, settings: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_all(dir, &[&["--listen", "127.0.0.1:0"], settings].concat(), environment, None)
    }

    /// As [`Server::start_in`], on the address in `settings`, spoken to with a token.
    pub fn start_as(dir: TempDir, settings: &[&str], token: Option<&str>) -> Self {
        Self::start_all(dir, settings, &[], token)
    }

    fn start_all(dir: TempDir, settings: &[&str], environment: &[(&str, &str)], token: Option<&str>) -> Self {
        let data = dir.path().join("data").display().to_string();
        let args = [&["serve", "--data-dir", &data], settings].concat();
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        let (process, base) = spawn_by(command, &args, dir.path());
        let server = Self { process, base, dir, token: token.map(str::to_owned) };
        wait_for("the server to be healthy", Duration::from_secs(120), || server.get("/health").ok());
        server
    }

    /// Kills it without warning and gives its data back.
    pub fn kill_9(mut self) -> TempDir {
        self.process.kill();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub fn get(&self, path: &str) -> Result<Value, (u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.get(format!("{}{path}", self.base));
        answer(match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")).call(),
            None => request.call(),
        })
    }

    /// Posts a body as it is; gives status and text.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = headers.iter().fold(agent.post(format!("{}{path}", self.base)), |r, (k, v)| r.header(*k, *v));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match request.send(body) {
            Ok(mut response) => (response.status().as_u16(), response.body_mut().read_to_string().unwrap()),
            Err(error) => panic!("POST {path}: {error}"),
        }
    }

    /// The rows of a query.
    pub fn sql(&self, sql: &str) -> Vec<Vec<Value>> {
        let body = json!({ "sql": sql }).to_string();
        let (status, text) = self.post("/api/v1/sql", &[("Content-Type", "application/json")], body.as_bytes());
        assert_eq!(status, 200, "{sql}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["rows"]
            .as_array()
            .map_or_else(Vec::new, |rows| rows.iter().map(|r| r.as_array().unwrap().clone()).collect())
    }

    /// The only value of a query, as a number; `None` when it is null or there is no row.
    pub fn number(&self, sql: &str) -> Option<f64> {
        self.sql(sql).first().and_then(|row| row[0].as_f64())
    }

    /// Runs the command line against this server.
    pub fn command(&self, args: &[&str]) -> std::process::Output {
        Command::new(binary()).args(args).env("TIDEGATE_SERVER", &self.base).output().unwrap()
    }
}

fn answer(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, (u16, String)> {
    let mut response = sent.map_err(|error| (0, error.to_string()))?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().map_err(|error| (0, error.to_string()))?;
    match status {
        200..300 => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        _ => Err((status, text)),
    }
}

/// Starts the binary and waits for the address it prints. What it logs goes to a file that a failed test can be read by.
pub fn spawn(args: &[&str], dir: &Path) -> (Process, String) {
    spawn_by(Command::new(binary()), args, dir)
}

/// As [`spawn`], by a command that becomes the binary.
pub fn spawn_by(mut command: Command, args: &[&str], dir: &Path) -> (Process, String) {
    let log = std::fs::File::options().append(true).create(true).open(dir.join("server.log")).unwrap();
    let mut child =
        command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let process = Process(child);
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let at = line.find("http://")?;
        Some(line[at..].trim_end_matches('/').to_owned())
    });
    let log = || std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
    let address = address.unwrap_or_else(|| panic!("{args:?} printed no address; it logged:\n{}", log()));
    // The pipe is drained, so that a server that goes on printing is not held up.
    std::thread::spawn(move || lines.for_each(drop));
    (process, address)
}

/// A cgroup below a root of the test's own, with a load in it.
pub struct TestContainers {
    pub sandbox: Sandbox,
    pub root: String,
}

impl TestContainers {
    /// `None`, and a report, where cgroups cannot be written.
    pub fn new(test: &str) -> Option<Self> {
        if let Some(why) = Sandbox::obstacle() {
            skip(test, &why);
            return None;
        }
        // A counter, since several tests may run in one process.
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = format!("tidegate-test-{}-{number}", std::process::id());
        Some(Self { sandbox: Sandbox::create(&root).unwrap(), root })
    }

    /// The settings that make a server look after these containers only.
    pub fn settings(&self) -> Vec<String> {
        let roots = format!("[\"/{}\"]", self.root);
        ["--actuator-roots", &roots, "--actuator-discover", "false"].map(str::to_owned).to_vec()
    }

    /// Starts a load in a container.
    pub fn load(&self, container: &str, args: &[&str]) -> Process {
        let mut child =
            Command::new(binary()).args(["load", "--wait"]).args(args).stdin(Stdio::piped()).spawn().unwrap();
        self.sandbox.move_process(container, child.id()).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        Process(child)
    }
}
