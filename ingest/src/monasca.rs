//! Monasca's `POST /v2.0/metrics`.
//!
//! Validation is that of Monasca's own Python code, which is laxer than its specification in places: a quote may stand
//! in a name, `true` is a number, a timestamp may have a fraction. One bad metric rejects the whole request, as there.
//!
//! Not kept: `value_meta` is validated, then dropped, since a sample has no place for it; `tenant_id` is ignored, since
//! there are no tenants. A metric that only the store can judge (its time is out of range, or its series is one too
//! many) is refused after its good neighbours are stored; the answer names it and says so.

use serde::Serialize;
use serde_json::{Map, Value};
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};

use crate::json::{self, Element, JsonError, Kind};

const MAX_NAME_CHARS: usize = 255;
const MAX_META_ENTRIES: usize = 16;
const MAX_META_CHARS: usize = 2048;
const RESTRICTED: [char; 9] = ['<', '>', '=', '{', '}', ',', '"', '\\', ';'];

/// Which check a metric failed; the names are those of Monasca's exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No object, or a field is missing.
    KeyError,
    /// The name.
    InvalidMetricName,
    /// The value.
    InvalidValue,
    /// The timestamp.
    InvalidTimeStamp,
    /// A dimension's key, or the dimensions are no object.
    InvalidDimensionKey,
    /// A dimension's value.
    InvalidDimensionValue,
    /// The value's metadata.
    InvalidValueMeta,
}

/// Why a metric is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Invalid {
    /// Which check it failed.
    pub fault: Fault,
    /// Monasca's words.
    pub text: String,
}

/// Why a request is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Some metrics are invalid; nothing is to be stored.
    #[error("{description}")]
    Invalid {
        /// Names the first invalid metric by its index and says how many more there are.
        description: String,
        /// The number of all metrics of the request.
        total: usize,
        /// The position of the first invalid metric, from 0.
        first: usize,
    },
}

/// Reads one metric or an array of metrics: all of them or none.
pub fn decode(body: &[u8]) -> Result<SampleBatch, Refusal> {
    match decode_strict(body) {
        Err(Refusal::Json(error)) => match json::quote_non_numbers(body).map(|fixed| decode_strict(&fixed)) {
            // The place of the first error is right in what was sent; quotes would have moved a later one.
            None | Some(Err(Refusal::Json(_))) => Err(error.into()),
            Some(decoded) => decoded,
        },
        decoded => decoded,
    }
}

fn decode_strict(body: &[u8]) -> Result<SampleBatch, Refusal> {
    let mut batch = SampleBatch::new();
    let mut first: Option<(usize, Invalid)> = None;
    let (mut total, mut invalid) = (0, 0);
    json::for_each(body, |element| {
        match metric(element) {
            Ok((key, time, value)) if first.is_none() => batch.push(key, time, value),
            Ok(_) => {}
            Err(error) => {
                invalid += 1;
                first.get_or_insert((total, error));
            }
        }
        total += 1;
    })?;
    let Some((index, error)) = first else { return Ok(batch) };
    let is_array = json::first_byte(body) == Some(b'[');
    let mut description = if is_array { format!("metric {index}: {error}") } else { error.text };
    if invalid > 1 {
        description.push_str(&format!("; {} more are invalid", invalid - 1));
    }
    Err(Refusal::Invalid { description, total, first: index })
}

/// Reads and validates one metric, with the order of Monasca's checks.
fn metric(element: Element<'_>) -> Result<(SeriesKey, TimeMs, f64), Invalid> {
    let members = element.members().ok_or_else(|| fault(Fault::KeyError, "a metric must be a JSON object"))?;
    // Of a repeated key the last counts, as in Python.
    let field = |name: &str| members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value);
    let required = |name: &str| field(name).ok_or_else(|| fault(Fault::KeyError, format!("'{name}'")));

    let name = metric_name(required("name")?)?;
    let rest = || {
        let value = value(required("value")?)?;
        let time = timestamp(required("timestamp")?)?;
        let dimensions = field("dimensions").map(dimensions).transpose()?.unwrap_or_default();
        field("value_meta").map(check_value_meta).transpose()?;
        Ok((time, value, dimensions))
    };
    let (time, value, dimensions) =
        rest().map_err(|Invalid { fault: kind, text }| fault(kind, format!("{text}: for metric {name}")))?;
    Ok((SeriesKey::new(name, dimensions), time, value))
}

