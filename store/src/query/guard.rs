//! Runaway protection: a query that is out of time, was given up or outgrows its memory ends, also in the middle of a join.
//!
//! DataFusion stops a query only where a stream is polled, and some operators loop inside one poll. So every operator of
//! a planned query is wrapped in a [`DeadlineExec`], which looks at the clock at each poll, and every join's filter in a
//! [`DeadlineExpr`], which looks at it for each batch of candidates that the join makes up in between.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};

use crate::query::run::{Run, RunCell};

/// How long one query may hold a thread before it lets others in. Tokio's own budget counts batches, which is no
/// measure of time.
const TURN: Duration = Duration::from_millis(10);

/// Why a query was stopped from within.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// It took longer than it may.
    #[error("the query took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Nobody waits for it any more.
    #[error("the query was cancelled")]
    Cancelled,
    /// An operator made more than fits.
    #[error("the query needs more than {0} bytes of memory")]
    Memory(usize),
    /// It returns more rows than it may.
    #[error("the query returns more than {0} rows")]
    Rows(usize),
}

impl From<Stop> for DataFusionError {
    fn from(stop: Stop) -> Self {
        DataFusionError::External(Box::new(stop))
    }
}

/// Until when one query may run, and whether somebody still waits for it.
#[derive(Debug)]
pub(crate) struct Deadline {
    ends: Instant,
    timeout: Duration,
    memory_bytes: usize,
    cancelled: AtomicBool,
}

impl Deadline {
    pub(crate) fn new(timeout: Duration, memory_bytes: usize) -> Arc<Self> {
        // A time-out beyond the clock's range is no time-out; a century is not waited for.
        let far = Duration::from_secs(100 * 365 * 86_400);
        let ends = Instant::now() + timeout.min(far);
        Arc::new(Self { ends, timeout, memory_bytes, cancelled: AtomicBool::new(false) })
    }

    /// Ends the query at its next check.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// When the query has to end.
    pub(crate) fn check(&self) -> std::result::Result<(), Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled);
        }
        if Instant::now() >= self.ends {
            return Err(Stop::Timeout(self.timeout));
        }
        Ok(())
    }

    /// Operators charge the memory pool for what they keep, not for the batches that they pass on; this catches one that
    /// grew out of proportion on its way.
    pub(crate) fn check_size(&self, batch: &RecordBatch) -> Result<()> {
        if batch.get_array_memory_size() <= self.memory_bytes {
            return Ok(());
        }
        // Slices of a shared buffer count the whole buffer above, so only the exact size may refuse.
        let mut size = 0;
        for column in batch.columns() {
            size += match column.data_type() {
                // The views alone would count below.
                DataType::Utf8View => 16 * column.len() + column.as_string_view().total_buffer_bytes_used(),
                DataType::BinaryView => 16 * column.len() + column.as_binary_view().total_buffer_bytes_used(),
                _ => column.to_data().get_slice_memory_size()?,
            };
        }
        if size > self.memory_bytes { Err(Stop::Memory(self.memory_bytes).into()) } else { Ok(()) }
    }
}

/// Wraps every operator of `plan`, so that each of its runs ends soon after the run's deadline says so. `cell` is the one
/// that the run is put into.
pub(crate) fn guarded(plan: Arc<dyn ExecutionPlan>, cell: &Arc<RunCell>) -> Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|node| {
        let node = guard_join(node, cell)?;
        Ok(Transformed::yes(Arc::new(DeadlineExec::new(node)) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(wrapped.data)
}

/// Joins try candidates in a loop that only ends with an output batch: one whose filter lets nothing through, or a
/// semi-join, which puts nothing out before its end, would never look up. They evaluate their filter for each batch of
/// candidates, which is where the deadline is asked.
fn guard_join(node: Arc<dyn ExecutionPlan>, cell: &Arc<RunCell>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let emits_matches =
            matches!(join.join_type(), JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        if join.filter().is_none() && emits_matches {
            return Ok(node);
        }
        return join.builder().with_filter(Some(guard_filter(join.filter(), cell))).build_exec();
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        let filter = guard_filter(join.filter(), cell);
        return Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?));
    }
    Ok(node)
}

fn guard_filter(filter: Option<&JoinFilter>, cell: &Arc<RunCell>) -> JoinFilter {
    let always = || JoinFilter::new(lit(ScalarValue::Boolean(Some(true))), Vec::new(), Arc::new(Schema::empty()));
    let filter = filter.cloned().unwrap_or_else(always);
    let inner = Arc::clone(filter.expression());
    let guarded = Arc::new(DeadlineExpr { inner, cell: Arc::clone(cell) });
    JoinFilter::new(guarded, filter.column_indices().to_vec(), Arc::clone(filter.schema()))
}

