//! Memory that cannot be reclaimed must stay under the limit, or the kernel kills.

use tidegate_model::Resource;

use super::{Context, Verdict};

/// Headroom above what cannot be reclaimed. Below 1.02 a group without swap is stuck in reclaim at its limit (found for
/// `memory.high` with Kubernetes' memory QoS); the rest is for what a process takes between two samples.
const HEADROOM: f64 = 1.10;
/// How many seconds of growth at the pace of the last minute must fit: what rules that raise need to notice, several times.
const GROWTH_S: f64 = 30.0;
/// How many standard deviations of the last minute's usage must fit. A steady growth over a whole minute has a range of
/// sqrt(12) of them; a growth that began just now shows here before it shows in the slope.
const SPREAD: f64 = 2.0;

/// Keeps a decrease of memory above what the kernel cannot reclaim and what the container is about to take; refuses it when
/// that is unknown, and calls it infeasible when that is not below the limit.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    if context.resource.of() != Resource::Memory || !context.may_shrink(target) {
        return Verdict::Pass;
    }
    let Some(unreclaimable) = context.unreclaimable else {
        return Verdict::Refuse(
            "how much memory cannot be reclaimed is unknown, so the limit is not lowered".to_owned(),
        );
    };
    // Growth beyond memory.high is slowed down, not killed.
    let growth = if context.resource.is_knob() { 0.0 } else { growth(context) };
    let floor = HEADROOM * unreclaimable + growth;
    if target >= floor {
        return Verdict::Pass;
    }
    let held = format!("{} cannot be reclaimed", context.show(unreclaimable));
    let held = if growth > 0.0 { format!("{held} and usage moves by {}", context.show(growth)) } else { held };
    // What is left to lower must be worth a change, or the dead band would refuse it in its own name.
    let worth = 1.0 - context.options.dead_band;
    match context.limit {
        Some(limit) if floor < limit * worth => {
            Verdict::Change(floor, format!("{held}, so not below {}", context.show(floor)))
        }
        _ => Verdict::Infeasible(format!("{held}, which leaves nothing to lower")),
    }
}

/// What the container is about to take.
fn growth(context: &Context) -> f64 {
    (GROWTH_S * context.usage_slope.unwrap_or(0.0)).max(SPREAD * context.usage_stddev.unwrap_or(0.0)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, context};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_stays_above_what_cannot_be_reclaimed() {
        let memory =
            |unreclaimable| Context { resource: Resource::Memory, limit: Some(1e9), unreclaimable, ..context() };
        assert_eq!(check(6e8, &memory(Some(5e8))), Verdict::Pass);
        assert!(matches!(check(3e8, &memory(Some(5e8))), Verdict::Change(after, _) if after == 5e8 * 1.10));
        assert!(matches!(check(3e8, &memory(Some(9.9e8))), Verdict::Infeasible(_)));
        assert!(matches!(check(3e8, &memory(None)), Verdict::Refuse(_)));
        assert_eq!(check(2e9, &memory(None)), Verdict::Pass);
    }

    #[test]
    fn what_a_growing_process_is_about_to_take_is_left_to_it() {
        let growing = |slope, stddev| Context {
            resource: Resource::Memory,
            limit: Some(1e9),
            unreclaimable: Some(1e8),
            usage_slope: Some(slope),
            usage_stddev: Some(stddev),
            ..context()
        };
        for (slope, stddev, floor) in [(5e6, 0.0, 2.6e8), (0.0, 4e7, 1.9e8), (-5e6, 0.0, 1.1e8)] {
            let verdict = check(1e8, &growing(slope, stddev));
            assert!(matches!(verdict, Verdict::Change(after, _) if (after - floor).abs() < 1.0), "{verdict:?}");
        }
        assert!(matches!(check(9e8, &growing(5e7, 0.0)), Verdict::Infeasible(_)));
    }

    proptest! {
        #[test]
        fn memory_never_goes_below_what_is_held(context in any_context(), slope in -1.0_f64..1.0, stddev in 0.0_f64..1.0, target in 0.01_f64..12.0) {
            let context = Context { usage_slope: Some(slope), usage_stddev: Some(stddev), ..context };
            let after = match check(target, &context) {
                Verdict::Pass => target,
                Verdict::Change(after, _) => after,
                Verdict::Refuse(_) | Verdict::Infeasible(_) => return Ok(()),
            };
            prop_assert!(after >= target && after.is_finite());
            if context.resource == Resource::Memory && context.may_shrink(after) {
                prop_assert!(context.unreclaimable.is_some_and(|held| after >= HEADROOM * held));
            }
        }
    }
}
