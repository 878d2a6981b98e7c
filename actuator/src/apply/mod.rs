//! The write procedure: look, compare with what was last written, write once, read back.

mod cpu;
mod memory;
mod memory_v1;
mod memory_v2;
mod refusal;

use std::time::Duration;

use tidegate_model::{Limit, OutcomeStatus, Resource, TimeMs, Write};

use crate::cgroup::dir::Dir;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::drift::{Owned, Standing, describe};
use crate::error::ActuatorError;

/// One change to carry out.
pub(crate) struct Job<'a> {
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) resource: Resource,
    /// In the resource's base unit; infinite is unlimited.
    pub(crate) target: f64,
    pub(crate) now: TimeMs,
    pub(crate) drift_hold: Duration,
    pub(crate) squeeze_timeout: Duration,
    /// Puts the limit that stands now on disk before it is changed for the first time.
    pub(crate) record_baseline: &'a dyn Fn(Limit) -> Result<(), ActuatorError>,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) status: OutcomeStatus,
    /// The own limit as it was read last; `None` when it could not be read.
    pub(crate) limit: Option<Limit>,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn new(status: OutcomeStatus, limit: impl Into<Option<Limit>>, message: impl Into<String>) -> Self {
        Self { status, limit: limit.into(), message: message.into() }
    }
}

/// Carries out `job` with the lock on `owned` held by the caller. Every write that the kernel took is in `writes`.
pub(crate) fn run(job: &Job<'_>, owned: &mut Owned, writes: &mut Vec<Write>) -> Verdict {
    let Some(dir) = job.cgroup.dir(job.resource) else {
        return Verdict::new(OutcomeStatus::Refused, None, job.cgroup.no_controller(job.resource).to_string());
    };
    let mut found = None;
    match attempt(job, dir, owned, writes, &mut found) {
        Ok(verdict) => verdict,
        Err(error) => {
            // The limit may have been written before a later step failed: what stands now is what counts.
            let stands = job.cgroup.own_limit(job.resource).ok();
            if let Some(limit) = stands.filter(|limit| found.is_some_and(|found| found != *limit)) {
                owned.wrote(limit);
            }
            let (status, message) = refusal::explain(&error, job, dir);
            Verdict::new(status, stands.or(found), message)
        }
    }
}

fn attempt(
    job: &Job<'_>,
    dir: &Dir,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
    seen: &mut Option<Limit>,
) -> Result<Verdict, ActuatorError> {
    let found = job.cgroup.own_limit(job.resource)?;
    *seen = Some(found);
    if let Standing::Foreign { expected, left } = owned.observe(found, job.now, job.drift_hold) {
        let message = format!(
            "somebody else changed {} from {} to {}; it is left alone for another {} s",
            dir.path().join(job.cgroup.limit_file(job.resource)).display(),
            describe(expected, job.resource),
            describe(found, job.resource),
            left.as_secs_f64().ceil(),
        );
        return Ok(Verdict::new(OutcomeStatus::Drifted, found, message));
    }
    match job.resource {
        Resource::Cpu => cpu::change(job, dir, found, owned, writes),
        Resource::Memory => memory::change(job, dir, found, owned, writes),
    }
}

/// The last step of every change: reads the limit back, remembers it, and says whether it is what was written.
fn read_back(job: &Job<'_>, written: Limit, before: Limit, owned: &mut Owned) -> Result<Verdict, ActuatorError> {
    let stands = job.cgroup.own_limit(job.resource)?;
    owned.wrote(stands);
    let (before, after) = (describe(before, job.resource), describe(stands, job.resource));
    if stands != written {
        let message = format!("{} was written, but {after} stands there", describe(written, job.resource));
        return Ok(Verdict::new(OutcomeStatus::Failed, stands, message));
    }
    let mut message = format!("{before} to {after}");
    let tighter = job.hierarchy.tightest_ancestor(&job.cgroup.path, job.resource)?;
    if let Some(ancestor) = tighter.filter(|ancestor| stands.value().is_none_or(|own| ancestor.value < own)) {
        let (value, path) = (job.resource.display(ancestor.value), ancestor.path.display());
        message = format!("{message}; in force are {value}, the limit of {path} above it");
    }
    Ok(Verdict::new(OutcomeStatus::Applied, stands, message))
}
