//! Measurements that come and go, for moving windows.

use std::collections::BTreeMap;
use std::mem::size_of;

use arrow::array::ArrayRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Accumulator;

use super::aggregate::{What, measurements, states};
use super::counter::{of_counter, reset};
use super::ends::of_ends;

/// Measurements by time and value. What is asked of them is kept up, so that a window that moves by a row costs the same
/// however long it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// How many there are of each (time, value); values as [`ordered`].
    counts: BTreeMap<(i64, u64), u32>,
    /// What was lost at resets, if they are readings of a counter.
    resets: f64,
}

impl Points {
    pub(super) fn insert(&mut self, time: i64, value: f64) {
        self.change(time, |counts| *counts.entry((time, ordered(value))).or_insert(0) += 1);
    }

    fn remove(&mut self, time: i64, value: f64) {
        let key = (time, ordered(value));
        self.change(time, |counts| match counts.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&key);
            }
        });
    }

    /// What all of them come to.
    pub(super) fn value(&self, what: What) -> Option<f64> {
        let (first, last) = (self.counts.first_key_value()?.0.0, self.counts.last_key_value()?.0.0);
        let ends = ((first, self.at(first)?), (last, self.at(last)?));
        match what {
            What::Increase | What::Rate => of_counter(what, first, last, ends.1.1 - ends.0.1 + self.resets),
            _ => of_ends(what, ends.0, ends.1),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, f64)> {
        self.counts.iter().flat_map(|(&(time, value), &count)| (0..count).map(move |_| (time, unordered(value))))
    }

    pub(super) fn heap(&self) -> usize {
        self.counts.len() * size_of::<((i64, u64), u32)>() * 2
    }

    fn change(&mut self, time: i64, change: impl FnOnce(&mut BTreeMap<(i64, u64), u32>)) {
        let before = self.counts.range(..(time, 0)).next_back().map(|(&(_, value), _)| unordered(value));
        let after = self.counts.range((time, u64::MAX)..).find(|((at, _), _)| *at > time).map(|((at, _), _)| *at);
        let after = after.and_then(|after| self.at(after));
        let lost = |at: Option<f64>| {
            let readings: Vec<f64> = [before, at, after].into_iter().flatten().collect();
            readings.windows(2).map(|pair| reset(pair[0], pair[1])).sum::<f64>()
        };
        let was = lost(self.at(time));
        change(&mut self.counts);
        let is = lost(self.at(time));
        // Without a change nothing is rounded.
        if was != is {
            self.resets += is - was;
        }
    }

    /// The largest value at a time.
    fn at(&self, time: i64) -> Option<f64> {
        self.counts.range((time, 0)..=(time, u64::MAX)).next_back().map(|(&(_, value), _)| unordered(value))
    }
}

const SIGN: u64 = 1 << 63;

/// A number that is ordered like the value.
fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn unordered(bits: u64) -> f64 {
    f64::from_bits(if bits & SIGN == 0 { !bits } else { bits & !SIGN })
}

/// A frame that moves over its rows.
#[derive(Debug)]
pub(super) struct Sliding {
    what: What,
    points: Points,
}

impl Sliding {
    pub(super) fn new(what: What) -> Self {
        Self { what, points: Points::default() }
    }
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        measurements(columns, |time, value| self.points.insert(time, value))
    }

    fn retract_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        measurements(columns, |time, value| self.points.remove(time, value))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.points.value(self.what)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.points.heap()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = self.points.iter().flat_map(|(time, value)| [time.to_le_bytes(), value.to_le_bytes()]);
        Ok(vec![ScalarValue::LargeBinary(Some(bytes.flatten().collect()))])
    }

    fn merge_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        states(columns, |_, bytes| {
            let (numbers, _) = bytes.as_chunks::<8>();
            for pair in numbers.chunks_exact(2) {
                self.points.insert(i64::from_le_bytes(pair[0]), f64::from_le_bytes(pair[1]));
            }
            Some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::aggregate::Cell;
    use super::super::counter::Counter;
    use super::super::ends::Ends;
    use super::*;

    const ALL: [What; 5] = [What::First, What::Last, What::Delta, What::Increase, What::Rate];

    fn cell(what: What, points: &[(i64, f64)]) -> Option<f64> {
        let counter = matches!(what, What::Increase | What::Rate);
        let (mut counts, mut ends) = (Counter::new(what), Ends::new(what));
        for (time, value) in points {
            counts.push(*time, *value);
            ends.push(*time, *value);
        }
        if counter { counts.value() } else { ends.value() }
    }

    #[test]
    fn values_keep_their_order_as_numbers() {
        let values = [f64::NEG_INFINITY, -2.5, -0.0, 0.0, 1e-300, 3.0, f64::INFINITY];
        for pair in values.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]));
        }
        assert!(values.iter().all(|value| unordered(ordered(*value)).to_bits() == value.to_bits()));
    }

    proptest! {
        #[test]
        fn a_moving_window_says_what_its_rows_say(
            points in proptest::collection::vec((0_i64..40, 0_u32..50), 1..60),
            width in 1_usize..20,
        ) {
            let points: Vec<(i64, f64)> = points.into_iter().map(|(time, value)| (time, f64::from(value))).collect();
            let mut moving = Points::default();
            for end in 0..points.len() {
                moving.insert(points[end].0, points[end].1);
                if end >= width {
                    moving.remove(points[end - width].0, points[end - width].1);
                }
                let window = &points[(end + 1).saturating_sub(width)..=end];
                for what in ALL {
                    prop_assert_eq!(moving.value(what), cell(what, window), "{:?} {:?}", what, window);
                }
            }
        }

        #[test]
        fn a_growing_counter_says_the_same_whenever_it_is_asked(
            points in proptest::collection::vec((0_i64..40, 0_u32..50), 1..40),
        ) {
            let mut growing = Counter::new(What::Increase);
            let mut seen = Vec::new();
            for (time, value) in points {
                growing.push(time, f64::from(value));
                seen.push((time, f64::from(value)));
                prop_assert_eq!(growing.value(), cell(What::Increase, &seen));
            }
        }
    }
}
