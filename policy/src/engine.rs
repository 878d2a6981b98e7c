//! The engine: the rules in force, and what it shares between statements, ticks and writes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tidegate_actuator::{Actuator, Drift, DriftAnswer};
use tidegate_model::{Clock, Decision, Event, Mode, Outcome, OutcomeStatus, TimeMs};
use tidegate_store::{Freeze, RuleChange, RuleRow, Store};
use tokio::sync::broadcast;

use crate::arbiter::decision_id;
use crate::backtest::{Backtest, Trace};
use crate::config::PolicyConfig;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::explain::{DRIFT, Explanation, HOLD, OUTSIDE, RETURN, WATCH, explain_sentence};
use crate::history::History;
use crate::parse;
use crate::readings::Limits;
use crate::rule::{ActiveRule, RuleDefinition};

/// Evaluates rules and carries out what the guards let through.
pub struct Engine {
    pub(crate) store: Arc<Store>,
    pub(crate) actuator: Arc<dyn Actuator>,
    pub(crate) config: PolicyConfig,
    pub(crate) clock: Arc<dyn Clock>,
    /// The rules in force, by name. Replaced as a whole, so that a tick sees one state of them.
    pub(crate) rules: RwLock<Arc<Vec<ActiveRule>>>,
    /// Held while statements are checked and stored, so that two editors cannot lose each other's change.
    pub(crate) editing: tokio::sync::Mutex<()>,
    pub(crate) history: Mutex<History>,
    /// Those that were measured at the last tick.
    pub(crate) limits: Mutex<Arc<Limits>>,
    /// How far back `history` holds what `decisions` tells about the time before the start.
    pub(crate) restored: Mutex<Option<Duration>>,
    /// Held while that is read.
    pub(crate) restoring: tokio::sync::Mutex<()>,
    /// In whose names the engine itself proposes: after a regression, without data, and after a foreign change.
    pub(crate) own: OwnRules,
    /// Held while a limit is written, and by the kill switch alone.
    pub(crate) writing: RwLock<()>,
    /// The kill switch as this process knows it, also when it could not be stored.
    pub(crate) held: Mutex<Option<Freeze>>,
    /// When it was turned on last, in ms: what was decided until then is not written, even if it is off again.
    pub(crate) stopped: AtomicI64,
    /// Foreign changes that are not recorded yet.
    pub(crate) outbox: Mutex<Vec<(Option<Decision>, Event)>>,
    pub(crate) announced: broadcast::Sender<Arc<Decision>>,
    pub(crate) ticked: AtomicBool,
    /// Whether decisions go to the store.
    recorded: AtomicBool,
}

/// See [`Engine::own`].
pub(crate) struct OwnRules {
    pub watch: Arc<RuleDefinition>,
    pub hold: Arc<RuleDefinition>,
    pub drift: Arc<RuleDefinition>,
    pub give_back: Arc<RuleDefinition>,
}

impl OwnRules {
    fn new(config: &PolicyConfig) -> Result<Self, PolicyError> {
        let own = |name| {
            let rule = RuleDefinition::own(name, config);
            rule.map(Arc::new).map_err(|why| PolicyError::new(PolicyErrorKind::Option, why))
        };
        Ok(Self { watch: own(WATCH)?, hold: own(HOLD)?, drift: own(DRIFT)?, give_back: own(RETURN)? })
    }
}

