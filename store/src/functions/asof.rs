//! `asof(table)`: a table with the limit that was in force at the time of each row.
//!
//! ASOF JOIN is not to be had, and a lookup per row would read the limits once a row. Here they are read once for each slice
//! of time that the table itself is read in, and never past `now()`, since the table is not either. Of a filter on host,
//! container or resource follows whose limits are read at all.

use std::sync::{Arc, OnceLock, Weak};

use arrow::array::Float64Array;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;
use tidegate_model::TimeMs;

use super::span::span_ms;
use crate::error::StoreError;
use crate::store::Store;
use crate::tables::{
    Block, Choice, Column, Kind, LabelFilter, Part, Read, ReadRows, Selected, Source, SubjectSource, TimedTable,
    each_row, schema_of, timed_source,
};

/// How far before a row the newest limit is looked for, unless the call says otherwise; as in `recent(window)`.
const LOOKBACK_MS: i64 = 10 * 60 * 1000;
/// Tables with a host, a container and a resource a row.
const TABLES: [&str; 2] = ["usage", "pressure"];

/// What the function adds to a table's columns.
pub(crate) fn asof_columns() -> Vec<Column> {
    vec![
        Column::new(
            "allocated",
            Kind::Double,
            "the limit in force at the time, in cores or bytes; null where none was read",
        ),
        Column::new("allocated_age", Kind::Double, "seconds from the reading of that limit to the time"),
    ]
}

/// The table function.
#[derive(Debug)]
pub(crate) struct AsOf {
    /// Weak, since the store keeps plans and what they are made with.
    store: Weak<Store>,
    /// The instant, for plans that are made for one only.
    now: Option<TimeMs>,
}

impl AsOf {
    pub(crate) fn new(store: &Arc<Store>, now: Option<TimeMs>) -> Self {
        Self { store: Arc::downgrade(store), now }
    }
}

impl TableFunctionImpl for AsOf {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (table, lookback) = match args.exprs() {
            [Expr::Literal(table, _)] => (table, LOOKBACK_MS),
            [Expr::Literal(table, _), Expr::Literal(lookback, _)] => {
                (table, span_ms(lookback, "the lookback of asof()")?)
            }
            _ => return plan_err!("asof() takes a table: asof('usage') or asof('usage', INTERVAL '1 hour')"),
        };
        let (ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name))) = table else {
            return plan_err!("asof() takes the name of a table, not {table}");
        };
        let source = self.store.upgrade().filter(|_| TABLES.contains(&name.as_str()));
        let source = source.and_then(|store| timed_source(&store, name));
        let Some(inner) = source else {
            return plan_err!("asof() takes a table with host, container and resource: {}", TABLES.join(" or "));
        };
        let source = Limited { inner, lookback };
        Ok(Arc::new(TimedTable::new(Arc::new(source), self.now)))
    }
}

/// A table with two more columns.
#[derive(Debug)]
struct Limited {
    inner: Arc<dyn Source>,
    lookback: i64,
}

impl Source for Limited {
    fn name(&self) -> String {
        format!("asof({})", self.inner.name())
    }

    fn schema(&self) -> SchemaRef {
        let added = schema_of(&asof_columns());
        let fields: Vec<_> = self.inner.schema().fields().iter().chain(added.fields()).cloned().collect();
        Arc::new(arrow::datatypes::Schema::new(fields))
    }

    fn label_count(&self) -> usize {
        self.inner.label_count()
    }

    fn has_one_value(&self) -> bool {
        false
    }

    fn parts(&self, store: &Store, filter: &LabelFilter) -> Vec<Part> {
        let schema = self.inner.schema();
        let label = |name: &str| schema.index_of(name).map(|at| at - 1).ok();
        let (Some(host), Some(container), Some(resource)) = (label("host"), label("container"), label("resource"))
        else {
            return Vec::new();
        };
        let lookback = self.lookback;
        let limited = |part: Part| {
            let inner = part.read;
            // All reads of a scan are of the same labels.
            let limits = OnceLock::new();
            let read: ReadRows = Box::new(move |store: &Store, selected: &Selected, from: i64, to: i64| {
                let mut blocks = inner.rows(store, selected, from, to)?;
                if !blocks.is_empty() {
                    let limits = limits.get_or_init(|| Limits::new(store, selected, [host, container, resource]));
                    let found = limits.read(store, from.saturating_sub(lookback), to)?;
                    blocks.iter_mut().for_each(|block| limits.add(block, &found, lookback));
                }
                Ok(blocks)
            });
            Part { labels: part.labels, read: Read::Rows(read) }
        };
        self.inner.parts(store, filter).into_iter().map(limited).collect()
    }
}

