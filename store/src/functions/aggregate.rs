//! What the aggregates over (value, time) have in common: `first`, `last`, `delta`, `increase`, `rate` and `ewma`.
//!
//! Scans give rows in slices, the newest first, so none of them may depend on the order of rows. Rows whose value or time is
//! null, or whose value is NaN, are no measurements and are passed over.

use std::fmt::Debug;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, LargeBinaryBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, IntervalUnit, TimestampMillisecondType};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;

use super::counter::Counter;
use super::ends::Ends;
use super::ewma::Ewma;
use super::points::Sliding;
use super::span::span_ms;
use crate::tables::time_type;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    First,
    Last,
    Delta,
    Increase,
    Rate,
    Ewma,
}

impl What {
    const ALL: [What; 6] = [What::First, What::Last, What::Delta, What::Increase, What::Rate, What::Ewma];

    fn name(self) -> &'static str {
        match self {
            What::First => "first",
            What::Last => "last",
            What::Delta => "delta",
            What::Increase => "increase",
            What::Rate => "rate",
            What::Ewma => "ewma",
        }
    }
}

/// The functions.
pub(crate) fn series_aggregates() -> Vec<AggregateUDF> {
    let function = |what| SeriesAggregate { what, signature: Signature::user_defined(Volatility::Immutable) };
    What::ALL.into_iter().map(|what| AggregateUDF::new_from_impl(function(what))).collect()
}

/// What is known of one group.
pub(super) trait Cell: Clone + Debug + Send + Sync + 'static {
    /// Adds a measurement at a time in ms. The value is never NaN.
    fn push(&mut self, time: i64, value: f64);
    /// What the group comes to; `None` where that is not defined.
    fn value(&mut self) -> Option<f64>;
    /// Writes the cell for [`Cell::merge`].
    fn write(&self, bytes: &mut Vec<u8>);
    /// Adds what another cell wrote; `None` when no cell wrote it.
    fn merge(&mut self, bytes: &[u8]) -> Option<()>;
    /// Bytes outside of the cell itself.
    fn heap(&self) -> usize {
        0
    }
}

/// The numbers of a cell that was written, eight bytes each.
pub(super) fn numbers(bytes: &[u8]) -> Option<impl Iterator<Item = [u8; 8]>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| numbers.iter().copied())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SeriesAggregate {
    what: What,
    signature: Signature,
}

impl AggregateUDFImpl for SeriesAggregate {
    fn name(&self) -> &str {
        self.what.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let (value, time, half_life) = match (self.what, given) {
            (What::Ewma, [value, time, half_life]) => (value, time, Some(half_life)),
            (What::Ewma, _) => return plan_err!("ewma() takes (value, time, half_life)"),
            (_, [value, time]) => (value, time, None),
            _ => return plan_err!("{name}() takes (value, time)"),
        };
        if !value.is_numeric() && !value.is_null() {
            return plan_err!("the value of {name}() is a number, not {value}");
        }
        if !time.is_temporal() && !time.is_null() {
            return plan_err!("the time of {name}() is a timestamp, not {time}");
        }
        let half_life = half_life.map(|given| match given {
            DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
            _ => DataType::Float64,
        });
        Ok([DataType::Float64, time_type()].into_iter().chain(half_life).collect())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(state_field(args.name))
    }

    /// Times are given as an argument, so an ORDER BY has nothing to add.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(match self.what {
            What::First | What::Last | What::Delta => Box::new(One(Ends::new(self.what))),
            What::Increase | What::Rate => Box::new(One(Counter::new(self.what))),
            What::Ewma => Box::new(One(Ewma::new(half_life_ms(&args)?))),
        })
    }

    fn create_sliding_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.what {
            // What left would have to be taken out of a sum that has decayed, which leaves no digits.
            What::Ewma => plan_err!("ewma() needs a frame that begins with the first row: OVER (ORDER BY time)"),
            what => Ok(Box::new(Sliding::new(what))),
        }
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match self.what {
            What::First | What::Last | What::Delta => Box::new(Groups::new(Ends::new(self.what))),
            What::Increase | What::Rate => Box::new(Groups::new(Counter::new(self.what))),
            What::Ewma => Box::new(Groups::new(Ewma::new(half_life_ms(&args)?))),
        })
    }
}

pub(super) fn state_field(name: &str) -> Vec<FieldRef> {
    vec![Arc::new(Field::new(format_state_name(name, "state"), DataType::LargeBinary, true))]
}

/// The value of an argument that has to be the same for all rows.
pub(super) fn constant(expr: &Arc<dyn PhysicalExpr>, args: &AccumulatorArgs) -> Result<Option<ScalarValue>> {
    let no_rows = RecordBatch::new_empty(Arc::new(args.schema.clone()));
    Ok(match expr.evaluate(&no_rows)? {
        ColumnarValue::Scalar(value) => Some(value),
        ColumnarValue::Array(_) => None,
    })
}

