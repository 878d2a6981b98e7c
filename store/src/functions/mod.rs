//! Functions that SQL has beyond DataFusion's.

mod aggregate;
mod aligned;
mod asof;
mod bounded;
mod counter;
mod ends;
mod ewma;
mod fill;
mod followed;
mod gaps;
mod gather;
mod group_recent;
mod histogram_quantile;
mod history;
mod last;
mod made;
mod now;
mod points;
mod queue;
mod recent;
mod recent_columns;
mod rollup;
mod roster;
mod span;
mod statistics;
mod tag;
mod time_buckets;
mod trail;

use datafusion::common::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Documentation, TableScan};

pub(crate) use self::bounded::{MULTIPLYING, bounded};
pub(crate) use self::histogram_quantile::HISTOGRAM_QUANTILE;
pub(crate) use self::last::{LastExec, LastRows};
pub(crate) use self::recent::{Asked, RecentExec, rows as recent_rows};
pub(crate) use self::recent_columns::{recent_columns, recent_places};
pub(crate) use self::roster::Recents;

pub(crate) use self::made::{MadeExec, Make, Making};

use std::sync::{Arc, LazyLock};

use tidegate_model::TimeMs;

use self::aggregate::series_aggregates;
use self::asof::{AsOf, asof_columns};
use self::fill::Fill;
use self::gaps::gap_fillers;
use self::group_recent::{GroupRecent, group_recent_columns};
use self::histogram_quantile::histogram_quantile;
use self::history::{HistoryFunction, history_columns};
use self::last::{Last, last_columns, last_metric};
use self::now::now;
use self::recent::Recent;
use self::rollup::{Rollup, rollup_columns, rollup_metric};
use self::tag::tag;
use self::time_buckets::{TimeBuckets, time_buckets_columns};
use crate::store::Store;
use crate::tables::{Column, ColumnInfo, column_infos};

/// Registers what does not depend on the store or the instant of a query.
pub(crate) fn register(state: &mut SessionState) -> Result<()> {
    state.register_udf(Arc::new(tag()))?;
    for aggregate in series_aggregates().into_iter().chain([histogram_quantile()]) {
        state.register_udaf(Arc::new(aggregate))?;
    }
    for window in gap_fillers() {
        state.register_udwf(Arc::new(window))?;
    }
    state.register_udtf("time_buckets", Arc::new(TimeBuckets));
    Ok(())
}

/// Registers what does, for plans as of `at`; `None` for plans that are told the instant each time they run.
pub(crate) fn register_for(state: &mut SessionState, store: &Arc<Store>, at: Option<TimeMs>) -> Result<()> {
    state.register_udf(Arc::new(now(at)))?;
    state.register_udtf("last", Arc::new(Last::new(Arc::downgrade(store))));
    state.register_udtf("recent", Arc::new(Recent));
    state.register_udtf("group_recent", Arc::new(GroupRecent));
    state.register_udtf("history", Arc::new(HistoryFunction));
    state.register_udtf("asof", Arc::new(AsOf::new(store, at)));
    state.register_udtf("fill", Arc::new(Fill::new(store, at)));
    state.register_udtf("rollup", Arc::new(Rollup::new(store, at)));
    Ok(())
}

/// The metric that `scan` asks about, where the columns of its function depend on the metric.
pub(crate) fn metric_of(scan: &TableScan) -> Option<String> {
    last_metric(scan).or_else(|| rollup_metric(scan))
}

/// A function, for completion and documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// How it is called.
    pub signature: String,
    /// What it gives.
    pub doc: String,
    /// The columns of a table function; empty for others.
    pub columns: Vec<ColumnInfo>,
}

impl FunctionInfo {
    fn new(name: &str, signature: &str, doc: &str) -> Self {
        Self { name: name.to_owned(), signature: signature.to_owned(), doc: doc.to_owned(), columns: Vec::new() }
    }
}

