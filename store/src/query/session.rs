//! What queries are planned with, and the threads that they run on.

use std::future::Future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{TokenWithSpan, Tokenizer};
use parking_lot::Mutex;
use tidegate_model::TimeMs;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::aggregate::AggregateScans;
use crate::functions;
use crate::query::Plan;
use crate::query::cache::{Kept, has_fixed_rows, is_repeatable, metrics_of};
use crate::query::error::{QueryError, QueryErrorKind, first_word, second_statement};
use crate::query::few_first::FewFirst;
use crate::query::parameter::Template;
use crate::query::refuse::{self, MAX_SQL_BYTES, UNBOUNDED};
use crate::query::run::{Run, RunCell, told, typed};
use crate::store::Store;
use crate::tables::{CATALOG, Catalog, PUBLIC, UTC};

/// Rows of a batch. Half of DataFusion's default: a join looks at the deadline once a batch.
pub(crate) const BATCH_ROWS: usize = 4096;
/// Stack of a query thread: planning recurses with the nesting of the query. Only what is used of it takes memory.
pub const QUERY_STACK_BYTES: usize = 64 << 20;

/// The threads that queries of one [`QueryPool`](crate::QueryPool) run on: the store's own, so that a query that holds a
/// thread for a while holds up others of its pool at most, and neither the pushing of samples nor whoever waits for it.
pub(crate) struct QueryThreads {
    name: &'static str,
    /// Started with the first query.
    runtime: Mutex<Option<Runtime>>,
}

impl QueryThreads {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, runtime: Mutex::new(None) }
    }

    /// Runs `work` on one of the threads.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let mut runtime = self.runtime.lock();
        if let Some(runtime) = runtime.as_ref() {
            return Ok(runtime.spawn(work));
        }
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let started = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(self.name)
            .thread_stack_size(QUERY_STACK_BYTES)
            .build()?;
        Ok(runtime.insert(started).spawn(work))
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // A store is often dropped inside another runtime, where waiting for threads is forbidden. Queries that still run
        // look at their deadline and end.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// What all sessions have in common. Cloning it is far cheaper than registering some three hundred functions.
static BASE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut state = SessionStateBuilder::new()
        .with_config(config())
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(FewFirst))
        .with_physical_optimizer_rule(Arc::new(AggregateScans))
        .with_session_id("tidegate".to_owned())
        .build();
    // Failing here would mean that a name is no valid one, and all of them are known.
    for name in UNBOUNDED {
        let _ = state.deregister_udf(name);
    }
    for (name, growth) in functions::MULTIPLYING {
        if let Ok(function) = state.udf(name) {
            let _ = state.register_udf(Arc::new(functions::bounded(function, growth)));
        }
    }
    let _ = functions::register(&mut state);
    state
});

fn config() -> SessionConfig {
    let mut config = SessionConfig::new()
        // One thread a query: there are other queries for the other threads, and results come in the same order each time.
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, PUBLIC);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some(UTC.to_owned());
    options.execution.enforce_batch_size_in_joins = true;
    // Nothing is spilled to disk, so nothing has to be kept back for merging what was spilled.
    options.execution.sort_spill_reservation_bytes = 0;
    // No scan here takes them.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    config
}

/// The functions of a session, for documentation.
pub(crate) fn base() -> &'static SessionState {
    &BASE
}

/// The instant that plans are made for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Present {
    /// One instant, which stands in the plan.
    At(TimeMs),
    /// Each run's own.
    OfTheRun,
}

/// Everything that queries are planned with. Built without a `SessionContext`, which would set the clock anew. `state` are
/// the columns of the asking rule's own state.
pub(crate) fn session(store: &Arc<Store>, present: Present, state: Option<&SchemaRef>) -> SessionState {
    let own_state = state.filter(|state| !state.fields().is_empty()).cloned();
    let now = match present {
        Present::At(now) => Some(now),
        Present::OfTheRun => None,
    };
    let mut state = BASE.clone();
    let mut props = ExecutionProps::new();
    // `current_date` and `current_time` come from here; without an instant, plans with them cannot be made.
    props.query_execution_start_time = now.and_then(|now| chrono::DateTime::from_timestamp_millis(now.0));
    props.config_options = Some(Arc::clone(state.config_options()));
    *state.execution_props_mut() = props;
    state.register_catalog_list(Arc::new(Catalog::new(Arc::downgrade(store), now, own_state)));
    let _ = functions::register_for(&mut state, store, now);
    state
}

/// A statement on its way from text to plan.
pub(crate) struct Text<'a> {
    pub(crate) sql: &'a str,
    pub(crate) store: &'a Store,
}

