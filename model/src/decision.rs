//! What the engine decided, why, and what the kernel made of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::TimeMs;
use crate::container::ContainerKey;
use crate::limit::Resource;

/// How far a rule's proposals go. As text, in SQL and JSON alike: `off`, `shadow`, `canary 10 %`, `on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mode {
    /// Not evaluated.
    Off,
    /// Evaluated and recorded; nothing is written.
    Shadow,
    /// As `On` for this many percent of all containers, 1 to 99, and as `Shadow` for the others.
    Canary(u8),
    /// Evaluated, recorded and written.
    On,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Off => f.write_str("off"),
            Mode::Shadow => f.write_str("shadow"),
            Mode::Canary(percent) => write!(f, "canary {percent} %"),
            Mode::On => f.write_str("on"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let canary = || {
            let percent = name.strip_prefix("canary")?.trim().trim_end_matches('%').trim_end();
            percent.parse().ok().filter(|percent| (1..=99).contains(percent)).map(Mode::Canary)
        };
        match name {
            "off" => Ok(Mode::Off),
            "shadow" => Ok(Mode::Shadow),
            "on" => Ok(Mode::On),
            _ => canary().ok_or_else(|| {
                format!("unknown mode '{name}': expected 'off', 'shadow', 'canary n %' with n from 1 to 99, or 'on'")
            }),
        }
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        mode.to_string()
    }
}

/// What a guard did to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardAction {
    /// Let it through unchanged; only recorded where that explains something.
    Passed,
    /// Moved the target.
    Changed,
    /// Refused the proposal; nothing will be written.
    Refused,
}

/// One guard's arithmetic, as it is shown to a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// The guard's name: `bounds`, `stale`, `cooldown`, `step`, ...
    pub guard: String,
    /// What it did.
    pub action: GuardAction,
    /// The target it was given, in the resource's base unit.
    pub before: f64,
    /// The target it passed on.
    pub after: f64,
    /// The arithmetic in words: `0.90 cores is above the bound of 0.50 cores`.
    pub why: String,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// Written and read back.
    Applied,
    /// The limit stands there already, within the kernel's rounding; nothing was written.
    Unchanged,
    /// A guard or the kernel said no; the reason is in the message.
    Refused,
    /// The container would not fit under the limit; the former one stands.
    Infeasible,
    /// Somebody else changed the limit; it was left alone.
    Drifted,
    /// Written, then put back.
    RolledBack,
    /// The rule is in shadow mode; nothing was written.
    Shadow,
    /// The write or the read-back failed; the message says how.
    Failed,
}

impl OutcomeStatus {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeStatus::Applied => "applied",
            OutcomeStatus::Unchanged => "unchanged",
            OutcomeStatus::Refused => "refused",
            OutcomeStatus::Infeasible => "infeasible",
            OutcomeStatus::Drifted => "drifted",
            OutcomeStatus::RolledBack => "rolled_back",
            OutcomeStatus::Shadow => "shadow",
            OutcomeStatus::Failed => "failed",
        }
    }
}

/// One write to a kernel file or a runtime's API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file's absolute path or the API's call.
    pub target: String,
    /// What was written.
    pub value: String,
}

/// What the actuator did and saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What came of it.
    pub status: OutcomeStatus,
    /// The limit that was read back, in the resource's base unit; `None` when unlimited or unread.
    pub limit_after: Option<f64>,
    /// Every write, in order.
    pub writes: Vec<Write>,
    /// For a person: why it was refused, what was not reached, who else wrote.
    pub message: String,
    /// When the limit was read back.
    pub at: TimeMs,
    /// From the first read to the read-back, in microseconds.
    pub took_us: u64,
}

impl Outcome {
    /// What comes of a change of which nothing was written.
    pub fn unwritten(status: OutcomeStatus, message: String, at: TimeMs) -> Self {
        Self { status, limit_after: None, writes: Vec::new(), message, at, took_us: 0 }
    }
}

/// One proposal with everything that went in and what came out: a row of `decisions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Unique and the same when the tick is replayed.
    pub id: String,
    /// The tick, which is what `now()` was.
    pub time: TimeMs,
    /// The rule's name.
    pub rule: String,
    /// The rule's version at that tick.
    pub version: u32,
    /// Whose limit.
    pub container: ContainerKey,
    /// Which limit.
    pub resource: Resource,
    /// The limit in force before, in the resource's base unit; `None` when none was known.
    pub limit_before: Option<f64>,
    /// What the rule wanted.
    pub proposed: f64,
    /// What the guards left of it; `None` when one of them refused.
    pub decided: Option<f64>,
    /// What the guards did, in order; those that passed it unchanged are left out.
    pub guards: Vec<GuardReport>,
    /// The rule's own words.
    pub reason: String,
    /// The rule's mode at that tick.
    pub mode: Mode,
    /// What the engine knew: usage, limit, age, bounds, and the rule's further columns, as a JSON object.
    pub inputs: serde_json::Value,
    /// What came of it.
    pub outcome: Outcome,
}

/// One event that a rule emitted: a row of `events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The tick.
    pub time: TimeMs,
    /// The rule.
    pub rule: String,
    /// About which container.
    pub container: ContainerKey,
    /// About which resource.
    pub resource: Resource,
    /// The event's name.
    pub name: String,
    /// A value that goes with it.
    pub value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_one_text_everywhere() {
        for (text, mode) in [("off", Mode::Off), ("canary 1 %", Mode::Canary(1)), ("on", Mode::On)] {
            assert_eq!((text.parse(), mode.to_string()), (Ok(mode), text.to_owned()));
            assert_eq!(serde_json::to_value(mode).ok(), Some(text.into()));
            assert_eq!(serde_json::from_value::<Mode>(text.into()).ok(), Some(mode));
        }
        assert_eq!(["canary 25%", "canary 25", "canary25 %"].map(str::parse), [(); 3].map(|()| Ok(Mode::Canary(25))));
        for wrong in ["canary", "canary 0 %", "canary 100 %", "canary -5 %", "canary 2.5 %", "live", "ON"] {
            assert!(wrong.parse::<Mode>().is_err(), "{wrong}");
        }
    }
}
