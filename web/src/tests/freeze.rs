//! The kill switch over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::Server;

#[tokio::test]
async fn the_kill_switch_is_turned_on_seen_and_turned_off() {
    let server = Server::start();
    assert!(server.get("/api/v1/status").await.json()["frozen"].is_null());
    assert!(server.get("/metrics").await.text().contains("\ntidegate_frozen 0\n"));
    let empty = server.send(Method::POST, "/api/v1/freeze", &[], "").await;
    assert_eq!((empty.status, &empty.json()["freeze"]["by"]), (StatusCode::OK, &json!("local")), "{}", empty.text());
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["frozen"]["why"], "", "{status}");
    assert!(server.get("/metrics").await.text().contains("\ntidegate_frozen 1\n"));
    let wrong = server.post("/api/v1/freeze", &json!({ "restor": true })).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let off = server.send(Method::DELETE, "/api/v1/freeze", &[], "").await;
    assert_eq!((off.status, off.json()), (StatusCode::OK, json!({ "was_frozen": true })));
    assert!(server.get("/api/v1/status").await.json()["frozen"].is_null());
}
