//! Noticing that somebody else changed a limit, and what becomes of it: adopted, put back, or left alone.

use std::time::{Duration, Instant};

use tidegate_model::{Limit, Resource, TimeMs};

use crate::DriftAnswer;
use crate::config::OnDrift;

/// A limit that was put back so often without lasting is left alone from then on.
const MOST_RESTORES: usize = 3;
/// What was put back longer ago than this did last; or than ten holds, where that is longer.
const IN_A_ROW: Duration = Duration::from_secs(600);
const HOLDS_IN_A_ROW: u32 = 10;

/// What is done about foreign changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriftRule {
    pub(crate) answer: OnDrift,
    /// How long a foreign value is left alone first.
    pub(crate) hold: Duration,
}

/// What this process wrote to one container's limit, and whether it still stands. One value for each container incarnation
/// and resource; the lock around it is held for a whole change, so that the collector never takes a change in progress for
/// a foreign one.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// What was read back after the last write of ours, and what somebody else made of it.
    pub(crate) claim: Claim<Limit>,
    /// The burst (µs) that was found before it had to be lowered below a quota.
    pub(crate) burst_found: Option<u64>,
    /// Whether the baseline is recorded; until then it follows the limit that is found.
    pub(crate) baseline_recorded: bool,
    /// When it was last tried to tell the container's owner of a limit.
    pub(crate) told_at: Option<Instant>,
    /// Whether the owner does not know of the limit that stands.
    pub(crate) untold: bool,
}

impl Owned {
    /// Nothing written yet; `baseline_recorded` when a former process did. `left_alone` is what that had written before
    /// somebody else took the limit over.
    pub(crate) fn new(baseline_recorded: bool, left_alone: Option<Limit>) -> Self {
        let claim = left_alone.map_or_else(Claim::default, Claim::left_alone);
        Self { claim, baseline_recorded, ..Self::default() }
    }
}

/// A value that was written, and whether it still stands.
#[derive(Debug)]
pub(crate) struct Claim<T> {
    /// What was read back after the last write of ours, or a foreign value that was adopted.
    written: Option<T>,
    foreign: Option<Foreign<T>>,
    /// When foreign values were replaced by ours, the last times.
    restored: Vec<TimeMs>,
    /// What has not been told yet.
    news: Option<DriftAnswer>,
}

#[derive(Debug)]
struct Foreign<T> {
    found: T,
    since: TimeMs,
    answer: DriftAnswer,
    /// When it was first seen that ours may be put back.
    due: Option<TimeMs>,
}

/// How a value stands to what was last written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing<T> {
    /// Never written, as written, or a foreign value whose time is over: it may be written.
    Ours,
    /// Somebody else changed it.
    Foreign {
        /// What we had written.
        expected: T,
        /// How long it is still left alone; `None` until it is given back.
        left: Option<Duration>,
    },
}

impl<T> Default for Claim<T> {
    fn default() -> Self {
        Self { written: None, foreign: None, restored: Vec::new(), news: None }
    }
}

impl<T: Clone + PartialEq> Claim<T> {
    /// A former process had written this before somebody else took it over.
    fn left_alone(written: T) -> Self {
        let foreign = Foreign { found: written.clone(), since: TimeMs(0), answer: DriftAnswer::HandsOff, due: None };
        let news = Some(DriftAnswer::HandsOff);
        Self { written: Some(written), foreign: Some(foreign), restored: Vec::new(), news }
    }

