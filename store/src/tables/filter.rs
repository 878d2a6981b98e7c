//! Which filters a scan takes over, exactly: ranges of the time column, and anything that looks at labels alone.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{Between, Cast};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Name of the time column of every table that has one.
pub(crate) const TIME: &str = "time";

/// An inclusive range of ms UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl TimeRange {
    pub(crate) const ALL: TimeRange = TimeRange { from: i64::MIN, to: i64::MAX };
    const NONE: TimeRange = TimeRange { from: i64::MAX, to: i64::MIN };

    pub(crate) fn intersect(self, other: TimeRange) -> TimeRange {
        TimeRange { from: self.from.max(other.from), to: self.to.min(other.to) }
    }

    fn at_least(from: Option<i64>) -> TimeRange {
        from.map_or(TimeRange::NONE, |from| TimeRange { from, to: i64::MAX })
    }

    fn at_most(to: Option<i64>) -> TimeRange {
        to.map_or(TimeRange::NONE, |to| TimeRange { from: i64::MIN, to })
    }
}

/// The range of the time column that `filter` lets through, if that is all it does.
pub(crate) fn time_range(filter: &Expr) -> Option<TimeRange> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Some(time_range(left)?.intersect(time_range(right)?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if is_time(left) {
                compared(*op, instant(right)?)
            } else if is_time(right) {
                compared(op.swap()?, instant(left)?)
            } else {
                None
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_time(expr) => {
            Some(compared(Operator::GtEq, instant(low)?)?.intersect(compared(Operator::LtEq, instant(high)?)?))
        }
        _ => None,
    }
}

/// The time column, also where comparing it with a finer unit put a cast around it: no instant changes by that. By a second
/// cast it may: from a type without a zone to one with a zone shifts it.
fn is_time(expr: &Expr) -> bool {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(Column { name, .. }) if name == TIME);
    match expr {
        Expr::Cast(Cast { expr, field }) => {
            matches!(field.data_type(), DataType::Timestamp(unit, _) if *unit != TimeUnit::Second) && is_column(expr)
        }
        expr => is_column(expr),
    }
}

/// A literal instant in ms, rounded down and up where its unit is finer.
#[derive(Clone, Copy)]
struct Instant {
    floor: i64,
    ceil: i64,
}

fn instant(expr: &Expr) -> Option<Instant> {
    let Expr::Literal(value, _) = expr else { return None };
    let finer = |value: i64, per_ms: i64| {
        let floor = value.div_euclid(per_ms);
        Instant { floor, ceil: if value.rem_euclid(per_ms) == 0 { floor } else { floor + 1 } }
    };
    match value {
        ScalarValue::TimestampSecond(Some(seconds), _) => Some(finer(seconds.checked_mul(1000)?, 1)),
        ScalarValue::TimestampMillisecond(Some(ms), _) => Some(finer(*ms, 1)),
        ScalarValue::TimestampMicrosecond(Some(us), _) => Some(finer(*us, 1_000)),
        ScalarValue::TimestampNanosecond(Some(ns), _) => Some(finer(*ns, 1_000_000)),
        _ => None,
    }
}

/// The instants that stand in relation `op` to `instant`.
fn compared(op: Operator, instant: Instant) -> Option<TimeRange> {
    match op {
        Operator::Gt => Some(TimeRange::at_least(instant.floor.checked_add(1))),
        Operator::GtEq => Some(TimeRange::at_least(Some(instant.ceil))),
        Operator::Lt => Some(TimeRange::at_most(instant.ceil.checked_sub(1))),
        Operator::LtEq => Some(TimeRange::at_most(Some(instant.floor))),
        Operator::Eq if instant.floor == instant.ceil => Some(TimeRange { from: instant.floor, to: instant.floor }),
        Operator::Eq => Some(TimeRange::NONE),
        _ => None,
    }
}

/// Whether `filter` looks at columns of `labels` alone and says the same for the same labels.
pub(crate) fn is_label_filter(filter: &Expr, labels: &[&str]) -> bool {
    let columns = filter.column_refs();
    if columns.is_empty()
        || !columns.iter().all(|column| labels.contains(&column.name.as_str()))
        || filter.is_volatile()
    {
        return false;
    }
    let mut plain = true;
    let visited = filter.apply(|expr| {
        let needs_more = matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
        );
        plain &= !needs_more;
        Ok(if needs_more { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    plain && visited.is_ok()
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    fn ms(value: i64) -> Expr {
        lit(ScalarValue::TimestampMillisecond(Some(value), None))
    }

    fn ns(value: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(Some(value), None))
    }

    fn range(from: i64, to: i64) -> Option<TimeRange> {
        Some(TimeRange { from, to })
    }

    #[test]
    fn comparisons_become_inclusive_ranges() {
        assert_eq!(time_range(&col("time").gt(ms(5))), range(6, i64::MAX));
        assert_eq!(time_range(&ms(5).gt_eq(col("time"))), range(i64::MIN, 5));
        assert_eq!(time_range(&col("time").gt_eq(ms(2)).and(col("time").lt(ms(9)))), range(2, 8));
        assert_eq!(time_range(&col("time").between(ms(2), ms(9))), range(2, 9));
        assert_eq!(time_range(&col("time").eq(ms(2))), range(2, 2));
        assert_eq!(time_range(&col("value").eq(ms(2))), None);
        assert_eq!(time_range(&col("time").not_eq(ms(2))), None);
        assert_eq!(time_range(&col("time").gt(ms(1)).or(col("time").lt(ms(0)))), None);
    }

    #[test]
    fn one_cast_keeps_the_instant_and_two_may_not() {
        let plain = cast(col("time"), DataType::Timestamp(TimeUnit::Nanosecond, None));
        assert_eq!(time_range(&plain.clone().gt(ns(5_000_000))), range(6, i64::MAX));
        let shifted = cast(plain, DataType::Timestamp(TimeUnit::Nanosecond, Some("+02:00".into())));
        assert_eq!(time_range(&shifted.gt(ns(5_000_000))), None);
    }

    #[test]
    fn instants_between_two_milliseconds_round_to_the_right_side() {
        assert_eq!(time_range(&col("time").gt(ns(1_500_000))), range(2, i64::MAX));
        assert_eq!(time_range(&col("time").gt_eq(ns(1_500_000))), range(2, i64::MAX));
        assert_eq!(time_range(&col("time").lt(ns(1_500_000))), range(i64::MIN, 1));
        assert_eq!(time_range(&col("time").lt_eq(ns(-1_500_000))), range(i64::MIN, -2));
        let nothing = time_range(&col("time").eq(ns(1_500_000))).unwrap();
        assert!(nothing.from > nothing.to);
    }

    #[test]
    fn a_filter_on_labels_alone_is_taken_over() {
        let labels = ["host", "container"];
        assert!(is_label_filter(&col("host").eq(lit("a")).or(col("container").like(lit("b%"))), &labels));
        assert!(!is_label_filter(&col("host").eq(col("value")), &labels));
        assert!(!is_label_filter(&lit(true), &labels));
    }
}
