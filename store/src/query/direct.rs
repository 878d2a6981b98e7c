//! Plans over few rows, run without streams: those that pick rows, compute columns and aggregate without groups from what is made
//! or read at once.
//!
//! Most rules are of this kind and run each second, and so is most of what a dashboard asks. Setting up DataFusion's operators,
//! their figures and their streams then takes longer than what they do. The expressions and accumulators are those of the plan,
//! evaluated as its operators would, batch by batch of the same size, so that the last bits of a sum are the same too.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{SortOptions, filter_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::cast::as_boolean_array;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateMode, aggregate_expressions, create_accumulators, evaluate_many, finalize_aggregation,
};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::aggregate::{AggregateScan, AggregateScanExec};
use crate::functions::{Asked, LastExec, LastRows, MadeExec, Make, Making, RecentExec, recent_rows};
use crate::query::join::Join;
use crate::query::ready::ready;
use crate::query::run::Run;
use crate::tables::{CurrentExec, Facts, Reader, TimedScanExec};

/// See the module.
pub(crate) enum Direct {
    Recent { asked: Asked, places: Vec<usize> },
    Last(LastRows),
    Aggregate(AggregateScan),
    Scan { reader: Arc<Reader>, order: Option<SortOptions> },
    Filter { predicate: Arc<dyn PhysicalExpr>, places: Option<Vec<usize>>, input: Box<Direct> },
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef, input: Box<Direct> },
    Whole { whole: Whole, input: Box<Direct> },
    Current { table: Arc<dyn Facts>, places: Vec<usize> },
    Made { make: Make, places: Vec<usize> },
    Join { join: Join, left: Box<Direct>, right: Box<Direct> },
}

/// Aggregates of all rows.
pub(crate) struct Whole {
    functions: Vec<Arc<AggregateFunctionExpr>>,
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    mode: AggregateMode,
    schema: SchemaRef,
}

