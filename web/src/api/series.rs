//! `/api/v1/containers/{host}/{name}/series`: a container's past in buckets of equal length.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tidegate_model::{ContainerKey, Resource, TimeMs};
use tidegate_store::{QueryError, QueryErrorKind};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Params, Segments};
use crate::queries::Buckets;
use crate::rows::{Rows, integer, number, text};

pub(super) const DEFAULT_SPAN: Duration = Duration::from_secs(3_600);
pub(super) const DEFAULT_POINTS: usize = 600;
/// The collector measures once a second; finer buckets would only be holes.
const LEAST_STEP: Duration = Duration::from_secs(1);
const LONGEST_SPAN: Duration = Duration::from_secs(3_650 * 86_400);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Range {
    /// In ms UTC; an hour before `to` when left out.
    #[param(value_type = Option<i64>)]
    from: Option<TimeMs>,
    /// In ms UTC; now when left out.
    #[param(value_type = Option<i64>)]
    to: Option<TimeMs>,
    /// About how many buckets, 600 when left out; the server's own bound holds, too.
    #[param(minimum = 1)]
    points: Option<usize>,
}

/// A container's past.
#[derive(Serialize, ToSchema)]
pub(crate) struct ContainerSeries {
    /// Length of a bucket, in ms.
    step_ms: u64,
    /// The beginnings of the buckets, in ms UTC. All other lists have a value for each, null where nothing is known.
    t: Vec<i64>,
    cpu: CpuSeries,
    memory: MemorySeries,
    /// Null for a container that never used a disk, as far as anybody counted.
    io: Option<IoSeries>,
    /// Null for a container without a network of its own, as far as anybody counted.
    network: Option<NetworkSeries>,
}

/// In cores, but for shares.
#[derive(Serialize, ToSchema)]
struct CpuSeries {
    /// Mean.
    usage: Vec<Option<f64>>,
    /// Peak.
    usage_max: Vec<Option<f64>>,
    /// The newest in the bucket.
    limit: Vec<Option<f64>>,
    /// One boundary below the limit.
    upper: Vec<Option<f64>>,
    /// Two boundaries below the limit.
    lower: Vec<Option<f64>>,
    /// Mean share of the periods that were throttled.
    throttled: Vec<Option<f64>>,
}

/// In bytes, but for counts.
#[derive(Serialize, ToSchema)]
struct MemorySeries {
    /// Mean.
    usage: Vec<Option<f64>>,
    /// Peak.
    usage_max: Vec<Option<f64>>,
    /// The newest in the bucket.
    limit: Vec<Option<f64>>,
    /// One boundary below the limit.
    upper: Vec<Option<f64>>,
    /// Two boundaries below the limit.
    lower: Vec<Option<f64>>,
    /// Processes that the kernel killed in the bucket.
    oom_kills: Vec<Option<f64>>,
    /// Mean of what cannot be taken back without swap.
    unreclaimable: Vec<Option<f64>>,
}

/// In bytes a second.
#[derive(Serialize, ToSchema)]
struct IoSeries {
    /// Mean of what was read from disks.
    read: Vec<Option<f64>>,
    /// Mean of what was written to them. With cgroup v1 without what goes through the page cache.
    write: Vec<Option<f64>>,
    /// The newest limits in the bucket, on each disk. Left out where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    read_limit: Option<Vec<Option<f64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    write_limit: Option<Vec<Option<f64>>>,
}

/// In bytes a second.
#[derive(Serialize, ToSchema)]
struct NetworkSeries {
    /// Mean of what was received on all interfaces but that to itself.
    receive: Vec<Option<f64>>,
    /// Mean of what was sent.
    send: Vec<Option<f64>>,
    /// The newest limits in the bucket, on each interface. Left out where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    receive_limit: Option<Vec<Option<f64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    send_limit: Option<Vec<Option<f64>>>,
}

