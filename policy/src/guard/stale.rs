//! No data is never read as zero: old data holds a limit, long-old data never shrinks one.

use super::{Context, Verdict};

/// Refuses any change on data older than the rule's `max_age`, and a decrease on data older than `stale_shrink` even when
/// `max_age` is longer.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let Some(age) = context.age else {
        return Verdict::Refuse("there is no usage sample of the last 60 s, so the limit is held".to_owned());
    };
    let max_age = context.options.max_age.as_secs_f64();
    if age > max_age {
        return Verdict::Refuse(format!(
            "the newest usage sample is {age:.1} s old, more than {max_age:.1} s, so the limit is held"
        ));
    }
    let stale_shrink = context.options.stale_shrink.as_secs_f64();
    if age > stale_shrink && context.may_shrink(target) {
        return Verdict::Refuse(format!(
            "the newest usage sample is {age:.1} s old, and data older than {stale_shrink:.1} s never shrinks a limit"
        ));
    }
    Verdict::Pass
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, any_target, context};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn old_data_holds_and_long_old_data_never_shrinks() {
        let aged = |age| Context { age, ..context() };
        assert_eq!(check(0.5, &aged(Some(3.0))), Verdict::Pass);
        assert!(matches!(check(2.0, &aged(Some(3.1))), Verdict::Refuse(_)));
        assert!(matches!(check(2.0, &aged(None)), Verdict::Refuse(_)));
        let mut patient = aged(Some(45.0));
        patient.options.max_age = Duration::from_secs(300);
        assert_eq!(check(2.0, &patient), Verdict::Pass);
        assert!(matches!(check(0.5, &patient), Verdict::Refuse(_)));
    }

    proptest! {
        #[test]
        fn nothing_moves_on_stale_data_and_nothing_shrinks_on_long_stale_data(context in any_context(), target in any_target()) {
            let max_age = context.options.max_age.as_secs_f64();
            let stale = context.age.is_none_or(|age| age > max_age);
            let long_stale = context.age.is_none_or(|age| age > 30.0);
            let passes = check(target, &context) == Verdict::Pass;
            prop_assert_eq!(passes, !(stale || long_stale && context.may_shrink(target)));
        }
    }
}
