//! Updates that an owner was sent and has not answered: it may carry them out minutes later, and set limits that were right
//! then. So a container's owner has one update at a time, what it may still bring is remembered until it has answered, and
//! what comes late is told from what somebody else changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tidegate_model::{Limit, Resource};

use crate::owner::NotTold;
use crate::quota::{PERCENT, page_size};
use crate::runtime::sent::{Heard, Sent};

/// How long an update of the same container is waited for.
const TURN: Duration = Duration::from_millis(500);
/// How long after its answer an update may still bring something: some say yes and write a moment later.
const AFTER_ANSWER: Duration = Duration::from_secs(1);
/// The same where the connection ended without one: what the owner had begun goes on without it.
const AFTER_END: Duration = Duration::from_secs(10);
/// How long one is expected that a former process sent: nothing tells when it is answered.
const OF_FORMER: Duration = Duration::from_secs(600);
/// No owner is waited for any longer.
const LONGEST: Duration = Duration::from_secs(3_600);

/// The limits and knobs that an update sets.
pub(crate) type Said = BTreeMap<Resource, Limit>;

/// The update of one container that is not answered, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// Held while its owner is talked to.
    turn: Mutex<()>,
    update: Mutex<Option<Update>>,
}

/// One that was not answered in time.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Who was asked.
    pub(crate) owner: &'static str,
    pub(crate) said: Said,
    pub(crate) sent: Sent,
}

#[derive(Debug)]
struct Update {
    owner: &'static str,
    said: Said,
    /// Where the answer comes; nowhere for one that a former process sent.
    sent: Option<Sent>,
    since: Instant,
    /// When nothing can come of it any more, and whether it was carried out.
    ends: Option<(Instant, bool)>,
    /// What stood there last that it does not bring.
    seen: Said,
    /// Whether nobody was told yet that there is one.
    is_news: bool,
}

/// What came late.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrival {
    pub(crate) owner: &'static str,
    pub(crate) wanted: Limit,
    pub(crate) after: Duration,
}

impl Late {
    /// One that a former process sent and that is not known to be over.
    pub(crate) fn left(said: Said) -> Self {
        let until = Instant::now() + OF_FORMER;
        let owner = "its owner";
        let update = Update {
            owner,
            said,
            sent: None,
            since: Instant::now(),
            ends: Some((until, false)),
            seen: Said::new(),
            is_news: false,
        };
        let update = (!update.said.is_empty()).then_some(update);
        Self { turn: Mutex::new(()), update: Mutex::new(update) }
    }

    /// The turn to tell the owner something, unless it has another update to answer: nothing says that it carries them out
    /// in order.
    pub(crate) fn turn(&self) -> Result<MutexGuard<'_, ()>, NotTold> {
        let turn = self.turn.try_lock_for(TURN);
        let turn = turn.ok_or_else(|| NotTold::new("its owner is being told of another limit"))?;
        match &*self.update.lock() {
            None => Ok(turn),
            Some(Update { owner, since, .. }) => Err(NotTold::new(format!(
                "{owner} has had an update of this container to answer for {} s and is told nothing more before",
                since.elapsed().as_secs()
            ))),
        }
    }

    /// Remembers one.
    pub(crate) fn remember(&self, unanswered: Unanswered) {
        let Unanswered { owner, said, sent } = unanswered;
        tracing::warn!(owner, ?said, "an update was not answered in time and may be carried out late");
        let (since, sent) = (Instant::now(), Some(sent));
        *self.update.lock() = Some(Update { owner, said, sent, since, ends: None, seen: Said::new(), is_news: true });
    }

    pub(crate) fn is_any(&self) -> bool {
        self.update.lock().is_some()
    }

    /// What it sets, once for each.
    pub(crate) fn news(&self) -> Option<Said> {
        let mut update = self.update.lock();
        let update = update.as_mut()?;
        std::mem::take(&mut update.is_news).then(|| update.said.clone())
    }

    /// What it sets.
    pub(crate) fn said(&self) -> Said {
        self.update.lock().as_ref().map(|update| update.said.clone()).unwrap_or_default()
    }

    /// What should stand there instead of `found`, when that came of an update that was late: what was written last, `ours`,
    /// or where nothing of ours stood, what was seen last.
    pub(crate) fn arrived(&self, resource: Resource, found: Limit, ours: Option<Limit>) -> Option<Arrival> {
        let mut update = self.update.lock();
        let update = update.as_mut()?;
        let said = *update.said.get(&resource)?;
        if !is_same(resource, said, found) {
            update.seen.insert(resource, found);
            return None;
        }
        let wanted = ours.or_else(|| update.seen.get(&resource).copied())?;
        let after = update.since.elapsed();
        (!is_same(resource, wanted, found)).then_some(Arrival { owner: update.owner, wanted, after })
    }

    /// Looks whether it is over, and then forgets it: what it set, and whether it is known to have been carried out.
    pub(crate) fn over(&self) -> Option<(Said, bool)> {
        let mut slot = self.update.lock();
        let update = slot.as_mut()?;
        let now = Instant::now();
        if let (None, Some(sent)) = (update.ends, &mut update.sent) {
            update.ends = match sent.look() {
                Heard::Nothing if now - update.since < LONGEST => None,
                Heard::Done => Some((now + AFTER_ANSWER, true)),
                _ => Some((now + AFTER_END, false)),
            };
        }
        let (until, done) = update.ends?;
        (now >= until).then(|| (slot.take().map(|update| update.said).unwrap_or_default(), done))
    }
}

