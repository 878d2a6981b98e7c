//! `/api/v1/freeze`: the kill switch.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_policy::Frozen;

use crate::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::Text;

/// It is shown on every page.
const LONGEST_WHY: usize = 200;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    /// Put all limits back to their baselines.
    restore: bool,
    /// What for.
    why: String,
}

/// `POST /api/v1/freeze`: no limit is changed any more, also after a restart. An empty body will do: whoever needs the
/// switch has no time for JSON.
pub(crate) async fn freeze(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Text,
) -> Result<Json<Frozen>, ApiError> {
    let asked = if body.0.trim().is_empty() { Asked::default() } else { body.json()? };
    if asked.why.chars().count() > LONGEST_WHY {
        return Err(ApiError::bad_request(format!("why is longer than {LONGEST_WHY} characters")));
    }
    Ok(Json(app.engine.freeze(&caller.name, &asked.why, asked.restore, app.clock.now()).await?))
}

/// `DELETE /api/v1/freeze`: rules change limits again.
pub(crate) async fn thaw(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "was_frozen": app.engine.thaw(&caller.name).await? })))
}
