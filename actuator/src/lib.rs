//! Finds a host's containers, measures them each second, and writes, reads back and guards their limits and knobs.
//!
//! Owns everything that touches `/sys/fs/cgroup` or a container runtime: discovery, the collector, the write procedure,
//! drift detection and the recorded baselines. Never decides a limit, never kills a process, never creates or removes a
//! cgroup (but for [`sandbox`], which makes some of its own), never writes a value that stands there already (but an
//! owner that has to learn of it may), and never writes below any directory other than the one that was discovered. I/O is
//! blocking; async callers put it on a blocking thread.
//!
//! Whoever made a container knows its name and its labels (`runtime`), and keeps a record of its limits: so a change goes
//! through Docker, Podman, LXD, Incus or systemd where one of them did (`owner`), and into the cgroup file where nobody did
//! or they fail. Their sockets are spoken to directly, each exchange bounded in time: what is needed of HTTP and of D-Bus is a few
//! calls, and the collector must not wait for a daemon that hangs.
//!
//! Kernel files are read and written here rather than through the `cgroups-rs` crate, because that crate cannot be pointed
//! at a mount of one's choice (so nothing can be tested on a fake tree), hides the errno that tells "does not fit" from
//! "does not exist", swallows errors of some writes, takes hybrid hosts for plain v1, and opens a dozen files for what a
//! kept-open descriptor reads in a third of a microsecond.
//!
//! Reality and simulation meet in two traits: [`Source`] measures, [`Actuator`] changes. [`LocalHost`] is this machine's
//! kernel, [`simulated::SimulatedHost`] a made-up one, [`Remote`] are other machines on which an [`agent`] runs; a [`Fleet`]
//! is all of them together.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
mod apply;
mod arrivals;
mod baseline;
mod capacity;
mod cgroup;
mod collector;
mod config;
mod discovery;
mod drift;
mod error;
mod host;
mod inspect;
mod knobs;
mod labels;
mod late;
mod network;
mod owner;
mod pinning;
mod quota;
mod remote;
mod rescaler;
mod runtime;
pub mod sandbox;
pub mod simulated;
mod state_file;

use serde::{Deserialize, Serialize};
use tidegate_model::{Clock, Container, ContainerKey, Host, Outcome, OutcomeStatus, Resource, SampleBatch, TimeMs};

pub use config::{ActuatorConfig, AppRule, BoundsRule, BoundsSpec, OnDrift, WriteVia};
pub use discovery::{Identity, identify};
pub use error::ActuatorError;
pub use host::LocalHost;
pub use inspect::{Finding, FindingStatus, HostReport, inspect, inspect_configured};
pub use knobs::wish::KnobRule;
pub use knobs::{KnobMode, KnobReport};
pub use remote::{AgentStatus, Fleet, Question, Remote, RemoteError};
pub use rescaler::NodeError;

/// One limit that shall change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Whose limit.
    pub container: ContainerKey,
    /// Which limit.
    pub resource: Resource,
    /// The new limit in the resource's base unit (cores, bytes). `f64::INFINITY` takes the container's own limit away, as
    /// restoring an unlimited baseline does.
    pub target: f64,
    /// The limit in force that the decision was based on, if one was known: an increase over it that would lower the own
    /// limit, because an ancestor's is in force, writes nothing. `None` when the target is meant as the own limit whatever
    /// is in force, as restoring a baseline does.
    pub limit_before: Option<f64>,
    /// The decision's identifier, for the log.
    pub decision: String,
}

/// Changes limits.
///
/// A caller hands over one change at a time and records what comes back:
///
/// ```
/// # use tidegate_actuator::{Actuator, ActuatorConfig, Change, Source, simulated::SimulatedHost};
/// # use tidegate_model::{OutcomeStatus, Resource, SystemClock, TimeMs};
/// let host = SimulatedHost::new(ActuatorConfig::default(), 7);
/// let container = host.source().collect(TimeMs(0)).present[0].key.clone();
/// let change = Change { container, resource: Resource::Cpu, target: 1.25, limit_before: None, decision: "d1".into() };
/// assert_eq!(host.apply(&change, &SystemClock).status, OutcomeStatus::Applied);
/// assert_eq!(host.apply(&change, &SystemClock).status, OutcomeStatus::Unchanged);
/// ```
pub trait Actuator: Send + Sync {
    /// Carries out one change and says what came of it. Never panics. A memory limit that goes down may block for
    /// [`ActuatorConfig::squeeze_timeout_ms`]; everything else takes microseconds.
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome;

