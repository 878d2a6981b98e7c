//! `/api/v1/experiments`: stretches of time with a name, and the tests inside them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tidegate_model::TimeMs;
use tidegate_store::{Experiment, Test};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Params, Segments, Text};
use crate::openapi::shapes;

/// The facts are one file, which is written as a whole.
const MOST_EXPERIMENTS: usize = 1_000;
/// Of all experiments together.
const MOST_TESTS: usize = 10_000;
const MOST_TAGS: usize = 50;
const LONGEST_NAME: usize = 255;
const LONGEST_INFO: usize = 2_000;

/// What is given of an experiment or a test. A field that is left out stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ExperimentWish)]
pub(crate) struct Given {
    #[schema(max_length = 255)]
    name: Option<String>,
    /// Whose it is; the caller's when left out. A test has none.
    user: Option<String>,
    /// `"now"`, ms since 1970, or RFC 3339.
    start: Option<Value>,
    /// As `start`; `null` says that it runs, which is not the same as saying nothing.
    #[serde(deserialize_with = "said")]
    end: Option<Value>,
    info: Option<String>,
    tags: Option<BTreeMap<String, String>>,
}

fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Those of this user.
    user: Option<String>,
    /// Those that were running at some time from here on, in ms UTC.
    #[param(value_type = Option<i64>)]
    from: Option<TimeMs>,
    /// Those that began before, in ms UTC.
    #[param(value_type = Option<i64>)]
    to: Option<TimeMs>,
}

/// Experiments, the newest first.
#[utoipa::path(
    get, path = "/api/v1/experiments", tag = "Reports",
    params(Filter),
    responses(
        (status = 200, description = "Those that are asked for", body = shapes::Experiments),
    ),
)]
pub(crate) async fn list(State(app): State<App>, Params(filter): Params<Filter>) -> Json<Value> {
    let all = app.store.experiments();
    let wanted = |one: &&Experiment| {
        filter.user.as_ref().is_none_or(|user| one.user == *user)
            && filter.from.is_none_or(|from| one.end.is_none_or(|end| end >= from))
            && filter.to.is_none_or(|to| one.start < to)
    };
    let mut rows: Vec<&Experiment> = all.values().filter(wanted).collect();
    rows.sort_by(|one, two| two.start.cmp(&one.start).then_with(|| one.name.cmp(&two.name)));
    Json(json!({ "now": app.clock.now(), "experiments": rows }))
}

