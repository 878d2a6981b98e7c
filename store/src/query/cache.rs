//! Plans that are kept for the next time, since making one takes many times as long as running it on recent data.
//!
//! A kept plan belongs to a text, to the types of its parameters and to the metrics that it names: it is made anew when one
//! of those metrics came, went or has other tag keys. It has one run at a time; several are kept of a text that is asked
//! several times at once.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use parking_lot::Mutex;

use crate::functions;
use crate::query::Plan;
use crate::query::outline::Outline;
use crate::query::parameter::Template;
use crate::scan::MetricInfo;
use crate::store::Store;
use crate::tables::METRIC;

/// Plans of one text that wait for their next run.
const MAX_IDLE: usize = 8;
/// Runs of one plan. Operators of DataFusion keep the figures of all their runs, so a plan grows with each.
const MAX_RUNS: u32 = 1_000;
/// Longest text whose plan is kept, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// Operators that have no state beyond a run, or one that [`reset_plan_states`] clears. Others are planned each time.
/// `DataSourceExec` holds the rows of `VALUES`: see [`has_fixed_rows`].
const REPEATABLE: [&str; 32] = [
    "AggregateExec",
    "AggregateScanExec",
    "BoundedWindowAggExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "CurrentExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "HistoryExec",
    "LastExec",
    "LocalLimitExec",
    "MadeExec",
    "NestedLoopJoinExec",
    "PartialSortExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RecentExec",
    "RollupExec",
    "ScalarSubqueryExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "TimedScanExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
];

