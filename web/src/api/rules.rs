//! `/api/v1/rules`: the rules, and changing them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::Mode;
use tidegate_policy::PACKS;
use tidegate_store::RuleRow;

use crate::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Segments, Text};
use crate::queries;

#[derive(Deserialize)]
struct Statement {
    sql: String,
}

impl Text {
    /// The SQL of a body: `{"sql": "..."}`, or the body itself when it is no JSON object.
    pub(crate) fn statement(self) -> Result<String, ApiError> {
        if self.0.trim_start().starts_with('{') { Ok(self.json::<Statement>()?.sql) } else { Ok(self.0) }
    }
}

/// `GET /api/v1/rules`
pub(crate) async fn rules(State(app): State<App>) -> Json<Value> {
    Json(json!({ "rules": app.engine.rules() }))
}

/// `GET /api/v1/packs`: the rule packs that ship with the program.
pub(crate) async fn packs() -> Json<Value> {
    Json(json!({ "packs": PACKS.map(|pack| pack.summary()) }))
}

/// `GET /api/v1/rules/{name}`
pub(crate) async fn rule(State(app): State<App>, Segments(name): Segments<String>) -> Result<Json<RuleRow>, ApiError> {
    find(&app, &name).map(Json)
}

/// `GET /api/v1/rules/{name}/changes`: newest first; of a rule that was dropped, too.
pub(crate) async fn changes(State(app): State<App>, Segments(name): Segments<String>) -> Result<Json<Value>, ApiError> {
    let mut changes = app.engine.rule_changes();
    changes.retain(|change| change.rule == name);
    changes.reverse();
    if changes.is_empty() {
        find(&app, &name)?;
    }
    Ok(Json(json!({ "changes": changes })))
}

fn find(app: &App, name: &str) -> Result<RuleRow, ApiError> {
    let found = app.engine.rules().into_iter().find(|rule| rule.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("there is no rule '{name}'")))
}

/// `POST /api/v1/rules`: applies rule statements.
pub(crate) async fn apply(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Text,
) -> Result<Json<Value>, ApiError> {
    execute(&app, &body.statement()?, &caller).await
}

/// Applies rule statements in the caller's name.
pub(crate) async fn execute(app: &App, sql: &str, caller: &Caller) -> Result<Json<Value>, ApiError> {
    let outcomes = app.engine.execute(sql, &caller.name, app.clock.now()).await?;
    Ok(Json(json!({ "results": outcomes })))
}

/// `DELETE /api/v1/rules/{name}`
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments(name): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    find(&app, &name)?;
    execute(&app, &queries::drop_rule(&name), &caller).await
}

#[derive(Deserialize)]
struct NewMode {
    mode: Mode,
}

/// `POST /api/v1/rules/{name}/mode`: answers the rule as it is then.
pub(crate) async fn set_mode(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments(name): Segments<String>,
    body: Text,
) -> Result<Json<RuleRow>, ApiError> {
    let NewMode { mode } = body.json()?;
    find(&app, &name)?;
    app.engine.execute(&queries::set_mode(&name, mode), &caller.name, app.clock.now()).await?;
    find(&app, &name).map(Json)
}

/// `POST /api/v1/rules/validate`: 200 also for a wrong rule, since editors ask while it is being typed.
pub(crate) async fn validate(State(app): State<App>, body: Text) -> Result<Json<Value>, ApiError> {
    let sql = body.statement()?;
    Ok(Json(match app.engine.validate(&sql, app.clock.now()).await {
        Ok(rule) => json!({ "ok": true, "rule": rule }),
        Err(error) => json!({ "ok": false, "error": ApiError::from(error).into_body() }),
    }))
}

/// `POST /api/v1/rules/preview`: what the rule would decide now.
pub(crate) async fn preview(State(app): State<App>, body: Text) -> Result<Response, ApiError> {
    let sql = body.statement()?;
    let decisions = match app.engine.preview(&sql, app.clock.now()).await {
        Ok(decisions) => decisions,
        Err(error) => return Err(ApiError::from(error).with_status(StatusCode::UNPROCESSABLE_ENTITY)),
    };
    let decisions: Vec<Value> = decisions.iter().map(super::decisions::shown).collect();
    Ok(Json(json!({ "decisions": decisions })).into_response())
}
