//! Limit arithmetic: from cores and bytes to what the kernel takes, and when two values are the same.

use std::fs;
use std::sync::OnceLock;

use tidegate_model::Limit;

/// The kernel refuses less with EINVAL.
pub(crate) const MIN_QUOTA_US: u64 = 1_000;
/// The kernel refuses more (`MAX_BW` in kernel/sched/sched.h).
pub(crate) const MAX_QUOTA_US: u64 = (1 << 44) - 1;
/// Two quotas closer than this are the same: runtimes round to a percent of a CPU, and each write refills the quota, so
/// one that changes nothing does harm.
const SAME_SHARE: f64 = 0.01;

/// A percent of a CPU, in cores: what systemd rounds CPU limits to.
pub(crate) const PERCENT: f64 = 0.01;

/// A CFS bandwidth limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuMax {
    /// CPU time per period in µs; `None` is unlimited.
    pub(crate) quota: Option<u64>,
    /// In µs.
    pub(crate) period: u64,
}

impl CpuMax {
    /// The limit in cores.
    pub(crate) fn limit(self) -> Limit {
        self.quota.map_or(Limit::Unlimited, |quota| Limit::At(quota as f64 / self.period.max(1) as f64))
    }
}

/// What has to be written for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It stands there already.
    Unchanged,
    /// Quota in µs or bytes; `None` is unlimited.
    Write(Option<u64>),
}

/// The quota for `target` cores at the period that is in force, or why there is none. Targets below the kernel's least
/// quota get the least; with `whole_percent` they are rounded to the nearest percent of a CPU.
pub(crate) fn plan_cpu(target: f64, now: CpuMax, whole_percent: bool) -> Result<Plan, String> {
    if target == f64::INFINITY {
        return Ok(if now.quota.is_none() { Plan::Unchanged } else { Plan::Write(None) });
    }
    if !(target.is_finite() && target > 0.0) {
        return Err(format!("a limit of {target} cores makes no sense"));
    }
    let target = if whole_percent { (target / PERCENT).round().max(1.0) * PERCENT } else { target };
    let quota = (target * now.period as f64).round() as u64;
    let quota = quota.clamp(MIN_QUOTA_US, MAX_QUOTA_US);
    let same = now.quota.is_some_and(|now| now.abs_diff(quota) as f64 <= SAME_SHARE * now as f64);
    Ok(if same { Plan::Unchanged } else { Plan::Write(Some(quota)) })
}

/// The bytes for `target`, in whole pages as the kernel rounds them, or why there are none.
pub(crate) fn plan_memory(target: f64, now: Limit, page: u64) -> Result<Plan, String> {
    if target == f64::INFINITY {
        return Ok(if now == Limit::Unlimited { Plan::Unchanged } else { Plan::Write(None) });
    }
    if !(target.is_finite() && target >= page as f64) {
        return Err(format!("a limit of {target} bytes makes no sense: the kernel counts in pages of {page} bytes"));
    }
    let bytes = target as u64 / page * page;
    let same = now.value().is_some_and(|now| (now as u64).abs_diff(bytes) <= page);
    Ok(if same { Plan::Unchanged } else { Plan::Write(Some(bytes)) })
}

