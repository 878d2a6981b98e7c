//! The data directory: its layout, its lock, and whether it is ours at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::catalog::CATALOG;
use crate::error::StoreError;
use crate::keep::{MANIFEST, RESTORING};

const LOCK: &str = "LOCK";
/// The write-ahead log's directory.
pub(crate) const WAL: &str = "wal";
/// The segments' directory.
pub(crate) const SEGMENTS: &str = "segments";
/// The series log's file.
pub(crate) const SERIES: &str = "series.log";
/// The facts' file.
pub(crate) const FACTS: &str = "facts.json";

/// A data directory that this process alone may use until it drops this.
pub(crate) struct DataDir {
    path: PathBuf,
    /// The kernel releases the lock with the file, also after `kill -9`.
    lock: File,
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Not left to closing the file: a child process that is being started has a copy of it until its `exec`, and the
        // lock with it. An explicit release counts for all copies.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(dir = %self.path.display(), %error, "lock of the data directory is released with the process");
        }
    }
}

impl DataDir {
    /// Makes the directory when there is none, refuses one that holds something else, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(StoreError::io("create data directory", path))?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        for part in [WAL, SEGMENTS] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(StoreError::io("create", &part))?;
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.path.join(WAL)
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.path.join(SEGMENTS)
    }
}

/// A catalog or a lock makes a directory ours; otherwise it has to be empty.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    if path.join(MANIFEST).exists() {
        return Err(StoreError::IsBackup { dir: path.to_owned() });
    }
    if path.join(RESTORING).exists() {
        return Err(StoreError::HalfRestored { dir: path.to_owned() });
    }
    if path.join(CATALOG).exists() || path.join(LOCK).exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(path).map_err(StoreError::io("list data directory", path))?;
    // A fresh ext4 mount has `lost+found`.
    let foreign = entries.find_map(|entry| {
        let name = entry.ok()?.file_name().to_string_lossy().into_owned();
        (name != "lost+found").then_some(name)
    });
    match foreign {
        Some(found) => Err(StoreError::Foreign { dir: path.to_owned(), found }),
        None => Ok(()),
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = noted_pid(&mut file);
            return Err(StoreError::Locked { dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path)(source)),
    }
    let note_pid = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    note_pid(&mut file).map_err(StoreError::io("write", &path))?;
    Ok(file)
}

/// ` (pid 123)`, or nothing when the lock's holder did not say.
fn noted_pid(lock: &mut File) -> String {
    let mut pid = String::new();
    match lock.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!(" (pid {})", pid.trim()),
        _ => String::new(),
    }
}

/// Who uses the directory right now, as ` (pid 123)`; `None` when nobody does. Changes nothing.
pub(crate) fn holder(dir: &Path) -> Result<Option<String>, StoreError> {
    let path = dir.join(LOCK);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", &path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(noted_pid(&mut file))),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", &path)(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_is_told_which_directory_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(error.contains("in use by another tidegate process (pid"), "{error}");
        assert!(error.contains("store.dir"), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = DataDir::open(&path).err().unwrap().to_string();
        assert!(error.contains("cannot create data directory"), "{error}");
        assert!(error.contains("file"), "{error}");
    }
}
