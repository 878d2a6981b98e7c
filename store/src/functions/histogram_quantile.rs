//! `histogram_quantile`: a quantile out of cumulative buckets, by Prometheus' rules.
//!
//! <https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile>: values lie evenly within a bucket;
//! the lowest bucket begins at 0 when its upper bound is positive, and is answered with its upper bound otherwise; in the
//! highest bucket, which has no upper bound, the answer is the bound below it. What is NaN there is null here, and a
//! quantile outside of 0 to 1 is refused instead of answered with an infinity.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, LargeBinaryBuilder};
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use super::aggregate::{constant, numbers, state_field, states};

/// Name of the function.
pub(crate) const HISTOGRAM_QUANTILE: &str = "histogram_quantile";

#[derive(Debug, PartialEq, Eq, Hash)]
struct HistogramQuantile {
    signature: Signature,
}

/// The function.
pub(crate) fn histogram_quantile() -> AggregateUDF {
    AggregateUDF::new_from_impl(HistogramQuantile { signature: Signature::user_defined(Volatility::Immutable) })
}

fn quantile_of(args: &AccumulatorArgs) -> Result<f64> {
    let [quantile, ..] = args.exprs else { return plan_err!("histogram_quantile() takes (quantile, le, count)") };
    match constant(quantile, args)? {
        Some(ScalarValue::Float64(Some(quantile))) if (0.0..=1.0).contains(&quantile) => Ok(quantile),
        _ => plan_err!("the quantile of histogram_quantile() is a constant from 0 to 1"),
    }
}

impl AggregateUDFImpl for HistogramQuantile {
    fn name(&self) -> &str {
        HISTOGRAM_QUANTILE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [_, le, _] = given else { return plan_err!("histogram_quantile() takes (quantile, le, count)") };
        // Pushed buckets have their bound as a tag, which is a text.
        let le = if le.is_numeric() { DataType::Float64 } else { DataType::Utf8View };
        Ok(vec![DataType::Float64, le, DataType::Float64])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(state_field(args.name))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(One { quantile: quantile_of(&args)?, buckets: Buckets::default() }))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups { quantile: quantile_of(&args)?, groups: Vec::new() }))
    }
}

/// A value that orders like a number; bounds are never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Cumulative counts by upper bound; those of equal bounds are added up.
#[derive(Clone, Debug, Default)]
struct Buckets(BTreeMap<Bound, f64>);

impl Buckets {
    fn push(&mut self, le: f64, count: f64) {
        if !le.is_nan() && !count.is_nan() {
            *self.0.entry(Bound(le)).or_insert(0.0) += count;
        }
    }

    fn quantile(&self, quantile: f64) -> Option<f64> {
        if *self.0.last_key_value()?.0 != Bound(f64::INFINITY) || self.0.len() < 2 {
            return None;
        }
        // Buckets are scraped one after the other, so a lower one may be ahead of a higher one by a little.
        let mut reached = 0.0_f64;
        let buckets: Vec<(f64, f64)> = self
            .0
            .iter()
            .map(|(bound, count)| {
                reached = reached.max(*count);
                (bound.0, reached)
            })
            .collect();
        if reached <= 0.0 {
            return None;
        }
        let rank = quantile * reached;
        let highest = buckets.len() - 1;
        let at = buckets[..highest].partition_point(|(_, count)| *count < rank);
        if at == highest {
            return Some(buckets[highest - 1].0);
        }
        let (end, count) = buckets[at];
        if at == 0 && end <= 0.0 {
            return Some(end);
        }
        let (start, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
        // A bucket with nothing in it is only reached with rank 0.
        let share = if count > below { (rank - below) / (count - below) } else { 0.0 };
        Some(start + (end - start) * share)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for (bound, count) in &self.0 {
            bytes.extend(bound.0.to_le_bytes());
            bytes.extend(count.to_le_bytes());
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let mut numbers = numbers(bytes)?;
        while let Some(bound) = numbers.next() {
            self.push(f64::from_le_bytes(bound), f64::from_le_bytes(numbers.next()?));
        }
        Some(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + 2 * self.0.len() * size_of::<(Bound, f64)>()
    }
}

/// The bounds and counts of a batch. A bound that is no number is passed over, as in Prometheus.
fn rows(columns: &[ArrayRef]) -> Result<impl Iterator<Item = Option<(f64, f64)>>> {
    let [_, le, count] = columns else { return internal_err!("three columns are expected") };
    let bounds: Float64Array = match le.as_string_view_opt() {
        Some(texts) => texts.iter().map(|text| text.and_then(|text| text.trim().parse().ok())).collect(),
        None => le.as_primitive::<Float64Type>().clone(),
    };
    let counts = count.as_primitive::<Float64Type>().clone();
    let row = move |row: usize| {
        (bounds.is_valid(row) && counts.is_valid(row)).then(|| (bounds.value(row), counts.value(row)))
    };
    Ok((0..count.len()).map(row))
}

#[derive(Debug)]
struct One {
    quantile: f64,
    buckets: Buckets,
}

impl Accumulator for One {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        rows(columns)?.flatten().for_each(|(le, count)| self.buckets.push(le, count));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.buckets.quantile(self.quantile)))
    }

