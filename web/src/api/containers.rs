//! `/api/v1/containers`: what is known of each container, with its newest values.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tidegate_model::ContainerKey;

use crate::App;
use crate::error::ApiError;
use crate::extract::Segments;
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
