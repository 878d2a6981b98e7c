//! `/api/v1/report`: what a container, an app or a user used, was allocated and had reserved over a range of time.

use std::collections::HashMap;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_model::{ContainerKey, GroupKey, GroupKind, Membership, Resource, TimeMs};
use utoipa::{IntoParams, ToSchema};

use super::series::{self, DEFAULT_POINTS, DEFAULT_SPAN};
use crate::App;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::Params;
use crate::openapi::shapes;
use crate::queries::Reported;
use crate::report::{self, Grid, Ledger, Reading, Reserved, ReservedBy, Sums, reserved};

/// In watts, where something pushes them; nothing here measures them.
const ENERGY: &str = "energy";
const RESOURCES: [&str; 3] = ["cpu", "memory", ENERGY];
/// Most containers in one report: each is named in the question to the store.
const MOST_MEMBERS: usize = 2_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// As `HOST/NAME`.
    container: Option<String>,
    app: Option<String>,
    user: Option<String>,
    /// In ms UTC; an hour before `to` when left out.
    #[param(value_type = Option<i64>)]
    from: Option<TimeMs>,
    /// In ms UTC; now when left out.
    #[param(value_type = Option<i64>)]
    to: Option<TimeMs>,
    /// About how many buckets, 600 when left out; the server's own bound holds, too.
    #[param(minimum = 1)]
    points: Option<usize>,
}

/// What one resource came to. Integrals are in the unit times seconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReportFigures)]
pub(crate) struct Figures {
    /// `cores`, `bytes` or `watts`.
    unit: &'static str,
    used: f64,
    /// Null when no limit was known at any time.
    allocated: Option<f64>,
    /// Null when nothing tells what is reserved.
    reserved: Option<f64>,
    reserved_by: Option<ReservedBy>,
    /// Of what was allocated.
    utilisation: Option<f64>,
    average: Option<f64>,
    average_allocated: Option<f64>,
    maximum: Option<f64>,
    /// With data; of several containers the sum of theirs.
    time_s: f64,
    /// In which at least one container has data.
    covered_s: f64,
    limited_s: f64,
    /// At 99 % of the limit or above.
    at_limit_s: f64,
    /// Null where nobody measures it.
    throttled_s: Option<f64>,
    oom_kills: Option<f64>,
    changes: i64,
    raised: i64,
    samples: u64,
    gaps: usize,
}

