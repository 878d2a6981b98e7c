//! Noticing that somebody else changed a limit, and leaving it alone for a while.

use std::time::{Duration, Instant};

use tidegate_model::{Limit, Resource, TimeMs};

/// What this process wrote to one container's limit, and whether it still stands. One value for each container incarnation
/// and resource; the lock around it is held for a whole change, so that the collector never takes a change in progress for
/// a foreign one.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// What was read back after the last write of ours, or a foreign value that was adopted.
    written: Option<Limit>,
    foreign: Option<Foreign>,
    /// The burst (µs) that was found before it had to be lowered below a quota.
    pub(crate) burst_found: Option<u64>,
    /// Whether the baseline is recorded; until then it follows the limit that is found.
    pub(crate) baseline_recorded: bool,
    /// When it was last tried to tell the container's owner of a limit.
    pub(crate) told_at: Option<Instant>,
    /// Whether the owner does not know of the limit that stands.
    pub(crate) untold: bool,
}

#[derive(Debug)]
struct Foreign {
    found: Limit,
    since: TimeMs,
    reported: bool,
}

/// How a limit stands to what was last written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    /// Never written, as written, or a foreign value that has been adopted: it may be written.
    Ours,
    /// Somebody else changed it.
    Foreign {
        /// What we had written.
        expected: Limit,
        /// How long it is still left alone.
        left: Duration,
    },
}

impl Owned {
    /// Nothing written yet; `baseline_recorded` when a former process did.
    pub(crate) fn new(baseline_recorded: bool) -> Self {
        Self { baseline_recorded, ..Self::default() }
    }

    /// Compares what stands in the file with what was written. A foreign value that has stood for `hold` becomes the new
    /// base.
    pub(crate) fn observe(&mut self, found: Limit, now: TimeMs, hold: Duration) -> Standing {
        let Some(expected) = self.written.filter(|written| *written != found) else {
            self.foreign = None;
            return Standing::Ours;
        };
        let foreign = match &mut self.foreign {
            Some(foreign) if foreign.found == found => foreign,
            foreign => foreign.insert(Foreign { found, since: now, reported: false }),
        };
        let held = now.since(foreign.since);
        if held >= hold {
            self.written = Some(found);
            self.foreign = None;
            return Standing::Ours;
        }
        Standing::Foreign { expected, left: hold - held }
    }

    /// True once for each foreign change.
    pub(crate) fn take_report(&mut self) -> bool {
        self.foreign.as_mut().is_some_and(|foreign| !std::mem::replace(&mut foreign.reported, true))
    }

    /// Whether what stands in the file is what was written last.
    pub(crate) fn is_as_written(&self, found: Limit) -> bool {
        self.written == Some(found)
    }

    /// Records what was read back after a write of ours.
    pub(crate) fn wrote(&mut self, read_back: Limit) {
        self.written = Some(read_back);
        self.foreign = None;
    }
}

/// `0.45 cores`, `96.0 MiB` or `unlimited`.
pub(crate) fn describe(limit: Limit, resource: Resource) -> String {
    limit.value().map_or_else(|| "unlimited".to_owned(), |value| resource.display(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(60);

    fn foreign(expected: f64, left_s: u64) -> Standing {
        Standing::Foreign { expected: Limit::At(expected), left: Duration::from_secs(left_s) }
    }

    #[test]
    fn before_the_first_write_nothing_is_foreign() {
        let mut owned = Owned::default();
        assert_eq!(owned.observe(Limit::Unlimited, TimeMs(0), HOLD), Standing::Ours);
        assert_eq!(owned.observe(Limit::At(1.0), TimeMs(1), HOLD), Standing::Ours);
        assert!(!owned.take_report());
    }

    #[test]
    fn a_foreign_value_is_left_alone_and_then_adopted() {
        let mut owned = Owned::default();
        owned.wrote(Limit::At(1.0));
        assert_eq!(owned.observe(Limit::At(1.0), TimeMs(0), HOLD), Standing::Ours);
        assert_eq!(owned.observe(Limit::At(2.0), TimeMs(1_000), HOLD), foreign(1.0, 60));
        assert!(owned.take_report());
        assert_eq!(owned.observe(Limit::At(2.0), TimeMs(31_000), HOLD), foreign(1.0, 30));
        assert!(!owned.take_report(), "one change, one report");
        assert_eq!(owned.observe(Limit::At(2.0), TimeMs(61_000), HOLD), Standing::Ours);
        assert_eq!(owned.observe(Limit::At(1.0), TimeMs(62_000), HOLD), foreign(2.0, 60));
    }

    #[test]
    fn another_foreign_value_starts_the_hold_anew() {
        let mut owned = Owned::default();
        owned.wrote(Limit::At(1.0));
        owned.observe(Limit::At(2.0), TimeMs(0), HOLD);
        assert!(owned.take_report());
        assert_eq!(owned.observe(Limit::Unlimited, TimeMs(59_000), HOLD), foreign(1.0, 60));
        assert!(owned.take_report());
        assert_eq!(owned.observe(Limit::At(1.0), TimeMs(60_000), HOLD), Standing::Ours, "put back by whoever it was");
    }
}
