//! `now()`: the instant that a query is asked for, not the one at which it happens to run.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidegate_model::TimeMs;

use crate::tables::{UTC, time_type};

/// Replaces the built-in `now()` and `current_timestamp`, which read the wall clock and whose nanoseconds would put a
/// cast around every time column they are compared with.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    at: TimeMs,
    signature: Signature,
    aliases: Vec<String>,
}

/// The function for queries as of `at`.
pub(crate) fn now(at: TimeMs) -> ScalarUDF {
    let signature = Signature::nullary(Volatility::Stable);
    ScalarUDF::new_from_impl(Now { at, signature, aliases: vec!["current_timestamp".to_owned()] })
}

impl Now {
    fn value(&self) -> ScalarValue {
        ScalarValue::TimestampMillisecond(Some(self.at.0), Some(Arc::from(UTC)))
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        debug_assert!(matches!(time_type(), DataType::Timestamp(TimeUnit::Millisecond, Some(_))));
        Ok(time_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value()))
    }

    /// A literal lets the optimizer fold `now() - INTERVAL '1 minute'` and push the time range into the scan.
    fn simplify(&self, _: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(self.value(), None)))
    }
}
