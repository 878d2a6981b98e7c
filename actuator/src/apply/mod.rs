//! The write procedure: look, compare with what was last written, write once, read back. What is written goes through the
//! container's owner where there is one.

mod cpu;
mod disk;
mod knob;
pub(crate) mod memory;
mod memory_v1;
pub(crate) mod memory_v2;
mod network;
mod rate;
mod refusal;

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_model::{Bytes, CgroupVersion, Limit, OutcomeStatus, Resource, TimeMs, Write};

use crate::baseline::Squeeze;
use crate::cgroup::dir::Dir;
use crate::cgroup::{AncestorLimit, Cgroup, Hierarchy, v1, v2};
use crate::drift::{DriftRule, Owned, Standing, describe};
use crate::error::ActuatorError;
use crate::knobs::file::Place;
use crate::knobs::setting::Knob;
use crate::owner::late::Late;
use crate::owner::{NotTold, Owner, Told};
use crate::quota::{PERCENT, page_size};

/// How long a limit is awaited that an owner took, and how often it is looked for: some say yes and write a moment later.
const SETTLE: Duration = Duration::from_millis(250);
const SETTLE_POLL: Duration = Duration::from_millis(5);
/// How much more than what is used a memory limit has to be for an owner to be told of it that is slow to answer: it may
/// carry that out when more is used.
const ROOM: f64 = 1.25;

/// One change to carry out.
pub(crate) struct Job<'a> {
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) resource: Resource,
    /// In the resource's base unit; infinite is unlimited.
    pub(crate) target: f64,
    /// The limit in force that the decision was based on: the own one, one above, or what the machine has.
    pub(crate) limit_before: Option<f64>,
    pub(crate) now: TimeMs,
    pub(crate) drift: DriftRule,
    pub(crate) squeeze_timeout: Duration,
    /// Who keeps the limits besides the kernel.
    pub(crate) owner: Option<&'a dyn Owner>,
    /// The update that the owner has not answered.
    pub(crate) late: &'a Late,
    /// Becomes true when the owner took the limit.
    pub(crate) told: &'a Cell<bool>,
    /// Whether the limit of the other resource was ever changed by us.
    pub(crate) other_changed: bool,
    /// Whether memory.high is kept at a value of its own, by the configuration or by a rule, whatever the limit is.
    pub(crate) keeps_high: bool,
    /// Whether a rule ever moved memory.high, so that its owner may know a former value.
    pub(crate) high_moved: bool,
    /// The squeeze that another change is in the middle of, which no owner shall take for the memory.high to keep.
    pub(crate) squeeze: Option<Squeeze>,
    /// Whether an owner that fails makes the change fail.
    pub(crate) owner_only: bool,
    /// Whether CPU limits are whole percents of a CPU: systemd keeps them so, and a daemon-reload would bring another limit
    /// than the one that was written.
    pub(crate) whole_percent: bool,
    /// Puts the limit that stands now on disk before it is changed for the first time.
    pub(crate) record_baseline: &'a dyn Fn(Limit) -> Result<(), ActuatorError>,
    /// Puts on disk that a squeeze begins, or with `None` that it has ended.
    pub(crate) record_squeeze: &'a dyn Fn(Option<Squeeze>) -> Result<(), ActuatorError>,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) status: OutcomeStatus,
    /// The own limit as it was read last, or the one in force where an ancestor's is the reason to leave the own one alone;
    /// `None` when it could not be read.
    pub(crate) limit: Option<Limit>,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn new(status: OutcomeStatus, limit: impl Into<Option<Limit>>, message: impl Into<String>) -> Self {
        Self { status, limit: limit.into(), message: message.into() }
    }

    /// What is wanted of `resource` stands there already: nothing was written.
    pub(crate) fn unchanged(found: Limit, resource: Resource) -> Self {
        Self::new(OutcomeStatus::Unchanged, found, format!("{} stand there already", describe(found, resource)))
    }
}

