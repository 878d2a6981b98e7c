//! Where the rows of a table come from: the shape that all time-stamped tables share.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, UInt32Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::choice::{Choice, LabelFilter};
use super::labels::LabelTable;
use super::rank::Rank;
use super::usage::sums;
use crate::error::StoreError;
use crate::query::run::Run;
use crate::scan::Wanted;
use crate::store::Store;

/// Series that there may be where they are not counted.
const MANY: usize = 1_000_000;

/// A table of rows with a time: the columns are the time, then the labels, then the values.
///
/// Labels are texts that are the same for all rows of a series (host, container, tags). A filter on labels alone is
/// decided once a series, before anything is read.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// The table's name as it stands in `EXPLAIN`.
    fn name(&self) -> String;
    /// `time`, labels, values.
    fn schema(&self) -> SchemaRef;
    /// How many of the columns after the time are labels.
    fn label_count(&self) -> usize;
    /// The parts that are read one by one; their union is the table's rows. Parts in which `filter` can let nothing through
    /// may be left out.
    fn parts(&self, store: &Store, filter: &LabelFilter) -> Vec<Part>;
    /// As [`Source::parts`], for one run of a query.
    fn parts_for(&self, run: &Run, filter: &LabelFilter) -> Vec<Part> {
        self.parts(&run.store, filter)
    }
    /// Whether every row has a value in its only value column, so that it can be aggregated without being shown.
    fn has_one_value(&self) -> bool {
        true
    }
}

/// How the rows of a part come out of the samples of its members.
pub(crate) enum Read {
    /// They are the samples of the only member.
    Samples,
    /// They are the sums over all series of a label at the same time, in the unit that a scale leads to.
    Sums(f64),
    /// Otherwise.
    Rows(ReadRows),
}

/// Reads the rows with `from <= time <= to`.
pub(crate) type ReadRows = Box<dyn Fn(&Store, &Selected, i64, i64) -> Result<Vec<Block>, StoreError> + Send + Sync>;

impl Read {
    /// The rows of what is selected with `from <= time <= to`. Reads files.
    pub(crate) fn rows(&self, store: &Store, of: &Selected, from: i64, to: i64) -> Result<Vec<Block>, StoreError> {
        match self {
            Read::Samples => of.samples(store, 0, from, to),
            Read::Sums(scale) => sums(store, of, *scale, from, to),
            Read::Rows(read) => read(store, of, from, to),
        }
    }
}

/// Some series that are read together.
pub(crate) struct Part {
    pub(crate) labels: Arc<LabelTable>,
    pub(crate) read: Read,
}

/// Rows in columns.
pub(crate) struct Block {
    /// Per row, the position of its labels in [`Part::labels`].
    pub(crate) label: UInt32Array,
    /// In ms UTC.
    pub(crate) time: Int64Array,
    /// One array a value column.
    pub(crate) values: Vec<ArrayRef>,
}

/// A part and which of its series are wanted.
pub(crate) struct Selected {
    pub(crate) part: Part,
    pub(crate) choice: Choice,
    /// For each member of the part the ids that are wanted, sorted; `None` for all of them.
    series: Vec<Option<Vec<u32>>>,
}

impl Selected {
    /// The parts of `source` that have at least one wanted label.
    ///
    /// # Errors
    /// When the filter cannot be evaluated.
    pub(crate) fn of(source: &dyn Source, run: &Run, filter: &LabelFilter) -> Result<Vec<Selected>> {
        let mut selected = Vec::new();
        for part in source.parts_for(run, filter) {
            let choice = filter.choose(&part.labels)?;
            if choice.is_nothing() {
                continue;
            }
            selected.push(Selected::new(part, choice));
        }
        Ok(selected)
    }

    fn new(part: Part, choice: Choice) -> Self {
        let series = part.labels.members.iter().map(|members| match &choice {
            Choice::All => None,
            Choice::Some(labels) => Some(members.with_labels(labels)),
        });
        Self { series: series.collect(), part, choice }
    }

    /// All series of a part.
    pub(crate) fn all(part: Part) -> Self {
        Self::new(part, Choice::All)
    }

    /// The series of a part whose labels are among `labels` (sorted).
    pub(crate) fn only(part: Part, labels: Vec<u32>) -> Self {
        Self::new(part, Choice::Some(Arc::new(labels)))
    }

    /// How many series are wanted; of rows that no series has it is many.
    pub(crate) fn series_count(&self) -> usize {
        if self.part.labels.members.is_empty() {
            return MANY;
        }
        let members = self.part.labels.members.iter().zip(&self.series);
        members.map(|(members, series)| series.as_ref().map_or(members.ids.len(), Vec::len)).sum()
    }

    /// The rows with `from <= time <= to`. Reads files.
    pub(crate) fn read(&self, store: &Store, from: i64, to: i64) -> Result<Vec<Block>, StoreError> {
        self.part.read.rows(store, self, from, to)
    }

    /// The ids that are wanted of the member at `place`, sorted; `None` for all of them.
    pub(crate) fn series(&self, place: usize) -> Option<&[u32]> {
        self.series[place].as_deref()
    }

    /// The samples of the member at `place`.
    pub(crate) fn samples(&self, store: &Store, place: usize, from: i64, to: i64) -> Result<Vec<Block>, StoreError> {
        let members = &self.part.labels.members[place];
        let series = self.series[place].as_deref();
        let mut blocks = Vec::new();
        for chunk in store.scan(&Wanted { metric: &members.metric, series, from, to })? {
            let rows = label_rows(&chunk.series, &members.rank);
            let (time, values) = if rows.all {
                (chunk.times, chunk.values)
            } else {
                let (times, values) = (rows.keep(chunk.times.values()), rows.keep(chunk.values.values()));
                (Int64Array::from(times), Float64Array::from(values))
            };
            blocks.push(Block { label: UInt32Array::from(rows.labels), time, values: vec![Arc::new(values)] });
        }
        Ok(blocks)
    }
}

/// Translates the series of a chunk, which come in runs, into label numbers. Rows of series that have none (they appeared
/// after the query began) are cut out.
fn label_rows(series: &UInt32Array, rank: &Rank) -> LabelRows {
    let ids = series.values();
    let mut labels = Vec::with_capacity(ids.len());
    let mut kept = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let run = ids[start..].partition_point(|id| *id == ids[start]);
        if let Some(label) = rank.get(ids[start]) {
            labels.extend(std::iter::repeat_n(label, run));
            kept.push(start..start + run);
        }
        start += run;
    }
    LabelRows { all: labels.len() == ids.len(), labels, kept }
}

/// See [`label_rows`].
struct LabelRows {
    /// Label numbers of the rows that are kept.
    labels: Vec<u32>,
    /// Whether every row is kept.
    all: bool,
    /// Which rows are kept.
    kept: Vec<std::ops::Range<usize>>,
}

impl LabelRows {
    /// The kept ones of `values`.
    fn keep<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.kept.iter().flat_map(|run| values[run.clone()].iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_become_labels_and_unknown_series_are_cut_out() {
        let series = UInt32Array::from(vec![4, 4, 7, 9, 9]);
        let rows = label_rows(&series, &Rank::new(&[4, 9], &[0, 1]));
        assert_eq!(rows.labels, [0, 0, 1, 1]);
        assert!(!rows.all);
        assert_eq!(rows.keep(&[10, 11, 12, 13, 14]), [10, 11, 13, 14]);
    }
}
