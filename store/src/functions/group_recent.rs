//! `group_recent(window)`: one row per group and resource, the measurements of its members summed up.
//!
//! Nobody's measurements are made up. A member without any in the window is named and takes no part in the sums; an instant
//! at which one of the others was not measured is none of which a sum is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::Expr;
use tidegate_model::{ContainerKey, GroupBounds, GroupKey, GroupKind, Membership, Resource};

use super::aligned::aligned;
use super::gather::{Gathering, UsageAndLimits};
use super::made::{Made, Making};
use super::roster::version;
use super::span::span_ms;
use super::statistics::{Statistics, Window};
use crate::facts::GroupRow;
use crate::tables::{Column, Kind, Subject, schema_of};

/// How far back the last known limit of a member is looked for.
const LIMIT_LOOKBACK_MS: i64 = 7 * 24 * 3600 * 1000;

/// The columns of `group_recent(window)`.
pub(crate) fn group_recent_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    let count = |name: &str, doc: &str| Column::new(name, Kind::Integer, doc);
    vec![
        text("kind", "app or user"),
        text("name", "the group's name"),
        text("user_name", "the user that an app belongs to, if any; a user's own name"),
        text("resource", "cpu or memory"),
        count("members", "containers in the group"),
        count("members_reporting", "those with a measurement in the window; all that follows of usage is theirs alone"),
        text("missing", "the others, as host/container with commas between them; null if none"),
        double("age", "seconds from the newest measurement to now() of the member whose newest is oldest"),
        double("step", "seconds between two instants: how often the member measures that does so least often"),
        count("samples", "instants in the window at which all reporting members were measured"),
        count("partial", "instants at which only some of them were; they are left out"),
        double("usage", "the sum of the newest measurements, in cores or bytes"),
        double("usage_avg", "mean of the sums at the instants"),
        double("usage_max", "their peak"),
        double("usage_p50", "their median"),
        double("usage_p95", "their 95th percentile"),
        double("usage_p99", "their 99th percentile"),
        double("usage_stddev", "their standard deviation; null for a single instant"),
        double("usage_slope", "their least-squares slope per second; null for a single instant"),
        count("members_limited", "members of which a limit is known, if only from up to 7 days ago"),
        double("allocated", "the sum of their newest limits, in cores or bytes"),
        double("min", "what the limits may not be lowered below in sum; null if the operator says nothing"),
        double("max", "what the limits may not be raised above in sum; null if the operator says nothing"),
        double("upper", "allocated - margin; null unless the limits of all members are known"),
        double("lower", "allocated - 2 margin; null unless the limits of all members are known"),
    ]
}

/// The table function.
#[derive(Debug)]
pub(crate) struct GroupRecent;

impl TableFunctionImpl for GroupRecent {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(window, _)] = args.exprs() else {
            return plan_err!(
                "group_recent() takes one constant window: group_recent(INTERVAL '60 seconds') or group_recent(60)"
            );
        };
        let window_ms = span_ms(window, "the window of group_recent()")?;
        Ok(Arc::new(Made {
            operator: "MadeExec",
            name: format!("group_recent, window={window_ms} ms"),
            schema: schema_of(&group_recent_columns()),
            make: Arc::new(move |making: &Making| rows(making, window_ms)),
        }))
    }
}

fn rows(making: &Making, window_ms: i64) -> Result<RecordBatch> {
    let (run, store) = (making.run.as_ref(), making.run.store.as_ref());
    let now = run.now.0;
    let version = version(store);
    let start = now.saturating_sub(window_ms);
    let gathering = Gathering { run, memory: making.memory.new_empty(), start, resource: None, version: &version };
    let known = gathering.usage_and_limits(now.saturating_sub(LIMIT_LOOKBACK_MS))?;
    let UsageAndLimits { roster, mut usage, limits } = known;
    let containers = store.containers();
    let membership = Membership::of(&containers);
    let bounded: BTreeMap<GroupKey, GroupRow> = store.groups().into_iter().map(|row| (row.key.clone(), row)).collect();
    let groups: BTreeSet<&GroupKey> = membership.groups().map(|(group, _)| group).chain(bounded.keys()).collect();
    let mut rows = Vec::with_capacity(groups.len() * Resource::ALL.len());
    for group in groups {
        making.check()?;
        let user = match group.kind {
            GroupKind::App => membership.user_of(&group.name),
            GroupKind::User => Some(group.name.as_str()),
        };
        for resource in Resource::ALL {
            let member = |member: &ContainerKey| {
                let (host, container) = (member.host.clone(), member.name.clone());
                let subject = Subject { host, container, resource: resource.as_str().to_owned() };
                let place = roster.subjects.binary_search(&subject).ok();
                Member {
                    key: member.clone(),
                    place,
                    limit: place.and_then(|place| limits[place]).map(|(_, limit)| limit),
                }
            };
            let members: Vec<Member> = membership.members(group).iter().map(member).collect();
            let bounds = bounded.get(group).and_then(|row| row.bounds.get(&resource)).copied().unwrap_or_default();
            rows.push(Row { group, user, resource, bounds, figures: Figures::of(&members, &mut usage, now) });
        }
    }
    batch(&rows, store.config().boundary)
}

