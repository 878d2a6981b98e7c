//! The live stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::{NOW, Server, decision};
use crate::{Auth, WebConfig, serve};

/// The events of one client.
struct Listener {
    body: BodyDataStream,
    received: String,
}

impl Listener {
    async fn join(server: &Server, last: Option<&str>) -> Self {
        let mut request = Request::get("/api/v1/stream");
        if let Some(id) = last {
            request = request.header("last-event-id", id);
        }
        let response = server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), received: String::new() }
    }

    /// The next event of a kind, and its id.
    async fn next(&mut self, kind: &str) -> (Option<String>, Value) {
        let deadline = Duration::from_secs(20);
        loop {
            while let Some(end) = self.received.find("\n\n") {
                let event: String = self.received.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if field("event: ").as_deref() == Some(kind) {
                    let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                    return (field("id: "), data);
                }
            }
            let chunk =
                tokio::time::timeout(deadline, self.body.next()).await.unwrap().expect("the stream ended").unwrap();
            self.received.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn the_fleet_comes_in_columns_and_then_the_status() {
    let server = Server::start();
    server.measured("web").await;
    server.measured("db").await;
    let mut listener = Listener::join(&server, None).await;
    let (_, fleet) = listener.next("fleet").await;
    assert_eq!(fleet["t"], NOW);
    assert_eq!(fleet["ids"], serde_json::json!(["node0/db", "node0/web"]));
    for column in ["cpu", "cpu_limit", "cpu_upper", "cpu_lower", "mem", "mem_limit", "throttled", "oom"] {
        assert_eq!(fleet[column].as_array().unwrap().len(), 2, "{column}");
    }
    assert_eq!((&fleet["cpu"][1], &fleet["cpu_limit"][1]), (&Value::from(1.0), &Value::from(2.0)));
    let mut second = Listener::join(&server, None).await;
    assert_eq!(second.next("fleet").await.1["ids"], fleet["ids"]);
    assert_eq!(second.next("status").await.1["version"], "1.2.3");
    assert_eq!(server.get("/api/v1/status").await.json()["clients"], 2);
}

#[tokio::test]
async fn a_client_that_reconnects_gets_what_it_missed() {
    let server = Server::start();
    let rows = [decision("d1", "web", 40), decision("d2", "web", 20), decision("d3", "web", 10)];
    server.state.store.append_decisions(&rows).await.unwrap();
    let mut listener = Listener::join(&server, Some("d1")).await;
    for id in ["d2", "d3"] {
        let (given, data) = listener.next("decision").await;
        assert_eq!(given.as_deref(), Some(id));
        assert!(data["sentence"].is_string());
    }
    Listener::join(&server, Some("long gone")).await.next("resync").await;
}

#[tokio::test]
async fn a_decision_is_told_when_it_is_taken() {
    let server = Server::start();
    server.measured("web").await;
    let sql = "CREATE RULE up WITH (mode = 'on', every = '1s') AS SELECT host, container, resource, allocated * 1.5 AS target, \
               'x' AS reason FROM recent(INTERVAL '60 seconds') WHERE resource = 'cpu'";
    let made = server.post("/api/v1/rules", &serde_json::json!({ "sql": sql })).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let mut listener = Listener::join(&server, None).await;
    listener.next("fleet").await;
    server.state.engine.tick(server.state.clock.now()).await;
    let (id, data) = listener.next("decision").await;
    assert_eq!(id.as_deref(), data["id"].as_str());
    assert_eq!(data["rule"], "up");
    let metrics = server.get("/metrics").await.text();
    let counted = format!("tidegate_decisions_total{{outcome={}}} 1", data["outcome"]["status"]);
    assert!(metrics.contains(&counted), "{counted} is not in\n{metrics}");
    assert!(metrics.contains("tidegate_rule_failing{rule=\"up\"} 0"), "{metrics}");
}

#[tokio::test]
async fn streams_are_bounded_given_back_and_ended_at_shutdown() {
    let server = Server::with(Auth::open(), WebConfig { max_sse_clients: 1, ..WebConfig::default() });
    let first = Listener::join(&server, None).await;
    assert_eq!(server.get("/api/v1/stream").await.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(first);
    let mut second = Listener::join(&server, None).await;
    second.next("fleet").await;
    server.state.shutdown.cancel();
    let rest = async { while second.body.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the stream did not end");
}

#[tokio::test]
async fn a_server_with_open_streams_ends_when_it_is_told_to() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = server.state.shutdown.clone();
    let serving = tokio::spawn(serve(listener, server.router.clone(), shutdown.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: gzip, br\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut received = String::new();
    while !received.contains("event: fleet") {
        let mut bytes = [0; 4096];
        let count = client.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "closed after {received}");
        received.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(received.starts_with("HTTP/1.1 200"), "{received}");
    shutdown.cancel();
    // Far less than the grace that stuck connections get.
    let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
    assert!(ended.expect("the server did not end").unwrap().is_ok());
}
