//! As much of D-Bus as it takes to call one method of systemd: a connection that is closed after the call, the message's
//! little-endian bytes, and the reply.
//!
//! Written out here because a general library would bring an asynchronous runtime of its own, a thread and dozens of crates
//! into an agent that makes this one call, and none of them bounds connecting in time. The rules are those of the D-Bus
//! specification, "Marshaling" and "Message Format"; the daemon between us and systemd checks each message against them.

#[cfg(test)]
pub(crate) mod fake;

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::runtime::sent::{Failure, Sent};
use crate::runtime::socket::TimedSocket;

/// Longer than any reply that is expected here, far below the 128 MiB that the specification allows.
const MAX_MESSAGE: usize = 1 << 20;
const MAX_LINE: usize = 1024;

/// Message types.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Sets properties of a unit until the next boot. The inner error is systemd's or the bus's own, in words.
pub(super) fn set_unit_properties(
    socket: &Path,
    unit: &str,
    properties: &[(&str, u64)],
    timeout: Duration,
) -> Result<Result<(), String>, Failure> {
    let mut bus = Bus::connect(socket, timeout)?;
    let mut body = Bytes::default();
    body.text(unit);
    // `runtime`: kept in /run, not in /etc.
    body.u32(1);
    body.array(8, |array| {
        for (name, value) in properties {
            array.align(8);
            array.text(name);
            array.signature("t");
            array.u64(*value);
        }
    });
    let call = Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "SetUnitProperties",
        signature: "sba(sv)",
        body: body.0,
    };
    let reply = match bus.call(&call) {
        Ok(reply) => reply,
        Err(error) => {
            let waits = error.kind() == io::ErrorKind::TimedOut;
            let is_yes = |text: &[u8]| text.get(1) == Some(&METHOD_RETURN);
            let sent = Sent::new(waits.then(|| bus.stream.into_stream()), is_yes);
            return Err(Failure { error, sent: Some(sent) });
        }
    };
    Ok(match reply.kind {
        METHOD_RETURN => Ok(()),
        _ => Err(reply.error_text()),
    })
}

/// Connects and takes leave again.
pub(super) fn reach(socket: &Path, timeout: Duration) -> io::Result<()> {
    Bus::connect(socket, timeout).map(drop)
}

/// A method call.
struct Call<'a> {
    destination: &'a str,
    path: &'a str,
    interface: &'a str,
    member: &'a str,
    signature: &'a str,
    body: Vec<u8>,
}

impl Call<'_> {
    fn to_bytes(&self, serial: u32) -> Vec<u8> {
        let texts = [
            (PATH, "o", self.path),
            (DESTINATION, "s", self.destination),
            (INTERFACE, "s", self.interface),
            (MEMBER, "s", self.member),
            (SIGNATURE, "g", self.signature),
        ];
        message(METHOD_CALL, serial, &texts, None, &self.body)
    }
}

/// The bytes of a message. Fields without a text are left out.
fn message(kind: u8, serial: u32, texts: &[(u8, &str, &str)], reply_to: Option<u32>, body: &[u8]) -> Vec<u8> {
    // Little endian, no flags, version 1.
    let mut bytes = Bytes(vec![b'l', kind, 0, 1]);
    bytes.u32(body.len() as u32);
    bytes.u32(serial);
    bytes.array(8, |fields| {
        for (code, kind, text) in texts.iter().filter(|(_, _, text)| !text.is_empty()) {
            fields.align(8);
            fields.0.push(*code);
            fields.signature(kind);
            if *kind == "g" { fields.signature(text) } else { fields.text(text) }
        }
        if let Some(serial) = reply_to {
            fields.align(8);
            fields.0.push(REPLY_SERIAL);
            fields.signature("u");
            fields.u32(serial);
        }
    });
    bytes.align(8);
    bytes.0.extend_from_slice(body);
    bytes.0
}

/// Values one after the other, each aligned to its size from the start.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// The length that stands before an array does not count the padding up to its first element.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// A message that came in.
#[derive(Debug, Default, PartialEq)]
struct Message {
    kind: u8,
    /// Header fields that are texts, by code.
    texts: Vec<(u8, String)>,
    reply_to: Option<u32>,
    body: Vec<u8>,
    big_endian: bool,
    #[cfg(test)]
    serial: u32,
}

