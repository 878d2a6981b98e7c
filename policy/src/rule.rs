//! A rule: a named query with options and a version, and how it is kept in the store.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_model::{Container, ContainerKey, GroupKind, Mode, TimeMs};
use tidegate_store::{RuleRow, RuleView, Store};
use tokio::sync::OnceCell;

use crate::config::PolicyConfig;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::options::{Class, Emit, RuleOptions};
use crate::reads::Reads;

/// A rule as it was accepted.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RuleDefinition {
    /// Its name.
    pub name: String,
    /// From 1, one more with every change of the query or an option other than the mode.
    pub version: u32,
    /// How far its proposals go.
    pub mode: Mode,
    /// Its rank among the rules.
    pub class: Class,
    /// The period of its ticks, in ms; 0 for a rule that runs when samples that it reads arrive.
    pub every_ms: u64,
    /// What its rows are.
    pub emit: Emit,
    /// The SELECT, as it was written.
    pub query: String,
    /// The options that were given, in one form.
    pub options: BTreeMap<String, String>,
    /// The whole statement in one form; applying it again changes nothing.
    pub sql: String,
    #[serde(skip)]
    pub(crate) resolved: RuleOptions,
}

impl RuleDefinition {
    /// `given` must have been checked. Without a mode in `given`, `mode` holds.
    pub(crate) fn new(
        name: &str,
        version: u32,
        mode: Mode,
        mut given: BTreeMap<String, String>,
        query: &str,
        config: &PolicyConfig,
    ) -> Result<Self, String> {
        let mut resolved = RuleOptions::resolve(&given, config)?;
        let mode = *resolved.mode.get_or_insert(mode);
        given.insert("mode".to_owned(), mode.to_string());
        Ok(Self {
            name: name.to_owned(),
            version,
            mode,
            class: resolved.class,
            every_ms: resolved.every.as_millis() as u64,
            emit: resolved.emit,
            query: query.to_owned(),
            sql: canonical(name, &given, query),
            options: given,
            resolved,
        })
    }

    /// Whether `other` would decide the same: name, query and options except the mode.
    pub(crate) fn decides_as(&self, other: &Self) -> bool {
        let without_mode = |rule: &Self| {
            let mut options = rule.options.clone();
            options.remove("mode");
            options
        };
        self.query == other.query && without_mode(self) == without_mode(other)
    }

    pub(crate) fn from_row(row: &RuleRow, config: &PolicyConfig) -> Result<Self, String> {
        Self::new(&row.name, row.version, row.mode, row.options.clone(), &row.query, config)
    }

    pub(crate) fn to_row(&self, created_by: &str, updated_at: TimeMs) -> RuleRow {
        RuleRow {
            name: self.name.clone(),
            sql: self.sql.clone(),
            query: self.query.clone(),
            version: self.version,
            mode: self.mode,
            class: self.class.to_string(),
            every_ms: self.every_ms,
            options: self.options.clone(),
            created_by: created_by.to_owned(),
            updated_at,
            note: None,
            last_run: None,
            last_latency_ms: None,
            last_rows: None,
            last_error: None,
        }
    }

    /// A stand-in for a rule, in whose name the engine proposes what it wants itself. Rules of class safety outrank it.
    pub(crate) fn own(name: &str, config: &PolicyConfig) -> Result<Self, String> {
        let options = [("class", "safety"), ("priority", "-2147483648"), ("cooldown_up", "0s"), ("dead_band", "0")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self::new(name, 0, Mode::On, options.into(), "", config)
    }

    /// Whether the rule is for this container.
    pub(crate) fn is_for(&self, container: &ContainerKey, known: &BTreeMap<ContainerKey, Container>) -> bool {
        self.resolved.scope.as_ref().is_none_or(|scope| scope.holds(container, known.get(container)))
    }

    /// Whether the rule has a tick at `now`. One that runs on arrival has one at every instant that is ticked for it.
    pub(crate) fn is_due(&self, now: TimeMs) -> bool {
        self.mode != Mode::Off && now.0.rem_euclid(self.every_ms.max(1) as i64) == 0
    }

    /// Whether it runs when samples that it reads arrive.
    pub(crate) fn on_arrival(&self) -> bool {
        self.every_ms == 0
    }
}

/// The statement that makes the rule again, its options in their natural order.
fn canonical(name: &str, options: &BTreeMap<String, String>, query: &str) -> String {
    let leading = ["every", "class", "mode"];
    let rest = options.keys().map(String::as_str).filter(|name| !leading.contains(name));
    let mut sql = format!("CREATE OR REPLACE RULE {name}\nWITH (");
    let mut separator = "";
    for (key, value) in leading.into_iter().chain(rest).filter_map(|key| options.get_key_value(key)) {
        // Writing to a String cannot fail.
        let _ = match value.parse::<f64>() {
            Ok(_) => write!(sql, "{separator}{key} = {value}"),
            Err(_) => write!(sql, "{separator}{key} = '{value}'"),
        };
        separator = ", ";
    }
    sql + ")\nAS\n" + query
}

/// How many stages there are; see [`ActiveRule::stage`].
pub(crate) const STAGES: usize = 3;

/// A rule in force. Its successor after a change shares `running`, so that the two never run at once.
#[derive(Clone, Debug)]
pub(crate) struct ActiveRule {
    pub definition: Arc<RuleDefinition>,
    /// The tick whose run is still going.
    pub running: Arc<Mutex<Option<TimeMs>>>,
    pub reads: Arc<Reads>,
    /// Known after its first run: the types of its state are found by planning.
    view: Arc<OnceCell<Arc<RuleView>>>,
}

impl ActiveRule {
    pub fn new(definition: Arc<RuleDefinition>, running: Arc<Mutex<Option<TimeMs>>>) -> Self {
        let reads = Arc::new(Reads::of(&definition.query));
        Self { definition, running, reads, view: Arc::default() }
    }

