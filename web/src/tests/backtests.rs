//! Backtests over HTTP.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_model::{SampleBatch, SeriesKey, TimeMs, metrics};

use super::{NOW, Server};

const RULE: &str = "CREATE RULE half WITH (every = '1s', step_down = 0.9) AS\n\
    SELECT host, container, resource, allocated / 2 AS target, 'half' AS reason\n\
    FROM recent(INTERVAL '20 seconds') WHERE resource = 'cpu'";

/// Two minutes of a container that uses one of its four cores.
async fn history(server: &Server) {
    let mut batch = SampleBatch::new();
    for second in 0..120 {
        for (metric, value) in [(metrics::USAGE, 1.0), (metrics::LIMIT, 4.0)] {
            let tags = [("host", "node0"), ("container", "web"), ("resource", "cpu")];
            let key = SeriesKey::new(metric, tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
            batch.push(key, TimeMs(NOW - second * 1_000), value);
        }
    }
    server.state.store.append(&batch, TimeMs(NOW)).await.unwrap();
}

async fn ended(server: &Server, id: &str) -> Value {
    for _ in 0..600 {
        let shown = server.get(&format!("/api/v1/backtests/{id}")).await.json();
        if !["reading", "running", "comparing"].contains(&shown["phase"].as_str().unwrap()) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("backtest {id} does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backtest_is_started_watched_and_read() {
    let server = Server::start();
    history(&server).await;
    let asked = json!({ "rules": RULE, "against": "none", "from": NOW - 120_000 });
    let started = server.post("/api/v1/backtests", &asked).await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.text());
    let id = started.json()["id"].as_str().unwrap().to_owned();
    let shown = ended(&server, &id).await;
    assert_eq!((&shown["phase"], &shown["progress"]), (&json!("done"), &json!(1.0)), "{shown}");
    let cpu = |which: &str| shown[which]["resources"]["cpu"].clone();
    assert_eq!(cpu("against")["utilisation"], 0.25, "{shown}");
    assert!(cpu("report")["utilisation"].as_f64().unwrap() > 0.3, "{shown}");
    assert_eq!(shown["report"]["rules"][0]["rule"], "half");
    assert_eq!(shown["report"]["rules"].as_array().unwrap().len(), 1);

    // What the limit would have been, and what it was compared with.
    let course = |of: &str| format!("/api/v1/backtests/{id}/course?host=node0&container=web&resource={of}");
    let drawn = server.get(&course("cpu")).await;
    assert_eq!(drawn.status, StatusCode::OK, "{}", drawn.text());
    let drawn = drawn.json();
    let column = |which: &str, name: &str| drawn[which][name].as_array().unwrap().clone();
    let (t, limits) = (column("rules", "t"), column("rules", "limit"));
    assert_eq!((t.len(), column("against", "t").len()), (120, 120), "{drawn}");
    assert_eq!((&limits[0], &column("against", "limit")[119]), (&json!(4.0), &json!(4.0)));
    assert!(limits[119].as_f64().unwrap() < 3.0 && column("rules", "wanted")[60] == json!(1.0), "{drawn}");
    let missing = server.get(&course("memory")).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(missing.text().contains("keeps no course of the memory of node0/web"), "{}", missing.text());

    // On top of what is in force, two rules; against it, one.
    assert_eq!(
        server.post("/api/v1/rules", &json!({ "sql": RULE.replace("half", "other") })).await.status,
        StatusCode::OK
    );
    let asked = json!({ "rules": RULE, "on_top": true, "against": "live", "from": NOW - 60_000 });
    let id = server.post("/api/v1/backtests", &asked).await.json()["id"].as_str().unwrap().to_owned();
    let shown = ended(&server, &id).await;
    let rules = |which: &str| shown[which]["rules"].as_array().map(Vec::len);
    assert_eq!((rules("report"), rules("against")), (Some(2), Some(1)), "{shown}");
    let list = server.get("/api/v1/backtests").await.json();
    assert_eq!((&list["backtests"][0]["id"], list["backtests"][0].get("report")), (&json!(id), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_backtest_is_refused_with_its_reason() {
    let server = Server::start();
    let refused = async |body: Value| {
        let answer = server.post("/api/v1/backtests", &body).await;
        (answer.status, answer.json()["error"].clone())
    };
    let (status, error) = refused(json!({ "rules": RULE.replace("allocated", "alocated") })).await;
    assert_eq!((status, &error["line"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(2)), "{error}");
    for body in
        [json!({ "from": NOW, "to": NOW - 1 }), json!({ "to": NOW + 1 }), json!({ "step_s": 0 }), json!({ "form": 1 })]
    {
        assert_eq!(refused(body.clone()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    let empty = server.post("/api/v1/backtests", &json!({ "rules": RULE })).await.json();
    let shown = ended(&server, empty["id"].as_str().unwrap()).await;
    assert_eq!(shown["phase"], "failed");
    assert!(shown["error"]["message"].as_str().unwrap().contains("no samples"), "{shown}");
    assert_eq!(server.get("/api/v1/backtests/99").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_at_a_time_and_can_be_stopped() {
    let server = Server::start();
    history(&server).await;
    let long: Vec<String> =
        (0..40).map(|n| RULE.replace("half", &format!("half{n}")).replace("RULE", "OR REPLACE RULE")).collect();
    let asked = json!({ "rules": long.join(";\n"), "from": NOW - 120_000 });
    let first = server.post("/api/v1/backtests", &asked).await.json();
    let id = first["id"].as_str().unwrap();
    let second = server.post("/api/v1/backtests", &asked).await;
    assert_eq!(second.status, StatusCode::CONFLICT, "{}", second.text());
    let path = format!("/api/v1/backtests/{id}");
    assert_eq!(server.send(Method::DELETE, &path, &[], "").await.status, StatusCode::OK);
    assert_eq!(ended(&server, id).await["phase"], "stopped");
    let third = server.post("/api/v1/backtests", &json!({ "rules": RULE })).await;
    assert_eq!(third.status, StatusCode::ACCEPTED);
}
