//! Reading a file whose rows are sorted by metric, series and time, without decoding what nobody asked for.
//!
//! The first scan of a file keeps its parsed footer, and the first scan of a metric in it a table of where each of its
//! series lies, and of its times where they are even. From then on a scan of a few series opens nothing and decodes just the
//! pages that hold their values; which series a row is of follows from where it lies.
//!
//! Here is what a file keeps and where rows lie; `reading` decodes them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::Result;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use crate::error::StoreError;
use crate::scan::Wanted;
use crate::segment::group::Group;
use crate::segment::page_cache::PageCache;
use crate::segment::pages::{Column, Pages};
use crate::segment::reading::{Piece, Reading};
use crate::segment::samples::{MetricRange, RANGES};
use crate::segment::shared_file::SharedFile;
use crate::segment::times::{Times, TimesBuilder};

/// Rows decoded at once.
pub(super) const BATCH_ROWS: usize = 32_768;
/// The column that says when.
pub(super) const TIME: &str = "time";

/// A file of sorted rows.
#[derive(Debug)]
pub(crate) struct SortedFile {
    path: PathBuf,
    cache: Arc<PageCache>,
    /// Set by the first scan.
    open: OnceLock<Open>,
}

/// What the first scan finds out.
#[derive(Debug)]
pub(super) struct Open {
    file: SharedFile,
    metadata: ArrowReaderMetadata,
    ranges: Vec<MetricRange>,
    pub(super) groups: Vec<Group>,
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

impl Runs<'_> {
    /// The times of the metric's rows, if they are even, with the number of its first row.
    pub(super) fn even_times(&self) -> Option<(&Times, usize)> {
        let (table, offset) = self.table?;
        Some((table.times.as_ref()?, offset))
    }
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
    pub(super) fn groups(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.groups.iter().map(|group| group.rows.clone()).enumerate()
    }

    /// A column of a row group for [`Pages`]; `None` when it has nulls, or is stored as they cannot read it.
    pub(super) fn column(&self, group: usize, name: &str) -> Option<Column<'_>> {
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
    pub(super) fn reader(
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

/// What two ranges have in common; empty where that is nothing.
pub(super) fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

fn read_ranges(metadata: &ParquetMetaData) -> std::result::Result<Vec<MetricRange>, String> {
    let entries = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let json = entries.iter().find(|entry| entry.key == RANGES).and_then(|entry| entry.value.as_deref());
    let json = json.ok_or_else(|| format!("its footer has no '{RANGES}'"))?;
    serde_json::from_str(json).map_err(|error| format!("'{RANGES}' in its footer: {error}"))
}