    /// Compares what stands in the file with what was written.
    pub(crate) fn observe(&mut self, found: T, now: TimeMs, rule: DriftRule) -> Standing<T> {
        let Some(expected) = self.written.clone().filter(|written| *written != found) else {
            self.given_back();
            return Standing::Ours;
        };
        let is_known = |foreign: &Foreign<T>| foreign.answer.is_hands_off() || foreign.found == found;
        if !self.foreign.as_ref().is_some_and(is_known) {
            let answer = self.answer(now, rule);
            self.foreign = Some(Foreign { found: found.clone(), since: now, answer, due: None });
            self.news = Some(answer);
        }
        let Some(foreign) = &mut self.foreign else { return Standing::Ours };
        let left = rule.hold.saturating_sub(now.since(foreign.since));
        match foreign.answer {
            DriftAnswer::HandsOff | DriftAnswer::GivenUp => Standing::Foreign { expected, left: None },
            _ if !left.is_zero() => Standing::Foreign { expected, left: Some(left) },
            DriftAnswer::Restore => {
                foreign.due.get_or_insert(now);
                Standing::Ours
            }
            DriftAnswer::Adopt | DriftAnswer::Over => {
                self.written = Some(found);
                self.foreign = None;
                Standing::Ours
            }
        }
    }

    /// What becomes of a foreign value that is new.
    fn answer(&mut self, now: TimeMs, rule: DriftRule) -> DriftAnswer {
        match rule.answer {
            OnDrift::Adopt => DriftAnswer::Adopt,
            OnDrift::HandsOff => DriftAnswer::HandsOff,
            OnDrift::Restore => {
                let in_a_row = IN_A_ROW.max(rule.hold * HOLDS_IN_A_ROW);
                self.restored.retain(|at| now.since(*at) <= in_a_row);
                if self.restored.len() < MOST_RESTORES { DriftAnswer::Restore } else { DriftAnswer::GivenUp }
            }
        }
    }

    /// What shall stand there does.
    fn given_back(&mut self) {
        if let Some(foreign) = self.foreign.take() {
            // Nobody has to be told of a change that was undone before it was told of.
            self.news = foreign.answer.is_hands_off().then_some(DriftAnswer::Over);
        }
    }

    /// What is to be told, once, and what we had written.
    pub(crate) fn take_news(&mut self) -> Option<(DriftAnswer, T)> {
        let written = self.written.clone()?;
        Some((self.news.take()?, written))
    }

    /// Whether what stands in the file is what was written last.
    pub(crate) fn is_as_written(&self, found: &T) -> bool {
        self.written.as_ref() == Some(found)
    }

    /// What was written, unless somebody else has it.
    pub(crate) fn ours(&self) -> Option<T> {
        self.written.clone().filter(|_| self.foreign.is_none())
    }

    /// Whether something was written and nobody else has it.
    pub(crate) fn is_ours(&self) -> bool {
        self.written.is_some() && self.foreign.is_none()
    }

    /// Records what was read back after a write of ours.
    pub(crate) fn wrote(&mut self, read_back: T) {
        self.written = Some(read_back);
        self.restored.extend(self.foreign.take().and_then(|foreign| foreign.due));
    }

    /// Takes what was found for ours, since a person says so; false when it was.
    pub(crate) fn adopt(&mut self, found: &T) -> bool {
        let is_foreign = self.written.as_ref().is_some_and(|written| written != found);
        self.stands(found);
        self.restored.clear();
        is_foreign
    }

    /// What stands may differ without anybody else having changed it, unless somebody else has it already.
    pub(crate) fn doubt(&mut self) {
        if self.foreign.is_none() {
            self.written = None;
        }
    }

    /// What shall stand there does, whoever wrote it.
    pub(crate) fn stands(&mut self, found: &T) {
        self.given_back();
        self.written = Some(found.clone());
    }
}

impl Claim<Limit> {
    /// Whether a value of ours stands there that is a limit at all.
    pub(crate) fn holds_back(&self) -> bool {
        self.is_ours() && self.written.is_some_and(|written| written != Limit::Unlimited)
    }
}

