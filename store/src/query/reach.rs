//! How far back the answer to a query may reach.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;

use crate::functions::RecentExec;

/// The longest window of `plan`'s calls of `recent()`; `None` where it may read any time. What `history()` knows of the past
/// it does not read again, and tables of facts have none.
pub(crate) fn reach(plan: &Arc<dyn ExecutionPlan>) -> Option<Duration> {
    let mut longest = Some(Duration::ZERO);
    let visited = plan.apply(|node| {
        if node.children().is_empty() {
            let own = match node.name() {
                "CurrentExec" | "DataSourceExec" | "EmptyExec" | "HistoryExec" | "PlaceholderRowExec" => {
                    Some(Duration::ZERO)
                }
                _ => node
                    .downcast_ref::<RecentExec>()
                    .map(|recent| Duration::from_millis(recent.asked().0.window_ms.unsigned_abs())),
            };
            longest = longest.max(own).filter(|_| own.is_some());
        }
        Ok(if longest.is_some() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    visited.ok().and(longest)
}
