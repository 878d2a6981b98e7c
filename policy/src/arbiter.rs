//! From the proposals of one instant to one decision a limit: guards, the choice between rules, guards again.
//!
//! Pure: what is known comes in as a [`Snapshot`] and a [`History`], what is to be done goes out as values.

use std::cmp::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidegate_actuator::Change;
use tidegate_model::{Decision, GuardAction, GuardReport, Mode, Outcome, OutcomeStatus, TimeMs};

use crate::canary;
use crate::config::PolicyConfig;
use crate::guard::host::{Move, View};
use crate::guard::{self, Context, Direction, Guard, Tuning};
use crate::history::{EXPIRED, Follow, History, RETURNS_TO, Track};
use crate::options::Class;
use crate::proposal::{LimitKey, Origin, Proposal};
use crate::readings::{Figure, Reading};
use crate::snapshot::Snapshot;

/// A change that passed all guards.
#[derive(Clone, Debug)]
pub(crate) struct Approved {
    /// Its outcome is a placeholder until the actuator has answered.
    pub decision: Decision,
    pub change: Change,
    pub follow: Follow,
}

/// What came of the proposals of one instant.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Refused, or of a rule in shadow mode: nothing is left to do.
    pub settled: Vec<Decision>,
    /// For the actuator, at most one a limit.
    pub approved: Vec<Approved>,
}

/// Judges proposals that were made at `snapshot.now`.
pub(crate) fn judge(proposals: Vec<Proposal>, snapshot: &Snapshot, history: &History, config: &PolicyConfig) -> Judged {
    let mut judged = Judged::default();
    let mut candidates = Vec::with_capacity(proposals.len());
    for proposal in proposals {
        let mut candidate = Box::new(Candidate::new(proposal, snapshot, history, config));
        let target = candidate.proposal.target;
        match guard::run(candidate.before_choice(), target, &candidate.context, &mut candidate.notes) {
            Err(status) => judged.settled.push(candidate.refused(status)),
            Ok(target) => {
                candidate.target = target;
                candidates.push(candidate);
            }
        }
    }
    candidates.sort_by(|a, b| a.contest().cmp(&b.contest()).then_with(|| precedence(a, b)));
    let mut candidates = candidates.into_iter().peekable();
    let mut winners = Vec::new();
    while let Some(mut first) = candidates.next() {
        let verdict = guard::run(first.behind_choice(), first.target, &first.context, &mut first.notes);
        if let Err(status) = verdict
            && candidates.peek().is_some_and(|next| next.contest() == first.contest() && first.gives_way_to(next))
        {
            judged.settled.push(first.refused(status));
            continue;
        }
        while let Some(loser) = candidates.next_if(|next| next.contest() == first.contest()) {
            judged.settled.push(loser.outranked_by(&first));
        }
        match verdict {
            Err(status) => judged.settled.push(first.refused(status)),
            Ok(target) => {
                first.target = target;
                winners.push(first);
            }
        }
    }
    let (acting, shadows): (Vec<_>, Vec<_>) = winners.into_iter().partition(|winner| winner.acts);
    let view = |acting| View { snapshot, history, config, acting };
    conclude(acting, view(true), &mut judged);
    conclude(shadows, view(false), &mut judged);
    judged
}

/// The last guards, which look at many limits at once, and the decisions.
#[allow(clippy::vec_box, reason = "candidates are large, and are sorted and moved about")]
fn conclude(mut winners: Vec<Box<Candidate>>, view: View, judged: &mut Judged) {
    for judge in [guard::group::judge, guard::host::judge] {
        let moves: Vec<Move> = winners.iter().map(|winner| winner.as_move()).collect();
        let verdicts = judge(&moves, view);
        let mut left = Vec::with_capacity(winners.len());
        for (mut winner, verdict) in winners.into_iter().zip(verdicts) {
            let Some((name, verdict)) = verdict else {
                left.push(winner);
                continue;
            };
            match guard::follow(name, verdict, winner.target, &mut winner.notes) {
                Err(status) => judged.settled.push(winner.refused(status)),
                Ok(target) => {
                    winner.target = target;
                    left.push(winner);
                }
            }
        }
        winners = left;
    }
    for winner in winners {
        let target = winner.target;
        match winner.acts {
            true => judged.approved.push(winner.approved(target)),
            false => judged.settled.push(winner.shadow(target)),
        }
    }
}

