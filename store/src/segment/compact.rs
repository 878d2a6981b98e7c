//! Compaction: small segments become large ones in the background, late samples find their place, and what the retention
//! has hidden loses its bytes.
//!
//! Samples are kept by partitions of time (`store.partition_s`). A segment that reaches over a border is cut first. Within
//! a partition, neighbours in the order of writing are merged once there are [`FAN_IN`] of like size, so that no row is
//! rewritten often; and when nothing has been added for [`SETTLED_S`], all are. Only neighbours are ever merged: of
//! duplicate samples the one written last counts, and that order has to survive.
//!
//! Files are written without any lock. Then one save of the catalog swaps old for new, and the old files go with the last
//! scan that reads them. A crash before that leaves files that nobody names, which the next start removes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_model::TimeMs;

use crate::catalog::{SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::segment::journal::{write_decisions, write_events};
use crate::segment::merge::{Merge, Pace};
use crate::segment::{Segment, SegmentList};
use crate::store::Store;

/// Segments of like size that are merged together: what every row is rewritten for each time the store grows that much.
const FAN_IN: usize = 8;
/// Segments of fewer rows are alike.
const SMALL_ROWS: u64 = 1 << 16;
/// Rows of a segment at most, so that no compaction takes hours or twice the disk.
const SEGMENT_ROWS: u64 = 1 << 29;
/// Decisions or events of a segment at most; they are merged in memory.
const JOURNAL_ROWS: u64 = 1 << 16;
/// How long nothing has to have been flushed into a partition for it to count as complete.
const SETTLED_S: i64 = 3_600;

/// What compactions did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Segments that were replaced.
    pub segments_in: usize,
    /// Segments that replaced them.
    pub segments_out: usize,
    /// Rows written.
    pub rows: u64,
    /// Size of what was replaced.
    pub bytes_in: u64,
    /// Size of what replaced it, roll-ups included.
    pub bytes_out: u64,
}

/// Which compactions are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Those that pay off by now.
    Now(TimeMs),
    /// All that make anything smaller.
    Everything,
}

/// Segments to replace, by number, in order.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    kind: SegmentKind,
    inputs: Vec<u64>,
}

/// A job and the segments that it reads.
type JobWithInputs = (Job, Vec<Arc<Segment>>);

impl Store {
    /// Compacts all there is: afterwards every partition is one segment, or as few as the size of a segment allows. Reads
    /// and writes go on meanwhile. What is in memory stays there (see [`Store::flush`]).
    ///
    /// # Errors
    /// When a file cannot be read or written; what was compacted until then stays.
    pub async fn compact(&self) -> Result<CompactReport, StoreError> {
        let store = self.shared();
        let compact = tokio::task::spawn_blocking(move || {
            let never = AtomicBool::new(false);
            store.compact_now(Due::Everything, &Pace::new(1.0, &never))
        });
        compact.await.map_err(|error| StoreError::Interrupted { what: "compaction", why: error.to_string() })?
    }

    /// Makes one compaction after the other until none is due. Blocks.
    pub(crate) fn compact_now(&self, due: Due, pace: &Pace<'_>) -> Result<CompactReport, StoreError> {
        let _one_at_a_time = self.compacting.lock();
        let mut report = CompactReport::default();
        while let Some((job, inputs)) = self.next_job(due)? {
            let mut outputs = Vec::new();
            if let Err(error) = self.run(&job, &inputs, pace, &mut outputs) {
                self.discard(outputs);
                return Err(error);
            }
            let sum = |metas: &[SegmentMeta], of: fn(&SegmentMeta) -> u64| metas.iter().map(of).sum::<u64>();
            let done = CompactReport {
                segments_in: inputs.len(),
                segments_out: outputs.len(),
                rows: sum(&outputs, |meta| meta.rows),
                bytes_in: inputs.iter().map(|input| input.meta.all_bytes()).sum(),
                bytes_out: sum(&outputs, SegmentMeta::all_bytes),
            };
            if !self.replace(&inputs, outputs)? {
                continue; // the retention was faster; what it left is looked at anew
            }
            tracing::debug!(?done, "compacted");
            report.segments_in += done.segments_in;
            report.segments_out += done.segments_out;
            report.rows += done.rows;
            report.bytes_in += done.bytes_in;
            report.bytes_out += done.bytes_out;
            self.counters.compactions.fetch_add(1, Ordering::Relaxed);
            self.counters.compacted_rows.fetch_add(done.rows, Ordering::Relaxed);
        }
        Ok(report)
    }

