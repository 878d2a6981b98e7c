//! Merging: the samples of some segments become one segment, streamed series by series, so that memory does not depend on
//! how much there is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::catalog::{RollupMeta, SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::hot::sort_last_write_wins;
use crate::scan::Wanted;
use crate::segment::columns::Effort;
use crate::segment::rollup::{RollupFile, Step};
use crate::segment::samples::{SampleFile, SeriesIndexLock, series_runs};
use crate::segment::{Segment, file_name};

/// Memory for one row while it is merged: itself, its copy in the sort, and its share of the columns made of it.
const ROW_BYTES: usize = 64;

/// What is merged, and how.
pub(crate) struct Merge<'a> {
    /// In the order in which they were written: of duplicates the one in the later segment stays.
    pub inputs: &'a [Arc<Segment>],
    /// Which times go into the new segment, in ms UTC, inclusive.
    pub from: i64,
    pub to: i64,
    pub index: &'a SeriesIndexLock,
    /// Memory to keep within, as far as one series' rows do.
    pub memory_bytes: usize,
    /// Samples that a roll-up's bin has to save on average.
    pub rollup_min_samples: usize,
    pub pace: &'a Pace<'a>,
}

impl Merge<'_> {
    /// Writes the new segment's files; `None`, and no file, when nothing is left.
    pub(crate) fn write(&self, dir: &Path, number: u64) -> Result<Option<SegmentMeta>, StoreError> {
        let name = file_name(number, SegmentKind::Samples);
        let group_bytes = self.memory_bytes / 4;
        let mut samples = SampleFile::create(&dir.join(&name), Effort::Smallest, group_bytes)?;
        let mut rollups = Vec::new();
        for step in Step::ALL {
            let path = dir.join(rollup_name(number, step));
            rollups.push(RollupFile::create(&path, step, self.rollup_min_samples, group_bytes)?);
        }
        for metric in self.metrics()? {
            self.metric(&metric, &mut samples, &mut rollups)?;
        }
        let Some(written) = samples.finish()? else { return Ok(None) };
        let mut meta = written.meta(number, name);
        for rollup in rollups {
            let step = rollup.step();
            if let Some(bytes) = rollup.finish()? {
                meta.rollups.push(RollupMeta { step, file: rollup_name(number, step), bytes, crc32: None });
            }
        }
        meta.order = self.inputs.iter().map(|input| input.meta.order).max().unwrap_or(number);
        meta.flushed = self.inputs.iter().map(|input| input.meta.flushed).max().unwrap_or_default();
        meta.compacted = true;
        Ok(Some(meta.summed(dir)?))
    }

    fn metrics(&self) -> Result<Vec<String>, StoreError> {
        let mut metrics = Vec::new();
        for input in self.inputs {
            let ranges = input.samples.metrics()?.iter();
            metrics.extend(ranges.map(|range| range.metric.clone()));
        }
        metrics.sort_unstable();
        metrics.dedup();
        Ok(metrics)
    }

    fn metric(&self, metric: &str, samples: &mut SampleFile, rollups: &mut [RollupFile]) -> Result<(), StoreError> {
        let wanted = Wanted { metric, series: None, from: self.from, to: self.to };
        let mut rows_of: BTreeMap<u32, usize> = BTreeMap::new();
        for input in self.inputs {
            for run in input.samples.runs(&wanted)?.runs {
                *rows_of.entry(run.series).or_default() += run.rows.len();
            }
        }
        if rows_of.is_empty() {
            return Ok(());
        }
        samples.begin_metric(metric, rows_of.values().sum())?;
        let batch_rows = (self.memory_bytes / 2 / ROW_BYTES).max(1);
        let mut rows = Vec::new();
        let mut left: Vec<(u32, usize)> = rows_of.into_iter().collect();
        while !left.is_empty() {
            let mut sum = 0;
            let fitting = left.iter().take_while(|(_, rows)| {
                sum += rows;
                sum <= batch_rows
            });
            let batch = fitting.count().max(1);
            let series: Vec<u32> = left.drain(..batch).map(|(series, _)| series).collect();
            rows.clear();
            let mut parts = 0;
            for input in self.inputs {
                parts += usize::from(input.read_samples(&Wanted { series: Some(&series), ..wanted }, &mut rows)?);
            }
            if parts > 1 {
                sort_last_write_wins(&mut rows);
            }
            let runs = series_runs(&rows);
            samples.write(&runs, self.index)?;
            for rollup in rollups.iter_mut() {
                rollup.write(metric, &runs)?;
            }
            self.pace.rest()?;
        }
        Ok(())
    }
}

/// The name of a file of roll-ups below `segments/`.
fn rollup_name(number: u64, step: Step) -> String {
    format!("{number:08}-rollup-{}.parquet", step.as_str())
}

/// How fast background work goes: it rests in proportion to how long it worked, and ends when told to.
pub(crate) struct Pace<'a> {
    /// Share of one core.
    share: f64,
    stop: &'a AtomicBool,
    since: std::cell::Cell<Instant>,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(share: f64, stop: &'a AtomicBool) -> Self {
        Self { share: share.clamp(0.01, 1.0), stop, since: std::cell::Cell::new(Instant::now()) }
    }

    /// To be called between two pieces of work.
    pub(crate) fn rest(&self) -> Result<(), StoreError> {
        let worked = self.since.get().elapsed().as_secs_f64();
        let until = Instant::now() + Duration::from_secs_f64(worked * (1.0 / self.share - 1.0));
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(StoreError::Interrupted {
                    what: "compaction",
                    why: "the store is being closed".to_owned(),
                });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        self.since.set(Instant::now());
        Ok(())
    }
}
