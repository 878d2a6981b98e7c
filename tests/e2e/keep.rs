//! Backup, restore and check from the command line; segments in an S3-compatible object store.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::support::{Process, Server, binary, repository, skip, wait_for};

fn tidegate(args: &[&str]) -> Output {
    Command::new(binary()).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn start_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 - 250_000
}

/// Serves a restored data directory, which must be `data` below `dir`.
fn serve(dir: tempfile::TempDir) -> Server {
    Server::start_in(dir, &["--local-host", "false"])
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn a_backup_taken_under_load_restores_to_a_server_with_everything_acknowledged_before_it() {
    let server = serve(tempfile::tempdir().unwrap());
    let rule =
        b"CREATE RULE keep_me WITH (every = '5s') AS SELECT host, container, resource, usage AS target, 'r' AS reason \
                 FROM recent(INTERVAL '60 seconds')";
    assert_eq!(server.post("/api/v1/sql", &[], rule).0, 200);
    let (written, stop, start) = (AtomicU64::new(0), AtomicBool::new(false), start_ms());
    let (before, after, target) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                let body = format!("kept value={n} {}", start + n);
                assert_eq!(server.post("/api/v2/write?precision=ms", &[], body.as_bytes()).0, 204);
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        wait_for("samples", Duration::from_secs(60), || (written.load(Ordering::SeqCst) > 200).then_some(()));
        let before = written.load(Ordering::SeqCst);
        let target = path(server.dir.path(), "backup");
        let output = server.command(&["backup", &target]);
        assert!(output.status.success() && text(&output).contains("tidegate restore"), "{}", text(&output));
        stop.store(true, Ordering::SeqCst);
        (before, written.load(Ordering::SeqCst), target)
    });
    let again = server.command(&["backup", &target]);
    assert!(!again.status.success() && text(&again).contains("is not empty"), "{}", text(&again));

    let checked = tidegate(&["check", "--dir", &target]);
    assert!(checked.status.success() && text(&checked).contains("intact"), "{}", text(&checked));
    let restored = tempfile::tempdir().unwrap();
    let output = tidegate(&["restore", &target, "--dir", &path(restored.path(), "data")]);
    assert!(output.status.success() && text(&output).contains("tidegate serve --data-dir"), "{}", text(&output));
    let copy = serve(restored);
    let kept = copy.number("SELECT count(*) FROM metric.kept").unwrap() as u64;
    assert!((before..=after + 1).contains(&kept), "{kept} of {before} to {after}");
    assert_eq!(
        copy.number("SELECT max(value) FROM metric.kept"),
        Some((kept - 1) as f64),
        "none is missing in between"
    );
    assert_eq!(copy.number("SELECT count(*) FROM rules WHERE name = 'keep_me'"), Some(1.0));
}

