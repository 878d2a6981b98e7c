//! How fast a counter grows.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A rate that is measured between looks at least a second apart.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<Option<Look>>);

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    total: u64,
    per_s: f64,
}

impl Rate {
    /// The growth per second of a counter that now stands at `total`, since about a second ago or since the look before
    /// this one, whichever is longer. Zero at the first look.
    pub(crate) fn per_second(&self, total: u64) -> f64 {
        self.per_second_at(Instant::now(), total)
    }

    fn per_second_at(&self, now: Instant, total: u64) -> f64 {
        let mut last = self.0.lock();
        let Some(look) = last.as_mut() else {
            *last = Some(Look { at: now, total, per_s: 0.0 });
            return 0.0;
        };
        let elapsed = now.duration_since(look.at);
        if elapsed >= Duration::from_secs(1) {
            let per_s = total.saturating_sub(look.total) as f64 / elapsed.as_secs_f64();
            *look = Look { at: now, total, per_s };
        }
        look.per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_growth_since_the_look_before() {
        let (rate, start) = (Rate::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rate.per_second_at(at(0), 100), 0.0);
        assert_eq!(rate.per_second_at(at(500), 150), 0.0);
        assert_eq!(rate.per_second_at(at(2_000), 300), 100.0);
        assert_eq!(rate.per_second_at(at(2_100), 900), 100.0);
    }
}
