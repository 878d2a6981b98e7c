//! Protocol buffers' encoding, as far as it is needed to read a message: tags, varints, fixed numbers and lengths.

/// Why bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct WireError {
    /// What is wrong.
    pub what: &'static str,
    /// Where, from the beginning of the body.
    pub at: usize,
}

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(Reader<'a>),
    Fixed32,
}

/// Bytes that are yet to be read, within the body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    pub at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0, end: body.len() }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        &self.body[self.at..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// What stands behind the next `count` bytes, which the caller has seen.
    pub(super) fn behind(self, count: usize) -> Self {
        Self { at: self.end.min(self.at + count), ..self }
    }

    pub(super) fn error<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, at: self.at })
    }

    /// The next field's number and content; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, WireError> {
        if self.is_empty() {
            return Ok(None);
        }
        let start = *self;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => Value::Bytes(self.delimited()?),
            5 => {
                self.fixed::<4>()?;
                Value::Fixed32
            }
            _ => return start.error("field of an unknown wire type"),
        };
        match tag >> 3 {
            0 => start.error("field number 0"),
            number => Ok(Some((number, value))),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (byte, shift) in self.bytes().iter().zip((0..64).step_by(7)) {
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.at += shift / 7 + 1;
                return Ok(value);
            }
        }
        self.error(if self.end - self.at < 10 { "number is cut off" } else { "number of more than 64 bits" })
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some(bytes) = self.bytes().first_chunk::<N>() else { return self.error("number is cut off") };
        self.at += N;
        Ok(*bytes)
    }

    fn delimited(&mut self) -> Result<Reader<'a>, WireError> {
        let start = *self;
        let length = self.varint()?;
        match usize::try_from(length).ok().and_then(|length| self.at.checked_add(length)) {
            Some(end) if end <= self.end => {
                let inner = Reader { body: self.body, at: self.at, end };
                self.at = end;
                Ok(inner)
            }
            _ => start.error("length reaches beyond the end"),
        }
    }
}

/// Appends a field of bytes, as a message has it.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push((number << 3) | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
