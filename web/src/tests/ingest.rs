//! The preview of a push: what it would become, where it is wrong, and that nothing of it is kept.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, NOW, Server};

async fn preview(server: &Server, query: &str, body: &str) -> Answer {
    server.send(Method::POST, &format!("/api/v1/ingest/preview?{query}"), &[], body).await
}

async fn previewed(query: &str, body: &str) -> Value {
    let server = Server::start();
    let answer = preview(&server, query, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(server.state.store.stats().series, 0, "nothing is stored");
    assert_eq!(server.state.ingest.counters.snapshot().accepted(), 0, "nothing is counted");
    answer.json()
}

#[tokio::test]
async fn lines_become_samples_and_bad_ones_are_named_by_their_numbers() {
    let body =
        "cpu,host=a user=1.5,note=\"text\" 1800000000000\n# a remark\ncpu,host=a user=\nmem free=7i 9900000000000\n";
    let answer = previewed("protocol=influx&precision=ms", body).await;
    assert_eq!(
        answer["samples"],
        json!([{ "line": 1, "metric": "cpu.user", "tags": { "host": "a" }, "time": NOW, "value": 1.5 }])
    );
    assert_eq!((&answer["total"], &answer["failed"], &answer["skipped"]), (&json!(1), &json!(2), &json!(1)));
    let errors = answer["errors"].as_array().unwrap();
    assert_eq!(errors.iter().map(|error| &error["line"]).collect::<Vec<_>>(), [3, 4]);
    assert!(errors[1]["message"].as_str().unwrap().contains("ahead of this server's clock"), "{answer}");
}

#[tokio::test]
async fn points_are_counted_off_to_the_line_they_begin_on() {
    let good = r#"{"metric":"m","timestamp":1800000000,"value":1,"tags":{"host":"a"}}"#;
    let body = format!("[{good},\n\n null,\n{{\"metric\":\"m\"}}, {good}]");
    let answer = previewed("protocol=opentsdb", &body).await;
    let lines = |of: &str| answer[of].as_array().unwrap().iter().map(|one| one["line"].clone()).collect::<Vec<_>>();
    assert_eq!((lines("samples"), lines("errors")), (vec![json!(1), json!(4)], vec![json!(3), json!(4)]));
    assert_eq!((&answer["total"], &answer["series"], &answer["failed"]), (&json!(2), &json!(1), &json!(2)));
    let broken = previewed("protocol=opentsdb", "[{\n\"metric\": }]").await;
    assert_eq!((&broken["errors"][0]["line"], &broken["total"]), (&json!(2), &json!(0)), "{broken}");
}

#[tokio::test]
async fn one_bad_metric_of_monasca_is_the_end_of_all() {
    let good = r#"{"name":"m","timestamp":1800000000000,"value":1}"#;
    let answer = previewed("protocol=monasca", good).await;
    assert_eq!((&answer["samples"][0]["metric"], &answer["total"]), (&json!("m"), &json!(1)));
    let answer = previewed("protocol=monasca", &format!("[{good},\n{{\"name\":\"m\"}}]")).await;
    assert_eq!((&answer["errors"][0]["line"], &answer["total"], &answer["failed"]), (&json!(2), &json!(0), &json!(2)));
}

#[tokio::test]
async fn what_cannot_be_read_at_all_is_said_so() {
    let server = Server::start();
    let why = async |query: &str, body: &str| {
        let answer = preview(&server, query, body).await;
        (answer.status, answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let (status, message) = why("protocol=prometheus", "no snappy").await;
    assert_eq!((status, message.contains("not valid snappy")), (StatusCode::BAD_REQUEST, true), "{message}");
    let (status, message) = why("protocol=carbon", "a 1 2").await;
    assert_eq!((status, message.contains("'carbon'")), (StatusCode::BAD_REQUEST, true), "{message}");
    let (status, _) = why("protocol=influx&precision=y", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, message) = why("protocol=influx", &"#".repeat((1 << 20) + 1)).await;
    assert_eq!((status, message.contains("1048576")), (StatusCode::PAYLOAD_TOO_LARGE, true), "{message}");
}
