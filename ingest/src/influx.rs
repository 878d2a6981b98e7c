//! InfluxDB's line protocol, as `POST /write` (version 1) and `POST /api/v2/write` accept it.
//!
//! Each numeric or boolean field of a line becomes a sample of the metric `measurement.field`; the field `value` is the
//! measurement itself. Fields that hold texts are no measurements: they are skipped and counted. `db`, `rp`, `org` and
//! `bucket` are accepted and ignored, since there is one store.
//!
//! Lines are cut as InfluxDB cuts them, so a line break inside a quoted field belongs to the field. Where a quote is
//! never closed, InfluxDB loses the rest of the body; here only that one line is lost.

use std::borrow::Cow;

use serde::Serialize;
use tidegate_model::{SampleBatch, SeriesKey, SeriesRef, TimeMs};

use crate::opentsdb::Answer;
use crate::protocol::Protocol;
use crate::spellings::{Known, Learnt};

mod shape;

/// How many refused lines an answer names; the rest is only counted.
const MAX_NAMED: usize = 5;
/// InfluxDB's bound on a measurement with its tags.
const MAX_KEY_BYTES: usize = 65_535;
/// What a sample takes in the shortest form that clients use, for a first guess at their number.
const USUAL_SAMPLE_BYTES: usize = 40;
/// What may stand before a line.
const BLANKS: [u8; 3] = *b" \t\0";

/// The unit of the timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The protocol's default.
    #[default]
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

impl Precision {
    /// Reads the `precision` of version 1 (`n`, `ns`, `u`, `ms`, `s`, `m`, `h`) or 2 (`ns`, `us`, `ms`, `s`).
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "n" | "ns" => Self::Nanoseconds,
            "u" | "us" | "µ" => Self::Microseconds,
            "ms" => Self::Milliseconds,
            "s" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return None,
        })
    }

    /// A timestamp in ms, rounded towards the past; `None` when it is out of the range of a time.
    fn to_ms(self, time: i64) -> Option<TimeMs> {
        let ms = match self {
            Self::Nanoseconds => time.div_euclid(1_000_000),
            Self::Microseconds => time.div_euclid(1000),
            Self::Milliseconds => time,
            Self::Seconds => time.checked_mul(1000)?,
            Self::Minutes => time.checked_mul(60_000)?,
            Self::Hours => time.checked_mul(3_600_000)?,
        };
        Some(TimeMs(ms))
    }
}

/// What a body held.
#[derive(Debug)]
pub struct Decoded {
    /// The samples of the good lines in their order.
    pub batch: SampleBatch,
    /// How their series are spelt, as far as it was not known.
    pub learnt: Learnt,
    /// Per sample of `batch`, the number of its line.
    pub lines: Vec<usize>,
    /// The refused lines by number, 1-based, the first few of them.
    pub errors: Vec<LineError>,
    /// The number of all refused lines.
    pub failed: usize,
    /// The number of fields that were skipped since they hold texts.
    pub skipped_texts: usize,
}

/// Why a line is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Its number, 1-based.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Decoded {
    fn with_capacity(samples: usize) -> Self {
        Self {
            batch: SampleBatch::with_capacity(samples),
            learnt: Learnt::new(Protocol::Influx),
            lines: Vec::with_capacity(samples),
            errors: Vec::new(),
            failed: 0,
            skipped_texts: 0,
        }
    }

    /// Names a line whose sample the store refused. Rows must come in ascending order, so that a line with several
    /// refused fields counts once. Panics if the batch has no such row.
    pub fn refuse(&mut self, row: usize, reason: &str, refused_before: Option<usize>) {
        let line = self.lines[row];
        if refused_before.is_none_or(|before| self.lines[before] != line) {
            self.note(line, reason);
        }
    }

    fn note(&mut self, line: usize, reason: impl Into<String>) {
        self.failed += 1;
        if self.errors.len() < MAX_NAMED {
            self.errors.push(LineError { line, reason: reason.into() });
        }
    }
}

