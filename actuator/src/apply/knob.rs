//! Knobs as targets of rules: `memory.high` and `cpu.weight`. They are written as the limits are, with the same look at what
//! stands there, the same baseline and the same read-back; what their files look like [`crate::knobs::file`] knows.

use tidegate_model::{CgroupVersion, Limit, OutcomeStatus, Resource, Write};

use crate::apply::memory_v2::reclaim;
use crate::apply::{Job, Verdict, read_back};
use crate::capacity::Capacity;
use crate::drift::{Owned, describe};
use crate::error::ActuatorError;
use crate::knobs::file::Place;
use crate::knobs::setting::Setting;

pub(super) fn change(
    job: &Job<'_>,
    found: Limit,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
) -> Result<Verdict, ActuatorError> {
    let setting = match job.resource {
        Resource::CpuWeight => weight(job.target),
        _ => high(job),
    };
    let setting = match setting {
        Ok(setting) => setting,
        Err(why) => return Ok(Verdict::new(OutcomeStatus::Refused, found, why)),
    };
    let (knob, place) = (setting.knob(), Place { hierarchy: job.hierarchy, cgroup: job.cgroup });
    let stands = place.read(knob)?;
    let wanted = match place.wanted(&setting, &stands)? {
        Ok(wanted) => wanted,
        Err(why) => return Ok(Verdict::new(OutcomeStatus::Infeasible, found, why)),
    };
    if wanted == stands {
        let message = format!("{} stands there already", describe(found, job.resource));
        return Ok(Verdict::new(OutcomeStatus::Unchanged, found, message));
    }
    (job.record_baseline)(found)?;
    if let (Resource::MemoryHigh, CgroupVersion::V2, Ok(goal), Some(dir)) =
        (job.resource, job.cgroup.version, wanted.parse::<u64>(), job.cgroup.dir(job.resource))
    {
        // Or the container's own tasks would have to do it, before they go on.
        reclaim(dir, goal, job.squeeze_timeout / 2, writes)?;
    }
    place.write(knob, &wanted, &stands, writes)?;
    let written = match setting {
        Setting::Weight(weight) => Limit::At(weight as f64),
        _ => wanted.parse().map_or(Limit::Unlimited, Limit::At),
    };
    read_back(job, written, found, owned)
}

/// What is no whole number is rounded.
fn weight(target: f64) -> Result<Setting, String> {
    // Out of range, or no number at all, is 0 or the largest here, which is no weight either.
    Setting::weight(target.round() as u64)
}

/// From the limit in force on there is none: it would say nothing, and hold the container when that limit goes up.
fn high(job: &Job<'_>) -> Result<Setting, String> {
    let own = job.cgroup.own_limit(Resource::Memory).ok().and_then(Limit::value);
    let above = job.hierarchy.tightest_ancestor(&job.cgroup.path, Resource::Memory).ok().flatten();
    let host = Capacity::read().ok().map(|capacity| capacity.of(Resource::Memory));
    let limit = [own, above.map(|above| above.value), host].into_iter().flatten().reduce(f64::min);
    if job.target.is_nan() || job.target < 0.0 {
        return Err(format!("a memory.high of {} bytes makes no sense", job.target));
    }
    let is_none = job.target.is_infinite() || limit.is_some_and(|limit| job.target >= limit);
    Ok(Setting::High(if is_none { Limit::Unlimited } else { Limit::At(job.target) }))
}