impl Message {
    fn text(&self, code: u8) -> &str {
        self.texts.iter().find(|(found, _)| *found == code).map_or("", |(_, text)| text)
    }

    /// `NAME: text`, where the text is the first value of the body, as by custom.
    fn error_text(&self) -> String {
        let name = self.text(ERROR_NAME);
        let mut body = Values { bytes: &self.body, at: 0, big_endian: self.big_endian };
        match self.text(SIGNATURE).starts_with('s').then(|| body.text()).flatten() {
            Some(text) => format!("{} ({name})", text.chars().take(200).collect::<String>()),
            None => name.to_owned(),
        }
    }

    fn parse(head: [u8; 16], rest: &[u8], fields_end: usize) -> Option<Self> {
        let big_endian = head[0] == b'B';
        let all = [&head[..], rest].concat();
        let mut values = Values { bytes: &all, at: 16, big_endian };
        let mut found = Self { kind: head[1], big_endian, ..Self::default() };
        while values.at < fields_end {
            values.align(8);
            let code = values.byte()?;
            match values.signature()?.as_str() {
                "s" | "o" => found.texts.push((code, values.text()?)),
                "g" => found.texts.push((code, values.signature()?)),
                "u" => {
                    let value = values.u32()?;
                    found.reply_to = if code == REPLY_SERIAL { Some(value) } else { found.reply_to };
                }
                _ => return None,
            }
        }
        #[cfg(test)]
        {
            found.serial = Values { bytes: &all, at: 8, big_endian }.u32()?;
        }
        found.body = all.get(fields_end.next_multiple_of(8)..)?.to_vec();
        Some(found)
    }
}

/// Reads values, `None` where the bytes end too early.
struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl Values<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.bytes.get(self.at..self.at + 4)?.try_into().ok()?;
        self.at += 4;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.ended_by_nul(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.ended_by_nul(length)
    }

    fn ended_by_nul(&mut self, length: usize) -> Option<String> {
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// A connection to a message bus.
struct Bus {
    stream: TimedSocket,
    serial: u32,
}

impl Bus {
    /// Connects, says who we are, and takes part.
    fn connect(socket: &Path, timeout: Duration) -> io::Result<Self> {
        let mut stream = TimedSocket::connect(socket, timeout)?;
        // The kernel tells the bus our uid; what is sent only has to agree. In hexadecimal, digit by digit.
        let uid = nix::unistd::geteuid().to_string();
        let digits: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {digits}\r\n").as_bytes())?;
        let answer = read_line(&mut stream)?;
        if !answer.starts_with("OK ") {
            return Err(garbled(format!("the bus does not let us in: {answer}")));
        }
        stream.write_all(b"BEGIN\r\n")?;
        let mut bus = Self { stream, serial: 0 };
        let hello = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            signature: "",
            body: Vec::new(),
        };
        let reply = bus.call(&hello)?;
        if reply.kind != METHOD_RETURN {
            return Err(garbled(format!("the bus does not let us in: {}", reply.error_text())));
        }
        Ok(bus)
    }

    /// Sends a call and waits for its reply; what else comes is skipped.
    fn call(&mut self, call: &Call<'_>) -> io::Result<Message> {
        self.serial += 1;
        self.stream.write_all(&call.to_bytes(self.serial))?;
        loop {
            let message = self.receive()?;
            if matches!(message.kind, METHOD_RETURN | ERROR) && message.reply_to == Some(self.serial) {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if !matches!(head[0], b'l' | b'B') {
            return Err(garbled("a message of unknown byte order"));
        }
        let number = |at: usize| {
            let mut values = Values { bytes: &head, at, big_endian: head[0] == b'B' };
            values.u32().map_or(usize::MAX, |number| number as usize)
        };
        let (body, fields) = (number(4), number(12));
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(garbled("a message that is too long"));
        }
        let fields_end = 16 + fields;
        let mut rest = vec![0; fields_end.next_multiple_of(8) - 16 + body];
        self.stream.read_exact(&mut rest)?;
        Message::parse(head, &rest, fields_end).ok_or_else(|| garbled("a message that is not understood"))
    }
}

fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(garbled("a line that does not end"));
        }
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

fn garbled(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
