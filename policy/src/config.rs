//! Every bound and default of the loop, in one place.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{Mode, Resource};

/// The `[policy]` section of the configuration. Times are in the unit that the name ends with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// How long after an instant its tick begins, so that samples stamped with the instant are in the store.
    pub tick_delay_ms: u64,
    /// How long after its begin a tick waits for its rules before it arbitrates those that have answered; later answers
    /// are arbitrated as they come.
    pub gather_ms: u64,
    /// Longest run of one rule's query.
    pub rule_timeout_ms: u64,
    /// Most memory of one rule's query.
    pub rule_memory_bytes: usize,
    /// Most rows that a rule may return at one tick.
    pub rule_max_rows: usize,
    /// Mode of a new rule that does not say one.
    pub default_mode: Mode,
    /// Least time between two changes of one limit, whatever a rule says. A second by default: each write of a CPU quota
    /// refills the group's budget, so frequent writes defeat the quota.
    pub min_change_interval_ms: u64,
    /// `cooldown_up` of a rule that does not say one.
    pub cooldown_up_s: u64,
    /// `cooldown_down` of a rule that does not say one.
    pub cooldown_down_s: u64,
    /// `step_down` for CPU of a rule that does not say one, as a fraction of the limit.
    pub step_down_cpu: f64,
    /// `step_down` for memory of a rule that does not say one, as a fraction of the limit.
    pub step_down_memory: f64,
    /// `dead_band` of a rule that does not say one, as a fraction of the limit.
    pub dead_band: f64,
    /// `max_age` of a rule that does not say one: a limit is held while the newest usage sample is older.
    pub max_age_s: u64,
    /// Usage older than this never shrinks a limit, whatever `max_age` a rule has.
    pub stale_shrink_s: u64,
    /// No decrease before a container has shown this much data: so many samples in the last minute, or first seen so long
    /// ago. Small, so that a new container is not held for minutes; raise it where containers start slowly.
    pub warm_up_s: u64,
    /// How long a limit that somebody else changed is left alone.
    pub drift_hold_s: u64,
    /// Lowest CPU limit, in cores, for containers without a bound of their own.
    pub floor_cpu_cores: f64,
    /// Lowest memory limit for containers without a bound of their own.
    pub floor_memory_bytes: u64,
    /// Most rules.
    pub max_rules: usize,
    /// Longest submitted text.
    pub max_text_bytes: usize,
    /// Decisions that a slow receiver of [`crate::Engine::decisions`] may lag behind before it loses the oldest.
    pub decision_queue: usize,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            tick_delay_ms: 100,
            gather_ms: 250,
            rule_timeout_ms: 5_000,
            rule_memory_bytes: 64 << 20,
            rule_max_rows: 10_000,
            default_mode: Mode::Shadow,
            min_change_interval_ms: 1_000,
            cooldown_up_s: 1,
            cooldown_down_s: 60,
            step_down_cpu: 0.5,
            step_down_memory: 0.1,
            dead_band: 0.05,
            max_age_s: 3,
            stale_shrink_s: 30,
            warm_up_s: 10,
            drift_hold_s: 60,
            floor_cpu_cores: 0.05,
            floor_memory_bytes: 8 << 20,
            max_rules: 1_000,
            max_text_bytes: 1 << 20,
            decision_queue: 4_096,
        }
    }
}

impl PolicyConfig {
    pub(crate) fn tick_delay(&self) -> Duration {
        Duration::from_millis(self.tick_delay_ms)
    }

    pub(crate) fn gather(&self) -> Duration {
        Duration::from_millis(self.gather_ms)
    }

    pub(crate) fn rule_timeout(&self) -> Duration {
        Duration::from_millis(self.rule_timeout_ms)
    }

    pub(crate) fn drift_hold(&self) -> Duration {
        Duration::from_secs(self.drift_hold_s)
    }

    /// The lowest limit for containers without a bound, in the resource's base unit.
    pub(crate) fn floor(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => self.floor_cpu_cores,
            Resource::Memory => self.floor_memory_bytes as f64,
        }
    }

    pub(crate) fn step_down(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => self.step_down_cpu,
            Resource::Memory => self.step_down_memory,
        }
    }
}
