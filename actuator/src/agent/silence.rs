//! What an agent does when its controller says nothing: first nothing, and after a while it puts back what it found.

use std::time::Duration;

/// What a silence has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing new.
    Nothing,
    /// It has lasted so long that nothing is changed any more.
    Hold,
    /// It has lasted so long that the baselines are to be put back.
    Restore,
    /// The controller has spoken again, after a hold.
    Over,
}

/// How long a controller has been silent. It begins with the agent's start: a controller that was never heard is silent.
#[derive(Clone, Debug)]
pub struct Silence {
    hold_after: Duration,
    restore_after: Option<Duration>,
    heard: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Spoken,
    Held,
    Restored,
}

impl Silence {
    /// `restore_after` zero: never.
    pub fn new(hold_after: Duration, restore_after: Duration, now: Duration) -> Self {
        let restore_after = (!restore_after.is_zero()).then_some(restore_after);
        Self { hold_after, restore_after, heard: now, state: State::Spoken }
    }

    /// The controller has spoken.
    pub fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// How long it has been silent.
    pub fn lasts(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// What is to be done now; each thing is said once a silence.
    pub fn due(&mut self, now: Duration) -> Due {
        let lasts = self.lasts(now);
        let reached = match self.restore_after {
            Some(restore_after) if lasts >= restore_after => State::Restored,
            _ if lasts >= self.hold_after => State::Held,
            _ => State::Spoken,
        };
        let due = match (self.state, reached) {
            (State::Spoken, State::Held) => Due::Hold,
            (State::Spoken | State::Held, State::Restored) => Due::Restore,
            (State::Held | State::Restored, State::Spoken) => Due::Over,
            _ => return Due::Nothing,
        };
        self.state = reached;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_held_then_restored_once_and_ends_with_a_word() {
        let at = Duration::from_secs;
        let mut silence = Silence::new(at(30), at(600), at(0));
        let due: Vec<Due> = [0, 29, 30, 31, 599, 600, 601, 900].map(|now| silence.due(at(now))).into();
        use Due::{Hold, Nothing, Over, Restore};
        assert_eq!(due, [Nothing, Nothing, Hold, Nothing, Nothing, Restore, Nothing, Nothing]);
        silence.heard(at(901));
        assert_eq!([901, 930, 931, 1501].map(|now| silence.due(at(now))), [Over, Nothing, Hold, Restore]);
    }

    #[test]
    fn without_a_time_nothing_is_ever_restored() {
        let mut silence = Silence::new(Duration::from_secs(30), Duration::ZERO, Duration::ZERO);
        assert_eq!(silence.due(Duration::from_secs(1 << 30)), Due::Hold);
        assert_eq!(silence.due(Duration::from_secs(1 << 31)), Due::Nothing);
    }
}
