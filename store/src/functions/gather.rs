//! Gathers the rows of `recent(window)` from the store.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use tidegate_model::{Resource, metrics};

use super::recent::recent_columns;
use super::statistics::{Statistics, Window, increase};
use crate::query::guard::Deadline;
use crate::store::Store;
use crate::tables::{Block, Slices, Source, Subject, SubjectSource, UsageSource, executed, schema_of, subjects};

/// How far before the window the newest limit is looked for.
const LIMIT_LOOKBACK_MS: i64 = 10 * 60 * 1000;
/// Bytes that a measurement takes while its window is gathered.
const POINT_BYTES: usize = 16;

/// What is known of one container and resource.
struct Gathered {
    subject: Subject,
    app: Option<String>,
    app_time: i64,
    usage: Window,
    limit: Option<(i64, f64)>,
    throttled: Mean,
    pressure: Mean,
    oom_kills: Vec<(i64, f64)>,
    unreclaimable: Mean,
}

impl Gathered {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            app: None,
            app_time: i64::MIN,
            usage: Window::default(),
            limit: None,
            throttled: Mean::default(),
            pressure: Mean::default(),
            oom_kills: Vec::new(),
            unreclaimable: Mean::default(),
        }
    }

    fn see_limit(&mut self, time: i64, value: f64) {
        if self.limit.is_none_or(|(newest, _)| newest <= time) {
            self.limit = Some((time, value));
        }
    }
}

/// All of them, found by name once a series and by number once a row.
#[derive(Default)]
struct Table {
    rows: Vec<Gathered>,
    numbers: HashMap<Subject, usize>,
}

impl Table {
    /// The row of `subject`, made when there is none.
    fn row(&mut self, subject: &Subject) -> usize {
        if let Some(number) = self.numbers.get(subject) {
            return *number;
        }
        let number = self.rows.len();
        self.rows.push(Gathered::new(subject.clone()));
        self.numbers.insert(subject.clone(), number);
        number
    }
}

/// Mean and newest of a few values.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: u32,
    newest: Option<(i64, f64)>,
}

impl Mean {
    fn push(&mut self, time: i64, value: f64) {
        self.sum += value;
        self.count += 1;
        if self.newest.is_none_or(|(newest, _)| newest <= time) {
            self.newest = Some((time, value));
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }

    fn last(&self) -> Option<f64> {
        self.newest.map(|(_, value)| value)
    }
}

/// One gathering, which answers [`Gathering::rows`].
pub(super) struct Gathering<'a> {
    pub(super) store: &'a Store,
    pub(super) deadline: Option<Arc<Deadline>>,
    pub(super) memory: MemoryReservation,
    pub(super) now: i64,
    /// The window is open here: a measurement at this very instant is not in it.
    pub(super) start: i64,
}

