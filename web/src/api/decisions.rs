//! `/api/v1/decisions`: what was decided, and why.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_model::{ContainerKey, Decision, Mode, Outcome, OutcomeStatus, Resource, TimeMs, Write};
use tidegate_policy::explain_sentence;
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Params, Segments};
use crate::openapi::shapes;
use crate::queries::{self, DecisionFilter};
use crate::rows::{Rows, integer, number, text};

const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Of this host.
    host: Option<String>,
    /// About containers of this name.
    container: Option<String>,
    /// Of this rule.
    rule: Option<String>,
    /// `cpu` or `memory`.
    resource: Option<String>,
    /// Of this outcome, such as `applied`.
    outcome: Option<String>,
    /// Not earlier, in ms UTC.
    #[param(value_type = Option<i64>)]
    from: Option<TimeMs>,
    /// Earlier than this, in ms UTC.
    #[param(value_type = Option<i64>)]
    to: Option<TimeMs>,
    /// Most of them, 100 when left out; the server's own bound holds, too.
    limit: Option<usize>,
    /// Older than the decision of this id: the last one of the page before.
    before: Option<String>,
}

/// A decision as the API shows it: with its explanation in one sentence.
#[derive(Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    decision: Decision,
    sentence: String,
}

impl Shown {
    pub(crate) fn of(decision: Decision) -> Self {
        Self { sentence: explain_sentence(&decision), decision }
    }
}

/// Decisions.
#[derive(Serialize, ToSchema)]
pub(crate) struct DecisionList {
    #[schema(value_type = Vec<shapes::Decision>)]
    decisions: Vec<Shown>,
}

impl DecisionList {
    pub(crate) fn of(decisions: Vec<Decision>) -> Self {
        Self { decisions: decisions.into_iter().map(Shown::of).collect() }
    }
}

/// A decision explained.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explanation {
    #[schema(value_type = shapes::Decision)]
    decision: Shown,
    /// The decision as one sentence.
    sentence: String,
    /// The rule's statement as it was at the time; null when that is not known any more.
    rule_sql: Option<String>,
    /// A query for what could be seen of the container at that tick.
    query_as_of: String,
    after: Option<After>,
}

/// What followed in the minute after a decision; null when nothing was measured.
#[derive(Serialize, ToSchema)]
pub(crate) struct After {
    /// In cores or bytes.
    usage_avg: Option<f64>,
    usage_max: Option<f64>,
    /// Share of the periods that were throttled.
    throttled_avg: Option<f64>,
    /// The limit as last measured.
    limit_now: Option<f64>,
}

/// Decisions, newest first.
///
/// The next page is the one `before` the last id of this one.
#[utoipa::path(
    get, path = "/api/v1/decisions", tag = "Decisions",
    params(Wanted),
    responses(
        (status = 200, description = "Those that fit", body = DecisionList),
        (status = 400, description = "The query is not as expected", body = ErrorAnswer),
        (status = 404, description = "There is no decision `before`", body = ErrorAnswer),
    ),
)]
pub(crate) async fn decisions(
    State(app): State<App>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<DecisionList>, ApiError> {
    let now = app.clock.now();
    let before = match wanted.before.filter(|id| !id.is_empty()) {
        Some(id) => Some((find(&app, &id, now).await?.time, id)),
        None => None,
    };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let filter = DecisionFilter {
        host: given(wanted.host),
        container: given(wanted.container),
        rule: given(wanted.rule),
        resource: given(wanted.resource),
        outcome: given(wanted.outcome),
        from: wanted.from,
        to: wanted.to,
        before,
        limit: wanted.limit.unwrap_or(DEFAULT_LIMIT).min(app.config.max_decisions),
    };
    let decisions = read(&app, &queries::decisions(&filter), now).await?;
    Ok(Json(DecisionList::of(decisions)))
}

/// One decision.
#[utoipa::path(
    get, path = "/api/v1/decisions/{id}", tag = "Decisions",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The decision", body = shapes::Decision),
        (status = 404, description = "There is no decision of this id", body = ErrorAnswer),
    ),
)]
pub(crate) async fn decision(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Shown>, ApiError> {
    let now = app.clock.now();
    Ok(Json(Shown::of(find(&app, &id, now).await?)))
}

/// A decision, the rule behind it, and what followed.
#[utoipa::path(
    get, path = "/api/v1/decisions/{id}/explain", tag = "Decisions",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The explanation", body = Explanation),
        (status = 404, description = "There is no decision of this id", body = ErrorAnswer),
    ),
)]
pub(crate) async fn explain(
    State(app): State<App>,
    Segments(id): Segments<String>,
) -> Result<Json<Explanation>, ApiError> {
    let now = app.clock.now();
    let decision = find(&app, &id, now).await?;
    let explanation = app.engine.explain(&decision);
    Ok(Json(Explanation {
        sentence: explanation.sentence,
        rule_sql: explanation.rule_sql,
        query_as_of: queries::as_of(&decision),
        after: after(&app, &decision, now).await?,
        decision: Shown::of(decision),
    }))
}