/// The limits of those whose rows are wanted.
struct Limits {
    /// By label of the rows, the label of the limit; `None` where nobody is limited, or the rows are not wanted.
    of: Vec<Option<u32>>,
    limits: Selected,
}

impl Limits {
    /// `columns` are those of host, container and resource among the labels of `rows`.
    fn new(store: &Store, rows: &Selected, columns: [usize; 3]) -> Self {
        let limits = SubjectSource::LIMITS.part(store);
        let labels = &rows.part.labels;
        let text = |column, label| Some(labels.text(column, label).unwrap_or_default());
        let limit = |label: u32| limits.labels.with_texts(&columns.map(|column| text(column, label)));
        match &rows.choice {
            Choice::All => {
                // Labels are counted in u32 as series are.
                let of = (0..labels.count as u32).map(limit).collect();
                Self { of, limits: Selected::all(limits) }
            }
            Choice::Some(chosen) => {
                let mut of = vec![None; labels.count];
                chosen.iter().for_each(|label| of[*label as usize] = limit(*label));
                let mut wanted: Vec<u32> = of.iter().flatten().copied().collect();
                wanted.sort_unstable();
                wanted.dedup();
                Self { of, limits: Selected::only(limits, wanted) }
            }
        }
    }

    /// The limits in a range of time by their label, sorted by time.
    fn read(&self, store: &Store, from: i64, to: i64) -> std::result::Result<Vec<Vec<(i64, f64)>>, StoreError> {
        let mut found = vec![Vec::new(); self.limits.part.labels.count];
        for block in self.limits.read(store, from, to)? {
            each_row(&block, |label, time, value| found[label as usize].push((time, value)));
        }
        for limits in &mut found {
            limits.sort_by(|a: &(i64, f64), b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        }
        Ok(found)
    }

    /// Adds the columns to a block of rows; `found` are the limits that were read.
    fn add(&self, block: &mut Block, found: &[Vec<(i64, f64)>], lookback: i64) {
        let rows = block.label.values().iter().zip(block.time.values());
        let added = rows.map(|(label, time)| {
            let limits = &found[self.of[*label as usize]? as usize];
            let next = limits.partition_point(|(at, _)| at <= time);
            let (at, limit) = *limits.get(next.checked_sub(1)?)?;
            (time - at <= lookback).then_some((time - at, limit))
        });
        let added: Vec<Option<(i64, f64)>> = added.collect();
        block.values.push(Arc::new(added.iter().map(|found| found.map(|(_, limit)| limit)).collect::<Float64Array>()));
        let ages = added.iter().map(|found| found.map(|(age, _)| age as f64 / 1000.0));
        block.values.push(Arc::new(ages.collect::<Float64Array>()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql_tests::{NOW, open};
    use crate::tables::UsageSource;

    #[tokio::test]
    async fn only_the_limits_of_those_that_are_wanted_are_read() {
        let store = open();
        for container in ["a", "b", "c", "d"] {
            let tags = [("host", "h"), ("container", container), ("resource", "cpu")];
            store.push(&[("tidegate.limit", &tags, 2.0, 2.0)]).await;
            if container != "d" {
                store.push(&[("tidegate.usage", &tags, 1.0, 1.0)]).await;
            }
        }
        let usage = || UsageSource { maps: Vec::new() }.parts(&store.store, &LabelFilter::everything()).remove(0);
        let read = |rows: &Selected| {
            let limits = Limits::new(&store.store, rows, [0, 1, 3]);
            let found = limits.read(&store.store, 0, NOW.0).unwrap();
            (limits.limits.series_count(), found.iter().map(Vec::len).sum::<usize>())
        };
        assert_eq!(read(&Selected::only(usage(), vec![2])), (1, 1));
        assert_eq!(read(&Selected::only(usage(), vec![0, 1])), (2, 2));
        assert_eq!(read(&Selected::all(usage())), (4, 4));
    }
}
