//! What the rules for deadlines do: Asperathos' policies as Asperathos had them, and a job that ends in time.

use std::fs;

use serde_json::Value;
use tidegate_model::{Decision, Limit, OutcomeStatus, Resource};
use tidegate_policy::{PolicyConfig, TickReport};

use crate::conformance::{Tally, files};
use crate::world::{World, cpu, of, pack};

const ASPERATHOS: &str = "deadline_asperathos";

/// A row of the parameters of `deadline_asperathos`.
#[derive(Clone, Debug)]
struct Policy {
    name: String,
    form: &'static str,
    trigger_up: f64,
    trigger_down: f64,
    size: f64,
    up: f64,
    down: f64,
    derivative: f64,
    integral: f64,
    lowest: f64,
    highest: f64,
    digits: i64,
    scale: f64,
    unit: f64,
    whole: bool,
}

impl Policy {
    /// The parameters of a reference run.
    fn of(algorithm: &str, params: &Value) -> Self {
        let number = |name: &str| {
            let options = &params["heuristic_options"];
            params[name].as_f64().or_else(|| options[name].as_f64())
        };
        let first = |names: &[&str]| names.iter().find_map(|name| number(name)).unwrap_or(0.0);
        let (kind, rest) = algorithm.split_once('/').unwrap();
        let form = [
            ("tendency", "tendency"),
            ("derivative", "pd"),
            ("pid", "pid"),
            ("proportional", "proportional"),
            ("", "step"),
        ];
        let form = form.into_iter().find(|(name, _)| rest.to_lowercase().contains(name)).unwrap().1;
        let replicas = kind == "replicas";
        Self {
            name: "run".to_owned(),
            form,
            trigger_up: first(&["trigger_up"]),
            trigger_down: first(&["trigger_down"]),
            size: first(&["actuation_size"]),
            up: first(&["factor_up", "proportional_factor", "proportional_gain"]),
            down: first(&["factor_down", "proportional_factor"]),
            derivative: first(&["derivative_factor", "derivative_gain"]),
            integral: first(&["integrative_factor", "integral_factor", "integral_gain"]),
            lowest: first(&["min_cap", "min_rep"]),
            highest: first(&["max_cap", "max_rep"]),
            digits: params["metric_rounding"].as_i64().unwrap_or(9),
            scale: if replicas { 1.0 } else { 100.0 },
            // A limit has no replicas: a unit is a tenth of what the container may have.
            unit: if replicas { 10.0 } else { 1.0 },
            whole: replicas && form == "pid",
        }
    }

    fn row(&self) -> String {
        let Self { name, form, trigger_up, trigger_down, size, up, down, derivative, integral, .. } = self;
        let Self { lowest, highest, digits, scale, unit, whole, .. } = self;
        let numbers = [*trigger_up, *trigger_down, *size, *up, *down, *derivative, *integral, *lowest, *highest];
        let numbers: String = numbers.iter().map(|number| format!("{number:?}, ")).collect();
        format!("'{name}', '{form}', {numbers}{digits}, {scale:?}, {unit:?}, {whole}")
    }
}

/// The pack's own text with other rows of parameters.
fn pack_with(policies: &[Policy]) -> String {
    let pack = pack("deadline");
    let (before, rest) = pack.split_once("WHERE false\n").unwrap();
    let (_, after) = rest.split_once("),\npushed AS").unwrap();
    let rows: String = policies.iter().map(|policy| format!("UNION ALL SELECT {}\n", policy.row())).collect();
    format!("{before}WHERE false\n{rows}),\npushed AS{after}")
}

/// What 100 % of a container is in these tests, in cores.
const ENTIRE: f64 = 1.0;

/// A world in which all containers may shrink at once.
fn roomy() -> World {
    World::with(PolicyConfig {
        gather_ms: 60_000,
        rule_timeout_ms: 60_000,
        shrink_share: 1.0,
        ..PolicyConfig::default()
    })
}

/// Containers of the app `job`, each with a policy.
async fn world(policies: &[Policy], start: f64) -> World {
    let world = roomy();
    for policy in policies {
        let label = format!("asperathos-{}", policy.name);
        world.put_container(&policy.name, Some("job"), &[("deadline", &label)], Limit::At(ENTIRE));
        world.set_limit(&policy.name, Resource::Cpu, start * policy.unit / 100.0 * ENTIRE);
    }
    world.apply_rules(&pack_with(policies), "on").await;
    // Nothing shrinks before it was measured for ten seconds.
    for _ in 0..11 {
        idle_second(&world, policies).await;
    }
    world
}

