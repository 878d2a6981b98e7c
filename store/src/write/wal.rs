//! The write-ahead log: numbered files of records below `wal/`, and the group commit.
//!
//! A file is dropped as a whole once everything in it has been written to segments. Each process starts a new file, so a
//! torn end of an old one never has to be repaired.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::fault;
use crate::write::record::{self, Record};

/// A file of this size is closed and the next one begun, so that memory and log can be freed in parts.
pub(crate) const FILE_BYTES: u64 = 64 << 20;

/// Room for records that is kept between appends.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The end of the log, owned by whoever holds the store's writer lock.
pub(crate) struct Wal {
    dir: PathBuf,
    number: u64,
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    /// Up to which file the names in the directory are durable.
    names_synced: u64,
    /// Counts all bytes written by this process; a position to wait for.
    position: u64,
    /// Closed files of this process that nobody has synced yet, with their numbers.
    unsynced: Vec<(u64, Arc<File>)>,
    /// Files before the current one with their sizes.
    older: Vec<(u64, u64)>,
    /// Empty, kept for its room.
    buffer: Vec<u8>,
}

impl Wal {
    /// Begins file `number`. `older` are the files that stay, with their sizes.
    pub(crate) fn begin(dir: &Path, number: u64, older: Vec<(u64, u64)>) -> Result<Self, StoreError> {
        let path = file_path(dir, number);
        let file = Arc::new(create(dir, &path)?);
        let (dir, unsynced, buffer) = (dir.to_owned(), Vec::new(), Vec::new());
        Ok(Self { dir, number, path, file, bytes: 0, names_synced: number, position: 0, unsynced, older, buffer })
    }

    /// Number of the current file.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Size of the current file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Size of all files.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes + self.older.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Writes whole records and returns the position to wait for. On an error nothing of them stays, as far as the file
    /// system lets us; a torn rest is skipped at the next replay.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<u64, StoreError> {
        if let Err(source) = fault::write_all(&self.file, records, &self.path) {
            if fault::at(&self.path).and_then(|()| self.file.set_len(self.bytes)).is_err() {
                self.bytes = self.file.metadata().map_or(self.bytes, |metadata| metadata.len());
            }
            return Err(StoreError::Io { action: "append to", path: self.path.clone(), source });
        }
        self.bytes += records.len() as u64;
        self.position += records.len() as u64;
        Ok(self.position)
    }

    /// As [`Wal::append`], of the records that `put` appends to an empty buffer.
    pub(crate) fn append_with(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<u64, StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        put(&mut buffer);
        let position = self.append(&buffer);
        if buffer.capacity() <= KEPT_BUFFER_BYTES {
            buffer.clear();
            self.buffer = buffer;
        }
        position
    }

    /// Closes the current file and begins the next. Its name becomes durable with the next sync: the writer lock must not
    /// wait for a slow disk, and nothing in the file is acknowledged as durable before.
    pub(crate) fn rotate(&mut self) -> Result<(), StoreError> {
        let path = file_path(&self.dir, self.number + 1);
        let file = Arc::new(create_unsynced(&path)?);
        self.older.push((self.number, self.bytes));
        self.unsynced.push((self.number, std::mem::replace(&mut self.file, file)));
        self.number += 1;
        self.path = path;
        self.bytes = 0;
        Ok(())
    }

    /// Removes all files before `floor`. What cannot be removed is only logged: it is below the catalog's floor, so it is
    /// not replayed and is tried again at the next start.
    pub(crate) fn remove_below(&mut self, floor: u64) -> usize {
        let before = self.older.len();
        self.older.retain(|&(number, _)| {
            let keep = number >= floor;
            if !keep {
                remove(&file_path(&self.dir, number));
            }
            keep
        });
        self.unsynced.retain(|&(number, _)| number >= floor);
        before - self.older.len()
    }
}

fn create_unsynced(path: &Path) -> Result<File, StoreError> {
    let open = || fault::at(path).and_then(|()| OpenOptions::new().create_new(true).append(true).open(path));
    open().map_err(StoreError::io("create", path))
}

fn create(dir: &Path, path: &Path) -> Result<File, StoreError> {
    let file = create_unsynced(path)?;
    // A synced file without a synced directory entry may be gone after a power cut.
    if let Err(error) = sync_dir(dir) {
        // Left behind, it would be in the way of every later attempt.
        remove(path);
        return Err(error);
    }
    Ok(file)
}

fn remove(path: &Path) {
    if let Err(error) = fault::at(path).and_then(|()| fs::remove_file(path))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "old write-ahead log file stays");
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let sync = || fault::at_sync(dir).and_then(|()| File::open(dir)?.sync_all());
    sync().map_err(StoreError::io("sync", dir))
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.wal"))
}

/// The group commit: whoever waits first syncs for all who have written by then.
///
/// A leader instead of a thread of its own: without concurrency there is no hand-over, and with it the lock's queue makes
/// the groups, since everyone who queued while a sync ran finds its position covered by the next one.
#[derive(Default)]
pub(crate) struct GroupCommit {
    /// An async lock, since it is held while the sync runs on a blocking thread. Owned by that thread: it goes on, and its
    /// outcome counts, also when whoever asked for it was cancelled.
    leader: Arc<tokio::sync::Mutex<()>>,
    outcome: Arc<Outcome>,
}