/// Reads a body. A line without a timestamp is of `now`. Bad lines are in [`Decoded::errors`].
pub fn decode(body: &[u8], precision: Precision, now: TimeMs, known: &Known) -> Decoded {
    let mut decoded = Decoded::with_capacity(body.len() / USUAL_SAMPLE_BYTES + 1);
    let (mut walk, mut scratch) = (known.walk(Protocol::Influx), Vec::new());
    let (mut rest, mut number) = (body, 1);
    while !rest.is_empty() {
        let first_row = decoded.batch.len();
        let length = match shape::read(rest, &mut walk, &mut scratch, precision, now, &mut decoded) {
            Some(length) => {
                decoded.lines.resize(decoded.batch.len(), number);
                number += 1;
                length
            }
            None => {
                let line = &rest[..line_end(rest)];
                read_line(line, number, precision, now, &mut decoded);
                shape::learn(line, first_row, &mut decoded);
                number += 1 + line.iter().filter(|byte| **byte == b'\n').count();
                line.len()
            }
        };
        rest = rest.get(length + 1..).unwrap_or_default();
    }
    decoded
}

/// Where the first line of `text` ends: at a line break outside of quotes.
fn line_end(text: &[u8]) -> usize {
    let is_comment = text.iter().find(|byte| !BLANKS.contains(byte)) == Some(&b'#');
    let mut in_fields = false;
    let mut in_quotes = false;
    let mut first_quoted_break = None;
    // The byte before, unless that one was escaped.
    let mut before = 0;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        let escaped = before == b'\\';
        match byte {
            b'\\' if in_quotes => at += 1,
            b'"' if in_quotes => in_quotes = false,
            b'\n' if in_quotes => _ = first_quoted_break.get_or_insert(at),
            // Outside of quotes no backslash joins two lines.
            b'\n' => return at,
            b' ' if !in_quotes && !escaped => in_fields = true,
            // A quote opens a text only as the first character of a field's value.
            b'"' if !in_quotes && in_fields && before == b'=' && !is_comment => in_quotes = true,
            _ => {}
        }
        before = if escaped && byte != b'\\' { 0 } else { byte };
        at += 1;
    }
    // A quote that is never closed must not swallow the lines behind it.
    first_quoted_break.filter(|_| in_quotes).unwrap_or(text.len())
}

fn read_line(line: &[u8], number: usize, precision: Precision, now: TimeMs, decoded: &mut Decoded) {
    let Ok(line) = std::str::from_utf8(line) else { return decoded.note(number, "not valid UTF-8") };
    let line = line.trim_start_matches(BLANKS.map(char::from)).trim_end_matches([' ', '\t', '\r']);
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    match Line::parse(line, precision) {
        Ok(parsed) => {
            let time = parsed.time.unwrap_or(now);
            for (field, value) in &parsed.fields {
                match value {
                    Some(value) => {
                        let metric = match field.as_ref() {
                            "value" => Cow::Borrowed(parsed.measurement.as_ref()),
                            field => Cow::Owned(format!("{}.{field}", parsed.measurement)),
                        };
                        let tags = parsed.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                        let key = decoded.batch.add_key(SeriesKey::from_parts(&metric, tags));
                        decoded.batch.push_row(SeriesRef::Key(key), time, *value);
                        decoded.lines.push(number);
                    }
                    None => decoded.skipped_texts += 1,
                }
            }
        }
        Err(reason) => decoded.note(number, reason),
    }
}

