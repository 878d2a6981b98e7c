//! CPU limits: one quota write, the burst kept below the quota, the period left as it is.

use std::fs;
use std::path::Path;

use tidegate_model::{CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::{Job, Verdict, memory, put, read_back};
use crate::cgroup::dir::Dir;
use crate::cgroup::parse::number;
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::owner::Owner;
use crate::quota::{CpuMax, Plan, plan_cpu};

/// How many of the children that forbid a lower limit are named.
const NAMED: usize = 3;

pub(super) fn change(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
) -> Result<Verdict, ActuatorError> {
    let now = job.cgroup.cpu_max(dir)?;
    let quota = match plan_cpu(job.target, now, job.whole_percent) {
        Err(why) => return Ok(Verdict::new(OutcomeStatus::Refused, found, why)),
        Ok(Plan::Unchanged) => {
            return Ok(Verdict::unchanged(found, Resource::Cpu));
        }
        Ok(Plan::Write(quota)) => quota,
    };
    let new = CpuMax { quota, period: now.period };
    if let Some(why) = above_an_ancestor(job, new.limit())? {
        return Ok(Verdict::new(OutcomeStatus::Refused, found, why));
    }
    (job.record_baseline)(found)?;

    let burst = read_burst(job, dir)?;
    let too_high = burst.filter(|burst| quota.is_some_and(|quota| *burst > quota));
    if let (Some(burst), Some(quota)) = (too_high, quota) {
        // The kernel refuses a quota below the burst, so the burst goes first.
        writes.push(dir.write(job.cgroup.burst_file(), &quota.to_string())?);
        owned.burst_found.get_or_insert(burst);
    }
    let file = |writes: &mut Vec<Write>| {
        writes.push(job.cgroup.write_quota(dir, quota, now.period)?);
        Ok(())
    };
    // Memory as it stands when it is our turn: it may be changing meanwhile.
    let ask = |owner: &dyn Owner| owner.set_cpu(new, memory::present(job), job.other_changed);
    let note = match put(job, memory::present(job).max, ask, file, writes) {
        Ok(note) => note,
        Err(error) => {
            if let Some(burst) = too_high {
                writes.push(dir.write(job.cgroup.burst_file(), &burst.to_string())?);
                owned.burst_found = owned.burst_found.filter(|found| *found != burst);
            }
            return match tighter_children(job, dir, new.limit()) {
                Some(why) if error.errno() == Some(nix::libc::EINVAL) => {
                    Ok(Verdict::new(OutcomeStatus::Refused, found, format!("{error}: {why}")))
                }
                _ => Err(error),
            };
        }
    };
    let restored = match owned.burst_found.or(burst) {
        Some(wanted) => restore_burst(job, dir, quota, wanted, writes),
        None => Ok(true),
    };
    if let Ok(true) = restored {
        // From here on the burst is the operator's again: what they set it to next must not be taken for ours.
        owned.burst_found = None;
    }
    let mut verdict = read_back(job, new.limit(), found, owned)?;
    if let Err(error) = restored {
        // The quota stands all the same.
        verdict.message = format!("{}; the burst could not be given back: {error}", verdict.message);
    }
    if let Some(note) = note {
        verdict.message = format!("{}; {note}", verdict.message);
    }
    Ok(verdict)
}

/// v1 refuses a child whose share is larger than its parent's; v2 takes it, and the ancestor's limit stays in force.
fn above_an_ancestor(job: &Job<'_>, new: Limit) -> Result<Option<String>, ActuatorError> {
    let (CgroupVersion::V1, Limit::At(new)) = (job.cgroup.version, new) else { return Ok(None) };
    let tightest = job.hierarchy.tightest_ancestor(&job.cgroup.path, Resource::Cpu)?;
    Ok(tightest.filter(|ancestor| new > ancestor.value).map(|ancestor| {
        let (new, value) = (Resource::Cpu.display(new), Resource::Cpu.display(ancestor.value));
        format!("{new} are above the {value} of {}; raise that limit first", ancestor.path.display())
    }))
}

/// Gives back burst that an earlier, lower quota had no room for, and says whether all of it is back. Also repairs what kernels before 6.10 do: a write to
/// cpu.max divides the burst by 1000 there.
fn restore_burst(
    job: &Job<'_>,
    dir: &Dir,
    quota: Option<u64>,
    wanted: u64,
    writes: &mut Vec<Write>,
) -> Result<bool, ActuatorError> {
    let possible = quota.map_or(wanted, |quota| wanted.min(quota));
    if read_burst(job, dir)? != Some(possible) {
        writes.push(dir.write(job.cgroup.burst_file(), &possible.to_string())?);
    }
    Ok(possible == wanted)
}

/// `None` on kernels without CFS burst (before 5.14).
fn read_burst(job: &Job<'_>, dir: &Dir) -> Result<Option<u64>, ActuatorError> {
    let name = job.cgroup.burst_file();
    match dir.read(name) {
        Ok(text) => number(&text, &dir.path().join(name)).map(Some),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names the cgroups below that have more than `new`; v1 refuses a parent below them.
fn tighter_children(job: &Job<'_>, dir: &Dir, new: Limit) -> Option<String> {
    let (CgroupVersion::V1, Limit::At(new)) = (job.cgroup.version, new) else { return None };
    let mut larger = Vec::new();
    list_larger(job, dir.path(), &job.cgroup.path, new, &mut larger);
    if larger.is_empty() {
        return None;
    }
    let more = if larger.len() > NAMED { ", and more" } else { "" };
    larger.truncate(NAMED);
    Some(format!("cgroups below have more: {}{more}; lower those first", larger.join(", ")))
}

fn list_larger(job: &Job<'_>, dir: &Path, path: &Path, new: f64, larger: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let child = path.join(entry.file_name());
        if let Ok(Some(value)) = job.hierarchy.limit_at(&child, Resource::Cpu)
            && value > new
        {
            larger.push(format!("{} ({})", child.display(), Resource::Cpu.display(value)));
        }
        list_larger(job, &entry.path(), &child, new, larger);
    }
}
