//! State: columns that a rule returned at its last tick about a limit, for its next one.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, StringArray, StringViewArray, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use serde_json::{Map, Value};
use tidegate_model::{ContainerKey, Resource, TimeMs};

use super::{MOST_ROWS, MOST_TEXT, Remembered, RuleView, StateRow};
use crate::store::Store;
use crate::tables::{UTC, time_type};

/// What stands in front of a rule's own columns.
pub(crate) const STATE_KEY: [&str; 4] = ["host", "container", "resource", "time"];

impl Remembered {
    pub(super) fn put_state(
        &mut self,
        rule: &str,
        now: TimeMs,
        rows: impl IntoIterator<Item = (ContainerKey, Resource, Map<String, Value>)>,
    ) -> Result<(), String> {
        let kept = self.states.entry(rule.to_owned()).or_default();
        let mut refused = None;
        for (container, resource, columns) in rows {
            let long = |(name, value): (&String, &Value)| {
                value.as_str().filter(|text| text.len() > MOST_TEXT).map(|text| (name.clone(), text.len()))
            };
            if let Some((name, length)) = columns.iter().find_map(long) {
                refused =
                    Some(format!("column '{name}' has {length} bytes, more than the {MOST_TEXT} a state may have"));
                continue;
            }
            let key = (container.clone(), resource);
            if kept.len() >= MOST_ROWS && !kept.contains_key(&key) {
                refused =
                    Some(format!("it has state of more than {MOST_ROWS} limits: that of {container} is not kept"));
                continue;
            }
            kept.insert(key, StateRow { rule: rule.to_owned(), container, resource, time: now, columns });
        }
        refused.map_or(Ok(()), Err)
    }
}

/// The type that a column of state has, after the type that a rule returns: numbers are numbers, times are times, and what
/// is neither is kept as text. A column of which nothing is known yet (`Null`) is a number.
pub(crate) fn state_type(returned: &DataType) -> DataType {
    match returned {
        DataType::Boolean => DataType::Boolean,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => time_type(),
        DataType::Null => DataType::Float64,
        number if number.is_numeric() => DataType::Float64,
        _ => DataType::Utf8View,
    }
}

/// The columns of a rule's table `state`.
pub(crate) fn state_schema(own: &Schema) -> SchemaRef {
    let key = STATE_KEY.map(|name| {
        let data_type = if name == "time" { time_type() } else { DataType::Utf8View };
        Arc::new(Field::new(name, data_type, true))
    });
    Arc::new(Schema::new(key.into_iter().chain(own.fields().iter().cloned()).collect::<Vec<_>>()))
}

impl Store {
    /// What a rule returned before, in the columns of [`state_schema`].
    pub(crate) fn own_state(&self, view: &RuleView) -> Result<RecordBatch> {
        let remembered = self.memory.remembered.lock();
        let rows: Vec<&StateRow> =
            remembered.states.get(&view.rule).map(|rows| rows.values().collect()).unwrap_or_default();
        let text = |value: fn(&StateRow) -> &str| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(value(row))).collect::<StringViewArray>())
        };
        let mut columns = vec![
            text(|row| &row.container.host),
            text(|row| &row.container.name),
            text(|row| row.resource.as_str()),
            Arc::new(rows.iter().map(|row| Some(row.time.0)).collect::<TimestampMillisecondArray>().with_timezone(UTC)),
        ];
        for field in view.state.fields() {
            columns.push(own_column(&rows, field)?);
        }
        Ok(RecordBatch::try_new(state_schema(&view.state), columns)?)
    }

    /// The state of all rules, for people.
    pub(crate) fn all_states(&self) -> Vec<StateRow> {
        let remembered = self.memory.remembered.lock();
        let mut rows: Vec<StateRow> = remembered.states.values().flat_map(|rows| rows.values()).cloned().collect();
        rows.sort_by(|a, b| (&a.rule, &a.container, a.resource).cmp(&(&b.rule, &b.container, b.resource)));
        rows
    }
}

/// One column of state. What was returned by a former version of the rule in another type is null.
fn own_column(rows: &[&StateRow], field: &Field) -> Result<ArrayRef> {
    let value = |row: &&StateRow| row.columns.get(field.name()).cloned().unwrap_or(Value::Null);
    Ok(match field.data_type() {
        DataType::Float64 => Arc::new(rows.iter().map(|row| value(row).as_f64()).collect::<Float64Array>()),
        DataType::Boolean => Arc::new(rows.iter().map(|row| value(row).as_bool()).collect::<BooleanArray>()),
        other => {
            let texts: StringArray = rows.iter().map(|row| value(row).as_str().map(str::to_owned)).collect();
            cast(&texts, other)?
        }
    })
}
