//! `/api/v1/containers`: what is known of each container, with its newest values.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::{ContainerKey, Decision, OutcomeStatus, Resource};

use crate::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Segments, Text};
use crate::fleet::Fleet;

/// `GET /api/v1/containers`
pub(crate) async fn containers(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let now = app.clock.now();
    let fleet = Fleet::all(&app, now).await?;
    let mut containers = app.store.containers();
    containers.sort_by(|a, b| a.key.cmp(&b.key));
    let rows: Vec<Value> = containers.iter().map(|container| fleet.row(container, now)).collect();
    Ok(Json(json!({ "now": now, "containers": rows })))
}

/// `GET /api/v1/containers/{host}/{name}`
pub(crate) async fn container(
    State(app): State<App>,
    Segments((host, name)): Segments<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let key = ContainerKey { host, name };
    let known = app.store.containers().into_iter().find(|container| container.key == key);
    let container = known.ok_or_else(|| ApiError::not_found(format!("there is no container '{key}'")))?;
    let now = app.clock.now();
    let fleet = Fleet::one(&app, &key, now).await?;
    Ok(Json(fleet.row(&container, now)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopted {
    resource: Resource,
}

/// `POST /api/v1/containers/{host}/{name}/adopt` with `{"resource": "cpu"}`: what somebody else has set is what rules start
/// from. Answers with the decision that says so.
pub(crate) async fn adopt(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((host, name)): Segments<(String, String)>,
    body: Text,
) -> Result<Json<Decision>, ApiError> {
    let Adopted { resource } = body.json()?;
    let decision = app.engine.adopt(ContainerKey { host, name }, resource, &caller.name).await?;
    match decision.outcome.status {
        OutcomeStatus::Unchanged => Ok(Json(decision)),
        status => {
            Err(ApiError::new(StatusCode::CONFLICT, format!("{} ({})", decision.outcome.message, status.as_str())))
        }
    }
}
