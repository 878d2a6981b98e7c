//! The series index: from a metric with tags to a small number and back.
//!
//! Ids are never reused within a data directory, so a row in an old segment can never be taken for another series.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashTable;
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
    /// See [`SeriesIndex::rewritten`].
    rewritten: u64,
}

/// All known series.
#[derive(Default)]
pub(crate) struct SeriesIndex {
    /// By key. Only ids, since the keys are in `entries`.
    ids: HashTable<u32>,
    hasher: ahash::RandomState,
    entries: Entries,
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
        self.entries.count
    }

    /// The id of a series.
    pub(crate) fn id(&self, key: &SeriesKey) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(key), |&id| self.entries.has(id, key)).copied()
    }

    /// The next id that was never used.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Makes sure that ids below `next` are never given out.
    pub(crate) fn reserve_below(&mut self, next: u32) {
        self.next_id = self.next_id.max(next);
    }

    /// Notes that a series has a sample of `time`; `None` when the series is unknown. Returns its metric's number. Only
    /// for whoever holds the writer lock: two at a time could lose the newer of two times.
    pub(crate) fn touch(&self, id: u32, time: i64) -> Option<u32> {
        let entry = self.entries.get(id)?;
        // Not `fetch_max`: as there is one writer, the locked instruction would buy nothing.
        if entry.last.load(Ordering::Relaxed) < time {
            entry.last.store(time, Ordering::Relaxed);
        }
        Some(entry.metric)
    }

    /// Adds a series under an id. Doing it twice changes nothing; an id that stood for another key now stands for this one.
    pub(crate) fn insert(&mut self, id: u32, key: SeriesKey) {
        let is_newest = id >= self.next_id;
        self.reserve_below(id.saturating_add(1));
        let older = self.id(&key);
        if older == Some(id) {
            return;
        }
        self.remove(id);
        let metric = self.metric_number(key.metric());
        let entry = &mut self.metrics[metric as usize];
        if entry.series.is_empty() {
            self.generation += 1;
        }
        entry.series.insert(id);
        self.changes += 1;
        entry.version = self.changes;
        if !is_newest {
            entry.rewritten = self.changes;
        }
        for (tag, _) in key.tags() {
            let users = match entry.tag_keys.get_mut(tag) {
                Some(users) => users,
                None => entry.tag_keys.entry(tag.to_owned()).or_insert(0),
            };
            *users += 1;
            if *users == 1 {
                self.generation += 1;
            }
        }
        let hash = self.hasher.hash_one(&key);
        self.entries.set(id, Entry { key: Arc::new(key), metric, last: AtomicI64::new(i64::MIN) });
        // Of two ids of one key the newer is the one to find.
        match older.and_then(|older| self.ids.find_mut(hash, |&found| found == older)) {
            Some(found) => *found = id,
            None => {
                let (entries, hasher) = (&self.entries, &self.hasher);
                let rehash = |&id: &u32| entries.get(id).map_or(0, |entry| hasher.hash_one(&*entry.key));
                self.ids.insert_unique(hash, id, rehash);
            }
        }
    }

    fn remove(&mut self, id: u32) {
        let Some(old) = self.entries.take(id) else { return };
        // The key may meanwhile stand under a newer id, which stays.
        if let Ok(found) = self.ids.find_entry(self.hasher.hash_one(&*old.key), |&found| found == id) {
            found.remove();
        }
        let metric = &mut self.metrics[old.metric as usize];
        metric.series.remove(&id);
        self.changes += 1;
        metric.version = self.changes;
        metric.rewritten = self.changes;
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
        self.metrics.push(Metric { name, series: BTreeSet::new(), tag_keys: Map::default(), version: 0, rewritten: 0 });
        number
    }

    /// Gives series whose age is not known (they were read from disk) the time `now`, and every series at least the newest
    /// time in segments: which of them have samples there is not known either.
    pub(crate) fn date_unknown(&self, now: i64, in_segments: i64) {
        for (_, entry) in self.entries.iter() {
            let _ = entry.last.compare_exchange(i64::MIN, now, Ordering::Relaxed, Ordering::Relaxed);
            entry.last.fetch_max(in_segments, Ordering::Relaxed);
        }
    }

    /// Forgets all series without a sample at or after `before`; returns how many.
    pub(crate) fn expire(&mut self, before: i64) -> usize {
        let entries = self.entries.iter();
        let expired: Vec<u32> =
            entries.filter(|(_, entry)| entry.last.load(Ordering::Relaxed) < before).map(|(id, _)| id).collect();
        for &id in &expired {
            self.remove(id);
        }
        expired.len()
    }

    /// All series, sorted by id.
    pub(crate) fn all(&self) -> Vec<(u32, Arc<SeriesKey>)> {
        self.entries.iter().map(|(id, entry)| (id, entry.key.clone())).collect()
    }

    pub(crate) fn key(&self, id: u32) -> Option<Arc<SeriesKey>> {
        self.entries.get(id).map(|entry| entry.key.clone())
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
        let entries = series.filter_map(|&id| Some((id, self.entries.get(id)?)));
        let live = entries.filter(|(_, entry)| entry.last.load(Ordering::Relaxed) >= from);
        live.map(|(id, entry)| (id, entry.key.clone())).collect()
    }

    /// The series of some metrics with ids from `first` on, sorted by id, each with the place of its metric.
    pub(crate) fn series_from(&self, metrics: &[&str], first: u32) -> Vec<(u32, usize, Arc<SeriesKey>)> {
        let mut series = Vec::new();
        for (place, metric) in metrics.iter().enumerate() {
            let Some(&number) = self.metric_ids.get(*metric) else { continue };
            let ids = self.metrics[number as usize].series.range(first..);
            series.extend(ids.filter_map(|&id| Some((id, place, self.key(id)?))));
        }
        series.sort_by_key(|(id, ..)| *id);
        series
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Changes whenever a series of the metric comes or goes; 0 for a metric that was never seen.
    pub(crate) fn version(&self, metric: &str) -> u64 {
        self.metric_ids.get(metric).map_or(0, |&number| self.metrics[number as usize].version)
    }

    /// As [`SeriesIndex::version`], but does not change when a series comes whose id is above all that were given out before. As long as
    /// it stays, what was learned of the metric's series stays true, and [`SeriesIndex::series_from`] tells the rest.
    pub(crate) fn rewritten(&self, metric: &str) -> u64 {
        self.metric_ids.get(metric).map_or(0, |&number| self.metrics[number as usize].rewritten)
    }
}