impl Gathering<'_> {
    /// All rows with all columns, sorted by host, container and resource.
    pub(super) fn rows(&self) -> Result<RecordBatch> {
        let window = (self.start + 1, self.now);
        let mut table = Table::default();
        let usage = UsageSource { maps: self.store.config().usage_maps.clone() };
        self.each(
            &usage,
            window,
            &mut table,
            |table, who| Some(table.row(who)),
            |row, app, time, value| {
                row.usage.push(time, value);
                if time >= row.app_time && app.is_some() {
                    (row.app, row.app_time) = (app.clone(), time);
                }
            },
        )?;
        self.collected(&mut table, metrics::THROTTLED, |row, time, value| row.throttled.push(time, value))?;
        self.collected(&mut table, metrics::PRESSURE_SOME, |row, time, value| row.pressure.push(time, value))?;
        self.collected(&mut table, metrics::OOM_KILLS, |row, time, value| row.oom_kills.push((time, value)))?;
        self.collected(&mut table, metrics::UNRECLAIMABLE, |row, time, value| row.unreclaimable.push(time, value))?;
        // Limits in the window of all containers, since they share a host, and older ones of those that have usage and no
        // limit in the window.
        let limits = SubjectSource::LIMITS;
        self.each(
            &limits,
            window,
            &mut table,
            |table, who| Some(table.row(who)),
            |row, _, time, value| {
                row.see_limit(time, value);
            },
        )?;
        let unlimited = |table: &mut Table, who: &Subject| {
            let number = *table.numbers.get(who)?;
            let row = &table.rows[number];
            (row.limit.is_none() && !row.usage.is_empty()).then_some(number)
        };
        let before = (self.start.saturating_sub(LIMIT_LOOKBACK_MS), self.start);
        self.each(&limits, before, &mut table, unlimited, |row, _, time, value| row.see_limit(time, value))?;
        table.rows.sort_by(|a, b| a.subject.cmp(&b.subject));
        self.batch(&table.rows)
    }

    /// Adds what one of the collector's metrics says in the window of those that have a row.
    fn collected(
        &self,
        table: &mut Table,
        metric: &'static str,
        mut push: impl FnMut(&mut Gathered, i64, f64),
    ) -> Result<()> {
        let known = |table: &mut Table, who: &Subject| table.numbers.get(who).copied();
        let source = SubjectSource { table: metric, metric };
        self.each(&source, (self.start + 1, self.now), table, known, |row, _, time, value| push(row, time, value))
    }

    /// Reads a source in a range. `number` says which row a subject's values go to, if they are wanted at all; `push` adds
    /// a value, with the app that it came with.
    fn each(
        &self,
        source: &dyn Source,
        range: (i64, i64),
        table: &mut Table,
        number: impl Fn(&mut Table, &Subject) -> Option<usize>,
        mut push: impl FnMut(&mut Gathered, &Option<String>, i64, f64),
    ) -> Result<()> {
        let stored = self.store.stored_times();
        for part in source.parts(self.store, range.0) {
            let subjects = subjects(&part.labels);
            let numbers: Vec<Option<usize>> = subjects.iter().map(|(who, _)| number(table, who)).collect();
            if numbers.iter().all(Option::is_none) {
                continue;
            }
            let mut slices = Slices::new(range.0, range.1, stored);
            while let Some((from, to)) = slices.next() {
                if let Some(deadline) = &self.deadline {
                    deadline.check()?;
                }
                let blocks = (part.read)(self.store, from, to).map_err(executed)?;
                let count: usize = blocks.iter().map(|block| block.time.len()).sum();
                // What was read and what is kept of it.
                self.memory.try_grow(2 * count * POINT_BYTES)?;
                for block in &blocks {
                    each_row(block, |label, time, value| {
                        if let Some(number) = numbers[label] {
                            push(&mut table.rows[number], &subjects[label].1, time, value);
                        }
                    });
                }
                self.memory.shrink(count * POINT_BYTES);
                slices.had(count);
            }
        }
        Ok(())
    }

    fn batch(&self, gathered: &[Gathered]) -> Result<RecordBatch> {
        let bounds = Bounds::new(self.store);
        let free = HostFree::new(self.store, gathered);
        let boundary = self.store.config().boundary;
        let rows: Vec<Row<'_>> = gathered
            .iter()
            .filter_map(|gathered| Some(Row { gathered, statistics: gathered.usage.statistics()? }))
            .collect();
        let seconds = |since: i64| (self.now - since) as f64 / 1000.0;
        let text = |value: &dyn Fn(&Row<'_>) -> Option<String>| -> ArrayRef {
            Arc::new(rows.iter().map(value).collect::<StringViewArray>())
        };
        let double = |value: &dyn Fn(&Row<'_>) -> Option<f64>| -> ArrayRef {
            Arc::new(rows.iter().map(value).collect::<Float64Array>())
        };
        let limit = |row: &Row<'_>| row.gathered.limit.map(|(_, limit)| limit);
        let samples: Int64Array = rows.iter().map(|row| Some(row.statistics.samples)).collect();
        let columns: Vec<ArrayRef> = vec![
            text(&|row| Some(row.gathered.subject.host.clone())),
            text(&|row| Some(row.gathered.subject.container.clone())),
            text(&|row| row.gathered.app.clone()),
            text(&|row| Some(row.gathered.subject.resource.clone())),
            Arc::new(samples),
            double(&|row| Some(seconds(row.statistics.newest.0))),
            double(&|row| Some(row.statistics.newest.1)),
            double(&|row| Some(row.statistics.avg)),
            double(&|row| Some(row.statistics.max)),
            double(&|row| Some(row.statistics.p50)),
            double(&|row| Some(row.statistics.p95)),
            double(&|row| Some(row.statistics.p99)),
            double(&|row| row.statistics.stddev),
            double(&|row| row.statistics.slope),
            double(&limit),
            double(&|row| row.gathered.limit.map(|(time, _)| seconds(time))),
            double(&|row| bounds.of(&row.gathered.subject).map(|bounds| bounds.min)),
            double(&|row| bounds.of(&row.gathered.subject).map(|bounds| bounds.max)),
            double(&|row| limit(row).map(|limit| limit - boundary * limit)),
            double(&|row| limit(row).map(|limit| limit - 2.0 * boundary * limit)),
            double(&|row| row.gathered.throttled.mean()),
            double(&|row| row.gathered.throttled.last()),
            double(&|row| row.gathered.pressure.mean()),
            double(&|row| oom_kills(&row.gathered.oom_kills)),
            double(&|row| row.gathered.unreclaimable.last()),
            double(&|row| free.of(&row.gathered.subject)),
        ];
        Ok(RecordBatch::try_new(schema_of(&recent_columns()), columns)?)
    }
}

