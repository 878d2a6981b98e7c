//! The API's description: that it is the one in the repository, that it has all routes and no others, that it says who
//! may use them, and that each answers as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::contract::{document, template};
use super::{NOW, Server, decision};
use crate::{Auth, Right, TokenRecord, WebConfig, openapi};

type Operation = (Method, String);

/// All that is described.
fn described() -> BTreeMap<(String, String), &'static Value> {
    let paths = document()["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| ((path.clone(), method.to_ascii_uppercase()), operation))
    });
    operations.collect()
}

#[test]
fn the_repository_has_the_description_of_these_routes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::write(&path, openapi::text()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let command = "TIDEGATE_BLESS=1 cargo nextest run --workspace -E 'test(the_repository_has_the_description)'";
    // Not assert_eq: nobody reads two documents of this length.
    assert!(
        kept == openapi::text(),
        "docs/openapi.json is not current: run\n  {command}\n  npm --prefix web/ui run types"
    );
}

#[test]
fn all_that_is_referred_to_is_there_and_nothing_is_there_twice() {
    let mut ids = BTreeSet::new();
    for ((path, method), operation) in described() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "two operations are called {id}");
        assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        let named = |at: &&Value| at["in"] == "path";
        let given: BTreeSet<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(named)
            .map(|at| at["name"].as_str().unwrap())
            .collect();
        let wanted: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(given, wanted, "parameters of {method} {path}");
    }
    let text = openapi::text();
    for at in text.match_indices("\"#/components/").map(|(at, _)| at + 2) {
        let pointer = &text[at..at + text[at..].find('"').unwrap()];
        assert!(document().pointer(pointer).is_some(), "there is no {pointer}");
    }
}

/// The paths of the router itself, as it prints them: there is no other way to ask it.
fn routed(server: &Server) -> BTreeSet<String> {
    let printed = format!("{:?}", server.router);
    let from = printed.find("paths: {").expect("axum prints the paths of a router") + "paths: {".len();
    let list = &printed[from..from + printed[from..].find("\"}").unwrap()];
    let paths = list.split('"').skip(1).step_by(2);
    // Some are there with a slash at the end, too.
    paths.map(|path| path.trim_end_matches('/').to_owned()).collect()
}

