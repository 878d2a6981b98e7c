//! The segments' directory as a cache: a file that is not there is fetched by whoever opens it.
//!
//! A directory is found by its path, so that the code that reads segments only has to open them through [`open`] and needs
//! to know nothing of where they may come from.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::Bucket;
use crate::catalog::{Catalog, SegmentMeta};
use crate::dir::SEGMENTS;
use crate::error::StoreError;
use crate::write::wal::sync_dir;

/// What is being written; removed at the next start.
const PART: &str = "part";

/// The caches of all open stores, by directory.
static CACHES: RwLock<Vec<(PathBuf, Weak<SegmentCache>)>> = RwLock::new(Vec::new());

/// The segments' directory of a store with a bucket behind it.
pub(crate) struct SegmentCache {
    dir: PathBuf,
    pub(super) bucket: Bucket,
    /// Checksums of the files that the bucket has.
    stored: Mutex<HashMap<String, u32>>,
    /// When each file was last fetched. Held while one is: two readers of a file fetch it once.
    fetched: Mutex<HashMap<String, Instant>>,
}

impl SegmentCache {
    /// Makes the directory's missing files appear when they are opened.
    pub(crate) fn attach(dir: &Path, bucket: Bucket, catalog: &Catalog) -> Result<Arc<Self>, StoreError> {
        for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let path = entry.map_err(StoreError::io("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        let remote = catalog.segments.iter().filter(|meta| meta.remote);
        let stored =
            remote.flat_map(SegmentMeta::sums).filter_map(|(file, sum)| Some((file.to_owned(), sum?))).collect();
        let cache =
            Arc::new(Self { dir: dir.to_owned(), bucket, stored: Mutex::new(stored), fetched: Mutex::default() });
        let mut caches = CACHES.write();
        caches.retain(|(other, cache)| other != dir && cache.strong_count() > 0);
        caches.push((dir.to_owned(), Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// Notes that the bucket has a file.
    pub(super) fn note_stored(&self, file: &str, crc32: u32) {
        self.stored.lock().insert(file.to_owned(), crc32);
    }

    /// When a file was fetched, if it was.
    pub(super) fn fetched_at(&self, file: &str) -> Option<Instant> {
        self.fetched.lock().get(file).copied()
    }

    fn open(&self, path: &Path) -> Result<File, StoreError> {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let not_here = || StoreError::io("open", path)(io::ErrorKind::NotFound.into());
        let crc32 = self.stored.lock().get(&file).copied().ok_or_else(not_here)?;
        let mut fetched = self.fetched.lock();
        // Somebody else may have been faster.
        if let Ok(open) = File::open(path) {
            return Ok(open);
        }
        fetch(&self.bucket, &self.dir, &file, crc32)?;
        let open = File::open(path).map_err(StoreError::io("open", path))?;
        fetched.insert(file, Instant::now());
        Ok(open)
    }
}

/// Opens a segment's file, which is fetched first when only the object store has it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match cache_of(path) {
            Some(cache) => cache.open(path).map_err(io::Error::other),
            None => Err(error),
        },
        other => other,
    }
}

fn cache_of(path: &Path) -> Option<Arc<SegmentCache>> {
    let dir = path.parent()?;
    let caches = CACHES.read();
    caches.iter().find(|(other, _)| other == dir).and_then(|(_, cache)| cache.upgrade())
}

/// Fetches a segment's file into a directory, verified and durable.
pub(crate) fn fetch(bucket: &Bucket, dir: &Path, file: &str, crc32: u32) -> Result<u64, StoreError> {
    let (path, part) = (dir.join(file), dir.join(format!("{file}.{PART}")));
    let name = format!("{SEGMENTS}/{file}");
    let (found, bytes) = bucket.get_file(&name, &part)?;
    if found != crc32 {
        let _ = fs::remove_file(&part);
        let message = format!("its checksum is {found:08x} instead of {crc32:08x}");
        return Err(StoreError::Remote { action: "get", name: format!("{}/{name}", bucket.url()), message });
    }
    fs::rename(&part, &path).map_err(StoreError::io("replace", &path))?;
    sync_dir(dir)?;
    Ok(bytes)
}