fn fault(fault: Fault, text: impl Into<String>) -> Invalid {
    Invalid { fault, text: text.into() }
}

fn metric_name(element: Element<'_>) -> Result<String, Invalid> {
    let bad = |text| fault(Fault::InvalidMetricName, text);
    let Kind::Text(name) = element.kind() else {
        return Err(bad(format!("invalid metric name type: {} is not a string type ", element.json())));
    };
    if !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) {
        return Err(bad(format!("invalid length for metric name: {name}")));
    }
    if name.contains(|c| is_restricted(c) || matches!(c, '(' | ')' | ' ')) {
        return Err(bad(format!("invalid characters in metric name: {name}")));
    }
    Ok(name.into_owned())
}

fn is_restricted(c: char) -> bool {
    RESTRICTED.contains(&c) || c == '&'
}

fn value(element: Element<'_>) -> Result<f64, Invalid> {
    let value = number(element).ok_or_else(|| {
        fault(Fault::InvalidValue, format!("invalid value type: {} is not a number type for metric", shown(element)))
    })?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(fault(Fault::InvalidValue, format!("invalid value: {} is not a valid value for metric", shown(element))))
    }
}

/// Milliseconds, their fraction cut off.
fn timestamp(element: Element<'_>) -> Result<TimeMs, Invalid> {
    match number(element) {
        // The conversion saturates; whether such a time is acceptable is the store's question.
        Some(time) if !time.is_nan() => Ok(TimeMs(time as i64)),
        _ => Err(fault(
            Fault::InvalidTimeStamp,
            format!("invalid timestamp type: {} is not a number type for metric", shown(element)),
        )),
    }
}

/// As in Python, a boolean is a number.
fn number(element: Element<'_>) -> Option<f64> {
    match element.kind() {
        Kind::Number(number) => number.parse().ok(),
        Kind::Bool(value) => Some(f64::from(u8::from(value))),
        _ => None,
    }
}

/// A value as a message shows it: a text without its quotes.
fn shown(element: Element<'_>) -> String {
    match element.kind() {
        Kind::Text(text) => text.into_owned(),
        _ => element.json().to_owned(),
    }
}

fn dimensions(element: Element<'_>) -> Result<Vec<(String, String)>, Invalid> {
    let members = element.members().ok_or_else(|| {
        fault(Fault::InvalidDimensionKey, format!("invalid dimensions: {} is not an object", element.json()))
    })?;
    members
        .into_iter()
        .map(|(key, value)| {
            check_dimension_key(&key)?;
            let value = dimension_value(&key, value)?;
            Ok((key.into_owned(), value))
        })
        .collect()
}

fn check_dimension_key(key: &str) -> Result<(), Invalid> {
    let chars = key.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&chars) {
        return Err(fault(Fault::InvalidDimensionKey, format!("invalid length ({chars}) for dimension key {key}")));
    }
    if key.starts_with('_') || key.contains(is_restricted) {
        return Err(fault(Fault::InvalidDimensionKey, format!("invalid characters in dimension key {key}")));
    }
    Ok(())
}

fn dimension_value(key: &str, element: Element<'_>) -> Result<String, Invalid> {
    let bad = |text| fault(Fault::InvalidDimensionValue, text);
    let Kind::Text(value) = element.kind() else {
        let json = element.json();
        return Err(bad(format!("invalid dimension value type: {json} must be a string (from key {key})")));
    };
    let chars = value.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&chars) {
        return Err(bad(format!("invalid length ({chars}) for dimension value {value} from key {key}")));
    }
    if value.contains(is_restricted) {
        return Err(bad(format!("invalid characters in dimension value {value} from key {key}")));
    }
    Ok(value.into_owned())
}