/// The better candidate first.
fn precedence(a: &Candidate, b: &Candidate) -> Ordering {
    let (rule_a, rule_b) = (&a.proposal.rule, &b.proposal.rule);
    let by_target = match rule_a.class {
        Class::Cap => a.target.total_cmp(&b.target),
        Class::Safety | Class::Protect | Class::Optimise => b.target.total_cmp(&a.target),
    };
    (rule_a.class.cmp(&rule_b.class))
        .then(rule_b.resolved.priority.cmp(&rule_a.resolved.priority))
        .then(by_target)
        .then_with(|| rule_a.name.cmp(&rule_b.name))
        .then(a.proposal.nth.cmp(&b.proposal.nth))
}

struct Candidate {
    proposal: Proposal,
    /// Whether it may write.
    acts: bool,
    /// Why no rule may.
    left_alone: Option<String>,
    /// Whether its decision tells what was known, and why.
    explains: bool,
    context: Context,
    inputs: Value,
    target: f64,
    notes: Vec<GuardReport>,
}

impl Candidate {
    fn new(mut proposal: Proposal, snapshot: &Snapshot, history: &History, config: &PolicyConfig) -> Self {
        let left_alone = snapshot.left_alone(&proposal.key);
        let acts = canary::acts(proposal.rule.mode, &proposal.key.0) && left_alone.is_none();
        let track = history.track(&proposal.key);
        let reading = snapshot.reading(&proposal.key);
        let reading = reading.as_deref();
        let context = context(&proposal, acts, reading, snapshot, history, track, config);
        let (target, notes) = (proposal.target, Vec::new());
        if !snapshot.explains {
            let inputs = Value::Object(reading.map(Reading::watched_json).unwrap_or_default());
            return Self { target, inputs, proposal, acts, left_alone, explains: false, context, notes };
        }
        let mut inputs = reading.map(Reading::to_json).unwrap_or_default();
        if let Some(limit) = context.limit {
            // The limit that was read back after the last change may be newer than the last sample of it.
            inputs.insert("allocated".to_owned(), json!(limit));
        }
        if acts && proposal.rule.resolved.ttl.is_some() {
            let lease =
                track.lease.as_ref().filter(|lease| lease.rule == proposal.rule.name).map(|lease| lease.returns_to);
            // Told by each decision, so that the newest one alone says it after a restart.
            if let Some(returns_to) = lease.or(context.limit) {
                inputs.insert(RETURNS_TO.to_owned(), json!(returns_to));
            }
        }
        if proposal.origin == Origin::Expiry {
            inputs.insert(EXPIRED.to_owned(), json!(true));
        }
        if let Some(capacity) = context.capacity {
            inputs.insert("host_capacity".to_owned(), json!(capacity));
        }
        if !proposal.columns.is_empty() {
            inputs.insert("row".to_owned(), Value::Object(std::mem::take(&mut proposal.columns)));
        }
        Self { target, inputs: Value::Object(inputs), proposal, acts, left_alone, explains: true, context, notes }
    }

    /// Those that would only write compete among themselves, so that they cannot displace one that does.
    fn contest(&self) -> (&LimitKey, bool) {
        (&self.proposal.key, self.acts)
    }

