//! The catalog: which segments there are, and from where on the write-ahead log counts.
//!
//! It is replaced as a whole and atomically, so every crash leaves either the state before or after a flush. What the
//! catalog does not name does not exist: such files are left over from a crash and removed at the next start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_model::TimeMs;

use crate::error::StoreError;
use crate::fault;
use crate::keep::checksum;
use crate::sealed;
use crate::write::wal::sync_dir;

/// The catalog's file in the data directory.
pub(crate) const CATALOG: &str = "catalog.json";
/// The format of the whole data directory.
const FORMAT: u32 = 1;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SegmentKind {
    Samples,
    Decisions,
    Events,
}

/// One segment, as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SegmentMeta {
    /// The flush that wrote it; of duplicate samples the one in the higher number counts.
    pub number: u64,
    pub kind: SegmentKind,
    /// File name below `segments/`.
    pub file: String,
    pub min_time: TimeMs,
    pub max_time: TimeMs,
    pub rows: u64,
    pub bytes: u64,
    /// CRC-32 of each of its files as a whole; none for what an earlier version wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<String, u32>,
    /// Whether the object store has it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
}

impl SegmentMeta {
    /// The names of its files, below `segments/`.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.file.as_str())
    }

    /// Notes the checksums of its files, which were just written.
    pub(crate) fn note_checksums(&mut self, dir: &Path) -> Result<(), StoreError> {
        let sum = |file: &str| Ok((file.to_owned(), checksum(&dir.join(file))?.0));
        self.checksums = self.files().map(sum).collect::<Result<_, StoreError>>()?;
        Ok(())
    }
}

/// The catalog's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    pub format: u32,
    /// Number of the next flush. In memory also beyond what is on disk, since no number is used twice.
    pub next_segment: u64,
    /// Write-ahead log files before this one are in segments.
    pub wal_floor: u64,
    /// Series ids below this one have been given out.
    pub next_series: u32,
    pub last_flush: Option<TimeMs>,
    /// How much of the series log was durable with the last flush; when less is left, definitions are missing.
    #[serde(default)]
    pub series_bytes: u64,
    /// Tells this store from others that may share a bucket; drawn with the first upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<String>,
    /// Which object store the segments' `remote` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_url: Option<String>,
    /// Sorted by number.
    pub segments: Vec<SegmentMeta>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            format: FORMAT,
            next_segment: 1,
            wal_floor: 1,
            next_series: 0,
            last_flush: None,
            series_bytes: 0,
            store_id: None,
            remote_url: None,
            segments: Vec::new(),
        }
    }
}

impl Catalog {
    /// Reads the catalog; a directory without one is new.
    pub(crate) fn load(dir: &Path) -> Result<Self, StoreError> {
        Self::read(&dir.join(CATALOG))
    }

    /// Reads a catalog's file, wherever it is.
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(format) = read_json::<Format>(path)? else { return Ok(Self::default()) };
        if format.format > FORMAT {
            return Err(StoreError::NewerFormat { path: path.to_owned(), found: format.format, known: FORMAT });
        }
        Ok(read_json(path)?.unwrap_or_default())
    }

    /// Replaces the catalog.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), StoreError> {
        replace_json(dir, CATALOG, self)
    }

    /// As [`Catalog::save`] writes it.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, StoreError> {
        sealed_json(CATALOG, self)
    }
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    let damaged = |message| StoreError::Damaged { path: path.to_owned(), message };
    sealed::verify(&bytes).map_err(damaged)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Replaces a JSON file atomically and durably.
pub(crate) fn replace_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
    replace_file(dir, name, &sealed_json(name, value)?)
}

/// A value as its JSON file holds it, with its checksum.
pub(crate) fn sealed_json(name: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|error| StoreError::Unstorable { what: name.to_owned(), why: error.to_string() })?;
    Ok(sealed::seal(json))
}

/// Replaces a file atomically and durably: written aside, synced, renamed, and the directory synced.
pub(crate) fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = dir.join(name);
    let aside = dir.join(format!("{name}.tmp"));
    let create = || fault::at(&aside).and_then(|()| File::create(&aside));
    let file = create().map_err(StoreError::io("create", &aside))?;
    fault::write_all(&file, bytes, &aside).map_err(StoreError::io("write", &aside))?;
    let sync = || fault::at_sync(&aside).and_then(|()| file.sync_all());
    sync().map_err(StoreError::io("sync", &aside))?;
    let rename = || fault::at(&path).and_then(|()| fs::rename(&aside, &path));
    rename().map_err(StoreError::io("replace", &path))?;
    sync_dir(dir)
}
