//! What people have said of single containers, over what labels and the configuration say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_model::{Bounds, Container, ContainerKey, Resource, TimeMs};

use crate::error::StoreError;
use crate::facts::Facts;
use crate::store::Store;

/// A person's word on one container. It holds until it is taken back, also while the container is away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Which container.
    pub key: ContainerKey,
    /// The lowest and highest limits, instead of those of labels and the configuration. In cores or bytes.
    #[serde(default)]
    pub bounds: BTreeMap<Resource, Bounds>,
    /// The resources, CPU and memory, whose limits and knobs rules leave alone.
    #[serde(default)]
    pub pinned: BTreeSet<Resource>,
    /// What for; may be empty.
    #[serde(default)]
    pub why: String,
    /// Who said so last.
    pub changed_by: String,
    /// When.
    pub changed_at: TimeMs,
}

impl Override {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty() && self.pinned.is_empty()
    }

    /// The container with the bounds that it is to have.
    pub(crate) fn apply(&self, container: &mut Container) {
        container.bounds.extend(&self.bounds);
    }
}

impl Store {
    /// All of them, by container.
    pub fn overrides(&self) -> Arc<BTreeMap<ContainerKey, Override>> {
        Arc::clone(&self.facts.current.read().overrides)
    }

    /// Adds or replaces one; one that says nothing takes it away. On disk before this returns. New bounds hold at once,
    /// those of labels and the configuration are back when the container is next measured.
    ///
    /// # Errors
    /// The disk.
    pub fn put_override(&self, row: Override) -> Result<(), StoreError> {
        self.facts.try_change(self.dir.path(), |facts: &mut Facts| {
            if let Some(container) = Arc::make_mut(&mut facts.containers).get_mut(&row.key) {
                row.apply(container);
            }
            let overrides = Arc::make_mut(&mut facts.overrides);
            match row.is_empty() {
                true => drop(overrides.remove(&row.key)),
                false => drop(overrides.insert(row.key.clone(), row)),
            }
            Ok::<(), StoreError>(())
        })
    }
}
