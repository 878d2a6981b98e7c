//! The named queries of this crate: all of its SQL text.
//!
//! Values that come from a request enter a text only through [`literal`], [`identifier`] and [`instant`].

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use tidegate_model::{ContainerKey, Decision, GroupKey, Mode, Resource, TimeMs, metrics};

/// How far back the newest value of a container may lie to count as present.
pub(crate) const RECENT: Duration = Duration::from_secs(10);

/// How long after a decision its effect is looked at.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(60);

/// No outcome takes longer than this to become known.
const SLOWEST: Duration = Duration::from_secs(600);

const DECISION: &str = "SELECT time, id, rule, version, host, container, resource, limit_before, proposed, decided, \
    guards, reason, mode, inputs, outcome, limit_after, written, message, read_at, took_us FROM decisions";

const LATEST: &str = "SELECT host, container, resource, usage, allocated, upper, lower, throttled_last, pressure, \
    oom_kills, unreclaimable FROM recent(INTERVAL '10 seconds')";

/// A text as an SQL string.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An instant as an SQL timestamp of the type that the tables have.
pub(crate) fn instant(at: TimeMs) -> String {
    format!("arrow_cast({}, 'Timestamp(Millisecond, Some(\"UTC\"))')", at.0)
}

/// An instant as a person reads it.
fn readable(at: TimeMs) -> String {
    DateTime::from_timestamp_millis(at.0)
        .map_or_else(|| at.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The newest values of every container that was measured lately.
pub(crate) fn latest() -> String {
    LATEST.to_owned()
}

/// The newest values of one container.
pub(crate) fn latest_of(key: &ContainerKey) -> String {
    format!("{LATEST} WHERE {}", is(key))
}

/// The newest values of all groups, or of one.
pub(crate) fn groups(only: Option<&GroupKey>) -> String {
    let only = only.map_or_else(String::new, |group| {
        format!(" WHERE kind = {} AND name = {}", literal(group.kind.as_str()), literal(&group.name))
    });
    format!("SELECT * FROM group_recent(INTERVAL '60 seconds'){only} ORDER BY kind, name, resource")
}

/// How far back reports of knobs are looked through, and how many of them.
const KNOBS_SINCE_MINUTES: u32 = 60;
const MOST_KNOBS: usize = 5_000;

/// What came of knobs lately, newest first.
pub(crate) fn knobs() -> String {
    format!(
        "SELECT time, host, container, name FROM events WHERE rule = '(knobs)' \
         AND time > now() - INTERVAL '{KNOBS_SINCE_MINUTES} minutes' ORDER BY time DESC LIMIT {MOST_KNOBS}"
    )
}

/// A stretch of time cut into buckets of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buckets {
    /// Start of the first bucket, a multiple of `step`.
    pub(crate) from: TimeMs,
    /// End of the last bucket.
    pub(crate) to: TimeMs,
    /// Length of one bucket.
    pub(crate) step: Duration,
}

impl Buckets {
    fn bin(&self) -> String {
        format!("date_bin(INTERVAL '{} milliseconds', time)", self.step.as_millis())
    }

    fn select(&self, columns: &str, table: &str, key: &ContainerKey, from: TimeMs) -> String {
        let (bin, from, to) = (self.bin(), instant(from), instant(self.to));
        format!(
            "SELECT {bin} AS bucket, resource, {columns} FROM {table} \
             WHERE {} AND time >= {from} AND time < {to} GROUP BY {bin}, resource",
            is(key)
        )
    }

    /// Mean and peak of the usage.
    pub(crate) fn usage(&self, key: &ContainerKey) -> String {
        self.select("avg(value) AS mean, max(value) AS peak", "usage", key, self.from)
    }

    /// The newest limit.
    pub(crate) fn limits(&self, key: &ContainerKey) -> String {
        self.select("last_value(value ORDER BY time) AS newest", "limits", key, self.from)
    }

    /// The mean share of throttled periods.
    pub(crate) fn throttled(&self, key: &ContainerKey) -> String {
        self.select("avg(throttled) AS mean", "pressure", key, self.from)
    }

    /// The counter of OOM kills. Starts `before` earlier, so that the first bucket has something to be compared with.
    pub(crate) fn oom_kills(&self, key: &ContainerKey, before: Duration) -> String {
        let table = metric(metrics::OOM_KILLS);
        self.select("last_value(value ORDER BY time) AS newest", &table, key, self.from.minus(before))
    }

    /// The mean of the memory that cannot be reclaimed.
    pub(crate) fn unreclaimable(&self, key: &ContainerKey) -> String {
        self.select("avg(value) AS mean", &metric(metrics::UNRECLAIMABLE), key, self.from)
    }
}

fn metric(name: &str) -> String {
    format!("metric.{}", identifier(name))
}

fn is(key: &ContainerKey) -> String {
    format!("host = {} AND container = {}", literal(&key.host), literal(&key.name))
}

/// Which decisions are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionFilter {
    pub(crate) host: Option<String>,
    pub(crate) container: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) from: Option<TimeMs>,
    pub(crate) to: Option<TimeMs>,
    /// Only those older than this one.
    pub(crate) before: Option<(TimeMs, String)>,
    pub(crate) limit: usize,
}

