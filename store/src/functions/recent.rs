//! `recent(window)`: one row per host, container and resource with everything that a rule usually asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidegate_model::Resource;

use super::gather::Gathering;
use super::recent_columns::{Columns, SCHEMA};
use super::roster::{FrameKey, version, watch};
use super::span::span_ms;
use crate::query::run::Run;

/// How long to wait for rows that somebody else makes before looking at the deadline.
pub(super) const WAIT: Duration = Duration::from_millis(10);

/// The table function.
#[derive(Debug)]
pub(crate) struct Recent;

impl TableFunctionImpl for Recent {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(window, _)] = args.exprs() else {
            return plan_err!("recent() takes one constant window: recent(INTERVAL '60 seconds') or recent(60)");
        };
        let window_ms = span_ms(window, "the window of recent()")?;
        Ok(Arc::new(RecentTable { window_ms }))
    }
}

#[derive(Debug)]
struct RecentTable {
    window_ms: i64,
}

/// The resource that a condition asks for, `resource = 'cpu'`, where it is one that containers have: as a rule a rule is about
/// one of them, and rows about the others are not worth making.
fn resource_asked(condition: &Expr) -> Option<Resource> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let ((Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column))) =
        (left.as_ref(), right.as_ref())
    else {
        return None;
    };
    let named = value.try_as_str().flatten().filter(|_| column.name == "resource")?;
    Resource::limited().find(|resource| resource.as_str() == named)
}

#[async_trait]
impl TableProvider for RecentTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match resource_asked(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..SCHEMA.fields().len()).collect());
        let schema = Arc::new(SCHEMA.project(&projection)?);
        let mut asked: Vec<Resource> = filters.iter().filter_map(resource_asked).collect();
        asked.dedup();
        let resource = match asked.as_slice() {
            [] => None,
            [one] => Some(*one),
            // No row is about two of them.
            _ => return Ok(Arc::new(EmptyExec::new(schema))),
        };
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        let asked = Asked { window_ms: self.window_ms, resource };
        Ok(Arc::new(RecentExec { asked, projection, schema, properties }))
    }
}

/// Which rows of `recent` are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    /// In ms.
    pub(crate) window_ms: i64,
    /// Those about one resource, or all.
    pub(crate) resource: Option<Resource>,
}

/// Gathers the rows when it is executed, not when it is planned.
#[derive(Debug)]
pub(crate) struct RecentExec {
    asked: Asked,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl RecentExec {
    /// What is asked for, and the places of the columns.
    pub(crate) fn asked(&self) -> (Asked, &[usize]) {
        (self.asked, &self.projection)
    }
}

impl DisplayAs for RecentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecentExec: window={} ms", self.asked.window_ms)?;
        self.asked.resource.map_or(Ok(()), |resource| write!(f, ", resource={resource}"))
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
        let (run, asked, projection) = (Run::of(&context)?, self.asked, self.projection.clone());
        let rows = futures::stream::once(async move {
            let memory = MemoryConsumer::new("recent").register(context.memory_pool());
            rows(&run, asked, &projection, memory)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

/// All rows with the columns at `places`. Many rules want some of them: whoever asks first for a window and a column makes it,
/// others wait for that.
pub(crate) fn rows(run: &Run, asked: Asked, places: &[usize], memory: MemoryReservation) -> Result<RecordBatch> {
    let (store, now) = (run.store.as_ref(), run.now.0);
    let frame = store.recents.frame(FrameKey { now, asked });
    let mut kept = loop {
        run.deadline.check()?;
        if let Some(kept) = frame.try_lock_for(WAIT) {
            break kept;
        }
    };
    let is_current = kept.as_ref().is_some_and(|(known, _)| *known == version(store));
    if let Some((_, known)) = kept.as_ref().filter(|_| is_current)
        && let Some(batch) = known.batch(places)?
    {
        return Ok(batch);
    }
    let wanted = Columns::of(places);
    let former = kept.take().filter(|_| is_current);
    let missing = former.as_ref().map_or(wanted, |(_, known)| wanted.without(known.columns()));
    // Before anything is read: what arrives from here on may be missed, and is noticed.
    let version = match &former {
        Some((version, _)) => version.clone(),
        None => watch(store, now),
    };
    let start = now.saturating_sub(asked.window_ms);
    let gathering = Gathering { run, memory, start, resource: asked.resource, version: &version };
    let mut known = gathering.rows(missing)?;
    if let Some((_, mut former)) = former {
        former.merge(known);
        known = former;
    }
    let batch = match known.batch(places)? {
        Some(batch) => batch,
        // Somebody appeared between the two readings.
        None => {
            known = gathering.rows(wanted)?;
            known
                .batch(places)?
                .ok_or_else(|| internal_datafusion_err!("recent() has made other columns than it was asked for"))?
        }
    };
    *kept = Some((version, known));
    Ok(batch)
}
