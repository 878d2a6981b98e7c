//! What rules remember from one tick to the next: the state that they returned, the parameters that they set for others, and
//! which events were acted on.
//!
//! It changes each second, so it is kept in memory and written every few seconds and at the end. After a crash the last
//! seconds of it are missing; a restart loses nothing. It is no part of a backup: what a rule thought then is no help later.

mod events;
mod state;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidegate_model::{ContainerKey, Event, Resource, TimeMs};

pub use self::events::Consumption;
pub(crate) use self::events::SeenEvent;
pub(crate) use self::state::{STATE_KEY, state_schema, state_type};
use crate::catalog::{read_json, replace_json};
use crate::error::StoreError;
use crate::store::Store;

/// The memory's file.
const MEMORY: &str = "memory.json";
/// How long state and parameters of what a rule does not return any more are kept: beyond the longest period of a rule.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long an event can be acted on.
const EVENTS_KEEP: Duration = Duration::from_secs(3600);
/// Most limits that one rule can have state of, and most parameters of one rule.
const MOST_ROWS: usize = 100_000;
/// Longest text in a state's column, in bytes.
const MOST_TEXT: usize = 4096;
/// Most events of shadow rules that are kept.
const MOST_SHADOW_EVENTS: usize = 100_000;

/// The limit that a row of state or an event belongs to.
pub(crate) type Subject = (ContainerKey, Resource);

/// Which rule asks a query, and so what it sees in `state`, `params` and `events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleView {
    /// Its name.
    pub rule: String,
    /// Whether it acts on nothing: it sees what other shadow rules emit, too.
    pub shadow: bool,
    /// The columns that its table `state` has beside the limit and the time; see [`Store::check_rule`].
    pub state: SchemaRef,
}

impl RuleView {
    /// A rule that has no state.
    pub fn stateless(rule: &str, shadow: bool) -> Self {
        Self { rule: rule.to_owned(), shadow, state: Arc::new(Schema::empty()) }
    }

    /// What plans of the rule depend on besides their text; `None` when it is nothing.
    pub(crate) fn plan_key(&self) -> Option<String> {
        let column = |field: &Arc<arrow::datatypes::Field>| format!("{}:{}\0", field.name(), field.data_type());
        (!self.state.fields().is_empty()).then(|| self.state.fields().iter().map(column).collect())
    }
}

/// What a rule returned about a limit beyond its proposal or event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateRow {
    pub rule: String,
    pub container: ContainerKey,
    pub resource: Resource,
    /// The tick that returned it last.
    pub time: TimeMs,
    pub columns: Map<String, Value>,
}

/// A parameter that a rule set for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The rule that set it.
    pub rule: String,
    /// For which container.
    pub container: ContainerKey,
    /// For which resource.
    pub resource: Resource,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The tick that set it.
    pub time: TimeMs,
    /// Until when it holds; `None` for a day.
    pub until: Option<TimeMs>,
    /// Whether a shadow rule set it: only shadow rules see it.
    pub shadow: bool,
}

type ParamKey = (String, ContainerKey, Resource, String);

/// Names one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct EventId {
    time: TimeMs,
    rule: String,
    container: ContainerKey,
    resource: Resource,
    name: String,
}

impl EventId {
    fn of(event: &Event) -> Self {
        Self {
            time: event.time,
            rule: event.rule.clone(),
            container: event.container.clone(),
            resource: event.resource,
            name: event.name.clone(),
        }
    }
}

#[derive(Default)]
struct Remembered {
    /// By rule.
    states: HashMap<String, BTreeMap<Subject, StateRow>>,
    params: BTreeMap<ParamKey, Param>,
    /// Events that a rule acted on, with the rule.
    consumed: HashMap<EventId, String>,
    /// What shadow rules would have consumed: it counts for themselves.
    shadow_consumed: HashSet<(String, EventId)>,
    /// What rules in shadow mode emitted; in no journal, since nothing happened.
    shadow_events: VecDeque<Event>,
    tidied: i64,
}

