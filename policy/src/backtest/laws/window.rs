//! What laws remember: a decayed histogram, and a peak over a span of time.

use std::collections::VecDeque;

/// Growth from one bucket to the next, as in the Kubernetes vertical pod autoscaler.
const RATIO: f64 = 1.05;
/// Bucket 0 ends at RATIO^-FIRST (about 1e-9); the last one ends above 1e17. Both cores and bytes lie between.
const FIRST: i32 = 425;
const BUCKETS: usize = 1_240;
/// Half-lives after which all weights are written down, far from where a float overflows.
const LONGEST: f64 = 256.0;

/// A histogram whose samples weigh 2^(-age / half-life).
#[derive(Clone, Debug)]
pub(super) struct Decayed {
    half_life_s: f64,
    /// Instead of ageing old weights, new ones weigh more, relative to this instant.
    reference_s: Option<f64>,
    weights: Vec<f64>,
    total: f64,
    /// The highest bucket that has something in it.
    highest: usize,
}

impl Decayed {
    pub fn new(half_life_s: f64) -> Self {
        Self { half_life_s, reference_s: None, weights: vec![0.0; BUCKETS], total: 0.0, highest: 0 }
    }

    /// Counts a value, `weight` times.
    pub fn add(&mut self, at_s: f64, value: f64, weight: f64) {
        let reference = self.reference_s.get_or_insert(at_s);
        let mut half_lives = (at_s - *reference) / self.half_life_s;
        if half_lives > LONGEST {
            let down = (-half_lives).exp2();
            self.weights.iter_mut().for_each(|weight| *weight *= down);
            self.total *= down;
            *reference = at_s;
            half_lives = 0.0;
        }
        let number = if value > 0.0 { (value.ln() / RATIO.ln()).floor() + f64::from(FIRST) } else { 0.0 };
        let bucket = number.clamp(0.0, (BUCKETS - 1) as f64) as usize;
        let weight = weight * half_lives.exp2();
        self.weights[bucket] += weight;
        self.total += weight;
        self.highest = self.highest.max(bucket);
    }

    /// The upper end of the bucket below whose end the share `quantile` of all weight lies; 0 without a sample.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let above = (1.0 - quantile) * self.total;
        let mut sum = 0.0;
        let mut bucket = self.highest;
        while bucket > 0 {
            sum += self.weights[bucket];
            if sum > above {
                return RATIO.powi(bucket as i32 + 1 - FIRST);
            }
            bucket -= 1;
        }
        0.0
    }
}

/// The highest value of a span of time.
#[derive(Clone, Debug)]
pub(super) struct Peak {
    span_s: f64,
    /// Times and values, of which only such are kept as no later one exceeds: falling values.
    kept: VecDeque<(f64, f64)>,
}

impl Peak {
    pub fn new(span_s: f64) -> Self {
        Self { span_s, kept: VecDeque::new() }
    }

    /// Takes a value in and gives the highest one after `at_s - span_s`.
    pub fn push(&mut self, at_s: f64, value: f64) -> f64 {
        while self.kept.back().is_some_and(|(_, last)| *last <= value) {
            self.kept.pop_back();
        }
        self.kept.push_back((at_s, value));
        while self.kept.front().is_some_and(|(first, _)| *first <= at_s - self.span_s) {
            self.kept.pop_front();
        }
        self.kept.front().map_or(value, |(_, highest)| *highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sample_of_a_half_life_ago_counts_half() {
        let mut decayed = Decayed::new(100.0);
        assert_eq!(decayed.quantile(0.5), 0.0);
        for (at, value) in [(0.0, 8.0), (0.0, 8.0), (100.0, 1.0)] {
            decayed.add(at, value, 1.0);
        }
        // Both weigh the same now: half of the weight is above 1, and anything that is asked for above the half is 8.
        let up = |value: f64| (value, value * RATIO);
        for (quantile, (low, high)) in [(0.49, up(1.0)), (0.51, up(8.0)), (1.0, up(8.0))] {
            let found = decayed.quantile(quantile);
            assert!(low < found && found <= high, "{quantile}: {found}");
        }
        decayed.add(100.0 * 1_000.0, 2.0, 1.0);
        assert!((2.0..=2.1).contains(&decayed.quantile(0.5)), "nothing is left of what is long past");
    }

    proptest! {
        #[test]
        fn a_peak_is_the_largest_of_its_span(values in prop::collection::vec((1_u32..50, 0.0_f64..10.0), 1..60), span in 1_u32..200) {
            let mut peak = Peak::new(f64::from(span));
            let mut all: Vec<(f64, f64)> = Vec::new();
            let mut at = 0.0;
            for (later, value) in values {
                at += f64::from(later);
                all.push((at, value));
                let within = all.iter().filter(|(time, _)| *time > at - f64::from(span)).map(|(_, value)| *value);
                prop_assert_eq!(peak.push(at, value), within.fold(0.0, f64::max));
            }
        }
    }
}
