//! `recent(window)` says what plain SQL over `usage` and `limits` says.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tidegate_model::{ContainerKey, Resource, SampleBatch, SeriesKey, TimeMs};

use super::{NOW, TestStore, open, series};
use crate::error::StoreError;
use crate::functions::recent_columns;
use crate::tables::{LabelFilter, Read, Selected, Source, TimeRange, UsageSource, each_row, unit};
use crate::{PressureSample, QueryErrorKind, QueryOptions, QueryPool};

/// One sample that arrives.
#[derive(Clone, Copy, Debug)]
struct Point {
    metric: usize,
    container: usize,
    pid: usize,
    /// In ms before now.
    ago: i64,
    value: f64,
}

const CONTAINERS: [&str; 3] = ["a", "b", "c"];
/// Metrics whose samples are pushed: of the collector and of BDWatchdog, whose CPU is the sum of two metrics over processes.
const METRICS: [&str; 6] =
    ["tidegate.usage", "tidegate.limit", "tidegate.throttled", "proc.cpu.user", "proc.cpu.kernel", "proc.mem.resident"];
/// Samples come this far apart, so that many fall on the same time.
const STEP_MS: i64 = 2_500;

fn any_point() -> impl Strategy<Value = Point> {
    let point = (0..METRICS.len(), 0..CONTAINERS.len(), 0..3_usize, 0_i64..90_000, 0_u32..1_000);
    point.prop_map(|(metric, container, pid, ago, value)| {
        // Tenths, whose sums differ in the last bits with the order of summing.
        Point { metric, container, pid, ago: ago / STEP_MS * STEP_MS, value: f64::from(value) / 10.0 }
    })
}

/// What arrives, in its order: mostly each metric of each process every step of time, some of it late, twice or missing.
fn arrivals() -> impl Strategy<Value = Vec<Point>> {
    let regular = (0_i64..30, proptest::collection::vec(0_u8..10, 18)).prop_map(|(steps, luck)| {
        let mut points = Vec::new();
        for (at, ago) in (0..steps).rev().map(|step| step * STEP_MS).enumerate() {
            for (place, luck) in (0..18).zip(&luck) {
                let (metric, container, pid) = (3 + place % 2, place / 2 % 3, place / 6);
                // A process that nothing is heard of for a while.
                if usize::from(*luck) != at % 10 {
                    points.push(Point { metric, container, pid, ago, value: (at * 7 + place) as f64 / 10.0 });
                }
            }
        }
        points
    });
    let odd = proptest::collection::vec((any_point(), any::<proptest::sample::Index>()), 1..80);
    (regular, odd).prop_map(|(mut points, odd)| {
        for (point, at) in odd {
            points.insert(at.index(points.len() + 1), point);
        }
        points
    })
}

fn batch(points: &[Point]) -> SampleBatch {
    let mut batch = SampleBatch::new();
    for Point { metric, container, pid, ago, value } in points {
        let (name, container) = (METRICS[*metric], CONTAINERS[*container]);
        let key = if name.starts_with("proc.") {
            series(name, &[("host", container), ("pid", &pid.to_string())])
        } else {
            let mut tags = vec![("host", ""), ("container", container), ("resource", "cpu")];
            match (*metric, *pid) {
                // A container has two apps by turns, and the series of one of them is there twice.
                (0, 1) => tags.push(("app", "shop")),
                (0, 2) => tags.push(("task", "again")),
                _ => {}
            }
            series(name, &tags)
        };
        batch.push(key, TimeMs(NOW.0 - ago), *value);
    }
    batch
}

