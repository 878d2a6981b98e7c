//! `/api/v1/decisions`: what was decided, and why.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::{ContainerKey, Decision, Mode, Outcome, OutcomeStatus, Resource, TimeMs, Write};
use tidegate_policy::explain_sentence;

use crate::App;
use crate::error::ApiError;
use crate::extract::{Params, Segments};
use crate::queries::{self, DecisionFilter};
use crate::rows::{Rows, integer, number, text};

const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize)]
pub(crate) struct Wanted {
    host: Option<String>,
    container: Option<String>,
    rule: Option<String>,
    resource: Option<String>,
    outcome: Option<String>,
    from: Option<TimeMs>,
    to: Option<TimeMs>,
    limit: Option<usize>,
    before: Option<String>,
}

/// A decision as the API shows it: with its explanation in one sentence.
pub(crate) fn shown(decision: &Decision) -> Value {
    let mut value = json!(decision);
    value["sentence"] = explain_sentence(decision).into();
    value
}

/// `GET /api/v1/decisions`: newest first; the next page is the one `before` the last id of this one.
pub(crate) async fn decisions(State(app): State<App>, Params(wanted): Params<Wanted>) -> Result<Json<Value>, ApiError> {
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
    Ok(Json(json!({ "decisions": decisions.iter().map(shown).collect::<Vec<_>>() })))
}

/// `GET /api/v1/decisions/{id}`
pub(crate) async fn decision(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Value>, ApiError> {
    let now = app.clock.now();
    Ok(Json(shown(&find(&app, &id, now).await?)))
}

/// `GET /api/v1/decisions/{id}/explain`: the decision, the rule behind it, and what followed.
pub(crate) async fn explain(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Value>, ApiError> {
    let now = app.clock.now();
    let decision = find(&app, &id, now).await?;
    let explanation = app.engine.explain(&decision);
    Ok(Json(json!({
        "sentence": explanation.sentence,
        "rule_sql": explanation.rule_sql,
        "query_as_of": queries::as_of(&decision),
        "after": after(&app, &decision, now).await?,
        "decision": shown(&decision),
    })))
}

/// What followed in the minute after a decision; `None` when nothing was measured.
async fn after(app: &App, decision: &Decision, now: TimeMs) -> Result<Option<Value>, ApiError> {
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
    Ok(measured
        .then(|| json!({ "usage_avg": mean, "usage_max": peak, "throttled_avg": throttled, "limit_now": limit })))
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
