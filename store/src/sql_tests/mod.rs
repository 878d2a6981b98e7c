//! What queries answer, what they may not do, and that they end.

mod aggregates;
mod documented;
mod history;
mod last;
mod plans;
mod recent;
mod rollup;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};

use crate::{OnLimit, QueryErrorKind, QueryOptions, QueryPool, QueryResult, Store, StoreConfig, export};

/// 2026-11-21T20:00:00Z.
pub(crate) const NOW: TimeMs = TimeMs(1_795_291_200_000);

pub(crate) struct TestStore {
    pub(crate) store: Arc<Store>,
    // Removed when the test ends.
    _dir: tempfile::TempDir,
}

pub(crate) fn open() -> TestStore {
    open_with(StoreConfig::default())
}

/// A store with a directory of its own.
fn open_with(config: StoreConfig) -> TestStore {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { dir: dir.path().join("data"), ..config };
    TestStore { store: Store::open(config, NOW).unwrap(), _dir: dir }
}

pub(crate) fn series(metric: &str, tags: &[(&str, &str)]) -> SeriesKey {
    SeriesKey::new(metric, tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

/// Metric, tags, seconds before now, value.
type TestRow<'a> = (&'a str, &'a [(&'a str, &'a str)], f64, f64);

impl TestStore {
    pub(crate) async fn push(&self, rows: &[TestRow<'_>]) {
        let mut batch = SampleBatch::new();
        for (metric, tags, ago, value) in rows {
            batch.push(series(metric, tags), TimeMs(NOW.0 - (ago * 1000.0) as i64), *value);
        }
        let report = self.store.append(&batch, TimeMs(NOW.0 + 60_000)).await.unwrap();
        assert!(report.rejected.is_empty(), "{:?}", report.rejected);
    }

    /// The same directory, opened anew.
    async fn reopened(self) -> Self {
        let TestStore { store, _dir } = self;
        let config = store.config().clone();
        store.close().await.unwrap();
        drop(store);
        TestStore { store: Store::open(config, NOW).unwrap(), _dir }
    }

    /// Pushes so many samples of one series of metric `m`, a millisecond apart, each its age in milliseconds.
    async fn push_many(&self, samples: i64) {
        let mut batch = SampleBatch::new();
        for ago in 0..samples {
            batch.push(series("m", &[("host", "a")]), TimeMs(NOW.0 - ago), ago as f64);
        }
        self.store.append(&batch, NOW).await.unwrap();
    }

    pub(crate) fn options(&self) -> QueryOptions {
        self.store.default_query_options(NOW)
    }

    pub(crate) async fn ask(&self, sql: &str) -> QueryResult {
        self.store.query(sql, &self.options()).await.unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// The rows as JSON.
    pub(crate) async fn rows(&self, sql: &str) -> String {
        String::from_utf8(export::json_rows(&self.ask(sql).await.batches).unwrap()).unwrap()
    }

    /// Waits until no query holds the store any more: its work has really ended.
    async fn quiet(&self) {
        let began = Instant::now();
        while Arc::strong_count(&self.store) > 1 {
            assert!(began.elapsed() < Duration::from_secs(20), "a query still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn now_is_the_instant_that_is_asked_for() {
    let store = open();
    let rows = store.rows("SELECT now(), current_timestamp, now() - INTERVAL '1 minute', current_date").await;
    assert_eq!(
        rows,
        r#"[["2026-11-21T20:00:00.000Z","2026-11-21T20:00:00.000Z","2026-11-21T19:59:00.000Z","2026-11-21"]]"#
    );
}

#[tokio::test]
async fn ranges_of_time_and_labels_are_decided_by_the_scan_alone() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 10.0, 1.0), ("m", &[("host", "b")], 100.0, 2.0)]).await;
    for (filter, shown) in [
        ("time > now() - INTERVAL '1 minute'", "from=2026-11-21T19:59:00.001Z, to=2026-11-21T20:00:00.000Z"),
        ("time >= '2026-11-21T19:59:00Z'", "from=2026-11-21T19:59:00.000Z, to=2026-11-21T20:00:00.000Z"),
        ("time >= '2026-11-21 19:59:00'", "from=2026-11-21T19:59:00.000Z, to=2026-11-21T20:00:00.000Z"),
        ("time > to_timestamp_millis(1795291140000)", "from=2026-11-21T19:59:00.001Z"),
        ("time BETWEEN now() - INTERVAL '60 seconds' AND now() - INTERVAL '5 seconds'", "to=2026-11-21T19:59:55.000Z"),
        ("time > now() - INTERVAL '1 minute' AND host = 'a'", "labels=host@0 = a"),
    ] {
        let plan = store.rows(&format!("EXPLAIN SELECT * FROM metric.m WHERE {filter}")).await;
        assert!(plan.contains(shown), "{filter}: {plan}");
        assert!(!plan.contains("FilterExec"), "{filter}: {plan}");
        let rows = store.rows(&format!("SELECT host, value FROM metric.m WHERE {filter}")).await;
        assert_eq!(rows, r#"[["a",1.0]]"#, "{filter}");
    }
    let plan = store.rows("EXPLAIN SELECT * FROM metric.m WHERE value > 1").await;
    assert!(plan.contains("FilterExec") && plan.contains("from=the beginning"), "{plan}");
}

#[tokio::test]
async fn what_is_later_than_now_is_not_seen() {
    let store = open();
    store.push(&[("m", &[], 0.0, 1.0), ("m", &[], -30.0, 2.0)]).await;
    assert_eq!(store.rows("SELECT value FROM metric.m").await, "[[1.0]]");
    let later = QueryOptions { now: TimeMs(NOW.0 + 30_000), ..store.options() };
    let result = store.store.query("SELECT max(value) FROM samples", &later).await.unwrap();
    assert_eq!(result.batches[0].column(0).as_primitive::<Float64Type>().value(0), 2.0);
}

#[tokio::test]
async fn queries_that_run_away_end_soon_after_their_time() {
    let store = open();
    let joins = [
        // Explodes within one probe batch.
        "select count(*) from generate_series(1,1000000) a join generate_series(1,100000) b on a.value % 7 = b.value % 11",
        // Filters everything away, so the join never has an output to stop at.
        "select count(*) from generate_series(1,1000000) a join generate_series(1,100000) b on a.value % 7 = b.value % 11 \
         and a.value + b.value < 0",
        "select count(*) from generate_series(1,1000000) a, generate_series(1,1000000) b, generate_series(1,1000000) c",
        "select count(*) from generate_series(1,1000000) a join generate_series(1,1000000) b on a.value * b.value < 0",
        "select count(*) from generate_series(1,1000000) a where exists (select 1 from generate_series(1,300000) b \
         where a.value % 2 = b.value % 2 and a.value + b.value < 0)",
        "select a.value from generate_series(1,1000000) a left join generate_series(1,1000000) b on a.value < -b.value",
        "select max(value) from generate_series(1, 1000000000000)",
        "with recursive r as (select 1 as x union all select x + 1 from r) select count(*) from r",
        "select sum(x.v) from (select a.value + b.value as v from generate_series(1,100000) a cross join \
         generate_series(1,100000) b) x where x.v % 2 = 3",
    ];
    for sql in joins {
        let options = QueryOptions { timeout: Duration::from_millis(300), ..store.options() };
        let began = Instant::now();
        let error = store.store.query(sql, &options).await.unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Timeout, "{error}: {sql}");
        store.quiet().await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}: {sql}", began.elapsed());
    }
}

#[tokio::test]
async fn semi_joins_without_a_filter_end_too() {
    let store = open();
    let sql = "select count(*) from generate_series(1,3000000) a where a.value % 2 in \
               (select b.value % 2 from generate_series(1,2000000) b)";
    let options = QueryOptions { timeout: Duration::from_millis(500), ..store.options() };
    // Fast enough to be answered, or stopped in time: never in between.
    if let Err(error) = store.store.query(sql, &options).await {
        assert_eq!(error.kind, QueryErrorKind::Timeout, "{error}");
    }
    store.quiet().await;
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_ends() {
    let store = open();
    let sql = "select count(*) from generate_series(1,1000000) a, generate_series(1,1000000) b";
    let options = QueryOptions { timeout: Duration::from_secs(600), ..store.options() };
    {
        let query = store.store.query(sql, &options);
        assert!(tokio::time::timeout(Duration::from_millis(200), query).await.is_err());
    }
    store.quiet().await;
}

#[tokio::test]
async fn texts_that_unfold_or_nest_without_end_are_refused() {
    let store = open();
    let mut laughs = "WITH c0 AS (SELECT 1 AS x)".to_owned();
    for level in 1..40 {
        let below = level - 1;
        laughs.push_str(&format!(", c{level} AS (SELECT x FROM c{below} UNION ALL SELECT x FROM c{below})"));
    }
    laughs.push_str(" SELECT count(*) FROM c39");
    let error = store.store.query(&laughs, &store.options()).await.unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::Refused, "{error}");

    let nested = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let error = store.store.query(&nested, &store.options()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (QueryErrorKind::Syntax, "the query is nested too deeply"));
    let nested = format!("SELECT {}1{}", "abs(".repeat(1_000), ")".repeat(1_000));
    let error = store.store.query(&nested, &store.options()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (QueryErrorKind::Syntax, "the query is nested too deeply"));
    for (chain, end) in [("1+", "1"), ("-", "1"), ("NOT ", "true"), ("1=", "1"), ("SELECT 1 UNION ALL ", "SELECT 1")] {
        let verb = if chain.starts_with('S') { "" } else { "SELECT " };
        let long = format!("{verb}{}{end}", chain.repeat(10_000));
        let error = store.store.query(&long, &store.options()).await.unwrap_err();
        assert!(matches!(error.kind, QueryErrorKind::Refused | QueryErrorKind::Syntax), "{error}");
    }
    let allowed = format!("SELECT {}1", "1+".repeat(900));
    assert_eq!(store.rows(&allowed).await, "[[901]]");
    let unions = format!("{}SELECT 1", "SELECT 1 UNION ALL ".repeat(300));
    let _ = store.store.query(&unions, &store.options()).await;
    let ors = format!("SELECT count(*) FROM usage WHERE {} true", "value = 1 OR ".repeat(400));
    let _ = store.store.query(&ors, &store.options()).await;
    let columns: Vec<String> = (0..2_000).map(|at| format!("1 AS c{at}")).collect();
    for wide in [
        format!("SELECT {}", columns.join(", ")),
        format!("SELECT * FROM (SELECT 1 UNION SELECT {})", columns.join(", ")),
    ] {
        let error = store.store.query(&wide, &store.options()).await.unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Refused, "{error}");
    }
    let called = format!("SELECT coalesce({})", ["1"; 101].join(", "));
    let error = store.store.query(&called, &store.options()).await.unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::Refused, "{error}");
    let values: Vec<String> = (0..20_000).map(|at| at.to_string()).collect();
    let listed = format!("SELECT count(*) FROM usage WHERE value IN ({})", values.join(", "));
    assert_eq!(store.rows(&listed).await, "[[0]]");
    let long = format!("SELECT '{}'", "x".repeat(300_000));
    let error = store.store.query(&long, &store.options()).await.unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::Refused, "{error}");
    let mut doubled = "WITH c0 AS (SELECT [1, 2] AS x)".to_owned();
    for level in 1..30 {
        doubled.push_str(&format!(", c{level} AS (SELECT [unnest(x), 1] AS x FROM c{})", level - 1));
    }
    doubled.push_str(" SELECT count(*) FROM c29");
    let options = QueryOptions { memory_bytes: 16 << 20, timeout: Duration::from_secs(5), ..store.options() };
    let error = store.store.query(&doubled, &options).await.unwrap_err();
    assert!(matches!(error.kind, QueryErrorKind::Memory | QueryErrorKind::Timeout), "{error}");
    store.quiet().await;
}

