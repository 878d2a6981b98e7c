//! What a container does to disks, and what limits it there: of those alone of which something is known.

use std::time::Instant;

use tidegate_model::{Limit, Resource, metrics};

use super::{Round, Tags, Watched, elapsed};
use crate::cgroup::parse::Transferred;
use crate::host::LocalHost;

impl Round {
    /// Limits and usage of disks, of whoever has any of them.
    pub(super) fn sample_disks(
        &mut self,
        host: &LocalHost,
        watched: &mut Watched,
        tags: &Tags,
        former: Option<(Transferred, Instant)>,
        now: Option<(Transferred, Instant)>,
    ) {
        let used = now.is_some_and(|(transferred, _)| transferred != Transferred::default());
        let own = Resource::DISKS.map(|disk| self.own_disk_limit(host, watched, disk));
        let limited = own.iter().any(|own| matches!(own, Some(Limit::At(_))));
        let bounded = || Resource::DISKS.iter().any(|disk| watched.tracked.container.read().bounds.contains_key(disk));
        watched.uses_disks = watched.uses_disks || used || limited || bounded();
        if !watched.uses_disks {
            return;
        }
        for (disk, own) in Resource::DISKS.into_iter().zip(own) {
            // What a disk can do is not known: without a limit there is no number.
            let in_force = own.and_then(|own| self.effective(host, watched, disk, own));
            self.push_some(metrics::LIMIT, tags, disk, in_force.filter(|limit| limit.is_finite()));
        }
        for (disk, rate) in Resource::DISKS.into_iter().zip(transfers(former, now).into_iter().flatten()) {
            self.push(metrics::USAGE, tags, disk, rate);
        }
    }

    /// The own limit on what comes from disks or goes to them, compared with what was written; `None` where the controller is
    /// missing or not handed down, which is nothing to tell.
    fn own_disk_limit(&mut self, host: &LocalHost, watched: &mut Watched, disk: Resource) -> Option<Limit> {
        let mut owned = watched.tracked.owned(disk).try_lock();
        let limit = watched.sampler.limit(disk);
        let own = self.gaps.take_optional(limit).flatten()?;
        if watched.tracked.knobs.lock().is_configured(disk).is_some() {
            owned.iter_mut().for_each(|owned| owned.claim.doubt());
        }
        let drifted = owned.as_mut().and_then(|owned| self.compare(host, owned, own));
        drop(owned);
        if let Some(drifted) = drifted {
            self.note_drift(host, watched, disk, drifted);
        }
        Some(own)
    }
}

/// Bytes a second read and written.
fn transfers(former: Option<(Transferred, Instant)>, now: Option<(Transferred, Instant)>) -> Option<[f64; 2]> {
    let ((before, from), (after, to)) = former.zip(now)?;
    let seconds = elapsed(from, to)?.as_secs_f64();
    let read = after.read.checked_sub(before.read)?;
    let written = after.written.checked_sub(before.written)?;
    Some([read as f64 / seconds, written as f64 / seconds])
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn transfers_are_over_the_time_that_really_passed() {
        let counters = |read, written, ms| Some((Transferred { read, written }, at(ms)));
        assert_eq!(transfers(counters(0, 100, 0), counters(4_096, 100, 2_000)), Some([2_048.0, 0.0]));
        assert_eq!(transfers(counters(7, 7, 0), counters(7, 7, 1_000)), Some([0.0, 0.0]), "idle is zero");
        assert_eq!(transfers(counters(9, 0, 0), counters(7, 0, 1_000)), None, "backwards");
        assert_eq!(transfers(None, counters(7, 0, 1_000)), None, "first reading");
    }
}