fn half_life_ms(args: &AccumulatorArgs) -> Result<f64> {
    let [_, _, half_life] = args.exprs else { return plan_err!("ewma() takes (value, time, half_life)") };
    match constant(half_life, args)? {
        Some(value) => Ok(span_ms(&value, "the half-life of ewma()")? as f64),
        None => plan_err!("the half-life of ewma() is a constant"),
    }
}

/// The columns of measurements, with what is no measurement left out.
struct Measurements<'a> {
    values: &'a Float64Array,
    times: &'a arrow::array::TimestampMillisecondArray,
}

impl<'a> Measurements<'a> {
    fn new(columns: &'a [ArrayRef]) -> Result<Self> {
        let [values, times, ..] = columns else { return internal_err!("two columns are expected") };
        let (Some(values), Some(times)) =
            (values.as_primitive_opt::<Float64Type>(), times.as_primitive_opt::<TimestampMillisecondType>())
        else {
            return internal_err!("the columns are not those that were asked for");
        };
        Ok(Self { values, times })
    }

    fn at(&self, row: usize) -> Option<(i64, f64)> {
        let known = self.values.is_valid(row) && self.times.is_valid(row) && !self.values.value(row).is_nan();
        known.then(|| (self.times.value(row), self.values.value(row)))
    }

    fn iter(&self) -> impl Iterator<Item = (i64, f64)> {
        (0..self.values.len()).filter_map(|row| self.at(row))
    }
}

/// The (time, value) pairs of `columns`, as [`Cell::push`] takes them.
pub(super) fn measurements(columns: &[ArrayRef], mut each: impl FnMut(i64, f64)) -> Result<()> {
    Measurements::new(columns)?.iter().for_each(|(time, value)| each(time, value));
    Ok(())
}

/// The states in a column that [`state_field`] describes.
pub(super) fn states(columns: &[ArrayRef], mut each: impl FnMut(usize, &[u8]) -> Option<()>) -> Result<()> {
    let states = columns.first().and_then(|column| column.as_binary_opt::<i64>());
    let Some(states) = states else { return internal_err!("the state of an aggregate is one column of bytes") };
    for row in 0..states.len() {
        if states.is_valid(row) && each(row, states.value(row)).is_none() {
            return internal_err!("the state of an aggregate does not read back");
        }
    }
    Ok(())
}

/// A single group.
#[derive(Debug)]
struct One<C: Cell>(C);

impl<C: Cell> Accumulator for One<C> {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        measurements(columns, |time, value| self.0.push(time, value))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.0.value()))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.heap()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.0.write(&mut bytes);
        Ok(vec![ScalarValue::LargeBinary(Some(bytes))])
    }

    fn merge_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        states(columns, |_, bytes| self.0.merge(bytes))
    }
}

/// All groups of a GROUP BY.
struct Groups<C: Cell> {
    empty: C,
    cells: Vec<C>,
    heap: usize,
}

impl<C: Cell> Groups<C> {
    fn new(empty: C) -> Self {
        Self { empty, cells: Vec::new(), heap: 0 }
    }

    fn grow(&mut self, groups: usize) {
        if self.cells.len() < groups {
            self.cells.resize(groups, self.empty.clone());
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<C> {
        let taken = emit_to.take_needed(&mut self.cells);
        self.heap = self.cells.iter().map(Cell::heap).sum();
        taken
    }
}

impl<C: Cell> GroupsAccumulator for Groups<C> {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.grow(total);
        let measured = Measurements::new(columns)?;
        for (row, group) in groups.iter().enumerate() {
            if filter.is_some_and(|filter| !kept(filter, row)) {
                continue;
            }
            if let Some((time, value)) = measured.at(row) {
                let cell = &mut self.cells[*group];
                let before = cell.heap();
                cell.push(time, value);
                self.heap += cell.heap() - before;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut taken = self.take(emit_to);
        Ok(Arc::new(taken.iter_mut().map(Cell::value).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        Ok(vec![written(taken.iter())])
    }

    fn merge_batch(&mut self, columns: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        states(columns, |row, bytes| self.cells[groups[row]].merge(bytes))?;
        self.heap = self.cells.iter().map(Cell::heap).sum();
        Ok(())
    }

    fn convert_to_state(&self, columns: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let measured = Measurements::new(columns)?;
        let cell = |row: usize| {
            let mut cell = self.empty.clone();
            if let Some((time, value)) = measured.at(row).filter(|_| filter.is_none_or(|filter| kept(filter, row))) {
                cell.push(time, value);
            }
            cell
        };
        let cells: Vec<C> = (0..measured.values.len()).map(cell).collect();
        Ok(vec![written(cells.iter())])
    }

    fn size(&self) -> usize {
        self.cells.capacity() * size_of::<C>() + self.heap
    }
}

fn kept(filter: &BooleanArray, row: usize) -> bool {
    filter.is_valid(row) && filter.value(row)
}

fn written<'a, C: Cell>(cells: impl Iterator<Item = &'a C>) -> ArrayRef {
    let mut column = LargeBinaryBuilder::new();
    let mut bytes = Vec::new();
    for cell in cells {
        bytes.clear();
        cell.write(&mut bytes);
        column.append_value(&bytes);
    }
    Arc::new(column.finish())
}