/// One experiment with its tests.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name")),
    responses(
        (status = 200, description = "It", body = shapes::Experiment),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn find(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Json<Experiment>, ApiError> {
    app.store.experiments().get(&name).cloned().map(Json).ok_or_else(|| unknown(&name))
}

/// Makes an experiment, which begins now unless it says when.
#[utoipa::path(
    post, path = "/api/v1/experiments", tag = "Reports",
    request_body = Given,
    responses(
        (status = 201, description = "As it was made", body = shapes::Experiment),
        (status = 400, description = "A field is not as expected; the message names it", body = ErrorAnswer),
        (status = 409, description = "There is one of that name already", body = ErrorAnswer),
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Text,
) -> Result<(StatusCode, Json<Experiment>), ApiError> {
    let (given, now): (Given, TimeMs) = (body.json()?, app.clock.now());
    let made = edit(&app, move |all| {
        let name = new_name(&given)?;
        if all.contains_key(&name) {
            let message = format!("there is an experiment '{name}' already");
            return Err(ApiError::new(StatusCode::CONFLICT, message).help("give it another name, or PATCH it"));
        }
        if all.len() >= MOST_EXPERIMENTS {
            return Err(ApiError::bad_request(format!("there are {MOST_EXPERIMENTS} experiments already")));
        }
        let user = given.user.clone().unwrap_or_else(|| caller.name.clone());
        let mut made = Experiment {
            name,
            user,
            start: now,
            end: None,
            info: String::new(),
            tags: BTreeMap::new(),
            tests: Vec::new(),
            changed_by: caller.name,
            changed_at: now,
        };
        fill(&given, now, Fields::of(&mut made))?;
        check(&made)?;
        all.insert(made.name.clone(), made.clone());
        Ok(made)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// Changes an experiment: `{"end": "now"}` ends it, and the tests in it that still run.
#[utoipa::path(
    patch, path = "/api/v1/experiments/{name}", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name")),
    request_body = Given,
    responses(
        (status = 200, description = "As it is then", body = shapes::Experiment),
        (status = 400, description = "A field is not as expected; the message names it", body = ErrorAnswer),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn change(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments(name): Segments<String>,
    body: Text,
) -> Result<Json<Experiment>, ApiError> {
    let (given, now): (Given, TimeMs) = (body.json()?, app.clock.now());
    same_name(&given, &name)?;
    let changed = edit_one(&app, name, caller, now, move |one| {
        if let Some(user) = &given.user {
            one.user.clone_from(user);
        }
        fill(&given, now, Fields::of(one))?;
        if let Some(end) = one.end {
            one.tests.iter_mut().filter(|test| test.end.is_none()).for_each(|test| test.end = Some(end));
        }
        Ok(())
    });
    changed.await.map(Json)
}

/// Forgets an experiment with its tests, and tells what it was. What was measured stays.
#[utoipa::path(
    delete, path = "/api/v1/experiments/{name}", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name")),
    responses(
        (status = 200, description = "What it was", body = shapes::Experiment),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn remove(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Json<Experiment>, ApiError> {
    edit(&app, move |all| all.remove(&name).ok_or_else(|| unknown(&name))).await.map(Json)
}

/// Makes a test in an experiment, which begins now unless it says when.
#[utoipa::path(
    post, path = "/api/v1/experiments/{name}/tests", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name")),
    request_body = Given,
    responses(
        (status = 201, description = "The experiment with it", body = shapes::Experiment),
        (status = 400, description = "A field is not as expected; the message names it", body = ErrorAnswer),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
        (status = 409, description = "There is one of that name already", body = ErrorAnswer),
    ),
)]
pub(crate) async fn create_test(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments(name): Segments<String>,
    body: Text,
) -> Result<(StatusCode, Json<Experiment>), ApiError> {
    let (given, now): (Given, TimeMs) = (body.json()?, app.clock.now());
    no_user(&given)?;
    let changed = edit_one(&app, name, caller, now, move |one| {
        let name = new_name(&given)?;
        if one.tests.iter().any(|test| test.name == name) {
            let message = format!("experiment '{}' has a test '{name}' already", one.name);
            return Err(ApiError::new(StatusCode::CONFLICT, message).help("give it another name, or PATCH it"));
        }
        let mut test = Test { name, start: now, end: None, info: String::new(), tags: BTreeMap::new() };
        fill(&given, now, Fields::of_test(&mut test))?;
        one.tests.push(test);
        Ok(())
    });
    Ok((StatusCode::CREATED, Json(changed.await?)))
}

/// Changes a test.
#[utoipa::path(
    patch, path = "/api/v1/experiments/{name}/tests/{test}", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name"), ("test" = String, Path, description = "The test's name")),
    request_body = Given,
    responses(
        (status = 200, description = "The experiment with it", body = shapes::Experiment),
        (status = 400, description = "A field is not as expected; the message names it", body = ErrorAnswer),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn change_test(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((name, test)): Segments<(String, String)>,
    body: Text,
) -> Result<Json<Experiment>, ApiError> {
    let (given, now): (Given, TimeMs) = (body.json()?, app.clock.now());
    same_name(&given, &test)?;
    no_user(&given)?;
    let changed = edit_one(&app, name, caller, now, move |one| {
        let place = place_of(one, &test)?;
        fill(&given, now, Fields::of_test(&mut one.tests[place]))
    });
    changed.await.map(Json)
}

/// Forgets a test.
#[utoipa::path(
    delete, path = "/api/v1/experiments/{name}/tests/{test}", tag = "Reports",
    params(("name" = String, Path, description = "The experiment's name"), ("test" = String, Path, description = "The test's name")),
    responses(
        (status = 200, description = "The experiment without it", body = shapes::Experiment),
        (status = 404, description = "There is none of that name", body = ErrorAnswer),
    ),
)]
pub(crate) async fn remove_test(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segments((name, test)): Segments<(String, String)>,
) -> Result<Json<Experiment>, ApiError> {
    let now = app.clock.now();
    let changed = edit_one(&app, name, caller, now, move |one| {
        let place = place_of(one, &test)?;
        one.tests.remove(place);
        Ok(())
    });
    changed.await.map(Json)
}

type All = BTreeMap<String, Experiment>;

/// The facts are a file that is replaced and synced, which may take a slow disk a while.
async fn edit<T: Send + 'static>(
    app: &App,
    edit: impl FnOnce(&mut All) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = app.store.clone();
    let bounded = |all: &mut All| {
        let edited = edit(all)?;
        match all.values().map(|one| one.tests.len()).sum::<usize>() > MOST_TESTS {
            true => Err(ApiError::bad_request(format!("there are {MOST_TESTS} tests already"))),
            false => Ok(edited),
        }
    };
    let edited = tokio::task::spawn_blocking(move || store.change_experiments(bounded)).await;
    edited.map_err(|error| ApiError::internal("keeping an experiment", error))?
}

async fn edit_one(
    app: &App,
    name: String,
    caller: Caller,
    now: TimeMs,
    change: impl FnOnce(&mut Experiment) -> Result<(), ApiError> + Send + 'static,
) -> Result<Experiment, ApiError> {
    edit(app, move |all| {
        let one = all.get_mut(&name).ok_or_else(|| unknown(&name))?;
        change(one)?;
        one.tests.sort_by_key(|test| test.start);
        (one.changed_by, one.changed_at) = (caller.name, now);
        check(one)?;
        Ok(one.clone())
    })
    .await
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no experiment '{name}'"))
}

fn place_of(experiment: &Experiment, test: &str) -> Result<usize, ApiError> {
    let place = experiment.tests.iter().position(|one| one.name == test);
    place.ok_or_else(|| ApiError::not_found(format!("experiment '{}' has no test '{test}'", experiment.name)))
}

fn new_name(given: &Given) -> Result<String, ApiError> {
    let name = given.name.clone().ok_or_else(|| ApiError::bad_request("name is missing"))?;
    if name.trim().is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        let message = format!("name is {name:?}; it has 1 to {LONGEST_NAME} characters, none of which is a control");
        return Err(ApiError::bad_request(message));
    }
    Ok(name)
}

/// Others may have noted the name, so it stays.
fn same_name(given: &Given, name: &str) -> Result<(), ApiError> {
    match &given.name {
        Some(other) if other != name => {
            Err(ApiError::bad_request(format!("name is '{other}'; the name '{name}' cannot be changed")))
        }
        _ => Ok(()),
    }
}

fn no_user(given: &Given) -> Result<(), ApiError> {
    match &given.user {
        Some(user) => Err(ApiError::bad_request(format!("user is '{user}'; a test is of its experiment's user"))),
        None => Ok(()),
    }
}

/// What experiments and tests have in common.
struct Fields<'a> {
    start: &'a mut TimeMs,
    end: &'a mut Option<TimeMs>,
    info: &'a mut String,
    tags: &'a mut BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    fn of(one: &'a mut Experiment) -> Self {
        Self { start: &mut one.start, end: &mut one.end, info: &mut one.info, tags: &mut one.tags }
    }

    fn of_test(one: &'a mut Test) -> Self {
        Self { start: &mut one.start, end: &mut one.end, info: &mut one.info, tags: &mut one.tags }
    }
}

fn fill(given: &Given, now: TimeMs, into: Fields<'_>) -> Result<(), ApiError> {
    if let Some(start) = &given.start {
        *into.start = time("start", start, now)?;
    }
    match &given.end {
        None => {}
        Some(Value::Null) => *into.end = None,
        Some(end) => *into.end = Some(time("end", end, now)?),
    }
    if let Some(info) = &given.info {
        if info.chars().count() > LONGEST_INFO {
            return Err(ApiError::bad_request(format!("info is longer than {LONGEST_INFO} characters")));
        }
        into.info.clone_from(info);
    }
    if let Some(tags) = &given.tags {
        let long = |text: &String| text.is_empty() || text.chars().count() > LONGEST_NAME;
        if let Some((key, value)) = tags.iter().find(|(key, value)| long(key) || long(value)) {
            let message = format!("tags has {key:?}: {value:?}; keys and values have 1 to {LONGEST_NAME} characters");
            return Err(ApiError::bad_request(message));
        }
        if tags.len() > MOST_TAGS {
            return Err(ApiError::bad_request(format!("tags has {}; {MOST_TAGS} is the most", tags.len())));
        }
        into.tags.clone_from(tags);
    }
    Ok(())
}

/// `now`, ms since 1970, or RFC 3339.
fn time(field: &str, value: &Value, now: TimeMs) -> Result<TimeMs, ApiError> {
    let time = match value {
        Value::String(text) if text == "now" => Some(now),
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok().map(|time| TimeMs(time.timestamp_millis())),
        Value::Number(number) => number.as_i64().map(TimeMs),
        _ => None,
    };
    // A readable time has at most four digits of a year.
    time.filter(|time| (0..=253_402_300_799_999).contains(&time.0)).ok_or_else(|| {
        ApiError::bad_request(format!("{field} is {value}, which is no time"))
            .help("a time is \"now\", ms since 1970, or RFC 3339 such as \"2026-11-28T08:00:00Z\"")
    })
}

fn readable(at: TimeMs) -> String {
    DateTime::from_timestamp_millis(at.0)
        .map_or_else(|| at.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Whether nothing ends before it begins, and tests lie within their experiment.
fn check(one: &Experiment) -> Result<(), ApiError> {
    if one.user.trim().is_empty() || one.user.chars().count() > LONGEST_NAME {
        return Err(ApiError::bad_request(format!("user is {:?}; it has 1 to {LONGEST_NAME} characters", one.user)));
    }
    in_order(&format!("experiment '{}'", one.name), one.start, one.end)?;
    for test in &one.tests {
        let what = format!("test '{}'", test.name);
        in_order(&what, test.start, test.end)?;
        let outside = |message| ApiError::bad_request(message).help("tests lie within their experiment");
        if test.start < one.start {
            let (start, begins) = (readable(test.start), readable(one.start));
            return Err(outside(format!("start of {what} is {start}; experiment '{}' begins at {begins}", one.name)));
        }
        if let Some(end) = one.end
            && test.end.is_none_or(|of_test| of_test > end)
        {
            let (until, ends) = (test.end.map_or("still to come".to_owned(), readable), readable(end));
            return Err(outside(format!("end of {what} is {until}; experiment '{}' ended at {ends}", one.name)));
        }
    }
    Ok(())
}

fn in_order(what: &str, start: TimeMs, end: Option<TimeMs>) -> Result<(), ApiError> {
    match end {
        Some(end) if end < start => {
            Err(ApiError::bad_request(format!("end of {what} is {}; it begins at {}", readable(end), readable(start))))
        }
        _ => Ok(()),
    }
}
