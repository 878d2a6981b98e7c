//! Segments: immutable Parquet files, sorted by metric, series and time.
//!
//! A sample segment is self-contained: columns `metric`, `tags` (a JSON object), `series`, `time`, `value`, `scaled` and
//! `scale`, so any tool that reads Parquet reads it; the value is `coalesce(value, scaled / pow(10, scale))`, to the last
//! bit (see `scaled`). `columns` and `samples` write such files, `sorted_file` finds rows in them, and `reading` decodes these page
//! by page (`pages`, `decode`).

mod columns;
pub(crate) mod compact;
mod decode;
pub(crate) mod flush;
mod group;
pub(crate) mod horizon;
pub(crate) mod journal;
pub(crate) mod merge;
pub(crate) mod page_cache;
mod pages;
mod reading;
mod retention;
pub(crate) mod rollup;
mod samples;
mod scaled;
mod shared_file;
mod sorted_file;
mod times;

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, UInt32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegate_model::SeriesKey;

use crate::catalog::{RollupMeta, SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::fault;
use crate::hot::{Generation, Row, sort_last_write_wins};
use crate::remote;
use crate::scan::Wanted;
use crate::segment::columns::Effort;
use crate::segment::horizon::Horizons;
use crate::segment::page_cache::PageCache;
use crate::segment::rollup::Step;
use crate::segment::samples::{SampleFile, SeriesIndexLock, series_runs};
use crate::segment::sorted_file::SortedFile;
use crate::tables::TimeRange;
use crate::write::series::SeriesIndex;

/// Rows handed to the Parquet reader at once.
const BATCH_ROWS: usize = 8_192;
/// Memory that a row group may take in a flush before it is ended.
const FLUSH_GROUP_BYTES: usize = 64 << 20;

/// A segment that can be read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub meta: SegmentMeta,
    pub path: PathBuf,
    samples: SortedFile,
    rollups: Vec<(Step, SortedFile)>,
    /// What the retention hides.
    horizons: Arc<Horizons>,
    /// Set when the catalog no longer names it: the files go with the last scan that still reads it.
    expired: AtomicBool,
}

/// All segments, in the catalog's order.
#[derive(Debug, Default)]
pub(crate) struct SegmentList(pub Vec<Arc<Segment>>);

impl SegmentList {
    /// The segments of one kind that may have rows with `from <= time <= to`, in the order in which they were written.
    pub(crate) fn overlapping(&self, kind: SegmentKind, from: i64, to: i64) -> impl Iterator<Item = &Arc<Segment>> {
        let overlaps = move |meta: &SegmentMeta| meta.min_time.0 <= to && meta.max_time.0 >= from;
        self.0.iter().filter(move |segment| segment.meta.kind == kind && overlaps(&segment.meta))
    }
}

impl Segment {
    pub(crate) fn new(dir: &Path, meta: SegmentMeta, horizons: &Arc<Horizons>, pages: &Arc<PageCache>) -> Self {
        let path = dir.join(&meta.file);
        let rollup = |rollup: &RollupMeta| (rollup.step, SortedFile::new(dir.join(&rollup.file), pages));
        Self {
            rollups: meta.rollups.iter().map(rollup).collect(),
            samples: SortedFile::new(path.clone(), pages),
            horizons: Arc::clone(horizons),
            path,
            meta,
            expired: AtomicBool::new(false),
        }
    }

