//! Time as a value. What decides takes `now` as a parameter; only the edges ask a [`Clock`].

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeMs(pub i64);

impl TimeMs {
    /// The instant `span` later, saturating at the ends of the range.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The instant `span` earlier, saturating at the ends of the range.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The latest multiple of `period` since the epoch that is not after this instant. A period below 1 ms counts as 1 ms.
    pub fn aligned(self, period: Duration) -> Self {
        let period = millis(period).max(1);
        Self(self.0 - self.0.rem_euclid(period))
    }
}

impl fmt::Display for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Where the edges of the program get the present from.
///
/// A live host uses [`SystemClock`], a replay or a test [`VirtualClock`]; nothing above the clock differs.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> TimeMs;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimeMs {
        // A clock before 1970 is a broken clock; zero makes every sample "future" and so refused with a reason.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimeMs(millis(since_epoch))
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub struct VirtualClock(AtomicI64);

impl VirtualClock {
    /// A clock that shows `start`.
    pub fn new(start: TimeMs) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock to `now`, forwards or backwards.
    pub fn set(&self, now: TimeMs) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock forward by `span`.
    pub fn advance(&self, span: Duration) {
        self.set(self.now().plus(span));
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> TimeMs {
        TimeMs(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_goes_down_to_the_period_also_before_the_epoch() {
        let second = Duration::from_secs(1);
        assert_eq!(TimeMs(1_999).aligned(second), TimeMs(1_000));
        assert_eq!(TimeMs(-1).aligned(second), TimeMs(-1_000));
        assert_eq!(TimeMs(7).aligned(Duration::ZERO), TimeMs(7));
    }

    #[test]
    fn a_span_between_instants_is_never_negative() {
        assert_eq!(TimeMs(5).since(TimeMs(9)), Duration::ZERO);
        assert_eq!(TimeMs(9).since(TimeMs(5)), Duration::from_millis(4));
    }
}