/// One line. A field's value is `None` when it is a text.
struct Line<'a> {
    measurement: Cow<'a, str>,
    tags: Vec<(String, String)>,
    fields: Vec<(Cow<'a, str>, Option<f64>)>,
    time: Option<TimeMs>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str, precision: Precision) -> Result<Self, String> {
        let (measurement, mut rest) = take_until(line, &[',', ' ']);
        if measurement.is_empty() {
            return Err("missing measurement".to_owned());
        }
        let mut tags = Vec::new();
        while let Some(after_comma) = rest.strip_prefix(',') {
            let (key, after_key) = take_until(after_comma, &[',', '=', ' ']);
            let Some(after_equals) = after_key.strip_prefix('=') else {
                return Err(format!("tag without a value after '{key}'"));
            };
            let (value, after_value) = take_until(after_equals, &[',', '=', ' ']);
            if key.is_empty() {
                return Err("missing tag key".to_owned());
            }
            if value.is_empty() {
                return Err(format!("missing tag value of '{key}'"));
            }
            if after_value.starts_with('=') {
                return Err(format!("unescaped '=' in the value of tag '{key}'"));
            }
            tags.push((unescape(key).into_owned(), unescape(value).into_owned()));
            rest = after_value;
        }
        if line.len() - rest.len() > MAX_KEY_BYTES {
            return Err(format!("measurement and tags are longer than {MAX_KEY_BYTES} bytes"));
        }
        check_no_duplicates(&tags)?;
        let (fields, rest) = fields(rest.trim_start_matches(' '))?;
        let time = match rest.trim_matches(' ') {
            "" => None,
            text => {
                let time: i64 = text.parse().map_err(|_| format!("bad timestamp '{}'", shortened(text)))?;
                Some(precision.to_ms(time).ok_or_else(|| format!("time {time} is out of range"))?)
            }
        };
        Ok(Self { measurement: unescape_measurement(measurement), tags, fields, time })
    }
}

fn check_no_duplicates(tags: &[(String, String)]) -> Result<(), String> {
    let mut keys: Vec<&str> = tags.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tag '{}' is given twice", pair[0])),
        None => Ok(()),
    }
}

type Fields<'a> = Vec<(Cow<'a, str>, Option<f64>)>;

/// Reads `key=value,key=value` and returns what stands behind it.
fn fields(mut rest: &str) -> Result<(Fields<'_>, &str), String> {
    let mut fields = Vec::with_capacity(2);
    loop {
        let (key, after_key) = take_until(rest, &[',', '=', ' ']);
        if key.is_empty() {
            return Err(if rest.is_empty() { "missing fields".to_owned() } else { "missing field key".to_owned() });
        }
        let Some(after_equals) = after_key.strip_prefix('=') else {
            return Err(format!("field '{}' has no value", shortened(key)));
        };
        let (value, after_value) =
            field_value(after_equals).map_err(|why| format!("field '{}': {why}", shortened(key)))?;
        fields.push((unescape(key), value));
        match after_value.strip_prefix(',') {
            Some(after_comma) => rest = after_comma,
            None if after_value.is_empty() || after_value.starts_with(' ') => return Ok((fields, after_value)),
            None => return Err(format!("field '{}': text behind its closing quote", shortened(key))),
        }
    }
}

/// Reads one value: a number as `f64`, a boolean as 1 or 0, a quoted text as `None`.
fn field_value(text: &str) -> Result<(Option<f64>, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = quote_end(quoted).ok_or("its quote is not closed")?;
        return Ok((None, &quoted[end + 1..]));
    }
    let end = text.find([',', ' ']).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    let number = match value {
        "" => return Err("missing value".to_owned()),
        "t" | "T" | "true" | "True" | "TRUE" => 1.0,
        "f" | "F" | "false" | "False" | "FALSE" => 0.0,
        _ => number(value).ok_or_else(|| format!("'{}' is no number", shortened(value)))?,
    };
    Ok((Some(number), rest))
}

fn quote_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })
}

/// A finite float, an integer with `i`, or an unsigned one with `u`.
fn number(text: &str) -> Option<f64> {
    if let Some(integer) = text.strip_suffix('i') {
        return integer.parse::<i64>().ok().map(|value| value as f64);
    }
    if let Some(unsigned) = text.strip_suffix('u') {
        return unsigned.parse::<u64>().ok().map(|value| value as f64);
    }
    // Rust also reads `inf`, `nan` and `infinity`, which the protocol does not know.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    text.parse().ok().filter(|value: &f64| is_number && value.is_finite())
}

/// Splits before the first of `stops` that has no backslash before it. Two backslashes are no escape of each other.
fn take_until<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    let mut before = '\0';
    let end = text.find(|c: char| {
        let stops_here = before != '\\' && stops.contains(&c);
        before = c;
        stops_here
    });
    text.split_at(end.unwrap_or(text.len()))
}

