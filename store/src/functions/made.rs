//! Tables whose rows are made when a query runs: the shape that table functions share.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

use crate::query::run::Run;

/// What the making of rows is bound to.
pub(crate) struct Making {
    pub(crate) run: Arc<Run>,
    pub(crate) memory: MemoryReservation,
}

impl Making {
    /// # Errors
    /// When the query has to end.
    pub(crate) fn check(&self) -> Result<()> {
        Ok(self.run.deadline.check()?)
    }
}

/// Makes all rows with all columns.
pub(crate) type Make = Arc<dyn Fn(&Making) -> Result<RecordBatch> + Send + Sync>;

/// A table that is made whole.
pub(super) struct Made {
    /// The operator's name, by which it is known whether its plans can be kept.
    pub(super) operator: &'static str,
    /// As it stands in `EXPLAIN`.
    pub(super) name: String,
    pub(super) schema: SchemaRef,
    pub(super) make: Make,
}

impl Made {
    /// The operator that makes the columns at `projection`.
    pub(super) fn exec(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Ok(Arc::new(MadeExec {
            operator: self.operator,
            name: self.name.clone(),
            make: Arc::clone(&self.make),
            projection,
            schema,
            properties,
        }))
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Made {
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
        self.exec(projection)
    }
}

/// Makes the rows of a [`Made`].
pub(crate) struct MadeExec {
    operator: &'static str,
    name: String,
    make: Make,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl MadeExec {
    /// What makes all columns, and the places of those that are wanted.
    pub(crate) fn asked(&self) -> (&Make, &[usize]) {
        (&self.make, &self.projection)
    }
}

impl fmt::Debug for MadeExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeExec").field("name", &self.name).finish_non_exhaustive()
    }
}

impl DisplayAs for MadeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operator, self.name)
    }
}

impl ExecutionPlan for MadeExec {
    fn name(&self) -> &str {
        self.operator
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
        let (make, projection) = (Arc::clone(&self.make), self.projection.clone());
        let batch_rows = context.session_config().batch_size();
        let making =
            Making { run: Run::of(&context)?, memory: MemoryConsumer::new("made").register(context.memory_pool()) };
        // In batches of the usual size, since joins look at the deadline once a batch.
        let batches = futures::stream::once(async move {
            let batch = make(&making).and_then(|batch| Ok(batch.project(&projection)?));
            let batches: Vec<Result<RecordBatch>> = match batch {
                Err(error) => vec![Err(error)],
                Ok(batch) => (0..batch.num_rows())
                    .step_by(batch_rows)
                    .map(|start| Ok(batch.slice(start, batch_rows.min(batch.num_rows() - start))))
                    .collect(),
            };
            // What was charged stays charged until the last batch is taken.
            futures::stream::iter(batches).map(move |batch| {
                let _charged = &making;
                batch
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches.flatten())))
    }
}
