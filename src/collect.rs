//! The collecting loop: measure the host at aligned instants, store what was seen, tell the engine what changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tidegate_actuator::{Collected, Source};
use tidegate_model::{Clock, ContainerKey, Event, Resource, TimeMs};
use tidegate_policy::Engine;
use tidegate_store::Store;
use tidegate_web::Readiness;
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

    async fn keep(&self, collected: &Collected, now: TimeMs) -> Result<()> {
        self.keep_facts(collected).await?;
        let report = self.store.append(&collected.samples, now).await?;
        if let Some(first) = report.rejected.first() {
            tracing::error!(rejected = report.rejected.len(), reason = first.reason, "the store refused measurements");
        }
        let appeared = collected.appeared.iter().map(|container| event(now, &container.key, "appeared"));
        let vanished = collected.vanished.iter().map(|key| event(now, key, "vanished"));
        let events: Vec<Event> = vanished.chain(appeared).collect();
        if !events.is_empty() {
            self.store.append_events(&events).await?;
        }
        for drift in &collected.drifts {
            self.engine.note_drift(drift);
        }
        Ok(())
    }
}

impl Collection {
    /// Containers and host as they are now. What an earlier run left of this host and is not there any more goes, too.
    async fn keep_facts(&self, collected: &Collected) -> Result<()> {
        let (store, host, present) = (self.store.clone(), collected.host.clone(), collected.present.clone());
        // The facts are a file that is replaced and synced, which may take a slow disk a while.
        tokio::task::spawn_blocking(move || {
            let here: HashSet<&ContainerKey> = present.iter().map(|container| &container.key).collect();
            let known = store.containers();
            for gone in known.iter().filter(|known| known.key.host == host.name && !here.contains(&known.key)) {
                store.remove_container(&gone.key)?;
            }
            store.put_host(host)?;
            store.put_containers(&present)
        })
        .await
        .context("keeping the facts broke down")?
        .context("containers and host")
    }
}

fn event(time: TimeMs, container: &ContainerKey, name: &str) -> Event {
    Event {
        time,
        rule: "(collector)".to_owned(),
        container: container.clone(),
        // An arrival is of the whole container; CPU stands for it, since every container has it.
        resource: Resource::Cpu,
        name: name.to_owned(),
        value: 1.0,
    }
}