/// A container's past, in buckets of equal length.
#[utoipa::path(
    get, path = "/api/v1/containers/{host}/{name}/series", tag = "Containers",
    params(
        ("host" = String, Path, description = "The host's name"),
        ("name" = String, Path, description = "The container's name on that host"),
        Range,
    ),
    responses(
        (status = 200, description = "Usage, limits and what came of them", body = ContainerSeries),
        (status = 400, description = "The range makes no sense", body = ErrorAnswer),
    ),
)]
pub(crate) async fn series(
    State(app): State<App>,
    Segments((host, name)): Segments<(String, String)>,
    Params(range): Params<Range>,
) -> Result<Json<ContainerSeries>, ApiError> {
    let key = ContainerKey { host, name };
    let now = app.clock.now();
    let to = range.to.unwrap_or(now);
    let from = range.from.unwrap_or_else(|| to.minus(DEFAULT_SPAN));
    let buckets = cut(from, to, range.points.unwrap_or(DEFAULT_POINTS), app.config.max_points)?;
    let times: Vec<i64> = (0..count(&buckets)).map(|at| start(&buckets, at)).collect();

    // Independent of each other; the store runs them side by side.
    let before = buckets.step.max(Duration::from_secs(60));
    let (usage, limits, throttled, oom, unreclaimable) = (
        buckets.usage(&key),
        buckets.limits(&key),
        buckets.throttled(&key),
        buckets.oom_kills(&key, before),
        buckets.unreclaimable(&key),
    );
    let (usage, limits, throttled, oom, unreclaimable) = tokio::try_join!(
        app.ask(&usage, now),
        app.ask(&limits, now),
        app.ask(&throttled, now),
        ask_metric(&app, &oom, now),
        ask_metric(&app, &unreclaimable, now),
    )?;

    let boundary = app.store.config().boundary;
    let scaled = |limits: &[Option<f64>], margins: f64| -> Vec<Option<f64>> {
        limits.iter().map(|limit| limit.map(|limit| limit * (1.0 - margins * boundary))).collect()
    };
    let column = |rows: &Rows, name, resource: Resource| spread(&buckets, rows, name, resource.as_str());
    let cpu_limit = column(&limits, "newest", Resource::Cpu)?;
    let memory_limit = column(&limits, "newest", Resource::Memory)?;
    let unreclaimable = match &unreclaimable {
        Some(rows) => column(rows, "mean", Resource::Memory)?,
        None => vec![None; times.len()],
    };
    let oom_kills = match &oom {
        Some(rows) => growth(&buckets, counter(rows)?),
        None => vec![None; times.len()],
    };
    let known = |values: Vec<Option<f64>>| values.iter().any(Option::is_some).then_some(values);
    let io = IoSeries {
        read: column(&usage, "mean", Resource::DiskRead)?,
        write: column(&usage, "mean", Resource::DiskWrite)?,
        read_limit: known(column(&limits, "newest", Resource::DiskRead)?),
        write_limit: known(column(&limits, "newest", Resource::DiskWrite)?),
    };
    let is_used = io.read.iter().chain(&io.write).any(Option::is_some);
    let io = (is_used || io.read_limit.is_some() || io.write_limit.is_some()).then_some(io);
    let network = NetworkSeries {
        receive: column(&usage, "mean", Resource::NetReceive)?,
        send: column(&usage, "mean", Resource::NetSend)?,
        receive_limit: known(column(&limits, "newest", Resource::NetReceive)?),
        send_limit: known(column(&limits, "newest", Resource::NetSend)?),
    };
    let is_used = network.receive.iter().chain(&network.send).any(Option::is_some);
    let network = (is_used || network.receive_limit.is_some() || network.send_limit.is_some()).then_some(network);
    Ok(Json(ContainerSeries {
        step_ms: buckets.step.as_millis() as u64,
        t: times,
        cpu: CpuSeries {
            usage: column(&usage, "mean", Resource::Cpu)?,
            usage_max: column(&usage, "peak", Resource::Cpu)?,
            upper: scaled(&cpu_limit, 1.0),
            lower: scaled(&cpu_limit, 2.0),
            limit: cpu_limit,
            throttled: column(&throttled, "mean", Resource::Cpu)?,
        },
        memory: MemorySeries {
            usage: column(&usage, "mean", Resource::Memory)?,
            usage_max: column(&usage, "peak", Resource::Memory)?,
            upper: scaled(&memory_limit, 1.0),
            lower: scaled(&memory_limit, 2.0),
            limit: memory_limit,
            oom_kills,
            unreclaimable,
        },
        io,
        network,
    }))
}

