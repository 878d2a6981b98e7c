//! A Parquet file written column by column, each column of each row group in the encoding that is smallest for it.
//!
//! Which encoding that is depends on the metric: deltas for random walks, a dictionary for limits and bursts, split bytes
//! for doubles. No rule foresees it as well as trying does. So in a row group the candidates of a column are all written
//! to memory, those that have clearly lost are dropped on the way, and the smallest one goes into the file.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use crate::error::StoreError;
use crate::fault;
use crate::write::wal::sync_dir;

/// Rows of a page in columns that scans decode: what is decoded in vain on either side of one series' rows.
const PAGE_ROWS: usize = 16_384;
/// As [`PAGE_ROWS`], for times, and bytes of such a page before compression. Even times take next to nothing and are decoded
/// once; all that they cost is the beginnings of pages and of series, which are more alike the more of them there are. Uneven
/// times fill a page with about as many rows as values do.
const TIME_PAGE_ROWS: usize = 1 << 20;
const TIME_PAGE_BYTES: usize = 64 << 10;
/// Rows of a page in columns of long runs, which scans do not decode. Until a page is full it takes eight bytes a row.
const RUN_PAGE_ROWS: usize = 1 << 18;
/// Bytes of distinct values up to which a dictionary is kept; beyond it the rest of a row group is written as deltas.
const DICTIONARY_BYTES: usize = 1 << 20;
/// As [`DICTIONARY_BYTES`], for texts that repeat for many rows each.
const TEXT_DICTIONARY_BYTES: usize = 64 << 20;
/// Rows after which a candidate that is [`LOST`] times as large as the smallest is given up. With fewer a dictionary would
/// seem to cost what it costs once in a much larger row group.
const TRIAL_ROWS: usize = 1 << 20;
const LOST: f64 = 1.3;

/// How a column can be encoded; all are compressed with zstd afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Dictionary indexes, run-length encoded: for keys that repeat for many rows.
    Runs,
    /// As `Runs`, without statistics: for long texts.
    Texts,
    /// As `Runs`, and only while all values are null.
    Empty,
    /// Differences to the value before, bit-packed in blocks.
    Delta,
    /// As `Delta`, compressed harder: some metrics get smaller by it, and some larger.
    DeltaHard,
    /// As `Delta`, for times.
    Times,
    /// Dictionary indexes, bit-packed.
    Dictionary,
    /// All first bytes, then all second bytes, and so on.
    SplitBytes,
}

impl Coding {
    const ALL: [Coding; 8] = [
        Coding::Runs,
        Coding::Texts,
        Coding::Empty,
        Coding::Delta,
        Coding::DeltaHard,
        Coding::Times,
        Coding::Dictionary,
        Coding::SplitBytes,
    ];

    /// Whether two of them differ in nothing but how hard they are compressed.
    fn is_delta(self) -> bool {
        matches!(self, Coding::Delta | Coding::DeltaHard)
    }
}

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// The first coding of each column: for a file that is soon compacted.
    Quick,
    /// All codings of each column.
    Smallest,
    /// As `Smallest`, compressed as hard as there is a point in: for a file of few rows.
    Hardest,
}

impl Effort {
    /// The level of zstd for a coding. On packed differences of our data 3 is both smaller and, oddly, faster than 1, and up to
    /// 15 mostly time grows; 19, whose parser weighs each choice, takes another per cent off and still does ten million rows
    /// a second, since pages are small. Indexes get smaller still by 9, and the few bytes of runs and texts by 16.
    fn level(self, coding: Coding) -> i32 {
        match (self, coding) {
            (Effort::Hardest, _) => 16,
            (Effort::Smallest, Coding::Runs | Coding::Texts | Coding::Empty) => 16,
            (Effort::Smallest, Coding::DeltaHard) => 19,
            (Effort::Smallest, Coding::Dictionary) => 9,
            (Effort::Smallest, Coding::Times) => 6,
            (Effort::Smallest, Coding::Delta | Coding::SplitBytes) | (Effort::Quick, _) => 3,
        }
    }
}

