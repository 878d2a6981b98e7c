//! The boundary law of Serverless Containers.

use super::{Law, Seen};

/// How long a window is, unless the samples are further apart.
const WINDOW_S: f64 = 10.0;
/// Events are of so many windows.
const WINDOWS: usize = 10;

/// Serverless Containers (Enes, Expósito, Touriño, FGCS 2020) with its proportional amounts: of the last ten windows of
/// 10 s, at least 2 above limit - margin and at most 2 below limit - 2 margins raise the limit to max(limit + margin,
/// peak / (1 - 1.5 b)); at least 8 below and none above lower it to mean / (1 - 1.5 b). The margin is b limit. Each change
/// begins to count anew. Where samples are further apart than 10 s, a window is one of them.
#[derive(Clone, Debug)]
pub(super) struct Boundary {
    margin: f64,
    /// Sum, highest value, number and beginning of the window that is not full yet.
    open: Option<(f64, f64, f64, f64)>,
    /// Mean and peak of each window since the last change.
    windows: Vec<(f64, f64)>,
}

impl Boundary {
    pub fn new(margin: f64) -> Self {
        Self { margin, open: None, windows: Vec::new() }
    }
}

impl Law for Boundary {
    fn next(&mut self, seen: &Seen) -> f64 {
        let (sum, peak, count, began) = self.open.take().unwrap_or((0.0, 0.0, 0.0, seen.at_s - seen.step_s));
        let (sum, peak, count) = (sum + seen.used, seen.used.max(peak), count + 1.0);
        if seen.at_s - began < WINDOW_S {
            self.open = Some((sum, peak, count, began));
            return seen.limit;
        }
        let mean = sum / count;
        self.windows.push((mean, peak));
        if self.windows.len() > WINDOWS {
            self.windows.remove(0);
        }
        let upper = (1.0 - self.margin) * seen.limit;
        let lower = (1.0 - 2.0 * self.margin) * seen.limit;
        let above = self.windows.iter().filter(|(mean, _)| *mean > upper).count();
        let below = self.windows.iter().filter(|(mean, _)| *mean < lower).count();
        let fit = 1.0 / (1.0 - 1.5 * self.margin);
        let next = if above >= 2 && below <= 2 {
            let peak = self.windows.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
            (seen.limit * (1.0 + self.margin)).max(peak * fit)
        } else if below >= 8 && above == 0 {
            mean * fit
        } else {
            return seen.limit;
        };
        self.windows.clear();
        next
    }
}
