//! What an agent and its controller do while the network between them is cut, and afterwards.

use std::time::{Duration, Instant};

use super::LONG;
use super::hosts::{TestHost, connected};
use crate::support::{Server, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// What the rules of these tests want, and nobody else: cores.
const STALE: f64 = 0.777;

/// A rule that goes on deciding on data that are old.
fn decide_blindly(server: &Server, rule: &str, host: &TestHost) {
    let sql = format!(
        "CREATE RULE {rule} WITH (every = '1s', mode = 'on', class = 'safety', cooldown_up = '1s', max_age = '2m') AS \
         SELECT host, container, resource, {STALE} AS target, 'a test' AS reason \
         FROM recent(INTERVAL '2 minutes') WHERE resource = 'cpu' AND host = '{}'",
        host.name
    );
    say(server, &sql);
}

fn is_stale(host: &TestHost) -> bool {
    (host.limit() - STALE).abs() < 0.001
}

fn say(server: &Server, sql: &str) {
    let (status, text) = server.post("/api/v1/sql", &[], sql.as_bytes());
    assert_eq!(status, 200, "{sql}: {text}");
}

/// Outcome and message of each decision of a rule, in order.
fn outcomes(server: &Server, rule: &str) -> Vec<(String, String)> {
    let sql = format!("SELECT outcome, message FROM decisions WHERE rule = '{rule}' ORDER BY time");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    server.sql(&sql).iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

/// The seconds since 1970 at which a host was measured from `from` on, in order; twice when they are stored twice.
fn seconds_measured(server: &Server, host: &str, from: i64) -> Vec<i64> {
    let sql = format!(
        "SELECT CAST(date_part('epoch', time) AS BIGINT) AS second FROM usage \
         WHERE host = '{host}' AND resource = 'cpu' AND date_part('epoch', time) >= {from} ORDER BY second"
    );
    server.sql(&sql).iter().map(|row| row[0].as_i64().unwrap()).collect()
}

fn now(server: &Server) -> i64 {
    server.number("SELECT CAST(date_part('epoch', now()) AS BIGINT)").unwrap() as i64
}

/// A host is cut off for a minute, idle, and with a rule at the controller that goes on deciding about it: it keeps its limit
/// and what it measures, and nothing of what was decided meanwhile reaches it. The others go on.
pub fn a_minute_without_the_network(server: &Server, host: &mut TestHost) {
    let cut = Instant::now();
    let cut_at = now(server);
    host.cut(true);
    host.load = None;
    // The question that it had asked is still open, so the first order is handed over, to nobody.
    decide_blindly(server, "meanwhile", host);
    std::thread::sleep(Duration::from_secs(1));
    let limit = host.limit();
    while cut.elapsed() < MINUTE {
        assert_eq!(host.limit(), limit, "a host that is cut off keeps its limit");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(host.log().contains("the controller is silent: limits stay as they are"), "{}", host.log());
    assert_eq!(connected(server), ["alpha", "gamma"]);
    let (back_at, buffered) = (now(server), host.buffered());
    assert!(buffered >= 58, "{buffered} frames are on its disk after a minute");
    say(server, "DROP RULE meanwhile");
    host.cut(false);

    wait_for("what was measured meanwhile", LONG, || {
        let seconds = seconds_measured(server, host.name, cut_at);
        // Also while it comes in: oldest first, each once.
        assert!(
            seconds.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "there is a hole, or something twice: {seconds:?}"
        );
        assert!(seconds.first().is_none_or(|first| *first <= cut_at + 1), "there is a hole after the cut: {seconds:?}");
        assert!(!is_stale(host), "what was decided during the cut was carried out after it");
        seconds.last().is_some_and(|last| *last >= back_at).then_some(())
    });
    let others = seconds_measured(server, "alpha", cut_at);
    assert!(others.windows(2).all(|pair| pair[1] == pair[0] + 1) && others.last() >= Some(&back_at), "{others:?}");

    // What fresh measurements say takes the place of what was decided without any: it is idle.
    wait_for("the idle host's limit to come down", LONG, || {
        assert!(!is_stale(host), "what was decided during the cut was carried out after it");
        (host.limit() < limit).then_some(())
    });
    let told = outcomes(server, "meanwhile");
    // Beside what failed there is what was refused since the first was not decided yet.
    assert!(told.iter().all(|(outcome, _)| outcome == "failed" || outcome == "refused"), "{told:?}");
    let failed: Vec<&str> = told.iter().filter(|told| told.0 == "failed").map(|told| told.1.as_str()).collect();
    println!("decided during the cut: {} times, {:?} ... {:?}", told.len(), failed.first(), failed.last());
    // Handed over with the question that was open, or, where that had just been answered, not even fetched.
    assert!(failed[0].contains("gave no answer") || failed[0].contains("did not fetch it"), "{told:?}");
    assert!(failed.last().unwrap().contains("has not asked for orders for"), "{told:?}");
}

/// An order is sent into a network that is cut, and arrives when that is mended: the host refuses it, since it is old by then.
pub fn the_network_holds_an_order_back(server: &Server, host: &TestHost) {
    /// An order is late after five seconds. What was lost is sent again 3 and 6.2 seconds after it was sent first, and 12.6.
    const CUT: Duration = Duration::from_millis(5_500);
    // A question is open for five seconds and waits for its answer for twelve: some of them end too early for this.
    for attempt in 1..=6 {
        let rule = format!("late{attempt}");
        host.cut(true);
        decide_blindly(server, &rule, host);
        std::thread::sleep(CUT);
        say(server, &format!("DROP RULE {rule}"));
        host.cut(false);
        let told = wait_for("what came of the order", LONG, || {
            assert!(!is_stale(host), "an order was carried out that came late");
            outcomes(server, &rule).into_iter().find(|told| !told.1.starts_with("pending"))
        });
        println!("an order that was held back: {told:?}");
        match told.0.as_str() {
            "refused" => return assert!(told.1.contains("the order came late: it may be"), "{told:?}"),
            "failed" => wait_for("the agent to ask again", LONG, || {
                connected(server).contains(&host.name.to_owned()).then_some(())
            }),
            _ => panic!("{told:?}"),
        }
    }
    panic!("no order came late");
}
