//! Samples on their way from a wire format to the store, in columns.

use std::collections::HashMap;

use crate::clock::TimeMs;
use crate::series::SeriesKey;

/// Which series a row of a [`SampleBatch`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeriesRef {
    /// An index into [`SampleBatch::keys`].
    Key(u32),
    /// The store's own id of a series that it already knows.
    Id(u32),
}

/// Samples of many series: one row of (series, time, value) a sample in arrival order. A series is named by its key, held
/// once, or by the id that the store has given it before.
#[derive(Clone, Debug, Default)]
pub struct SampleBatch {
    keys: Vec<SeriesKey>,
    index: HashMap<SeriesKey, u32>,
    series: Vec<SeriesRef>,
    times: Vec<i64>,
    values: Vec<f64>,
}

impl SampleBatch {
    /// A batch without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch without samples that can take `rows` of them without growing.
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            series: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            values: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Appends one sample. `value` is stored as it is; whether it is acceptable is the store's question.
    pub fn push(&mut self, key: SeriesKey, time: TimeMs, value: f64) {
        let at = self.add_key(key);
        self.push_row(SeriesRef::Key(at), time, value);
    }

    /// Appends one sample of a series that is named as it was before: by an id of the store's, or by what
    /// [`SampleBatch::add_key`] has returned.
    pub fn push_row(&mut self, series: SeriesRef, time: TimeMs, value: f64) {
        self.series.push(series);
        self.times.push(time.0);
        self.values.push(value);
    }

    /// Makes sure that the batch has a key and returns its index, without a sample.
    pub fn add_key(&mut self, key: SeriesKey) -> u32 {
        // A batch of 2^32 series does not fit in memory, so the conversion cannot lose anything.
        let next = self.keys.len() as u32;
        *self.index.entry(key).or_insert_with_key(|key| {
            self.keys.push(key.clone());
            next
        })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The distinct series of the batch that are named by their key.
    pub fn keys(&self) -> &[SeriesKey] {
        &self.keys
    }

    /// Per sample, its series.
    pub fn series(&self) -> &[SeriesRef] {
        &self.series
    }

    /// Per sample, its time in ms UTC.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// Per sample, its value.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The key of a row, unless the row names its series by id. Panics if there is no such row.
    pub fn key_of(&self, row: usize) -> Option<&SeriesKey> {
        match self.series[row] {
            SeriesRef::Key(at) => Some(&self.keys[at as usize]),
            SeriesRef::Id(_) => None,
        }
    }

    /// The samples whose series are named by key, in arrival order.
    pub fn rows(&self) -> impl Iterator<Item = (&SeriesKey, TimeMs, f64)> + '_ {
        (0..self.len()).filter_map(|row| Some((self.key_of(row)?, TimeMs(self.times[row]), self.values[row])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_arrival_order_and_each_series_once() {
        let mut batch = SampleBatch::new();
        let key = || SeriesKey::new("m", [("a".to_owned(), "1".to_owned())]);
        for (time, value) in [(2, 0.5), (1, 1.5)] {
            batch.push(key(), TimeMs(time), value);
        }
        batch.push_row(SeriesRef::Id(7), TimeMs(3), 2.5);
        assert_eq!(batch.keys(), [key()]);
        assert_eq!(batch.series(), [SeriesRef::Key(0), SeriesRef::Key(0), SeriesRef::Id(7)]);
        assert_eq!(batch.rows().map(|(_, t, v)| (t.0, v)).collect::<Vec<_>>(), [(2, 0.5), (1, 1.5)]);
    }
}
