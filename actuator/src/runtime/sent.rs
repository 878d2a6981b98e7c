//! A request that was sent whole and not answered in time: whoever was asked may still carry it out.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing yet.
    Nothing,
    /// It was done.
    Done,
    /// It was refused, or the connection ended without an answer: what was begun may be carried out for another moment.
    Broken,
}

/// The connection on which the answer would come. It is kept open, since nothing else tells when it is over.
#[derive(Debug)]
pub(crate) struct Sent {
    connection: Option<UnixStream>,
    /// Whether the first bytes of an answer say that it was done.
    is_yes: fn(&[u8]) -> bool,
    counted: Option<Counted>,
}

/// Why there is no answer, and the request where it was sent whole.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: io::Error,
    pub(crate) sent: Option<Sent>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { error, sent: None }
    }
}

impl Sent {
    /// `None` is a connection that has ended already.
    pub(crate) fn new(connection: Option<UnixStream>, is_yes: fn(&[u8]) -> bool) -> Self {
        // One that cannot be made not to block would hold up whoever looks.
        let connection = connection.filter(|connection| connection.set_nonblocking(true).is_ok());
        Self { connection, is_yes, counted: None }
    }

    /// Counts as one of `of` for as long as it lives.
    pub(crate) fn counted(mut self, of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        self.counted = Some(Counted(Arc::clone(of)));
        self
    }

    /// Looks whether the answer has come. After one it is not to be asked again.
    pub(crate) fn look(&mut self) -> Heard {
        let Some(connection) = &mut self.connection else { return Heard::Broken };
        let mut first = [0; 64];
        match connection.read(&mut first) {
            Ok(0) => Heard::Broken,
            Ok(count) if (self.is_yes)(&first[..count]) => Heard::Done,
            Ok(_) => Heard::Broken,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Heard::Nothing
            }
            Err(_) => Heard::Broken,
        }
    }
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_answer_a_refusal_and_an_end_are_told_apart_and_it_is_counted_while_it_lives() {
        let all = Arc::new(AtomicUsize::new(0));
        for (answer, expected) in [(&b"yes"[..], Heard::Done), (b"no", Heard::Broken), (b"", Heard::Broken)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut sent = Sent::new(Some(ours), |text| text.starts_with(b"yes")).counted(&all);
            assert_eq!((sent.look(), sent.look()), (Heard::Nothing, Heard::Nothing));
            theirs.write_all(answer).unwrap();
            drop(theirs);
            assert_eq!(sent.look(), expected);
            assert_eq!(all.load(Ordering::Relaxed), 1);
        }
        assert_eq!(all.load(Ordering::Relaxed), 0);
        assert_eq!(Sent::new(None, |_| true).look(), Heard::Broken);
    }
}
