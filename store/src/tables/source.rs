//! Where the rows of a table come from: the shape that all time-stamped tables share.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewBuilder, UInt32Array};
use arrow::datatypes::SchemaRef;

use crate::error::StoreError;
use crate::store::Store;

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
    /// The parts that are read one by one; their union is the table's rows at or after `from`.
    fn parts(&self, store: &Store, from: i64) -> Vec<Part>;
}

/// Reads the rows of a part with `from <= time <= to`.
pub(crate) type Read = Box<dyn Fn(&Store, i64, i64) -> Result<Vec<Block>, StoreError> + Send>;

/// Some series that are read together.
pub(crate) struct Part {
    /// One array a label column; the blocks' `label` points into them.
    pub(crate) labels: Vec<ArrayRef>,
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

/// Distinct label tuples, numbered in the order in which they were first seen.
#[derive(Debug)]
pub(crate) struct Labels {
    width: usize,
    index: HashMap<Vec<Option<String>>, u32>,
    rows: Vec<Vec<Option<String>>>,
}

impl Labels {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, index: HashMap::new(), rows: Vec::new() }
    }

    /// The number of `tuple`.
    pub(crate) fn intern(&mut self, tuple: Vec<Option<String>>) -> u32 {
        debug_assert_eq!(tuple.len(), self.width);
        // Series are counted in u32 by the store, and each has one tuple here.
        let next = self.rows.len() as u32;
        *self.index.entry(tuple).or_insert_with_key(|tuple| {
            self.rows.push(tuple.clone());
            next
        })
    }

    /// One array a column.
    pub(crate) fn columns(&self) -> Vec<ArrayRef> {
        let column = |at: usize| {
            let mut values = StringViewBuilder::with_capacity(self.rows.len());
            for row in &self.rows {
                values.append_option(row[at].as_deref());
            }
            Arc::new(values.finish()) as ArrayRef
        };
        (0..self.width).map(column).collect()
    }
}

/// Translates the series of a chunk, which come in runs, into label numbers. Rows of series that `known` does not have
/// (they appeared after the query began) are cut out.
pub(crate) fn label_rows(series: &UInt32Array, known: &HashMap<u32, u32>) -> LabelRows {
    let ids = series.values();
    let mut labels = Vec::with_capacity(ids.len());
    let mut kept = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let run = ids[start..].partition_point(|id| *id == ids[start]);
        if let Some(label) = known.get(&ids[start]) {
            labels.extend(std::iter::repeat_n(*label, run));
            kept.push(start..start + run);
        }
        start += run;
    }
    LabelRows { all: labels.len() == ids.len(), labels, kept }
}

/// See [`label_rows`].
pub(crate) struct LabelRows {
    /// Label numbers of the rows that are kept.
    pub(crate) labels: Vec<u32>,
    /// Whether every row is kept.
    pub(crate) all: bool,
    /// Which rows are kept.
    pub(crate) kept: Vec<std::ops::Range<usize>>,
}

impl LabelRows {
    /// The kept ones of `values`.
    pub(crate) fn keep<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.kept.iter().flat_map(|run| values[run.clone()].iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_become_labels_and_unknown_series_are_cut_out() {
        let series = UInt32Array::from(vec![4, 4, 7, 9, 9]);
        let rows = label_rows(&series, &HashMap::from([(4, 0), (9, 1)]));
        assert_eq!(rows.labels, [0, 0, 1, 1]);
        assert!(!rows.all);
        assert_eq!(rows.keep(&[10, 11, 12, 13, 14]), [10, 11, 13, 14]);
    }

    #[test]
    fn equal_tuples_have_one_number() {
        let mut labels = Labels::new(2);
        let tuple = |a: &str| vec![Some(a.to_owned()), None];
        assert_eq!([labels.intern(tuple("a")), labels.intern(tuple("b")), labels.intern(tuple("a"))], [0, 1, 0]);
        assert_eq!(labels.columns()[0].len(), 2);
    }
}
