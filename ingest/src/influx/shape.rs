//! Lines of known series: measurement and tags up to the first space, and each field's key, are spelt as before.
//!
//! Only lines without quotes and backslashes are learnt. So whatever begins with a known spelling and goes on with numbers
//! ends at the next line break, and has no escapes to resolve.

use tidegate_model::{SeriesRef, TimeMs};

use super::{BLANKS, Decoded, Precision};
use crate::decimal;
use crate::spellings::{Spelling, Walk};

/// Reads the line that `text` begins with if all of its series are known, and returns the length of it without its line
/// break. Otherwise nothing is added.
pub(super) fn read<'k>(
    text: &[u8],
    walk: &mut Walk<'k>,
    scratch: &mut Vec<(u32, f64)>,
    precision: Precision,
    now: TimeMs,
    decoded: &mut Decoded,
) -> Option<usize> {
    scratch.clear();
    let mut spelling = first_field(text, walk)?;
    let [series, ..] = spelling.parts;
    let mut rest = &text[series.len()..];
    let time = loop {
        walk.step(spelling);
        rest = &rest[spelling.parts[1].len()..];
        let (value, length) = value(rest)?;
        scratch.push((spelling.id, value));
        rest = &rest[length..];
        match rest.first() {
            Some(b',') => {
                rest = &rest[1..];
                spelling = further_field(series, rest, walk)?;
            }
            Some(b' ') => {
                let (time, length) = timestamp(&rest[1..])?;
                rest = &rest[1 + length..];
                match rest.first() {
                    None | Some(b'\n') => break precision.to_ms(time)?,
                    Some(_) => return None,
                }
            }
            None | Some(b'\n') => break now,
            Some(_) => return None,
        }
    };
    for &(id, value) in scratch.iter() {
        decoded.batch.push_row(SeriesRef::Id(id), time, value);
    }
    Some(text.len() - rest.len())
}

fn first_field<'k>(text: &[u8], walk: &Walk<'k>) -> Option<Spelling<'k>> {
    if let Some(spelling) = walk.expected()
        && let Some(fields) = text.strip_prefix(spelling.parts[0])
        && fields.starts_with(spelling.parts[1])
    {
        return Some(spelling);
    }
    let (series, fields) = text.split_at(memchr::memchr2(b' ', b'\n', text)? + 1);
    walk.find([series, field_key(fields)?, b""])
}

fn further_field<'k>(series: &[u8], fields: &[u8], walk: &Walk<'k>) -> Option<Spelling<'k>> {
    if let Some(spelling) = walk.expected()
        && fields.starts_with(spelling.parts[1])
        && spelling.parts[0] == series
    {
        return Some(spelling);
    }
    walk.find([series, field_key(fields)?, b""])
}

/// A field's key with its `=`. Looks no further than the line, so that many bad lines do not each cost the whole body.
fn field_key(fields: &[u8]) -> Option<&[u8]> {
    Some(&fields[..=memchr::memchr2(b'=', b'\n', fields)?])
}

/// A number or a boolean, and its length; `None` for whatever else may be there.
fn value(text: &[u8]) -> Option<(f64, usize)> {
    /// So many digits are within the range of both kinds of integers.
    const MAX_DIGITS: usize = 18;
    let Some(number) = decimal::number(text) else { return boolean(text) };
    let is_integer = number.integer_digits.is_some_and(|digits| digits <= MAX_DIGITS);
    match text.get(number.length) {
        // An integer has no negative zero.
        Some(b'i') => is_integer.then_some((number.value + 0.0, number.length + 1)),
        Some(b'u') => (is_integer && text[0] != b'-').then_some((number.value, number.length + 1)),
        _ => Some((number.value, number.length)),
    }
}

fn boolean(text: &[u8]) -> Option<(f64, usize)> {
    let length = text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    match &text[..length] {
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Some((1.0, length)),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Some((0.0, length)),
        _ => None,
    }
}

fn timestamp(text: &[u8]) -> Option<(i64, usize)> {
    match text.strip_prefix(b"-") {
        Some(rest) => decimal::digits(rest).map(|(time, length)| (-time, length + 1)),
        None => decimal::digits(text),
    }
}

/// Notes how the series of a line are spelt whose samples are those of the batch from `first_row` on.
pub(super) fn learn(line: &[u8], first_row: usize, decoded: &mut Decoded) {
    let is_plain =
        line.first().is_some_and(|byte| !BLANKS.contains(byte)) && memchr::memchr2(b'"', b'\\', line).is_none();
    if !is_plain || decoded.batch.len() == first_row {
        return;
    }
    let Some(space) = memchr::memchr(b' ', line) else { return };
    let (series, fields) = line.split_at(space + 1);
    let fields = &fields[..memchr::memchr(b' ', fields).unwrap_or(fields.len())];
    let rows = &decoded.batch.series()[first_row..];
    // Several spaces before the fields, or anything else that is not seen here, leave another number of them.
    if fields.split(|byte| *byte == b',').count() != rows.len() {
        return;
    }
    for (field, row) in fields.split(|byte| *byte == b',').zip(rows) {
        if let (Some(key), SeriesRef::Key(at)) = (field_key(field), *row) {
            decoded.learnt.note([series, key, b""], 0, at);
        }
    }
}
