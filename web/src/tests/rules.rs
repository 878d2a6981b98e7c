//! Rules over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Server;

const RULE: &str = "CREATE OR REPLACE RULE up WITH (every = '1s') AS\n\
    SELECT host, container, resource, usage * 1.5 AS target, 'half more' AS reason\n\
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";

#[tokio::test]
async fn a_rule_is_made_changed_shown_and_removed() {
    let server = Server::start();
    let made = server.send(Method::POST, "/api/v1/rules", &[("content-type", "text/plain")], RULE).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    assert_eq!(made.json()["results"][0]["name"], "up");
    assert!(made.json()["results"][0]["message"].is_string());

    let rules = server.get("/api/v1/rules").await.json();
    let rule = &rules["rules"][0];
    assert_eq!((&rule["name"], &rule["mode"], &rule["every_ms"]), (&json!("up"), &json!("shadow"), &json!(1_000)));
    assert_eq!(rule["created_by"], "local");
    for field in ["sql", "query", "version", "class", "options", "updated_at"] {
        assert!(!rule[field].is_null(), "{field}: {rule}");
    }
    for field in ["last_run", "last_latency_ms", "last_rows", "last_error"] {
        assert!(rule.get(field).is_some(), "{field}: {rule}");
    }

    let changed = server.post("/api/v1/rules/up/mode", &json!({ "mode": "on" })).await;
    assert_eq!((changed.status, &changed.json()["mode"]), (StatusCode::OK, &json!("on")), "{}", changed.text());
    assert_eq!(server.get("/api/v1/rules/up").await.json()["mode"], "on");
    assert_eq!(server.post("/api/v1/rules/up/mode", &json!({ "mode": "maybe" })).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.post("/api/v1/rules/none/mode", &json!({ "mode": "on" })).await.status, StatusCode::NOT_FOUND);

    assert_eq!(server.send(Method::DELETE, "/api/v1/rules/up", &[], "").await.status, StatusCode::OK);
    assert_eq!(server.send(Method::DELETE, "/api/v1/rules/up", &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/v1/rules").await.json(), json!({ "rules": [] }));

    let changes = server.get("/api/v1/rules/up/changes").await.json();
    let changes: Vec<_> = changes["changes"].as_array().unwrap().iter().map(|change| &change["change"]).collect();
    assert_eq!(changes, ["dropped", "mode", "created"]);
    assert_eq!(server.get("/api/v1/rules/none/changes").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_canary_is_a_mode_over_http_too() {
    let server = Server::start();
    server.send(Method::POST, "/api/v1/rules", &[("content-type", "text/plain")], RULE).await;
    let changed = server.post("/api/v1/rules/up/mode", &json!({ "mode": "canary 10%" })).await;
    assert_eq!(
        (changed.status, &changed.json()["mode"]),
        (StatusCode::OK, &json!("canary 10 %")),
        "{}",
        changed.text()
    );
    let sql = server.get("/api/v1/rules/up").await.json()["sql"].clone();
    assert!(sql.as_str().is_some_and(|sql| sql.contains("mode = 'canary 10 %'")), "{sql}");
    assert_eq!(
        server.post("/api/v1/rules/up/mode", &json!({ "mode": "canary 0 %" })).await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_mistake_in_a_rule_is_shown_where_it_stands() {
    let server = Server::start();
    let wrong = RULE.replace("usage * 1.5", "usagee * 1.5");
    let checked = server.post("/api/v1/rules/validate", &json!({ "sql": wrong })).await;
    assert_eq!(checked.status, StatusCode::OK);
    let checked = checked.json();
    assert_eq!(checked["ok"], false, "{checked}");
    assert_eq!(checked["error"]["line"], 2, "{checked}");
    assert!(checked["error"]["column"].is_number(), "{checked}");

    let checked = server.post("/api/v1/rules/validate", &json!({ "sql": RULE })).await.json();
    assert_eq!((&checked["ok"], &checked["rule"]["name"]), (&json!(true), &json!("up")), "{checked}");
    assert_eq!(server.get("/api/v1/rules").await.json(), json!({ "rules": [] }), "validating stores nothing");

    for path in ["/api/v1/rules", "/api/v1/rules/preview"] {
        let refused = server.post(path, &json!({ "sql": wrong })).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert_eq!(refused.json()["error"]["line"], 2);
    }
}

#[tokio::test]
async fn a_preview_shows_decisions_and_keeps_none() {
    let server = Server::start();
    server.measured("web").await;
    let preview = server.post("/api/v1/rules/preview", &json!({ "sql": RULE })).await;
    assert_eq!(preview.status, StatusCode::OK, "{}", preview.text());
    let preview = preview.json();
    let decision = &preview["decisions"][0];
    assert_eq!(decision["container"], json!({ "host": "node0", "name": "web" }), "{preview}");
    assert_eq!(decision["proposed"], 1.5);
    assert!(decision["sentence"].is_string());
    assert_eq!(server.get("/api/v1/decisions").await.json()["decisions"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn shipped_packs_are_listed_and_can_be_applied() {
    let server = Server::start();
    let packs = server.get("/api/v1/packs").await.json();
    for pack in packs["packs"].as_array().unwrap() {
        assert!(pack["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{pack}");
        let applied = server.post("/api/v1/rules", &json!({ "sql": pack["sql"] })).await;
        assert_eq!(applied.status, 200, "{}: {}", pack["name"], applied.text());
    }
    assert_eq!(packs["packs"][0]["name"], "default");
}