    fn as_move(&self) -> Move<'_> {
        let Proposal { rule, key, .. } = &self.proposal;
        Move { key, class: rule.class, context: &self.context, target: self.target }
    }

    fn before_choice(&self) -> &'static [Guard] {
        match self.proposal.origin {
            Origin::Row | Origin::Expiry => guard::BEFORE_CHOICE,
            Origin::Restore => guard::RESTORE_BEFORE_CHOICE,
            Origin::Undrift => guard::UNDRIFT_BEFORE_CHOICE,
        }
    }

    fn behind_choice(&self) -> &'static [Guard] {
        match self.proposal.origin {
            Origin::Row | Origin::Expiry => guard::BEHIND_CHOICE,
            Origin::Restore => guard::RESTORE_BEHIND_CHOICE,
            Origin::Undrift => guard::UNDRIFT_BEHIND_CHOICE,
        }
    }

    /// Whether `next` gets its chance after this one was refused: when both want more, a rule that has to wait must not
    /// stop another that need not (after an OOM kill, the rule for kills would keep the limit where it kills). A cap that
    /// has to wait still holds the others down, and a careful rule that wants less still shields from a bolder one.
    fn gives_way_to(&self, next: &Candidate) -> bool {
        let class = self.proposal.rule.class;
        class != Class::Cap
            && class == next.proposal.rule.class
            && self.context.direction(self.target) == Direction::Up
            && next.context.direction(next.target) == Direction::Up
    }

    fn refused(self, status: OutcomeStatus) -> Decision {
        // A rule that may not write cannot have failed at it.
        let status = if self.acts { status } else { OutcomeStatus::Refused };
        let message = self.notes.last().map_or_else(String::new, |note| format!("{}: {}", note.guard, note.why));
        self.decision(None, status, message)
    }

    fn outranked_by(mut self, winner: &Candidate) -> Decision {
        let rule = &winner.proposal.rule;
        let why = if rule.name == self.proposal.rule.name {
            format!("another row of the same rule wants {}", self.context.show(winner.target))
        } else {
            let (class, wanted) = (rule.class, self.context.show(winner.target));
            format!(
                "rule {} of class {class} and priority {} has its way with {wanted}",
                rule.name, rule.resolved.priority
            )
        };
        let (guard, before) = ("priority".to_owned(), self.target);
        self.notes.push(GuardReport { guard, action: GuardAction::Refused, before, after: before, why });
        self.refused(OutcomeStatus::Refused)
    }

    fn shadow(mut self, target: f64) -> Decision {
        let (mode, container) = (self.proposal.rule.mode, &self.proposal.key.0);
        let message = match (self.left_alone.take(), mode) {
            (Some(why), mode) if canary::acts(mode, container) => why,
            (_, Mode::Canary(percent)) => {
                format!("mode canary: {container} is not among the {percent} %, nothing was written")
            }
            (_, mode) => format!("mode {mode}: nothing was written"),
        };
        self.decision(Some(target), OutcomeStatus::Shadow, message)
    }

    fn approved(self, target: f64) -> Approved {
        let options = &self.proposal.rule.resolved;
        let expiry = self.proposal.origin == Origin::Expiry;
        let follow = Follow { watch: options.watch, leased: options.ttl.is_some(), expiry };
        let decision = self.decision(Some(target), OutcomeStatus::Failed, "not handed to the actuator".to_owned());
        let change = Change {
            container: decision.container.clone(),
            resource: decision.resource,
            target,
            limit_before: decision.limit_before,
            decision: decision.id.clone(),
        };
        Approved { decision, change, follow }
    }

    fn decision(self, decided: Option<f64>, status: OutcomeStatus, message: String) -> Decision {
        let Proposal { rule, key, target, reason, nth, .. } = self.proposal;
        let limit = self.context.limit;
        let now = self.context.now;
        let id = if self.explains { decision_id(now, &rule.name, rule.version, &key, nth) } else { String::new() };
        Decision {
            id,
            time: now,
            rule: rule.name.clone(),
            version: rule.version,
            container: key.0,
            resource: key.1,
            limit_before: limit,
            // Decisions are kept as JSON, which has no NaN; the `sane` guard's note tells what it was.
            proposed: if target.is_finite() { target } else { 0.0 },
            decided,
            guards: self.notes,
            reason,
            mode: rule.mode,
            inputs: self.inputs,
            outcome: Outcome { status, limit_after: limit, writes: Vec::new(), message, at: now, took_us: 0 },
        }
    }
}