    /// What the rule sees of state, parameters and events.
    pub async fn view(&self, store: &Store, now: TimeMs) -> Result<Arc<RuleView>, String> {
        let RuleDefinition { name, mode, emit, query, .. } = &*self.definition;
        let view = self.view.get_or_try_init(|| async {
            let mut view = RuleView::stateless(name, *mode == Mode::Shadow);
            if self.reads.state {
                let columns = store.check_rule(query, &contract(*emit), now).await.map_err(|error| error.message)?;
                view.state = columns.state;
            }
            Ok(Arc::new(view))
        });
        view.await.cloned()
    }

    /// In which order the rules of one instant run: parameters are set, then events emitted, then limits proposed, and who
    /// reads none of what was written before need not wait for it.
    pub fn stage(&self) -> usize {
        match self.definition.emit {
            Emit::Param => 0,
            Emit::Event => usize::from(self.reads.params),
            Emit::Limit if self.reads.events => 2,
            Emit::Limit => usize::from(self.reads.params),
        }
    }
}

/// A column that a rule returns.
struct Wanted {
    name: &'static str,
    fits: fn(&DataType) -> bool,
    description: &'static str,
    required: bool,
}

const fn wanted(name: &'static str, fits: fn(&DataType) -> bool, description: &'static str) -> Wanted {
    Wanted { name, fits, description, required: true }
}

const fn optional(name: &'static str, fits: fn(&DataType) -> bool, description: &'static str) -> Wanted {
    Wanted { name, fits, description, required: false }
}

/// What a rule returns to say which limit it is about.
const KEY: [Wanted; 3] = [
    wanted("host", is_text, "text"),
    wanted("container", is_text, "text"),
    wanted("resource", is_text, "text, such as 'cpu' or 'memory'"),
];
/// What it returns instead when it is about a group as a whole.
const APP: [Wanted; 2] = [wanted("app", is_text, "text"), wanted("resource", is_text, "text, 'cpu' or 'memory'")];
const USER: [Wanted; 2] = [wanted("user", is_text, "text"), wanted("resource", is_text, "text, 'cpu' or 'memory'")];
const PROPOSAL: [Wanted; 5] = [
    wanted("target", is_number, "a number, in cores or bytes"),
    wanted("reason", is_text, "text"),
    optional(CONSUME_EVENT, is_text, "text, the name of events that it acts on"),
    optional(CONSUME_COUNT, is_number, "a number, how many of them"),
    optional(CONSUME_WITHIN, is_number, "a number, how many seconds old they may be"),
];
const EVENT: [Wanted; 2] =
    [wanted("name", is_text, "text, the event's name"), optional("value", is_number, "a number")];
const PARAM: [Wanted; 2] =
    [wanted("name", is_text, "text, the parameter's name"), wanted("value", is_number, "a number")];

/// The column that names events on which a rule acts.
pub(crate) const CONSUME_EVENT: &str = "consume_event";
/// The column that says on how many of them it acts, the oldest first.
pub(crate) const CONSUME_COUNT: &str = "consume_count";
/// The column that says how old they may be, in seconds; an hour without it.
pub(crate) const CONSUME_WITHIN: &str = "consume_within";

fn wanted_columns(emit: Emit, group: Option<GroupKind>) -> impl Iterator<Item = &'static Wanted> {
    let key = match group {
        None => KEY.iter(),
        Some(GroupKind::App) => APP.iter(),
        Some(GroupKind::User) => USER.iter(),
    };
    key.chain(match emit {
        Emit::Limit => PROPOSAL.iter(),
        Emit::Event => EVENT.iter(),
        Emit::Param => PARAM.iter(),
    })
}

/// The columns that mean something to the engine; what a rule returns besides them is its state.
pub(crate) fn contract(emit: Emit) -> Vec<&'static str> {
    wanted_columns(emit, None).map(|column| column.name).collect()
}

/// The kind of group that the rows of a limit rule are about, if they are about groups: those of a rule that returns neither
/// `host` nor `container`, since a rule that forgot one of them must not be taken for one about an app.
pub(crate) fn group_kind(schema: &Schema) -> Option<GroupKind> {
    let has = |name: &str| schema.fields().iter().any(|field| field.name() == name);
    match (has("host") || has("container"), has("app"), has("user")) {
        (false, true, _) => Some(GroupKind::App),
        (false, false, true) => Some(GroupKind::User),
        _ => None,
    }
}