/// Resolves the escapes of a tag key, a tag value or a field key: a backslash before `,`, `=` or a space.
fn unescape(text: &str) -> Cow<'_, str> {
    unescape_before(text, &[',', '=', ' '])
}

/// A measurement escapes `,` and a space only.
fn unescape_measurement(text: &str) -> Cow<'_, str> {
    unescape_before(text, &[',', ' '])
}

/// Before anything else a backslash stands for itself.
fn unescape_before<'a>(text: &'a str, special: &[char]) -> Cow<'a, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && special.contains(next) => {}
            _ => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

fn shortened(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 40;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Which of InfluxDB's two write interfaces a client uses; they differ in how an error looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `/write`.
    V1,
    /// `/api/v2/write`.
    V2,
}

impl Version {
    /// The answer when the good lines are in the store and those in `decoded` are refused.
    pub fn answer(self, decoded: &Decoded) -> Answer {
        if decoded.failed == 0 {
            return (204, None);
        }
        let mut named: Vec<String> = decoded.errors.iter().map(ToString::to_string).collect();
        if decoded.failed > named.len() {
            named.push(format!("and {} more lines", decoded.failed - named.len()));
        }
        // Clients tell this from a failure that is worth a retry by the words "partial write".
        self.error_answer(400, &format!("partial write: {} dropped={}", named.join("; "), decoded.failed))
    }

