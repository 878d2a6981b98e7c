//! `rollup(metric, step)`: each series in buckets of time, from the roll-ups that segments have wherever they have them.
//!
//! The answer is the same whether a bucket's samples are in memory, in segments or rolled up: what is not rolled up yet is
//! rolled up here, by the same [`Bin`]s and in the same order. Only bins of one length serve a step, the longest that it is
//! made of; sums over bins of several lengths would differ in their last digits.

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use tidegate_model::TimeMs;

use super::made::{Made, Making};
use super::span::span_ms;
use crate::aggregate::{Bins, Ended, Rolled, Visit, Visitor};
use crate::segment::rollup::{Bin, Figures, RollupRow, Step};
use crate::store::Store;
use crate::tables::{
    Column, Filters, Kind, LabelFilter, MetricSource, Selected, Source, TimeRange, UTC, executed, pushdown, schema_of,
    tag_columns,
};

const USAGE: &str = "rollup() takes a metric's name and a step: rollup('cpu', INTERVAL '1 minute')";
/// The columns behind the tags.
const FIGURES: [&str; 5] = ["min", "max", "sum", "count", "last"];

/// The columns of `rollup(metric, step)` that are the same for all metrics.
pub(crate) fn rollup_columns() -> Vec<Column> {
    let [min, max, sum, count, last] = FIGURES;
    vec![
        Column::new("time", Kind::Time, "where the bucket begins; the tags stand behind it"),
        Column::new(min, Kind::Double, "the least of its samples"),
        Column::new(max, Kind::Double, "the largest"),
        Column::new(sum, Kind::Double, "the sum, minute by minute or hour by hour; of decimals exact within each"),
        Column::new(count, Kind::Integer, "how many there are"),
        Column::new(last, Kind::Double, "the latest"),
    ]
}

/// The table function.
pub(super) struct Rollup {
    /// Weak, since the store keeps plans and what they are made with.
    store: Weak<Store>,
    /// The instant, for plans that are made for one only.
    now: Option<TimeMs>,
}

impl Rollup {
    pub(super) fn new(store: &Arc<Store>, now: Option<TimeMs>) -> Self {
        Self { store: Arc::downgrade(store), now }
    }
}

impl fmt::Debug for Rollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rollup")
    }
}

impl TableFunctionImpl for Rollup {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(name, _), Expr::Literal(step, _)] = args.exprs() else { return plan_err!("{USAGE}") };
        let (ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name))) =
            name
        else {
            return plan_err!("{USAGE}");
        };
        let step_ms = span_ms(step, "the step of rollup()")?;
        let Some(metric) = self.store.upgrade().and_then(|store| store.metric(name)) else {
            return plan_err!("metric '{name}' not found in rollup()");
        };
        let mut columns = rollup_columns();
        columns.splice(1..1, tag_columns(&metric.tag_keys, &FIGURES));
        let buckets = Buckets {
            tags: metric.tag_keys.len(),
            source: MetricSource::new(metric.name.clone(), metric.tag_keys),
            step_ms,
            schema: schema_of(&columns),
        };
        Ok(Arc::new(RollupTable { metric: metric.name, buckets: Arc::new(buckets), now: self.now }))
    }
}

/// The metric whose roll-ups `scan` asks for, if that is what it does.
pub(super) fn rollup_metric(scan: &TableScan) -> Option<String> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<RollupTable>().map(|table| table.metric.clone())
}

#[derive(Debug)]
struct RollupTable {
    metric: String,
    buckets: Arc<Buckets>,
    now: Option<TimeMs>,
}

impl RollupTable {
    fn label_schema(&self) -> Schema {
        let labels = self.buckets.schema.fields().iter().skip(1).take(self.buckets.tags);
        Schema::new(labels.cloned().collect::<Vec<_>>())
    }
}

#[async_trait]
impl TableProvider for RollupTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.buckets.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let schema = self.label_schema();
        let labels: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        Ok(pushdown(filters, &labels))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let label_schema = Arc::new(self.label_schema());
        let Filters { bounds, labels } = Filters::new(filters, &label_schema, self.now, state)?;
        let buckets = Arc::clone(&self.buckets);
        let shown = |figure: &usize| projection.is_none_or(|shown| shown.contains(&(1 + buckets.tags + figure)));
        let figures = Figures::of((0..FIGURES.len()).filter(shown).map(|figure| FIGURES[figure]));
        let name = format!("table={}, step={} ms", buckets.source.name(), buckets.step_ms);
        let make = Arc::new(move |making: &Making| {
            let labels = labels.as_ref().map(|labels| making.run.bind(labels)).transpose()?;
            buckets.rows(making, bounds.resolve(&making.run)?, figures, labels.as_ref(), &label_schema)
        });
        Made { operator: "RollupExec", name, schema: self.schema(), make }.exec(projection)
    }
}

/// What is asked for.
#[derive(Debug)]
struct Buckets {
    source: MetricSource,
    tags: usize,
    step_ms: i64,
    schema: SchemaRef,
}

