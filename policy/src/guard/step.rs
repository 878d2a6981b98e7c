//! How far a limit may move at once.

use super::{Context, Verdict};

/// Moves the target to at most `step_up` above and `step_down` below the limit in force, both fractions of it.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    let Some(limit) = context.limit else { return Verdict::Pass };
    let lowest = limit * (1.0 - context.options.step_down);
    let highest = context.options.step_up.map_or(f64::INFINITY, |step| limit * (1.0 + step));
    let tell = |direction: &str, step: f64, after: f64| {
        let percent = step * 100.0;
        let (target, limit, after) = (context.show(target), context.show(limit), context.show(after));
        format!("from {limit} to {target} is more than one step {direction} of {percent:.0} %, so {after}")
    };
    if target < lowest {
        Verdict::Change(lowest, tell("down", context.options.step_down, lowest))
    } else if target > highest {
        Verdict::Change(highest, tell("up", context.options.step_up.unwrap_or_default(), highest))
    } else {
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_context, context};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_far_target_is_reached_in_steps() {
        let mut stepped = context();
        stepped.options.step_up = Some(0.5);
        assert!(matches!(check(3.0, &stepped), Verdict::Change(after, _) if after == 1.5));
        let why = "from 1.00 cores to 0.10 cores is more than one step down of 50 %, so 0.50 cores";
        assert_eq!(check(0.1, &stepped), Verdict::Change(0.5, why.to_owned()));
        assert_eq!(check(3.0, &context()), Verdict::Pass);
    }

    proptest! {
        #[test]
        fn never_more_than_one_step(context in any_context(), target in 0.0_f64..20.0) {
            let after = match check(target, &context) {
                Verdict::Pass => target,
                Verdict::Change(after, _) => after,
                Verdict::Refuse(why) | Verdict::Infeasible(why) => panic!("{why}"),
            };
            let Some(limit) = context.limit else { return Ok(()) };
            let options = &context.options;
            prop_assert!(after >= limit * (1.0 - options.step_down));
            prop_assert!(options.step_up.is_none_or(|step| after <= limit * (1.0 + step)));
            prop_assert!(context.direction(after) == context.direction(target), "a step does not turn round");
        }
    }
}
