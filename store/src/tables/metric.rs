//! Metrics as they were pushed: one table each, and all of them together as `samples`.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewBuilder};
use arrow::datatypes::SchemaRef;
use tidegate_model::SeriesKey;

use super::choice::LabelFilter;
use super::filter::TIME;
use super::label_cache::{TableKey, Versions};
use super::labels::LabelTable;
use super::rank::Members;
use super::schema_of;
use super::source::{Part, Read, Source};
use super::{Column, Kind};
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
        let value = Column::new(VALUE, Kind::Double, "what was measured, in the pusher's unit");
        std::iter::once(time).chain(tag_columns(&self.keys, &[VALUE])).chain([value]).collect()
    }

    /// The tags of all series, each of which is a label.
    pub(crate) fn labels(&self, store: &Store) -> Arc<LabelTable> {
        // With the keys, since a plan may be older than the newest of them.
        let key = TableKey::Metric(self.metric.clone(), self.keys.clone());
        labels_of(store, &self.metric, key, None, |series| {
            let column = |key: &String| {
                let mut values = StringViewBuilder::with_capacity(series.len());
                for (_, tags) in series {
                    values.append_option(tags.tag(key));
                }
                Arc::new(values.finish()) as ArrayRef
            };
            self.keys.iter().map(column).collect()
        })
    }
}

/// The columns of tags with these keys in a table that has the time and `others` as well.
pub(crate) fn tag_columns(keys: &[String], others: &[&str]) -> Vec<Column> {
    let tag =
        |key: &String| Column::new(&tag_column(key, keys, others), Kind::Text, "a tag; null where a series has none");
    keys.iter().map(tag).collect()
}

/// The column of a tag: its key, with `tag_` before it where the key is the name of another column.
fn tag_column(key: &str, keys: &[String], others: &[&str]) -> String {
    let taken = |name: &str| name == TIME || others.contains(&name);
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

    fn parts(&self, store: &Store, _: &LabelFilter) -> Vec<Part> {
        vec![Part { labels: self.labels(store), read: Read::Samples }]
    }
}

/// `samples(time, metric, tags, value)`: the union of all metrics.
#[derive(Debug)]
pub(crate) struct SamplesSource;

/// Position of `tags` among the labels of `samples`.
const TAGS: usize = 1;

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

    fn parts(&self, store: &Store, filter: &LabelFilter) -> Vec<Part> {
        let part = |metric: String| {
            let labels = labels_of(store, &metric, TableKey::Samples(metric.clone()), Some(TAGS), |series| {
                let mut names = StringViewBuilder::with_capacity(series.len());
                let mut tags = StringViewBuilder::with_capacity(series.len());
                for (_, key) in series {
                    names.append_value(&metric);
                    tags.append_value(json_tags(key));
                }
                vec![Arc::new(names.finish()), Arc::new(tags.finish())]
            });
            Part { labels, read: Read::Samples }
        };
        let metrics = store.metrics().into_iter().map(|metric| metric.name);
        metrics.filter(|metric| filter.allows(0, metric)).map(part).collect()
    }
}

/// A table with one label for each series of `metric`, whose columns `columns` makes; that at `tags` holds all tags.
fn labels_of(
    store: &Store,
    metric: &str,
    key: TableKey,
    tags: Option<usize>,
    columns: impl FnOnce(&[(u32, Arc<SeriesKey>)]) -> Vec<ArrayRef>,
) -> Arc<LabelTable> {
    let version = store.index.read().version(metric);
    store.labels.get(key, Versions::new(vec![version]), |_| {
        let series = store.series_of(metric, i64::MIN);
        let labels: Vec<u32> = (0u32..).take(series.len()).collect();
        let members = Members::new(metric, series.iter().map(|(id, _)| *id).collect(), &labels);
        let table = LabelTable::new(columns(&series), series.len(), vec![members]);
        match tags {
            Some(column) => table.with_tags(column, series.into_iter().map(|(_, key)| key).collect()),
            None => table,
        }
    })
}

fn json_tags(key: &SeriesKey) -> String {
    let tags = key.tags().map(|(key, value)| (key.to_owned(), serde_json::Value::from(value)));
    serde_json::Value::Object(tags.collect()).to_string()
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
