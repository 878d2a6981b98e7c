//! Tables of rows with a time, and the operator that reads them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray};
use arrow::compute::{filter as filter_array, filter_record_batch, take};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, conjunction, create_physical_expr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidegate_model::TimeMs;

use super::filter::{self, TimeRange, is_label_filter, time_comparisons};
use super::slices::Slices;
use super::source::{Block, Part, Source};
use super::{UTC, executed, rfc3339};
use crate::query::run::Run;

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
        let labels = self.label_names();
        let taken = |filter: &&Expr| {
            if time_comparisons(filter).is_some() || is_label_filter(filter, &labels) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(taken).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let to = self.now.map_or(i64::MAX, |now| now.0);
        let mut bounds = Bounds { constant: TimeRange { to, ..TimeRange::ALL }, moving: Vec::new() };
        let mut label_filters = Vec::new();
        let fields: Vec<_> = self.schema.fields().iter().skip(1).take(self.source.label_count()).cloned().collect();
        let label_schema = Arc::new(Schema::new(fields));
        let label_columns = DFSchema::try_from(Arc::clone(&label_schema))?;
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
                        bounds.moving.push((comparison.op, physical(comparison.instant, &DFSchema::empty())?));
                    }
                }
            }
        }
        let labels = (!label_filters.is_empty()).then(|| conjunction(label_filters));
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        let reader = Reader { source: Arc::clone(&self.source), bounds, labels, label_schema, projection, schema };
        Ok(Arc::new(TimedScanExec { reader: Arc::new(reader), properties }))
    }
}

/// Bounds of the time column.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// What is the same in every run.
    constant: TimeRange,
    /// Comparisons with what follows from `now()` and parameters.
    moving: Vec<(Operator, Arc<dyn PhysicalExpr>)>,
}

impl Bounds {
    /// The range in one run, which ends at its instant at the latest.
    pub(crate) fn resolve(&self, run: &Run) -> Result<TimeRange> {
        let mut range = self.constant.intersect(TimeRange { to: run.now.0, ..TimeRange::ALL });
        for (op, expr) in &self.moving {
            let bound = run.bind(expr)?;
            let Some(instant) = bound.downcast_ref::<Literal>() else {
                return exec_err!("the instant {expr} cannot be computed");
            };
            range = range.intersect(filter::range(*op, instant.value()));
        }
        Ok(range)
    }
}

/// Everything that is known of a scan when it is planned.
struct Reader {
    source: Arc<dyn Source>,
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

/// Reads a [`TimedTable`] in slices of time, the newest first.
#[derive(Debug)]
struct TimedScanExec {
    reader: Arc<Reader>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for TimedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reader { source, bounds: Bounds { constant, moving }, labels, .. } = self.reader.as_ref();
        let from = if constant.from == i64::MIN { "the beginning".to_owned() } else { rfc3339(constant.from) };
        let to = if constant.to == i64::MAX { "now()".to_owned() } else { rfc3339(constant.to) };
        write!(f, "TimedScanExec: table={}, from={from}, to={to}", source.name())?;
        for (op, instant) in moving {
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

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let run = Run::of(&context)?;
        let range = self.reader.bounds.resolve(&run)?;
        let rows = Rows {
            parts: self.reader.live_parts(&run, range)?,
            slices: Slices::new(range.from, range.to, run.store.stored_times()),
            ready: Vec::new().into_iter(),
            batch_rows: context.session_config().batch_size(),
            run,
            memory: MemoryConsumer::new("scan").register(context.memory_pool()),
            reader: Arc::clone(&self.reader),
        };
        let schema = Arc::clone(&self.reader.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }
}

/// A part of the source and which of its labels are wanted.
struct LivePart {
    part: Part,
    /// `None`: all of them.
    wanted: Option<BooleanArray>,
}

impl Reader {
    /// The parts that have at least one wanted label.
    fn live_parts(&self, run: &Run, range: TimeRange) -> Result<Vec<LivePart>> {
        let labels = self.labels.as_ref().map(|labels| run.bind(labels)).transpose()?;
        let mut live = Vec::new();
        for part in self.source.parts(&run.store, range.from) {
            let Some(expr) = &labels else {
                live.push(LivePart { part, wanted: None });
                continue;
            };
            let batch = RecordBatch::try_new(Arc::clone(&self.label_schema), part.labels.clone())?;
            let verdict = expr.evaluate(&batch)?.into_array(batch.num_rows())?;
            let wanted = verdict
                .as_boolean_opt()
                .cloned()
                .ok_or_else(|| DataFusionError::Internal(format!("the filter {expr} on labels is not a condition")))?;
            match wanted.true_count() {
                0 => {}
                all if all == wanted.len() => live.push(LivePart { part, wanted: None }),
                _ => live.push(LivePart { part, wanted: Some(wanted) }),
            }
        }
        Ok(live)
    }

    /// The wanted rows and columns of a block.
    fn batch(&self, live: &LivePart, block: &Block) -> Result<RecordBatch> {
        let label_count = self.source.label_count();
        let column = |at: &usize| -> Result<ArrayRef> {
            Ok(match *at {
                0 => {
                    let time = TimestampMillisecondArray::new(block.time.values().clone(), None);
                    Arc::new(time.with_timezone(UTC))
                }
                label if label <= label_count => take(&live.part.labels[label - 1], &block.label, None)?,
                value => Arc::clone(&block.values[value - 1 - label_count]),
            })
        };
        let columns = self.projection.iter().map(column).collect::<Result<Vec<_>>>()?;
        // A query that counts rows asks for none of the columns.
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(block.time.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let Some(wanted) = &live.wanted else { return Ok(batch) };
        let mask = take(wanted, &block.label, None)?;
        let mask = mask.as_boolean();
        if batch.num_columns() == 0 {
            let kept = filter_array(mask, mask)?.len();
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(kept));
            return Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), Vec::new(), &options)?);
        }
        Ok(filter_record_batch(&batch, mask)?)
    }
}

/// The rows of a scan, read as they are asked for.
struct Rows {
    reader: Arc<Reader>,
    parts: Vec<LivePart>,
    slices: Slices,
    ready: std::vec::IntoIter<RecordBatch>,
    batch_rows: usize,
    run: Arc<Run>,
    memory: MemoryReservation,
}

impl Rows {
    fn read(&mut self, from: i64, to: i64) -> Result<()> {
        let mut ready = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for live in &self.parts {
            self.run.deadline.check()?;
            let blocks = (live.part.read)(&self.run.store, from, to).map_err(executed)?;
            for block in blocks {
                rows += block.time.len();
                let batch = self.reader.batch(live, &block)?;
                bytes += batch.get_array_memory_size();
                self.memory.try_resize(bytes)?;
                for start in (0..batch.num_rows()).step_by(self.batch_rows) {
                    ready.push(batch.slice(start, self.batch_rows.min(batch.num_rows() - start)));
                }
            }
        }
        self.slices.had(rows);
        self.ready = ready.into_iter();
        Ok(())
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
