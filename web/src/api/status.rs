//! `/api/v1/status`: how this server is doing.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tidegate_model::{Mode, TimeMs};
use tidegate_store::RuleRow;

use crate::{App, fleet};

/// `GET /api/v1/status`
pub(crate) async fn status(State(app): State<App>) -> Json<Value> {
    Json(snapshot(&app))
}

/// `GET /api/v1/config`: every setting in force with its origin. To read only: what it says is decided before the start.
pub(crate) async fn config(State(app): State<App>) -> Json<Value> {
    Json(json!({ "settings": *app.settings }))
}

/// The status as of now; also an event of the live stream.
pub(crate) fn snapshot(app: &App) -> Value {
    let now = app.clock.now();
    let (store, rules) = (app.store.stats(), app.engine.rules());
    json!({
        "version": app.info.version,
        "host": app.info.host,
        "simulated": app.info.simulated,
        "started": app.info.started,
        "uptime_s": now.since(app.info.started).as_secs(),
        "now": now,
        "cgroup": app.info.cgroup,
        "frozen": app.engine.frozen(),
        "containers": fleet::present(app, now).len(),
        "rules": rules.len(),
        "store": {
            "series": store.series,
            "metrics": store.metrics,
            "hot_samples": store.hot_samples,
            "segments": store.segments,
            "segment_bytes": store.segment_bytes,
            "wal_bytes": store.wal_bytes,
            "appended_total": store.appended_total,
            "rejected_total": store.rejected_total,
        },
        "pushed": app.ingest.counters.snapshot(),
        "ingest_per_s": app.ingest_rate.per_second(store.appended_total),
        "clients": app.hub.clients(),
        "tick_lag_ms": overdue(&rules, now).as_millis() as u64,
    })
}

/// By how much the most overdue rule missed its time: less than a second while the ticks keep up.
pub(crate) fn overdue(rules: &[RuleRow], now: TimeMs) -> Duration {
    // One that runs when samples arrive has no time to miss.
    let active = rules.iter().filter(|rule| rule.mode != Mode::Off && rule.every_ms > 0);
    let late = active.map(|rule| {
        let last = rule.last_run.unwrap_or(rule.updated_at);
        now.since(last.plus(Duration::from_millis(rule.every_ms)))
    });
    late.max().unwrap_or_default()
}
