//! A directory that goes with the replay that made it.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "tidegate-backtest-";
/// Locked by the owner for as long as it lives.
const LOCK: &str = "owner.lock";

/// See the module.
pub(crate) struct Scratch {
    path: PathBuf,
    _owner: File,
}

impl Scratch {
    /// Makes one below `below`, and removes those whose owners were killed in the middle.
    pub fn new(below: &Path) -> io::Result<Self> {
        sweep(below);
        for number in 0_u64.. {
            let path = below.join(format!("{PREFIX}{number}"));
            // Made anew and for us alone: what stands there already is somebody else's.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let owner = File::create_new(path.join(LOCK))?;
                    owner.lock()?;
                    if still_there(&owner, &path.join(LOCK)) {
                        return Ok(Self { path, _owner: owner });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "a backtest's directory stays behind");
        }
    }
}

/// Whether what was opened and locked is what stands there: a directory looks abandoned until its owner has locked it, and
/// another may have taken the place of one that is gone.
fn still_there(owner: &File, lock: &Path) -> bool {
    let inode = |found: io::Result<Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let ours = inode(owner.metadata());
    ours.is_some() && ours == inode(std::fs::metadata(lock))
}

fn sweep(below: &Path) {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // Whoever is alive holds the lock, in whatever container he lives.
        let Ok(owner) = File::open(entry.path().join(LOCK)) else { continue };
        // Kept until all is gone, so that an owner who was about to lock it sees that.
        if owner.try_lock().is_ok() && still_there(&owner, &entry.path().join(LOCK)) {
            let _ = std::fs::remove_dir_all(entry.path()); // the next one tries again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_goes_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = Scratch::new(dir.path()).unwrap();
        let abandoned = dir.path().join("tidegate-backtest-7");
        std::fs::create_dir(&abandoned).unwrap();
        std::fs::write(abandoned.join(LOCK), "").unwrap();
        std::fs::create_dir(dir.path().join("tidegate-backtest-8")).unwrap();
        let second = Scratch::new(dir.path()).unwrap();
        assert!(first.path().exists() && second.path() != first.path() && !abandoned.exists());
        assert!(dir.path().join("tidegate-backtest-8").exists(), "without a lock it is nobody knows whose");
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }

    #[test]
    fn those_who_begin_at_once_have_a_directory_each() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || {
            for _ in 0..200 {
                let own = Scratch::new(dir.path()).unwrap();
                std::fs::File::create_new(own.path().join("store")).unwrap();
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(begin))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