/// Whether both are the same but for an owner's rounding.
fn is_same(resource: Resource, one: Limit, other: Limit) -> bool {
    let tolerance = match resource {
        Resource::Cpu => PERCENT,
        Resource::CpuWeight => 0.0,
        _ => page_size() as f64,
    };
    match (one, other) {
        (Limit::At(one), Limit::At(other)) => (one - other).abs() <= tolerance,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    const MEMORY: Resource = Resource::Memory;

    fn mib(mib: u64) -> Limit {
        Limit::At((mib << 20) as f64)
    }

    fn unanswered(said: Limit) -> (Late, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let late = Late::default();
        let sent = Sent::new(Some(ours), |text| text == b"yes");
        late.remember(Unanswered { owner: "Docker", said: [(MEMORY, said)].into(), sent });
        (late, theirs)
    }

    #[test]
    fn while_one_is_not_answered_nothing_more_is_said() {
        let late = Late::default();
        let held = late.turn().unwrap();
        assert!(late.turn().unwrap_err().to_string().contains("another limit"));
        drop(held);
        let (late, mut docker) = unanswered(mib(64));
        assert!(late.turn().unwrap_err().to_string().contains("Docker has had an update"));
        assert_eq!((late.news(), late.news()), (Some([(MEMORY, mib(64))].into()), None));
        assert_eq!(late.over(), None);
        docker.write_all(b"yes").unwrap();
        assert_eq!(late.over(), None, "the file may be written a moment after the answer");
        std::thread::sleep(AFTER_ANSWER);
        assert_eq!(late.over(), Some(([(MEMORY, mib(64))].into(), true)));
        assert!(late.turn().is_ok() && !late.is_any());
    }

    #[test]
    fn what_comes_late_is_told_by_its_value_and_what_was_there_before_is_wanted() {
        let (late, _docker) = unanswered(mib(64));
        let wanted = |found, ours| late.arrived(MEMORY, found, ours).map(|arrival| arrival.wanted);
        assert_eq!(wanted(mib(64), Some(mib(64))), None, "it is still what is wanted");
        assert_eq!(wanted(mib(64), None), None, "nobody knows what else should stand there");
        assert_eq!(wanted(mib(64), Some(mib(128))), Some(mib(128)));
        assert_eq!(wanted(mib(100), Some(mib(128))), None, "somebody else's");
        assert_eq!(wanted(mib(64), None), Some(mib(100)), "and that is put back for them");
        assert_eq!(late.arrived(Resource::Cpu, Limit::At(1.0), Some(Limit::At(2.0))), None, "it says nothing of that");
    }
}
