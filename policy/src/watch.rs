//! What a decrease did: throttling, pressure and OOM kills after it against those before it.
//!
//! A regression (see [`crate::regression`]) has three consequences: the engine puts the former limit back, the rule backs off that limit, and a rule
//! with too many of them falls back to shadow mode. Thresholds, back-off and circuit breaker follow what Autothrottle's
//! Captain, PARTIES and PEMA do after a step down. All of it is values and instants; the engine brings the samples.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidegate_model::{Decision, GuardAction, GuardReport, OutcomeStatus, Resource, TimeMs};

use crate::config::PolicyConfig;
use crate::explain::WATCH;
use crate::guard::backoff_wait;
use crate::proposal::LimitKey;
use crate::regression::{After, Before, regression};

/// The kernel's counters are not to be trusted across a write, since it refills the quota: the second that holds it is left out.
const SETTLING: Duration = Duration::from_secs(1);
/// How long the engine tries to put a limit back.
const RESTORING: Duration = Duration::from_secs(30);

/// The numbers that watches compare with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub throttled: f64,
    pub pressure: f64,
    pub backoff: Duration,
    pub backoff_max: Duration,
    pub window: Duration,
    pub least: u32,
    pub share: f64,
    pub oom_kills: u32,
}

impl Tuning {
    pub fn of(config: &PolicyConfig) -> Self {
        Self {
            throttled: config.watch_throttled,
            pressure: config.watch_pressure,
            backoff: Duration::from_secs(config.backoff_s),
            backoff_max: Duration::from_secs(config.backoff_max_s),
            window: Duration::from_secs(config.breaker_window_s),
            least: config.breaker_least,
            share: config.breaker_share,
            oom_kills: config.breaker_oom_kills,
        }
    }
}

/// One measurement of a limit's container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub key: LimitKey,
    pub at: TimeMs,
    pub throttled: Option<f64>,
    pub pressure: Option<f64>,
}

/// A decrease that is looked after.
#[derive(Clone, Debug, PartialEq)]
struct Watch {
    rule: String,
    version: u32,
    /// The decision's identifier.
    decision: String,
    lowered_at: TimeMs,
    /// The limit before and after.
    from: f64,
    to: f64,
    /// Samples behind this instant count.
    since: TimeMs,
    until: TimeMs,
    /// The newest sample that was counted, and the last look.
    seen: TimeMs,
    looked: TimeMs,
    before: Before,
    after: After,
}

/// A decrease that made things worse.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Regression {
    pub key: LimitKey,
    pub rule: String,
    pub version: u32,
    /// The decrease's identifier, and what the limit was before it.
    pub decision: String,
    pub from: f64,
    /// For the decision that puts it back.
    pub reason: String,
    pub inputs: Map<String, Value>,
}

/// Whether what kept a limit from being put back passes.
pub(crate) fn waits(status: OutcomeStatus, guards: &[GuardReport]) -> bool {
    let refused_by = guards.iter().find(|note| note.action == GuardAction::Refused).map(|note| note.guard.as_str());
    match status {
        OutcomeStatus::Refused => matches!(refused_by, Some("pending" | "cooldown" | "capacity" | "priority")),
        OutcomeStatus::Failed => true,
        _ => false,
    }
}

/// How long a rule keeps its hands off a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Backoff {
    /// Regressions in a row, less the decreases since then that went well.
    level: u32,
    since: TimeMs,
    until: TimeMs,
}

/// What became of a rule's decreases lately.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    lowered: VecDeque<TimeMs>,
    /// With whether somebody was killed.
    regressed: VecDeque<(TimeMs, bool)>,
}

impl Record {
    fn forget_before(&mut self, oldest: TimeMs) {
        self.lowered.retain(|at| *at > oldest);
        self.regressed.retain(|(at, _)| *at > oldest);
    }
}

/// All decreases that are looked after, and what came of former ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    under_way: HashMap<LimitKey, Watch, ahash::RandomState>,
    restoring: HashMap<LimitKey, (Regression, TimeMs), ahash::RandomState>,
    backoffs: HashMap<LimitKey, HashMap<String, Backoff>, ahash::RandomState>,
    records: HashMap<String, Record>,
}

