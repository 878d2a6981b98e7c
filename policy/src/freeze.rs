//! The kill switch: no limit is changed any more, or all of them go back to their baselines first.
//!
//! It holds at once, and as a fact of the store across restarts. While it is on no rule is
//! evaluated; whatever was decided before and is not written yet is refused. Only one who says so takes it off again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tidegate_actuator::{Change, KnobMode};
use tidegate_model::{Container, ContainerKey, Decision, Limit, Mode, Outcome, OutcomeStatus, Resource, TimeMs};
use tidegate_store::Freeze;

use crate::arbiter::decision_id;
use crate::engine::Engine;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::explain::FREEZE;
use crate::history::Follow;
use crate::proposal::LimitKey;

/// How long a decision can be on its way to the kernel, in ms. Behind that, a clock was set back.
const IN_FLIGHT_MS: i64 = 10 * 60 * 1000;
/// When a baseline that could not be put back is tried again: behind the next collection.
const AGAIN_AFTER: Duration = Duration::from_millis(1_500);

/// What the kill switch did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frozen {
    /// Since when, by whom and why no limit is changed.
    pub freeze: Freeze,
    /// Baselines that were put back.
    pub restored: usize,
    /// Limits that stood at their baseline already.
    pub unchanged: usize,
    /// Baselines that could not be put back, one sentence each.
    pub failed: Vec<String>,
}

impl Engine {
    /// Turns the kill switch on; with `restore`, all limits go back to what they were when their containers were first
    /// seen. When this returns nothing is being written any more. On already, it stays as it is, but for the restoring.
    ///
    /// # Errors
    /// The switch could not be stored: then it is on, all the same, until the program ends.
    pub async fn freeze(
        self: &Arc<Self>,
        who: &str,
        why: &str,
        restore: bool,
        now: TimeMs,
    ) -> Result<Frozen, PolicyError> {
        let new = Freeze { since: now, by: who.to_owned(), why: why.to_owned(), restore };
        // On its own, so that it is done and recorded even if whoever asked for it has not waited.
        let done = tokio::spawn(Arc::clone(self).freeze_to_the_end(new, restore, now)).await;
        done.map_err(|error| PolicyError::new(PolicyErrorKind::Store, format!("the kill switch broke down: {error}")))?
    }

