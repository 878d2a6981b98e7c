//! `/api/v1/compact`: the background work at once.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::App;
use crate::error::ApiError;

/// `POST /api/v1/compact`: writes what is in memory to segments and merges those, all of them. Before a copy is made by
/// other means than a backup, or to see what the data come to on disk; otherwise it happens by itself, in time.
pub(crate) async fn compact(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let failed =
        |error| ApiError::internal("the compaction", &error).help("`tidegate check` says whether the store is damaged");
    let flushed = app.store.flush(app.clock.now()).await.map_err(failed)?;
    let report = app.store.compact().await.map_err(failed)?;
    Ok(Json(json!({
        "flushed_samples": flushed.samples,
        "segments_in": report.segments_in,
        "segments_out": report.segments_out,
        "rows": report.rows,
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
    })))
}