/// Carries out `job` with the lock on `owned` held by the caller. Every write that the kernel took is in `writes`.
pub(crate) fn run(job: &Job<'_>, owned: &mut Owned, writes: &mut Vec<Write>) -> Verdict {
    let dir = job.cgroup.dir(job.resource);
    if dir.is_none() && !job.resource.is_network() {
        return Verdict::new(OutcomeStatus::Refused, None, job.cgroup.no_controller(job.resource).to_string());
    }
    let mut found = None;
    match attempt(job, dir, owned, writes, &mut found) {
        Ok(verdict) => verdict,
        Err(error) => {
            // The limit may have been written before a later step failed: what stands now is what counts.
            let stands = job.cgroup.own_limit(job.resource).ok();
            if let Some(limit) = stands.filter(|limit| found.is_some_and(|found| found != *limit)) {
                owned.claim.wrote(limit);
            }
            let (status, message) = refusal::explain(&error, job, dir);
            Verdict::new(status, stands.or(found), message)
        }
    }
}

/// `dir` is missing for a network alone.
fn attempt(
    job: &Job<'_>,
    dir: Option<&Dir>,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
    seen: &mut Option<Limit>,
) -> Result<Verdict, ActuatorError> {
    let found = match job.cgroup.own_limit(job.resource) {
        Err(ActuatorError::Refused(why)) if job.target.is_infinite() => {
            let message = format!("there is nothing to take away: {why}");
            return Ok(Verdict::new(OutcomeStatus::Unchanged, Limit::Unlimited, message));
        }
        found => found?,
    };
    *seen = Some(found);
    if let Standing::Foreign { expected, left } = owned.claim.observe(found, job.now, job.drift) {
        if found.value().unwrap_or(f64::INFINITY) == job.target {
            // Whoever set it, there is nothing to put back.
            let message = format!("it is {} already; somebody else set it", describe(found, job.resource));
            return Ok(Verdict::new(OutcomeStatus::Unchanged, found, message));
        }
        let (expected, found_text) = (describe(expected, job.resource), describe(found, job.resource));
        let until = match left {
            Some(left) => format!("for another {} s", left.as_secs_f64().ceil()),
            None => format!("until it is {expected} again or a person says otherwise"),
        };
        let file = dir.map(|dir| dir.path().join(job.cgroup.limit_file(job.resource)).display().to_string());
        let file = file.unwrap_or_else(|| format!("the limit of its network, {},", job.resource));
        let message = format!("somebody else changed {file} from {expected} to {found_text}; it is left alone {until}");
        return Ok(Verdict::new(OutcomeStatus::Drifted, found, message));
    }
    if let Some(verdict) = above_already(job, found)? {
        return Ok(verdict);
    }
    match (job.resource, dir) {
        (Resource::NetReceive | Resource::NetSend, _) | (_, None) => network::change(job, found, owned, writes),
        (Resource::Cpu, Some(dir)) => cpu::change(job, dir, found, owned, writes),
        (Resource::Memory, Some(dir)) => memory::change(job, dir, found, owned, writes),
        (Resource::DiskRead | Resource::DiskWrite, Some(dir)) => disk::change(job, dir, found, owned, writes),
        (Resource::CpuWeight | Resource::MemoryHigh, Some(_)) => knob::change(job, found, owned, writes),
    }
}

/// Decisions speak of the limit in force, which may be an ancestor's. Where the own limit is above that, an increase must
/// not become a decrease of the own limit, which no guard on decreases has seen.
fn above_already(job: &Job<'_>, found: Limit) -> Result<Option<Verdict>, ActuatorError> {
    let is_increase = job.limit_before.is_some_and(|before| job.target > before);
    // Taking the limit away speaks of the own limit alone.
    if !is_increase || job.target.is_infinite() || found.value().is_some_and(|own| own < job.target) {
        return Ok(None);
    }
    let mut message = format!("its own limit, {}, is not below that", describe(found, job.resource));
    let tighter = tighter_ancestor(job, found)?;
    if let Some(AncestorLimit { path, value }) = &tighter {
        let value = job.resource.display(*value);
        message = format!("{message}; the limit in force, {value}, is set above it at {}", path.display());
    }
    let in_force = tighter.map_or(found, |ancestor| Limit::At(ancestor.value));
    Ok(Some(Verdict::new(OutcomeStatus::Unchanged, in_force, message)))
}

/// The ancestor whose limit is in force instead of the own one, if any is.
fn tighter_ancestor(job: &Job<'_>, own: Limit) -> Result<Option<AncestorLimit>, ActuatorError> {
    let tightest = job.hierarchy.tightest_ancestor(&job.cgroup.path, job.resource)?;
    Ok(tightest.filter(|ancestor| own.value().is_none_or(|own| ancestor.value < own)))
}

