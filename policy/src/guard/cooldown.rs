//! Time between changes of one limit, whichever rule made them.

use super::{Context, Direction, Verdict, seconds};

/// An increase waits `cooldown_up` after the last increase, a decrease `cooldown_down` after the last change in either
/// direction or the last attempt that came to nothing; and any change waits the engine's least interval. While it is not
/// known what happened before the start, nothing is lowered.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let options = &context.options;
    if context.unknown_past && context.may_shrink(target) {
        let why = "what was decided before the start could not be read yet, and it may have been a moment ago";
        return Verdict::Refuse(why.to_owned());
    }
    let changed = context.last_up.max(context.last_down);
    let (last, wanted, name) = match context.direction(target) {
        Direction::Up => (context.last_up, options.cooldown_up, "cooldown_up"),
        Direction::Down | Direction::Unknown => {
            (changed.max(context.last_failed), options.cooldown_down, "cooldown_down")
        }
        // Nothing would change; the dead band says so.
        Direction::None => return Verdict::Pass,
    };
    let cooling = [(last, wanted, name), (changed, options.min_interval, "the least interval between changes")]
        .into_iter()
        .filter_map(|(last, wanted, name)| Some((context.now.since(last?), wanted, name)))
        .find(|(elapsed, wanted, _)| elapsed < wanted);
    match cooling {
        None => Verdict::Pass,
        Some((elapsed, wanted, name)) => {
            let (elapsed, wanted) = (seconds(elapsed), seconds(wanted));
            Verdict::Refuse(format!("the last change was {elapsed} ago, and {name} is {wanted}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, any_target, context};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tidegate_model::TimeMs;

    #[test]
    fn an_increase_waits_for_increases_and_a_decrease_for_everything() {
        let raised = Context { last_up: Some(TimeMs(970_000)), ..context() };
        assert_eq!(check(2.0, &raised), Verdict::Pass);
        let why = "the last change was 30.0 s ago, and cooldown_down is 60.0 s";
        assert_eq!(check(0.5, &raised), Verdict::Refuse(why.to_owned()));
        let lowered = Context { last_down: Some(TimeMs(999_500)), ..context() };
        assert!(matches!(check(2.0, &lowered), Verdict::Refuse(_)), "the engine's least interval holds for both");
        assert_eq!(check(2.0, &Context { last_down: Some(TimeMs(999_000)), ..context() }), Verdict::Pass);
    }

    #[test]
    fn with_an_unknown_past_nothing_is_lowered() {
        let unknown = Context { unknown_past: true, ..context() };
        assert!(matches!(check(0.5, &unknown), Verdict::Refuse(_)));
        assert_eq!(check(2.0, &unknown), Verdict::Pass);
    }

    #[test]
    fn after_a_failed_attempt_a_decrease_waits_and_an_increase_does_not() {
        let failed = Context { last_failed: Some(TimeMs(999_000)), ..context() };
        assert!(matches!(check(0.5, &failed), Verdict::Refuse(_)));
        assert_eq!(check(2.0, &failed), Verdict::Pass);
    }

    proptest! {
        #[test]
        fn never_twice_within_a_cooldown(context in any_context(), target in any_target()) {
            if context.direction(target) == Direction::None {
                return Ok(()); // whatever was changed before, nothing would be
            }
            let since = |at: Option<TimeMs>| at.map_or(Duration::MAX, |at| context.now.since(at));
            let (up, any) = (since(context.last_up), since(context.last_up.max(context.last_down)));
            let options = &context.options;
            let waits = any < options.min_interval || match context.direction(target) {
                Direction::Up => up < options.cooldown_up,
                Direction::None | Direction::Down | Direction::Unknown => any.min(since(context.last_failed)) < options.cooldown_down,
            };
            prop_assert_eq!(matches!(check(target, &context), Verdict::Refuse(_)), waits);
        }
    }
}
