//! Plans that only pick rows and compute columns from `recent()`, run without streams.
//!
//! Most rules are of this kind and run each second over few rows. Setting up DataFusion's operators, their figures and their
//! streams then takes longer than what they do. The expressions are those of the plan, evaluated as its operators would.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::cast::as_boolean_array;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::functions::{RecentExec, recent_rows};
use crate::query::run::Run;

/// See the module.
pub(crate) enum Direct {
    Recent { window_ms: i64, places: Vec<usize> },
    Filter { predicate: Arc<dyn PhysicalExpr>, places: Option<Vec<usize>>, input: Box<Direct> },
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef, input: Box<Direct> },
}

impl Direct {
    /// `plan`, not yet guarded, if it is of this kind.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        if let Some(recent) = plan.downcast_ref::<RecentExec>() {
            let (window_ms, places) = recent.asked();
            return Some(Self::Recent { window_ms, places: places.to_vec() });
        }
        if let Some(cooperative) = plan.downcast_ref::<CooperativeExec>() {
            return Self::of(cooperative.input());
        }
        if let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|filter| filter.fetch().is_none()) {
            let places = filter.projection().as_ref().map(|places| places.to_vec());
            let input = Box::new(Self::of(filter.input())?);
            return Some(Self::Filter { predicate: Arc::clone(filter.predicate()), places, input });
        }
        let project = plan.downcast_ref::<ProjectionExec>()?;
        let exprs = project.expr().iter().map(|column| Arc::clone(&column.expr)).collect();
        let input = Box::new(Self::of(project.input())?);
        Some(Self::Project { exprs, schema: project.schema(), input })
    }

    /// All rows.
    ///
    /// # Errors
    /// As those of the plan.
    pub(crate) fn rows(&self, run: &Run, memory: &Arc<dyn MemoryPool>) -> Result<RecordBatch> {
        let batch = match self {
            Self::Recent { window_ms, places } => {
                recent_rows(run, *window_ms, places, MemoryConsumer::new("recent").register(memory))?
            }
            Self::Filter { predicate, places, input } => {
                let batch = input.rows(run, memory)?;
                let passes = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                let batch = match places {
                    Some(places) => batch.project(places)?,
                    None => batch,
                };
                filter_record_batch(&batch, as_boolean_array(&passes)?)?
            }
            Self::Project { exprs, schema, input } => {
                let batch = input.rows(run, memory)?;
                let rows = batch.num_rows();
                let column = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(rows);
                let columns = exprs.iter().map(column).collect::<Result<Vec<_>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?
            }
        };
        run.deadline.check()?;
        run.deadline.check_size(&batch)?;
        Ok(batch)
    }
}
