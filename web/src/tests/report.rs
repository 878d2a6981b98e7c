//! What something used, was allocated and had reserved.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate_model::{
    Bytes, Cores, GroupBounds, GroupKey, GroupKind, Host, OutcomeStatus, Resource, SampleBatch, SeriesKey, TimeMs,
    metrics,
};
use tidegate_store::GroupRow;

use super::{NOW, Server, container, decision};

const GIB: f64 = 1_073_741_824.0;
const HOUR_MS: i64 = 3_600_000;

/// Puts a value each `every_s` seconds from `from` on, in ms before the present.
async fn put(
    server: &Server,
    metric: &str,
    name: &str,
    resource: &str,
    seconds: impl Iterator<Item = i64>,
    value: f64,
) {
    let mut batch = SampleBatch::new();
    for second in seconds {
        let tags = [("host", "node0"), ("container", name), ("app", "shop"), ("resource", resource)];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        batch.push(SeriesKey::new(metric, tags), TimeMs(NOW - HOUR_MS + second * 1_000), value);
    }
    let report = server.state.store.append(&batch, TimeMs(NOW)).await.unwrap();
    assert_eq!(report.rejected.len(), 0);
}

/// An hour of two containers. `web` uses half a core of two and 2 GiB of four, but nothing is known of its second
/// quarter; `api` is there for the last ten minutes only, at its limit of one core.
async fn an_hour(server: &Server) {
    server.state.store.put_containers(&[container("web"), container("api")]).unwrap();
    let known = || (0..3_600).filter(|second| !(900..1_800).contains(second));
    for (metric, resource, value) in [
        (metrics::USAGE, "cpu", 0.5),
        (metrics::LIMIT, "cpu", 2.0),
        (metrics::USAGE, "memory", 2.0 * GIB),
        (metrics::LIMIT, "memory", 4.0 * GIB),
    ] {
        put(server, metric, "web", resource, known(), value).await;
    }
    put(server, metrics::USAGE, "api", "cpu", 3_000..3_600, 1.0).await;
    put(server, metrics::LIMIT, "api", "cpu", 3_000..3_600, 1.0).await;
    put(server, metrics::THROTTLED, "api", "cpu", 3_000..3_600, 0.25).await;
}

fn range() -> String {
    format!("from={}&to={NOW}", NOW - HOUR_MS)
}

fn near(answer: &Value, path: &str, expected: f64) {
    let found = answer.pointer(path).and_then(Value::as_f64);
    assert!(
        found.is_some_and(|found| (found - expected).abs() <= 1e-6 * expected.abs().max(1.0)),
        "{path} is {found:?}, not {expected}: {answer}"
    );
}

