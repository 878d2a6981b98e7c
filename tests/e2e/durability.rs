//! What was acknowledged is there after the worst.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::support::Server;

#[test]
fn every_acknowledged_sample_survives_kill_9() {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut dir: tempfile::TempDir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0_u64;
    let mut sent = 0_u64;
    // Three lives: what survives must survive the next death too.
    for life in 0..3_u64 {
        let server = Server::start_in(dir, &["--local-host", "false"]);
        let written = AtomicU64::new(0);
        let base = server.base.clone();
        dir = std::thread::scope(|scope| {
            for writer in 0..4_u64 {
                let (written, base) = (&written, &base);
                scope.spawn(move || {
                    let agent: ureq::Agent =
                        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
                    for n in 0_u64.. {
                        // A series a life and writer, one sample a number: what is missing can be told exactly.
                        let body = format!("kept,life={life},writer={writer} value={n} {}", now_s * 1000 - 200_000 + n);
                        match agent.post(format!("{base}/api/v2/write?precision=ms")).send(body) {
                            Ok(response) if response.status() == 204 => written.fetch_add(1, Ordering::SeqCst),
                            _ => return,
                        };
                    }
                });
            }
            while written.load(Ordering::SeqCst) < 2000 {
                std::thread::sleep(Duration::from_millis(5));
            }
            server.kill_9()
        });
        acknowledged += written.load(Ordering::SeqCst);
        // A write under way at the moment of death may or may not have been kept: at most one a writer.
        sent = acknowledged + 4 * (life + 1);
    }
    let server = Server::start_in(dir, &["--local-host", "false"]);
    let kept = server.number("SELECT count(*) FROM metric.kept").unwrap() as u64;
    assert!((acknowledged..=sent).contains(&kept), "{kept} of {acknowledged} acknowledged samples are there");
    let gaps = server.sql(
        "SELECT life, writer FROM metric.kept GROUP BY life, writer HAVING count(*) <> max(value) + 1 OR min(value) <> 0",
    );
    assert!(gaps.is_empty(), "samples are missing in the middle: {gaps:?}");
}

#[test]
fn rules_and_their_modes_survive_a_restart() {
    let server = Server::start(&["--local-host", "false"]);
    let rule = "CREATE RULE keep_me WITH (every = '5s') AS SELECT host, container, resource, usage AS target, 'r' AS reason \
                FROM recent(INTERVAL '60 seconds')";
    let (status, text) = server.post("/api/v1/sql", &[], rule.as_bytes());
    assert_eq!(status, 200, "{text}");
    let (status, text) = server.post("/api/v1/sql", &[], b"ALTER RULE keep_me SET (mode = 'on')");
    assert_eq!(status, 200, "{text}");
    let server = Server::start_in(server.kill_9(), &["--local-host", "false"]);
    let rows = server.sql("SELECT mode FROM rules WHERE name = 'keep_me'");
    assert_eq!(rows, [[serde_json::json!("on")]]);
}
