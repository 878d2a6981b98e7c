//! Keeping a store: backups, restoring them, and checking that everything in a directory is as it was written.
//!
//! A backup is a directory with the same files as a store and a list of them with sizes and checksums, `backup.json`,
//! which is written last: without it a directory is no backup. A running server streams its backup to whoever asks (see
//! [`stream`]), who writes it with rights of their own: no path of a client's choosing is ever opened by the server.

mod backup_dir;
mod check;
mod files;
mod manifest;
mod restore;
mod snapshot;
mod stream;

pub use check::{CheckReport, Finding, FindingStatus, check};
pub use manifest::BackupReport;
pub use restore::{restore, restore_uploaded};
pub use snapshot::Snapshot;
pub use stream::receive;

pub(crate) use files::checksum;
pub(crate) use manifest::{MANIFEST, RESTORING};