#[tokio::test]
async fn time_without_data_counts_neither_as_used_nor_as_allocated() {
    let server = Server::start();
    an_hour(&server).await;
    let answer = server.get(&format!("/api/v1/report?container=node0/web&{}", range())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let report = answer.json();
    // 45 minutes of data: 0.375 core-hours used of 1.5, 1.5 GiB-hours of 3.
    for (path, expected) in [
        ("/total/cpu/used", 0.375 * 3_600.0),
        ("/total/cpu/allocated", 1.5 * 3_600.0),
        ("/total/cpu/utilisation", 0.25),
        ("/total/cpu/average", 0.5),
        ("/total/cpu/average_allocated", 2.0),
        ("/total/cpu/maximum", 0.5),
        ("/total/cpu/time_s", 2_700.0),
        ("/total/cpu/covered_s", 2_700.0),
        ("/total/cpu/at_limit_s", 0.0),
        // The bound of the container is four cores.
        ("/total/cpu/reserved", 3.0 * 3_600.0),
        ("/total/memory/used", 1.5 * 3_600.0 * GIB),
        ("/total/memory/allocated", 3.0 * 3_600.0 * GIB),
        ("/total/memory/utilisation", 0.5),
    ] {
        near(&report, path, expected);
    }
    let cpu = &report["total"]["cpu"];
    assert_eq!((&cpu["gaps"], &cpu["samples"], &cpu["reserved_by"]), (&json!(1), &json!(2_700), &json!("bounds")));
    assert_eq!(cpu["throttled_s"], Value::Null, "nobody measured it");
    assert_eq!(report["total"]["energy"], Value::Null, "and no energy");
    // Nothing bounds the memory, and nobody knows how much the host has.
    assert_eq!(
        (&report["total"]["memory"]["reserved"], &report["total"]["memory"]["reserved_by"]),
        (&Value::Null, &Value::Null)
    );
    let used = report["series"]["cpu"]["used"].as_array().unwrap();
    assert_eq!(used.len(), report["t"].as_array().unwrap().len());
    let holes = used.iter().filter(|value| value.is_null()).count();
    assert!((holes as f64 / used.len() as f64 - 0.25).abs() < 0.01, "{holes} of {}", used.len());
}

#[tokio::test]
async fn a_group_is_the_sum_of_its_containers_over_the_time_that_any_of_them_ran() {
    let server = Server::start();
    an_hour(&server).await;
    let host = Host { name: "node0".to_owned(), cpu: Cores(8.0), memory: Bytes(16 << 30), last_seen: TimeMs(NOW) };
    server.state.store.put_host(host).unwrap();
    let refused = decision("2", "web", 60);
    let refused = tidegate_model::Decision {
        outcome: tidegate_model::Outcome { status: OutcomeStatus::Refused, ..refused.outcome.clone() },
        ..refused
    };
    let too_old = decision("4", "web", 4_000);
    server
        .state
        .store
        .append_decisions(&[decision("1", "web", 50), refused, decision("3", "api", 50), too_old])
        .await
        .unwrap();
    let report = server.get(&format!("/api/v1/report?app=shop&{}", range())).await.json();
    for (path, expected) in [
        ("/total/cpu/used", 0.375 * 3_600.0 + 600.0),
        ("/total/cpu/allocated", 1.5 * 3_600.0 + 600.0),
        ("/total/cpu/time_s", 3_300.0),
        ("/total/cpu/covered_s", 2_700.0),
        ("/total/cpu/average", (0.375 * 3_600.0 + 600.0) / 2_700.0),
        ("/total/cpu/maximum", 1.5),
        ("/total/cpu/at_limit_s", 600.0),
        ("/total/cpu/throttled_s", 150.0),
        ("/total/cpu/reserved", 4.0 * 3_300.0),
        ("/total/cpu/changes", 2.0),
        ("/total/cpu/raised", 2.0),
        ("/containers/0/cpu/used", 600.0),
        ("/containers/1/cpu/changes", 1.0),
        // Two containers share what the host has; only one was measured.
        ("/total/memory/reserved", 8.0 * GIB * 2_700.0),
    ] {
        near(&report, path, expected);
    }
    assert_eq!(report["containers"][0]["name"], "api");
    assert_eq!(report["total"]["memory"]["reserved_by"], "host_share");

    let bounds = BTreeMap::from([(Resource::Cpu, GroupBounds { min: None, max: Some(6.0) })]);
    let key = GroupKey { kind: GroupKind::App, name: "shop".to_owned() };
    let row = GroupRow { key, bounds, changed_by: "me".to_owned(), changed_at: TimeMs(NOW) };
    server.state.store.put_group(row).unwrap();
    let report = server.get(&format!("/api/v1/report?app=shop&{}", range())).await.json();
    near(&report, "/total/cpu/reserved", 6.0 * 2_700.0);
}

#[tokio::test]
async fn years_without_data_change_nothing() {
    let server = Server::start();
    an_hour(&server).await;
    let from = NOW - 9 * 365 * 86_400_000;
    let report = server.get(&format!("/api/v1/report?app=shop&from={from}&to={}", NOW + HOUR_MS)).await.json();
    near(&report, "/total/cpu/used", 0.375 * 3_600.0 + 600.0);
    near(&report, "/total/cpu/covered_s", 2_700.0);
    assert!(report["took_ms"].as_u64().unwrap() < 5_000, "{}", report["took_ms"]);
}

#[tokio::test]
async fn energy_is_told_where_somebody_pushes_it() {
    let server = Server::start();
    an_hour(&server).await;
    put(&server, metrics::USAGE, "web", "energy", (0..3_600).step_by(10), 20.0).await;
    let report = server.get(&format!("/api/v1/report?container=node0/web&{}", range())).await.json();
    near(&report, "/total/energy/used", 20.0 * 3_600.0);
    near(&report, "/containers/0/energy/used", 20.0 * 3_600.0);
    assert_eq!(
        (&report["total"]["energy"]["unit"], &report["total"]["energy"]["allocated"]),
        (&json!("watts"), &Value::Null)
    );
}

#[tokio::test]
async fn a_report_of_nobody_or_of_two_says_what_is_wrong() {
    let server = Server::start();
    server.state.store.put_containers(&[container("web")]).unwrap();
    for (query, status, told) in [
        ("", StatusCode::BAD_REQUEST, "container=HOST/NAME"),
        ("app=shop&user=me", StatusCode::BAD_REQUEST, "container=HOST/NAME"),
        ("container=web", StatusCode::BAD_REQUEST, "'web'"),
        ("container=node0/none", StatusCode::NOT_FOUND, "node0/none"),
        ("app=none", StatusCode::NOT_FOUND, "app none"),
        ("app=shop&from=5&to=5", StatusCode::BAD_REQUEST, "empty"),
        ("app=shop&form=5", StatusCode::BAD_REQUEST, "form"),
    ] {
        let answer = server.get(&format!("/api/v1/report?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
        assert!(answer.text().contains(told), "{query}: {}", answer.text());
    }
    // Known, but never measured.
    let empty = server.get("/api/v1/report?app=shop").await.json();
    assert_eq!((&empty["total"]["cpu"]["used"], &empty["total"]["cpu"]["average"]), (&json!(0.0), &Value::Null));
}