/// Every function that `state` knows: the store's own first, then DataFusion's by name.
pub(crate) fn all(state: &SessionState) -> Vec<FunctionInfo> {
    let mut own = own();
    let named = |name: &String, doc: Option<&Documentation>| {
        let signature = doc.map_or_else(|| format!("{name}(...)"), |doc| doc.syntax_example.clone());
        let text = doc.map_or_else(String::new, |doc| doc.description.trim().to_owned());
        FunctionInfo::new(name, &signature, &text)
    };
    let scalar = state.scalar_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let aggregate = state.aggregate_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let window = state.window_functions().iter().map(|(name, f)| named(name, f.documentation()));
    let table = state.table_functions().keys().map(|name| named(name, None));
    let mut built_in: Vec<FunctionInfo> = scalar.chain(aggregate).chain(window).chain(table).collect();
    built_in.retain(|function| !own.iter().any(|mine| mine.name == function.name));
    built_in.sort_by(|a, b| a.name.cmp(&b.name));
    built_in.dedup_by(|a, b| a.name == b.name);
    own.extend(built_in);
    own
}

/// Names of the store's own functions.
pub(crate) fn own_names() -> impl Iterator<Item = &'static str> {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| own().into_iter().map(|function| function.name).collect());
    NAMES.iter().map(String::as_str)
}

/// The store's own functions.
fn own() -> Vec<FunctionInfo> {
    let plain = FunctionInfo::new;
    let table = |name: &str, signature: &str, doc: &str, columns: Vec<Column>| FunctionInfo {
        columns: column_infos(columns),
        ..FunctionInfo::new(name, signature, doc)
    };
    vec![
        table(
            "recent",
            "recent(window)",
            "one row per host, container and resource with a usage sample in the window before now(); window is an \
             INTERVAL or a number of seconds",
            recent_columns(),
        ),
        table(
            "group_recent",
            "group_recent(window)",
            "one row per app or user and resource with the sums of what its containers used in the window before now(); \
             window is an INTERVAL or a number of seconds",
            group_recent_columns(),
        ),
        table(
            "last",
            "last(metric, age)",
            "the newest sample at or before now() of every series of a metric, at most age old: an INTERVAL or a number \
             of seconds, 1 hour when it is not given",
            last_columns(),
        ),
        table(
            "history",
            "history(half_life)",
            "one row per host, container and resource with percentiles, peaks and confidence of all its usage, a measurement \
             weighing 2^(-age / half_life); half_life is an INTERVAL or a number of seconds",
            history_columns(),
        ),
        table(
            "asof",
            "asof(table [, lookback])",
            "the rows of usage or pressure with the limit in force at the time of each, read at most the lookback before \
             it, 10 minutes if not given",
            asof_columns(),
        ),
        FunctionInfo::new(
            "fill",
            "fill(table, step, how [, aggregate])",
            "usage, limits or a metric in buckets of time, with a row for each bucket of the range in WHERE; what is missing \
             is 'null', 'previous', 'linear' or a number; aggregate is avg (if not given), min, max, sum, count or last",
        ),
        table(
            "rollup",
            "rollup(metric, step)",
            "every series of a metric in buckets of time; read from roll-ups where a segment has them, with the same answer \
             where it has none; step is an INTERVAL or a number of seconds",
            rollup_columns(),
        ),
        plain("now", "now()", "the instant that the query is asked for; the tick in a rule"),
        plain("tag", "tag(tags, key)", "one tag of the JSON object in samples.tags or containers.labels"),
        plain("first", "first(value, time)", "the value at the earliest time; of several the largest"),
        plain("last", "last(value, time)", "the value at the latest time; of several the largest"),
        plain("delta", "delta(value, time)", "last value minus first; null with less than two times; for gauges"),
        plain(
            "increase",
            "increase(value, time)",
            "how much a counter grew from its first to its last reading, resets included; null with less than two times",
        ),
        plain(
            "rate",
            "rate(value, time)",
            "increase(value, time) per second from the first to the last reading; null with less than two times",
        ),
        plain(
            "ewma",
            "ewma(value, time, half_life)",
            "mean with weights 2^(-age / half_life), the age counted from the newest value; half_life is an INTERVAL or a \
             number of seconds",
        ),
        plain(
            "histogram_quantile",
            "histogram_quantile(quantile, le, count)",
            "quantile, from 0 to 1, out of cumulative bucket counts by their upper bounds, as in Prometheus",
        ),
        plain("locf", "locf(value) OVER (... ORDER BY time)", "the value, or the last one before it where it is null"),
        plain(
            "interpolate",
            "interpolate(value, time) OVER (... ORDER BY time)",
            "the value, or where it is null that of the straight line between the values before and after it",
        ),
        table(
            "time_buckets",
            "time_buckets(step, from, to)",
            "one row per bucket of date_bin(step, time) from one instant to another, both included; to join with",
            time_buckets_columns(),
        ),
    ]
}
