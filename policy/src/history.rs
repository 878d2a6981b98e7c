//! What happened to each limit lately: the changes that cooldowns count from, writes under way, foreign changes, and what the
//! last change is still owed: a watch over its effects, and its end.
//!
//! Kept in memory and rebuilt from `decisions` at the start, so that a restart does not forget a cooldown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use tidegate_actuator::{Drift, DriftAnswer};
use tidegate_model::{Container, ContainerKey, Decision, OutcomeStatus, Resource, TimeMs};

use crate::explain::WATCH;
use crate::proposal::LimitKey;
use crate::readings::{Figure, Reading};
use crate::snapshot::Snapshot;
use crate::tracks::Tracks;
use crate::watch::Watches;

/// The key of a decision's inputs under which it says what the limit returns to when the rule stops asking for it.
pub(crate) const RETURNS_TO: &str = "ttl_returns_to";
/// The key of a decision's inputs that tells that it ends what the rule stopped asking for.
pub(crate) const EXPIRED: &str = "ttl_expired";

/// A change that was written and read back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    /// The tick that decided it.
    pub at: TimeMs,
    /// When the limit was read back.
    pub read_at: TimeMs,
    /// The limit that was read back.
    pub to: Option<f64>,
}

/// The end of a foreign change that rules keep their hands off until the limit is given back.
pub(crate) const FOR_GOOD: TimeMs = TimeMs(i64::MAX);
/// How often it is tried to put a limit back that somebody else changed.
const RESTORE_TRIES: u32 = 3;

/// A foreign change of a limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Foreign {
    /// When it was noticed.
    pub at: TimeMs,
    /// Until when rules keep their hands off.
    pub until: TimeMs,
    /// The limit that was found.
    pub found: Option<f64>,
    /// What is to be put back then, if anything is.
    pub owed: Option<Owed>,
}

/// A limit that is to be put back, since somebody else changed it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Owed {
    /// What stood there; infinite without a limit.
    pub limit: f64,
    /// When it is tried next.
    pub next: TimeMs,
    /// How often it was.
    pub tries: u32,
}

impl Foreign {
    fn of(drift: &Drift, hold: Duration) -> Self {
        let Drift { at, found, answer, expected, .. } = *drift;
        let until = if answer.is_hands_off() { FOR_GOOD } else { at.plus(hold) };
        let owed = (answer == DriftAnswer::Restore).then_some(Owed { limit: expected, next: until, tries: 0 });
        Self { at, until, found, owed }
    }
}

/// A write under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pending {
    /// The tick that decided it.
    pub at: TimeMs,
    /// The limit that it is to leave.
    pub to: f64,
    /// Whether it may shrink the container.
    pub lowers: bool,
}

/// A change that stands as long as its rule asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    /// The rule, which made the last change of the limit.
    pub rule: String,
    /// The limit before the first of the rule's changes.
    pub returns_to: f64,
    /// The last tick at which the rule asked for a limit.
    pub renewed: TimeMs,
}

/// What a change is owed once it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Follow {
    /// How long a decrease is watched; zero not at all.
    pub watch: Duration,
    /// Whether it stands only as long as its rule asks for it.
    pub leased: bool,
    /// Whether it ends what the rule stopped asking for.
    pub expiry: bool,
}

/// The recent past of one limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub up: Option<Applied>,
    pub down: Option<Applied>,
    /// The rule that made the last change.
    pub changed_by: Option<String>,
    /// The last tick whose write failed or could not be reached.
    pub failed: Option<TimeMs>,
    pub pending: Option<Pending>,
    pub foreign: Option<Foreign>,
    pub lease: Option<Lease>,
    /// Since when there is data without a gap of a minute.
    pub first_data: Option<TimeMs>,
    /// When usage was measured last.
    pub last_data: Option<TimeMs>,
    /// The limit that was measured last.
    pub seen_limit: Option<f64>,
    /// When the engine last tried to put back the baseline for want of data.
    pub held: Option<TimeMs>,
    /// When somebody else changed it last, as far as former runs of the program recorded it.
    pub drifted: Option<TimeMs>,
    /// Changes that shadow rules would have made; only shadow rules count from them.
    pub shadow_up: Option<TimeMs>,
    pub shadow_down: Option<TimeMs>,
}

