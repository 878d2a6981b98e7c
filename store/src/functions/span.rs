//! Lengths of time as arguments: an INTERVAL or a number of seconds.

use datafusion::common::{Result, ScalarValue, plan_err};

/// The length in ms, more than 0. `what` says in errors whose it is.
pub(super) fn span_ms(value: &ScalarValue, what: &str) -> Result<i64> {
    const DAY_MS: i64 = 86_400_000;
    let ms = match value {
        ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 => {
            i64::from(span.days) * DAY_MS + span.nanoseconds / 1_000_000
        }
        ScalarValue::IntervalDayTime(Some(span)) => i64::from(span.days) * DAY_MS + i64::from(span.milliseconds),
        ScalarValue::IntervalMonthDayNano(Some(_)) | ScalarValue::IntervalYearMonth(Some(_)) => {
            return plan_err!("a month has no fixed length: give {what} in days or less");
        }
        ScalarValue::Int64(Some(seconds)) => seconds.saturating_mul(1000),
        ScalarValue::UInt64(Some(seconds)) => i64::try_from(*seconds).unwrap_or(i64::MAX).saturating_mul(1000),
        ScalarValue::Float64(Some(seconds)) => (seconds * 1000.0).round() as i64,
        _ => return plan_err!("{what} is an INTERVAL or a number of seconds, not {value}"),
    };
    if ms <= 0 {
        return plan_err!("{what} must be longer than nothing");
    }
    Ok(ms)
}
