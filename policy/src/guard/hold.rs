//! Limits that are not to be touched now: a write is under way, or somebody else has just written.

use super::{Context, Verdict, seconds};
use crate::history::FOR_GOOD;

/// Refuses while a former change of the same limit is still being written; squeezing memory takes seconds.
pub(super) fn pending(_target: f64, context: &Context) -> Verdict {
    match context.pending {
        None => Verdict::Pass,
        Some(since) => {
            let ago = seconds(context.now.since(since));
            Verdict::Refuse(format!("the change decided {ago} ago is still being written"))
        }
    }
}

/// Refuses while a foreign value is left alone. Afterwards that value is what everything starts from.
pub(super) fn drift(_target: f64, context: &Context) -> Verdict {
    match context.foreign {
        Some((until, found)) if context.now < until => {
            let found = found.map_or_else(|| "unlimited".to_owned(), |found| context.show(found));
            let end = match until {
                FOR_GOOD => "until it is set back or a person says otherwise".to_owned(),
                until => format!("for another {}", seconds(until.since(context.now))),
            };
            Verdict::Refuse(format!("somebody else set the limit to {found}; it is left alone {end}"))
        }
        _ => Verdict::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, any_target, context};
    use super::*;
    use proptest::prelude::*;
    use tidegate_model::TimeMs;

    #[test]
    fn a_limit_that_is_being_written_is_left_alone() {
        let busy = Context { pending: Some(TimeMs(998_000)), ..context() };
        assert_eq!(
            pending(2.0, &busy),
            Verdict::Refuse("the change decided 2.0 s ago is still being written".to_owned())
        );
        assert_eq!(pending(2.0, &context()), Verdict::Pass);
    }

    #[test]
    fn a_foreign_value_is_left_alone_for_its_time() {
        let foreign = |until| Context { foreign: Some((TimeMs(until), Some(0.7))), ..context() };
        assert!(matches!(drift(2.0, &foreign(1_000_001)), Verdict::Refuse(_)));
        assert_eq!(drift(2.0, &foreign(1_000_000)), Verdict::Pass);
        let why = "somebody else set the limit to 0.70 cores; it is left alone until it is set back or a person says otherwise";
        assert_eq!(drift(2.0, &foreign(FOR_GOOD.0)), Verdict::Refuse(why.to_owned()));
    }

    proptest! {
        #[test]
        fn nothing_passes_while_somebody_else_has_the_limit(context in any_context(), until in 900_000_i64..1_100_000, target in any_target()) {
            prop_assert_eq!(pending(target, &context) == Verdict::Pass, context.pending.is_none());
            let foreign = Context { foreign: Some((TimeMs(until), context.limit)), ..context };
            prop_assert_eq!(drift(target, &foreign) == Verdict::Pass, foreign.now >= TimeMs(until));
        }
    }
}
