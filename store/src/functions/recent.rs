//! `recent(window)`: one row per host, container and resource with everything that a rule usually asks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidegate_model::{Resource, TimeMs, metrics};

use super::statistics::{Statistics, Window, increase};
use crate::guard::Deadline;
use crate::store::Store;
use crate::tables::{
    Block, Column, Kind, Slices, Source, Subject, SubjectSource, UsageSource, executed, schema_of, subjects,
};

/// How far before the window the newest limit is looked for.
const LIMIT_LOOKBACK_MS: i64 = 10 * 60 * 1000;
/// Bytes that a measurement takes while its window is gathered.
const POINT_BYTES: usize = 16;

/// The columns of `recent(window)`.
pub(crate) fn recent_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    vec![
        text("host", "the host; empty where it is not known"),
        text("container", "the container's name"),
        text("app", "the container's app, if any"),
        text("resource", "cpu or memory"),
        Column::new("samples", Kind::Integer, "measurements in the window"),
        double("age", "seconds from the newest measurement to now()"),
        double("usage", "the newest measurement, in cores or bytes"),
        double("usage_avg", "mean"),
        double("usage_max", "peak"),
        double("usage_p50", "median"),
        double("usage_p95", "95th percentile"),
        double("usage_p99", "99th percentile"),
        double("usage_stddev", "standard deviation of the sample; null for a single measurement"),
        double("usage_slope", "least-squares slope per second; null for a single measurement"),
        double("allocated", "the newest limit, in cores or bytes; also one from up to 10 minutes before the window"),
        double("allocated_age", "seconds from the newest limit to now()"),
        double("min", "the lowest limit that the operator allows; null if none"),
        double("max", "the highest limit that the operator allows; null if none"),
        double("upper", "limit - margin; a usage above it asks for more"),
        double("lower", "limit - 2 margin; a usage below it can do with less"),
        double("throttled", "mean share of CFS periods throttled, 0 to 1"),
        double("throttled_last", "newest share of CFS periods throttled, 0 to 1"),
        double("pressure", "mean share of time in which some task stalled, 0 to 1"),
        double("oom_kills", "OOM kills in the window"),
        double("unreclaimable", "newest memory that cannot be reclaimed, in bytes; memory only"),
        double("host_free", "the host's capacity minus the newest limits of its containers, at least 0"),
    ]
}

/// The table function for queries as of one instant.
pub(crate) struct Recent {
    store: Arc<Store>,
    now: TimeMs,
}

impl Recent {
    pub(crate) fn new(store: Arc<Store>, now: TimeMs) -> Self {
        Self { store, now }
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("now", &self.now).finish_non_exhaustive()
    }
}

impl TableFunctionImpl for Recent {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(window, _)] = args.exprs() else {
            return plan_err!("recent() takes one constant window: recent(INTERVAL '60 seconds') or recent(60)");
        };
        let window_ms = window_ms(window)?;
        let schema = schema_of(&recent_columns());
        Ok(Arc::new(RecentTable { store: Arc::clone(&self.store), now: self.now, window_ms, schema }))
    }
}

fn window_ms(window: &ScalarValue) -> Result<i64> {
    const DAY_MS: i64 = 86_400_000;
    let seconds_to_ms = |seconds: f64| (seconds * 1000.0).round() as i64;
    let ms = match window {
        ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 => {
            i64::from(span.days) * DAY_MS + span.nanoseconds / 1_000_000
        }
        ScalarValue::IntervalDayTime(Some(span)) => i64::from(span.days) * DAY_MS + i64::from(span.milliseconds),
        ScalarValue::IntervalMonthDayNano(Some(_)) | ScalarValue::IntervalYearMonth(Some(_)) => {
            return plan_err!("a month has no fixed length: give the window of recent() in days or less");
        }
        ScalarValue::Int64(Some(seconds)) => seconds.saturating_mul(1000),
        ScalarValue::UInt64(Some(seconds)) => i64::try_from(*seconds).unwrap_or(i64::MAX).saturating_mul(1000),
        ScalarValue::Float64(Some(seconds)) => seconds_to_ms(*seconds),
        _ => return plan_err!("the window of recent() is an INTERVAL or a number of seconds, not {window}"),
    };
    if ms <= 0 {
        return plan_err!("the window of recent() must be longer than nothing");
    }
    Ok(ms)
}

struct RecentTable {
    store: Arc<Store>,
    now: TimeMs,
    window_ms: i64,
    schema: SchemaRef,
}

impl fmt::Debug for RecentTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentTable")
            .field("now", &self.now)
            .field("window_ms", &self.window_ms)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for RecentTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        let store = Arc::clone(&self.store);
        Ok(Arc::new(RecentExec { store, now: self.now.0, window_ms: self.window_ms, projection, schema, properties }))
    }
}

/// Gathers the rows when it is executed, not when it is planned.
struct RecentExec {
    store: Arc<Store>,
    now: i64,
    window_ms: i64,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for RecentExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentExec").field("now", &self.now).field("window_ms", &self.window_ms).finish_non_exhaustive()
    }
}

impl DisplayAs for RecentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecentExec: window={} ms", self.window_ms)
    }
}

impl ExecutionPlan for RecentExec {
    fn name(&self) -> &str {
        "RecentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let store = Arc::clone(&self.store);
        let (now, window_ms, projection) = (self.now, self.window_ms, self.projection.clone());
        let rows = futures::stream::once(async move {
            let gathering = Gathering {
                store: &store,
                deadline: context.session_config().get_extension::<Deadline>(),
                memory: MemoryConsumer::new("recent").register(context.memory_pool()),
                now,
                start: now.saturating_sub(window_ms),
            };
            Ok(gathering.rows()?.project(&projection)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

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

struct Gathering<'a> {
    store: &'a Store,
    deadline: Option<Arc<Deadline>>,
    memory: MemoryReservation,
    now: i64,
    /// The window is open here: a measurement at this very instant is not in it.
    start: i64,
}

impl Gathering<'_> {
    fn rows(&self) -> Result<RecordBatch> {
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
        for part in source.parts(self.store) {
            let subjects = subjects(&part.labels);
            let numbers: Vec<Option<usize>> = subjects.iter().map(|(who, _)| number(table, who)).collect();
            if numbers.iter().all(Option::is_none) {
                continue;
            }
            let mut slices = Slices::new(range.0, range.1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_intervals_or_seconds() {
        let interval = |months, days, nanos| {
            let span = arrow::datatypes::IntervalMonthDayNano::new(months, days, nanos);
            window_ms(&ScalarValue::IntervalMonthDayNano(Some(span)))
        };
        assert_eq!(interval(0, 1, 2_000_000).unwrap(), 86_400_002);
        assert_eq!(window_ms(&ScalarValue::Int64(Some(60))).unwrap(), 60_000);
        assert_eq!(window_ms(&ScalarValue::Float64(Some(0.5))).unwrap(), 500);
        assert!(interval(1, 0, 0).unwrap_err().to_string().contains("a month has no fixed length"));
        assert!(window_ms(&ScalarValue::Int64(Some(0))).is_err());
        assert!(window_ms(&ScalarValue::Utf8(Some("x".to_owned()))).is_err());
    }
}
