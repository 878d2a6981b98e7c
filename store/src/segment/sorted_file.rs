//! Reading a file whose rows are sorted by metric, series and time, without decoding what nobody asked for.
//!
//! The first scan of a file keeps its parsed footer, and the first scan of a metric in it a table of where each of its
//! series lies. From then on a scan of a few series opens nothing and decodes just the pages that hold their rows; which
//! series a row is of follows from where it lies.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, Float64Array, Int8Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int64Type, TimestampMillisecondType, UInt32Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::Result;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use crate::error::StoreError;
use crate::remote;
use crate::scan::Wanted;
use crate::segment::samples::{MetricRange, RANGES};
use crate::segment::scaled;

/// Rows decoded at once.
const BATCH_ROWS: usize = 32_768;

/// A file of sorted rows.
#[derive(Debug)]
pub(crate) struct SortedFile {
    path: PathBuf,
    /// Set by the first scan.
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    file: SharedFile,
    metadata: ArrowReaderMetadata,
    ranges: Vec<MetricRange>,
    /// One for each range; set by the first scan of the metric.
    series: Vec<OnceLock<SeriesTable>>,
}

/// Which rows of a metric are whose.
#[derive(Debug)]
struct SeriesTable {
    /// Ids, sorted.
    series: Vec<u32>,
    /// For each the number of the row after its last one, counted from the metric's first.
    ends: Vec<u32>,
}

/// The rows of one series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub series: u32,
    /// Numbers of the rows within the file.
    pub rows: Range<usize>,
}

/// A stretch of rows of one series, decoded.
pub(crate) struct Piece<'a> {
    pub series: u32,
    pub times: &'a [i64],
    batch: &'a RecordBatch,
    group: &'a Group,
    /// Where they lie in the batch.
    at: usize,
}

impl SortedFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, open: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn unreadable(&self, error: impl std::fmt::Display) -> StoreError {
        StoreError::Segment { action: "read", path: self.path.clone(), message: error.to_string() }
    }

    fn open(&self) -> std::result::Result<&Open, StoreError> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let open = Open::read(&self.path).map_err(|error| self.unreadable(error))?;
        Ok(self.open.get_or_init(|| open)) // another scan may have been faster, with the same result
    }

    /// The metrics in it, sorted by name.
    pub(crate) fn metrics(&self) -> std::result::Result<&[MetricRange], StoreError> {
        Ok(&self.open()?.ranges)
    }

    /// A metric's range, if it has rows.
    pub(crate) fn metric(&self, metric: &str) -> std::result::Result<Option<&MetricRange>, StoreError> {
        let open = self.open()?;
        Ok(open.find(metric).map(|at| &open.ranges[at]))
    }

    /// What the row groups hold of each metric, by its share of their rows.
    pub(crate) fn bytes_by_metric(&self) -> std::result::Result<Vec<(String, u64)>, StoreError> {
        let open = self.open()?;
        let of = |range: &MetricRange| {
            let all = range.offset..range.offset + range.rows;
            let groups = open.groups().map(|(number, place)| {
                let bytes = open.metadata.metadata().row_group(number).compressed_size().max(0) as f64;
                bytes * common(&all, &place).len() as f64 / place.len().max(1) as f64
            });
            groups.sum::<f64>() as u64
        };
        Ok(open.ranges.iter().map(|range| (range.metric.clone(), of(range))).collect())
    }

    /// Where the rows of each wanted series lie, in order.
    pub(crate) fn runs(&self, wanted: &Wanted<'_>) -> std::result::Result<Vec<Run>, StoreError> {
        let open = self.open()?;
        let Some(at) = open.find(wanted.metric) else { return Ok(Vec::new()) };
        let range = &open.ranges[at];
        if range.min_time > wanted.to || range.max_time < wanted.from {
            return Ok(Vec::new());
        }
        let table = match open.series[at].get() {
            Some(table) => table,
            None => {
                let table = open.read_table(range).map_err(|error| self.unreadable(error))?;
                open.series[at].get_or_init(|| table)
            }
        };
        Ok(table.runs(range.offset, wanted.series))
    }

    /// Decodes times and numbers of `runs` and hands them over piece by piece, in order. `numbers` names the columns that
    /// are wanted, each as it is called for doubles; `whole` a column of whole numbers.
    pub(crate) fn read(
        &self,
        runs: &[Run],
        numbers: &[&str],
        whole: Option<&str>,
        mut each: impl FnMut(&Piece<'_>),
    ) -> std::result::Result<(), StoreError> {
        self.open()?.read_runs(runs, numbers, whole, &mut each).map_err(|error| self.unreadable(error))
    }
}

