//! Restoring a backup: everything is verified before anything is written, and the catalog, which makes a directory a
//! store, is put in place last.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use tidegate_model::TimeMs;

use super::files::{checksum, make_empty, read_pieces};
use super::manifest::{BackupReport, FileSum, Manifest, RESTORING};
use crate::catalog::{CATALOG, Catalog, SegmentMeta};
use crate::dir::{FACTS, SEGMENTS, SERIES, WAL};
use crate::error::StoreError;
use crate::remote::{Bucket, ObjectStoreConfig, fetch};
use crate::write::wal::sync_dir;

/// Restores the backup in `backup` into `target`, which must be new or empty. `progress` hears of bytes done and bytes in
/// all; every byte is read twice, once to verify and once to copy.
///
/// # Errors
/// `backup` is no complete backup or is damaged, before anything was written; `target` is not empty or cannot be written. A
/// restore that was cut off leaves a directory that no server takes for a store.
pub fn restore(backup: &Path, target: &Path, mut progress: impl FnMut(u64, u64)) -> Result<BackupReport, StoreError> {
    let manifest = Manifest::load(backup)?;
    let report = manifest.report();
    let (mut done, all) = (0, 2 * report.bytes);
    for file in &manifest.files {
        verify(backup, file)?;
        done += file.bytes;
        progress(done, all);
    }
    begin(target)?;
    let aside = |file: &FileSum| if file.path == CATALOG { format!("{CATALOG}.tmp") } else { file.path.clone() };
    for file in &manifest.files {
        copy(&backup.join(&file.path), &target.join(aside(file)), file)?;
        done += file.bytes;
        progress(done, all);
    }
    finish(target)?;
    Ok(report)
}

/// As [`restore`], from what a store has uploaded to its object store: everything that was in segments then.
///
/// # Errors
/// As [`restore`], or the object store cannot be read.
pub fn restore_uploaded(
    config: &ObjectStoreConfig,
    target: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<BackupReport, StoreError> {
    let bucket = Bucket::new(config)?;
    let missing = |name: &str| StoreError::Remote {
        action: "get",
        name: format!("{}/{name}", bucket.url()),
        message: "there is no such object: no store has uploaded its catalog there".to_owned(),
    };
    let catalog_bytes = bucket.get(CATALOG)?.ok_or_else(|| missing(CATALOG))?;
    let series = bucket.get(SERIES)?.ok_or_else(|| missing(SERIES))?;
    let facts = bucket.get(FACTS)?.ok_or_else(|| missing(FACTS))?;
    begin(target)?;
    let small = [(SERIES.to_owned(), series), (FACTS.to_owned(), facts), (format!("{CATALOG}.tmp"), catalog_bytes)];
    for (name, bytes) in &small {
        let path = target.join(name);
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(StoreError::io("write", &path))?;
    }
    let catalog = Catalog::read(&target.join(format!("{CATALOG}.tmp")))?;
    let all: u64 = catalog.segments.iter().map(SegmentMeta::all_bytes).sum();
    let (mut files, mut done) = (small.len(), small.iter().map(|(_, bytes)| bytes.len() as u64).sum());
    for meta in &catalog.segments {
        for (file, crc32) in meta.sums() {
            // Every uploaded file has one.
            let Some(crc32) = crc32 else { continue };
            done += fetch(&bucket, &target.join(SEGMENTS), file, crc32)?;
            files += 1;
            progress(done, all.max(done));
        }
    }
    finish(target)?;
    Ok(BackupReport { created: catalog.last_flush.unwrap_or(TimeMs(0)), files, bytes: done })
}

/// Makes the directory, marked as not to be used yet.
fn begin(target: &Path) -> Result<(), StoreError> {
    make_empty(target)?;
    let marker = target.join(RESTORING);
    fs::write(&marker, b"").map_err(StoreError::io("create", &marker))?;
    sync_dir(target)?;
    for part in [WAL, SEGMENTS] {
        let part = target.join(part);
        fs::create_dir(&part).map_err(StoreError::io("create", &part))?;
    }
    Ok(())
}

/// Puts the catalog in place and takes the mark away.
fn finish(target: &Path) -> Result<(), StoreError> {
    for part in [WAL, SEGMENTS] {
        sync_dir(&target.join(part))?;
    }
    let catalog = target.join(CATALOG);
    fs::rename(target.join(format!("{CATALOG}.tmp")), &catalog).map_err(StoreError::io("replace", &catalog))?;
    sync_dir(target)?;
    let marker = target.join(RESTORING);
    fs::remove_file(&marker).map_err(StoreError::io("remove", &marker))?;
    sync_dir(target)
}

fn verify(backup: &Path, file: &FileSum) -> Result<(), StoreError> {
    let path = backup.join(&file.path);
    let (crc32, bytes) = checksum(&path)?;
    if bytes != file.bytes {
        let message = format!("it has {bytes} bytes instead of {}", file.bytes);
        return Err(StoreError::BackupDamaged { path, message });
    }
    if crc32 != file.crc32 {
        let message = format!("its checksum is {crc32:08x} instead of {:08x}", file.crc32);
        return Err(StoreError::BackupDamaged { path, message });
    }
    Ok(())
}

/// Copies, durably, and verifies what was read: the disk may give other bytes the second time.
fn copy(from: &Path, to: &Path, file: &FileSum) -> Result<(), StoreError> {
    let mut out = File::create_new(to).map_err(StoreError::io("create", to))?;
    let mut sum = crc32fast::Hasher::new();
    read_pieces(from, |piece| {
        sum.update(piece);
        out.write_all(piece).map_err(StoreError::io("write", to))
    })?;
    out.sync_all().map_err(StoreError::io("sync", to))?;
    if sum.finalize() != file.crc32 {
        let message = "it changed while it was being read".to_owned();
        return Err(StoreError::BackupDamaged { path: from.to_owned(), message });
    }
    Ok(())
}
