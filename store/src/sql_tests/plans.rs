//! A plan that is kept answers as one that was just made.

use std::sync::Arc;

use proptest::prelude::*;
use tidegate_model::{Bounds, CgroupVersion, Container, ContainerKey, Resource, SampleBatch, SeriesKey, TimeMs};

use super::{NOW, TestStore, open, series};
use crate::{Parameter, QueryErrorKind, QueryOptions, QueryPool, export};

impl TestStore {
    async fn rows_at(&self, sql: &str, now: i64, parameters: &[(&str, Parameter)]) -> String {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let options = QueryOptions { now: TimeMs(now), parameters, ..self.options() };
        let result = self.store.query(sql, &options).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        String::from_utf8(export::json_rows(&result.batches).unwrap()).unwrap()
    }

    fn kept(&self) -> Vec<String> {
        self.store.plans.of(QueryPool::Interactive).keys()
    }

    fn idle(&self) -> usize {
        self.store.plans.of(QueryPool::Interactive).idle()
    }
}

fn text(value: &str) -> Parameter {
    Parameter::Text(value.to_owned())
}

fn number(value: &str) -> Parameter {
    Parameter::Number(value.to_owned())
}

#[tokio::test]
async fn a_kept_plan_moves_with_now_and_sees_what_came_since() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 90.0, 1.0), ("m", &[("host", "a")], 30.0, 2.0)]).await;
    let sql = "SELECT now(), max(now() - time), count(*) FROM metric.m WHERE time > now() - INTERVAL '1 minute'";
    assert_eq!(store.rows(sql).await, r#"[["2026-11-21T20:00:00.000Z","PT30S",1]]"#);
    assert_eq!(store.idle(), 1);
    let before = store.rows_at(sql, NOW.0 - 40_000, &[]).await;
    assert_eq!(before, r#"[["2026-11-21T19:59:20.000Z","PT50S",1]]"#);
    store.push(&[("m", &[("host", "b")], 10.0, 3.0)]).await;
    assert!(store.rows(sql).await.ends_with("\"PT30S\",2]]"));
    assert_eq!(store.rows_at(sql, NOW.0 - 40_000, &[]).await, before, "the same instant, the same answer");
    assert_eq!(store.idle(), 1, "all of them ran the plan of the first");
}

#[tokio::test]
async fn a_product_with_a_few_settings_comes_in_few_batches() {
    let store = open();
    let containers: Vec<String> = (0..500).map(|nth| format!("c{nth}")).collect();
    let tags: Vec<[(&str, &str); 1]> = containers.iter().map(|name| [("host", name.as_str())]).collect();
    let samples: Vec<_> = tags.iter().map(|tags| ("m", &tags[..], 1.0, 1.0)).collect();
    store.push(&samples).await;
    for (settings, rows) in [("(VALUES (2))", 500), ("(VALUES (2), (3))", 1_000)] {
        let sql = format!("SELECT m.host, s.factor * m.value FROM metric.m AS m CROSS JOIN {settings} AS s(factor)");
        let found = store.store.query(&sql, &store.options()).await.unwrap();
        assert_eq!(found.batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), rows);
        assert!(found.batches.len() < 5, "{} batches", found.batches.len());
    }
    // Rows of a union come in several parts, of which none can be collected before the others.
    let union = "SELECT count(*) FROM metric.m CROSS JOIN (SELECT 2 UNION ALL SELECT 3) AS s(factor)";
    assert_eq!(store.rows(union).await, "[[1000]]");
}

#[tokio::test]
async fn rows_by_time_need_no_sort_and_the_first_ones_no_more_than_they() {
    let store = open();
    for ago in [40.0, 7_000.0, 3.0, 20_000.0, 3.0] {
        store.push(&[("m", &[("host", "a")], ago, ago), ("m", &[("host", "b")], ago + 1.0, -ago)]).await;
    }
    let newest = "SELECT time, value FROM metric.m ORDER BY time DESC LIMIT 3";
    let rows = store.rows(newest).await;
    assert_eq!(rows.matches("[\"").count(), 3, "{rows}");
    assert!(rows.contains("19:59:57.000Z\",3.0],[\"2026-11-21T19:59:56.000Z\",-3.0],"), "{rows}");
    for (sql, values) in [
        (
            "SELECT value FROM metric.m WHERE time < now() - INTERVAL '1 minute' ORDER BY time",
            "[[-20000.0],[20000.0],[-7000.0],[7000.0]]",
        ),
        ("SELECT value FROM metric.m WHERE host = 'a' ORDER BY time DESC", "[[3.0],[40.0],[7000.0],[20000.0]]"),
        ("SELECT value FROM metric.m ORDER BY time, host LIMIT 1", "[[-20000.0]]"),
    ] {
        assert_eq!(store.rows(sql).await, values, "{sql}");
    }
    let plan = store.rows(&format!("EXPLAIN {newest}")).await;
    assert!(plan.contains("order=time") && !plan.contains("SortExec"), "{plan}");
}

