//! The dashboard in a real browser, on the demo's real containers.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::support::{binary, installed, repository, skip, spawn, wait_for};

/// Where the dashboard's scripts are; `None`, with the reason told, where they cannot run.
fn scripts(test: &str) -> Option<PathBuf> {
    let ui = repository().join("web/ui");
    let missing = if !installed("chromium") || !installed("node") {
        "no chromium or no node"
    } else if !ui.join("node_modules/playwright-core").is_dir() {
        "web/ui/node_modules is not installed; tests/run installs it"
    } else {
        return Some(ui);
    };
    skip(test, missing);
    None
}

#[test]
fn a_page_is_live_again_after_a_restart_of_its_server() {
    let Some(ui) = scripts("dashboard::a_page_is_live_again_after_a_restart_of_its_server") else { return };
    succeeds(Command::new("node").arg("e2e/restart.mjs").current_dir(ui).env("TIDEGATE", binary()));
}

fn succeeds(script: &mut Command) {
    let output = script.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
}

#[test]
fn chromium_sees_live_charts_explains_a_decision_and_shows_a_typo_at_its_place() {
    let Some(ui) = scripts("dashboard::chromium") else { return };
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
    succeeds(Command::new("node").arg("e2e/journeys.mjs").current_dir(&ui).env("BASE_URL", &base).env("SHOTS", &shots));
}
