//! The push routes against a real store: what clients are told, and what a query finds afterwards.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tidegate_ingest::{IngestState, routes};
use tidegate_model::{Clock, TimeMs, VirtualClock};
use tidegate_store::{Store, StoreConfig};
use tower::ServiceExt;

/// 2026-11-21 20:00:00 UTC.
const NOW: TimeMs = TimeMs(1_795_291_200_000);
const MAX_BODY: usize = 1 << 20;

struct Server {
    router: Router,
    state: IngestState,
    clock: Arc<VirtualClock>,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }
}

impl Server {
    fn new() -> Self {
        Self::with(StoreConfig::default())
    }

    fn with(config: StoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { dir: dir.path().join("data"), ..config }, NOW).unwrap();
        let clock = Arc::new(VirtualClock::new(NOW));
        let state = IngestState::new(store, clock.clone(), MAX_BODY);
        Self { router: routes(state.clone()), state, clock, _dir: dir }
    }

    async fn write(&self, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.send(Method::POST, "/api/v1/write", headers, body).await
    }

    async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        assert!(![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status));
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn post(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, uri, &[("content-type", "application/json")], body).await
    }

    async fn rows(&self, sql: &str) -> Value {
        let options = self.state.store.default_query_options(self.clock.now());
        let result = self.state.store.query(sql, &options).await.unwrap();
        let answer: Value = serde_json::from_slice(&tidegate_store::export::json(&result).unwrap()).unwrap();
        answer["rows"].clone()
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn point(value: &str) -> Value {
    json!({"metric": "proc.cpu.user", "timestamp": "1795291195", "value": value, "tags": {"host": "c0", "pid": "7"}})
}

#[tokio::test]
async fn the_feeders_compressed_batch_is_answered_204_and_found_by_a_query() {
    let server = Server::new();
    let body = gzip(&json!([point("45.00"), point("45.50")]).to_string());
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let answer = server.send(Method::POST, "/api/put", &headers, body).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    let rows = server.rows(r#"SELECT host, pid, value FROM metric."proc.cpu.user""#).await;
    assert_eq!(rows, json!([["c0", "7", 45.5]]), "the later point of the same series and time counts");
}

#[tokio::test]
async fn the_feeders_last_empty_batch_is_harmless() {
    let server = Server::new();
    for body in ["[]", "[\n\n]"] {
        assert_eq!(server.post("/api/put", body).await.status, StatusCode::NO_CONTENT);
        let summary = server.post("/api/put/?summary", body).await;
        assert_eq!((summary.status, summary.text.as_str()), (StatusCode::OK, r#"{"success":0,"failed":0}"#));
    }
}

#[tokio::test]
async fn bad_points_are_named_and_their_neighbours_stored() {
    let server = Server::new();
    let far = json!({"metric": "m", "timestamp": 1_795_391_200, "value": 1, "tags": {"host": "c0"}});
    let body = json!([point("1"), point("NaN"), far]).to_string();
    let answer = server.post("/api/put?details", body.clone()).await;
    let report = answer.json();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!((&report["success"], &report["failed"]), (&json!(1), &json!(2)));
    assert_eq!(report["errors"][0]["error"], "Unable to parse value to a number");
    assert_eq!(report["errors"][0]["datapoint"]["timestamp"], 1_795_291_195);
    assert_eq!(
        report["errors"][1]["datapoint"],
        json!({"metric": "m", "timestamp": 1_795_391_200, "value": "1", "tags": {"host": "c0"}})
    );
    assert!(report["errors"][1]["error"].as_str().unwrap().contains("ahead of this server's clock"), "{report}");

    let plain = server.post("/api/put", body.clone()).await;
    assert_eq!(plain.status, StatusCode::BAD_REQUEST);
    assert_eq!(plain.json()["error"]["message"], "One or more data points had errors");
    assert_eq!(server.post("/api/put?summary&details=no", body).await.text, answer.text);
    assert_eq!(server.rows("SELECT metric, value FROM samples").await, json!([["proc.cpu.user", 1.0]]));
}

#[tokio::test]
async fn a_put_that_cannot_be_read_stores_nothing_and_says_where() {
    let server = Server::new();
    let cut = server.post("/api/put", format!("[{},\n{{\"metric\":", point("1"))).await;
    assert_eq!(cut.status, StatusCode::BAD_REQUEST);
    assert_eq!(cut.json()["error"]["code"], 400);
    assert!(cut.json()["error"]["details"].as_str().unwrap().contains("line 2 column 10"), "{}", cut.text);
    assert_eq!(server.post("/api/put", "").await.json()["error"]["message"], "Missing request content");
    let get = server.send(Method::GET, "/api/put", &[], "").await;
    assert_eq!(
        (get.status, &get.json()["error"]["message"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("Method not allowed"))
    );
    assert_eq!(server.state.store.stats().appended_total, 0);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused_compressed_or_not() {
    let server = Server::new();
    let long = " ".repeat(MAX_BODY + 1);
    let answer = server.post("/api/put", long.clone()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(413)));
    let answer = server.send(Method::POST, "/api/v2/write", &[("content-encoding", "gzip")], gzip(&long)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.json()["message"].as_str().unwrap().contains("when inflated"), "{}", answer.text);
    let answer = server.send(Method::POST, "/write", &[("content-encoding", "zstd")], "m value=1").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let frames = (0..20).map(|_| Ok::<_, std::io::Error>("m value=1\n".repeat(100)));
    let chunked = server.send(Method::POST, "/write", &[], Body::from_stream(futures::stream::iter(frames))).await;
    assert_eq!(chunked.status, StatusCode::NO_CONTENT, "{}", chunked.text);
}

#[tokio::test]
async fn a_large_batch_is_decoded_apart_with_the_same_result() {
    let server = Server::new();
    let points: Vec<_> =
        (0..2000).map(|n| json!({"metric": "m", "timestamp": 1_795_291_195, "value": n, "tags": {"n": n}})).collect();
    assert_eq!(server.post("/api/put", json!(points).to_string()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.rows("SELECT count(*), sum(value) FROM metric.m").await, json!([[2000, 1_999_000.0]]));
}

#[tokio::test]
async fn monasca_metrics_are_stored_with_their_dimensions() {
    let server = Server::new();
    let metric = json!({"name": "cpu.percent", "dimensions": {"hostname": "n 0"}, "timestamp": 1_795_291_195_250_i64,
        "value": 12.5, "value_meta": {"unit": "%"}});
    assert_eq!(server.post("/v2.0/metrics", metric.to_string()).await.status, StatusCode::NO_CONTENT);
    let array = json!([{"name": "load", "timestamp": 1_795_291_195_000_i64, "value": 2}]).to_string();
    assert_eq!(server.post("/v2.0/metrics/?tenant_id=t&debug=False", array).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.rows(r#"SELECT hostname, value FROM metric."cpu.percent""#).await, json!([["n 0", 12.5]]));
    assert_eq!(server.rows("SELECT value FROM metric.load").await, json!([[2.0]]));
}

#[tokio::test]
async fn monasca_rejects_a_whole_array_for_one_invalid_metric() {
    let server = Server::new();
    let good = json!({"name": "m", "timestamp": NOW.0, "value": 1});
    let answer =
        server.post("/v2.0/metrics", json!([good, {"name": "a b", "timestamp": NOW.0, "value": 1}]).to_string()).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        answer.json(),
        json!({"title": "Unprocessable Entity", "description": "metric 1: invalid characters in metric name: a b"})
    );
    assert_eq!(server.state.store.stats().appended_total, 0);

    let late = json!([good, {"name": "late", "timestamp": 5, "value": 1}]).to_string();
    let answer = server.post("/v2.0/metrics", late).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let description = answer.json()["description"].as_str().unwrap().to_owned();
    assert!(description.starts_with("metric 1: time 5 is "), "{description}");
    assert!(description.ends_with("; the other 1 are stored"), "{description}");
    assert_eq!(server.state.store.stats().appended_total, 1);
}

#[tokio::test]
async fn monasca_wants_json_and_says_so() {
    let server = Server::new();
    let body = json!({"name": "m", "timestamp": NOW.0, "value": 1}).to_string();
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let answer = server.send(Method::POST, "/v2.0/metrics", headers, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["title"]), (StatusCode::BAD_REQUEST, &json!("Bad request")));
    }
    let answer = server.post("/v2.0/metrics", "{").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["description"].as_str().unwrap().contains("line 1"), "{}", answer.text);
    let version = server.send(Method::GET, "/v2.0/", &[("host", "h:8070")], "").await.json();
    assert_eq!((&version["id"], &version["links"][0]["href"]), (&json!("v2.0"), &json!("//h:8070/v2.0/")));
}

#[tokio::test]
async fn influx_lines_become_a_metric_a_field() {
    let server = Server::new();
    let body = "cpu,host=a user=1.5,note=\"x\",value=3i 1795291195\nup ok=t";
    for uri in ["/write?db=d&precision=s", "/api/v2/write?org=o&bucket=b&precision=s"] {
        let answer = server.send(Method::POST, uri, &[("content-type", "text/plain")], body).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    }
    let rows = server.rows(r#"SELECT host, value, to_unixtime(time) FROM metric."cpu.user""#).await;
    assert_eq!(rows, json!([["a", 1.5, 1_795_291_195]]));
    assert_eq!(server.rows("SELECT value FROM metric.cpu").await, json!([[3.0]]));
    let rows = server.rows(r#"SELECT value, to_unixtime(time) FROM metric."up.ok""#).await;
    assert_eq!(rows, json!([[1.0, NOW.0 / 1000]]), "a line without a time is of now");
    assert_eq!(server.state.counters.snapshot().influx.skipped, 2);
}

#[tokio::test]
async fn a_partial_write_names_its_lines() {
    let server = Server::new();
    let body = "m value=1\nm value=\nold a=1,b=2 5\nm value=2 1795291195";
    let answer = server.send(Method::POST, "/write?precision=s", &[], body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("partial write: line 2: field 'value': missing value; line 3: time 5000 is "), "{error}");
    assert!(error.ends_with(" dropped=2"), "{error}");
    assert_eq!(server.state.store.stats().appended_total, 2);

    let answer = server.send(Method::POST, "/api/v2/write", &[], "m value").await;
    assert_eq!(
        (answer.status, answer.json()),
        (
            StatusCode::BAD_REQUEST,
            json!({"code": "invalid", "message": "partial write: line 1: field 'value' has no value dropped=1"})
        )
    );
    let answer = server.send(Method::POST, "/write?precision=d", &[], "m value=1").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["error"].as_str().unwrap().contains("'d'"), "{}", answer.text);
}

/// A field of a protocol-buffers message that holds bytes, fewer than 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// `up{job="node"}` with one sample, as a message of version 1; the time is a varint of a few bytes.
fn timeseries(value: f64, time: TimeMs) -> Vec<u8> {
    let label = |name: &str, value: &str| field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let mut sample = vec![0x09];
    sample.extend_from_slice(&value.to_le_bytes());
    sample.push(0x10);
    let mut left = time.0;
    while left >= 0x80 {
        sample.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    sample.push(left as u8);
    field(1, &[label("__name__", "up"), label("job", "node"), field(2, &sample)].concat())
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(plain).unwrap()
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

#[tokio::test]
async fn a_remote_write_is_stored_however_it_is_compressed() {
    let server = Server::new();
    let before = |s: i64| TimeMs(NOW.0 - s * 1000);
    let snappy_header = ("content-encoding", "snappy");
    assert_eq!(server.write(&[PROTOBUF, snappy_header], snappy(&timeseries(1.0, before(3)))).await.status, 204);
    assert_eq!(server.write(&[PROTOBUF], snappy(&timeseries(2.0, before(2)))).await.status, 204);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&timeseries(3.0, before(1))).unwrap();
    let zipped = encoder.finish().unwrap();
    let answer = server.write(&[PROTOBUF, ("content-encoding", "gzip")], zipped).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(answer.headers["x-prometheus-remote-write-samples-written"], "1");
    let rows = server.rows("SELECT job, value FROM metric.up ORDER BY time").await;
    assert_eq!(rows, json!([["node", 1.0], ["node", 2.0], ["node", 3.0]]));
    assert_eq!(server.state.spellings.read().len(), 1);
    assert_eq!(server.state.counters.snapshot().prometheus.accepted, 3);
}

#[tokio::test]
async fn what_remote_write_cannot_take_is_named() {
    let server = Server::new();
    let answer = server.write(&[("content-type", "application/json")], b"{}".to_vec()).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(
        answer.json()["error"].as_str().unwrap().contains("'application/json' is not supported"),
        "{}",
        answer.text
    );
    let answer = server.write(&[PROTOBUF], b"not snappy".to_vec()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["error"].as_str().unwrap().contains("not valid snappy"), "{}", answer.text);
    let answer = server.write(&[PROTOBUF], snappy(b"\x0a\x7f")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(
        answer.json()["error"].as_str().unwrap().contains("length reaches beyond the end at byte 1"),
        "{}",
        answer.text
    );
    let answer = server.write(&[PROTOBUF], snappy(&vec![0; MAX_BODY + 1])).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let bad = [timeseries(f64::NAN, NOW), timeseries(1.0, NOW), timeseries(1.0, TimeMs(5))].concat();
    let answer = server.write(&[PROTOBUF], snappy(&bad)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("timeseries 0: up{job=\"node\"}: value at time"), "{error}");
    assert!(error.contains("timeseries 2: up: time 5 is ") && error.ends_with("; the other 1 are stored"), "{error}");
    assert_eq!(server.state.store.stats().appended_total, 1);
}

#[tokio::test]
async fn a_series_that_was_forgotten_meanwhile_is_stored_again() {
    let server = Server::with(StoreConfig { retention_s: 100, ..StoreConfig::default() });
    let push = async |at: i64| {
        let body = json!([{"metric": "m", "timestamp": at, "value": 1, "tags": {"h": "a"}}]).to_string();
        assert_eq!(server.post("/api/put", body).await.status, StatusCode::NO_CONTENT);
        let line = format!("l,h=a value=2 {at}");
        assert_eq!(server.send(Method::POST, "/write?precision=s", &[], line).await.status, StatusCode::NO_CONTENT);
        assert_eq!(server.write(&[PROTOBUF], snappy(&timeseries(3.0, TimeMs(at * 1000)))).await.status, 204);
    };
    let (store, first) = (&server.state.store, NOW.0 / 1000);
    push(first).await;
    push(first + 1).await;
    assert_eq!(server.state.spellings.read().len(), 3);
    store.flush(NOW).await.unwrap();
    server.clock.set(TimeMs(NOW.0 + 200_000));
    let report = store.flush(TimeMs(NOW.0 + 200_000)).await.unwrap();
    assert_eq!(report.series_removed, 3);
    push(first + 199).await;
    push(first + 200).await;
    assert_eq!(
        server.rows("SELECT metric, count(*) FROM samples GROUP BY metric ORDER BY metric").await,
        json!([["l", 2], ["m", 2], ["up", 2]])
    );
}

#[tokio::test]
async fn a_flood_of_new_series_is_refused_by_name_while_known_ones_go_on() {
    let server = Server::with(StoreConfig { max_series: 10, ..StoreConfig::default() });
    let point = |n: usize| json!({"metric": "m", "timestamp": NOW.0, "value": n, "tags": {"n": n.to_string()}});
    let known: Vec<_> = (0..10).map(point).collect();
    assert_eq!(server.post("/api/put", json!(known).to_string()).await.status, StatusCode::NO_CONTENT);
    for round in 1..=5 {
        let flood: Vec<_> = (0..10).chain(round * 3000..round * 3000 + 2990).map(point).collect();
        let report = server.post("/api/put?details", json!(flood).to_string()).await.json();
        assert_eq!((&report["success"], &report["failed"]), (&json!(10), &json!(2990)));
        let errors = report["errors"].as_array().unwrap();
        assert_eq!(errors.len(), tidegate_store::MAX_REASONS, "the rest is counted");
        assert!(errors[0]["error"].as_str().unwrap().contains(&format!("m{{n={}}} is beyond the limit", round * 3000)));
    }
    let stats = server.state.store.stats();
    assert_eq!((stats.series, stats.appended_total, stats.rejected_total), (10, 60, 5 * 2990));
    assert_eq!(server.state.spellings.read().len(), 10, "what is refused is not remembered");
    let lines: String = (0..2000).map(|n| format!("flood,n={n} a=1,b=2\n")).collect();
    let answer = server.send(Method::POST, "/write", &[], lines).await;
    assert!(answer.json()["error"].as_str().unwrap().ends_with("dropped=2000"), "{}", answer.text);
}

#[tokio::test]
async fn bodies_of_known_shape_are_stored_as_the_first_ones_were() {
    let server = Server::new();
    for round in 0..4i64 {
        let at = NOW.0 / 1000 - 10 + round;
        let points: Vec<_> = (0..50)
            .map(|n| json!({"metric": "m", "timestamp": at.to_string(), "value": format!("{n}.{round}0"), "tags": {"n": n.to_string()}}))
            .collect();
        assert_eq!(server.post("/api/put", json!(points).to_string()).await.status, StatusCode::NO_CONTENT);
    }
    let rows = server.rows("SELECT count(*), count(DISTINCT n), sum(value) FROM metric.m").await;
    assert_eq!(rows[0][0], 200);
    assert_eq!(rows[0][1], 50);
    assert!((rows[0][2].as_f64().unwrap() - (4.0 * 1225.0 + 50.0 * 0.6)).abs() < 1e-6, "{rows}");
    // A point that only the store can refuse is named with its tags, though its series was not spelt out.
    let far = json!([{"metric": "m", "timestamp": "1795391200", "value": "1.00", "tags": {"n": "7"}}]).to_string();
    let report = server.post("/api/put?details", far).await.json();
    assert_eq!(
        report["errors"][0]["datapoint"],
        json!({"metric": "m", "timestamp": 1_795_391_200, "value": "1", "tags": {"n": "7"}})
    );
}

#[tokio::test]
async fn ping_tells_a_version() {
    let server = Server::new();
    for method in [Method::GET, Method::HEAD] {
        let request = Request::builder().method(method).uri("/ping").body(Body::empty()).unwrap();
        let response = server.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(response.headers().contains_key("x-influxdb-version"));
    }
}

#[tokio::test]
async fn everything_is_counted_by_protocol() {
    let server = Server::new();
    let body = json!([point("1"), point("x")]).to_string();
    server.post("/api/put", body.clone()).await;
    server.post("/api/put", "[").await;
    server.post("/v2.0/metrics", json!([{"name": "m", "timestamp": NOW.0, "value": "1"}]).to_string()).await;
    server.post("/write", "m a=1,b=2\nm").await;
    let counts = server.state.counters.snapshot();
    let opentsdb = counts.opentsdb;
    assert_eq!((opentsdb.requests, opentsdb.failed_requests, opentsdb.accepted, opentsdb.rejected), (2, 1, 1, 1));
    assert_eq!(opentsdb.bytes, body.len() as u64 + 1);
    assert_eq!((counts.monasca.failed_requests, counts.monasca.rejected), (1, 1));
    assert_eq!((counts.influx.accepted, counts.influx.rejected), (2, 1));
    assert_eq!(counts.accepted(), 3);
}
