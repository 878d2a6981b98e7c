//! Backtests: what comes of them can be worked out by hand, comes out the same each time, and follows from what happened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_actuator::simulated::{Member, SimulatedHost};
use tidegate_actuator::{Actuator, ActuatorConfig, Change};
use tidegate_model::{
    Bounds, CgroupVersion, Clock, Decision, GroupBounds, GroupKey, GroupKind, Limit, Mode, Outcome, Resource,
    SampleBatch, SeriesKey, VirtualClock,
};
use tidegate_policy::backtest::{Backtest, ContainerScore, Report, Trace, Traced, Wanted, pushed_metrics};
use tidegate_policy::{DEFAULT_PACK, Engine, PolicyConfig};
use tidegate_store::{Durability, GroupRow, Store, StoreConfig};
use tokio_util::sync::CancellationToken;

use crate::world::{START, Second, World};

/// A container with a limit of `limit` cores that wants `demand` in the seconds after [`START`].
fn traced(name: &str, limit: f64, demand: &[f64]) -> Traced {
    let mut cpu = Wanted::default();
    for (second, value) in demand.iter().enumerate() {
        assert!(cpu.push(START.plus(Duration::from_secs(second as u64 + 1)), *value, None));
    }
    let member = Member {
        host: "node0".to_owned(),
        cgroup: CgroupVersion::V2,
        name: name.to_owned(),
        app: None,
        user: None,
        labels: BTreeMap::new(),
        bounds: BTreeMap::new(),
        cpu: Limit::At(limit),
        memory: Limit::Unlimited,
    };
    Traced { member, cpu, memory: Wanted::default() }
}

fn backtest(containers: Vec<Traced>, rules: &str, dir: &Path) -> Backtest {
    Backtest {
        trace: Arc::new(Trace { containers, ..Trace::default() }),
        rules: rules.to_owned(),
        step: None,
        policy: PolicyConfig::default(),
        store: StoreConfig::default(),
        groups: Vec::new(),
        dir: dir.to_owned(),
    }
}

async fn run(backtest: &Backtest) -> Report {
    let mut report = backtest.run(&CancellationToken::new(), |_| {}).await.unwrap();
    // What a machine's speed is, is not part of the answer.
    report.took_ms = 0;
    report.rules.iter_mut().for_each(|rule| rule.mean_ms = 0.0);
    report
}

