//! Limits on what goes over a container's network: one token bucket for each interface. No owner is told of them, and there is
//! no file.

use nix::libc;
use tidegate_model::{Limit, OutcomeStatus, Write};

use crate::apply::{Job, Verdict, rate, read_back};
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::network::Queue;

pub(super) fn change(
    job: &Job<'_>,
    found: Limit,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
) -> Result<Verdict, ActuatorError> {
    let refused = |why: String| Ok(Verdict::new(OutcomeStatus::Refused, found, why));
    let wanted = match rate::wanted(job) {
        Ok(wanted) => wanted,
        Err(why) => return refused(why),
    };
    let network = &job.cgroup.network;
    // What is ours can be taken away whatever else has changed meanwhile: interfaces, and who is in the network.
    let queues = match wanted {
        Limit::At(_) => network.queues(job.resource)?,
        Limit::Unlimited => network.ours(job.resource)?,
    };
    let foreign = |queue: &&Queue| queue.root.as_ref().is_some_and(|root| !root.is_ours());
    if let Some((queue, root)) = queues.iter().find(foreign).and_then(|queue| Some((queue, queue.root.as_ref()?))) {
        let (kind, major) = (&root.kind, root.handle.major);
        return refused(format!(
            "somebody else put a queue at the root of {}, {kind} {major:x}:, which is never replaced; \
             take it away to have a limit there",
            queue.name
        ));
    }
    let stands = |queue: &Queue| queue.root.as_ref().and_then(|root| root.rate);
    let rate = wanted.value().map(|rate| rate as u64);
    let is_other = |queue: &&Queue| stands(queue) != rate;
    if !queues.iter().any(|queue| is_other(&queue)) {
        if wanted == found {
            return Ok(Verdict::unchanged(found, job.resource));
        }
        return refused("the limit that stands is somebody else's, and only they can take it away".to_owned());
    }
    (job.record_baseline)(found)?;
    for (at, queue) in queues.iter().enumerate().filter(|(_, queue)| is_other(queue)) {
        match network.write(job.resource, queue, rate) {
            Ok(write) => writes.push(write),
            Err(error) => {
                // All interfaces or none: half of a limit would be one that nobody decided.
                for queue in queues[..at].iter().filter(is_other) {
                    writes.push(network.write(job.resource, queue, stands(queue))?);
                }
                return Err(error);
            }
        }
    }
    read_back(job, wanted, found, owned)
}

/// A status and a sentence, where the kernel said no.
pub(super) fn explain(error: &ActuatorError) -> (OutcomeStatus, String) {
    use OutcomeStatus::{Failed, Refused};

    match error.errno() {
        _ if matches!(error, ActuatorError::Refused(_)) => (Refused, error.to_string()),
        Some(libc::EEXIST) => (Refused, format!("{error}; somebody else has just put a queue there")),
        Some(libc::ENOENT) => (Refused, format!("{error}; this kernel has no token buckets: load the module sch_tbf")),
        Some(libc::ENODEV) => (Failed, format!("{error}; the interface is gone")),
        Some(libc::EACCES | libc::EPERM) => {
            (Failed, format!("{error}; run as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"))
        }
        _ => (Failed, error.to_string()),
    }
}
