//! `/api/v1/backtests`: what rules would have done to the containers of this server's own history.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::TimeMs;
use tidegate_policy::backtest::STEP;

use crate::App;
use crate::backtests::{Shown, Wanted};
use crate::error::ApiError;
use crate::extract::{Segments, Text};

/// The span of a backtest that does not name its beginning.
const USUAL_SPAN: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Rule statements; the rules in force when left out.
    rules: Option<String>,
    /// Whether they come on top of the rules in force, as applying them would, rather than alone.
    #[serde(default)]
    on_top: bool,
    /// What to compare with: `live`, `none`, or rule statements. Nothing when left out.
    against: Option<String>,
    /// In ms UTC; an hour before `to` when left out.
    from: Option<i64>,
    /// In ms UTC; now when left out.
    to: Option<i64>,
    /// Seconds between two instants.
    step_s: Option<u64>,
}

/// `POST /api/v1/backtests`: starts one; 202 with its id. Rules are checked before.
pub(crate) async fn start(State(app): State<App>, body: Text) -> Result<(StatusCode, Json<Shown>), ApiError> {
    let asked: Asked = body.json()?;
    let now = app.clock.now();
    let to = asked.to.map_or(now, TimeMs);
    // Nothing older is kept.
    let oldest = now.minus(Duration::from_secs(app.store.config().retention_s));
    let from = asked.from.map_or_else(|| to.minus(USUAL_SPAN), TimeMs).max(oldest);
    if from >= to || to > now {
        let message = format!("a backtest from {from} to {to} makes no sense: it is {now} now");
        return Err(
            ApiError::bad_request(message).help("from and to are in ms UTC, from before to, to not in the future")
        );
    }
    let step = asked.step_s.map(Duration::from_secs);
    if step.is_some_and(|step| step < STEP.0 || step > STEP.1) {
        return Err(ApiError::bad_request(format!("step_s is {} to {}", STEP.0.as_secs(), STEP.1.as_secs())));
    }
    let rules = match asked.rules {
        Some(rules) if asked.on_top => app.engine.rules_text() + &checked(&app, rules, false).await?,
        Some(rules) => checked(&app, rules, true).await?,
        None => app.engine.rules_text(),
    };
    let against = match asked.against.as_deref() {
        None => None,
        Some("none") => Some(String::new()),
        Some("live") => Some(app.engine.rules_text()),
        Some(rules) => Some(checked(&app, rules.to_owned(), true).await?),
    };
    let wanted = Wanted { from, to, rules, against, step };
    let shown = app.backtests.start(wanted, &app.engine, &app.store, &app.shutdown)?;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

async fn checked(app: &App, rules: String, alone: bool) -> Result<String, ApiError> {
    app.engine.check(&rules, alone, app.clock.now()).await?;
    Ok(rules)
}

/// `GET /api/v1/backtests`: the last ones, the newest first, without their reports.
pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    Json(json!({ "backtests": app.backtests.list() }))
}

/// `GET /api/v1/backtests/{id}`: how far it is, and its reports once it is done.
pub(crate) async fn find(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Shown>, ApiError> {
    app.backtests.find(&id).map(Json).ok_or_else(|| unknown(&id))
}

/// `DELETE /api/v1/backtests/{id}`: stops it.
pub(crate) async fn stop(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Value>, ApiError> {
    match app.backtests.stop(&id) {
        true => Ok(Json(json!({ "stopping": id }))),
        false => Err(unknown(&id)),
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no backtest '{id}'; only the last ones are kept"))
}
