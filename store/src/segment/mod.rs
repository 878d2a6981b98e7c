//! Segments: immutable Parquet files, one per flush and kind of row.
//!
//! A sample segment is self-contained: columns `metric`, `tags` (a JSON object), `series`, `time` and `value`, sorted by
//! metric, series and time, so any tool that reads Parquet reads it. Where each metric's rows lie is noted in the file's
//! own metadata, so that a scan of one metric decodes only those.

pub(crate) mod flush;
pub(crate) mod journal;
mod retention;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, DictionaryArray, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array};
use arrow::datatypes::{
    DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType, UInt32Type,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaData, SortingColumn};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use tidegate_model::{SeriesKey, TimeMs};

use crate::catalog::{SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::fault;
use crate::hot::{Generation, Row, sort_last_write_wins};
use crate::remote;
use crate::scan::Wanted;
use crate::write::series::SeriesIndex;
use crate::write::wal::sync_dir;

/// Rows of one row group: what a scan may decode in vain at either end of its range.
const GROUP_ROWS: usize = 65_536;
/// Rows handed to the Parquet writer or reader at once.
const BATCH_ROWS: usize = 8_192;
/// The footer key under which a sample segment notes where each metric's rows lie.
const RANGES: &str = "tidegate.metrics";

/// A segment that can be read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub meta: SegmentMeta,
    pub path: PathBuf,
    /// Read from the footer by the first scan.
    ranges: OnceLock<Vec<MetricRange>>,
    /// Set when the catalog no longer names it: the file goes with the last scan that still reads it.
    expired: AtomicBool,
}

/// Where a metric's rows lie in a sample segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MetricRange {
    metric: String,
    /// Number of the first row.
    offset: usize,
    rows: usize,
    min_time: i64,
    max_time: i64,
}

/// All segments, sorted by number.
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
    pub(crate) fn new(dir: &Path, meta: SegmentMeta) -> Self {
        let path = dir.join(&meta.file);
        Self { meta, path, ranges: OnceLock::new(), expired: AtomicBool::new(false) }
    }

    /// Removes the file once nobody reads it any more.
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

    /// Appends the wanted rows, sorted by (series, time). Whether there were any.
    pub(crate) fn read_samples(&self, wanted: &Wanted<'_>, rows: &mut Vec<Row>) -> Result<bool, StoreError> {
        let &Wanted { metric, from, to, .. } = wanted;
        if let Some(ranges) = self.ranges.get()
            && find_range(ranges, metric, from, to).is_none()
        {
            return Ok(false);
        }
        let builder = self.reader()?;
        if self.ranges.get().is_none() {
            let ranges = read_ranges(builder.metadata()).map_err(|error| self.unreadable(error))?;
            let _ = self.ranges.set(ranges); // another scan may have been faster, with the same result
        }
        let range = self.ranges.get().and_then(|ranges| find_range(ranges, metric, from, to));
        let Some(range) = range else { return Ok(false) };

        let (groups, selection) = select_rows(builder.metadata(), range, from, to);
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["series", "time", "value"]);
        let builder = builder.with_projection(columns).with_row_groups(groups).with_row_selection(selection);
        let before = rows.len();
        for batch in builder.build().map_err(|error| self.unreadable(error))? {
            let batch = batch.map_err(|error| self.unreadable(error))?;
            let series = batch.column(0).as_primitive::<UInt32Type>().values();
            let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
            let values = batch.column(2).as_primitive::<Float64Type>().values();
            let columns = series.iter().zip(times).zip(values);
            rows.extend(columns.filter_map(|((&series, &time), &value)| {
                wanted.has(series, time).then_some(Row { series, time, value })
            }));
        }
        Ok(rows.len() > before)
    }

    /// The series that a sample segment names: what the series log can be restored from.
    pub(crate) fn read_series(&self, mut each: impl FnMut(u32, SeriesKey)) -> Result<(), StoreError> {
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
        if self.expired.load(Ordering::Acquire)
            && let Err(error) = fault::at(&self.path).and_then(|()| fs::remove_file(&self.path))
            && error.kind() != std::io::ErrorKind::NotFound
        // only in the object store
        {
            tracing::warn!(file = %self.path.display(), %error, "expired segment stays until the next start");
        }
    }
}

fn find_range<'a>(ranges: &'a [MetricRange], metric: &str, from: i64, to: i64) -> Option<&'a MetricRange> {
    let at = ranges.binary_search_by(|range| range.metric.as_str().cmp(metric)).ok()?;
    let range = &ranges[at];
    (range.min_time <= to && range.max_time >= from).then_some(range)
}

