//! What happened to each limit lately: the changes that cooldowns count from, writes under way, and foreign changes.
//!
//! Kept in memory and rebuilt from `decisions` at the start, so that a restart does not forget a cooldown.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_actuator::Drift;
use tidegate_model::{Decision, Mode, OutcomeStatus, TimeMs};

use crate::proposal::LimitKey;
use crate::snapshot::Snapshot;

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

/// A foreign change of a limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Foreign {
    /// When it was noticed.
    pub at: TimeMs,
    /// Until when rules keep their hands off.
    pub until: TimeMs,
    /// The limit that was found.
    pub found: Option<f64>,
}

/// The recent past of one limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub up: Option<Applied>,
    pub down: Option<Applied>,
    /// The last tick whose write failed or could not be reached.
    pub failed: Option<TimeMs>,
    /// The tick whose write is under way.
    pub pending: Option<TimeMs>,
    pub foreign: Option<Foreign>,
    /// Since when there is data without a gap of a minute.
    pub first_data: Option<TimeMs>,
    /// Changes that shadow rules would have made; only shadow rules count from them.
    pub shadow_up: Option<TimeMs>,
    pub shadow_down: Option<TimeMs>,
}

impl Track {
    /// The newest change by the engine.
    pub fn last(&self) -> Option<&Applied> {
        self.up.iter().chain(&self.down).max_by_key(|applied| applied.read_at)
    }

    /// Ticks of the last increase and the last decrease, as a rule of `mode` counts them.
    pub fn last_up_down(&self, mode: Mode) -> (Option<TimeMs>, Option<TimeMs>) {
        let shadow = mode != Mode::On;
        let up = self.up.as_ref().map(|applied| applied.at).max(self.shadow_up.filter(|_| shadow));
        let down = self.down.as_ref().map(|applied| applied.at).max(self.shadow_down.filter(|_| shadow));
        (up, down)
    }

    /// Forgets the marks behind `latest`. A write under way stays, since it ends by itself.
    fn forget_after(&mut self, latest: TimeMs) {
        for applied in [&mut self.up, &mut self.down] {
            applied.take_if(|applied| applied.at > latest || applied.read_at > latest);
        }
        for mark in [&mut self.failed, &mut self.first_data, &mut self.shadow_up, &mut self.shadow_down] {
            mark.take_if(|at| *at > latest);
        }
        self.foreign.take_if(|foreign| foreign.at > latest);
    }

    fn newest(&self) -> Option<TimeMs> {
        let foreign = self.foreign.as_ref().map(|foreign| foreign.until);
        let (up, down) = self.last_up_down(Mode::Shadow);
        up.max(down).max(self.failed).max(self.pending).max(foreign).max(self.first_data)
    }
}

/// The recent past of every limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    tracks: HashMap<LimitKey, Track>,
}

impl History {
    /// How long a limit without data is remembered: the longest cooldown that a rule may have.
    const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How far ahead of a snapshot a mark may lie: ticks overlap, so a late one sees what newer ones did. Further ahead, the
    /// clock was set back, and the mark would refuse every change until the clock had caught up.
    const AHEAD: Duration = Duration::from_secs(60);

    pub fn track(&self, key: &LimitKey) -> Track {
        self.tracks.get(key).cloned().unwrap_or_default()
    }

    fn track_mut(&mut self, key: &LimitKey) -> &mut Track {
        self.tracks.entry(key.clone()).or_default()
    }

    /// Notes which limits have data at the snapshot's instant, and forgets those that are long gone and, after the clock was
    /// set back, what lies ahead of it.
    pub fn observe(&mut self, snapshot: &Snapshot) {
        let ahead = snapshot.now.plus(Self::AHEAD);
        for track in self.tracks.values_mut() {
            track.forget_after(ahead);
        }
        for key in snapshot.readings.keys() {
            self.track_mut(key).first_data.get_or_insert(snapshot.now);
        }
        let oldest = snapshot.now.minus(Self::KEPT);
        self.tracks.retain(|key, track| {
            if !snapshot.readings.contains_key(key) {
                track.first_data = None;
            }
            track.newest().is_some_and(|newest| newest >= oldest)
        });
    }

    /// A change is on its way to the actuator.
    pub fn begin(&mut self, decision: &Decision) {
        self.track_mut(&key_of(decision)).pending = Some(decision.time);
    }

    /// A decision has its outcome.
    pub fn finish(&mut self, decision: &Decision, drift_hold: Duration) {
        let key = key_of(decision);
        let track = self.track_mut(&key);
        if track.pending == Some(decision.time) && decision.outcome.status != OutcomeStatus::Shadow {
            track.pending = None;
        }
        match decision.outcome.status {
            OutcomeStatus::Applied => {
                let to = decision.outcome.limit_after.or(decision.decided);
                let applied = Applied { at: decision.time, read_at: decision.outcome.at, to };
                // What was foreign is ours again; the same value found later is another foreign change.
                track.foreign = None;
                if is_increase(decision.limit_before, to) {
                    track.up = Some(applied)
                } else {
                    track.down = Some(applied)
                }
            }
            OutcomeStatus::Infeasible | OutcomeStatus::Failed | OutcomeStatus::RolledBack => {
                track.failed = Some(decision.time);
            }
            OutcomeStatus::Drifted => {
                let (at, found) = (decision.outcome.at, decision.outcome.limit_after);
                track.foreign = Some(Foreign { at, until: at.plus(drift_hold), found });
            }
            OutcomeStatus::Shadow if is_increase(decision.limit_before, decision.decided) => {
                track.shadow_up = Some(decision.time);
            }
            OutcomeStatus::Shadow => track.shadow_down = Some(decision.time),
            OutcomeStatus::Unchanged | OutcomeStatus::Refused => {}
        }
    }

    /// Notes a foreign change; false when it is the one that is known and left alone already. The same value found after
    /// that is another foreign change.
    pub fn drifted(&mut self, drift: &Drift, hold: Duration) -> bool {
        let track = self.track_mut(&(drift.container.clone(), drift.resource));
        let known = |foreign: &Foreign| foreign.found == drift.found && drift.at < foreign.until;
        if track.foreign.as_ref().is_some_and(known) {
            return false;
        }
        track.foreign = Some(Foreign { at: drift.at, until: drift.at.plus(hold), found: drift.found });
        true
    }

    /// Puts back what an earlier run of the program did; newer facts stay.
    pub fn restore(&mut self, key: &LimitKey, restored: Track) {
        let track = self.track_mut(key);
        let newer = |a: Option<Applied>, b: Option<Applied>| {
            if a.as_ref().map(|x| x.at) >= b.as_ref().map(|x| x.at) { a } else { b }
        };
        track.up = newer(track.up.take(), restored.up);
        track.down = newer(track.down.take(), restored.down);
        track.failed = track.failed.max(restored.failed);
        track.foreign = track.foreign.take().or(restored.foreign);
    }
}

fn key_of(decision: &Decision) -> LimitKey {
    (decision.container.clone(), decision.resource)
}

/// Without a known limit before, a change counts as a decrease: the longer cooldown is the safer one.
fn is_increase(before: Option<f64>, after: Option<f64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after > before) || (before.is_some() && after.is_none())
}
