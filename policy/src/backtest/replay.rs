//! Playing a trace to an engine, instant by instant.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_actuator::Actuator;
use tidegate_actuator::simulated::SimulatedHost;
use tidegate_model::{Clock, Mode, TimeMs, VirtualClock};
use tidegate_store::{Durability, GroupRow, QUERY_STACK_BYTES, Store, StoreConfig};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::score::{Report, Score};
use super::scratch::Scratch;
use super::trace::Trace;
use crate::config::PolicyConfig;
use crate::engine::Engine;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::rule::contract;
use crate::snapshot::SNAPSHOT_WINDOW;

/// Shortest and longest distance of two instants. Rules have whole seconds.
pub const STEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// The longest distance that is taken where none is asked for: coarse samples are held, rules run in between.
const USUAL_STEP: Duration = Duration::from_secs(60);
/// Most instants of one replay.
const MOST_TICKS: u64 = 10_000_000;
/// Samples that are kept in memory before they go to segments.
const HOT_SAMPLES: usize = 4_000_000;
/// Samples after which those are forgotten that nobody can ask about any more.
const FORGET_SAMPLES: usize = 500_000;
/// How far before a window `recent()` looks for limits, and the engine for what became of its changes, and some room.
const LIMITS_REACH: Duration = Duration::from_secs(20 * 60);
/// Longest run of a rule's query: what is stuck ends, what is slow does not matter.
const RULE_TIMEOUT_MS: u64 = 60_000;
/// In how many parts progress is told.
const PARTS_TOLD: u64 = 1_000;
/// How many usual distances before the next sample the clock goes on after a gap.
const LOOK_BACK: u32 = 4;
/// A store that forgets nothing, in seconds.
const FOREVER_S: u64 = 100 * 365 * 24 * 3600;

/// One replay: what is played, to which rules, and how.
#[derive(Clone, Debug)]
pub struct Backtest {
    /// What containers wanted.
    pub trace: Arc<Trace>,
    /// Rule statements; none at all leaves the limits as they are in the beginning. Rules that are not `off` act,
    /// whatever their mode: what they would do is the question.
    pub rules: String,
    /// The distance of the instants; about as the trace has its samples, but at most a minute, when not set.
    pub step: Option<Duration>,
    /// The guards' bounds and defaults.
    pub policy: PolicyConfig,
    /// The store's settings, such as the boundary and the half-lives; where it keeps its files is not among them.
    pub store: StoreConfig,
    /// What operators allow groups.
    pub groups: Vec<GroupRow>,
    /// A directory below which it keeps its own store while it runs.
    pub dir: PathBuf,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Instants done.
    pub done: u64,
    /// Instants in all.
    pub all: u64,
}

impl Backtest {
    /// Plays the whole trace, on a thread of its own: it keeps a core busy to its end, which is nothing for the threads that
    /// serve others. `progress` is told from time to time how far it is; `stop`, or dropping the future, ends it.
    ///
    /// # Errors
    /// The rules are no rules, the trace is empty, the step is out of range, the scratch directory cannot be written, or it was
    /// stopped.
    pub async fn run(
        &self,
        stop: &CancellationToken,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, PolicyError> {
        let (backtest, stop) = (self.clone(), stop.child_token());
        let _given_up = stop.clone().drop_guard();
        let (told, mut reached) = watch::channel(Progress { done: 0, all: 0 });
        let (answer, mut ended) = oneshot::channel();
        let played = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(store_error);
            let tell = |progress| {
                told.send_replace(progress);
            };
            let _ = answer.send(runtime.and_then(|runtime| runtime.block_on(backtest.play(&stop, tell))));
        };
        let thread = std::thread::Builder::new()
            .name("tidegate-backtest".to_owned())
            .stack_size(QUERY_STACK_BYTES)
            .spawn(played);
        thread.map_err(|error| store_error(format!("a thread for the backtest cannot be started: {error}")))?;
        loop {
            tokio::select! {
                report = &mut ended => return report.unwrap_or_else(|_| Err(store_error("the backtest panicked, see the log"))),
                Ok(()) = reached.changed() => progress(*reached.borrow_and_update()),
            }
        }
    }

