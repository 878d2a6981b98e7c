//! Which labels a filter lets through: by looking up values where it can, by evaluating where it must.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Operator, Volatility};
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, InListExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, split_conjunction};

use super::labels::LabelTable;
use crate::query::run::{Run, told_value};

/// A filter on label columns.
#[derive(Debug)]
pub(crate) struct LabelFilter {
    conditions: Vec<Condition>,
    /// The label columns.
    schema: SchemaRef,
}

/// One condition of several that all have to hold.
#[derive(Debug)]
enum Condition {
    /// A column is one of these.
    Equal {
        column: usize,
        values: Vec<String>,
    },
    /// A tag out of a column is one of these.
    Tag {
        expr: Arc<dyn PhysicalExpr>,
        column: usize,
        key: String,
        values: Vec<String>,
    },
    Other(Arc<dyn PhysicalExpr>),
}

/// Which labels of a table are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    All,
    /// These, sorted.
    Some(Arc<Vec<u32>>),
}

impl Choice {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Choice::Some(labels) if labels.is_empty())
    }
}

impl LabelFilter {
    /// Lets everything through.
    pub(crate) fn everything() -> Self {
        Self { conditions: Vec::new(), schema: Arc::new(Schema::empty()) }
    }

    /// A filter over the label columns in `schema`; `None` lets everything through.
    pub(crate) fn new(filter: Option<&Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> Self {
        let conditions =
            filter.map_or_else(Vec::new, |filter| split_conjunction(filter).into_iter().map(condition).collect());
        Self { conditions, schema }
    }

    /// As [`LabelFilter::new`], with the values of a run in it. Comparisons of columns with values are told theirs as they
    /// stand: most filters are no more than that, and making expressions with the values in them takes longer than looking
    /// labels up.
    ///
    /// # Errors
    /// When the values cannot be put into a condition.
    pub(crate) fn of_run(filter: Option<&Arc<dyn PhysicalExpr>>, schema: SchemaRef, run: &Run) -> Result<Self> {
        let told = |expr: &Arc<dyn PhysicalExpr>| text(expr).or_else(|| text_of(told_value(uncast(expr), run)?));
        let of = |expr: &Arc<dyn PhysicalExpr>| {
            let mut values = Vec::new();
            match equality(expr, &mut values, &told) {
                Some(Looked::Column(column)) => Ok(Condition::Equal { column, values }),
                _ => Ok(condition(&run.bind(expr)?)),
            }
        };
        let conditions = filter.map_or_else(Vec::new, split_conjunction).into_iter().map(of).collect::<Result<_>>()?;
        Ok(Self { conditions, schema })
    }

    /// Whether rows whose `column` is `value` may be let through.
    pub(crate) fn allows(&self, column: usize, value: &str) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Equal { column: of, values } if *of == column => values.iter().any(|wanted| wanted == value),
            _ => true,
        })
    }

    /// The labels of `table` that are let through.
    ///
    /// # Errors
    /// When a condition cannot be evaluated.
    pub(crate) fn choose(&self, table: &LabelTable) -> Result<Choice> {
        let mut choice = Choice::All;
        for condition in &self.conditions {
            let labels = match condition {
                Condition::Equal { column, values } => Arc::new(table.equal(*column, values)),
                Condition::Tag { expr, column, key, values } => match table.tagged(*column, key, values) {
                    Some(labels) => Arc::new(labels),
                    None => self.evaluated(expr, table)?,
                },
                Condition::Other(expr) => self.evaluated(expr, table)?,
            };
            choice = match choice {
                Choice::All if labels.len() == table.count => Choice::All,
                Choice::All => Choice::Some(labels),
                Choice::Some(others) => Choice::Some(Arc::new(intersection(&others, &labels))),
            };
            if choice.is_nothing() {
                break;
            }
        }
        Ok(choice)
    }

    fn evaluated(&self, expr: &Arc<dyn PhysicalExpr>, table: &LabelTable) -> Result<Arc<Vec<u32>>> {
        let decide = || -> Result<Vec<u32>> {
            let batch = label_batch(&self.schema, table)?;
            let verdict = expr.evaluate(&batch)?.into_array(batch.num_rows())?;
            let wanted = verdict
                .as_boolean_opt()
                .ok_or_else(|| DataFusionError::Internal(format!("the filter {expr} on labels is not a condition")))?;
            let labels = (0u32..).zip(wanted).filter(|(_, wanted)| *wanted == Some(true));
            Ok(labels.map(|(label, _)| label).collect())
        };
        if is_pure(expr) { table.verdict(expr, decide) } else { Ok(Arc::new(decide()?)) }
    }
}

/// Whether `expr` says the same for the same columns whenever it is asked, so that the answer may be kept.
pub(crate) fn is_pure(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let children = expr.children();
    let itself = match expr.downcast_ref::<ScalarFunctionExpr>() {
        Some(call) => call.fun().signature().volatility == Volatility::Immutable,
        None => {
            !children.is_empty() || expr.downcast_ref::<Column>().is_some() || expr.downcast_ref::<Literal>().is_some()
        }
    };
    itself && !expr.is_volatile_node() && children.into_iter().all(is_pure)
}

/// The labels of a table as a batch of `schema`.
pub(crate) fn label_batch(schema: &SchemaRef, table: &LabelTable) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(table.count));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), table.columns.clone(), &options)?)
}

