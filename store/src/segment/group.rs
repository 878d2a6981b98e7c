//! How row groups are stored: which columns have what, as far as their statistics tell.

use std::ops::Range;

use arrow::array::{Array, AsArray, Float64Array, Int8Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int64Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

use super::scaled;

/// The column that says at which scale integers are.
const SCALE: &str = "scale";

/// One row group.
#[derive(Debug)]
pub(super) struct Group {
    /// Its rows within the file.
    pub(super) rows: Range<usize>,
    pub(super) columns: Vec<Stored>,
    /// `10^scale`, when all rows with integers have the same.
    pub(super) power: Option<f64>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    /// How many nulls there are, if that is known.
    pub(super) nulls: Option<u64>,
}

impl Group {
    pub(super) fn all(metadata: &ParquetMetaData) -> Vec<Self> {
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
    pub(super) fn stored(&self, name: &str) -> (bool, bool) {
        let stored = |name: &str| {
            let column = self.columns.iter().find(|column| column.name == name);
            column.is_some_and(|column| column.nulls.is_none_or(|nulls| nulls < self.rows.len() as u64))
        };
        (stored(name), stored(scaled_name(name)))
    }

    /// The columns that have to be read for these numbers.
    pub(super) fn wanted<'a>(&self, numbers: &[&'a str]) -> Vec<&'a str> {
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
    pub(super) fn numbers(&self, batch: &RecordBatch, name: &str) -> Vec<f64> {
        let doubles = batch.column_by_name(name).map(|column| column.as_primitive::<Float64Type>());
        let integers = batch.column_by_name(scaled_name(name)).map(|column| column.as_primitive::<Int64Type>());
        let scales = batch.column_by_name(SCALE).map(|column| column.as_primitive::<Int8Type>());
        (0..batch.num_rows()).map(|row| mixed(doubles, integers, scales, self.power, row)).collect()
    }
}

/// The column that holds a column's numbers as integers.
pub(super) fn scaled_name(name: &str) -> &'static str {
    match name {
        "min" => "min_scaled",
        "max" => "max_scaled",
        "sum" => "sum_scaled",
        "last" => "last_scaled",
        _ => "scaled",
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