#[tokio::test]
async fn texts_that_grow_by_leaps_are_stopped_before_they_take_the_memory() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 1.0, 1.0)]).await;
    let thousand = "a".repeat(1_000);
    let nest = |from: &str, call: &str, flags: &str| {
        let mut text = from.to_owned();
        for _ in 0..5 {
            text = format!("{call}({text}, 'a', '{thousand}'{flags})");
        }
        text
    };
    let joined = format!(
        "array_to_string(string_to_array(array_to_string(string_to_array('{thousand}', NULL), '{thousand}'), \
         NULL), '{thousand}')"
    );
    let mut doubled = "WITH c0 AS (SELECT host AS x FROM metric.m)".to_owned();
    for level in 1..45 {
        doubled.push_str(&format!(", c{level} AS (SELECT x || x AS x FROM c{})", level - 1));
    }
    doubled.push_str(" SELECT length(x) FROM c44");
    let joins = |call: &str, from: &str| {
        let mut text = format!("WITH c0 AS ({from})");
        for level in 1..6 {
            let arguments = ["x"; 99].join(", ");
            text.push_str(&format!(", c{level} AS (SELECT {call}({arguments}) AS x FROM c{})", level - 1));
        }
        text + " SELECT length(x) FROM c5"
    };
    let constant = doubled.replace("host AS x FROM metric.m", "'x' AS x");
    for sql in [
        format!("SELECT length({})", nest("'a'", "replace", "")),
        format!("SELECT length({}) FROM metric.m", nest("host", "replace", "")),
        format!("SELECT length({})", nest("'a'", "regexp_replace", ", 'g'")),
        format!("SELECT length({joined})"),
        doubled,
        constant,
        joins("concat", "SELECT host AS x FROM metric.m"),
        joins("concat_ws", "SELECT host AS x FROM metric.m"),
        joins("concat", "SELECT 'x' AS x"),
    ] {
        let options = QueryOptions { memory_bytes: 64 << 20, ..store.options() };
        let error = store.store.query(&sql, &options).await.unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Memory, "{error}");
    }
    let sql = "SELECT replace(host, 'a', 'bb'), regexp_replace(host, '[a-z]', 'x', 'g'), array_to_string([1, 2], '+'), \
               concat(host, 1, NULL, 'x'), concat_ws('-', host, 'x', NULL) FROM metric.m";
    assert_eq!(store.rows(sql).await, r#"[["bb","x","1+2","a1x","a-x"]]"#);
}