fn intersection(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    few.iter().copied().filter(|label| many.binary_search(label).is_ok()).collect()
}

fn condition(expr: &Arc<dyn PhysicalExpr>) -> Condition {
    let mut values = Vec::new();
    match equality(expr, &mut values, &text) {
        Some(Looked::Column(column)) => Condition::Equal { column, values },
        Some(Looked::Tag(column, key)) => Condition::Tag { expr: Arc::clone(expr), column, key, values },
        None => Condition::Other(Arc::clone(expr)),
    }
}

/// What is compared.
#[derive(PartialEq, Eq)]
enum Looked {
    Column(usize),
    Tag(usize, String),
}

/// What `expr` compares with texts, which are added to `values`, if that is all it does. `text` tells what a text is.
fn equality(
    expr: &Arc<dyn PhysicalExpr>,
    values: &mut Vec<String>,
    text: &dyn Fn(&Arc<dyn PhysicalExpr>) -> Option<String>,
) -> Option<Looked> {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return match binary.op() {
            Operator::Eq => {
                let (of, value) = match (looked(binary.left()), text(binary.right())) {
                    (Some(of), Some(value)) => (of, value),
                    _ => (looked(binary.right())?, text(binary.left())?),
                };
                values.push(value);
                Some(of)
            }
            Operator::Or => {
                let (left, right) = (equality(binary.left(), values, text)?, equality(binary.right(), values, text)?);
                (left == right).then_some(left)
            }
            _ => None,
        };
    }
    let list = expr.downcast_ref::<InListExpr>().filter(|list| !list.negated())?;
    let of = looked(list.expr())?;
    for value in list.list() {
        values.push(text(value)?);
    }
    Some(of)
}

fn looked(expr: &Arc<dyn PhysicalExpr>) -> Option<Looked> {
    let expr = uncast(expr);
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(Looked::Column(column.index()));
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.fun().name() == "tag")?;
    let [tags, key] = call.args() else { return None };
    let column = uncast(tags).downcast_ref::<Column>()?;
    Some(Looked::Tag(column.index(), text(key)?))
}

/// Labels are texts, and a cast from one kind of text to another changes none of them.
fn uncast(expr: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    match expr.downcast_ref::<CastExpr>() {
        Some(cast) if cast.cast_type().is_string() => uncast(cast.expr()),
        _ => expr,
    }
}

fn text(expr: &Arc<dyn PhysicalExpr>) -> Option<String> {
    text_of(uncast(expr).downcast_ref::<Literal>()?.value().clone())
}

fn text_of(value: ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringViewArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_expr::expressions::{binary, col, in_list, lit};

    use super::*;

    fn schema() -> SchemaRef {
        let text = |name: &str| Field::new(name, DataType::Utf8View, true);
        Arc::new(Schema::new(vec![text("host"), text("container")]))
    }

    fn is(column: &str, value: &str) -> Arc<dyn PhysicalExpr> {
        let value = lit(ScalarValue::Utf8View(Some(value.to_owned())));
        binary(col(column, &schema()).unwrap(), Operator::Eq, value, &schema()).unwrap()
    }

    fn table() -> LabelTable {
        let column = |texts: [&str; 4]| -> ArrayRef { Arc::new(StringViewArray::from(texts.to_vec())) };
        LabelTable::new(vec![column(["a", "a", "b", "b"]), column(["x", "y", "x", "z"])], 4, Vec::new())
    }

    fn chosen(filter: &Arc<dyn PhysicalExpr>) -> Choice {
        LabelFilter::new(Some(filter), schema()).choose(&table()).unwrap()
    }

    fn some(labels: &[u32]) -> Choice {
        Choice::Some(Arc::new(labels.to_vec()))
    }

    #[test]
    fn equalities_lists_and_anything_else_choose_what_the_expression_says() {
        let both = |left, op, right| binary(left, op, right, &schema()).unwrap();
        assert_eq!(chosen(&is("host", "b")), some(&[2, 3]));
        assert_eq!(chosen(&both(is("host", "b"), Operator::And, is("container", "x"))), some(&[2]));
        assert_eq!(chosen(&both(is("container", "z"), Operator::Or, is("container", "y"))), some(&[1, 3]));
        assert_eq!(chosen(&both(is("host", "a"), Operator::Or, is("container", "z"))), some(&[0, 1, 3]));
        let values = ["x", "y"].map(|text| lit(ScalarValue::Utf8View(Some(text.to_owned())))).to_vec();
        for (negated, labels) in [(false, [0, 1, 2].as_slice()), (true, &[3])] {
            let list = in_list(col("container", &schema()).unwrap(), values.clone(), &negated, &schema()).unwrap();
            assert_eq!(chosen(&list), some(labels));
        }
        assert_eq!(chosen(&both(is("host", "a"), Operator::Or, is("host", "b"))), Choice::All);
        assert!(chosen(&is("host", "c")).is_nothing());
        assert_eq!(LabelFilter::new(None, schema()).choose(&table()).unwrap(), Choice::All);
    }

    #[test]
    fn a_part_with_one_value_is_left_out_by_an_equality() {
        let filter = LabelFilter::new(Some(&is("host", "a")), schema());
        assert!(filter.allows(0, "a") && !filter.allows(0, "b") && filter.allows(1, "b"));
    }
}