#[tokio::test]
async fn a_tag_is_compared_as_a_column_is() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 9.0, 1.0), ("m", &[("host", "b")], 8.0, 2.0)]).await;
    let sql = |host: &str| format!("SELECT value FROM samples WHERE tag(tags, 'host') = '{host}' AND metric = 'm'");
    for (host, rows) in [("a", "[[1.0]]"), ("b", "[[2.0]]"), ("c", "[]"), ("it''s", "[]"), ("a", "[[1.0]]")] {
        assert_eq!(store.rows(&sql(host)).await, rows, "{host}");
    }
    assert_eq!((store.idle(), store.kept().len()), (1, 1), "{:?}", store.kept());
}

#[tokio::test]
async fn everything_that_follows_from_the_instant_moves() {
    let store = open();
    for ago in 0..200 {
        store.push(&[("m", &[("host", if ago % 2 == 0 { "a" } else { "b" })], f64::from(ago), f64::from(ago))]).await;
    }
    let day = 86_400_000;
    for sql in [
        "SELECT current_date, current_time, current_timestamp, now()::date",
        "SELECT count(*) FROM metric.m WHERE time >= date_trunc('minute', now()) - INTERVAL '1 minute' AND time < now()",
        "SELECT count(*) FROM metric.m WHERE time BETWEEN date_bin(INTERVAL '30 seconds', now()) AND now()",
        "SELECT count(*) FROM metric.m WHERE now() - time < INTERVAL '20 seconds'",
        "SELECT date_bin(INTERVAL '10 seconds', time, now()) AS t, max(value) FROM metric.m GROUP BY t ORDER BY t",
        "SELECT time > now() - INTERVAL '5 seconds' AS fresh, count(*) FROM metric.m GROUP BY fresh ORDER BY fresh",
        "SELECT count(*) FROM metric.m a LEFT JOIN metric.m b ON a.time = b.time AND a.host = b.host \
         WHERE b.time > now() - INTERVAL '10 seconds' AND a.host = 'a'",
        "SELECT (SELECT max(value) FROM metric.m WHERE time > now() - INTERVAL '7 seconds'), count(*) FROM metric.m \
         WHERE value < (SELECT avg(value) FROM metric.m WHERE time < now() - INTERVAL '3 seconds')",
        "WITH w AS (SELECT * FROM metric.m WHERE time > now() - INTERVAL '15 seconds') \
         SELECT a.host, max(b.value) FROM w a JOIN w b ON a.host = b.host GROUP BY a.host ORDER BY 1",
        "SELECT host, value FROM metric.m WHERE host IN (SELECT host FROM metric.m WHERE time > now() - INTERVAL '1 second') \
         ORDER BY value DESC LIMIT 3",
        "SELECT value, lag(value) OVER (PARTITION BY host ORDER BY time) FROM metric.m \
         WHERE time > now() - INTERVAL '5 seconds' ORDER BY time",
        "SELECT CASE WHEN now() > '2026-11-21T20:00:00Z' THEN 'late' ELSE 'early' END",
        "SELECT coalesce(max(time), now()) FROM metric.m WHERE time > now()",
    ] {
        for now in [NOW.0, NOW.0 - 33_333, NOW.0 + 2 * day, NOW.0 - 33_333] {
            let again = store.rows_at(sql, now, &[]).await;
            let alone = open_with_same(&store).await;
            assert_eq!(again, alone.rows_at(sql, now, &[]).await, "{sql} at {now}");
        }
    }
}

