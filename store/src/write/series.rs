//! The series index: from a metric with tags to a small number and back.
//!
//! Ids are never reused within a data directory, so a row in an old segment can never be taken for another series.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidegate_model::SeriesKey;

use crate::scan::MetricInfo;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// One series.
struct Entry {
    key: Arc<SeriesKey>,
    metric: u32,
    /// The newest sample's time. Atomic so that appends need only the index's read lock.
    last: AtomicI64,
}

/// One metric. Its number is only valid within this process.
struct Metric {
    name: Arc<str>,
    series: BTreeSet<u32>,
    /// How many series have a tag key.
    tag_keys: Map<String, usize>,
    /// See [`SeriesIndex::version`].
    version: u64,
}

/// All known series.
#[derive(Default)]
pub(crate) struct SeriesIndex {
    ids: Map<Arc<SeriesKey>, u32>,
    entries: Map<u32, Entry>,
    metrics: Vec<Metric>,
    metric_ids: Map<Arc<str>, u32>,
    next_id: u32,
    generation: u64,
    /// Counts every series that came or went.
    changes: u64,
}

impl SeriesIndex {
    /// Number of series.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The id of a series.
    pub(crate) fn id(&self, key: &SeriesKey) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// The next id that was never used.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Makes sure that ids below `next` are never given out.
    pub(crate) fn reserve_below(&mut self, next: u32) {
        self.next_id = self.next_id.max(next);
    }

    /// Notes that a series has a sample of `time`; `false` when the series is unknown. Returns its metric's number.
    pub(crate) fn touch(&self, id: u32, time: i64) -> Option<u32> {
        let entry = self.entries.get(&id)?;
        entry.last.fetch_max(time, Ordering::Relaxed);
        Some(entry.metric)
    }

    /// Adds a series under an id. Doing it twice changes nothing; an id that stood for another key now stands for this one.
    pub(crate) fn insert(&mut self, id: u32, key: SeriesKey) {
        self.reserve_below(id.saturating_add(1));
        if self.ids.get(&key) == Some(&id) {
            return;
        }
        self.remove(id);
        let metric = self.metric_number(key.metric());
        let key = Arc::new(key);
        let entry = &mut self.metrics[metric as usize];
        if entry.series.is_empty() {
            self.generation += 1;
        }
        entry.series.insert(id);
        self.changes += 1;
        entry.version = self.changes;
        for (tag, _) in key.tags() {
            let users = entry.tag_keys.entry(tag.clone()).or_insert(0);
            *users += 1;
            if *users == 1 {
                self.generation += 1;
            }
        }
        self.ids.insert(key.clone(), id);
        self.entries.insert(id, Entry { key, metric, last: AtomicI64::new(i64::MIN) });
    }

    fn remove(&mut self, id: u32) {
        let Some(old) = self.entries.remove(&id) else { return };
        // The key may meanwhile stand under a newer id, which stays.
        if self.ids.get(&old.key) == Some(&id) {
            self.ids.remove(&old.key);
        }
        let metric = &mut self.metrics[old.metric as usize];
        metric.series.remove(&id);
        self.changes += 1;
        metric.version = self.changes;
        for (tag, _) in old.key.tags() {
            if let Some(users) = metric.tag_keys.get_mut(tag) {
                *users -= 1;
                if *users == 0 {
                    metric.tag_keys.remove(tag);
                    self.generation += 1;
                }
            }
        }
        if metric.series.is_empty() {
            self.generation += 1;
        }
    }

