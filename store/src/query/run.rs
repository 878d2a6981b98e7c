//! What changes from one run of a plan to the next: the instant that it is asked for, the values of its parameters, until
//! when it may run.
//!
//! A plan is made once and run often, so none of this stands in it. While it is planned, `now()` and parameters are
//! placeholders, which no optimizer rule can fold into a constant. Afterwards [`told`] turns each into a function that
//! looks the value up. Operators are told by the task context, expressions, which DataFusion gives no context, by the
//! [`RunCell`] of their plan; both hold the same [`Run`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use parking_lot::Mutex;
use tidegate_model::TimeMs;

use crate::memory::RuleView;
use crate::query::guard::Deadline;
use crate::store::Store;
use crate::tables::{UTC, time_type};

/// The placeholder of the instant; no name that a text could have.
const NOW: &str = "now()";

/// One run of a plan.
pub(crate) struct Run {
    /// What it reads. Plans are kept by the store, so they cannot keep the store.
    pub(crate) store: Arc<Store>,
    /// What `now()` is.
    pub(crate) now: TimeMs,
    /// The values of the plan's parameters.
    pub(crate) values: Vec<ScalarValue>,
    pub(crate) deadline: Arc<Deadline>,
    /// The rule that asks, if one does.
    pub(crate) rule: Option<Arc<RuleView>>,
}

impl Run {
    /// The run that an operator is executed for.
    ///
    /// # Errors
    /// When the plan is run by something else than [`Store::query`].
    pub(crate) fn of(context: &TaskContext) -> Result<Arc<Run>> {
        context.session_config().get_extension::<Run>().ok_or_else(not_running)
    }

    /// `expr` with the values of this run in it, and what follows from them alone computed.
    pub(crate) fn bind(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &one)?;
        let bound = Arc::clone(expr).transform_up(|node| {
            let told =
                node.downcast_ref::<ScalarFunctionExpr>().and_then(|call| call.fun().inner().downcast_ref::<Told>());
            if let Some(told) = told {
                return Ok(Transformed::yes(literal(told.value(self)?)));
            }
            let children = node.children();
            if children.is_empty() || !children.iter().all(|child| child.is::<Literal>()) || node.is_volatile_node() {
                return Ok(Transformed::no(node));
            }
            match node.evaluate(&row) {
                Ok(ColumnarValue::Scalar(value)) => Ok(Transformed::yes(literal(value))),
                // It may never be asked for.
                _ => Ok(Transformed::no(node)),
            }
        })?;
        Ok(bound.data)
    }
}

fn literal(value: ScalarValue) -> Arc<dyn PhysicalExpr> {
    Arc::new(Literal::new(value))
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("now", &self.now).field("values", &self.values).finish_non_exhaustive()
    }
}

fn not_running() -> DataFusionError {
    DataFusionError::Internal("a plan of the store is run outside of it".to_owned())
}

/// Where the expressions of one plan find its run. A plan has one run at a time.
#[derive(Debug, Default)]
pub(crate) struct RunCell(Mutex<Option<Arc<Run>>>);

impl RunCell {
    pub(crate) fn set(&self, run: Option<Arc<Run>>) {
        *self.0.lock() = run;
    }

    pub(crate) fn get(&self) -> Result<Arc<Run>> {
        self.0.lock().clone().ok_or_else(not_running)
    }
}

/// The expression that `now()` is until the plan is made.
pub(crate) fn now_placeholder() -> Expr {
    let field = Field::new(NOW, time_type(), false);
    Expr::Placeholder(Placeholder::new_with_field(NOW.to_owned(), Some(Arc::new(field))))
}

/// Gives the placeholders of `plan` the types of their values.
pub(crate) fn typed(plan: LogicalPlan, parameters: &[(String, DataType)]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let typed = plan.transform_up_with_subqueries(|node| {
        let node = node.map_expressions(|expr| {
            expr.transform_up(|expr| match expr {
                Expr::Placeholder(Placeholder { id, .. }) => {
                    let field = parameters.iter().find(|(name, _)| *name == id);
                    let field = field.map(|(name, of)| Arc::new(Field::new(name, of.clone(), true)));
                    Ok(Transformed::yes(Expr::Placeholder(Placeholder::new_with_field(id, field))))
                }
                other => Ok(Transformed::no(other)),
            })
        })?;
        if node.transformed { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    })?;
    Ok(typed.data)
}

/// Replaces the placeholders of an optimized plan by calls that look the value up in `cell`.
pub(crate) fn told(plan: LogicalPlan, parameters: &[(String, DataType)], cell: &Arc<RunCell>) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            // Columns above are found by name.
            let name = matches!(expr, Expr::Placeholder(_)).then(|| expr.schema_name().to_string());
            let told = expr.transform_up(|expr| match expr {
                Expr::Placeholder(Placeholder { id, .. }) => Ok(Transformed::yes(call(&id, parameters, cell)?)),
                other => Ok(Transformed::no(other)),
            })?;
            Ok(match name {
                Some(name) => told.update_data(|expr| expr.alias(name)),
                None => told,
            })
        })
    })?;
    Ok(plan.data)
}

/// Whether `expr` is nothing but the instant of the run.
pub(crate) fn is_now(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let told = expr.downcast_ref::<ScalarFunctionExpr>().and_then(|call| call.fun().inner().downcast_ref::<Told>());
    told.is_some_and(|told| told.what == What::Now)
}

/// What `expr` is in one run, where it is nothing but a value that each run has its own of.
pub(crate) fn told_value(expr: &Arc<dyn PhysicalExpr>, run: &Run) -> Option<ScalarValue> {
    let told = expr.downcast_ref::<ScalarFunctionExpr>()?.fun().inner().downcast_ref::<Told>()?;
    told.value(run).ok()
}

fn call(id: &str, parameters: &[(String, DataType)], cell: &Arc<RunCell>) -> Result<Expr> {
    let (what, data_type) = if id == NOW {
        (What::Now, time_type())
    } else {
        let known = parameters.iter().position(|(name, _)| name == id);
        let at = known.ok_or_else(|| DataFusionError::Plan(format!("no value is given for the parameter {id}")))?;
        (What::Value(at), parameters[at].1.clone())
    };
    // Stable, as it is within a run; nothing folds constants any more.
    let signature = Signature::nullary(Volatility::Stable);
    let function = Told { name: id.to_owned(), what, data_type, signature, cell: Arc::clone(cell) };
    Ok(ScalarUDF::new_from_impl(function).call(Vec::new()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Now,
    /// The place among [`Run::values`].
    Value(usize),
}

/// Looks up one value of the run.
#[derive(Debug)]
struct Told {
    name: String,
    what: What,
    data_type: DataType,
    signature: Signature,
    cell: Arc<RunCell>,
}

impl Told {
    fn value(&self, run: &Run) -> Result<ScalarValue> {
        match self.what {
            What::Now => Ok(instant(run.now)),
            What::Value(at) => run.values.get(at).cloned().ok_or_else(not_running),
        }
    }
}

/// An instant as SQL has it.
pub(crate) fn instant(at: TimeMs) -> ScalarValue {
    ScalarValue::TimestampMillisecond(Some(at.0), Some(Arc::from(UTC)))
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        self.what == other.what && self.data_type == other.data_type && Arc::ptr_eq(&self.cell, &other.cell)
    }
}

impl Eq for Told {}

impl Hash for Told {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.what.hash(state);
    }
}

impl ScalarUDFImpl for Told {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn display_name(&self, _: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn schema_name(&self, _: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value(&*self.cell.get()?)?))
    }
}
