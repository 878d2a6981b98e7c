//! `first`, `last` and `delta`: what the earliest and the latest measurement say.

use super::aggregate::{Cell, What, numbers};

/// The earliest and the latest measurement of a group; of several at the same time the largest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    what: What,
    ends: Option<[(i64, f64); 2]>,
}

impl Ends {
    pub(super) fn new(what: What) -> Self {
        Self { what, ends: None }
    }
}

/// What the ends of a series come to.
pub(super) fn of_ends(what: What, first: (i64, f64), last: (i64, f64)) -> Option<f64> {
    match what {
        What::First => Some(first.1),
        What::Last => Some(last.1),
        // One reading is no difference; nothing is not zero.
        _ => (first.0 < last.0).then_some(last.1 - first.1),
    }
}

impl Cell for Ends {
    fn push(&mut self, time: i64, value: f64) {
        let Some([first, last]) = &mut self.ends else {
            self.ends = Some([(time, value); 2]);
            return;
        };
        if time < first.0 || (time == first.0 && value > first.1) {
            *first = (time, value);
        }
        if time > last.0 || (time == last.0 && value > last.1) {
            *last = (time, value);
        }
    }

    fn value(&mut self) -> Option<f64> {
        let [first, last] = self.ends?;
        of_ends(self.what, first, last)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for (time, value) in self.ends.iter().flatten() {
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
}
