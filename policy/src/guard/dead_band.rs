//! Changes too small to be worth a write.

use tidegate_model::Resource;

use super::{Context, Direction, Verdict};

/// Usage at this share of the limit counts as saturated.
const SATURATED_USAGE: f64 = 0.97;
/// Throttled in this share of the periods counts as saturated.
const SATURATED_THROTTLED: f64 = 0.10;
/// What arithmetic may lose on the way: a step of 5 % must pass a dead band of 5 %.
const ROUNDING: f64 = 1e-9;

/// Refuses a change by less than `dead_band` of the limit, except an increase for a container that is at its limit.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let Some(limit) = context.limit.filter(|limit| *limit > 0.0) else { return Verdict::Pass };
    let direction = context.direction(target);
    if direction == Direction::None {
        return Verdict::Refuse(format!("the limit stands at {} already", context.show(limit)));
    }
    let change = (target - limit).abs() / limit;
    if change >= context.options.dead_band - ROUNDING || (direction == Direction::Up && saturated(context, limit)) {
        return Verdict::Pass;
    }
    Verdict::Refuse(format!(
        "{} differs from the limit of {} by {:.1} %, less than the dead band of {:.1} %",
        context.show(target),
        context.show(limit),
        change * 100.0,
        context.options.dead_band * 100.0
    ))
}

fn saturated(context: &Context, limit: f64) -> bool {
    let throttled =
        context.resource == Resource::Cpu && context.throttled_last.is_some_and(|t| t > SATURATED_THROTTLED);
    throttled || context.usage.is_some_and(|usage| usage >= SATURATED_USAGE * limit)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, context};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_changes_are_not_written_unless_the_container_is_at_its_limit() {
        assert!(matches!(check(1.04, &context()), Verdict::Refuse(_)));
        assert!(matches!(check(0.96, &context()), Verdict::Refuse(_)));
        assert_eq!(check(1.0 - 0.05, &context()), Verdict::Pass);
        let full = Context { usage: Some(0.98), ..context() };
        assert_eq!(check(1.04, &full), Verdict::Pass);
        assert!(matches!(check(0.96, &full), Verdict::Refuse(_)));
        assert_eq!(check(1.04, &Context { throttled_last: Some(0.2), ..context() }), Verdict::Pass);
    }

    #[test]
    fn the_limit_in_force_is_never_written_again() {
        let why = "the limit stands at 1.00 cores already";
        assert_eq!(check(1.0, &Context { usage: Some(1.0), ..context() }), Verdict::Refuse(why.to_owned()));
    }

    proptest! {
        #[test]
        fn what_passes_is_worth_a_write_and_never_what_stands_already(context in any_context(), target in 0.0_f64..20.0) {
            let passes = check(target, &context) == Verdict::Pass;
            if let (Some(limit), true) = (context.limit, passes) {
                prop_assert!(target != limit);
                let worth = (target - limit).abs() >= (context.options.dead_band - 1e-6) * limit;
                prop_assert!(worth || (target > limit && saturated(&context, limit)));
            }
            prop_assert!(passes || context.limit.is_some());
        }
    }
}
