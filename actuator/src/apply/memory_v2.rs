//! v2: lowering memory.max below usage kills. So the kernel is asked to reclaim first, which slows nobody down; then
//! memory.high, which does but never kills, squeezes out the rest, and memory.max follows only once the group has shrunk.

use std::thread;
use std::time::{Duration, Instant};

use tidegate_model::{Bytes, Limit, OutcomeStatus, Resource, Write};

use crate::apply::memory::{Written, does_not_fit, too_close};
use crate::apply::{Job, Verdict};
use crate::baseline::Squeeze;
use crate::cgroup::dir::Dir;
use crate::cgroup::v2;
use crate::drift::describe;
use crate::error::ActuatorError;
use crate::quota::page_size;

/// How often the group is looked at while it shrinks.
const POLL: Duration = Duration::from_millis(10);
/// The share of the new limit that the group must have shrunk to before memory.max follows: what it allocates between the
/// last look and the write has to fit as well, or the kernel kills.
const FIT: f64 = 0.98;

/// How much the kernel is asked to reclaim at once: it does not return before it has, or cannot.
const RECLAIM_AT_ONCE: u64 = 32 << 20;

/// Reclaims, squeezes, looks, lowers, and takes the squeeze away again, whatever happened in between.
pub(super) fn lower(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    new: u64,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    let former_high = v2::memory_limit(dir, v2::HIGH)?;
    // Reclaim stops at memory.high, so it has to be where the group shall get to, not at the new limit.
    let goal = (new as f64 * FIT) as u64 / page_size() * page_size();
    if former_high.value().is_some_and(|high| high <= goal as f64) {
        return lower_squeezed(dir, found, new, goal, job.squeeze_timeout, writes);
    }
    let started = Instant::now();
    reclaim(dir, goal, job.squeeze_timeout / 2, writes)?;
    let left = job.squeeze_timeout.saturating_sub(started.elapsed());
    let squeeze = Squeeze { former: former_high, goal };
    (job.record_squeeze)(Some(squeeze))?;
    writes.push(dir.write(v2::HIGH, &v2::limit_text(Some(goal)))?);
    let result = lower_squeezed(dir, found, new, goal, left, writes);
    let mut note = None;
    match release(dir, squeeze)? {
        Ok(write) => writes.push(write),
        Err(stands) => {
            let stands = describe(stands, Resource::Memory);
            note = Some(format!("somebody else set memory.high to {stands} meanwhile, and it stays so"));
        }
    }
    // A record that outlives its squeeze does no harm as long as memory.high differs from the goal.
    if let Err(error) = (job.record_squeeze)(None) {
        note = Some(error.to_string());
    }
    Ok(match (result?, note) {
        (Written::Yes, Some(note)) => Written::Partly(note),
        (written, _) => written,
    })
}

/// Asks the kernel for what the group has beyond `goal`, piece by piece, until it is there or the time is over. Kernels
/// before 5.19 cannot be asked.
pub(super) fn reclaim(dir: &Dir, goal: u64, timeout: Duration, writes: &mut Vec<Write>) -> Result<(), ActuatorError> {
    let start = Instant::now();
    let mut asked = None;
    let mut usage = v2::usage(dir)?;
    while usage > goal && start.elapsed() < timeout {
        let piece = (usage - goal).min(RECLAIM_AT_ONCE);
        let is_all = match dir.write(v2::RECLAIM, &piece.to_string()) {
            Ok(write) => {
                asked = Some((write.target, asked.map_or(0, |(_, bytes)| bytes) + piece));
                false
            }
            // Less than that could be reclaimed; what there was is gone.
            Err(error) if error.errno() == Some(nix::libc::EAGAIN) => true,
            Err(error) if error.is_missing() && dir.is_current() => true,
            Err(error) => return Err(error),
        };
        let now = v2::usage(dir)?;
        if is_all || now >= usage {
            break;
        }
        usage = now;
    }
    // One line for all pieces.
    writes.extend(asked.map(|(target, bytes)| Write { target, value: bytes.to_string() }));
    Ok(())
}

