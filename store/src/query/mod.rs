//! Asking: read-only SQL with limits on time, memory and rows.

pub(crate) mod cache;
pub(crate) mod check_rule;
pub(crate) mod direct;
pub(crate) mod error;
pub mod export;
mod few_first;
pub(crate) mod guard;
mod join;
pub(crate) mod outline;
pub(crate) mod parameter;
pub(crate) mod reach;
mod ready;
pub(crate) mod refuse;
pub(crate) mod run;
pub(crate) mod session;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use futures::{FutureExt, StreamExt};
use tidegate_model::TimeMs;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use crate::functions::{self, FunctionInfo};
use crate::memory::RuleView;
use crate::query::cache::{Found, PlanCache};
use crate::query::direct::Direct;
use crate::query::error::{QueryError, QueryErrorKind};
use crate::query::guard::{Deadline, Stop, guarded};
use crate::query::parameter::{Parameter, Template};
use crate::query::run::{Run, RunCell};
use crate::query::session::{Present, Text, base, session, task};
use crate::store::Store;
use crate::tables::{self, TableInfo};

/// What a query gets beyond its time-out to notice it. After that nobody waits for it any more.
const GRACE: Duration = Duration::from_millis(250);
/// Texts whose plans are kept for each pool; for rules, twice as many as there are, if that is more.
const MAX_PLANS: usize = 256;

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
    /// Values of the parameters in the text: of `$name` by `name`, of `$1` by `1`.
    pub parameters: Vec<(String, Parameter)>,
    /// The rule that asks, if one does: what it sees of state, parameters and events.
    pub rule: Option<Arc<RuleView>>,
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
            parameters: Vec::new(),
            rule: None,
        }
    }

    /// Answers one read-only statement. Must be called on a Tokio runtime with its timer on; the work is done on the
    /// store's own threads and ends when the returned future is dropped.
    ///
    /// # Errors
    /// When `sql` is no query, names what does not exist, would change something, or exceeds its limits.
    pub async fn query(&self, sql: &str, options: &QueryOptions) -> Result<QueryResult, QueryError> {
        self.query_with(sql, options, |result| result).await
    }

    /// As [`Store::query`], with what `finish` makes of the answer on the thread that it was found on. For encoding it:
    /// that saves small answers the way to yet another thread.
    ///
    /// # Errors
    /// As [`Store::query`].
    pub async fn query_with<T: Send + 'static>(
        &self,
        sql: &str,
        options: &QueryOptions,
        finish: impl FnOnce(QueryResult) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let (store, text, limits) = (self.shared(), sql.to_owned(), options.clone());
        let running = Arc::clone(&deadline);
        let running = async move { Ok(finish(answer(&store, &text, &limits, running).await?)) };
        self.on_query_threads(options.pool, deadline, options.timeout, running).await
    }

    /// Plans one statement as [`Store::query`] would, without running it, and tells the columns that it has.
    ///
    /// # Errors
    /// As [`Store::query`], except for what only shows when it runs.
    pub async fn check(&self, sql: &str, now: TimeMs) -> Result<SchemaRef, QueryError> {
        let options = self.default_query_options(now);
        let deadline = Deadline::new(options.timeout, options.memory_bytes);
        let (store, sql) = (self.shared(), sql.to_owned());
        let planning = async move {
            let text = Text { sql: &sql, store: &store };
            let tokens = text.tokens()?;
            parameter::check(&tokens, &[])?;
            Ok(text.fixed(tokens, &session(&store, Present::At(now), None)).await?.schema)
        };
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

    pub(crate) async fn on_query_threads<T: Send + 'static>(
        &self,
        pool: QueryPool,
        deadline: Arc<Deadline>,
        timeout: Duration,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let failed = |why: String| QueryError::new(QueryErrorKind::Execution, why);
        let panicked = || failed("the query failed inside the database".to_owned());
        if self.scratch {
            let work = AssertUnwindSafe(work).catch_unwind();
            return work.await.unwrap_or_else(|_| Err(panicked()));
        }
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
            Ok(Err(error)) if error.is_panic() => Err(panicked()),
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

/// What plans are kept in and made with.
#[derive(Default)]
pub(crate) struct Plans {
    /// What plans that are kept are made with; always the same.
    session: OnceLock<SessionState>,
    interactive: PlanCache,
    /// Apart, so that no rule is planned anew because people ask many questions.
    rules: PlanCache,
}

impl Plans {
    pub(crate) fn of(&self, pool: QueryPool) -> &PlanCache {
        match pool {
            QueryPool::Interactive => &self.interactive,
            QueryPool::Rules => &self.rules,
        }
    }

    fn session(&self, store: &Arc<Store>) -> &SessionState {
        self.session.get_or_init(|| session(store, Present::OfTheRun, None))
    }
}

/// A plan that is ready to run.
pub(crate) struct Plan {
    /// Guarded.
    pub(crate) operators: Arc<dyn ExecutionPlan>,
    /// The columns of its answer as others see them.
    pub(crate) schema: SchemaRef,
    /// The same, where it can be run without its operators.
    direct: Option<Direct>,
    /// Where its expressions find the run.
    cell: Arc<RunCell>,
}

impl Plan {
    pub(crate) fn new(operators: Arc<dyn ExecutionPlan>, cell: Arc<RunCell>) -> Result<Self, DataFusionError> {
        let schema = plain_schema(&operators.schema());
        let direct = Direct::of(&operators);
        Ok(Self { operators: guarded(operators, &cell)?, schema, direct, cell })
    }
}

/// Answers with a plan that is kept, or made to be kept, where that is possible.
async fn answer(
    store: &Arc<Store>,
    sql: &str,
    options: &QueryOptions,
    deadline: Arc<Deadline>,
) -> Result<QueryResult, QueryError> {
    let began = Instant::now();
    let plans = store.plans.of(options.pool);
    let most = match options.pool {
        QueryPool::Interactive => MAX_PLANS,
        // Those that a rule had before it was changed go first.
        QueryPool::Rules => MAX_PLANS.max(2 * store.rule_count()),
    };
    let run = |values| {
        let (store, deadline) = (Arc::clone(store), Arc::clone(&deadline));
        Arc::new(Run { store, now: options.now, values, deadline, rule: options.rule.clone() })
    };
    let timed = |result: QueryResult| QueryResult { took: began.elapsed(), ..result };
    // Keys of other texts have this sign in them.
    let plain = options.parameters.is_empty() && !sql.contains('\0');
    // The columns of a rule's own state stand in its plan.
    let own = options.rule.as_ref().and_then(|view| view.plan_key());
    let keyed = |text: &str| own.as_ref().map_or_else(|| text.to_owned(), |own| format!("{own}{text}"));
    let known = if plain { plans.taken(sql) } else { None };
    let (name, mut values) = known.map_or_else(|| (keyed(sql), Vec::new()), |(key, values)| (keyed(&key), values));
    let mut found = if plain { plans.take(&name, store) } else { Found::Unknown };
    // What the text is kept as, if it can be kept.
    let mut key = (!matches!(found, Found::Unknown)).then_some(name);
    let mut tokens = None;
    if !matches!(found, Found::Kept(_)) {
        let text = Text { sql, store };
        let read = text.tokens()?;
        parameter::check(&read, &options.parameters)?;
        if matches!(found, Found::Unknown)
            && is_select(&read)
            && let Some(template) =
                Template::new(sql, &read, &options.parameters, options.pool == QueryPool::Interactive)
        {
            let template_key = keyed(&template.key);
            found = plans.take(&template_key, store);
            if matches!(found, Found::Unknown) {
                let made = match &options.rule {
                    Some(view) if own.is_some() => {
                        let session = session(store, Present::OfTheRun, Some(&view.state));
                        text.repeatable(&template, &session).await
                    }
                    _ => text.repeatable(&template, store.plans.session(store)).await,
                };
                // Whatever is wrong is said below, where the text is as it was sent.
                found = match made {
                    Ok(Some(kept)) => Found::Kept(Box::new(kept)),
                    Ok(None) | Err(_) => Found::Fixed,
                };
            }
            if plain {
                plans.remember(sql, &template, most);
            }
            key = Some(template_key);
            values = template.values;
        }
        tokens = Some(read);
    }
    if let Found::Kept(kept) = found {
        match execute(&kept.plan, run(values), options).await {
            Ok((result, was_direct)) => {
                // What was cut off is dropped with its plan: only what ran to its end is known to be at rest.
                if let Some(key) = key.filter(|_| !result.truncated) {
                    plans.put(key, *kept, was_direct, most);
                }
                return Ok(timed(result));
            }
            // Fails again below, with the message that it has when all values stand in the plan, or does not.
            Err(error) if error.kind == QueryErrorKind::Execution => {}
            Err(error) => return Err(error),
        }
    }
    let text = Text { sql, store };
    let tokens = match tokens {
        Some(tokens) => tokens,
        None => text.tokens()?,
    };
    let tokens = parameter::spelled_out(&tokens, &options.parameters);
    let state = options.rule.as_ref().map(|view| &view.state);
    let plan = text.fixed(tokens, &session(store, Present::At(options.now), state)).await?;
    let (result, _) = execute(&plan, run(Vec::new()), options).await?;
    if let Some(key) = key {
        plans.put_fixed(key, most);
    }
    Ok(timed(result))
}

/// Whether the statement asks for rows, rather than for how they would be found or what there is.
fn is_select(tokens: &[TokenWithSpan]) -> bool {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::LParen));
    first.is_some_and(|first| match &first.token {
        Token::Word(word) => matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::FROM),
        _ => false,
    })
}

