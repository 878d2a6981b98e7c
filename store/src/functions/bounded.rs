//! Text functions whose result can be their arguments' lengths multiplied or added up, held to a size before they are
//! called.
//!
//! `replace(replace(replace('a', 'a', ..), 'a', ..), 'a', ..)` with a thousand characters each is a terabyte, asked for in
//! one call, where no deadline and no memory pool is looked at.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::kernels::length::length;
use arrow::compute::{cast, max, sum};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, resources_datafusion_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// How the size of a result follows from those of the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Growth {
    /// The argument at this place is put many times into the first one.
    Inserted(usize),
    /// All arguments one after the other.
    Joined,
    /// All arguments after the first one, and that one between them.
    JoinedByFirst,
}

/// The functions.
pub(crate) const MULTIPLYING: [(&str, Growth); 5] = [
    ("replace", Growth::Inserted(2)),
    ("regexp_replace", Growth::Inserted(2)),
    ("array_to_string", Growth::Inserted(1)),
    ("concat", Growth::Joined),
    ("concat_ws", Growth::JoinedByFirst),
];

/// Bytes that one call may come to.
const MAX_BYTES: usize = 128 << 20;

/// `inner`, refused where its result could be larger than [`MAX_BYTES`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

pub(crate) fn bounded(inner: Arc<ScalarUDF>, growth: Growth) -> ScalarUDF {
    ScalarUDF::new_from_impl(Bounded { inner, growth })
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let Some(first) = args.args.first() else { return Ok(()) };
        let rows = args.number_rows.max(1);
        let joined = || args.args.iter().fold(0, |sum: usize, value| sum.saturating_add(total(value, rows)));
        let most = match self.growth {
            Growth::Inserted(place) => {
                let whole = match first {
                    ColumnarValue::Array(column) => column.get_array_memory_size(),
                    ColumnarValue::Scalar(value) => value.size().saturating_mul(rows),
                };
                whole.saturating_mul(args.args.get(place).map_or(0, longest).saturating_add(1))
            }
            Growth::Joined => joined(),
            Growth::JoinedByFirst => joined().saturating_add(total(first, rows).saturating_mul(args.args.len())),
        };
        if most > MAX_BYTES {
            let name = self.inner.name();
            return Err(resources_datafusion_err!("the result of {name}() could be larger than {MAX_BYTES} bytes"));
        }
        Ok(())
    }
}

/// Bytes of the texts of all rows. Not what their buffers take: slices and views share those.
fn total(value: &ColumnarValue, rows: usize) -> usize {
    let ColumnarValue::Array(column) = value else { return longest(value).saturating_mul(rows) };
    let lengths = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => length(column).ok(),
        _ => None,
    };
    let lengths = lengths.and_then(|lengths| cast(&lengths, &DataType::Int64).ok());
    match lengths {
        Some(lengths) => usize::try_from(sum(lengths.as_primitive::<Int64Type>()).unwrap_or(0)).unwrap_or(0),
        None => column.get_array_memory_size(),
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
        match self.growth {
            Growth::Inserted(_) => self.inner.inner().simplify(args, info),
            // Would join literals while planning, whatever comes of it.
            Growth::Joined | Growth::JoinedByFirst => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }
}
