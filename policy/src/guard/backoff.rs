//! A rule whose decrease was taken back keeps its hands off that limit for a while.

use std::time::Duration;

use super::{Context, Verdict, seconds};

/// Refuses a decrease by a rule whose former ones led to regressions, until its time is over. Increases pass.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    match context.backoff {
        Some((until, level)) if context.now < until && context.may_shrink(target) => Verdict::Refuse(format!(
            "what this rule had taken away was needed, {}; it does not lower the limit for another {}",
            if level > 1 { format!("{level} times over") } else { "so it was taken back".to_owned() },
            seconds(until.since(context.now))
        )),
        _ => Verdict::Pass,
    }
}

/// How long the rule waits after its `level`th regression in a row: `first`, then twice as long each time up to `most`.
pub(crate) fn wait(level: u32, first: Duration, most: Duration) -> Duration {
    let doublings = level.saturating_sub(1).min(30);
    first.saturating_mul(1 << doublings).min(most.max(first))
}

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::*;
    use proptest::prelude::*;
    use tidegate_model::TimeMs;

    #[test]
    fn decreases_wait_and_increases_do_not() {
        let backed_off = Context { backoff: Some((TimeMs(1_030_000), 2)), ..context() };
        let why =
            "what this rule had taken away was needed, 2 times over; it does not lower the limit for another 30.0 s";
        assert_eq!(check(0.5, &backed_off), Verdict::Refuse(why.to_owned()));
        assert_eq!(check(2.0, &backed_off), Verdict::Pass);
        assert_eq!(check(0.5, &Context { backoff: Some((TimeMs(1_000_000), 2)), ..context() }), Verdict::Pass);
    }

    #[test]
    fn each_regression_doubles_the_wait() {
        let wait = |level| wait(level, Duration::from_secs(60), Duration::from_secs(3_600)).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 60].map(wait), [60, 120, 240, 1_920, 3_600, 3_600]);
    }

    proptest! {
        #[test]
        fn a_wait_never_shrinks_with_the_level_and_never_exceeds_its_bound(level in any::<u32>(), first in 1_u64..100_000, most in 1_u64..100_000) {
            let (first, most) = (Duration::from_secs(first), Duration::from_secs(most));
            let now = wait(level, first, most);
            prop_assert!(now >= first && now <= first.max(most));
            prop_assert!(wait(level.saturating_add(1), first, most) >= now);
        }
    }
}
