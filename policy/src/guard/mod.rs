//! Guards: what stands between a rule's wish and the kernel. Each is a pure function of a target and a [`Context`].
//!
//! The order is fixed, and the same live, in a preview and in a replay:
//! `sane, bounds, stale, warm_up`, then the choice between rules (`priority`, see `arbiter`), then
//! `pending, drift, backoff, cooldown, step, memory_floor, dead_band`, then those that look at many limits at once: [`group`],
//! all of an app's or a user's, and all of a host's ([`host`]): `capacity, shrink_share`, then the rule's mode. What the engine
//! itself puts back, after a regression or without data, passes `sane, bounds, pending, drift, rise, cooldown, group` and
//! `capacity`: it waits for nothing but a write under way. What it puts back after a foreign change may lower a limit, so
//! `stale, memory_floor` and `dead_band` look at that too.

mod backoff;
mod bounds;
mod capacity;
mod cooldown;
mod dead_band;
pub(crate) mod group;
mod hold;
pub(crate) mod host;
mod memory_floor;
mod rise;
mod sane;
mod shrink_share;
mod stale;
mod step;
mod warm_up;

pub(crate) use backoff::wait as backoff_wait;

use std::time::Duration;

use tidegate_model::{GuardAction, GuardReport, OutcomeStatus, Resource, TimeMs};

/// What the guards know about one limit, and the options of the rule that wants to move it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub now: TimeMs,
    pub resource: Resource,
    /// The limit in force, in base units.
    pub limit: Option<f64>,
    /// Seconds since the newest usage sample; `None` without data.
    pub age: Option<f64>,
    /// Usage samples within the last minute.
    pub samples: f64,
    /// Since when there is data without a gap.
    pub first_data: Option<TimeMs>,
    pub usage: Option<f64>,
    pub throttled_last: Option<f64>,
    pub unreclaimable: Option<f64>,
    /// How usage moved within the last minute: base units per second, and base units.
    pub usage_slope: Option<f64>,
    pub usage_stddev: Option<f64>,
    /// The operator's bounds.
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// What the host has.
    pub capacity: Option<f64>,
    /// The last change in either direction, and the last attempt that came to nothing.
    pub last_up: Option<TimeMs>,
    pub last_down: Option<TimeMs>,
    pub last_failed: Option<TimeMs>,
    /// The tick whose write is under way.
    pub pending: Option<TimeMs>,
    /// A foreign value, and until when it is left alone.
    pub foreign: Option<(TimeMs, Option<f64>)>,
    /// Until when the rule does not lower this limit, after how many regressions in a row.
    pub backoff: Option<(TimeMs, u32)>,
    /// Whether what happened before the start could not be read yet.
    pub unknown_past: bool,
    pub options: Tuning,
}

/// The numbers of a rule and of the configuration that guards compare with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub floor: f64,
    pub max_age: Duration,
    pub stale_shrink: Duration,
    pub warm_up: Duration,
    pub min_interval: Duration,
    pub cooldown_up: Duration,
    pub cooldown_down: Duration,
    pub step_up: Option<f64>,
    pub step_down: f64,
    pub dead_band: f64,
}

/// Which way a target lies from the limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
    None,
    /// No limit is known, so it must be treated as the more dangerous one.
    Unknown,
}

impl Context {
    pub fn direction(&self, target: f64) -> Direction {
        match self.limit {
            None => Direction::Unknown,
            Some(limit) if target > limit => Direction::Up,
            Some(limit) if target < limit => Direction::Down,
            Some(_) => Direction::None,
        }
    }

    /// Whether `target` might shrink the limit.
    pub fn may_shrink(&self, target: f64) -> bool {
        matches!(self.direction(target), Direction::Down | Direction::Unknown)
    }

    pub fn show(&self, value: f64) -> String {
        self.resource.display(value)
    }
}