impl Open {
    fn read(path: &Path) -> std::result::Result<Self, String> {
        let file = SharedFile::open(path).map_err(|error| error.to_string())?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(|error| error.to_string())?;
        let ranges = read_ranges(metadata.metadata())?;
        let series = ranges.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { file, metadata, ranges, series })
    }

    fn find(&self, metric: &str) -> Option<usize> {
        self.ranges.binary_search_by(|range| range.metric.as_str().cmp(metric)).ok()
    }

    /// The row groups that have some of the rows, with the number of each one's first row.
    fn groups(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.metadata.metadata().row_groups().iter().enumerate().scan(0, |start, (number, group)| {
            let rows = *start..*start + group.num_rows() as usize;
            *start = rows.end;
            Some((number, rows))
        })
    }

    /// Reads some rows (given as ranges within the file, sorted and apart) of some columns of one row group.
    fn reader(
        &self,
        group: (usize, Range<usize>),
        rows: impl Iterator<Item = Range<usize>>,
        columns: &[&str],
    ) -> Result<impl Iterator<Item = std::result::Result<RecordBatch, arrow::error::ArrowError>>> {
        let (number, place) = group;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone());
        let selection = RowSelection::from_consecutive_ranges(
            rows.map(|rows| rows.start - place.start..rows.end - place.start),
            place.len(),
        );
        let batch_rows = selection.row_count().clamp(1, BATCH_ROWS);
        let columns = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder
            .with_batch_size(batch_rows)
            .with_row_groups(vec![number])
            .with_projection(columns)
            .with_row_selection(selection)
            .build()
    }

    fn read_table(&self, range: &MetricRange) -> Result<SeriesTable> {
        let all = range.offset..range.offset + range.rows;
        let (mut series, mut ends) = (Vec::new(), Vec::new());
        let mut row = 0_u32;
        for (number, place) in self.groups() {
            let rows = common(&all, &place);
            if rows.is_empty() {
                continue;
            }
            for batch in self.reader((number, place), [rows].into_iter(), &["series"])? {
                for same in batch?.column(0).as_primitive::<UInt32Type>().values().chunk_by(|a, b| a == b) {
                    if series.last() != Some(&same[0]) {
                        series.push(same[0]);
                        ends.push(row);
                    }
                    row += same.len() as u32;
                    if let Some(end) = ends.last_mut() {
                        *end = row;
                    }
                }
            }
        }
        Ok(SeriesTable { series, ends })
    }

    fn read_runs(
        &self,
        runs: &[Run],
        numbers: &[&str],
        whole: Option<&str>,
        each: &mut impl FnMut(&Piece<'_>),
    ) -> Result<()> {
        let mut left = runs;
        for (number, place) in self.groups() {
            left = &left[left.partition_point(|run| run.rows.end <= place.start)..];
            let here = &left[..left.partition_point(|run| run.rows.start < place.end)];
            if here.is_empty() {
                continue;
            }
            let group = Group::of(self.metadata.metadata().row_group(number), numbers);
            let mut columns = group.columns(numbers);
            columns.push("time");
            columns.extend(whole);
            let rows = || here.iter().map(|run| (run.series, common(&run.rows, &place)));
            let mut runs = rows();
            let mut run = (0, 0..0);
            for batch in self.reader((number, place.clone()), rows().map(|(_, rows)| rows), &columns)? {
                let batch = batch?;
                let Some(times) = batch.column_by_name("time") else { continue };
                let times = times.as_primitive::<TimestampMillisecondType>().values();
                let mut at = 0;
                while at < batch.num_rows() {
                    if run.1.is_empty() {
                        let Some(next) = runs.next() else { break };
                        run = next;
                    }
                    let rows = run.1.len().min(batch.num_rows() - at);
                    each(&Piece { series: run.0, times: &times[at..at + rows], batch: &batch, group: &group, at });
                    at += rows;
                    run.1.start += rows;
                }
            }
        }
        Ok(())
    }
}

impl SeriesTable {
    fn runs(&self, offset: usize, wanted: Option<&[u32]>) -> Vec<Run> {
        let run = |at: usize| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            Run { series: self.series[at], rows: offset + start as usize..offset + self.ends[at] as usize }
        };
        match wanted {
            None => (0..self.series.len()).map(run).collect(),
            Some(ids) => ids.iter().filter_map(|id| self.series.binary_search(id).ok()).map(run).collect(),
        }
    }
}

fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

