//! `fill(table, step, how)`: a table in buckets of time without gaps.
//!
//! Every series that has a measurement in the asked range gets a row for each bucket of that range, as TimescaleDB's
//! `time_bucket_gapfill` and Influx' `fill()` give. The range is what WHERE says of the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringViewBuilder, TimestampMillisecondArray};
use arrow::datatypes::{Float64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err, resources_datafusion_err};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use tidegate_model::TimeMs;

use super::gaps::on_line;
use super::made::{Made, Making};
use super::span::span_ms;
use crate::store::Store;
use crate::tables::{
    Choice, Filters, LabelFilter, Selected, Slices, Source, TimeRange, UTC, executed, metric_source, pushdown,
    timed_source,
};

/// Rows of one call.
const MAX_ROWS: i64 = 1_000_000;
const USAGE: &str = "fill() takes a table or a metric, a step and a way: fill('usage', INTERVAL '1 minute', 'linear')";

/// What stands in a bucket without a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Null,
    Previous,
    Linear,
    Constant(f64),
}

/// What a bucket's measurements come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aggregate {
    Avg,
    Min,
    Max,
    Sum,
    Count,
    Last,
}

/// The table function.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Weak, since the store keeps plans and what they are made with.
    store: Weak<Store>,
    /// The instant, for plans that are made for one only.
    now: Option<TimeMs>,
}

impl Fill {
    pub(crate) fn new(store: &Arc<Store>, now: Option<TimeMs>) -> Self {
        Self { store: Arc::downgrade(store), now }
    }
}

impl TableFunctionImpl for Fill {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let constant = |expr: &Expr| match expr {
            Expr::Literal(value, _) => Some(value.clone()),
            _ => None,
        };
        let Some(constants) = args.exprs().iter().map(constant).collect::<Option<Vec<_>>>() else {
            return plan_err!("{USAGE}");
        };
        let (table, step, how, aggregate) = match constants.as_slice() {
            [table, step, how] => (table, step, how, Aggregate::Avg),
            [table, step, how, aggregate] => (table, step, how, aggregate_of(aggregate)?),
            _ => return plan_err!("{USAGE}"),
        };
        let Some(name) = text(table) else { return plan_err!("{USAGE}") };
        let source = self.store.upgrade().and_then(|store| match name.strip_prefix("metric.") {
            Some(metric) => metric_source(&store, metric),
            None if name == "usage" || name == "limits" => timed_source(&store, name),
            None => metric_source(&store, name),
        });
        let Some(source) = source else {
            return plan_err!("fill() takes usage, limits or a metric, and there is no metric '{name}'");
        };
        let filling = Filling { source, step: span_ms(step, "the step of fill()")?, how: how_of(how)?, aggregate };
        Ok(Arc::new(FillTable { schema: filling.source.schema(), filling, now: self.now }))
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Some(text)
        }
        _ => None,
    }
}

fn how_of(value: &ScalarValue) -> Result<How> {
    Ok(match (value, text(value)) {
        (_, Some("null")) | (ScalarValue::Null, _) => How::Null,
        (_, Some("previous" | "locf")) => How::Previous,
        (_, Some("linear")) => How::Linear,
        (ScalarValue::Int64(Some(value)), _) => How::Constant(*value as f64),
        (ScalarValue::Float64(Some(value)), _) => How::Constant(*value),
        _ => return plan_err!("fill() fills with 'null', 'previous', 'linear' or a number, not {value}"),
    })
}

fn aggregate_of(value: &ScalarValue) -> Result<Aggregate> {
    Ok(match text(value) {
        Some("avg") => Aggregate::Avg,
        Some("min") => Aggregate::Min,
        Some("max") => Aggregate::Max,
        Some("sum") => Aggregate::Sum,
        Some("count") => Aggregate::Count,
        Some("last") => Aggregate::Last,
        _ => return plan_err!("fill() aggregates by avg, min, max, sum, count or last, not {value}"),
    })
}

#[derive(Clone)]
struct Filling {
    source: Arc<dyn Source>,
    step: i64,
    how: How,
    aggregate: Aggregate,
}

struct FillTable {
    filling: Filling,
    schema: SchemaRef,
    now: Option<TimeMs>,
}

impl std::fmt::Debug for FillTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FillTable").field("source", &self.filling.source).finish_non_exhaustive()
    }
}

impl FillTable {
    fn label_schema(&self) -> Schema {
        let labels = self.schema.fields().iter().skip(1).take(self.filling.source.label_count());
        Schema::new(labels.cloned().collect::<Vec<_>>())
    }
}

