//! Stand-in until the engine counts by itself.
use std::collections::BTreeMap;
use tidegate_policy::Engine;
#[derive(Default)]
pub(crate) struct EngineStats {
    pub(crate) rule_runs: u64,
    pub(crate) rule_errors: u64,
    pub(crate) rule_latency_s_sum: f64,
    pub(crate) decisions: BTreeMap<&'static str, u64>,
    pub(crate) tick_lag_ms: f64,
}
pub(crate) trait Figures {
    fn stats(&self) -> EngineStats;
}
impl Figures for Engine {
    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}