fn read_ranges(metadata: &ParquetMetaData) -> std::result::Result<Vec<MetricRange>, String> {
    let entries = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let json = entries.iter().find(|entry| entry.key == RANGES).and_then(|entry| entry.value.as_deref());
    let json = json.ok_or_else(|| format!("its footer has no '{RANGES}'"))?;
    serde_json::from_str(json).map_err(|error| format!("'{RANGES}' in its footer: {error}"))
}

/// How the numbers of one row group are stored, as far as its statistics tell.
struct Group {
    /// For each wanted column whether it has doubles and whether it has integers.
    stored: Vec<(bool, bool)>,
    /// `10^scale`, when all rows with integers have the same.
    power: Option<f64>,
}

impl Group {
    fn of(group: &RowGroupMetaData, numbers: &[&str]) -> Self {
        let column = |name: &str| group.columns().iter().find(|column| column.column_path().string() == name);
        let stored = |name: &str| {
            let Some(column) = column(name) else { return false };
            let nulls = column.statistics().and_then(Statistics::null_count_opt);
            nulls.is_none_or(|nulls| nulls < group.num_rows() as u64)
        };
        let power = match column("scale").and_then(|column| column.statistics()) {
            Some(Statistics::Int32(scales)) if scales.min_opt().is_some() && scales.min_opt() == scales.max_opt() => {
                scales.min_opt().and_then(|&scale| scaled::power(u8::try_from(scale).ok()?))
            }
            _ => None,
        };
        Self { stored: numbers.iter().map(|name| (stored(name), stored(scaled_name(name)))).collect(), power }
    }

    fn columns<'a>(&self, numbers: &[&'a str]) -> Vec<&'a str> {
        let mut columns = Vec::new();
        for (name, (doubles, integers)) in numbers.iter().zip(&self.stored) {
            columns.extend(doubles.then_some(*name));
            columns.extend(integers.then(|| scaled_name(name)));
        }
        let integers = self.stored.iter().any(|(_, integers)| *integers);
        columns.extend((integers && self.power.is_none()).then_some("scale"));
        columns
    }
}

/// The column that holds a column's numbers as integers.
fn scaled_name(name: &str) -> &'static str {
    match name {
        "min" => "min_scaled",
        "max" => "max_scaled",
        "sum" => "sum_scaled",
        "last" => "last_scaled",
        _ => "scaled",
    }
}

impl Piece<'_> {
    /// Hands over the numbers of a column in rows `rows` of this piece. `number` is the column's place among those that
    /// [`SortedFile::read`] was asked for.
    pub(crate) fn numbers(&self, number: usize, name: &str, rows: Range<usize>, mut each: impl FnMut(f64)) {
        let rows = self.at + rows.start..self.at + rows.end;
        let (doubles, integers) = self.group.stored[number];
        let column = |wanted: bool, name| self.batch.column_by_name(name).filter(|_| wanted);
        let doubles = column(doubles, name).map(|column| column.as_primitive::<Float64Type>());
        let integers = column(integers, scaled_name(name)).map(|column| column.as_primitive::<Int64Type>());
        let scales = self.batch.column_by_name("scale").map(|column| column.as_primitive::<Int8Type>());
        match (doubles, integers, self.group.power) {
            (Some(doubles), None, _) => doubles.values()[rows].iter().copied().for_each(each),
            (None, Some(integers), Some(power)) => {
                integers.values()[rows].iter().for_each(|&integer| each(scaled::from_scaled(integer, power)));
            }
            _ => rows.for_each(|row| each(mixed(doubles, integers, scales, self.group.power, row))),
        }
    }

    /// The whole number in a row of this piece.
    pub(crate) fn whole(&self, name: &str, row: usize) -> u32 {
        self.batch.column_by_name(name).map_or(0, |column| column.as_primitive::<UInt32Type>().value(self.at + row))
    }
}

fn mixed(
    doubles: Option<&Float64Array>,
    integers: Option<&Int64Array>,
    scales: Option<&Int8Array>,
    power: Option<f64>,
    row: usize,
) -> f64 {
    if let Some(doubles) = doubles.filter(|doubles| doubles.is_valid(row)) {
        return doubles.value(row);
    }
    let scale = || scaled::power(u8::try_from(scales?.value(row)).ok()?);
    match (integers, power.or_else(scale)) {
        (Some(integers), Some(power)) => scaled::from_scaled(integers.value(row), power),
        _ => f64::NAN,
    }
}

/// An open file that many threads read at once: it has no position of its own.
#[derive(Clone, Debug)]
struct SharedFile {
    file: Arc<File>,
    bytes: u64,
}

impl SharedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = remote::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), bytes })
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<FromHere>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(FromHere { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A place in a file to read on from.
struct FromHere {
    file: Arc<File>,
    at: u64,
}

impl Read for FromHere {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
