//! Groups: what is known of apps and users, and decisions about one as a whole.
//!
//! A rule may say what the limits of an app or a user should add up to. [`rows`] makes of it what each member should have, by
//! the arithmetic in [`split`], and each part goes through all the guards as if the rule had asked for it. What the limits may
//! add up to is a guard of its own, `guard::group`, whoever moves them.

pub(crate) mod rows;
pub(crate) mod split;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use tidegate_model::{ContainerKey, GroupBounds, GroupKey, Resource};
use tidegate_store::GroupRow;

use crate::engine::Engine;
use crate::proposal::{self, LimitKey, Parsed, Proposal};
use crate::readings::Reading;
use crate::rule::{RuleDefinition, group_kind};
use crate::snapshot::Snapshot;

/// How old the last known limit of a silent member may be.
const LAST_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a snapshot knows of groups beyond who is in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    /// What operators allow.
    pub bounds: BTreeMap<GroupKey, BTreeMap<Resource, GroupBounds>>,
    /// The last known limits of members without a measurement in the last minute.
    pub silent: HashMap<LimitKey, Reading>,
}

impl Groups {
    pub fn new(rows: Vec<GroupRow>, silent: HashMap<LimitKey, Reading>) -> Self {
        Self { bounds: rows.into_iter().map(|row| (row.key, row.bounds)).collect(), silent }
    }
}

impl Engine {
    /// `snapshot` with what the store knows of groups.
    pub(crate) async fn with_groups(&self, mut snapshot: Snapshot) -> Result<Snapshot, String> {
        let bounded = self.store.groups();
        if snapshot.containers.values().all(|one| one.app.is_none() && one.user.is_none()) {
            snapshot.groups = Groups::new(bounded, HashMap::new());
            return Ok(snapshot);
        }
        let measured: HashSet<(&ContainerKey, Resource)> =
            snapshot.readings.keys().map(|(container, resource)| (container, *resource)).collect();
        let grouped = snapshot.containers.values().filter(|one| one.app.is_some() || one.user.is_some());
        let limits = grouped.flat_map(|one| Resource::ALL.map(|resource| (&one.key, resource)));
        let silent = limits.filter(|limit| !measured.contains(limit));
        let silent: Vec<LimitKey> = silent.map(|(container, resource)| (container.clone(), resource)).collect();
        let mut last = HashMap::new();
        if !silent.is_empty() {
            let (store, now) = (Arc::clone(&self.store), snapshot.now);
            // After a start it may have to look into files.
            let found = tokio::task::spawn_blocking(move || store.last_limits(&silent, now, LAST_LIMIT)).await;
            let found = found.map_err(|error| format!("the last known limits could not be looked up: {error}"))?;
            let found = found.map_err(|error| format!("the last known limits could not be read: {error}"))?;
            let reading = |(key, (at, limit))| (key, Reading::last_limit(limit, now.since(at).as_secs_f64()));
            last = found.into_iter().map(reading).collect();
        }
        snapshot.groups = Groups::new(bounded, last);
        Ok(snapshot)
    }

    /// What the rows of a limit rule propose, each for one container or for a group as a whole; rows about containers that are
    /// out of the rule's scope are passed over.
    pub(crate) fn proposed(
        &self,
        rule: &Arc<RuleDefinition>,
        batches: &[RecordBatch],
        snapshot: &Snapshot,
    ) -> Parsed<Proposal> {
        match batches.first().and_then(|batch| group_kind(&batch.schema())) {
            Some(kind) => rows::proposals(kind, rule, batches, snapshot, &self.history.lock(), &self.config),
            None => {
                let mut parsed = proposal::proposals(rule, batches, snapshot.explains);
                parsed.items.retain(|item| rule.is_for(&item.key.0, &snapshot.containers));
                parsed
            }
        }
    }
}
