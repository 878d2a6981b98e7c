//! `/api/v1/groups`: apps and users, with what their containers use together and what they may have.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_model::{GroupBounds, GroupKey, GroupKind, Resource};
use tidegate_store::GroupRow;
use utoipa::ToSchema;

use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Segments, Text};
use crate::openapi::shapes;
use crate::queries;
use crate::rows::{integer, number, text};

/// Longest name of a group that nobody is in yet.
const LONGEST_NAME: usize = 255;
/// Most groups with bounds: the facts are one file, which is written as a whole.
const MOST_GROUPS: usize = 10_000;

/// Groups.
#[derive(Serialize, ToSchema)]
pub(crate) struct Groups {
    /// In ms UTC.
    now: i64,
    /// One row per group and resource.
    groups: Vec<GroupRowNow>,
}

/// An app or a user and one resource, over the last minute. In cores or bytes; null where nothing recent is known.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupRow)]
struct GroupRowNow {
    #[schema(pattern = "^(app|user)$")]
    kind: Option<String>,
    name: Option<String>,
    /// Whose app it is.
    user_name: Option<String>,
    #[schema(value_type = Option<shapes::Resource>)]
    resource: Option<String>,
    /// The members that were not measured lately, as `host/container` with commas between them.
    missing: Option<String>,
    members: Option<i64>,
    members_reporting: Option<i64>,
    members_limited: Option<i64>,
    samples: Option<i64>,
    /// Instants at which only some of them were; they are left out.
    partial: Option<i64>,
    /// Seconds since the newest sample.
    age: Option<f64>,
    /// Seconds between two samples.
    step: Option<f64>,
    usage: Option<f64>,
    usage_avg: Option<f64>,
    usage_max: Option<f64>,
    /// What the limits add up to.
    allocated: Option<f64>,
    /// They are not lowered to less.
    min: Option<f64>,
    /// They are not raised to more.
    max: Option<f64>,
    /// One boundary below what is allocated.
    upper: Option<f64>,
    /// Two boundaries below what is allocated.
    lower: Option<f64>,
}

/// Whether anything bounded the group.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cleared {
    was_bounded: bool,
}

/// Apps and users, with what their containers use together and what they may have.
#[utoipa::path(
    get, path = "/api/v1/groups", tag = "Containers",
    responses((status = 200, description = "All of them", body = Groups)),
)]
pub(crate) async fn groups(State(app): State<App>) -> Result<Json<Groups>, ApiError> {
    Ok(Json(Groups { now: app.clock.now().0, groups: rows(&app, None).await? }))
}

/// One app or user.
#[utoipa::path(
    get, path = "/api/v1/groups/{kind}/{name}", tag = "Containers",
    params(
        ("kind" = String, Path, description = "`app` or `user`"),
        ("name" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "A row per resource", body = Groups),
        (status = 400, description = "There is no such kind", body = ErrorAnswer),
        (status = 404, description = "Nobody is in it and nothing bounds it", body = ErrorAnswer),
    ),
)]
pub(crate) async fn group(
    State(app): State<App>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
) -> Result<Json<Groups>, ApiError> {
    found(&app, &GroupKey { kind, name }).await
}

/// What the limits of a group's members may add up to. In cores or bytes; what is left out is not bounded.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bounded {
    #[schema(value_type = shapes::Resource)]
    resource: Resource,
    #[serde(default)]
    min: Option<f64>,
    #[serde(default)]
    max: Option<f64>,
}

/// Says what the limits of a group's members may add up to of one resource.
///
/// Whether or not it has any members yet.
#[utoipa::path(
    post, path = "/api/v1/groups/{kind}/{name}", tag = "Containers",
    params(
        ("kind" = String, Path, description = "`app` or `user`"),
        ("name" = String, Path, description = "Its name"),
    ),
    request_body = Bounded,
    responses(
        (status = 200, description = "The group as it is then", body = Groups),
        (status = 400, description = "The body or the group is not as expected", body = ErrorAnswer),
    ),
)]
pub(crate) async fn set_bounds(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
    body: Text,
) -> Result<Json<Groups>, ApiError> {
    let Bounded { resource, min, max } = body.json()?;
    let (key, bounds) = (GroupKey { kind, name }, GroupBounds { min, max });
    bounds.check().map_err(ApiError::bad_request)?;
    if resource.is_knob() {
        return Err(ApiError::bad_request(format!(
            "resource '{resource}': a group has bounds of cpu and memory alone"
        )));
    }
    if key.name.is_empty() || key.name.chars().count() > LONGEST_NAME {
        return Err(ApiError::bad_request(format!("the name of a group has 1 to {LONGEST_NAME} characters")));
    }
    let known = app.store.groups();
    let former = known.iter().find(|row| row.key == key);
    if former.is_none() && known.len() >= MOST_GROUPS {
        return Err(ApiError::bad_request(format!("there are {MOST_GROUPS} groups with bounds already")));
    }
    let mut all = former.map(|row| row.bounds.clone()).unwrap_or_default();
    match bounds.is_none() {
        true => drop(all.remove(&resource)),
        false => drop(all.insert(resource, bounds)),
    }
    put(&app, GroupRow { key: key.clone(), bounds: all, changed_by: caller.name, changed_at: app.clock.now() }).await?;
    Ok(Json(Groups { now: app.clock.now().0, groups: rows(&app, Some(&key)).await? }))
}