impl Text<'_> {
    fn planned(&self, error: &DataFusionError) -> QueryError {
        QueryError::planned(error, self.sql, self.store)
    }

    /// The text in tokens.
    ///
    /// # Errors
    /// When it is too long or nested too deeply, or has no tokens at some place.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenWithSpan>, QueryError> {
        if self.sql.len() > MAX_SQL_BYTES {
            let message = format!("the query is longer than {} KiB", MAX_SQL_BYTES / 1024);
            return Err(QueryError::refused(message));
        }
        let tokens = Tokenizer::new(&GenericDialect {}, self.sql).tokenize_with_location().map_err(ParserError::from);
        let tokens = tokens.map_err(|error| self.planned(&error.into()))?;
        refuse::nesting(&tokens)?;
        Ok(tokens)
    }

    /// The one statement that `tokens` are, as a logical plan of `session`.
    ///
    /// # Errors
    /// With the place in the text, where there is one.
    pub(crate) async fn logical(
        &self,
        tokens: Vec<TokenWithSpan>,
        session: &SessionState,
    ) -> Result<LogicalPlan, QueryError> {
        self.store.counters.plans.fetch_add(1, Ordering::Relaxed);
        let whole = first_word(&tokens);
        let parsed = DFParserBuilder::new(tokens).build().and_then(|mut parser| parser.parse_statements());
        let mut statements = parsed.map_err(|error| self.planned(&error))?;
        let Some(statement) = statements.pop_front() else {
            return Err(QueryError::new(QueryErrorKind::Syntax, "there is no query"));
        };
        if !statements.is_empty() {
            let refused = QueryError::refused("there is more than one statement").helped("send them one by one");
            return Err(match second_statement(self.sql) {
                Some((start, end)) => refused.at(start, Some(end)),
                None => refused,
            });
        }
        let at_whole = |refused: QueryError| match whole {
            Some((start, end)) if refused.line.is_none() => refused.at(start, Some(end)),
            _ => refused,
        };
        refuse::statement(&statement).and_then(|()| refuse::unfolding(&statement)).map_err(at_whole)?;
        let logical = session.statement_to_plan(statement).await.map_err(|error| {
            let found = self.planned(&error);
            match refuse::unbounded_function(&error) {
                Some(refused) => {
                    QueryError { message: refused.message, kind: refused.kind, help: refused.help, ..found }
                }
                None => found,
            }
        })?;
        refuse::plan(&logical).map_err(at_whole)?;
        Ok(logical)
    }

    /// A plan that can be run once, with all values in it.
    ///
    /// # Errors
    /// As [`Text::logical`].
    pub(crate) async fn fixed(&self, tokens: Vec<TokenWithSpan>, session: &SessionState) -> Result<Plan, QueryError> {
        let logical = self.logical(tokens, session).await?;
        let physical = session.create_physical_plan(&logical).await.map_err(|error| self.planned(&error))?;
        Plan::new(physical, Arc::default()).map_err(|error| QueryError::executed(&error))
    }

    /// A plan that can be kept; `None` when the statement has none.
    ///
    /// # Errors
    /// When the statement has no plan without its values, or none at all.
    pub(crate) async fn repeatable(
        &self,
        template: &Template,
        session: &SessionState,
    ) -> Result<Option<Kept>, QueryError> {
        let generation = self.store.series_generation();
        let logical = self.logical(template.tokens.clone(), session).await?;
        let Some(metrics) = metrics_of(&logical, self.store) else { return Ok(None) };
        let cell = Arc::default();
        let told = self.told(logical, template, session, &cell).await.map_err(|error| self.planned(&error))?;
        let Some(physical) = told.filter(is_repeatable) else { return Ok(None) };
        let plan = Plan::new(physical, cell).map_err(|error| QueryError::executed(&error))?;
        Ok(Some(Kept::new(plan, metrics, generation, self.store)))
    }

    /// A plan that looks its values up; `None` when they are needed to make it.
    async fn told(
        &self,
        logical: LogicalPlan,
        template: &Template,
        session: &SessionState,
        cell: &Arc<RunCell>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>, DataFusionError> {
        let logical = session.optimize(&typed(logical, &template.parameters)?)?;
        if !has_fixed_rows(&logical) {
            return Ok(None);
        }
        let logical = told(logical, &template.parameters, cell)?;
        session.query_planner().create_physical_plan(&logical, session).await.map(Some)
    }
}

/// What the runs of plans have in common.
static RUNTIME: LazyLock<Result<RuntimeEnv, QueryError>> = LazyLock::new(|| {
    RuntimeEnvBuilder::new()
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build()
        .map_err(|error| QueryError::executed(&error))
});

/// What a plan runs in.
///
/// # Errors
/// What a runtime of DataFusion cannot be made for.
pub(crate) fn task(run: &Arc<Run>, memory_bytes: usize) -> Result<Arc<TaskContext>, QueryError> {
    let pool = Arc::new(GreedyMemoryPool::new(memory_bytes));
    let runtime = Arc::new(RuntimeEnv { memory_pool: pool, ..RUNTIME.clone()? });
    let mut config = BASE.config().clone();
    config.set_extension(Arc::clone(run));
    config.set_extension(Arc::clone(&run.deadline));
    // Functions are only looked up by name where plans come from elsewhere.
    let id = BASE.session_id().to_owned();
    let (scalar, higher, aggregate, window) = Default::default();
    Ok(Arc::new(TaskContext::new(None, id, config, scalar, higher, aggregate, window, runtime)))
}
