//! Every bound and default of the loop, in one place.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{Mode, Resource};

use crate::error::{PolicyError, PolicyErrorKind};
use crate::options::LONGEST_WATCH;

/// Longest cooldown, hold and age: as long as the engine remembers.
const LONGEST_S: u64 = 7 * 24 * 3600;
/// Longest wait of the loop itself.
const LONGEST_WAIT_MS: u64 = 3_600_000;

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
    /// `step_down` for bandwidth to disks of a rule that does not say one, as a fraction of the limit.
    pub step_down_disk: f64,
    /// `step_down` for bandwidth of the network of a rule that does not say one, as a fraction of the limit.
    pub step_down_network: f64,
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
    /// `hold_max` of a rule that does not say one: a limit without data is held so long, then goes back to its baseline. 0
    /// holds it for ever.
    pub hold_max_s: u64,
    /// `watch` of a protect or optimise rule that does not say one: so long a decrease is watched for regression.
    pub watch_s: u64,
    /// Throttling after a decrease, as a share of the periods, above which it counts as a regression. It must be three
    /// times what it was before, too.
    pub watch_throttled: f64,
    /// Pressure after a decrease, as a share of the time, above which it counts as a regression, on top of twice what it
    /// was before.
    pub watch_pressure: f64,
    /// How long a rule whose decrease was taken back does not lower that limit again. Doubles each time.
    pub backoff_s: u64,
    /// The longest that it doubles to.
    pub backoff_max_s: u64,
    /// How far back the circuit breaker looks.
    pub breaker_window_s: u64,
    /// A rule with so many regressions within the window falls back to shadow mode, if `breaker_share` is reached too.
    pub breaker_least: u32,
    /// The share of a rule's decreases within the window that must have been regressions.
    pub breaker_share: f64,
    /// A rule whose decreases were followed by so many OOM kills within the window falls back to shadow mode. 0 counts
    /// them as other regressions.
    pub breaker_oom_kills: u32,
    /// What the CPU limits of a host may add up to by growing, as a multiple of its cores.
    pub capacity_ratio_cpu: f64,
    /// What the memory limits of a host may add up to by growing, as a multiple of its memory.
    pub capacity_ratio_memory: f64,
    /// The share of a host's containers that may be shrunk within a minute. One container may always be.
    pub shrink_share: f64,
    /// Lowest CPU limit, in cores, for containers without a bound of their own.
    pub floor_cpu_cores: f64,
    /// Lowest memory limit for containers without a bound of their own.
    pub floor_memory_bytes: u64,
    /// Lowest limits on reading from and writing to disks, in bytes a second, for containers without bounds of their own.
    pub floor_disk_bytes: u64,
    /// Lowest limits on receiving and sending over the network, in bytes a second, for containers without bounds of their own.
    pub floor_network_bytes: u64,
    /// Most rules.
    pub max_rules: usize,
    /// Changes of one rule whose texts are kept.
    pub max_rule_changes: usize,
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
            step_down_disk: 0.5,
            step_down_network: 0.5,
            dead_band: 0.05,
            max_age_s: 3,
            stale_shrink_s: 30,
            warm_up_s: 10,
            drift_hold_s: 60,
            hold_max_s: 600,
            watch_s: 30,
            watch_throttled: 0.05,
            watch_pressure: 0.005,
            backoff_s: 60,
            backoff_max_s: 3_600,
            breaker_window_s: 600,
            breaker_least: 3,
            breaker_share: 0.2,
            breaker_oom_kills: 1,
            capacity_ratio_cpu: 1.5,
            capacity_ratio_memory: 0.95,
            shrink_share: 0.5,
            floor_cpu_cores: 0.05,
            floor_memory_bytes: 8 << 20,
            floor_disk_bytes: 1 << 20,
            floor_network_bytes: 1 << 17,
            max_rules: 1_000,
            max_rule_changes: 100,
            max_text_bytes: 1 << 20,
            decision_queue: 4_096,
        }
    }
}