/// Takes the bounds of a group away. Who is in it stays.
#[utoipa::path(
    delete, path = "/api/v1/groups/{kind}/{name}", tag = "Containers", operation_id = "clear_bounds",
    params(
        ("kind" = String, Path, description = "`app` or `user`"),
        ("name" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "Nothing bounds it any more", body = Cleared),
        (status = 400, description = "There is no such kind", body = ErrorAnswer),
    ),
)]
pub(crate) async fn clear(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
) -> Result<Json<Cleared>, ApiError> {
    let key = GroupKey { kind, name };
    let was_bounded = app.store.groups().iter().any(|row| row.key == key);
    if was_bounded {
        let (bounds, changed_at) = (Default::default(), app.clock.now());
        put(&app, GroupRow { key, bounds, changed_by: caller.name, changed_at }).await?;
    }
    Ok(Json(Cleared { was_bounded }))
}

/// The facts are a file that is replaced and synced, which may take a slow disk a while.
async fn put(app: &App, row: GroupRow) -> Result<(), ApiError> {
    let store = app.store.clone();
    let put = tokio::task::spawn_blocking(move || store.put_group(row)).await;
    Ok(put.map_err(|error| ApiError::internal("keeping the bounds of a group", error))??)
}

async fn found(app: &App, group: &GroupKey) -> Result<Json<Groups>, ApiError> {
    let groups = rows(app, Some(group)).await?;
    if groups.is_empty() {
        return Err(ApiError::not_found(format!("there is no {group}: nobody is in it and nothing bounds it")));
    }
    Ok(Json(Groups { now: app.clock.now().0, groups }))
}

async fn rows(app: &App, only: Option<&GroupKey>) -> Result<Vec<GroupRowNow>, ApiError> {
    let rows = app.ask(&queries::groups(only), app.clock.now()).await?;
    let texts = |name| rows.texts(name);
    let (kind, name, user_name) = (texts("kind")?, texts("name")?, texts("user_name")?);
    let (resource, missing) = (texts("resource")?, texts("missing")?);
    let counts = |name| rows.integers(name);
    let (members, reporting, limited) = (counts("members")?, counts("members_reporting")?, counts("members_limited")?);
    let (samples, partial) = (counts("samples")?, counts("partial")?);
    let numbers = |name| rows.numbers(name);
    let (age, step, usage) = (numbers("age")?, numbers("step")?, numbers("usage")?);
    let (usage_avg, usage_max, allocated) = (numbers("usage_avg")?, numbers("usage_max")?, numbers("allocated")?);
    let (min, max, upper, lower) = (numbers("min")?, numbers("max")?, numbers("upper")?, numbers("lower")?);
    let row = |at| {
        let words = |column| text(column, at).map(str::to_owned);
        GroupRowNow {
            kind: words(&kind),
            name: words(&name),
            user_name: words(&user_name),
            resource: words(&resource),
            missing: words(&missing),
            members: integer(&members, at),
            members_reporting: integer(&reporting, at),
            members_limited: integer(&limited, at),
            samples: integer(&samples, at),
            partial: integer(&partial, at),
            age: number(&age, at),
            step: number(&step, at),
            usage: number(&usage, at),
            usage_avg: number(&usage_avg, at),
            usage_max: number(&usage_max, at),
            allocated: number(&allocated, at),
            min: number(&min, at),
            max: number(&max, at),
            upper: number(&upper, at),
            lower: number(&lower, at),
        }
    };
    Ok((0..rows.len()).map(row).collect())
}
