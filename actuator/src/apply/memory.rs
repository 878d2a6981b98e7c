//! Memory limits: what both versions have in common, and the floor below which nothing is tried.

use tidegate_model::{Bytes, CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::{Job, Verdict, memory_v1, memory_v2, put, read_back};
use crate::cgroup::dir::Dir;
use crate::cgroup::{v1, v2};
use crate::drift::{Owned, describe};
use crate::error::ActuatorError;
use crate::owner::MemoryWish;
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

    let written = match lower {
        Some(new) => lower_and_tell(job, dir, found, new, writes)?,
        None => raise(job, dir, found, new, writes)?,
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

/// Lowers the limit in the file, where the procedure can look in between and take it back, and then tells the owner: for the
/// kernel that is no change any more.
fn lower_and_tell(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    new: u64,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    let swap = swap_room(job, dir, found)?;
    let written = match job.cgroup.version {
        CgroupVersion::V1 => memory_v1::lower(dir, found, new, writes)?,
        CgroupVersion::V2 => memory_v2::lower(job, dir, found, new, writes)?,
    };
    let (Some(owner), false) = (job.owner, matches!(written, Written::No(_))) else { return Ok(written) };
    let why = match owner.set_memory(MemoryWish { max: Some(new), swap, high: present_high(job, dir)? }) {
        Ok(told) => {
            writes.push(told.write);
            return Ok(written);
        }
        Err(why) => why,
    };
    if job.owner_only {
        let former = found.value().map(|bytes| bytes as u64);
        match job.cgroup.version {
            CgroupVersion::V1 => memory_v1::raise(dir, Limit::At(new as f64), former, writes)?,
            CgroupVersion::V2 => memory_v2::write_max(dir, former, writes)?,
        }
        return Err(ActuatorError::Owner(why.to_string()));
    }
    let note = format!("{why}; only the cgroup file has it");
    Ok(Written::Partly(match written {
        Written::Partly(former) => format!("{former}; {note}"),
        _ => note,
    }))
}

/// Raises the limit; `None` takes it away.
fn raise(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    new: Option<u64>,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    let swap = swap_room(job, dir, found)?;
    let high = match job.cgroup.version {
        CgroupVersion::V1 => None,
        CgroupVersion::V2 => {
            let before = writes.len();
            memory_v2::raise_high(dir, new, writes)?;
            if writes.len() > before { Some(new) } else { present_high(job, dir)? }
        }
    };
    let file = |writes: &mut Vec<Write>| match job.cgroup.version {
        CgroupVersion::V1 => memory_v1::raise(dir, found, new, writes),
        CgroupVersion::V2 => memory_v2::write_max(dir, new, writes),
    };
    let wish = MemoryWish { max: new, swap, high };
    let note = put(job, |owner| owner.set_memory(wish), file, writes)?;
    Ok(note.map_or(Written::Yes, Written::Partly))
}

/// The memory.high that stands, if there is one: an owner that writes it along shall write this one.
fn present_high(job: &Job<'_>, dir: &Dir) -> Result<Option<Option<u64>>, ActuatorError> {
    if job.owner.is_none() || job.cgroup.version == CgroupVersion::V1 {
        return Ok(None);
    }
    let high = v2::memory_limit(dir, v2::HIGH)?.value();
    Ok(high.map(|high| Some(high as u64)))
}

/// How much the group may swap out, in bytes; `None` is unlimited, also where swap is not counted.
fn swap_room(job: &Job<'_>, dir: &Dir, found: Limit) -> Result<Option<u64>, ActuatorError> {
    let limit = match job.cgroup.version {
        _ if job.owner.is_none() => return Ok(None),
        CgroupVersion::V1 => v1::memory_limit_or_none(dir, v1::MEMSW_LIMIT)?,
        CgroupVersion::V2 => v2::memory_limit_or_none(dir, v2::SWAP_MAX)?,
    };
    let with = match job.cgroup.version {
        CgroupVersion::V1 => found.value().unwrap_or(0.0),
        CgroupVersion::V2 => 0.0,
    };
    Ok(limit.and_then(Limit::value).map(|limit| (limit - with).max(0.0) as u64))
}

/// Whether `new` is below the floor for a group that holds `held`.
pub(super) fn too_close(held: u64, new: u64) -> bool {
    held as f64 * FLOOR > new as f64
}

pub(super) fn does_not_fit(held: u64, new: u64) -> String {
    format!("{} are held that cannot be reclaimed; {} would be too close to it or below it", Bytes(held), Bytes(new))
}
