//! `/api/v1/ingest/preview`: what a body would become if it were pushed.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tidegate_ingest::influx::Precision;
use tidegate_ingest::{Asked, IngestError, Preview, Protocol};

use crate::App;
use crate::error::ApiError;
use crate::extract::Params;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    protocol: String,
    #[serde(default)]
    precision: String,
}

/// `POST /api/v1/ingest/preview?protocol=influx&precision=ms` with a body as the push route would get it, compressed or
/// not. Stores and counts nothing.
pub(crate) async fn preview(
    State(app): State<App>,
    Params(wanted): Params<Wanted>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Preview>, ApiError> {
    let asked = asked(&wanted)?;
    let state = app.ingest.clone();
    let looked = tokio::task::spawn_blocking(move || tidegate_ingest::preview(&state, asked, &headers, body)).await;
    let preview = looked.map_err(|error| ApiError::internal("reading the body", error))?;
    Ok(Json(preview.map_err(refused)?))
}

fn asked(wanted: &Wanted) -> Result<Asked, ApiError> {
    let Some(protocol) = Protocol::parse(&wanted.protocol) else {
        let names = Protocol::ALL.map(Protocol::as_str).join(", ");
        return Err(ApiError::bad_request(format!("there is no protocol '{}'", wanted.protocol)).help(names));
    };
    let Some(precision) = Precision::parse(&wanted.precision) else {
        return Err(ApiError::bad_request(format!("there is no precision '{}'", wanted.precision))
            .help("ns, us, ms, s, m or h"));
    };
    Ok(Asked { protocol, precision })
}

fn refused(error: IngestError) -> ApiError {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ApiError::new(status, error.to_string())
}