fn read_ranges(metadata: &ParquetMetaData) -> Result<Vec<MetricRange>, String> {
    let entries = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let json = entries.iter().find(|entry| entry.key == RANGES).and_then(|entry| entry.value.as_deref());
    let json = json.ok_or_else(|| format!("its footer has no '{RANGES}'"))?;
    serde_json::from_str(json).map_err(|error| format!("'{RANGES}' in its footer: {error}"))
}

/// The row groups that hold rows of `range` and may have rows with `from <= time <= to`, and which of their rows to read.
fn select_rows(metadata: &ParquetMetaData, range: &MetricRange, from: i64, to: i64) -> (Vec<usize>, RowSelection) {
    let end = range.offset + range.rows;
    let (mut groups, mut wanted) = (Vec::new(), Vec::new());
    let (mut start, mut chosen_rows) = (0, 0);
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows() as usize;
        let (first, last) = (range.offset.max(start), end.min(start + rows));
        if first < last && may_overlap(group.column(TIME_COLUMN).statistics(), from, to) {
            groups.push(number);
            wanted.push(chosen_rows + first - start..chosen_rows + last - start);
            chosen_rows += rows;
        }
        start += rows;
    }
    (groups, RowSelection::from_consecutive_ranges(wanted.into_iter(), chosen_rows))
}

fn may_overlap(statistics: Option<&Statistics>, from: i64, to: i64) -> bool {
    let Some(Statistics::Int64(times)) = statistics else { return true };
    times.min_opt().is_none_or(|&min| min <= to) && times.max_opt().is_none_or(|&max| max >= from)
}

/// Position of `time` in [`schema`].
const TIME_COLUMN: usize = 3;

fn schema() -> SchemaRef {
    let text = || DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("metric", text(), false),
        Field::new("tags", text(), false),
        Field::new("series", DataType::UInt32, false),
        Field::new("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("value", DataType::Float64, false),
    ]))
}