/// Checks that a rule's query returns the columns that the engine reads. Their order is free, further ones are allowed.
pub(crate) fn check_columns(schema: &Schema, emit: Emit) -> Result<(), PolicyError> {
    let group = if emit == Emit::Limit { group_kind(schema) } else { None };
    let wanted = || wanted_columns(emit, group);
    let names: Vec<&str> = wanted().filter(|column| column.required).map(|column| column.name).collect();
    for Wanted { name, fits, description, required } in wanted() {
        match schema.fields().iter().filter(|field| field.name() == *name).collect::<Vec<_>>().as_slice() {
            [] if !required => {}
            [] => {
                let message = format!("the rule returns no column '{name}', which must be {description}");
                let help = format!("a rule returns {}; name a column with AS", names.join(", "));
                return Err(PolicyError::new(PolicyErrorKind::Schema, message).help(help));
            }
            [field] if fits(field.data_type()) => {}
            [field] => {
                let message = format!("column '{name}' is {}, it must be {description}", field.data_type());
                let help = format!(
                    "convert it, for example with CAST(... AS {})",
                    if fits(&DataType::Utf8) { "VARCHAR" } else { "DOUBLE" }
                );
                return Err(PolicyError::new(PolicyErrorKind::Schema, message).help(help));
            }
            _ => {
                let message = format!("the rule returns column '{name}' more than once");
                return Err(PolicyError::new(PolicyErrorKind::Schema, message));
            }
        }
    }
    Ok(())
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    fn definition(options: &[(&str, &str)], query: &str) -> RuleDefinition {
        let given = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        RuleDefinition::new("up", 1, Mode::Shadow, given, query, &PolicyConfig::default()).unwrap()
    }

    #[test]
    fn a_missing_or_wrong_column_is_named() {
        let text = DataType::Utf8;
        let mut columns = vec![("host", text.clone()), ("container", text.clone()), ("resource", text.clone())];
        let missing = check_columns(&schema(&columns), Emit::Limit).unwrap_err();
        assert_eq!(missing.message, "the rule returns no column 'target', which must be a number, in cores or bytes");
        columns.extend([("target", text.clone()), ("reason", text.clone())]);
        let wrong = check_columns(&schema(&columns), Emit::Limit).unwrap_err();
        assert_eq!(wrong.message, "column 'target' is Utf8, it must be a number, in cores or bytes");
        columns[3].1 = DataType::Int64;
        columns.push(("further", DataType::Boolean));
        check_columns(&schema(&columns), Emit::Limit).unwrap();
        columns.push(("name", text));
        check_columns(&schema(&columns), Emit::Event).unwrap();
    }

    #[test]
    fn a_rule_about_groups_names_no_container() {
        let text = DataType::Utf8;
        let columns = |group: &'static str| {
            vec![
                (group, text.clone()),
                ("resource", text.clone()),
                ("target", DataType::Float64),
                ("reason", text.clone()),
            ]
        };
        for (group, kind) in [("app", GroupKind::App), ("user", GroupKind::User)] {
            let mut columns = columns(group);
            check_columns(&schema(&columns), Emit::Limit).unwrap();
            assert_eq!(group_kind(&schema(&columns)), Some(kind));
            assert!(check_columns(&schema(&columns), Emit::Event).unwrap_err().message.contains("no column 'host'"));
            columns.push(("host", text.clone()));
            let forgotten = check_columns(&schema(&columns), Emit::Limit).unwrap_err();
            assert!(forgotten.message.contains("no column 'container'"), "{}", forgotten.message);
        }
    }

    #[test]
    fn the_canonical_statement_makes_the_same_rule_again() {
        let rule = definition(&[("every", "5s"), ("step_up", "0.5"), ("cooldown_up", "1m 30s")], "SELECT 1");
        let expected = "CREATE OR REPLACE RULE up\nWITH (every = '5s', mode = 'shadow', cooldown_up = '1m 30s', step_up = 0.5)\nAS\nSELECT 1";
        assert_eq!(rule.sql, expected);
        let row = rule.to_row("me", TimeMs(1));
        assert_eq!(RuleDefinition::from_row(&row, &PolicyConfig::default()).unwrap(), rule);
    }

    #[test]
    fn the_mode_alone_makes_no_other_rule() {
        let shadow = definition(&[], "SELECT 1");
        assert!(shadow.decides_as(&definition(&[("mode", "on")], "SELECT 1")));
        assert!(!shadow.decides_as(&definition(&[], "SELECT 2")));
        assert!(!shadow.decides_as(&definition(&[("every", "2s")], "SELECT 1")));
    }

    #[test]
    fn a_rule_is_due_at_the_multiples_of_its_period_unless_it_is_off() {
        let rule = definition(&[("every", "5s"), ("mode", "on")], "SELECT 1");
        assert!(rule.is_due(TimeMs(10_000)) && !rule.is_due(TimeMs(11_000)));
        assert!(!definition(&[("mode", "off")], "SELECT 1").is_due(TimeMs(10_000)));
    }
}
