//! `/api/v1/containers`: what is known of each container, with its newest values.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_model::{Container, ContainerKey, OutcomeStatus, Resource};
use utoipa::ToSchema;

use super::decisions::Shown;
use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Segments, Text};
use crate::fleet::{ContainerRow, Fleet};
use crate::openapi::shapes;

/// All containers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Containers {
    /// In ms UTC.
    now: i64,
    containers: Vec<ContainerRow>,
}

/// All containers with their newest values.
#[utoipa::path(
    get, path = "/api/v1/containers", tag = "Containers",
    responses((status = 200, description = "Sorted by host and name", body = Containers)),
)]
pub(crate) async fn containers(State(app): State<App>) -> Result<Json<Containers>, ApiError> {
    let now = app.clock.now();
    let fleet = Fleet::all(&app, now).await?;
    let mut containers = app.store.containers();
    containers.sort_by(|a, b| a.key.cmp(&b.key));
    let overrides = app.store.overrides();
    let row = |container: &Container| fleet.row(container, overrides.get(&container.key), now);
    let containers = containers.iter().map(row).collect();
    Ok(Json(Containers { now: now.0, containers }))
}

/// One container with its newest values.
#[utoipa::path(
    get, path = "/api/v1/containers/{host}/{name}", tag = "Containers",
    params(
        ("host" = String, Path, description = "The host's name"),
        ("name" = String, Path, description = "The container's name on that host"),
    ),
    responses(
        (status = 200, description = "The container", body = ContainerRow),
        (status = 404, description = "There is no such container", body = ErrorAnswer),
    ),
)]
pub(crate) async fn container(
    State(app): State<App>,
    Segments((host, name)): Segments<(String, String)>,
) -> Result<Json<ContainerRow>, ApiError> {
    let key = ContainerKey { host, name };
    Ok(Json(found(&app, &key).await?))
}

/// A container as it is now.
pub(super) async fn found(app: &App, key: &ContainerKey) -> Result<ContainerRow, ApiError> {
    let containers = app.store.container_map();
    let container = containers.get(key).ok_or_else(|| ApiError::not_found(format!("there is no container '{key}'")))?;
    let now = app.clock.now();
    let fleet = Fleet::one(app, key, now).await?;
    Ok(fleet.row(container, app.store.overrides().get(key), now))
}

/// Which limit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adopted {
    #[schema(value_type = shapes::Resource)]
    resource: Resource,
}

/// Adopts a limit that somebody else has set: it is what rules start from.
#[utoipa::path(
    post, path = "/api/v1/containers/{host}/{name}/adopt", tag = "Containers",
    params(
        ("host" = String, Path, description = "The host's name"),
        ("name" = String, Path, description = "The container's name on that host"),
    ),
    request_body = Adopted,
    responses(
        (status = 200, description = "The decision that says so", body = shapes::Decision),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
        (status = 404, description = "There is no such container", body = ErrorAnswer),
        (status = 409, description = "There is nothing to adopt, or it cannot be read", body = ErrorAnswer),
    ),
)]
pub(crate) async fn adopt(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((host, name)): Segments<(String, String)>,
    body: Text,
) -> Result<Json<Shown>, ApiError> {
    let Adopted { resource } = body.json()?;
    let decision = app.engine.adopt(ContainerKey { host, name }, resource, &caller.name).await?;
    match decision.outcome.status {
        OutcomeStatus::Unchanged => Ok(Json(Shown::of(decision))),
        status => {
            Err(ApiError::new(StatusCode::CONFLICT, format!("{} ({})", decision.outcome.message, status.as_str())))
        }
    }
}