impl Engine {
    /// An engine with the rules that the store has kept. Fails on a `config` out of range. A kept rule that this version cannot read is an error: leaving it
    /// out would silently change what protects the containers.
    pub fn new(
        store: Arc<Store>,
        actuator: Arc<dyn Actuator>,
        config: PolicyConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, PolicyError> {
        config.check()?;
        let mut rules = Vec::new();
        for row in store.rules() {
            let definition = RuleDefinition::from_row(&row, &config).map_err(|why| {
                let message = format!("the stored rule '{}' cannot be used: {why}", row.name);
                PolicyError::new(PolicyErrorKind::Store, message)
            })?;
            rules.push(ActiveRule::new(Arc::new(definition), Arc::default()));
        }
        rules.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        let (announced, _) = broadcast::channel(config.decision_queue.max(1));
        Ok(Arc::new(Self {
            store,
            actuator,
            clock,
            rules: RwLock::new(Arc::new(rules)),
            editing: tokio::sync::Mutex::new(()),
            history: Mutex::new(History::default()),
            limits: Mutex::default(),
            restored: Mutex::new(None),
            restoring: tokio::sync::Mutex::new(()),
            own: OwnRules::new(&config)?,
            writing: RwLock::new(()),
            held: Mutex::new(None),
            stopped: AtomicI64::new(i64::MIN),
            outbox: Mutex::new(Vec::new()),
            announced,
            ticked: AtomicBool::new(false),
            recorded: AtomicBool::new(true),
            config,
        }))
    }

    /// Whether `sql` begins, after comments, with `CREATE [OR REPLACE] RULE`, `ALTER RULE`, `DROP RULE` or `SHOW RULES`.
    pub fn is_rule_statement(sql: &str) -> bool {
        parse::is_rule_statement(sql)
    }

    /// The rules and how their last run went.
    pub fn rules(&self) -> Vec<RuleRow> {
        self.store.rules()
    }

    /// Every decision from now on, once it is recorded. A receiver that lags loses the oldest ones.
    pub fn decisions(&self) -> broadcast::Receiver<Arc<Decision>> {
        self.announced.subscribe()
    }

    /// Whether a tick has been completed since the start.
    pub fn ready(&self) -> bool {
        self.ticked.load(Ordering::Acquire)
    }

    /// The changes of rules that are kept, oldest first, of rules that were dropped too.
    pub fn rule_changes(&self) -> Vec<RuleChange> {
        self.store.rule_changes()
    }

    /// A decision as a sentence, with its rule's text as it was then, if that is still known.
    pub fn explain(&self, decision: &Decision) -> Explanation {
        let mut changes = self.store.rule_changes();
        changes.retain(|change| change.rule == decision.rule && change.version == decision.version);
        // A rule that was dropped and made anew counts from 1 again, and one that is changed right at a tick may be evaluated
        // with its new text: the last text before the tick is meant, or the first one after it.
        let behind = changes.partition_point(|change| change.time <= decision.time);
        let change = changes.get(behind.saturating_sub(1));
        let current = || {
            let rules = self.rules.read();
            let mut rules = rules.iter().map(|rule| &rule.definition);
            let rule = rules.find(|rule| rule.name == decision.rule && rule.version == decision.version);
            rule.map(|rule| rule.sql.clone())
        };
        let rule_sql = change.map(|change| change.sql.clone()).or_else(current);
        Explanation { sentence: explain_sentence(decision), rule_sql }
    }

    /// A backtest of `rules` with this engine's guards and its store's settings, which keeps its files below `dir`.
    pub fn backtest(&self, trace: Arc<Trace>, rules: String, step: Option<Duration>, dir: PathBuf) -> Backtest {
        let (policy, store, groups) = (self.config.clone(), self.store.config().clone(), self.store.groups());
        Backtest { trace, rules, step, policy, store, groups, dir }
    }

    /// The rules in force as one text that makes them again.
    pub fn rules_text(&self) -> String {
        let rules = self.active();
        rules.iter().map(|rule| format!("{};\n", rule.definition.sql)).collect()
    }

    /// Somebody else changed a limit: rules leave it alone for the configured time, or until it is given back, and the change
    /// is recorded as a decision of the rule `(outside)` and as an event at the next tick. That it was given back is an event,
    /// too. The same finding again changes nothing.
    pub fn note_drift(&self, drift: &Drift) {
        if !self.history.lock().drifted(drift, self.config.drift_hold()) {
            return;
        }
        let Drift { container, resource, expected, found, .. } = drift;
        let event = drift_event(drift);
        match drift.answer {
            DriftAnswer::Over => {
                tracing::info!(%container, %resource, expected, "a limit that was left alone stands as it was written again");
                self.outbox.lock().push((None, event));
            }
            answer => {
                tracing::warn!(%container, %resource, expected, ?found, ?answer, "somebody else changed a limit");
                self.outbox.lock().push((Some(drift_decision(drift, &self.config)), event));
            }
        }
    }

    /// A limit that somebody else had changed stands as it was again: an event at the next tick.
    pub(crate) fn note_undrifted(&self, decision: &Decision) {
        let (container, resource) = (decision.container.clone(), decision.resource);
        let value = decision.outcome.limit_after.unwrap_or(0.0);
        let (rule, name) = (DRIFT.to_owned(), "drift_restored".to_owned());
        let event = Event { time: decision.outcome.at, rule, container, resource, name, value };
        self.outbox.lock().push((None, event));
    }

    /// Decisions are told, but not written down from now on: for a store that goes with the engine, where nobody reads them.
    pub(crate) fn forget_decisions(&self) {
        self.recorded.store(false, Ordering::Relaxed);
    }

    /// Whether somebody will read of decisions what was known, and why they were made.
    pub(crate) fn explains(&self) -> bool {
        self.recorded.load(Ordering::Relaxed) || self.announced.receiver_count() > 0
    }

    /// Writes down decisions and tells the receivers. A decision that cannot be stored is still told.
    pub(crate) async fn record(&self, decisions: &[Decision]) {
        if decisions.is_empty() {
            return;
        }
        if self.recorded.load(Ordering::Relaxed)
            && let Err(error) = self.store.append_decisions(decisions).await
        {
            tracing::error!(%error, lost = decisions.len(), "decisions could not be recorded");
        }
        if self.announced.receiver_count() == 0 {
            return;
        }
        for decision in decisions {
            // No receiver is no error.
            let _ = self.announced.send(Arc::new(decision.clone()));
        }
    }

    pub(crate) async fn record_events(&self, events: &[Event]) -> Result<(), String> {
        if events.is_empty() {
            return Ok(());
        }
        self.store.append_events(events).await.map_err(|error| format!("events could not be recorded: {error}"))
    }

    /// Records foreign changes that were noted since the last tick.
    pub(crate) async fn flush_outbox(&self) -> Vec<Decision> {
        let (decisions, events): (Vec<_>, Vec<_>) = std::mem::take(&mut *self.outbox.lock()).into_iter().unzip();
        let decisions: Vec<Decision> = decisions.into_iter().flatten().collect();
        self.record(&decisions).await;
        if let Err(error) = self.record_events(&events).await {
            tracing::error!(error, "foreign changes could not be recorded as events");
        }
        decisions
    }

    /// The rules in force, by name.
    pub(crate) fn active(&self) -> Arc<Vec<ActiveRule>> {
        Arc::clone(&self.rules.read())
    }

    /// Puts `definitions` in force; a rule that goes on under its name keeps its `running` flag.
    pub(crate) fn activate(&self, definitions: Vec<Arc<RuleDefinition>>) {
        let mut rules = self.rules.write();
        let running: HashMap<&str, &Arc<Mutex<Option<TimeMs>>>> =
            rules.iter().map(|rule| (rule.definition.name.as_str(), &rule.running)).collect();
        let next = definitions.into_iter().map(|definition| {
            let running = running.get(definition.name.as_str()).map(|running| Arc::clone(running)).unwrap_or_default();
            ActiveRule::new(definition, running)
        });
        let next = next.collect();
        *rules = Arc::new(next);
    }
}

fn drift_decision(drift: &Drift, config: &PolicyConfig) -> Decision {
    let key = (drift.container.clone(), drift.resource);
    let show = |value: Option<f64>| {
        let finite = value.filter(|value| value.is_finite());
        finite.map_or_else(|| "unlimited".to_owned(), |value| drift.resource.display(value))
    };
    let expected = Some(drift.expected).filter(|value| value.is_finite());
    let found = drift.found.filter(|value| value.is_finite());
    let (was, hold) = (show(expected), config.drift_hold_s);
    let end = match drift.answer {
        DriftAnswer::Adopt | DriftAnswer::Over => format!("rules leave it alone for {hold} s"),
        DriftAnswer::Restore => format!("rules leave it alone for {hold} s, then it is put back"),
        DriftAnswer::HandsOff => format!("rules leave it alone until it is {was} again or a person says otherwise"),
        DriftAnswer::GivenUp => format!(
            "putting it back did not last, so rules leave it alone until it is {was} again or a person says otherwise"
        ),
    };
    let message = format!("it was {was} and is now {}; {end}", show(found));
    Decision {
        id: decision_id(drift.at, OUTSIDE, 0, &key, 0),
        time: drift.at,
        rule: OUTSIDE.to_owned(),
        version: 0,
        container: key.0,
        resource: key.1,
        limit_before: expected,
        proposed: found.or(expected).unwrap_or(0.0),
        decided: None,
        guards: Vec::new(),
        reason: "somebody else changed the limit".to_owned(),
        mode: Mode::On,
        inputs: serde_json::json!({ "allocated": expected, "found": found }),
        outcome: Outcome {
            status: OutcomeStatus::Drifted,
            limit_after: found,
            writes: Vec::new(),
            message,
            at: drift.at,
            took_us: 0,
        },
    }
}

fn drift_event(drift: &Drift) -> Event {
    let name = match drift.answer {
        DriftAnswer::Adopt | DriftAnswer::Restore | DriftAnswer::HandsOff => "drift",
        DriftAnswer::GivenUp => "drift_given_up",
        DriftAnswer::Over => "drift_over",
    };
    Event {
        time: drift.at,
        rule: OUTSIDE.to_owned(),
        container: drift.container.clone(),
        resource: drift.resource,
        name: name.to_owned(),
        value: drift.found.filter(|value| value.is_finite()).unwrap_or(0.0),
    }
}

/// What [`Engine::execute`] is asked for at, for rules that are new.
pub(crate) fn stored_rows(
    definitions: &[Arc<RuleDefinition>],
    kept: &[RuleRow],
    touched: &[String],
    who: &str,
    now: TimeMs,
) -> Vec<RuleRow> {
    let row = |definition: &Arc<RuleDefinition>| match kept.iter().find(|row| row.name == definition.name) {
        Some(row) if !touched.contains(&definition.name) => row.clone(),
        Some(row) => RuleRow {
            last_run: row.last_run,
            last_latency_ms: row.last_latency_ms,
            last_rows: row.last_rows,
            last_error: None,
            ..definition.to_row(who, now)
        },
        None => definition.to_row(who, now),
    };
    definitions.iter().map(row).collect()
}
