//! The clock by which an agent measures silence and the age of orders.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long this machine has been up, the time that it slept included (`CLOCK_BOOTTIME`, clock_getres(2)). By the clock of
/// [`std::time::Instant`], which stands still meanwhile, an order that came right before a sleep of hours would be fresh
/// after it, and the controller just heard.
pub fn uptime() -> Duration {
    // Every kernel that has cgroups has this clock (2.6.39).
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_uptime_that_the_kernel_tells() {
        let before = uptime();
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let told: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let after = uptime();
        assert!(
            before.as_secs_f64() - 0.02 <= told && told <= after.as_secs_f64() + 0.02,
            "{before:?} {told} {after:?}"
        );
    }
}
