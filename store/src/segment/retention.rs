//! Retention: what is too old, or too much, is hidden at once and removed afterwards.
//!
//! Every rule comes down to a *horizon* for the metrics whose names begin with its prefix: a time before which their
//! samples do not count. By age it is now minus the age; by size it is the end of the oldest partitions that together are
//! too much, the newest one always staying. Of several rules that fit a metric the one with the longest prefix counts
//! alone, so a rule may also keep some metrics longer than `store.retention_s`; the bound on everything,
//! `store.max_bytes`, counts for all.
//!
//! The catalog gets the horizons first. From then on scans leave out what lies before them, at whole hours. A segment in
//! which nothing is left goes at once, as a change of the catalog and then a removal of files; the others lose the bytes
//! with a compaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::TimeMs;

use crate::catalog::{Catalog, Horizon, SegmentKind};
use crate::config::RetentionRule;
use crate::error::StoreError;
use crate::segment::flush::FlushReport;
use crate::segment::horizon::longest_prefix;
use crate::segment::rollup::Step;
use crate::segment::{Segment, SegmentList};
use crate::store::Store;

/// Where the rules draw the line now.
struct Limits {
    /// One for each rule, to the millisecond.
    by_prefix: Vec<Horizon>,
    /// For everything, whatever its metric or kind.
    floor: i64,
    /// For decisions and events.
    journal: i64,
}

impl Limits {
    fn of(&self, metric: &str) -> i64 {
        let limit = longest_prefix(&self.by_prefix, metric, |horizon| &horizon.prefix);
        limit.map_or(i64::MIN, |limit| limit.from.0).max(self.floor)
    }

    /// As the catalog has them: at whole hours, so that no bin of a roll-up is visible in part.
    fn horizons(&self) -> Vec<Horizon> {
        let hours = |time: i64| TimeMs(time.div_euclid(Step::Hour.ms()).saturating_mul(Step::Hour.ms()));
        let all = self.by_prefix.iter();
        all.map(|limit| Horizon { prefix: limit.prefix.clone(), from: hours(limit.from.0.max(self.floor)) }).collect()
    }

    /// Whether nothing of a segment counts any more.
    fn is_over(&self, segment: &Segment) -> bool {
        let max_time = segment.meta.max_time.0;
        if segment.meta.kind != SegmentKind::Samples {
            return max_time < self.journal;
        }
        let limits = || self.by_prefix.iter().map(|limit| limit.from.0.max(self.floor));
        if limits().all(|limit| max_time < limit) {
            return true;
        }
        if limits().all(|limit| max_time >= limit) {
            return false;
        }
        // One that cannot be read stays; scans say so.
        segment.samples.metrics().is_ok_and(|ranges| ranges.iter().all(|range| range.max_time < self.of(&range.metric)))
    }
}

impl Store {
    /// Draws the horizons anew and removes segments in which nothing is left: from the catalog first, then from what can be
    /// read, and each file with the last scan that still reads it.
    pub(crate) fn apply_retention(
        &self,
        catalog: &mut Catalog,
        now: TimeMs,
        report: &mut FlushReport,
    ) -> Result<(), StoreError> {
        let segments = self.data.read().segments.clone();
        let limits = self.limits(&segments, now);
        let (over, kept): (Vec<_>, Vec<_>) = segments.0.iter().cloned().partition(|segment| limits.is_over(segment));
        let horizons = limits.horizons();
        report.segments_removed = over.len();
        if over.is_empty() && catalog.horizons == horizons {
            return Ok(());
        }
        let mut next = catalog.clone();
        next.segments.retain(|meta| !over.iter().any(|segment| segment.meta.file == meta.file));
        next.horizons.clone_from(&horizons);
        next.next_series = self.index.read().next_id();
        next.save(self.dir.path())?;
        *catalog = next;
        self.horizons.replace(horizons);
        if over.is_empty() {
            return Ok(());
        }
        // Nobody else changes the list: whoever does holds the catalog.
        self.data.write().segments = Arc::new(SegmentList(kept));
        over.iter().for_each(|segment| segment.expire());
        report.series_removed = self.forget_series(now.minus(Duration::from_secs(self.config.retention_s)))?;
        if report.series_removed > 0 {
            catalog.series_bytes = self.series_log.bytes();
            catalog.save(self.dir.path())?;
        }
        Ok(())
    }

