//! Requests as real clients send them, stored with the right values and units.

use std::path::PathBuf;
use std::process::Command;

use super::support::{Server, installed, repository, skip};

/// The environment with the clients in it, which `tests/run` makes.
fn python(test: &str) -> Option<PathBuf> {
    let python = repository().join("target/e2e-python/bin/python");
    if !python.is_file() {
        skip(test, "no Python environment with the clients in target/e2e-python; tests/run makes it");
        return None;
    }
    Some(python)
}

#[test]
fn bdwatchdog_monasca_influx_and_prometheus_clients_are_understood() {
    const TEST: &str = "clients::bdwatchdog_monasca_influx_and_prometheus";
    let Some(python) = python(TEST) else { return };
    let server = Server::start(&["--local-host", "false"]);
    let script = repository().join("tests/e2e/clients/push.py");
    let output = Command::new(python).arg(script).arg(&server.base).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("ok ")).count() >= 5, "{text}");
}

#[test]
fn duckdb_and_pyarrow_read_from_segments_every_bit_that_was_pushed() {
    let Some(python) = python("clients::duckdb_and_pyarrow_read_from_segments") else { return };
    let settings = ["--local-host", "false", "--store-flush-every-s", "1", "--store-hot-s", "0"];
    let server = Server::start(&settings);
    let script = repository().join("tests/e2e/clients/segments.py");
    let segments = server.dir.path().join("data/store/segments");
    let output = Command::new(python).arg(script).arg(&server.base).arg(segments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 2, "{text}");
}

#[test]
fn a_metric_pushed_with_curl_is_there_at_once() {
    const TEST: &str = "clients::a_metric_pushed_with_curl";
    if !installed("curl") {
        return skip(TEST, "no curl");
    }
    let server = Server::start(&["--local-host", "false"]);
    let sent = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "queue,app=shop depth=17"])
        .arg(format!("{}/write", server.base))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "204");
    assert_eq!(server.number("SELECT value FROM metric.\"queue.depth\" WHERE app = 'shop'"), Some(17.0));
}
