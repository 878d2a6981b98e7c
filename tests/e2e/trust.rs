//! What makes people trust it with their limits: trying rules out, asking why, and stopping everything.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::support::{binary, spawn, wait_for};

fn tidegate(args: &[&str]) -> Output {
    Command::new(binary()).args(args).env("NO_COLOR", "1").output().unwrap()
}

/// What a command that succeeds prints.
fn printed(args: &[&str]) -> String {
    let output = tidegate(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_running_fleet_is_backtested_explained_and_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let (_demo, base) = spawn(&["demo", "--simulate", "--listen", "127.0.0.1:0"], dir.path());
    let get =
        |path: &str| -> Option<Value> { ureq::get(format!("{base}{path}")).call().ok()?.into_body().read_json().ok() };
    let applied = || -> Option<Vec<String>> {
        let answer = get("/api/v1/decisions?outcome=applied&limit=1000")?;
        let ids = answer["decisions"].as_array()?.iter().map(|row| row["id"].as_str().unwrap().to_owned());
        Some(ids.collect()).filter(|ids: &Vec<String>| !ids.is_empty())
    };
    let ids = wait_for("an applied decision", Duration::from_secs(120), applied);
    let server = ["--server", base.as_str()];

    let backtest = [&["backtest", "--from", "-10s", "--against", "live", "--output", "json"][..], &server].concat();
    let report: Value = serde_json::from_str(&printed(&backtest)).unwrap();
    assert_eq!(report["report"]["containers"], 12, "{report}");
    // The same rules on the same history come to the same.
    assert_eq!(report["report"]["resources"], report["against"]["resources"]);
    let table = printed(&[&["backtest", "--from", "-10s"][..], &server].concat());
    assert!(table.contains("unmet demand") && table.contains("cpu_up"), "{table}");

    let explained = printed(&[&["explain", ids[0].as_str()][..], &server].concat());
    for part in ["written and read back as", "\nguards:", "\nwhat the rule saw:", "CREATE OR REPLACE RULE"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    assert!(!tidegate(&[&["explain", "../status"][..], &server].concat()).status.success());

    let frozen = printed(&[&["freeze", "--restore", "--why", "a test"][..], &server].concat());
    assert!(frozen.contains("baselines put back"), "{frozen}");
    assert_eq!(get("/api/v1/status").unwrap()["frozen"]["why"], "a test");
    let limits = || -> Vec<Value> {
        let containers = get("/api/v1/containers").unwrap();
        containers["containers"].as_array().unwrap().iter().map(|row| row["cpu"]["limit"].clone()).collect()
    };
    wait_for("the baselines to be measured", Duration::from_secs(30), || {
        limits().iter().all(|limit| limit == 4.0).then_some(())
    });
    let before = applied().unwrap().len();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(applied().unwrap().len(), before, "a limit was changed while it was frozen");
    assert!(printed(&[&["thaw"][..], &server].concat()).starts_with("thawed"));
    wait_for("limits to change again", Duration::from_secs(120), || (applied()?.len() > before).then_some(()));
}

#[test]
fn rules_are_tried_on_a_trace_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.csv");
    let rows = (0..120).map(|minute| format!("{},web,{},100\n", 1_700_000_040 + 60 * minute, 200 + minute % 30 * 10));
    std::fs::write(&trace, format!("unix_s,pod,millicores,mib\n{}", rows.collect::<String>())).unwrap();
    let trace = trace.to_str().unwrap();
    let columns = ["--time", "unix_s", "--container", "pod", "--cpu", "millicores/1000", "--memory", "mib*1048576"];
    let simulate = |output| [&["simulate", "--trace", trace][..], &columns, &["--output", output]].concat();
    let report: Value = serde_json::from_str(&printed(&simulate("json"))).unwrap();
    assert_eq!((&report["report"]["ticks"], &report["report"]["step_ms"]), (&Value::from(120), &Value::from(60_000)));
    assert!((report["against"]["resources"]["cpu"]["mean_limit"].as_f64().unwrap() - 0.49).abs() < 1e-9, "{report}");
    let csv = printed(&simulate("csv"));
    assert_eq!(csv.lines().count(), 3, "a heading and two limits: {csv}");
    assert!(csv.starts_with("host,container,resource,slack,"), "{csv}");

    let beside = printed(&[&simulate("csv")[..], &["--laws", "--rules", "hybrid", "--rules", "memory"]].concat());
    assert!(
        beside.starts_with("resource,kind,name,slack,over_limit,unmet,oom_kills_per_day,changes_per_day"),
        "{beside}"
    );
    let named = |resource: &str, name: &str| {
        beside.lines().filter(|line| line.starts_with(resource) && line.contains(name)).count()
    };
    assert_eq!(
        (beside.lines().count(), named("cpu,law,", "VPA"), named("memory,rules,", "these rules")),
        (13, 1, 1),
        "{beside}"
    );

    let wrong = tidegate(&["simulate", "--trace", trace]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("there is no column 'time'; the file has unix_s, pod, millicores, mib"), "{said}");
    assert!(!wrong.status.success());
}
