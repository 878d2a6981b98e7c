//! Experiments: stretches of time that people gave a name, and the tests inside them. As in BDWatchdog's timestamping
//! service, so that what was measured can be asked for by what it was measured for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_model::TimeMs;

use crate::error::StoreError;
use crate::store::Store;

/// A named stretch of time inside an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Unlike that of the experiment's other tests.
    pub name: String,
    /// When it began.
    pub start: TimeMs,
    /// When it ended; `None` while it runs.
    pub end: Option<TimeMs>,
    /// What it was about, as a person wrote it.
    #[serde(default)]
    pub info: String,
    /// What tells it from others, such as a size or a variant.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A named stretch of time, with tests inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Unlike that of any other experiment.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// When it began.
    pub start: TimeMs,
    /// When it ended; `None` while it runs.
    pub end: Option<TimeMs>,
    /// What it was about, as a person wrote it.
    #[serde(default)]
    pub info: String,
    /// What tells it from others.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// In the order of their starts.
    #[serde(default)]
    pub tests: Vec<Test>,
    /// Who changed it last.
    pub changed_by: String,
    /// When.
    pub changed_at: TimeMs,
}

impl Store {
    /// All experiments by name.
    pub fn experiments(&self) -> Arc<BTreeMap<String, Experiment>> {
        Arc::clone(&self.facts.current.read().experiments)
    }

    /// Changes experiments, on disk before this returns. Changes come one after the other, and one that fails leaves
    /// everything as it is. Blocks on the disk.
    ///
    /// # Errors
    /// What `change` fails with, or the disk.
    pub fn change_experiments<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Experiment>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.facts.try_change(self.dir.path(), |facts| change(Arc::make_mut(&mut facts.experiments)))
    }
}