    /// As [`Backtest::run`], on this thread.
    async fn play(&self, stop: &CancellationToken, mut progress: impl FnMut(Progress)) -> Result<Report, PolicyError> {
        let began = Instant::now();
        let (from, to, step) = self.instants()?;
        let scratch = Scratch::new(&self.dir).map_err(|error| {
            store_error(format!("a backtest needs a directory below {} for its store: {error}", self.dir.display()))
        })?;
        let config = StoreConfig {
            dir: scratch.path().join("store"),
            durability: Durability::None,
            retention_s: FOREVER_S,
            retention: Vec::new(),
            max_bytes: None,
            max_past_s: None,
            object_store: None,
            local_cache_bytes: None,
            // Usage is what the simulated host measures, never also what was pushed at the time.
            usage_maps: Vec::new(),
            max_hot_samples: HOT_SAMPLES * 4,
            ..self.store.clone()
        };
        let store = Store::open_scratch(config, from).map_err(store_error)?;
        let clock = Arc::new(VirtualClock::new(from));
        let (members, played) = self.trace.play();
        let about = "a trace that is played again; no kernel is measured or changed".to_owned();
        let host = SimulatedHost::of(self.trace.hosts.clone(), members, Box::new(played), about);
        let (engine, blind) = self.engine(&store, &host, &clock, from).await?;
        let reach = reach(&store, &engine, from).await;

        let containers = host.containers();
        for known in &self.trace.hosts {
            store.put_host(known.clone()).map_err(store_error)?;
        }
        store.put_containers(&containers).map_err(store_error)?;
        for group in &self.groups {
            store.put_group(group.clone()).map_err(store_error)?;
        }
        let mut score = Score::new(containers.into_iter().map(|container| container.key).collect(), from, to);
        let instants = |span: Duration| (span.as_millis() / step.as_millis()) as u64;
        let all = instants(to.since(from));
        let (mut now, mut hot, mut told) = (from, 0, 0);
        while now < to {
            if stop.is_cancelled() {
                return Err(PolicyError::stopped("the backtest was stopped"));
            }
            now = now.plus(step);
            clock.set(now);
            let dt = step.as_secs_f64();
            let measured = host.measure(now, |row, resource, reading| score.measured(now, row, resource, reading, dt));
            // Where nothing was there, as between two experiments, nothing can happen.
            if measured.samples.is_empty() {
                let next = self.trace.next_after(now).unwrap_or(to);
                now = next.minus(self.trace.spacing() * LOOK_BACK).aligned(step).max(now);
                continue;
            }
            let kept = store.append(&measured.samples, now).await.map_err(store_error)?;
            if let Some(refused) = kept.rejected.first() {
                return Err(store_error(format!("the backtest's store refused a sample: {}", refused.reason)));
            }
            host.learn(&measured, &kept.ids);
            let pushed = self.trace.pushed_between(TimeMs(now.0 - step.as_millis() as i64), now);
            if !pushed.is_empty() {
                store.append(&pushed, now).await.map_err(store_error)?;
            }
            hot += measured.samples.len();
            match reach {
                Some(reach) if hot > FORGET_SAMPLES => {
                    store.forget_before(now.minus(reach));
                    hot = 0;
                }
                None if hot > HOT_SAMPLES => {
                    store.flush(now).await.map_err(store_error)?;
                    hot = 0;
                }
                _ => {}
            }
            score.ticked(&engine.tick(now).await);
            let done = instants(now.since(from));
            // Whoever is told wakes up for it, which takes as long as a good part of an instant.
            let parts = done * PARTS_TOLD / all.max(1);
            if parts > told {
                told = parts;
                progress(Progress { done, all });
            }
        }
        let took = began.elapsed().as_millis() as u64;
        let mut report = score.report(from, to, step.as_millis() as u64, took);
        let blind = blind
            .into_iter()
            .map(|name| format!("rule {name} reads pushed metrics that are not in what is played: it is left out"));
        let notes = engine.rules().into_iter().filter_map(|rule| Some(format!("rule {}: {}", rule.name, rule.note?)));
        report.problems.splice(0..0, self.doubts().into_iter().chain(blind).chain(notes));
        Ok(report)
    }

