//! What can go wrong with a data directory.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked for. Texts name the file and, where there is one, the next step.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}{}", path.display(), room(source))]
    Io {
        /// What was tried: `read`, `write`, ...
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A setting makes no sense.
    #[error("{name} cannot be used: {why}")]
    Setting {
        /// Its path, such as `store.partition_s`.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another process holds the data directory.
    #[error(
        "data directory {} is in use by another tidegate process{holder}: stop it, or set store.dir to another directory",
        dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// ` (pid 123)`, or nothing when unknown.
        holder: String,
    },
    /// The directory holds something else.
    #[error(
        "{} is not a tidegate data directory, it holds '{found}': set store.dir to an empty or a new directory",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The first entry that does not belong there.
        found: String,
    },
    /// A file that everything else depends on cannot be understood.
    #[error("{} is damaged ({message}): restore it from a backup, or move the data directory away to start empty", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A directory that has to be empty is not.
    #[error("{} is not empty, it holds '{found}': choose a new or an empty directory", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The first entry in it.
        found: String,
    },
    /// There is no store in a directory.
    #[error("{} is no tidegate data directory: it has no catalog.json; --dir names the directory", dir.display())]
    NotAStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A backup was taken for a store.
    #[error(
        "{} is a backup, which stays as it is: `tidegate restore {} --dir NEW_DIR` makes a data directory from it",
        dir.display(), dir.display()
    )]
    IsBackup {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory was taken for a backup.
    #[error(
        "{} is no complete backup: it has no backup.json, which is written last; take another one with `tidegate backup`",
        dir.display()
    )]
    NotABackup {
        /// The directory.
        dir: PathBuf,
    },
    /// A restore was cut off.
    #[error("{} holds a restore that did not finish: remove it and run `tidegate restore` again", dir.display())]
    HalfRestored {
        /// The directory.
        dir: PathBuf,
    },
    /// A backup is not what it was.
    #[error(
        "the backup is damaged at {} ({message}), nothing was restored: `tidegate check --dir` names everything that is; \
         restore an older one",
        path.display()
    )]
    BackupDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A backup did not arrive as a whole.
    #[error("the backup broke off ({why}), nothing of it was kept: run `tidegate backup` again")]
    BrokeOff {
        /// What happened.
        why: String,
    },
    /// A segment holds other bytes than were written.
    #[error(
        "segment {} is damaged ({message}): `tidegate check` says what is lost; move the file away and restart to go on \
         without it, or restore a backup",
        path.display()
    )]
    SegmentDamaged {
        /// The segment's file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The object store did not do what it was asked for.
    #[error("cannot {action} {name}: {message}")]
    Remote {
        /// `get`, `put`, ...
        action: &'static str,
        /// The object.
        name: String,
        /// What the object store said.
        message: String,
    },
    /// The object store cannot be used as it is set up.
    #[error("store.object_store = '{url}' cannot be used: {why}")]
    ObjectStoreSetting {
        /// Its URL.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Segments are in an object store that is not configured.
    #[error(
        "{segments} segments are only in the object store {url}: set store.object_store to it, or restore a backup"
    )]
    RemoteOnly {
        /// How many.
        segments: usize,
        /// Where.
        url: String,
    },
    /// The directory was written by a later version.
    #[error(
        "{} has format {found}, this tidegate knows formats up to {known}: use the version that wrote it, or a later one",
        path.display()
    )]
    NewerFormat {
        /// The catalog.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest known format.
        known: u32,
    },
    /// A segment cannot be read or written.
    #[error("segment {} cannot be {action}: {message}{}", path.display(), whether_damaged(action))]
    Segment {
        /// `read` or `written`.
        action: &'static str,
        /// The segment's file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An earlier `fdatasync` failed. After that the kernel may have dropped pages that it reports as clean, so nothing
    /// more can be acknowledged.
    #[error(
        "the write-ahead log below {} stopped after a failed fdatasync: check the disk, then restart tidegate",
        dir.display()
    )]
    LogStopped {
        /// The data directory.
        dir: PathBuf,
    },
    /// A sample names its series by an id that stands for none any more: its last samples have been removed.
    #[error("series {id} is not known any more: name it by its metric and tags")]
    UnknownSeries {
        /// The id.
        id: u32,
    },
    /// A row cannot be kept as it is.
    #[error("{what} cannot be stored: {why}")]
    Unstorable {
        /// Which row.
        what: String,
        /// Why not.
        why: String,
    },
    /// A background thread of the store ended by itself.
    #[error("{what} was interrupted: {why}")]
    Interrupted {
        /// What it was doing.
        what: &'static str,
        /// How it ended.
        why: String,
    },
}

/// The next step when there is no room.
fn room(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; it goes on by itself when there is room"
        }
        _ => "",
    }
}

/// The next step when a segment cannot be read.
fn whether_damaged(action: &str) -> &'static str {
    if action == "read" { "; `tidegate check` says what is damaged and what that costs" } else { "" }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }
}
