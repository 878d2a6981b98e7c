//! The collecting loop: measure the host at aligned instants, store what was seen, tell the engine what changed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tidegate_actuator::{Collected, Source};
use tidegate_model::{Clock, TimeMs};
use tidegate_policy::Engine;
use tidegate_store::{Store, StoreError};
use tidegate_web::{Findings, Readiness};
use tokio_util::sync::CancellationToken;

/// Where the findings of one host's source go.
pub struct Collection {
    store: Arc<Store>,
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    readiness: Arc<Readiness>,
}

impl Collection {
    /// Registers itself as a condition of readiness: nothing is ready before the host was measured once.
    pub fn new(store: Arc<Store>, engine: Arc<Engine>, clock: Arc<dyn Clock>, readiness: Arc<Readiness>) -> Self {
        readiness.require("collector", "this host was not measured yet");
        Self { store, engine, clock, readiness }
    }

    /// Measures at every multiple of `every` until `shutdown`. A measurement that takes longer skips instants, so that
    /// a slow host is measured less often and never with a backlog.
    ///
    /// # Errors
    /// The source panicked. A store that refuses is logged and tried again with the next measurement.
    pub async fn run(self, mut source: Box<dyn Source>, every: Duration, shutdown: CancellationToken) -> Result<()> {
        let mut known_problems: Vec<String> = Vec::new();
        loop {
            let now = self.clock.now();
            let due = now.aligned(every).plus(every);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(due.since(now)) => {}
            }
            // Reading kernel files is quick but may block, for example behind a cgroup that is being removed.
            let (returned, mut collected) = tokio::task::spawn_blocking(move || {
                let collected = source.collect(due);
                (source, collected)
            })
            .await
            .context("the source broke down")?;
            source = returned;
            let problems = std::mem::take(&mut collected.problems);
            for problem in problems.iter().filter(|problem| !known_problems.contains(problem)) {
                tracing::warn!(problem, "collector");
            }
            known_problems = problems;
            match self.keep(&collected, due).await {
                Ok(()) => self.readiness.met("collector"),
                Err(error) => tracing::error!(%error, "measurements were not stored"),
            }
        }
    }

    async fn keep(&self, collected: &Collected, now: TimeMs) -> Result<(), StoreError> {
        let found = Findings {
            time: now,
            samples: &collected.samples,
            host: &collected.host,
            appeared: &collected.appeared,
            vanished: &collected.vanished,
            present: Some(collected.present.clone()),
            drifts: &collected.drifts,
            knobs: &collected.knobs,
        };
        tidegate_web::keep(&self.store, &self.engine, found, now).await
    }
}
