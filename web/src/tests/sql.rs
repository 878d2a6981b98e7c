//! SQL over HTTP: formats, positions of mistakes, bounds.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Server;

#[tokio::test]
async fn an_answer_in_json_has_columns_and_rows() {
    let server = Server::start();
    server.measured("web").await;
    let sql =
        "SELECT container, count(*) AS n, avg(value) AS mean FROM usage WHERE resource = 'cpu' GROUP BY container";
    let answer = server.post("/api/v1/sql", &json!({ "sql": sql })).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let answer = answer.json();
    let columns = answer["columns"].as_array().unwrap();
    assert_eq!(columns.iter().map(|column| &column["name"]).collect::<Vec<_>>(), ["container", "n", "mean"]);
    assert!(columns.iter().all(|column| column["type"].is_string()));
    assert_eq!(answer["rows"], json!([["web", 60, 1.0]]));
    assert_eq!(answer["truncated"], false);
    assert!(answer["took_ms"].is_number());
}

#[tokio::test]
async fn every_format_is_what_its_type_says() {
    let server = Server::start();
    let sql = "SELECT 1 AS a, 'x' AS b";
    let cases: [(&str, &str, &[u8]); 5] = [
        ("json", "application/json", b"{"),
        ("ndjson", "application/x-ndjson", b"{\"a\":1,\"b\":\"x\"}\n"),
        ("csv", "text/csv; charset=utf-8", b"a,b\n1,x\n"),
        ("arrow", "application/vnd.apache.arrow.stream", b"\xff\xff\xff\xff"),
        ("parquet", "application/vnd.apache.parquet", b"PAR1"),
    ];
    for (format, content_type, start) in cases {
        let named = server.post("/api/v1/sql", &json!({ "sql": sql, "format": format })).await;
        assert_eq!(named.header("content-type"), content_type, "{format}: {}", named.text());
        assert!(named.body.starts_with(start), "{format}: {}", named.text());
        assert_eq!(named.header("content-disposition"), "");
        let accept = content_type.split(';').next().unwrap();
        let accepted = server.send(Method::POST, "/api/v1/sql?download", &[("accept", accept)], sql).await;
        assert_eq!(accepted.header("content-type"), content_type);
        let disposition = accepted.header("content-disposition");
        assert!(disposition.starts_with("attachment; filename=\"tidegate."), "{format}: {disposition}");
    }
    let unknown = server.post("/api/v1/sql", &json!({ "sql": sql, "format": "xml" })).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_mistake_is_shown_where_it_stands() {
    let server = Server::start();
    let answer = server.post("/api/v1/sql", &json!({ "sql": "SELECT host,\n  nothing\nFROM usage" })).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = &answer.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("nothing"), "{error}");
    assert_eq!((&error["line"], &error["column"]), (&json!(2), &json!(3)), "{error}");
    let answer = server.post("/api/v1/sql", &json!({ "sql": "SELEC 1" })).await;
    assert_eq!((answer.status, &answer.json()["error"]["line"]), (StatusCode::BAD_REQUEST, &json!(1)));
}

#[tokio::test]
async fn nothing_can_be_changed_by_sql() {
    let server = Server::start();
    for sql in
        ["CREATE TABLE t AS SELECT 1", "COPY usage TO '/tmp/x.csv'", "SET a.b = 1", "INSERT INTO usage VALUES (1)"]
    {
        let answer = server.post("/api/v1/sql", &json!({ "sql": sql })).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{sql}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_present_and_the_number_of_rows_can_be_chosen() {
    let server = Server::start();
    server.measured("web").await;
    let answer = server.post("/api/v1/sql", &json!({ "sql": "SELECT time FROM usage", "limit": 7 })).await.json();
    assert_eq!((answer["rows"].as_array().unwrap().len(), &answer["truncated"]), (7, &json!(true)));
    let sql =
        "SELECT count(*) FROM usage WHERE resource = 'cpu' AND time > now() - INTERVAL '10 seconds' AND time <= now()";
    let past = super::NOW - 55_000;
    let answer = server.post("/api/v1/sql", &json!({ "sql": sql, "now": past })).await.json();
    assert_eq!(answer["rows"], json!([[5]]), "{answer}");
}

#[tokio::test]
async fn values_stand_beside_the_text() {
    let server = Server::start();
    server.measured("web").await;
    let sql = "SELECT count(*) FROM usage WHERE container = $c AND value >= $low";
    for (container, n) in [("web", 60), ("nobody", 0), ("web' OR 'a' = 'a", 0)] {
        let params = json!({ "c": container, "low": 0.5 });
        let answer = server.post("/api/v1/sql", &json!({ "sql": sql, "params": params })).await;
        let rows = answer.json()["rows"].clone();
        assert!(rows == json!([[n]]) || container == "web" && rows != json!([[0]]), "{}", answer.text());
    }
    let in_order = json!({ "sql": "SELECT $1, $2, $3", "params": ["x", true, null] });
    assert_eq!(server.post("/api/v1/sql", &in_order).await.json()["rows"], json!([["x", true, null]]));
    for params in [json!({ "c": "web" }), json!({ "c": "web", "low": [1] }), json!(["web", 1]), json!("web")] {
        let answer = server.post("/api/v1/sql", &json!({ "sql": sql, "params": params })).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{params}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_body_that_is_no_question_is_refused() {
    let server = Server::start();
    for body in [json!({}), json!({ "sql": 1 }), json!({ "sql": "SELECT 1", "formt": "csv" })] {
        let answer = server.post("/api/v1/sql", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
    }
    let answer = server.send(Method::POST, "/api/v1/sql", &[], "").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
}

#[tokio::test]
async fn rule_statements_work_where_queries_do() {
    let server = Server::start();
    let sql = "CREATE RULE up AS SELECT host, container, resource, usage AS target, 'x' AS reason \
               FROM recent(INTERVAL '10 seconds')";
    let answer = server.post("/api/v1/sql", &json!({ "sql": sql })).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json()["results"][0]["name"], "up");
    let shown = server.post("/api/v1/sql", &json!({ "sql": "SELECT name FROM rules" })).await.json();
    assert_eq!(shown["rows"], json!([["up"]]));
    assert_eq!(server.get("/api/v1/rules").await.json()["rules"].as_array().map(Vec::len), Some(1));
    assert_ne!(answer.json(), Value::Null);
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_before_it_is_read() {
    let server = Server::start();
    let long = format!("CREATE RULE {}", "x ".repeat(200_000));
    let answer = server.post("/api/v1/sql", &json!({ "sql": long })).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text());
}
