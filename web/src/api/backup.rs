//! `/api/v1/backup`: everything stored, as a stream.
//!
//! The client writes it down with rights of its own, so that whoever may operate rules cannot make the server write files.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::App;
use crate::error::{ApiError, ErrorAnswer};
use crate::openapi::shapes::Binary;

/// Pieces that wait for a slow client: a few MiB.
const WAITING: usize = 16;

/// Flushes, then streams a backup, which `tidegate backup` writes down.
#[utoipa::path(
    post, path = "/api/v1/backup", tag = "Server",
    responses(
        (status = 200, description = "Everything stored; whether it is complete is said at its end",
            content_type = "application/vnd.tidegate.backup", body = Binary),
        (status = 500, description = "It cannot be made", body = ErrorAnswer),
    ),
)]
pub(crate) async fn backup(State(app): State<App>) -> Result<Response, ApiError> {
    let snapshot = app.store.snapshot(app.clock.now()).await.map_err(|error| {
        ApiError::internal("the backup", &error).help("`tidegate check` says whether the store is damaged")
    })?;
    let (send, pieces) = mpsc::channel::<Vec<u8>>(WAITING);
    tokio::task::spawn_blocking(move || match snapshot.stream(|piece| send.blocking_send(piece).is_ok()) {
        Ok(report) => tracing::info!(files = report.files, bytes = report.bytes, "backup sent"),
        Err(error) => tracing::error!(%error, "backup not sent"),
    });
    let body = Body::from_stream(ReceiverStream::new(pieces).map(Ok::<_, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/vnd.tidegate.backup")], body).into_response())
}
