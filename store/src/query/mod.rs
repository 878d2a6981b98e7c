//! Asking: read-only SQL with limits on time, memory and rows.

pub(crate) mod error;
pub mod export;
pub(crate) mod guard;
pub(crate) mod refuse;
pub(crate) mod session;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use tidegate_model::TimeMs;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use crate::functions::{self, FunctionInfo};
use crate::query::error::{QueryError, QueryErrorKind};
use crate::query::guard::{Deadline, Stop, guarded};
use crate::query::session::{Session, base};
use crate::store::Store;
use crate::tables::{self, TableInfo};

/// What a query gets beyond its time-out to notice it. After that nobody waits for it any more.
const GRACE: Duration = Duration::from_millis(250);

/// What happens to a query that has more rows than it may return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// The first rows are returned and [`QueryResult::truncated`] is set.
    #[default]
    Truncate,
    /// The query fails.
    Fail,
}

/// Whose threads a query runs on. Some work inside DataFusion cannot be interrupted, so one that is stuck in it keeps a
/// thread beyond its time; what people ask must never keep those that rules need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryPool {
    /// For what people and programs ask; how many run at once is bounded.
    #[default]
    Interactive,
    /// For rules.
    Rules,
}

/// The limits of one query, and the instant that it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryOptions {
    /// What `now()` is. Rows with a later time are not seen.
    pub now: TimeMs,
    /// How long it may take.
    pub timeout: Duration,
    /// How many rows it may return.
    pub max_rows: usize,
    /// How much memory it may use.
    pub memory_bytes: usize,
    /// What happens beyond `max_rows`.
    pub on_limit: OnLimit,
    /// Whose threads it runs on.
    pub pool: QueryPool,
}

/// The answer to a query. Texts are plain `Utf8`, whatever the tables hold them as.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Whether there were more rows than allowed.
    pub truncated: bool,
    /// How long it took, planning included.
    pub took: Duration,
}

impl QueryResult {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Store {
    /// The configured limits, for a query as of `now`.
    pub fn default_query_options(&self, now: TimeMs) -> QueryOptions {
        let config = self.config();
        QueryOptions {
            now,
            timeout: Duration::from_millis(config.query_timeout_ms),
            max_rows: config.query_max_rows,
            memory_bytes: config.query_memory_bytes,
            on_limit: OnLimit::Truncate,
            pool: QueryPool::Interactive,
        }
    }

    /// Answers one read-only statement. Must be called on a Tokio runtime with its timer on; the work is done on the
    /// store's own threads and ends when the returned future is dropped.
    ///
    /// # Errors
    /// When `sql` is no query, names what does not exist, would change something, or exceeds its limits.
    pub async fn query(&self, sql: &str, options: &QueryOptions) -> Result<QueryResult, QueryError> {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let (store, text, limits) = (self.shared(), sql.to_owned(), options.clone());
        let running = Arc::clone(&deadline);
        let running = async move { run(store, &text, &limits, running).await };
        self.on_query_threads(options.pool, deadline, options.timeout, running).await
    }

    /// Plans one statement as [`Store::query`] would, without running it, and tells the columns that it has.
    ///
    /// # Errors
    /// As [`Store::query`], except for what only shows when it runs.
    pub async fn check(&self, sql: &str, now: TimeMs) -> Result<SchemaRef, QueryError> {
        let options = self.default_query_options(now);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let (store, text) = (self.shared(), sql.to_owned());
        let planning = async move { Ok(plain_schema(&Session::new(store, now).plan(&text).await?.schema())) };
        self.on_query_threads(options.pool, deadline, options.timeout, planning).await
    }

    /// Every table that a query can name now.
    pub fn tables(&self) -> Vec<TableInfo> {
        tables::all(self)
    }

    /// Every function that a query can call.
    pub fn functions(&self) -> Vec<FunctionInfo> {
        functions::all(base())
    }

