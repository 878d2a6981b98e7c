//! `asof(table)`: a table with the limit that was in force at the time of each row.
//!
//! ASOF JOIN is not to be had, and a lookup per row would read the limits once a row. Here they are read once for each slice
//! of time that the table itself is read in, and never past `now()`, since the table is not either.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{Float64Type, SchemaRef};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;
use tidegate_model::TimeMs;

use super::span::span_ms;
use crate::error::StoreError;
use crate::store::Store;
use crate::tables::{
    Block, Column, Kind, LabelFilter, Part, Read, Selected, Source, Subject, SubjectSource, TimedTable, schema_of,
    timed_source,
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
            let limits = SubjectSource::LIMITS.parts(store, &LabelFilter::everything());
            let limits: Vec<_> = limits.into_iter().map(Selected::all).collect();
            let whose = who(&part.labels.columns, [host, container, resource]);
            let mut numbers = HashMap::new();
            for (label, subject) in (0..).zip(whose) {
                numbers.entry(subject).or_insert_with(Vec::new).push(label);
            }
            let count = part.labels.count;
            let inner = part.read;
            let read: Read = Box::new(move |store: &Store, selected: &Selected, from: i64, to: i64| {
                let mut blocks = match &inner {
                    Some(inner) => inner(store, selected, from, to)?,
                    None => selected.samples(store, 0, from, to)?,
                };
                if !blocks.is_empty() {
                    let found = in_force(store, &limits, &numbers, count, (from.saturating_sub(lookback), to))?;
                    blocks.iter_mut().for_each(|block| add(block, &found, lookback));
                }
                Ok(blocks)
            });
            Part { labels: part.labels, read: Some(read) }
        };
        self.inner.parts(store, filter).into_iter().map(limited).collect()
    }
}

/// Who each label is about.
fn who(labels: &[ArrayRef], [host, container, resource]: [usize; 3]) -> Vec<Subject> {
    let text = |column: usize, row: usize| {
        let column = labels[column].as_string_view();
        if arrow::array::Array::is_valid(column, row) { column.value(row).to_owned() } else { String::new() }
    };
    let rows = labels.first().map_or(0, |labels| labels.len());
    let subject =
        |row| Subject { host: text(host, row), container: text(container, row), resource: text(resource, row) };
    (0..rows).map(subject).collect()
}

/// The limits in a range of time by label, sorted by time.
fn in_force(
    store: &Store,
    limits: &[Selected],
    numbers: &HashMap<Subject, Vec<usize>>,
    labels: usize,
    (from, to): (i64, i64),
) -> std::result::Result<Vec<Vec<(i64, f64)>>, StoreError> {
    let mut found = vec![Vec::new(); labels];
    for part in limits {
        let whose: Vec<_> =
            who(&part.part.labels.columns, [0, 1, 2]).iter().map(|subject| numbers.get(subject)).collect();
        for block in part.read(store, from, to)? {
            let Some(values) = block.values.first().and_then(|values| values.as_primitive_opt::<Float64Type>()) else {
                continue;
            };
            for ((label, time), value) in block.label.values().iter().zip(block.time.values()).zip(values.values()) {
                for number in whose[*label as usize].into_iter().flatten() {
                    found[*number].push((*time, *value));
                }
            }
        }
    }
    for limits in &mut found {
        limits.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    }
    Ok(found)
}

fn add(block: &mut Block, limits: &[Vec<(i64, f64)>], lookback: i64) {
    let rows = block.label.values().iter().zip(block.time.values());
    let found: Vec<Option<(i64, f64)>> = rows
        .map(|(label, time)| {
            let limits = &limits[*label as usize];
            let next = limits.partition_point(|(at, _)| at <= time);
            let (at, limit) = *limits.get(next.checked_sub(1)?)?;
            (time - at <= lookback).then_some((time - at, limit))
        })
        .collect();
    block.values.push(Arc::new(found.iter().map(|found| found.map(|(_, limit)| limit)).collect::<Float64Array>()));
    let ages = found.iter().map(|found| found.map(|(age, _)| age as f64 / 1000.0));
    block.values.push(Arc::new(ages.collect::<Float64Array>()));
}