/// What `recent` answers, in SQL over the tables below it.
const PLAIN: &str = "\
    WITH w AS (SELECT *, (arrow_cast(now(), 'Int64') - arrow_cast(time, 'Int64')) / 1000.0 AS ago FROM usage WHERE time > now() - INTERVAL '60 seconds'), \
    u AS (SELECT host, container, resource, count(*) AS samples, min(ago) AS age, \
          first_value(value ORDER BY ago, value DESC) AS usage, avg(value) AS usage_avg, max(value) AS usage_max, \
          percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS usage_p50, \
          percentile_cont(0.95) WITHIN GROUP (ORDER BY value) AS usage_p95, \
          percentile_cont(0.99) WITHIN GROUP (ORDER BY value) AS usage_p99, \
          stddev(value) AS usage_stddev, -regr_slope(value, ago) AS usage_slope FROM w GROUP BY host, container, resource), \
    l AS (SELECT host, container, resource, last_value(value ORDER BY time) AS allocated, \
          min(arrow_cast(now(), 'Int64') - arrow_cast(time, 'Int64')) / 1000.0 AS allocated_age FROM limits GROUP BY host, container, resource), \
    t AS (SELECT host, container, resource, avg(throttled) AS throttled, \
          last_value(throttled ORDER BY time) AS throttled_last FROM pressure \
          WHERE time > now() - INTERVAL '60 seconds' GROUP BY host, container, resource) \
    SELECT u.host, u.container, u.resource, samples, age, usage, usage_avg, usage_max, usage_p50, usage_p95, usage_p99, \
          usage_stddev, usage_slope, allocated, allocated_age, allocated * 0.9 AS upper, allocated * 0.8 AS lower, \
          throttled, throttled_last \
    FROM u LEFT JOIN l ON u.host = l.host AND u.container = l.container AND u.resource = l.resource \
           LEFT JOIN t ON u.host = t.host AND u.container = t.container AND u.resource = t.resource \
    ORDER BY u.container, u.resource";

const RECENT: &str = "\
    SELECT host, container, resource, samples, age, usage, usage_avg, usage_max, usage_p50, usage_p95, usage_p99, \
          usage_stddev, usage_slope, allocated, allocated_age, upper, lower, throttled, throttled_last \
    FROM recent(INTERVAL '60 seconds') ORDER BY container, resource";

async fn table(store: &TestStore, sql: &str) -> Vec<Vec<serde_json::Value>> {
    serde_json::from_str(&store.rows(sql).await).unwrap()
}

/// Columns that are the same to the last bit: host to usage, and usage_max.
const EXACT: [usize; 7] = [0, 1, 2, 3, 4, 5, 7];

fn same(column: usize, a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        // DataFusion rounds the place of a percentile to millionths.
        (Some(a), Some(b)) if !EXACT.contains(&column) => (a - b).abs() <= 1e-4 * (1.0 + a.abs().max(b.abs())),
        _ => a == b,
    }
}

/// The parts of usage that are sums, with what they are scaled by.
fn summed(store: &TestStore) -> Vec<(Selected, f64)> {
    let usage = UsageSource { maps: store.store.config().usage_maps.clone() };
    let parts = usage.parts(&store.store, &LabelFilter::everything()).into_iter().map(Selected::all);
    let scaled = parts.filter_map(|part| {
        let Read::Sums(scale) = part.part.read else { return None };
        Some((part, scale))
    });
    scaled.collect()
}

/// The sums of a part by label, the plain way.
fn sums_of_sorted_rows(store: &TestStore, part: &Selected, scale: f64, range: TimeRange) -> Vec<Vec<(i64, f64)>> {
    let mut rows = Vec::new();
    for place in 0..part.part.labels.members.len() {
        let mut of_metric = Vec::new();
        for block in part.samples(&store.store, place, range.from, range.to).unwrap() {
            each_row(&block, |label, time, value| of_metric.push((label, time, value)));
        }
        rows.extend(sorted_sums(of_metric));
    }
    let unit = unit(scale);
    let mut sums = vec![Vec::new(); part.part.labels.count];
    sorted_sums(rows).into_iter().for_each(|(label, time, value)| sums[label as usize].push((time, unit(value))));
    sums
}

