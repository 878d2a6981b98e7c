//! v2: lowering memory.max below usage kills. So memory.high, which never does, squeezes the group first, and memory.max
//! follows only once the group has shrunk.

use std::thread;
use std::time::{Duration, Instant};

use tidegate_model::{Bytes, Limit, OutcomeStatus, Resource, Write};

use crate::apply::Verdict;
use crate::apply::memory::{Written, does_not_fit};
use crate::cgroup::dir::Dir;
use crate::cgroup::v2;
use crate::drift::describe;
use crate::error::ActuatorError;

/// How often the group is looked at while it shrinks.
const POLL: Duration = Duration::from_millis(10);

/// Squeezes, looks, lowers, and takes the squeeze away again, whatever happened in between.
pub(super) fn lower(
    dir: &Dir,
    found: Limit,
    new: u64,
    timeout: Duration,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    let former_high = v2::memory_limit(dir, v2::HIGH)?;
    let squeeze = former_high.value().is_none_or(|high| high > new as f64);
    if squeeze {
        writes.push(dir.write(v2::HIGH, &v2::limit_text(Some(new)))?);
    }
    let result = lower_squeezed(dir, found, new, timeout, writes);
    if squeeze {
        writes.push(dir.write(v2::HIGH, &text(former_high))?);
    }
    result
}

fn lower_squeezed(
    dir: &Dir,
    found: Limit,
    new: u64,
    timeout: Duration,
    writes: &mut Vec<Write>,
) -> Result<Written, ActuatorError> {
    if let Some(why) = wait_for_usage(dir, new, timeout)? {
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

/// Waits until the group fits, or says why it will not.
fn wait_for_usage(dir: &Dir, new: u64, timeout: Duration) -> Result<Option<String>, ActuatorError> {
    let start = Instant::now();
    loop {
        let usage = v2::usage(dir)?;
        if usage <= new {
            return Ok(None);
        }
        // Memory that cannot go makes waiting pointless, and every process that allocates meanwhile is throttled.
        let held = v2::unreclaimable(dir)?;
        if held > new {
            return Ok(Some(does_not_fit(held, new)));
        }
        if start.elapsed() >= timeout {
            let (usage, new, seconds) = (Bytes(usage), Bytes(new), timeout.as_secs_f64());
            return Ok(Some(format!("usage was still {usage} after {seconds} s of squeezing to {new}")));
        }
        thread::sleep(POLL.min(timeout));
    }
}

/// Raises memory.high where it would be in the way, then memory.max.
pub(super) fn raise(dir: &Dir, new: Option<u64>, writes: &mut Vec<Write>) -> Result<Written, ActuatorError> {
    let high = v2::memory_limit(dir, v2::HIGH)?.value();
    if high.is_some_and(|high| new.is_none_or(|new| high < new as f64)) {
        writes.push(dir.write(v2::HIGH, &v2::limit_text(new))?);
    }
    writes.push(dir.write(v2::MAX, &v2::limit_text(new))?);
    Ok(Written::Yes)
}

fn text(limit: Limit) -> String {
    v2::limit_text(limit.value().map(|bytes| bytes as u64))
}