    fn next_job(&self, due: Due) -> Result<Option<JobWithInputs>, StoreError> {
        let segments = self.data.read().segments.clone();
        let metas: Vec<&SegmentMeta> = segments.0.iter().map(|segment| &segment.meta).collect();
        let job = match plan(&metas, self.config.partition_ms(), due) {
            Some(job) => Some(job),
            None => segments
                .0
                .iter()
                .find(|segment| self.is_mostly_air(segment))
                .map(|segment| Job { kind: SegmentKind::Samples, inputs: vec![segment.meta.number] }),
        };
        Ok(job.map(|job| {
            let wanted: HashSet<u64> = job.inputs.iter().copied().collect();
            let of_job =
                |segment: &&Arc<Segment>| segment.meta.kind == job.kind && wanted.contains(&segment.meta.number);
            let inputs = segments.0.iter().filter(of_job).cloned().collect();
            (job, inputs)
        }))
    }

    /// Whether the retention hides all samples of some metric in a segment: that is when rewriting it frees bytes, and it
    /// happens to a metric and a segment only once.
    fn is_mostly_air(&self, segment: &Segment) -> bool {
        if segment.meta.kind != SegmentKind::Samples || !segment.meta.compacted {
            return false;
        }
        // One that cannot be read stays as it is; scans say so.
        let Ok(ranges) = segment.samples.metrics() else { return false };
        ranges.iter().any(|range| range.max_time < self.horizons.of(&range.metric))
    }

    /// Adds what it writes to `outputs`, also when it fails after some.
    fn run(
        &self,
        job: &Job,
        inputs: &[Arc<Segment>],
        pace: &Pace<'_>,
        outputs: &mut Vec<SegmentMeta>,
    ) -> Result<(), StoreError> {
        let dir = self.dir.segments();
        let number = || {
            // Used up whatever happens, as a flush's.
            let mut catalog = self.catalog.lock();
            catalog.next_segment += 1;
            catalog.next_segment - 1
        };
        match job.kind {
            SegmentKind::Samples => {
                for (from, to) in self.parts(inputs) {
                    let merge = Merge {
                        inputs,
                        from,
                        to,
                        index: &self.index,
                        memory_bytes: self.config.compaction_memory_bytes,
                        rollup_min_samples: self.config.rollup_min_samples,
                        pace,
                    };
                    outputs.extend(merge.write(&dir, number())?);
                }
            }
            SegmentKind::Decisions => {
                let mut rows = Vec::new();
                for input in inputs {
                    input.read_decisions(i64::MIN, i64::MAX, &mut rows)?;
                }
                outputs.extend(write_decisions(&dir, number(), &rows.iter().collect::<Vec<_>>())?);
            }
            SegmentKind::Events => {
                let mut rows = Vec::new();
                for input in inputs {
                    input.read_events(i64::MIN, i64::MAX, &mut rows)?;
                }
                outputs.extend(write_events(&dir, number(), &rows.iter().collect::<Vec<_>>())?);
            }
        }
        for meta in outputs.iter_mut() {
            meta.order = inputs.iter().map(|input| input.meta.order).max().unwrap_or(meta.order);
            meta.flushed = inputs.iter().map(|input| input.meta.flushed).max().unwrap_or_default();
            meta.compacted = true;
        }
        Ok(())
    }

    /// The partitions that the inputs reach over, as inclusive ranges of time.
    fn parts(&self, inputs: &[Arc<Segment>]) -> Vec<(i64, i64)> {
        let length = self.config.partition_ms();
        let number = |time: TimeMs| time.0.div_euclid(length);
        let first = inputs.iter().map(|input| number(input.meta.min_time)).min();
        let last = inputs.iter().map(|input| number(input.meta.max_time)).max();
        let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
        // Most partitions of a segment with a few very old samples have none; they are found without a file being made.
        let has_rows = |&number: &i64| {
            let (from, to) = (number * length, number * length + length - 1);
            inputs.iter().any(|input| {
                let ranges = input.samples.metrics().unwrap_or_default();
                ranges.iter().any(|range| range.min_time <= to && range.max_time >= from)
            })
        };
        (first..=last).filter(has_rows).map(|number| (number * length, number * length + length - 1)).collect()
    }