impl Track {
    /// The newest change by the engine.
    pub fn last(&self) -> Option<&Applied> {
        self.up.iter().chain(&self.down).max_by_key(|applied| applied.read_at)
    }

    /// The limit in force at `now`. A sample of it may be older than our last change; then what was read back is the truth.
    pub fn limit(&self, reading: &Reading, now: TimeMs) -> Option<f64> {
        let age = reading.get(Figure::AllocatedAge).unwrap_or(0.0).clamp(0.0, 1e9);
        let sampled_at = now.minus(Duration::from_secs_f64(age));
        let last = self.last().filter(|applied| applied.to.is_some());
        let sampled = reading.get(Figure::Allocated);
        match last {
            // What somebody has taken away since must not be taken for what a change starts from.
            Some(applied) if (sampled.is_none() && !reading.is_unlimited()) || applied.read_at > sampled_at => {
                applied.to
            }
            _ => sampled,
        }
    }

    /// Ticks of the last increase and the last decrease, as a rule counts them that writes, or one that does not.
    pub fn last_up_down(&self, acts: bool) -> (Option<TimeMs>, Option<TimeMs>) {
        let up = self.up.as_ref().map(|applied| applied.at).max(self.shadow_up.filter(|_| !acts));
        let down = self.down.as_ref().map(|applied| applied.at).max(self.shadow_down.filter(|_| !acts));
        (up, down)
    }

    /// When the limit was lowered last, or is being lowered.
    fn shrunk(&self, acts: bool) -> Option<TimeMs> {
        let lowering = self.pending.filter(|pending| pending.lowers).map(|pending| pending.at);
        self.last_up_down(acts).1.max(lowering)
    }

    /// Forgets the marks behind `latest`. A write under way stays, since it ends by itself.
    fn forget_after(&mut self, latest: TimeMs) {
        for applied in [&mut self.up, &mut self.down] {
            applied.take_if(|applied| applied.at > latest || applied.read_at > latest);
        }
        let marks = [
            &mut self.failed,
            &mut self.first_data,
            &mut self.last_data,
            &mut self.held,
            &mut self.shadow_up,
            &mut self.shadow_down,
        ];
        for mark in marks {
            mark.take_if(|at| *at > latest);
        }
        self.foreign.take_if(|foreign| foreign.at > latest);
        if let Some(lease) = &mut self.lease {
            lease.renewed = lease.renewed.min(latest);
        }
    }

    /// There is data at `now`.
    fn see(&mut self, reading: &Reading, now: TimeMs) {
        self.first_data.get_or_insert(now);
        self.seen_limit = reading.get(Figure::Allocated).or(self.seen_limit);
        let age = reading.get(Figure::Age).unwrap_or(0.0).clamp(0.0, 1e9);
        self.last_data = self.last_data.max(Some(now.minus(Duration::from_secs_f64(age))));
    }

    /// A container that was made anew under its name at `begin` owes nothing to what was done to the former one: its limit is
    /// whoever made it, its data begin with it.
    fn forget_before(&mut self, begin: TimeMs) {
        let former = |at: Option<TimeMs>| at.is_some_and(|at| at < begin);
        if former(self.up.iter().chain(&self.down).map(|applied| applied.read_at).max()) {
            // Cooldowns go on: who comes and goes all the time is not to be changed all the time, too.
            (self.lease, self.changed_by) = (None, None);
            for applied in [&mut self.up, &mut self.down].into_iter().flatten() {
                applied.to = None;
            }
        }
        self.first_data.take_if(|at| *at < begin);
        self.foreign.take_if(|foreign| foreign.at < begin);
    }