/// Whether `plan`, not yet guarded, can be run again.
pub(crate) fn is_repeatable(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut repeatable = true;
    let visited = plan.apply(|node| {
        repeatable &= REPEATABLE.contains(&node.name());
        Ok(if repeatable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    repeatable && visited.is_ok()
}

/// Whether all rows that `plan`, optimized but without its values, writes out with `VALUES` are the same in every run: they are
/// computed when it is planned.
pub(crate) fn has_fixed_rows(plan: &LogicalPlan) -> bool {
    let mut fixed = true;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Values(rows) = node {
            for cell in rows.values.iter().flatten() {
                let moves = cell.exists(|part| Ok(matches!(part, Expr::Placeholder(_)) || part.is_volatile_node()))?;
                fixed &= !moves;
            }
        }
        Ok(if fixed { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    fixed && visited.is_ok()
}

/// The metric tables that `plan` names, as they are now; `None` when one does not exist any more.
pub(crate) fn metrics_of(plan: &LogicalPlan, store: &Store) -> Option<Vec<MetricInfo>> {
    let mut names = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            if scan.table_name.schema() == Some(METRIC) {
                names.push(scan.table_name.table().to_owned());
            }
            names.extend(functions::metric_of(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names.sort_unstable();
    names.dedup();
    visited.ok()?;
    names.iter().map(|name| store.metric(name)).collect()
}

/// A plan with what it depends on.
pub(crate) struct Kept {
    pub(crate) plan: Plan,
    metrics: Vec<MetricInfo>,
    /// [`Store::series_generation`] when `metrics` were last compared.
    generation: u64,
    runs: u32,
}

impl Kept {
    /// `generation` is that of before the plan was made; where it has changed since, `plan` may be older than `metrics` and
    /// is good for one run.
    pub(crate) fn new(plan: Plan, metrics: Vec<MetricInfo>, generation: u64, store: &Store) -> Self {
        let runs = if store.series_generation() == generation { 0 } else { MAX_RUNS };
        Self { plan, metrics, generation, runs }
    }

    /// Whether it would be the same if it were made now.
    fn is_current(&mut self, store: &Store) -> bool {
        let generation = store.series_generation();
        if self.generation != generation {
            if !self.metrics.iter().all(|metric| store.metric(&metric.name).as_ref() == Some(metric)) {
                return false;
            }
            self.generation = generation;
        }
        true
    }

    /// Ready for another run; `None` when it has had enough of them. `was_direct` is whether the last one left nothing in its
    /// operators.
    fn rested(mut self, was_direct: bool) -> Result<Option<Self>, DataFusionError> {
        if was_direct && self.runs < MAX_RUNS {
            return Ok(Some(self));
        }
        self.runs += 1;
        if self.runs >= MAX_RUNS {
            return Ok(None);
        }
        // Also lets go of what the run had in memory.
        self.plan.operators = reset_plan_states(self.plan.operators)?;
        Ok(Some(self))
    }
}

/// What is known of a text.
pub(crate) enum Found {
    Kept(Box<Kept>),
    /// Its plans cannot be kept: they are made for one instant, with all values in them.
    Fixed,
    Unknown,
}

#[derive(Default)]
struct Entry {
    last_used: u64,
    idle: Vec<Kept>,
    fixed: bool,
}

/// The kept plans of one [`QueryPool`](crate::QueryPool).
#[derive(Default)]
pub(crate) struct PlanCache(Mutex<Entries>);

/// What a text is kept as, and the values that were taken out of it.
type Taken = (String, Vec<ScalarValue>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    /// Which texts are taken out, by the outline: so that a text need not be read again to find that out.
    taken: HashMap<String, Vec<bool>>,
    /// The same of texts without an outline, such as those with comments, by the text.
    whole: HashMap<String, Taken>,
    /// Counts uses, to know which entry was not used for longest.
    uses: u64,
}

impl PlanCache {
    /// A plan of `key` that nobody runs.
    pub(crate) fn take(&self, key: &str, store: &Store) -> Found {
        let mut entries = self.0.lock();
        entries.uses += 1;
        let now = entries.uses;
        let Some(entry) = entries.by_key.get_mut(key) else { return Found::Unknown };
        entry.last_used = now;
        if entry.fixed {
            return Found::Fixed;
        }
        while let Some(mut kept) = entry.idle.pop() {
            if kept.is_current(store) {
                return Found::Kept(Box::new(kept));
            }
        }
        Found::Unknown
    }

    /// What the plan of a text without parameters is kept as, and the values that it is run with; `None` where nobody knows.
    pub(crate) fn taken(&self, text: &str) -> Option<Taken> {
        if text.len() > MAX_KEY_BYTES {
            return None;
        }
        let outline = Outline::new(text);
        let entries = self.0.lock();
        let by_outline = outline.and_then(|outline| Some(outline.filled(entries.taken.get(&outline.text)?)));
        by_outline.or_else(|| entries.whole.get(text).cloned())
    }

    /// Remembers for [`PlanCache::taken`] what `template` has taken out of its text, beside `most` other outlines.
    pub(crate) fn remember(&self, text: &str, template: &Template, most: usize) {
        if text.len() > MAX_KEY_BYTES || template.values.is_empty() {
            return;
        }
        let outlined = Outline::new(text).and_then(|outline| Some((outline.taken(template)?, outline.text)));
        let mut entries = self.0.lock();
        match outlined {
            Some((taken, outline)) => {
                if entries.taken.len() >= most {
                    entries.taken.clear();
                }
                entries.taken.insert(outline, taken);
            }
            None => {
                if entries.whole.len() >= most {
                    entries.whole.clear();
                }
                entries.whole.insert(text.to_owned(), (template.key.clone(), template.values.clone()));
            }
        }
    }

    /// Keeps a plan whose run has ended, beside those of `most` other texts.
    pub(crate) fn put(&self, key: String, kept: Kept, was_direct: bool, most: usize) {
        // One that cannot be reset is made anew next time.
        let Ok(Some(kept)) = kept.rested(was_direct) else { return };
        self.with(key, most, |entry| {
            if entry.idle.len() < MAX_IDLE {
                entry.idle.push(kept);
            }
        });
    }

    /// Remembers that plans of `key` cannot be kept.
    pub(crate) fn put_fixed(&self, key: String, most: usize) {
        self.with(key, most, |entry| *entry = Entry { fixed: true, ..Entry::default() });
    }

    fn with(&self, key: String, most: usize, change: impl FnOnce(&mut Entry)) {
        if key.len() > MAX_KEY_BYTES {
            return;
        }
        let mut entries = self.0.lock();
        entries.uses += 1;
        let now = entries.uses;
        while entries.by_key.len() >= most.max(1) && !entries.by_key.contains_key(&key) {
            let oldest = entries.by_key.iter().min_by_key(|(_, entry)| entry.last_used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            entries.by_key.remove(&oldest);
        }
        let entry = entries.by_key.entry(key).or_default();
        change(entry);
        entry.last_used = now;
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.0.lock().by_key.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Plans that wait, over all texts.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.0.lock().by_key.values().map(|entry| entry.idle.len()).sum()
    }
}
