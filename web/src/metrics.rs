//! `/metrics`: this server's own figures in Prometheus' text format.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use tidegate_ingest::Protocol;
use tidegate_store::RuleRow;

use crate::api::status;
use crate::{App, fleet};

/// This server's own figures, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "Server",
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain")),
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&app)).into_response()
}

fn text(app: &App) -> String {
    let now = app.clock.now();
    let (store, rules) = (app.store.stats(), app.engine.rules());
    let mut page = Page(String::new());

    page.metric("tidegate_build_info", "gauge", "The program's version, as a label.");
    page.sample("tidegate_build_info", &[("version", &app.info.version)], 1);
    page.single("tidegate_uptime_seconds", "gauge", "Time since the start.", now.since(app.info.started).as_secs());
    page.single("tidegate_containers", "gauge", "Containers measured lately.", fleet::present(app, now).len());

    page.single("tidegate_samples_appended_total", "counter", "Samples stored.", store.appended_total);
    page.single("tidegate_samples_rejected_total", "counter", "Samples refused.", store.rejected_total);
    let pushed = app.ingest.counters.snapshot();
    page.metric("tidegate_ingest_samples_total", "counter", "Pushed samples by wire protocol and result.");
    for protocol in Protocol::ALL {
        let counts = pushed.of(protocol);
        for (result, count) in
            [("accepted", counts.accepted), ("rejected", counts.rejected), ("skipped", counts.skipped)]
        {
            let labels = [("protocol", protocol.as_str()), ("result", result)];
            page.sample("tidegate_ingest_samples_total", &labels, count);
        }
    }
    page.single("tidegate_series", "gauge", "Distinct series.", store.series);
    page.single("tidegate_hot_samples", "gauge", "Samples in memory.", store.hot_samples);
    page.single("tidegate_segments", "gauge", "Parquet segments.", store.segments);
    page.single("tidegate_segment_bytes", "gauge", "Size of all segments.", store.segment_bytes);
    page.single("tidegate_wal_bytes", "gauge", "Size of the write-ahead log.", store.wal_bytes);
    page.single("tidegate_queries_total", "counter", "SQL queries, those of rules included.", store.queries_total);

    page.single("tidegate_rules", "gauge", "Rules, whatever their mode.", rules.len());
    rule_gauges(&mut page, &rules);
    let frozen = u8::from(app.engine.frozen().is_some());
    page.single("tidegate_frozen", "gauge", "Whether the kill switch is on: no limit is changed.", frozen);
    page.metric("tidegate_decisions_total", "counter", "Decisions by outcome.");
    for (outcome, count) in app.decided.counts() {
        page.sample("tidegate_decisions_total", &[("outcome", outcome)], count);
    }
    let lag = status::overdue(&rules, now).as_secs_f64();
    page.single("tidegate_tick_lag_seconds", "gauge", "By how much the most overdue rule missed its time.", lag);
    page.single("tidegate_sse_clients", "gauge", "Open live streams.", app.hub.clients());
    page.0
}

/// The newest run of each rule.
fn rule_gauges(page: &mut Page, rules: &[RuleRow]) {
    type Value = fn(&RuleRow) -> Option<f64>;
    let gauges: [(&str, &str, Value); 4] = [
        ("tidegate_rule_last_run_timestamp_seconds", "The newest tick that the rule was evaluated for.", |rule| {
            rule.last_run.map(|run| run.0 as f64 / 1_000.0)
        }),
        ("tidegate_rule_last_latency_seconds", "Time that the newest evaluation took.", |rule| {
            rule.last_latency_ms.map(|latency| latency / 1_000.0)
        }),
        ("tidegate_rule_last_rows", "Rows that the newest evaluation returned.", |rule| {
            rule.last_rows.map(|rows| rows as f64)
        }),
        ("tidegate_rule_failing", "1 when the newest evaluation failed, else 0.", |rule| {
            rule.last_run.map(|_| f64::from(u8::from(rule.last_error.is_some())))
        }),
    ];
    for (name, help, value) in gauges {
        page.metric(name, "gauge", help);
        for rule in rules {
            if let Some(value) = value(rule) {
                page.sample(name, &[("rule", &rule.name)], value);
            }
        }
    }
}

struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{braced} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_the_page() {
        let mut page = Page(String::new());
        page.sample("m", &[("a", "x\"y\\z\n")], 1.5);
        assert_eq!(page.0, "m{a=\"x\\\"y\\\\z\\n\"} 1.5\n");
    }
}