/// A container in a group.
struct Member {
    key: ContainerKey,
    /// Where its measurements are, if it has any at all.
    place: Option<usize>,
    /// The newest limit that is known.
    limit: Option<f64>,
}

/// One group and resource.
struct Row<'a> {
    group: &'a GroupKey,
    user: Option<&'a str>,
    resource: Resource,
    bounds: GroupBounds,
    figures: Figures,
}

/// What is known of the members together.
#[derive(Default)]
struct Figures {
    members: usize,
    reporting: usize,
    missing: Vec<String>,
    /// Of the member whose newest measurement is oldest.
    age_ms: Option<i64>,
    usage: Option<f64>,
    step_ms: Option<i64>,
    partial: i64,
    sums: Option<Statistics>,
    limited: usize,
    allocated: Option<f64>,
}

impl Figures {
    fn of(members: &[Member], usage: &mut [Window], now: i64) -> Self {
        let mut figures = Self { members: members.len(), ..Self::default() };
        // Taken out and put back: of the app and then of its user.
        let (mut places, mut windows) = (Vec::new(), Vec::new());
        for member in members {
            if let Some(limit) = member.limit {
                figures.limited += 1;
                figures.allocated = Some(figures.allocated.unwrap_or(0.0) + limit);
            }
            let newest = member.place.and_then(|place| Some((place, *usage[place].sorted().last()?)));
            let Some((place, (time, value))) = newest else {
                figures.missing.push(member.key.to_string());
                continue;
            };
            figures.age_ms = figures.age_ms.max(Some(now - time));
            figures.usage = Some(figures.usage.unwrap_or(0.0) + value);
            places.push(place);
            windows.push(std::mem::take(&mut usage[place]));
        }
        figures.reporting = windows.len();
        if !windows.is_empty() {
            let mut aligned = aligned(&mut windows, now);
            figures.step_ms = Some(aligned.step_ms);
            figures.partial = aligned.partial;
            figures.sums = aligned.whole.statistics(&mut Vec::new());
        }
        places.into_iter().zip(windows).for_each(|(place, window)| usage[place] = window);
        figures
    }
}

/// The rows in columns.
fn batch(rows: &[Row], boundary: f64) -> Result<RecordBatch> {
    let text = |value: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringViewArray>())
    };
    let count = |value: fn(&Figures) -> usize| -> ArrayRef {
        let count = |row: &Row| i64::try_from(value(&row.figures)).unwrap_or(i64::MAX);
        Arc::new(rows.iter().map(count).collect::<Int64Array>())
    };
    let integer = |value: fn(&Figures) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| value(&row.figures)).collect::<Int64Array>())
    };
    let double = |value: &dyn Fn(&Row) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Float64Array>())
    };
    let figure = |value: fn(&Figures) -> Option<f64>| double(&|row| value(&row.figures));
    let sums = |value: fn(&Statistics) -> Option<f64>| double(&|row| row.figures.sums.as_ref().and_then(value));
    let below = |margins: f64| {
        double(&move |row| {
            let allocated = row.figures.allocated.filter(|_| row.figures.limited == row.figures.members)?;
            Some(allocated - margins * boundary * allocated)
        })
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(row.group.kind.to_string())),
        text(&|row| Some(row.group.name.clone())),
        text(&|row| row.user.map(str::to_owned)),
        text(&|row| Some(row.resource.to_string())),
        count(|of| of.members),
        count(|of| of.reporting),
        text(&|row| (!row.figures.missing.is_empty()).then(|| row.figures.missing.join(", "))),
        figure(|of| of.age_ms.map(|ms| ms as f64 / 1000.0)),
        figure(|of| of.step_ms.map(|ms| ms as f64 / 1000.0)),
        integer(|of| of.sums.map_or(0, |sums| sums.samples)),
        integer(|of| of.partial),
        figure(|of| of.usage),
        sums(|of| Some(of.avg)),
        sums(|of| Some(of.max)),
        sums(|of| Some(of.p50)),
        sums(|of| Some(of.p95)),
        sums(|of| Some(of.p99)),
        sums(|of| of.stddev),
        sums(|of| of.slope),
        count(|of| of.limited),
        figure(|of| of.allocated),
        double(&|row| row.bounds.min),
        double(&|row| row.bounds.max),
        below(1.0),
        below(2.0),
    ];
    Ok(RecordBatch::try_new(schema_of(&group_recent_columns()), columns)?)
}