fn context(
    proposal: &Proposal,
    acts: bool,
    reading: Option<&Reading>,
    snapshot: &Snapshot,
    history: &History,
    track: &Track,
    config: &PolicyConfig,
) -> Context {
    let Proposal { rule, key, .. } = proposal;
    let now = snapshot.now;
    let nothing = Reading::default();
    let reading = reading.unwrap_or(&nothing);
    let (last_up, last_down) = track.last_up_down(acts);
    let limit = track.limit(reading, now);
    let (min, max) = snapshot.bounds_as_read(key, reading);
    let options = &rule.resolved;
    Context {
        now,
        resource: key.1,
        limit,
        age: reading.get(Figure::Age),
        samples: reading.get(Figure::Samples).unwrap_or(0.0),
        first_data: if key.1.is_knob() { history.track(&(key.0.clone(), key.1.of())) } else { track }.first_data,
        usage: reading.get(Figure::Usage),
        throttled_last: reading.get(Figure::ThrottledLast),
        unreclaimable: reading.get(Figure::Unreclaimable),
        usage_slope: reading.get(Figure::UsageSlope),
        usage_stddev: reading.get(Figure::UsageStddev),
        min,
        max,
        capacity: snapshot.capacity(key),
        last_up,
        last_down,
        last_failed: track.failed,
        pending: track.pending.filter(|_| acts).map(|pending| pending.at),
        foreign: track.foreign.as_ref().map(|foreign| (foreign.until, foreign.found)),
        backoff: history.watches.backoff(key, &rule.name),
        unknown_past: history.unknown_past,
        options: Tuning {
            floor: config.floor(key.1),
            max_age: options.max_age,
            stale_shrink: Duration::from_secs(config.stale_shrink_s),
            warm_up: options.warm_up,
            min_interval: config.min_change_interval(),
            cooldown_up: options.cooldown_up,
            cooldown_down: options.cooldown_down,
            step_up: options.step_up,
            step_down: options.step_down(key.1),
            dead_band: options.dead_band,
        },
    }
}

