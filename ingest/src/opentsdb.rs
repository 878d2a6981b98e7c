//! OpenTSDB's `POST /api/put`, the format of BDWatchdog's feeder and of Serverless Containers.
//!
//! Answers as OpenTSDB 2.4 does, with these differences, each because the original loses data silently:
//! - An empty array is answered as an empty success: the feeder posts one at the end of its input.
//! - There is no limit of eight tags. What many tags cost is the number of series, and the store bounds that.
//! - A timestamp that is no number, or a field of the wrong type, is the fault of its point and not of the request.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::SerializeMap;
use tidegate_model::{SampleBatch, SeriesKey, SeriesRef, TimeMs};

use crate::json::{self, Element, JsonError, Kind};
use crate::protocol::Protocol;
use crate::spellings::{Known, Learnt};

mod shape;

/// How many refused points are kept to be named in an answer; the rest is only counted, so that a hostile body cannot
/// grow into a larger answer.
const MAX_NAMED: usize = 10_000;

/// What a body held.
#[derive(Debug)]
pub struct Decoded {
    /// The good points in their order.
    pub batch: SampleBatch,
    /// How their series are spelt, as far as it was not known.
    pub learnt: Learnt,
    /// Per sample of `batch`, its timestamp as sent: seconds or milliseconds.
    pub sent_times: Vec<i64>,
    /// The refused points, the first [`MAX_NAMED`] of them.
    pub errors: Vec<PointError>,
    /// The number of all refused points.
    pub failed: usize,
}

/// One refused point. Serializes as OpenTSDB's `{"datapoint":{..},"error":".."}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PointError {
    /// The point as sent; `None` for an element that is no object.
    pub datapoint: Option<Datapoint>,
    /// OpenTSDB's text of the reason, or the store's.
    pub error: String,
    /// Its position in the body, from 0; `None` when the store refused it. No part of OpenTSDB's answer.
    #[serde(skip)]
    pub at: Option<usize>,
}

/// A point as an answer repeats it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Datapoint {
    /// The metric's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The timestamp as sent, cut to an integer; 0 when it was none.
    pub timestamp: i64,
    /// The value as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The tags in their order.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_map")]
    pub tags: Option<Vec<(String, String)>>,
}

