//! `tag(tags, key)`: one tag out of the `tags` column of `samples`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

#[derive(Debug, PartialEq, Eq, Hash)]
struct Tag {
    signature: Signature,
}

/// The function; null where the series has no such tag or the text is no JSON object.
pub(crate) fn tag() -> ScalarUDF {
    ScalarUDF::new_from_impl(Tag { signature: Signature::string(2, Volatility::Immutable) })
}

impl ScalarUDFImpl for Tag {
    fn name(&self) -> &str {
        "tag"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let text = |column: &ArrayRef| -> Result<ArrayRef> { Ok(cast(column, &DataType::Utf8View)?) };
        let (tags, keys) = (text(&columns[0])?, text(&columns[1])?);
        let (tags, keys) = (tags.as_string_view(), keys.as_string_view());
        let mut found = StringViewBuilder::with_capacity(tags.len());
        // Samples come series by series, so most rows ask the same question as the row before.
        let mut last: Option<(&str, &str, Option<String>)> = None;
        for row in 0..tags.len() {
            if tags.is_null(row) || keys.is_null(row) {
                found.append_null();
                continue;
            }
            let (text, key) = (tags.value(row), keys.value(row));
            let known = matches!(&last, Some((last_text, last_key, _)) if *last_text == text && *last_key == key);
            if !known {
                last = Some((text, key, lookup(text, key)));
            }
            found.append_option(last.as_ref().and_then(|(_, _, value)| value.as_deref()));
        }
        Ok(ColumnarValue::Array(Arc::new(found.finish())))
    }
}

fn lookup(tags: &str, key: &str) -> Option<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(tags).ok()?;
    object.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_by_its_key_and_anything_else_is_null() {
        assert_eq!(lookup(r#"{"host":"a\"b","pid":"1"}"#, "host").as_deref(), Some("a\"b"));
        assert_eq!(lookup(r#"{"host":"a"}"#, "pid"), None);
        assert_eq!(lookup("no json", "host"), None);
    }
}