    /// From when to when, and in which steps.
    fn instants(&self) -> Result<(TimeMs, TimeMs, Duration), PolicyError> {
        let option = |message: String| PolicyError::new(PolicyErrorKind::Option, message);
        let (first, last) =
            self.trace.span().ok_or_else(|| option("there are no samples in the trace or the time span".to_owned()))?;
        let second = Duration::from_secs(1);
        let usual = self.trace.spacing().clamp(STEP.0, USUAL_STEP).as_secs();
        // Rules are due at multiples of their periods, which are mostly such as divide a minute.
        let usual = (1..=usual).rev().find(|seconds| 60 % seconds == 0).unwrap_or(1);
        let step = self.step.unwrap_or(Duration::from_secs(usual));
        if step < STEP.0 || step > STEP.1 || step.subsec_nanos() != 0 {
            let error = option(format!("a step of {} is out of range", humantime::format_duration(step)));
            return Err(error.help("expected whole seconds from 1s to 1h"));
        }
        let from = first.minus(second).aligned(step);
        let to = last.plus(step).minus(Duration::from_millis(1)).aligned(step);
        let ticks = (to.since(from).as_millis() / step.as_millis()) as u64;
        if ticks > MOST_TICKS {
            let error = option(format!("{ticks} instants are more than the {MOST_TICKS} of one backtest"));
            return Err(error.help("take a shorter span or a longer step"));
        }
        Ok((from, to, step))
    }

    /// The engine, and the rules that are left out.
    async fn engine(
        &self,
        store: &Arc<Store>,
        host: &Arc<SimulatedHost>,
        clock: &Arc<VirtualClock>,
        now: TimeMs,
    ) -> Result<(Arc<Engine>, Vec<String>), PolicyError> {
        let config = PolicyConfig {
            default_mode: Mode::On,
            // All rules of an instant are judged together, however long they take: the result must not depend on what else
            // the machine does.
            gather_ms: 3_600_000,
            rule_timeout_ms: self.policy.rule_timeout_ms.max(RULE_TIMEOUT_MS),
            ..self.policy.clone()
        };
        let actuator = Arc::clone(host) as Arc<dyn Actuator>;
        let engine = Engine::new(Arc::clone(store), actuator, config, Arc::clone(clock) as Arc<dyn Clock>)?;
        let played: Vec<&str> = self.trace.pushed.iter().map(|pushed| pushed.key.metric()).collect();
        let (first, latest) = self.trace.first_pushed();
        if !first.is_empty() {
            // Stored ahead of its time; no query sees it before.
            store.append(&first, latest).await.map_err(store_error)?;
        }
        let blind = if self.rules.trim().is_empty() {
            Vec::new()
        } else {
            engine.execute_but_blind(&self.rules, &played, now).await?
        };
        for rule in engine.rules().iter().filter(|rule| !matches!(rule.mode, Mode::Off | Mode::On)) {
            engine.execute(&format!("ALTER RULE {} SET (mode = 'on')", rule.name), "backtest", now).await?;
        }
        // The store goes with the backtest, and the score reads each tick's own report.
        if !engine.rules().iter().any(|rule| rule.query.to_ascii_lowercase().contains("decisions")) {
            engine.forget_decisions();
            host.be_terse();
        }
        Ok((engine, blind))
    }

    /// What makes the figures doubtful.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = self.trace.problems.clone();
        for resource in tidegate_model::Resource::ALL {
            let (samples, saturated) = self.trace.samples(resource);
            if saturated > 0 {
                let share = 100.0 * saturated as f64 / samples.max(1) as f64;
                doubts.push(format!(
                    "{saturated} of {samples} {resource} samples ({share:.1} %) were at their limit, so what was wanted \
                     then is known only as a lower bound: unmet demand may be higher than it looks"
                ));
            }
        }
        doubts
    }
}

/// How long samples are kept; `None` for ever, where a rule may ask about any time. Whatever a rule goes on with from run to
/// run begins with its first one, so what is older than its period is kept until then.
async fn reach(store: &Store, engine: &Engine, now: TimeMs) -> Option<Duration> {
    let mut longest = SNAPSHOT_WINDOW;
    for rule in engine.active().iter().map(|rule| &rule.definition) {
        let columns = store.check_rule(&rule.query, &contract(rule.emit), now).await.ok()?;
        longest = longest.max(columns.reach?).max(rule.resolved.every);
    }
    Some(longest + LIMITS_REACH)
}

fn store_error(error: impl std::fmt::Display) -> PolicyError {
    PolicyError::new(PolicyErrorKind::Store, error.to_string())
}
