//! A trace from the stored history.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;
use tidegate_actuator::simulated::Member;
use tidegate_model::{ContainerKey, Limit, Resource, TimeMs, metrics};
use tidegate_store::{OnLimit, QueryOptions, Store};

use super::trace::{Trace, Traced, Wanted};
use crate::error::{PolicyError, PolicyErrorKind};
use crate::proposal::{LimitKey, numbers, text_at, texts};

/// How much is read at once.
const SLICE: Duration = Duration::from_secs(600);
/// Most rows of a slice.
const SLICE_ROWS: usize = 20_000_000;
const SLICE_TIMEOUT: Duration = Duration::from_secs(120);
/// Use at or above this share of the limit is held by it.
const SATURATED: f64 = 0.97;
/// As is a container that was throttled in a larger share of its periods.
const THROTTLED: f64 = 0.10;

const USAGE: &str = "SELECT host, container, resource, app, time, value FROM usage";
const LIMITS: &str = "SELECT host, container, resource, time, value FROM limits";
const PRESSURE: &str = "SELECT host, container, resource, time, throttled AS value FROM pressure";

/// Values of one slice by limit, in the order of time.
type ByLimit = HashMap<LimitKey, Vec<(i64, f64)>>;

impl Trace {
    /// What the containers of a store used after `from` and up to `to`, with the bounds, apps and hosts of now and the
    /// limits that they had in the beginning. `progress` is told which share is read.
    ///
    /// # Errors
    /// The history cannot be read, or `from` is not before `to`.
    pub async fn of_history(
        store: &Store,
        from: TimeMs,
        to: TimeMs,
        mut progress: impl FnMut(f64),
    ) -> Result<Self, PolicyError> {
        if from >= to {
            let message = "the time span of a backtest ends before it begins";
            return Err(PolicyError::new(PolicyErrorKind::Option, message));
        }
        let mut reader = Reader { store, known: HashMap::new(), trace: Trace::default() };
        let mut start = from;
        while start < to {
            let end = start.plus(SLICE).min(to);
            reader.slice(start, end).await?;
            progress(end.since(from).as_secs_f64() / to.since(from).as_secs_f64());
            start = end;
        }
        let mut trace = reader.trace;
        trace.hosts = store.hosts();
        trace.containers.iter_mut().for_each(Traced::limit_at_peak);
        trace.containers.sort_by(|a, b| (&a.member.host, &a.member.name).cmp(&(&b.member.host, &b.member.name)));
        Ok(trace)
    }
}

struct Reader<'a> {
    store: &'a Store,
    /// Where each container is in the trace.
    known: HashMap<ContainerKey, usize>,
    trace: Trace,
}

