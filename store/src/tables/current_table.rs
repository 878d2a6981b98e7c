//! Tables of current facts as SQL reads them: as they are when a query runs, not when it was planned.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::TryStreamExt;

use super::current::Current;
use super::schema_of;
use crate::memory::state_schema;
use crate::query::run::Run;

/// Where a table of current facts has its rows from.
pub(crate) trait Facts: fmt::Debug + Send + Sync {
    /// The table's name.
    fn name(&self) -> &str;
    /// Its columns.
    fn schema(&self) -> SchemaRef;
    /// The table as it is now.
    ///
    /// # Errors
    /// When its columns cannot be made.
    fn rows(&self, run: &Run) -> Result<RecordBatch>;
}

impl Facts for Current {
    fn name(&self) -> &str {
        Current::name(*self)
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&self.columns())
    }

    fn rows(&self, run: &Run) -> Result<RecordBatch> {
        Current::rows(*self, run)
    }
}

/// What the asking rule returned before.
#[derive(Debug)]
pub(crate) struct OwnState(SchemaRef);

impl OwnState {
    /// `own` are the columns that the rule returns beyond the contract.
    pub(crate) fn new(own: &SchemaRef) -> Self {
        Self(state_schema(own))
    }
}

impl Facts for OwnState {
    fn name(&self) -> &str {
        "own state"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn rows(&self, run: &Run) -> Result<RecordBatch> {
        match &run.rule {
            Some(view) => run.store.own_state(view),
            None => internal_err!("only a rule has state of its own"),
        }
    }
}

/// A table of current facts.
#[derive(Debug)]
pub(crate) struct CurrentTable {
    table: Arc<dyn Facts>,
    schema: SchemaRef,
}

impl CurrentTable {
    pub(crate) fn new(table: Arc<dyn Facts>) -> Self {
        Self { schema: table.schema(), table }
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
        Ok(Arc::new(CurrentExec { table: Arc::clone(&self.table), projection, schema, properties }))
    }
}

/// Reads a [`CurrentTable`].
#[derive(Debug)]
pub(crate) struct CurrentExec {
    table: Arc<dyn Facts>,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl CurrentExec {
    /// The table, and the places of the columns.
    pub(crate) fn asked(&self) -> (&Arc<dyn Facts>, &[usize]) {
        (&self.table, &self.projection)
    }
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
        let (run, table, projection) = (Run::of(&context)?, Arc::clone(&self.table), self.projection.clone());
        let batch_rows = context.session_config().batch_size();
        let rows = async move { Result::<_>::Ok(table.rows(&run)?.project(&projection)?) };
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
