//! What rules emitted and what was decided: `events` and `decisions`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray, TimestampMillisecondArray, UInt32Array};
use arrow::datatypes::SchemaRef;
use tidegate_model::Decision;

use super::choice::LabelFilter;
use super::filter::TIME;
use super::labels::LabelTable;
use super::source::{Block, Part, Read, ReadRows, Source};
use super::{Column, Kind, UTC, schema_of};
use crate::memory::{RuleView, SeenEvent};
use crate::query::run::Run;
use crate::store::Store;

/// The columns of `events`.
pub(crate) fn events_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    vec![
        Column::new(TIME, Kind::Time, "the tick"),
        text("rule", "the rule that emitted it"),
        text("host", "the container's host"),
        text("container", "the container's name"),
        text("resource", "cpu or memory"),
        text("name", "the event's name"),
        Column::new("value", Kind::Double, "a value that goes with it"),
        text("mode", "on, or shadow: then only rules in shadow mode see it"),
        text("consumed_by", "the rule that acted on it; null while it is open"),
    ]
}

/// `events`.
#[derive(Debug)]
pub(crate) struct EventsSource;

impl Source for EventsSource {
    fn name(&self) -> String {
        "events".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&events_columns())
    }

    fn label_count(&self) -> usize {
        0
    }

    fn has_one_value(&self) -> bool {
        false
    }

    fn parts(&self, _: &Store, _: &LabelFilter) -> Vec<Part> {
        events_as_seen_by(None)
    }

    fn parts_for(&self, run: &Run, _: &LabelFilter) -> Vec<Part> {
        events_as_seen_by(run.rule.clone())
    }
}

fn events_as_seen_by(view: Option<Arc<RuleView>>) -> Vec<Part> {
    let read: ReadRows = Box::new(move |store, _, from, to| {
        let rows = store.seen_events(view.as_deref(), from, to)?;
        let value: Float64Array = rows.iter().map(|row| Some(row.event.value)).collect();
        let values = vec![
            texts(&rows, |row: &SeenEvent| Some(row.event.rule.as_str())),
            texts(&rows, |row| Some(row.event.container.host.as_str())),
            texts(&rows, |row| Some(row.event.container.name.as_str())),
            texts(&rows, |row| Some(row.event.resource.as_str())),
            texts(&rows, |row| Some(row.event.name.as_str())),
            Arc::new(value),
            texts(&rows, |row| Some(if row.shadow { "shadow" } else { "on" })),
            texts(&rows, |row| row.consumed_by.as_deref()),
        ];
        Ok(block(rows.iter().map(|row| row.event.time.0), values))
    });
    vec![Part { labels: Arc::new(LabelTable::none()), read: Read::Rows(read) }]
}

/// The columns of `decisions`.
pub(crate) fn decisions_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    vec![
        Column::new(TIME, Kind::Time, "the tick, which is what now() was"),
        text("id", "the decision's identifier"),
        text("rule", "the rule"),
        Column::new("version", Kind::Integer, "the rule's version at that tick"),
        text("host", "the container's host"),
        text("container", "the container's name"),
        text("resource", "cpu or memory"),
        double("limit_before", "the limit in force before; null when none was known"),
        double("proposed", "what the rule wanted"),
        double("decided", "what the guards left of it; null when one of them refused"),
        text("guards", "what the guards did, as a JSON array"),
        text("reason", "the rule's own words"),
        text("mode", "the rule's mode at that tick: shadow, canary n % or on"),
        text("outcome", "applied, unchanged, refused, infeasible, drifted, rolled_back, shadow or failed"),
        double("limit_after", "the limit that was read back; null when unlimited or unread"),
        text("message", "why it was refused, what was not reached, who else wrote"),
        text("written", "every write in order, one a line: file = value"),
        Column::new("read_at", Kind::Time, "when the limit was read back"),
        Column::new("took_us", Kind::Integer, "from the first read to the read-back"),
        text("inputs", "what the engine knew, as a JSON object"),
    ]
}

/// `decisions`.
#[derive(Debug)]
pub(crate) struct DecisionsSource;

impl Source for DecisionsSource {
    fn name(&self) -> String {
        "decisions".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&decisions_columns())
    }

    fn label_count(&self) -> usize {
        0
    }

    fn has_one_value(&self) -> bool {
        false
    }

    fn parts(&self, _: &Store, _: &LabelFilter) -> Vec<Part> {
        let read: ReadRows = Box::new(|store, _, from, to| {
            let rows = store.scan_decisions(from, to)?;
            Ok(block(rows.iter().map(|row| row.time.0), decision_columns(&rows)))
        });
        vec![Part { labels: Arc::new(LabelTable::none()), read: Read::Rows(read) }]
    }
}

fn decision_columns(rows: &[Decision]) -> Vec<ArrayRef> {
    let doubles = |value: fn(&Decision) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Float64Array>())
    };
    let integers =
        |value: fn(&Decision) -> i64| -> ArrayRef { Arc::new(rows.iter().map(value).collect::<Int64Array>()) };
    let guards: StringViewArray = rows.iter().map(|row| serde_json::to_string(&row.guards).ok()).collect();
    let written: StringViewArray = rows.iter().map(|row| Some(written(row))).collect();
    let inputs: StringViewArray = rows.iter().map(|row| Some(row.inputs.to_string())).collect();
    let read_at: TimestampMillisecondArray = rows.iter().map(|row| Some(row.outcome.at.0)).collect();
    vec![
        texts(rows, |row| Some(row.id.as_str())),
        texts(rows, |row| Some(row.rule.as_str())),
        integers(|row| i64::from(row.version)),
        texts(rows, |row| Some(row.container.host.as_str())),
        texts(rows, |row| Some(row.container.name.as_str())),
        texts(rows, |row| Some(row.resource.as_str())),
        doubles(|row| row.limit_before),
        doubles(|row| Some(row.proposed)),
        doubles(|row| row.decided),
        Arc::new(guards),
        texts(rows, |row| Some(row.reason.as_str())),
        Arc::new(rows.iter().map(|row| Some(row.mode.to_string())).collect::<StringViewArray>()),
        texts(rows, |row| Some(row.outcome.status.as_str())),
        doubles(|row| row.outcome.limit_after),
        texts(rows, |row| Some(row.outcome.message.as_str())),
        Arc::new(written),
        Arc::new(read_at.with_timezone(UTC)),
        integers(|row| i64::try_from(row.outcome.took_us).unwrap_or(i64::MAX)),
        Arc::new(inputs),
    ]
}

fn written(decision: &Decision) -> String {
    let lines = decision.outcome.writes.iter().map(|write| format!("{} = {}", write.target, write.value));
    lines.collect::<Vec<_>>().join("\n")
}

fn texts<T>(rows: &[T], value: impl Fn(&T) -> Option<&str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringViewArray>())
}

fn block(times: impl Iterator<Item = i64>, values: Vec<ArrayRef>) -> Vec<Block> {
    let time = Int64Array::from_iter_values(times);
    if time.values().is_empty() {
        return Vec::new();
    }
    // There are no labels to point to.
    let label = UInt32Array::from(vec![0; time.values().len()]);
    vec![Block { label, time, values }]
}