    /// Swaps segments in the catalog and for readers. `false`, and the new files removed, when one of the old ones is gone.
    fn replace(&self, inputs: &[Arc<Segment>], outputs: Vec<SegmentMeta>) -> Result<bool, StoreError> {
        let dir = self.dir.segments();
        let old: HashSet<&str> = inputs.iter().map(|input| input.meta.file.as_str()).collect();
        let is_old = |meta: &SegmentMeta| old.contains(meta.file.as_str());
        let mut catalog = self.catalog.lock();
        if catalog.segments.iter().filter(|meta| is_old(meta)).count() < inputs.len() {
            for meta in outputs {
                Segment::new(&dir, meta, &self.horizons, &self.pages).expire();
            }
            return Ok(false);
        }
        let mut next = catalog.clone();
        next.segments.retain(|meta| !is_old(meta));
        next.segments.extend(outputs.iter().cloned());
        next.segments.sort_by_key(|meta| (meta.order, meta.number));
        next.next_series = self.index.read().next_id();
        if let Err(error) = next.save(self.dir.path()) {
            self.discard(outputs);
            return Err(error);
        }
        *catalog = next;

        let mut data = self.data.write();
        let mut segments: Vec<_> = data.segments.0.iter().filter(|segment| !is_old(&segment.meta)).cloned().collect();
        segments
            .extend(outputs.into_iter().map(|meta| Arc::new(Segment::new(&dir, meta, &self.horizons, &self.pages))));
        segments.sort_by_key(|segment| (segment.meta.order, segment.meta.number));
        data.segments = Arc::new(SegmentList(segments));
        drop(data);
        inputs.iter().for_each(|segment| segment.expire());
        Ok(true)
    }
}

/// The next compaction; segments are given in the catalog's order.
fn plan(metas: &[&SegmentMeta], partition_ms: i64, due: Due) -> Option<Job> {
    let partition = |time: TimeMs| time.0.div_euclid(partition_ms);
    let mut partitions: BTreeMap<i64, Vec<&SegmentMeta>> = BTreeMap::new();
    for meta in metas.iter().filter(|meta| meta.kind == SegmentKind::Samples) {
        if partition(meta.min_time) != partition(meta.max_time) {
            return Some(job(&[*meta]));
        }
        partitions.entry(partition(meta.min_time)).or_default().push(meta);
    }
    for (number, segments) in &partitions {
        let complete = match due {
            Due::Everything => true,
            Due::Now(now) => {
                let settled = |meta: &&SegmentMeta| meta.flushed.0 <= now.0 - SETTLED_S * 1_000;
                (number + 1) * partition_ms <= now.0 && segments.iter().all(settled)
            }
        };
        let run = if complete { whole(segments) } else { alike(segments, SEGMENT_ROWS) };
        if let Some(run) = run {
            return Some(job(run));
        }
    }
    [SegmentKind::Decisions, SegmentKind::Events].into_iter().find_map(|kind| {
        let segments: Vec<_> = metas.iter().copied().filter(|meta| meta.kind == kind).collect();
        let least = if due == Due::Everything { 2 } else { FAN_IN };
        journal(&segments, partition_ms, least).map(job)
    })
}

fn job(run: &[&SegmentMeta]) -> Job {
    Job {
        kind: run.first().map_or(SegmentKind::Samples, |meta| meta.kind),
        inputs: run.iter().map(|m| m.number).collect(),
    }
}

/// The first neighbours that fit into one segment together, or a segment that no compaction wrote.
fn whole<'a, 'm>(segments: &'a [&'m SegmentMeta]) -> Option<&'a [&'m SegmentMeta]> {
    let mut start = 0;
    while start < segments.len() {
        let mut rows = 0;
        let fitting = segments[start..].iter().take_while(|meta| {
            rows += meta.rows;
            rows <= SEGMENT_ROWS
        });
        let end = start + fitting.count().max(1);
        if end - start > 1 || !segments[start].compacted {
            return Some(&segments[start..end]);
        }
        start = end;
    }
    None
}