/// Sets a limit through the owner, and by `file` where there is none, where it fails, or where it cannot say the whole of
/// it. `memory` is the memory limit that the owner is told. Returns what the outcome should mention.
fn put(
    job: &Job<'_>,
    memory: Option<u64>,
    ask: impl FnOnce(&dyn Owner) -> Result<Told, NotTold>,
    file: impl FnOnce(&mut Vec<Write>) -> Result<(), ActuatorError>,
    writes: &mut Vec<Write>,
) -> Result<Option<String>, ActuatorError> {
    let mut note = None;
    if let Some(owner) = job.owner {
        match tell(job, owner, memory, ask, writes) {
            Ok((true, beside)) => return Ok(beside),
            Ok((false, beside)) => note = beside,
            Err(why) if job.owner_only => return Err(ActuatorError::Owner(why.to_string())),
            Err(why) => note = Some(format!("{why}; the cgroup file was written instead")),
        }
    }
    file(writes)?;
    Ok(note)
}

/// Tells an owner, and sees to it that the limit of the other resource stays what it was: owners set all that they know at
/// once. Returns whether the limit is exactly what was wished, and what the outcome should mention.
fn tell(
    job: &Job<'_>,
    owner: &dyn Owner,
    memory: Option<u64>,
    ask: impl FnOnce(&dyn Owner) -> Result<Told, NotTold>,
    writes: &mut Vec<Write>,
) -> Result<(bool, Option<String>), NotTold> {
    let _turn = job.late.turn()?;
    if owner.is_behind() {
        has_room(job, memory)?;
    }
    let other = if job.resource.of() == Resource::Cpu { Resource::Memory } else { Resource::Cpu };
    let before = job.cgroup.own_limit(other).ok();
    let told = ask(owner).map_err(|mut why| {
        why.unanswered.take().into_iter().for_each(|unanswered| job.late.remember(*unanswered));
        why
    })?;
    job.told.set(true);
    writes.push(told.write);
    // Whoever has the next turn tells this limit along as it stands.
    if told.exact && !job.target.is_nan() {
        let wanted = if job.target.is_infinite() { Limit::Unlimited } else { Limit::At(job.target) };
        drop(settled(job, wanted));
    }
    let after = job.cgroup.own_limit(other).ok();
    let note = match (before, after) {
        (Some(before), Some(after)) if before != after => {
            let back = put_back(job, other, before, after, writes);
            let (from, to) = (describe(before, other), describe(after, other));
            let end = back.map_or_else(|why| why.to_string(), |()| "it was put back".to_owned());
            Some(format!("with it the limit of {other} went from {from} to {to}; {end}"))
        }
        _ => None,
    };
    Ok((told.exact, note))
}

/// Whether a memory limit may be told to an owner that has not answered others yet. Carried out late it could kill.
fn has_room(job: &Job<'_>, memory: Option<u64>) -> Result<(), NotTold> {
    let (Some(limit), Some(dir)) = (memory, job.cgroup.dir(Resource::Memory)) else { return Ok(()) };
    let used = job.cgroup.memory_used(dir).map_err(|error| NotTold::new(error.to_string()))?;
    if used as f64 * ROOM <= limit as f64 {
        return Ok(());
    }
    Err(NotTold::new(format!(
        "its owner has not answered others yet and is told later of a limit of {} that is so near the {} in use",
        Bytes(limit),
        Bytes(used)
    )))
}

/// Tells the owner of the limit that stands, which went into the file alone.
pub(crate) fn tell_present(job: &Job<'_>, writes: &mut Vec<Write>) -> Result<(), NotTold> {
    let (Some(owner), Some(dir)) = (job.owner, job.cgroup.dir(job.resource)) else { return Ok(()) };
    let (cpu, memory) = (memory::present_cpu(job), memory::present(job));
    let stands = job.cgroup.own_limit(job.resource).map_err(|error| NotTold::new(error.to_string()))?;
    // The other limits as they stand when it is our turn: they may be changing meanwhile.
    let ask = |owner: &dyn Owner| match job.resource {
        Resource::Memory => owner.set_memory(memory, memory::present_cpu(job), job.other_changed),
        Resource::Cpu => owner.set_cpu(cpu, memory::present(job), job.other_changed),
        knob => owner.set_knob(knob, stands, (memory::present_cpu(job), memory::present(job)), job.other_changed),
    };
    if let (false, _) = tell(job, owner, memory.max, ask, writes)? {
        // It knows the machine's capacity now, and so does the file; it was unlimited.
        let file = match job.resource.of() {
            Resource::Memory => memory::raise_file(job, dir, Limit::Unlimited, Limit::Unlimited, writes),
            _ => job.cgroup.write_quota(dir, cpu.quota, cpu.period).map(|write| writes.push(write)),
        };
        file.map_err(|error| NotTold::new(error.to_string()))?;
    }
    Ok(())
}

