//! The dashboard in a real browser, on the demo's real containers.

use std::process::Command;
use std::time::Duration;

use super::support::{binary, installed, repository, skip, spawn, wait_for};

#[test]
fn chromium_sees_live_charts_explains_a_decision_and_shows_a_typo_at_its_place() {
    const TEST: &str = "dashboard::chromium";
    let ui = repository().join("web/ui");
    if !installed("chromium") || !installed("node") {
        return skip(TEST, "no chromium or no node");
    }
    if !ui.join("node_modules/playwright-core").is_dir() {
        return skip(TEST, "web/ui/node_modules is not installed; tests/run installs it");
    }
    assert!(binary().is_file());
    let dir = tempfile::tempdir().unwrap();
    let (_demo, base) = spawn(&["demo", "--listen", "127.0.0.1:0", "--seconds", "600"], dir.path());
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    // The journeys begin when there is something to look at: a decision that was written to the kernel.
    wait_for("a first applied decision", Duration::from_secs(120), || {
        let text = agent.get(format!("{base}/api/v1/decisions?outcome=applied&limit=1")).call().ok()?;
        let body: serde_json::Value = text.into_body().read_json().ok()?;
        body["decisions"].as_array().filter(|rows| !rows.is_empty()).map(|_| ())
    });
    let shots = repository().join("target/screenshots");
    std::fs::create_dir_all(&shots).unwrap();
    let output = Command::new("node")
        .arg("e2e/journeys.mjs")
        .current_dir(&ui)
        .env("BASE_URL", &base)
        .env("SHOTS", &shots)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
}
