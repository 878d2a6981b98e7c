//! What can go wrong, with the path and the errno that say why.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why the actuator could not read, write or start.
#[derive(Debug, Error)]
pub enum ActuatorError {
    /// A file could not be opened, read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// `open`, `read`, `write ...`.
        action: String,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel file holds something that is not understood.
    #[error("{path} holds '{text}', expected {expected}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it holds, shortened.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// There is no cgroup hierarchy to work on.
    #[error("no cgroup hierarchy with a cpu or memory controller below {mount}; mount cgroup2 there, or name the right mount in the configuration", mount = mount.display())]
    NoHierarchy {
        /// Where it was looked for.
        mount: PathBuf,
    },
    /// The owner of the container's limits did not take a new one, and nobody else may write it.
    #[error("{0}; write_via = \"owner\" forbids to write the cgroup file instead")]
    Owner(String),
    /// There is nothing that could be limited, or it is somebody else's.
    #[error("{0}")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

impl ActuatorError {
    pub(crate) fn file(action: impl Into<String>, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { action: action.into(), path: path.into(), source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, text: &str, expected: &'static str) -> Self {
        Self::Malformed { path: path.into(), text: text.trim().chars().take(60).collect(), expected }
    }

    /// The kernel's error number, if the kernel said no.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the file, or the cgroup that it belonged to, does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        // A kept-open file of a removed cgroup answers ENODEV, a path ENOENT.
        matches!(self.errno(), Some(nix::libc::ENOENT | nix::libc::ENODEV))
    }
}