/// The kernel's page size in bytes.
pub(crate) fn page_size() -> u64 {
    static PAGE: OnceLock<u64> = OnceLock::new();
    // The auxiliary vector is pairs of words; AT_PAGESZ is 6.
    *PAGE.get_or_init(|| {
        let vector = fs::read("/proc/self/auxv").unwrap_or_default();
        let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or(0) as u64;
        let (pairs, half) = (vector.chunks_exact(2 * size_of::<usize>()), size_of::<usize>());
        let found = pairs.map(|pair| (word(&pair[..half]), word(&pair[half..]))).find(|(key, _)| *key == 6);
        found.map_or(4096, |(_, size)| size.max(1))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now(quota: impl Into<Option<u64>>) -> CpuMax {
        CpuMax { quota: quota.into(), period: 100_000 }
    }

    #[test]
    fn quotas_follow_the_period_that_is_in_force() {
        assert_eq!(plan_cpu(0.45, now(None), false), Ok(Plan::Write(Some(45_000))));
        assert_eq!(plan_cpu(0.5, CpuMax { quota: Some(1), period: 20_000 }, false), Ok(Plan::Write(Some(10_000))));
        assert_eq!(plan_cpu(0.000_1, now(50_000), false), Ok(Plan::Write(Some(MIN_QUOTA_US))));
        assert_eq!(plan_cpu(f64::INFINITY, now(50_000), false), Ok(Plan::Write(None)));
        assert_eq!(plan_cpu(f64::INFINITY, now(None), false), Ok(Plan::Unchanged));
    }

    #[test]
    fn one_percent_is_no_change() {
        assert_eq!(plan_cpu(0.504, now(50_000), false), Ok(Plan::Unchanged));
        assert_eq!(plan_cpu(0.506, now(50_000), false), Ok(Plan::Write(Some(50_600))));
        assert_eq!(plan_memory(1e9, Limit::At(1e9), 4096), Ok(Plan::Unchanged));
        assert_eq!(plan_memory(f64::INFINITY, Limit::Unlimited, 4096), Ok(Plan::Unchanged));
    }

    #[test]
    fn under_systemd_a_limit_is_a_whole_percent_of_a_cpu() {
        let plan = |target, quota: u64| plan_cpu(target, now(quota), true);
        assert_eq!(plan(0.453, 100_000), Ok(Plan::Write(Some(45_000))));
        assert_eq!(plan(0.456, 100_000), Ok(Plan::Write(Some(46_000))));
        assert_eq!(plan(0.001, 100_000), Ok(Plan::Write(Some(1_000))));
        assert_eq!(plan(0.453, 45_000), Ok(Plan::Unchanged));
        assert_eq!(plan_cpu(f64::INFINITY, now(45_000), true), Ok(Plan::Write(None)));
    }

    #[test]
    fn bytes_go_down_to_a_page() {
        assert_eq!(plan_memory(10_000_001.0, Limit::Unlimited, 4096), Ok(Plan::Write(Some(9_998_336))));
    }

    #[test]
    fn targets_without_sense_are_refused() {
        for target in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert!(plan_cpu(target, now(None), false).is_err());
            assert!(plan_memory(target, Limit::Unlimited, 4096).is_err());
        }
    }

    #[test]
    fn the_page_size_is_a_power_of_two() {
        assert!(page_size().is_power_of_two() && page_size() >= 4096);
    }

    proptest! {
        #[test]
        fn quotas_are_in_the_kernels_range_and_settle(
            target in prop_oneof![1e-9..1e9f64, 0.01..64.0f64],
            period in 1_000u64..=1_000_000,
            quota in proptest::option::of(MIN_QUOTA_US..=1 << 40),
        ) {
            let Ok(Plan::Write(Some(quota))) = plan_cpu(target, CpuMax { quota, period }, false) else { return Ok(()) };
            prop_assert!((MIN_QUOTA_US..=MAX_QUOTA_US).contains(&quota));
            prop_assert_eq!(plan_cpu(target, CpuMax { quota: Some(quota), period }, false), Ok(Plan::Unchanged));
            // Within half a microsecond of what was asked for, unless the kernel's range is in the way.
            if quota > MIN_QUOTA_US && quota < MAX_QUOTA_US {
                prop_assert!((quota as f64 - target * period as f64).abs() <= 0.5);
            }
        }

        #[test]
        fn bytes_never_exceed_the_target_and_settle(target in 65_536.0..1e15f64, now in proptest::option::of(0u64..1 << 50)) {
            let now = now.map_or(Limit::Unlimited, |now| Limit::At(now as f64));
            let Ok(Plan::Write(Some(bytes))) = plan_memory(target, now, 4096) else { return Ok(()) };
            prop_assert!(bytes as f64 <= target && bytes % 4096 == 0 && target - bytes as f64 <= 4096.0);
            prop_assert_eq!(plan_memory(target, Limit::At(bytes as f64), 4096), Ok(Plan::Unchanged));
        }
    }
}