/// Series on a page.
const PAGE: usize = 1024;

/// The series by id. In pages, since ids are found by position on the write path but are never reused: a page whose series
/// are all forgotten takes a pointer's room.
#[derive(Default)]
struct Entries {
    pages: Vec<Option<Page>>,
    count: usize,
}

struct Page {
    entries: Box<[Option<Entry>]>,
    count: usize,
}

impl Entries {
    fn get(&self, id: u32) -> Option<&Entry> {
        let page = self.pages.get(id as usize / PAGE)?.as_ref()?;
        page.entries[id as usize % PAGE].as_ref()
    }

    fn has(&self, id: u32, key: &SeriesKey) -> bool {
        self.get(id).is_some_and(|entry| *entry.key == *key)
    }

    /// Puts an entry where there is none.
    fn set(&mut self, id: u32, entry: Entry) {
        let at = id as usize / PAGE;
        if at >= self.pages.len() {
            self.pages.resize_with(at + 1, || None);
        }
        let page = self.pages[at]
            .get_or_insert_with(|| Page { entries: std::iter::repeat_with(|| None).take(PAGE).collect(), count: 0 });
        debug_assert!(page.entries[id as usize % PAGE].is_none(), "series {id} is removed before it is replaced");
        page.entries[id as usize % PAGE] = Some(entry);
        page.count += 1;
        self.count += 1;
    }

