//! From the rows that a rule returned to proposals and events.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, StringArray, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};
use tidegate_model::{ContainerKey, Event, GroupKind, Resource, TimeMs};

use crate::rule::RuleDefinition;
use crate::watch::Regression;

/// What a limit belongs to.
pub(crate) type LimitKey = (ContainerKey, Resource);

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A row that a rule returned.
    Row,
    /// What a rule changed and does not ask for any more: the way back.
    Expiry,
    /// What the engine puts back by itself: upwards.
    Restore,
    /// What the engine puts back after somebody else changed it.
    Undrift,
}

/// What somebody wants a limit to be; mostly a row that a rule returned.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub rule: Arc<RuleDefinition>,
    pub origin: Origin,
    pub key: LimitKey,
    /// May be anything that SQL can compute, NaN included.
    pub target: f64,
    pub reason: String,
    /// The row's further columns.
    pub columns: Map<String, Value>,
    /// How many rows for the same limit the rule returned before this one.
    pub nth: usize,
}

impl Proposal {
    /// What puts back a limit whose decrease made things worse, in the name of `rule`.
    pub fn put_back(rule: &Arc<RuleDefinition>, regression: Regression) -> Self {
        Self {
            rule: Arc::clone(rule),
            origin: Origin::Restore,
            key: regression.key,
            target: regression.from,
            reason: regression.reason,
            columns: regression.inputs,
            nth: 0,
        }
    }
}

/// Proposals or events of one run, and what was wrong with rows that are neither.
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub items: Vec<T>,
    pub problem: Option<String>,
}

/// Reads a limit rule's rows. A row whose target is null proposes nothing. Reasons and further columns are left out where
/// nobody is told, which is where nothing `explains`.
pub(crate) fn proposals(rule: &Arc<RuleDefinition>, batches: &[RecordBatch], explains: bool) -> Parsed<Proposal> {
    let mut parsed = Parsed { items: Vec::<Proposal>::new(), problem: None };
    let mut seen = Seen::default();
    for batch in batches {
        let (Some(target), Some(reason)) = (numbers(batch, "target"), texts(batch, "reason")) else {
            parsed.problem = Some("the rule's result has lost its column 'target' or 'reason'".to_owned());
            continue;
        };
        let (keys, further) = (Keys::of(batch), if explains { Further::all_of(batch) } else { Vec::new() });
        for row in (0..batch.num_rows()).filter(|row| target.is_valid(*row)) {
            match keys.at(row) {
                Ok(key) => {
                    let reason = text_at(&reason, row).filter(|_| explains);
                    parsed.items.push(Proposal {
                        rule: Arc::clone(rule),
                        origin: Origin::Row,
                        nth: seen.count(&key, &parsed.items),
                        key,
                        target: target.value(row),
                        reason: reason.unwrap_or_default().to_owned(),
                        columns: further.iter().map(|column| (column.name.to_owned(), column.json(row))).collect(),
                    });
                }
                Err(why) => parsed.problem = Some(why),
            }
        }
    }
    parsed
}

/// How many rows there were for each limit.
#[derive(Default)]
struct Seen {
    /// Nothing, as long as the rows come in the order of their limits: then each limit has one.
    counts: HashMap<LimitKey, usize>,
}

impl Seen {
    /// How many of `items`, which are all there were, are for a limit.
    fn count(&mut self, key: &LimitKey, items: &[Proposal]) -> usize {
        if self.counts.is_empty() {
            if items.last().is_none_or(|last| last.key < *key) {
                return 0;
            }
            for item in items {
                *self.counts.entry(item.key.clone()).or_default() += 1;
            }
        }
        let count = self.counts.entry(key.clone()).or_default();
        *count += 1;
        *count - 1
    }
}