/// The memory's file. What shadow rules did is not in it.
#[derive(Default, Serialize, Deserialize)]
struct MemoryFile {
    states: Vec<StateRow>,
    params: Vec<Param>,
    consumed: Vec<(EventId, String)>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct RuleMemory {
    remembered: Mutex<Remembered>,
    /// Whether something is only in memory.
    unwritten: AtomicBool,
}

impl RuleMemory {
    /// Reads the file. A damaged one is reported and begun anew: rules can do without.
    pub(crate) fn load(dir: &Path) -> Self {
        let file: MemoryFile = match read_json(&dir.join(MEMORY)) {
            Ok(file) => file.unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "what rules remembered is lost; they begin anew");
                MemoryFile::default()
            }
        };
        let mut remembered = Remembered { consumed: file.consumed.into_iter().collect(), ..Remembered::default() };
        for row in file.states {
            let of_rule = remembered.states.entry(row.rule.clone()).or_default();
            of_rule.insert((row.container.clone(), row.resource), row);
        }
        remembered.params = file.params.into_iter().map(|param| (param_key(&param), param)).collect();
        Self { remembered: Mutex::new(remembered), unwritten: AtomicBool::new(false) }
    }

    /// Writes what is only in memory.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        if !self.unwritten.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let file = {
            let remembered = self.remembered.lock();
            MemoryFile {
                states: remembered.states.values().flat_map(BTreeMap::values).cloned().collect(),
                params: remembered.params.values().filter(|param| !param.shadow).cloned().collect(),
                consumed: remembered.consumed.iter().map(|(id, by)| (id.clone(), by.clone())).collect(),
            }
        };
        replace_json(dir, MEMORY, &file).inspect_err(|_| self.unwritten.store(true, Ordering::Release))
    }

    fn change<T>(&self, now: TimeMs, change: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut remembered = self.remembered.lock();
        remembered.tidy(now);
        let changed = change(&mut remembered);
        self.unwritten.store(true, Ordering::Release);
        changed
    }
}

impl Remembered {
    /// Forgets what is too old, once a minute.
    fn tidy(&mut self, now: TimeMs) {
        if (now.0 - self.tidied).abs() < 60_000 {
            return;
        }
        self.tidied = now.0;
        let (oldest, oldest_event) = (now.minus(KEEP), now.minus(EVENTS_KEEP));
        self.states.values_mut().for_each(|rows| rows.retain(|_, row| row.time >= oldest));
        self.states.retain(|_, rows| !rows.is_empty());
        self.params.retain(|_, param| param.time >= oldest && param.until.is_none_or(|until| until >= now));
        self.consumed.retain(|id, _| id.time >= oldest_event);
        self.shadow_consumed.retain(|(_, id)| id.time >= oldest_event);
        self.shadow_events.retain(|event| event.time >= oldest_event);
    }
}

fn param_key(param: &Param) -> ParamKey {
    (param.rule.clone(), param.container.clone(), param.resource, param.name.clone())
}

impl Store {
    /// Remembers what `rule` returned about limits at `now` beyond the contract. What it does not return stays as it is.
    ///
    /// # Errors
    /// When it is more than one rule may keep; what fits is kept.
    pub fn put_state(
        &self,
        rule: &str,
        now: TimeMs,
        rows: impl IntoIterator<Item = (ContainerKey, Resource, Map<String, Value>)>,
    ) -> Result<(), String> {
        self.memory.change(now, |remembered| remembered.put_state(rule, now, rows))
    }

    /// Sets parameters; one of the same rule, limit and name is replaced.
    ///
    /// # Errors
    /// When a rule sets more than it may; what fits is kept.
    pub fn put_params(&self, now: TimeMs, params: impl IntoIterator<Item = Param>) -> Result<(), String> {
        self.memory.change(now, |remembered| {
            let mut refused = None;
            for param in params {
                let key = param_key(&param);
                if remembered.params.len() >= MOST_ROWS && !remembered.params.contains_key(&key) {
                    refused = Some(format!("there are more than {MOST_ROWS} parameters: {} is not kept", param.name));
                    continue;
                }
                remembered.params.insert(key, param);
            }
            refused.map_or(Ok(()), Err)
        })
    }

    /// The parameters that hold at `now`, as `view` sees them; everybody else sees all.
    pub(crate) fn params(&self, view: Option<&RuleView>, now: TimeMs) -> Vec<Param> {
        let remembered = self.memory.remembered.lock();
        let holds = |param: &&Param| {
            param.time <= now
                && param.until.is_none_or(|until| until >= now)
                && view.is_none_or(|view| view.shadow || !param.shadow)
        };
        remembered.params.values().filter(holds).cloned().collect()
    }

    /// Forgets state and parameters of a rule that is gone.
    pub fn forget_rule(&self, rule: &str, now: TimeMs) {
        self.memory.change(now, |remembered| {
            remembered.states.remove(rule);
            remembered.params.retain(|(of, ..), _| of != rule);
        });
    }
}
