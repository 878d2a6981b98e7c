//! `/api/v1/freeze`: the kill switch.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_policy::Frozen;
use utoipa::ToSchema;

use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::Text;
use crate::openapi::shapes;

/// It is shown on every page.
const LONGEST_WHY: usize = 200;

/// How the kill switch is to be turned on.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FreezeWish {
    /// Put all limits back to their baselines.
    restore: bool,
    /// What for; it is shown on every page of the dashboard.
    #[schema(max_length = 200)]
    why: String,
}

/// Whether the kill switch was on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Thawed {
    was_frozen: bool,
}

/// Turns the kill switch on: no limit is changed any more, also after a restart.
///
/// An empty body will do: whoever needs the switch has no time for JSON.
#[utoipa::path(
    post, path = "/api/v1/freeze", tag = "Rules",
    request_body = Option<FreezeWish>,
    responses(
        (status = 200, description = "It is on", body = shapes::Frozen),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
        (status = 500, description = "It is on, but could not be stored and ends with the program", body = ErrorAnswer),
    ),
)]
pub(crate) async fn freeze(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Text,
) -> Result<Json<Frozen>, ApiError> {
    let asked = if body.0.trim().is_empty() { FreezeWish::default() } else { body.json()? };
    if asked.why.chars().count() > LONGEST_WHY {
        return Err(ApiError::bad_request(format!("why is longer than {LONGEST_WHY} characters")));
    }
    Ok(Json(app.engine.freeze(&caller.name, &asked.why, asked.restore, app.clock.now()).await?))
}

/// Turns the kill switch off: rules change limits again.
#[utoipa::path(
    delete, path = "/api/v1/freeze", tag = "Rules",
    responses((status = 200, description = "It is off", body = Thawed)),
)]
pub(crate) async fn thaw(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Thawed>, ApiError> {
    Ok(Json(Thawed { was_frozen: app.engine.thaw(&caller.name).await? }))
}
