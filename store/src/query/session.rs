//! One DataFusion session a query, and the threads that queries run on.

use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};

use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use parking_lot::Mutex;
use tidegate_model::TimeMs;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::aggregate::AggregateScans;
use crate::functions::{self, Last, Recent};
use crate::query::error::{QueryError, QueryErrorKind, first_word, second_statement};
use crate::query::guard::Deadline;
use crate::query::refuse::{self, MAX_SQL_BYTES, UNBOUNDED};
use crate::store::Store;
use crate::tables::{CATALOG, Catalog, PUBLIC, UTC};

/// Rows of a batch. Half of DataFusion's default: a join looks at the deadline once a batch.
const BATCH_ROWS: usize = 4096;
/// Stack of a query thread: planning recurses with the nesting of the query. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

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
            .thread_stack_size(STACK_BYTES)
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
    let _ = state.register_udf(Arc::new(functions::tag()));
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

/// Everything that one query is planned with. Built without a `SessionContext`, which would set the clock anew.
pub(crate) struct Session {
    state: SessionState,
    store: Arc<Store>,
}

impl Session {
    pub(crate) fn new(store: Arc<Store>, now: TimeMs) -> Self {
        let mut state = BASE.clone();
        let mut props = ExecutionProps::new();
        // `current_date` and `current_time` come from here.
        props.query_execution_start_time = chrono::DateTime::from_timestamp_millis(now.0);
        props.config_options = Some(Arc::clone(state.config_options()));
        *state.execution_props_mut() = props;
        state.register_catalog_list(Arc::new(Catalog::new(Arc::clone(&store), now)));
        let _ = state.register_udf(Arc::new(functions::now(now)));
        state.register_udtf("last", Arc::new(Last::new(Arc::clone(&store), now)));
        state.register_udtf("recent", Arc::new(Recent::new(Arc::clone(&store), now)));
        Self { state, store }
    }

    /// Parses and plans one statement.
    ///
    /// # Errors
    /// With the place in `sql`, where there is one.
    pub(crate) async fn plan(&self, sql: &str) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
        if sql.len() > MAX_SQL_BYTES {
            let message = format!("the query is longer than {} KiB", MAX_SQL_BYTES / 1024);
            return Err(QueryError::refused(message));
        }
        let planned = |error: DataFusionError| QueryError::planned(&error, sql, &self.store);
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(ParserError::from);
        let tokens = tokens.map_err(|error| planned(error.into()))?;
        refuse::nesting(&tokens)?;
        let whole = first_word(&tokens);
        let parsed = DFParserBuilder::new(tokens).build().and_then(|mut parser| parser.parse_statements());
        let mut statements = parsed.map_err(planned)?;
        let Some(statement) = statements.pop_front() else {
            return Err(QueryError::new(QueryErrorKind::Syntax, "there is no query"));
        };
        if !statements.is_empty() {
            let refused = QueryError::refused("there is more than one statement").helped("send them one by one");
            return Err(match second_statement(sql) {
                Some((start, end)) => refused.at(start, Some(end)),
                None => refused,
            });
        }
        let at_whole = |refused: QueryError| match whole {
            Some((start, end)) if refused.line.is_none() => refused.at(start, Some(end)),
            _ => refused,
        };
        refuse::statement(&statement).and_then(|()| refuse::unfolding(&statement)).map_err(at_whole)?;
        let logical = self.state.statement_to_plan(statement).await.map_err(|error| {
            let found = QueryError::planned(&error, sql, &self.store);
            match refuse::unbounded_function(&error) {
                Some(refused) => {
                    QueryError { message: refused.message, kind: refused.kind, help: refused.help, ..found }
                }
                None => found,
            }
        })?;
        refuse::plan(&logical).map_err(at_whole)?;
        self.state.create_physical_plan(&logical).await.map_err(planned)
    }

    /// What a plan of this session runs in.
    pub(crate) fn task(&self, deadline: &Arc<Deadline>, memory_bytes: usize) -> Result<Arc<TaskContext>, QueryError> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory_bytes)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()
            .map_err(|error| QueryError::executed(&error))?;
        let mut config = self.state.config().clone();
        config.set_extension(Arc::clone(deadline));
        Ok(Arc::new(TaskContext::new(
            None,
            self.state.session_id().to_owned(),
            config,
            self.state.scalar_functions().clone(),
            self.state.higher_order_functions().clone(),
            self.state.aggregate_functions().clone(),
            self.state.window_functions().clone(),
            runtime,
        )))
    }
}
