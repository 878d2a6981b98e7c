//! Tables of rows with a time, and the operator that reads them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, conjunction};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidegate_model::TimeMs;

use super::choice::LabelFilter;
use super::filter::{TimeRange, is_label_filter, time_range};
use super::slices::Slices;
use super::source::{Block, Part, Selected, Source};
use super::{UTC, executed, rfc3339};
use crate::query::guard::Deadline;
use crate::store::Store;

/// A [`Source`] as a table, as of one instant: rows later than that are not seen, so that a query which is asked again
/// for the same instant gives the same answer.
pub(crate) struct TimedTable {
    store: Arc<Store>,
    source: Arc<dyn Source>,
    schema: SchemaRef,
    now: TimeMs,
}

impl TimedTable {
    pub(crate) fn new(store: Arc<Store>, source: Arc<dyn Source>, now: TimeMs) -> Self {
        let schema = source.schema();
        Self { store, source, schema, now }
    }

    fn label_names(&self) -> Vec<&str> {
        self.schema.fields().iter().skip(1).take(self.source.label_count()).map(|field| field.name().as_str()).collect()
    }
}

impl fmt::Debug for TimedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedTable").field("source", &self.source).field("now", &self.now).finish_non_exhaustive()
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
            if time_range(filter).is_some() || is_label_filter(filter, &labels) {
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
        let mut range = TimeRange { to: self.now.0, ..TimeRange::ALL };
        let mut label_filters = Vec::new();
        let fields: Vec<_> = self.schema.fields().iter().skip(1).take(self.source.label_count()).cloned().collect();
        let label_schema = Arc::new(Schema::new(fields));
        let df_schema = DFSchema::try_from(Arc::clone(&label_schema))?;
        for filter in filters {
            match time_range(filter) {
                Some(more) => range = range.intersect(more),
                None => label_filters.push(state.create_physical_expr(filter.clone(), &df_schema)?),
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
        let reader = Reader {
            store: Arc::clone(&self.store),
            source: Arc::clone(&self.source),
            range,
            labels,
            label_schema,
            projection,
            schema,
        };
        Ok(Arc::new(TimedScanExec { reader: Arc::new(reader), properties }))
    }
}

/// Everything that is known of a scan when it is planned.
pub(crate) struct Reader {
    pub(crate) store: Arc<Store>,
    pub(crate) source: Arc<dyn Source>,
    range: TimeRange,
    labels: Option<Arc<dyn PhysicalExpr>>,
    label_schema: SchemaRef,
    projection: Vec<usize>,
    schema: SchemaRef,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("source", &self.source).field("range", &self.range).finish_non_exhaustive()
    }
}

/// Reads a [`TimedTable`] in slices of time, the newest first.
#[derive(Debug)]
pub(crate) struct TimedScanExec {
    reader: Arc<Reader>,
    properties: Arc<PlanProperties>,
}

impl TimedScanExec {
    pub(crate) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }
}

impl DisplayAs for TimedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimedScanExec: ")?;
        self.reader.describe(f)
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
        let parts = self.reader.selected()?;
        let series = parts.iter().map(Selected::series_count).sum();
        let stored = self.reader.store.stored_times();
        let rows = Rows {
            parts,
            slices: Slices::new(self.reader.range.from, self.reader.range.to, stored).of_series(series),
            ready: Vec::new().into_iter(),
            batch_rows: context.session_config().batch_size(),
            deadline: context.session_config().get_extension::<Deadline>(),
            memory: MemoryConsumer::new("scan").register(context.memory_pool()),
            reader: Arc::clone(&self.reader),
        };
        let schema = Arc::clone(&self.reader.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }
}

impl Reader {
    /// The times that are read.
    pub(crate) fn range(&self, _: &TaskContext) -> Result<TimeRange> {
        Ok(self.range)
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
        let Reader { source, range, labels, .. } = self;
        let from = if range.from == i64::MIN { "the beginning".to_owned() } else { rfc3339(range.from) };
        write!(f, "table={}, from={from}, to={}", source.name(), rfc3339(range.to))?;
        if let Some(labels) = labels {
            write!(f, ", labels={labels}")?;
        }
        Ok(())
    }

    /// The parts that have at least one wanted label.
    pub(crate) fn selected(&self) -> Result<Vec<Selected>> {
        let filter = LabelFilter::new(self.labels.as_ref(), Arc::clone(&self.label_schema));
        Selected::of(self.source.as_ref(), &self.store, &filter)
    }

    /// The wanted columns of a block.
    fn batch(&self, part: &Part, block: &Block) -> Result<RecordBatch> {
        let label_count = self.source.label_count();
        let column = |at: &usize| -> Result<ArrayRef> {
            Ok(match *at {
                0 => {
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
    ready: std::vec::IntoIter<RecordBatch>,
    batch_rows: usize,
    deadline: Option<Arc<Deadline>>,
    memory: MemoryReservation,
}

impl Rows {
    fn read(&mut self, from: i64, to: i64) -> Result<()> {
        let mut ready = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for selected in &self.parts {
            if let Some(deadline) = &self.deadline {
                deadline.check()?;
            }
            let blocks = selected.read(&self.reader.store, from, to).map_err(executed)?;
            for block in blocks {
                rows += block.time.len();
                let batch = self.reader.batch(&selected.part, &block)?;
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