fn check_value_meta(element: Element<'_>) -> Result<(), Invalid> {
    let bad = |text| fault(Fault::InvalidValueMeta, text);
    let json = element.json();
    let meta: Map<String, Value> = match serde_json::from_str(json) {
        Ok(Value::Null) => return Ok(()),
        Ok(Value::Object(meta)) => meta,
        Ok(_) => return Err(bad(format!("valueMeta must be an object: {json}"))),
        Err(_) => return Err(bad("Unable to serialize valueMeta into JSON".to_owned())),
    };
    if meta.len() > MAX_META_ENTRIES {
        let found = meta.len();
        return Err(bad(format!("Too many valueMeta entries {found}, limit is {MAX_META_ENTRIES}: valueMeta {json}")));
    }
    for (key, value) in &meta {
        if key.is_empty() {
            return Err(bad(format!("valueMeta name cannot be empty: key={key}, value={value}")));
        }
        if key.chars().count() > MAX_NAME_CHARS {
            return Err(bad(format!("valueMeta name too long: {key} must be {MAX_NAME_CHARS} characters or less")));
        }
    }
    if python_json_len(&Value::Object(meta)) > MAX_META_CHARS {
        return Err(bad(format!(
            "valueMeta name value combinations must be {MAX_META_CHARS} characters or less: valueMeta {json}"
        )));
    }
    Ok(())
}

/// The length of what Python's `json.dumps` would write: `", "` and `": "` as separators, ASCII only. The limit is
/// stated in terms of it.
fn python_json_len(value: &Value) -> usize {
    let between = |count: usize| 2 * count.saturating_sub(1);
    match value {
        Value::Object(members) => {
            let own: usize = members.iter().map(|(k, v)| python_text_len(k) + 2 + python_json_len(v)).sum();
            2 + between(members.len()) + own
        }
        Value::Array(items) => 2 + between(items.len()) + items.iter().map(python_json_len).sum::<usize>(),
        Value::String(text) => python_text_len(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string().len(),
    }
}

fn python_text_len(text: &str) -> usize {
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        ' '..='~' => 1,
        // `\u` and four digits for each UTF-16 unit; Python leaves DEL as it is.
        '\u{7f}' => 1,
        _ => 6 * c.len_utf16(),
    };
    2 + text.chars().map(escaped).sum::<usize>()
}

/// Monasca's error body.
pub fn error_body(title: &str, description: &str) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        title: &'a str,
        description: &'a str,
    }
    serde_json::to_string(&Body { title, description }).expect("texts always have a JSON form")
}

