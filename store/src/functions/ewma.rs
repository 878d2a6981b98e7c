//! `ewma`: the mean with weights that halve with each half-life of age.

use super::aggregate::{Cell, numbers};

/// Weights are relative to the newest measurement, 2^(-age / half-life), so samples at uneven distances count by their age
/// and not by their number. Values at the same time count alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ewma {
    half_life_ms: f64,
    newest: i64,
    /// Sum of the weights; 0 before the first measurement.
    weight: f64,
    /// Sum of the weighted values.
    sum: f64,
}

impl Ewma {
    pub(super) fn new(half_life_ms: f64) -> Self {
        Self { half_life_ms, newest: i64::MIN, weight: 0.0, sum: 0.0 }
    }

    fn add(&mut self, time: i64, weight: f64, sum: f64) {
        if self.weight == 0.0 {
            (self.newest, self.weight, self.sum) = (time, weight, sum);
            return;
        }
        let decay = (-(time.abs_diff(self.newest) as f64) / self.half_life_ms).exp2();
        if time > self.newest {
            self.newest = time;
            self.weight = self.weight * decay + weight;
            self.sum = self.sum * decay + sum;
        } else {
            self.weight += decay * weight;
            self.sum += decay * sum;
        }
    }
}

impl Cell for Ewma {
    fn push(&mut self, time: i64, value: f64) {
        self.add(time, 1.0, value);
    }

    fn value(&mut self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.newest.to_le_bytes());
        bytes.extend(self.weight.to_le_bytes());
        bytes.extend(self.sum.to_le_bytes());
    }

    fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let mut numbers = numbers(bytes)?;
        let newest = i64::from_le_bytes(numbers.next()?);
        let weight = f64::from_le_bytes(numbers.next()?);
        let sum = f64::from_le_bytes(numbers.next()?);
        if weight > 0.0 {
            self.add(newest, weight, sum);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_weighted_mean_in_whatever_order_and_parts_it_is_told(
            points in proptest::collection::vec((0_i64..100_000, -50_i32..50), 1..40),
            cut in 0_usize..40,
        ) {
            let newest = points.iter().map(|(time, _)| *time).max().unwrap();
            let weight = |time: i64| 2.0_f64.powf(-((newest - time) as f64) / 5_000.0);
            let weights: f64 = points.iter().map(|(time, _)| weight(*time)).sum();
            let sum: f64 = points.iter().map(|(time, value)| weight(*time) * f64::from(*value)).sum();
            let (mut one, mut other) = (Ewma::new(5_000.0), Ewma::new(5_000.0));
            for (at, (time, value)) in points.iter().enumerate() {
                if at < cut { &mut one } else { &mut other }.push(*time, f64::from(*value));
            }
            let mut bytes = Vec::new();
            other.write(&mut bytes);
            one.merge(&bytes).unwrap();
            prop_assert!((one.value().unwrap() - sum / weights).abs() < 1e-9);
        }
    }
}
