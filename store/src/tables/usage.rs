//! What containers use, may use and wait for: views over the collector's metrics and over mapped pushed ones.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, UInt32Array};
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tidegate_model::{SeriesKey, metrics};

use super::choice::LabelFilter;
use super::filter::{TIME, TimeRange};
use super::label_cache::{TableKey, Versions};
use super::labels::{LabelTable, Tuple};
use super::metric::VALUE;
use super::source::{Block, Part, Read, ReadRows, Selected, Source};
use super::{Column, Kind, schema_of};
use crate::config::UsageMap;
use crate::error::StoreError;
use crate::store::Store;

/// The columns of `usage`.
pub(crate) fn usage_columns() -> Vec<Column> {
    vec![
        Column::new(TIME, Kind::Time, "end of the interval that was measured"),
        Column::new("host", Kind::Text, "the host; empty where it is not known"),
        Column::new("container", Kind::Text, "the container's name"),
        Column::new("app", Kind::Text, "the container's app, if any"),
        Column::new("resource", Kind::Text, "cpu, memory, disk_read, disk_write, net_receive or net_send"),
        Column::new(VALUE, Kind::Double, "cores (mean over the interval) or bytes"),
    ]
}

/// The columns of `limits`.
pub(crate) fn limits_columns() -> Vec<Column> {
    vec![
        Column::new(TIME, Kind::Time, "when it was read"),
        Column::new("host", Kind::Text, "the host"),
        Column::new("container", Kind::Text, "the container's name"),
        Column::new("resource", Kind::Text, "cpu, memory, disk_read, disk_write, net_receive or net_send"),
        Column::new(VALUE, Kind::Double, "the limit in force, in cores, bytes or bytes a second"),
    ]
}

/// The columns of `pressure`.
pub(crate) fn pressure_columns() -> Vec<Column> {
    let share = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    vec![
        Column::new(TIME, Kind::Time, "end of the interval that was measured"),
        Column::new("host", Kind::Text, "the host"),
        Column::new("container", Kind::Text, "the container's name"),
        Column::new("resource", Kind::Text, "cpu or memory"),
        share("some_share", "share of the interval in which some task stalled, 0 to 1"),
        share("full_share", "share of the interval in which all tasks stalled, 0 to 1"),
        share("throttled", "share of the CFS periods in which the container was throttled, 0 to 1"),
    ]
}

/// Who a sample is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subject {
    pub(crate) host: String,
    pub(crate) container: String,
    pub(crate) resource: String,
}