/// What a container, an app or a user used, was allocated and had reserved over a range of time.
///
/// One of `container`, `app` and `user` is needed.
#[utoipa::path(
    get, path = "/api/v1/report", tag = "Reports",
    params(Asked),
    responses(
        (status = 200, description = "The figures, and means for a chart", body = shapes::Report),
        (status = 400, description = "A field is not as expected; the message names it", body = ErrorAnswer),
        (status = 404, description = "There is no such container, app or user", body = ErrorAnswer),
        (status = 504, description = "It would read for too long; ask for a shorter range", body = ErrorAnswer),
    ),
)]
pub(crate) async fn report(State(app): State<App>, Params(asked): Params<Asked>) -> Result<Json<Value>, ApiError> {
    let started = Instant::now();
    let now = app.clock.now();
    let (kind, name, members) = members(&app, &asked)?;
    let to = asked.to.unwrap_or(now);
    let from = asked.from.unwrap_or_else(|| to.minus(DEFAULT_SPAN));
    let buckets = series::cut(from, to, asked.points.unwrap_or(DEFAULT_POINTS), app.config.max_points)?;
    let grid = Grid {
        from: from.0,
        // What is to come has not been used.
        to: to.min(now).0,
        first: buckets.from.0,
        step: series::step_ms(&buckets),
        count: series::count(&buckets),
    };
    let times: Vec<i64> = (0..grid.count).map(|at| series::start(&buckets, at)).collect();

    let reading = |table| Reading { table, members: &members, from, to: to.min(now), now };
    let mut used = vec![Ledger::new(members.len(), grid); RESOURCES.len()];
    let mut throttled = [Ledger::new(members.len(), grid)];
    report::read(&app, &reading(Reported::Usage), &RESOURCES, &mut used).await?;
    report::read(&app, &reading(Reported::Throttled), &["cpu"], &mut throttled).await?;
    let counts = report::counts(&app, &reading(Reported::Usage)).await?;
    let kills = report::kills(&app, &reading(Reported::Usage)).await?;

    let (containers, hosts) = (app.store.containers(), app.store.hosts());
    let mut rows: Vec<Value> = members.iter().map(|key| json!({ "host": key.host, "name": key.name })).collect();
    let (mut total, mut columns) = (serde_json::Map::new(), serde_json::Map::new());
    for (resource, ledger) in RESOURCES.iter().zip(&used) {
        if *resource == ENERGY && ledger.total().samples == 0 {
            total.insert(ENERGY.to_owned(), Value::Null);
            continue;
        }
        let typed: Option<Resource> = Resource::ALL.into_iter().find(|one| one.as_str() == *resource);
        let mut sum = Figures::new(typed, &ledger.total());
        (sum.covered_s, sum.gaps) = (ledger.cover().seconds(), ledger.cover().gaps());
        sum.averages(ledger.limited_s());
        let mut ran = Vec::new();
        for (at, key) in members.iter().enumerate() {
            let sums = ledger.sums(at);
            let mut figures = Figures::new(typed, sums);
            (figures.covered_s, figures.gaps) = (sums.known_s, ledger.gaps(at));
            figures.averages(sums.limited_s);
            if let Some(typed) = typed {
                let reserved = reserved(key, typed, &containers, &hosts);
                figures.count(key, typed, &counts, kills.as_ref(), throttled[0].sums(at));
                figures.reserve(reserved, sums.known_s);
            }
            sum.add(&figures);
            ran.extend((figures.time_s > 0.0).then_some((figures.reserved, figures.reserved_by)));
            rows[at][*resource] = json!(figures);
        }
        let bounded = typed.and_then(|typed| group_max(&app, kind, &name, typed));
        (sum.reserved, sum.reserved_by) = match bounded {
            Some(max) => (Some(max * sum.covered_s), Some(ReservedBy::Bounds)),
            None => reserved_together(&ran),
        };
        let (mean, allocated) = ledger.means();
        total.insert((*resource).to_owned(), json!(sum));
        columns.insert((*resource).to_owned(), json!({ "used": mean, "allocated": allocated }));
    }
    Ok(Json(json!({
        "now": now,
        "kind": kind,
        "name": name,
        "from": from,
        "to": to,
        "total": total,
        "containers": rows,
        "step_ms": grid.step,
        "t": times,
        "series": columns,
        "took_ms": started.elapsed().as_millis() as u64,
    })))
}

/// What an operator lets the limits of a group add up to.
fn group_max(app: &App, kind: &str, name: &str, resource: Resource) -> Option<f64> {
    let groups = app.store.groups();
    let group = groups.iter().find(|row| row.key.kind.as_str() == kind && row.key.name == name)?;
    group.bounds.get(&resource)?.max
}

