//! Knobs beside the two limits: weight, burst, CPUs, memory.high, swap and rates of disks, as configuration and labels say.
//!
//! They are no decisions: nobody computes them, and they stand for as long as a container does. So they are kept by the host
//! itself, with what a limit has: range checks before the kernel is asked, what was found put on disk before the first
//! change, one write and a look at what stands then, and hands off of what somebody else has set. [`setting`] says what can
//! be asked for, [`file`] what that is in the files of v1 and v2, [`keeper`] sees to it.

pub(crate) mod file;
pub(crate) mod keeper;
pub(crate) mod setting;
pub(crate) mod wish;

use serde::{Deserialize, Serialize};
use tidegate_model::{ContainerKey, OutcomeStatus, TimeMs};

/// Whether knobs are kept as they shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnobMode {
    /// They are.
    #[default]
    Keep,
    /// Nothing is written: the kill switch is on.
    Hold,
    /// What was found before the first change is put back: the kill switch wants that.
    GiveBack,
}

/// What came of one knob of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnobReport {
    /// Whose.
    pub container: ContainerKey,
    /// Which, such as `cpu.weight` or `io.max 8:0`.
    pub knob: String,
    /// What came of it.
    pub status: OutcomeStatus,
    /// What was set, as a number: a weight, µs, how many CPUs, bytes or the first rate; 0 for no limit and where nothing
    /// was set.
    pub value: f64,
    /// The former and the new value, or why there is none.
    pub message: String,
    /// When.
    pub at: TimeMs,
}