    /// An error in the version's own shape.
    pub fn error_answer(self, status: u16, message: &str) -> Answer {
        #[derive(Serialize)]
        struct V1Body<'a> {
            error: &'a str,
        }
        #[derive(Serialize)]
        struct V2Body<'a> {
            code: &'a str,
            message: &'a str,
        }
        let json = match self {
            Self::V1 => serde_json::to_string(&V1Body { error: message }),
            Self::V2 => {
                let code = match status {
                    400 | 415 => "invalid",
                    413 => "request too large",
                    _ => "internal error",
                };
                serde_json::to_string(&V2Body { code, message })
            }
        };
        (status, Some(json.expect("texts always have a JSON form")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::spellings::Spellings;

    const NOW: TimeMs = TimeMs(1_795_291_200_000);

    /// Decodes with nothing known, and again with all that this has taught: both must agree.
    fn decode(body: &[u8], precision: Precision, now: TimeMs) -> Decoded {
        let spellings = Spellings::for_series(100);
        let first = super::decode(body, precision, now, &spellings.read());
        for _ in 0..2 {
            learn(&spellings, &first);
            compare(&first, &super::decode(body, precision, now, &spellings.read()));
        }
        first
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

    fn compare(one: &Decoded, other: &Decoded) {
        let ids = |decoded: &Decoded| -> Vec<u32> {
            let id = |series: &SeriesRef| match series {
                SeriesRef::Key(at) => id_of(&decoded.batch.keys()[*at as usize]),
                SeriesRef::Id(id) => *id,
            };
            decoded.batch.series().iter().map(id).collect()
        };
        let bits = |decoded: &Decoded| decoded.batch.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(ids(one), ids(other));
        assert_eq!((one.batch.times(), bits(one)), (other.batch.times(), bits(other)));
        assert_eq!((&one.lines, &one.errors), (&other.lines, &other.errors));
        assert_eq!((one.failed, one.skipped_texts), (other.failed, other.skipped_texts));
    }

    fn decoded(body: &str) -> Decoded {
        decode(body.as_bytes(), Precision::Nanoseconds, NOW)
    }

    /// The samples as `metric{k=v} value @time`.
    fn rows(body: &str) -> Vec<String> {
        let decoded = decoded(body);
        assert_eq!(decoded.errors, [], "{body}");
        let show = |(key, time, value): (&SeriesKey, TimeMs, f64)| {
            let tags: Vec<_> = key.tags().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{}{{{}}} {value} @{time}", key.metric(), tags.join(","))
        };
        decoded.batch.rows().map(show).collect()
    }

    fn error(body: &str) -> String {
        let decoded = decoded(body);
        assert_eq!((decoded.batch.len(), decoded.failed), (0, 1), "{body}: {:?}", decoded.errors);
        decoded.errors[0].to_string()
    }

    #[test]
    fn each_numeric_field_is_a_metric() {
        assert_eq!(
            rows(
                "cpu,host=a,core=0 user=1.5,system=2i,value=-3e-1,up=t,n=18446744073709551615u,note=\"x\" 1795291199123456789"
            ),
            [
                "cpu.user{core=0,host=a} 1.5 @1795291199123",
                "cpu.system{core=0,host=a} 2 @1795291199123",
                "cpu{core=0,host=a} -0.3 @1795291199123",
                "cpu.up{core=0,host=a} 1 @1795291199123",
                "cpu.n{core=0,host=a} 18446744073709552000 @1795291199123",
            ]
        );
        assert_eq!(decoded("m s=\"a\",t=\"b\"").skipped_texts, 2);
    }

    #[test]
    fn a_line_without_a_time_is_of_now() {
        assert_eq!(rows("m value=1"), ["m{} 1 @1795291200000"]);
        assert_eq!(rows("m value=1 \r\n"), ["m{} 1 @1795291200000"]);
    }

    #[test]
    fn times_are_in_the_requests_precision() {
        for (precision, sent, ms) in [
            ("", 1_795_291_199_123_999_999_i64, 1_795_291_199_123),
            ("n", -1, -1),
            ("u", 1_795_291_199_123_999, 1_795_291_199_123),
            ("us", 1_795_291_199_123_999, 1_795_291_199_123),
            ("ms", 1_795_291_199_123, 1_795_291_199_123),
            ("s", 1_795_291_199, 1_795_291_199_000),
            ("m", 29_921_519, 1_795_291_140_000),
            ("h", 498_691, 1_795_287_600_000),
        ] {
            let decoded = decode(format!("m value=1 {sent}").as_bytes(), Precision::parse(precision).unwrap(), NOW);
            assert_eq!(decoded.batch.times(), [ms], "{precision}");
        }
        assert_eq!(Precision::parse("d"), None);
        let far = decode(b"m value=1 9223372036854775807", Precision::Hours, NOW);
        assert_eq!(far.errors[0].to_string(), "line 1: time 9223372036854775807 is out of range");
    }

    #[test]
    fn escapes_stand_for_what_they_escape() {
        assert_eq!(
            rows(r"a\,b\ c\=d,t\,a\=g=v\ 1\,2\=3,q=C:\dir f\ x=1"),
            [r"a,b c\=d.f x{q=C:\dir,t,a=g=v 1,2=3} 1 @1795291200000"]
        );
        assert_eq!(rows(r#"m,q="x" value=1"#), [r#"m{q="x"} 1 @1795291200000"#]);
        assert_eq!(rows("m f\\=\"a=1\nm,q=\"x value=2"), ["m.f=\"a{} 1 @1795291200000", "m{q=\"x} 2 @1795291200000"]);
    }

    #[test]
    fn a_quoted_field_may_hold_anything() {
        assert_eq!(
            rows("m note=\"a, b=c \\\"d\\\" \\\\\",value=1\nn note=\"two\nlines # x\",value=2\no value=3"),
            ["m{} 1 @1795291200000", "n{} 2 @1795291200000", "o{} 3 @1795291200000"]
        );
        let text = "m note=\"two\nlines\",value=1\n\nm value=x";
        assert_eq!(decoded(text).errors[0].line, 4, "line breaks inside of a text count as lines");
    }

    #[test]
    fn comments_and_empty_lines_are_nothing() {
        assert_eq!(rows("# a comment value=1\n\n   \nm value=1\n  # another"), ["m{} 1 @1795291200000"]);
        assert_eq!(rows("# say f=\"x\nm value=1"), ["m{} 1 @1795291200000"]);
        assert!(rows("").is_empty());
    }

    #[test]
    fn each_fault_is_named() {
        for (line, reason) in [
            (",a=b value=1", "missing measurement"),
            ("m,a value=1", "tag without a value after 'a'"),
            ("m,a= value=1", "missing tag value of 'a'"),
            ("m,=b value=1", "missing tag key"),
            ("m,a=b=c value=1", "unescaped '=' in the value of tag 'a'"),
            ("m,a=b,a=c value=1", "tag 'a' is given twice"),
            ("m", "missing fields"),
            ("m,a=b", "missing fields"),
            ("m =1", "missing field key"),
            ("m value", "field 'value' has no value"),
            ("m value=", "field 'value': missing value"),
            ("m value=1,", "missing fields"),
            ("m value=NaN", "field 'value': 'NaN' is no number"),
            ("m value=inf", "field 'value': 'inf' is no number"),
            ("m value=1e400", "field 'value': '1e400' is no number"),
            ("m value=1.5i", "field 'value': '1.5i' is no number"),
            ("m value=9223372036854775808i", "field 'value': '9223372036854775808i' is no number"),
            ("m value=-1u", "field 'value': '-1u' is no number"),
            ("m value=0x10", "field 'value': '0x10' is no number"),
            ("m s=\"open", "field 's': its quote is not closed"),
            ("m s=\"a\"b", "field 's': text behind its closing quote"),
            ("m value=1 noon", "bad timestamp 'noon'"),
            ("m value=1 1 2", "bad timestamp '1 2'"),
            ("m value=1 99999999999999999999", "bad timestamp '99999999999999999999'"),
        ] {
            assert_eq!(error(line), format!("line 1: {reason}"), "{line}");
        }
        let cut = decode(b"m value=1\nm,t=\xc3", Precision::Nanoseconds, NOW);
        assert_eq!((cut.batch.len(), cut.errors[0].to_string()), (1, "line 2: not valid UTF-8".to_owned()));
    }

    #[test]
    fn an_open_quote_loses_its_own_line_only() {
        let body = b"m s=\"\\";
        assert_eq!(decode(body, Precision::Seconds, NOW).failed, 1);
        let found = decoded("m s=\"open,value=1\nm value=2\nm value=3");
        assert_eq!((found.batch.values(), found.failed), (&[2.0, 3.0][..], 1));
    }

    #[test]
    fn bad_lines_are_named_by_number_and_good_ones_kept() {
        let found = decoded("m value=1\n# note\nm value=x\nm value=2");
        assert_eq!(found.batch.values(), [1.0, 2.0]);
        assert_eq!(
            Version::V1.answer(&found),
            (400, Some(r#"{"error":"partial write: line 3: field 'value': 'x' is no number dropped=1"}"#.to_owned()))
        );
        assert_eq!(
            Version::V2.answer(&found).1.unwrap(),
            r#"{"code":"invalid","message":"partial write: line 3: field 'value': 'x' is no number dropped=1"}"#
        );
        let many = decoded(&"m\n".repeat(7));
        let (_, text) = Version::V1.answer(&many);
        assert!(text.unwrap().ends_with("line 5: missing fields; and 2 more lines dropped=7\"}"));
    }

    #[test]
    fn a_line_with_two_refused_fields_is_dropped_once() {
        let mut found = decoded("m a=1,b=2\nm a=3");
        found.refuse(0, "too old", None);
        found.refuse(1, "too old", Some(0));
        found.refuse(2, "too old", Some(1));
        assert_eq!((found.failed, found.errors.len()), (2, 2));
    }

    #[test]
    fn a_line_like_the_one_before_needs_no_key() {
        let spellings = Spellings::for_series(100);
        let body = |value: &str, time: u64| format!("cpu,host=a user={value},sys=2i,up=t {time}\nmem value={value}\n");
        let decode = |body: &str| super::decode(body.as_bytes(), Precision::Seconds, NOW, &spellings.read());
        learn(&spellings, &decode(&body("1", 1)));
        for (value, time) in [("-2.50", 1_795_291_199), ("7i", 1), ("0u", 2), ("false", 3), ("1e-3", 4)] {
            let body = body(value, time);
            let found = decode(&body);
            assert!(found.batch.keys().is_empty(), "{body}");
            compare(&super::decode(body.as_bytes(), Precision::Seconds, NOW, &Known::default()), &found);
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            6 => "-?[0-9]{1,3}(\\.[0-9]{1,2})?",
            2 => "-?[0-9]{1,20}[iu]?",
            1 => "[0-9eE+.iu-]{0,5}",
            1 => prop_oneof![Just("t"), Just("False"), Just("tru"), Just("NaN"), Just("\"a b\""), Just("\"o"), Just("\"\n\"")]
                .prop_map(str::to_owned),
        ];
        let field = ("[fgé]|value|f\\\\ x", value).prop_map(|(key, value)| format!("{key}={value}"));
        let series =
            prop_oneof![6 => "m(,a=[xy])?", 1 => "m,a=x,b=\"", 1 => "#?m,a=[xy],a=[xy]", 1 => "m\\\\ n", 1 => " m"];
        let time = prop_oneof![4 => " 1[0-9]{9}", 2 => "", 1 => " -?[0-9]{1,20}", 1 => "  [0-9]{3} ?\r?", 1 => " x"];
        (series, "  ?", proptest::collection::vec(field, 1..4), time)
            .prop_map(|(series, gap, fields, time)| format!("{series}{gap}{}{time}", fields.join(",")))
    }

    fn escaped(text: &str, special: &[char]) -> String {
        text.chars().flat_map(|c| special.contains(&c).then_some('\\').into_iter().chain([c])).collect()
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            decode(&body, Precision::Seconds, NOW);
        }

        #[test]
        fn no_text_of_the_protocols_characters_makes_it_panic(body in "[mv=, \"\\\\\n1it#.é]{0,60}") {
            let found = decoded(&body);
            prop_assert_eq!(found.batch.len(), found.lines.len());
            prop_assert!(found.failed <= body.lines().count() + 1);
        }

        /// All bodies go through one cache, so what one has taught is met by those behind it.
        #[test]
        fn known_spellings_change_nothing(
            bodies in proptest::collection::vec(proptest::collection::vec(line(), 0..6), 1..6),
            damage in proptest::option::weighted(0.3, (0usize..4000, any::<u8>())),
        ) {
            let spellings = Spellings::for_series(20);
            for lines in bodies.iter().chain(&bodies) {
                let mut body = lines.join("\n").into_bytes();
                if let Some((at, byte)) = damage
                    && !body.is_empty()
                {
                    let at = at % body.len();
                    body[at] = byte;
                }
                let found = super::decode(&body, Precision::Seconds, NOW, &spellings.read());
                compare(&super::decode(&body, Precision::Seconds, NOW, &Known::default()), &found);
                learn(&spellings, &found);
            }
        }

        /// A trailing backslash cannot be written in the protocol, a leading `#` is a comment.
        #[test]
        fn what_is_escaped_comes_back(
            measurement in "[a-z][a-z ,=é\"#]{0,8}[a-z\"]",
            key in "[a-z ,=é\"]{1,8}[a-z]", value in "[a-z ,=é\"\\\\]{1,8}[a-z]", field in "[a-z ,=é\"]{0,8}[a-z]",
            number in proptest::num::f64::NORMAL, time in 0i64..4_000_000_000_000,
        ) {
            let tag = [',', '=', ' '];
            // A backslash before a special character cannot be written either: the protocol has no escape for itself.
            let value = value.replace("\\ ", "\\x").replace("\\,", "\\x").replace("\\=", "\\x").replace("\\\\", "\\x");
            let line = format!(
                "{},{}={} {}={number:?} {time}",
                escaped(&measurement, &[',', ' ']), escaped(&key, &tag), escaped(&value, &tag), escaped(&field, &tag),
            );
            let found = decode(line.as_bytes(), Precision::Milliseconds, NOW);
            prop_assert_eq!(&found.errors, &[]);
            let (series, at, got) = found.batch.rows().next().expect("one sample");
            let metric = if field == "value" { measurement } else { format!("{measurement}.{field}") };
            prop_assert_eq!(series, &SeriesKey::new(metric, [(key, value)]));
            prop_assert_eq!((at.0, got.to_bits()), (time, number.to_bits()));
        }
    }
}