async fn idle_second(world: &World, policies: &[Policy]) -> TickReport {
    let demands: Vec<_> = policies.iter().map(|policy| (policy.name.as_str(), cpu(0.0))).collect();
    let report = world.second(&demands).await;
    let errors: Vec<_> = report.runs.iter().filter_map(|run| run.error.as_ref()).collect();
    assert_eq!(errors, Vec::<&String>::new());
    report
}

/// `cap/*` and `replicas/*`. Replicas are no limit, so theirs go through the same formulas in whole units of a limit.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_asperathos_controllers() {
    for file in files("asperathos/controller_runs.json") {
        let runs: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let mut tally = Tally::default();
        for run in runs.as_array().unwrap() {
            compare(run, &mut tally).await;
        }
        tally.conclude(&file, &format!("rows of {} runs", runs.as_array().unwrap().len()));
    }
}

async fn compare(run: &Value, tally: &mut Tally) {
    let algorithm = run["algorithm"].as_str().unwrap();
    let policies = [Policy::of(algorithm, &run["params"])];
    let world = world(&policies, run["start"].as_f64().unwrap()).await;
    let one = policies[0].unit / 100.0 * ENTIRE;
    let mut former_time = &Value::Null;
    for (at, row) in run["rows"].as_array().unwrap().iter().enumerate() {
        let percent = row["error_percent"].as_f64().map(|error| error / 100.0);
        let stale = !row["t"].is_null() && row["t"] == *former_time;
        former_time = &row["t"];
        if !stale {
            let error = row["error"].as_f64().or(percent).unwrap();
            world.push("application-progress.error", &[("application_id", "job")], error).await;
        }
        let before = world.limit("run", Resource::Cpu) / one;
        let report = idle_second(&world, &policies).await;
        let proposed = of(&report, ASPERATHOS).first().map(|decision| decision.proposed / one);
        let after = world.limit("run", Resource::Cpu) / one;
        let expected_before = row["cap_before"].as_f64().or(row["replicas_before"].as_f64()).unwrap();
        let (acts, expected) = match row.get("new_replicas") {
            Some(new) => (!new.is_null(), new.as_f64().unwrap_or(expected_before)),
            None => (row["actuated"].as_bool().unwrap(), row["cap_after"].as_f64().unwrap()),
        };
        let same = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let agrees = same(before, expected_before)
            && same(after, expected)
            && proposed.is_some() == acts
            && proposed.is_none_or(|proposed| same(proposed, expected));
        tally.count(agrees, || format!("{algorithm} row {at}: from {before} to {after}, proposed {proposed:?}: {row}"));
    }
}

/// The table of formulas, written down plainly.
struct Plain {
    policy: Policy,
    n: f64,
    last: Option<f64>,
    sum: f64,
}