/// What every segment's writer has in common.
pub(crate) fn writer_properties() -> WriterPropertiesBuilder {
    // Level 3 is both smaller and, on our data, faster than 1; above it only time grows.
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by(concat!("tidegate ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// Writes all samples of `generations` (in arrival order) to one segment; `None` when there are none.
pub(crate) fn write_samples(
    dir: &Path,
    number: u64,
    generations: &[Arc<Generation>],
    index: &parking_lot::RwLock<SeriesIndex>,
) -> Result<Option<SegmentMeta>, StoreError> {
    let metrics = sorted_metrics(generations, &index.read());
    let sorting = [0, 2, TIME_COLUMN as i32].map(|column_idx| SortingColumn {
        column_idx,
        descending: false,
        nulls_first: false,
    });
    // Series-major times are nearly constant steps, and splitting the bytes of floats lets zstd see their exponents: 2.6
    // instead of 3.3 bytes per sample on a mix of gauges, counters and noise.
    let properties = writer_properties()
        .set_sorting_columns(Some(sorting.to_vec()))
        .set_column_dictionary_enabled(ColumnPath::from("time"), false)
        .set_column_encoding(ColumnPath::from("time"), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(ColumnPath::from("value"), false)
        .set_column_encoding(ColumnPath::from("value"), Encoding::BYTE_STREAM_SPLIT)
        .build();
    let mut ranges: Vec<MetricRange> = Vec::new();
    write_file(dir, number, SegmentKind::Samples, schema(), properties, |write| {
        for (metric, metric_number) in &metrics {
            let mut rows = Vec::new();
            for chunk in generations.iter().flat_map(|g| g.sealed(*metric_number, i64::MIN, i64::MAX)) {
                let all = Wanted { metric, series: None, from: i64::MIN, to: i64::MAX };
                chunk.copy_into(&all, &mut rows);
            }
            sort_last_write_wins(&mut rows);
            let offset = ranges.last().map_or(0, |range| range.offset + range.rows);
            let times = || rows.iter().map(|row| row.time);
            let (Some(min_time), Some(max_time)) = (times().min(), times().max()) else { continue };
            ranges.push(MetricRange { metric: metric.to_string(), offset, rows: rows.len(), min_time, max_time });
            for part in rows.chunks(BATCH_ROWS) {
                let batch = to_batch(metric, part, &index.read())?;
                write.write(&batch)?;
            }
        }
        let json =
            serde_json::to_string(&ranges).map_err(|error| parquet::errors::ParquetError::External(error.into()))?;
        write.append_key_value_metadata(KeyValue::new(RANGES.to_owned(), json));
        let times = ranges.iter().map(|range| (range.min_time, range.max_time));
        Ok(times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
    })
}

fn sorted_metrics(generations: &[Arc<Generation>], index: &SeriesIndex) -> Vec<(Arc<str>, u32)> {
    let numbers: std::collections::BTreeSet<u32> = generations.iter().flat_map(|g| g.metric_numbers()).collect();
    let mut metrics: Vec<_> =
        numbers.into_iter().filter_map(|number| Some((index.metric_name(number)?, number))).collect();
    metrics.sort_unstable();
    metrics
}

fn to_batch(metric: &str, rows: &[Row], index: &SeriesIndex) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut tags: Vec<String> = Vec::new();
    let mut tag_keys: Vec<u32> = Vec::with_capacity(rows.len());
    let mut last = None;
    for row in rows {
        if last.replace(row.series) != Some(row.series) {
            tags.push(index.key(row.series).map_or_else(|| "{}".to_owned(), |key| tags_json(&key)));
        }
        tag_keys.push(tags.len() as u32 - 1);
    }
    let metric_column =
        DictionaryArray::new(UInt32Array::from_value(0, rows.len()), Arc::new(StringArray::from(vec![metric])));
    let tags_column = DictionaryArray::new(tag_keys.into(), Arc::new(StringArray::from(tags)));
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.time)).with_timezone("UTC");
    let series = UInt32Array::from_iter_values(rows.iter().map(|row| row.series));
    let values = arrow::array::Float64Array::from_iter_values(rows.iter().map(|row| row.value));
    RecordBatch::try_new(
        schema(),
        vec![Arc::new(metric_column), Arc::new(tags_column), Arc::new(series), Arc::new(times), Arc::new(values)],
    )
}

/// A series' tags as a JSON object, keys sorted.
pub(crate) fn tags_json(key: &SeriesKey) -> String {
    let tags: serde_json::Map<String, serde_json::Value> =
        key.tags().iter().map(|(tag, value)| (tag.clone(), value.clone().into())).collect();
    serde_json::Value::Object(tags).to_string()
}

/// Writes one segment file durably. `fill` returns the earliest and the latest time; without rows no file stays.
pub(crate) fn write_file(
    dir: &Path,
    number: u64,
    kind: SegmentKind,
    schema: SchemaRef,
    properties: WriterProperties,
    fill: impl FnOnce(&mut ArrowWriter<File>) -> Result<Option<(i64, i64)>, parquet::errors::ParquetError>,
) -> Result<Option<SegmentMeta>, StoreError> {
    let name = match kind {
        SegmentKind::Samples => "samples",
        SegmentKind::Decisions => "decisions",
        SegmentKind::Events => "events",
    };
    let file_name = format!("{number:08}-{name}.parquet");
    let path = dir.join(&file_name);
    let unwritable = |error: &dyn std::fmt::Display| {
        let _ = fs::remove_file(&path); // the catalog does not name it, so what stays is removed at the next start
        StoreError::Segment { action: "written", path: path.clone(), message: error.to_string() }
    };
    // Never truncates: a file of that name could be one that the catalog on disk names.
    let create = || fault::at(&path).and_then(|()| File::create_new(&path));
    let file = create().map_err(StoreError::io("create", &path))?;
    let synced = file.try_clone().map_err(|error| unwritable(&error))?;
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|error| unwritable(&error))?;
    let times = fill(&mut writer).map_err(|error| unwritable(&error))?;
    fault::at(&path).map_err(|error| unwritable(&error))?;
    let metadata = writer.close().map_err(|error| unwritable(&error))?;
    let Some((min_time, max_time)) = times else {
        let _ = fs::remove_file(&path);
        return Ok(None);
    };
    fault::at_sync(&path).and_then(|()| synced.sync_all()).map_err(|error| unwritable(&error))?;
    sync_dir(dir)?;
    let bytes = synced.metadata().map_err(|error| unwritable(&error))?.len();
    let rows = metadata.file_metadata().num_rows() as u64;
    Ok(Some(SegmentMeta {
        number,
        kind,
        file: file_name,
        min_time: TimeMs(min_time),
        max_time: TimeMs(max_time),
        rows,
        bytes,
        checksums: BTreeMap::new(),
        remote: false,
    }))
}
