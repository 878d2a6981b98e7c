//! `now()`: the instant that a query is asked for, not the one at which it happens to run.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidegate_model::TimeMs;

use crate::query::run::{instant, now_placeholder};
use crate::tables::time_type;

/// Replaces the built-in `now()` and `current_timestamp`, which read the wall clock and whose nanoseconds would put a
/// cast around every time column they are compared with.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    at: Option<TimeMs>,
    signature: Signature,
    aliases: Vec<String>,
}

/// The function for plans as of `at`; `None` for plans that are told the instant each time they run.
pub(crate) fn now(at: Option<TimeMs>) -> ScalarUDF {
    let signature = Signature::nullary(Volatility::Stable);
    ScalarUDF::new_from_impl(Now { at, signature, aliases: vec!["current_timestamp".to_owned()] })
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
        match self.at {
            Some(at) => Ok(ColumnarValue::Scalar(instant(at))),
            // Such a plan is made anew with the instant in it.
            None => internal_err!("now() is asked for while its query is planned"),
        }
    }

    /// A literal lets the optimizer fold `now() - INTERVAL '1 minute'`, a placeholder keeps it from folding. Either way the
    /// time range reaches the scan.
    fn simplify(&self, _: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(match self.at {
            Some(at) => Expr::Literal(instant(at), None),
            None => now_placeholder(),
        }))
    }
}