impl Direct {
    /// `plan`, not yet guarded, if it is of this kind.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        if let Some(recent) = plan.downcast_ref::<RecentExec>() {
            let (asked, places) = recent.asked();
            return Some(Self::Recent { asked, places: places.to_vec() });
        }
        if let Some(last) = plan.downcast_ref::<LastExec>() {
            return Some(Self::Last(last.asked().clone()));
        }
        if let Some(aggregate) = plan.downcast_ref::<AggregateScanExec>() {
            return Some(Self::Aggregate(aggregate.scan().clone()));
        }
        if let Some(scan) = plan.downcast_ref::<TimedScanExec>() {
            return Some(Self::Scan { reader: Arc::clone(scan.reader()), order: scan.order() });
        }
        if let Some(current) = plan.downcast_ref::<CurrentExec>() {
            let (table, places) = current.asked();
            return Some(Self::Current { table: Arc::clone(table), places: places.to_vec() });
        }
        if let Some(made) = plan.downcast_ref::<MadeExec>() {
            let (make, places) = made.asked();
            return Some(Self::Made { make: Arc::clone(make), places: places.to_vec() });
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let (left, right) = (Box::new(Self::of(join.left())?), Box::new(Self::of(join.right())?));
            return Some(Self::Join { join: Join::of(join)?, left, right });
        }
        if let Some(cooperative) = plan.downcast_ref::<CooperativeExec>() {
            return Self::of(cooperative.input());
        }
        if let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|filter| filter.fetch().is_none()) {
            let places = filter.projection().as_ref().map(|places| places.to_vec());
            let predicate = ready(filter.predicate(), &filter.input().schema());
            return Some(Self::Filter { predicate, places, input: Box::new(Self::of(filter.input())?) });
        }
        if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
            let input = Box::new(Self::of(aggregate.input()).filter(Self::is_in_batches)?);
            return Some(Self::Whole { whole: Whole::of(aggregate)?, input });
        }
        let project = plan.downcast_ref::<ProjectionExec>()?;
        let of = project.input().schema();
        let exprs = project.expr().iter().map(|column| ready(&column.expr, &of)).collect();
        let input = Box::new(Self::of(project.input())?);
        Some(Self::Project { exprs, schema: project.schema(), input })
    }

    /// Whether its rows come in the batches that its operators would give.
    fn is_in_batches(&self) -> bool {
        match self {
            Self::Recent { .. } | Self::Last(_) | Self::Aggregate(_) | Self::Scan { .. } => true,
            Self::Filter { input, .. } | Self::Project { input, .. } | Self::Whole { input, .. } => {
                input.is_in_batches()
            }
            Self::Current { .. } | Self::Made { .. } | Self::Join { .. } => false,
        }
    }

    /// All rows; `None` when they are more than are read at once, and the plan has to be run as it is.
    ///
    /// # Errors
    /// As those of the plan.
    pub(crate) fn rows(&self, run: &Arc<Run>, memory: &Arc<dyn MemoryPool>) -> Result<Option<Vec<RecordBatch>>> {
        let batches = match self {
            Self::Recent { asked, places } => {
                vec![recent_rows(run, *asked, places, MemoryConsumer::new("recent").register(memory))?]
            }
            Self::Last(last) => vec![last.rows(run)?],
            Self::Aggregate(aggregate) => {
                vec![aggregate.rows(run, MemoryConsumer::new("aggregate").register(memory))?]
            }
            Self::Scan { reader, order } => match reader.at_once(run, *order, memory)? {
                Some(batches) => batches,
                None => return Ok(None),
            },
            Self::Filter { predicate, places, input } => {
                let Some(batches) = input.rows(run, memory)? else { return Ok(None) };
                let pick = |batch: RecordBatch| -> Result<RecordBatch> {
                    let passes = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                    let batch = match places {
                        Some(places) => batch.project(places)?,
                        None => batch,
                    };
                    Ok(filter_record_batch(&batch, as_boolean_array(&passes)?)?)
                };
                each(run, batches, pick)?
            }
            Self::Project { exprs, schema, input } => {
                let Some(batches) = input.rows(run, memory)? else { return Ok(None) };
                let compute = |batch: RecordBatch| -> Result<RecordBatch> {
                    let rows = batch.num_rows();
                    // As a rule nobody is picked, and computing for nobody takes as long as for some.
                    if rows == 0 {
                        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
                    }
                    let column = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(rows);
                    let columns = exprs.iter().map(column).collect::<Result<Vec<_>>>()?;
                    let options = RecordBatchOptions::new().with_row_count(Some(rows));
                    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
                };
                each(run, batches, compute)?
            }
            Self::Whole { whole, input } => {
                let Some(batches) = input.rows(run, memory)? else { return Ok(None) };
                vec![whole.row(run, &batches, memory)?]
            }
            Self::Current { table, places } => vec![table.rows(run)?.project(places)?],
            Self::Made { make, places } => {
                let memory = MemoryConsumer::new("made").register(memory);
                vec![make(&Making { run: Arc::clone(run), memory })?.project(places)?]
            }
            Self::Join { join, left, right } => {
                let Some(left) = left.rows(run, memory)? else { return Ok(None) };
                // Where nobody is left there is nobody to join with.
                if left.iter().all(|batch| batch.num_rows() == 0) {
                    return Ok(Some(Vec::new()));
                }
                let Some(right) = right.rows(run, memory)? else { return Ok(None) };
                let Some(joined) = join.rows(&left, right)? else { return Ok(None) };
                joined
            }
        };
        run.deadline.check()?;
        batches.iter().try_for_each(|batch| run.deadline.check_size(batch))?;
        Ok(Some(batches))
    }
}

fn each(
    run: &Run,
    batches: Vec<RecordBatch>,
    mut make: impl FnMut(RecordBatch) -> Result<RecordBatch>,
) -> Result<Vec<RecordBatch>> {
    let make = |batch| {
        run.deadline.check()?;
        make(batch)
    };
    batches.into_iter().map(make).collect()
}

impl Whole {
    fn of(aggregate: &AggregateExec) -> Option<Self> {
        let mode = *aggregate.mode();
        let groups = aggregate.group_expr();
        let plain = matches!(mode, AggregateMode::Single | AggregateMode::SinglePartitioned)
            && groups.is_empty()
            && !groups.has_grouping_set()
            && aggregate.filter_expr().iter().all(Option::is_none);
        if !plain {
            return None;
        }
        let functions = aggregate.aggr_expr().to_vec();
        let arguments = aggregate_expressions(&functions, &mode, 0).ok()?;
        Some(Self { functions, arguments, mode, schema: aggregate.schema() })
    }

    fn row(&self, run: &Run, batches: &[RecordBatch], memory: &Arc<dyn MemoryPool>) -> Result<RecordBatch> {
        let mut accumulators = create_accumulators(&self.functions)?;
        let held = MemoryConsumer::new("aggregates").register(memory);
        for batch in batches {
            run.deadline.check()?;
            for (accumulator, values) in accumulators.iter_mut().zip(evaluate_many(&self.arguments, batch)?) {
                accumulator.update_batch(&values)?;
            }
            held.try_resize(accumulators.iter().map(|accumulator| accumulator.size()).sum())?;
        }
        let columns = finalize_aggregation(&mut accumulators, &self.mode)?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