impl Watches {
    /// A decrease was applied. One that is still watched there is succeeded by this one and judged with it: against how
    /// things were before the first. Steps of a rule that follow one another before there are enough samples to judge are one
    /// decrease, so that one each second is judged, too.
    pub fn begin(&mut self, key: &LimitKey, decision: &Decision, watch: Duration) {
        let (from, to) = (decision.limit_before, decision.outcome.limit_after.or(decision.decided));
        let former = self.under_way.remove(key);
        let (Some(from), Some(to), false) = (from, to, watch.is_zero()) else { return };
        match self.records.get_mut(&decision.rule) {
            Some(record) => record.lowered.push_back(decision.time),
            None => {
                let record = Record { lowered: [decision.time].into(), ..Record::default() };
                self.records.insert(decision.rule.clone(), record);
            }
        }
        let read_at = decision.outcome.at;
        let before = Before::of(&decision.inputs);
        let before = former.as_ref().map_or(before, |former| before.least(former.before));
        let step_before = former.filter(|former| former.rule == decision.rule && !former.after.is_enough());
        let (from, after) = step_before.map_or((from, After::default()), |step| (step.from.max(from), step.after));
        // Only a quota is refilled by a write.
        let since = if key.1 == Resource::Cpu { read_at.plus(SETTLING) } else { read_at };
        let watch = Watch {
            rule: decision.rule.clone(),
            version: decision.version,
            decision: decision.id.clone(),
            lowered_at: decision.time,
            from,
            to,
            since,
            until: read_at.plus(watch),
            seen: since,
            looked: read_at,
            before,
            after,
        };
        self.under_way.insert(key.clone(), watch);
    }

    /// The limit that may have to be put back: what a decrease took is not free before it is known to do without.
    pub fn reserved(&self, key: &LimitKey) -> Option<f64> {
        let watched = self.under_way.get(key).map(|watch| watch.from);
        let regressed = self.restoring.get(key).map(|(regression, _)| regression.from);
        watched.into_iter().chain(regressed).reduce(f64::max)
    }

    /// Whether there is anything to look at.
    pub fn is_busy(&self) -> bool {
        !self.under_way.is_empty() || !self.restoring.is_empty()
    }

    /// The limits whose decreases are looked after, each with the instant of its last sample that was counted.
    pub fn watched(&self) -> Vec<(LimitKey, TimeMs)> {
        self.under_way.iter().map(|(key, watch)| (key.clone(), watch.seen)).collect()
    }

    /// How far back samples are wanted at `now`; `None` when nothing is watched.
    pub fn reach(&self, now: TimeMs) -> Option<Duration> {
        self.under_way.values().map(|watch| now.since(watch.looked)).max()
    }

    /// Counts what was measured, ends watches whose time is over, and tells which decreases made things worse. `kills` gives
    /// the OOM kills of the last minute.
    pub fn look(
        &mut self,
        now: TimeMs,
        samples: &[Sample],
        kills: impl Fn(&LimitKey) -> Option<f64>,
        tuning: &Tuning,
    ) -> Vec<Regression> {
        for sample in samples {
            let Some(watch) = self.under_way.get_mut(&sample.key) else { continue };
            if sample.at <= watch.seen || sample.at > watch.until {
                continue;
            }
            watch.after.throttled.push(sample.throttled);
            watch.after.pressure.push(sample.pressure);
            watch.seen = sample.at;
        }
        self.records.retain(|_, record| {
            record.forget_before(now.minus(tuning.window));
            !record.lowered.is_empty() || !record.regressed.is_empty()
        });
        // Long after its end, what a rule once did wrong says nothing any more.
        self.backoffs.retain(|_, backoffs| {
            backoffs.retain(|_, backoff| now.since(backoff.until) < tuning.backoff_max);
            !backoffs.is_empty()
        });
        let mut worse = Vec::new();
        let mut over = Vec::new();
        for (key, watch) in &mut self.under_way {
            watch.looked = watch.looked.max(now);
            if let (Some(kills), true) = (kills(key), now > watch.since) {
                watch.after.kills = watch.after.kills.max(kills - watch.before.oom_kills.unwrap_or(0.0));
            }
            match regression(key.1, &watch.before, &watch.after, tuning) {
                Some(why) => worse.push((key.clone(), why)),
                // One second more, for the sample of the last one.
                None if now > watch.until => over.push(key.clone()),
                None => {}
            }
        }
        for key in over {
            self.went_well(&key);
        }
        // In a fixed order, so that a replay decides the same.
        worse.sort();
        worse.into_iter().filter_map(|(key, why)| self.went_badly(key, &why, now, tuning)).collect()
    }

