//! From when on samples count, per metric: what the retention hides at once, long before its bytes are gone.

use parking_lot::RwLock;

use crate::catalog::Horizon;

/// The horizons in force, shared by all segments.
#[derive(Debug, Default)]
pub(crate) struct Horizons(RwLock<Vec<Horizon>>);

impl Horizons {
    pub(crate) fn new(horizons: Vec<Horizon>) -> Self {
        Self(RwLock::new(horizons))
    }

    pub(crate) fn replace(&self, horizons: Vec<Horizon>) {
        *self.0.write() = horizons;
    }

    /// The earliest time of a metric's samples that count, in ms UTC.
    pub(crate) fn of(&self, metric: &str) -> i64 {
        let horizons = self.0.read();
        longest_prefix(&horizons, metric, |horizon| &horizon.prefix).map_or(i64::MIN, |horizon| horizon.from.0)
    }
}

/// Of the entries whose prefix the metric's name begins with, the one with the longest.
pub(crate) fn longest_prefix<'a, T>(entries: &'a [T], metric: &str, prefix: impl Fn(&T) -> &String) -> Option<&'a T> {
    let fitting = entries.iter().filter(|entry| metric.starts_with(prefix(entry).as_str()));
    fitting.max_by_key(|entry| prefix(entry).len())
}
