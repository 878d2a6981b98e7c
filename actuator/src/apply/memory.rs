//! Memory limits: what both versions have in common, and the floor below which nothing is tried.

use tidegate_model::{Bytes, CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::{Job, Verdict, memory_v1, memory_v2, read_back};
use crate::cgroup::dir::Dir;
use crate::cgroup::{v1, v2};
use crate::drift::{Owned, describe};
use crate::error::ActuatorError;
use crate::quota::{Plan, page_size, plan_memory};

/// Room above what cannot be reclaimed. A group pinned closer to its limit than this spends its time in reclaim
/// (Kubernetes KEP-2570 saw it livelock).
const FLOOR: f64 = 1.02;

/// How a version's own part of the procedure ended.
pub(super) enum Written {
    /// The limit was written.
    Yes,
    /// It was written, but something that goes with it was not.
    Partly(String),
    /// It was not, or it was put back.
    No(Verdict),
}

pub(super) fn change(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
) -> Result<Verdict, ActuatorError> {
    let new = match plan_memory(job.target, found, page_size()) {
        Err(why) => return Ok(Verdict::new(OutcomeStatus::Refused, found, why)),
        Ok(Plan::Unchanged) => {
            let message = format!("{} stand there already", describe(found, Resource::Memory));
            return Ok(Verdict::new(OutcomeStatus::Unchanged, found, message));
        }
        Ok(Plan::Write(new)) => new,
    };
    let lower = new.filter(|new| found.value().is_none_or(|found| (*new as f64) < found));
    if let Some(new) = lower {
        let held = match job.cgroup.version {
            CgroupVersion::V1 => v1::unreclaimable(dir)?,
            CgroupVersion::V2 => v2::unreclaimable(dir)?,
        };
        if too_close(held, new) {
            return Ok(Verdict::new(OutcomeStatus::Infeasible, found, does_not_fit(held, new)));
        }
    }
    (job.record_baseline)(found)?;

    let written = match (job.cgroup.version, lower) {
        (CgroupVersion::V1, Some(new)) => memory_v1::lower(dir, found, new, writes)?,
        (CgroupVersion::V1, None) => memory_v1::raise(dir, found, new, writes)?,
        (CgroupVersion::V2, Some(new)) => memory_v2::lower(job, dir, found, new, writes)?,
        (CgroupVersion::V2, None) => memory_v2::raise(dir, new, writes)?,
    };
    let note = match written {
        Written::No(verdict) => return Ok(verdict),
        Written::Partly(note) => Some(note),
        Written::Yes => None,
    };
    let mut verdict = read_back(job, new.map_or(Limit::Unlimited, |new| Limit::At(new as f64)), found, owned)?;
    if let Some(note) = note {
        verdict.message = format!("{}; {note}", verdict.message);
    }
    Ok(verdict)
}

/// Whether `new` is below the floor for a group that holds `held`.
pub(super) fn too_close(held: u64, new: u64) -> bool {
    held as f64 * FLOOR > new as f64
}

pub(super) fn does_not_fit(held: u64, new: u64) -> String {
    format!("{} are held that cannot be reclaimed; {} would be too close to it or below it", Bytes(held), Bytes(new))
}
