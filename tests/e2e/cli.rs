//! The command line: settings, errors that say the next step, exit codes, output formats.

use std::process::{Command, Output};

use super::support::{Server, binary};

fn tidegate(args: &[&str]) -> Output {
    Command::new(binary()).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wrong_settings_are_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, "[store]\nretenton_s = 60\n").unwrap();
    let misspelt = tidegate(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(misspelt.status.code(), Some(1));
    assert!(stderr(&misspelt).contains("did you mean 'store.retention_s'?"), "{}", stderr(&misspelt));

    let open = tidegate(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(stderr(&open).contains("tidegate token"), "{}", stderr(&open));

    let variable = Command::new(binary()).arg("serve").env("TIDEGATE_LISTN", "127.0.0.1:0").output().unwrap();
    assert!(stderr(&variable).contains("did you mean 'TIDEGATE_LISTEN'?"), "{}", stderr(&variable));

    let flag = tidegate(&["serve", "--store-retenton-s", "5"]);
    assert_eq!(flag.status.code(), Some(2), "a wrong flag is a usage error");
}

#[test]
fn a_client_without_a_server_says_what_to_do() {
    let output = tidegate(&["sql", "SELECT 1", "--server", "http://127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is `tidegate serve` running there?"), "{}", stderr(&output));
}

#[test]
fn queries_and_rules_work_from_the_command_line() {
    let server = Server::start(&["--local-host", "false", "--install-default-rules", "false"]);
    let csv = server.command(&["sql", "SELECT 1 AS one, 'x' AS two", "--output", "csv"]);
    assert_eq!(stdout(&csv), "one,two\n1,x\n");
    let json = server.command(&["sql", "SELECT 1 AS one", "--output", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rows[0]["one"], 1);

    let typo = server.command(&["sql", "SELECT valeu\nFROM usage"]);
    assert_eq!(typo.status.code(), Some(1));
    assert!(stderr(&typo).contains("line 1, column 8"), "{}", stderr(&typo));

    let pack = server.dir.path().join("pack.sql");
    let rule = "-- a pack under version control\nCREATE OR REPLACE RULE mine WITH (every = '10s') AS\n\
                SELECT host, container, resource, usage AS target, 'because' AS reason FROM recent(INTERVAL '1 minute');\n";
    std::fs::write(&pack, rule).unwrap();
    let pack = pack.to_str().unwrap();
    for args in [&["rule", "apply", "--check", pack][..], &["rule", "apply", pack], &["rule", "set", "mine", "off"]] {
        let output = server.command(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
    let list = server.command(&["rule", "list", "--output", "csv"]);
    assert!(stdout(&list).lines().any(|line| line.starts_with("mine,") && line.contains(",off,")), "{}", stdout(&list));
    let show = server.command(&["rule", "show", "mine"]);
    assert!(stdout(&show).contains("FROM recent(INTERVAL '1 minute')"), "{}", stdout(&show));
    assert_eq!(server.command(&["rule", "show", "absent"]).status.code(), Some(1));
}

#[test]
fn groups_are_bounded_and_listed_from_the_command_line() {
    let server = Server::start(&["--local-host", "false", "--install-default-rules", "false"]);
    let set = server.command(&["group", "set", "app", "my shop/1", "cpu", "--min", "1", "--max", "4"]);
    assert_eq!(stdout(&set), "cpu of app my shop/1: min 1.00 cores, max 4.00 cores\n", "{}", stderr(&set));
    let list = server.command(&["group", "list", "--output", "csv"]);
    assert!(stdout(&list).contains("\napp,my shop/1,,cpu,0,0,,,1.0,4.0,\n"), "{}", stdout(&list));
    let json = server.command(&["group", "list", "--output", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rows[0]["max"], 4.0);
    let wrong = server.command(&["group", "set", "app", "shop", "cpu", "--min", "5", "--max", "4"]);
    assert_eq!((wrong.status.code(), stderr(&wrong).contains("min 5 is above max 4")), (Some(1), true));
    for expected in ["app my shop/1 is not bounded any more\n", "app my shop/1 was not bounded\n"] {
        assert_eq!(stdout(&server.command(&["group", "clear", "app", "my shop/1"])), expected);
    }
}

#[test]
fn doctor_reports_in_every_format() {
    let json = tidegate(&["doctor", "--output", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(findings.as_array().unwrap().len() >= 5, "{findings}");
    assert!(stdout(&tidegate(&["doctor"])).contains("cgroup"));
}

#[test]
fn a_runaway_query_is_stopped_and_the_server_goes_on() {
    let server = Server::start(&["--local-host", "false", "--store-query-timeout-ms", "1500"]);
    let runaway = "SELECT count(*) FROM generate_series(1, 1000000) AS a(x) JOIN generate_series(1, 100000) AS b(y) ON a.x % 7 = b.y % 11";
    let (status, text) = server.post("/api/v1/sql", &[], runaway.as_bytes());
    assert!((400..500).contains(&status) || status == 503 || status == 504, "{status} {text}");
    assert_eq!(server.number("SELECT 1"), Some(1.0));
}

#[test]
fn sigterm_drains_and_leaves_everything_readable() {
    let mut server = Server::start(&["--local-host", "false"]);
    let (status, text) = server.post("/write?precision=s", &[], b"last,who=me value=42");
    assert_eq!(status, 204, "{text}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.process.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = server.process.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "an orderly end is a success");
    let server = Server::start_in(server.kill_9(), &["--local-host", "false"]);
    assert_eq!(server.number("SELECT value FROM metric.last"), Some(42.0));
}