    fn newest(&self) -> Option<TimeMs> {
        // One that is left alone for good is remembered as long as the container is measured.
        let foreign =
            self.foreign.as_ref().map(|foreign| if foreign.until == FOR_GOOD { foreign.at } else { foreign.until });
        let (up, down) = self.last_up_down(false);
        let pending = self.pending.map(|pending| pending.at);
        let lease = self.lease.as_ref().map(|lease| lease.renewed);
        up.max(down).max(self.failed).max(pending).max(foreign).max(lease).max(self.first_data).max(self.last_data)
    }
}

/// The past of a limit that nothing happened to.
static UNTOUCHED: LazyLock<Track> = LazyLock::new(Track::default);

/// The recent past of every limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    tracks: Tracks,
    /// No mark of a track lies behind this instant.
    latest: Option<TimeMs>,
    /// What decreases are doing.
    pub watches: Watches,
    /// Whether what happened before the start could not be read yet.
    pub unknown_past: bool,
    /// Those of which is known since when they are there. Not held, or the store had to copy them for each change.
    containers: Weak<BTreeMap<ContainerKey, Container>>,
}

impl History {
    /// How long a limit without data is remembered: the longest cooldown that a rule may have.
    const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How far ahead of a snapshot a mark may lie: ticks overlap, so a late one sees what newer ones did. Further ahead, the
    /// clock was set back, and the mark would refuse every change until the clock had caught up.
    const AHEAD: Duration = Duration::from_secs(60);

    pub fn track(&self, key: &LimitKey) -> &Track {
        self.tracks.get(key).unwrap_or_else(|| &UNTOUCHED)
    }

    pub fn get(&self, key: &LimitKey) -> Option<&Track> {
        self.tracks.get(key)
    }

    /// The limit in force at `now`, of which `reading` is the newest sample; see [`Track::limit`].
    pub fn limit(&self, key: &LimitKey, reading: &Reading, now: TimeMs) -> Option<f64> {
        self.get(key).map_or_else(|| reading.get(Figure::Allocated), |track| track.limit(reading, now))
    }

    /// When a container was shrunk last, as rules count it that write, or those that do not.
    pub fn shrunk(&self, container: &ContainerKey, acts: bool) -> Option<TimeMs> {
        let mut key = (container.clone(), Resource::Cpu);
        Resource::with_knobs().fold(None, |last, resource| {
            key.1 = resource;
            last.max(self.tracks.get(&key).and_then(|track| track.shrunk(acts)))
        })
    }

    /// By host, the containers that were shrunk less than `window` before `now`.
    pub fn shrunk_lately(&self, now: TimeMs, window: Duration, acts: bool) -> HashMap<&str, BTreeSet<&str>> {
        let mut lately: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for ((container, _), track) in self.tracks.iter() {
            if track.shrunk(acts).is_some_and(|at| now.since(at) < window) {
                lately.entry(&container.host).or_default().insert(&container.name);
            }
        }
        lately
    }

    /// Notes that a mark of `at` is made.
    fn marks(&mut self, at: TimeMs) {
        self.latest = self.latest.max(Some(at));
    }

    /// Notes which limits have data at the snapshot's instant, and forgets those that are long gone and, after the clock was
    /// set back, what lies ahead of it.
    pub fn observe(&mut self, snapshot: &Snapshot) {
        let now = snapshot.now;
        let (ahead, oldest) = (now.plus(Self::AHEAD), now.minus(Self::KEPT));
        if self.latest.is_some_and(|latest| latest > ahead) {
            self.tracks.iter_mut().for_each(|(_, track)| track.forget_after(ahead));
            self.latest = Some(ahead);
        }
        self.marks(now);
        let containers = Arc::downgrade(&snapshot.containers);
        if !Weak::ptr_eq(&self.containers, &containers) {
            for (key, track) in self.tracks.iter_mut() {
                if let Some(container) = snapshot.containers.get(&key.0) {
                    track.forget_before(container.first_seen);
                    self.watches.cancel_before(key, container.first_seen);
                }
            }
        }
        self.containers = containers;
        self.tracks.measured(
            &snapshot.readings,
            |track, reading| track.see(reading, now),
            |track, reading| {
                // Of a limit that was changed before the start, how long it has been without data counts from now.
                track.last_data.get_or_insert(now);
                track.see(reading, now);
            },
            |key, track| {
                track.last_data.get_or_insert(now);
                track.first_data = None;
                if let Some(reading) = snapshot.reading(key).filter(|_| key.1.is_knob()) {
                    track.see(&reading, now);
                }
                track.newest().is_some_and(|newest| newest >= oldest)
            },
        );
        self.watches.forget_after(ahead);
    }