    fn went_well(&mut self, key: &LimitKey) {
        let Some(watch) = self.under_way.remove(key) else { return };
        // Nothing seen is not the same as nothing wrong.
        if watch.after.throttled.value().is_none() && watch.after.pressure.value().is_none() {
            return;
        }
        let Some(backoffs) = self.backoffs.get_mut(key) else { return };
        if let Some(backoff) = backoffs.get_mut(&watch.rule) {
            backoff.level = backoff.level.saturating_sub(1);
        }
        backoffs.retain(|_, backoff| backoff.level > 0);
        if backoffs.is_empty() {
            self.backoffs.remove(key);
        }
    }

    fn went_badly(&mut self, key: LimitKey, why: &str, now: TimeMs, tuning: &Tuning) -> Option<Regression> {
        let watch = self.under_way.remove(&key)?;
        let level = self.backoff_level(&key, &watch.rule).saturating_add(1);
        let until = now.plus(backoff_wait(level, tuning.backoff, tuning.backoff_max));
        let killed = watch.after.kills > 0.0;
        self.note(&key, &watch.rule, now, level, until, killed);
        let show = |value: f64| key.1.display(value);
        let ago = now.since(watch.lowered_at).as_secs_f64();
        let reason = format!(
            "rule {} v{} lowered it from {} to {} {ago:.0} s ago, and since then {why}",
            watch.rule,
            watch.version,
            show(watch.from),
            show(watch.to)
        );
        let inputs = json!({
            "rule": watch.rule,
            "version": watch.version,
            "lowered_by": watch.decision,
            "lowered_from": watch.from,
            "lowered_to": watch.to,
            "throttled_before": watch.before.throttled,
            "throttled_after": watch.after.throttled.value(),
            "pressure_before": watch.before.pressure,
            "pressure_after": watch.after.pressure.value(),
            "oom_kills_after": watch.after.kills,
            "regressions": level,
            "backoff_until": until.0,
        });
        let regression = Regression {
            key: key.clone(),
            rule: watch.rule,
            version: watch.version,
            decision: watch.decision,
            from: watch.from,
            reason,
            inputs: inputs.as_object().cloned().unwrap_or_default(),
        };
        self.restoring.insert(key, (regression.clone(), now.plus(RESTORING)));
        Some(regression)
    }

    fn backoff_level(&self, key: &LimitKey, rule: &str) -> u32 {
        self.backoffs.get(key).and_then(|backoffs| backoffs.get(rule)).map_or(0, |backoff| backoff.level)
    }

    /// Notes a regression, as it happened or as a former run of the program recorded it.
    pub fn note(&mut self, key: &LimitKey, rule: &str, at: TimeMs, level: u32, until: TimeMs, killed: bool) {
        let backoffs = self.backoffs.entry(key.clone()).or_default();
        let newer = backoffs.get(rule).is_none_or(|known| known.until <= until);
        if newer {
            backoffs.insert(rule.to_owned(), Backoff { level, since: at, until });
        }
        self.records.entry(rule.to_owned()).or_default().regressed.push_back((at, killed));
    }

    /// Takes up a decrease that a former run of the program recorded; its samples are looked at from the beginning. One that
    /// is `over`, since its time is or since it was found out about, is only counted.
    pub fn resume(&mut self, key: &LimitKey, decision: &Decision, watch: Duration, over: bool) {
        self.begin(key, decision, watch);
        if over {
            self.under_way.remove(key);
        }
    }

    /// Until when, and after how many regressions, a rule does not lower a limit.
    pub fn backoff(&self, key: &LimitKey, rule: &str) -> Option<(TimeMs, u32)> {
        let backoff = self.backoffs.get(key)?.get(rule)?;
        Some((backoff.until, backoff.level))
    }

