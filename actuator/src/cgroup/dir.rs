//! One cgroup directory held open, and files in it that are read each second.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tidegate_model::Write;

use crate::error::ActuatorError;

/// A cgroup directory. Its files are opened relative to the open directory, so that a re-created cgroup at the same path is
/// never mistaken for it: files of a removed directory cannot be opened any more.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    fd: File,
    inode: u64,
}

impl Dir {
    pub(crate) fn open(path: &Path) -> Result<Self, ActuatorError> {
        let fd = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| ActuatorError::file("open", path, error))?;
        let inode = fd.metadata().map_err(|error| ActuatorError::file("stat", path, error))?.ino();
        Ok(Self { path: path.to_owned(), fd, inode })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether the path still leads to this directory.
    pub(crate) fn is_current(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }

    /// Reads a whole file.
    pub(crate) fn read(&self, name: &str) -> Result<String, ActuatorError> {
        let mut text = String::new();
        self.file(name, OFlag::O_RDONLY)?
            .read_to_string(&mut text)
            .map_err(|error| ActuatorError::file("read", self.path.join(name), error))?;
        Ok(text)
    }

    /// Writes `value` with one write, and says what was written where.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<Write, ActuatorError> {
        self.write_with(name, value, OFlag::empty())
    }

    /// As [`Dir::write`], but the kernel does not stay in the write to reclaim memory or to look for a victim, where it
    /// knows the difference.
    pub(crate) fn write_nonblocking(&self, name: &str, value: &str) -> Result<Write, ActuatorError> {
        self.write_with(name, value, OFlag::O_NONBLOCK)
    }

    fn write_with(&self, name: &str, value: &str, flags: OFlag) -> Result<Write, ActuatorError> {
        let path = self.path.join(name);
        let mut file = self.file(name, OFlag::O_WRONLY | OFlag::O_TRUNC | flags)?;
        file.write_all(value.as_bytes())
            .map_err(|error| ActuatorError::file(format!("write '{value}' to"), &path, error))?;
        Ok(Write { target: path.display().to_string(), value: value.to_owned() })
    }

    fn file(&self, name: &str, flags: OFlag) -> Result<File, ActuatorError> {
        // Names are constants of this crate; the check keeps it so that nothing can lead out of the directory.
        debug_assert!(!name.contains('/'), "'{name}' is not a file of the directory");
        openat(&self.fd, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
            .map(File::from)
            .map_err(|errno| ActuatorError::file("open", self.path.join(name), errno.into()))
    }
}

/// How many files may be kept open between two readings, so that many containers do not use up the process's descriptors.
#[derive(Debug)]
pub(crate) struct DescriptorBudget(AtomicI64);

impl DescriptorBudget {
    /// Half of the soft limit: sockets, data files and directories need the rest.
    pub(crate) fn from_process_limit() -> Self {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()).and_then(|soft| soft.parse().ok());
        Self(AtomicI64::new(soft.unwrap_or(1024_i64) / 2))
    }

    pub(crate) fn take(&self) -> bool {
        let taken = self.0.fetch_sub(1, Ordering::Relaxed) > 0;
        if !taken {
            self.give_back();
        }
        taken
    }

    pub(crate) fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A file that is read each second through one descriptor, as long as the budget allows.
#[derive(Debug)]
pub(crate) struct KeptFile {
    dir: Arc<Dir>,
    name: &'static str,
    file: Option<File>,
    budget: Arc<DescriptorBudget>,
}

impl KeptFile {
    pub(crate) fn new(dir: &Arc<Dir>, name: &'static str, budget: &Arc<DescriptorBudget>) -> Self {
        Self { dir: Arc::clone(dir), name, file: None, budget: Arc::clone(budget) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path.join(self.name)
    }

    /// Reads the file from its beginning into `text`, replacing what was there.
    pub(crate) fn read<'t>(&mut self, text: &'t mut Vec<u8>) -> Result<&'t str, ActuatorError> {
        text.clear();
        let read = match &self.file {
            Some(file) => read_from_start(file, text),
            None => {
                let file = self.dir.file(self.name, OFlag::O_RDONLY)?;
                let read = read_from_start(&file, text);
                if read.is_ok() && self.budget.take() {
                    self.file = Some(file);
                }
                read
            }
        };
        read.map_err(|error| ActuatorError::file("read", self.path(), error))?;
        std::str::from_utf8(text).map_err(|_| ActuatorError::malformed(self.path(), "binary data", "text"))
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.budget.give_back();
        }
    }
}

/// A read that is not filled is the last one: the kernel makes each of these files as one record (`single_open` in
/// fs/seq_file.c), which a read gets as far as it has room. Asking for its end would be half of all system calls.
fn read_from_start(file: &File, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 8192];
    loop {
        let count = file.read_at(&mut chunk, text.len() as u64)?;
        text.extend_from_slice(&chunk[..count]);
        if count < chunk.len() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_directory_is_noticed_and_not_written() {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("web");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cpu.max"), "max 100000").unwrap();
        let dir = Dir::open(&path).unwrap();
        assert!(dir.is_current());

        // The new one is made before the old one goes, or the file system hands out the same inode again.
        let new = tree.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("cpu.max"), "max 100000").unwrap();
        fs::remove_dir_all(&path).unwrap();
        fs::rename(&new, &path).unwrap();
        assert!(!dir.is_current());
        assert!(dir.write("cpu.max", "50000 100000").unwrap_err().is_missing());
        assert_eq!(fs::read_to_string(path.join("cpu.max")).unwrap(), "max 100000");
    }

    #[test]
    fn links_out_of_the_directory_are_not_followed() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("secret"), "1").unwrap();
        let path = tree.path().join("web");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("../secret", path.join("cpu.max")).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert!(dir.write("cpu.max", "2").is_err());
        assert_eq!(fs::read_to_string(tree.path().join("secret")).unwrap(), "1");
    }

    #[test]
    fn files_longer_than_a_read_are_read_whole() {
        let tree = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(tree.path()).unwrap());
        let budget = Arc::new(DescriptorBudget(AtomicI64::new(1)));
        let (mut file, mut text) = (KeptFile::new(&dir, "a", &budget), Vec::new());
        for length in [0, 1, 8191, 8192, 8193, 20_000] {
            fs::write(tree.path().join("a"), "x".repeat(length)).unwrap();
            assert_eq!(file.read(&mut text).unwrap().len(), length);
        }
    }

    #[test]
    fn without_budget_files_are_read_all_the_same() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("a"), "1").unwrap();
        fs::write(tree.path().join("b"), "2").unwrap();
        let dir = Arc::new(Dir::open(tree.path()).unwrap());
        let budget = Arc::new(DescriptorBudget(AtomicI64::new(1)));
        let (mut a, mut b) = (KeptFile::new(&dir, "a", &budget), KeptFile::new(&dir, "b", &budget));
        let mut text = Vec::new();
        for _ in 0..2 {
            assert_eq!(a.read(&mut text).unwrap(), "1");
            assert_eq!(b.read(&mut text).unwrap(), "2");
        }
        assert!(a.file.is_some() && b.file.is_none());
        drop(a);
        assert_eq!(budget.0.load(Ordering::Relaxed), 1);
    }
}