/// One run of `plan`, and whether it was run without its operators and so has left nothing in them.
async fn execute(plan: &Plan, run: Arc<Run>, options: &QueryOptions) -> Result<(QueryResult, bool), QueryError> {
    let executed = |error: DataFusionError| QueryError::executed(&error);
    if let Some(direct) = &plan.direct {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(options.memory_bytes));
        let mut answer = Answer::new(plan, options, &pool);
        let _told = Telling::new(&plan.cell, Arc::clone(&run));
        if let Some(batches) = direct.rows(&run, &pool).map_err(executed)? {
            for batch in batches {
                answer.take(batch)?;
                if answer.result.truncated {
                    break;
                }
            }
            return Ok((answer.result, true));
        }
    }
    let task = task(&run, options.memory_bytes)?;
    let mut answer = Answer::new(plan, options, task.memory_pool());
    let _told = Telling::new(&plan.cell, run);
    let mut rows = execute_stream(Arc::clone(&plan.operators), task).map_err(executed)?;
    while let Some(batch) = rows.next().await {
        answer.take(batch.map_err(executed)?)?;
        if answer.result.truncated {
            break;
        }
    }
    Ok((answer.result, false))
}

/// An answer that is being put together, within its limits.
struct Answer<'a> {
    options: &'a QueryOptions,
    memory: MemoryReservation,
    rows: usize,
    result: QueryResult,
}

