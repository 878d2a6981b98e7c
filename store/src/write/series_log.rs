//! The series log: every definition of a series id, in a file of its own.
//!
//! Definitions also stand in the write-ahead log, which is dropped with each flush. The second copy outlives it, and a
//! damaged record in one of them does not cost the samples of a series.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::SeriesKey;

use crate::catalog::replace_file;
use crate::dir::SERIES;
use crate::error::StoreError;
use crate::fault;
use crate::write::record::{self, Record};
use crate::write::series::SeriesIndex;

/// The open series log.
pub(crate) struct SeriesLog {
    path: PathBuf,
    /// Held while the file is written, synced or replaced.
    file: Mutex<LogFile>,
    /// What could not be written yet. A lock of its own, so that a writer of samples never waits for the disk.
    pending: Mutex<Vec<(u32, Arc<SeriesKey>)>>,
}

struct LogFile {
    file: File,
    bytes: u64,
    /// Whether the file may have been replaced by another, so that this one has no name any more.
    replaced: bool,
}

/// What became of reading the series log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeriesLogState {
    /// Something in it cannot be read; it should be rewritten.
    pub damaged: bool,
    /// Bytes up to the first damage, or all of them.
    pub intact_bytes: u64,
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
        let intact = damages.first().map_or(bytes.len(), |damage| damage.offset);
        let state = SeriesLogState { damaged: !damages.is_empty(), intact_bytes: intact as u64 };
        let file = LogFile { file: open_end(&path)?, bytes: bytes.len() as u64, replaced: false };
        Ok((Self { path, file: Mutex::new(file), pending: Mutex::default() }, state))
    }

    /// Writes definitions, without syncing them: until the next [`SeriesLog::sync`] the write-ahead log has them too. So a
    /// failure, or a file that is being synced on a slow disk, is no reason to hold up samples; the definitions are written
    /// with the next ones.
    pub(crate) fn add(&self, series: impl IntoIterator<Item = (u32, Arc<SeriesKey>)>) {
        self.pending.lock().extend(series);
        if let Some(mut file) = self.file.try_lock()
            && let Err(error) = self.write_pending(&mut file)
        {
            tracing::warn!(%error, "series log is behind");
        }
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.lock().bytes
    }

    /// Makes all definitions durable that were added before.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let mut file = self.file.lock();
        self.write_pending(&mut file)?;
        let sync = || fault::at_sync(&self.path).and_then(|()| file.file.sync_data());
        sync().map_err(StoreError::io("sync", &self.path))
    }

    /// Replaces the log by one with just the series that `all` gives. What is added meanwhile is written behind them.
    pub(crate) fn rewrite(
        &self,
        dir: &Path,
        all: impl FnOnce() -> Vec<(u32, Arc<SeriesKey>)>,
    ) -> Result<(), StoreError> {
        let mut file = self.file.lock();
        let mut bytes = Vec::new();
        let series = all();
        if !series.is_empty() {
            record::put_series(&mut bytes, series.iter().map(|(id, key)| (*id, key.as_ref())));
        }
        // Also when it fails: it may have been replaced before that.
        file.replaced = true;
        replace_file(dir, SERIES, &bytes)?;
        self.write_pending(&mut file)
    }

    fn write_pending(&self, file: &mut LogFile) -> Result<(), StoreError> {
        if file.replaced {
            file.file = open_end(&self.path)?;
            file.bytes = file.file.metadata().map_err(StoreError::io("read", &self.path))?.len();
            file.replaced = false;
        }
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        record::put_series(&mut bytes, pending.iter().map(|(id, key)| (*id, key.as_ref())));
        if let Err(error) = fault::write_all(&file.file, &bytes, &self.path) {
            let _ = file.file.set_len(file.bytes); // a torn record that stays is skipped by the reader
            self.pending.lock().splice(0..0, pending);
            return Err(StoreError::io("append to", &self.path)(error));
        }
        file.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn open_end(path: &Path) -> Result<File, StoreError> {
    let open = || fault::at(path).and_then(|()| OpenOptions::new().create(true).append(true).open(path));
    open().map_err(StoreError::io("open", path))
}
