//! An open file that many threads read at once.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

use crate::remote;

/// It has no position of its own.
#[derive(Clone, Debug)]
pub(super) struct SharedFile {
    file: Arc<File>,
    bytes: u64,
    number: u64,
}

/// The next file's number.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

impl SharedFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = remote::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), bytes, number: NEXT_FILE.fetch_add(1, Ordering::Relaxed) })
    }

    /// No other file of this process has, or had, the same.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Fills `bytes` with those from a place on.
    pub(super) fn read_at(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, start)
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<FromHere>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(FromHere { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        self.read_at(start, &mut bytes)?;
        Ok(bytes.into())
    }
}

/// A place in a file to read on from.
pub(super) struct FromHere {
    file: Arc<File>,
    at: u64,
}

impl Read for FromHere {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
