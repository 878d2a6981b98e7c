//! Memory limits: what both versions have in common, and the floor below which nothing is tried.

use tidegate_model::{Bytes, CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::{Job, Verdict, memory_v1, memory_v2, put, read_back, tell};
use crate::cgroup::dir::Dir;
use crate::cgroup::{v1, v2};
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::owner::{MemoryWish, Owner};
use crate::quota::{CpuMax, Plan, page_size, plan_memory};

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
            return Ok(Verdict::unchanged(found, Resource::Memory));
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
    let wish = MemoryWish { max: Some(new), swap, high: present_high(job, dir)? };
    let ask = |owner: &dyn Owner| owner.set_memory(wish, present_cpu(job), job.other_changed);
    let with = |note: String| {
        Written::Partly(match &written {
            Written::Partly(former) => format!("{former}; {note}"),
            _ => note,
        })
    };
    let why = match tell(job, owner, Some(new), ask, writes) {
        Ok((_, Some(note))) => return Ok(with(note)),
        Ok((_, None)) => return Ok(written),
        Err(why) => why,
    };
    if job.owner_only {
        raise_file(job, dir, Limit::At(new as f64), found, writes)?;
        return Err(ActuatorError::Owner(why.to_string()));
    }
    Ok(with(format!("{why}; only the cgroup file has it")))
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
            if !job.keeps_high {
                memory_v2::raise_high(dir, new, writes)?;
            }
            if writes.len() > before { Some(new) } else { present_high(job, dir)? }
        }
    };
    let to = new.map_or(Limit::Unlimited, |new| Limit::At(new as f64));
    let file = |writes: &mut Vec<Write>| raise_file(job, dir, found, to, writes);
    let wish = MemoryWish { max: new, swap, high };
    let ask = |owner: &dyn Owner| owner.set_memory(wish, present_cpu(job), job.other_changed);
    let note = put(job, new, ask, file, writes)?;
    Ok(note.map_or(Written::Yes, Written::Partly))
}

/// Raises the limit in the cgroup file.
pub(super) fn raise_file(
    job: &Job<'_>,
    dir: &Dir,
    from: Limit,
    to: Limit,
    writes: &mut Vec<Write>,
) -> Result<(), ActuatorError> {
    let to = to.value().map(|bytes| bytes as u64);
    match job.cgroup.version {
        CgroupVersion::V1 => memory_v1::raise(dir, from, to, writes),
        CgroupVersion::V2 => memory_v2::write_max(dir, to, writes),
    }
}

/// The memory limits as they stand, for an owner that is told of the CPU limit. What cannot be read counts as unlimited, as
/// it does where the controller is not there.
pub(super) fn present(job: &Job<'_>) -> MemoryWish {
    let read = || {
        let dir = job.cgroup.dir(Resource::Memory)?;
        let limit = job.cgroup.own_limit(Resource::Memory).ok()?;
        let max = limit.value().map(|bytes| bytes as u64);
        Some(MemoryWish { max, swap: swap_room(job, dir, limit).ok()?, high: present_high(job, dir).ok()? })
    };
    read().unwrap_or(MemoryWish { max: None, swap: None, high: None })
}

/// The CPU limit as it stands, for an owner that is told of the memory limit.
pub(super) fn present_cpu(job: &Job<'_>) -> CpuMax {
    let found = job.cgroup.dir(Resource::Cpu).and_then(|dir| job.cgroup.cpu_max(dir).ok());
    found.unwrap_or(CpuMax { quota: None, period: 100_000 })
}

/// The memory.high that stands, if there is one: an owner that writes it along shall write this one.
fn present_high(job: &Job<'_>, dir: &Dir) -> Result<Option<Option<u64>>, ActuatorError> {
    if job.owner.is_none() || job.cgroup.version == CgroupVersion::V1 {
        return Ok(None);
    }
    let bytes = |limit: Limit| limit.value().map(|high| high as u64);
    let mut high = bytes(v2::memory_limit(dir, v2::HIGH)?);
    if let Some(squeeze) = job.squeeze.filter(|squeeze| high == Some(squeeze.goal)) {
        high = bytes(squeeze.former);
    }
    // One that a rule took away has to be said, or the owner brings back what it knows.
    Ok((high.is_some() || job.high_moved).then_some(high))
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
pub(crate) fn too_close(held: u64, new: u64) -> bool {
    held as f64 * FLOOR > new as f64
}

pub(crate) fn does_not_fit(held: u64, new: u64) -> String {
    format!("{} are held that cannot be reclaimed; {} would be too close to it or below it", Bytes(held), Bytes(new))
}
