//! Experiments, as `tidegate_store` has them.

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// A named stretch of time inside an experiment.
#[derive(ToSchema)]
struct Test {
    name: String,
    /// In ms UTC.
    start: i64,
    /// In ms UTC; null while it runs.
    end: Option<i64>,
    /// What it was about.
    info: String,
    /// What tells it from others, such as a size or a variant.
    tags: BTreeMap<String, String>,
}

/// A named stretch of time, with tests inside.
#[derive(ToSchema)]
pub(crate) struct Experiment {
    name: String,
    user: String,
    /// In ms UTC.
    start: i64,
    /// In ms UTC; null while it runs.
    end: Option<i64>,
    /// What it was about.
    info: String,
    /// What tells it from others.
    tags: BTreeMap<String, String>,
    /// In the order of their starts.
    tests: Vec<Test>,
    changed_by: String,
    /// In ms UTC.
    changed_at: i64,
}

/// Experiments.
#[derive(ToSchema)]
pub(crate) struct Experiments {
    /// In ms UTC.
    now: i64,
    /// The newest first.
    experiments: Vec<Experiment>,
}