    /// What has to be put back, in a fixed order.
    pub fn unrestored(&mut self, now: TimeMs) -> Vec<Regression> {
        self.restoring.retain(|_, (_, until)| now <= *until);
        let mut all: Vec<Regression> = self.restoring.values().map(|(regression, _)| regression.clone()).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// What came of putting a limit back. What had to wait for something that passes is tried again.
    pub fn settle(&mut self, key: &LimitKey, decision: &Decision) {
        if decision.rule != WATCH {
            return;
        }
        if !waits(decision.outcome.status, &decision.guards) {
            self.restoring.remove(key);
        }
    }

    /// Takes up what a former run of the program did not come to put back.
    pub fn resume_restoring(&mut self, regression: Regression, since: TimeMs) {
        self.restoring.insert(regression.key.clone(), (regression, since.plus(RESTORING)));
    }

    /// Why a rule has to fall back to shadow mode, if it has.
    pub fn tripped(&mut self, rule: &str, now: TimeMs, tuning: &Tuning) -> Option<String> {
        let record = self.records.get_mut(rule)?;
        record.forget_before(now.minus(tuning.window));
        let regressed = record.regressed.len();
        let killed = record.regressed.iter().filter(|(_, killed)| *killed).count();
        // What is watched was lowered; what was lowered before the window may regress within it.
        let lowered = record.lowered.len().max(regressed);
        let window = humantime::format_duration(tuning.window);
        if tuning.oom_kills > 0 && killed >= tuning.oom_kills as usize {
            return Some(format!("{killed} of its decreases of the last {window} were followed by OOM kills"));
        }
        let too_many = regressed >= tuning.least.max(1) as usize && regressed as f64 >= tuning.share * lowered as f64;
        too_many.then(|| format!("{regressed} of its {lowered} decreases of the last {window} had to be taken back"))
    }

    /// Somebody else changed the limit: what comes of it is not the rule's any more, nor is it for the watch to put back.
    pub fn cancel(&mut self, key: &LimitKey) {
        self.under_way.remove(key);
        self.restoring.remove(key);
    }

    /// As [`Watches::cancel`], for decreases before `begin`: those of a former container of that name.
    pub fn cancel_before(&mut self, key: &LimitKey, begin: TimeMs) {
        if self.under_way.get(key).is_some_and(|watch| watch.lowered_at < begin) {
            self.under_way.remove(key);
        }
        if self.restoring.get(key).is_some_and(|(_, until)| until.minus(RESTORING) < begin) {
            self.restoring.remove(key);
        }
    }

    /// Somebody changed the rule: it begins anew.
    pub fn forget_rule(&mut self, rule: &str) {
        self.records.remove(rule);
        self.backoffs.retain(|_, backoffs| {
            backoffs.remove(rule);
            !backoffs.is_empty()
        });
    }

    /// Forgets what lies behind `latest`, since the clock was set back.
    pub fn forget_after(&mut self, latest: TimeMs) {
        self.under_way.retain(|_, watch| watch.lowered_at <= latest);
        self.backoffs.retain(|_, backoffs| {
            backoffs.retain(|_, backoff| backoff.since <= latest);
            !backoffs.is_empty()
        });
        for record in self.records.values_mut() {
            record.lowered.retain(|at| *at <= latest);
            record.regressed.retain(|(at, _)| *at <= latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::{ContainerKey, Mode, Outcome, Resource};

    const START: TimeMs = TimeMs(1_000_000);

    fn tuning() -> Tuning {
        Tuning::of(&PolicyConfig::default())
    }

    fn key(resource: Resource) -> LimitKey {
        (ContainerKey { host: "node0".to_owned(), name: "web".to_owned() }, resource)
    }

    fn at(second: u64) -> TimeMs {
        START.plus(Duration::from_secs(second))
    }

    /// A decrease by `rule` from 2 to 1 cores in some second.
    fn lowered(rule: &str, second: u64, inputs: Value) -> Decision {
        Decision {
            id: format!("{rule}-{second}"),
            time: at(second),
            rule: rule.to_owned(),
            version: 1,
            container: key(Resource::Cpu).0,
            resource: Resource::Cpu,
            limit_before: Some(2.0),
            proposed: 1.0,
            decided: Some(1.0),
            guards: Vec::new(),
            reason: String::new(),
            mode: Mode::On,
            inputs,
            outcome: Outcome {
                status: OutcomeStatus::Applied,
                limit_after: Some(1.0),
                writes: Vec::new(),
                message: String::new(),
                at: at(second),
                took_us: 0,
            },
        }
    }

    /// Lives from one second to another with that much throttling; returns when regressions were found.
    fn live(watches: &mut Watches, seconds: std::ops::Range<u64>, throttled: f64) -> Vec<u64> {
        let mut found = Vec::new();
        for second in seconds {
            let sample =
                Sample { key: key(Resource::Cpu), at: at(second), throttled: Some(throttled), pressure: Some(0.0) };
            let worse = watches.look(at(second), &[sample], |_| None, &tuning());
            found.extend(worse.iter().map(|_| second));
        }
        found
    }

    const WATCH_FOR: Duration = Duration::from_secs(30);

    #[test]
    fn a_second_step_is_not_excused_by_what_the_first_one_did() {
        let mut watches = Watches::default();
        watches.begin(&key(Resource::Cpu), &lowered("down", 0, json!({ "throttled": 0.0 })), WATCH_FOR);
        watches.begin(&key(Resource::Cpu), &lowered("down", 10, json!({ "throttled": 0.2 })), WATCH_FOR);
        assert_eq!(live(&mut watches, 11..40, 0.1), [14]);
    }

    #[test]
    fn steps_each_second_are_judged_together_and_all_of_them_taken_back() {
        let (mut watches, key) = (Watches::default(), key(Resource::MemoryHigh));
        let mut found = Vec::new();
        for second in 0..6 {
            let step = Decision { limit_before: Some(20.0 - second as f64), ..lowered("squeeze", second, json!({})) };
            watches.begin(&key, &step, WATCH_FOR);
            let sample = Sample { key: key.clone(), at: at(second + 1), throttled: None, pressure: Some(0.2) };
            let worse = watches.look(at(second + 1), &[sample], |_| None, &tuning());
            found.extend(worse.iter().map(|worse| (second, worse.from)));
        }
        // Three samples make a mean; what came before is given back, and then it begins anew.
        assert_eq!(found, [(2, 20.0), (5, 17.0)]);
    }

    #[test]
    fn a_step_after_one_that_was_judged_is_judged_by_itself() {
        let (mut watches, key) = (Watches::default(), key(Resource::Cpu));
        watches.begin(&key, &lowered("down", 0, json!({})), WATCH_FOR);
        assert_eq!(live(&mut watches, 1..10, 0.0), Vec::<u64>::new());
        let second = Decision { limit_before: Some(1.0), ..lowered("down", 10, json!({})) };
        watches.begin(&key, &second, WATCH_FOR);
        let worse = (12..16).find_map(|second| {
            let sample = Sample { key: key.clone(), at: at(second), throttled: Some(0.2), pressure: None };
            watches.look(at(second), &[sample], |_| None, &tuning()).pop()
        });
        assert_eq!(worse.map(|worse| worse.from), Some(1.0));
    }

    #[test]
    fn each_decrease_that_goes_well_takes_one_doubling_back() {
        let (mut watches, key) = (Watches::default(), key(Resource::Cpu));
        let level = |watches: &Watches| watches.backoff(&key, "down").map(|(_, level)| level);
        let mut start = 0;
        let mut next = |watches: &mut Watches, throttled| {
            watches.begin(&key, &lowered("down", start, json!({})), WATCH_FOR);
            live(watches, start + 1..start + 40, throttled);
            start += 100;
            level(watches)
        };
        let levels = [0.9, 0.9, 0.9, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0].map(|throttled| next(&mut watches, throttled));
        assert_eq!(levels, [Some(1), Some(2), Some(3), Some(2), Some(3), Some(2), Some(1), None, None]);
    }

    #[test]
    fn the_breaker_counts_a_share_and_forgets_with_its_window() {
        let mut watches = Watches::default();
        for second in 0..20 {
            watches.resume(&key(Resource::Cpu), &lowered("down", second, json!({})), WATCH_FOR, true);
        }
        let regress = |watches: &mut Watches, second, killed| {
            watches.note(&key(Resource::Cpu), "down", at(second), 1, at(second + 60), killed);
        };
        let trips = |watches: &mut Watches, second| watches.tripped("down", at(second), &tuning()).is_some();
        for second in [20, 21, 22] {
            regress(&mut watches, second, false);
        }
        assert!(!trips(&mut watches, 30), "three of twenty are less than a fifth");
        regress(&mut watches, 23, false);
        assert!(trips(&mut watches, 30));
        assert!(!trips(&mut watches, 700), "that was long ago");
        regress(&mut watches, 700, true);
        assert!(trips(&mut watches, 701), "one kill is enough");
        watches.forget_rule("down");
        assert!(!trips(&mut watches, 702));
        assert_eq!(watches.backoff(&key(Resource::Cpu), "down"), None);
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_nothing_to_wait_for() {
        let mut watches = Watches::default();
        watches.begin(&key(Resource::Cpu), &lowered("down", 1_000, json!({})), WATCH_FOR);
        live(&mut watches, 1_001..1_010, 0.9);
        assert!(watches.backoff(&key(Resource::Cpu), "down").is_some());
        watches.begin(&key(Resource::Cpu), &lowered("down", 1_010, json!({})), WATCH_FOR);
        watches.forget_after(at(10));
        assert_eq!((watches.backoff(&key(Resource::Cpu), "down"), watches.reach(at(10))), (None, None));
    }
}