struct Row<'a> {
    gathered: &'a Gathered,
    statistics: Statistics,
}

fn each_row(block: &Block, mut row: impl FnMut(usize, i64, f64)) {
    let Some(values) = block.values.first().and_then(|column| column.as_any().downcast_ref::<Float64Array>()) else {
        return;
    };
    for ((label, time), value) in block.label.values().iter().zip(block.time.values()).zip(values.values()) {
        row(*label as usize, *time, *value);
    }
}

/// Kills between the first and the last reading in the window; `None` where the container is not watched.
fn oom_kills(readings: &[(i64, f64)]) -> Option<f64> {
    if readings.is_empty() {
        return None;
    }
    let mut readings = readings.to_vec();
    readings.sort_by_key(|(time, _)| *time);
    Some(increase(&readings))
}

/// What operators allow, by subject.
struct Bounds(HashMap<Subject, tidegate_model::Bounds>);

impl Bounds {
    fn new(store: &Store) -> Self {
        let mut bounds = HashMap::new();
        for container in store.containers() {
            for (resource, allowed) in container.bounds {
                let (host, container) = (container.key.host.clone(), container.key.name.clone());
                bounds.insert(Subject { host, container, resource: resource.as_str().to_owned() }, allowed);
            }
        }
        Self(bounds)
    }

    fn of(&self, subject: &Subject) -> Option<tidegate_model::Bounds> {
        self.0.get(subject).copied()
    }
}

/// What hosts have left when every container uses up its limit, by host and resource.
struct HostFree(HashMap<(String, String), f64>);

impl HostFree {
    /// `rows` in a fixed order, so that the sums are the same for the same limits.
    fn new(store: &Store, rows: &[Gathered]) -> Self {
        let mut free = HashMap::new();
        for host in store.hosts() {
            for resource in Resource::ALL {
                let capacity = match resource {
                    Resource::Cpu => host.cpu.0,
                    Resource::Memory => host.memory.0 as f64,
                };
                free.insert((host.name.clone(), resource.as_str().to_owned()), capacity);
            }
        }
        for row in rows {
            let key = (row.subject.host.clone(), row.subject.resource.clone());
            if let (Some((_, limit)), Some(left)) = (row.limit, free.get_mut(&key)) {
                *left -= limit;
            }
        }
        Self(free)
    }

    fn of(&self, subject: &Subject) -> Option<f64> {
        self.0.get(&(subject.host.clone(), subject.resource.clone())).map(|left| left.max(0.0))
    }
}
