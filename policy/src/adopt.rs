//! A person says that a limit which somebody else has set is to be changed again.

use std::sync::Arc;

use tidegate_actuator::{Drift, DriftAnswer};
use tidegate_model::{ContainerKey, Decision, Mode, OutcomeStatus, Resource};

use crate::arbiter::decision_id;
use crate::engine::Engine;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::explain::PERSON;

impl Engine {
    /// Adopts a limit that somebody else has set and that is left alone: rules start from what stands there. Nothing is
    /// written; it is recorded as a decision of the rule `(person)`, which is returned with its outcome.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn adopt(
        self: &Arc<Self>,
        container: ContainerKey,
        resource: Resource,
        who: &str,
    ) -> Result<Decision, PolicyError> {
        if !self.store.containers().iter().any(|known| known.key == container) {
            let message = format!("there is no container '{container}'");
            return Err(PolicyError::new(PolicyErrorKind::NotFound, message));
        }
        let (engine, key) = (Arc::clone(self), (container, resource));
        let now = self.clock.now();
        // An agent may take a while to answer.
        let done = tokio::task::spawn_blocking(move || {
            let outcome = engine.actuator.adopt(&key.0, key.1, &*engine.clock);
            (key, outcome)
        });
        let broken = |error| PolicyError::new(PolicyErrorKind::Store, format!("adopting broke down: {error}"));
        let ((container, resource), outcome) = done.await.map_err(broken)?;
        let found = outcome.limit_after;
        if outcome.status == OutcomeStatus::Unchanged {
            let (container, expected) = (container.clone(), found.unwrap_or(f64::INFINITY));
            self.note_drift(&Drift { container, resource, expected, found, at: now, answer: DriftAnswer::Over });
        }
        let key = (container, resource);
        let decision = Decision {
            id: decision_id(now, PERSON, 0, &key, 0),
            time: now,
            rule: PERSON.to_owned(),
            version: 0,
            container: key.0,
            resource,
            limit_before: found,
            proposed: found.unwrap_or(0.0),
            decided: None,
            guards: Vec::new(),
            reason: format!("{who} adopts what stands there"),
            mode: Mode::On,
            inputs: serde_json::json!({}),
            outcome,
        };
        self.record(std::slice::from_ref(&decision)).await;
        Ok(decision)
    }
}