    fn take(&mut self, id: u32) -> Option<Entry> {
        let slot = self.pages.get_mut(id as usize / PAGE)?;
        let page = slot.as_mut()?;
        let entry = page.entries[id as usize % PAGE].take()?;
        page.count -= 1;
        self.count -= 1;
        if page.count == 0 {
            *slot = None;
        }
        Some(entry)
    }

    /// In the order of ids.
    fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.pages.iter().zip((0..).step_by(PAGE)).filter_map(|(page, first)| Some((page.as_ref()?, first))).flat_map(
            |(page, first): (&Page, u32)| {
                page.entries.iter().zip(first..).filter_map(|(entry, id)| Some((id, entry.as_ref()?)))
            },
        )
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
    fn whoever_knows_the_series_of_a_metric_learns_whether_there_are_only_more_of_them() {
        let mut index = SeriesIndex::default();
        let host = |host: &str| key("cpu", &[("host", host)]);
        index.insert(3, host("a"));
        let (version, rewritten) = (index.version("cpu"), index.rewritten("cpu"));
        index.insert(7, host("b"));
        assert_ne!(index.version("cpu"), version);
        assert_eq!(index.rewritten("cpu"), rewritten);
        index.insert(9, key("mem", &[]));
        index.insert(10, host("d"));
        assert_eq!(index.rewritten("cpu"), rewritten);
        let ids = |first| {
            let series = index.series_from(&["mem", "disk", "cpu"], first).into_iter();
            series.map(|(id, place, _)| (id, place)).collect::<Vec<_>>()
        };
        assert_eq!((ids(4), ids(11)), (vec![(7, 2), (9, 0), (10, 2)], vec![]));
        index.insert(5, host("c"));
        let below = index.rewritten("cpu");
        assert_ne!(below, rewritten);
        index.date_unknown(1, 0);
        index.touch(7, 9);
        assert_eq!(index.expire(5), 4);
        assert_ne!(index.rewritten("cpu"), below);
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
    fn ids_far_apart_are_found_and_listed_in_order() {
        let mut index = SeriesIndex::default();
        for id in [5_000_000, 3, 1024, 1023] {
            index.insert(id, key("m", &[("id", &id.to_string())]));
            index.touch(id, i64::from(id));
        }
        assert_eq!(index.all().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 1023, 1024, 5_000_000]);
        assert_eq!(index.expire(1024), 2);
        assert_eq!((index.touch(3, 0), index.touch(1024, 0), index.touch(9_000_000, 0)), (None, Some(0), None));
        assert_eq!((index.len(), index.next_id()), (2, 5_000_001));
    }

    #[test]
    fn a_key_under_two_ids_is_found_under_the_newer_and_outlives_the_older() {
        let mut index = SeriesIndex::default();
        index.insert(1, key("m", &[]));
        index.insert(2, key("m", &[]));
        index.touch(2, 10);
        assert_eq!(index.id(&key("m", &[])), Some(2));
        assert_eq!(index.expire(5), 1);
        assert_eq!((index.id(&key("m", &[])), index.len()), (Some(2), 1));
    }

    /// A million series have to fit in well under a gigabyte, so each may take some 400 bytes.
    #[test]
    fn a_series_takes_few_bytes() {
        const SERIES: u32 = 200_000;
        let resident = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        let mut index = SeriesIndex::default();
        for id in 0..SERIES {
            let (host, pid) = (format!("cont{:04}", id % 1000), id.to_string());
            index.insert(id, key("proc.cpu.user", &[("command", "java"), ("host", &host), ("pid", &pid)]));
        }
        let bytes = resident().saturating_sub(before) / SERIES as usize;
        println!("{bytes} bytes per series");
        assert!(bytes < 400, "{bytes}");
        assert_eq!(index.len(), SERIES as usize);
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
