//! Containers, their past, status, schema and metrics.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_model::{Bytes, Cores, Host, SampleBatch, SeriesKey, TimeMs, metrics};

use super::{NOW, Server, container};

#[tokio::test]
async fn a_container_is_shown_with_its_newest_values() {
    let server = Server::start();
    server.measured("web").await;
    let mut gone = container("old");
    gone.last_seen = TimeMs(NOW - 60_000);
    server.state.store.put_containers(&[gone]).unwrap();

    let all = server.get("/api/v1/containers").await.json();
    assert_eq!(all["now"], NOW);
    let rows = all["containers"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["old", "web"]);
    assert_eq!((&rows[0]["gone"], &rows[0]["cpu"]["usage"]), (&json!(true), &Value::Null));
    let row = &rows[1];
    assert_eq!(
        row["cpu"],
        json!({ "usage": 1.0, "limit": 2.0, "upper": 1.8, "lower": 1.6, "throttled": 0.25, "pressure": null })
    );
    assert_eq!(row["memory"]["usage"], 64e6);
    assert_eq!(row["memory"]["unreclaimable"], 32e6);
    assert_eq!(row["memory"]["oom_kills"], 0.0);
    assert_eq!(row["baseline"], json!({ "cpu": 4.0, "memory": null }));
    assert_eq!(row["bounds"], json!({ "cpu": { "min": 0.5, "max": 4.0 }, "memory": { "min": null, "max": null } }));
    for (field, value) in [
        ("host", json!("node0")),
        ("app", json!("shop")),
        ("user", Value::Null),
        ("runtime", json!("bare")),
        ("cgroup", json!("v2")),
        ("path", json!("/apps/web")),
        ("last_seen", json!(NOW)),
        ("gone", json!(false)),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    assert_eq!(server.get("/api/v1/containers/node0/web").await.json(), *row);
    assert_eq!(server.get("/api/v1/containers/node0/none").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_name_with_quotes_and_slashes_is_a_name_like_any_other() {
    let server = Server::start();
    let name = "it's \"a\"/b; --";
    server.measured(name).await;
    let path = "/api/v1/containers/node0/it%27s%20%22a%22%2Fb%3B%20--";
    assert_eq!(server.get(path).await.json()["cpu"]["usage"], 1.0);
    let series = server.get(&format!("{path}/series?from={}&to={}&points=10", NOW - 10_000, NOW)).await;
    assert_eq!(series.json()["cpu"]["usage"][3], 1.0, "{}", series.text());
    let decisions = server.get("/api/v1/decisions?container=it%27s%20%22a%22&rule=%27").await;
    assert_eq!(decisions.json(), json!({ "decisions": [] }));
}

#[tokio::test]
async fn a_series_has_one_value_a_bucket_and_null_where_nothing_was_measured() {
    let server = Server::start();
    server.measured("web").await;
    let path = format!("/api/v1/containers/node0/web/series?from={}&to={}&points=12", NOW - 120_000, NOW);
    let series = server.get(&path).await.json();
    assert_eq!(series["step_ms"], 10_000);
    let times = series["t"].as_array().unwrap();
    assert_eq!((times.len(), &times[0]), (12, &json!(NOW - 120_000)));
    for (resource, columns) in [
        ("cpu", ["usage", "usage_max", "limit", "upper", "lower", "throttled"].as_slice()),
        ("memory", ["usage", "usage_max", "limit", "upper", "lower", "oom_kills", "unreclaimable"].as_slice()),
        ("io", ["read", "write"].as_slice()),
    ] {
        for column in columns {
            let values = series[resource][column].as_array().unwrap();
            assert_eq!(values.len(), 12, "{resource} {column}");
            assert!(values[..5].iter().all(Value::is_null), "{resource} {column}: {values:?}");
            assert!(values[7..].iter().all(Value::is_number), "{resource} {column}: {values:?}");
        }
    }
    assert_eq!((&series["cpu"]["usage"][8], &series["cpu"]["upper"][8]), (&json!(1.0), &json!(1.8)));
    let kills: f64 = series["memory"]["oom_kills"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
    assert_eq!(kills, 1.0);

    assert_eq!((series["io"].get("write_limit"), series["io"].get("read_limit")), (None, None));
    let mut batch = SampleBatch::new();
    for (metric, resource, value) in
        [(metrics::LIMIT, "disk_write", 8e6), (metrics::USAGE, "net_send", 5e5), (metrics::LIMIT, "net_send", 1e6)]
    {
        let tags = [("host", "node0"), ("container", "web"), ("app", "shop"), ("resource", resource)];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        batch.push(SeriesKey::new(metric, tags), TimeMs(NOW - 1_000), value);
    }
    assert_eq!(series["network"], Value::Null, "nobody counted any");
    assert!(server.state.store.append(&batch, TimeMs(NOW)).await.unwrap().rejected.is_empty());
    let series = server.get(&path).await.json();
    let (io, network) = (&series["io"], &series["network"]);
    assert_eq!((&network["send"][11], &network["send_limit"][11]), (&json!(5e5), &json!(1e6)));
    assert_eq!((&network["receive"][11], network.get("receive_limit")), (&Value::Null, None));
    assert_eq!((&io["write"][11], &io["write_limit"][11], io.get("read_limit")), (&json!(1e6), &json!(8e6), None));
    assert_eq!((&io["read"][11], &io["write_limit"][10]), (&json!(4096.0), &Value::Null), "{io}");
    let row = server.get("/api/v1/containers/node0/web").await.json();
    assert_eq!(row["disk_write"], json!({ "usage": 1e6, "limit": 8e6 }));
    assert_eq!(row["disk_read"], json!({ "usage": 4096.0, "limit": null }));
    assert_eq!((&row["net_send"], row.get("net_receive")), (&json!({ "usage": 5e5, "limit": 1e6 }), None));
}

#[tokio::test]
async fn a_range_without_data_is_nulls_and_a_senseless_one_is_refused() {
    let server = Server::start();
    let path = "/api/v1/containers/node0/web/series";
    let empty = server.get(&format!("{path}?from=1000000&to=1060000&points=6")).await;
    assert_eq!(empty.status, StatusCode::OK, "{}", empty.text());
    assert_eq!(empty.json()["cpu"]["usage"].as_array().unwrap().len(), empty.json()["t"].as_array().unwrap().len());
    assert!(empty.json()["memory"]["oom_kills"].as_array().unwrap().iter().all(Value::is_null));
    let many = server.get(&format!("{path}?from=0&to=86400000&points=999999")).await.json();
    assert!(many["t"].as_array().unwrap().len() <= 2_001);
    for query in ["from=5&to=5", "from=9&to=5", "points=0", "points=x", "from=0&to=9223372036854775807"] {
        let answer = server.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(answer.json()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn status_schema_and_metrics_tell_of_the_server() {
    let server = Server::start();
    server.measured("web").await;
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["version"], "1.2.3");
    assert_eq!(status["simulated"], "a test");
    assert_eq!(status["uptime_s"], 90);
    assert_eq!(status["containers"], 1);
    assert_eq!(status["store"]["appended_total"], 540);
    assert_eq!(status["store"]["series"], 9);
    for field in ["host", "started", "now", "cgroup", "rules", "ingest_per_s", "clients", "tick_lag_ms"] {
        assert!(!status[field].is_null(), "{field}: {status}");
    }

    assert_eq!(
        (&status["store"]["metrics"], &status["pushed"]["influx"]["accepted"]),
        (&json!(5), &json!(0)),
        "{status}"
    );
    let config = server.get("/api/v1/config").await.json();
    let setting = json!({ "path": "store.hot_s", "value": 60, "origin": "environment" });
    assert_eq!(config, json!({ "settings": [setting] }));

    let schema = server.get("/api/v1/schema").await.json();
    let usage = schema["tables"].as_array().unwrap().iter().find(|table| table["name"] == "usage").unwrap();
    assert!(usage["columns"].as_array().unwrap().iter().any(|column| column["name"] == "resource"));
    assert!(schema["functions"].as_array().unwrap().iter().any(|function| function["name"] == "recent"));

    let metrics = server.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    for line in ["tidegate_samples_appended_total 540", "tidegate_series 9", "tidegate_uptime_seconds 90"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for line in text.lines() {
        let named = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        assert!(named.starts_with("tidegate_"), "{line}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_clients_that_can_read_them() {
    let server = Server::start();
    for (accepted, encoding) in [("gzip", "gzip"), ("gzip, br", "br"), ("identity", "")] {
        let answer = server.send(Method::GET, "/api/v1/schema", &[("accept-encoding", accepted)], "").await;
        assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
    }
}

#[tokio::test]
async fn a_limit_is_adopted_by_hand_and_one_that_nobody_can_adopt_says_why() {
    let server = Server::start();
    server.measured("web").await;
    let cpu = json!({ "resource": "cpu" });
    assert_eq!(server.post("/api/v1/containers/node0/none/adopt", &cpu).await.status, StatusCode::NOT_FOUND);
    let wrong = server.post("/api/v1/containers/node0/web/adopt", &json!({ "resource": "disk" })).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{}", wrong.text());
    // The host of these tests has no limit of its own to adopt.
    let answer = server.post("/api/v1/containers/node0/web/adopt", &cpu).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text());
    assert!(answer.text().contains("refused"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_bounds_and_pins_a_container_until_it_is_taken_back() {
    let server = Server::start();
    server.measured("web").await;
    let host = Host { name: "node0".to_owned(), cpu: Cores(8.0), memory: Bytes(16 << 30), last_seen: TimeMs(NOW) };
    server.state.store.put_host(host).unwrap();
    let path = "/api/v1/containers/node0/web/override";
    let put = async |body: &Value| server.send(Method::PUT, path, &[], &body.to_string()).await;
    let bounds = json!({ "cpu": { "min": 0.5, "max": 2 } });
    let said = put(&json!({ "bounds": bounds, "pinned": ["memory"], "why": "it is being moved" })).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text());
    let row = said.json();
    assert_eq!(row["bounds"]["cpu"], json!({ "min": 0.5, "max": 2.0 }));
    let said = &row["override"];
    assert_eq!((&said["pinned"], &said["why"]), (&json!(["memory"]), &json!("it is being moved")));
    assert_eq!((&said["bounds"]["cpu"]["max"], &said["bounds"]["memory"]), (&json!(2.0), &Value::Null));

    // The next measurement changes nothing about it, and SQL tells who said so.
    server.measured("web").await;
    let row = server.get("/api/v1/containers/node0/web").await.json();
    assert_eq!(row["bounds"]["cpu"]["max"], 2.0);
    let sql = "SELECT b.max, b.set_by, c.pinned FROM bounds b JOIN containers c USING (host, container)
               WHERE b.resource = 'cpu'";
    let rows = server.post("/api/v1/sql", &json!({ "sql": sql })).await.json()["rows"].clone();
    assert_eq!((&rows[0][0], &rows[0][2]), (&json!(2.0), &json!("memory")), "{rows}");
    assert_eq!(rows[0][1], row["override"]["changed_by"]);

    for (body, wrong) in [
        (json!({ "bounds": { "cpu": { "min": 3, "max": 2 } } }), "expected 0 <= min <= max, found min 3, max 2"),
        (json!({ "bounds": { "cpu": { "min": 0, "max": 1000 } } }), "is more than node0 has"),
        (
            json!({ "bounds": { "memory.high": { "min": 0, "max": 1 } } }),
            "unknown field `memory.high`, expected one of `cpu`, `memory`, `disk_read`, `disk_write`, `net_receive`, `net_send`",
        ),
        (json!({ "bounds": { "disk_read": { "min": 2, "max": 1 } } }), "bounds of disk_read: expected 0 <= min <= max"),
        (json!({ "pinned": ["cpu.weight"] }), "'cpu.weight' is pinned along with cpu"),
        (json!({ "pin": true }), "unknown field `pin`"),
    ] {
        let refused = put(&body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(refused.text().contains(wrong), "{}", refused.text());
    }
    // What its disks can do nobody knows, so a bound on them is as it is said.
    let range = json!({ "min": 0, "max": 1e12 });
    let disks = put(&json!({ "bounds": { "disk_write": range }, "pinned": ["disk_read"] })).await.json();
    assert_eq!((&disks["bounds"]["disk_write"]["max"], &disks["bounds"]["disk_read"]), (&json!(1e12), &Value::Null));
    assert_eq!(disks["override"]["pinned"], json!(["disk_read"]));
    let network = put(&json!({ "bounds": { "net_send": range }, "pinned": ["net_receive"] })).await.json();
    assert_eq!(
        (&network["bounds"]["net_send"]["max"], &network["bounds"]["net_receive"]),
        (&json!(1e12), &Value::Null)
    );
    assert_eq!(network["override"]["pinned"], json!(["net_receive"]));

    let unknown = server.send(Method::PUT, "/api/v1/containers/node0/none/override", &[], "{}").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);

    let row = server.send(Method::DELETE, path, &[], "").await.json();
    assert_eq!(row["override"], Value::Null);
    server.measured("web").await;
    assert_eq!(server.get("/api/v1/containers/node0/web").await.json()["bounds"]["cpu"]["max"], 4.0);
}