/// A request without a body to some address of a path.
async fn status(server: &Server, method: &Method, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let address = path.replace("{kind}", "app").replace(['{', '}'], "");
    let mut request = Request::builder().method(method).uri(address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // The live stream does not end, so that only the status is looked at.
    server.router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_of_a_route() {
    let server = Server::start();
    let mut routes = BTreeSet::new();
    let paths = routed(&server);
    assert!(paths.len() > 40, "{paths:?}");
    for path in paths {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if status(&server, &method, &path, &[]).await != StatusCode::METHOD_NOT_ALLOWED {
                routes.insert((path.clone(), method.to_string()));
            }
        }
    }
    assert_eq!(routes, described().into_keys().collect());
}

#[tokio::test]
async fn the_right_that_is_described_is_the_one_that_is_asked_for() {
    let rights = [Right::Push, Right::Read, Right::Operate, Right::Agent];
    let record = |right: Right| TokenRecord {
        name: right.as_str().to_owned(),
        sha256: Auth::digest(right.as_str()),
        rights: [right].into(),
    };
    let server = Server::with(Auth::tokens(&rights.map(record)).unwrap(), WebConfig::default());
    for ((path, method), operation) in described() {
        let wanted = operation["security"][0]["token"][0].as_str();
        let method: Method = method.parse().unwrap();
        for right in rights.map(Right::as_str) {
            let bearer = format!("Bearer {right}");
            let status = status(&server, &method, &path, &[("authorization", &bearer)]).await;
            let refused = status == StatusCode::FORBIDDEN;
            assert_eq!(refused, wanted.is_some_and(|wanted| wanted != right), "{method} {path} with {right}: {status}");
        }
    }
}

const RULE: &str = "CREATE RULE up WITH (every = '5s') AS SELECT host, container, resource, usage * 2 AS target, \
    'near its limit' AS reason FROM recent(INTERVAL '30 seconds') WHERE resource = 'cpu'";
const POINT: &str = r#"{"metric":"m","timestamp":1800000000,"value":1,"tags":{"host":"a"}}"#;

/// What no request below has a success of.
const ELSEWHERE: [(&str, &str); 5] = [
    // Of a backtest that has ended; the tests of backtests read it.
    ("GET", "/api/v1/backtests/{id}/course"),
    // Never ends; its own tests read it.
    ("GET", "/api/v1/stream"),
    // The actuator of these tests has nothing to adopt.
    ("POST", "/api/v1/containers/{host}/{name}/adopt"),
    // Their bodies are made by the tests of agents and of ingest.
    ("POST", "/api/v1/agents/{host}/frames"),
    ("POST", "/api/v1/write"),
];

/// Each answer is held against its description by the server of these tests.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_a_success_that_is_as_described() {
    let server = Server::start();
    server.measured("web").await;
    server.state.store.append_decisions(&[decision("d1", "web", 30)]).await.unwrap();
    let far = "/api/v1/agents/far/orders?protocol=1&machine=m&run=r";
    let sql = json!({ "sql": "SELECT container, value FROM usage LIMIT 3" }).to_string();
    let with_values = json!({ "sql": "SELECT $1 AS a", "params": [1.5] }).to_string();
    let rule = json!({ "sql": RULE }).to_string();
    let report =
        json!([{ "order": null, "decision": "d", "container": { "host": "far", "name": "x" }, "resource": "cpu",
        "outcome": { "status": "failed", "limit_after": null, "writes": [], "message": "", "at": NOW, "took_us": 1 } }])
        .to_string();
    let requests = [
        ("GET", "/health", ""),
        ("GET", "/metrics", ""),
        ("GET", "/api/openapi.json", ""),
        ("POST", "/api/v1/login", r#"{"token":"x"}"#),
        ("POST", "/api/v1/logout", ""),
        ("GET", "/api/v1/config", ""),
        ("GET", "/api/v1/schema", ""),
        ("POST", "/api/v1/sql", "SELECT 1"),
        ("POST", "/api/v1/sql", &sql),
        ("POST", "/api/v1/sql", &with_values),
        ("POST", "/api/v1/sql?format=csv", "SELECT 1 AS a"),
        ("POST", "/api/v1/sql?format=ndjson", "SELECT 1 AS a"),
        ("POST", "/api/v1/sql?format=arrow", "SELECT 1 AS a"),
        ("POST", "/api/v1/sql?format=parquet", "SELECT 1 AS a"),
        ("GET", far, ""),
        ("GET", "/api/v1/agents", ""),
        ("POST", "/api/v1/agents/far/reports", &report),
        ("GET", "/api/v1/hosts", ""),
        ("GET", "/api/v1/containers", ""),
        ("GET", "/api/v1/containers/node0/web", ""),
        ("GET", "/api/v1/containers/node0/web/series", ""),
        ("PUT", "/api/v1/containers/node0/web/override", r#"{"pinned":["cpu"],"bounds":{"cpu":{"min":0.5,"max":2}}}"#),
        ("DELETE", "/api/v1/containers/node0/web/override", ""),
        ("POST", "/api/v1/groups/app/shop", r#"{"resource":"cpu","max":4}"#),
        ("GET", "/api/v1/groups", ""),
        ("GET", "/api/v1/groups/app/shop", ""),
        ("DELETE", "/api/v1/groups/app/shop", ""),
        ("POST", "/api/v1/ingest/preview?protocol=opentsdb", POINT),
        ("GET", "/api/v1/report?container=node0/web", ""),
        ("POST", "/api/v1/experiments", r#"{"name":"e","tags":{"size":"10"}}"#),
        ("POST", "/api/v1/experiments/e/tests", r#"{"name":"t"}"#),
        ("PATCH", "/api/v1/experiments/e/tests/t", r#"{"end":"now"}"#),
        ("PATCH", "/api/v1/experiments/e", r#"{"info":"a trial"}"#),
        ("GET", "/api/v1/experiments", ""),
        ("GET", "/api/v1/experiments/e", ""),
        ("DELETE", "/api/v1/experiments/e/tests/t", ""),
        ("DELETE", "/api/v1/experiments/e", ""),
        ("GET", "/api/v1/packs", ""),
        ("POST", "/api/v1/rules/validate", &rule),
        ("POST", "/api/v1/rules/validate", "CREATE RULE"),
        ("POST", "/api/v1/rules/preview", RULE),
        ("POST", "/api/v1/rules", RULE),
        ("POST", "/api/v1/sql", "SHOW RULES"),
        ("GET", "/api/v1/rules", ""),
        ("GET", "/api/v1/rules/up", ""),
        ("POST", "/api/v1/rules/up/mode", r#"{"mode":"canary 5 %"}"#),
        ("GET", "/api/v1/rules/up/changes", ""),
        ("POST", "/api/v1/backtests", &json!({ "from": NOW - 60_000 }).to_string()),
        ("GET", "/api/v1/backtests", ""),
        ("GET", "/api/v1/backtests/1", ""),
        ("DELETE", "/api/v1/backtests/1", ""),
        ("GET", "/api/v1/decisions?limit=5", ""),
        ("GET", "/api/v1/decisions/d1", ""),
        ("GET", "/api/v1/decisions/d1/explain", ""),
        ("DELETE", "/api/v1/rules/up", ""),
        ("POST", "/api/v1/freeze", r#"{"why":"a test"}"#),
        ("GET", "/api/v1/status", ""),
        ("DELETE", "/api/v1/freeze", ""),
        ("POST", "/api/put", POINT),
        ("POST", "/api/put?details", POINT),
        ("GET", "/v2.0", ""),
        ("POST", "/v2.0/metrics", r#"{"name":"m","timestamp":1800000000000,"value":1}"#),
        ("POST", "/write?precision=ms", "m,host=a v=1 1800000000000"),
        ("POST", "/api/v2/write?precision=ms", "m,host=a v=1 1800000000000"),
        ("GET", "/ping", ""),
        ("POST", "/api/v1/compact", ""),
        ("POST", "/api/v1/backup", ""),
    ];
    let mut left: BTreeSet<Operation> =
        described().into_keys().map(|(path, method)| (method.parse().unwrap(), path)).collect();
    for (method, path) in ELSEWHERE {
        assert!(left.remove(&(method.parse().unwrap(), path.to_owned())), "{method} {path}");
    }
    for (method, path, body) in requests {
        let method: Method = method.parse().unwrap();
        let typed: &[_] = if path == "/v2.0/metrics" { &[("content-type", "application/json")] } else { &[] };
        let answer = server.send(method.clone(), path, typed, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.text());
        let path = path.split('?').next().and_then(template).unwrap();
        left.remove(&(method, path.to_owned()));
    }
    server.state.engine.tick(server.state.clock.now()).await;
    assert_eq!(server.get("/ready").await.status, StatusCode::OK);
    left.remove(&(Method::GET, "/ready".to_owned()));
    assert!(left.is_empty(), "no success of {left:?}");
}

#[tokio::test]
async fn refusals_of_pushes_are_as_described() {
    let server = Server::start();
    for (path, body) in [
        ("/api/put", "nonsense"),
        ("/api/put?details", r#"[{"metric":"m","timestamp":1800000000,"value":"x","tags":{"host":"a"}}, 5]"#),
        ("/api/put?summary", r#"[{"metric":"m"}]"#),
        ("/v2.0/metrics", "nonsense"),
        ("/v2.0/metrics", r#"{"name":"m"}"#),
        ("/write", "nonsense"),
        ("/write?precision=years", "m v=1"),
        ("/api/v2/write", "nonsense"),
        ("/api/v1/write", "nonsense"),
    ] {
        for headers in [vec![("content-type", "application/json")], vec![("content-encoding", "odd")], vec![]] {
            let answer = server.send(Method::POST, path, &headers, body).await;
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        }
    }
}