#[tokio::test]
async fn whatever_changes_something_is_refused() {
    let store = open();
    store.push(&[("m", &[], 1.0, 1.0)]).await;
    for sql in [
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "DROP TABLE metric.m",
        "INSERT INTO metric.m VALUES (now(), 1)",
        "DELETE FROM metric.m",
        "UPDATE metric.m SET value = 1",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "COPY metric.m TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "TRUNCATE TABLE metric.m",
        "BEGIN",
        "EXPLAIN INSERT INTO metric.m VALUES (now(), 1)",
        "EXPLAIN ANALYZE INSERT INTO metric.m VALUES (now(), 1)",
        "SELECT 1; SELECT 2",
        "SELECT array_agg(value) OVER (ORDER BY time) FROM metric.m",
        "SELECT repeat('x', 1000000000)",
        "SELECT range(1, 1000000000)",
        "SELECT levenshtein('a', 'b')",
        "SELECT 1 INTO y",
    ] {
        let error = store.store.query(sql, &store.options()).await.unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Refused, "{error}: {sql}");
        assert!(error.help.is_some(), "{error}: {sql}");
        assert_eq!(store.store.check(sql, NOW).await.unwrap_err().kind, QueryErrorKind::Refused, "{sql}");
    }
    let missing = store.store.query("SELECT * FROM '/etc/passwd'", &store.options()).await.unwrap_err();
    assert_eq!(missing.kind, QueryErrorKind::Plan);
    for sql in [
        "VALUES (1)",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM metric.m",
        "SHOW TABLES",
        "SHOW COLUMNS FROM metric.m",
        "DESCRIBE usage",
        "SELECT table_name FROM information_schema.tables",
        "SELECT count(*) FROM generate_series(1, 5)",
    ] {
        assert!(store.ask(sql).await.num_rows() > 0, "{sql}");
        store.store.check(sql, NOW).await.unwrap();
    }
}

