//! Metrics as they were pushed: one table each, and all of them together as `samples`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewBuilder, UInt32Array};
use arrow::datatypes::SchemaRef;
use tidegate_model::SeriesKey;

use super::filter::TIME;
use super::schema_of;
use super::source::{Block, Part, Read, Source, label_rows};
use super::{Column, Kind};
use crate::error::StoreError;
use crate::scan::Wanted;
use crate::store::Store;

/// Name of the column that holds the measurement.
pub(crate) const VALUE: &str = "value";

/// `metric."name"(time, one column a tag, value)`.
#[derive(Debug)]
pub(crate) struct MetricSource {
    metric: String,
    /// Tag keys; the columns are called [`tag_column`] of them.
    keys: Vec<String>,
}

impl MetricSource {
    pub(crate) fn new(metric: String, keys: Vec<String>) -> Self {
        Self { metric, keys }
    }

    /// The table's columns with their types and meaning.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let time = Column::new(TIME, Kind::Time, "when it was measured");
        let tag =
            |key: &String| Column::new(&tag_column(key, &self.keys), Kind::Text, "a tag; null where a series has none");
        let value = Column::new(VALUE, Kind::Double, "what was measured, in the pusher's unit");
        std::iter::once(time).chain(self.keys.iter().map(tag)).chain([value]).collect()
    }
}

/// The column of a tag: its key, with `tag_` before it where the key is the name of another column.
fn tag_column(key: &str, keys: &[String]) -> String {
    let taken = |name: &str| name == TIME || name == VALUE;
    if !taken(key) {
        return key.to_owned();
    }
    let mut name = format!("tag_{key}");
    while keys.contains(&name) {
        name.insert_str(0, "tag_");
    }
    name
}

impl Source for MetricSource {
    fn name(&self) -> String {
        format!("metric.{:?}", self.metric)
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&self.columns())
    }

    fn label_count(&self) -> usize {
        self.keys.len()
    }

    fn parts(&self, store: &Store, from: i64) -> Vec<Part> {
        let series = store.series_of(&self.metric, from);
        let label = |key: &String| {
            let mut values = StringViewBuilder::with_capacity(series.len());
            for (_, tags) in &series {
                values.append_option(tags.tag(key));
            }
            Arc::new(values.finish()) as ArrayRef
        };
        let labels = self.keys.iter().map(label).collect();
        vec![Part { labels, read: read_metric(self.metric.clone(), &series) }]
    }
}

/// `samples(time, metric, tags, value)`: the union of all metrics.
#[derive(Debug)]
pub(crate) struct SamplesSource;

/// The columns of `samples`.
pub(crate) fn samples_columns() -> Vec<Column> {
    vec![
        Column::new(TIME, Kind::Time, "when it was measured"),
        Column::new("metric", Kind::Text, "the metric's name"),
        Column::new("tags", Kind::Text, "the tags as a JSON object, keys sorted; tag(tags, 'key') takes one out"),
        Column::new(VALUE, Kind::Double, "what was measured, in the pusher's unit"),
    ]
}

impl Source for SamplesSource {
    fn name(&self) -> String {
        "samples".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&samples_columns())
    }

    fn label_count(&self) -> usize {
        2
    }

    fn parts(&self, store: &Store, from: i64) -> Vec<Part> {
        let part = |metric: String| {
            let series = store.series_of(&metric, from);
            let mut names = StringViewBuilder::with_capacity(series.len());
            let mut tags = StringViewBuilder::with_capacity(series.len());
            for (_, key) in &series {
                names.append_value(&metric);
                tags.append_value(json_tags(key));
            }
            let labels: Vec<ArrayRef> = vec![Arc::new(names.finish()), Arc::new(tags.finish())];
            Part { labels, read: read_metric(metric, &series) }
        };
        store.metrics().into_iter().map(|metric| part(metric.name)).collect()
    }
}

fn json_tags(key: &SeriesKey) -> String {
    let tags = key.tags().map(|(key, value)| (key.to_owned(), serde_json::Value::from(value)));
    serde_json::Value::Object(tags.collect()).to_string()
}

/// Reads the samples of one metric; the label of a series is its position in `series`.
fn read_metric(metric: String, series: &[(u32, Arc<SeriesKey>)]) -> Read {
    let known: HashMap<u32, u32> = series.iter().zip(0..).map(|((sid, _), label)| (*sid, label)).collect();
    Box::new(move |store, from, to| read_labelled(store, &metric, from, to, &known))
}

/// The samples of `metric` in a range, of the series that `known` gives a label.
pub(crate) fn read_labelled(
    store: &Store,
    metric: &str,
    from: i64,
    to: i64,
    known: &HashMap<u32, u32>,
) -> Result<Vec<Block>, StoreError> {
    let mut blocks = Vec::new();
    for chunk in store.scan(&Wanted { metric, series: None, from, to })? {
        let rows = label_rows(&chunk.series, known);
        let (time, values) = if rows.all {
            (chunk.times, chunk.values)
        } else {
            (Int64Array::from(rows.keep(chunk.times.values())), Float64Array::from(rows.keep(chunk.values.values())))
        };
        blocks.push(Block { label: UInt32Array::from(rows.labels), time, values: vec![Arc::new(values)] });
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_called_like_a_column_gets_another_name() {
        let keys = ["tag_time", "time", "value", "x"].map(str::to_owned).to_vec();
        let names: Vec<String> =
            MetricSource::new("m".to_owned(), keys).columns().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["time", "tag_time", "tag_tag_time", "tag_value", "x", "value"]);
    }

    #[test]
    fn tags_become_a_json_object() {
        let tags = [("b", "x\"y"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(json_tags(&SeriesKey::new("m", tags)), r#"{"a":"1","b":"x\"y"}"#);
    }
}