    async fn on_query_threads<T: Send + 'static>(
        &self,
        pool: QueryPool,
        deadline: Arc<Deadline>,
        timeout: Duration,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let failed = |why: String| QueryError::new(QueryErrorKind::Execution, why);
        let began = Instant::now();
        let (threads, slot) = match pool {
            QueryPool::Interactive => (&self.interactive, Some(self.query_slot(timeout).await?)),
            QueryPool::Rules => (&self.rules, None),
        };
        let work = async move {
            // Kept until the work has really ended, which may be after nobody waits for it any more.
            let _slot = slot;
            work.await
        };
        let left = timeout.saturating_sub(began.elapsed());
        let task = threads.spawn(work).map_err(|error| failed(format!("cannot start query threads: {error}")))?;
        let _abandoned = Abandon { deadline, task: task.abort_handle() };
        match tokio::time::timeout(left.saturating_add(GRACE), task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_panic() => Err(failed("the query failed inside the database".to_owned())),
            Ok(Err(_)) => Err(QueryError::stopped(&Stop::Cancelled)),
            Err(_) => Err(QueryError::stopped(&Stop::Timeout(timeout))),
        }
    }

    /// Waits until one more interactive query may run.
    async fn query_slot(&self, timeout: Duration) -> Result<OwnedSemaphorePermit, QueryError> {
        let slot = Arc::clone(&self.query_slots).acquire_owned();
        match tokio::time::timeout(timeout, slot).await {
            Ok(Ok(slot)) => Ok(slot),
            // Nobody closes it.
            Ok(Err(_)) => Err(QueryError::stopped(&Stop::Cancelled)),
            Err(_) => {
                let most = self.config().max_concurrent_queries;
                let message = format!("the query waited {} ms for others to end", timeout.as_millis());
                Err(QueryError::new(QueryErrorKind::Timeout, message)
                    .helped(format!("{most} queries run at once (store.max_concurrent_queries); ask again later")))
            }
        }
    }
}

/// Ends the work when nobody waits for it any more.
struct Abandon {
    deadline: Arc<Deadline>,
    task: AbortHandle,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.deadline.cancel();
        self.task.abort();
    }
}

async fn run(
    store: Arc<Store>,
    sql: &str,
    options: &QueryOptions,
    deadline: Arc<Deadline>,
) -> Result<QueryResult, QueryError> {
    let began = Instant::now();
    let session = Session::new(store, options.now);
    let plan = session.plan(sql).await?;
    let schema = plain_schema(&plan.schema());
    let executed = |error: DataFusionError| QueryError::executed(&error);
    let plan = guarded(plan, &deadline).map_err(executed)?;
    let task = session.task(&deadline, options.memory_bytes)?;
    let memory = MemoryConsumer::new("result").register(task.memory_pool());
    let mut rows = execute_stream(plan, task).map_err(executed)?;
    let mut result = QueryResult { schema, batches: Vec::new(), truncated: false, took: Duration::ZERO };
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let mut batch = batch.map_err(executed)?;
        if count + batch.num_rows() > options.max_rows {
            if options.on_limit == OnLimit::Fail {
                return Err(QueryError::stopped(&Stop::Rows(options.max_rows)));
            }
            batch = batch.slice(0, options.max_rows - count);
            result.truncated = true;
        }
        if batch.num_rows() > 0 {
            count += batch.num_rows();
            let batch = plain_batch(&batch, &result.schema).map_err(|error| executed(error.into()))?;
            let bytes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
            let bytes = bytes.sum::<Result<usize, _>>().map_err(|error| executed(error.into()))?;
            memory.try_grow(bytes).map_err(executed)?;
            result.batches.push(batch);
        }
        if result.truncated {
            break;
        }
    }
    result.took = began.elapsed();
    Ok(result)
}

/// The schema as others see it: views and dictionaries are how tables store texts, and no business of theirs.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let plain = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), field.is_nullable());
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        other => other.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