#[tokio::test]
async fn rows_beyond_the_limit_are_cut_or_fail() {
    let store = open();
    let sql = "SELECT * FROM generate_series(1, 100000)";
    let options = QueryOptions { max_rows: 5_000, ..store.options() };
    let result = store.store.query(sql, &options).await.unwrap();
    assert_eq!((result.num_rows(), result.truncated), (5_000, true));
    let exact = QueryOptions { max_rows: 100_000, on_limit: OnLimit::Fail, ..store.options() };
    assert!(!store.store.query(sql, &exact).await.unwrap().truncated);
    let options = QueryOptions { on_limit: OnLimit::Fail, ..options };
    assert_eq!(store.store.query(sql, &options).await.unwrap_err().kind, QueryErrorKind::Rows);
}

#[tokio::test]
async fn memory_is_bounded_for_operators_scans_and_answers() {
    let store = open();
    store.push_many(50_000).await;
    let options = QueryOptions { memory_bytes: 256 << 10, ..store.options() };
    for sql in [
        "SELECT value, count(*) FROM generate_series(1, 1000000) GROUP BY value",
        "SELECT value FROM generate_series(1, 1000000) ORDER BY -value",
        "SELECT sum(abs(value)) FROM metric.m",
        "SELECT * FROM generate_series(1, 90000)",
        "SELECT a.value FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value = b.value",
    ] {
        let error = store.store.query(sql, &options).await.unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Memory, "{error}: {sql}");
    }
    assert_eq!(store.rows("SELECT count(*), max(value) FROM metric.m").await, "[[50000,49999.0]]");
    store.quiet().await;
}