/// Per label of a part of `usage` (with an app) or of a [`SubjectSource`] (without), who it is.
pub(crate) fn subjects(labels: &[ArrayRef]) -> Vec<(Subject, Option<String>)> {
    let text = |column: usize, row: usize| {
        let column = labels[column].as_string_view();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let resource = labels.len() - 1;
    let subject = |row: usize| {
        let subject = Subject {
            host: text(0, row).unwrap_or_default(),
            container: text(1, row).unwrap_or_default(),
            resource: text(resource, row).unwrap_or_default(),
        };
        (subject, if resource == 3 { text(2, row) } else { None })
    };
    (0..labels[0].len()).map(subject).collect()
}

/// What is known of containers by their names, to fill in what a sample does not say.
pub(crate) struct Known {
    apps: HashMap<(String, String), String>,
    /// Hosts by container name; `None` where two hosts have one of that name.
    hosts: HashMap<String, Option<String>>,
}

impl Known {
    pub(crate) fn new(store: &Store) -> Self {
        let mut apps = HashMap::new();
        let mut hosts: HashMap<String, Option<String>> = HashMap::new();
        for container in store.containers() {
            let (host, name) = (container.key.host, container.key.name);
            let only = hosts.entry(name.clone()).or_insert_with(|| Some(host.clone()));
            if only.as_ref() != Some(&host) {
                *only = None;
            }
            if let Some(app) = container.app {
                apps.insert((host, name), app);
            }
        }
        Self { apps, hosts }
    }

    fn app(&self, host: &str, container: &str) -> Option<String> {
        self.apps.get(&(host.to_owned(), container.to_owned())).cloned()
    }

    fn host(&self, container: &str) -> String {
        self.hosts.get(container).cloned().flatten().unwrap_or_default()
    }

    /// Subject and app of one of the collector's series.
    pub(crate) fn collected(&self, series: &SeriesKey) -> (Subject, Option<String>) {
        let tag = |key: &str| series.tag(key).unwrap_or_default().to_owned();
        let subject = Subject { host: tag("host"), container: tag("container"), resource: tag("resource") };
        let app = series.tag("app").filter(|app| !app.is_empty()).map(str::to_owned);
        let app = app.or_else(|| self.app(&subject.host, &subject.container));
        (subject, app)
    }

    /// Subject and app of a series that `map` makes usage of; `None` when it does not say which container it is about.
    pub(crate) fn mapped(&self, map: &UsageMap, series: &SeriesKey) -> Option<(Subject, Option<String>)> {
        let container = series.tag(&map.container_tag)?.to_owned();
        let host_tag = map.host_tag.as_ref().and_then(|key| series.tag(key));
        let host = host_tag.map_or_else(|| self.host(&container), str::to_owned);
        let app_tag = map.app_tag.as_ref().and_then(|key| series.tag(key)).filter(|app| !app.is_empty());
        let app = app_tag.map(str::to_owned).or_else(|| self.app(&host, &container));
        Some((Subject { host, container, resource: map.resource.as_str().to_owned() }, app))
    }
}

/// What was known at the last version of the facts that somebody asked about.
#[derive(Default)]
pub(crate) struct KnownNames(Mutex<Option<(u64, Arc<Known>)>>);

impl KnownNames {
    /// What is known; `version` is that of the facts, looked up before.
    pub(crate) fn of(&self, store: &Store, version: u64) -> Arc<Known> {
        if let Some((_, known)) = self.0.lock().as_ref().filter(|(of, _)| *of == version) {
            return Arc::clone(known);
        }
        let known = Arc::new(Known::new(store));
        *self.0.lock() = Some((version, Arc::clone(&known)));
        known
    }
}

/// `usage`.
#[derive(Debug)]
pub(crate) struct UsageSource {
    pub(crate) maps: Vec<UsageMap>,
}

impl Source for UsageSource {
    fn name(&self) -> String {
        "usage".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&usage_columns())
    }

    fn label_count(&self) -> usize {
        4
    }

    fn parts(&self, store: &Store, _: &LabelFilter) -> Vec<Part> {
        let facts = store.facts.version();
        let known = LazyCell::new(|| store.known_names.of(store, facts));
        let labels = labelled(store, TableKey::Usage, 4, &[metrics::USAGE], facts, |series| {
            Some(tuple(known.collected(series)))
        });
        let mut parts = vec![Part { labels, read: Read::Samples }];
        for (place, map) in self.maps.iter().enumerate() {
            let names: Vec<&str> = map.metrics.iter().map(String::as_str).collect();
            let labels = labelled(store, TableKey::Mapped(place), 4, &names, facts, |series| {
                known.mapped(map, series).map(tuple)
            });
            if labels.count > 0 {
                parts.push(Part { labels, read: Read::Sums(map.scale) });
            }
        }
        parts
    }
}

fn tuple((subject, app): (Subject, Option<String>)) -> Tuple {
    vec![Some(subject.host), Some(subject.container), app, Some(subject.resource)]
}

/// A table of `width` columns with the labels that `label` gives the series of some metrics; `facts` is the version of what
/// else it looks at. Processes come and go all the time, so series that came since the last time are added to what there is.
fn labelled(
    store: &Store,
    key: TableKey,
    width: usize,
    names: &[&str],
    facts: u64,
    label: impl Fn(&SeriesKey) -> Option<Tuple>,
) -> Arc<LabelTable> {
    let versions = Versions::of_series(&store.index.read(), names, &[facts]);
    store.labels.get(key, versions, |former| {
        let table = former.unwrap_or_else(|| Arc::new(LabelTable::empty(width, names)));
        // All metrics at once, so that whatever comes later has higher ids than whatever is here.
        let more = store.index.read().series_from(names, table.next());
        table.with_more(more.into_iter().map(|(id, place, series)| (id, place, label(&series))))
    })
}

