//! A trace from the stored history.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use tidegate_actuator::simulated::Member;
use tidegate_model::{CgroupVersion, Container, ContainerKey, Limit, Resource, TimeMs, metrics};
use tidegate_store::{OnLimit, QueryOptions, Store};

use super::trace::{Trace, Traced, Wanted};
use crate::error::{PolicyError, PolicyErrorKind};
use crate::proposal::{LimitKey, numbers, text_at, texts, times};

/// How much is read at once, at least.
const SLICE: Duration = Duration::from_secs(600);
/// Spans up to this are played sample by sample, longer ones by the minute.
const FINE_SPAN: Duration = Duration::from_secs(6 * 3600);
const MINUTE: Duration = Duration::from_secs(60);
/// Most samples of a trace; each takes 16 bytes, and 8 more where it is memory.
const MOST_SAMPLES: usize = 20_000_000;
/// Most rows of a slice.
const SLICE_ROWS: usize = 20_000_000;
const SLICE_TIMEOUT: Duration = Duration::from_secs(120);
/// Use at or above this share of the limit is held by it.
const SATURATED: f64 = 0.97;
/// As is a container that was throttled in a larger share of its periods.
const THROTTLED: f64 = 0.10;

/// What is read: a table, its column, and what stands for several CPU or memory values of one step.
type Read = (&'static str, &'static str, &'static str, &'static str);

const USAGE: Read = ("usage", "value", "avg", "max");
const LIMITS: Read = ("limits", "value", "avg", "avg");
const PRESSURE: Read = ("pressure", "throttled", "avg", "avg");
const ANON: Read = ("metric.\"tidegate.unreclaimable\"", "value", "max", "max");

/// Values of one slice by limit, in the order of time.
type ByLimit = HashMap<LimitKey, Vec<(i64, f64)>>;

impl Trace {
    /// What the containers of a store used after `from` and up to `to`, with the bounds, apps and hosts of now and the
    /// limits that they had in the beginning. Samples that are closer than `step` are put together: CPU as its mean, memory
    /// as its peak; without a step, in spans of more than six hours, those of a minute. `progress` is told which share is
    /// read.
    ///
    /// # Errors
    /// The history cannot be read or is too long, or `from` is not before `to`.
    pub async fn of_history(
        store: &Store,
        from: TimeMs,
        to: TimeMs,
        step: Option<Duration>,
        mut progress: impl FnMut(f64),
    ) -> Result<Self, PolicyError> {
        if from >= to {
            let message = "the time span of a backtest ends before it begins";
            return Err(PolicyError::new(PolicyErrorKind::Option, message));
        }
        let coarse =
            step.or((to.since(from) > FINE_SPAN).then_some(MINUTE)).filter(|step| *step > Duration::from_secs(1));
        let containers = store.containers().into_iter().map(|container| (container.key.clone(), container)).collect();
        let mut reader = Reader { store, containers, coarse, known: HashMap::new(), trace: Trace::default() };
        // Whole steps, so that none is cut in two.
        let slice = coarse.map_or(SLICE, |step| step * (SLICE.as_secs().div_ceil(step.as_secs()) as u32));
        let from = coarse.map_or(from, |step| from.aligned(step));
        let mut start = from;
        while start < to {
            let end = start.plus(slice).min(to);
            reader.slice(start, end).await?;
            let samples: usize = Resource::ALL.iter().map(|resource| reader.trace.samples(*resource).0).sum();
            if samples > MOST_SAMPLES {
                let message = format!("there are more than the {MOST_SAMPLES} samples of one backtest");
                let error = PolicyError::new(PolicyErrorKind::Limit, message);
                return Err(error.help("take a shorter span or a longer step"));
            }
            progress(end.since(from).as_secs_f64() / to.since(from).as_secs_f64());
            start = end;
        }
        let mut trace = reader.trace;
        trace.hosts = store.hosts();
        if let Some(step) = coarse {
            let step = humantime::format_duration(step);
            trace
                .problems
                .push(format!("the samples of each {step} are put together: CPU as its mean, memory as its peak"));
        }
        trace.containers.iter_mut().for_each(Traced::limit_at_peak);
        trace.containers.sort_by(|a, b| (&a.member.host, &a.member.name).cmp(&(&b.member.host, &b.member.name)));
        Ok(trace)
    }
}

struct Reader<'a> {
    store: &'a Store,
    containers: HashMap<ContainerKey, Container>,
    /// The step whose samples are put together, if any are.
    coarse: Option<Duration>,
    /// Where each container is in the trace.
    known: HashMap<ContainerKey, usize>,
    trace: Trace,
}

impl Reader<'_> {
    async fn slice(&mut self, from: TimeMs, to: TimeMs) -> Result<(), PolicyError> {
        let limits = by_limit(&self.ask(LIMITS, from, to).await?);
        let throttled = by_limit(&self.ask(PRESSURE, from, to).await?);
        let anon = match self.store.tables().iter().any(|table| table.name == metrics::UNRECLAIMABLE) {
            true => by_limit(&self.ask(ANON, from, to).await?),
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
                // Traces have neither disks nor networks, and nobody uses a knob.
                _ => continue,
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

    /// The rows of a table after `from` and up to `to`.
    async fn ask(
        &self,
        (table, column, cpu, memory): Read,
        from: TimeMs,
        to: TimeMs,
    ) -> Result<Vec<RecordBatch>, PolicyError> {
        let options = QueryOptions {
            timeout: SLICE_TIMEOUT,
            max_rows: SLICE_ROWS,
            on_limit: OnLimit::Fail,
            ..self.store.default_query_options(to)
        };
        let span = to.since(from).as_millis();
        let app = if table == "usage" { "app" } else { "NULL" };
        let rows = format!("FROM {table} WHERE time > now() - INTERVAL '{span} milliseconds'");
        let sql = match self.coarse {
            None => {
                format!("SELECT host, container, resource, {app} AS app, time, {column} AS value {rows} ORDER BY time")
            }
            // A step ends where the next one begins; what is measured at that instant is of the time before it.
            Some(step) => {
                let step = format!("INTERVAL '{} milliseconds'", step.as_millis());
                format!(
                    "SELECT host, container, resource, max({app}) AS app, \
                     date_bin({step}, time - INTERVAL '1 millisecond') + {step} AS \"time\", \
                     CASE WHEN resource = 'cpu' THEN {cpu}({column}) ELSE {memory}({column}) END AS value \
                     {rows} GROUP BY host, container, resource, 5 ORDER BY 5"
                )
            }
        };
        let answer = self.store.query(&sql, &options).await;
        let failed =
            |message| PolicyError::new(PolicyErrorKind::Query, format!("the history cannot be read: {message}"));
        Ok(answer.map_err(|error| failed(error.message))?.batches)
    }

    fn traced(&mut self, key: &ContainerKey, app: Option<&String>) -> &mut Traced {
        let at = *self.known.entry(key.clone()).or_insert_with(|| {
            let found = self.containers.get(key);
            let member = Member {
                host: key.host.clone(),
                cgroup: found.map_or(CgroupVersion::V2, |found| found.cgroup),
                name: key.name.clone(),
                app: found.and_then(|found| found.app.clone()).or_else(|| app.cloned()),
                user: found.and_then(|found| found.user.clone()),
                labels: found.map(|found| found.labels.clone()).unwrap_or_default(),
                bounds: found.map(|found| found.bounds.clone()).unwrap_or_default(),
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
        let (Some(times), Some(values), apps) = (times(batch, "time"), numbers(batch, "value"), texts(batch, "app"))
        else {
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