/// Decisions that pass a filter, newest first.
pub(crate) fn decisions(filter: &DecisionFilter) -> String {
    let mut sql = format!("{DECISION} WHERE true");
    let texts = [
        ("host", &filter.host),
        ("container", &filter.container),
        ("rule", &filter.rule),
        ("resource", &filter.resource),
        ("outcome", &filter.outcome),
    ];
    for (column, value) in texts {
        if let Some(value) = value {
            add(&mut sql, format_args!("{column} = {}", literal(value)));
        }
    }
    if let Some(from) = filter.from {
        add(&mut sql, format_args!("time >= {}", instant(from)));
    }
    if let Some(to) = filter.to {
        add(&mut sql, format_args!("time < {}", instant(to)));
    }
    if let Some((time, id)) = &filter.before {
        let time = instant(*time);
        add(&mut sql, format_args!("(time < {time} OR (time = {time} AND id < {}))", literal(id)));
    }
    sql + &format!(" ORDER BY time DESC, id DESC LIMIT {}", filter.limit)
}

fn add(sql: &mut String, condition: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = write!(sql, " AND {condition}");
}

/// One decision. Its id begins with its time in 13 digits, which spares looking through all others.
pub(crate) fn decision(id: &str) -> String {
    let mut sql = format!("{DECISION} WHERE id = {}", literal(id));
    let time = id.split_once('-').map(|(time, _)| time).filter(|time| time.len() == 13);
    if let Some(time) = time.and_then(|time| time.parse().ok()) {
        add(&mut sql, format_args!("time = {}", instant(TimeMs(time))));
    }
    sql
}

/// What was decided since `last` became known, oldest first. By the time of the outcome, since a decision on memory
/// may be known seconds after later ones on CPU; its own time only bounds what is looked through.
pub(crate) fn decisions_since(last: &Decision, limit: usize) -> String {
    let (earliest, at, id) = (instant(last.time.minus(SLOWEST)), instant(last.outcome.at), literal(&last.id));
    format!("{DECISION} WHERE time >= {earliest} AND read_at >= {at} AND id <> {id} ORDER BY read_at, id LIMIT {limit}")
}

/// Usage in the minute after a decision.
pub(crate) fn usage_after(decision: &Decision) -> String {
    format!("SELECT avg(value) AS mean, max(value) AS peak FROM usage WHERE {}", aftermath(decision))
}

/// Throttling in the minute after a decision.
pub(crate) fn throttled_after(decision: &Decision) -> String {
    format!("SELECT avg(throttled) AS mean FROM pressure WHERE {}", aftermath(decision))
}

/// Of a knob, what followed shows in its resource.
fn aftermath(decision: &Decision) -> String {
    let (from, to) = (instant(decision.time), instant(decision.time.plus(AFTERMATH)));
    format!("{} AND time > {from} AND time <= {to}", is_of(&decision.container, decision.resource.of()))
}

fn is_of(key: &ContainerKey, resource: Resource) -> String {
    format!("{} AND resource = {}", is(key), literal(resource.as_str()))
}

