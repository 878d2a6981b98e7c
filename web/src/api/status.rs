//! `/api/v1/status`: how this server is doing.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tidegate_ingest::IngestCounters;
use tidegate_model::{Mode, TimeMs};
use tidegate_store::{Freeze, RuleRow};
use utoipa::ToSchema;

use crate::openapi::shapes;
use crate::{App, Setting, fleet};

/// How a server is doing.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    /// The program's version.
    version: String,
    /// This host's name.
    host: String,
    /// Why no kernel is behind the limits, when none is.
    simulated: Option<String>,
    /// When the process started, in ms UTC.
    started: i64,
    uptime_s: u64,
    /// In ms UTC.
    now: i64,
    /// `v1`, `v2`, `hybrid` or `none`.
    cgroup: String,
    /// The kill switch, when it is on.
    #[schema(value_type = Option<shapes::Freeze>)]
    frozen: Option<Freeze>,
    /// Containers that were measured lately.
    containers: usize,
    /// Rules, whatever their mode.
    rules: usize,
    store: Stored,
    /// What came in through each protocol.
    #[schema(value_type = shapes::Pushed)]
    pushed: IngestCounters,
    /// Samples stored each second.
    ingest_per_s: f64,
    /// Open live streams.
    clients: usize,
    /// By how much the most overdue rule missed its time.
    tick_lag_ms: u64,
}

/// How much there is in the store.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stored {
    series: usize,
    metrics: usize,
    /// Samples in memory.
    hot_samples: usize,
    /// Segments on disk.
    segments: usize,
    segment_bytes: u64,
    /// Size of the write-ahead log.
    wal_bytes: u64,
    /// Samples stored since the start.
    appended_total: u64,
    /// Samples refused since the start.
    rejected_total: u64,
}

/// All settings.
#[derive(Serialize, ToSchema)]
pub(crate) struct Settings {
    settings: Vec<Setting>,
}

/// How the server is doing.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "Server",
    responses((status = 200, description = "The present", body = Status)),
)]
pub(crate) async fn status(State(app): State<App>) -> Json<Status> {
    Json(snapshot(&app))
}

/// Every setting in force, with its origin.
///
/// To read only: what it says is decided before the start.
#[utoipa::path(
    get, path = "/api/v1/config", tag = "Server",
    responses((status = 200, description = "All settings; secrets are masked", body = Settings)),
)]
pub(crate) async fn config(State(app): State<App>) -> Json<Settings> {
    Json(Settings { settings: app.settings.to_vec() })
}

/// The status as of now; also an event of the live stream.
pub(crate) fn snapshot(app: &App) -> Status {
    let now = app.clock.now();
    let (store, rules) = (app.store.stats(), app.engine.rules());
    Status {
        version: app.info.version.clone(),
        host: app.info.host.clone(),
        simulated: app.info.simulated.clone(),
        started: app.info.started.0,
        uptime_s: now.since(app.info.started).as_secs(),
        now: now.0,
        cgroup: app.info.cgroup.clone(),
        frozen: app.engine.frozen(),
        containers: fleet::present(app, now).len(),
        rules: rules.len(),
        ingest_per_s: app.ingest_rate.per_second(store.appended_total),
        store: Stored {
            series: store.series,
            metrics: store.metrics,
            hot_samples: store.hot_samples,
            segments: store.segments,
            segment_bytes: store.segment_bytes,
            wal_bytes: store.wal_bytes,
            appended_total: store.appended_total,
            rejected_total: store.rejected_total,
        },
        pushed: app.ingest.counters.snapshot(),
        clients: app.hub.clients(),
        tick_lag_ms: overdue(&rules, now).as_millis() as u64,
    }
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
