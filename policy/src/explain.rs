//! A decision as one sentence that a person understands.

use serde::Serialize;
use tidegate_model::{Decision, GuardAction, GuardReport, Mode, OutcomeStatus, Resource};

/// Name of the rule in decisions that record a foreign change.
pub(crate) const OUTSIDE: &str = "(outside)";

/// Name of the rule in decisions that put back what a decrease should not have taken.
pub(crate) const WATCH: &str = "(watch)";
/// Name of the rule in decisions that put back a baseline, since nothing is known of a container any more.
pub(crate) const HOLD: &str = "(hold)";
/// Name of the rule in decisions that put back a knob whose rule does not act any more.
pub(crate) const RETURN: &str = "(return)";
/// Name of the rule in decisions that put back what somebody else had changed.
pub(crate) const DRIFT: &str = "(drift)";
/// Name of the rule in decisions that a person took by hand.
pub(crate) const PERSON: &str = "(person)";
/// Name of the rule in decisions of the kill switch.
pub(crate) const FREEZE: &str = "(freeze)";
/// Name of the rule in decisions that an agent took by itself, or whose outcome it told late.
pub(crate) const AGENT: &str = "(agent)";
/// Who changed a rule, when the circuit breaker did.
pub(crate) const BREAKER: &str = "(breaker)";

/// A decision explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The decision as one sentence.
    pub sentence: String,
    /// The rule's statement as it was at the time; `None` when that is not known any more.
    pub rule_sql: Option<String>,
}

/// Says in one sentence what was decided, why, what the guards did, and what came of it.
pub fn explain_sentence(decision: &Decision) -> String {
    let limit = limit_of(decision);
    let message = decision.outcome.message.trim().trim_end_matches('.');
    let rule = match decision.rule.as_str() {
        WATCH => "the watch over decreases".to_owned(),
        HOLD => "the engine's own hold".to_owned(),
        RETURN => "the engine's way back for knobs".to_owned(),
        DRIFT => "the engine's answer to a foreign change".to_owned(),
        PERSON => "a person's word".to_owned(),
        FREEZE => "the kill switch".to_owned(),
        AGENT => "the host's agent".to_owned(),
        rule => format!("rule {rule} v{}", decision.version),
    };
    let because = because(&decision.reason);
    let moved = moves(decision);
    let change = change(decision);
    match decision.outcome.status {
        OutcomeStatus::Applied => {
            let verb = verb(decision, ["Raised", "Lowered", "Set"]);
            let after = shown(decision.resource, decision.outcome.limit_after);
            let took = took(decision.outcome.took_us);
            // The actuator's words on a plain success repeat the sentence.
            let remark = if message.is_empty() || reached(decision) { String::new() } else { format!("; {message}") };
            format!(
                "{verb} the {limit} {change}{because} ({rule}){moved}; written and read back as {after}{took}{remark}."
            )
        }
        OutcomeStatus::Shadow => {
            let verb = verb(decision, ["raised", "lowered", "set"]);
            let mode = match decision.mode {
                Mode::Canary(percent) => {
                    format!("in canary mode, which has {percent} % of the containers without this one")
                }
                Mode::On => "for a container that is only measured".to_owned(),
                _ => "in shadow mode".to_owned(),
            };
            format!("Would have {verb} the {limit} {change}{because} ({rule} {mode}){moved}; nothing was written.")
        }
        OutcomeStatus::Unchanged => {
            let stands = shown(decision.resource, decision.outcome.limit_after.or(decision.limit_before));
            format!("Left the {limit} at {stands}, where it stands already{because} ({rule}){moved}.")
        }
        OutcomeStatus::Refused => {
            let proposed = shown_target(decision);
            let kept = shown(decision.resource, decision.limit_before);
            match decision.guards.iter().find(|note| note.action == GuardAction::Refused) {
                Some(GuardReport { guard, why, .. }) => {
                    format!(
                        "Kept the {limit} at {kept}: {rule} wanted {proposed}{because}{moved}, but the {guard} guard refused: {why}."
                    )
                }
                None => format!(
                    "Kept the {limit} at {kept}: {rule} wanted {proposed}{because}{moved}, but it was not written: {message}."
                ),
            }
        }
        OutcomeStatus::Infeasible => {
            let stands = shown(decision.resource, decision.outcome.limit_after.or(decision.limit_before));
            format!("Could not set the {limit} {change}{because} ({rule}){moved}: {message}; it stands at {stands}.")
        }
        OutcomeStatus::Drifted if decision.rule == OUTSIDE => format!("Somebody else changed the {limit}: {message}."),
        OutcomeStatus::Drifted => {
            let found = shown(decision.resource, decision.outcome.limit_after);
            format!(
                "Did not set the {limit} {change}{because} ({rule}){moved}: somebody else has set it to {found}; {message}."
            )
        }
        OutcomeStatus::RolledBack => {
            let stands = shown(decision.resource, decision.outcome.limit_after);
            format!("Set the {limit} {change}{because} ({rule}){moved}, then put it back to {stands}: {message}.")
        }
        OutcomeStatus::Failed => {
            format!("Failed to set the {limit} {change}{because} ({rule}){moved}: {message}.")
        }
    }
}

