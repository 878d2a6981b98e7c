//! Laws for CPU limits, in cores.

use super::window::{Decayed, Peak};
use super::{DAY_S, HOUR_S, Law, Seen, boundary::Boundary};

/// The Kubernetes vertical pod autoscaler (`vertical-pod-autoscaler/pkg/recommender`): 1.15 times the 90th percentile with
/// a half-life of 24 h, taken when the limit is outside of [1.15 p50 (1 + 0.001 / c)^-2, 1.15 p95 (1 + 1 / c)] or, all 12 h,
/// more than 10 % off; c is the confidence: days of data, or samples / 1440, whatever is less.
#[derive(Clone, Debug)]
pub(super) struct Vpa {
    pub(super) seen: Decayed,
    confidence: Confidence,
    changed_s: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Confidence {
    first_s: Option<f64>,
    samples: f64,
}

impl Confidence {
    fn push(&mut self, at_s: f64) -> f64 {
        self.samples += 1.0;
        let days = (at_s - *self.first_s.get_or_insert(at_s)) / DAY_S;
        days.min(self.samples / 1_440.0).max(1e-9)
    }
}

impl Vpa {
    const MARGIN: f64 = 1.15;

    pub fn new() -> Self {
        Self { seen: Decayed::new(DAY_S), confidence: Confidence::default(), changed_s: f64::NEG_INFINITY }
    }

    pub(super) fn recommended(&mut self, seen: &Seen, value: f64) -> f64 {
        self.seen.add(seen.at_s, value, 1.0);
        let c = self.confidence.push(seen.at_s);
        let target = Self::MARGIN * self.seen.quantile(0.90);
        let lower = Self::MARGIN * self.seen.quantile(0.50) * (1.0 + 0.001 / c).powi(-2);
        let upper = Self::MARGIN * self.seen.quantile(0.95) * (1.0 + 1.0 / c);
        let off = (target - seen.limit).abs() > 0.1 * seen.limit && seen.at_s - self.changed_s >= 12.0 * HOUR_S;
        if off || !(lower..=upper).contains(&seen.limit) {
            self.changed_s = seen.at_s;
            return target;
        }
        seen.limit
    }
}

impl Law for Vpa {
    fn next(&mut self, seen: &Seen) -> f64 {
        self.recommended(seen, seen.wanted)
    }
}

/// Google's Autopilot, moving window (Rzadca et al., EuroSys 2020, 3.2): the load-adjusted 95th percentile with a half-life
/// of 12 h, plus 12 %, and of that the peak of the last hour.
#[derive(Clone, Debug)]
pub(super) struct Autopilot {
    seen: Decayed,
    highest: Peak,
}

impl Autopilot {
    pub fn new() -> Self {
        Self { seen: Decayed::new(12.0 * HOUR_S), highest: Peak::new(HOUR_S) }
    }
}

impl Law for Autopilot {
    fn next(&mut self, seen: &Seen) -> f64 {
        // Load-adjusted: a second at two cores is two core seconds, so a sample counts with its value.
        self.seen.add(seen.at_s, seen.wanted, seen.wanted);
        self.highest.push(seen.at_s, 1.12 * self.seen.quantile(0.95))
    }
}

/// A hybrid of peaks, a percentile and growth by half on saturation: want = max(1.10 peak of 60 s, 1.05 peak of 30 min,
/// 1.05 p98 with a half-life of 12 h). Saturated (use >= 0.97 limit, or throttled in more than 10 % of the periods):
/// max(want, 1.5 limit); want > 1.02 limit: want; want < 0.95 limit: max(want, 0.95 limit), at most once a minute.
#[derive(Clone, Debug)]
pub(super) struct Hybrid {
    seen: Decayed,
    minute: Peak,
    half_hour: Peak,
    changed_s: f64,
}

impl Hybrid {
    pub fn new() -> Self {
        Self {
            seen: Decayed::new(12.0 * HOUR_S),
            minute: Peak::new(60.0),
            half_hour: Peak::new(0.5 * HOUR_S),
            changed_s: f64::NEG_INFINITY,
        }
    }
}

impl Law for Hybrid {
    fn next(&mut self, seen: &Seen) -> f64 {
        let Seen { at_s, used, limit, .. } = *seen;
        self.seen.add(at_s, used, 1.0);
        let minute = 1.10 * self.minute.push(at_s, used);
        let half_hour = 1.05 * self.half_hour.push(at_s, used);
        let want = minute.max(half_hour).max(1.05 * self.seen.quantile(0.98));
        let next = if used >= 0.97 * limit || seen.throttled > 0.10 {
            want.max(1.5 * limit)
        } else if want > 1.02 * limit {
            want
        } else if want < 0.95 * limit && at_s - self.changed_s >= 60.0 {
            want.max(0.95 * limit)
        } else {
            limit
        };
        if next != limit {
            self.changed_s = at_s;
        }
        next
    }
}

/// See [`Boundary`]; 10 % as CPU has it.
pub(super) fn boundary() -> Boundary {
    Boundary::new(0.10)
}
