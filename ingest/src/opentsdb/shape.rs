//! Points of a known shape: what a client sends again and again differs from the time before in two numbers only.
//!
//! A point is cut into the text before its first number, between the two, and behind the second; which of them is the
//! timestamp is noted as the form. A point whose texts are known is well formed and has a known series, whatever else is in
//! it: fields that are not OpenTSDB's, escapes, another order. What is not known goes through the general decoder, point by
//! point; a body in which anything else is odd goes there as a whole.

use std::ops::Range;

use serde_json::value::RawValue;
use tidegate_model::SeriesRef;

use super::{Decoded, read_element, to_ms};
use crate::decimal;
use crate::json::Element;
use crate::protocol::Protocol;
use crate::spellings::{Known, Spelling, Walk};

/// The form of a spelling whose first number is the timestamp.
const TIME_FIRST: u8 = 0;
/// The form of a spelling whose first number is the value.
const VALUE_FIRST: u8 = 1;
/// What a point takes in the shortest form that clients use, for a first guess at their number.
const USUAL_POINT_BYTES: usize = 100;

/// Reads a body as [`super::decode`] does; `None` when only the general decoder can tell what is in it.
pub(super) fn decode(body: &[u8], known: &Known) -> Option<Decoded> {
    let mut points = Points {
        body,
        walk: known.walk(Protocol::OpenTsdb),
        decoded: Decoded::with_capacity(body.len() / USUAL_POINT_BYTES + 1),
    };
    let mut at = after_blanks(body, 0);
    if *body.get(at)? == b'[' {
        at = after_blanks(body, at + 1);
        while body.get(at) != Some(&b']') {
            at = after_blanks(body, points.read(at)?);
            match body.get(at)? {
                b',' => at = after_blanks(body, at + 1),
                b']' => break,
                _ => return None,
            }
            // A comma promises a point.
            if body.get(at)? != &b'{' {
                return None;
            }
        }
        at += 1;
    } else {
        at = points.read(at)?;
    }
    (after_blanks(body, at) == body.len()).then_some(points.decoded)
}

fn after_blanks(body: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = body.get(at) {
        at += 1;
    }
    at
}

struct Points<'a, 'k> {
    body: &'a [u8],
    walk: Walk<'k>,
    decoded: Decoded,
}

impl<'k> Points<'_, 'k> {
    /// Reads the point at `at` and returns where it ends.
    fn read(&mut self, at: usize) -> Option<usize> {
        if let Some(spelling) = self.walk.expected()
            && let Some(end) = self.read_as(spelling, at)
        {
            return Some(end);
        }
        let body = self.body;
        let shape = Shape::of(body, at)?;
        if let Some(parts) = &shape.parts
            && let Some(spelling) = self.walk.find(parts.clone().map(|part| &body[part]))
            && let Some(end) = self.read_as(spelling, at)
        {
            return Some(end);
        }
        let raw: &RawValue = serde_json::from_slice(&body[at..shape.end]).ok()?;
        let read = read_element(Element::new(raw), &mut self.decoded);
        if let (Some(key), Some(parts)) = (read, shape.parts) {
            self.decoded.learnt.note(parts.map(|part| &body[part]), shape.form, key);
        }
        Some(shape.end)
    }

    /// Reads the point at `at` if it is spelt so and its numbers are fit to be stored.
    fn read_as(&mut self, spelling: Spelling<'k>, at: usize) -> Option<usize> {
        let [before, between, behind] = spelling.parts;
        let rest = self.body[at..].strip_prefix(before)?;
        let (sent, value, rest) = if spelling.form == TIME_FIRST {
            let (sent, length) = timestamp(rest)?;
            let rest = rest[length..].strip_prefix(between)?;
            let number = decimal::number(rest)?;
            (sent, number.value, &rest[number.length..])
        } else {
            let number = decimal::number(rest)?;
            let rest = rest[number.length..].strip_prefix(between)?;
            let (sent, length) = timestamp(rest)?;
            (sent, number.value, &rest[length..])
        };
        let rest = rest.strip_prefix(behind)?;
        let time = to_ms(sent)?;
        self.decoded.batch.push_row(SeriesRef::Id(spelling.id), time, value);
        self.decoded.sent_times.push(sent);
        self.walk.step(spelling);
        Some(self.body.len() - rest.len())
    }
}

/// A timestamp without a fraction, sign or leading zero.
fn timestamp(text: &[u8]) -> Option<(i64, usize)> {
    (text.first()? != &b'0').then(|| decimal::digits(text))?
}

/// A point as it is spelt.
struct Shape {
    end: usize,
    /// The texts around the two numbers; `None` when it has not one plain timestamp and one plain value.
    parts: Option<[Range<usize>; 3]>,
    form: u8,
}

impl Shape {
    /// Cuts the object at `at` into its members. Accepts more than JSON does: whoever learns from it has the object
    /// checked. `None` when it has no end.
    fn of(body: &[u8], at: usize) -> Option<Self> {
        if *body.get(at)? != b'{' {
            return None;
        }
        let (mut time, mut value, mut plain) = (None, None, true);
        let mut place = after_blanks(body, at + 1);
        while *body.get(place)? != b'}' {
            let key_end = text_end(body, place)?;
            let key = &body[place..key_end];
            place = after_blanks(body, key_end);
            if *body.get(place)? != b':' {
                return None;
            }
            place = after_blanks(body, place + 1);
            let end = value_end(body, place)?;
            let slot = match key {
                b"\"timestamp\"" => Some(&mut time),
                b"\"value\"" => Some(&mut value),
                // An escape may spell either name in another way.
                _ => {
                    plain &= !key.contains(&b'\\');
                    None
                }
            };
            if let Some(slot) = slot {
                plain &= slot.is_none();
                *slot = Some(without_quotes(body, place..end));
            }
            place = after_blanks(body, end);
            match *body.get(place)? {
                b',' => place = after_blanks(body, place + 1),
                b'}' => {}
                _ => return None,
            }
        }
        let end = place + 1;
        let slots = time.zip(value).filter(|(time, value)| {
            let is_time = timestamp(&body[time.clone()]).is_some_and(|(_, length)| length == time.len());
            let is_value = decimal::number(&body[value.clone()]).is_some_and(|number| number.length == value.len());
            plain && is_time && is_value
        });
        let form =
            if slots.as_ref().is_some_and(|(time, value)| value.start < time.start) { VALUE_FIRST } else { TIME_FIRST };
        let parts = slots.map(|(time, value)| {
            let (first, second) = if form == TIME_FIRST { (time, value) } else { (value, time) };
            [at..first.start, first.end..second.start, second.end..end]
        });
        Some(Self { end, parts, form })
    }
}

fn without_quotes(body: &[u8], value: Range<usize>) -> Range<usize> {
    if body[value.start] == b'"' { value.start + 1..value.end - 1 } else { value }
}

/// Where the text in quotes at `at` ends.
fn text_end(body: &[u8], at: usize) -> Option<usize> {
    if *body.get(at)? != b'"' {
        return None;
    }
    let mut place = at + 1;
    loop {
        place += memchr::memchr2(b'"', b'\\', body.get(place..)?)?;
        if body[place] == b'"' {
            return Some(place + 1);
        }
        place += 2;
    }
}

/// Where the value at `at` ends.
fn value_end(body: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut place = at;
    loop {
        match *body.get(place)? {
            b'"' => place = text_end(body, place)?,
            b'{' | b'[' => {
                depth += 1;
                place += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                place += 1;
            }
            // The end of a number or a word.
            b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return (place > at).then_some(place),
            _ => {
                place += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(place);
        }
    }
}
