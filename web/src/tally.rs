//! Counts decisions by what came of them, since the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::Decision;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// How decisions that came too fast to be looked at are counted.
const UNSEEN: &str = "unseen";

/// The counts. A task of their own keeps them, since nobody may be listening to the live stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Tally {
    /// Counts what arrives until the engine or the server ends.
    pub(crate) fn of(mut decisions: Receiver<Arc<Decision>>, shutdown: CancellationToken) -> Self {
        let tally = Self::default();
        let counts = tally.clone();
        tokio::spawn(async move {
            while let Some(received) = shutdown.run_until_cancelled(decisions.recv()).await {
                let Some((outcome, count)) = seen(received) else { return };
                *counts.0.lock().entry(outcome).or_default() += count;
            }
        });
        tally
    }

    /// Outcomes that have occurred, and how often.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }
}

fn seen(received: Result<Arc<Decision>, RecvError>) -> Option<(&'static str, u64)> {
    match received {
        Ok(decision) => Some((decision.outcome.status.as_str(), 1)),
        Err(RecvError::Lagged(missed)) => Some((UNSEEN, missed)),
        Err(RecvError::Closed) => None,
    }
}
