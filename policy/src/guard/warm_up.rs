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
    use super::super::tests::context;
    use super::*;
    use tidegate_model::TimeMs;

    #[test]
    fn a_young_container_may_grow_but_not_shrink() {
        let young = Context { samples: 3.0, first_data: Some(TimeMs(997_000)), ..context() };
        assert!(matches!(check(0.5, &young), Verdict::Refuse(_)));
        assert_eq!(check(2.0, &young), Verdict::Pass);
        assert_eq!(check(0.5, &Context { samples: 10.0, ..young.clone() }), Verdict::Pass);
        assert_eq!(check(0.5, &Context { first_data: Some(TimeMs(990_000)), ..young }), Verdict::Pass);
    }
}