#[async_trait]
impl TableProvider for FillTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let Filters { bounds, labels: wanted } = Filters::new(filters, &label_schema, self.now, state)?;
        let filling = self.filling.clone();
        let name = format!("table={}, step={} ms", filling.source.name(), filling.step);
        let make = Arc::new(move |making: &Making| {
            let wanted = wanted.as_ref().map(|wanted| making.run.bind(wanted)).transpose()?;
            filling.rows(making, bounds.resolve(&making.run)?, wanted.as_ref(), &label_schema)
        });
        Made { operator: "FillExec", name, schema: self.schema(), make }.exec(projection)
    }
}

/// One bucket of one series.
#[derive(Clone, Copy, Default)]
struct Cell {
    value: f64,
    count: u32,
    last: i64,
}

impl Cell {
    fn push(&mut self, aggregate: Aggregate, time: i64, value: f64) {
        let first = self.count == 0;
        match aggregate {
            Aggregate::Avg | Aggregate::Sum => self.value += value,
            Aggregate::Min if first || value < self.value => self.value = value,
            Aggregate::Max if first || value > self.value => self.value = value,
            Aggregate::Last if first || time > self.last || (time == self.last && value > self.value) => {
                (self.value, self.last) = (value, time);
            }
            _ => {}
        }
        self.count += 1;
    }

    fn result(&self, aggregate: Aggregate) -> Option<f64> {
        (self.count > 0).then(|| match aggregate {
            Aggregate::Avg => self.value / f64::from(self.count),
            Aggregate::Count => f64::from(self.count),
            _ => self.value,
        })
    }
}

/// Labels of a series, in the order of the columns.
type Tuple = Vec<Option<String>>;

impl Filling {
    fn rows(
        &self,
        making: &Making,
        range: TimeRange,
        wanted: Option<&Arc<dyn PhysicalExpr>>,
        label_schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let store = &making.run.store;
        let stored = store.stored_times();
        // A bucket is in the range when it begins there. Without a lower end it begins with what there is.
        let earliest = stored.map_or(i64::MAX, |(earliest, _)| earliest);
        let first = if range.from == i64::MIN {
            earliest.div_euclid(self.step)
        } else {
            range.from.div_euclid(self.step) + i64::from(range.from.rem_euclid(self.step) != 0)
        };
        let last = range.to.div_euclid(self.step);
        let buckets = last.saturating_sub(first).saturating_add(1);
        let mut series: BTreeMap<Tuple, Vec<Cell>> = BTreeMap::new();
        if buckets > 0 && stored.is_some() {
            let samples = (first.saturating_mul(self.step), (last + 1).saturating_mul(self.step) - 1);
            let samples = (samples.0, samples.1.min(making.run.now.0));
            let filter = LabelFilter::new(wanted, Arc::clone(label_schema));
            for part in Selected::of(self.source.as_ref(), &making.run, &filter)? {
                let part = Wanted { labels: tuples(&part.part.labels.columns), kept: kept(&part), part };
                self.read(making, samples, first, buckets, part, &mut series)?;
            }
        }
        self.batch(making, first, buckets, series)
    }

    fn read(
        &self,
        making: &Making,
        (from, to): (i64, i64),
        first: i64,
        buckets: i64,
        part: Wanted,
        series: &mut BTreeMap<Tuple, Vec<Cell>>,
    ) -> Result<()> {
        if part.kept.iter().all(|kept| !kept) {
            return Ok(());
        }
        let mut cells: Vec<Option<Vec<Cell>>> = vec![None; part.labels.len()];
        for (tuple, cells) in part.labels.iter().zip(&mut cells) {
            *cells = series.remove(tuple);
        }
        let mut rows = cells.iter().flatten().count() as i64 * buckets;
        let mut slices = Slices::new(from, to, making.run.store.stored_times());
        while let Some((from, to)) = slices.next() {
            making.check()?;
            let mut had = 0;
            for block in part.part.read(&making.run.store, from, to).map_err(executed)? {
                had += block.time.len();
                let values = block.values.first().and_then(|values| values.as_primitive_opt::<Float64Type>());
                let Some(values) = values else { continue };
                for ((label, time), value) in block.label.values().iter().zip(block.time.values()).zip(values.values())
                {
                    let label = *label as usize;
                    if !part.kept[label] {
                        continue;
                    }
                    if cells[label].is_none() {
                        rows = rows.saturating_add(buckets);
                        if rows > MAX_ROWS {
                            return Err(resources_datafusion_err!("fill() would make more than {MAX_ROWS} rows"));
                        }
                        making.memory.try_grow(buckets as usize * size_of::<Cell>())?;
                        cells[label] = Some(vec![Cell::default(); buckets as usize]);
                    }
                    let at = time.div_euclid(self.step) - first;
                    if let Some(cell) = cells[label].as_mut().and_then(|cells| cells.get_mut(at as usize)) {
                        cell.push(self.aggregate, *time, *value);
                    }
                }
            }
            slices.had(had);
        }
        series.extend(part.labels.into_iter().zip(cells).filter_map(|(tuple, cells)| Some((tuple, cells?))));
        Ok(())
    }

