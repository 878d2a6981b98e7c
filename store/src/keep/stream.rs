//! A backup as a stream of bytes, from a running server to whoever writes it down.
//!
//! The first line is `{"tidegate_backup":1,"bytes":N}` with the size of all files. Each file is a line
//! `{"path":"...","bytes":N}` and its N bytes; the last line is `{"list":{...}}`, the backup's list. A stream that ends
//! before that line broke off.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::backup_dir::{Sink, write_backup};
use super::manifest::{BackupReport, Manifest};
use super::snapshot::Snapshot;
use crate::error::StoreError;

const FORMAT: u32 = 1;
/// A line is never longer, the list of a million files apart.
const MAX_LINE: u64 = 256 << 20;
/// Bytes handed on at once.
const PIECE: usize = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Head {
    tidegate_backup: u32,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    File {
        path: String,
        bytes: u64,
    },
    List {
        list: Manifest,
    },
    /// What went wrong at the sender's.
    Error {
        error: String,
    },
}

impl Snapshot {
    /// Sends the backup in pieces of some hundred KiB, until `emit` gives `false` because nobody listens any more.
    ///
    /// # Errors
    /// A file of the store cannot be read or is damaged; the stream says so too.
    pub fn stream(self, emit: impl FnMut(Vec<u8>) -> bool) -> Result<BackupReport, StoreError> {
        let mut sink = StreamSink { emit };
        sink.line(&Head { tidegate_backup: FORMAT, bytes: self.bytes() })?;
        let sent = self.send(&mut sink, &mut |_| {});
        if let Err(error) = &sent {
            let _ = sink.line(&Line::Error { error: error.to_string() }); // it may be the listener that is gone
        }
        sent
    }
}

struct StreamSink<F> {
    emit: F,
}

impl<F: FnMut(Vec<u8>) -> bool> StreamSink<F> {
    fn line(&mut self, line: &impl Serialize) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| StoreError::BrokeOff { why: error.to_string() })?;
        bytes.push(b'\n');
        self.emit(bytes)
    }

    fn emit(&mut self, bytes: Vec<u8>) -> Result<(), StoreError> {
        if (self.emit)(bytes) {
            Ok(())
        } else {
            Err(StoreError::BrokeOff { why: "nobody reads it any more".to_owned() })
        }
    }
}

impl<F: FnMut(Vec<u8>) -> bool> Sink for StreamSink<F> {
    fn begin(&mut self, path: &str, bytes: u64) -> Result<(), StoreError> {
        self.line(&Line::File { path: path.to_owned(), bytes })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        piece.chunks(PIECE).try_for_each(|piece| self.emit(piece.to_vec()))
    }

    fn finish(&mut self, manifest: &Manifest) -> Result<(), StoreError> {
        self.line(&Line::List { list: manifest.clone() })
    }
}

/// Writes a stream to a new or empty directory. `progress` hears of every piece: bytes done and bytes in all. On an error
/// the directory is empty again.
///
/// # Errors
/// The directory is not empty or cannot be written, the stream broke off, or what arrived is not what was sent.
pub fn receive(
    stream: impl Read,
    target: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<BackupReport, StoreError> {
    write_backup(target, |sink| {
        let mut stream = BufReader::with_capacity(PIECE, stream);
        let head: Head = read_line(&mut stream)?;
        if head.tidegate_backup > FORMAT {
            let why =
                format!("the server sends backups of format {}, this tidegate knows {FORMAT}", head.tidegate_backup);
            return Err(StoreError::BrokeOff { why });
        }
        let mut done = 0;
        loop {
            match read_line(&mut stream)? {
                Line::File { path, bytes } => {
                    sink.begin(&path, bytes)?;
                    receive_file(&mut stream, bytes, |piece| {
                        done += piece.len() as u64;
                        progress(done, head.bytes);
                        sink.write(piece)
                    })?;
                }
                Line::List { list } => {
                    sink.finish(&list)?;
                    return Ok(list.report());
                }
                Line::Error { error } => return Err(StoreError::BrokeOff { why: error }),
            }
        }
    })
}

fn read_line<T: for<'de> Deserialize<'de>>(stream: &mut impl BufRead) -> Result<T, StoreError> {
    let mut line = Vec::new();
    stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(broke_off)?;
    if line.last() != Some(&b'\n') {
        return Err(StoreError::BrokeOff { why: "it ended in the middle".to_owned() });
    }
    serde_json::from_slice(&line).map_err(broke_off)
}

fn receive_file(
    stream: &mut impl BufRead,
    bytes: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut left = bytes;
    while left > 0 {
        let piece = stream.fill_buf().map_err(broke_off)?;
        if piece.is_empty() {
            return Err(StoreError::BrokeOff { why: "it ended in the middle of a file".to_owned() });
        }
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        each(&piece[..count])?;
        stream.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn broke_off(error: impl std::fmt::Display) -> StoreError {
    StoreError::BrokeOff { why: error.to_string() }
}