/// Whom a report is about.
fn members(app: &App, asked: &Asked) -> Result<(&'static str, String, Vec<ContainerKey>), ApiError> {
    let containers = app.store.containers();
    let grouped = |kind: GroupKind, name: &str| {
        let group = GroupKey { kind, name: name.to_owned() };
        let members = Membership::of(&containers).members(&group).to_vec();
        match members.len() {
            0 => Err(ApiError::not_found(format!("there is no container of {group}"))),
            many if many > MOST_MEMBERS => {
                let message = format!("{group} has {many} containers; a report is about {MOST_MEMBERS} at most");
                Err(ApiError::bad_request(message))
            }
            _ => Ok((kind.as_str(), name.to_owned(), members)),
        }
    };
    match (&asked.container, &asked.app, &asked.user) {
        (Some(container), None, None) => {
            let Some((host, name)) = container.split_once('/') else {
                return Err(ApiError::bad_request(format!("container is '{container}'; it is written HOST/NAME")));
            };
            let key = ContainerKey { host: host.to_owned(), name: name.to_owned() };
            if !containers.iter().any(|container| container.key == key) {
                return Err(ApiError::not_found(format!("there is no container '{container}'")));
            }
            Ok(("container", container.clone(), vec![key]))
        }
        (None, Some(name), None) => grouped(GroupKind::App, name),
        (None, None, Some(name)) => grouped(GroupKind::User, name),
        _ => Err(ApiError::bad_request("one of container=HOST/NAME, app=NAME and user=NAME is needed")),
    }
}

impl Figures {
    fn new(resource: Option<Resource>, sums: &Sums) -> Self {
        let limited = sums.limited_s > 0.0;
        Self {
            unit: resource.map_or("watts", Resource::unit),
            used: sums.used,
            allocated: limited.then_some(sums.allocated),
            reserved: None,
            reserved_by: None,
            utilisation: (sums.allocated > 0.0).then(|| sums.used_of_allocated / sums.allocated),
            average: None,
            average_allocated: None,
            maximum: sums.peak,
            time_s: sums.known_s,
            covered_s: 0.0,
            limited_s: sums.limited_s,
            at_limit_s: sums.at_limit_s,
            throttled_s: None,
            oom_kills: None,
            changes: 0,
            raised: 0,
            samples: sums.samples,
            gaps: 0,
        }
    }

    /// Means over the time with data, or with a limit; of several containers those of their sum.
    fn averages(&mut self, limited_s: f64) {
        self.average = (self.covered_s > 0.0).then(|| self.used / self.covered_s);
        self.average_allocated = self.allocated.filter(|_| limited_s > 0.0).map(|allocated| allocated / limited_s);
    }

    fn count(
        &mut self,
        key: &ContainerKey,
        resource: Resource,
        counts: &HashMap<(ContainerKey, String), (i64, i64)>,
        kills: Option<&HashMap<ContainerKey, f64>>,
        throttled: &Sums,
    ) {
        let counted = counts.get(&(key.clone(), resource.as_str().to_owned()));
        (self.changes, self.raised) = counted.copied().unwrap_or_default();
        match resource.of() {
            Resource::Memory => self.oom_kills = kills.and_then(|kills| kills.get(key)).copied(),
            _ => self.throttled_s = (throttled.samples > 0).then_some(throttled.used),
        }
    }

    /// Reserved while it ran, which is when there is data of it.
    fn reserve(&mut self, reserved: Option<Reserved>, known_s: f64) {
        self.reserved = reserved.map(|reserved| reserved.amount * known_s);
        self.reserved_by = reserved.map(|reserved| reserved.by);
    }

    /// Adds what is not in the ledger's sums.
    fn add(&mut self, other: &Figures) {
        self.throttled_s = sum(self.throttled_s, other.throttled_s);
        self.oom_kills = sum(self.oom_kills, other.oom_kills);
        self.changes += other.changes;
        self.raised += other.raised;
    }
}

/// Of what is known.
fn sum(one: Option<f64>, two: Option<f64>) -> Option<f64> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one + two),
        (one, two) => one.or(two),
    }
}

/// What is reserved for all containers that ran, each with the amount times its time. Nothing is, unless something is for
/// each of them.
fn reserved_together(members: &[(Option<f64>, Option<ReservedBy>)]) -> (Option<f64>, Option<ReservedBy>) {
    let Some(first) = members.first() else { return (None, None) };
    let total = members.iter().try_fold(0.0, |total, (amount, _)| amount.map(|amount| total + amount));
    let by = if members.iter().all(|(_, by)| *by == first.1) { first.1 } else { Some(ReservedBy::Mixed) };
    (total, total.and(by))
}