impl Plain {
    fn sees(&mut self, error: f64) {
        let Policy { trigger_up, trigger_down, size, up, down, derivative, integral, lowest, highest, .. } =
            self.policy;
        let change = self.last.map_or(0.0, |last| error - last);
        self.sum += error;
        let late = error < 0.0 && -error >= trigger_up;
        let ahead = error > 0.0 && error >= trigger_down;
        let raised = |by: f64| (self.n + by).min(highest);
        let lowered = |by: f64| (self.n - by).max(lowest);
        let correction = -up * error - derivative * change - integral * self.sum;
        self.n = match self.policy.form {
            "step" if late => raised(size),
            "step" if ahead => lowered(size),
            "tendency" if late || (!ahead && change < 0.0) => raised(size),
            "tendency" if ahead || (!late && change > 0.0) => lowered(size),
            "proportional" if late => raised(-error * up),
            "proportional" if ahead => lowered(error * down),
            "pd" if late || ahead => (self.n - up * error - derivative * change).min(highest).max(lowest),
            "pid" if self.policy.whole => (self.n + correction.trunc()).min(highest).max(lowest),
            "pid" => (self.n + correction).min(highest).max(lowest),
            _ => self.n,
        };
        self.last = Some(error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_follows_its_formula() {
    let base = Policy {
        name: "step".to_owned(),
        form: "step",
        trigger_up: 8.0,
        trigger_down: 12.0,
        size: 7.0,
        up: 0.7,
        down: 0.3,
        derivative: 0.4,
        integral: 0.05,
        lowest: 20.0,
        highest: 100.0,
        digits: 2,
        scale: 100.0,
        unit: 1.0,
        whole: false,
    };
    let forms = ["step", "tendency", "proportional", "pd", "pid"].map(|form| (form, form));
    let forms = forms.into_iter().chain([("whole", "pid")]);
    let policies: Vec<Policy> = forms
        .map(|(name, form)| Policy { name: name.to_owned(), form, whole: name == "whole", ..base.clone() })
        .collect();
    let world = world(&policies, 60.0).await;
    let plain = |policy: &Policy| Plain { policy: policy.clone(), n: 60.0, last: None, sum: 0.0 };
    let mut plains: Vec<Plain> = policies.iter().map(plain).collect();
    let mut random = 12_345_u64;
    for second in 0..40 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // In steps of a hundredth of a percent, between 25 % late and 25 % ahead.
        let error = ((random >> 33) % 5_001) as f64 / 100.0 - 25.0;
        world.push("application_progress_error", &[("application_id", "job")], error / 100.0).await;
        for plain in &mut plains {
            plain.sees(error);
        }
        idle_second(&world, &policies).await;
        for Plain { policy, n, .. } in &plains {
            let cap = world.limit(&policy.name, Resource::Cpu) / ENTIRE * 100.0;
            assert!((cap - n).abs() < 1e-4, "{} in second {second}: {cap}, not {n}", policy.name);
        }
    }
}

/// A job of equal or unequal items in one container, which does them one after the other.
struct Job {
    /// What each item costs, in core-seconds.
    items: Vec<f64>,
    /// What it can use, in cores.
    demand: f64,
    /// Seconds from its start to its deadline.
    deadline: f64,
    /// Whether its progress is pushed beside the error.
    tells_progress: bool,
}

/// How a job went.
#[derive(Debug, Default)]
struct Ended {
    /// Seconds it took, if it ended within twice its time.
    after: Option<f64>,
    /// Integral of its limit until then, in core-seconds.
    reserved: f64,
    decisions: Vec<Decision>,
}

impl Job {
    async fn run(&self, world: &World) -> Ended {
        let (mut worked, mut ended) = (0.0, Ended::default());
        let total: f64 = self.items.iter().sum();
        let tags = [("application_id", "render")];
        for second in 1..=(2.0 * self.deadline) as i32 {
            let limit = world.limit("render-1", Resource::Cpu);
            worked += limit.min(self.demand);
            ended.reserved += limit;
            let report = world.second(&[("render-1", cpu(self.demand))]).await;
            ended.decisions.extend(report.decisions.clone());
            let errors: Vec<_> = report.runs.iter().filter_map(|run| run.error.as_ref()).collect();
            assert_eq!(errors, Vec::<&String>::new());
            if worked >= total - 1e-9 {
                ended.after = Some(f64::from(second));
                return ended;
            }
            if second % 2 == 0 {
                let done = self.items.iter().scan(0.0, |sum, cost| {
                    *sum += cost;
                    Some(*sum)
                });
                let done = done.filter(|sum| *sum <= worked).count() as f64 / self.items.len() as f64;
                let passed = f64::from(second) / self.deadline;
                if self.tells_progress {
                    world.push("job_progress", &tags, done).await;
                    world.push("time_progress", &tags, passed).await;
                }
                world.push("application_progress_error", &tags, done - passed).await;
            }
        }
        ended
    }
}

/// Most that the job's container may have, in cores.
const MOST: f64 = 2.0;

async fn render(start: f64) -> World {
    let world = World::new().await;
    world.put_bounded("render-1", "render", (0.1, MOST));
    world.set_limit("render-1", Resource::Cpu, start);
    world.apply_rules(&pack("deadline"), "on").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_in_time_on_less_than_all_it_may_have() {
    let job = Job { items: vec![0.5; 200], demand: 1.6, deadline: 100.0, tells_progress: true };
    let ended = job.run(&render(MOST).await).await;
    let after = ended.after.unwrap();
    assert!((85.0..=100.0).contains(&after), "it ended after {after} s");
    // With all of it all the time it would be done after 100 / 1.6 s.
    assert!(ended.reserved < 0.95 * MOST * 100.0 / 1.6, "{} core-seconds", ended.reserved);
    assert!(ended.reserved / after < 0.6 * MOST, "{} cores on average", ended.reserved / after);
    let changes = ended.decisions.iter().filter(|decision| decision.outcome.status == OutcomeStatus::Applied).count();
    assert!((1..=15).contains(&changes), "{changes} changes");
    let reasons: Vec<_> = ended.decisions.iter().map(|decision| &decision.reason).collect();
    assert!(reasons.iter().all(|reason| reason.starts_with("job render is ")), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_items_grow_dear_halfway_catches_up() {
    let items = [vec![0.4; 100], vec![0.8; 100]].concat();
    let job = Job { items, demand: MOST, deadline: 100.0, tells_progress: true };
    let ended = job.run(&render(0.4).await).await;
    let after = ended.after.unwrap();
    assert!((80.0..=100.0).contains(&after), "it ended after {after} s: {:#?}", ended.decisions);
    assert!(ended.reserved / after < 0.75 * MOST, "{} cores on average", ended.reserved / after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_cannot_be_met_gets_all_there_is_and_says_so() {
    let job = Job { items: vec![0.5; 200], demand: MOST, deadline: 30.0, tells_progress: true };
    let world = render(0.5).await;
    let ended = job.run(&world).await;
    assert_eq!(world.limit("render-1", Resource::Cpu), MOST);
    let hopeless: Vec<_> =
        ended.decisions.iter().filter(|decision| decision.reason.contains("it cannot end in time even with")).collect();
    assert!((1..=3).contains(&hopeless.len()), "said, and not said over and over: {hopeless:#?}");
    assert_eq!(hopeless[0].limit_before, Some(0.5));
    // At two cores from then on, 100 core-seconds take 50 s and the little time until it was known.
    assert!(ended.after.unwrap() <= 60.0, "{:?}", ended.after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_pushes_nothing_but_its_error_is_paced_by_it() {
    let job = Job { items: vec![0.5; 200], demand: MOST, deadline: 100.0, tells_progress: false };
    for start in [0.3, MOST] {
        let world = render(start).await;
        let ended = job.run(&world).await;
        assert!(ended.decisions.iter().all(|decision| decision.rule == "deadline_pace"));
        let after = ended.after.unwrap();
        assert!((90.0..=106.0).contains(&after), "from {start} cores it ended after {after} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_newer_sample_nothing_is_done() {
    let world = render(0.5).await;
    let silent = Job { items: vec![1_000.0], demand: MOST, deadline: 10.0, tells_progress: true };
    for (metric, value) in [("job_progress", 0.0), ("time_progress", 0.5)] {
        world.push(metric, &[("application_id", "render")], value).await;
    }
    for second in 0..20 {
        let report = world.second(&[("render-1", cpu(silent.demand))]).await;
        assert_eq!(report.decisions.len(), usize::from(second == 0), "second {second}: {:?}", report.decisions);
    }
    assert_eq!(world.limit("render-1", Resource::Cpu), MOST, "late, and no progress was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_containers_share_what_their_job_needs() {
    let world = roomy();
    let names = ["render-1", "render-2", "render"];
    for name in names {
        world.put_bounded(name, if name == "render" { "other" } else { "render" }, (0.1, 1.0));
        world.set_limit(name, Resource::Cpu, 1.0);
    }
    world.apply_rules(&pack("deadline"), "on").await;
    let demands = [("render-1", cpu(0.6)), ("render-2", cpu(0.2)), ("render", cpu(0.1))];
    let mut worked = 0.0;
    for second in 1..40 {
        worked += demands.iter().map(|(name, one)| one.demand.min(world.limit(name, Resource::Cpu))).sum::<f64>();
        world.second(&demands).await;
        // 45 core-seconds in 100 s are half of what it begins with.
        world.push("job_progress", &[("application_id", "render")], worked / 45.0).await;
        world.push("time_progress", &[("application_id", "render")], f64::from(second) / 100.0).await;
    }
    let limits = names.map(|name| world.limit(name, Resource::Cpu));
    assert!(limits[0] > 1.5 * limits[1] && limits[1] >= limits[2], "by what each uses: {limits:?}");
    assert!(limits[2] < 0.5, "the container of that name belongs to it: {limits:?}");
    assert!(limits.iter().all(|limit| *limit < 0.9), "at twice the pace it has too much: {limits:?}");
}
