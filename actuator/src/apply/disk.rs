//! Limits on the bandwidth to disks: one line for each disk of the host. No owner is told of them: Docker and Podman change
//! none of a running container, and systemd keeps its own for single devices.

use tidegate_model::{Limit, OutcomeStatus, Write};

use crate::apply::{Job, Verdict, rate, read_back};
use crate::cgroup::dir::Dir;
use crate::cgroup::disks::{limit, line};
use crate::drift::Owned;
use crate::error::ActuatorError;
use crate::knobs::setting::Device;

pub(super) fn change(
    job: &Job<'_>,
    dir: &Dir,
    found: Limit,
    owned: &mut Owned,
    writes: &mut Vec<Write>,
) -> Result<Verdict, ActuatorError> {
    let refused = |why: String| Ok(Verdict::new(OutcomeStatus::Refused, found, why));
    let wanted = match rate::wanted(job) {
        Ok(wanted) => wanted,
        Err(why) => return refused(why),
    };
    let disks = job.cgroup.disks.devices();
    if disks.is_empty() {
        return refused("this host has no disk that could be limited".to_owned());
    }
    let stands = stands(job, dir, &disks)?;
    if stands.iter().all(|(_, stands)| *stands == wanted) {
        return Ok(Verdict::unchanged(found, job.resource));
    }
    if !owned.baseline_recorded && stands.iter().any(|(_, limit)| *limit != stands[0].1) {
        // One limit is on record, and could not be given back to each of them.
        return refused("its disks have different limits, which somebody set; rules leave them alone".to_owned());
    }
    (job.record_baseline)(found)?;
    let is_other = |(_, stands): &&(Device, Limit)| *stands != wanted;
    for (at, (disk, _)) in stands.iter().enumerate().filter(|(_, disk)| is_other(disk)) {
        if let Err(error) = write(job, dir, *disk, wanted, writes) {
            // All disks or none: half of a limit would be one that nobody decided.
            for (disk, former) in stands[..at].iter().filter(is_other) {
                write(job, dir, *disk, *former, writes)?;
            }
            return Err(error);
        }
    }
    read_back(job, wanted, found, owned)
}

/// The limit on each disk.
fn stands(job: &Job<'_>, dir: &Dir, disks: &[Device]) -> Result<Vec<(Device, Limit)>, ActuatorError> {
    let name = job.cgroup.limit_file(job.resource);
    let (text, path) = (dir.read(name)?, dir.path().join(name));
    let of = |disk: &Device| Ok((*disk, limit(&text, job.cgroup.version, job.resource, &[*disk], &path)?));
    disks.iter().map(of).collect()
}

fn write(job: &Job<'_>, dir: &Dir, disk: Device, limit: Limit, writes: &mut Vec<Write>) -> Result<(), ActuatorError> {
    let (file, value) = line(job.cgroup.version, job.resource, disk, limit.value().map(|rate| rate as u64));
    writes.push(dir.write(file, &value)?);
    Ok(())
}
