//! `/api/v1/backtests`: what rules would have done to the containers of this server's own history.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_model::{Resource, TimeMs};
use tidegate_policy::backtest::{Course, Report, STEP};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::backtests::{Backtest, Wanted};
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Params, Segments, Text};

/// The span of a backtest that does not name its beginning.
const USUAL_SPAN: Duration = Duration::from_secs(3600);

/// What to replay, and over which time.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BacktestQuestion {
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

/// The backtests that are kept.
#[derive(Serialize, ToSchema)]
pub(crate) struct BacktestList {
    backtests: Vec<Backtest>,
}

/// That a backtest is told to stop.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stopping {
    /// Its id.
    stopping: String,
}

/// Starts a backtest.
///
/// Rules are checked before. One runs at a time.
#[utoipa::path(
    post, path = "/api/v1/backtests", tag = "Backtests", operation_id = "start_backtest",
    request_body = BacktestQuestion,
    responses(
        (status = 202, description = "It has begun", body = Backtest),
        (status = 400, description = "The body or the range is not as expected", body = ErrorAnswer),
        (status = 409, description = "Another one is running", body = ErrorAnswer),
        (status = 422, description = "A rule is wrong", body = ErrorAnswer),
    ),
)]
pub(crate) async fn start(State(app): State<App>, body: Text) -> Result<(StatusCode, Json<Backtest>), ApiError> {
    let asked: BacktestQuestion = body.json()?;
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

/// The last backtests, the newest first, without their reports.
#[utoipa::path(
    get, path = "/api/v1/backtests", tag = "Backtests", operation_id = "backtests",
    responses((status = 200, description = "Those that are kept", body = BacktestList)),
)]
pub(crate) async fn list(State(app): State<App>) -> Json<BacktestList> {
    Json(BacktestList { backtests: app.backtests.list() })
}

/// How far a backtest is, and its reports once it is done.
#[utoipa::path(
    get, path = "/api/v1/backtests/{id}", tag = "Backtests", operation_id = "backtest",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The backtest", body = Backtest),
        (status = 404, description = "There is none of this id", body = ErrorAnswer),
    ),
)]
pub(crate) async fn find(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Backtest>, ApiError> {
    app.backtests.find(&id).map(Json).ok_or_else(|| unknown(&id))
}

/// Which limit.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CourseOf {
    /// The container's host.
    host: String,
    /// Its name there.
    container: String,
    /// `cpu` or `memory`.
    #[param(value_type = String, pattern = "^(cpu|memory)$")]
    resource: Resource,
}

/// One limit over the time of a backtest.
#[derive(Serialize, ToSchema)]
pub(crate) struct BacktestCourse {
    rules: CourseColumns,
    /// With what they were compared with.
    against: Option<CourseColumns>,
}

/// In some hundred points; all lists have a value for each. In cores or bytes.
#[derive(Serialize, ToSchema)]
struct CourseColumns {
    /// The ends of the points' spans, in ms UTC. There are none where nothing was measured.
    t: Vec<i64>,
    /// The most that was wanted: what was used in fact.
    wanted: Vec<f32>,
    /// What the simulated limit let through, in the mean.
    used: Vec<f32>,
    /// The simulated limit in the mean, of memory the lower one of the limit and `memory.high`; null without one.
    limit: Vec<Option<f32>>,
}

impl CourseColumns {
    fn of(report: &Report, of: &CourseOf) -> Option<Self> {
        let is_it = |course: &&Course| {
            (&course.host, &course.container, course.resource) == (&of.host, &of.container, of.resource)
        };
        let Course { t, wanted, used, limit, .. } = report.courses.iter().find(is_it)?.clone();
        Some(Self { t: t.into_iter().map(|t| t.0).collect(), wanted, used, limit })
    }
}

/// What one limit would have been over time, and what was wanted.
///
/// Of the first 200 containers.
#[utoipa::path(
    get, path = "/api/v1/backtests/{id}/course", tag = "Backtests", operation_id = "backtest_course",
    params(("id" = String, Path, description = "Its id"), CourseOf),
    responses(
        (status = 200, description = "The limit's course", body = BacktestCourse),
        (status = 404, description = "There is none of this id, it is not done, or it did not have that limit", body = ErrorAnswer),
    ),
)]
pub(crate) async fn course(
    State(app): State<App>,
    Segments(id): Segments<String>,
    Params(of): Params<CourseOf>,
) -> Result<Json<BacktestCourse>, ApiError> {
    let (report, against) = app.backtests.find(&id).ok_or_else(|| unknown(&id))?.reports();
    let report = report.ok_or_else(|| ApiError::not_found(format!("backtest '{id}' has no report yet")))?;
    let rules = CourseColumns::of(&report, &of).ok_or_else(|| {
        let CourseOf { host, container, resource } = &of;
        ApiError::not_found(format!("backtest '{id}' keeps no course of the {resource} of {host}/{container}"))
    })?;
    Ok(Json(BacktestCourse { rules, against: against.and_then(|report| CourseColumns::of(&report, &of)) }))
}

/// Stops a backtest.
#[utoipa::path(
    delete, path = "/api/v1/backtests/{id}", tag = "Backtests", operation_id = "stop_backtest",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is told to", body = Stopping),
        (status = 404, description = "There is none of this id", body = ErrorAnswer),
    ),
)]
pub(crate) async fn stop(State(app): State<App>, Segments(id): Segments<String>) -> Result<Json<Stopping>, ApiError> {
    match app.backtests.stop(&id) {
        true => Ok(Json(Stopping { stopping: id })),
        false => Err(unknown(&id)),
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no backtest '{id}'; only the last ones are kept"))
}