/// `0.45 cores`, `96.0 MiB` or `unlimited`.
pub(crate) fn describe(limit: Limit, resource: Resource) -> String {
    limit.value().map_or_else(|| "unlimited".to_owned(), |value| resource.display(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADOPT: DriftRule = rule(OnDrift::Adopt);
    const RESTORE: DriftRule = rule(OnDrift::Restore);
    const HANDS_OFF: DriftRule = rule(OnDrift::HandsOff);

    const fn rule(answer: OnDrift) -> DriftRule {
        DriftRule { answer, hold: Duration::from_secs(60) }
    }

    fn foreign(expected: f64, left_s: u64) -> Standing<Limit> {
        Standing::Foreign { expected: Limit::At(expected), left: Some(Duration::from_secs(left_s)) }
    }

    fn left_alone(expected: f64) -> Standing<Limit> {
        Standing::Foreign { expected: Limit::At(expected), left: None }
    }

    fn seconds(seconds: i64) -> TimeMs {
        TimeMs(seconds * 1_000)
    }

    fn wrote(limit: f64) -> Claim<Limit> {
        let mut claim = Claim::default();
        claim.wrote(Limit::At(limit));
        claim
    }

    fn told(claim: &mut Claim<Limit>) -> Option<DriftAnswer> {
        claim.take_news().map(|(answer, _)| answer)
    }

    #[test]
    fn before_the_first_write_nothing_is_foreign() {
        let mut claim = Claim::default();
        assert_eq!(claim.observe(Limit::Unlimited, TimeMs(0), ADOPT), Standing::Ours);
        assert_eq!(claim.observe(Limit::At(1.0), TimeMs(1), ADOPT), Standing::Ours);
        assert_eq!(claim.take_news(), None);
    }

    #[test]
    fn a_foreign_value_is_left_alone_and_then_adopted() {
        let mut claim = wrote(1.0);
        assert_eq!(claim.observe(Limit::At(1.0), TimeMs(0), ADOPT), Standing::Ours);
        assert_eq!(claim.observe(Limit::At(2.0), seconds(1), ADOPT), foreign(1.0, 60));
        assert_eq!(claim.take_news(), Some((DriftAnswer::Adopt, Limit::At(1.0))));
        assert_eq!(claim.observe(Limit::At(2.0), seconds(31), ADOPT), foreign(1.0, 30));
        assert_eq!(told(&mut claim), None, "one change, one report");
        assert_eq!(claim.observe(Limit::At(2.0), seconds(61), ADOPT), Standing::Ours);
        assert_eq!(claim.observe(Limit::At(1.0), seconds(62), ADOPT), foreign(2.0, 60));
    }

    #[test]
    fn another_foreign_value_starts_the_hold_anew() {
        for rule in [ADOPT, RESTORE] {
            let mut claim = wrote(1.0);
            claim.observe(Limit::At(2.0), TimeMs(0), rule);
            assert!(told(&mut claim).is_some());
            assert_eq!(claim.observe(Limit::Unlimited, seconds(59), rule), foreign(1.0, 60));
            assert!(told(&mut claim).is_some());
            let back = claim.observe(Limit::At(1.0), seconds(60), rule);
            assert_eq!((back, told(&mut claim)), (Standing::Ours, None), "put back by whoever it was");
        }
    }

    #[test]
    fn hands_off_lasts_until_the_limit_is_given_back() {
        let mut claim = wrote(1.0);
        assert_eq!(claim.observe(Limit::At(2.0), TimeMs(0), HANDS_OFF), left_alone(1.0));
        assert_eq!(claim.take_news(), Some((DriftAnswer::HandsOff, Limit::At(1.0))));
        for (at, found) in [(61, 2.0), (3_600, 3.0), (86_400, 0.5)] {
            assert_eq!(claim.observe(Limit::At(found), seconds(at), HANDS_OFF), left_alone(1.0));
            assert_eq!(told(&mut claim), None, "whatever stands there, it is known already");
        }
        assert_eq!(claim.observe(Limit::At(1.0), seconds(86_401), HANDS_OFF), Standing::Ours);
        assert_eq!(told(&mut claim), Some(DriftAnswer::Over));
        assert_eq!(claim.observe(Limit::At(2.0), seconds(86_402), HANDS_OFF), left_alone(1.0), "and again");
    }

    #[test]
    fn what_a_person_adopts_is_ours_and_what_did_not_last_before_is_forgotten() {
        let mut claim = wrote(1.0);
        for _ in 0..MOST_RESTORES {
            claim.observe(Limit::At(2.0), TimeMs(0), DriftRule { hold: Duration::ZERO, ..RESTORE });
            claim.wrote(Limit::At(1.0));
        }
        assert_eq!(claim.observe(Limit::At(2.0), seconds(1), RESTORE), left_alone(1.0));
        assert!(claim.adopt(&Limit::At(2.0)) && !claim.adopt(&Limit::At(2.0)));
        assert_eq!(claim.take_news(), Some((DriftAnswer::Over, Limit::At(2.0))));
        assert_eq!(claim.observe(Limit::At(2.0), seconds(2), RESTORE), Standing::Ours);
        assert_eq!(claim.observe(Limit::At(3.0), seconds(3), RESTORE), foreign(2.0, 60));
    }

    #[test]
    fn hands_off_goes_on_after_a_restart() {
        let mut claim = Claim::left_alone(Limit::At(1.0));
        assert_eq!(claim.observe(Limit::At(2.0), seconds(5), RESTORE), left_alone(1.0));
        assert_eq!(told(&mut claim), Some(DriftAnswer::HandsOff), "nobody may know of it after a restart");
        let mut given_back = Claim::left_alone(Limit::At(1.0));
        assert_eq!(given_back.observe(Limit::At(1.0), seconds(5), HANDS_OFF), Standing::Ours);
        assert_eq!(told(&mut given_back), Some(DriftAnswer::Over));
    }

    #[test]
    fn ours_may_be_put_back_after_each_hold_and_after_three_times_in_a_row_no_more() {
        let mut claim = wrote(1.0);
        let mut now = 0;
        for _ in 0..MOST_RESTORES {
            assert_eq!(claim.observe(Limit::At(2.0), seconds(now), RESTORE), foreign(1.0, 60));
            assert_eq!(told(&mut claim), Some(DriftAnswer::Restore));
            assert_eq!(claim.observe(Limit::At(2.0), seconds(now + 59), RESTORE), foreign(1.0, 1));
            assert_eq!(claim.observe(Limit::At(2.0), seconds(now + 60), RESTORE), Standing::Ours);
            assert!(!claim.is_as_written(&Limit::At(2.0)), "what was found is not adopted");
            claim.wrote(Limit::At(1.0));
            now += 61;
        }
        assert_eq!(claim.observe(Limit::At(2.0), seconds(now), RESTORE), left_alone(1.0));
        assert_eq!(told(&mut claim), Some(DriftAnswer::GivenUp));
        assert_eq!(claim.observe(Limit::At(2.0), seconds(now + 3_600), RESTORE), left_alone(1.0));
    }

    #[test]
    fn what_lasted_is_not_counted() {
        let mut claim = wrote(1.0);
        for hour in 0..10 {
            let now = hour * 3_600;
            assert_eq!(claim.observe(Limit::At(2.0), seconds(now), RESTORE), foreign(1.0, 60));
            assert_eq!(claim.observe(Limit::At(2.0), seconds(now + 60), RESTORE), Standing::Ours);
            claim.wrote(Limit::At(1.0));
        }
    }

    #[test]
    fn a_change_before_the_hold_is_over_counts_as_no_restore() {
        let mut claim = wrote(1.0);
        for at in 0..10 {
            claim.observe(Limit::At(2.0), seconds(at), RESTORE);
            claim.observe(Limit::At(1.0), seconds(at), RESTORE);
        }
        assert_eq!(claim.observe(Limit::At(2.0), seconds(10), RESTORE), foreign(1.0, 60));
    }
}