/// Reads an event rule's rows. A missing or null value counts as 1; a row whose name is null is no event.
pub(crate) fn events(rule: &RuleDefinition, now: TimeMs, batches: &[RecordBatch]) -> Parsed<Event> {
    let mut parsed = Parsed { items: Vec::new(), problem: None };
    for batch in batches {
        let Some(names) = texts(batch, "name") else {
            parsed.problem = Some("the rule's result has lost its column 'name'".to_owned());
            continue;
        };
        let (keys, values) = (Keys::of(batch), numbers(batch, "value"));
        for row in 0..batch.num_rows() {
            let value = values.as_ref().filter(|values| values.is_valid(row)).map_or(1.0, |values| values.value(row));
            match (keys.at(row), text_at(&names, row)) {
                (_, None) => {}
                (Err(why), _) => parsed.problem = Some(why),
                (_, _) if !value.is_finite() => parsed.problem = Some(format!("row {}: value is {value}", row + 1)),
                (Ok((container, resource)), Some(name)) => {
                    let (rule, name) = (rule.name.clone(), name.to_owned());
                    parsed.items.push(Event { time: now, rule, container, resource, name, value });
                }
            }
        }
    }
    parsed
}

/// The columns that say which limit a row is about.
pub(crate) struct Keys {
    host: Option<StringArray>,
    container: Option<StringArray>,
    resource: Option<StringArray>,
}

impl Keys {
    pub fn of(batch: &RecordBatch) -> Self {
        let [host, container, resource] = ["host", "container", "resource"].map(|name| texts(batch, name));
        Self { host, container, resource }
    }

    /// Of rows about groups: their names, on no host.
    pub fn of_groups(kind: GroupKind, batch: &RecordBatch) -> Self {
        let nowhere = StringArray::from_iter_values(std::iter::repeat_n("", batch.num_rows()));
        Self { host: Some(nowhere), container: texts(batch, kind.as_str()), resource: texts(batch, "resource") }
    }

    /// The limit that a row is about, or why it is about none.
    pub fn at(&self, row: usize) -> Result<LimitKey, String> {
        let resource = cell("resource", self.resource.as_ref(), row)?;
        let resource = resource.parse::<Resource>().map_err(|error| format!("row {}: {error}", row + 1))?;
        let host = cell("host", self.host.as_ref(), row)?.to_owned();
        let name = cell("container", self.container.as_ref(), row)?.to_owned();
        Ok((ContainerKey { host, name }, resource))
    }
}

fn cell<'a>(name: &str, column: Option<&'a StringArray>, row: usize) -> Result<&'a str, String> {
    let column = column.ok_or_else(|| format!("the rule's result has lost its column '{name}'"))?;
    text_at(column, row).ok_or_else(|| format!("row {}: {name} is null", row + 1))
}

/// A further column of a rule's rows, read for all of them at once.
pub(crate) struct Further<'a> {
    pub name: &'a str,
    column: &'a ArrayRef,
    cells: Cells<'a>,
}

enum Cells<'a> {
    Flags(&'a BooleanArray),
    Numbers(Float64Array),
    Texts(ArrayFormatter<'a>),
    /// Of a kind that cannot be shown.
    Nothing,
}

impl<'a> Further<'a> {
    pub fn all_of(batch: &'a RecordBatch) -> Vec<Self> {
        let fields = batch.schema_ref().fields();
        let named = fields.iter().map(|field| field.name().as_str()).zip(batch.columns());
        named
            .filter(|(name, _)| !["host", "container", "resource", "target", "reason"].contains(name))
            .map(|(name, column)| Self { name, column, cells: Cells::of(column) })
            .collect()
    }

    pub fn json(&self, row: usize) -> Value {
        if self.column.is_null(row) {
            return Value::Null;
        }
        match &self.cells {
            Cells::Flags(flags) => Value::Bool(flags.value(row)),
            Cells::Numbers(numbers) => Value::from(numbers.value(row)),
            Cells::Texts(texts) => Value::String(texts.value(row).to_string()),
            Cells::Nothing => Value::Null,
        }
    }
}

impl<'a> Cells<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        if let Some(flags) = column.as_any().downcast_ref::<BooleanArray>() {
            return Cells::Flags(flags);
        }
        if column.data_type().is_numeric() {
            let numbers = cast(column, &DataType::Float64).ok();
            return numbers
                .map_or(Cells::Nothing, |numbers| Cells::Numbers(numbers.as_primitive::<Float64Type>().clone()));
        }
        ArrayFormatter::try_new(column, &FormatOptions::default()).map_or(Cells::Nothing, Cells::Texts)
    }
}

/// A column as text, whatever kind of text it is.
pub(crate) fn texts(batch: &RecordBatch, name: &str) -> Option<StringArray> {
    let column = cast(batch.column_by_name(name)?, &DataType::Utf8).ok()?;
    Some(column.as_string::<i32>().clone())
}

