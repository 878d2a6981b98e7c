//! What the engine puts back by itself only ever goes up.

use super::{Context, Direction, Verdict};

/// Refuses to lower a limit, and to change one that is not known.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    match (context.direction(target), context.limit) {
        (Direction::Up, _) => Verdict::Pass,
        (Direction::Down | Direction::None, Some(limit)) => Verdict::Refuse(format!(
            "the limit stands at {}, which is not below {} any more",
            context.show(limit),
            context.show(target)
        )),
        (_, None) | (Direction::Unknown, _) => Verdict::Refuse("the limit in force is not known".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, any_target, context};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_above_the_limit_passes() {
        assert_eq!(check(1.5, &context()), Verdict::Pass);
        for target in [1.0, 0.5] {
            assert!(matches!(check(target, &context()), Verdict::Refuse(_)));
        }
        assert!(matches!(check(1.5, &Context { limit: None, ..context() }), Verdict::Refuse(_)));
    }

    proptest! {
        #[test]
        fn nothing_that_is_not_an_increase_passes(context in any_context(), target in any_target()) {
            let rises = context.limit.is_some_and(|limit| target > limit);
            prop_assert_eq!(check(target, &context) == Verdict::Pass, rises);
        }
    }
}
