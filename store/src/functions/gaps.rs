//! `locf` and `interpolate`: window functions that fill what is null between measurements.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, TimestampMillisecondType};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};

use crate::tables::time_type;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Gap {
    /// The last observation is carried forward.
    Carried,
    /// A straight line in time between the neighbours.
    Line,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Filled {
    gap: Gap,
    signature: Signature,
}

/// The functions.
pub(crate) fn gap_fillers() -> [WindowUDF; 2] {
    let any = Signature::any(1, Volatility::Immutable);
    let typed = Signature::user_defined(Volatility::Immutable);
    [(Gap::Carried, any), (Gap::Line, typed)]
        .map(|(gap, signature)| WindowUDF::new_from_impl(Filled { gap, signature }))
}

impl WindowUDFImpl for Filled {
    fn name(&self) -> &str {
        match self.gap {
            Gap::Carried => "locf",
            Gap::Line => "interpolate",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [value, time] if (value.is_numeric() || value.is_null()) && (time.is_temporal() || time.is_null()) => {
                Ok(vec![DataType::Float64, time_type()])
            }
            _ => plan_err!("interpolate() takes (value, time): a number and a timestamp"),
        }
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let data_type = args.get_input_field(0).map_or(DataType::Float64, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(args.name(), data_type, true)))
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(match self.gap {
            Gap::Carried => Box::new(Carried),
            Gap::Line => Box::new(Line),
        })
    }
}

#[derive(Debug)]
struct Carried;

impl PartitionEvaluator for Carried {
    fn evaluate_all(&mut self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let Some(values) = columns.first() else { return internal_err!("locf() takes a value") };
        let nulls = values.logical_nulls();
        let mut last = None;
        let from = (0..rows).map(|row| {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                last = Some(row as u64);
            }
            last
        });
        Ok(take(values, &from.collect::<UInt64Array>(), None)?)
    }
}

#[derive(Debug)]
struct Line;

impl PartitionEvaluator for Line {
    fn evaluate_all(&mut self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [values, times] = columns else { return internal_err!("interpolate() takes a value and a time") };
        let (values, times) = (values.as_primitive::<Float64Type>(), times.as_primitive::<TimestampMillisecondType>());
        let time = |row: usize| times.is_valid(row).then(|| times.value(row));
        let known = |row: usize| Some((time(row)?, values.is_valid(row).then(|| values.value(row))?));
        let mut filled = Vec::with_capacity(rows);
        let (mut before, mut after) = (None, 0);
        for row in 0..rows {
            if values.is_valid(row) {
                before = known(row).or(before);
                filled.push(Some(values.value(row)));
                continue;
            }
            // Only moves forward, so all gaps together are looked through once.
            after = after.max(row);
            while after < rows && known(after).is_none() {
                after += 1;
            }
            let next = if after < rows { known(after) } else { None };
            filled.push(time(row).zip(before).zip(next).map(|((time, before), next)| on_line(time, before, next)));
        }
        Ok(Arc::new(Float64Array::from(filled)))
    }
}

/// The value at `time` of the straight line through two measurements.
pub(super) fn on_line(time: i64, before: (i64, f64), after: (i64, f64)) -> f64 {
    if before.0 == after.0 {
        return before.1;
    }
    before.1 + (after.1 - before.1) * ((time - before.0) as f64 / (after.0 - before.0) as f64)
}
