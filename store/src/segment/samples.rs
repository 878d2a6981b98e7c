//! The files that hold samples: their columns, and how rows become columns.
//!
//! Rows are sorted by metric, series and time. A large metric has row groups of its own, of as many rows as possible, since
//! every row group costs bytes; small metrics share one.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, Int64Array, StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use tidegate_model::SeriesKey;

use crate::catalog::{SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::hot::Row;
use crate::segment::columns::{Coding, Codings, ColumnFile, Effort};
use crate::segment::scaled;
use crate::write::series::SeriesIndex;

/// Rows that a metric needs to have for a row group of its own; below it, what a row group costs would be felt.
const OWN_GROUP_ROWS: usize = 32_768;
/// Rows of one row group at most: a day of a thousand series at 10 s is just above it.
const GROUP_ROWS: usize = 8 << 20;
/// Rows converted at once.
const BATCH_ROWS: usize = 65_536;
/// The footer key under which a file notes where each metric's rows lie.
pub(crate) const RANGES: &str = "tidegate.metrics";

/// Where a metric's rows lie in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MetricRange {
    pub metric: String,
    /// Number of the first row.
    pub offset: usize,
    pub rows: usize,
    pub min_time: i64,
    pub max_time: i64,
}

/// Rows of one series and the scale at which they are integers, if there is one.
pub(crate) struct SeriesRun<'a> {
    pub rows: &'a [Row],
    pub scale: Option<u8>,
}

/// Cuts sorted rows into series. All get the scale that most rows of them have, as far as they can: a series that happens
/// to hold only whole numbers then fits in with its neighbours.
pub(crate) fn series_runs(rows: &[Row]) -> Vec<SeriesRun<'_>> {
    let cut = rows.chunk_by(|a, b| a.series == b.series);
    let values = |rows: &[Row]| rows.iter().map(|row| row.value).collect::<Vec<_>>().into_iter();
    let mut runs: Vec<_> = cut.map(|rows| SeriesRun { rows, scale: scaled::smallest_scale(values(rows)) }).collect();
    let mut rows_at = [0_usize; scaled::MAX_SCALE as usize + 1];
    for run in &runs {
        if let Some(scale) = run.scale {
            rows_at[usize::from(scale)] += run.rows.len();
        }
    }
    let usual = (0..=scaled::MAX_SCALE).max_by_key(|&scale| rows_at[usize::from(scale)]).unwrap_or(0);
    for run in &mut runs {
        let fits = |scale| run.rows.iter().all(|row| scaled::to_scaled(row.value, scale).is_some());
        if run.scale.is_some_and(|scale| scale < usual) && fits(usual) {
            run.scale = Some(usual);
        }
    }
    runs
}

/// A file of samples being written.
pub(crate) struct SampleFile {
    file: ColumnFile,
    ranges: Vec<MetricRange>,
    /// Memory that a row group may take before it is ended.
    group_bytes: usize,
    /// Rows that the current metric's row groups get each.
    group_rows: usize,
}

impl SampleFile {
    pub(crate) fn create(path: &Path, effort: Effort, group_bytes: usize) -> Result<Self, StoreError> {
        let file = ColumnFile::create(path, schema(), CODINGS, &[0, 2, 3], effort)?;
        Ok(Self { file, ranges: Vec::new(), group_bytes, group_rows: GROUP_ROWS })
    }

    /// Begins a metric, whose name comes after those before it, of about `rows` rows.
    pub(crate) fn begin_metric(&mut self, metric: &str, rows: usize) -> Result<(), StoreError> {
        if self.file.group_rows() >= OWN_GROUP_ROWS || rows >= OWN_GROUP_ROWS {
            self.file.end_group()?;
        }
        self.group_rows = rows.div_ceil(rows.div_ceil(GROUP_ROWS).max(1));
        let offset = self.file.rows();
        let (min_time, max_time) = (i64::MAX, i64::MIN);
        self.ranges.push(MetricRange { metric: metric.to_owned(), offset, rows: 0, min_time, max_time });
        Ok(())
    }

