//! The log of decisions, and why one was taken.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate_model::{Decision, OutcomeStatus};

use super::{NOW, Server, decision};

async fn ids(server: &Server, query: &str) -> Vec<String> {
    let answer = server.get(&format!("/api/v1/decisions?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{query}: {}", answer.text());
    let answer = answer.json();
    let decisions = answer["decisions"].as_array().unwrap();
    decisions.iter().map(|decision| decision["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_decision_comes_back_as_it_was_taken() {
    let server = Server::start();
    let taken = decision("d1", "web", 30);
    server.state.store.append_decisions(std::slice::from_ref(&taken)).await.unwrap();
    let shown = server.get("/api/v1/decisions/d1").await.json();
    assert!(shown["sentence"].as_str().is_some_and(|sentence| !sentence.is_empty()));
    assert_eq!(serde_json::from_value::<Decision>(shown).unwrap(), taken);
    assert_eq!(server.get("/api/v1/decisions/d2").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_log_is_newest_first_filtered_and_paged() {
    let server = Server::start();
    let mut refused = decision("d4", "db", 5);
    refused.outcome.status = OutcomeStatus::Refused;
    let rows = [decision("d1", "web", 40), decision("d2", "web", 20), decision("d3", "db", 20), refused];
    server.state.store.append_decisions(&rows).await.unwrap();
    assert_eq!(ids(&server, "").await, ["d4", "d3", "d2", "d1"]);
    assert_eq!(ids(&server, "container=web&host=node0&resource=cpu&rule=up").await, ["d2", "d1"]);
    assert_eq!(ids(&server, "outcome=refused&rule=").await, ["d4"]);
    assert_eq!(ids(&server, &format!("from={}&to={}", NOW - 20_000, NOW - 5_000)).await, ["d3", "d2"]);
    assert_eq!(ids(&server, "limit=2").await, ["d4", "d3"]);
    assert_eq!(ids(&server, "limit=2&before=d3").await, ["d2", "d1"]);
    assert_eq!(ids(&server, "before=d1").await, [""; 0]);
    assert_eq!(server.get("/api/v1/decisions?before=nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/v1/decisions?limit=many").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_explanation_has_the_rule_the_query_and_what_followed() {
    let server = Server::start();
    server.measured("web").await;
    let sql = "CREATE RULE up AS SELECT host, container, resource, usage AS target, 'x' AS reason \
               FROM recent(INTERVAL '60 seconds')";
    assert_eq!(server.post("/api/v1/rules", &json!({ "sql": sql })).await.status, StatusCode::OK);
    let mut older = decision("d0", "web", 31);
    older.version = 99;
    server
        .state
        .store
        .append_decisions(&[older, decision("d1", "web", 30), decision("d2", "unmeasured", 30)])
        .await
        .unwrap();

    let explained = server.get("/api/v1/decisions/d1/explain").await.json();
    assert_eq!(explained["decision"]["id"], "d1");
    assert_eq!(explained["sentence"], explained["decision"]["sentence"]);
    assert!(explained["rule_sql"].as_str().unwrap().contains("recent"), "{explained}");
    assert_eq!(
        explained["after"],
        json!({ "usage_avg": 1.0, "usage_max": 1.0, "throttled_avg": 0.25 / 30.0, "limit_now": 2.0 })
    );
    let asked = server.post("/api/v1/sql", &json!({ "sql": explained["query_as_of"] })).await;
    assert_eq!(asked.status, StatusCode::OK, "{}", asked.text());
    // The measurements of the first half of the minute, which is what there was at the decision's tick.
    assert_eq!(asked.json()["rows"], json!([["node0", "web", "cpu", 30, 1.0, 1.0, 1.0, 2.0, 0.0]]), "{}", asked.text());

    assert_eq!(server.get("/api/v1/decisions/d0/explain").await.json()["rule_sql"], Value::Null);
    assert_eq!(server.get("/api/v1/decisions/d2/explain").await.json()["after"], Value::Null);
}
