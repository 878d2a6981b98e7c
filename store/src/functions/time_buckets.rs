//! `time_buckets(step, from, to)`: the times that `date_bin(step, time)` can give, whether something was measured or not.

use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMillisecondArray};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;

use super::made::Made;
use super::span::span_ms;
use crate::tables::{Column, Kind, UTC, schema_of, time_type};

/// Buckets of one call.
const MAX_BUCKETS: i64 = 1_000_000;

/// The columns of `time_buckets(..)`.
pub(crate) fn time_buckets_columns() -> Vec<Column> {
    vec![Column::new("time", Kind::Time, "where a bucket begins")]
}

/// The table function.
#[derive(Debug)]
pub(crate) struct TimeBuckets;

impl TableFunctionImpl for TimeBuckets {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(step, _), Expr::Literal(from, _), Expr::Literal(to, _)] = args.exprs() else {
            return plan_err!(
                "time_buckets() takes constants: time_buckets(INTERVAL '1 minute', now() - INTERVAL '1 hour', now())"
            );
        };
        let step = span_ms(step, "the step of time_buckets()")?;
        let (first, last) = (instant(from)?.div_euclid(step), instant(to)?.div_euclid(step));
        let count = last.saturating_sub(first).saturating_add(1).max(0);
        if count > MAX_BUCKETS {
            return plan_err!("time_buckets() would make {count} buckets, at most {MAX_BUCKETS} are possible");
        }
        let schema = schema_of(&time_buckets_columns());
        let made = Arc::clone(&schema);
        let make = Arc::new(move |making: &super::made::Making| {
            making.memory.try_grow(count as usize * size_of::<i64>())?;
            let times = TimestampMillisecondArray::from_iter_values((first..first + count).map(|at| at * step));
            Ok(RecordBatch::try_new(Arc::clone(&made), vec![Arc::new(times.with_timezone(UTC))])?)
        });
        Ok(Arc::new(Made {
            operator: "TimeBucketsExec",
            name: format!("step={step} ms, buckets={count}"),
            schema,
            make,
        }))
    }
}

/// In ms UTC.
fn instant(value: &ScalarValue) -> Result<i64> {
    match value.cast_to(&time_type()) {
        Ok(ScalarValue::TimestampMillisecond(Some(ms), _)) => Ok(ms),
        _ => plan_err!("time_buckets() goes from one timestamp to another, not {value}"),
    }
}
