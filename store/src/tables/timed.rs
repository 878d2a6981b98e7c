//! Tables of rows with a time, and the operator that reads them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::compute::{SortOptions, concat_batches, sort_to_indices, take, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{
    EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, conjunction, create_physical_expr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SortOrderPushdownResult,
};
use tidegate_model::TimeMs;

use super::choice::LabelFilter;
use super::filter::{self, TimeRange, is_label_filter, time_comparisons};
use super::slices::Slices;
use super::source::{Block, Part, Selected, Source};
use super::{UTC, executed, rfc3339};
use crate::query::run::{Run, instant, is_now};
use crate::query::session::BATCH_ROWS;

/// The column that every such table begins with.
const TIME_COLUMN: usize = 0;

/// A [`Source`] as a table, as of one instant: rows later than that are not seen, so that a query which is asked again
/// for the same instant gives the same answer.
#[derive(Debug)]
pub(crate) struct TimedTable {
    source: Arc<dyn Source>,
    schema: SchemaRef,
    /// The instant, for plans that are made for one only.
    now: Option<TimeMs>,
}

impl TimedTable {
    pub(crate) fn new(source: Arc<dyn Source>, now: Option<TimeMs>) -> Self {
        let schema = source.schema();
        Self { source, schema, now }
    }

    fn label_names(&self) -> Vec<&str> {
        self.schema.fields().iter().skip(1).take(self.source.label_count()).map(|field| field.name().as_str()).collect()
    }
}

#[async_trait]
impl TableProvider for TimedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(pushdown(filters, &self.label_names()))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let fields: Vec<_> = self.schema.fields().iter().skip(1).take(self.source.label_count()).cloned().collect();
        let label_schema = Arc::new(Schema::new(fields));
        let Filters { bounds, labels } = Filters::new(filters, &label_schema, self.now, state)?;
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let reader = Reader { source: Arc::clone(&self.source), bounds, labels, label_schema, projection, schema };
        Ok(Arc::new(TimedScanExec::new(Arc::new(reader), None)))
    }
}

/// Which filters a scan of a table with a time and `labels` takes over.
pub(crate) fn pushdown(filters: &[&Expr], labels: &[&str]) -> Vec<TableProviderFilterPushDown> {
    let taken = |filter: &&Expr| {
        if time_comparisons(filter).is_some() || is_label_filter(filter, labels) {
            TableProviderFilterPushDown::Exact
        } else {
            TableProviderFilterPushDown::Unsupported
        }
    };
    filters.iter().map(taken).collect()
}

/// The filters that [`pushdown`] takes over.
pub(crate) struct Filters {
    pub(crate) bounds: Bounds,
    /// A condition on labels.
    pub(crate) labels: Option<Arc<dyn PhysicalExpr>>,
}

impl Filters {
    /// `now` is the instant of plans that are made for one only.
    pub(crate) fn new(
        filters: &[Expr],
        label_schema: &SchemaRef,
        now: Option<TimeMs>,
        state: &dyn Session,
    ) -> Result<Self> {
        let to = now.map_or(i64::MAX, |now| now.0);
        let mut bounds = Bounds { constant: TimeRange { to, ..TimeRange::ALL }, moving: Vec::new() };
        let mut label_filters = Vec::new();
        let label_columns = DFSchema::try_from(Arc::clone(label_schema))?;
        // The optimizer has coerced and simplified all filters.
        let physical = |expr: &Expr, columns: &DFSchema| {
            create_physical_expr(expr, columns, state.execution_props(), &PhysicalPlanningContext::default())
        };
        for filter in filters {
            let Some(comparisons) = time_comparisons(filter) else {
                label_filters.push(physical(filter, &label_columns)?);
                continue;
            };
            for comparison in comparisons {
                match comparison.constant() {
                    Some(range) => bounds.constant = bounds.constant.intersect(range),
                    None => {
                        let instant = physical(comparison.instant, &DFSchema::empty())?;
                        bounds.moving.push(Moving { op: comparison.op, shift: shift(&instant), instant });
                    }
                }
            }
        }
        let labels = (!label_filters.is_empty()).then(|| conjunction(label_filters));
        Ok(Self { bounds, labels })
    }
}

/// Bounds of the time column.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// What is the same in every run.
    constant: TimeRange,
    /// Comparisons with what follows from `now()` and parameters.
    moving: Vec<Moving>,
}

/// A comparison with an instant that each run has its own of.
#[derive(Clone, Debug)]
struct Moving {
    op: Operator,
    instant: Arc<dyn PhysicalExpr>,
    /// How far it is from `now()`, in ms, where that is all there is to it.
    shift: Option<i64>,
}

