//! Text functions whose result can be their arguments' lengths multiplied, held to a size before they are called.
//!
//! `replace(replace(replace('a', 'a', ..), 'a', ..), 'a', ..)` with a thousand characters each is a terabyte, asked for in
//! one call, where no deadline and no memory pool is looked at.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::kernels::length::length;
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, resources_datafusion_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The functions, each with the place of the argument that is put in many times.
pub(crate) const MULTIPLYING: [(&str, usize); 3] = [("replace", 2), ("regexp_replace", 2), ("array_to_string", 1)];

/// Bytes that one call may come to.
const MAX_BYTES: usize = 128 << 20;

/// `inner`, refused where its result could be larger than [`MAX_BYTES`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    /// Which argument is put in many times.
    inserted: usize,
}

pub(crate) fn bounded(inner: Arc<ScalarUDF>, inserted: usize) -> ScalarUDF {
    ScalarUDF::new_from_impl(Bounded { inner, inserted })
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let Some(first) = args.args.first() else { return Ok(()) };
        let whole = match first {
            ColumnarValue::Array(column) => column.get_array_memory_size(),
            ColumnarValue::Scalar(value) => value.size().saturating_mul(args.number_rows.max(1)),
        };
        let inserted = args.args.get(self.inserted).map_or(0, longest);
        if whole.saturating_mul(inserted.saturating_add(1)) > MAX_BYTES {
            let name = self.inner.name();
            return Err(resources_datafusion_err!("the result of {name}() could be larger than {MAX_BYTES} bytes"));
        }
        Ok(())
    }
}

/// Bytes of the longest text.
fn longest(value: &ColumnarValue) -> usize {
    match value {
        ColumnarValue::Scalar(value) => match value {
            ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
                text.as_ref().map_or(0, String::len)
            }
            other => other.size(),
        },
        ColumnarValue::Array(column) => match length(column) {
            Ok(lengths) => {
                let most = cast(&lengths, &DataType::Int64).ok().and_then(|all| max(all.as_primitive::<Int64Type>()));
                most.and_then(|most| usize::try_from(most).ok()).unwrap_or(0)
            }
            Err(_) => column.get_array_memory_size(),
        },
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.inner().simplify(args, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }
}