/// What a guard makes of a target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Pass,
    /// Go on with another target, and why.
    Change(f64, String),
    /// Write nothing, and why.
    Refuse(String),
    /// Write nothing because the container would not fit, and why.
    Infeasible(String),
}

/// A guard and its name in decisions.
pub(crate) type Guard = (&'static str, fn(f64, &Context) -> Verdict);

/// The guards before the choice between rules.
pub(crate) const BEFORE_CHOICE: &[Guard] =
    &[("sane", sane::check), ("bounds", bounds::check), ("stale", stale::check), ("warm_up", warm_up::check)];

/// The guards before the choice, for what the engine puts back.
pub(crate) const RESTORE_BEFORE_CHOICE: &[Guard] = &[("sane", sane::check), ("bounds", bounds::check)];

/// The guards behind the choice, for what the engine puts back.
pub(crate) const RESTORE_BEHIND_CHOICE: &[Guard] =
    &[("pending", hold::pending), ("drift", hold::drift), ("rise", rise::check), ("cooldown", cooldown::check)];

/// The guards before the choice, for what is put back after a foreign change: nothing keeps it from lowering, so no data
/// does.
pub(crate) const UNDRIFT_BEFORE_CHOICE: &[Guard] =
    &[("sane", sane::check), ("bounds", bounds::check), ("stale", stale::check)];

/// The guards behind the choice, for what is put back after a foreign change.
pub(crate) const UNDRIFT_BEHIND_CHOICE: &[Guard] = &[
    ("pending", hold::pending),
    ("drift", hold::drift),
    ("cooldown", cooldown::check),
    ("memory_floor", memory_floor::check),
    ("dead_band", dead_band::check),
];

/// The guards behind the choice between rules.
pub(crate) const BEHIND_CHOICE: &[Guard] = &[
    ("pending", hold::pending),
    ("drift", hold::drift),
    ("backoff", backoff::check),
    ("cooldown", cooldown::check),
    ("step", step::check),
    ("memory_floor", memory_floor::check),
    ("dead_band", dead_band::check),
];

/// Runs `guards` in order and notes what they did. The error is the outcome of the proposal when one of them refused it.
pub(crate) fn run(
    guards: &[Guard],
    mut target: f64,
    context: &Context,
    notes: &mut Vec<GuardReport>,
) -> Result<f64, OutcomeStatus> {
    for (name, guard) in guards {
        target = follow(name, guard(target, context), target, notes)?;
    }
    Ok(target)
}

/// The target behind one guard's verdict, which is noted unless it lets the target pass.
pub(crate) fn follow(
    name: &str,
    verdict: Verdict,
    target: f64,
    notes: &mut Vec<GuardReport>,
) -> Result<f64, OutcomeStatus> {
    let before = if target.is_finite() { target } else { 0.0 };
    let mut note = |action, after, why| notes.push(GuardReport { guard: name.to_owned(), action, before, after, why });
    match verdict {
        Verdict::Pass => Ok(target),
        Verdict::Change(after, why) => {
            debug_assert!(after.is_finite() && after >= 0.0, "guard {name} made {after}");
            note(GuardAction::Changed, after, why);
            Ok(after)
        }
        Verdict::Refuse(why) => {
            note(GuardAction::Refused, before, why);
            Err(OutcomeStatus::Refused)
        }
        Verdict::Infeasible(why) => {
            note(GuardAction::Refused, before, why);
            Err(OutcomeStatus::Infeasible)
        }
    }
}

/// `12.0 s`, `1.5 s`: an elapsed time in a guard's sentence.
fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    /// A limit of 1 core with fresh data and nothing in the way.
    pub fn context() -> Context {
        Context {
            now: TimeMs(1_000_000),
            resource: Resource::Cpu,
            limit: Some(1.0),
            age: Some(0.0),
            samples: 60.0,
            first_data: Some(TimeMs(0)),
            usage: Some(0.5),
            throttled_last: Some(0.0),
            unreclaimable: None,
            usage_slope: None,
            usage_stddev: None,
            min: None,
            max: None,
            capacity: Some(8.0),
            last_up: None,
            last_down: None,
            last_failed: None,
            pending: None,
            foreign: None,
            backoff: None,
            unknown_past: false,
            options: Tuning {
                floor: 0.05,
                max_age: Duration::from_secs(3),
                stale_shrink: Duration::from_secs(30),
                warm_up: Duration::from_secs(10),
                min_interval: Duration::from_secs(1),
                cooldown_up: Duration::from_secs(1),
                cooldown_down: Duration::from_secs(60),
                step_up: None,
                step_down: 0.5,
                dead_band: 0.05,
            },
        }
    }

    fn all(target: f64, context: &Context) -> (Option<f64>, Vec<GuardReport>) {
        let mut notes = Vec::new();
        let first = run(BEFORE_CHOICE, target, context, &mut notes);
        (first.and_then(|target| run(BEHIND_CHOICE, target, context, &mut notes)).ok(), notes)
    }

    prop_compose! {
        pub fn any_time()(ago in 0_i64..200_000) -> TimeMs { TimeMs(1_000_000 - ago) }
    }

    prop_compose! {
        pub fn any_context()(
            memory in any::<bool>(),
            limit in option::of(0.01_f64..10.0),
            age in option::of(0.0_f64..100.0),
            samples in 0.0_f64..60.0,
            usage in option::of(0.0_f64..10.0),
            throttled in option::of(0.0_f64..1.0),
            unreclaimable in option::of(0.0_f64..10.0),
            (min, max) in (option::of(0.01_f64..5.0), option::of(0.01_f64..10.0)),
            capacity in option::of(0.1_f64..20.0),
            (up, down, failed, pending) in
                (option::of(any_time()), option::of(any_time()), option::of(any_time()), option::of(any_time())),
            (step_up, step_down, dead_band) in (option::of(0.05_f64..2.0), 0.01_f64..1.0, 0.0_f64..0.2),
            (max_age, cooldown_up, cooldown_down) in (0_u64..120, 0_u64..30, 0_u64..120),
            backoff in option::of((900_000_i64..1_200_000, 1_u32..20)),
        ) -> Context {
            let base = context();
            let options = Tuning {
                max_age: Duration::from_secs(max_age),
                cooldown_up: Duration::from_secs(cooldown_up),
                cooldown_down: Duration::from_secs(cooldown_down),
                step_up, step_down, dead_band,
                ..base.options
            };
            Context {
                resource: if memory { Resource::Memory } else { Resource::Cpu },
                limit, age, samples, first_data: None, usage, throttled_last: throttled, unreclaimable, usage_slope: None, usage_stddev: None, min, max, capacity,
                last_up: up, last_down: down, last_failed: failed,
                // A quarter of the cases has a write under way.
                pending: pending.filter(|at| at.0 % 4 == 0), foreign: None,
                backoff: backoff.map(|(until, level)| (TimeMs(until), level)), options, ..base
            }
        }
    }

    /// Anything that SQL can compute.
    pub fn any_target() -> impl Strategy<Value = f64> {
        prop_oneof![8 => 0.0_f64..12.0, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 1 => -5.0_f64..0.0, 1 => any::<f64>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_passes_is_a_limit_within_bounds_or_between_them_and_the_limit(context in any_context(), target in any_target()) {
            let (decided, _) = all(target, &context);
            if let Some(decided) = decided {
                prop_assert!(decided.is_finite() && decided > 0.0);
                let capacity = context.capacity.unwrap_or(f64::MAX);
                let top = context.max.unwrap_or(f64::MAX).min(capacity).max(context.limit.unwrap_or(0.0));
                prop_assert!(decided <= top * (1.0 + 1e-9), "{decided} above {top}");
                let bottom = context.min.unwrap_or(context.options.floor).min(top).min(context.limit.unwrap_or(f64::MAX));
                prop_assert!(decided >= bottom.min(context.max.unwrap_or(f64::MAX)).min(capacity) * (1.0 - 1e-9));
            }
        }

        #[test]
        fn stale_or_young_data_never_shrinks(context in any_context(), target in any_target()) {
            let stale = context.age.is_none_or(|age| age > 30.0 || age > context.options.max_age.as_secs_f64());
            let young = context.samples < 10.0;
            if let (Some(decided), true) = (all(target, &context).0, stale || young) {
                prop_assert!(context.limit.is_some_and(|limit| decided >= limit));
            }
        }

        #[test]
        fn no_step_is_larger_than_allowed(context in any_context(), target in any_target()) {
            if let (Some(decided), Some(limit)) = (all(target, &context).0, context.limit) {
                prop_assert!(decided >= limit * (1.0 - context.options.step_down) * (1.0 - 1e-9));
                if let Some(step) = context.options.step_up {
                    prop_assert!(decided <= limit * (1.0 + step) * (1.0 + 1e-9));
                }
            }
        }

        #[test]
        fn memory_never_goes_below_what_cannot_be_reclaimed(context in any_context(), target in any_target()) {
            if let (Some(decided), Resource::Memory) = (all(target, &context).0, context.resource) {
                let limit = context.limit.unwrap_or(f64::MAX);
                if decided < limit {
                    prop_assert!(context.unreclaimable.is_some_and(|floor| decided >= floor * 1.10 * (1.0 - 1e-9)));
                }
            }
        }

        #[test]
        fn changes_are_apart(context in any_context(), target in any_target()) {
            if let (Some(decided), Some(limit)) = (all(target, &context).0, context.limit) {
                prop_assert!(context.pending.is_none());
                let last = context.last_up.max(context.last_down);
                let since = last.map_or(Duration::MAX, |last| context.now.since(last));
                prop_assert!(since >= Duration::from_secs(1));
                if decided < limit {
                    prop_assert!(since >= context.options.cooldown_down);
                }
            }
        }

        #[test]
        fn a_rule_that_backs_off_lowers_nothing(context in any_context(), target in any_target()) {
            let waiting = context.backoff.is_some_and(|(until, _)| context.now < until);
            if let (Some(decided), true) = (all(target, &context).0, waiting) {
                prop_assert!(context.limit.is_some_and(|limit| decided >= limit));
            }
        }

        #[test]
        fn what_the_engine_puts_back_never_lowers_and_stays_within_bounds(context in any_context(), target in any_target()) {
            let mut notes = Vec::new();
            let first = run(RESTORE_BEFORE_CHOICE, target, &context, &mut notes);
            if let Ok(decided) = first.and_then(|target| run(RESTORE_BEHIND_CHOICE, target, &context, &mut notes)) {
                prop_assert!(decided.is_finite() && context.limit.is_some_and(|limit| decided > limit));
                let top = context.max.unwrap_or(f64::MAX).min(context.capacity.unwrap_or(f64::MAX));
                prop_assert!(decided <= top * (1.0 + 1e-9), "{decided} above {top}");
                prop_assert!(context.pending.is_none());
            }
        }

        #[test]
        fn the_notes_tell_the_whole_way(context in any_context(), target in any_target()) {
            let (decided, notes) = all(target, &context);
            let mut value = if target.is_finite() { target } else { 0.0 };
            for note in &notes {
                prop_assert_eq!(note.before, value);
                prop_assert!(!note.why.is_empty());
                value = note.after;
            }
            let refused = notes.iter().filter(|note| note.action == GuardAction::Refused).count();
            match decided {
                Some(decided) => prop_assert!(refused == 0 && decided == value),
                None => prop_assert!(refused == 1 && notes.last().is_some_and(|note| note.action == GuardAction::Refused)),
            }
        }
    }
}