    fn metric_number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.metric_ids.get(name) {
            return number;
        }
        let name: Arc<str> = name.into();
        let number = self.metrics.len() as u32; // every metric has a series, and those are numbered with u32
        self.metric_ids.insert(name.clone(), number);
        self.metrics.push(Metric { name, series: BTreeSet::new(), tag_keys: Map::default(), version: 0 });
        number
    }

    /// Gives series whose age is not known (they were read from disk) the time `now`, and every series at least the newest
    /// time in segments: which of them have samples there is not known either.
    pub(crate) fn date_unknown(&self, now: i64, in_segments: i64) {
        for entry in self.entries.values() {
            let _ = entry.last.compare_exchange(i64::MIN, now, Ordering::Relaxed, Ordering::Relaxed);
            entry.last.fetch_max(in_segments, Ordering::Relaxed);
        }
    }

    /// Forgets all series without a sample at or after `before`; returns how many.
    pub(crate) fn expire(&mut self, before: i64) -> usize {
        let expired: Vec<u32> =
            self.entries.iter().filter(|(_, e)| e.last.load(Ordering::Relaxed) < before).map(|(&id, _)| id).collect();
        for &id in &expired {
            self.remove(id);
        }
        expired.len()
    }

    /// All series, sorted by id.
    pub(crate) fn all(&self) -> Vec<(u32, Arc<SeriesKey>)> {
        let mut all: Vec<_> = self.entries.iter().map(|(&id, entry)| (id, entry.key.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    pub(crate) fn key(&self, id: u32) -> Option<Arc<SeriesKey>> {
        self.entries.get(&id).map(|entry| entry.key.clone())
    }

    pub(crate) fn metric_id(&self, name: &str) -> Option<u32> {
        self.metric_ids.get(name).copied()
    }

    pub(crate) fn metric_name(&self, number: u32) -> Option<Arc<str>> {
        self.metrics.get(number as usize).map(|metric| metric.name.clone())
    }

    pub(crate) fn metrics(&self) -> Vec<MetricInfo> {
        let mut all: Vec<_> = self.metrics.iter().filter_map(Metric::describe).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn metric(&self, name: &str) -> Option<MetricInfo> {
        self.metrics[*self.metric_ids.get(name)? as usize].describe()
    }

    /// The series of a metric that may have samples at or after `from`, sorted by id.
    pub(crate) fn series_of(&self, metric: &str, from: i64) -> Vec<(u32, Arc<SeriesKey>)> {
        let Some(&number) = self.metric_ids.get(metric) else { return Vec::new() };
        let series = self.metrics[number as usize].series.iter();
        let entries = series.filter_map(|&id| Some((id, self.entries.get(&id)?)));
        let live = entries.filter(|(_, entry)| entry.last.load(Ordering::Relaxed) >= from);
        live.map(|(id, entry)| (id, entry.key.clone())).collect()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Changes whenever a series of the metric comes or goes; 0 for a metric that was never seen.
    pub(crate) fn version(&self, metric: &str) -> u64 {
        self.metric_ids.get(metric).map_or(0, |&number| self.metrics[number as usize].version)
    }
}

impl Metric {
    /// `None` when all its series are gone.
    fn describe(&self) -> Option<MetricInfo> {
        let mut tag_keys: Vec<_> = self.tag_keys.keys().cloned().collect();
        tag_keys.sort_unstable();
        (!self.series.is_empty()).then(|| MetricInfo { name: self.name.to_string(), tag_keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(metric: &str, tags: &[(&str, &str)]) -> SeriesKey {
        SeriesKey::new(metric, tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn the_generation_follows_metrics_and_tag_keys_but_not_further_series() {
        let mut index = SeriesIndex::default();
        index.insert(0, key("cpu", &[("host", "a")]));
        let first = index.generation();
        index.insert(1, key("cpu", &[("host", "b")]));
        assert_eq!(index.generation(), first);
        index.insert(2, key("cpu", &[("host", "b"), ("core", "0")]));
        assert_ne!(index.generation(), first);
        let metric = index.metric("cpu").unwrap();
        assert_eq!(metric.tag_keys, ["core", "host"]);
        assert_eq!(index.series_of("cpu", i64::MIN).len(), 3);
    }

    #[test]
    fn series_that_ended_before_a_range_are_left_out() {
        let mut index = SeriesIndex::default();
        for (id, host) in [(0, "a"), (1, "b"), (2, "c")] {
            index.insert(id, key("cpu", &[("host", host)]));
        }
        index.touch(0, 10);
        index.touch(1, 20);
        index.date_unknown(30, 15);
        let live = |from| index.series_of("cpu", from).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!((live(15), live(16), live(21)), (vec![0, 1, 2], vec![1, 2], vec![2]));
    }

    #[test]
    fn forgotten_series_leave_no_metric_behind_and_their_ids_are_not_reused() {
        let mut index = SeriesIndex::default();
        index.insert(0, key("cpu", &[("host", "a")]));
        index.insert(1, key("mem", &[]));
        index.touch(0, 10);
        index.touch(1, 20);
        assert_eq!(index.expire(20), 1);
        assert_eq!(index.metrics().len(), 1);
        assert_eq!(index.id(&key("cpu", &[("host", "a")])), None);
        assert_eq!(index.next_id(), 2);
    }

    #[test]
    fn of_two_definitions_of_an_id_the_later_counts() {
        let mut index = SeriesIndex::default();
        index.insert(5, key("a", &[]));
        index.insert(5, key("b", &[]));
        index.insert(6, key("a", &[]));
        assert_eq!(index.id(&key("a", &[])), Some(6));
        assert_eq!(index.key(5).unwrap().metric(), "b");
        assert_eq!(index.len(), 2);
    }
}
