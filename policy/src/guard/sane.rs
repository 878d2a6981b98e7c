//! Targets that are no limits.

use super::{Context, Verdict};

/// Refuses NaN, infinity, zero and negative targets: a rule that divides by nothing must not starve a container.
pub(super) fn check(target: f64, _context: &Context) -> Verdict {
    if !target.is_finite() {
        return Verdict::Refuse(format!("the rule computed {target}, which is not a finite number"));
    }
    if target <= 0.0 {
        return Verdict::Refuse(format!("the rule computed {target}, and a limit must be above zero"));
    }
    Verdict::Pass
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_target, context};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_limit_is_refused() {
        for target in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 0.0] {
            assert!(matches!(check(target, &context()), Verdict::Refuse(_)), "{target}");
        }
        assert_eq!(check(0.5, &context()), Verdict::Pass);
    }

    proptest! {
        #[test]
        fn only_positive_numbers_pass(target in any_target()) {
            prop_assert_eq!(check(target, &context()) == Verdict::Pass, target.is_finite() && target > 0.0);
        }
    }
}