impl PolicyConfig {
    /// Checks that every value is one that the guards can hold to.
    ///
    /// # Errors
    /// The first key that is out of range, with the range.
    pub fn check(&self) -> Result<(), PolicyError> {
        let wrong = |key: &str, value: &dyn std::fmt::Display, range: String| {
            let message = format!("policy.{key} = {value} is out of range: expected {range}");
            Err(PolicyError::new(PolicyErrorKind::Option, message))
        };
        let steps = [
            ("step_down_cpu", self.step_down_cpu),
            ("step_down_memory", self.step_down_memory),
            ("step_down_disk", self.step_down_disk),
            ("step_down_network", self.step_down_network),
        ];
        for (key, value) in steps {
            if !(value > 0.0 && value <= 1.0) {
                return wrong(key, &value, "a fraction of the limit above 0 and up to 1".to_owned());
            }
        }
        if !(0.0..1.0).contains(&self.dead_band) {
            return wrong("dead_band", &self.dead_band, "a fraction of the limit from 0 to below 1".to_owned());
        }
        if !(self.floor_cpu_cores > 0.0 && self.floor_cpu_cores.is_finite()) {
            return wrong("floor_cpu_cores", &self.floor_cpu_cores, "a number of cores above 0".to_owned());
        }
        for (key, value) in [("watch_throttled", self.watch_throttled), ("watch_pressure", self.watch_pressure)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(key, &value, "a share from 0 to 1".to_owned());
            }
        }
        for (key, value) in [("breaker_share", self.breaker_share), ("shrink_share", self.shrink_share)] {
            if !(value > 0.0 && value <= 1.0) {
                return wrong(key, &value, "a share above 0 and up to 1".to_owned());
            }
        }
        let ratios =
            [("capacity_ratio_cpu", self.capacity_ratio_cpu), ("capacity_ratio_memory", self.capacity_ratio_memory)];
        for (key, value) in ratios {
            if !(value > 0.0 && value <= 1_000.0) {
                return wrong(key, &value, "a multiple of the host's capacity above 0 and up to 1000".to_owned());
            }
        }
        if (1..60).contains(&self.hold_max_s) {
            return wrong("hold_max_s", &self.hold_max_s, "0 or at least 60".to_owned());
        }
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let ranges = [
            ("tick_delay_ms", self.tick_delay_ms, 0, LONGEST_WAIT_MS),
            ("gather_ms", self.gather_ms, 0, LONGEST_WAIT_MS),
            ("rule_timeout_ms", self.rule_timeout_ms, 1, LONGEST_WAIT_MS),
            ("rule_memory_bytes", count(self.rule_memory_bytes), 1, u64::MAX),
            ("rule_max_rows", count(self.rule_max_rows), 1, u64::MAX),
            ("min_change_interval_ms", self.min_change_interval_ms, 0, LONGEST_S * 1_000),
            ("cooldown_up_s", self.cooldown_up_s, 0, LONGEST_S),
            ("cooldown_down_s", self.cooldown_down_s, 0, LONGEST_S),
            ("max_age_s", self.max_age_s, 0, LONGEST_S),
            ("stale_shrink_s", self.stale_shrink_s, 0, LONGEST_S),
            ("warm_up_s", self.warm_up_s, 0, LONGEST_S),
            ("drift_hold_s", self.drift_hold_s, 0, LONGEST_S),
            ("hold_max_s", self.hold_max_s, 0, LONGEST_S),
            ("watch_s", self.watch_s, 0, LONGEST_WATCH.as_secs()),
            ("backoff_s", self.backoff_s, 1, LONGEST_S),
            ("backoff_max_s", self.backoff_max_s, self.backoff_s, LONGEST_S),
            ("breaker_window_s", self.breaker_window_s, 1, LONGEST_S),
            ("breaker_least", self.breaker_least.into(), 1, u32::MAX.into()),
            ("floor_memory_bytes", self.floor_memory_bytes, 1, u64::MAX),
            ("floor_disk_bytes", self.floor_disk_bytes, 1, u64::MAX),
            ("floor_network_bytes", self.floor_network_bytes, 1, u64::MAX),
            ("max_rule_changes", count(self.max_rule_changes), 1, u64::MAX),
            ("max_text_bytes", count(self.max_text_bytes), 1, u64::MAX),
        ];
        for (key, value, least, most) in ranges {
            if value < least {
                return wrong(key, &value, format!("at least {least}"));
            }
            if value > most {
                return wrong(key, &value, format!("{least} to {most}"));
            }
        }
        Ok(())
    }

    pub(crate) fn tick_delay(&self) -> Duration {
        Duration::from_millis(self.tick_delay_ms)
    }

    pub(crate) fn gather(&self) -> Duration {
        Duration::from_millis(self.gather_ms)
    }

    pub(crate) fn rule_timeout(&self) -> Duration {
        Duration::from_millis(self.rule_timeout_ms)
    }

    pub(crate) fn min_change_interval(&self) -> Duration {
        Duration::from_millis(self.min_change_interval_ms)
    }

    pub(crate) fn drift_hold(&self) -> Duration {
        Duration::from_secs(self.drift_hold_s)
    }

    /// The lowest limit for containers without a bound, in the resource's base unit.
    pub(crate) fn floor(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => self.floor_cpu_cores,
            Resource::CpuWeight => 1.0,
            Resource::DiskRead | Resource::DiskWrite => self.floor_disk_bytes as f64,
            Resource::NetReceive | Resource::NetSend => self.floor_network_bytes as f64,
            Resource::Memory | Resource::MemoryHigh => self.floor_memory_bytes as f64,
        }
    }

    /// What the limits of a host may add up to, as a multiple of what it has. What it has of rates nobody knows.
    pub(crate) fn capacity_ratio(&self, resource: Resource) -> f64 {
        if resource.of() == Resource::Cpu { self.capacity_ratio_cpu } else { self.capacity_ratio_memory }
    }

    pub(crate) fn steps_down(&self) -> StepsDown {
        StepsDown {
            cpu: self.step_down_cpu,
            memory: self.step_down_memory,
            disk: self.step_down_disk,
            network: self.step_down_network,
        }
    }
}

