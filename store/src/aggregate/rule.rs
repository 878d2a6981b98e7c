//! Which aggregates need no rows.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::exec::{AggregateScanExec, Function, Key, Question};
use super::grid::Bins;
use crate::tables::{Reader, TimedScanExec, is_pure};

/// Puts an [`AggregateScanExec`] in the place of an aggregate over the scan of a table, where it gives the same answer.
#[derive(Debug)]
pub(crate) struct AggregateScans;

impl PhysicalOptimizerRule for AggregateScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_up(|node| {
            if let Some(scan) = replacement(&node) {
                return Ok(Transformed::yes(Arc::new(scan) as Arc<dyn ExecutionPlan>));
            }
            Ok(sorted(&node)?.map_or_else(|| Transformed::no(node), Transformed::yes))
        });
        Ok(replaced?.data)
    }

    fn name(&self) -> &str {
        "AggregateScans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What gives the rows of `node`, a sort over an [`AggregateScanExec`], without sorting them: that knows each label and each
/// bin once, and has only to be told their order.
fn sorted(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(sort) = node.downcast_ref::<SortExec>().filter(|sort| sort.fetch().is_none()) else { return Ok(None) };
    let Some(input) = in_order(sort.input())? else { return Ok(None) };
    Ok(input.equivalence_properties().ordering_satisfy(sort.expr().iter().cloned())?.then_some(input))
}

const NEW_PROPERTIES: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);

fn in_order(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<AggregateScanExec>() {
        return Ok(Some(Arc::new(scan.in_order())));
    }
    if !plan.is::<ProjectionExec>() && !plan.is::<CooperativeExec>() {
        return Ok(None);
    }
    let [input] = plan.children()[..] else { return Ok(None) };
    in_order(input)?.map(|input| Arc::clone(plan).replace_children(vec![input], NEW_PROPERTIES)).transpose()
}

fn replacement(node: &Arc<dyn ExecutionPlan>) -> Option<AggregateScanExec> {
    let aggregate = node.downcast_ref::<AggregateExec>()?;
    if !matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::SinglePartitioned)
        || aggregate.group_expr().has_grouping_set()
        || aggregate.filter_expr().iter().any(Option::is_some)
    {
        return None;
    }
    let below = Below::new(aggregate.input())?;
    let mut question = Question { keys: Vec::new(), labels: Vec::new(), bins: Bins::Whole, functions: Vec::new() };
    for (expr, _) in aggregate.group_expr().expr() {
        let expr = below.resolve(expr)?;
        match below.bins(&expr) {
            Some(bins) if question.bins == Bins::Whole || question.bins == bins => {
                question.bins = bins;
                question.keys.push(Key::Bin);
            }
            Some(_) => return None,
            None => {
                question.keys.push(Key::Label(question.labels.len()));
                question.labels.push(below.label(expr)?);
            }
        }
    }
    let schema = aggregate.schema();
    let types = schema.fields().iter().skip(question.keys.len()).map(|field| field.data_type());
    for (expr, data_type) in aggregate.aggr_expr().iter().zip(types) {
        question.functions.push(below.function(expr, data_type)?);
    }
    Some(AggregateScanExec::new(Arc::clone(below.reader), question, schema))
}

/// What an aggregate reads: a scan, perhaps with a projection over it.
struct Below<'a> {
    reader: &'a Arc<Reader>,
    projection: Option<&'a ProjectionExec>,
}

impl<'a> Below<'a> {
    fn new(input: &'a Arc<dyn ExecutionPlan>) -> Option<Self> {
        let input = uncovered(input);
        let projection = input.downcast_ref::<ProjectionExec>();
        let scan = uncovered(projection.map_or(input, ProjectionExec::input)).downcast_ref::<TimedScanExec>()?;
        let reader = scan.reader();
        reader.source.has_one_value().then_some(Self { reader, projection })
    }