/// The first neighbours of like size, when there are enough of them.
fn alike<'a, 'm>(segments: &'a [&'m SegmentMeta], most_rows: u64) -> Option<&'a [&'m SegmentMeta]> {
    let level = |meta: &SegmentMeta| (meta.rows.max(SMALL_ROWS) / SMALL_ROWS).ilog(FAN_IN as u64);
    let levels: std::collections::BTreeSet<u32> = segments.iter().map(|meta| level(meta)).collect();
    levels.into_iter().find_map(|highest| {
        segments.split(|meta| level(meta) > highest).find_map(|run| {
            let rows: u64 = run.iter().map(|meta| meta.rows).sum();
            let largest = run.iter().map(|meta| meta.rows).max().unwrap_or(0);
            // Unless the others weigh something, the largest would be rewritten for nothing.
            let worth_it = run.len() >= FAN_IN && largest.max(SMALL_ROWS) <= rows.max(SMALL_ROWS) / 2 + SMALL_ROWS;
            if !worth_it {
                return None;
            }
            let mut sum = 0;
            let fitting = run.iter().take_while(|meta| {
                sum += meta.rows;
                sum <= most_rows
            });
            let fitting = fitting.count();
            (fitting >= FAN_IN).then_some(&run[..fitting])
        })
    })
}

/// The first neighbours among segments of decisions or events that fit into one of a partition's length.
fn journal<'a, 'm>(segments: &'a [&'m SegmentMeta], partition_ms: i64, least: usize) -> Option<&'a [&'m SegmentMeta]> {
    (0..segments.len()).find_map(|start| {
        let (mut rows, mut min_time, mut max_time) = (0, i64::MAX, i64::MIN);
        let fitting = segments[start..].iter().take_while(|meta| {
            rows += meta.rows;
            min_time = min_time.min(meta.min_time.0);
            max_time = max_time.max(meta.max_time.0);
            rows <= JOURNAL_ROWS && max_time.saturating_sub(min_time) <= partition_ms
        });
        let count = fitting.count();
        (count >= least).then_some(&segments[start..start + count])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn meta(number: u64, day: i64, rows: u64) -> SegmentMeta {
        let file = format!("{number}");
        SegmentMeta::new(number, SegmentKind::Samples, file, (day * DAY, day * DAY + 1_000), rows, rows)
    }

    fn planned(metas: &[SegmentMeta], due: Due) -> Option<Vec<u64>> {
        plan(&metas.iter().collect::<Vec<_>>(), DAY, due).map(|job| job.inputs)
    }

    #[test]
    fn a_segment_over_a_border_is_cut_before_anything_is_merged() {
        let mut over = meta(2, 0, 10);
        over.max_time = TimeMs(DAY);
        let metas = [meta(1, 0, 10), over, meta(3, 0, 10)];
        assert_eq!(planned(&metas, Due::Everything), Some(vec![2]));
    }

    #[test]
    fn in_an_open_partition_neighbours_of_like_size_are_merged_and_large_ones_left_alone() {
        let early = Due::Now(TimeMs(DAY / 2));
        let mut metas = vec![meta(1, 0, 5_000_000)];
        metas.extend((2..9).map(|number| meta(number, 0, 1_000)));
        assert_eq!(planned(&metas, early), None);
        metas.push(meta(9, 0, 1_000));
        assert_eq!(planned(&metas, early), Some((2..=9).collect()));
        // Every row is rewritten once for each time that the store grows by the fan-in.
        let (mut metas, mut written, flush) = (Vec::new(), 0, 300_000);
        for number in 1..=512 {
            metas.push(meta(number, 0, flush));
            while let Some(inputs) = planned(&metas, early) {
                let rows = metas.iter().filter(|meta| inputs.contains(&meta.number)).map(|meta| meta.rows).sum();
                written += rows;
                let at = metas.iter().position(|meta| meta.number == inputs[0]).unwrap();
                metas.splice(at..at + inputs.len(), [meta(inputs[0], 0, rows)]);
            }
        }
        assert!(metas.len() < 40, "{}", metas.len());
        assert!(written <= 4 * 512 * flush, "{written}");
    }

    #[test]
    fn a_partition_is_merged_as_a_whole_once_nothing_is_added_any_more() {
        let metas = [meta(1, 0, 5_000_000), meta(2, 0, 10), meta(3, 1, 10)];
        let after = |ms| Due::Now(TimeMs(DAY + ms));
        assert_eq!(planned(&metas, after(-1)), None);
        assert_eq!(planned(&metas, after(0)), Some(vec![1, 2]));
        let late = metas.clone().map(|meta| SegmentMeta { flushed: TimeMs(DAY), ..meta });
        assert_eq!(planned(&late, after(SETTLED_S * 1_000 - 1)), None);
        assert_eq!(planned(&late, after(SETTLED_S * 1_000)), Some(vec![1, 2]));
        let done = [SegmentMeta { compacted: true, ..meta(4, 0, 5_000_010) }];
        assert_eq!(planned(&done, after(DAY)), None);
    }
}
