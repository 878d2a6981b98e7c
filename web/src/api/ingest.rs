//! `/api/v1/ingest/preview`: what a body would become if it were pushed.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tidegate_ingest::influx::Precision;
use tidegate_ingest::{Asked, IngestError, Preview, Protocol};
use utoipa::IntoParams;

use crate::App;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::Params;
use crate::openapi::shapes;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// `opentsdb`, `monasca`, `influx` or `prometheus`.
    #[param(example = "influx")]
    protocol: String,
    /// Unit of the timestamps of lines: `ns`, `us`, `ms`, `s`, `m` or `h`.
    #[serde(default)]
    precision: String,
}

/// What a body would become if it were pushed.
///
/// The body is as the push route would get it, compressed or not. Nothing is stored or counted.
#[utoipa::path(
    post, path = "/api/v1/ingest/preview", tag = "Push", operation_id = "preview_push",
    params(Wanted),
    request_body(content = String, content_type = "text/plain", description = "The body of the push route, at most 1 MiB"),
    responses(
        (status = 200, description = "What it would become, and what is wrong with it", body = shapes::IngestPreview),
        (status = 400, description = "The query is not as expected, or the body not compressed as it says",
            body = ErrorAnswer),
        (status = 413, description = "The body is larger than is looked at", body = ErrorAnswer),
        (status = 415, description = "The encoding is not known", body = ErrorAnswer),
    ),
)]
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
