//! A product with a few rows begins with those.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// More rows than these are no settings any more.
const FEW_ROWS: usize = 256;

/// Turns products round whose right side is expected to have a few rows: the settings of a rule, say. The operator makes a batch
/// of each left row and each right batch, so a product of many rows with a single one would come in as many batches as rows.
#[derive(Debug)]
pub(super) struct FewFirst;

impl PhysicalOptimizerRule for FewFirst {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let turned = plan.transform_up(|node| {
            let Some(product) = node.downcast_ref::<CrossJoinExec>() else { return Ok(Transformed::no(node)) };
            let (left, right) = (rows(product.left())?, rows(product.right())?);
            match right {
                // What comes first is collected, from one partition: the rows of a union have one a part.
                Some(right)
                    if right <= FEW_ROWS
                        && left.is_none_or(|left| left > right)
                        && product.right().output_partitioning().partition_count() == 1 =>
                {
                    Ok(Transformed::yes(product.swap_inputs()?))
                }
                _ => Ok(Transformed::no(node)),
            }
        });
        Ok(turned?.data)
    }

    fn name(&self) -> &str {
        "FewFirst"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// How many rows are expected, where anything is: a wrong guess costs memory, which is bounded, and no row.
fn rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<usize>> {
    let known = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
    Ok(known.num_rows.get_value().copied())
}