#[tokio::test]
async fn answers_and_checked_schemas_have_plain_types() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 1.0, 1.0)]).await;
    let sql = "SELECT host, container, tags, arrow_cast('x', 'Dictionary(Int32, Utf8)') AS d FROM \
               (SELECT 'h' AS host, 'c' AS container, tags FROM samples)";
    let result = store.ask(sql).await;
    assert!(result.schema.fields().iter().all(|field| *field.data_type() == arrow::datatypes::DataType::Utf8));
    assert_eq!(result.batches[0].schema(), result.schema);
    assert_eq!(store.store.check(sql, NOW).await.unwrap(), result.schema);
    assert_eq!(store.rows("SELECT tag(tags, 'host'), tag(tags, 'x') FROM samples").await, r#"[["a",null]]"#);
}

#[tokio::test]
async fn a_long_scan_is_read_in_slices_and_each_row_once() {
    let store = open();
    let mut batch = SampleBatch::new();
    for minute in 0..5_000 {
        batch.push(series("m", &[("host", "a")]), TimeMs(NOW.0 - minute * 60_000), minute as f64);
    }
    store.store.append(&batch, NOW).await.unwrap();
    assert_eq!(store.rows("SELECT count(*), sum(value), min(value) FROM metric.m").await, "[[5000,12497500.0,0.0]]");
    let ranged = "SELECT count(*) FROM metric.m WHERE time >= now() - INTERVAL '100 minutes' AND host = 'a'";
    assert_eq!(store.rows(ranged).await, "[[101]]");
    assert_eq!(store.rows("SELECT count(abs(value)), sum(abs(value)) FROM metric.m").await, "[[5000,12497500.0]]");
    assert_eq!(store.ask("SELECT value FROM metric.m LIMIT 1").await.num_rows(), 1);
}

#[test]
fn a_store_can_be_dropped_on_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open();
        store.ask("SELECT 1").await;
        drop(store);
    });
}

#[tokio::test]
async fn tables_and_functions_are_listed_with_their_columns() {
    let store = open();
    store.push(&[("proc.cpu", &[("host", "a")], 1.0, 1.0)]).await;
    let tables = store.store.tables();
    let metric = tables.iter().find(|table| table.schema == "metric").unwrap();
    let columns: Vec<_> =
        metric.columns.iter().map(|column| (column.name.as_str(), column.data_type.as_str())).collect();
    assert_eq!(columns, [("time", "timestamp"), ("host", "text"), ("value", "double")]);
    for table in &tables {
        let result = store.ask(&format!("SELECT * FROM {}.\"{}\" LIMIT 0", table.schema, table.name)).await;
        let names: Vec<_> = result.schema.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
    }
    let functions = store.store.functions();
    assert_eq!(functions[0].name, "recent");
    assert_eq!(functions[0].columns.len(), 28);
    assert!(functions.iter().any(|function| function.name == "date_bin" && !function.doc.is_empty()));
}

#[tokio::test]
async fn queries_beyond_the_bound_wait_and_rules_do_not() {
    let store = open();
    let slots = Arc::clone(&store.store.query_slots);
    let all = slots.acquire_many(store.store.config().max_concurrent_queries as u32).await.unwrap();
    let options = QueryOptions { timeout: Duration::from_millis(50), ..store.options() };
    let error = store.store.query("SELECT 1", &options).await.unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::Timeout);
    assert!(error.message.contains("waited 50 ms"), "{error}");
    let rule = QueryOptions { pool: QueryPool::Rules, timeout: Duration::from_secs(10), ..options };
    store.store.query("SELECT 1", &rule).await.unwrap();
    drop(all);
    store.ask("SELECT 1").await;
}

#[tokio::test]
async fn a_present_far_in_the_future_or_nothing_stored_takes_no_longer() {
    let store = open();
    let far = QueryOptions { now: TimeMs(i64::MAX / 2), timeout: Duration::from_secs(5), ..store.options() };
    let count = store.store.query("SELECT count(*) FROM events", &far).await.unwrap();
    assert_eq!(count.num_rows(), 1);
    store.push(&[("m", &[], 1.0, 1.0)]).await;
    let found = store.store.query("SELECT value FROM metric.m", &far).await.unwrap();
    assert_eq!(found.num_rows(), 1);
}