    /// Appends whole series of the metric, sorted.
    pub(crate) fn write(&mut self, runs: &[SeriesRun<'_>], index: &SeriesIndexLock) -> Result<(), StoreError> {
        let Some(range) = self.ranges.last_mut() else { return Ok(()) };
        for row in runs.iter().flat_map(|run| run.rows) {
            range.min_time = range.min_time.min(row.time);
            range.max_time = range.max_time.max(row.time);
        }
        range.rows += runs.iter().map(|run| run.rows.len()).sum::<usize>();
        let metric = range.metric.clone();
        let mut columns = SampleColumns::default();
        for run in runs {
            let tags = index.read().key(run.rows[0].series).map_or_else(|| "{}".to_owned(), |key| tags_json(&key));
            for part in run.rows.chunks(BATCH_ROWS) {
                columns.push(part, run.scale, &tags);
                if columns.times.len() >= BATCH_ROWS {
                    self.file.write(&std::mem::take(&mut columns).finish(&metric))?;
                }
            }
        }
        if !columns.times.is_empty() {
            self.file.write(&columns.finish(&metric))?;
        }
        // The last group of a metric may be small, but never for want of a few rows in the one before.
        let full = self.file.group_rows() >= self.group_rows.max(OWN_GROUP_ROWS);
        if full || self.file.group_bytes() > self.group_bytes {
            self.file.end_group()?;
        }
        Ok(())
    }

    /// Completes the file; `None`, and no file, when there were no rows.
    pub(crate) fn finish(mut self) -> Result<Option<Written>, StoreError> {
        self.ranges.retain(|range| range.rows > 0);
        let times = self.ranges.iter().map(|range| (range.min_time, range.max_time));
        let Some((min_time, max_time)) = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return Ok(None) };
        let rows = self.file.rows() as u64;
        let bytes = self.file.finish(vec![(RANGES.to_owned(), ranges_json(&self.ranges)?)])?;
        Ok(Some(Written { rows, bytes, min_time, max_time }))
    }
}

/// The series index as the writers use it: locked for one series at a time, so that appends get in between.
pub(crate) type SeriesIndexLock = parking_lot::RwLock<SeriesIndex>;

/// What a finished file holds.
pub(crate) struct Written {
    pub rows: u64,
    pub bytes: u64,
    pub min_time: i64,
    pub max_time: i64,
}

impl Written {
    pub(crate) fn meta(self, number: u64, file: String) -> SegmentMeta {
        let times = (self.min_time, self.max_time);
        SegmentMeta::new(number, SegmentKind::Samples, file, times, self.rows, self.bytes)
    }
}

pub(crate) fn ranges_json(ranges: &[MetricRange]) -> Result<String, StoreError> {
    serde_json::to_string(ranges)
        .map_err(|error| StoreError::Unstorable { what: "list of metrics".to_owned(), why: error.to_string() })
}

#[derive(Default)]
struct SampleColumns {
    tags: Vec<String>,
    tag_keys: Vec<u32>,
    series: Vec<u32>,
    times: Vec<i64>,
    values: Vec<Option<f64>>,
    scaled: Vec<Option<i64>>,
    scales: Vec<Option<i8>>,
}

impl SampleColumns {
    fn push(&mut self, rows: &[Row], scale: Option<u8>, tags: &str) {
        self.tags.push(tags.to_owned());
        for row in rows {
            self.tag_keys.push(self.tags.len() as u32 - 1);
            self.series.push(row.series);
            self.times.push(row.time);
            let scaled = scale.and_then(|scale| Some((scaled::to_scaled(row.value, scale)?, scale as i8)));
            self.values.push(if scaled.is_none() { Some(row.value) } else { None });
            self.scaled.push(scaled.map(|(scaled, _)| scaled));
            self.scales.push(scaled.map(|(_, scale)| scale));
        }
    }

    fn finish(self, metric: &str) -> Vec<ArrayRef> {
        vec![
            metric_column(metric, self.times.len()),
            Arc::new(DictionaryArray::new(self.tag_keys.into(), Arc::new(StringArray::from(self.tags)))),
            Arc::new(UInt32Array::from(self.series)),
            Arc::new(TimestampMillisecondArray::from(self.times).with_timezone("UTC")),
            Arc::new(Float64Array::from(self.values)),
            Arc::new(Int64Array::from(self.scaled)),
            Arc::new(Int8Array::from(self.scales)),
        ]
    }
}

pub(crate) fn metric_column(metric: &str, rows: usize) -> ArrayRef {
    Arc::new(DictionaryArray::new(UInt32Array::from_value(0, rows), Arc::new(StringArray::from(vec![metric]))))
}

/// `value` is `coalesce(value, scaled / pow(10, scale))`, to the last bit.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("metric", text(), false),
        Field::new("tags", text(), false),
        Field::new("series", DataType::UInt32, false),
        Field::new("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("value", DataType::Float64, true),
        Field::new("scaled", DataType::Int64, true),
        Field::new("scale", DataType::Int8, true),
    ]))
}

pub(crate) fn text() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8))
}

const CODINGS: &Codings = &[
    &[Coding::Runs],
    &[Coding::Texts],
    &[Coding::Runs],
    &[Coding::Times],
    &[Coding::SplitBytes, Coding::Dictionary, Coding::Empty],
    &[Coding::Delta, Coding::DeltaHard, Coding::Dictionary, Coding::SplitBytes],
    &[Coding::Runs],
];

/// A series' tags as a JSON object, keys sorted.
fn tags_json(key: &SeriesKey) -> String {
    let tags: serde_json::Map<String, serde_json::Value> =
        key.tags().map(|(tag, value)| (tag.to_owned(), value.into())).collect();
    serde_json::Value::Object(tags).to_string()
}
