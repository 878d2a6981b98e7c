//! Expressions that know what they are.
//!
//! Functions and CASE ask their parts at each evaluation what kind of values they have, and arithmetic finds that out by
//! trying it on empty columns and by writing itself down as a text. Over the few rows of most rules that takes longer than the
//! arithmetic. In a plan that is kept it is the same each time.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// `expr` over rows of `schema`, with arithmetic that is asked for its kind answering at once. Where that cannot be told, it
/// stays as it is.
pub(super) fn ready(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Arc<dyn PhysicalExpr> {
    let made = Arc::clone(expr).transform_up(|node| {
        let asks = node.is::<ScalarFunctionExpr>() || node.is::<CaseExpr>();
        if !asks || !node.children().iter().any(|child| child.is::<BinaryExpr>()) {
            return Ok(Transformed::no(node));
        }
        let known = |child: &Arc<dyn PhysicalExpr>| -> Result<Arc<dyn PhysicalExpr>> {
            match child.is::<BinaryExpr>() {
                true => Ok(Arc::new(Known { expr: Arc::clone(child), field: child.return_field(schema)? })),
                false => Ok(Arc::clone(child)),
            }
        };
        let children = node.children().into_iter().map(known).collect::<Result<_>>()?;
        Ok(Transformed::yes(node.with_new_children(children)?))
    });
    made.map_or_else(|_| Arc::clone(expr), |made| made.data)
}

/// An expression whose kind is known.
#[derive(Debug, Eq)]
struct Known {
    expr: Arc<dyn PhysicalExpr>,
    field: FieldRef,
}

// Not derived: that would move the expression (https://github.com/rust-lang/rust/issues/78808).
impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.expr.eq(&other.expr) && self.field == other.field
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl PhysicalExpr for Known {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(self.field.is_nullable())
    }

    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.expr.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expr]
    }

    /// For the same columns at other places.
    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 1]>::try_from(children) {
            Ok([expr]) => Ok(Arc::new(Self { expr, field: Arc::clone(&self.field) })),
            Err(children) => internal_err!("an expression has one part here, not {}", children.len()),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}