/// The largest decrease at once of a rule that does not say one, as fractions of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepsDown {
    cpu: f64,
    memory: f64,
    disk: f64,
    network: f64,
}

impl StepsDown {
    pub fn of(self, resource: Resource) -> f64 {
        match resource.of() {
            Resource::Cpu | Resource::CpuWeight => self.cpu,
            Resource::DiskRead | Resource::DiskWrite => self.disk,
            Resource::NetReceive | Resource::NetSend => self.network,
            Resource::Memory | Resource::MemoryHigh => self.memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let config = PolicyConfig::default;
        assert_eq!(config().check(), Ok(()));
        let message = |config: PolicyConfig| config.check().unwrap_err().message;
        assert_eq!(
            message(PolicyConfig { step_down_memory: 5.0, ..config() }),
            "policy.step_down_memory = 5 is out of range: expected a fraction of the limit above 0 and up to 1"
        );
        assert!(message(PolicyConfig { dead_band: -0.1, ..config() }).contains("policy.dead_band = -0.1"));
        assert!(message(PolicyConfig { dead_band: f64::NAN, ..config() }).contains("from 0 to below 1"));
        assert!(message(PolicyConfig { floor_cpu_cores: 0.0, ..config() }).contains("above 0"));
        assert!(message(PolicyConfig { shrink_share: 0.0, ..config() }).contains("above 0 and up to 1"));
        assert!(message(PolicyConfig { capacity_ratio_cpu: f64::NAN, ..config() }).contains("up to 1000"));
        assert!(message(PolicyConfig { hold_max_s: 5, ..config() }).contains("0 or at least 60"));
        assert!(message(PolicyConfig { backoff_max_s: 1, ..config() }).contains("at least 60"));
        assert!(message(PolicyConfig { rule_timeout_ms: 0, ..config() }).contains("at least 1"));
        assert!(message(PolicyConfig { cooldown_up_s: 604_801, ..config() }).contains("0 to 604800"));
    }
}