fn sorted_sums(mut rows: Vec<(u32, i64, f64)>) -> Vec<(u32, i64, f64)> {
    rows.sort_by_key(|row| (row.0, row.1));
    rows.dedup_by(|later, kept| {
        let same = (later.0, later.1) == (kept.0, kept.1);
        if same {
            kept.2 += later.2;
        }
        same
    });
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recent_is_plain_sql_over_usage(points in arrivals(), flushed in proptest::collection::vec(any::<bool>(), 4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open();
            // In parts that arrive minutes apart, each in chunks or a segment of its own, with questions in between whose
            // answers are kept.
            let parts = points.chunks(points.len() / flushed.len() + 1);
            for (at, (points, flush)) in (0..).zip(parts.zip(&flushed)) {
                let arrived = TimeMs(NOW.0 + 120_000 * at);
                let report = store.store.append(&batch(points), arrived).await.unwrap();
                prop_assert_eq!(report.accepted, points.len());
                if *flush {
                    store.store.flush(arrived).await.unwrap();
                }
                table(&store, RECENT).await;
            }
            let (plain, recent) = (table(&store, PLAIN).await, table(&store, RECENT).await);
            let alike = |a: &Vec<_>, b: &Vec<_>| a.iter().zip(b).enumerate().all(|(at, (a, b))| same(at, a, b));
            let equal = plain.len() == recent.len() && plain.iter().zip(&recent).all(|(a, b)| alike(a, b));
            prop_assert!(equal, "plain: {plain:?}\nrecent: {recent:?}");
            let range = TimeRange { from: NOW.0 - 70_000, to: NOW.0 - 1_000 };
            for (part, scale) in summed(&store) {
                let sums = store.store.sums(&part, scale, range, &mut |_| Ok::<_, StoreError>(())).unwrap();
                prop_assert_eq!(sums, sums_of_sorted_rows(&store, &part, scale, range));
            }
            Ok(())
        })?;
    }
}

/// Of processes: a container's usage is the sum of several.
const PUSHED: [(&str, &str); 5] = [
    ("proc.cpu.user", "1"),
    ("proc.cpu.user", "2"),
    ("proc.cpu.kernel", "1"),
    ("proc.mem.resident", "1"),
    ("proc.mem.resident", "2"),
];
const SERIES: usize = CONTAINERS.len() * (COLLECTED.len() + PUSHED.len());

/// The series at a place, with a further tag.
fn series_at(at: usize, more: Option<&'static str>) -> SeriesKey {
    let (container, nth) = (CONTAINERS[at % CONTAINERS.len()], at / CONTAINERS.len());
    let (metric, tags) = match COLLECTED.get(nth) {
        Some(metric) => (*metric, [("host", "h"), ("container", container), ("resource", "memory")]),
        None => {
            let (metric, pid) = PUSHED[nth - COLLECTED.len()];
            (metric, [("host", container), ("pid", pid), ("command", "java")])
        }
    };
    series(metric, &tags.into_iter().chain(more.map(|tag| (tag, "x"))).collect::<Vec<_>>())
}

