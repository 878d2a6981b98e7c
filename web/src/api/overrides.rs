//! `/api/v1/containers/{host}/{name}/override`: what a person says of one container, over labels and configuration.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use tidegate_model::{Bounds, ContainerKey, Resource};
use tidegate_store::Override;
use utoipa::ToSchema;

use super::containers::found;
use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Segments, Text};
use crate::fleet::ContainerRow;
use crate::openapi::shapes;

/// Most containers that something was said of: the facts are one file, which is written as a whole.
const MOST: usize = 10_000;
/// Longest reason, in characters.
const LONGEST_WHY: usize = 1_000;

/// What a person says of a container. What is left out is not said: then labels, the configuration and rules have their way.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    /// Its lowest and highest limits, at most what its host has. What disks and networks can do is not known.
    #[serde(default)]
    bounds: SaidBounds,
    /// What rules leave alone, its limit and knobs: `cpu`, `memory`, `disk_read`, `disk_write`, `net_receive`, `net_send` or
    /// several of them. They show what they would do.
    #[serde(default)]
    #[schema(value_type = Vec<shapes::Resource>)]
    pinned: BTreeSet<Resource>,
    /// What for.
    #[serde(default)]
    why: String,
}

/// By resource; knobs go by the bounds of theirs.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SaidBounds {
    #[schema(nullable = false)]
    cpu: Option<SaidRange>,
    #[schema(nullable = false)]
    memory: Option<SaidRange>,
    #[schema(nullable = false)]
    disk_read: Option<SaidRange>,
    #[schema(nullable = false)]
    disk_write: Option<SaidRange>,
    #[schema(nullable = false)]
    net_receive: Option<SaidRange>,
    #[schema(nullable = false)]
    net_send: Option<SaidRange>,
}

/// In cores, bytes or bytes a second.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaidRange {
    min: f64,
    max: f64,
}

/// Says what limits a container may have, and what of it rules leave alone.
///
/// It replaces what was said before, holds from the next tick on, and until it is taken back.
#[utoipa::path(
    put, path = "/api/v1/containers/{host}/{name}/override", tag = "Containers", operation_id = "set_override",
    params(
        ("host" = String, Path, description = "The host's name"),
        ("name" = String, Path, description = "The container's name on that host"),
    ),
    request_body = Said,
    responses(
        (status = 200, description = "The container as it is then", body = ContainerRow),
        (status = 400, description = "The body is not as expected, or its bounds are none", body = ErrorAnswer),
        (status = 404, description = "There is no such container", body = ErrorAnswer),
    ),
)]
pub(crate) async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((host, name)): Segments<(String, String)>,
    body: Text,
) -> Result<Json<ContainerRow>, ApiError> {
    let Said { bounds, pinned, why } = body.json()?;
    let key = ContainerKey { host, name };
    if !app.store.container_map().contains_key(&key) {
        return Err(ApiError::not_found(format!("there is no container '{key}'")));
    }
    let mut checked_bounds = BTreeMap::new();
    let ranges = [
        (Resource::Cpu, bounds.cpu),
        (Resource::Memory, bounds.memory),
        (Resource::DiskRead, bounds.disk_read),
        (Resource::DiskWrite, bounds.disk_write),
        (Resource::NetReceive, bounds.net_receive),
        (Resource::NetSend, bounds.net_send),
    ];
    for (resource, range) in ranges {
        if let Some(range) = range {
            checked_bounds.insert(resource, checked(&app, &key, resource, range)?);
        }
    }
    if let Some(knob) = pinned.iter().find(|resource| resource.is_knob()) {
        let message = format!("pinned: '{knob}' is pinned along with {}", knob.of());
        return Err(
            ApiError::bad_request(message).help("expected cpu, memory, disk_read, disk_write, net_receive or net_send")
        );
    }
    if why.chars().count() > LONGEST_WHY {
        return Err(ApiError::bad_request(format!("why has at most {LONGEST_WHY} characters")));
    }
    let overrides = app.store.overrides();
    if !overrides.contains_key(&key) && overrides.len() >= MOST {
        return Err(ApiError::bad_request(format!("something is said of {MOST} containers already")));
    }
    let row = Override {
        key: key.clone(),
        bounds: checked_bounds,
        pinned,
        why: why.trim().to_owned(),
        changed_by: caller.name,
        changed_at: app.clock.now(),
    };
    put(&app, row).await?;
    Ok(Json(found(&app, &key).await?))
}

/// Takes back what was said of a container.
///
/// Bounds of labels and the configuration hold again with its next measurement.
#[utoipa::path(
    delete, path = "/api/v1/containers/{host}/{name}/override", tag = "Containers", operation_id = "clear_override",
    params(
        ("host" = String, Path, description = "The host's name"),
        ("name" = String, Path, description = "The container's name on that host"),
    ),
    responses(
        (status = 200, description = "The container as it is then", body = ContainerRow),
        (status = 404, description = "There is no such container", body = ErrorAnswer),
    ),
)]
pub(crate) async fn clear(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((host, name)): Segments<(String, String)>,
) -> Result<Json<ContainerRow>, ApiError> {
    let key = ContainerKey { host, name };
    if app.store.overrides().contains_key(&key) {
        let (bounds, pinned, why) = Default::default();
        let (changed_by, changed_at) = (caller.name, app.clock.now());
        put(&app, Override { key: key.clone(), bounds, pinned, why, changed_by, changed_at }).await?;
    }
    Ok(Json(found(&app, &key).await?))
}

/// The facts are a file that is replaced and synced, which may take a slow disk a while.
async fn put(app: &App, row: Override) -> Result<(), ApiError> {
    let store = app.store.clone();
    let put = tokio::task::spawn_blocking(move || store.put_override(row)).await;
    Ok(put.map_err(|error| ApiError::internal("keeping what was said of a container", error))??)
}

/// The bounds, if a limit on that container's host may have them.
fn checked(app: &App, key: &ContainerKey, resource: Resource, range: SaidRange) -> Result<Bounds, ApiError> {
    let SaidRange { min, max } = range;
    let wrong = |what: String| Err(ApiError::bad_request(format!("bounds of {resource}: {what}")));
    let hosts = app.store.hosts();
    let host = hosts.iter().find(|host| host.name == key.host);
    let capacity = host.map(|host| match resource.of() {
        Resource::Cpu | Resource::CpuWeight => host.cpu.0,
        Resource::Memory | Resource::MemoryHigh => host.memory.0 as f64,
        Resource::DiskRead | Resource::DiskWrite | Resource::NetReceive | Resource::NetSend => Bounds::OPEN,
    });
    if !(min >= 0.0 && max > 0.0 && min <= max && max.is_finite()) {
        return wrong(format!("expected 0 <= min <= max, found min {min}, max {max}"));
    }
    match capacity.filter(|capacity| *capacity > 0.0 && max > *capacity) {
        Some(_) if resource.is_rate() => wrong(format!("max {max} is more than anything can transfer")),
        Some(capacity) => wrong(format!(
            "max {} is more than {} has, {}",
            resource.display(max),
            key.host,
            resource.display(capacity)
        )),
        None => Ok(Bounds { min, max }),
    }
}
