//! `increase` and `rate`: how much a counter grew, whatever number of times it began anew.
//!
//! The plain difference between the last and the first reading plus what was lost at each reset, as `delta(counter_agg(..))`
//! and `rate(counter_agg(..))` of TimescaleDB's toolkit and as VictoriaMetrics' `increase_pure` and `rate` have it; not
//! Prometheus' extrapolation to the borders of the window, which makes fractions out of whole events.

use std::mem::size_of;

use super::aggregate::{Cell, What, numbers};
use super::points::Points;

/// The readings of one counter, kept until they are asked about: one that comes late can fall between any two others.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    what: What,
    readings: Vec<(i64, f64)>,
    /// What was asked about before, as a growing window does row by row.
    asked: Option<Points>,
    was_asked: bool,
}

impl Counter {
    pub(super) fn new(what: What) -> Self {
        Self { what, readings: Vec::new(), asked: None, was_asked: false }
    }
}

/// What a counter comes to that grew by `increase` between two readings.
pub(super) fn of_counter(what: What, first: i64, last: i64, increase: f64) -> Option<f64> {
    // One reading says nothing about growth; nothing is not zero.
    let seconds = (last > first).then(|| (last - first) as f64 / 1000.0)?;
    Some(if what == What::Rate { increase / seconds } else { increase })
}

/// What a counter had reached that fell from `before` to `after`: it began anew at 0.
pub(super) fn reset(before: f64, after: f64) -> f64 {
    if after < before { before } else { 0.0 }
}

/// Growth of readings sorted by time, then value; of several at the same time the largest counts.
fn grown(what: What, sorted: &[(i64, f64)]) -> Option<f64> {
    let mut distinct = sorted.chunk_by(|a, b| a.0 == b.0).filter_map(|same| same.last());
    let first = *distinct.next()?;
    let (mut last, mut resets) = (first, 0.0);
    for reading in distinct {
        resets += reset(last.1, reading.1);
        last = *reading;
    }
    of_counter(what, first.0, last.0, last.1 - first.1 + resets)
}

impl Cell for Counter {
    fn push(&mut self, time: i64, value: f64) {
        self.readings.push((time, value));
    }

    fn value(&mut self) -> Option<f64> {
        if !self.was_asked {
            self.was_asked = true;
            // Stable, since that is fast on the sorted runs in which scans give rows.
            self.readings.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
            return grown(self.what, &self.readings);
        }
        let points = self.asked.get_or_insert_default();
        self.readings.drain(..).for_each(|(time, value)| points.insert(time, value));
        points.value(self.what)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let asked = self.asked.iter().flat_map(Points::iter);
        for (time, value) in self.readings.iter().copied().chain(asked) {
            bytes.extend(time.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let mut numbers = numbers(bytes)?;
        while let Some(time) = numbers.next() {
            self.push(i64::from_le_bytes(time), f64::from_le_bytes(numbers.next()?));
        }
        Some(())
    }

    fn heap(&self) -> usize {
        self.readings.capacity() * size_of::<(i64, f64)>() + self.asked.as_ref().map_or(0, Points::heap)
    }
}