/// What happens in one second: how far the clock goes on, what each of some series says, and what else comes.
#[derive(Clone, Debug)]
struct Moment {
    seconds: i64,
    /// By container and metric; none where it is missing.
    values: Vec<Option<f64>>,
    odd: Odd,
    few: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Odd {
    Nothing,
    /// A sample of some seconds ago, which may be there already.
    Late(i64),
    /// One that is there twice.
    Twice,
    /// One of another app's series, or of another series of the same container.
    Other(&'static str),
    Flush,
    /// Another window is asked for, of the past.
    Past(i64),
}

const COLLECTED: [&str; 6] = [
    "tidegate.usage",
    "tidegate.limit",
    "tidegate.throttled",
    "tidegate.pressure.some",
    "tidegate.oom_kills",
    "tidegate.unreclaimable",
];

/// What somebody asks for before others ask for everything.
fn few() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "1",
        "usage_slope",
        "throttled_last",
        "usage_avg, pressure",
        "oom_kills, throttled",
        "app, host_free",
    ])
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let odd = prop_oneof![
        20 => Just(Odd::Nothing),
        2 => (0_i64..45).prop_map(Odd::Late),
        1 => Just(Odd::Twice),
        1 => prop::sample::select(vec!["app", "task"]).prop_map(Odd::Other),
        1 => Just(Odd::Flush),
        1 => (0_i64..12).prop_map(Odd::Past),
    ];
    let value = prop::option::weighted(0.9, (0_u32..40).prop_map(|tenths| f64::from(tenths) / 10.0));
    let values = proptest::collection::vec(value, SERIES);
    let seconds = prop_oneof![8 => Just(1_i64), 1 => 2_i64..25];
    let moment =
        (seconds, values, odd, few()).prop_map(|(seconds, values, odd, few)| Moment { seconds, values, odd, few });
    proptest::collection::vec(moment, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_window_that_goes_on_says_what_one_that_is_read_anew_says(
        moments in moments(),
        // How late each series always is, in ms.
        delays in proptest::collection::vec(prop_oneof![2 => Just(0_i64), 1 => 0..4_000_i64], SERIES),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (followed, anew) = (open(), open());
            let say = async |store: &TestStore, sql: &str, now: TimeMs| {
                let options = QueryOptions { pool: QueryPool::Rules, ..store.store.default_query_options(now) };
                let answer = store.store.query(sql, &options).await.unwrap();
                String::from_utf8(crate::export::json_rows(&answer.batches).unwrap()).unwrap()
            };
            let ask = async |store: &TestStore, window: i64, now: TimeMs| {
                say(store, &format!("SELECT * FROM recent({window})"), now).await
            };
            let mut now = NOW;
            for Moment { seconds, values, odd, few } in moments {
                now = TimeMs(now.0 + 1_000 * seconds);
                let mut batch = SampleBatch::new();
                for (at, value) in values.iter().enumerate() {
                    let Some(value) = *value else { continue };
                    let (key, time) = (series_at(at, None), TimeMs(now.0 - delays[at]));
                    batch.push(key.clone(), time, value);
                    match odd {
                        Odd::Late(ago) if at % 5 == 0 => batch.push(key, TimeMs(now.0 - 1_000 * ago), value + 0.3),
                        Odd::Twice if at % 7 == 0 => batch.push(key, time, value + 0.7),
                        Odd::Other(tag) if at % 6 == 0 => batch.push(series_at(at, Some(tag)), now, value + 0.9),
                        _ => {}
                    }
                }
                for store in [&followed, &anew] {
                    store.store.append(&batch, now).await.unwrap();
                    if matches!(odd, Odd::Flush) {
                        store.store.flush(now).await.unwrap();
                    }
                }
                anew.store.recents.forget();
                for window in [10, 50] {
                    if let Odd::Past(ago) = odd {
                        ask(&followed, window, TimeMs(now.0 - 1_000 * ago)).await;
                    }
                    // Who wants a few columns first must not change what others are told.
                    let few = format!("SELECT container, {few} FROM recent({window})");
                    followed.store.query(&few, &followed.store.default_query_options(now)).await.unwrap();
                    prop_assert_eq!(ask(&followed, window, now).await, ask(&anew, window, now).await);
                    // Rows about one resource are made apart from the others; of a text that is made, none can be.
                    let apart = format!("SELECT * FROM recent({window}) WHERE resource = 'memory'");
                    let picked = format!("SELECT * FROM recent({window}) WHERE concat(resource, '') = 'memory'");
                    prop_assert_eq!(say(&followed, &apart, now).await, say(&anew, &picked, now).await);
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_resource_that_is_asked_for_is_the_only_one_that_is_made() {
    let store = open();
    let plan = async |sql: &str| store.rows(&format!("EXPLAIN FORMAT INDENT {sql}")).await;
    let of = |plan: &str, resource: &str| plan.matches(&format!("ms, resource={resource}")).count();
    let one = plan("SELECT usage FROM recent(10) WHERE 'cpu' = resource AND usage > 1").await;
    assert_eq!((of(&one, "cpu"), one.matches("FilterExec").count()), (1, 1), "{one}");
    // What rows are joined with is about the same.
    let joined = plan(
        "SELECT s.usage, m.usage FROM recent(3) AS s JOIN recent(60) AS m USING (host, container, resource) \
         WHERE s.resource = 'memory' AND s.usage > m.usage",
    )
    .await;
    assert_eq!(of(&joined, "memory"), 2, "{joined}");
    let unknown = plan("SELECT usage FROM recent(10) WHERE resource = 'energy'").await;
    assert_eq!((unknown.matches("resource=").count(), unknown.matches("FilterExec").count()), (0, 1), "{unknown}");
    let both = "SELECT count(*) AS n FROM recent(10) WHERE resource = 'cpu' AND resource = 'memory'";
    store.push(&[("tidegate.usage", &[("host", "h"), ("container", "a"), ("resource", "cpu")], 1.0, 1.0)]).await;
    assert_eq!(store.rows(both).await, "[[0]]");
}

#[tokio::test]
async fn what_is_asked_without_sql_is_what_sql_says() {
    let store = open();
    let mut batch = SampleBatch::new();
    for (at, container) in (0..).zip(CONTAINERS) {
        for (nth, metric) in (1..).zip(COLLECTED) {
            let key = series(metric, &[("host", "h"), ("container", container), ("resource", "cpu")]);
            for ago in (0..90).filter(|ago| ago % nth == 0) {
                batch.push(key.clone(), TimeMs(NOW.0 - 1_000 * ago), (ago * 7 % 13 + at) as f64);
            }
        }
    }
    store.store.append(&batch, NOW).await.unwrap();
    let options = store.options();
    let all: Vec<String> = recent_columns().into_iter().map(|column| column.name).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let some = ["container", "usage_slope", "age"];
    for (columns, sql) in [(&some[..], "container, usage_slope, age"), (&all, "*")] {
        let rows = store.store.recent(Duration::from_secs(60), columns, &options).await.unwrap();
        assert_eq!(
            String::from_utf8(crate::export::json_rows(&[rows]).unwrap()).unwrap(),
            store.rows(&format!("SELECT {sql} FROM recent(INTERVAL '60 seconds')")).await
        );
    }
    let few = QueryOptions { max_rows: 2, ..options.clone() };
    let refused = store.store.recent(Duration::from_secs(60), &all, &few).await.unwrap_err();
    assert_eq!(refused.kind, QueryErrorKind::Rows);

    let limit = |name: &str, resource| (ContainerKey { host: "h".to_owned(), name: name.to_owned() }, resource);
    let limits = vec![limit("c", Resource::Cpu), limit("a", Resource::Memory), limit("a", Resource::Cpu)];
    let asked = store.store.pressure_of(limits.clone(), TimeMs(NOW.0 - 7_000), &options).await.unwrap();
    let row = |row: PressureSample| {
        let name = &limits[row.limit].0.name;
        serde_json::json!([name, NOW.0 - row.time.0, row.throttled, row.some_share])
    };
    let mut asked: Vec<_> = asked.into_iter().map(row).collect();
    asked.sort_by_key(|row| (row[0].to_string(), row[1].as_i64()));
    let said = table(
        &store,
        "SELECT container, arrow_cast(now(), 'Int64') - arrow_cast(time, 'Int64') AS ago, throttled, some_share FROM pressure \
         WHERE time > now() - INTERVAL '7 seconds' AND container IN ('a', 'c') ORDER BY container, ago",
    )
    .await;
    assert_eq!(serde_json::json!(asked), serde_json::json!(said));
    assert!(said.len() > 6, "{said:?}");
}

#[tokio::test]
async fn what_is_kept_is_made_anew_for_what_comes_late() {
    let store = open();
    let usage = |container| [("host", "h"), ("container", container), ("resource", "cpu")];
    store.push(&[("tidegate.usage", &usage("a"), 5.0, 1.0)]).await;
    let sql = "SELECT container, usage, samples, app FROM recent(60) ORDER BY container";
    assert_eq!(store.rows(sql).await, r#"[["a",1.0,1,null]]"#);
    // Later than the question: no part of the answer.
    store.push(&[("tidegate.usage", &usage("a"), -5.0, 2.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",1.0,1,null]]"#);
    store.push(&[("tidegate.usage", &usage("a"), 0.0, 3.0), ("tidegate.usage", &usage("b"), 7.0, 4.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",4.0,1,null]]"#);
    // The same sample again, with another value.
    store.push(&[("tidegate.usage", &usage("b"), 7.0, 5.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",5.0,1,null]]"#);
    store.store.flush(NOW).await.unwrap();
    store.push(&[("tidegate.usage", &usage("b"), 6.0, 6.0)]).await;
    assert_eq!(store.rows(sql).await, r#"[["a",3.0,2,null],["b",6.0,2,null]]"#);
}

#[tokio::test]
async fn a_hundred_containers_take_milliseconds() {
    let store = open();
    let mut batch = SampleBatch::new();
    for container in 0..100 {
        let name = format!("c{container}");
        for resource in ["cpu", "memory"] {
            for metric in ["tidegate.usage", "tidegate.limit", "tidegate.pressure.some", "tidegate.pressure.full"] {
                let key = series(metric, &[("host", "h"), ("container", &name), ("resource", resource)]);
                for second in 0..120 {
                    batch.push(key.clone(), TimeMs(NOW.0 - second * 1_000), second as f64);
                }
            }
        }
    }
    store.store.append(&batch, NOW).await.unwrap();
    let sql = "SELECT count(*), sum(samples) FROM recent(INTERVAL '60 seconds')";
    assert_eq!(store.rows(sql).await, "[[200,12000]]");
    let began = Instant::now();
    for _ in 0..10 {
        store.rows(sql).await;
    }
    println!("recent(60 s) of 100 containers: {:?}", began.elapsed() / 10);
}

/// CPU that so many containers use by two metrics of so many processes, a sample each second.
async fn pushed(containers: usize, pids: usize, seconds: i64) -> TestStore {
    let store = open();
    for ago in (0..seconds).rev() {
        let mut batch = SampleBatch::new();
        for container in 0..containers {
            for pid in 0..pids {
                for metric in ["proc.cpu.user", "proc.cpu.kernel"] {
                    let (host, pid) = (format!("c{container:05}"), pid.to_string());
                    let key = series(metric, &[("host", &host), ("pid", &pid)]);
                    batch.push(key, TimeMs(NOW.0 - ago * 1_000), (ago * 7 % 13) as f64);
                }
            }
        }
        store.store.append(&batch, NOW).await.unwrap();
    }
    store
}

#[tokio::test]
async fn a_window_that_does_not_fit_into_memory_is_refused() {
    let summed = pushed(100, 2, 600).await;
    let collected = open();
    let mut batch = SampleBatch::new();
    for container in 0..100 {
        let name = format!("c{container}");
        let key = series("tidegate.usage", &[("host", "h"), ("container", &name), ("resource", "cpu")]);
        (0..2_400).for_each(|ago| batch.push(key.clone(), TimeMs(NOW.0 - ago * 250), 1.0));
    }
    collected.store.append(&batch, NOW).await.unwrap();
    for store in [summed, collected] {
        let ask = async |sql, memory_bytes| {
            let options = QueryOptions { memory_bytes, ..store.options() };
            store.store.query(sql, &options).await.map(|_| ()).map_err(|error| error.kind)
        };
        assert_eq!(ask("SELECT count(*) FROM recent(600)", 3 << 20).await, Err(QueryErrorKind::Memory));
        assert_eq!(ask("SELECT count(*) FROM recent(10)", 3 << 20).await, Ok(()));
        assert_eq!(ask("SELECT count(*) FROM recent(600)", 64 << 20).await, Ok(()));
    }
}

/// CPU time of this thread in ns.
fn cpu_ns() -> u64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    spent.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "a measurement: sums in one pass beside sums of sorted rows"]
async fn sums_in_one_pass_take_a_fraction_of_the_time() {
    for (containers, pids) in [(2_000, 1), (400, 5)] {
        let store = pushed(containers, pids, 90).await;
        let range = TimeRange { from: NOW.0 - 59_999, to: NOW.0 };
        let (part, scale) = summed(&store).remove(0);
        for _ in 0..3 {
            let began = cpu_ns();
            let sums = store.store.sums(&part, scale, range, &mut |_| Ok::<_, StoreError>(())).unwrap();
            let one_pass = cpu_ns() - began;
            let began = cpu_ns();
            let rows = sums_of_sorted_rows(&store, &part, scale, range);
            let sorted = cpu_ns() - began;
            assert_eq!(sums, rows);
            println!(
                "{containers} containers, {pids} processes each: one pass {} us, sorted rows {} us, ratio {:.1}",
                one_pass / 1_000,
                sorted / 1_000,
                sorted as f64 / one_pass as f64
            );
        }
    }
}

#[tokio::test]
#[ignore = "a measurement: labels with one series more beside labels that are made anew"]
async fn a_new_process_does_not_make_all_labels_anew() {
    let store = pushed(4_000, 5, 1).await;
    let usage = UsageSource { maps: store.store.config().usage_maps.clone() };
    let look = || {
        let began = cpu_ns();
        let parts = usage.parts(&store.store, &LabelFilter::everything());
        (cpu_ns() - began, parts[1].labels.count, parts[1].labels.members[0].ids.len())
    };
    look();
    for round in 1..4 {
        let pid = (1_000 + round).to_string();
        let tags = [("host", "c00007"), ("pid", pid.as_str())];
        store.push(&[("proc.cpu.user", &tags, 0.0, 1.0)]).await;
        let (continued, labels, series) = look();
        assert_eq!((labels, series), (4_000, 20_000 + round));
        // Another version of the facts.
        store.store.put_rules(Vec::new()).unwrap();
        let (anew, labels, series) = look();
        assert_eq!((labels, series), (4_000, 20_000 + round));
        let ratio = anew as f64 / continued as f64;
        println!("40,000 series: continued {} us, anew {} us, ratio {ratio:.0}", continued / 1_000, anew / 1_000);
    }
}
