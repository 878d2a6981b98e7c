//! Agents: orders and their outcomes, frames, and who is refused.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_actuator::agent::Spool;
use tidegate_actuator::agent::wire::{FrameHeader, pack};
use tidegate_actuator::{Actuator, Change, Fleet};
use tidegate_model::{
    Bytes, CgroupVersion, Container, ContainerKey, Cores, Host, OutcomeStatus, Resource, Runtime, SampleBatch,
    SeriesKey, SystemClock, TimeMs,
};

use super::{NOW, Server};

const ORDERS: &str = "/api/v1/agents/far/orders?protocol=1&machine=m1&run=r1";

fn container() -> Container {
    Container {
        key: ContainerKey { host: "far".to_owned(), name: "web".to_owned() },
        path: "/web".into(),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: "/web".to_owned(),
        incarnation: 7,
        app: None,
        user: None,
        labels: Default::default(),
        first_seen: TimeMs(NOW - 60_000),
        last_seen: TimeMs(NOW - 60_000),
        baseline: Default::default(),
        bounds: Default::default(),
    }
}

fn header(time: i64, present: Option<Vec<Container>>) -> FrameHeader {
    FrameHeader {
        time: TimeMs(time),
        host: Host { name: "far".to_owned(), cpu: Cores(8.0), memory: Bytes(1 << 34), last_seen: TimeMs(time) },
        appeared: present.clone().unwrap_or_default(),
        vanished: Vec::new(),
        present,
        drifts: Vec::new(),
        knobs: Vec::new(),
        problems: Vec::new(),
        reports: Vec::new(),
    }
}

fn samples(time: i64, cores: f64) -> Vec<u8> {
    let tags = [("host", "far"), ("container", "web"), ("resource", "cpu")];
    let mut batch = SampleBatch::new();
    let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
    batch.push(SeriesKey::new(tidegate_model::metrics::USAGE, tags), TimeMs(time), cores);
    tidegate_ingest::arrow::encode(&batch).unwrap()
}

async fn rows(server: &Server, sql: &str) -> Value {
    let body = json!({ "sql": sql }).to_string();
    let answer = server.send(Method::POST, "/api/v1/sql", &[], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["rows"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_reaches_the_agent_and_its_outcome_the_engine() {
    let server = Server::start();
    let fleet = Fleet::new(None, server.state.remote.clone());
    let change = Change {
        container: container().key,
        resource: Resource::Cpu,
        target: 1.5,
        limit_before: Some(1.0),
        decision: "d1".to_owned(),
    };
    let outcome = fleet.apply(&change, &SystemClock);
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(outcome.message.contains("no agent of host far"), "{}", outcome.message);

    let (question, applied) = tokio::join!(server.get(ORDERS), async {
        // The question has to be there first.
        while !server.state.remote.agents().iter().any(|agent| agent.connected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let change = change.clone();
        tokio::task::spawn_blocking(move || fleet.apply(&change, &SystemClock)).await.unwrap()
    });
    let orders = question.json();
    assert_eq!((&orders["epoch"], &orders["controller"]), (&json!(3), &json!("controller")));
    let order = &orders["orders"][0];
    assert_eq!(
        (&order["decision"], &order["target"], &order["container"]["name"]),
        (&json!("d1"), &json!(1.5), &json!("web"))
    );
    // Nobody reported: the controller says that it does not know.
    assert_eq!(applied.status, OutcomeStatus::Failed);
    assert!(applied.message.contains("fetched it and gave no answer"), "{}", applied.message);

    // The answer comes late, and is written down as what it is.
    let outcome =
        json!({ "status": "applied", "limit_after": 1.5, "writes": [], "message": "", "at": NOW, "took_us": 9 });
    let report = json!([{ "order": [3, order["id"]], "decision": "d1", "container": order["container"],
        "resource": "cpu", "target": 1.5, "outcome": outcome }]);
    let answer = server.send(Method::POST, "/api/v1/agents/far/reports", &[], &report.to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
    let noted = rows(&server, "SELECT id, rule, outcome, limit_after FROM decisions").await;
    assert_eq!(noted, json!([["d1-late", "(agent)", "applied", 1.5]]));
}

#[tokio::test]
async fn agents_that_cannot_be_answered_are_told_why() {
    let server = Server::start();
    let refused = async |query: &str| {
        let answer = server.get(&format!("/api/v1/agents/{query}")).await;
        (answer.status, answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let (status, why) = refused("far/orders?protocol=9").await;
    assert_eq!(status, StatusCode::UPGRADE_REQUIRED, "{why}");
    let (status, why) = refused("far/orders?protocol=1&epoch=8").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(why.contains("epoch 8, and this one's is 3") && why.contains("--epoch-at-least 9"), "{why}");
    let (status, why) = refused("node0/orders?protocol=1").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(why.contains("measured by this server itself"), "{why}");
    let there = async {
        while server.state.remote.agents().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        refused("far/orders?protocol=1&machine=m2&run=r2").await
    };
    let (_, (status, why)) = tokio::join!(server.get(ORDERS), there);
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(why.contains("another machine asks for orders as host 'far'"), "{why}");
}

#[tokio::test]
async fn frames_are_stored_once_and_containers_asked_for_when_unknown() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let mut send = async |header: FrameHeader, cores: f64| -> Value {
        let time = header.time.0;
        spool.append(pack(&header, &samples(time, cores)).unwrap());
        let body = spool.peek(1 << 20).unwrap();
        let path = "/api/v1/agents/far/frames?spool=s1";
        let first = server.send_bytes(Method::POST, path, &body).await;
        let again = server.send_bytes(Method::POST, path, &body).await;
        assert_eq!(first.status, StatusCode::OK, "{}", first.text());
        assert_eq!(again.json()["taken"], first.json()["taken"]);
        spool.take(first.json()["taken"].as_u64().unwrap()).unwrap();
        first.json()
    };
    let second = |n: i64| NOW - 10_000 + n * 1_000;
    assert_eq!(send(header(second(1), None), 0.5).await, json!({ "taken": 1, "wants_present": true }));
    let listed = header(second(2), Some(vec![container()]));
    assert_eq!(send(listed, 0.6).await, json!({ "taken": 2, "wants_present": false }));
    assert_eq!(send(header(second(3), None), 0.7).await, json!({ "taken": 3, "wants_present": false }));

    let usage = "SELECT value FROM usage WHERE host = 'far' AND container = 'web' ORDER BY time";
    assert_eq!(rows(&server, usage).await, json!([[0.5], [0.6], [0.7]]));
    assert_eq!(rows(&server, "SELECT count(*) FROM events WHERE name = 'appeared'").await, json!([[1]]));
    let known = server.state.store.containers();
    assert_eq!(known.iter().map(|known| known.last_seen.0).collect::<Vec<_>>(), [second(3)]);

    let damaged = server.send_bytes(Method::POST, "/api/v1/agents/far/frames?spool=s1", b"TGF1nonsense").await;
    assert_eq!(damaged.status, StatusCode::BAD_REQUEST);
    assert!(damaged.text().contains("frame 1: it breaks off"), "{}", damaged.text());
}