/// Low, then high, by turns of a minute.
fn square(seconds: usize, low: f64, high: f64) -> Vec<f64> {
    (0..seconds).map(|second| if second / 60 % 2 == 0 { low } else { high }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rules_the_figures_are_those_of_the_first_limit() {
    let dir = tempfile::tempdir().unwrap();
    let report = run(&backtest(vec![traced("web", 2.0, &square(240, 1.0, 3.0))], "", dir.path())).await;
    let figures = report.resources[&Resource::Cpu];
    assert_eq!((report.ticks, report.step_ms, figures.seconds), (240, 1_000, 240.0));
    assert_eq!((figures.over_limit, figures.changes, figures.mean_limit, figures.mean_used), (0.5, 0, 2.0, 1.5));
    assert!((figures.unmet - 0.25).abs() < 1e-9 && (figures.slack - 0.25).abs() < 1e-9, "{figures:?}");
    assert!((figures.throttled_s - 120.0).abs() < 1e-9, "{figures:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rules_let_go_of_what_is_idle_and_give_what_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let containers = || vec![traced("idle", 4.0, &[0.2; 300]), traced("busy", 0.5, &square(300, 1.0, 1.1))];
    let (with, without) = (backtest(containers(), DEFAULT_PACK, dir.path()), backtest(containers(), "", dir.path()));
    let (with, without) = (run(&with).await, run(&without).await);
    let of = |report: &Report, name: &str| {
        report.limits.iter().find(|limit| limit.container == name).map(|limit| limit.figures).unwrap()
    };
    assert!(of(&with, "idle").mean_limit < 0.5 * of(&without, "idle").mean_limit);
    assert!(of(&without, "busy").unmet > 0.5 && of(&with, "busy").unmet < 0.05, "{:?}", of(&with, "busy"));
    let rule = with.rules.iter().find(|rule| rule.rule == "cpu_down").unwrap();
    assert!(rule.applied > 0 && rule.runs == 300 && rule.errors == 0, "{rule:?}");
}

/// A database's cache is reclaimable while it idles, and its buffers are not once it is asked: they fill within a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_squeezed_cache_leaves_room_for_what_a_process_takes_at_once() {
    const MIB: f64 = 1_048_576.0;
    let dir = tempfile::tempdir().unwrap();
    // By memory.high nothing is killed, whatever it takes; a hard limit leaves room for so much.
    for (cgroup, takes) in [(CgroupVersion::V1, 128.0), (CgroupVersion::V2, 420.0)] {
        let mut database = traced("db", 1.0, &[0.02; 180]);
        for second in 0..180 {
            let (cache, held) = if second < 60 { (65.0, 25.0) } else { (65.0, 25.0 + takes) };
            let at = START.plus(Duration::from_secs(second + 1));
            assert!(database.memory.push(at, (cache + held) * MIB, Some(held * MIB)));
        }
        (database.member.memory, database.member.cgroup) = (Limit::At(512.0 * MIB), cgroup);
        database.member.bounds.insert(Resource::Memory, Bounds { min: 16.0 * MIB, max: 512.0 * MIB });
        let figures = run(&backtest(vec![database], DEFAULT_PACK, dir.path())).await.resources[&Resource::Memory];
        assert_eq!(figures.oom_kills, 0, "{cgroup:?}: {figures:?}");
        assert!(figures.changes > 0 && figures.mean_limit < 450.0 * MIB, "{cgroup:?}: {figures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_backtest_comes_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let containers = (0..8).map(|n| traced(&format!("c{n}"), 2.0, &square(180, 0.1 + 0.1 * f64::from(n), 1.9)));
    let backtest = backtest(containers.collect(), DEFAULT_PACK, dir.path());
    assert_eq!(run(&backtest).await, run(&backtest).await);
}

/// A container whose memory goes up and down, and its CPU.
fn breathing(name: &str, limit: f64, nth: usize) -> Traced {
    let wave = |second: usize| 0.5 + 0.4 * ((second + 37 * nth) as f64 / 23.0).sin();
    let cpu: Vec<f64> = (0..400).map(|second| limit * wave(second) * if second % 97 < 3 { 2.5 } else { 0.7 }).collect();
    let mut traced = traced(name, limit, &cpu);
    for second in 0..400 {
        let value = (1.0 + 3.0 * wave(second / 3)) * 1e8;
        assert!(traced.memory.push(START.plus(Duration::from_secs(second as u64 + 1)), value, Some(0.9 * value)));
    }
    traced.member.memory = Limit::At(6e8);
    traced
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_of_decisions_changes_nothing_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let containers = || (0..12).map(|n| breathing(&format!("c{n}"), 0.5 + 0.25 * n as f64, n)).collect();
    // A rule that may read them makes them whole.
    let reader = "CREATE RULE reader WITH (mode = 'off') AS SELECT host, container, resource, 1.0 AS target, 'x' AS reason FROM decisions;";
    for name in ["default", "cautious", "captain", "hybrid"] {
        let pack = tidegate_policy::pack(name).unwrap().sql;
        let short = run(&backtest(containers(), pack, dir.path())).await;
        let whole = run(&backtest(containers(), &format!("{pack}\n{reader}"), dir.path())).await;
        assert!(short.rules.iter().map(|rule| rule.applied).sum::<u64>() > 20, "{name}: {:?}", short.rules);
        assert_eq!(short, whole, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_only_watch_act_in_a_backtest_and_those_that_are_off_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let rules = |mode: &str| {
        format!(
            "CREATE RULE two WITH (mode = '{mode}', step_up = 9) AS SELECT host, container, resource, 2.0 AS target,
             'two' AS reason FROM recent(INTERVAL '5 seconds') WHERE resource = 'cpu'"
        )
    };
    for (mode, limit) in [("shadow", 2.0), ("off", 1.0)] {
        let report = run(&backtest(vec![traced("web", 1.0, &[0.5; 100])], &rules(mode), dir.path())).await;
        let mean = report.resources[&Resource::Cpu].mean_limit;
        assert!((mean - limit).abs() < 0.2, "{mode}: {mean}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bounds_a_group_bounds_it_in_a_backtest_too() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "CREATE RULE two AS SELECT host, container, resource, 2.0 AS target, 'two' AS reason
        FROM recent(INTERVAL '5 seconds') WHERE resource = 'cpu'";
    let containers = ["a", "b"].map(|name| {
        let mut traced = traced(name, 1.0, &[0.5; 100]);
        traced.member.app = Some("shop".to_owned());
        traced
    });
    let shop = GroupRow {
        key: GroupKey { kind: GroupKind::App, name: "shop".to_owned() },
        bounds: [(Resource::Cpu, GroupBounds { min: None, max: Some(3.0) })].into(),
        changed_by: "test".to_owned(),
        changed_at: START,
    };
    let backtest = Backtest { groups: vec![shop], ..backtest(containers.into(), rules, dir.path()) };
    let report = run(&backtest).await;
    let cpu: Vec<_> = report.limits.iter().filter(|limit| limit.resource == Resource::Cpu).collect();
    let as_bounded =
        |limit: &&ContainerScore| limit.figures.changes == 1 && (1.4..=1.5).contains(&limit.figures.mean_limit);
    assert!(cpu.len() == 2 && cpu.iter().all(as_bounded), "{cpu:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_asks_for_what_is_not_played_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rule = "CREATE RULE sees AS SELECT host, container, resource, 1.0 AS target, 'last' AS reason FROM recent(INTERVAL '5 s');
                CREATE RULE blind AS SELECT host, container, 'cpu' AS resource, value AS target, 'x' AS reason
                FROM (SELECT tag(tags, 'host') AS host, tag(tags, 'container') AS container, value FROM samples)";
    let report = run(&backtest(vec![traced("web", 1.0, &[0.5; 5])], rule, dir.path())).await;
    assert_eq!(report.problems, ["rule blind reads pushed metrics that are not in what is played: it is left out"]);
    assert_eq!(report.rules.iter().map(|rule| rule.rule.as_str()).collect::<Vec<_>>(), ["sees"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_measured_is_neither_played_nor_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut web = traced("web", 1.0, &[0.5; 20]);
    let later = START.plus(Duration::from_secs(40 * 24 * 3600));
    for second in 0..20 {
        assert!(web.cpu.push(later.plus(Duration::from_secs(second)), 0.5, None));
    }
    let report = run(&backtest(vec![web], DEFAULT_PACK, dir.path())).await;
    assert!((38..=45).contains(&report.ticks), "{} instants of 40 days", report.ticks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backtest_stops_when_told_and_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let backtest = |rules: &str| backtest(vec![traced("web", 1.0, &[0.5; 2_000])], rules, dir.path());
    let mut done = 0;
    let told = backtest(DEFAULT_PACK)
        .run(&stop, |progress| {
            done = progress.done;
            assert_eq!(progress.all, 2_000);
            stop.cancel();
        })
        .await;
    assert_eq!(told.unwrap_err().message.as_str(), "the backtest was stopped");
    assert!((1..2_000).contains(&done), "stopped in the middle: {done}");
    let fresh = CancellationToken::new();
    let wrong = backtest("CREATE RULE x AS SELECT nothing FROM recent(INTERVAL '5 seconds')").run(&fresh, |_| {}).await;
    assert_eq!(wrong.unwrap_err().line, Some(1));
    let step = Backtest { step: Some(Duration::from_millis(500)), ..backtest("") }.run(&fresh, |_| {}).await;
    assert!(step.unwrap_err().message.contains("500ms is out of range"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_history_is_played_as_it_was() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 2.0);
    world.set_limit("web", Resource::Memory, 1e9);
    let cpu = |demand| ("web", Second { resource: Resource::Cpu, demand });
    for second in 0..120 {
        let demand = if second < 60 { 1.0 } else { 3.0 };
        world.second(&[cpu(demand), ("web", Second { resource: Resource::Memory, demand: 4e8 })]).await;
    }
    let trace = Trace::of_history(&world.store, START, world.clock.now(), None, |_| {}).await.unwrap();
    assert_eq!(trace.containers.len(), 1);
    let web = &trace.containers[0];
    assert_eq!((web.member.cpu, web.member.memory), (Limit::At(2.0), Limit::At(1e9)));
    assert_eq!((web.cpu.len(), web.cpu.saturated, web.memory.saturated), (120, 60, 0));
    assert_eq!(trace.hosts.len(), 1);

    let dir = tempfile::tempdir().unwrap();
    let report = run(&Backtest { trace: Arc::new(trace), ..backtest(Vec::new(), "", dir.path()) }).await;
    let cpu = report.resources[&Resource::Cpu];
    // What was wanted beyond the limit cannot be known, and the report says so.
    assert_eq!((cpu.mean_used, cpu.unmet, cpu.over_limit), (1.5, 0.0, 0.0));
    assert!(report.problems[0].starts_with("60 of 120 cpu samples (50.0 %)"), "{:?}", report.problems);
    assert_eq!(report.resources[&Resource::Memory].mean_used, 4e8);

    // By the minute, which is what longer spans are played by.
    let minute = Some(Duration::from_secs(60));
    let trace = Trace::of_history(&world.store, START, world.clock.now(), minute, |_| {}).await.unwrap();
    let (web, end) = (&trace.containers[0], START.plus(Duration::from_secs(120)));
    assert_eq!(
        (web.cpu.len(), web.cpu.peak(), web.memory.len()),
        (3, Some(2.0), 3),
        "START is 20 s behind a full minute"
    );
    assert!(trace.span().unwrap().1 >= end && trace.problems[0].starts_with("the samples of each 1m"), "{trace:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_metrics_that_rules_read_are_played_as_they_were() {
    let world = World::new().await;
    world.set_limit("web", Resource::Cpu, 2.0);
    for second in 0..60 {
        world.second(&[("web", Second { resource: Resource::Cpu, demand: 1.0 })]).await;
        let mut queue = SampleBatch::new();
        let depth = if second < 30 { 0.0 } else { 100.0 };
        queue.push(SeriesKey::new("queue.depth", [("pool".to_owned(), "a".to_owned())]), world.clock.now(), depth);
        world.store.append(&queue, world.clock.now()).await.unwrap();
    }
    let rules = "CREATE RULE queue WITH (mode = 'on') AS
        SELECT host, container, resource, 4.0 AS target, 'the queue is long' AS reason
        FROM recent(INTERVAL '10 seconds')
        JOIN (SELECT max(value) AS depth FROM metric.\"queue.depth\" WHERE pool = 'a' AND time > now() - INTERVAL '5 seconds')
        ON depth > 50 WHERE allocated < 4";
    let (from, to) = (START, world.clock.now());
    let mut trace = Trace::of_history(&world.store, from, to, None, |_| {}).await.unwrap();
    trace.add_pushed(&world.store, &pushed_metrics(rules), from, to).await.unwrap();
    assert_eq!((trace.pushed.len(), trace.pushed[0].samples.len()), (1, 60));
    let dir = tempfile::tempdir().unwrap();
    let report = run(&Backtest { trace: Arc::new(trace), ..backtest(Vec::new(), rules, dir.path()) }).await;
    assert_eq!(report.problems, Vec::<String>::new());
    let cpu = report.resources[&Resource::Cpu];
    assert_eq!(cpu.changes, 1);
    // Two cores for half of the time, four for the other half.
    assert!((cpu.mean_limit - 3.0).abs() < 0.1, "{cpu:?}");
}

/// Answers as somebody did before.
struct Recorded(Mutex<BTreeMap<String, Outcome>>);

impl Actuator for Recorded {
    fn apply(&self, change: &Change, _: &dyn Clock) -> Outcome {
        self.0.lock().get(&change.decision).cloned().unwrap()
    }

    fn simulated(&self) -> Option<String> {
        Some("what was recorded".to_owned())
    }
}

async fn engine(actuator: Arc<dyn Actuator>, clock: &Arc<VirtualClock>, dir: &Path) -> (Arc<Store>, Arc<Engine>) {
    let store = StoreConfig { dir: dir.to_owned(), durability: Durability::None, ..StoreConfig::default() };
    let store = Store::open(store, START).unwrap();
    let config =
        PolicyConfig { default_mode: Mode::On, gather_ms: 60_000, rule_timeout_ms: 60_000, ..PolicyConfig::default() };
    let engine = Engine::new(store.clone(), actuator, config, Arc::clone(clock) as Arc<dyn Clock>).unwrap();
    engine.execute(DEFAULT_PACK, "test", START).await.unwrap();
    (store, engine)
}

/// In the order of their ids, since limits of different containers are written at once.
fn sorted(mut decisions: Vec<Decision>) -> Vec<Decision> {
    decisions.sort_by(|a, b| a.id.cmp(&b.id));
    decisions
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_inputs_of_a_run_lead_to_every_decision_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::new(START));
    let host = SimulatedHost::new(ActuatorConfig::default(), 11);
    let mut source = host.source();
    let (store, first) = engine(host.clone(), &clock, &dir.path().join("first")).await;
    let mut decided: Vec<Vec<Decision>> = Vec::new();
    let mut measured: Vec<SampleBatch> = Vec::new();
    let facts = {
        let collected = source.collect(START);
        (collected.host, collected.present)
    };
    store.put_host(facts.0.clone()).unwrap();
    store.put_containers(&facts.1).unwrap();
    for _ in 0..150 {
        clock.advance(Duration::from_secs(1));
        let samples = source.collect(clock.now()).samples;
        store.append(&samples, clock.now()).await.unwrap();
        measured.push(samples);
        decided.push(sorted(first.tick(clock.now()).await.decisions));
    }
    let outcomes = decided.iter().flatten().map(|decision| (decision.id.clone(), decision.outcome.clone()));
    let recorded = Arc::new(Recorded(Mutex::new(outcomes.collect())));

    clock.set(START);
    let (store, again) = engine(recorded, &clock, &dir.path().join("again")).await;
    store.put_host(facts.0).unwrap();
    store.put_containers(&facts.1).unwrap();
    let mut written = 0;
    for (samples, expected) in measured.iter().zip(&decided) {
        clock.advance(Duration::from_secs(1));
        store.append(samples, clock.now()).await.unwrap();
        let found = sorted(again.tick(clock.now()).await.decisions);
        assert_eq!(&found, expected, "at {}", clock.now());
        written += found.iter().filter(|decision| !decision.outcome.writes.is_empty()).count();
    }
    assert!(written > 20, "only {written} limits were written, so little was shown");
}
