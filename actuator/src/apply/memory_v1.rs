//! v1: the kernel itself reclaims page cache when the limit goes down, and says EBUSY, without a kill, when that is not
//! enough. Memory plus swap has a limit of its own that must never be below the limit on memory.

use tidegate_model::{Bytes, Limit, OutcomeStatus, Write};

use crate::apply::Verdict;
use crate::apply::memory::Written;
use crate::cgroup::dir::Dir;
use crate::cgroup::v1;
use crate::error::ActuatorError;

/// Lowers the limit first, the one on memory plus swap after it.
pub(super) fn lower(dir: &Dir, found: Limit, new: u64, writes: &mut Vec<Write>) -> Result<Written, ActuatorError> {
    match dir.write(v1::LIMIT, &v1::limit_text(Some(new))) {
        Ok(write) => writes.push(write),
        Err(error) if error.errno() == Some(nix::libc::EBUSY) => {
            let stands = v1::memory_limit(dir, v1::LIMIT)?;
            let message = format!("the kernel could not reclaim down to {}", Bytes(new));
            return Ok(Written::No(match stands == found {
                true => Verdict::new(OutcomeStatus::Infeasible, stands, message),
                false => {
                    Verdict::new(OutcomeStatus::Failed, stands, format!("{message}, and the former limit is gone"))
                }
            }));
        }
        Err(error) => return Err(error),
    }
    // The limit stands from here on; a limit on swap that could not follow is worth a word, no more.
    let moved = memsw_for(dir, found, Some(new)).and_then(|with_swap| match with_swap {
        None => Ok(()),
        Some(with_swap) => dir.write(v1::MEMSW_LIMIT, &v1::limit_text(with_swap)).map(|write| writes.push(write)),
    });
    Ok(moved.map_or_else(|error| Written::Partly(error.to_string()), |()| Written::Yes))
}

/// Raises the limit on memory plus swap first, or the kernel refuses the other.
pub(super) fn raise(dir: &Dir, found: Limit, new: Option<u64>, writes: &mut Vec<Write>) -> Result<(), ActuatorError> {
    let former = v1::memory_limit_or_none(dir, v1::MEMSW_LIMIT)?;
    let with_swap = memsw_for(dir, found, new)?;
    if let Some(with_swap) = with_swap {
        writes.push(dir.write(v1::MEMSW_LIMIT, &v1::limit_text(with_swap))?);
    }
    match dir.write(v1::LIMIT, &v1::limit_text(new)) {
        Ok(write) => writes.push(write),
        Err(error) => {
            if let (Some(former), Some(_)) = (former, with_swap) {
                let former = former.value().map(|bytes| bytes as u64);
                writes.push(dir.write(v1::MEMSW_LIMIT, &v1::limit_text(former))?);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The limit on memory plus swap that leaves as much swap as before; `None` when there is none to move.
fn memsw_for(dir: &Dir, found: Limit, new: Option<u64>) -> Result<Option<Option<u64>>, ActuatorError> {
    let Some(Limit::At(with_swap)) = v1::memory_limit_or_none(dir, v1::MEMSW_LIMIT)? else { return Ok(None) };
    // A limited memory-plus-swap implies a limited memory, so `found` has a value; without it there is no swap to keep.
    let swap = (with_swap - found.value().unwrap_or(with_swap)).max(0.0) as u64;
    Ok(Some(new.map(|new| new + swap)))
}