impl Buckets {
    /// The buckets that begin in `range`, series by series.
    fn rows(
        &self,
        making: &Making,
        range: TimeRange,
        figures: Figures,
        labels: Option<&Arc<dyn PhysicalExpr>>,
        label_schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let nothing = || Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        let Some(range) = self.samples(making, range) else { return nothing() };
        let filter = LabelFilter::new(labels, Arc::clone(label_schema));
        // A metric is one part.
        let parts = Selected::of(&self.source, &making.run, &filter)?;
        let Some(part) = parts.first() else { return nothing() };
        let Some(members) = part.part.labels.members.first() else { return nothing() };
        let visit = Visit { members, labels: part.part.labels.count, series: part.series(0), range };
        let step: Vec<Step> = Step::within(Bins::Every(self.step_ms)).take(1).collect();
        let mut rolled = Vec::new();
        let wanted = Rolled { steps: &step, figures, whole: false };
        let ranges = making.run.store.rolled_up(&visit, &wanted, &mut rolled).map_err(executed)?;
        let held = rolled.len() * size_of::<RollupRow>();
        let mut rolling = Rolling::new(step.first().map_or(self.step_ms, |step| step.ms()), visit.labels);
        let mut check = |bytes: usize| -> std::result::Result<(), Ended> {
            making.check().and_then(|()| making.memory.try_resize(held + bytes)).map_err(Ended::Query)
        };
        making.run.store.visit(&visit, &ranges, &mut rolling, &mut check)?;
        let label = |row: &RollupRow| members.rank.get(row.series);
        // One that appeared after the labels were made has none.
        rolled.retain(|row| label(row).is_some());
        rolled.sort_unstable_by_key(|row| (label(row), row.time));
        let mut columns = Columns::default();
        let (mut left, mut rows) = (rolled.as_slice(), Vec::new());
        for (number, bins) in (0u32..).zip(&rolling.labels) {
            let (own, others) = left.split_at(left.partition_point(|row| label(row) <= Some(number)));
            left = others;
            rows.clear();
            rows.extend_from_slice(own);
            rows.extend(bins.iter().map(|bin| bin.row(0)));
            rows.sort_unstable_by_key(|row| row.time);
            let bucket = |row: &RollupRow| row.time.div_euclid(self.step_ms);
            for same in rows.chunk_by(|a, b| bucket(a) == bucket(b)) {
                columns.push(number, bucket(&same[0]) * self.step_ms, same);
            }
        }
        making.memory.try_grow(columns.times.len() * (6 * size_of::<i64>() + 16 * self.tags))?;
        columns.finish(&part.part.labels.columns, &self.schema)
    }

    /// From when until when samples are in the buckets that begin in `range`; `None` when there are none.
    fn samples(&self, making: &Making, range: TimeRange) -> Option<TimeRange> {
        let (earliest, latest) = making.run.store.stored_times()?;
        let from = range.from.max(earliest.div_euclid(self.step_ms).saturating_mul(self.step_ms));
        let first = from.div_euclid(self.step_ms) + i64::from(from.rem_euclid(self.step_ms) != 0);
        let last = range.to.min(latest).div_euclid(self.step_ms);
        let end = last.saturating_add(1).saturating_mul(self.step_ms).saturating_sub(1);
        let samples = TimeRange { from: first.saturating_mul(self.step_ms), to: end.min(making.run.now.0) };
        (first <= last && samples.from <= samples.to).then_some(samples)
    }
}

/// Rolls samples up, label by label.
struct Rolling {
    bin_ms: i64,
    /// In the order of time.
    labels: Vec<Vec<Bin>>,
    bins: usize,
}

impl Rolling {
    fn new(bin_ms: i64, labels: usize) -> Self {
        Self { bin_ms, labels: vec![Vec::new(); labels], bins: 0 }
    }
}

impl Visitor for Rolling {
    #[inline]
    fn row(&mut self, label: u32, time: i64, value: f64) {
        let bins = &mut self.labels[label as usize];
        match bins.last_mut() {
            Some(last) if time - last.time() < self.bin_ms => last.add(value),
            _ => {
                let mut bin = Bin::new(time.div_euclid(self.bin_ms) * self.bin_ms);
                bin.add(value);
                bins.push(bin);
                self.bins += 1;
            }
        }
    }

    fn forget(&mut self, late: &mut [bool]) {
        for (bins, _) in self.labels.iter_mut().zip(late).filter(|(_, late)| **late) {
            self.bins -= bins.len();
            bins.clear();
        }
    }

    fn held(&self) -> usize {
        // A vector that grows may have twice the room that it needs.
        2 * self.bins * size_of::<Bin>() + self.labels.len() * size_of::<Vec<Bin>>()
    }
}

/// The answer, column by column.
#[derive(Default)]
struct Columns {
    labels: Vec<u32>,
    times: Vec<i64>,
    min: Vec<f64>,
    max: Vec<f64>,
    sum: Vec<f64>,
    count: Vec<i64>,
    last: Vec<f64>,
}

impl Columns {
    /// A bucket of a label; `bins` are its bins in the order of time, at least one.
    fn push(&mut self, label: u32, time: i64, bins: &[RollupRow]) {
        self.labels.push(label);
        self.times.push(time);
        self.min.push(bins.iter().map(|bin| bin.min).fold(f64::INFINITY, |a, b| if b < a { b } else { a }));
        self.max.push(bins.iter().map(|bin| bin.max).fold(f64::NEG_INFINITY, |a, b| if b > a { b } else { a }));
        self.sum.push(bins.iter().map(|bin| bin.sum).sum());
        self.count.push(bins.iter().map(|bin| i64::from(bin.count)).sum());
        self.last.push(bins.last().map_or(0.0, |bin| bin.last));
    }

    fn finish(self, tags: &[ArrayRef], schema: &SchemaRef) -> Result<RecordBatch> {
        let labels = UInt32Array::from(self.labels);
        let double = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(TimestampMillisecondArray::from(self.times).with_timezone(UTC))];
        for column in tags {
            columns.push(take(column, &labels, None)?);
        }
        columns.extend([double(self.min), double(self.max), double(self.sum)]);
        columns.push(Arc::new(Int64Array::from(self.count)));
        columns.push(double(self.last));
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}