/// A column as floating-point numbers, whatever kind of number it is.
pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Option<Float64Array> {
    let column = cast(batch.column_by_name(name)?, &DataType::Float64).ok()?;
    Some(column.as_primitive::<Float64Type>().clone())
}

/// A column of instants, in ms.
pub(crate) fn times(batch: &RecordBatch, name: &str) -> Option<TimestampMillisecondArray> {
    let column = cast(batch.column_by_name(name)?, &DataType::Timestamp(TimeUnit::Millisecond, None)).ok()?;
    Some(column.as_primitive::<TimestampMillisecondType>().clone())
}

pub(crate) fn text_at(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};
    use proptest::prelude::*;

    fn rule(query: &str) -> Arc<RuleDefinition> {
        let config = crate::PolicyConfig::default();
        Arc::new(RuleDefinition::new("r", 1, tidegate_model::Mode::On, Default::default(), query, &config).unwrap())
    }

    fn batch(resources: Vec<Option<&str>>, targets: Vec<Option<i64>>) -> RecordBatch {
        let rows = targets.len();
        let text = |value: &str| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
        RecordBatch::try_from_iter(vec![
            ("reason", Arc::new(StringViewArray::from(vec!["because"; rows])) as ArrayRef),
            ("target", Arc::new(Int64Array::from(targets)) as ArrayRef),
            ("resource", Arc::new(StringArray::from(resources)) as ArrayRef),
            ("container", text("web")),
            ("host", text("node0")),
            ("name", text("busy")),
            ("hot", Arc::new(BooleanArray::from(vec![true; rows])) as ArrayRef),
        ])
        .unwrap()
    }

    #[test]
    fn rows_become_proposals_with_their_further_columns() {
        let rows = [batch(vec![Some("cpu"), Some("cpu"), Some("memory")], vec![Some(2), Some(3), None])];
        let parsed = proposals(&rule("SELECT 1"), &rows, true);
        assert_eq!(parsed.problem, None);
        assert_eq!(parsed.items.iter().map(|p| (p.target, p.nth)).collect::<Vec<_>>(), [(2.0, 0), (3.0, 1)]);
        assert_eq!(parsed.items[0].columns["hot"], Value::Bool(true));
        assert_eq!(parsed.items[0].reason, "because");
        let short = proposals(&rule("SELECT 1"), &rows, false);
        assert_eq!(short.items.iter().map(|p| (p.target, p.nth)).collect::<Vec<_>>(), [(2.0, 0), (3.0, 1)]);
        assert!(short.items.iter().all(|p| p.reason.is_empty() && p.columns.is_empty()));
    }

    proptest! {
        #[test]
        fn rows_of_a_limit_are_counted_in_any_order(resources in prop::collection::vec(any::<bool>(), 0..9), sorted in any::<bool>()) {
            let mut resources: Vec<Option<&str>> =
                resources.into_iter().map(|cpu| Some(if cpu { "cpu" } else { "memory" })).collect();
            if sorted {
                resources.sort_unstable();
            }
            let targets = vec![Some(1); resources.len()];
            // Over two batches, too.
            let (first, second) = resources.split_at(resources.len() / 2);
            let batches = [first, second].map(|part| batch(part.to_vec(), targets[..part.len()].to_vec()));
            let parsed = proposals(&rule("SELECT 1"), &batches, true);
            let counted: Vec<usize> = parsed.items.iter().map(|item| item.nth).collect();
            let before = |at: usize| resources[..at].iter().filter(|one| **one == resources[at]).count();
            prop_assert_eq!(counted, (0..resources.len()).map(before).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bad_row_is_reported_and_its_neighbours_count() {
        let rows = [batch(vec![Some("cpu"), Some("gpu"), None], vec![Some(1), Some(1), Some(1)])];
        let parsed = proposals(&rule("SELECT 1"), &rows, true);
        assert_eq!(parsed.items.len(), 1);
        assert_eq!(parsed.problem.unwrap(), "row 3: resource is null");
    }

    #[test]
    fn an_event_without_a_value_counts_one() {
        let parsed = events(&rule("SELECT 1"), TimeMs(5), &[batch(vec![Some("cpu")], vec![None])]);
        assert_eq!((parsed.items[0].name.as_str(), parsed.items[0].value), ("busy", 1.0));
    }
}