/// Puts memory.high back, unless somebody else has set it since; then that is the inner error.
pub(crate) fn release(dir: &Dir, squeeze: Squeeze) -> Result<Result<Write, Limit>, ActuatorError> {
    let stands = v2::memory_limit(dir, v2::HIGH)?;
    if stands.value().is_none_or(|high| (high as u64).abs_diff(squeeze.goal) > page_size()) {
        return Ok(Err(stands));
    }
    dir.write(v2::HIGH, &text(squeeze.former)).map(Ok)
}

fn lower_squeezed(
    dir: &Dir,
    found: Limit,
    new: u64,
    goal: u64,
    timeout: Duration,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    if let Some(why) = wait_for_usage(dir, new, goal, timeout)? {
        return Ok(Written::No(Verdict::new(OutcomeStatus::Infeasible, found, why)));
    }
    // The wait may have been long, and nothing but our own lock kept others from the file.
    let stands = v2::memory_limit(dir, v2::MAX)?;
    if stands != found {
        let (from, to) = (describe(found, Resource::Memory), describe(stands, Resource::Memory));
        let message = format!("somebody else changed memory.max from {from} to {to} while the container shrank");
        return Ok(Written::No(Verdict::new(OutcomeStatus::Drifted, stands, message)));
    }
    writes.push(dir.write_nonblocking(v2::MAX, &v2::limit_text(Some(new)))?);
    // Between the last look and the write the group may have grown. Where the kernel honoured O_NONBLOCK it has not acted
    // on that yet, and putting the former limit back is still in time.
    let usage = v2::usage(dir)?;
    if usage > new {
        writes.push(dir.write(v2::MAX, &text(found))?);
        let message = format!("usage rose to {} in the last moment; the former limit was put back", Bytes(usage));
        return Ok(Written::No(Verdict::new(OutcomeStatus::Infeasible, v2::memory_limit(dir, v2::MAX)?, message)));
    }
    Ok(Written::Yes)
}

/// Waits until the group has shrunk to `goal`, or says why it will not.
fn wait_for_usage(dir: &Dir, new: u64, goal: u64, timeout: Duration) -> Result<Option<String>, ActuatorError> {
    let start = Instant::now();
    loop {
        let usage = v2::usage(dir)?;
        // Looked at again each time: it may have grown while the group shrank. Memory that cannot go makes waiting
        // pointless, too, and every process that allocates meanwhile is throttled.
        let held = v2::unreclaimable(dir)?;
        if too_close(held, new) {
            return Ok(Some(does_not_fit(held, new)));
        }
        if usage <= goal {
            return Ok(None);
        }
        if start.elapsed() >= timeout {
            let (usage, goal, seconds) = (Bytes(usage), Bytes(goal), timeout.as_secs_f64());
            return Ok(Some(format!("usage was still {usage} after {seconds} s of squeezing to {goal}")));
        }
        thread::sleep(POLL.min(timeout));
    }
}

/// Raises memory.high where it would be in the way of the new limit.
pub(super) fn raise_high(dir: &Dir, new: Option<u64>, writes: &mut Vec<Write>) -> Result<(), ActuatorError> {
    let high = v2::memory_limit(dir, v2::HIGH)?.value();
    if high.is_some_and(|high| new.is_none_or(|new| high < new as f64)) {
        writes.push(dir.write(v2::HIGH, &v2::limit_text(new))?);
    }
    Ok(())
}

/// Writes memory.max and nothing else.
pub(super) fn write_max(dir: &Dir, new: Option<u64>, writes: &mut Vec<Write>) -> Result<(), ActuatorError> {
    writes.push(dir.write(v2::MAX, &v2::limit_text(new))?);
    Ok(())
}

fn text(limit: Limit) -> String {
    v2::limit_text(limit.value().map(|bytes| bytes as u64))
}