    fn limits(&self, segments: &SegmentList, now: TimeMs) -> Limits {
        let everything = RetentionRule::default();
        let rules: Vec<&RetentionRule> = std::iter::once(&everything).chain(&self.config.retention).collect();
        let aged = |age_s: u64| now.minus(Duration::from_secs(age_s)).0;
        let sizes = if rules.iter().any(|rule| rule.max_bytes.is_some()) {
            self.sizes_by_rule(segments, &rules)
        } else {
            BTreeMap::new()
        };
        let limit = |rule: &&RetentionRule| {
            let age = aged(rule.max_age_s.unwrap_or(self.config.retention_s));
            let size = match (rule.max_bytes, sizes.get(rule.prefix.as_str())) {
                (Some(max_bytes), Some(sizes)) => self.end_of_excess(sizes, max_bytes),
                _ => i64::MIN,
            };
            Horizon { prefix: rule.prefix.clone(), from: TimeMs(age.max(size)) }
        };
        let by_prefix = rules.iter().map(limit).collect();
        let floor = self.config.max_bytes.map_or(i64::MIN, |max_bytes| {
            let mut sizes = BTreeMap::new();
            for segment in &segments.0 {
                *sizes.entry(self.partition_of(segment)).or_default() += segment.meta.all_bytes();
            }
            self.end_of_excess(&sizes, max_bytes)
        });
        Limits { by_prefix, floor, journal: aged(self.config.retention_s).max(floor) }
    }

    fn partition_of(&self, segment: &Segment) -> i64 {
        segment.meta.max_time.0.div_euclid(self.config.partition_ms())
    }

    /// What the metrics of each rule take in each partition.
    fn sizes_by_rule<'a>(
        &self,
        segments: &SegmentList,
        rules: &[&'a RetentionRule],
    ) -> BTreeMap<&'a str, BTreeMap<i64, u64>> {
        let mut sizes: BTreeMap<&str, BTreeMap<i64, u64>> = BTreeMap::new();
        for segment in segments.0.iter().filter(|segment| segment.meta.kind == SegmentKind::Samples) {
            let partition = self.partition_of(segment);
            for (metric, bytes) in segment.bytes_by_metric() {
                if let Some(rule) = longest_prefix(rules, &metric, |rule| &rule.prefix) {
                    *sizes.entry(&rule.prefix).or_default().entry(partition).or_default() += bytes;
                }
            }
        }
        sizes
    }

    /// The end of the newest partition that is too much, given the size of each; the newest of all is never too much.
    fn end_of_excess(&self, sizes: &BTreeMap<i64, u64>, max_bytes: u64) -> i64 {
        let mut sum = 0_u64;
        for (at, (partition, bytes)) in sizes.iter().rev().enumerate() {
            sum = sum.saturating_add(*bytes);
            if at > 0 && sum > max_bytes {
                return (partition + 1) * self.config.partition_ms();
            }
        }
        i64::MIN
    }

    /// Forgets series that have no sample left. A segment or generation with newer rows may still have older ones, so only
    /// what is before everything that is stored counts as gone.
    fn forget_series(&self, oldest: TimeMs) -> Result<usize, StoreError> {
        let removed = {
            // Nobody may add samples to a series that is about to be forgotten.
            let _writer = self.wal.lock();
            let before = {
                let data = self.data.read();
                let hot = data.generations().map(|generation| generation.min_time());
                let segments = data.segments.0.iter().map(|segment| segment.meta.min_time.0);
                hot.chain(segments).min().unwrap_or(oldest.0).min(oldest.0)
            };
            self.index.write().expire(before)
        };
        if removed > 0 {
            self.series_log.rewrite(self.dir.path(), || self.index.read().all())?;
        }
        Ok(removed)
    }
}

impl Segment {
    /// What each metric takes of the segment's files; metrics that share a row group share its bytes by their rows.
    /// Nothing when the file cannot be read.
    fn bytes_by_metric(&self) -> Vec<(String, u64)> {
        let Ok(sizes) = self.samples.bytes_by_metric() else { return Vec::new() };
        let sum: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        // Roll-ups and footers go by the samples.
        let factor = self.meta.all_bytes() as f64 / sum.max(1) as f64;
        sizes.into_iter().map(|(metric, bytes)| (metric, (bytes as f64 * factor) as u64)).collect()
    }
}
