//! What a container transfers, and what limits that: of those alone of which something is known.

use std::time::Instant;

use tidegate_model::{Limit, Resource, metrics};

use super::{Round, Tags, Watched, elapsed};
use crate::cgroup::parse::Transferred;
use crate::error::ActuatorError;
use crate::host::{LocalHost, Tracked};

/// Counters, and when they were read.
pub(super) type Counted = Option<(Transferred, Instant)>;

impl Round {
    /// Limits and usage of two directions, once there are any of them: `was_used` says whether there were before, and the
    /// answer whether there are now.
    pub(super) fn sample_rates(
        &mut self,
        (host, watched, tags): (&LocalHost, &Watched, &Tags),
        directions: [Resource; 2],
        own: [Option<Limit>; 2],
        (former, now): (Counted, Counted),
        was_used: bool,
    ) -> bool {
        let used = now.is_some_and(|(transferred, _)| transferred != Transferred::default());
        let limited = own.iter().any(|own| matches!(own, Some(Limit::At(_))));
        let bounded = || directions.iter().any(|rate| watched.tracked.container.read().bounds.contains_key(rate));
        if !(was_used || used || limited || bounded()) {
            return false;
        }
        for (rate, own) in directions.into_iter().zip(own) {
            // What there is of it on a host is not known: without a limit there is no number.
            let in_force = own.and_then(|own| self.effective(host, watched, rate, own));
            self.push_some(metrics::LIMIT, tags, rate, in_force.filter(|limit| limit.is_finite()));
        }
        for (rate, value) in directions.into_iter().zip(transfers(former, now).into_iter().flatten()) {
            self.push(metrics::USAGE, tags, rate, value);
        }
        true
    }

    /// An own limit compared with what was written; `None` where there can be none, which is nothing to tell.
    pub(super) fn own_rate_limit(
        &mut self,
        host: &LocalHost,
        tracked: &Tracked,
        rate: Resource,
        read: impl FnOnce() -> Result<Option<Limit>, ActuatorError>,
    ) -> Option<Limit> {
        // Locked before it is read: see `sample_limit`.
        let mut owned = tracked.owned(rate).try_lock();
        let own = self.gaps.take_optional(read()).flatten()?;
        if tracked.knobs.lock().is_configured(rate).is_some() {
            owned.iter_mut().for_each(|owned| owned.claim.doubt());
        }
        let drifted = owned.as_mut().and_then(|owned| self.compare(host, owned, own));
        drop(owned);
        if let Some(drifted) = drifted {
            self.note_drift(host, tracked, rate, drifted);
        }
        Some(own)
    }
}

/// Bytes a second in both directions.
fn transfers(former: Counted, now: Counted) -> Option<[f64; 2]> {
    let ((before, from), (after, to)) = former.zip(now)?;
    let seconds = elapsed(from, to)?.as_secs_f64();
    let inward = after.inward.checked_sub(before.inward)?;
    let outward = after.outward.checked_sub(before.outward)?;
    Some([inward as f64 / seconds, outward as f64 / seconds])
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn transfers_are_over_the_time_that_really_passed() {
        let counters = |inward, outward, ms| Some((Transferred { inward, outward }, at(ms)));
        assert_eq!(transfers(counters(0, 100, 0), counters(4_096, 100, 2_000)), Some([2_048.0, 0.0]));
        assert_eq!(transfers(counters(7, 7, 0), counters(7, 7, 1_000)), Some([0.0, 0.0]), "idle is zero");
        assert_eq!(transfers(counters(9, 0, 0), counters(7, 0, 1_000)), None, "backwards");
        assert_eq!(transfers(None, counters(7, 0, 1_000)), None, "first reading");
    }
}
