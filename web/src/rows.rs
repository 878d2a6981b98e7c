//! Reading the answer of one of this crate's own queries, column by column.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use tidegate_store::QueryResult;

use crate::error::ApiError;

/// All rows of an answer.
pub(crate) struct Rows(RecordBatch);

impl Rows {
    pub(crate) fn new(result: &QueryResult) -> Result<Self, ApiError> {
        concat_batches(&result.schema, &result.batches).map(Self).map_err(unreadable)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// A column as text, whichever of Arrow's text types it has.
    pub(crate) fn texts(&self, column: &str) -> Result<StringArray, ApiError> {
        Ok(self.cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    /// A column as numbers.
    pub(crate) fn numbers(&self, column: &str) -> Result<Float64Array, ApiError> {
        Ok(self.cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
    }

    /// A column as whole numbers.
    pub(crate) fn integers(&self, column: &str) -> Result<Int64Array, ApiError> {
        Ok(self.cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    }

    /// A column of times, in ms UTC.
    pub(crate) fn times(&self, column: &str) -> Result<Int64Array, ApiError> {
        let millis = self.cast(column, &DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())))?;
        let millis = cast(&millis, &DataType::Int64).map_err(unreadable)?;
        Ok(millis.as_primitive::<Int64Type>().clone())
    }

    fn cast(&self, column: &str, to: &DataType) -> Result<ArrayRef, ApiError> {
        let Some(array) = self.0.column_by_name(column) else {
            return Err(ApiError::internal("reading an answer of the store", format!("there is no column '{column}'")));
        };
        cast(array, to).map_err(unreadable)
    }
}

/// The text of a row; `None` when it is null.
pub(crate) fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// The number of a row; `None` when it is null or no number that JSON knows.
pub(crate) fn number(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row)).filter(|value| value.is_finite())
}

/// The whole number of a row; `None` when it is null.
pub(crate) fn integer(column: &Int64Array, row: usize) -> Option<i64> {
    column.is_valid(row).then(|| column.value(row))
}

fn unreadable(error: ArrowError) -> ApiError {
    ApiError::internal("reading an answer of the store", error)
}