#[test]
fn a_stopped_servers_directory_is_backed_up_and_checked_and_damage_is_named() {
    let server = serve(tempfile::tempdir().unwrap());
    assert_eq!(server.post("/write", &[], b"last,who=me value=42").0, 204);
    let in_use = tidegate(&["check", "--dir", &path(server.dir.path(), "data"), "--output", "json"]);
    assert!(
        in_use.status.success() && text(&in_use).contains("is in use by a running server (pid"),
        "{}",
        text(&in_use)
    );
    let data = path(server.dir.path(), "data");
    let busy = tidegate(&["backup", &path(server.dir.path(), "no"), "--dir", &data]);
    assert!(!busy.status.success() && text(&busy).contains("in use by another tidegate process"), "{}", text(&busy));
    let dir = server.kill_9();
    let target = path(dir.path(), "backup");
    let nobody = tidegate(&["backup", &target, "--server", "http://127.0.0.1:9"]);
    assert!(!nobody.status.success() && text(&nobody).contains("--dir DATA_DIR"), "{}", text(&nobody));
    let output = tidegate(&["backup", &target, "--dir", &data]);
    assert!(output.status.success(), "{}", text(&output));

    let log = std::fs::read_dir(dir.path().join("data/store/wal")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[20] ^= 0xff;
    std::fs::write(&log, bytes).unwrap();
    let output = tidegate(&["check", "--dir", &data, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged: Vec<&Value> = findings.as_array().unwrap().iter().filter(|f| f["status"] == "damaged").collect();
    assert_eq!(damaged.len(), 1, "{findings}");
    assert!(damaged[0]["file"].as_str().unwrap().starts_with("wal/") && damaged[0]["offset"] == 0, "{findings}");
    assert!(!damaged[0]["lost"].as_str().unwrap().is_empty(), "{findings}");

    let restored = tempfile::tempdir().unwrap();
    let output = tidegate(&["restore", &target, "--dir", &path(restored.path(), "data")]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(serve(restored).number("SELECT value FROM metric.last"), Some(42.0));
    let nothing = tidegate(&["check", "--dir", &path(dir.path(), "absent")]);
    assert!(!nothing.status.success() && text(&nothing).contains("no tidegate data directory"), "{}", text(&nothing));
}

/// An S3 server of the test's own, with a bucket `segments`.
struct S3 {
    _process: Process,
    endpoint: String,
}

const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "tidegate"), ("AWS_SECRET_ACCESS_KEY", "tidegate"), ("AWS_REGION", "us-east-1")];

impl S3 {
    /// `None`, and a report, where there is no such server.
    fn start(test: &str) -> Option<Self> {
        let python = repository().join("target/e2e-python/bin/python");
        if !python.with_file_name("moto_server").is_file() {
            skip(test, "no moto in target/e2e-python; tests/run makes it");
            return None;
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(python.with_file_name("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &free.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { _process: Process(process), endpoint: format!("http://127.0.0.1:{free}") };
        let make = format!(
            "import boto3; boto3.client('s3', endpoint_url='{}').create_bucket(Bucket='segments')",
            server.endpoint
        );
        wait_for("a bucket", Duration::from_secs(60), || {
            let mut python = Command::new(&python);
            let made = python.args(["-c", &make]).envs(KEYS).stderr(Stdio::null()).status().unwrap();
            made.success().then_some(())
        });
        Some(server)
    }
}

#[test]
fn segments_go_to_s3_and_a_lost_machine_is_rebuilt_from_there() {
    let Some(s3) = S3::start("keep::segments_go_to_s3") else { return };
    let start = start_ms();
    let place = format!("{{ url = \"s3://segments/one/store\", endpoint = \"{}\", allow_http = true }}", s3.endpoint);
    let settings = ["--local-host", "false", "--store-object-store", &place, "--store-flush-every-s", "1"];
    let settings = [&settings[..], &["--store-hot-s", "0", "--store-local-cache-bytes", "0"]].concat();
    let server = Server::start_with(tempfile::tempdir().unwrap(), &settings, &KEYS);
    let lines: String = (0..5_000).map(|n| format!("away,n={} value={n} {}\n", n % 50, start + n)).collect();
    assert_eq!(server.post("/api/v2/write?precision=ms", &[], lines.as_bytes()).0, 204);
    // Flushed, uploaded, and gone from the directory.
    let segments = server.dir.path().join("data/store/segments");
    let is_away = || {
        let catalog = std::fs::read_to_string(server.dir.path().join("data/store/catalog.json")).unwrap_or_default();
        let here = std::fs::read_dir(&segments).unwrap().count();
        (catalog.contains("\"remote\": true") && here == 0).then_some(())
    };
    wait_for("the upload", Duration::from_secs(120), is_away);
    assert_eq!(server.number("SELECT count(*) FROM metric.away"), Some(5_000.0), "they come back to be read");
    drop(server);

    let restored = tempfile::tempdir().unwrap();
    let output = Command::new(binary())
        .args([
            "restore",
            "s3://segments/one/store",
            "--endpoint",
            &s3.endpoint,
            "--dir",
            &path(restored.path(), "data"),
        ])
        .envs(KEYS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(tidegate(&["check", "--dir", &path(restored.path(), "data")]).status.success());
    let server = Server::start_with(restored, &["--local-host", "false", "--store-object-store", &place], &KEYS);
    assert_eq!(server.number("SELECT sum(value) FROM metric.away"), Some((0..5_000).sum::<u64>() as f64));
}