/// The codings that may serve each column of a schema, best guess first.
pub(crate) type Codings = [&'static [Coding]];

/// A file being written. Without [`ColumnFile::finish`] nothing of it stays.
pub(crate) struct ColumnFile {
    path: PathBuf,
    file: File,
    writer: SerializedFileWriter<BufWriter<File>>,
    schema: SchemaRef,
    codings: Vec<Vec<Coding>>,
    makers: Vec<(Coding, ArrowRowGroupWriterFactory)>,
    /// Per column its candidates; empty between row groups.
    group: Vec<Vec<(Coding, ArrowColumnWriter)>>,
    group_rows: usize,
    rows: usize,
    finished: bool,
}

impl ColumnFile {
    /// Creates `path`, which must not exist. `sorted_by` are the numbers of the columns that rows are sorted by.
    pub(crate) fn create(
        path: &Path,
        schema: SchemaRef,
        codings: &Codings,
        sorted_by: &[i32],
        effort: Effort,
    ) -> std::result::Result<Self, StoreError> {
        // Never truncates: a file of that name could be one that the catalog on disk names.
        let create = || fault::at(path).and_then(|()| File::create_new(path));
        let file = create().map_err(StoreError::io("create", path))?;
        Self::start(path, file, schema, codings, sorted_by, effort).map_err(|error| {
            let _ = std::fs::remove_file(path);
            unwritable(path, error)
        })
    }

    fn start(
        path: &Path,
        file: File,
        schema: SchemaRef,
        codings: &Codings,
        sorted_by: &[i32],
        effort: Effort,
    ) -> Result<Self> {
        let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
        let sorting =
            sorted_by.iter().map(|&column_idx| SortingColumn { column_idx, descending: false, nulls_first: false });
        let mut properties = base_properties(3).set_sorting_columns(Some(sorting.collect())).build();
        parquet::arrow::add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let writer = SerializedFileWriter::new(BufWriter::new(file.try_clone()?), root.clone(), Arc::new(properties))?;
        let used = |coding: &Coding| codings.iter().any(|codings| codings.contains(coding));
        let maker = |coding| {
            // A column writer takes its properties from a file; this one is nobody's.
            let properties = Arc::new(properties_for(coding, effort.level(coding), &schema));
            let stencil = SerializedFileWriter::new(io::sink(), root.clone(), properties)?;
            Ok((coding, ArrowRowGroupWriterFactory::new(&stencil, schema.clone())))
        };
        let makers = Coding::ALL.into_iter().filter(used).map(maker).collect::<Result<Vec<_>>>()?;
        let codings = codings.iter().map(|codings| match effort {
            Effort::Quick => {
                codings.iter().copied().filter(|coding| [Coding::Empty, codings[0]].contains(coding)).collect()
            }
            Effort::Smallest | Effort::Hardest => codings.to_vec(),
        });
        Ok(Self {
            path: path.to_owned(),
            file,
            writer,
            codings: codings.collect(),
            schema,
            makers,
            group: Vec::new(),
            group_rows: 0,
            rows: 0,
            finished: false,
        })
    }

    /// Rows written so far.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of the row group that is being written.
    pub(crate) fn group_rows(&self) -> usize {
        self.group_rows
    }

    /// Memory that the row group takes which is being written.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group.iter().flatten().map(|(_, candidate)| candidate.memory_size()).sum()
    }

    /// Appends rows to the row group.
    pub(crate) fn write(&mut self, columns: &[ArrayRef]) -> std::result::Result<(), StoreError> {
        self.try_write(columns).map_err(|error| unwritable(&self.path, error))
    }

    fn try_write(&mut self, columns: &[ArrayRef]) -> Result<()> {
        if self.group.is_empty() {
            self.begin_group()?;
        }
        let rows = columns.first().map_or(0, |column| column.len());
        let schema = self.schema.clone();
        for ((field, column), candidates) in schema.fields().iter().zip(columns).zip(&mut self.group) {
            if column.null_count() < column.len() && candidates.len() > 1 {
                candidates.retain(|(coding, _)| *coding != Coding::Empty);
            }
            for leaf in compute_leaves(field, column)? {
                for (_, candidate) in candidates.iter_mut() {
                    candidate.write(&leaf)?;
                }
            }
            if self.group_rows < TRIAL_ROWS && self.group_rows + rows >= TRIAL_ROWS {
                drop_losers(candidates);
            }
        }
        self.group_rows += rows;
        self.rows += rows;
        Ok(())
    }

    fn begin_group(&mut self) -> Result<()> {
        let number = self.writer.flushed_row_groups().len();
        let mut made = Vec::with_capacity(self.makers.len());
        for (coding, maker) in &self.makers {
            let writers = maker.create_column_writers(number)?;
            made.push((*coding, writers.into_iter().map(Some).collect::<Vec<_>>()));
        }
        let mut take = |coding: &Coding, column: usize| {
            let (_, writers) = made.iter_mut().find(|(made, _)| made == coding)?;
            Some((*coding, writers.get_mut(column)?.take()?))
        };
        let columns = self.codings.iter().enumerate();
        self.group = columns
            .map(|(column, codings)| codings.iter().filter_map(|coding| take(coding, column)).collect())
            .collect();
        Ok(())
    }

    /// Ends the row group; the next rows begin another.
    pub(crate) fn end_group(&mut self) -> std::result::Result<(), StoreError> {
        self.try_end_group().map_err(|error| unwritable(&self.path, error))
    }

    fn try_end_group(&mut self) -> Result<()> {
        if self.group_rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for candidates in std::mem::take(&mut self.group) {
            smallest(candidates)?.append_to_row_group(&mut group)?;
        }
        group.close()?;
        self.group_rows = 0;
        Ok(())
    }

    /// Completes the file and makes it durable, its name too. Returns its size.
    pub(crate) fn finish(mut self, notes: Vec<(String, String)>) -> std::result::Result<u64, StoreError> {
        self.end_group()?;
        for (key, value) in notes {
            self.writer.append_key_value_metadata(KeyValue::new(key, value));
        }
        let finish = |this: &mut Self| -> Result<u64> {
            fault::at(&this.path)?;
            this.writer.finish()?;
            fault::at_sync(&this.path)?;
            this.file.sync_all()?;
            Ok(this.file.metadata()?.len())
        };
        let bytes = finish(&mut self).map_err(|error| unwritable(&self.path, error))?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        self.finished = true;
        Ok(bytes)
    }
}

