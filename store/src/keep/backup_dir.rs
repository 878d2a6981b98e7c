//! A backup being written to a directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::files::{is_store_file, make_empty};
use super::manifest::{BackupReport, FileSum, Manifest};
use crate::dir::{SEGMENTS, WAL};
use crate::error::StoreError;
use crate::write::wal::sync_dir;

/// Takes the files of a backup one after the other, and at last the list of them.
pub(super) trait Sink {
    /// Begins a file of this many bytes.
    fn begin(&mut self, path: &str, bytes: u64) -> Result<(), StoreError>;
    /// Adds to the file that was begun.
    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError>;
    /// The list of all files, with the checksums of what the sender read.
    fn finish(&mut self, manifest: &Manifest) -> Result<(), StoreError>;
}

/// A directory that becomes a backup with [`Sink::finish`]; dropped before that, it is empty again.
pub(super) struct BackupDir {
    dir: PathBuf,
    open: Option<OpenFile>,
    written: Vec<FileSum>,
    complete: bool,
}

struct OpenFile {
    name: String,
    path: PathBuf,
    file: File,
    sum: crc32fast::Hasher,
    bytes: u64,
}

impl BackupDir {
    /// # Errors
    /// The directory cannot be made, or is not empty.
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        make_empty(dir)?;
        for part in [WAL, SEGMENTS] {
            let part = dir.join(part);
            fs::create_dir(&part).map_err(StoreError::io("create", &part))?;
        }
        Ok(Self { dir: dir.to_owned(), open: None, written: Vec::new(), complete: false })
    }

    fn close_file(&mut self) -> Result<(), StoreError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.file.sync_all().map_err(StoreError::io("sync", &open.path))?;
        self.written.push(FileSum { path: open.name, bytes: open.bytes, crc32: open.sum.finalize() });
        Ok(())
    }

    /// What was written, against the sender's list.
    fn compare(&self, manifest: &Manifest) -> Result<(), StoreError> {
        if self.written == manifest.files {
            return Ok(());
        }
        let differing = manifest.files.iter().find(|file| !self.written.contains(file));
        let name = differing.map_or("a file that is not in the list", |file| &file.path);
        Err(StoreError::BrokeOff { why: format!("{name} did not arrive as it was sent") })
    }
}

impl Sink for BackupDir {
    fn begin(&mut self, path: &str, _bytes: u64) -> Result<(), StoreError> {
        self.close_file()?;
        if !is_store_file(path) {
            return Err(StoreError::BrokeOff { why: format!("'{path}' is no file of a store") });
        }
        let name = path.to_owned();
        let path = self.dir.join(path);
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        self.open = Some(OpenFile { name, path, file, sum: crc32fast::Hasher::new(), bytes: 0 });
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.sum.update(piece);
        open.bytes += piece.len() as u64;
        open.file.write_all(piece).map_err(StoreError::io("write", &open.path))
    }

    fn finish(&mut self, manifest: &Manifest) -> Result<(), StoreError> {
        self.close_file()?;
        self.compare(manifest)?;
        for part in [WAL, SEGMENTS] {
            sync_dir(&self.dir.join(part))?;
        }
        manifest.save(&self.dir)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for BackupDir {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        // It was empty when this began, so everything in it is this backup's.
        let names =
            self.written.iter().map(|file| file.path.as_str()).chain(self.open.as_ref().map(|open| &*open.name));
        for name in names {
            let _ = fs::remove_file(self.dir.join(name));
        }
        for part in [WAL, SEGMENTS] {
            let _ = fs::remove_dir(self.dir.join(part));
        }
    }
}

/// Writes a backup to a directory.
pub(super) fn write_backup(
    target: &Path,
    send: impl FnOnce(&mut dyn Sink) -> Result<BackupReport, StoreError>,
) -> Result<BackupReport, StoreError> {
    let mut dir = BackupDir::create(target)?;
    send(&mut dir)
}