impl Moving {
    fn range(&self, run: &Run) -> Result<TimeRange> {
        if let Some(ms) = self.shift.and_then(|shift| run.now.0.checked_add(shift)) {
            return Ok(filter::range(self.op, &instant(TimeMs(ms))));
        }
        let bound = run.bind(&self.instant)?;
        let Some(instant) = bound.downcast_ref::<Literal>() else {
            return exec_err!("the instant {} cannot be computed", self.instant);
        };
        Ok(filter::range(self.op, instant.value()))
    }
}

/// How many ms after `now()` an instant is, such as `now() - INTERVAL '1 hour'`: an evaluation for each run saved.
fn shift(instant: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    if is_now(instant) {
        return Some(0);
    }
    let binary = instant.downcast_ref::<BinaryExpr>().filter(|binary| is_now(binary.left()))?;
    let ms = match binary.right().downcast_ref::<Literal>()?.value() {
        ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 && span.nanoseconds % 1_000_000 == 0 => {
            i64::from(span.days).checked_mul(86_400_000)?.checked_add(span.nanoseconds / 1_000_000)?
        }
        _ => return None,
    };
    match binary.op() {
        Operator::Plus => Some(ms),
        Operator::Minus => ms.checked_neg(),
        _ => None,
    }
}

impl Bounds {
    /// The range in one run, which ends at its instant at the latest.
    pub(crate) fn resolve(&self, run: &Run) -> Result<TimeRange> {
        let mut range = self.constant.intersect(TimeRange { to: run.now.0, ..TimeRange::ALL });
        for moving in &self.moving {
            range = range.intersect(moving.range(run)?);
        }
        Ok(range)
    }
}

/// Everything that is known of a scan when it is planned.
pub(crate) struct Reader {
    pub(crate) source: Arc<dyn Source>,
    bounds: Bounds,
    labels: Option<Arc<dyn PhysicalExpr>>,
    label_schema: SchemaRef,
    projection: Vec<usize>,
    schema: SchemaRef,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("source", &self.source).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// Reads a [`TimedTable`] in slices of time, the newest first. The rows of a slice come part by part, unless the planner
/// wants all rows by their time: then slices are sorted one by one, and a question for the first few rows ends with the
/// first slice.
#[derive(Debug)]
pub(crate) struct TimedScanExec {
    reader: Arc<Reader>,
    /// By time, if at all.
    order: Option<PhysicalSortExpr>,
    properties: Arc<PlanProperties>,
}

impl TimedScanExec {
    fn new(reader: Arc<Reader>, order: Option<PhysicalSortExpr>) -> Self {
        let schema = Arc::clone(&reader.schema);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, order.iter().map(|order| [order.clone()])),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { reader, order, properties }
    }

    pub(crate) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// How its rows are sorted by their time, if they are.
    pub(crate) fn order(&self) -> Option<SortOptions> {
        self.order.as_ref().map(|order| order.options)
    }
}

impl DisplayAs for TimedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimedScanExec: ")?;
        self.reader.describe(f)?;
        match &self.order {
            Some(order) => write!(f, ", order={order}"),
            None => Ok(()),
        }
    }
}

impl Reader {
    /// The times that are read in one run.
    pub(crate) fn range(&self, run: &Run) -> Result<TimeRange> {
        self.bounds.resolve(run)
    }

    /// The label columns.
    pub(crate) fn label_schema(&self) -> &SchemaRef {
        &self.label_schema
    }

    /// Which columns of the table the scan shows.
    pub(crate) fn projection(&self) -> &[usize] {
        &self.projection
    }