/// What followed in the minute after a decision; `None` when nothing was measured.
async fn after(app: &App, decision: &Decision, now: TimeMs) -> Result<Option<After>, ApiError> {
    let (usage, throttled, limit) = (
        queries::usage_after(decision),
        queries::throttled_after(decision),
        queries::limit_now(&decision.container, decision.resource),
    );
    let (usage, throttled, limit) =
        tokio::try_join!(app.ask(&usage, now), app.ask(&throttled, now), app.ask(&limit, now))?;
    let first = |rows: &Rows, column| -> Result<Option<f64>, ApiError> {
        let values = rows.numbers(column)?;
        Ok((rows.len() > 0).then(|| number(&values, 0)).flatten())
    };
    let (mean, peak) = (first(&usage, "mean")?, first(&usage, "peak")?);
    let (throttled, limit) = (first(&throttled, "mean")?, first(&limit, "allocated")?);
    let measured = mean.is_some() || throttled.is_some();
    let after = After { usage_avg: mean, usage_max: peak, throttled_avg: throttled, limit_now: limit };
    Ok(measured.then_some(after))
}

/// One decision by its id, or 404.
async fn find(app: &App, id: &str, now: TimeMs) -> Result<Decision, ApiError> {
    let mut found = read(app, &queries::decision(id), now).await?;
    found.pop().ok_or_else(|| ApiError::not_found(format!("there is no decision '{id}'")))
}

/// Decisions since one that a client knows, oldest first, and whether these are all; `None` when it is not known here.
pub(crate) async fn since(
    app: &App,
    id: &str,
    limit: usize,
    now: TimeMs,
) -> Result<Option<(Vec<Decision>, bool)>, ApiError> {
    let Some(last) = read(app, &queries::decision(id), now).await?.pop() else { return Ok(None) };
    let mut decisions = read(app, &queries::decisions_since(&last, limit + 1), now).await?;
    let complete = decisions.len() <= limit;
    decisions.truncate(limit);
    Ok(Some((decisions, complete)))
}

async fn read(app: &App, sql: &str, now: TimeMs) -> Result<Vec<Decision>, ApiError> {
    let rows = app.ask(sql, now).await?;
    from_rows(&rows)
}

/// The inverse of how the store lays decisions out in columns.
fn from_rows(rows: &Rows) -> Result<Vec<Decision>, ApiError> {
    let (time, read_at) = (rows.times("time")?, rows.times("read_at")?);
    let (version, took_us) = (rows.integers("version")?, rows.integers("took_us")?);
    let (id, rule, reason, message) =
        (rows.texts("id")?, rows.texts("rule")?, rows.texts("reason")?, rows.texts("message")?);
    let (host, container, resource) = (rows.texts("host")?, rows.texts("container")?, rows.texts("resource")?);
    let (mode, outcome) = (rows.texts("mode")?, rows.texts("outcome")?);
    let (guards, inputs, written) = (rows.texts("guards")?, rows.texts("inputs")?, rows.texts("written")?);
    let (before, proposed) = (rows.numbers("limit_before")?, rows.numbers("proposed")?);
    let (decided, limit_after) = (rows.numbers("decided")?, rows.numbers("limit_after")?);
    let mut decisions = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let words = |column| text(column, row).unwrap_or_default();
        let damaged =
            |what: &dyn std::fmt::Display| ApiError::internal("reading a decision", format!("{}: {what}", words(&id)));
        let resource: Resource = words(&resource).parse().map_err(|error| damaged(&error))?;
        let mode: Mode = words(&mode).parse().map_err(|error: String| damaged(&error))?;
        let status = OutcomeStatus::deserialize(Value::from(words(&outcome))).map_err(|error| damaged(&error))?;
        decisions.push(Decision {
            id: words(&id).to_owned(),
            time: TimeMs(integer(&time, row).unwrap_or_default()),
            rule: words(&rule).to_owned(),
            version: integer(&version, row).and_then(|version| u32::try_from(version).ok()).unwrap_or_default(),
            container: ContainerKey { host: words(&host).to_owned(), name: words(&container).to_owned() },
            resource,
            limit_before: number(&before, row),
            proposed: number(&proposed, row).unwrap_or_default(),
            decided: number(&decided, row),
            guards: serde_json::from_str(words(&guards)).map_err(|error| damaged(&error))?,
            reason: words(&reason).to_owned(),
            mode,
            inputs: serde_json::from_str(words(&inputs)).map_err(|error| damaged(&error))?,
            outcome: Outcome {
                status,
                limit_after: number(&limit_after, row),
                writes: writes(words(&written)),
                message: words(&message).to_owned(),
                at: TimeMs(integer(&read_at, row).unwrap_or_default()),
                took_us: integer(&took_us, row).and_then(|took| u64::try_from(took).ok()).unwrap_or_default(),
            },
        });
    }
    Ok(decisions)
}

/// The inverse of the store's `file = value` lines.
fn writes(lines: &str) -> Vec<Write> {
    let write = |line: &str| {
        let (target, value) = line.split_once(" = ")?;
        Some(Write { target: target.to_owned(), value: value.to_owned() })
    };
    lines.lines().filter_map(write).collect()
}