    fn size(&self) -> usize {
        self.buckets.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.buckets.write(&mut bytes);
        Ok(vec![ScalarValue::LargeBinary(Some(bytes))])
    }

    fn merge_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        states(columns, |_, bytes| self.buckets.merge(bytes))
    }
}

struct Groups {
    quantile: f64,
    groups: Vec<Buckets>,
}

impl Groups {
    fn grow(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize(groups, Buckets::default());
        }
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.grow(total);
        for (row, bucket) in rows(columns)?.enumerate() {
            let kept = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if let Some((le, count)) = bucket.filter(|_| kept) {
                self.groups[groups[row]].push(le, count);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = emit_to.take_needed(&mut self.groups);
        Ok(Arc::new(taken.iter().map(|buckets| buckets.quantile(self.quantile)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![written(&emit_to.take_needed(&mut self.groups))])
    }

    fn merge_batch(&mut self, columns: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        states(columns, |row, bytes| self.groups[groups[row]].merge(bytes))
    }

    fn convert_to_state(&self, columns: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let one = |(row, bucket): (usize, Option<(f64, f64)>)| {
            let mut buckets = Buckets::default();
            let kept = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if let Some((le, count)) = bucket.filter(|_| kept) {
                buckets.push(le, count);
            }
            buckets
        };
        Ok(vec![written(&rows(columns)?.enumerate().map(one).collect::<Vec<_>>())])
    }

    fn size(&self) -> usize {
        self.groups.iter().map(Buckets::size).sum()
    }
}

fn written(groups: &[Buckets]) -> ArrayRef {
    let mut column = LargeBinaryBuilder::new();
    let mut bytes = Vec::new();
    for buckets in groups {
        bytes.clear();
        buckets.write(&mut bytes);
        column.append_value(&bytes);
    }
    Arc::new(column.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(q: f64, buckets: &[(f64, f64)]) -> Option<f64> {
        let mut all = Buckets::default();
        buckets.iter().for_each(|(le, count)| all.push(*le, *count));
        all.quantile(q)
    }

    #[test]
    fn values_lie_evenly_in_their_bucket() {
        let buckets = [(1.0, 10.0), (2.0, 30.0), (f64::INFINITY, 40.0)];
        assert_eq!(quantile(0.5, &buckets), Some(1.5));
        assert_eq!(quantile(0.125, &buckets), Some(0.5));
        assert_eq!(quantile(0.0, &buckets), Some(0.0));
        assert_eq!(quantile(0.9, &buckets), Some(2.0), "the bound below the last one, which has none");
        assert_eq!(quantile(1.0, &buckets), Some(2.0));
    }

    #[test]
    fn what_is_not_defined_is_nothing() {
        assert_eq!(quantile(0.5, &[]), None);
        assert_eq!(quantile(0.5, &[(1.0, 3.0), (2.0, 4.0)]), None, "no +Inf");
        assert_eq!(quantile(0.5, &[(f64::INFINITY, 4.0)]), None);
        assert_eq!(quantile(0.5, &[(1.0, 0.0), (f64::INFINITY, 0.0)]), None);
        assert_eq!(quantile(0.1, &[(-1.0, 5.0), (f64::INFINITY, 5.0)]), Some(-1.0));
    }

    #[test]
    fn counts_that_fall_back_are_held_up() {
        assert_eq!(quantile(0.5, &[(1.0, 10.0), (2.0, 9.0), (3.0, 20.0), (f64::INFINITY, 20.0)]), Some(1.0));
    }
}
