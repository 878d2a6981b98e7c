//! A consistent picture of a store, from which a backup is made.
//!
//! Of a running store: everything in memory is flushed first, then the catalog, the segments that it names, the series log
//! and the facts are taken under the catalog's lock. The segments are held, so that retention and compaction may go on.
//! Of a directory that nobody uses: the files as they are, the write-ahead log among them; nothing is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::TimeMs;

use super::backup_dir::{Sink, write_backup};
use super::files::{names, read_pieces, store_dir};
use super::manifest::{BackupReport, FileSum, Manifest};
use crate::catalog::{CATALOG, Catalog, SegmentMeta};
use crate::dir::{DataDir, FACTS, SEGMENTS, SERIES, WAL};
use crate::error::StoreError;
use crate::remote;
use crate::segment::Segment;
use crate::store::Store;
use crate::write::record;

/// What a backup will hold.
pub struct Snapshot {
    created: TimeMs,
    parts: Vec<Part>,
    /// Keeps the directory of a stopped server from being used meanwhile.
    _lock: Option<DataDir>,
}

struct Part {
    name: String,
    source: Source,
    /// What the catalog says of it.
    crc32: Option<u32>,
}

enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
    /// A file of a segment, which is held so that the file stays until it was read.
    Segment {
        _held: Arc<Segment>,
        path: PathBuf,
    },
}

impl Store {
    /// A consistent picture of everything stored: what was acknowledged before this call is in it. Flushes first.
    ///
    /// # Errors
    /// The flush failed, or a file cannot be read.
    pub async fn snapshot(&self, now: TimeMs) -> Result<Snapshot, StoreError> {
        self.flush(now).await?;
        let store = self.shared();
        let take = tokio::task::spawn_blocking(move || store.take_snapshot(now));
        take.await.map_err(|error| StoreError::Interrupted { what: "backup", why: error.to_string() })?
    }

    fn take_snapshot(&self, now: TimeMs) -> Result<Snapshot, StoreError> {
        // Held until the list of files is complete: no flush, no retention.
        let catalog = self.catalog.lock();
        let segments = self.data.read().segments.clone();
        let mut kept = catalog.clone();
        // Segments that were missing at the start are named by the catalog and cannot be saved.
        let saved = |segment: &Arc<Segment>| SegmentMeta { remote: false, ..segment.meta.clone() };
        kept.segments = segments.0.iter().map(saved).collect();
        (kept.store_id, kept.remote_url) = (None, None);
        kept.next_series = self.index.read().next_id();
        let known = self.index.read().all();
        let mut series = Vec::new();
        record::put_series(&mut series, known.iter().map(|(id, key)| (*id, key.as_ref())));
        let facts = self.facts.to_json()?;
        drop(catalog);
        let bytes = |name: &str, bytes| Part { name: name.to_owned(), source: Source::Bytes(bytes), crc32: None };
        let mut parts = vec![bytes(SERIES, series), bytes(FACTS, facts)];
        for segment in &segments.0 {
            parts.extend(segment.meta.sums().map(|(file, crc32)| Part {
                name: format!("{SEGMENTS}/{file}"),
                crc32,
                source: Source::Segment { _held: segment.clone(), path: segment.path.with_file_name(file) },
            }));
        }
        parts.push(bytes(CATALOG, kept.to_json()?));
        Ok(Snapshot { created: now, parts, _lock: None })
    }
}

impl Snapshot {
    /// The files of a data directory that no process uses. Changes nothing in it; keeps it locked.
    ///
    /// # Errors
    /// A process uses it, it is no data directory, or it cannot be read.
    pub fn of_directory(dir: &Path, now: TimeMs) -> Result<Self, StoreError> {
        let dir = store_dir(dir);
        if !dir.join(CATALOG).exists() {
            return Err(StoreError::NotAStore { dir });
        }
        let lock = DataDir::open(&dir)?;
        let catalog = Catalog::load(&dir)?;
        let mut parts = Vec::new();
        let mut add = |name: String, crc32| {
            let path = dir.join(&name);
            if path.exists() {
                parts.push(Part { name, source: Source::File(path), crc32 });
            }
        };
        add(SERIES.to_owned(), None);
        add(FACTS.to_owned(), None);
        for name in names(&lock.wal())?.into_iter().filter(|name| name.ends_with(".wal")) {
            add(format!("{WAL}/{name}"), None);
        }
        for meta in &catalog.segments {
            for (file, crc32) in meta.sums() {
                add(format!("{SEGMENTS}/{file}"), crc32);
            }
        }
        add(CATALOG.to_owned(), None);
        Ok(Self { created: now, parts, _lock: Some(lock) })
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().filter_map(|part| part.source.bytes().ok()).sum()
    }

    /// Writes the backup to a new or empty directory; `progress` hears of every piece's size. On an error the directory is
    /// empty again.
    ///
    /// # Errors
    /// The directory is not empty or cannot be written, or a file of the store is damaged.
    pub fn write_to(self, target: &Path, mut progress: impl FnMut(u64)) -> Result<BackupReport, StoreError> {
        write_backup(target, |sink| self.send(sink, &mut progress))
    }

    /// Sends everything to `sink`.
    pub(super) fn send(self, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<BackupReport, StoreError> {
        let mut files = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            let (mut sum, mut bytes) = (crc32fast::Hasher::new(), 0);
            sink.begin(&part.name, part.source.bytes()?)?;
            part.source.read(|piece| {
                sum.update(piece);
                bytes += piece.len() as u64;
                progress(piece.len() as u64);
                sink.write(piece)
            })?;
            let crc32 = sum.finalize();
            if let Some(wanted) = part.crc32.filter(|wanted| *wanted != crc32) {
                let message = format!("its checksum is {crc32:08x} instead of {wanted:08x}");
                return Err(StoreError::SegmentDamaged { path: part.source.path(), message });
            }
            files.push(FileSum { path: part.name, bytes, crc32 });
        }
        let manifest = Manifest::new(self.created, files);
        sink.finish(&manifest)?;
        Ok(manifest.report())
    }
}

impl Source {
    fn path(&self) -> PathBuf {
        match self {
            Self::Bytes(_) => PathBuf::new(),
            Self::File(path) | Self::Segment { path, .. } => path.clone(),
        }
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) | Self::Segment { path, .. } => {
                // Opened, so that a file that only the object store has is fetched.
                let file = remote::open(path).map_err(StoreError::io("read", path))?;
                Ok(file.metadata().map_err(StoreError::io("read", path))?.len())
            }
        }
    }

    fn read(&self, mut each: impl FnMut(&[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match self {
            Self::Bytes(bytes) => each(bytes),
            Self::File(path) | Self::Segment { path, .. } => read_pieces(path, each),
        }
    }
}