/// The limit of a container as last measured.
pub(crate) fn limit_now(key: &ContainerKey, resource: Resource) -> String {
    // A knob that nobody set stands where everybody's does.
    let stands = match resource {
        Resource::MemoryHigh => "least(coalesce(high, allocated), allocated)",
        Resource::CpuWeight => "coalesce(weight, 100)",
        _ => "allocated",
    };
    format!("SELECT {stands} AS allocated FROM recent(INTERVAL '10 seconds') WHERE {}", is_of(key, resource.of()))
}

/// For a person to run: what could be seen of the container at the decision's tick, over the minute before it.
pub(crate) fn as_of(decision: &Decision) -> String {
    let whose = is_of(&decision.container, decision.resource.of());
    let limits = is_of(&decision.container, decision.resource);
    let from = readable(decision.time.minus(Duration::from_secs(60)));
    let minute = format!("time > '{from}' AND time <= '{}'", readable(decision.time));
    format!(
        "SELECT host, container, resource, count(*) AS samples,\n  \
           last_value(value ORDER BY time) AS usage, avg(value) AS usage_avg, max(value) AS usage_max,\n  \
           (SELECT last_value(value ORDER BY time) FROM limits\n   WHERE {limits} AND {minute}) AS allocated,\n  \
           (SELECT avg(throttled) FROM pressure\n   WHERE {whose} AND {minute}) AS throttled\n\
         FROM usage\nWHERE {whose}\n  AND {minute}\nGROUP BY host, container, resource"
    )
}

/// Tables of which a report reads all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    Usage,
    /// Shares of throttled periods.
    Throttled,
}

fn any_of(members: &[ContainerKey]) -> String {
    let one_by_one: Vec<String> = members.iter().map(|key| format!("({})", is(key))).collect();
    format!("({})", one_by_one.join(" OR "))
}

/// All rows of some containers with the limit in force at their times, oldest first.
pub(crate) fn reported(table: Reported, members: &[ContainerKey], from: TimeMs, to: TimeMs) -> String {
    let (columns, rows) = match table {
        Reported::Usage => ("value, allocated", "asof('usage') WHERE true"),
        Reported::Throttled => ("throttled AS value, NULL AS allocated", "pressure WHERE throttled IS NOT NULL"),
    };
    let (members, from, to) = (any_of(members), instant(from), instant(to));
    format!(
        "SELECT time, host, container, resource, {columns} FROM {rows} \
         AND {members} AND time >= {from} AND time < {to} ORDER BY time"
    )
}

/// How many changes of limits were applied, and how many of them upwards.
pub(crate) fn changes(members: &[ContainerKey], from: TimeMs, to: TimeMs) -> String {
    let (members, from, to) = (any_of(members), instant(from), instant(to));
    format!(
        "SELECT host, container, resource, count(*) AS changes, count(*) FILTER (WHERE limit_after > limit_before) AS raised \
         FROM decisions WHERE outcome = 'applied' AND {members} AND time >= {from} AND time < {to} \
         GROUP BY host, container, resource"
    )
}

/// By how much the counters of OOM kills grew.
pub(crate) fn kills(members: &[ContainerKey], from: TimeMs, to: TimeMs) -> String {
    let (members, from, to) = (any_of(members), instant(from), instant(to));
    format!(
        "SELECT host, container, increase(value, time) AS kills FROM {} \
         WHERE {members} AND time >= {from} AND time < {to} GROUP BY host, container",
        metric(metrics::OOM_KILLS)
    )
}

/// Changes how far a rule's proposals go.
pub(crate) fn set_mode(rule: &str, mode: Mode) -> String {
    format!("ALTER RULE {} SET (mode = {})", identifier(rule), literal(&mode.to_string()))
}

/// Removes a rule.
pub(crate) fn drop_rule(rule: &str) -> String {
    format!("DROP RULE {}", identifier(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_looked_for_at_the_time_in_its_id() {
        assert!(decision("1795291200000-00ff").contains(&instant(TimeMs(1_795_291_200_000))));
        assert!(!decision("abc").contains("AND time"));
    }

    #[test]
    fn what_comes_from_a_request_cannot_end_its_literal() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        let filter = DecisionFilter { rule: Some("x' OR '1'='1".to_owned()), limit: 5, ..DecisionFilter::default() };
        assert!(decisions(&filter).contains("rule = 'x'' OR ''1''=''1'"));
    }
}