    /// As [`Actuator::apply`], unless `refuse` has a reason not to. It is asked once nothing else of the container is under
    /// way, since waiting for that may take seconds.
    fn apply_unless(&self, change: &Change, refuse: &dyn Fn() -> Option<String>, clock: &dyn Clock) -> Outcome {
        match refuse() {
            Some(message) => Outcome::unwritten(OutcomeStatus::Refused, message, clock.now()),
            None => self.apply(change, clock),
        }
    }

    /// Takes a limit that somebody else has set, and that is left alone, as what changes start from: a person says so.
    /// Nothing is written, and the outcome is [`OutcomeStatus::Unchanged`].
    fn adopt(&self, container: &ContainerKey, _resource: Resource, clock: &dyn Clock) -> Outcome {
        Outcome::unwritten(OutcomeStatus::Refused, format!("no limit of {container} is left alone"), clock.now())
    }

    /// Sees to the knobs of the containers of this machine, as its configuration and their labels say; meant to be called
    /// each second. What came of it is in the next [`Collected::knobs`].
    fn tend_knobs(&self, _mode: KnobMode, _clock: &dyn Clock) {}

    /// Why no kernel is behind this actuator, when none is.
    fn simulated(&self) -> Option<String>;

    /// Whether no change ever blocks, so that none needs a thread of its own.
    fn is_instant(&self) -> bool {
        false
    }
}

/// Measures everything once.
pub trait Source: Send {
    /// Measures the host and all its containers; every sample is stamped with exactly `now`.
    fn collect(&mut self, now: TimeMs) -> Collected;
}

/// What one collection found.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The samples: metrics of [`tidegate_model::metrics`], tags `host`, `container`, `app` (left out when there is none),
    /// `resource`. What could not be read is missing, never zero.
    pub samples: SampleBatch,
    /// The machine's capacity.
    pub host: Host,
    /// Containers seen for the first time, a re-created one with its new incarnation.
    pub appeared: Vec<Container>,
    /// Containers that are gone. A re-created container is in both lists.
    pub vanished: Vec<ContainerKey>,
    /// All containers, with `last_seen` = now.
    pub present: Vec<Container>,
    /// Limits that somebody else changed since the last collection.
    pub drifts: Vec<Drift>,
    /// What came of knobs since the last collection.
    pub knobs: Vec<KnobReport>,
    /// What could not be read and why, one sentence each. A lasting problem is listed by each collection again.
    pub problems: Vec<String>,
}

/// A limit that somebody else changed after Tidegate wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Whose limit.
    pub container: ContainerKey,
    /// Which limit.
    pub resource: Resource,
    /// What Tidegate had written, in the resource's base unit; infinite when it had taken the limit away.
    #[serde(with = "agent::wire::or_unlimited")]
    pub expected: f64,
    /// What stands there now; `None` when unlimited.
    pub found: Option<f64>,
    /// When it was noticed.
    pub at: TimeMs,
    /// What becomes of it.
    #[serde(default)]
    pub answer: DriftAnswer,
}

/// What becomes of a limit that somebody else changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftAnswer {
    /// It is left alone for a while, and then it is what rules start from.
    #[default]
    Adopt,
    /// It is left alone for a while, and then what was expected is to be written again: whoever decides about limits does
    /// that, by a change like any other.
    Restore,
    /// It is left alone until what was expected stands there again, or until a person says otherwise.
    HandsOff,
    /// As [`DriftAnswer::HandsOff`], since putting it back did not last.
    GivenUp,
    /// What was expected stands there again, after one of the former two: it may be changed.
    Over,
}

impl DriftAnswer {
    /// Whether no change is made until the limit is given back.
    pub fn is_hands_off(self) -> bool {
        matches!(self, Self::HandsOff | Self::GivenUp)
    }
}