/// The same for the same tick, rule and limit, so that a replay gives the same identifiers. Sorts by time.
pub(crate) fn decision_id(now: TimeMs, rule: &str, version: u32, key: &LimitKey, nth: usize) -> String {
    let (container, resource) = key;
    let mut hash = Sha256::new();
    for part in [rule, &version.to_string(), &container.host, &container.name, resource.as_str(), &nth.to_string()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = hash.finalize().into();
    let suffix = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    format!("{:013}-{suffix:016x}", now.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleDefinition;
    use proptest::prelude::*;
    use std::sync::Arc;
    use tidegate_model::{Bytes, ContainerKey, Cores, Host, Resource};

    const NOW: TimeMs = TimeMs(1_000_000);

    fn key() -> LimitKey {
        (ContainerKey { host: "node0".to_owned(), name: "web".to_owned() }, Resource::Cpu)
    }

    fn rule(name: &str, options: &[(&str, &str)]) -> Arc<RuleDefinition> {
        let given = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Arc::new(RuleDefinition::new(name, 1, Mode::On, given, "SELECT 1", &PolicyConfig::default()).unwrap())
    }

    fn proposal(rule: &Arc<RuleDefinition>, target: f64) -> Proposal {
        let reason = "a test".to_owned();
        let (origin, columns) = (Origin::Row, Default::default());
        Proposal { rule: Arc::clone(rule), origin, key: key(), target, reason, columns, nth: 0 }
    }

    fn snapshot() -> Snapshot {
        let reading =
            Reading::of(&[("samples", 60.0), ("age", 0.0), ("usage", 0.5), ("allocated", 1.0), ("allocated_age", 0.0)]);
        let host = Host { name: "node0".to_owned(), cpu: Cores(8.0), memory: Bytes(1 << 34), last_seen: NOW };
        Snapshot::new(NOW, [(key(), reading)].into_iter().collect(), &[host], Arc::default())
    }

    fn judged(proposals: Vec<Proposal>) -> Judged {
        judge(proposals, &snapshot(), &History::default(), &PolicyConfig::default())
    }

    /// The rule that wins and its target.
    fn winner(proposals: Vec<Proposal>) -> (String, f64) {
        let count = proposals.len();
        let judged = judged(proposals);
        assert_eq!(judged.approved.len(), 1);
        assert_eq!(judged.settled.len(), count - 1);
        let winner = &judged.approved[0].decision;
        for loser in &judged.settled {
            let last = loser.guards.last().unwrap();
            assert_eq!((last.guard.as_str(), last.action), ("priority", GuardAction::Refused));
            assert!(last.why.contains(&winner.rule) || loser.rule == winner.rule, "{}", last.why);
        }
        (winner.rule.clone(), winner.decided.unwrap())
    }

    #[test]
    fn the_higher_class_wins_whatever_the_others_want() {
        let protect = proposal(&rule("protect", &[("priority", "9")]), 4.0);
        let cap = proposal(&rule("cap", &[("class", "cap")]), 2.0);
        let safety = proposal(&rule("safety", &[("class", "safety")]), 3.0);
        assert_eq!(winner(vec![protect.clone(), cap.clone()]), ("cap".to_owned(), 2.0));
        assert_eq!(winner(vec![protect, cap, safety]), ("safety".to_owned(), 3.0));
    }

    #[test]
    fn within_a_class_priority_then_the_careful_target_wins() {
        let (a, b) = (rule("a", &[]), rule("b", &[]));
        assert_eq!(winner(vec![proposal(&a, 2.0), proposal(&b, 3.0)]), ("b".to_owned(), 3.0));
        let urgent = rule("c", &[("priority", "1")]);
        assert_eq!(winner(vec![proposal(&urgent, 2.0), proposal(&b, 3.0)]), ("c".to_owned(), 2.0));
        let (low, high) = (rule("low", &[("class", "cap")]), rule("high", &[("class", "cap")]));
        assert_eq!(winner(vec![proposal(&high, 3.0), proposal(&low, 2.0)]), ("low".to_owned(), 2.0));
        assert_eq!(winner(vec![proposal(&a, 2.0), Proposal { nth: 1, ..proposal(&a, 3.0) }]), ("a".to_owned(), 3.0));
    }

    #[test]
    fn a_shadow_rule_displaces_nobody() {
        let shadow = rule("shadow", &[("class", "safety"), ("mode", "shadow")]);
        let on = rule("on", &[]);
        let judged = judged(vec![proposal(&shadow, 4.0), proposal(&on, 2.0)]);
        assert_eq!(judged.approved[0].change.target, 2.0);
        assert_eq!(judged.settled[0].outcome.status, OutcomeStatus::Shadow);
        assert_eq!(judged.settled[0].decided, Some(4.0));
    }

    #[test]
    fn a_refused_proposal_does_not_displace_a_good_one() {
        let broken = rule("broken", &[("class", "safety")]);
        let judged = judged(vec![proposal(&broken, f64::NAN), proposal(&rule("good", &[]), 2.0)]);
        assert_eq!(judged.approved[0].decision.rule, "good");
        assert_eq!(judged.settled[0].guards[0].guard, "sane");
        assert!(serde_json::to_string(&judged.settled[0]).is_ok_and(|json| !json.contains("null,\"decided\"")));
    }

    #[test]
    fn what_was_read_back_counts_more_than_an_older_sample() {
        let mut history = History::default();
        let mut decision = judged(vec![proposal(&rule("a", &[]), 2.0)]).approved.remove(0).decision;
        decision.time = TimeMs(NOW.0 - 1_500);
        decision.outcome.status = OutcomeStatus::Applied;
        decision.outcome.limit_after = Some(2.0);
        decision.outcome.at = TimeMs(NOW.0 + 3);
        history.finish(&decision, Duration::from_secs(60), Follow::default());
        let judged = judge(vec![proposal(&rule("a", &[]), 3.0)], &snapshot(), &history, &PolicyConfig::default());
        assert_eq!(judged.approved[0].change.limit_before, Some(2.0));
    }

    /// A history in which the limit was set to 1 core five seconds ago.
    fn changed_five_seconds_ago(before: f64) -> History {
        let mut history = History::default();
        let mut decision = judged(vec![proposal(&rule("former", &[]), 2.0)]).approved.remove(0).decision;
        decision.time = TimeMs(NOW.0 - 5_000);
        decision.limit_before = Some(before);
        decision.outcome.status = OutcomeStatus::Applied;
        decision.outcome.limit_after = Some(1.0);
        decision.outcome.at = decision.time;
        history.finish(&decision, Duration::from_secs(60), Follow::default());
        history
    }

    /// The rules that did not get their way, each with the guard that said so.
    fn refusals(judged: &Judged) -> Vec<(&str, &str)> {
        judged
            .settled
            .iter()
            .map(|decision| (decision.rule.as_str(), decision.guards.last().unwrap().guard.as_str()))
            .collect()
    }

    #[test]
    fn a_rule_that_has_to_wait_does_not_stop_one_that_wants_the_same() {
        let oom = rule("memory_oom", &[("priority", "10"), ("cooldown_up", "60s")]);
        let up = rule("memory_up", &[("cooldown_up", "1s")]);
        let down = rule("memory_down", &[("class", "optimise")]);
        let history = changed_five_seconds_ago(0.8);
        let judge = |proposals| judge(proposals, &snapshot(), &history, &PolicyConfig::default());

        let all = judge(vec![proposal(&down, 0.9), proposal(&up, 1.5), proposal(&oom, 2.0)]);
        assert_eq!(all.approved[0].decision.rule, "memory_up");
        assert_eq!(refusals(&all), [("memory_oom", "cooldown"), ("memory_down", "priority")]);
        assert!(all.settled[1].outcome.message.contains("rule memory_up"), "{}", all.settled[1].outcome.message);

        let other_direction = judge(vec![proposal(&rule("lower", &[]), 0.5), proposal(&oom, 2.0)]);
        assert!(other_direction.approved.is_empty());
        assert_eq!(refusals(&other_direction), [("lower", "priority"), ("memory_oom", "cooldown")]);
    }

    #[test]
    fn a_cap_that_has_to_wait_still_holds_the_others_down() {
        let (low, high) =
            (rule("low", &[("class", "cap")]), rule("high", &[("class", "cap"), ("cooldown_down", "1s")]));
        let proposals = vec![proposal(&rule("up", &[]), 2.0), proposal(&high, 0.8), proposal(&low, 0.7)];
        let judged = judge(proposals, &snapshot(), &changed_five_seconds_ago(1.2), &PolicyConfig::default());
        assert!(judged.approved.is_empty());
        assert_eq!(refusals(&judged), [("high", "priority"), ("up", "priority"), ("low", "cooldown")]);
    }

    proptest! {
        #[test]
        fn shadow_and_off_never_reach_the_actuator(
            proposals in prop::collection::vec((0_usize..4, 0.01_f64..8.0), 1..12),
            modes in prop::collection::vec(0_usize..3, 4),
        ) {
            let classes = ["safety", "cap", "protect", "optimise"];
            let names = ["off", "shadow", "on"];
            let rules: Vec<_> = (0..4)
                .map(|i| rule(&format!("r{i}"), &[("class", classes[i]), ("mode", names[modes[i]])]))
                .collect();
            let count = proposals.len();
            let proposals = proposals.into_iter().enumerate();
            let proposals = proposals.map(|(nth, (at, target))| Proposal { nth, ..proposal(&rules[at], target) }).collect();
            let judged = judged(proposals);
            prop_assert_eq!(judged.settled.len() + judged.approved.len(), count);
            prop_assert!(judged.approved.len() <= 1);
            prop_assert!(judged.approved.iter().all(|approved| approved.decision.mode == Mode::On));
            let mut ids: Vec<_> = judged.settled.iter().map(|d| &d.id).collect();
            ids.extend(judged.approved.iter().map(|approved| &approved.decision.id));
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
        }
    }
}