#[tokio::test]
async fn rows_that_are_written_out_are_planned_once_unless_they_move() {
    let store = open();
    let fixed = "SELECT a + 1, b, now() FROM (VALUES (1, 'x'), (-2, NULL)) AS v(a, b) ORDER BY a";
    let at = store.rows_at(fixed, NOW.0, &[]).await;
    assert_eq!(at, r#"[[-1,null,"2026-11-21T20:00:00.000Z"],[2,"x","2026-11-21T20:00:00.000Z"]]"#);
    assert_eq!(store.rows_at(fixed, NOW.0 - 40_000, &[]).await, at.replace("20:00:00", "19:59:20"));
    assert_eq!(store.idle(), 1);
    let moving = "SELECT a FROM (VALUES (now()), (now() - INTERVAL '1 second')) AS v(a) ORDER BY a";
    for (now, rows) in [(NOW.0, "19:59:59.000Z"), (NOW.0 - 40_000, "19:59:19.000Z")] {
        assert!(store.rows_at(moving, now, &[]).await.contains(rows));
    }
    let given = "SELECT a FROM (VALUES ($x)) AS v(a)";
    for value in ["1", "2"] {
        assert_eq!(store.rows_at(given, NOW.0, &[("x", number(value))]).await, format!("[[{value}]]"));
    }
    assert_eq!(store.idle(), 1, "{:?}", store.kept());
}

/// A store with the same data and no plans.
async fn open_with_same(store: &TestStore) -> TestStore {
    let other = open();
    let mut batch = SampleBatch::new();
    for metric in store.store.metrics() {
        for (sid, key) in store.store.series_of(&metric.name, i64::MIN) {
            let wanted = crate::scan::Wanted { metric: &metric.name, series: None, from: i64::MIN, to: i64::MAX };
            for chunk in store.store.scan(&wanted).unwrap() {
                for row in 0..chunk.times.len() {
                    if chunk.series.value(row) == sid {
                        batch.push((*key).clone(), TimeMs(chunk.times.value(row)), chunk.values.value(row));
                    }
                }
            }
        }
    }
    other.store.append(&batch, TimeMs(NOW.0 + 60_000)).await.unwrap();
    other
}

#[tokio::test]
async fn a_metric_with_a_new_tag_is_planned_anew_and_others_are_not() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 1.0, 1.0), ("n", &[], 1.0, 1.0)]).await;
    let (star, other) = ("SELECT * EXCLUDE (time) FROM metric.m ORDER BY value", "SELECT count(*) FROM metric.n");
    assert_eq!(store.rows(star).await, r#"[["a",1.0]]"#);
    assert_eq!(store.rows(other).await, "[[1]]");
    store.push(&[("m", &[("host", "b"), ("zone", "z")], 1.0, 2.0)]).await;
    assert_eq!(store.rows(star).await, r#"[["a",null,1.0],["b","z",2.0]]"#);
    assert_eq!(store.rows(other).await, "[[1]]");
    assert_eq!(store.idle(), 2);
    let missing = "SELECT count(*) FROM metric.later";
    assert_eq!(store.store.query(missing, &store.options()).await.unwrap_err().kind, QueryErrorKind::Plan);
    store.push(&[("later", &[], 1.0, 1.0)]).await;
    assert_eq!(store.rows(missing).await, "[[1]]");
}

#[tokio::test]
async fn current_facts_are_those_of_the_run() {
    let store = open();
    let sql = "SELECT c.container, b.max FROM containers c LEFT JOIN bounds b ON b.container = c.container ORDER BY 1";
    assert_eq!(store.rows(sql).await, "[]");
    assert_eq!(store.rows("SELECT count(*) FROM containers").await, "[[0]]");
    let container = |name: &str| Container {
        key: ContainerKey { host: "h".to_owned(), name: name.to_owned() },
        app: None,
        user: None,
        runtime: tidegate_model::Runtime::Bare,
        id: name.to_owned(),
        path: name.into(),
        cgroup: CgroupVersion::V2,
        labels: Default::default(),
        incarnation: 1,
        first_seen: NOW,
        last_seen: NOW,
        baseline: Default::default(),
        bounds: [(Resource::Cpu, Bounds { min: 0.5, max: 2.0 })].into(),
    };
    store.store.put_containers(&[container("web")]).unwrap();
    assert_eq!(store.rows(sql).await, r#"[["web",2.0]]"#);
    assert_eq!(store.rows("SELECT count(*) FROM containers").await, "[[1]]");
    assert_eq!(store.idle(), 2);
}

#[tokio::test]
async fn questions_about_different_containers_share_a_plan() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 1.0, 1.0), ("m", &[("host", "it's")], 1.0, 2.0)]).await;
    let ask = |host: &str| {
        format!("SELECT host, value FROM metric.m WHERE host = '{host}' AND time > now() - INTERVAL '1 hour'")
    };
    assert_eq!(store.rows(&ask("a")).await, r#"[["a",1.0]]"#);
    assert_eq!(store.rows(&ask("it''s")).await, r#"[["it's",2.0]]"#);
    assert_eq!(store.rows(&ask("nobody")).await, "[]");
    assert_eq!((store.kept().len(), store.idle()), (1, 1));
    let listed = |hosts: &str| format!("SELECT sum(value) FROM metric.m WHERE host IN ({hosts})");
    assert_eq!(store.rows(&listed("'a', 'x'")).await, "[[1.0]]");
    assert_eq!(store.rows(&listed("'it''s', 'a'")).await, "[[3.0]]");
    assert_eq!((store.kept().len(), store.idle()), (2, 2));
    // A value with the sign that keys have in the place of values finds no plan of another text.
    assert_eq!(store.rows("SELECT count(*) FROM metric.m WHERE host = '\0'").await, "[[0]]");
    assert_eq!(store.rows("SELECT count(*) FROM metric.m WHERE value = '2'").await, "[[1]]");
    assert_eq!(store.rows("SELECT count(*) FROM metric.m WHERE value = '1'").await, "[[1]]");
    let error = store.store.query("SELECT * FROM metric.m WHERE value = 'x'", &store.options()).await.unwrap_err();
    assert!(error.message.contains('x'), "{error}");
}

#[tokio::test]
async fn parameters_stand_wherever_a_value_can() {
    let store = open();
    store.push(&[("m", &[("host", "a")], 70.0, 1.0), ("m", &[("host", "b")], 1.0, -2.5)]).await;
    let by_name = "SELECT host, value FROM metric.m WHERE host = $h AND value > $low";
    for (host, low, rows) in [("a", "0", r#"[["a",1.0]]"#), ("b", "-3", r#"[["b",-2.5]]"#), ("b", "0", "[]")] {
        assert_eq!(store.rows_at(by_name, NOW.0, &[("h", text(host)), ("low", number(low))]).await, rows);
    }
    assert_eq!((store.kept().len(), store.idle()), (1, 1));
    let since = "SELECT count(*) FROM metric.m WHERE time >= $1";
    assert_eq!(store.rows_at(since, NOW.0, &[("1", text("2026-11-21T19:59:00Z"))]).await, "[[1]]");
    assert_eq!(store.rows_at(since, NOW.0, &[("1", text("2026-11-21T19:00:00Z"))]).await, "[[2]]");
    for (sql, parameters, rows) in [
        ("SELECT $x AS x, $x || 'y'", vec![("x", text("a'b"))], r#"[["a'b","a'by"]]"#),
        ("SELECT abs($1), -$1", vec![("1", number("-2"))], "[[2,2]]"),
        ("SELECT $1 IS NULL, $2", vec![("1", Parameter::Null), ("2", Parameter::Boolean(true))], "[[true,true]]"),
        ("SELECT value FROM metric.m ORDER BY value LIMIT $n", vec![("n", number("1"))], "[[-2.5]]"),
        ("SELECT count(*) FROM recent($w)", vec![("w", number("60"))], "[[0]]"),
        ("SELECT max(value) FROM metric.m GROUP BY host HAVING max(value) > $1", vec![("1", number("0.5"))], "[[1.0]]"),
        ("SELECT count(*) FROM metric.m WHERE host IN ($a, $b)", vec![("a", text("a")), ("b", text("c"))], "[[1]]"),
    ] {
        for _ in 0..2 {
            assert_eq!(store.rows_at(sql, NOW.0, &parameters).await, rows, "{sql}");
        }
    }
    for (sql, parameters) in [("SELECT $1", vec![]), ("SELECT 1", vec![("1".to_owned(), text("x"))])] {
        let options = QueryOptions { parameters, ..store.options() };
        assert_eq!(store.store.query(sql, &options).await.unwrap_err().kind, QueryErrorKind::Refused, "{sql}");
    }
}

#[tokio::test]
async fn a_plan_is_never_run_twice_at_once() {
    let store = open();
    for host in ["a", "b", "c"] {
        store.push(&[("m", &[("host", host)], 1.0, 1.0)]).await;
    }
    let sql = "SELECT a.host, count(*) FROM metric.m a JOIN metric.m b ON a.time = b.time GROUP BY a.host ORDER BY 1";
    let expected = store.rows(sql).await;
    let mut asked = tokio::task::JoinSet::new();
    for at in 0..40 {
        let (store, expected) = (Arc::clone(&store.store), expected.clone());
        asked.spawn(async move {
            let now = TimeMs(NOW.0 - 10_000 * (at % 2));
            let result = store.query(sql, &store.default_query_options(now)).await.unwrap();
            let rows = String::from_utf8(export::json_rows(&result.batches).unwrap()).unwrap();
            assert_eq!(rows, if at % 2 == 0 { expected } else { "[]".to_owned() });
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
    assert!((1..=8).contains(&store.idle()), "{}", store.idle());
}

#[tokio::test]
async fn few_plans_are_kept_and_those_of_rules_apart() {
    let store = open();
    let rule = QueryOptions { pool: QueryPool::Rules, ..store.options() };
    store.store.query("SELECT count(*) FROM usage", &rule).await.unwrap();
    for at in 0..300 {
        store.rows(&format!("SELECT {at}")).await;
    }
    assert_eq!(store.kept().len(), 256);
    assert_eq!(store.store.plans.of(QueryPool::Rules).idle(), 1);
    let long = format!("SELECT 1 -- {}", "x".repeat(20_000));
    store.rows(&long).await;
    assert!(!store.kept().contains(&long));
}

#[tokio::test]
async fn a_plan_that_was_stopped_is_not_run_again() {
    let store = open();
    store.push_many(50_000).await;
    let sql = "SELECT count(*) FROM (SELECT DISTINCT value FROM metric.m)";
    let narrow = QueryOptions { memory_bytes: 256 << 10, ..store.options() };
    for _ in 0..2 {
        assert_eq!(store.store.query(sql, &narrow).await.unwrap_err().kind, QueryErrorKind::Memory);
        assert_eq!(store.rows(sql).await, "[[50000]]");
    }
    let cut = QueryOptions { max_rows: 10, ..store.options() };
    for _ in 0..2 {
        assert!(store.store.query("SELECT value FROM metric.m", &cut).await.unwrap().truncated);
    }
    store.quiet().await;
}

/// Statements with every kind of operator that is kept.
const STATEMENTS: [&str; 8] = [
    "SELECT host, count(*), sum(value), max(time) FROM metric.m WHERE time > now() - INTERVAL '20 seconds' GROUP BY host \
     ORDER BY host",
    "SELECT time, host, value FROM metric.m WHERE host = 'a' AND time <= now() - INTERVAL '3 seconds' \
     ORDER BY time DESC, value LIMIT 5",
    "SELECT a.host, a.value, b.value FROM metric.m a JOIN metric.m b ON a.host = b.host AND a.time = b.time \
     WHERE a.time > now() - INTERVAL '15 seconds' ORDER BY a.time, a.host",
    "SELECT count(*) FROM metric.m a JOIN metric.m b ON a.value < b.value WHERE a.time > now() - INTERVAL '9 seconds'",
    "SELECT host, value - lag(value) OVER (PARTITION BY host ORDER BY time) FROM metric.m ORDER BY host, time",
    "SELECT value FROM metric.m WHERE value > (SELECT avg(value) FROM metric.m WHERE time < now()) ORDER BY value",
    "SELECT host FROM metric.m WHERE time > now() - INTERVAL '9 seconds' UNION SELECT host FROM metric.m WHERE host = 'c' \
     ORDER BY host",
    "SELECT DISTINCT host FROM metric.m x WHERE EXISTS (SELECT 1 FROM metric.m y WHERE y.host = x.host AND \
     y.time > now() - INTERVAL '4 seconds') ORDER BY host",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_kept_plan_answers_as_a_new_one(
        rounds in proptest::collection::vec(
            (proptest::collection::vec((0..3_usize, 0..30_i64, 0..50_u32), 0..20), -10..40_i64),
            1..5,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (kept, mut all) = (open(), SampleBatch::new());
            let first = (series("m", &[("host", "a")]), NOW, 1.0);
            let add = |batch: &mut SampleBatch, (key, time, value): (SeriesKey, TimeMs, f64)| batch.push(key, time, value);
            add(&mut all, first.clone());
            kept.store.append(&all, NOW).await.unwrap();
            for (round, (points, later)) in rounds.into_iter().enumerate() {
                let mut batch = SampleBatch::new();
                for (host, ago, value) in points {
                    let point = (series("m", &[("host", ["a", "b", "c"][host])]), TimeMs(NOW.0 - ago * 1_000), f64::from(value));
                    add(&mut batch, point.clone());
                    add(&mut all, point);
                }
                kept.store.append(&batch, TimeMs(NOW.0 + 60_000)).await.unwrap();
                let new = open();
                new.store.append(&all, TimeMs(NOW.0 + 60_000)).await.unwrap();
                for (at, sql) in STATEMENTS.into_iter().enumerate() {
                    let now = NOW.0 + later * 1_000;
                    prop_assert_eq!(kept.rows_at(sql, now, &[]).await, new.rows_at(sql, now, &[]).await, "{}", sql);
                    if round == 0 {
                        prop_assert_eq!(kept.idle(), at + 1, "{}", sql);
                    }
                }
            }
            prop_assert_eq!(kept.idle(), STATEMENTS.len());
            Ok(())
        })?;
    }
}