    /// What the limits were of containers that are there, but were not measured in the last minute.
    pub fn silent_limits<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        within: Duration,
    ) -> impl Iterator<Item = (&'a LimitKey, f64)> + 'a {
        self.tracks.iter().filter_map(move |(key, track)| {
            let measured = track.last_data.filter(|last| snapshot.now.since(*last) <= within)?;
            if key.1.is_knob() || snapshot.readings.contains_key(key) || !snapshot.containers.contains_key(&key.0) {
                return None;
            }
            let written = track.last().filter(|applied| applied.read_at > measured).and_then(|applied| applied.to);
            Some((key, written.or(track.seen_limit)?))
        })
    }

    /// The knobs that were changed and may stand elsewhere than in the beginning.
    pub fn moved_knobs(&self) -> impl Iterator<Item = &LimitKey> {
        let moved =
            |(key, track): &(&LimitKey, &Track)| key.1.is_knob() && (track.last().is_some() || track.pending.is_some());
        self.tracks.iter().filter(moved).map(|(key, _)| key)
    }

    /// The knobs that stand where a rule left them which does not act there any more, each with that rule.
    pub fn forsaken_knobs<'a>(
        &'a self,
        acts: impl Fn(&str, &ContainerKey) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a LimitKey, &'a Track, &'a str)> + 'a {
        self.tracks.iter().filter_map(move |(key, track)| {
            let rule = track.changed_by.as_deref().filter(|_| key.1.is_knob())?;
            let settled = track.pending.is_none() && track.foreign.is_none();
            // What the engine or a person has set is nobody's.
            (settled && !rule.starts_with('(') && !acts(rule, &key.0)).then_some((key, track, rule))
        })
    }

    /// A change is on its way to the actuator.
    pub fn begin(&mut self, decision: &Decision) {
        let to = decision.decided.unwrap_or(decision.proposed);
        let lowers = !is_increase(decision.limit_before, Some(to));
        self.tracks.get_or_new(&key_of(decision)).pending = Some(Pending { at: decision.time, to, lowers });
    }

    /// A decision has its outcome.
    pub fn finish(&mut self, decision: &Decision, drift_hold: Duration, follow: Follow) {
        let key = key_of(decision);
        self.marks(decision.time.max(decision.outcome.at));
        let track = self.tracks.get_or_new(&key);
        let own = track.pending.is_some_and(|pending| pending.at == decision.time);
        if own && decision.outcome.status != OutcomeStatus::Shadow {
            track.pending = None;
        }
        match decision.outcome.status {
            OutcomeStatus::Applied => {
                let to = decision.outcome.limit_after.or(decision.decided);
                let applied = Applied { at: decision.time, read_at: decision.outcome.at, to };
                // What was foreign is ours again; the same value found later is another foreign change.
                track.foreign = None;
                // What the watch puts back is still what the rule left.
                if decision.rule != WATCH {
                    track.changed_by = Some(decision.rule.clone());
                }
                track.lease(decision, follow);
                if is_increase(decision.limit_before, to) {
                    track.up = Some(applied)
                } else {
                    track.down = Some(applied);
                    self.watches.begin(&key, decision, follow.watch);
                }
            }
            OutcomeStatus::Infeasible | OutcomeStatus::Failed | OutcomeStatus::RolledBack => {
                track.failed = Some(decision.time);
            }
            OutcomeStatus::Drifted => {
                let (at, found) = (decision.outcome.at, decision.outcome.limit_after);
                let known = track.foreign.take();
                let until = known.as_ref().map_or(at, |known| known.until).max(at.plus(drift_hold));
                // The actuator may leave it alone for longer than is known here.
                let owed = known.and_then(|known| known.owed).map(|owed| Owed { next: until, ..owed });
                track.foreign = Some(Foreign { at, until, found, owed });
                (track.lease, track.changed_by) = (None, None);
                self.watches.cancel(&key);
            }
            OutcomeStatus::Shadow if is_increase(decision.limit_before, decision.decided) => {
                track.shadow_up = Some(decision.time);
            }
            OutcomeStatus::Shadow => track.shadow_down = Some(decision.time),
            OutcomeStatus::Unchanged | OutcomeStatus::Refused => {}
        }
        self.watches.settle(&key, decision);
    }

    /// Notes a foreign change, or that one is over; false when that is known already. The same value found after it was left
    /// alone is another foreign change.
    pub fn drifted(&mut self, drift: &Drift, hold: Duration) -> bool {
        let key = (drift.container.clone(), drift.resource);
        self.marks(drift.at);
        let track = self.tracks.get_or_new(&key);
        if drift.answer == DriftAnswer::Over {
            return track.foreign.take().is_some();
        }
        let foreign = Foreign::of(drift, hold);
        let is_known = |known: &Foreign| match foreign.until == FOR_GOOD {
            true => known.until == FOR_GOOD,
            false => known.found == foreign.found && drift.at < known.until,
        };
        if track.foreign.as_ref().is_some_and(is_known) {
            return false;
        }
        track.foreign = Some(foreign);
        (track.lease, track.changed_by) = (None, None);
        self.watches.cancel(&key);
        true
    }

    /// Whether any limit is to be put back that somebody else changed.
    pub fn owes_restores(&self) -> bool {
        self.tracks.iter().any(|(_, track)| track.foreign.as_ref().is_some_and(|foreign| foreign.owed.is_some()))
    }

    /// The limits that are to be put back now, each with what was found there. What comes to nothing is tried again after
    /// another `hold`, a few times.
    pub fn due_restores(&mut self, now: TimeMs, hold: Duration) -> Vec<(LimitKey, f64, Option<f64>)> {
        let mut due = Vec::new();
        for (key, track) in self.tracks.iter_mut() {
            let Some(foreign) = &mut track.foreign else { continue };
            let Some(owed) = foreign.owed.filter(|owed| owed.next <= now) else { continue };
            due.push((key.clone(), owed.limit, foreign.found));
            let tries = owed.tries + 1;
            foreign.owed = (tries < RESTORE_TRIES).then_some(Owed { next: now.plus(hold), tries, ..owed });
        }
        due.sort_by(|a, b| a.0.cmp(&b.0));
        due
    }

    /// A rule asks for this limit, so what it changed there stands.
    pub fn renew(&mut self, key: &LimitKey, rule: &str, now: TimeMs) {
        self.marks(now);
        let lease = self.tracks.get_mut(key).and_then(|track| track.lease.as_mut());
        if let Some(lease) = lease.filter(|lease| lease.rule == rule) {
            lease.renewed = lease.renewed.max(now);
        }
    }

    /// All changes stand as if they had been asked for now: nobody could ask while no rule was evaluated.
    pub fn renew_all(&mut self, now: TimeMs) {
        self.marks(now);
        for lease in self.tracks.iter_mut().filter_map(|(_, track)| track.lease.as_mut()) {
            lease.renewed = lease.renewed.max(now);
        }
    }

    /// What the rule changed stands, whether it asks for it or not.
    pub fn end_leases(&mut self, rule: &str) {
        for (_, track) in self.tracks.iter_mut() {
            track.lease.take_if(|lease| lease.rule == rule);
        }
    }

    /// Whether any change stands only as long as its rule asks for it.
    pub fn has_leases(&self) -> bool {
        self.tracks.iter().any(|(_, track)| track.lease.is_some())
    }

    /// What a rule stopped asking for more than `ttl` ago, in a fixed order. A limit that is back within `band`, a fraction
    /// of it, is done with.
    pub fn expired(&mut self, rule: &str, ttl: Duration, band: f64, snapshot: &Snapshot) -> Vec<(LimitKey, Lease)> {
        let now = snapshot.now;
        let mut expired = Vec::new();
        for (key, track) in self.tracks.iter_mut() {
            let Some(lease) = track.lease.clone().filter(|lease| lease.rule == rule) else { continue };
            // Without data there is nothing to judge a return by.
            let Some(reading) = snapshot.reading(key) else { continue };
            let Some(limit) = track.limit(&reading, now) else { continue };
            if now.since(lease.renewed) <= ttl {
                continue;
            }
            if (limit - lease.returns_to).abs() <= band.max(1e-9) * limit {
                track.lease = None;
                continue;
            }
            expired.push((key.clone(), lease));
        }
        expired.sort_by(|a, b| a.0.cmp(&b.0));
        expired
    }

    /// The limits that the engine changed and that have been without data for longer than `hold_max` of the rule that did,
    /// each with that time. Each is told once in `hold_max`.
    pub fn silent(&mut self, now: TimeMs, hold_max: impl Fn(&str) -> Duration) -> Vec<(LimitKey, Duration)> {
        let mut silent = Vec::new();
        self.marks(now);
        for (key, track) in self.tracks.iter_mut() {
            let (Some(rule), Some(last)) = (&track.changed_by, track.last_data) else { continue };
            let since = now.since(last);
            if since.is_zero() {
                continue;
            }
            let hold = hold_max(rule);
            let tried = track.held.is_some_and(|held| now.since(held) < hold);
            if hold.is_zero() || since <= hold || tried {
                continue;
            }
            track.held = Some(now);
            silent.push((key.clone(), since));
        }
        silent.sort();
        silent
    }

    /// Puts back what an earlier run of the program did; newer facts stay.
    pub fn restore(&mut self, key: &LimitKey, restored: Track) {
        self.containers = Weak::new();
        // Whatever it holds is looked at.
        self.latest = Some(TimeMs(i64::MAX));
        let track = self.tracks.get_or_new(key);
        let newer = |a: Option<Applied>, b: Option<Applied>| {
            if a.as_ref().map(|x| x.at) >= b.as_ref().map(|x| x.at) { a } else { b }
        };
        track.up = newer(track.up.take(), restored.up);
        track.down = newer(track.down.take(), restored.down);
        track.failed = track.failed.max(restored.failed);
        track.drifted = track.drifted.max(restored.drifted);
        track.foreign = track.foreign.take().or(restored.foreign);
        track.changed_by = track.changed_by.take().or(restored.changed_by);
        track.lease = track.lease.take().or(restored.lease);
    }
}

impl Track {
    /// Who holds the limit after a change, and what it returns to.
    fn lease(&mut self, decision: &Decision, follow: Follow) {
        let former = self.lease.take().filter(|lease| lease.rule == decision.rule);
        if !follow.leased || (follow.expiry && former.is_none()) {
            return;
        }
        self.lease = match (former, decision.limit_before) {
            // On its way back the lease stays as old as it is.
            (Some(former), _) if follow.expiry => Some(former),
            (Some(former), _) => Some(Lease { renewed: former.renewed.max(decision.time), ..former }),
            (None, Some(returns_to)) => Some(Lease { rule: decision.rule.clone(), returns_to, renewed: decision.time }),
            (None, None) => None,
        };
    }
}

fn key_of(decision: &Decision) -> LimitKey {
    (decision.container.clone(), decision.resource)
}

/// Without a known limit before, a change counts as a decrease: the longer cooldown is the safer one.
fn is_increase(before: Option<f64>, after: Option<f64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after > before) || (before.is_some() && after.is_none())
}
