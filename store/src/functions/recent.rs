//! `recent(window)`: one row per host, container and resource with everything that a rule usually asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

use super::gather::Gathering;
use super::roster::{FrameKey, version, watch};
use super::span::span_ms;
use crate::query::run::Run;
use crate::tables::{Column, Kind, schema_of};

/// How long to wait for rows that somebody else makes before looking at the deadline.
const WAIT: Duration = Duration::from_millis(10);

/// The columns of `recent(window)`.
pub(crate) fn recent_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    vec![
        text("host", "the host; empty where it is not known"),
        text("container", "the container's name"),
        text("app", "the container's app, if any"),
        text("resource", "cpu or memory"),
        Column::new("samples", Kind::Integer, "measurements in the window"),
        double("age", "seconds from the newest measurement to now()"),
        double("usage", "the newest measurement, in cores or bytes"),
        double("usage_avg", "mean"),
        double("usage_max", "peak"),
        double("usage_p50", "median"),
        double("usage_p95", "95th percentile"),
        double("usage_p99", "99th percentile"),
        double("usage_stddev", "standard deviation of the sample; null for a single measurement"),
        double("usage_slope", "least-squares slope per second; null for a single measurement"),
        double("allocated", "the newest limit, in cores or bytes; also one from up to 10 minutes before the window"),
        double("allocated_age", "seconds from the newest limit to now()"),
        double("min", "the lowest limit that the operator allows; null if none"),
        double("max", "the highest limit that the operator allows; null if none"),
        double("upper", "limit - margin; a usage above it asks for more"),
        double("lower", "limit - 2 margin; a usage below it can do with less"),
        double("throttled", "mean share of CFS periods throttled, 0 to 1"),
        double("throttled_last", "newest share of CFS periods throttled, 0 to 1"),
        double("pressure", "mean share of time in which some task stalled, 0 to 1"),
        double("oom_kills", "OOM kills in the window"),
        double("unreclaimable", "newest memory that cannot be reclaimed, in bytes; memory only"),
        double("host_free", "the host's capacity minus the newest limits of its containers, at least 0"),
    ]
}

/// The table function.
#[derive(Debug)]
pub(crate) struct Recent;

impl TableFunctionImpl for Recent {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(window, _)] = args.exprs() else {
            return plan_err!("recent() takes one constant window: recent(INTERVAL '60 seconds') or recent(60)");
        };
        let window_ms = span_ms(window, "the window of recent()")?;
        let schema = schema_of(&recent_columns());
        Ok(Arc::new(RecentTable { window_ms, schema }))
    }
}

#[derive(Debug)]
struct RecentTable {
    window_ms: i64,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for RecentTable {
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
        Ok(Arc::new(RecentExec { window_ms: self.window_ms, projection, schema, properties }))
    }
}

/// Gathers the rows when it is executed, not when it is planned.
#[derive(Debug)]
struct RecentExec {
    window_ms: i64,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for RecentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecentExec: window={} ms", self.window_ms)
    }
}

impl ExecutionPlan for RecentExec {
    fn name(&self) -> &str {
        "RecentExec"
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
        let (run, window_ms, projection) = (Run::of(&context)?, self.window_ms, self.projection.clone());
        let rows = futures::stream::once(async move {
            let memory = MemoryConsumer::new("recent").register(context.memory_pool());
            Ok(rows(&run, window_ms, memory)?.project(&projection)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

/// All rows, of which many rules want some: whoever asks first for a window makes them, others wait for that.
pub(crate) fn rows(run: &Run, window_ms: i64, memory: MemoryReservation) -> Result<RecordBatch> {
    let (store, now) = (run.store.as_ref(), run.now.0);
    let frame = store.recents.frame(FrameKey { now, window_ms });
    let mut kept = loop {
        run.deadline.check()?;
        if let Some(kept) = frame.try_lock_for(WAIT) {
            break kept;
        }
    };
    if let Some((known, rows)) = kept.as_ref()
        && *known == version(store)
    {
        return Ok(rows.clone());
    }
    // Before anything is read: what arrives from here on may be missed, and is noticed.
    let version = watch(store, now);
    let gathering = Gathering { run, memory, start: now.saturating_sub(window_ms), version: &version };
    let rows = gathering.rows()?;
    *kept = Some((version, rows.clone()));
    Ok(rows)
}
