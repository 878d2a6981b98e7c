//! Carrying out what was decided: write, read back, record.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tidegate_actuator::Change;
use tidegate_model::{ContainerKey, Decision, Outcome, OutcomeStatus};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::arbiter::{Approved, Judged, judge};
use crate::engine::Engine;
use crate::explain::DRIFT;
use crate::history::Follow;
use crate::proposal::Proposal;
use crate::snapshot::Snapshot;

/// How long the first record of a batch waits for writes. CPU quotas take microseconds, so nearly everything is recorded at
/// once; memory that must be squeezed is recorded when it is done.
const RECORD_WAIT: Duration = Duration::from_millis(20);
/// Most decisions in one record.
const RECORD_MOST: usize = 4_096;

impl Engine {
    /// Judges proposals and marks what is to be written as pending, under one lock.
    pub(crate) fn settle(&self, proposals: Vec<Proposal>, snapshot: &Snapshot) -> Judged {
        let mut history = self.history.lock();
        let judged = judge(proposals, snapshot, &history, &self.config);
        for approved in &judged.approved {
            history.begin(&approved.decision);
        }
        for decision in &judged.settled {
            if decision.outcome.status == OutcomeStatus::Shadow {
                history.finish(decision, self.config.drift_hold(), Follow::default());
            } else {
                history.watches.settle(&(decision.container.clone(), decision.resource), decision);
            }
        }
        judged
    }

    /// Writes what was approved, one container's limits in order and different containers at once, and records everything.
    pub(crate) async fn carry_out(self: Arc<Self>, judged: Judged) -> Vec<Decision> {
        let Judged { settled: mut batch, mut approved } = judged;
        // CPU first, since it never blocks and memory may.
        let order = |a: &Approved, b: &Approved| {
            (&a.change.container, a.change.resource).cmp(&(&b.change.container, b.change.resource))
        };
        if !approved.is_sorted_by(|a, b| order(a, b).is_le()) {
            approved.sort_by(order);
        }
        if self.actuator.is_instant() {
            self.write(approved, |decision| batch.push(decision));
            self.record(&batch).await;
            return batch;
        }
        let mut containers: BTreeMap<ContainerKey, Vec<Approved>> = BTreeMap::new();
        for approved in approved {
            containers.entry(approved.change.container.clone()).or_default().push(approved);
        }
        let (sender, mut written) = mpsc::unbounded_channel();
        for changes in containers.into_values() {
            let (engine, sender) = (Arc::clone(&self), sender.clone());
            // The receiver waits until all senders are gone.
            tokio::task::spawn_blocking(move || engine.write(changes, |decision| drop(sender.send(decision))));
        }
        drop(sender);

        let mut all = Vec::new();
        let soon = Instant::now() + RECORD_WAIT;
        while let Ok(Some(decision)) = timeout_at(soon, written.recv()).await {
            batch.push(decision);
        }
        loop {
            self.record(&batch).await;
            all.append(&mut batch);
            if written.recv_many(&mut batch, RECORD_MOST).await == 0 {
                return all;
            }
        }
    }

    fn write(&self, changes: Vec<Approved>, mut written: impl FnMut(Decision)) {
        for Approved { mut decision, change, follow } in changes {
            // Held for one write, so that whoever turns the kill switch on can wait for the last one.
            let writing = self.writing.read();
            decision.outcome = match self.stopped(decision.time) {
                Some(refused) => refused,
                None => self.apply_guarded(&change),
            };
            drop(writing);
            self.history.lock().finish(&decision, self.config.drift_hold(), follow);
            if decision.rule == DRIFT && decision.outcome.status == OutcomeStatus::Applied {
                self.note_undrifted(&decision);
            }
            written(decision);
        }
    }

    /// Applies one change; an actuator that panics has failed.
    pub(crate) fn apply_guarded(&self, change: &Change) -> Outcome {
        let applied = catch_unwind(AssertUnwindSafe(|| self.actuator.apply(change, &*self.clock)));
        applied.unwrap_or_else(|_| {
            let message = "the actuator panicked, see the log; what stands in the kernel is unknown".to_owned();
            Outcome::unwritten(OutcomeStatus::Failed, message, self.clock.now())
        })
    }
}