/// The version document that `GET /v2.0` answers with; `href` is its own address.
pub fn version_body(href: &str) -> String {
    serde_json::json!({
        "id": "v2.0",
        "links": [{ "rel": "self", "href": href }],
        "status": "CURRENT",
        "updated": "2013-03-06T00:00:00Z",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        match decode(body.as_bytes()) {
            Err(Refusal::Invalid { description, .. }) => description,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_metric_becomes_a_sample() {
        let body = r#"{"name":"cpu.percent","dimensions":{"b":"2","a":"x y"},"timestamp":1795291200000.7,"value":-1.5,"value_meta":{"k":"v"}}"#;
        let batch = decode(body.as_bytes()).unwrap();
        let (key, time, value) = batch.rows().next().unwrap();
        assert_eq!((key.metric(), key.tag("a"), key.tag("b")), ("cpu.percent", Some("x y"), Some("2")));
        assert_eq!((time.0, value), (1_795_291_200_000, -1.5));
        assert!(decode(b"[]").unwrap().is_empty());
        assert_eq!(decode(br#"{"name":"m","timestamp":1,"value":true}"#).unwrap().values(), [1.0]);
    }

    #[test]
    fn one_bad_metric_rejects_all_and_is_named_by_its_index() {
        let good = r#"{"name":"m","timestamp":1,"value":1}"#;
        assert_eq!(
            refused(&format!(r#"[{good},{{"name":"a>b","timestamp":1,"value":1}},{good},5]"#)),
            "metric 1: invalid characters in metric name: a>b; 1 more are invalid"
        );
        assert_eq!(refused(r#"{"name":"m","timestamp":1}"#), "'value': for metric m");
        assert_eq!(refused("7"), "a metric must be a JSON object");
    }

    #[test]
    fn numbers_that_are_none_are_the_metrics_fault() {
        for value in ["NaN", "-Infinity", "1e400", "\"1\"", "null", "[1]"] {
            let text = refused(&format!(r#"[{{"name":"m","timestamp":1,"value":{value}}}]"#));
            assert!(text.starts_with("metric 0: invalid value"), "{text}");
        }
        for time in ["NaN", "\"1\"", "null"] {
            let text = refused(&format!(r#"{{"name":"m","timestamp":{time},"value":1}}"#));
            assert!(text.starts_with("invalid timestamp type"), "{text}");
        }
        for (field, text) in [("\"dimensions\":null", "invalid dimensions"), ("\"value_meta\":[]", "valueMeta must be")]
        {
            let found = refused(&format!(r#"{{"name":"m","timestamp":1,"value":1,{field}}}"#));
            assert!(found.starts_with(text), "{found}");
        }
    }

    #[test]
    fn metadata_is_measured_as_python_writes_it() {
        let meta: Value = serde_json::from_str(r#"{"k":"é\n","l":[1,true,null],"m":{}}"#).unwrap();
        assert_eq!(python_json_len(&meta), r#"{"k": "\u00e9\n", "l": [1, true, null], "m": {}}"#.len());
        assert_eq!(python_text_len("😀"), r#""\ud83d\ude00""#.len());
        let of_length =
            |n| format!(r#"{{"name":"m","timestamp":1,"value":1,"value_meta":{{"k":"{}"}}}}"#, "v".repeat(n));
        assert!(decode(of_length(2048 - 9).as_bytes()).is_ok());
        assert!(refused(&of_length(2048 - 8)).contains("2048 characters"));
    }

    #[test]
    fn what_is_not_json_has_its_place() {
        let Err(Refusal::Json(error)) = decode(b"[{\"name\":}]") else { panic!("taken for JSON") };
        assert_eq!((error.line, error.column), (1, 10));
    }

    /// Monasca's own verdicts; further cases may be added through `TIDEGATE_CONFORMANCE`.
    #[test]
    fn conformance_metric_validation() {
        let mut files = vec![std::path::PathBuf::from("tests/fixtures/metric_validation.json")];
        let more = std::env::var_os("TIDEGATE_CONFORMANCE").unwrap_or_default();
        files.extend(std::env::split_paths(&more).map(|tree| tree.join("monasca/metric_validation.json")));
        let mut wrong = Vec::new();
        for file in files.iter().filter(|file| file.exists()) {
            let text = std::fs::read(file).unwrap();
            let text = json::quote_non_numbers(&text).unwrap_or(text);
            let (mut cases, mut agreed) = (0, 0);
            json::for_each(&text, |case| {
                let case = case.members().unwrap();
                let field = |name: &str| case.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
                let verdict = metric(field("metric").unwrap());
                let agrees = match &verdict {
                    Ok(_) => field("ok").unwrap().kind() == Kind::Bool(true),
                    Err(Invalid { fault, .. }) => {
                        // Python's own exceptions (a missing method, an overflow) have no counterpart here.
                        let named = match field("exception").map(Element::kind) {
                            Some(Kind::Text(name)) if name.starts_with("Invalid") => name == format!("{fault:?}"),
                            _ => true,
                        };
                        named && field("ok").unwrap().kind() == Kind::Bool(false)
                    }
                };
                cases += 1;
                agreed += usize::from(agrees);
                if !agrees {
                    wrong.push(format!("{case:?}: {verdict:?}"));
                }
            })
            .unwrap();
            println!("{}: {cases} cases, {agreed} agreed", file.display());
            assert!(cases > 0, "{} holds no cases", file.display());
        }
        assert_eq!(wrong, Vec::<String>::new());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = decode(&body);
        }
    }
}