/// The answer of a query on one metric's table, which is there only once the metric has been measured.
async fn ask_metric(app: &App, sql: &str, now: TimeMs) -> Result<Option<Rows>, ApiError> {
    match app.store.query(sql, &app.store.default_query_options(now)).await {
        Ok(result) => Rows::new(&result).map(Some),
        // The text is fixed, so all that can be wrong with it is that there is no such table or tag yet.
        Err(QueryError { kind: QueryErrorKind::Plan, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Buckets of whole seconds that cover the range: at most `points` or `most`, and one more since they begin at
/// multiples of their length, so that they do not move with `from`.
pub(super) fn cut(from: TimeMs, to: TimeMs, points: usize, most: usize) -> Result<Buckets, ApiError> {
    if to <= from {
        return Err(ApiError::bad_request(format!("the range is empty: from {from} to {to}")));
    }
    if to.since(from) > LONGEST_SPAN || from.0 < 0 {
        return Err(ApiError::bad_request("the range is longer than ten years; times are in ms since 1970"));
    }
    if points == 0 {
        return Err(ApiError::bad_request("points must be at least 1"));
    }
    let span_ms = to.since(from).as_millis() as u64;
    let step = Duration::from_secs(span_ms.div_ceil(points.min(most) as u64).div_ceil(1_000)).max(LEAST_STEP);
    Ok(Buckets { from: from.aligned(step), to, step })
}

pub(super) fn step_ms(buckets: &Buckets) -> i64 {
    i64::try_from(buckets.step.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn count(buckets: &Buckets) -> usize {
    let span = buckets.to.since(buckets.from).as_millis();
    usize::try_from(span.div_ceil(buckets.step.as_millis())).unwrap_or(usize::MAX)
}

pub(super) fn start(buckets: &Buckets, at: usize) -> i64 {
    buckets.from.0 + at as i64 * step_ms(buckets)
}

/// Puts the values of one resource into their buckets.
fn spread(buckets: &Buckets, rows: &Rows, column: &str, wanted: &str) -> Result<Vec<Option<f64>>, ApiError> {
    let (times, resources, values) = (rows.times("bucket")?, rows.texts("resource")?, rows.numbers(column)?);
    let mut spread = vec![None; count(buckets)];
    for row in 0..rows.len() {
        if text(&resources, row) != Some(wanted) {
            continue;
        }
        let Some(time) = integer(&times, row) else { continue };
        let at = usize::try_from((time - buckets.from.0) / step_ms(buckets)).ok();
        if let Some(slot) = at.and_then(|at| spread.get_mut(at)) {
            *slot = number(&values, row);
        }
    }
    Ok(spread)
}

/// The readings of the OOM counter, oldest first.
fn counter(rows: &Rows) -> Result<Vec<(i64, f64)>, ApiError> {
    let (times, values) = (rows.times("bucket")?, rows.numbers("newest")?);
    let mut readings: Vec<(i64, f64)> =
        (0..rows.len()).filter_map(|row| Some((integer(&times, row)?, number(&values, row)?))).collect();
    readings.sort_by_key(|(time, _)| *time);
    Ok(readings)
}

/// By how much a counter grew in each bucket. A counter that falls was reset, so it grew by what it shows.
fn growth(buckets: &Buckets, readings: Vec<(i64, f64)>) -> Vec<Option<f64>> {
    let mut spread = vec![None; count(buckets)];
    let mut last = None;
    for (time, value) in readings {
        let grown = last.map_or(0.0, |last| if value >= last { value - last } else { value });
        last = Some(value);
        let after_start = time.checked_sub(buckets.from.0).filter(|after| *after >= 0);
        let at = after_start.and_then(|after| usize::try_from(after / step_ms(buckets)).ok());
        if let Some(slot) = at.and_then(|at| spread.get_mut(at)) {
            *slot = Some(grown);
        }
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_whole_seconds_and_never_more_than_asked_for() {
        for (span_ms, points) in
            [(1_000, 100), (3_600_000, 600), (3_600_001, 600), (86_400_000, 7), (999, 1), (5_500, 3)]
        {
            let from = TimeMs(1_700_000_000_123);
            let buckets = cut(from, TimeMs(from.0 + span_ms), points, 2_000).unwrap();
            assert!(count(&buckets) <= points + 1, "{span_ms} ms in {points}: {buckets:?}");
            assert_eq!(buckets.step.subsec_millis(), 0);
            assert!(buckets.from <= from && start(&buckets, count(&buckets)) >= buckets.to.0);
        }
        assert!(count(&cut(TimeMs(0), TimeMs(86_400_000_000), 5_000, 2_000).unwrap()) <= 2_001);
        assert!(cut(TimeMs(0), TimeMs(i64::MAX), 5_000, 2_000).is_err());
        assert!(cut(TimeMs(5), TimeMs(5), 10, 2_000).is_err());
        assert!(cut(TimeMs(5), TimeMs(9), 0, 2_000).is_err());
    }

    #[test]
    fn a_counter_counts_what_happened_inside_the_bucket_also_after_a_reset() {
        let buckets = Buckets { from: TimeMs(10_000), to: TimeMs(14_000), step: LEAST_STEP };
        let readings = vec![(9_000, 3.0), (10_000, 4.0), (12_000, 4.0), (13_000, 1.0)];
        assert_eq!(growth(&buckets, readings), [Some(1.0), None, Some(0.0), Some(1.0)]);
        assert_eq!(growth(&buckets, vec![(11_000, 7.0)]), [None, Some(0.0), None, None]);
    }
}
