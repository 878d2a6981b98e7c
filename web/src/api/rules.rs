//! `/api/v1/rules`: the rules, and changing them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_model::Mode;
use tidegate_policy::{PACKS, PackSummary, RuleDefinition, StatementOutcome};
use tidegate_store::{RuleChange, RuleRow};
use utoipa::ToSchema;

use super::decisions::DecisionList;
use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer, ErrorBody};
use crate::extract::{Segments, Text};
use crate::openapi::shapes;
use crate::queries;

/// Rule statements.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Statement {
    sql: String,
}

/// All rules.
#[derive(Serialize, ToSchema)]
pub(crate) struct Rules {
    #[schema(value_type = Vec<shapes::Rule>)]
    rules: Vec<RuleRow>,
}

/// All packs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Packs {
    #[schema(value_type = Vec<shapes::Pack>)]
    packs: Vec<PackSummary>,
}

/// What was changed of a rule.
#[derive(Serialize, ToSchema)]
pub(crate) struct RuleChanges {
    /// Newest first.
    #[schema(value_type = Vec<shapes::RuleChange>)]
    changes: Vec<RuleChange>,
}

/// What statements did, one result each.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatementResults {
    #[schema(value_type = Vec<shapes::StatementResult>)]
    results: Vec<StatementOutcome>,
}

/// Whether a rule would be accepted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Validation {
    ok: bool,
    /// The rule, when it would.
    #[schema(value_type = Option<shapes::RuleDefinition>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleDefinition>,
    /// Why not.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

impl Text {
    /// The SQL of a body: `{"sql": "..."}`, or the body itself when it is no JSON object.
    pub(crate) fn statement(self) -> Result<String, ApiError> {
        if self.0.trim_start().starts_with('{') { Ok(self.json::<Statement>()?.sql) } else { Ok(self.0) }
    }
}

/// All rules, and how their last runs went.
#[utoipa::path(
    get, path = "/api/v1/rules", tag = "Rules",
    responses((status = 200, description = "All of them", body = Rules)),
)]
pub(crate) async fn rules(State(app): State<App>) -> Json<Rules> {
    Json(Rules { rules: app.engine.rules() })
}

/// The rule packs that ship with the program.
#[utoipa::path(
    get, path = "/api/v1/packs", tag = "Rules",
    responses((status = 200, description = "All of them", body = Packs)),
)]
pub(crate) async fn packs() -> Json<Packs> {
    Json(Packs { packs: PACKS.map(|pack| pack.summary()).into() })
}

/// One rule.
#[utoipa::path(
    get, path = "/api/v1/rules/{name}", tag = "Rules",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The rule", body = shapes::Rule),
        (status = 404, description = "There is no rule of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn rule(State(app): State<App>, Segments(name): Segments<String>) -> Result<Json<RuleRow>, ApiError> {
    find(&app, &name).map(Json)
}

/// What was changed of a rule; of one that was dropped, too.
#[utoipa::path(
    get, path = "/api/v1/rules/{name}/changes", tag = "Rules", operation_id = "rule_changes",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The changes that are kept", body = RuleChanges),
        (status = 404, description = "There is no rule of that name, and was none", body = ErrorAnswer),
    ),
)]
pub(crate) async fn changes(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Json<RuleChanges>, ApiError> {
    let mut changes = app.engine.rule_changes();
    changes.retain(|change| change.rule == name);
    changes.reverse();
    if changes.is_empty() {
        find(&app, &name)?;
    }
    Ok(Json(RuleChanges { changes }))
}

fn find(app: &App, name: &str) -> Result<RuleRow, ApiError> {
    let found = app.engine.rules().into_iter().find(|rule| rule.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("there is no rule '{name}'")))
}

/// Applies rule statements: all of them, or none.
#[utoipa::path(
    post, path = "/api/v1/rules", tag = "Rules", operation_id = "apply_rules",
    request_body(content((Statement = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, description = "What each did", body = StatementResults),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
        (status = 404, description = "There is no rule of that name", body = ErrorAnswer),
        (status = 409, description = "There is a rule of that name", body = ErrorAnswer),
        (status = 422, description = "A statement is wrong; the place is named", body = ErrorAnswer),
    ),
)]
pub(crate) async fn apply(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Text,
) -> Result<Json<StatementResults>, ApiError> {
    execute(&app, &body.statement()?, &caller).await
}

/// Applies rule statements in the caller's name.
pub(crate) async fn execute(app: &App, sql: &str, caller: &Caller) -> Result<Json<StatementResults>, ApiError> {
    let results = app.engine.execute(sql, &caller.name, app.clock.now()).await?;
    Ok(Json(StatementResults { results }))
}

/// Drops a rule.
#[utoipa::path(
    delete, path = "/api/v1/rules/{name}", tag = "Rules", operation_id = "drop_rule",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "It is dropped", body = StatementResults),
        (status = 404, description = "There is no rule of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments(name): Segments<String>,
) -> Result<Json<StatementResults>, ApiError> {
    find(&app, &name)?;
    execute(&app, &queries::drop_rule(&name), &caller).await
}

/// How far proposals shall go.
#[derive(Deserialize, ToSchema)]
pub(crate) struct NewMode {
    #[schema(value_type = shapes::Mode)]
    mode: Mode,
}

/// Says how far a rule's proposals go.
#[utoipa::path(
    post, path = "/api/v1/rules/{name}/mode", tag = "Rules",
    params(("name" = String, Path, description = "Its name")),
    request_body = NewMode,
    responses(
        (status = 200, description = "The rule as it is then", body = shapes::Rule),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
        (status = 404, description = "There is no rule of that name", body = ErrorAnswer),
        (status = 422, description = "The mode is not allowed for this rule", body = ErrorAnswer),
    ),
)]
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

/// Whether a rule would be accepted.
///
/// 200 also for a wrong rule, since editors ask while it is being typed.
#[utoipa::path(
    post, path = "/api/v1/rules/validate", tag = "Rules",
    request_body(content((Statement = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, description = "The rule, or what is wrong with it", body = Validation),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
    ),
)]
pub(crate) async fn validate(State(app): State<App>, body: Text) -> Result<Json<Validation>, ApiError> {
    let sql = body.statement()?;
    Ok(Json(match app.engine.validate(&sql, app.clock.now()).await {
        Ok(rule) => Validation { ok: true, rule: Some(rule), error: None },
        Err(error) => Validation { ok: false, rule: None, error: Some(ApiError::from(error).into_body()) },
    }))
}

/// What a rule would decide now.
#[utoipa::path(
    post, path = "/api/v1/rules/preview", tag = "Rules", operation_id = "preview_rule",
    request_body(content((Statement = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, description = "The decisions; nothing is recorded or written", body = DecisionList),
        (status = 400, description = "The body is not as expected", body = ErrorAnswer),
        (status = 422, description = "The rule is wrong; the place is named", body = ErrorAnswer),
    ),
)]
pub(crate) async fn preview(State(app): State<App>, body: Text) -> Result<Json<DecisionList>, ApiError> {
    let sql = body.statement()?;
    let decisions = match app.engine.preview(&sql, app.clock.now()).await {
        Ok(decisions) => decisions,
        Err(error) => return Err(ApiError::from(error).with_status(StatusCode::UNPROCESSABLE_ENTITY)),
    };
    Ok(Json(DecisionList::of(decisions)))
}