    async fn freeze_to_the_end(
        self: Arc<Self>,
        new: Freeze,
        restore: bool,
        now: TimeMs,
    ) -> Result<Frozen, PolicyError> {
        let engine = Arc::clone(&self);
        let kept = |error| {
            let message =
                format!("the kill switch is on, but only until the program ends, since it cannot be stored: {error}");
            PolicyError::new(PolicyErrorKind::Store, message).help("repair the disk and freeze again")
        };
        let work = move || -> Result<_, PolicyError> {
            let mut freeze = engine.frozen().unwrap_or(new);
            freeze.restore |= restore;
            // A disk that is full must not keep limits moving.
            *engine.held.lock() = Some(freeze.clone());
            engine.stopped.store(now.0, Ordering::Release);
            let stored = engine.store.put_freeze(Some(freeze.clone())).map_err(kept);
            // Behind this no write is under way, and none begins.
            let _alone = engine.writing.write();
            let decisions = if restore { engine.put_baselines_back(now) } else { Vec::new() };
            Ok((freeze, decisions, stored))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let broken = |error| PolicyError::new(PolicyErrorKind::Store, format!("the kill switch broke down: {error}"));
        let (freeze, decisions, stored) = done.map_err(broken)??;
        tracing::warn!(by = freeze.by, why = freeze.why, restore, "the kill switch is on: no limit is changed");
        let count = |status| decisions.iter().filter(|decision| decision.outcome.status == status).count();
        let (restored, unchanged) = (count(OutcomeStatus::Applied), count(OutcomeStatus::Unchanged));
        let failed = decisions
            .iter()
            .filter(|decision| !matches!(decision.outcome.status, OutcomeStatus::Applied | OutcomeStatus::Unchanged))
            .map(|decision| {
                let (container, resource) = (&decision.container, decision.resource);
                format!("{container} {resource}: {} ({})", decision.outcome.message, decision.outcome.status.as_str())
            })
            .collect();
        self.record(&decisions).await;
        stored?;
        Ok(Frozen { freeze, restored, unchanged, failed })
    }

    /// Turns the kill switch off; false when it was off already.
    ///
    /// # Errors
    /// That could not be stored: then it is still on.
    pub async fn thaw(self: &Arc<Self>, who: &str) -> Result<bool, PolicyError> {
        let engine = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            // What was decided before and still waits to be written is refused first.
            let _alone = engine.writing.write();
            let was = engine.frozen().is_some();
            if engine.store.frozen().is_some() {
                engine.store.put_freeze(None)?;
            }
            *engine.held.lock() = None;
            engine.history.lock().renew_all(engine.clock.now());
            Ok::<_, tidegate_store::StoreError>(was)
        });
        let failed =
            |error: String| PolicyError::new(PolicyErrorKind::Store, format!("the kill switch is still on: {error}"));
        let was = done.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        if was {
            tracing::warn!(by = who, "the kill switch is off: rules change limits again");
        }
        Ok(was)
    }

    /// Since when, by whom and why no limit is changed; `None` while the kill switch is off.
    pub fn frozen(&self) -> Option<Freeze> {
        self.held.lock().clone().or_else(|| self.store.frozen())
    }

    /// What becomes of knobs that are no limits: they are kept as they shall be, but for the kill switch.
    pub fn knob_mode(&self) -> KnobMode {
        match self.frozen() {
            None => KnobMode::Keep,
            Some(freeze) if freeze.restore => KnobMode::GiveBack,
            Some(_) => KnobMode::Hold,
        }
    }

    /// Sees to the knobs of this host; meant to be called each second. May block for a moment.
    pub fn tend_knobs(&self) {
        // Whoever turns the kill switch on waits for the last write.
        let _writing = self.writing.read();
        self.actuator.tend_knobs(self.knob_mode(), &*self.clock);
    }

    /// Puts all baselines back, one limit after the other: memory that has to be squeezed may take a while. What fails is
    /// tried once more: a container that was just started again is found with the next collection.
    fn put_baselines_back(&self, now: TimeMs) -> Vec<Decision> {
        let mut limits = self.known_baselines();
        let put = |(container, resource, baseline): &(ContainerKey, Resource, Limit)| {
            self.put_one_back(container.clone(), *resource, *baseline, now)
        };
        let mut decisions: Vec<Decision> = limits.iter().map(put).collect();
        let has_failed = |decision: &Decision| decision.outcome.status == OutcomeStatus::Failed;
        // The baseline of a knob is known with the collection after its first change.
        let moved_just_now = {
            let (history, containers) = (self.history.lock(), self.store.container_map());
            let is_known = |key: &LimitKey| limits.iter().any(|(container, of, _)| (container, *of) == (&key.0, key.1));
            history.moved_knobs().any(|key| containers.contains_key(&key.0) && !is_known(key))
        };
        if moved_just_now || decisions.iter().any(has_failed) {
            std::thread::sleep(AGAIN_AFTER);
            let new = self.known_baselines().into_iter().filter(|limit| !limits.contains(limit)).collect::<Vec<_>>();
            decisions.extend(new.iter().map(put));
            limits.extend(new);
            let failed = limits.iter().zip(&mut decisions).filter(|(_, decision)| has_failed(decision));
            failed.for_each(|(limit, decision)| *decision = put(limit));
        }
        let mut history = self.history.lock();
        decisions.iter().for_each(|decision| history.finish(decision, self.config.drift_hold(), Follow::default()));
        drop(history);
        decisions
    }

    /// What is known to have stood before the first change.
    fn known_baselines(&self) -> Vec<(ContainerKey, Resource, Limit)> {
        let containers = self.store.containers();
        // CPU first, since it never blocks and memory may.
        let limits = Resource::with_knobs().flat_map(|resource| {
            let baseline =
                move |container: &Container| Some((container.key.clone(), *container.baseline.get(&resource)?));
            containers.iter().filter_map(baseline).map(move |(container, baseline)| (container, resource, baseline))
        });
        limits.collect()
    }

    fn put_one_back(&self, container: ContainerKey, resource: Resource, baseline: Limit, now: TimeMs) -> Decision {
        let key = (container.clone(), resource);
        let id = decision_id(now, FREEZE, 0, &key, 0);
        let limit_before = self.history.lock().track(&key).last().and_then(|applied| applied.to);
        let change = Change {
            container: container.clone(),
            resource,
            target: baseline.value().unwrap_or(f64::INFINITY),
            limit_before: None,
            decision: id.clone(),
        };
        let outcome = self.apply_guarded(&change);
        let shown = baseline.value().map_or_else(|| "unlimited".to_owned(), |value| resource.display(value));
        Decision {
            id,
            time: now,
            rule: FREEZE.to_owned(),
            version: 0,
            container,
            resource,
            limit_before,
            proposed: baseline.value().unwrap_or(0.0),
            decided: baseline.value(),
            guards: Vec::new(),
            reason: format!("the kill switch puts the baseline back, {shown}"),
            mode: Mode::On,
            inputs: serde_json::json!({}),
            outcome,
        }
    }

    /// What becomes of a change that was decided at `time`, if the kill switch stops it.
    pub(crate) fn stopped(&self, time: TimeMs) -> Option<Outcome> {
        let behind = self.stopped.load(Ordering::Acquire).saturating_sub(time.0);
        let message = match self.frozen() {
            Some(freeze) => format!("the kill switch is on since {}, by {}", freeze.since, freeze.by),
            None if (0..IN_FLIGHT_MS).contains(&behind) => {
                "it was decided before the kill switch was turned on".to_owned()
            }
            None => return None,
        };
        Some(Outcome::unwritten(OutcomeStatus::Refused, message, self.clock.now()))
    }
}