impl Reader<'_> {
    async fn slice(&mut self, from: TimeMs, to: TimeMs) -> Result<(), PolicyError> {
        let limits = by_limit(&self.ask(LIMITS, from, to).await?);
        let throttled = by_limit(&self.ask(PRESSURE, from, to).await?);
        let anon = match self.store.tables().iter().any(|table| table.name == metrics::UNRECLAIMABLE) {
            true => {
                let sql =
                    format!("SELECT host, container, resource, time, value FROM metric.\"{}\"", metrics::UNRECLAIMABLE);
                by_limit(&self.ask(&sql, from, to).await?)
            }
            false => ByLimit::new(),
        };
        let usage = self.ask(USAGE, from, to).await?;
        let apps = apps(&usage);
        let mut usage: Vec<_> = by_limit(&usage).into_iter().collect();
        usage.sort_by(|a, b| a.0.cmp(&b.0)); // so that a trace of the same history is the same
        for (key, samples) in usage {
            let limits = limits.get(&key).map_or(&[][..], Vec::as_slice);
            let traced = self.traced(&key.0, apps.get(&key.0));
            let (wanted, first) = match key.1 {
                Resource::Cpu => (&mut traced.cpu, &mut traced.member.cpu),
                Resource::Memory => (&mut traced.memory, &mut traced.member.memory),
            };
            if let (true, Some((_, limit))) = (wanted.is_empty(), limits.first()) {
                *first = Limit::At(*limit);
            }
            for (time, value) in samples {
                let limit = at_or_before(limits, time);
                let throttled = throttled.get(&key).and_then(|shares| at_or_before(shares, time)).unwrap_or(0.0);
                let anon = anon.get(&key).and_then(|values| at_or_before(values, time));
                let saturated = key.1 == Resource::Cpu
                    && (throttled > THROTTLED || limit.is_some_and(|limit| value >= SATURATED * limit));
                if wanted.push(TimeMs(time), value, anon) && saturated {
                    wanted.saturated += 1;
                }
            }
        }
        Ok(())
    }

    /// The rows of a table or view after `from` and up to `to`.
    async fn ask(&self, select: &str, from: TimeMs, to: TimeMs) -> Result<Vec<RecordBatch>, PolicyError> {
        let options = QueryOptions {
            timeout: SLICE_TIMEOUT,
            max_rows: SLICE_ROWS,
            on_limit: OnLimit::Fail,
            ..self.store.default_query_options(to)
        };
        let span = to.since(from).as_millis();
        let sql = format!("{select} WHERE time > now() - INTERVAL '{span} milliseconds' ORDER BY time");
        let answer = self.store.query(&sql, &options).await;
        let failed =
            |message| PolicyError::new(PolicyErrorKind::Query, format!("the history cannot be read: {message}"));
        Ok(answer.map_err(|error| failed(error.message))?.batches)
    }

    fn traced(&mut self, key: &ContainerKey, app: Option<&String>) -> &mut Traced {
        let at = *self.known.entry(key.clone()).or_insert_with(|| {
            let found = self.store.containers().into_iter().find(|container| container.key == *key);
            let member = Member {
                host: key.host.clone(),
                name: key.name.clone(),
                app: found.as_ref().and_then(|found| found.app.clone()).or_else(|| app.cloned()),
                user: found.as_ref().and_then(|found| found.user.clone()),
                labels: found.as_ref().map(|found| found.labels.clone()).unwrap_or_default(),
                bounds: found.map(|found| found.bounds).unwrap_or_default(),
                cpu: Limit::Unlimited,
                memory: Limit::Unlimited,
            };
            self.trace.containers.push(Traced { member, cpu: Wanted::default(), memory: Wanted::default() });
            self.trace.containers.len() - 1
        });
        &mut self.trace.containers[at]
    }
}

/// The newest value that is not later than `time`.
fn at_or_before(values: &[(i64, f64)], time: i64) -> Option<f64> {
    let at = values.partition_point(|(known, _)| *known <= time);
    Some(values[at.checked_sub(1)?].1)
}

fn by_limit(batches: &[RecordBatch]) -> ByLimit {
    let mut found = ByLimit::new();
    each_row(batches, |key, time, value, _| found.entry(key).or_default().push((time, value)));
    found
}

fn apps(batches: &[RecordBatch]) -> HashMap<ContainerKey, String> {
    let mut found = HashMap::new();
    each_row(batches, |(key, _), _, _, app| {
        if let Some(app) = app {
            found.entry(key).or_insert_with(|| app.to_owned());
        }
    });
    found
}

/// Rows without a host, a container, a known resource or a value are left out.
fn each_row(batches: &[RecordBatch], mut each: impl FnMut(LimitKey, i64, f64, Option<&str>)) {
    for batch in batches {
        let (Some(hosts), Some(containers), Some(resources)) =
            (texts(batch, "host"), texts(batch, "container"), texts(batch, "resource"))
        else {
            continue;
        };
        let (Some(times), Some(values), apps) = (times(batch), numbers(batch, "value"), texts(batch, "app")) else {
            continue;
        };
        for row in (0..batch.num_rows()).filter(|row| values.is_valid(*row) && times.is_valid(*row)) {
            let (Some(host), Some(name)) = (text_at(&hosts, row), text_at(&containers, row)) else { continue };
            let Some(Ok(resource)) = text_at(&resources, row).map(str::parse::<Resource>) else { continue };
            let key = ContainerKey { host: host.to_owned(), name: name.to_owned() };
            let app = apps.as_ref().and_then(|apps| text_at(apps, row));
            each((key, resource), times.value(row), values.value(row), app);
        }
    }
}

fn times(batch: &RecordBatch) -> Option<Int64Array> {
    let column = batch.column_by_name("time")?;
    let milliseconds = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None)).ok()?;
    let whole = cast(&milliseconds, &DataType::Int64).ok()?;
    Some(whole.as_any().downcast_ref::<Int64Array>()?.clone())
}
