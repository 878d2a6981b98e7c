//! Undoing what an owner carries out late: an update that it did not answer in time may set a limit minutes later that was
//! right then and is too low now. Until it is answered the limits that it sets are looked at many times a second.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tidegate_model::{Clock as _, OutcomeStatus, Resource, SystemClock, TimeMs};

use crate::KnobReport;
use crate::apply::put_back;
use crate::config::WriteVia;
use crate::drift::{Owned, describe};
use crate::host::{LocalHost, Tracked, Whom};
use crate::owner::late::Said;

/// How often it is looked while an update is not answered.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether there is one.
const REST: Duration = Duration::from_secs(1);

impl LocalHost {
    /// An update was sent and not answered: it is on disk from now on, and looked after.
    pub(crate) fn note_late(&self, tracked: &Tracked, whom: &Whom) {
        let Some(said) = tracked.late.news() else { return };
        if let Err(error) = self.baselines.record_late(whom.life(), said) {
            tracing::warn!(%error, container = whom.name, "an update that may come late would be forgotten by a restart");
        }
        if let Some(watch) = self.late_watch.get() {
            watch.unpark();
        }
    }

    /// Puts back what an update that came late has taken. The lock of `owned`, which is that of `resource`, is held.
    pub(crate) fn settle_late(&self, tracked: &Tracked, resource: Resource, owned: &mut Owned) {
        if !tracked.late.is_any() {
            return;
        }
        let cgroup = Arc::clone(&tracked.cgroup.read());
        let Ok(found) = cgroup.own_limit(resource) else { return };
        let ours = owned.claim.ours();
        let Some(arrival) = tracked.late.arrived(resource, found, ours) else { return };
        let whom = Whom::of(&tracked.container.read());
        let told = Cell::new(false);
        let job = self.job(tracked, &whom, &cgroup, resource, TimeMs(0), &told);
        let mut writes = Vec::new();
        let back = put_back(&job, resource, arrival.wanted, found, &mut writes);
        let stands = cgroup.own_limit(resource).unwrap_or(found);
        if ours.is_some() {
            // A limit on memory that came too high is lowered by a change like any other.
            owned.claim.wrote(stands);
            owned.untold = true;
        }
        tracked.doubt_knobs(resource);
        let (from, to) = (describe(arrival.wanted, resource), describe(found, resource));
        let end = match &back {
            Ok(()) => "it was put back".to_owned(),
            Err(why) => why.to_string(),
        };
        let (owner, late) = (arrival.owner, arrival.after.as_secs_f64());
        let message =
            format!("{owner} carried out an update {late:.1} s late and set {resource} from {from} to {to}; {end}");
        let container = tracked.container.read().key.clone();
        tracing::warn!(%container, %resource, ?writes, message, "late update");
        self.knob_news.lock().push(KnobReport {
            container,
            knob: format!("{resource} late update"),
            status: if back.is_ok() { OutcomeStatus::Applied } else { OutcomeStatus::Unchanged },
            value: arrival.wanted.value().unwrap_or(0.0),
            message,
            at: SystemClock.now(),
        });
    }

    /// Looks at every container with an update that is not answered; says whether there is any.
    fn look_after_late(&self) -> bool {
        let late: Vec<Arc<Tracked>> =
            self.containers.read().values().filter(|tracked| tracked.late.is_any()).cloned().collect();
        for tracked in &late {
            for resource in tracked.late.said().into_keys() {
                // Whoever holds them looks by themselves.
                let of = resource.is_knob().then(|| tracked.owned(resource.of()).try_lock());
                if of.as_ref().is_none_or(Option::is_some)
                    && let Some(mut owned) = tracked.owned(resource).try_lock()
                {
                    self.settle_late(tracked, resource, &mut owned);
                }
            }
            if let Some((said, done)) = tracked.late.over() {
                self.late_is_over(tracked, &said, done);
            }
        }
        !late.is_empty()
    }

    /// Nothing can come of an update any more: its owner is told of what stands, unless that is what it was told.
    fn late_is_over(&self, tracked: &Tracked, said: &Said, done: bool) {
        let (whom, cgroup) = (Whom::of(&tracked.container.read()), Arc::clone(&tracked.cgroup.read()));
        tracing::info!(container = whom.name, ?said, done, "no late update is expected any more");
        if let Err(error) = self.baselines.record_late(whom.life(), Said::new()) {
            tracing::warn!(%error, container = whom.name, "a restart will expect a late update once more");
        }
        for (resource, said) in said {
            let knows = done && cgroup.own_limit(*resource).is_ok_and(|stands| stands == *said);
            if let Some(mut owned) = tracked.owned(*resource).try_lock() {
                owned.untold = !knows;
            }
        }
    }
}

/// Looks after updates that are not answered, for as long as the host lives.
pub(crate) fn watch(host: &Arc<LocalHost>) {
    if host.config.write_via == WriteVia::Cgroup {
        return;
    }
    let weak = Arc::downgrade(host);
    let looks = thread::Builder::new().name("tidegate-late".to_owned()).spawn(move || {
        loop {
            let is_any = match Weak::upgrade(&weak) {
                None => return,
                Some(host) => host.look_after_late(),
            };
            if is_any { thread::sleep(LOOK_EVERY) } else { thread::park_timeout(REST) }
        }
    });
    match looks {
        Ok(looks) => drop(host.late_watch.set(looks.thread().clone())),
        Err(error) => tracing::warn!(%error, "late updates are noticed with each collection alone"),
    }
}
