//! `/metrics`: this server's own figures in Prometheus' text format.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use tidegate_ingest::Protocol;

use crate::figures::Figures;
use crate::{App, fleet};

/// `GET /metrics`
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&app)).into_response()
}

fn text(app: &App) -> String {
    let now = app.clock.now();
    let (store, engine) = (app.store.stats(), app.engine.stats());
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

    page.single("tidegate_rules", "gauge", "Rules, whatever their mode.", app.engine.rules().len());
    page.single("tidegate_rule_runs_total", "counter", "Evaluations of rules.", engine.rule_runs);
    page.single("tidegate_rule_errors_total", "counter", "Evaluations that failed.", engine.rule_errors);
    page.metric("tidegate_rule_latency_seconds", "summary", "Time that evaluations took.");
    page.sample("tidegate_rule_latency_seconds_sum", &[], engine.rule_latency_s_sum);
    page.sample("tidegate_rule_latency_seconds_count", &[], engine.rule_runs);
    page.metric("tidegate_decisions_total", "counter", "Decisions by outcome.");
    for (outcome, count) in &engine.decisions {
        page.sample("tidegate_decisions_total", &[("outcome", outcome)], count);
    }
    page.single("tidegate_tick_lag_seconds", "gauge", "How late the newest tick ended.", engine.tick_lag_ms / 1_000.0);
    page.single("tidegate_sse_clients", "gauge", "Open live streams.", app.hub.clients());
    page.0
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
