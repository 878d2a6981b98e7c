//! JSON as the push formats need it: one level at a time, numbers as text, one bad element harming no other.
//!
//! A whole body is read in one pass that only checks the syntax and cuts it into elements; each element is read by
//! itself afterwards. So a number that no `f64` can hold, or a lone surrogate, is the fault of one point.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Where and why a body is not JSON. Line and column are 1-based.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {line} column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub message: String,
    /// Line of the body.
    pub line: usize,
    /// Column in bytes.
    pub column: usize,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let place = format!(" at line {line} column {column}");
        Self { message: text.strip_suffix(&place).unwrap_or(&text).to_owned(), line, column }
    }
}

/// Calls `each` for every element of the array in `body`, or once for a body that is not an array.
///
/// Fails, possibly after some calls, when the body as a whole is not JSON.
pub(crate) fn for_each<'a>(body: &'a [u8], each: impl FnMut(Element<'a>)) -> Result<(), JsonError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    if first_byte(body) == Some(b'[') {
        json.deserialize_seq(Elements(each))?;
    } else {
        let mut each = each;
        let raw: &RawValue = serde::Deserialize::deserialize(&mut json)?;
        each(Element::new(raw));
    }
    Ok(json.end()?)
}

/// The lines on which the elements of [`for_each`] begin, from 1; none when the body is not JSON even with its bare words
/// in quotes, which move nothing to another line.
#[cfg(feature = "routes")]
pub(crate) fn lines(body: &[u8]) -> Vec<usize> {
    let lines = element_lines(body).ok();
    let lines = lines.or_else(|| element_lines(&quote_non_numbers(body)?).ok());
    lines.unwrap_or_default()
}

#[cfg(feature = "routes")]
fn element_lines(body: &[u8]) -> Result<Vec<usize>, JsonError> {
    let mut lines = Vec::new();
    let (mut seen, mut line) = (0, 1);
    for_each(body, |element| {
        // An element is a part of the body, so the distance between the two is its place.
        let at = element.json().as_ptr() as usize - body.as_ptr() as usize;
        line += memchr::memchr_iter(b'\n', &body[seen..at]).count();
        seen = at;
        lines.push(line);
    })?;
    Ok(lines)
}

/// The first byte that is not white space.
pub(crate) fn first_byte(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

struct Elements<F>(F);

impl<'a, F: FnMut(Element<'a>)> Visitor<'a> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            (self.0)(Element::new(raw));
        }
        Ok(())
    }
}

/// The text of one JSON value whose syntax has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a>(&'a str);

/// What an [`Element`] is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    Null,
    Bool(bool),
    /// The number as it was written.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An array, an object, or a text that is not Unicode (a lone surrogate).
    Other,
}

impl<'a> Element<'a> {
    pub(crate) fn new(raw: &'a RawValue) -> Self {
        Self(raw.get())
    }

    /// The JSON text.
    pub(crate) fn json(self) -> &'a str {
        self.0
    }

    pub(crate) fn kind(self) -> Kind<'a> {
        match self.0.as_bytes().first() {
            Some(b'n') => Kind::Null,
            Some(b't') => Kind::Bool(true),
            Some(b'f') => Kind::Bool(false),
            Some(b'"') => match self.text() {
                Some(text) => Kind::Text(text),
                None => Kind::Other,
            },
            Some(b'-' | b'0'..=b'9') => Kind::Number(self.0),
            _ => Kind::Other,
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.0).ok().map(Cow::Owned)
    }

    /// The members of an object in their order, repeated keys included; `None` when it is no object or a key is not
    /// Unicode.
    pub(crate) fn members(self) -> Option<Vec<(Cow<'a, str>, Element<'a>)>> {
        if !self.0.starts_with('{') {
            return None;
        }
        let mut json = serde_json::Deserializer::from_str(self.0);
        json.deserialize_map(Members).ok()
    }
}

struct Members;

impl<'a> Visitor<'a> for Members {
    type Value = Vec<(Cow<'a, str>, Element<'a>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(4);
        while let Some(key) = map.next_key_seed(Key)? {
            members.push((key, Element::new(map.next_value::<&RawValue>()?)));
        }
        Ok(members)
    }
}

struct Key;

impl<'a> DeserializeSeed<'a> for Key {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The body with `NaN` and the infinities, which Java's and Python's JSON writers emit as bare words, put in quotes;
/// `None` when it holds none. A point with such a value is then refused by itself and not with the whole request.
pub(crate) fn quote_non_numbers(body: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 4] = [b"NaN", b"Infinity", b"-Infinity", b"+Infinity"];
    let mut fixed = Vec::new();
    let (mut copied, mut at, mut in_text) = (0, 0, false);
    while at < body.len() {
        match body[at] {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'N' | b'I' | b'-' | b'+' if !in_text => {
                if let Some(word) = WORDS.iter().find(|word| body[at..].starts_with(word)) {
                    fixed.extend_from_slice(&body[copied..at]);
                    fixed.push(b'"');
                    fixed.extend_from_slice(word);
                    fixed.push(b'"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    fixed.extend_from_slice(&body[copied..]);
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "routes")]
    #[test]
    fn elements_are_found_on_their_lines() {
        assert_eq!(lines(b"[\n  1,\n  {\n\"a\": 2},   3\n]"), [2, 3, 4]);
        assert_eq!(lines(b"\n\n {\"a\":\n1}"), [3]);
        assert_eq!(lines(b"[NaN,\n1, -Infinity]"), [1, 2, 2]);
        assert_eq!(lines(b"[1,\n2"), [0_usize; 0]);
    }

    fn elements(body: &[u8]) -> Result<Vec<&str>, JsonError> {
        let mut found = Vec::new();
        for_each(body, |element| found.push(element.json())).map(|()| found)
    }

    #[test]
    fn an_array_gives_its_elements_and_anything_else_itself() {
        assert_eq!(elements(b" [1, {\"a\":[2]} ,null] ").unwrap(), ["1", "{\"a\":[2]}", "null"]);
        assert_eq!(elements(b"{\"a\":1}").unwrap(), ["{\"a\":1}"]);
        assert_eq!(elements(b"[]").unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn a_syntax_error_has_its_place_in_the_whole_body() {
        let error = elements(b"[{\"a\":1},\n {\"b\":}]").unwrap_err();
        assert_eq!((error.line, error.column), (2, 7));
        assert_eq!(error.to_string(), format!("{} at line 2 column 7", error.message));
        assert!(elements(b"[1] x").is_err());
        assert!(elements(b"[\"\xc3").is_err());
        assert!(elements(b"").is_err());
    }

    #[test]
    fn what_no_float_can_hold_is_still_an_element() {
        let mut kinds = Vec::new();
        for_each(br#"[1e400, "\ud800", "a\u00e9", true]"#, |element| kinds.push(element.kind())).unwrap();
        assert_eq!(kinds, [Kind::Number("1e400"), Kind::Other, Kind::Text("aé".into()), Kind::Bool(true)]);
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(elements(deep.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn bare_non_numbers_are_quoted_outside_texts_only() {
        let body = br#"[{"a":NaN,"NaN \" NaN":-Infinity},Infinity]"#;
        let fixed = quote_non_numbers(body).unwrap();
        assert_eq!(fixed, br#"[{"a":"NaN","NaN \" NaN":"-Infinity"},"Infinity"]"#);
        assert_eq!(quote_non_numbers(br#"[{"NaN":-1}]"#), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = for_each(&body, |element| { element.kind(); element.members(); });
            quote_non_numbers(&body);
        }
    }
}
