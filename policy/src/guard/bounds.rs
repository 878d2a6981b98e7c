//! The operator's bounds, the host's capacity, and a floor where there are no bounds.

use super::{Context, Verdict};

/// Moves the target between the bounds. The host's capacity outranks the highest bound, which outranks the lowest one.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let (max, max_name) = match (context.max, context.capacity) {
        (Some(max), Some(capacity)) if capacity < max => (capacity, "the host's capacity"),
        (Some(max), _) => (max, "the upper bound"),
        (None, Some(capacity)) => (capacity, "the host's capacity"),
        (None, None) => (f64::INFINITY, ""),
    };
    let (min, min_name) = match context.min {
        Some(min) => (min, "the lower bound"),
        None => (context.options.floor, "the floor for containers without bounds"),
    };
    let tell = |relation: &str, bound: f64, name: &str| {
        format!("{} is {relation} {name} of {}", context.show(target), context.show(bound))
    };
    if target > max {
        Verdict::Change(max, tell("above", max, max_name))
    } else if target < min {
        Verdict::Change(min.min(max), tell("below", min, min_name))
    } else {
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, context};
    use super::*;
    use proptest::prelude::*;

    fn after(target: f64, context: &Context) -> f64 {
        match check(target, context) {
            Verdict::Pass => target,
            Verdict::Change(after, _) => after,
            Verdict::Refuse(why) | Verdict::Infeasible(why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_target_is_moved_to_the_nearest_bound() {
        let bounded = Context { min: Some(0.5), max: Some(2.0), ..context() };
        assert_eq!([0.1, 1.0, 3.0].map(|target| after(target, &bounded)), [0.5, 1.0, 2.0]);
        let Verdict::Change(_, why) = check(3.0, &bounded) else { panic!() };
        assert_eq!(why, "3.00 cores is above the upper bound of 2.00 cores");
    }

    #[test]
    fn the_host_has_the_last_word() {
        let small_host = Context { min: Some(3.0), max: Some(9.0), capacity: Some(2.0), ..context() };
        assert_eq!(after(5.0, &small_host), 2.0);
        assert_eq!(after(1.0, &small_host), 2.0);
    }

    #[test]
    fn without_bounds_the_floor_holds() {
        assert_eq!(after(0.001, &context()), 0.05);
        assert_eq!(after(0.01, &Context { min: Some(0.01), ..context() }), 0.01);
    }

    proptest! {
        #[test]
        fn what_comes_out_is_within_the_bounds(context in any_context(), target in 1e-6_f64..1e6) {
            let after = after(target, &context);
            let top = context.max.unwrap_or(f64::MAX).min(context.capacity.unwrap_or(f64::MAX));
            let bottom = context.min.unwrap_or(context.options.floor).min(top);
            prop_assert!(bottom <= after && after <= top);
            prop_assert!(after == target || after == top || after == bottom, "it is moved no further than it must");
        }
    }
}
