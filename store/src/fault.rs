//! File operations that can be made to fail, for tests that ask what every single failure costs.
//!
//! Each place that changes a file asks [`at`] before it does. Outside of tests that is nothing at all. In a test, a
//! directory can be given a [`Fault`]: then the operations below it are counted, and some of them fail as on a full disk.

pub(crate) use imp::*;

#[cfg(not(test))]
mod imp {
    use std::fs::File;
    use std::io::{self, Write};
    use std::path::Path;

    /// Fails when a test says so.
    #[inline(always)]
    pub(crate) fn at(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// As [`at`], before a sync; a test can also hold it up.
    #[inline(always)]
    pub(crate) fn at_sync(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Writes all bytes; when a test says so, only some of them.
    #[inline(always)]
    pub(crate) fn write_all(mut file: &File, bytes: &[u8], _path: &Path) -> io::Result<()> {
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod imp {
    use std::fs::File;
    use std::io::{self, Write};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::Mutex;

    /// Which operations fail, counted from 1.
    #[derive(Clone)]
    pub(crate) enum Fault {
        /// Only this one.
        Once(u64),
        /// This one and all later ones: a disk that stays full, or, when the store is dropped meanwhile, a crash.
        From(u64),
        /// None, but every sync waits while this is set.
        HeldSync(Arc<AtomicBool>),
    }

    struct Plan {
        dir: PathBuf,
        fault: Fault,
        count: u64,
    }

    static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());

    /// Counts the operations below `dir` from now on, and lets some fail.
    pub(crate) fn set(dir: &Path, fault: Fault) {
        clear(dir);
        PLANS.lock().push(Plan { dir: dir.to_owned(), fault, count: 0 });
    }

    /// Lets everything below `dir` succeed again. Gives the number of operations that were counted.
    pub(crate) fn clear(dir: &Path) -> u64 {
        let mut plans = PLANS.lock();
        let count = plans.iter().find(|plan| plan.dir == dir).map_or(0, |plan| plan.count);
        plans.retain(|plan| plan.dir != dir);
        count
    }

    pub(crate) fn at(path: &Path) -> io::Result<()> {
        let mut plans = PLANS.lock();
        let Some(plan) = plans.iter_mut().find(|plan| path.starts_with(&plan.dir)) else { return Ok(()) };
        plan.count += 1;
        let fails = match plan.fault {
            Fault::Once(number) => plan.count == number,
            Fault::From(number) => plan.count >= number,
            Fault::HeldSync(_) => false,
        };
        // ENOSPC
        if fails { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }

    pub(crate) fn at_sync(path: &Path) -> io::Result<()> {
        let held = PLANS.lock().iter().find(|plan| path.starts_with(&plan.dir)).map(|plan| plan.fault.clone());
        if let Some(Fault::HeldSync(held)) = held {
            while held.load(Ordering::Acquire) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        at(path)
    }

    pub(crate) fn write_all(mut file: &File, bytes: &[u8], path: &Path) -> io::Result<()> {
        if let Err(error) = at(path) {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        file.write_all(bytes)
    }
}
