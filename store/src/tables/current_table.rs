//! Tables of current facts as SQL reads them: as they are when a query runs, not when it was planned.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::TryStreamExt;

use super::current::Current;
use super::schema_of;
use crate::query::run::Run;

/// A table of current facts.
#[derive(Debug)]
pub(crate) struct CurrentTable {
    table: Current,
    schema: SchemaRef,
}

impl CurrentTable {
    pub(crate) fn new(table: Current) -> Self {
        Self { table, schema: schema_of(&table.columns()) }
    }
}

#[async_trait]
impl TableProvider for CurrentTable {
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
        Ok(Arc::new(CurrentExec { table: self.table, projection, schema, properties }))
    }
}

/// Reads a [`CurrentTable`].
#[derive(Debug)]
struct CurrentExec {
    table: Current,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for CurrentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurrentExec: table={}", self.table.name())
    }
}

impl ExecutionPlan for CurrentExec {
    fn name(&self) -> &str {
        "CurrentExec"
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
        let (run, table, projection) = (Run::of(&context)?, self.table, self.projection.clone());
        let batch_rows = context.session_config().batch_size();
        let rows = async move { Result::<_>::Ok(table.rows(&run.store)?.project(&projection)?) };
        let batches = futures::stream::once(rows).map_ok(move |rows: RecordBatch| {
            let starts = (0..rows.num_rows()).step_by(batch_rows);
            let batches: Vec<_> =
                starts.map(|start| Ok(rows.slice(start, batch_rows.min(rows.num_rows() - start)))).collect();
            futures::stream::iter(batches)
        });
        let batches = batches.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}
