//! A container that has just appeared has shown nothing of what it needs.

use super::{Context, Verdict, seconds};

/// Refuses a decrease before there are so many seconds of data: that many samples in the last minute (one a second), or
/// data since that long ago (for sources that push less often).
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let wanted = context.options.warm_up;
    let seen = context.first_data.map_or_else(Default::default, |first| context.now.since(first));
    if !context.may_shrink(target) || context.samples >= wanted.as_secs_f64() || seen >= wanted {
        return Verdict::Pass;
    }
    Verdict::Refuse(format!(
        "there are {:.0} samples of the last 60 s and data since {}; a decrease needs {} of data",
        context.samples,
        seconds(seen),
        seconds(wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, any_target, context};
    use super::*;
    use proptest::prelude::*;
    use tidegate_model::TimeMs;

    #[test]
    fn a_young_container_may_grow_but_not_shrink() {
        let young = Context { samples: 3.0, first_data: Some(TimeMs(997_000)), ..context() };
        assert!(matches!(check(0.5, &young), Verdict::Refuse(_)));
        assert_eq!(check(2.0, &young), Verdict::Pass);
        assert_eq!(check(0.5, &Context { samples: 10.0, ..young.clone() }), Verdict::Pass);
        assert_eq!(check(0.5, &Context { first_data: Some(TimeMs(990_000)), ..young }), Verdict::Pass);
    }

    proptest! {
        #[test]
        fn a_container_that_has_shown_little_never_shrinks(context in any_context(), since in prop::option::of(900_000_i64..1_000_000), target in any_target()) {
            let context = Context { first_data: since.map(TimeMs), ..context };
            let wanted = context.options.warm_up;
            let seen = context.first_data.is_some_and(|first| context.now.since(first) >= wanted);
            let shown = seen || context.samples >= wanted.as_secs_f64();
            prop_assert_eq!(check(target, &context) == Verdict::Pass, shown || !context.may_shrink(target));
        }
    }
}
