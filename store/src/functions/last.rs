//! `last(metric)`: the newest sample of every series.

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableScan, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

use super::span::span_ms;
use crate::aggregate::Ended;
use crate::query::run::Run;
use crate::store::Store;
use crate::tables::{Column, Kind, MetricSource, Source, UTC};

/// How old the newest sample of a series is at most where the question does not say.
const DEFAULT_AGE_MS: i64 = 60 * 60 * 1000;

/// The columns of `last(metric)` that are the same for all metrics.
pub(crate) fn last_columns() -> Vec<Column> {
    vec![
        Column::new("time", Kind::Time, "when it was measured"),
        Column::new("value", Kind::Double, "what was measured, in the pusher's unit; the tags stand before it"),
    ]
}

/// The table function. Weak, since the store keeps plans and what they are made with.
pub(super) struct Last(Weak<Store>);

impl Last {
    pub(super) fn new(store: Weak<Store>) -> Self {
        Self(store)
    }
}

impl fmt::Debug for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Last")
    }
}

/// The metric whose newest samples `scan` asks for, if that is what it does.
pub(super) fn last_metric(scan: &TableScan) -> Option<String> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<LastTable>().map(|table| table.metric.clone())
}

impl TableFunctionImpl for Last {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (name, age_ms) = match args.exprs() {
            [Expr::Literal(name, _)] => (text(name), DEFAULT_AGE_MS),
            [Expr::Literal(name, _), Expr::Literal(age, _)] => (text(name), span_ms(age, "the age of last()")?),
            _ => (None, 0),
        };
        let Some(name) = name else {
            return plan_err!(
                "last() takes a metric's name and how old a sample may be: last('cpu', INTERVAL '1 hour')"
            );
        };
        let Some(metric) = self.0.upgrade().and_then(|store| store.metric(name)) else {
            return plan_err!("metric '{name}' not found in last()");
        };
        let source = Arc::new(MetricSource::new(metric.name.clone(), metric.tag_keys));
        let schema = source.schema();
        Ok(Arc::new(LastTable { metric: metric.name, source, age_ms, schema }))
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.as_deref(),
        _ => None,
    }
}

#[derive(Debug)]
struct LastTable {
    metric: String,
    source: Arc<MetricSource>,
    age_ms: i64,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for LastTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        let (source, metric) = (Arc::clone(&self.source), self.metric.clone());
        Ok(Arc::new(LastExec {
            asked: LastRows { metric, source, age_ms: self.age_ms, projection, schema },
            properties,
        }))
    }
}

/// Which samples are asked for.
#[derive(Clone, Debug)]
pub(crate) struct LastRows {
    metric: String,
    source: Arc<MetricSource>,
    age_ms: i64,
    projection: Vec<usize>,
    schema: SchemaRef,
}

/// Looks the samples up when it is executed, not when it is planned.
#[derive(Debug)]
pub(crate) struct LastExec {
    asked: LastRows,
    properties: Arc<PlanProperties>,
}

impl LastExec {
    /// What it looks up, to be looked up without it.
    pub(crate) fn asked(&self) -> &LastRows {
        &self.asked
    }
}

impl DisplayAs for LastExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastExec: table={}, age={} ms", self.asked.source.name(), self.asked.age_ms)
    }
}

impl LastRows {
    /// All rows of one run.
    ///
    /// # Errors
    /// When something cannot be read, or the run has to end.
    pub(crate) fn rows(&self, run: &Run) -> Result<RecordBatch> {
        let table = self.source.labels(&run.store);
        let ids = table.members.first().map_or(&[][..], |members| &members.ids);
        let now = run.now.0;
        let from = now.saturating_sub(self.age_ms);
        let found = run.store.newest_of(&self.metric, ids, from, now, || run.deadline.check().map_err(Ended::from))?;
        let labels: UInt32Array = found.iter().map(|(place, ..)| Some(*place)).collect();
        let all = found.len() == table.count;
        let column = |at: &usize| -> Result<ArrayRef> {
            Ok(match *at {
                0 => {
                    let times = found.iter().map(|(_, time, _)| *time);
                    Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone(UTC))
                }
                label if label <= table.columns.len() && all => Arc::clone(&table.columns[label - 1]),
                label if label <= table.columns.len() => take(&table.columns[label - 1], &labels, None)?,
                _ => Arc::new(Float64Array::from_iter_values(found.iter().map(|(.., value)| *value))),
            })
        };
        let columns = self.projection.iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

impl ExecutionPlan for LastExec {
    fn name(&self) -> &str {
        "LastExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.asked.rows(Run::of(&context)?.as_ref())?;
        let size = context.session_config().batch_size();
        let batches: Vec<_> = (0..rows.num_rows())
            .step_by(size)
            .map(|from| Ok(rows.slice(from, size.min(rows.num_rows() - from))))
            .collect();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), futures::stream::iter(batches))))
    }
}
