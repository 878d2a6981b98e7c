//! Reading a file whose rows are sorted by metric, series and time, without decoding what nobody asked for.
//!
//! The first scan of a file keeps its parsed footer, and the first scan of a metric in it a table of where each of its
//! series lies, and of its times where they are even. From then on a scan of a few series opens nothing and decodes just the
//! pages that hold their values; which series a row is of follows from where it lies.
//!
//! Pages are read by `pages`, which knows what this program writes. A row group with nulls among its numbers, doubles among
//! decimals, is read by the general reader of Parquet.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, Float64Array, Int8Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int64Type, TimestampMillisecondType, UInt32Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::Result;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use crate::error::StoreError;
use crate::remote;
use crate::scan::Wanted;
use crate::segment::page_cache::PageCache;
use crate::segment::pages::{Column, Pages};
use crate::segment::samples::{MetricRange, RANGES};
use crate::segment::scaled;
use crate::segment::times::{Times, TimesBuilder};

/// Rows decoded at once.
const BATCH_ROWS: usize = 32_768;
/// Rows of a question whose pages are worth keeping. Who reads more reads most of a metric, and once.
const KEPT_ROWS: usize = 256 * 1024;
/// The columns that say when, how often, and at which scale.
const TIME: &str = "time";
const SCALE: &str = "scale";

/// A file of sorted rows.
#[derive(Debug)]
pub(crate) struct SortedFile {
    path: PathBuf,
    cache: Arc<PageCache>,
    /// Set by the first scan.
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    file: SharedFile,
    metadata: ArrowReaderMetadata,
    ranges: Vec<MetricRange>,
    groups: Vec<Group>,
    /// One for each range; set by the first scan of the metric.
    series: Vec<OnceLock<SeriesTable>>,
}

/// Which rows of a metric are whose, and when.
#[derive(Debug)]
struct SeriesTable {
    /// Ids, sorted.
    series: Vec<u32>,
    /// For each the number of the row after its last one, counted from the metric's first.
    ends: Vec<u32>,
    /// Unless they are too uneven to be computed.
    times: Option<Times>,
}

/// The rows of one series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub series: u32,
    /// Numbers of the rows within the file.
    pub rows: Range<usize>,
}

/// Where wanted rows lie.
pub(crate) struct Runs<'a> {
    pub runs: Vec<Run>,
    /// Of the metric, with the number of its first row.
    table: Option<(&'a SeriesTable, usize)>,
}

/// A stretch of rows of one series, decoded.
pub(crate) struct Piece<'a> {
    pub series: u32,
    pub times: &'a [i64],
    numbers: &'a [Numbers],
    whole: &'a [i64],
    /// Where they lie among the numbers.
    at: usize,
}

/// Numbers of one column as they are stored.
enum Numbers {
    /// Doubles by their bits.
    Doubles(Vec<i64>),
    /// Integers, all with the same `10^scale`.
    Scaled(Vec<i64>, f64),
    Plain(Vec<f64>),
}

