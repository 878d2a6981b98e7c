//! The series log: every definition of a series id, in a file of its own.
//!
//! Definitions also stand in the write-ahead log, which is dropped with each flush. The second copy outlives it, and a
//! damaged record in one of them does not cost the samples of a series.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::SeriesKey;

use crate::catalog::replace_file;
use crate::dir::SERIES;
use crate::error::StoreError;
use crate::write::record::{self, Record};
use crate::write::series::SeriesIndex;

/// The open series log.
pub(crate) struct SeriesLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// What could not be written yet.
    pending: Vec<(u32, Arc<SeriesKey>)>,
}

/// What became of reading the series log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeriesLogState {
    /// Something in it cannot be read; it should be rewritten.
    pub damaged: bool,
    /// Something before its end: definitions are missing that only segments still have.
    pub incomplete: bool,
}

impl SeriesLog {
    /// Reads the log into `index` and opens it for writing.
    pub(crate) fn open(dir: &Path, index: &mut SeriesIndex) -> Result<(Self, SeriesLogState), StoreError> {
        let path = dir.join(SERIES);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let damages = record::read_all(&bytes, |record| {
            if let Record::Series(series) = record {
                series.into_iter().for_each(|(id, key)| index.insert(id, key));
            }
        });
        for damage in &damages {
            let what = if damage.tail { "torn end of file" } else { "corrupt record" };
            tracing::warn!(file = %path.display(), offset = damage.offset, bytes = damage.bytes, "{what} skipped");
        }
        let state =
            SeriesLogState { damaged: !damages.is_empty(), incomplete: damages.iter().any(|damage| !damage.tail) };
        let file = open_end(&path)?;
        Ok((Self { path, file, bytes: bytes.len() as u64, pending: Vec::new() }, state))
    }

    /// Writes definitions, without syncing them: until the next [`SeriesLog::sync`] the write-ahead log has them too. So a
    /// failure is no reason to refuse samples; the definitions are written with the next ones.
    pub(crate) fn add(&mut self, series: impl IntoIterator<Item = (u32, Arc<SeriesKey>)>) {
        self.pending.extend(series);
        if let Err(error) = self.write_pending() {
            tracing::warn!(%error, "series log is behind");
        }
    }

    /// Makes all definitions durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.write_pending()?;
        self.file.sync_data().map_err(StoreError::io("sync", &self.path))
    }

    /// Replaces the log by one with just these definitions.
    pub(crate) fn rewrite(&mut self, dir: &Path, series: &[(u32, Arc<SeriesKey>)]) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        if !series.is_empty() {
            record::put_series(&mut bytes, series.iter().map(|(id, key)| (*id, key.as_ref())));
        }
        replace_file(dir, SERIES, &bytes)?;
        self.file = open_end(&self.path)?;
        self.bytes = bytes.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        record::put_series(&mut bytes, self.pending.iter().map(|(id, key)| (*id, key.as_ref())));
        if let Err(error) = self.file.write_all(&bytes) {
            let _ = self.file.set_len(self.bytes); // a torn record that stays is skipped by the reader
            return Err(StoreError::io("append to", &self.path)(error));
        }
        self.bytes += bytes.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn open_end(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(StoreError::io("open", path))
}