    /// `expr` over the columns of the table instead of those of the input.
    fn resolve(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
        let mut expr = Arc::clone(expr);
        if let Some(projection) = self.projection {
            let replaced = expr.transform_up(|node| match node.downcast_ref::<Column>() {
                Some(column) => {
                    Ok(Transformed::yes(Arc::clone(&projection.expr().get(column.index()).ok_or_else(outside)?.expr)))
                }
                None => Ok(Transformed::no(node)),
            });
            expr = replaced.ok()?.data;
        }
        let replaced = expr.transform_up(|node| match node.downcast_ref::<Column>() {
            Some(column) => {
                let at = *self.reader.projection().get(column.index()).ok_or_else(outside)?;
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Arc<dyn PhysicalExpr>))
            }
            None => Ok(Transformed::no(node)),
        });
        Some(replaced.ok()?.data)
    }

    /// The bins that a call of `date_bin` or `date_trunc` cuts the table's time into.
    fn bins(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<Bins> {
        let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
        let [width, time] = call.args() else { return None };
        if !is_time(time) {
            return None;
        }
        let width = width.downcast_ref::<Literal>()?.value();
        let width = match call.fun().name() {
            "date_bin" => interval_ms(width)?,
            "date_trunc" => unit_ms(width)?,
            _ => return None,
        };
        Some(Bins::Every(width))
    }

    /// `expr` over the label columns alone, if it looks at nothing else.
    fn label(&self, expr: Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
        let labels = self.reader.source.label_count();
        let mut columns = 0;
        let replaced = expr.transform_up(|node| match node.downcast_ref::<Column>() {
            Some(column) if (1..=labels).contains(&column.index()) => {
                columns += 1;
                let label = Column::new(column.name(), column.index() - 1);
                Ok(Transformed::yes(Arc::new(label) as Arc<dyn PhysicalExpr>))
            }
            Some(_) => Err(outside()),
            None => Ok(Transformed::no(node)),
        });
        let expr = replaced.ok()?.data;
        (columns > 0 && is_pure(&expr)).then_some(expr)
    }

    fn function(&self, aggregate: &AggregateFunctionExpr, data_type: &DataType) -> Option<Function> {
        if aggregate.is_distinct() {
            return None;
        }
        let value = self.reader.source.label_count() + 1;
        let is = |expr: &Arc<dyn PhysicalExpr>, column: usize| {
            self.resolve(expr).is_some_and(|expr| expr.downcast_ref::<Column>().is_some_and(|at| at.index() == column))
        };
        let arguments = aggregate.expressions();
        let name = aggregate.fun().name();
        let end = match (name, arguments.as_slice(), aggregate.order_bys()) {
            ("first_value" | "last_value", [of], [by]) if is(of, value) && is(&by.expr, 0) => {
                Some((name == "first_value") != by.options.descending)
            }
            ("first" | "last", [of, by], []) if is(of, value) && is(by, 0) => Some(name == "first"),
            _ => None,
        };
        if let Some(first) = end {
            let function = if first { Function::First } else { Function::Last };
            return (*data_type == DataType::Float64).then_some(function);
        }
        let ([argument], []) = (arguments.as_slice(), aggregate.order_bys()) else { return None };
        let argument = self.resolve(argument)?;
        let column = argument.downcast_ref::<Column>().map(Column::index);
        let function = match name {
            // Neither the time nor the value of a row is ever null.
            "count" if column.is_some_and(|at| at == 0 || at == value) => Function::Count,
            "count" if argument.downcast_ref::<Literal>().is_some_and(|one| !one.value().is_null()) => Function::Count,
            "sum" if column == Some(value) => Function::Sum,
            "avg" if column == Some(value) => Function::Avg,
            "min" if column == Some(value) => Function::Min,
            "max" if column == Some(value) => Function::Max,
            _ => return None,
        };
        let expected = if function == Function::Count { DataType::Int64 } else { DataType::Float64 };
        (*data_type == expected).then_some(function)
    }
}

/// `plan` without what only lets others have their turn.
fn uncovered(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match plan.downcast_ref::<CooperativeExec>() {
        Some(cooperative) => cooperative.input(),
        None => plan,
    }
}

/// Never shown: it only ends a rewriting.
fn outside() -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::Internal("a column that is not there".to_owned())
}

/// The table's time, also in another unit: bins are whole milliseconds wide and begin at 1970, so that changes none.
fn is_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let finer = matches!(cast.cast_type(), DataType::Timestamp(unit, zone)
            if *unit != TimeUnit::Second && zone.as_deref().is_none_or(|zone| zone == "UTC"));
        return finer && cast.expr().downcast_ref::<Column>().is_some_and(|column| column.index() == 0);
    }
    expr.downcast_ref::<Column>().is_some_and(|column| column.index() == 0)
}

fn interval_ms(width: &ScalarValue) -> Option<i64> {
    let ns = match width {
        ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 => {
            i64::from(span.days).checked_mul(86_400_000_000_000)?.checked_add(span.nanoseconds)?
        }
        ScalarValue::IntervalDayTime(Some(span)) => {
            (i64::from(span.days) * 86_400_000 + i64::from(span.milliseconds)).checked_mul(1_000_000)?
        }
        _ => return None,
    };
    (ns > 0 && ns % 1_000_000 == 0).then_some(ns / 1_000_000)
}

fn unit_ms(unit: &ScalarValue) -> Option<i64> {
    let unit = match unit {
        ScalarValue::Utf8(unit) | ScalarValue::LargeUtf8(unit) | ScalarValue::Utf8View(unit) => unit.as_deref()?,
        _ => return None,
    };
    match unit.to_ascii_lowercase().as_str() {
        "second" => Some(1_000),
        "minute" => Some(60_000),
        "hour" => Some(3_600_000),
        "day" => Some(86_400_000),
        _ => None,
    }
}
