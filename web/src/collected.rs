//! Where the findings of one host's source go, whether it is this machine or one with an agent.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_actuator::{Drift, KnobReport};
use tidegate_model::{Container, ContainerKey, Event, Host, Resource, SampleBatch, TimeMs};
use tidegate_policy::Engine;
use tidegate_store::{Store, StoreError};

/// What one collection found.
#[derive(Clone, Debug)]
pub struct Findings<'a> {
    /// The instant of the samples.
    pub time: TimeMs,
    /// The samples.
    pub samples: &'a SampleBatch,
    /// The machine.
    pub host: &'a Host,
    /// Seen for the first time.
    pub appeared: &'a [Container],
    /// Gone.
    pub vanished: &'a [ContainerKey],
    /// All containers, if they are known.
    pub present: Option<Vec<Container>>,
    /// Limits that somebody else changed.
    pub drifts: &'a [Drift],
    /// What came of knobs.
    pub knobs: &'a [KnobReport],
}

/// Stores findings and tells the engine what changed. `now` is the time of storing.
///
/// # Errors
/// The store refuses; some of it may be stored already, and storing it again does no harm.
pub async fn keep(store: &Arc<Store>, engine: &Engine, found: Findings<'_>, now: TimeMs) -> Result<(), StoreError> {
    keep_facts(store, found.host.clone(), found.present).await?;
    let report = store.append(found.samples, now).await?;
    if let Some(first) = report.rejected.first() {
        tracing::error!(
            host = found.host.name,
            rejected = report.rejected.len(),
            reason = first.reason,
            "the store refused measurements"
        );
    }
    let appeared = found.appeared.iter().map(|container| event(found.time, &container.key, "appeared"));
    let vanished = found.vanished.iter().map(|key| event(found.time, key, "vanished"));
    let knobs = found.knobs.iter().map(knob_event);
    let events: Vec<Event> = vanished.chain(appeared).chain(knobs).collect();
    if !events.is_empty() {
        store.append_events(&events).await?;
    }
    for drift in found.drifts {
        engine.note_drift(drift);
    }
    Ok(())
}

/// Containers and host as they are now. What an earlier run left of this host and is not there any more goes, too.
async fn keep_facts(store: &Arc<Store>, host: Host, present: Option<Vec<Container>>) -> Result<(), StoreError> {
    let store = Arc::clone(store);
    // The facts are a file that is replaced and synced, which may take a slow disk a while.
    let kept = tokio::task::spawn_blocking(move || {
        if let Some(present) = &present {
            let here: HashSet<&ContainerKey> = present.iter().map(|container| &container.key).collect();
            let known = store.containers();
            for gone in known.iter().filter(|known| known.key.host == host.name && !here.contains(&known.key)) {
                store.remove_container(&gone.key)?;
            }
        }
        store.put_host(host)?;
        present.map_or(Ok(()), |present| store.put_containers(&present))
    });
    match kept.await {
        Ok(kept) => kept,
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

fn knob_event(report: &KnobReport) -> Event {
    let KnobReport { container, knob, status, value, at, .. } = report;
    // Rates of a disk are of both directions, so they are told as before there were resources of disks.
    let resource = if knob.starts_with("memory") { Resource::Memory } else { Resource::Cpu };
    let (rule, name) = ("(knobs)".to_owned(), format!("{knob} {}", status.as_str()));
    Event { time: *at, rule, container: container.clone(), resource, name, value: *value }
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