impl<'a> Answer<'a> {
    fn new(plan: &Plan, options: &'a QueryOptions, pool: &Arc<dyn MemoryPool>) -> Self {
        let schema = Arc::clone(&plan.schema);
        let result = QueryResult { schema, batches: Vec::new(), truncated: false, took: Duration::ZERO };
        Self { options, memory: MemoryConsumer::new("result").register(pool), rows: 0, result }
    }

    fn take(&mut self, mut batch: RecordBatch) -> Result<(), QueryError> {
        let executed = |error: DataFusionError| QueryError::executed(&error);
        let most = self.options.max_rows;
        if self.rows + batch.num_rows() > most {
            if self.options.on_limit == OnLimit::Fail {
                return Err(QueryError::stopped(&Stop::Rows(most)));
            }
            batch = batch.slice(0, most - self.rows);
            self.result.truncated = true;
        }
        if batch.num_rows() > 0 {
            self.rows += batch.num_rows();
            let batch = plain_batch(&batch, &self.result.schema).map_err(|error| executed(error.into()))?;
            let bytes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
            let bytes = bytes.sum::<Result<usize, _>>().map_err(|error| executed(error.into()))?;
            self.memory.try_grow(bytes).map_err(executed)?;
            self.result.batches.push(batch);
        }
        Ok(())
    }
}

/// While it lives, a plan's expressions find its run. A plan that waits holds neither a run nor, with it, the store.
struct Telling<'a>(&'a RunCell);

impl<'a> Telling<'a> {
    fn new(cell: &'a RunCell, run: Arc<Run>) -> Self {
        cell.set(Some(run));
        Self(cell)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
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
