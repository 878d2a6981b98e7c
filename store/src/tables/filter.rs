//! Which filters a scan takes over, exactly: ranges of the time column, and anything that looks at labels alone.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{Between, Cast};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

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

/// A comparison of the time column with an instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) op: Operator,
    pub(crate) instant: &'a Expr,
}

impl<'a> Comparison<'a> {
    fn new(op: Operator, instant: &'a Expr) -> Option<Self> {
        use Operator::{Eq, Gt, GtEq, Lt, LtEq};
        (matches!(op, Gt | GtEq | Lt | LtEq | Eq) && is_instant(instant)).then_some(Self { op, instant })
    }

    /// The range that it lets through, if that is the same in every run.
    pub(crate) fn constant(&self) -> Option<TimeRange> {
        match self.instant {
            Expr::Literal(value, _) => Some(range(self.op, value)),
            _ => None,
        }
    }
}

/// The comparisons of the time column that `filter` is the conjunction of, if that is all it is.
pub(crate) fn time_comparisons(filter: &Expr) -> Option<Vec<Comparison<'_>>> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let mut all = time_comparisons(left)?;
            all.extend(time_comparisons(right)?);
            Some(all)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if is_time(left) {
                Some(vec![Comparison::new(*op, right)?])
            } else if is_time(right) {
                Some(vec![Comparison::new(op.swap()?, left)?])
            } else {
                None
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_time(expr) => {
            Some(vec![Comparison::new(Operator::GtEq, low)?, Comparison::new(Operator::LtEq, high)?])
        }
        _ => None,
    }
}

/// The range that comparing the time column with `value` lets through; nothing where there is no value.
pub(crate) fn range(op: Operator, value: &ScalarValue) -> TimeRange {
    instant(value).and_then(|instant| compared(op, instant)).unwrap_or(TimeRange::NONE)
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

/// Whether `expr` is an instant that is known before anything is read: a literal, or what `now()` and parameters give.
fn is_instant(expr: &Expr) -> bool {
    if let Expr::Literal(value, _) = expr {
        return instant(value).is_some();
    }
    let is_time = |of: DataType| matches!(of, DataType::Timestamp(..));
    expr.column_refs().is_empty() && is_plain(expr) && expr.get_type(&DFSchema::empty()).is_ok_and(is_time)
}

fn instant(value: &ScalarValue) -> Option<Instant> {
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
    !columns.is_empty() && columns.iter().all(|column| labels.contains(&column.name.as_str())) && is_plain(filter)
}

/// Whether `expr` can be evaluated with its columns alone, and gives the same each time in one run.
fn is_plain(expr: &Expr) -> bool {
    if expr.is_volatile() {
        return false;
    }
    let mut plain = true;
    let visited = expr.apply(|expr| {
        let needs_more = matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
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
    use crate::query::run::now_placeholder;

    fn ms(value: i64) -> Expr {
        lit(ScalarValue::TimestampMillisecond(Some(value), None))
    }

    fn ns(value: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(Some(value), None))
    }

    fn range(from: i64, to: i64) -> Option<TimeRange> {
        Some(TimeRange { from, to })
    }

    fn time_range(filter: &Expr) -> Option<TimeRange> {
        let ranges = time_comparisons(filter)?.into_iter().map(|comparison| comparison.constant());
        ranges.collect::<Option<Vec<_>>>()?.into_iter().reduce(TimeRange::intersect)
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
    fn a_moving_instant_is_a_comparison_without_a_constant_range() {
        let minute = lit(ScalarValue::new_interval_dt(0, 60_000));
        let filter = col("time").gt(now_placeholder() - minute).and(col("time").lt_eq(now_placeholder()));
        let found = time_comparisons(&filter).unwrap();
        assert_eq!(found.iter().map(|found| found.op).collect::<Vec<_>>(), [Operator::Gt, Operator::LtEq]);
        assert!(found.iter().all(|found| found.constant().is_none()));
        assert!(time_comparisons(&col("time").gt(col("other"))).is_none());
        assert!(time_comparisons(&col("time").not_eq(now_placeholder())).is_none());
    }

    #[test]
    fn a_filter_on_labels_alone_is_taken_over() {
        let labels = ["host", "container"];
        assert!(is_label_filter(&col("host").eq(lit("a")).or(col("container").like(lit("b%"))), &labels));
        assert!(!is_label_filter(&col("host").eq(col("value")), &labels));
        assert!(!is_label_filter(&lit(true), &labels));
    }
}