    /// Removes the files once nobody reads it any more.
    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
    }

    /// Opens the file for reading.
    pub(crate) fn reader(&self) -> Result<ParquetRecordBatchReaderBuilder<File>, StoreError> {
        let file = remote::open(&self.path).map_err(|error| self.unreadable(error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| self.unreadable(error))?;
        Ok(builder.with_batch_size(BATCH_ROWS))
    }

    pub(crate) fn unreadable(&self, error: impl std::fmt::Display) -> StoreError {
        StoreError::Segment { action: "read", path: self.path.clone(), message: error.to_string() }
    }

    /// Does `read`, which decodes the file. Parquet's readers panic on some damaged bytes; what `read` has written by then
    /// is thrown away with the error.
    pub(crate) fn decoded<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(self.unreadable("its bytes cannot be decoded")))
    }

    /// Appends the wanted rows, sorted by (series, time). Whether there were any.
    pub(crate) fn read_samples(&self, wanted: &Wanted<'_>, rows: &mut Vec<Row>) -> Result<bool, StoreError> {
        self.decoded(|| self.decode_samples(wanted, rows))
    }

    fn decode_samples(&self, wanted: &Wanted<'_>, rows: &mut Vec<Row>) -> Result<bool, StoreError> {
        let before = rows.len();
        let wanted = &self.visible(wanted);
        let runs = self.samples.runs(wanted)?;
        rows.reserve(runs.runs.iter().map(|run| run.rows.len()).sum());
        self.samples.read(&runs, &["value"], None, |piece| {
            // Times ascend within a series.
            let first = piece.times.partition_point(|&time| time < wanted.from);
            let end = piece.times.partition_point(|&time| time <= wanted.to).max(first);
            let from = rows.len();
            let times = piece.times[first..end].iter();
            rows.extend(times.map(|&time| Row { series: piece.series, time, value: 0.0 }));
            piece.numbers(0, first..end, rows[from..].iter_mut().map(|row| &mut row.value));
        })?;
        Ok(rows.len() > before)
    }

    /// The earliest and the latest time of a metric's samples; `None` when it has none here.
    pub(crate) fn times_of(&self, metric: &str) -> Result<Option<TimeRange>, StoreError> {
        let range = self.samples.metric(metric)?;
        Ok(range.map(|range| TimeRange { from: range.min_time, to: range.max_time }))
    }

    /// What the retention leaves of `wanted`.
    fn visible<'a>(&self, wanted: &Wanted<'a>) -> Wanted<'a> {
        Wanted { from: wanted.from.max(self.horizons.of(wanted.metric)), ..*wanted }
    }

    /// The series that a sample segment names: what the series log can be restored from.
    pub(crate) fn read_series(&self, each: impl FnMut(u32, SeriesKey)) -> Result<(), StoreError> {
        self.decoded(|| self.decode_series(each))
    }

    fn decode_series(&self, mut each: impl FnMut(u32, SeriesKey)) -> Result<(), StoreError> {
        let builder = self.reader()?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["metric", "tags", "series"]);
        let mut last = None;
        for batch in builder.with_projection(columns).build().map_err(|error| self.unreadable(error))? {
            let batch = batch.map_err(|error| self.unreadable(error))?;
            let text = |column: usize| arrow::compute::cast(batch.column(column), &DataType::Utf8);
            let metrics = text(0).map_err(|error| self.unreadable(error))?;
            let tags = text(1).map_err(|error| self.unreadable(error))?;
            let series = batch.column(2).as_primitive::<UInt32Type>();
            for row in 0..batch.num_rows() {
                let id = series.value(row);
                if last.replace(id) == Some(id) {
                    continue;
                }
                let tags: std::collections::BTreeMap<String, String> =
                    serde_json::from_str(tags.as_string::<i32>().value(row)).map_err(|error| self.unreadable(error))?;
                each(id, SeriesKey::new(metrics.as_string::<i32>().value(row), tags));
            }
        }
        Ok(())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.expired.load(Ordering::Acquire) {
            return;
        }
        for path in std::iter::once(self.path.as_path()).chain(self.rollups.iter().map(|(_, file)| file.path())) {
            if let Err(error) = fault::at(path).and_then(|()| fs::remove_file(path))
                // Only in the object store.
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(file = %path.display(), %error, "expired segment stays until the next start");
            }
        }
    }
}

/// Writes all samples of `generations` (in arrival order) to one segment; `None` when there are none.
pub(crate) fn write_samples(
    dir: &Path,
    number: u64,
    generations: &[Arc<Generation>],
    index: &SeriesIndexLock,
) -> Result<Option<SegmentMeta>, StoreError> {
    let metrics = sorted_metrics(generations, &index.read());
    let name = file_name(number, SegmentKind::Samples);
    let mut file = SampleFile::create(&dir.join(&name), Effort::Quick, FLUSH_GROUP_BYTES)?;
    for (metric, metric_number) in &metrics {
        let mut rows = Vec::new();
        for chunk in generations.iter().flat_map(|g| g.sealed(*metric_number, i64::MIN, i64::MAX)) {
            let all = Wanted { metric, series: None, from: i64::MIN, to: i64::MAX };
            chunk.copy_into(&all, &mut rows);
        }
        sort_last_write_wins(&mut rows);
        file.begin_metric(metric, rows.len())?;
        file.write(&series_runs(&rows), index)?;
    }
    file.finish()?.map(|written| written.meta(number, name).summed(dir)).transpose()
}

fn sorted_metrics(generations: &[Arc<Generation>], index: &SeriesIndex) -> Vec<(Arc<str>, u32)> {
    let numbers: std::collections::BTreeSet<u32> = generations.iter().flat_map(|g| g.metric_numbers()).collect();
    let mut metrics: Vec<_> =
        numbers.into_iter().filter_map(|number| Some((index.metric_name(number)?, number))).collect();
    metrics.sort_unstable();
    metrics
}

/// The name of a segment's file below `segments/`.
pub(crate) fn file_name(number: u64, kind: SegmentKind) -> String {
    let kind = match kind {
        SegmentKind::Samples => "samples",
        SegmentKind::Decisions => "decisions",
        SegmentKind::Events => "events",
    };
    format!("{number:08}-{kind}.parquet")
}