fn as_map<S: serde::Serializer>(tags: &Option<Vec<(String, String)>>, out: S) -> Result<S::Ok, S::Error> {
    let tags = tags.as_deref().unwrap_or_default();
    let mut map = out.serialize_map(Some(tags.len()))?;
    for (key, value) in tags {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

impl Decoded {
    fn with_capacity(points: usize) -> Self {
        Self {
            batch: SampleBatch::with_capacity(points),
            learnt: Learnt::new(Protocol::OpenTsdb),
            sent_times: Vec::with_capacity(points),
            errors: Vec::new(),
            failed: 0,
        }
    }

    /// Names a sample of the batch that the store refused, of the series `key`. Panics if the batch has no such row.
    pub fn refuse(&mut self, row: usize, key: Option<&SeriesKey>, reason: &str) {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let datapoint = Datapoint {
            metric: key.map(|key| key.metric().to_owned()),
            timestamp: self.sent_times[row],
            value: Some(self.batch.values()[row].to_string()),
            tags: key.map(|key| key.tags().map(owned).collect()),
        };
        self.note(Some(datapoint), reason.to_owned(), None);
    }

    /// The position of the next point: each one before it was either good or refused.
    fn next(&self) -> usize {
        self.batch.len() + self.failed
    }

    fn note(&mut self, datapoint: Option<Datapoint>, error: String, at: Option<usize>) {
        self.failed += 1;
        if self.errors.len() < MAX_NAMED {
            self.errors.push(PointError { datapoint, error, at });
        }
    }
}

/// Reads one point or an array of points. Bad points are in [`Decoded::errors`]; fails only when the body is not JSON.
pub fn decode(body: &[u8], known: &Known) -> Result<Decoded, JsonError> {
    match shape::decode(body, known) {
        Some(decoded) => Ok(decoded),
        None => decode_any(body),
    }
}

fn decode_any(body: &[u8]) -> Result<Decoded, JsonError> {
    match decode_strict(body) {
        Err(error) => match json::quote_non_numbers(body) {
            // The place of the first error is right in what was sent; quotes would have moved a later one.
            Some(fixed) => decode_strict(&fixed).map_err(|_| error),
            None => Err(error),
        },
        decoded => decoded,
    }
}

fn decode_strict(body: &[u8]) -> Result<Decoded, JsonError> {
    let mut decoded = Decoded::with_capacity(0);
    json::for_each(body, |element| _ = read_element(element, &mut decoded))?;
    Ok(decoded)
}

/// Adds a point, or what is wrong with it, and returns the position of its series' key.
fn read_element(element: Element<'_>, decoded: &mut Decoded) -> Option<u32> {
    let at = Some(decoded.next());
    if element.kind() == Kind::Null {
        decoded.note(None, "Unexpected null datapoint encountered in set.".to_owned(), at);
        return None;
    }
    let Some(members) = element.members() else {
        decoded.note(None, "The datapoint is not a JSON object".to_owned(), at);
        return None;
    };
    let point = Point::of(&members);
    match point.sample() {
        Ok((key, time, value)) => {
            let at = decoded.batch.add_key(key);
            decoded.batch.push_row(SeriesRef::Key(at), time, value);
            decoded.sent_times.push(point.timestamp);
            Some(at)
        }
        Err(error) => {
            decoded.note(Some(point.datapoint()), error, at);
            None
        }
    }
}

/// The four fields with OpenTSDB's coercions applied: any scalar is a text where a text is wanted.
#[derive(Default)]
struct Point<'a> {
    metric: Option<Cow<'a, str>>,
    timestamp: i64,
    value: Option<Cow<'a, str>>,
    tags: Option<Vec<Tag<'a>>>,
}

/// A tag's key and value; the value is `None` when it is no scalar.
type Tag<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

impl<'a> Point<'a> {
    /// Unknown fields are ignored; of a repeated one the last counts.
    fn of(members: &[(Cow<'a, str>, Element<'a>)]) -> Self {
        let mut point = Self::default();
        for (key, value) in members {
            match key.as_ref() {
                "metric" => point.metric = scalar_text(*value),
                "timestamp" => point.timestamp = timestamp(*value),
                "value" => point.value = scalar_text(*value),
                "tags" => point.tags = tags(*value),
                _ => {}
            }
        }
        point
    }

    /// The sample, or OpenTSDB's text of why not, with its order of checks.
    fn sample(&self) -> Result<(SeriesKey, TimeMs, f64), String> {
        let metric = self.metric.as_deref().filter(|name| !name.is_empty()).ok_or("Metric name was empty")?;
        let time = to_ms(self.timestamp).ok_or("Invalid timestamp")?;
        let value = self.value.as_deref().filter(|value| !value.is_empty()).ok_or("Empty value")?;
        let tags = self.tags.as_deref().filter(|tags| !tags.is_empty()).ok_or("Missing tags")?;
        let value: f64 = value.parse().map_err(|_| "Unable to parse value to a number")?;
        if !value.is_finite() {
            return Err("Unable to parse value to a number".to_owned());
        }
        check_characters("metric name", metric)?;
        let mut pairs = Vec::with_capacity(tags.len());
        for (key, value) in tags {
            check_characters("tag name", key)?;
            let Some(value) = value else {
                return Err(format!("Invalid tag value with key [{key}]: not a string"));
            };
            check_characters(format_args!("tag value with key [{key}]"), value)?;
            pairs.push((key.as_ref(), value.as_ref()));
        }
        Ok((SeriesKey::from_parts(metric, pairs), time, value))
    }

    fn datapoint(&self) -> Datapoint {
        let owned = |text: &Cow<'_, str>| text.clone().into_owned();
        Datapoint {
            metric: self.metric.as_ref().map(owned),
            timestamp: self.timestamp,
            value: self.value.as_ref().map(owned),
            tags: self.tags.as_ref().map(|tags| {
                tags.iter().map(|(key, value)| (owned(key), value.as_ref().map(owned).unwrap_or_default())).collect()
            }),
        }
    }
}

fn scalar_text(element: Element<'_>) -> Option<Cow<'_, str>> {
    match element.kind() {
        Kind::Text(text) => Some(text),
        Kind::Number(_) | Kind::Bool(_) => Some(Cow::Borrowed(element.json())),
        Kind::Null | Kind::Other => None,
    }
}

fn tags(element: Element<'_>) -> Option<Vec<Tag<'_>>> {
    let members = element.members()?;
    Some(members.into_iter().map(|(key, value)| (key, scalar_text(value))).collect())
}

/// A number or a quoted number, its fraction cut off; 0 for anything else, which is no valid timestamp.
fn timestamp(element: Element<'_>) -> i64 {
    let text = match element.kind() {
        Kind::Number(number) => Cow::Borrowed(number),
        Kind::Text(text) => text,
        _ => return 0,
    };
    // The conversion saturates, and NaN becomes 0: both are refused as out of range.
    text.parse::<i64>().unwrap_or_else(|_| text.parse::<f64>().unwrap_or(0.0) as i64)
}

/// OpenTSDB's rule: what needs more than 32 bits is milliseconds, of at most 13 digits; the rest is seconds.
fn to_ms(timestamp: i64) -> Option<TimeMs> {
    const LAST_SECONDS: i64 = 0xFFFF_FFFF;
    const LAST_MS: i64 = 9_999_999_999_999;
    if !(1..=LAST_MS).contains(&timestamp) {
        return None;
    }
    Some(TimeMs(if timestamp <= LAST_SECONDS { timestamp * 1000 } else { timestamp }))
}

fn check_characters(what: impl std::fmt::Display, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("Invalid {what}: empty string"));
    }
    match text.chars().find(|&c| !is_allowed(c)) {
        Some(bad) => Err(format!("Invalid {what} (\"{text}\"): illegal character: {bad}")),
        None => Ok(()),
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/') || (!c.is_ascii() && c.is_alphabetic())
}

/// What a client asked to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// 204, or an error without numbers.
    None,
    /// The numbers of good and bad points.
    Summary,
    /// The numbers, and each bad point with its reason.
    Details,
}

impl Detail {
    /// Reads the flags of a query string. Their presence counts, not their value, and `details` wins.
    pub fn of_query(query: &str) -> Self {
        let mut flags = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key));
        if flags.clone().any(|flag| flag == "details") {
            Self::Details
        } else if flags.any(|flag| flag == "summary") {
            Self::Summary
        } else {
            Self::None
        }
    }
}

