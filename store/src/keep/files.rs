//! Reading files in pieces: checksums and copies that need no more memory than one piece.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::catalog::CATALOG;
use crate::dir::{FACTS, SEGMENTS, SERIES, WAL};
use crate::error::StoreError;
use crate::keep::RESTORING;
use crate::remote;

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Calls `each` with the file's bytes, piece by piece.
pub(super) fn read_pieces(
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut file = remote::open(path).map_err(StoreError::io("read", path))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(StoreError::io("read", path))? {
            0 => return Ok(()),
            count => each(&piece[..count])?,
        }
    }
}

/// CRC-32 and size of a whole file.
pub(crate) fn checksum(path: &Path) -> Result<(u32, u64), StoreError> {
    let (mut sum, mut bytes) = (crc32fast::Hasher::new(), 0);
    read_pieces(path, |piece| {
        sum.update(piece);
        bytes += piece.len() as u64;
        Ok(())
    })?;
    Ok((sum.finalize(), bytes))
}

/// Names of the files in a directory, sorted; none when there is no such directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes a directory, and refuses one that holds something.
pub(super) fn make_empty(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    // A fresh ext4 mount has `lost+found`.
    match names(dir)?.into_iter().find(|name| name != "lost+found") {
        Some(_) if dir.join(RESTORING).exists() => Err(StoreError::HalfRestored { dir: dir.to_owned() }),
        Some(found) => Err(StoreError::NotEmpty { dir: dir.to_owned(), found }),
        None => Ok(()),
    }
}

/// Whether this may be the name of a file of a store, relative to its directory. What comes from elsewhere (a stream, a
/// backup's list) must not name anything outside of it.
pub(super) fn is_store_file(name: &str) -> bool {
    let plain = |name: &str| {
        !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    match name.split_once('/') {
        None => [CATALOG, SERIES, FACTS].contains(&name),
        Some((WAL, file)) => plain(file) && file.ends_with(".wal"),
        Some((SEGMENTS, file)) => plain(file) && file.ends_with(".parquet"),
        Some(_) => false,
    }
}

/// The store's directory in `dir`: `dir` itself, or the part of a server's data directory that the store keeps.
pub(super) fn store_dir(dir: &Path) -> PathBuf {
    let inner = dir.join("store");
    if !dir.join(CATALOG).exists() && inner.join(CATALOG).exists() { inner } else { dir.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_store_are_named_by_a_backup() {
        for name in
            ["catalog.json", "series.log", "facts.json", "wal/00000001.wal", "segments/00000002-samples.parquet"]
        {
            assert!(is_store_file(name), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "../catalog.json",
            "wal/../x.wal",
            "wal/a/b.wal",
            "segments/x",
            "LOCK",
            "wal/.x.wal",
            "wal/",
        ] {
            assert!(!is_store_file(name), "{name}");
        }
    }
}
