//! `/api/v1/groups`: apps and users, with what their containers use together and what they may have.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::{GroupBounds, GroupKey, GroupKind, Resource};
use tidegate_store::GroupRow;

use crate::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Segments, Text};
use crate::queries;
use crate::rows::{integer, number, text};

/// Longest name of a group that nobody is in yet.
const LONGEST_NAME: usize = 255;
/// Most groups with bounds: the facts are one file, which is written as a whole.
const MOST_GROUPS: usize = 10_000;

/// `GET /api/v1/groups`: one row per group and resource.
pub(crate) async fn groups(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "now": app.clock.now(), "groups": rows(&app, None).await? })))
}

/// `GET /api/v1/groups/{kind}/{name}`
pub(crate) async fn group(
    State(app): State<App>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
) -> Result<Json<Value>, ApiError> {
    found(&app, &GroupKey { kind, name }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounded {
    resource: Resource,
    /// In cores or bytes; what is left out is not bounded.
    #[serde(default)]
    min: Option<f64>,
    #[serde(default)]
    max: Option<f64>,
}

/// `POST /api/v1/groups/{kind}/{name}`: what the limits of its members may add up to of one resource, whether or not it has
/// any yet. Answers the group as it is then.
pub(crate) async fn set_bounds(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
    body: Text,
) -> Result<Json<Value>, ApiError> {
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
    Ok(Json(json!({ "now": app.clock.now(), "groups": rows(&app, Some(&key)).await? })))
}

/// `DELETE /api/v1/groups/{kind}/{name}`: nothing bounds the group any more. Who is in it stays.
pub(crate) async fn clear(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((kind, name)): Segments<(GroupKind, String)>,
) -> Result<Json<Value>, ApiError> {
    let key = GroupKey { kind, name };
    let was_bounded = app.store.groups().iter().any(|row| row.key == key);
    if was_bounded {
        let (bounds, changed_at) = (Default::default(), app.clock.now());
        put(&app, GroupRow { key, bounds, changed_by: caller.name, changed_at }).await?;
    }
    Ok(Json(json!({ "was_bounded": was_bounded })))
}

/// The facts are a file that is replaced and synced, which may take a slow disk a while.
async fn put(app: &App, row: GroupRow) -> Result<(), ApiError> {
    let store = app.store.clone();
    let put = tokio::task::spawn_blocking(move || store.put_group(row)).await;
    Ok(put.map_err(|error| ApiError::internal("keeping the bounds of a group", error))??)
}

async fn found(app: &App, group: &GroupKey) -> Result<Json<Value>, ApiError> {
    let rows = rows(app, Some(group)).await?;
    if rows.is_empty() {
        return Err(ApiError::not_found(format!("there is no {group}: nobody is in it and nothing bounds it")));
    }
    Ok(Json(json!({ "now": app.clock.now(), "groups": rows })))
}

async fn rows(app: &App, only: Option<&GroupKey>) -> Result<Vec<Value>, ApiError> {
    const TEXTS: [&str; 5] = ["kind", "name", "user_name", "resource", "missing"];
    const COUNTS: [&str; 5] = ["members", "members_reporting", "members_limited", "samples", "partial"];
    const NUMBERS: [&str; 10] =
        ["age", "step", "usage", "usage_avg", "usage_max", "allocated", "min", "max", "upper", "lower"];
    let rows = app.ask(&queries::groups(only), app.clock.now()).await?;
    let mut shown = vec![serde_json::Map::new(); rows.len()];
    for name in TEXTS {
        let column = rows.texts(name)?;
        shown.iter_mut().enumerate().for_each(|(at, row)| drop(row.insert(name.to_owned(), json!(text(&column, at)))));
    }
    for name in COUNTS {
        let column = rows.integers(name)?;
        shown
            .iter_mut()
            .enumerate()
            .for_each(|(at, row)| drop(row.insert(name.to_owned(), json!(integer(&column, at)))));
    }
    for name in NUMBERS {
        let column = rows.numbers(name)?;
        shown
            .iter_mut()
            .enumerate()
            .for_each(|(at, row)| drop(row.insert(name.to_owned(), json!(number(&column, at)))));
    }
    Ok(shown.into_iter().map(Value::Object).collect())
}
