//! Noticing that cgroups come and go without listing directories each second.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How often everything is listed though nothing was noticed: the net beneath, for events that a file system does not tell.
const FULL_WALK_EVERY: Duration = Duration::from_secs(30);

/// Watches on the directories that a walk lists.
///
/// A watch is set before its directory is listed, so what comes in between is noticed too. The kernel forgets the watch of a
/// removed directory by itself. Where there are no watches to be had, or not for all directories, every look says that
/// something may have come or gone: then each collection walks, as without watches.
#[derive(Debug)]
pub(crate) struct Arrivals {
    inotify: Option<Inotify>,
    /// Whether what was listed last may be out of date whatever the events say.
    uncertain: bool,
    walked: Option<Instant>,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        if let Err(errno) = inotify {
            tracing::info!(%errno, "no inotify; cgroups are listed with each collection");
        }
        Self { inotify: inotify.ok(), uncertain: true, walked: None }
    }

    /// Whether a walk is due.
    pub(crate) fn may_have_come(&mut self) -> bool {
        let noticed = self.take_events();
        noticed || self.uncertain || self.walked.is_none_or(|walked| walked.elapsed() >= FULL_WALK_EVERY)
    }

    /// A walk begins: from here on [`Arrivals::watch`] is called for each directory right before it is listed.
    pub(crate) fn begin_walk(&mut self) {
        self.uncertain = self.inotify.is_none();
        self.walked = Some(Instant::now());
    }

    /// Watches a directory; setting the same watch again changes nothing.
    pub(crate) fn watch(&mut self, dir: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        if let Err(errno) = inotify.add_watch(dir, events) {
            // A directory that does not exist may come at any time; one too many is for the next walk to see.
            tracing::debug!(dir = %dir.display(), %errno, "not watched");
            self.uncertain = true;
        }
    }

    /// Something could not be listed: the next look walks again.
    pub(crate) fn doubt(&mut self) {
        self.uncertain = true;
    }

    /// Takes all events that wait, and says whether one of them is about a directory or tells that some were lost.
    fn take_events(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let telling = AddWatchFlags::IN_ISDIR | AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_UNMOUNT;
        let mut noticed = false;
        loop {
            match inotify.read_events() {
                Ok(events) => noticed |= events.iter().any(|event| event.mask.intersects(telling)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return noticed,
                Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A walk over one directory.
    fn walk(arrivals: &mut Arrivals, dir: &Path) {
        arrivals.begin_walk();
        arrivals.watch(dir);
    }

    #[test]
    fn directories_that_come_or_go_are_noticed_and_files_are_not() {
        let tree = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::new();
        assert!(arrivals.may_have_come(), "nothing is known yet");
        walk(&mut arrivals, tree.path());
        assert!(!arrivals.may_have_come());
        fs::write(tree.path().join("memory.max"), "max").unwrap();
        assert!(!arrivals.may_have_come());
        fs::create_dir(tree.path().join("web")).unwrap();
        assert!(arrivals.may_have_come());
        walk(&mut arrivals, tree.path());
        assert!(!arrivals.may_have_come(), "one event, one walk");
        fs::remove_dir(tree.path().join("web")).unwrap();
        assert!(arrivals.may_have_come());
    }

    #[test]
    fn what_cannot_be_watched_is_walked_each_time() {
        let tree = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::new();
        walk(&mut arrivals, &tree.path().join("later"));
        assert!(arrivals.may_have_come() && arrivals.may_have_come());
        walk(&mut arrivals, tree.path());
        assert!(!arrivals.may_have_come());
        arrivals.doubt();
        assert!(arrivals.may_have_come());
    }

    #[test]
    fn a_walk_is_due_now_and_then_whatever_is_noticed() {
        let tree = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::new();
        walk(&mut arrivals, tree.path());
        arrivals.walked = Instant::now().checked_sub(FULL_WALK_EVERY);
        assert!(arrivals.may_have_come());
    }

    #[test]
    fn more_events_than_the_queue_holds_are_noticed_as_lost() {
        let tree = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::new();
        walk(&mut arrivals, tree.path());
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
        let Some(limit) = limit.trim().parse::<usize>().ok().filter(|limit| *limit <= 50_000) else {
            println!("SKIPPED: the queue is too long to be filled");
            return;
        };
        // Of files, which by themselves are nothing to notice; two events for each move.
        let (here, there) = (tree.path().join("here"), tree.path().join("there"));
        fs::write(&here, "").unwrap();
        for _ in 0..limit / 4 + 1 {
            fs::rename(&here, &there).unwrap();
            fs::rename(&there, &here).unwrap();
        }
        assert!(arrivals.may_have_come());
    }
}