fn limit_of(decision: &Decision) -> String {
    let resource = match decision.resource {
        Resource::Cpu => "CPU limit",
        Resource::Memory => "memory limit",
        Resource::DiskRead => "limit on reading from disks",
        Resource::DiskWrite => "limit on writing to disks",
        Resource::NetReceive => "limit on receiving over the network",
        Resource::NetSend => "limit on sending over the network",
        knob @ (Resource::CpuWeight | Resource::MemoryHigh) => knob.as_str(),
    };
    format!("{resource} of {} on {}", decision.container.name, decision.container.host)
}

fn because(reason: &str) -> String {
    let reason = reason.trim().trim_end_matches('.');
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// What the guards made of the target on the way.
fn moves(decision: &Decision) -> String {
    let moved = decision.guards.iter().filter(|note| note.action == GuardAction::Changed).map(|note| {
        let (from, to) = pair(decision.resource, note.before, note.after);
        format!("; the {} guard moved the target from {from} to {to}", note.guard)
    });
    moved.collect()
}

fn verb<'a>(decision: &Decision, [up, down, unknown]: [&'a str; 3]) -> &'a str {
    match (decision.limit_before, decision.decided) {
        (Some(before), Some(after)) if after > before => up,
        (Some(before), Some(after)) if after < before => down,
        _ => unknown,
    }
}

/// `from 0.30 to 0.45 cores`, or `to 0.45 cores` when the limit before is unknown.
fn change(decision: &Decision) -> String {
    let decided = decision.decided.unwrap_or(decision.proposed);
    match decision.limit_before {
        Some(before) => {
            let (from, to) = pair(decision.resource, before, decided);
            format!("from {from} to {to}")
        }
        None => format!("to {}", decision.resource.display(decided)),
    }
}

/// Two values of one resource. CPU's unit stands once, and small differences get a third digit.
fn pair(resource: Resource, from: f64, to: f64) -> (String, String) {
    match resource {
        Resource::Cpu if format!("{from:.2}") == format!("{to:.2}") => (format!("{from:.3}"), format!("{to:.3} cores")),
        Resource::Cpu => (format!("{from:.2}"), format!("{to:.2} cores")),
        Resource::CpuWeight => (format!("{from:.0}"), format!("{to:.0}")),
        // With the unit at each: it may be another.
        _ => (resource.display(from), resource.display(to)),
    }
}

fn shown(resource: Resource, value: Option<f64>) -> String {
    value.map_or_else(|| "an unknown value".to_owned(), |value| resource.display(value))
}

fn shown_target(decision: &Decision) -> String {
    let insane = decision.guards.iter().any(|note| note.guard == "sane");
    if insane { "something impossible".to_owned() } else { decision.resource.display(decision.proposed) }
}

/// Whether what was read back is what was decided, but for the kernel's rounding.
fn reached(decision: &Decision) -> bool {
    let (decided, after) = (decision.decided, decision.outcome.limit_after);
    matches!((decided, after), (Some(decided), Some(after)) if (decided - after).abs() <= 0.01 * decided)
}