    /// What is read, for `EXPLAIN`.
    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reader { source, bounds: Bounds { constant, moving }, labels, .. } = self;
        let from = if constant.from == i64::MIN { "the beginning".to_owned() } else { rfc3339(constant.from) };
        let to = if constant.to == i64::MAX { "now()".to_owned() } else { rfc3339(constant.to) };
        write!(f, "table={}, from={from}, to={to}", source.name())?;
        for Moving { op, instant, .. } in moving {
            write!(f, ", time {op} {instant}")?;
        }
        if let Some(labels) = labels {
            write!(f, ", labels={labels}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for TimedScanExec {
    fn name(&self) -> &str {
        "TimedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.reader.labels.as_ref().map_or(Ok(TreeNodeRecursion::Continue), f)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let by_time = |one: &PhysicalSortExpr| {
            let column = one.expr.downcast_ref::<Column>();
            column.is_some_and(|column| self.reader.projection.get(column.index()) == Some(&TIME_COLUMN))
        };
        Ok(match order {
            [one] if by_time(one) => {
                let inner = Arc::new(Self::new(Arc::clone(&self.reader), Some(one.clone())));
                SortOrderPushdownResult::Exact { inner }
            }
            _ => SortOrderPushdownResult::Unsupported,
        })
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = Rows::new(&self.reader, Run::of(&context)?, self.order(), context.memory_pool())?;
        let schema = Arc::clone(&self.reader.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }
}

impl Reader {
    /// All rows of one run, sorted by time if there is an `order`; `None` when they are not read in one go.
    ///
    /// # Errors
    /// When something cannot be read, or the run has to end.
    pub(crate) fn at_once(
        self: &Arc<Self>,
        run: &Arc<Run>,
        order: Option<SortOptions>,
        memory: &Arc<dyn MemoryPool>,
    ) -> Result<Option<Vec<RecordBatch>>> {
        let rows = Rows::new(self, Arc::clone(run), order, memory)?;
        if rows.slices.is_one() { rows.collect::<Result<Vec<_>>>().map(Some) } else { Ok(None) }
    }

    /// The parts that have at least one wanted label in one run.
    pub(crate) fn selected(&self, run: &Run) -> Result<Vec<Selected>> {
        let filter = LabelFilter::of_run(self.labels.as_ref(), Arc::clone(&self.label_schema), run)?;
        Selected::of(self.source.as_ref(), run, &filter)
    }

    /// The wanted columns of a block.
    fn batch(&self, part: &Part, block: &Block) -> Result<RecordBatch> {
        let label_count = self.source.label_count();
        let column = |at: &usize| -> Result<ArrayRef> {
            Ok(match *at {
                TIME_COLUMN => {
                    let time = TimestampMillisecondArray::new(block.time.values().clone(), None);
                    Arc::new(time.with_timezone(UTC))
                }
                label if label <= label_count => take(&part.labels.columns[label - 1], &block.label, None)?,
                value => Arc::clone(&block.values[value - 1 - label_count]),
            })
        };
        let columns = self.projection.iter().map(column).collect::<Result<Vec<_>>>()?;
        // A query that counts rows asks for none of the columns.
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(block.time.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// The rows of a scan, read as they are asked for.
struct Rows {
    reader: Arc<Reader>,
    parts: Vec<Selected>,
    slices: Slices,
    order: Option<SortOptions>,
    ready: std::vec::IntoIter<RecordBatch>,
    run: Arc<Run>,
    memory: MemoryReservation,
}

impl Rows {
    fn new(
        reader: &Arc<Reader>,
        run: Arc<Run>,
        order: Option<SortOptions>,
        memory: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let range = reader.range(&run)?;
        let parts = reader.selected(&run)?;
        let series = parts.iter().map(Selected::series_count).sum();
        let slices = Slices::new(range.from, range.to, run.store.stored_times()).of_series(series);
        Ok(Self {
            parts,
            slices: if order.is_some_and(|order| !order.descending) { slices.oldest_first() } else { slices },
            order,
            ready: Vec::new().into_iter(),
            run,
            memory: MemoryConsumer::new("scan").register(memory),
            reader: Arc::clone(reader),
        })
    }

    fn read(&mut self, from: i64, to: i64) -> Result<()> {
        let mut batches = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for selected in &self.parts {
            self.run.deadline.check()?;
            let blocks = selected.read(&self.run.store, from, to).map_err(executed)?;
            for block in blocks {
                rows += block.time.len();
                let batch = self.reader.batch(&selected.part, &block)?;
                bytes += batch.get_array_memory_size();
                self.memory.try_resize(bytes)?;
                batches.push(batch);
            }
        }
        self.slices.had(rows);
        if let Some(order) = self.order
            && rows > 0
        {
            // Those that are sorted are there beside those that are being sorted.
            self.memory.try_resize(3 * bytes)?;
            batches = vec![self.by_time(&batches, order)?];
            self.memory.try_resize(bytes)?;
        }
        let mut ready = Vec::new();
        for batch in batches {
            for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
                ready.push(batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start)));
            }
        }
        self.ready = ready.into_iter();
        Ok(())
    }

    fn by_time(&self, batches: &[RecordBatch], order: SortOptions) -> Result<RecordBatch> {
        let all = concat_batches(&self.reader.schema, batches)?;
        let time = self.reader.projection.iter().position(|column| *column == TIME_COLUMN);
        let Some(time) = time else { return exec_err!("rows without their time cannot be sorted by it") };
        Ok(take_record_batch(&all, &sort_to_indices(all.column(time), Some(order), None)?)?)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.ready.next() {
                return Some(Ok(batch));
            }
            self.memory.free();
            if self.parts.is_empty() {
                return None;
            }
            let (from, to) = self.slices.next()?;
            if let Err(error) = self.read(from, to) {
                return Some(Err(error));
            }
        }
    }
}