/// Passes its input on until the deadline.
#[derive(Clone, Debug)]
struct DeadlineExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl DeadlineExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(input.properties());
        Self { input, properties }
    }
}

impl DisplayAs for DeadlineExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeadlineExec")
    }
}

impl ExecutionPlan for DeadlineExec {
    fn name(&self) -> &str {
        "DeadlineExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input))),
            _ => Err(DataFusionError::Internal("DeadlineExec has one child".to_owned())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let deadline = Arc::clone(&Run::of(&context)?.deadline);
        deadline.check()?;
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(DeadlineStream { input, deadline, turn_began: None }))
    }
}

struct DeadlineStream {
    input: SendableRecordBatchStream,
    deadline: Arc<Deadline>,
    /// When this stream last gave way; `None` before its first poll.
    turn_began: Option<Instant>,
}

impl Stream for DeadlineStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(stop) = self.deadline.check() {
            return Poll::Ready(Some(Err(stop.into())));
        }
        let now = Instant::now();
        match self.turn_began {
            Some(began) if now.duration_since(began) > TURN => {
                self.turn_began = None;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(_) => {}
            None => self.turn_began = Some(now),
        }
        let polled = self.input.poll_next_unpin(cx);
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                if let Err(error) = self.deadline.check_size(batch) {
                    return Poll::Ready(Some(Err(error)));
                }
            }
            // Waiting is giving way.
            Poll::Pending => self.turn_began = None,
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl RecordBatchStream for DeadlineStream {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

/// Evaluates as `inner` does until the deadline.
#[derive(Debug)]
struct DeadlineExpr {
    inner: Arc<dyn PhysicalExpr>,
    cell: Arc<RunCell>,
}

impl PartialEq for DeadlineExpr {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for DeadlineExpr {}

impl Hash for DeadlineExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for DeadlineExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for DeadlineExpr {
    fn data_type(&self, input_schema: &Schema) -> Result<DataType> {
        self.inner.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        self.inner.nullable(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.cell.get()?.deadline.check()?;
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().ok_or_else(|| DataFusionError::Internal("DeadlineExpr has one child".to_owned()))?;
        Ok(Arc::new(Self { inner, cell: Arc::clone(&self.cell) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

/// What ended a query, if it was ended from within.
pub(crate) fn stop_of(error: &DataFusionError) -> Option<&Stop> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return Some(stop);
        }
        if let Some(DataFusionError::External(inner)) = error.downcast_ref::<DataFusionError>()
            && let Some(stop) = (inner.as_ref() as &dyn std::error::Error).downcast_ref::<Stop>()
        {
            return Some(stop);
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_by_time_and_by_cancelling() {
        let deadline = Deadline::new(Duration::from_secs(3600), 1);
        assert!(deadline.check().is_ok());
        deadline.cancel();
        assert!(matches!(deadline.check(), Err(Stop::Cancelled)));
        assert!(matches!(Deadline::new(Duration::ZERO, 1).check(), Err(Stop::Timeout(_))));
        assert!(Deadline::new(Duration::MAX, 1).check().is_ok());
    }

    #[test]
    fn the_reason_is_found_below_what_datafusion_wraps_around_it() {
        let error = DataFusionError::from(Stop::Rows(3)).context("while counting");
        assert!(matches!(stop_of(&error), Some(Stop::Rows(3))));
        let shared = DataFusionError::Shared(Arc::new(error));
        assert!(matches!(stop_of(&shared), Some(Stop::Rows(3))));
        assert!(stop_of(&DataFusionError::Internal("x".to_owned())).is_none());
    }

    #[test]
    fn only_a_batch_that_is_really_too_large_is_refused() {
        let column: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let deadline = Deadline::new(Duration::MAX, 1_000);
        assert!(deadline.check_size(&batch).is_err());
        assert!(deadline.check_size(&batch.slice(10, 10)).is_ok());
        let text: arrow::array::ArrayRef = Arc::new(arrow::array::StringViewArray::from(vec!["x".repeat(500); 3]));
        let batch = RecordBatch::try_from_iter([("x", text)]).unwrap();
        assert!(deadline.check_size(&batch).is_err());
        assert!(deadline.check_size(&batch.slice(1, 1)).is_ok());
    }
}
