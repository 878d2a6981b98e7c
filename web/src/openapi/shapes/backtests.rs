//! What a backtest came to, as `tidegate_policy` has it.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::decisions::Resource;

/// What one limit, or all limits of a resource, came to.
#[derive(ToSchema)]
struct Figures {
    /// How long they were measured, in seconds, added up over containers.
    seconds: f64,
    /// Mean share of the limit that was not used, 0 to 1.
    slack: f64,
    /// Used over allocated, as integrals.
    utilisation: f64,
    /// Share of the samples that wanted more than the limit.
    over_limit: f64,
    /// Demand that was not met over all demand, as integrals.
    unmet: f64,
    /// Seconds that were throttled away.
    throttled_s: f64,
    /// Processes that the kernel would have killed for memory.
    oom_kills: u64,
    /// The same per container and day.
    oom_kills_per_day: f64,
    /// Changes of a limit.
    changes: u64,
    /// The same per container and day.
    changes_per_day: f64,
    /// Changes that took back, within five minutes, the direction of the one before.
    flaps: u64,
    /// Mean limit of a container, in cores or bytes.
    mean_limit: f64,
    /// Mean use of a container.
    mean_used: f64,
}

/// What one limit came to.
#[derive(ToSchema)]
struct LimitScore {
    host: String,
    container: String,
    resource: Resource,
    #[serde(flatten)]
    figures: Figures,
}

/// What one rule came to.
#[derive(ToSchema)]
struct RuleScore {
    rule: String,
    /// How often it ran.
    runs: u64,
    /// How often it failed.
    errors: u64,
    last_error: Option<String>,
    /// Mean time of its query, in ms.
    mean_ms: f64,
    /// Rows that proposed a limit.
    proposals: u64,
    /// Proposals that changed a limit.
    applied: u64,
    /// Proposals that were refused, whoever refused them.
    refused: u64,
    /// How often each guard refused or changed one of its proposals.
    guards: BTreeMap<String, u64>,
}

/// All containers together, by resource; one that nothing was measured of is left out.
#[derive(ToSchema)]
struct FiguresByResource {
    #[schema(nullable = false)]
    cpu: Option<Figures>,
    #[schema(nullable = false)]
    memory: Option<Figures>,
}

/// What a replay came to.
#[derive(ToSchema)]
pub(crate) struct BacktestReport {
    /// Its first instant, in ms UTC.
    from: i64,
    /// Its last instant, in ms UTC.
    to: i64,
    /// The distance of its instants, in ms.
    step_ms: u64,
    /// How many there were.
    ticks: u64,
    /// How long it took, in ms.
    took_ms: u64,
    /// How many containers.
    containers: usize,
    resources: FiguresByResource,
    rules: Vec<RuleScore>,
    /// By container and resource.
    limits: Vec<LimitScore>,
    /// What the reader should know: samples that are a lower bound, failures, what was left out.
    problems: Vec<String>,
}