/// ` in 0.4 ms`; nothing for an actuator without a kernel, which takes no time.
fn took(microseconds: u64) -> String {
    match microseconds {
        0 => String::new(),
        1..100 => format!(" in {microseconds} µs"),
        100..1_000_000 => format!(" in {:.1} ms", microseconds as f64 / 1e3),
        _ => format!(" in {:.1} s", microseconds as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::{ContainerKey, Outcome, TimeMs};

    fn decision(status: OutcomeStatus) -> Decision {
        Decision {
            id: "1".to_owned(),
            time: TimeMs(0),
            rule: "cpu_up".to_owned(),
            version: 2,
            container: ContainerKey { host: "node0".to_owned(), name: "web-7".to_owned() },
            resource: Resource::Cpu,
            limit_before: Some(0.3),
            proposed: 0.62,
            decided: Some(0.45),
            guards: vec![GuardReport {
                guard: "bounds".to_owned(),
                action: GuardAction::Changed,
                before: 0.62,
                after: 0.45,
                why: "0.62 cores is above the upper bound of 0.45 cores".to_owned(),
            }],
            reason: "it was throttled in 80 % of the periods".to_owned(),
            mode: Mode::On,
            inputs: serde_json::Value::Null,
            outcome: Outcome {
                status,
                limit_after: Some(0.45),
                writes: vec![],
                message: String::new(),
                at: TimeMs(0),
                took_us: 400,
            },
        }
    }

    #[test]
    fn an_applied_decision_tells_why_how_and_what_was_read_back() {
        let expected = "Raised the CPU limit of web-7 on node0 from 0.30 to 0.45 cores because it was throttled in 80 % of the \
            periods (rule cpu_up v2); the bounds guard moved the target from 0.62 to 0.45 cores; written and read back as \
            0.45 cores in 0.4 ms.";
        assert_eq!(explain_sentence(&decision(OutcomeStatus::Applied)), expected);
    }

    #[test]
    fn a_refused_decision_tells_which_guard_refused_it() {
        let mut refused = decision(OutcomeStatus::Refused);
        refused.decided = None;
        refused.guards[0].action = GuardAction::Refused;
        refused.guards[0].guard = "cooldown".to_owned();
        refused.guards[0].why = "the last change was 0.5 s ago, and cooldown_up is 1.0 s".to_owned();
        let expected = "Kept the CPU limit of web-7 on node0 at 0.30 cores: rule cpu_up v2 wanted 0.62 cores because \
            it was throttled in 80 % of the periods, but the cooldown guard refused: the last change was 0.5 s ago, and cooldown_up \
            is 1.0 s.";
        assert_eq!(explain_sentence(&refused), expected);
    }

    #[test]
    fn a_canary_and_the_engines_own_changes_are_told_as_such() {
        let mut shadow = decision(OutcomeStatus::Shadow);
        shadow.mode = Mode::Canary(10);
        let sentence = explain_sentence(&shadow);
        assert!(sentence.contains("in canary mode, which has 10 % of the containers without this one"), "{sentence}");
        let watch = Decision { rule: WATCH.to_owned(), version: 0, ..decision(OutcomeStatus::Applied) };
        let sentence = explain_sentence(&watch);
        assert!(sentence.contains("(the watch over decreases)"), "{sentence}");
    }

    #[test]
    fn every_outcome_makes_a_sentence_about_the_container() {
        use OutcomeStatus::*;
        for status in [Applied, Unchanged, Refused, Infeasible, Drifted, RolledBack, Shadow, Failed] {
            for limit_before in [Some(0.3), None] {
                let mut any = decision(status);
                any.limit_before = limit_before;
                any.outcome.message = "usage is 0.5 cores.".to_owned();
                let sentence = explain_sentence(&any);
                assert!(sentence.contains("web-7 on node0") && sentence.ends_with('.'), "{sentence}");
                assert!(!sentence.contains("..") && !sentence.contains("None"), "{sentence}");
            }
        }
    }
}