/// An answer: its status and its JSON, if it has a body.
pub type Answer = (u16, Option<String>);

/// The answer when `stored` points are in the store and those in `decoded` are refused.
pub fn answer(detail: Detail, stored: usize, decoded: &Decoded) -> Answer {
    #[derive(Serialize)]
    struct Report<'a> {
        success: usize,
        failed: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        errors: Option<&'a [PointError]>,
    }
    let failed = decoded.failed;
    if detail == Detail::None {
        return match failed {
            0 => (204, None),
            _ => error_answer(
                400,
                "One or more data points had errors",
                Some("Please see the TSD logs or append \"details\" to the put request"),
            ),
        };
    }
    let errors = (detail == Detail::Details).then_some(decoded.errors.as_slice());
    let report = Report { success: stored, failed, errors };
    (if failed == 0 { 200 } else { 400 }, Some(to_json(&report)))
}

/// OpenTSDB's error shape, for a request that failed as a whole.
pub fn error_answer(code: u16, message: &str, details: Option<&str>) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: u16,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<&'a str>,
    }
    (code, Some(to_json(&Body { error: Error { code, message, details } })))
}

/// The answer to a body that [`decode`] could not read.
pub fn json_error_answer(body: &[u8], error: &JsonError) -> Answer {
    let message = match json::first_byte(body) {
        None => "Missing request content",
        Some(b'{' | b'[') => "Unable to parse the given JSON",
        Some(_) => "The JSON must start as an object or an array",
    };
    error_answer(400, message, Some(&error.to_string()))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers always have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spellings::Spellings;
    use proptest::prelude::*;

    /// Decodes in every way there is: they must agree.
    fn decode(body: &[u8]) -> Result<Decoded, JsonError> {
        let spellings = Spellings::for_series(100);
        let general = decode_any(body);
        for _ in 0..3 {
            let decoded = super::decode(body, &spellings.read());
            compare(&general, &decoded);
            if let Ok(decoded) = decoded {
                learn(&spellings, &decoded);
            }
        }
        general
    }

    /// As the store would: the ids are numbers that say nothing about the order of keys.
    fn learn(spellings: &Spellings, decoded: &Decoded) {
        let ids: Vec<_> = decoded.batch.keys().iter().map(|key| Some(id_of(key))).collect();
        spellings.learn(&decoded.learnt, &ids);
    }

    fn id_of(key: &SeriesKey) -> u32 {
        let text = format!("{key:?}");
        text.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(16_777_619) ^ u32::from(byte))
    }

    fn compare(general: &Result<Decoded, JsonError>, other: &Result<Decoded, JsonError>) {
        match (general, other) {
            (Ok(general), Ok(other)) => {
                let ids = |decoded: &Decoded| -> Vec<u32> {
                    let id = |series: &SeriesRef| match series {
                        SeriesRef::Key(at) => id_of(&decoded.batch.keys()[*at as usize]),
                        SeriesRef::Id(id) => *id,
                    };
                    decoded.batch.series().iter().map(id).collect()
                };
                assert_eq!(ids(general), ids(other));
                assert_eq!(general.batch.times(), other.batch.times());
                let bits = |decoded: &Decoded| decoded.batch.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(general), bits(other));
                assert_eq!((&general.sent_times, &general.errors), (&other.sent_times, &other.errors));
                assert_eq!(general.failed, other.failed);
            }
            (general, other) => assert_eq!(general.as_ref().err(), other.as_ref().err()),
        }
    }

    fn rows(body: &str) -> Vec<(String, i64, f64)> {
        let decoded = decode(body.as_bytes()).unwrap();
        assert_eq!(decoded.errors, []);
        decoded.batch.rows().map(|(key, time, value)| (key.metric().to_owned(), time.0, value)).collect()
    }

    fn error_of(body: &str) -> String {
        let decoded = decode(body.as_bytes()).unwrap();
        assert_eq!((decoded.batch.len(), decoded.failed), (0, 1), "{body}");
        decoded.errors[0].error.clone()
    }

    fn point(metric: &str, timestamp: &str, value: &str, tags: &str) -> String {
        format!(r#"{{"metric":{metric},"timestamp":{timestamp},"value":{value},"tags":{tags}}}"#)
    }

    const TAGS: &str = r#"{"host":"node0"}"#;

    #[test]
    fn the_feeders_batch_of_texts_is_read() {
        let body = r#"[{"metric": "proc.cpu.user", "timestamp": "1763755205", "value": "45.00", "tags": {"host": "c0", "pid": "4242", "command": "java"}},
            {"metric": "sys.disk.read.ios", "timestamp": "1763755205", "value": "120", "tags": {"host": "node0", "disk": "sda"}}]"#;
        let decoded = decode(body.as_bytes()).unwrap();
        assert_eq!(decoded.failed, 0);
        let rows: Vec<_> = decoded.batch.rows().collect();
        assert_eq!(rows[0].0.metric(), "proc.cpu.user");
        assert_eq!(rows[0].0.tag("pid"), Some("4242"));
        assert_eq!((rows[0].1.0, rows[0].2), (1_763_755_205_000, 45.0));
        assert_eq!((rows[1].1.0, rows[1].2), (1_763_755_205_000, 120.0));
    }

    #[test]
    fn seconds_and_milliseconds_differ_by_their_digits_and_fractions_are_cut() {
        for (sent, ms) in [
            ("1763755205", 1_763_755_205_000),
            ("\"1763755205\"", 1_763_755_205_000),
            ("1763755205123", 1_763_755_205_123),
            ("1795292979.80", 1_795_292_979_000),
            ("\"1795292979.80\"", 1_795_292_979_000),
            ("1.763755205e9", 1_763_755_205_000),
            ("4294967295", 4_294_967_295_000),
            ("4294967296", 4_294_967_296),
            ("9999999999999", 9_999_999_999_999),
        ] {
            assert_eq!(rows(&point("\"m\"", sent, "1", TAGS)), [("m".to_owned(), ms, 1.0)], "{sent}");
        }
    }

    #[test]
    fn values_are_numbers_or_numbers_in_quotes() {
        for (sent, value) in [
            ("312.47", 312.47),
            ("\"56.00\"", 56.0),
            ("-1e3", -1000.0),
            ("\"1E-3\"", 0.001),
            ("9223372036854775807", 9_223_372_036_854_775_807.0),
            ("0.1", 0.1),
            ("2.2250738585072014e-308", 2.225_073_858_507_201_4e-308),
        ] {
            assert_eq!(rows(&point("\"m\"", "1763755205", sent, TAGS))[0].2, value, "{sent}");
        }
    }

    #[test]
    fn each_fault_has_opentsdbs_text() {
        let time = "1763755205";
        for (body, error) in [
            (point("\"\"", time, "1", TAGS), "Metric name was empty"),
            (point("null", time, "1", TAGS), "Metric name was empty"),
            (point("\"m\"", "0", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", "-5", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", "\"soon\"", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", "17637552051234", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", "1e400", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", "NaN", "1", TAGS), "Invalid timestamp"),
            (point("\"m\"", time, "\"\"", TAGS), "Empty value"),
            (point("\"m\"", time, "null", TAGS), "Empty value"),
            (point("\"m\"", time, "NaN", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "-Infinity", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "\"inf\"", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "1e400", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "\"1e400\"", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "true", TAGS), "Unable to parse value to a number"),
            (point("\"m\"", time, "1", "{}"), "Missing tags"),
            (point("\"m\"", time, "1", "[]"), "Missing tags"),
            (point("\"a b\"", time, "1", TAGS), "Invalid metric name (\"a b\"): illegal character:  "),
            (
                point("\"m\"", time, "1", r#"{"host":"a+b"}"#),
                "Invalid tag value with key [host] (\"a+b\"): illegal character: +",
            ),
            (point("\"m\"", time, "1", r#"{"host":""}"#), "Invalid tag value with key [host]: empty string"),
            (point("\"m\"", time, "1", r#"{"":"a"}"#), "Invalid tag name: empty string"),
            (point("\"m\"", time, "1", r#"{"host":[1]}"#), "Invalid tag value with key [host]: not a string"),
            ("[null]".to_owned(), "Unexpected null datapoint encountered in set."),
            ("[7]".to_owned(), "The datapoint is not a JSON object"),
        ] {
            assert_eq!(error_of(&body), error, "{body}");
        }
    }

    #[test]
    fn a_bad_point_does_not_harm_its_neighbours() {
        let time = "1763755205";
        let good = point("\"m\"", time, "1", TAGS);
        let body = format!("[{good},{},{good}]", point("\"m\"", time, "NaN", TAGS));
        let decoded = decode(body.as_bytes()).unwrap();
        assert_eq!((decoded.batch.len(), decoded.failed), (2, 1));
        let (status, json) = answer(Detail::Details, 2, &decoded);
        assert_eq!(status, 400);
        assert_eq!(
            json.unwrap(),
            r#"{"success":2,"failed":1,"errors":[{"datapoint":{"metric":"m","timestamp":1763755205,"value":"NaN","tags":{"host":"node0"}},"error":"Unable to parse value to a number"}]}"#
        );
        assert_eq!(answer(Detail::Summary, 2, &decoded), (400, Some(r#"{"success":2,"failed":1}"#.to_owned())));
        assert_eq!(
            answer(Detail::None, 2, &decoded).1.unwrap(),
            r#"{"error":{"code":400,"message":"One or more data points had errors","details":"Please see the TSD logs or append \"details\" to the put request"}}"#
        );
    }

    #[test]
    fn tags_may_be_many_or_numbers_or_letters_of_any_script() {
        let tags: Vec<_> = (0..20).map(|n| format!("\"k{n}\":{n}")).collect();
        let body = point("\"m\"", "1763755205", "1", &format!("{{{},\"ort\":\"Köln\"}}", tags.join(",")));
        let decoded = decode(body.as_bytes()).unwrap();
        let key = &decoded.batch.keys()[0];
        assert_eq!((key.tags().len(), key.tag("k7"), key.tag("ort")), (21, Some("7"), Some("Köln")));
    }

    #[test]
    fn of_repeated_keys_the_last_counts() {
        let body = r#"{"metric":"a","metric":"m","timestamp":1763755205,"value":1,"value":2,"tags":{"h":"x","h":"y"},"more":{}}"#;
        let decoded = decode(body.as_bytes()).unwrap();
        assert_eq!(rows(body), [("m".to_owned(), 1_763_755_205_000, 2.0)]);
        assert_eq!(decoded.batch.keys()[0].tags().collect::<Vec<_>>(), [("h", "y")]);
    }

    #[test]
    fn an_empty_set_is_an_empty_success() {
        for body in ["[]", "[\n\n]"] {
            let decoded = decode(body.as_bytes()).unwrap();
            assert_eq!(answer(Detail::None, 0, &decoded), (204, None));
            assert_eq!(answer(Detail::Summary, 0, &decoded).1.unwrap(), r#"{"success":0,"failed":0}"#);
            assert_eq!(answer(Detail::Details, 0, &decoded).1.unwrap(), r#"{"success":0,"failed":0,"errors":[]}"#);
        }
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_with_the_place() {
        for (body, message) in [
            (&b""[..], "Missing request content"),
            (b"put sys.cpu 1", "The JSON must start as an object or an array"),
            (b"[{\"metric\":\"m\"},\n{\"metric\":\"\xc3", "Unable to parse the given JSON"),
            (b"[{\"value\":NaN}", "Unable to parse the given JSON"),
        ] {
            let error = decode(body).unwrap_err();
            let (status, json) = json_error_answer(body, &error);
            let json: serde_json::Value = serde_json::from_str(&json.unwrap()).unwrap();
            assert_eq!((status, json["error"]["code"].as_u64()), (400, Some(400)));
            assert_eq!(json["error"]["message"], message);
            assert!(json["error"]["details"].as_str().unwrap().contains("column"), "{json}");
        }
    }

    #[test]
    fn flags_count_by_presence_and_details_win() {
        assert_eq!(Detail::of_query(""), Detail::None);
        assert_eq!(Detail::of_query("summary=false"), Detail::Summary);
        assert_eq!(Detail::of_query("summary&details"), Detail::Details);
        assert_eq!(Detail::of_query("sync&x=details"), Detail::None);
    }

    #[test]
    fn a_body_like_the_one_before_needs_no_key() {
        let spellings = Spellings::for_series(100);
        let body = |time: u64, value: &str| {
            let orders = [
                format!(r#"{{"metric": "a", "timestamp": "{time}", "value": "{value}", "tags": {{"host": "x"}}}}"#),
                format!(r#"{{"tags":{{"h":"\u00e9"}},"value":{value},"metric":"b","more":[{{}}],"timestamp":{time}}}"#),
            ];
            format!("[{},\n {}]", orders[0], orders[1])
        };
        let first = super::decode(body(1_763_755_205, "1.25").as_bytes(), &spellings.read()).unwrap();
        learn(&spellings, &first);
        for (time, value) in [(1_763_755_210, "-7e2"), (1_763_755_215_000, "0.1"), (1_763_755_220, "120")] {
            let body = body(time, value);
            let decoded = super::decode(body.as_bytes(), &spellings.read()).unwrap();
            assert!(decoded.batch.keys().is_empty(), "{body}");
            compare(&decode_any(body.as_bytes()), &Ok(decoded));
        }
    }

    fn blank() -> impl Strategy<Value = String> {
        prop_oneof![8 => Just(String::new()), 1 => "[ \n\t]{1,2}"]
    }

    /// JSON of a field that is mostly right, and one that may be wrong in many ways.
    fn scalar() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => "1[0-9]{9}",
            2 => "\"1[0-9]{9}\"",
            4 => "-?[0-9]{1,3}\\.[0-9]{1,3}",
            4 => "\"-?[0-9]{1,3}\\.[0-9]{2}\"",
            1 => "[0-9eE+.-]{1,6}",
            1 => "\"[0-9eE+.-]{0,6}\"",
            1 => Just("NaN".to_owned()),
            1 => Just("1e400".to_owned()),
            1 => Just("null".to_owned()),
            1 => Just("true".to_owned()),
            1 => Just("[1]".to_owned()),
            1 => Just("\"\\u0041\"".to_owned()),
        ]
    }

    fn element() -> impl Strategy<Value = String> {
        let member = prop_oneof![
            4 => "[a-b]".prop_map(|name| ("metric".to_owned(), format!("\"{name}\""))),
            6 => scalar().prop_map(|value| ("timestamp".to_owned(), value)),
            6 => scalar().prop_map(|value| ("value".to_owned(), value)),
            1 => scalar().prop_map(|value| ("val\\u0075e".to_owned(), value)),
            4 => "[xyé ]".prop_map(|host| ("tags".to_owned(), format!("{{\"host\":\"{host}\"}}"))),
            1 => scalar().prop_map(|value| ("other".to_owned(), value)),
        ];
        let usual = ("[a-b]", "1[0-9]{9}", "-?[1-9][0-9]{0,2}(\\.[0-9]{1,2})?", "[x-z]").prop_map(
            |(metric, time, value, host)| {
                point(&format!("\"{metric}\""), &time, &value, &format!("{{\"host\":\"{host}\"}}"))
            },
        );
        let odd = proptest::collection::vec((member, blank(), blank()), 0..6).prop_map(|members| {
            let members: Vec<_> =
                members.into_iter().map(|((key, value), a, b)| format!("{a}\"{key}\"{b}:{a}{value}{b}")).collect();
            format!("{{{}}}", members.join(","))
        });
        prop_oneof![6 => usual, 3 => odd, 1 => scalar()]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = decode(&body);
        }

        /// All bodies go through one cache, so what one has taught is met by those behind it.
        #[test]
        fn known_spellings_change_nothing(
            bodies in proptest::collection::vec(proptest::collection::vec((element(), blank()), 0..5), 1..6),
            damage in proptest::option::weighted(0.3, (0usize..4000, any::<u8>())),
        ) {
            let spellings = Spellings::for_series(20);
            for points in bodies.iter().chain(&bodies) {
                let points: Vec<_> = points.iter().map(|(point, blank)| format!("{blank}{point}{blank}")).collect();
                let mut body = format!("[{}]", points.join(",")).into_bytes();
                if let Some((at, byte)) = damage {
                    let at = at % body.len();
                    body[at] = byte;
                }
                let decoded = super::decode(&body, &spellings.read());
                compare(&decode_any(&body), &decoded);
                if let Ok(decoded) = decoded {
                    learn(&spellings, &decoded);
                }
            }
        }

        #[test]
        fn a_damaged_batch_never_panics_and_loses_no_count(at in 0usize..400, byte: u8) {
            let mut body = format!("[{0},{0},{0}]", point("\"m\"", "\"1763755205\"", "\"45.00\"", TAGS)).into_bytes();
            let at = at % body.len();
            body[at] = byte;
            if let Ok(decoded) = decode(&body) {
                prop_assert!(decoded.batch.len() + decoded.failed <= 3);
                prop_assert_eq!(decoded.errors.len(), decoded.failed);
            }
        }

        #[test]
        fn a_number_keeps_its_last_bit_in_quotes_or_not(value in proptest::num::f64::NORMAL) {
            for text in [format!("{value:e}"), format!("\"{value}\"")] {
                prop_assert_eq!(rows(&point("\"m\"", "1763755205", &text, TAGS))[0].2.to_bits(), value.to_bits());
            }
        }
    }
}
