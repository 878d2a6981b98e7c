//! Who may do what, from where.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::Server;
use crate::{Auth, Readiness, Right, TokenRecord, WebConfig};

fn tokens() -> Auth {
    let record = |name: &str, right| TokenRecord {
        name: name.to_owned(),
        sha256: Auth::digest(&format!("{name}-token")),
        rights: [right].into(),
    };
    Auth::tokens(&[
        record("push", Right::Push),
        record("read", Right::Read),
        record("operate", Right::Operate),
        record("agent", Right::Agent),
    ])
    .unwrap()
}

#[tokio::test]
async fn each_right_opens_its_own_routes_and_no_others() {
    let server = Server::with(tokens(), WebConfig::default());
    let put = r#"{"metric":"m","timestamp":1800000000,"value":1,"tags":{"host":"a"}}"#;
    let rule = "CREATE RULE r AS SELECT host, container, resource, usage AS target, 'x' AS reason FROM recent(INTERVAL '9 seconds')";
    let cases = [
        ("push", Method::POST, "/api/put", put),
        ("read", Method::GET, "/api/v1/status", ""),
        ("read", Method::GET, "/api/v1/config", ""),
        ("read", Method::GET, "/api/v1/containers", ""),
        ("read", Method::GET, "/api/v1/rules", ""),
        ("read", Method::GET, "/api/v1/packs", ""),
        ("read", Method::GET, "/api/v1/decisions", ""),
        ("read", Method::GET, "/metrics", ""),
        ("read", Method::POST, "/api/v1/sql", "SELECT 1"),
        ("read", Method::POST, "/api/v1/rules/validate", "SELECT 1"),
        ("read", Method::POST, "/api/v1/ingest/preview?protocol=opentsdb", put),
        ("operate", Method::POST, "/api/v1/rules", rule),
        ("operate", Method::POST, "/api/v1/backup", ""),
        ("operate", Method::POST, "/api/v1/compact", ""),
        ("read", Method::GET, "/api/v1/agents", ""),
        ("read", Method::GET, "/api/v1/hosts", ""),
        ("read", Method::GET, "/api/v1/experiments", ""),
        ("operate", Method::POST, "/api/v1/experiments", r#"{"name":"e"}"#),
        ("operate", Method::PATCH, "/api/v1/experiments/e", r#"{"end":"now"}"#),
        ("agent", Method::POST, "/api/v1/agents/far/reports", "[]"),
        ("agent", Method::POST, "/api/v1/agents/far/frames?spool=s", ""),
    ];
    for (right, method, path, body) in cases {
        for who in ["push", "read", "operate", "agent"] {
            let bearer = format!("Bearer {who}-token");
            let answer = server.send(method.clone(), path, &[("authorization", &bearer)], body).await;
            let allowed = who == right;
            assert_eq!(answer.status.is_success(), allowed, "{who} {method} {path}: {}", answer.text());
            assert!(allowed || answer.status == StatusCode::FORBIDDEN, "{who} {method} {path}: {}", answer.status);
        }
        for headers in [vec![], vec![("authorization", "Bearer wrong")], vec![("x-auth-token", "")]] {
            let answer = server.send(method.clone(), path, &headers, body).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
}

#[tokio::test]
async fn a_reader_cannot_change_rules_through_the_sql_route() {
    let server = Server::with(tokens(), WebConfig::default());
    let reader = [("authorization", "Token read-token")];
    let answer = server.send(Method::POST, "/api/v1/sql", &reader, "SHOW RULES").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    for sql in ["DROP RULE x", "SHOW RULES; DROP RULE x"] {
        let answer = server.send(Method::POST, "/api/v1/sql", &reader, sql).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{sql}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_login_lives_in_a_cookie_that_scripts_cannot_read() {
    let server = Server::with(tokens(), WebConfig::default());
    let wrong = server.post("/api/v1/login", &json!({ "token": "guess" })).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let answer = server.post("/api/v1/login", &json!({ "token": "read-token" })).await;
    assert_eq!(answer.json(), json!({ "name": "read", "rights": ["read"] }));
    let cookie = answer.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let answer = server.send(Method::GET, "/api/v1/status", &[("cookie", pair)], "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn another_sites_page_can_change_nothing() {
    let server = Server::start();
    let own = [("host", "localhost:8400"), ("origin", "http://localhost:8400")];
    assert_eq!(server.send(Method::POST, "/api/v1/sql", &own, "SELECT 1").await.status, StatusCode::OK);
    for origin in ["http://evil.example", "http://localhost:1234", "null"] {
        let headers = [("host", "localhost:8400"), ("origin", origin)];
        for path in ["/api/v1/sql", "/api/v1/rules", "/api/put", "/api/v1/login"] {
            let answer = server.send(Method::POST, path, &headers, "SELECT 1").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin} {path}");
        }
    }
}

#[tokio::test]
async fn without_tokens_a_rebound_name_is_refused_and_a_named_one_is_not() {
    let config = WebConfig { public_hosts: vec!["gate.example".to_owned()], ..WebConfig::default() };
    let server = Server::with(Auth::open(), config);
    for (host, expected) in [
        ("127.0.0.1:8400", StatusCode::OK),
        ("[::1]:8400", StatusCode::OK),
        ("gate.example", StatusCode::OK),
        ("rebound.example:8400", StatusCode::FORBIDDEN),
    ] {
        let answer = server.send(Method::GET, "/api/v1/status", &[("host", host)], "").await;
        assert_eq!(answer.status, expected, "{host}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused_as_json() {
    let server = Server::with(Auth::open(), WebConfig { max_body_bytes: 64, ..WebConfig::default() });
    let answer = server.send(Method::POST, "/api/v1/sql", &[], &"x".repeat(65)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.json()["error"]["message"].is_string());
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let server = Server::start();
    server.state.health.require(Readiness::COLLECTION, "this host's containers have not been measured yet");
    let answer = server.get("/ready").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["ready"], false);
    assert_eq!(answer.json()["reasons"].as_array().unwrap().len(), 2);
    server.state.health.met(Readiness::COLLECTION);
    server.state.engine.tick(server.state.clock.now()).await;
    let answer = server.get("/ready").await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "ready": true, "reasons": [] })));
    assert_eq!(server.get("/health").await.json(), json!({ "status": "ok", "version": "1.2.3" }));
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_load() {
    let server = Server::start();
    for path in ["/", "/api/v1/status", "/nothing.js", "/api/v1/nothing"] {
        let answer = server.get(path).await;
        assert!(answer.header("content-security-policy").contains("default-src 'self'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(server.get("/api/v1/status").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_answered_as_json() {
    let server = Server::start();
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", StatusCode::NOT_FOUND),
        (Method::POST, "/nothing", StatusCode::NOT_FOUND),
        (Method::DELETE, "/api/v1/status", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = server.send(method, path, &[], "").await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"]["message"].is_string());
    }
}

/// What `web/dist` holds is another build's work; what its page names must be in it.
#[tokio::test]
async fn every_file_that_the_built_page_names_is_served() {
    let server = Server::start();
    let page = server.get("/").await.text();
    let names = page.split('"').filter_map(|text| text.strip_prefix("./"));
    for name in names {
        let answer = server.get(&format!("/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}");
        assert_eq!(answer.header("cache-control").contains("immutable"), name.starts_with("assets/"), "{name}");
        let again =
            server.send(Method::GET, &format!("/{name}"), &[("if-none-match", answer.header("etag"))], "").await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{name}");
    }
}
