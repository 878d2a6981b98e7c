//! A daemon behind a Unix socket, and whether it is worth asking at the moment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;

use crate::runtime::http::{self, Answer};
use crate::runtime::sent::{Failure, Sent};

/// How long a daemon that failed is left alone: the first time, doubled by each further failure, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// One daemon. A failure costs its time-out once; then nobody waits for it until its rest is over.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: &'static str,
    socket: PathBuf,
    trouble: Mutex<Option<Trouble>>,
    /// How many requests it has still to answer that nobody waits for any more.
    behind: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Trouble {
    what: String,
    rest: Duration,
    until: Instant,
}

/// Why a daemon gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum NoAnswer {
    /// It has no socket here: not installed, not started, or none is configured.
    #[error("{0} has no socket here")]
    Absent(&'static str),
    /// It failed, now or a moment ago.
    #[error("{0}")]
    Failed(String),
}

impl Daemon {
    /// An empty path is never asked.
    pub(crate) fn new(name: &'static str, socket: &Path) -> Self {
        Self { name, socket: socket.to_owned(), trouble: Mutex::new(None), behind: Arc::default() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What ails it since it was asked last, in words that stay the same while it lasts.
    pub(crate) fn problem(&self) -> Option<String> {
        self.trouble.lock().as_ref().map(|trouble| trouble.what.clone())
    }

    /// Whether it would be asked now: it is there and not resting.
    pub(crate) fn is_ready(&self) -> bool {
        let resting = self.trouble.lock().as_ref().is_some_and(|trouble| Instant::now() < trouble.until);
        !resting && self.is_present()
    }

    /// Whether there is a socket.
    pub(crate) fn is_present(&self) -> bool {
        !self.socket.as_os_str().is_empty() && self.socket.exists()
    }

    pub(crate) fn get(&self, target: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
        // That a question is answered late does no harm.
        self.send(|socket| http::request(socket, "GET", target, None, timeout)).map_err(|(why, _)| why)
    }

    /// Posts JSON. Beside the error is what was posted and may still be carried out.
    pub(crate) fn post(&self, target: &str, body: &str, timeout: Duration) -> Result<Answer, (NoAnswer, Option<Sent>)> {
        self.send(|socket| http::request(socket, "POST", target, Some(body), timeout))
    }

    /// Whether it has still to answer a request that nobody waits for any more.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    /// Talks to the daemon at its socket, unless it rests.
    pub(crate) fn ask<T>(&self, talk: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, NoAnswer> {
        self.send(|socket| talk(socket).map_err(Failure::from)).map_err(|(why, _)| why)
    }

    /// As [`Daemon::ask`], for what changes something.
    pub(crate) fn send<T>(
        &self,
        talk: impl FnOnce(&Path) -> Result<T, Failure>,
    ) -> Result<T, (NoAnswer, Option<Sent>)> {
        if self.socket.as_os_str().is_empty() {
            return Err((NoAnswer::Absent(self.name), None));
        }
        if let Some(trouble) = self.trouble.lock().as_ref().filter(|trouble| Instant::now() < trouble.until) {
            return Err((NoAnswer::Failed(trouble.what.clone()), None));
        }
        // Not locked meanwhile: several limits may change at once.
        let answer = talk(&self.socket);
        let mut trouble = self.trouble.lock();
        match answer {
            Ok(answer) => {
                *trouble = None;
                Ok(answer)
            }
            Err(Failure { error, sent: None }) if error.kind() == io::ErrorKind::NotFound => {
                *trouble = None;
                Err((NoAnswer::Absent(self.name), None))
            }
            Err(Failure { error, sent }) => {
                let rest = trouble.as_ref().map_or(FIRST_REST, |former| (2 * former.rest).min(LONGEST_REST));
                let why = match error.kind() {
                    io::ErrorKind::TimedOut => "it does not answer".to_owned(),
                    io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
                    _ => error.to_string(),
                };
                let what = format!("cannot ask {} at {}: {why}", self.name, self.socket.display());
                *trouble = Some(Trouble { what: what.clone(), rest, until: Instant::now() + rest });
                Err((NoAnswer::Failed(what), sent.map(|sent| sent.counted(&self.behind))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_hangs_is_waited_for_once_and_asked_again_after_a_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let daemon = Daemon::new("Docker", &path);
        assert_eq!(daemon.get("/x", Duration::from_secs(5)), Err(NoAnswer::Absent("Docker")));
        assert!(!daemon.is_ready() && daemon.problem().is_none());

        let listener = UnixListener::bind(&path).unwrap();
        let Err(NoAnswer::Failed(why)) = daemon.get("/x", Duration::from_millis(30)) else { panic!("nobody answers") };
        assert!(why.contains("Docker") && why.contains("does not answer"), "{why}");
        let started = Instant::now();
        for _ in 0..100 {
            assert!(daemon.get("/x", Duration::from_secs(5)).is_err());
        }
        assert!(started.elapsed() < Duration::from_secs(5), "only the first one waited");
        assert_eq!(daemon.problem(), Some(why));

        let waited = |trouble: &Mutex<Option<Trouble>>| {
            let mut trouble = trouble.lock();
            let trouble = trouble.as_mut().unwrap();
            trouble.until = Instant::now();
            trouble.rest
        };
        assert_eq!(waited(&daemon.trouble), FIRST_REST);
        assert!(daemon.get("/x", Duration::from_millis(30)).is_err());
        assert_eq!(waited(&daemon.trouble), 2 * FIRST_REST);
        for _ in 0..10 {
            assert!(daemon.get("/x", Duration::from_millis(5)).is_err());
            waited(&daemon.trouble);
        }
        assert_eq!(waited(&daemon.trouble), LONGEST_REST);
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(daemon.get("/x", Duration::from_secs(5)), Err(NoAnswer::Absent("Docker")));
        assert_eq!(daemon.problem(), None, "what is not there is no trouble");
    }
}
