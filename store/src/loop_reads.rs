//! What a control loop asks at each instant, answered without SQL: planning is saved by keeping plans, but running one costs
//! more than what is asked for here. The answers are those that the tables give.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
use tidegate_model::{ContainerKey, Resource, TimeMs};

use crate::functions::{self, Asked};
use crate::query::QueryOptions;
use crate::query::error::QueryError;
use crate::query::guard::{Deadline, Stop};
use crate::query::run::Run;
use crate::scan::Wanted;
use crate::store::Store;
use crate::tables::{LabelFilter, PressureSource, Selected, Source, executed};

/// A row of `pressure`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PressureSample {
    /// The place of its limit among those that were asked for.
    pub limit: usize,
    /// When it was measured.
    pub time: TimeMs,
    /// Share of the periods that were throttled, 0 to 1.
    pub throttled: Option<f64>,
    /// Share of the time in which some task stalled, 0 to 1.
    pub some_share: Option<f64>,
}

impl Store {
    /// All rows of `recent(window)` with the columns that are named. The parameters of `options` do not matter.
    ///
    /// # Errors
    /// As [`Store::query`]; always when there are more rows than `options` allows.
    pub async fn recent(
        &self,
        window: Duration,
        columns: &[&str],
        options: &QueryOptions,
    ) -> Result<RecordBatch, QueryError> {
        let window_ms = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let (memory_bytes, max_rows) = (options.memory_bytes, options.max_rows);
        let columns = functions::recent_places(columns);
        self.read(options, move |run| {
            let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(memory_bytes));
            let asked = Asked { window_ms, resource: None };
            let rows = functions::recent_rows(run, asked, &columns, MemoryConsumer::new("recent").register(&pool))?;
            if rows.num_rows() > max_rows { Err(Stop::Rows(max_rows).into()) } else { Ok(rows) }
        })
        .await
    }

    /// The rows of `pressure` about some limits that are later than `since`. Those of each limit are in the order of time.
    /// Of `options`, the instant, the time and the threads count.
    ///
    /// # Errors
    /// As [`Store::query`].
    pub async fn pressure_of(
        &self,
        limits: Vec<(ContainerKey, Resource)>,
        since: TimeMs,
        options: &QueryOptions,
    ) -> Result<Vec<PressureSample>, QueryError> {
        self.read(options, move |run| pressure_of(run, &limits, since)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        options: &QueryOptions,
        read: impl FnOnce(&Run) -> Result<T, DataFusionError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let run = Run {
            store: self.shared(),
            now: options.now,
            values: Vec::new(),
            deadline: Arc::clone(&deadline),
            rule: None,
        };
        let reading = async move { read(&run).map_err(|error| QueryError::executed(&error)) };
        self.on_query_threads(options.pool, deadline, options.timeout, reading).await
    }
}

fn pressure_of(
    run: &Run,
    limits: &[(ContainerKey, Resource)],
    since: TimeMs,
) -> Result<Vec<PressureSample>, DataFusionError> {
    run.deadline.check()?;
    let store = run.store.as_ref();
    let mut found = Vec::new();
    for part in PressureSource.parts(store, &LabelFilter::everything()) {
        let label = |(container, resource): &(ContainerKey, Resource)| {
            part.labels.with_texts(&[Some(&container.host), Some(&container.name), Some(resource.as_str())])
        };
        let wanted = limits.iter().enumerate().filter_map(|(place, limit)| Some((label(limit)?, place)));
        let mut wanted: Vec<(u32, usize)> = wanted.collect();
        wanted.sort_unstable();
        let selected = Selected::only(part, wanted.iter().map(|(label, _)| *label).collect());
        let mut samples = Vec::new();
        for (place, members) in selected.part.labels.members.iter().enumerate() {
            let (from, series) = (since.0.saturating_add(1), selected.series(place));
            let rows = store.scan_rows(&Wanted { metric: &members.metric, series, from, to: run.now.0 });
            for row in rows.map_err(executed)? {
                let at = members.rank.get(row.series).map(|of| wanted.binary_search_by_key(&of, |(label, _)| *label));
                if let Some(Ok(at)) = at {
                    samples.push((at, row.time, place, row.value));
                }
            }
        }
        // As in `pressure`: of several series of a label the last one counts.
        samples.sort_by_key(|(at, time, ..)| (*at, *time));
        for row in samples.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (at, time, ..) = row[0];
            let last =
                |metric: usize| row.iter().rev().find(|(.., place, _)| *place == metric).map(|(.., value)| *value);
            let (throttled, some_share) = (last(PressureSource::THROTTLED), last(PressureSource::SOME));
            found.push(PressureSample { limit: wanted[at].1, time: TimeMs(time), throttled, some_share });
        }
    }
    Ok(found)
}