    fn batch(
        &self,
        making: &Making,
        first: i64,
        buckets: i64,
        series: BTreeMap<Tuple, Vec<Cell>>,
    ) -> Result<RecordBatch> {
        let rows = series.len() * buckets.max(0) as usize;
        if rows as i64 > MAX_ROWS {
            return Err(resources_datafusion_err!("fill() would make more than {MAX_ROWS} rows"));
        }
        making.memory.try_grow(rows * (size_of::<i64>() + size_of::<f64>() + 16 * self.source.label_count()))?;
        let mut times = Vec::with_capacity(rows);
        let mut labels: Vec<StringViewBuilder> =
            (0..self.source.label_count()).map(|_| StringViewBuilder::with_capacity(rows)).collect();
        let mut values = Vec::with_capacity(rows);
        for (tuple, cells) in &series {
            times.extend((first..first + buckets).map(|at| at * self.step));
            for (column, label) in labels.iter_mut().zip(tuple) {
                cells.iter().for_each(|_| column.append_option(label.as_deref()));
            }
            let measured: Vec<Option<f64>> = cells.iter().map(|cell| cell.result(self.aggregate)).collect();
            values.extend(self.how.filled(&measured));
        }
        let times = TimestampMillisecondArray::from(times).with_timezone(UTC);
        let labels = labels.into_iter().map(|mut column| Arc::new(column.finish()) as ArrayRef);
        let values: ArrayRef = Arc::new(Float64Array::from(values));
        let columns = std::iter::once(Arc::new(times) as ArrayRef).chain(labels).chain([values]).collect();
        Ok(RecordBatch::try_new(self.source.schema(), columns)?)
    }
}

impl How {
    fn filled(self, measured: &[Option<f64>]) -> Vec<Option<f64>> {
        let mut filled = measured.to_vec();
        match self {
            How::Null => {}
            How::Constant(value) => filled.iter_mut().for_each(|gap| *gap = gap.or(Some(value))),
            How::Previous => {
                let mut last = None;
                for gap in &mut filled {
                    last = gap.or(last);
                    *gap = last;
                }
            }
            How::Linear => {
                let known: Vec<(i64, f64)> =
                    (0..).zip(measured).filter_map(|(at, value)| Some((at, (*value)?))).collect();
                for pair in known.windows(2) {
                    for at in pair[0].0 + 1..pair[1].0 {
                        filled[at as usize] = Some(on_line(at, pair[0], pair[1]));
                    }
                }
            }
        }
        filled
    }
}

struct Wanted {
    labels: Vec<Tuple>,
    kept: Vec<bool>,
    part: Selected,
}

fn tuples(labels: &[ArrayRef]) -> Vec<Tuple> {
    // A metric without tags has one series and no column that could say so.
    let rows = labels.first().map_or(1, |labels| labels.len());
    let text = |column: &ArrayRef, row: usize| {
        let column = column.as_string_view();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    (0..rows).map(|row| labels.iter().map(|column| text(column, row)).collect()).collect()
}

/// Which labels the filter lets through.
fn kept(part: &Selected) -> Vec<bool> {
    match &part.choice {
        Choice::All => vec![true; part.part.labels.count],
        Choice::Some(labels) => {
            let mut kept = vec![false; part.part.labels.count];
            labels.iter().for_each(|label| kept[*label as usize] = true);
            kept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_between_measurements_and_never_before_the_first() {
        let measured = [None, Some(1.0), None, None, Some(4.0), None];
        assert_eq!(How::Null.filled(&measured), measured);
        assert_eq!(How::Constant(0.0).filled(&measured).iter().flatten().count(), 6);
        assert_eq!(How::Previous.filled(&measured), [None, Some(1.0), Some(1.0), Some(1.0), Some(4.0), Some(4.0)]);
        assert_eq!(How::Linear.filled(&measured), [None, Some(1.0), Some(2.0), Some(3.0), Some(4.0), None]);
    }
}
