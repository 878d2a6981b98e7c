//! What is read from a cgroup each second.

use std::sync::Arc;
use std::time::Instant;

use tidegate_model::{CgroupVersion, Limit, Resource};

use crate::cgroup::dir::DescriptorBudget;
use crate::cgroup::parse::{Stall, Transferred};
use crate::cgroup::{Cgroup, v1, v2};
use crate::error::ActuatorError;

/// Counters and levels as read; what could not be read is `None` and has a line in [`Gaps`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// CPU time used since the cgroup was made, in ns, and when it was read.
    pub(crate) cpu_ns: Option<(u64, Instant)>,
    pub(crate) throttling: Option<Throttling>,
    pub(crate) cpu_stall: Option<(Stall, Instant)>,
    pub(crate) memory_stall: Option<(Stall, Instant)>,
    /// Usage less the page cache on the inactive list, which goes first and costs nothing to drop.
    pub(crate) working_set: Option<u64>,
    pub(crate) unreclaimable: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    pub(crate) transferred: Option<(Transferred, Instant)>,
}

/// CFS bandwidth counters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throttling {
    /// Periods in which the cgroup had something to run.
    pub(crate) periods: u64,
    /// Those in which it ran out of quota.
    pub(crate) throttled: u64,
}

/// What could not be read, in words.
#[derive(Debug, Default)]
pub(crate) struct Gaps(Vec<String>);

impl Gaps {
    pub(crate) fn note(&mut self, problem: impl ToString) {
        self.0.push(problem.to_string());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets the latest notes, down to `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// The value, or a note that it could not be had.
    pub(crate) fn take<T>(&mut self, result: Result<T, ActuatorError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    /// As [`Gaps::take`], for what some kernels do not have at all: then there is nothing to report.
    pub(crate) fn take_optional<T>(&mut self, result: Result<T, ActuatorError>) -> Option<T> {
        match result {
            // PSI that was switched off at boot answers EOPNOTSUPP.
            Err(error) if error.is_missing() || error.errno() == Some(nix::libc::EOPNOTSUPP) => None,
            result => self.take(result),
        }
    }

    pub(crate) fn into_problems(self) -> Vec<String> {
        self.0
    }
}

/// Reads one cgroup through descriptors that it keeps.
pub(crate) trait Sampler: Send {
    /// Reads usage, throttling, pressure and OOM kills.
    fn read(&mut self, gaps: &mut Gaps) -> Reading;

    /// Reads the own limit or a knob; `None` when the cgroup has no directory for that resource.
    fn limit(&mut self, resource: Resource) -> Result<Option<Limit>, ActuatorError>;
}

/// The sampler for a cgroup's version.
pub(crate) fn sampler(cgroup: &Cgroup, budget: &Arc<DescriptorBudget>) -> Box<dyn Sampler> {
    match cgroup.version {
        CgroupVersion::V1 => Box::new(v1::V1Sampler::new(cgroup, budget)),
        CgroupVersion::V2 => Box::new(v2::V2Sampler::new(cgroup, budget)),
    }
}