impl Drop for ColumnFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fault::at(&self.path).and_then(|()| std::fs::remove_file(&self.path)); // the catalog does not name it: what stays goes at the next start
        }
    }
}

fn unwritable(path: &Path, error: impl std::fmt::Display) -> StoreError {
    StoreError::Segment { action: "written", path: path.to_owned(), message: error.to_string() }
}

fn drop_losers(candidates: &mut Vec<(Coding, ArrowColumnWriter)>) {
    if candidates.iter().any(|(coding, _)| *coding == Coding::Empty) {
        return; // it would win, and be of no use once there is a value
    }
    let bytes = |(_, candidate): &(Coding, ArrowColumnWriter)| candidate.get_estimated_total_bytes();
    let Some(smallest) = candidates.iter().map(bytes).min() else { return };
    candidates.retain(|candidate| bytes(candidate) as f64 <= smallest as f64 * LOST);
    let of_deltas = candidates.iter().filter(|(coding, _)| coding.is_delta());
    if let Some(best) = of_deltas.min_by_key(|candidate| bytes(candidate)).map(|(coding, _)| *coding) {
        candidates.retain(|(coding, _)| !coding.is_delta() || *coding == best);
    }
}

fn smallest(candidates: Vec<(Coding, ArrowColumnWriter)>) -> Result<ArrowColumnChunk> {
    let mut best: Option<ArrowColumnChunk> = None;
    for (_, candidate) in candidates {
        let chunk = candidate.close()?;
        if best.as_ref().is_none_or(|best| chunk.close().bytes_written < best.close().bytes_written) {
            best = Some(chunk);
        }
    }
    best.ok_or_else(|| ParquetError::General("a column without a coding".to_owned()))
}

fn base_properties(level: i32) -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(level).unwrap_or_default();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by(concat!("tidegate ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(None)
        // Of a page only its place is noted: with rows sorted by series every page spans all times.
        .set_statistics_enabled(EnabledStatistics::Chunk)
}

fn properties_for(coding: Coding, level: i32, schema: &Schema) -> WriterProperties {
    let properties = base_properties(level);
    match coding {
        Coding::Runs | Coding::Empty => return properties.set_data_page_row_count_limit(RUN_PAGE_ROWS).build(),
        Coding::Texts => {
            let properties = properties.set_data_page_row_count_limit(RUN_PAGE_ROWS);
            let properties = properties.set_dictionary_page_size_limit(TEXT_DICTIONARY_BYTES);
            return properties.set_statistics_enabled(EnabledStatistics::None).build();
        }
        Coding::Delta | Coding::DeltaHard | Coding::Times | Coding::Dictionary | Coding::SplitBytes => {}
    }
    let properties = if coding == Coding::Times {
        properties.set_data_page_row_count_limit(TIME_PAGE_ROWS).set_data_page_size_limit(TIME_PAGE_BYTES)
    } else {
        properties.set_data_page_row_count_limit(PAGE_ROWS)
    };
    let mut properties = properties.set_dictionary_page_size_limit(DICTIONARY_BYTES);
    for field in schema.fields() {
        let column = ColumnPath::from(field.name().as_str());
        // Only where the column's type has the encoding. For a dictionary it is what follows when that is full.
        let whole = field.data_type().is_integer() || field.data_type().is_temporal();
        let encoding = match coding {
            Coding::SplitBytes if field.data_type().is_numeric() => Encoding::BYTE_STREAM_SPLIT,
            Coding::Delta | Coding::DeltaHard | Coding::Times | Coding::Dictionary if whole => {
                Encoding::DELTA_BINARY_PACKED
            }
            _ => continue,
        };
        properties = properties.set_column_encoding(column.clone(), encoding);
        properties = properties.set_column_dictionary_enabled(column, coding == Coding::Dictionary);
    }
    properties.build()
}