impl SortedFile {
    pub(crate) fn new(path: PathBuf, cache: &Arc<PageCache>) -> Self {
        Self { path, cache: Arc::clone(cache), open: OnceLock::new() }
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

    /// Whether the numbers of a metric in a column are whole; `false` where the statistics do not tell.
    pub(crate) fn has_whole_numbers(&self, metric: &str, number: &str) -> std::result::Result<bool, StoreError> {
        let open = self.open()?;
        let Some(range) = open.find(metric).map(|at| &open.ranges[at]) else { return Ok(false) };
        let all = range.offset..range.offset + range.rows;
        let mut groups = open.groups.iter().filter(|group| !common(&all, &group.rows).is_empty());
        Ok(groups.all(|group| group.power == Some(1.0) && group.stored(number) == (false, true)))
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

    /// Where the rows of each wanted series lie, in order; without those at other times, as far as that is known.
    pub(crate) fn runs(&self, wanted: &Wanted<'_>) -> std::result::Result<Runs<'_>, StoreError> {
        let open = self.open()?;
        let nothing = Runs { runs: Vec::new(), table: None };
        let Some(at) = open.find(wanted.metric) else { return Ok(nothing) };
        let range = &open.ranges[at];
        if range.min_time > wanted.to || range.max_time < wanted.from {
            return Ok(nothing);
        }
        let table = match open.series[at].get() {
            Some(table) => table,
            None => {
                let table = open.read_table(range, &self.cache).map_err(|error| self.unreadable(error))?;
                open.series[at].get_or_init(|| table)
            }
        };
        let whole = wanted.from <= range.min_time && range.max_time <= wanted.to;
        let times = table.times.as_ref().filter(|_| !whole);
        let runs = table.rows(wanted.series, |series, rows| {
            let rows = times.map_or(rows.clone(), |times| times.within(rows, wanted.from, wanted.to));
            let rows = range.offset + rows.start as usize..range.offset + rows.end as usize;
            (!rows.is_empty()).then_some(Run { series, rows })
        });
        Ok(Runs { runs, table: Some((table, range.offset)) })
    }

    /// Decodes times and numbers of `runs` and hands them over piece by piece, in order. `numbers` names the columns that
    /// are wanted, each as it is called for doubles; `whole` a column of whole numbers.
    pub(crate) fn read(
        &self,
        runs: &Runs<'_>,
        numbers: &[&str],
        whole: Option<&str>,
        mut each: impl FnMut(&Piece<'_>),
    ) -> std::result::Result<(), StoreError> {
        let reading = Reading { open: self.open()?, cache: &self.cache, runs, numbers, whole };
        reading.run(&mut each).map_err(|error| self.unreadable(error))
    }
}

impl Open {
    fn read(path: &Path) -> std::result::Result<Self, String> {
        let file = SharedFile::open(path).map_err(|error| error.to_string())?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(|error| error.to_string())?;
        let ranges = read_ranges(metadata.metadata())?;
        let series = ranges.iter().map(|_| OnceLock::new()).collect();
        let groups = Group::all(metadata.metadata());
        Ok(Self { file, metadata, ranges, groups, series })
    }

    fn find(&self, metric: &str) -> Option<usize> {
        self.ranges.binary_search_by(|range| range.metric.as_str().cmp(metric)).ok()
    }

    /// The row groups with their rows.
    fn groups(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.groups.iter().map(|group| group.rows.clone()).enumerate()
    }

    /// A column of a row group for [`Pages`]; `None` when it has nulls, or is stored as they cannot read it.
    fn column(&self, group: usize, name: &str) -> Option<Column<'_>> {
        let at = self.groups.get(group)?.columns.iter().position(|column| column.name == name)?;
        let Group { columns, rows, .. } = &self.groups[group];
        let metadata = self.metadata.metadata();
        let places = metadata.offset_index()?.get(group)?.get(at)?.page_locations();
        let chunk = metadata.row_group(group).columns().get(at)?;
        if columns[at].nulls != Some(0) {
            return None;
        }
        Column::new(&self.file, chunk, places, rows.len())
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

    fn read_table(&self, range: &MetricRange, cache: &PageCache) -> Result<SeriesTable> {
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
        let times = self.read_times(range.offset, &ends, cache)?;
        Ok(SeriesTable { series, ends, times })
    }

    /// The times of all rows of a metric, if they are even.
    fn read_times(&self, offset: usize, ends: &[u32], cache: &PageCache) -> Result<Option<Times>> {
        let mut builder = TimesBuilder::default();
        let mut times = Vec::new();
        let mut group = 0;
        let mut pages = None;
        let mut start = offset;
        for end in ends {
            builder.begin_series();
            let end = offset + *end as usize;
            while start < end {
                while self.groups.get(group).is_some_and(|group| group.rows.end <= start) {
                    group += 1;
                    pages = None;
                }
                if pages.is_none() {
                    let Some(column) = self.column(group, TIME) else { return Ok(None) };
                    pages = Some(Pages::new(column, cache, false));
                }
                let (Some(pages), Some(Group { rows: place, .. })) = (&mut pages, self.groups.get(group)) else {
                    return Ok(None);
                };
                let rows = start..end.min(place.end).min(start + BATCH_ROWS);
                times.clear();
                pages.read(rows.start - place.start..rows.end - place.start, &mut times)?;
                if !builder.push(&times) {
                    return Ok(None);
                }
                start = rows.end;
            }
        }
        Ok(Some(builder.finish()))
    }
}

/// One reading of some rows.
struct Reading<'a> {
    open: &'a Open,
    cache: &'a PageCache,
    runs: &'a Runs<'a>,
    numbers: &'a [&'a str],
    whole: Option<&'a str>,
}

impl Reading<'_> {
    fn run(&self, each: &mut impl FnMut(&Piece<'_>)) -> Result<()> {
        let mut left = self.runs.runs.as_slice();
        let keep = left.iter().map(|run| run.rows.len()).sum::<usize>() <= KEPT_ROWS;
        for (number, place) in self.open.groups() {
            left = &left[left.partition_point(|run| run.rows.end <= place.start)..];
            let here = &left[..left.partition_point(|run| run.rows.start < place.end)];
            if here.is_empty() {
                continue;
            }
            if !self.by_page(number, &place, here, keep, each)? {
                self.by_batch(number, &place, here, each)?;
            }
        }
        Ok(())
    }

    /// Reads page by page; `false`, and nothing, when the general reader has to.
    fn by_page(
        &self,
        number: usize,
        place: &Range<usize>,
        runs: &[Run],
        keep: bool,
        each: &mut impl FnMut(&Piece<'_>),
    ) -> Result<bool> {
        let group = &self.open.groups[number];
        let pages = |name: &str| Some(Pages::new(self.open.column(number, name)?, self.cache, keep));
        let mut columns = Vec::with_capacity(self.numbers.len());
        for name in self.numbers {
            let (name, empty) = match (group.stored(name), group.power) {
                ((true, false), _) => (*name, Numbers::Doubles(Vec::new())),
                ((false, true), Some(power)) => (scaled_name(name), Numbers::Scaled(Vec::new(), power)),
                _ => return Ok(false),
            };
            let Some(pages) = pages(name) else { return Ok(false) };
            columns.push((pages, empty));
        }
        let (mut columns, mut numbers): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let even = self.runs.table.and_then(|(table, offset)| Some((table.times.as_ref()?, offset)));
        let (mut time, mut count) = (None, None);
        if even.is_none() {
            let Some(pages) = pages(TIME) else { return Ok(false) };
            time = Some(pages);
        }
        if let Some(name) = self.whole {
            let Some(pages) = pages(name) else { return Ok(false) };
            count = Some(pages);
        }
        let (mut times, mut whole) = (Vec::new(), Vec::new());
        for run in runs {
            let all = common(&run.rows, place);
            for start in all.clone().step_by(BATCH_ROWS) {
                let rows = start..all.end.min(start + BATCH_ROWS);
                let in_group = rows.start - place.start..rows.end - place.start;
                times.clear();
                if let Some((even, offset)) = even {
                    even.append((rows.start - offset) as u32..(rows.end - offset) as u32, &mut times);
                }
                if let Some(time) = &mut time {
                    time.read(in_group.clone(), &mut times)?;
                }
                for (pages, numbers) in columns.iter_mut().zip(&mut numbers) {
                    let (Numbers::Doubles(values) | Numbers::Scaled(values, _)) = numbers else { continue };
                    values.clear();
                    pages.read(in_group.clone(), values)?;
                }
                if let Some(count) = &mut count {
                    whole.clear();
                    count.read(in_group, &mut whole)?;
                }
                each(&Piece { series: run.series, times: &times, numbers: &numbers, whole: &whole, at: 0 });
            }
        }
        Ok(true)
    }

    /// Reads with the general reader.
    fn by_batch(
        &self,
        number: usize,
        place: &Range<usize>,
        here: &[Run],
        each: &mut impl FnMut(&Piece<'_>),
    ) -> Result<()> {
        let group = &self.open.groups[number];
        let mut columns = group.wanted(self.numbers);
        columns.push(TIME);
        columns.extend(self.whole);
        let rows = || here.iter().map(|run| (run.series, common(&run.rows, place)));
        let mut runs = rows();
        let mut run = (0, 0..0);
        for batch in self.open.reader((number, place.clone()), rows().map(|(_, rows)| rows), &columns)? {
            let batch = batch?;
            let Some(times) = batch.column_by_name(TIME) else { continue };
            let times = times.as_primitive::<TimestampMillisecondType>().values();
            let numbers: Vec<_> = self.numbers.iter().map(|name| Numbers::Plain(group.numbers(&batch, name))).collect();
            let whole = self.whole.and_then(|name| batch.column_by_name(name));
            let whole = whole.map_or(&[][..], |column| column.as_primitive::<UInt32Type>().values());
            let whole: Vec<i64> = whole.iter().map(|&number| i64::from(number)).collect();
            let mut at = 0;
            while at < batch.num_rows() {
                if run.1.is_empty() {
                    let Some(next) = runs.next() else { break };
                    run = next;
                }
                let rows = run.1.len().min(batch.num_rows() - at);
                each(&Piece { series: run.0, times: &times[at..at + rows], numbers: &numbers, whole: &whole, at });
                at += rows;
                run.1.start += rows;
            }
        }
        Ok(())
    }
}

impl SeriesTable {
    /// What `each` makes of the rows of each of the wanted series.
    fn rows<T>(&self, wanted: Option<&[u32]>, each: impl Fn(u32, Range<u32>) -> Option<T>) -> Vec<T> {
        let rows = |at: usize| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            each(self.series[at], start..self.ends[at])
        };
        match wanted {
            None => (0..self.series.len()).filter_map(rows).collect(),
            Some(ids) => ids.iter().filter_map(|id| self.series.binary_search(id).ok()).filter_map(rows).collect(),
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

/// How one row group is stored, as far as its statistics tell.
#[derive(Debug)]
struct Group {
    /// Its rows within the file.
    rows: Range<usize>,
    columns: Vec<Stored>,
    /// `10^scale`, when all rows with integers have the same.
    power: Option<f64>,
}

#[derive(Debug)]
struct Stored {
    name: String,
    /// How many nulls there are, if that is known.
    nulls: Option<u64>,
}

impl Group {
    fn all(metadata: &ParquetMetaData) -> Vec<Self> {
        let mut start = 0;
        let groups = metadata.row_groups().iter().map(|group| {
            let rows = start..start + group.num_rows() as usize;
            start = rows.end;
            let stored = group.columns().iter().map(|column| {
                let is_required = column.column_descr().max_def_level() == 0;
                let nulls = column.statistics().and_then(Statistics::null_count_opt).or(is_required.then_some(0));
                Stored { name: column.column_path().string(), nulls }
            });
            let columns: Vec<Stored> = stored.collect();
            let scale = columns.iter().position(|column| column.name == SCALE);
            let power = match scale.and_then(|at| group.column(at).statistics()) {
                Some(Statistics::Int32(scales))
                    if scales.min_opt().is_some() && scales.min_opt() == scales.max_opt() =>
                {
                    scales.min_opt().and_then(|&scale| scaled::power(u8::try_from(scale).ok()?))
                }
                _ => None,
            };
            Self { rows, columns, power }
        });
        groups.collect()
    }

    /// Whether a column has doubles, and whether it has integers.
    fn stored(&self, name: &str) -> (bool, bool) {
        let stored = |name: &str| {
            let column = self.columns.iter().find(|column| column.name == name);
            column.is_some_and(|column| column.nulls.is_none_or(|nulls| nulls < self.rows.len() as u64))
        };
        (stored(name), stored(scaled_name(name)))
    }

    /// The columns that have to be read for these numbers.
    fn wanted<'a>(&self, numbers: &[&'a str]) -> Vec<&'a str> {
        let mut columns = Vec::new();
        let mut has_integers = false;
        for name in numbers {
            let (doubles, integers) = self.stored(name);
            columns.extend(doubles.then_some(*name));
            columns.extend(integers.then(|| scaled_name(name)));
            has_integers |= integers;
        }
        columns.extend((has_integers && self.power.is_none()).then_some(SCALE));
        columns
    }

    /// The numbers of a column in `batch`.
    fn numbers(&self, batch: &RecordBatch, name: &str) -> Vec<f64> {
        let doubles = batch.column_by_name(name).map(|column| column.as_primitive::<Float64Type>());
        let integers = batch.column_by_name(scaled_name(name)).map(|column| column.as_primitive::<Int64Type>());
        let scales = batch.column_by_name(SCALE).map(|column| column.as_primitive::<Int8Type>());
        (0..batch.num_rows()).map(|row| mixed(doubles, integers, scales, self.power, row)).collect()
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
    pub(crate) fn numbers(&self, number: usize, rows: Range<usize>, mut each: impl FnMut(f64)) {
        let rows = self.at + rows.start..self.at + rows.end;
        match &self.numbers[number] {
            Numbers::Doubles(values) => values[rows].iter().for_each(|bits| each(f64::from_bits(*bits as u64))),
            Numbers::Scaled(values, power) => {
                values[rows].iter().for_each(|&integer| each(scaled::from_scaled(integer, *power)));
            }
            Numbers::Plain(values) => values[rows].iter().copied().for_each(each),
        }
    }

    /// The whole number in a row of this piece.
    pub(crate) fn whole(&self, row: usize) -> u32 {
        self.whole.get(self.at + row).map_or(0, |number| *number as u32)
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
pub(super) struct SharedFile {
    file: Arc<File>,
    bytes: u64,
    number: u64,
}

/// The next file's number.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

impl SharedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = remote::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), bytes, number: NEXT_FILE.fetch_add(1, Ordering::Relaxed) })
    }

    /// No other file of this process has, or had, the same.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Fills `bytes` with those from a place on.
    pub(super) fn read_at(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, start)
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
        self.read_at(start, &mut bytes)?;
        Ok(bytes.into())
    }
}

/// A place in a file to read on from.
pub(super) struct FromHere {
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
