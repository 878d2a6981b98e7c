//! `/api/v1/compact`: the background work at once.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::error::{ApiError, ErrorAnswer};

/// What a compaction did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Compacted {
    /// Samples that were in memory only.
    flushed_samples: u64,
    /// Segments that were merged.
    segments_in: usize,
    /// Segments that they became.
    segments_out: usize,
    rows: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Writes what is in memory to segments and merges those, all of them.
///
/// Before a copy is made by other means than a backup, or to see what the data come to on disk; otherwise it happens by
/// itself, in time.
#[utoipa::path(
    post, path = "/api/v1/compact", tag = "Server",
    responses(
        (status = 200, description = "It is done", body = Compacted),
        (status = 500, description = "It could not be done", body = ErrorAnswer),
    ),
)]
pub(crate) async fn compact(State(app): State<App>) -> Result<Json<Compacted>, ApiError> {
    let failed =
        |error| ApiError::internal("the compaction", &error).help("`tidegate check` says whether the store is damaged");
    let flushed = app.store.flush(app.clock.now()).await.map_err(failed)?;
    let report = app.store.compact().await.map_err(failed)?;
    Ok(Json(Compacted {
        flushed_samples: flushed.samples,
        segments_in: report.segments_in,
        segments_out: report.segments_out,
        rows: report.rows,
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
    }))
}
