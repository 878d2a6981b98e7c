//! The catalog: which segments there are, and from where on the write-ahead log counts.
//!
//! It is replaced as a whole and atomically, so every crash leaves either the state before or after a flush. What the
//! catalog does not name does not exist: such files are left over from a crash and removed at the next start.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_model::TimeMs;

use crate::error::StoreError;
use crate::fault;
use crate::keep::checksum;
use crate::sealed;
use crate::segment::rollup::Step;
use crate::write::wal::sync_dir;

/// The catalog's file in the data directory.
pub(crate) const CATALOG: &str = "catalog.json";
/// The format of the whole data directory.
///
/// 2: samples as decimals, roll-ups beside segments, the order of segments apart from their numbers.
const FORMAT: u32 = 2;

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
    /// Of what wrote it; never used twice.
    pub number: u64,
    /// Of duplicate samples the one in the higher order counts. A flush's number; a compaction takes over the highest order
    /// of what it replaces, so segments of the same order have no sample in common.
    #[serde(default)]
    pub order: u64,
    pub kind: SegmentKind,
    /// File name below `segments/`.
    pub file: String,
    pub min_time: TimeMs,
    pub max_time: TimeMs,
    pub rows: u64,
    pub bytes: u64,
    /// CRC-32 of the whole file; unknown for what an earlier version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
    /// Whether the object store has it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    /// When the newest of its rows was flushed.
    #[serde(default)]
    pub flushed: TimeMs,
    /// Whether a compaction wrote it, so that nothing is gained by writing it again.
    #[serde(default)]
    pub compacted: bool,
    /// Its roll-ups, in files of their own.
    #[serde(default)]
    pub rollups: Vec<RollupMeta>,
}

/// A file of roll-ups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RollupMeta {
    pub step: Step,
    /// File name below `segments/`.
    pub file: String,
    pub bytes: u64,
    /// CRC-32 of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
}

impl SegmentMeta {
    /// What `number` wrote, in rows' times from `times.0` to `times.1`.
    pub(crate) fn new(number: u64, kind: SegmentKind, file: String, times: (i64, i64), rows: u64, bytes: u64) -> Self {
        Self {
            number,
            order: number,
            kind,
            file,
            min_time: TimeMs(times.0),
            max_time: TimeMs(times.1),
            rows,
            bytes,
            crc32: None,
            remote: false,
            flushed: TimeMs(0),
            compacted: false,
            rollups: Vec::new(),
        }
    }

    /// With the checksums of its files, which have just been written below `dir`.
    pub(crate) fn summed(mut self, dir: &Path) -> Result<Self, StoreError> {
        self.crc32 = Some(checksum(&dir.join(&self.file))?.0);
        for rollup in &mut self.rollups {
            rollup.crc32 = Some(checksum(&dir.join(&rollup.file))?.0);
        }
        Ok(self)
    }

    /// The names of its files, below `segments/`.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.file.as_str()).chain(self.rollups.iter().map(|rollup| rollup.file.as_str()))
    }

    /// The names of its files with their checksums.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        let rollups = self.rollups.iter().map(|rollup| (rollup.file.as_str(), rollup.crc32));
        std::iter::once((self.file.as_str(), self.crc32)).chain(rollups)
    }

    /// Size of all its files.
    pub(crate) fn all_bytes(&self) -> u64 {
        self.bytes + self.rollups.iter().map(|rollup| rollup.bytes).sum::<u64>()
    }
}

/// From when on the samples of some metrics count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Horizon {
    /// What the metrics' names begin with. Of several that fit, the longest counts.
    pub prefix: String,
    pub from: TimeMs,
}

/// The catalog's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    pub format: u32,
    /// Number of the next flush or compaction. In memory also beyond what is on disk, since no number is used twice.
    pub next_segment: u64,
    /// Write-ahead log files before this one are in segments.
    pub wal_floor: u64,
    /// Series ids below this one have been given out.
    pub next_series: u32,
    pub last_flush: Option<TimeMs>,
    /// What the retention has hidden, though its bytes may still be there.
    #[serde(default)]
    pub horizons: Vec<Horizon>,
    /// How much of the series log was durable with the last flush; when less is left, definitions are missing.
    #[serde(default)]
    pub series_bytes: u64,
    /// Tells this store from others that may share a bucket; drawn with the first upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<String>,
    /// Which object store the segments' `remote` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_url: Option<String>,
    /// Sorted by order, then number.
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
            horizons: Vec::new(),
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
        let mut catalog: Self = read_json(path)?.unwrap_or_default();
        catalog.format = FORMAT;
        for meta in catalog.segments.iter_mut().filter(|meta| meta.order == 0) {
            meta.order = meta.number; // as it was before format 2
        }
        Ok(catalog)
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
    let (value, unknown) = tidegate_model::from_json(&bytes).map_err(|error| damaged(error.to_string()))?;
    if !unknown.is_empty() {
        tracing::warn!(path = %path.display(), ?unknown, "it knows resources that are not known here; they are left out");
    }
    Ok(Some(value))
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