/// What the syncs so far have come to.
#[derive(Default)]
struct Outcome {
    synced: AtomicU64,
    /// After a failed sync the kernel may report lost pages as clean, so a later success would prove nothing.
    stopped: AtomicBool,
}

impl GroupCommit {
    /// Whether nobody is waiting for a sync.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.leader.try_lock().is_ok()
    }

    /// Whether a sync has failed; then nothing may be acknowledged any more.
    pub(crate) fn stopped(&self) -> bool {
        self.outcome.stopped.load(Ordering::Acquire)
    }

    /// Returns once everything up to `position` is on disk.
    pub(crate) async fn wait_for(&self, wal: &Arc<Mutex<Wal>>, position: u64) -> Result<(), StoreError> {
        if self.outcome.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        let leader = Arc::clone(&self.leader).lock_owned().await;
        if self.outcome.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        // The kernel reports a lost page once. Whoever queued behind the sync that was told must not ask again.
        if self.stopped() {
            let dir = wal.lock().dir.parent().map(Path::to_owned).unwrap_or_default();
            return Err(StoreError::LogStopped { dir });
        }
        let (shared, outcome) = (Arc::clone(wal), Arc::clone(&self.outcome));
        let sync = tokio::task::spawn_blocking(move || {
            // Given up only after the note: the next leader has to see it.
            let _leader = leader;
            outcome.note(sync_now(&shared))
        });
        sync.await.unwrap_or_else(|error| {
            self.outcome.stopped.store(true, Ordering::Release);
            Err(StoreError::Interrupted { what: "syncing the write-ahead log", why: error.to_string() })
        })
    }

    /// Syncs everything that was written so far.
    pub(crate) async fn wait_for_all(&self, wal: &Arc<Mutex<Wal>>) -> Result<(), StoreError> {
        let position = wal.lock().position;
        self.wait_for(wal, position).await
    }
}

impl Outcome {
    fn note(&self, outcome: Result<u64, StoreError>) -> Result<(), StoreError> {
        match outcome {
            Ok(position) => {
                self.synced.fetch_max(position, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                self.stopped.store(true, Ordering::Release);
                Err(error)
            }
        }
    }
}

fn sync_now(wal: &Mutex<Wal>) -> Result<u64, StoreError> {
    let (position, closed, current, path, number, new_name) = {
        let wal = wal.lock();
        let new_name = (wal.names_synced < wal.number).then(|| wal.dir.clone());
        (wal.position, wal.unsynced.clone(), wal.file.clone(), wal.path.clone(), wal.number, new_name)
    };
    if let Some(dir) = new_name {
        sync_dir(&dir)?;
    }
    for file in closed.iter().map(|(_, file)| file).chain([&current]) {
        fault::at_sync(&path).and_then(|()| file.sync_data()).map_err(StoreError::io("sync", &path))?;
    }
    // Only now, not when the list was read: whoever waited may have been cancelled, and this goes on without it.
    let mut wal = wal.lock();
    wal.names_synced = wal.names_synced.max(number);
    wal.unsynced.retain(|(number, _)| !closed.iter().any(|(synced, _)| synced == number));
    Ok(position)
}

/// The log's files from `floor` on, in order, with their paths. Files before it are removed: they are in segments.
pub(crate) fn files_from(dir: &Path, floor: u64) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let path = entry.map_err(StoreError::io("list", dir))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wal"));
        match number.and_then(|number| number.parse::<u64>().ok()) {
            Some(number) if number >= floor => files.push((number, path)),
            Some(_) => remove(&path),
            None => tracing::warn!(file = %path.display(), "not a write-ahead log file, left alone"),
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads one file's records; what is damaged is reported with file and offset, and skipped. Returns the file's size.
pub(crate) fn replay(path: &Path, each: impl FnMut(Record)) -> Result<u64, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    // The process that wrote it may have been killed before it synced, and nobody writes to it any more.
    File::open(path).and_then(|file| file.sync_data()).map_err(StoreError::io("sync", path))?;
    for damage in record::read_all(&bytes, each) {
        let what = if damage.tail { "torn end of file" } else { "corrupt record" };
        tracing::warn!(file = %path.display(), offset = damage.offset, bytes = damage.bytes, "{what} skipped");
    }
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose next sync fails: the kernel has no `fdatasync` for the null device.
    fn unsyncable(dir: &Path) -> Arc<Mutex<Wal>> {
        let mut wal = Wal::begin(dir, 1, Vec::new()).unwrap();
        wal.append(b"x").unwrap();
        wal.file = Arc::new(File::open("/dev/null").unwrap());
        Arc::new(Mutex::new(wal))
    }

    #[tokio::test]
    async fn after_a_failed_sync_a_later_success_acknowledges_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, commit) = (unsyncable(dir.path()), GroupCommit::default());
        assert!(commit.wait_for(&wal, 1).await.is_err());
        wal.lock().file = Arc::new(File::open(file_path(dir.path(), 1)).unwrap());
        let error = commit.wait_for(&wal, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::LogStopped { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_failed_sync_is_noted_though_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, commit) = (unsyncable(dir.path()), GroupCommit::default());
        {
            let mut waiting = Box::pin(commit.wait_for(&wal, 1));
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        drop(commit.leader.lock().await);
        assert!(commit.stopped());
    }

    #[test]
    fn a_log_file_whose_name_cannot_be_made_durable_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_path(dir.path(), 1);
        assert!(create(&dir.path().join("missing"), &path).is_err());
        create(dir.path(), &path).unwrap();
    }
}
