//! The list of a backup's files.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_model::TimeMs;

use super::files::is_store_file;
use crate::catalog::{read_json, replace_json};
use crate::error::StoreError;

/// The list's file; what makes a directory a complete backup.
pub(crate) const MANIFEST: &str = "backup.json";
/// Stands in a directory while a backup is being restored into it.
pub(crate) const RESTORING: &str = "RESTORING";
/// The format of a backup.
const FORMAT: u32 = 1;

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileSum {
    /// Relative to the backup's directory.
    pub path: String,
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: u32,
    /// Version of the program that made it.
    pub version: String,
    pub created: TimeMs,
    pub files: Vec<FileSum>,
}

/// What a backup or a restore came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// When the backup was taken: what was acknowledged before is in it.
    pub created: TimeMs,
    /// Files in it, its list not counted.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
}

impl Manifest {
    pub(super) fn new(created: TimeMs, files: Vec<FileSum>) -> Self {
        Self { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), created, files }
    }

    /// Reads the list of a backup and checks that it names nothing but files of a store.
    pub(super) fn load(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(MANIFEST);
        let Some(manifest) = read_json::<Self>(&path)? else {
            return Err(StoreError::NotABackup { dir: dir.to_owned() });
        };
        if manifest.format > FORMAT {
            return Err(StoreError::NewerFormat { path, found: manifest.format, known: FORMAT });
        }
        match manifest.files.iter().find(|file| !is_store_file(&file.path)) {
            Some(file) => Err(StoreError::BackupDamaged { path, message: format!("it names '{}'", file.path) }),
            None => Ok(manifest),
        }
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), StoreError> {
        replace_json(dir, MANIFEST, self)
    }

    pub(super) fn report(&self) -> BackupReport {
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        BackupReport { created: self.created, files: self.files.len(), bytes }
    }
}