/// Gives back a limit or a knob that an owner changed along with another one, or late. Memory is not lowered that way: what
/// was taken meanwhile might not fit.
pub(crate) fn put_back(
    job: &Job<'_>,
    resource: Resource,
    before: Limit,
    after: Limit,
    writes: &mut Vec<Write>,
) -> Result<(), ActuatorError> {
    let Some(dir) = job.cgroup.dir(resource) else { return Ok(()) };
    match resource {
        Resource::CpuWeight | Resource::MemoryHigh => {
            let place = Place { hierarchy: job.hierarchy, cgroup: job.cgroup };
            let knob = if resource == Resource::CpuWeight { Knob::CpuWeight } else { Knob::MemoryHigh };
            let found = place.read(knob)?;
            let text = match (before, resource, job.cgroup.version) {
                (Limit::At(weight), Resource::CpuWeight, CgroupVersion::V1) => v1::shares_of(weight as u64).to_string(),
                (before, ..) => v2::limit_text(before.value().map(|value| value as u64)),
            };
            place.write(knob, &text, &found, writes)?;
        }
        Resource::Memory => {
            let is_raised = before.value().is_some_and(|before| after.value().is_none_or(|after| after > before));
            if is_raised {
                return Err(ActuatorError::Config("it stays so".to_owned()));
            }
            memory::raise_file(job, dir, after, before, writes)?;
        }
        _ => {
            let period = job.cgroup.cpu_max(dir)?.period;
            let quota = before.value().map(|cores| (cores * period as f64).round() as u64);
            writes.push(job.cgroup.write_quota(dir, quota, period)?);
        }
    }
    Ok(())
}

/// The limit that stands, once it is the wanted one or that was waited for.
fn settled(job: &Job<'_>, wanted: Limit) -> Result<Limit, ActuatorError> {
    let started = Instant::now();
    loop {
        let stands = job.cgroup.own_limit(job.resource)?;
        if job.owner.is_none() || is_same(job, wanted, stands) || started.elapsed() >= SETTLE {
            return Ok(stands);
        }
        thread::sleep(SETTLE_POLL);
    }
}

/// The last step of every change: reads the limit back, remembers it, and says whether it is what was written.
fn read_back(job: &Job<'_>, written: Limit, before: Limit, owned: &mut Owned) -> Result<Verdict, ActuatorError> {
    let stands = settled(job, written)?;
    owned.claim.wrote(stands);
    let (before, after) = (describe(before, job.resource), describe(stands, job.resource));
    if !is_same(job, written, stands) {
        let message = format!("{} was written, but {after} stands there", describe(written, job.resource));
        return Ok(Verdict::new(OutcomeStatus::Failed, stands, message));
    }
    let mut message = format!("{before} to {after}");
    match tighter_ancestor(job, stands) {
        Ok(None) => {}
        Ok(Some(ancestor)) => {
            let (value, path) = (job.resource.display(ancestor.value), ancestor.path.display());
            message = format!("{message}; in force are {value}, the limit of {path} above it");
        }
        // The limit is written and was read back: what is not known about others does not undo that.
        Err(error) => message = format!("{message}; whether a limit above it is tighter is not known: {error}"),
    }
    Ok(Verdict::new(OutcomeStatus::Applied, stands, message))
}

/// Whether the limit that stands is the one that was written. An owner has a rounding of its own: a percent of a CPU, a
/// page; and it may use another period.
fn is_same(job: &Job<'_>, written: Limit, stands: Limit) -> bool {
    let tolerance = match job.resource {
        _ if job.owner.is_none() => 0.0,
        Resource::Cpu => PERCENT,
        _ => page_size() as f64,
    };
    match (written, stands) {
        (Limit::At(written), Limit::At(stands)) => (written - stands).abs() <= tolerance,
        (written, stands) => written == stands,
    }
}