/// The sums over all series of a label at the same time, sorted by label and time.
pub(crate) fn sums(
    store: &Store,
    selected: &Selected,
    scale: f64,
    from: i64,
    to: i64,
) -> Result<Vec<Block>, StoreError> {
    let sums = store.sums(selected, scale, TimeRange { from, to }, &mut |_| Ok::<_, StoreError>(()))?;
    let count = sums.iter().map(Vec::len).sum();
    let (mut label, mut time, mut value) =
        (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
    for (number, points) in (0u32..).zip(sums) {
        label.extend(std::iter::repeat_n(number, points.len()));
        time.extend(points.iter().map(|(time, _)| *time));
        value.extend(points.iter().map(|(_, value)| *value));
    }
    Ok(blocks(label, time, vec![Arc::new(Float64Array::from(value))]))
}

/// From a sum to what it is in the unit that `scale` leads to. Hundredths are not exact, hundreds are: 70 percent are 0.7
/// cores and not 0.7000000000000001.
pub(crate) fn unit(scale: f64) -> impl Fn(f64) -> f64 {
    let divisor = scale.recip();
    let is_whole = divisor.fract() == 0.0;
    move |sum| if is_whole { sum / divisor } else { sum * scale }
}

/// Each row of a block of samples with its label, time and value.
pub(crate) fn each_row(block: &Block, mut row: impl FnMut(u32, i64, f64)) {
    let Some(values) = block.values.first().and_then(|column| column.as_any().downcast_ref::<Float64Array>()) else {
        return;
    };
    for ((label, time), value) in block.label.values().iter().zip(block.time.values()).zip(values.values()) {
        row(*label, *time, *value);
    }
}

fn blocks(label: Vec<u32>, time: Vec<i64>, values: Vec<ArrayRef>) -> Vec<Block> {
    if label.is_empty() {
        return Vec::new();
    }
    vec![Block { label: UInt32Array::from(label), time: Int64Array::from(time), values }]
}

/// Labels of the series of some of the collector's metrics that are about the same subject.
fn subject_labels(store: &Store, table: &'static str, names: &[&str]) -> Arc<LabelTable> {
    labelled(store, TableKey::Subjects(table), 3, names, 0, |key| {
        let tag = |name: &str| Some(key.tag(name).unwrap_or_default().to_owned());
        Some(vec![tag("host"), tag("container"), tag("resource")])
    })
}

/// One of the collector's metrics by subject; `limits` is one.
#[derive(Debug)]
pub(crate) struct SubjectSource {
    pub(crate) table: &'static str,
    pub(crate) metric: &'static str,
}

impl SubjectSource {
    pub(crate) const LIMITS: SubjectSource = SubjectSource { table: "limits", metric: metrics::LIMIT };

    /// Who the series are about.
    pub(crate) fn labels(&self, store: &Store) -> Arc<LabelTable> {
        subject_labels(store, self.table, &[self.metric])
    }

    /// The only part.
    pub(crate) fn part(&self, store: &Store) -> Part {
        Part { labels: self.labels(store), read: Read::Samples }
    }
}

impl Source for SubjectSource {
    fn name(&self) -> String {
        self.table.to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&limits_columns())
    }

    fn label_count(&self) -> usize {
        3
    }

    fn parts(&self, store: &Store, _: &LabelFilter) -> Vec<Part> {
        vec![self.part(store)]
    }
}

/// `pressure`: three metrics side by side; what was not measured at a time is null.
#[derive(Debug)]
pub(crate) struct PressureSource;

const PRESSURES: [&str; 3] = [metrics::PRESSURE_SOME, metrics::PRESSURE_FULL, metrics::THROTTLED];

impl PressureSource {
    /// Which members of its part are those of two of its columns.
    pub(crate) const SOME: usize = 0;
    pub(crate) const THROTTLED: usize = 2;
}

impl Source for PressureSource {
    fn name(&self) -> String {
        "pressure".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&pressure_columns())
    }

    fn label_count(&self) -> usize {
        3
    }

    fn has_one_value(&self) -> bool {
        false
    }

    fn parts(&self, store: &Store, _: &LabelFilter) -> Vec<Part> {
        let read: ReadRows = Box::new(|store, selected, from, to| {
            let mut samples = Vec::new();
            for place in 0..PRESSURES.len() {
                for block in selected.samples(store, place, from, to)? {
                    samples.reserve(block.time.len());
                    each_row(&block, |label, time, value| samples.push((label, time, place, value)));
                }
            }
            // Those of each metric are in order, as a rule, which a stable sort makes use of. Of several series of a label
            // the last one counts.
            samples.sort_by_key(|(label, time, ..)| (*label, *time));
            let (mut label, mut time) = (Vec::new(), Vec::new());
            let mut values: [Vec<Option<f64>>; PRESSURES.len()] = Default::default();
            for row in samples.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                label.push(row[0].0);
                time.push(row[0].1);
                values.iter_mut().for_each(|column| column.push(None));
                for (.., place, value) in row {
                    if let Some(cell) = values[*place].last_mut() {
                        *cell = Some(*value);
                    }
                }
            }
            let column = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
            Ok(blocks(label, time, values.into_iter().map(column).collect()))
        });
        vec![Part { labels: subject_labels(store, "pressure", &PRESSURES), read: Read::Rows(read) }]
    }
}
