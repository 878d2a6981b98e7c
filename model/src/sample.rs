//! Samples on their way from a wire format to the store, in columns.

use std::collections::HashMap;

use crate::clock::TimeMs;

/// What identifies a series: a metric and its tags, sorted by key, each key once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    metric: String,
    tags: Vec<(String, String)>,
}

impl SeriesKey {
    /// Sorts `tags` by key; of tags with the same key the last one counts, as in a JSON object.
    pub fn new(metric: impl Into<String>, tags: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut tags: Vec<_> = tags.into_iter().collect();
        tags.reverse();
        tags.sort_by(|a, b| a.0.cmp(&b.0));
        tags.dedup_by(|later, kept| later.0 == kept.0);
        Self { metric: metric.into(), tags }
    }

    /// The metric's name.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> &[(String, String)] {
        &self.tags
    }

    /// The value of one tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok().map(|at| self.tags[at].1.as_str())
    }
}

/// Samples of many series: the series once each, and one row of (series, time, value) a sample in arrival order.
#[derive(Clone, Debug, Default)]
pub struct SampleBatch {
    keys: Vec<SeriesKey>,
    index: HashMap<SeriesKey, u32>,
    series: Vec<u32>,
    times: Vec<i64>,
    values: Vec<f64>,
}

impl SampleBatch {
    /// A batch without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one sample. `value` is stored as it is; whether it is acceptable is the store's question.
    pub fn push(&mut self, key: SeriesKey, time: TimeMs, value: f64) {
        // A batch of 2^32 series does not fit in memory, so the conversion cannot lose anything.
        let next = self.keys.len() as u32;
        let at = *self.index.entry(key).or_insert_with_key(|key| {
            self.keys.push(key.clone());
            next
        });
        self.series.push(at);
        self.times.push(time.0);
        self.values.push(value);
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The distinct series of the batch.
    pub fn keys(&self) -> &[SeriesKey] {
        &self.keys
    }

    /// Per sample, the index of its series in [`SampleBatch::keys`].
    pub fn series(&self) -> &[u32] {
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

    /// The samples as rows, in arrival order.
    pub fn rows(&self) -> impl Iterator<Item = (&SeriesKey, TimeMs, f64)> + '_ {
        (0..self.len()).map(|row| (&self.keys[self.series[row] as usize], TimeMs(self.times[row]), self.values[row]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_order_of_tags_does_not_make_another_series() {
        let a = SeriesKey::new("m", [tag("x", "1"), tag("a", "2")]);
        let b = SeriesKey::new("m", [tag("a", "2"), tag("x", "1")]);
        assert_eq!(a, b);
        assert_eq!(a.tag("x"), Some("1"));
        assert_eq!(a.tag("y"), None);
    }

    #[test]
    fn of_a_repeated_tag_the_last_counts() {
        let key = SeriesKey::new("m", [tag("a", "old"), tag("a", "new")]);
        assert_eq!(key.tags(), [tag("a", "new")]);
    }

    #[test]
    fn a_batch_keeps_arrival_order_and_each_series_once() {
        let mut batch = SampleBatch::new();
        for (time, value) in [(2, 0.5), (1, 1.5)] {
            batch.push(SeriesKey::new("m", [tag("a", "1")]), TimeMs(time), value);
        }
        assert_eq!(batch.keys().len(), 1);
        assert_eq!(batch.rows().map(|(_, t, v)| (t.0, v)).collect::<Vec<_>>(), [(2, 0.5), (1, 1.5)]);
    }
}
