//! Ticks: at each instant the due rules run at once, and what they propose is judged together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use tidegate_model::{ContainerKey, Decision, Event, TimeMs};
use tidegate_store::{Consumption, OnLimit, Param, QueryOptions, QueryPool, RuleStatus, RuleView, Store};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::arbiter::judge;
use crate::canary;
use crate::config::PolicyConfig;
use crate::engine::Engine;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::history::History;
use crate::options::Emit;
use crate::proposal::{self, LimitKey, Origin, Parsed, Proposal};
use crate::readings::{Extent, Readings};
use crate::reads::Reads;
use crate::remember::{self, Left};
use crate::restore::Restored;
use crate::rule::{ActiveRule, RuleDefinition, STAGES};
use crate::snapshot::{SNAPSHOT_WINDOW, Snapshot};
use crate::statement::as_shadow;

/// The shortest period of a rule, and the grid on which all of them lie.
const GRID: Duration = Duration::from_secs(1);
/// How long a tick waits, beyond a rule's timeout, for a query that does not let itself be cancelled.
pub(crate) const GRACE: Duration = Duration::from_millis(500);
/// Least time between two ticks for rules that run on arrival.
const ARRIVALS_APART: Duration = Duration::from_millis(100);
/// How often rules that run on arrival are looked for while there is none.
const ARRIVAL_LOOK: Duration = Duration::from_millis(500);
/// How long the end of the program waits for ticks under way.
const DRAIN: Duration = Duration::from_secs(5);
/// How late, beyond what its rules may take, a tick may come to its rules.
const LATE: Duration = Duration::from_secs(1);

/// How one rule's run went.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RuleRun {
    /// The rule.
    pub rule: String,
    /// Rows that its query returned.
    pub rows: u64,
    /// How long the query took.
    pub took: Duration,
    /// What went wrong, with the rule or some of its rows.
    pub error: Option<String>,
}

/// What happened at one tick.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TickReport {
    /// The instant.
    pub now: TimeMs,
    /// The rules that ran.
    pub runs: Vec<RuleRun>,
    /// The rules that were due, but still running since a former tick.
    pub skipped: Vec<String>,
    /// Every decision, with its outcome.
    pub decisions: Vec<Decision>,
    /// Every event.
    pub events: Vec<Event>,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Whether nothing was evaluated, since the kill switch is on.
    pub frozen: bool,
}

/// What a rule's query gave.
struct Answer {
    /// Which of those that began together it is.
    nth: usize,
    rule: ActiveRule,
    view: Option<Arc<RuleView>>,
    took: Duration,
    result: Result<Vec<RecordBatch>, String>,
}

/// What rules that answered together want.
#[derive(Default)]
struct Gathered {
    proposals: Vec<Proposal>,
    /// Events on which the proposals act.
    consumptions: Vec<(LimitKey, Consumption)>,
    left: Left,
    /// The limit rules that answered without an error.
    answered: Vec<Arc<RuleDefinition>>,
}

/// Which rules a tick is for.
#[derive(Clone, Copy)]
enum For<'a> {
    /// All whose period begins at its instant.
    Periods,
    /// As `Periods`, and those that run on arrival: where time is virtual, samples arrive at each instant.
    All,
    /// Those of these that run on arrival.
    Arrivals(&'a [String]),
}

impl For<'_> {
    fn includes(self, rule: &RuleDefinition, now: TimeMs) -> bool {
        rule.is_due(now)
            && match self {
                For::Periods => !rule.on_arrival(),
                For::All => true,
                For::Arrivals(names) => rule.on_arrival() && names.contains(&rule.name),
            }
    }
}

impl Engine {
    /// Evaluates all rules that are due at `now`, writes what the guards let through and records every decision; returns
    /// when all of it is done. A rule is due at the multiples of its period since the epoch, so at an instant that is no
    /// whole second nothing is due.
    ///
    /// While another tick still reads what former runs did, nothing is evaluated, and the report says so.
    pub async fn tick(self: &Arc<Self>, now: TimeMs) -> TickReport {
        self.tick_unless_late(now, For::All, Duration::MAX).await
    }

    /// A tick that does nothing when it comes to its rules more than `latest` after its instant: ages are counted from the
    /// instant, so the guards would take old data for fresh.
    async fn tick_unless_late(self: &Arc<Self>, now: TimeMs, which: For<'_>, latest: Duration) -> TickReport {
        let mut report = TickReport { now, ..TickReport::default() };
        match self.restore_history(now).await {
            Ok(Restored::Done) => {}
            Ok(Restored::UnderWay) => {
                tracing::warn!(%now, "a tick is skipped: cooldowns of former runs are still being read");
                report.problems.push("skipped, since the decisions of former runs are still being read".to_owned());
                return report;
            }
            Err(error) => {
                tracing::warn!(error, "cooldowns of former runs are unknown until the next tick: nothing is lowered");
                self.history.lock().unknown_past = true;
                report.problems.push(error);
            }
        }
        let late = self.clock.now().since(now);
        if late > latest {
            tracing::warn!(%now, ?late, "a tick is skipped: its instant is too long ago");
            report.problems.push(format!("skipped, since its instant was {late:?} ago, more than {latest:?}"));
            return report;
        }
        report.decisions = self.flush_outbox().await;
        if self.frozen().is_some() {
            report.frozen = true;
            self.ticked.store(true, Ordering::Release);
            return report;
        }
        // Rules that read what others write run behind those, so that what happens at an instant is acted on at the same.
        let mut stages: [Vec<ActiveRule>; STAGES] = Default::default();
        for rule in self.active().iter().filter(|rule| which.includes(&rule.definition, now)) {
            stages[rule.stage()].push(rule.clone());
        }
        // What the engine owes to its changes it looks at once a second.
        let at_period = !matches!(which, For::Arrivals(_));
        let mut answers = JoinSet::new();
        self.start(std::mem::take(&mut stages[0]), now, &mut answers, &mut report);
        if !answers.is_empty() || stages.iter().any(|rules| !rules.is_empty()) || (at_period && self.owes(now)) {
            let gather_until = tokio::time::Instant::now() + self.config.gather();
            let mut together = Gathered::default();
            let mut snapshot = match self.snapshot(now).await {
                Ok(snapshot) => {
                    self.history.lock().observe(&snapshot);
                    if at_period {
                        together.proposals.extend(self.own_proposals(&snapshot, &mut report).await);
                    }
                    snapshot
                }
                Err(error) => {
                    tracing::error!(error, "limits are held, since what is known of them could not be read");
                    report.problems.push(error);
                    // Not observed: nothing known is not the same as nothing there.
                    Snapshot::new(now, Default::default(), &[], Arc::default())
                }
            };
            let mut writes: Vec<JoinHandle<Vec<Decision>>> = Vec::new();
            self.gather(gather_until, &mut answers, &snapshot, &mut together, &mut report).await;
            for rules in stages.into_iter().filter(|rules| !rules.is_empty()) {
                self.leave(std::mem::take(&mut together.left), now, &mut report).await;
                self.start(rules, now, &mut answers, &mut report);
                let gather_until = tokio::time::Instant::now() + self.config.gather();
                self.gather(gather_until, &mut answers, &snapshot, &mut together, &mut report).await;
            }
            writes.extend(self.act_on(together, &mut snapshot, &mut report).await);
            // Whoever answers later is judged alone, against the history as it is by then.
            while let Some(answer) = answers.join_next().await {
                let Ok(answer) = answer else { continue };
                let mut alone = Gathered::default();
                self.take_answer(answer, &snapshot, &mut alone, &mut report);
                writes.extend(self.act_on(alone, &mut snapshot, &mut report).await);
            }
            for write in writes {
                match write.await {
                    Ok(decisions) => report.decisions.extend(decisions),
                    Err(error) => report.problems.push(format!("a write was lost: {error}")),
                }
            }
        }
        self.ticked.store(true, Ordering::Release);
        report
    }

    /// Ticks at every whole second until `shutdown`, each one `tick_delay_ms` after its instant so that the instant's
    /// samples are in. Instants may overlap; those that were missed or that begin too late are skipped. Needs a clock that
    /// moves by itself.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut under_way = JoinSet::new();
        let arrivals = tokio::spawn(Arc::clone(&self).run_on_arrival(shutdown.clone()));
        let latest = self.config.tick_delay() + self.config.rule_timeout() + self.config.gather() + LATE;
        let mut last = self.clock.now().minus(self.config.tick_delay()).aligned(GRID);
        loop {
            let next = last.plus(GRID).plus(self.config.tick_delay());
            let wait = next.since(self.clock.now());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait.min(GRID)) => {}
            }
            let instant = self.clock.now().minus(self.config.tick_delay()).aligned(GRID);
            // After the clock was set back, the new time counts.
            if instant == last {
                continue;
            }
            last = instant;
            while under_way.try_join_next().is_some() {}
            let engine = Arc::clone(&self);
            under_way.spawn(async move { engine.tick_unless_late(instant, For::Periods, latest).await });
        }
        let drained = tokio::time::timeout(DRAIN, async {
            while under_way.join_next().await.is_some() {}
            let _ = arrivals.await;
        });
        let drained = drained.await;
        if drained.is_err() {
            tracing::warn!("ticks were still under way at the end; their last decisions may be unrecorded");
        }
        self.flush_outbox().await;
    }

    /// Ticks for rules that run on arrival until `shutdown`: when samples arrive that they read, at most ten times a second.
    /// Returns when the last of them is done.
    async fn run_on_arrival(self: Arc<Self>, shutdown: CancellationToken) {
        let (mut news, mut under_way) = (None, JoinSet::new());
        while !shutdown.is_cancelled() {
            while under_way.try_join_next().is_some() {}
            let rules: Vec<ActiveRule> =
                self.active().iter().filter(|rule| rule.definition.on_arrival()).cloned().collect();
            if rules.is_empty() {
                news = None;
                tokio::time::sleep(ARRIVAL_LOOK).await;
                continue;
            }
            let next = news.get_or_insert_with(|| self.store.news()).next();
            // Not for ever, since rules may have come or gone.
            let Ok(since) = tokio::time::timeout(ARRIVAL_LOOK, next).await else { continue };
            let began = tokio::time::Instant::now();
            let has_news = |rule: &&ActiveRule| {
                let Reads { usage, metrics, samples, .. } = &*rule.reads;
                *samples
                    || self.store.arrived_since(since, metrics.iter().map(String::as_str))
                    || (*usage && self.store.usage_arrived_since(since))
            };
            let due: Vec<String> = rules.iter().filter(has_news).map(|rule| rule.definition.name.clone()).collect();
            if due.is_empty() {
                continue;
            }
            let (engine, now) = (Arc::clone(&self), self.clock.now());
            // The next one need not wait for a rule that takes longer.
            under_way.spawn(async move { engine.tick_unless_late(now, For::Arrivals(&due), LATE).await });
            tokio::time::sleep_until(began + ARRIVALS_APART).await;
        }
        while under_way.join_next().await.is_some() {}
    }

    /// See [`Engine::preview`].
    pub(crate) async fn preview_rule(
        &self,
        definition: Arc<RuleDefinition>,
        now: TimeMs,
    ) -> Result<Vec<Decision>, PolicyError> {
        let in_query = |message| PolicyError::new(PolicyErrorKind::Query, message);
        if definition.emit != Emit::Limit {
            return Err(in_query(
                "a rule that emits events or parameters proposes no limits, so there is nothing to preview".to_owned(),
            ));
        }
        if self.restore_history(now).await.map_err(in_query)? == Restored::UnderWay {
            return Err(in_query(
                "the decisions of former runs are still being read; try again in a moment".to_owned(),
            ));
        }
        let rule = as_shadow(&definition);
        // What a person tries out must not keep the threads that rules need.
        let limits = rule_query_options(&self.store, &self.config, now);
        let view = ActiveRule::new(Arc::clone(&rule), Arc::default()).view(&self.store, now).await.map_err(in_query)?;
        let options = QueryOptions { pool: QueryPool::Interactive, rule: Some(view), ..limits };
        let answer = self.store.query(&rule.query, &options).await;
        let batches = answer.map_err(|error| in_query(error.message))?.batches;
        let snapshot = self.snapshot(now).await.map_err(in_query)?;
        let Parsed { items, problem } = self.proposed(&rule, &batches, &snapshot);
        if let (true, Some(problem)) = (items.is_empty(), problem) {
            return Err(in_query(problem));
        }
        let history = self.history.lock().clone();
        Ok(judge(items, &snapshot, &history, &self.config).settled)
    }

    /// Takes what rules answer until an instant, in the order in which they began: what comes of it must not depend on which
    /// of them was quicker.
    async fn gather(
        &self,
        until: tokio::time::Instant,
        answers: &mut JoinSet<Answer>,
        snapshot: &Snapshot,
        together: &mut Gathered,
        report: &mut TickReport,
    ) {
        let mut in_time = Vec::with_capacity(answers.len());
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.join_next()).await {
            in_time.extend(answer.ok());
        }
        in_time.sort_unstable_by_key(|answer| answer.nth);
        for answer in in_time {
            self.take_answer(answer, snapshot, together, report);
        }
    }

    /// Starts rules, but for those whose last run is still going.
    fn start(&self, rules: Vec<ActiveRule>, now: TimeMs, answers: &mut JoinSet<Answer>, report: &mut TickReport) {
        for (nth, rule) in rules.into_iter().enumerate() {
            let guard = match Running::begin(&rule.running, now) {
                Ok(guard) => guard,
                Err(since) => {
                    let elapsed = now.since(since);
                    let error = format!("skipped, since the run of {elapsed:?} ago is still going");
                    self.set_status(&rule.definition.name, now, elapsed, None, Some(error));
                    report.skipped.push(rule.definition.name.clone());
                    continue;
                }
            };
            let options = rule_query_options(&self.store, &self.config, now);
            answers.spawn(evaluate(Arc::clone(&self.store), nth, rule, options, guard));
        }
    }

    fn take_answer(&self, answer: Answer, snapshot: &Snapshot, gathered: &mut Gathered, report: &mut TickReport) {
        let Answer { rule: ActiveRule { definition: rule, .. }, view, took, result, .. } = answer;
        let now = snapshot.now;
        let rows = result.as_ref().ok().map(|batches| batches.iter().map(|batch| batch.num_rows() as u64).sum());
        let error = match result {
            Err(error) => Some(error),
            Ok(batches) => {
                let forgotten = view.and_then(|view| self.remember_state(&view, now, &batches));
                self.take_rows(&rule, &batches, snapshot, gathered).or(forgotten)
            }
        };
        if let Some(error) = &error {
            let rows = self.store.rules();
            let former = rows.iter().find(|row| row.name == rule.name).and_then(|row| row.last_error.as_ref());
            // A rule that fails each second says so once.
            if former != Some(error) {
                tracing::warn!(rule = rule.name, error, "a rule failed");
            }
        }
        self.set_status(&rule.name, now, took, rows, error.clone());
        report.runs.push(RuleRun { rule: rule.name.clone(), rows: rows.unwrap_or(0), took, error });
    }

    /// Takes the rows that a rule returned for what they are; returns what is wrong with some of them.
    fn take_rows(
        &self,
        rule: &Arc<RuleDefinition>,
        batches: &[RecordBatch],
        snapshot: &Snapshot,
        gathered: &mut Gathered,
    ) -> Option<String> {
        let acts = |container: &ContainerKey| canary::acts(rule.mode, container) && snapshot.scales(container);
        let is_for = |container: &ContainerKey| rule.is_for(container, &snapshot.containers);
        let left = &mut gathered.left;
        match rule.emit {
            Emit::Limit => {
                let Parsed { items, problem } = self.proposed(rule, batches, snapshot);
                gathered.proposals.extend(items);
                if problem.is_none() {
                    gathered.answered.push(Arc::clone(rule));
                }
                for acted in remember::consumptions(batches).into_iter().filter(|acted| is_for(&acted.key.0)) {
                    let one = acted.by(rule, !acts(&acted.key.0));
                    // Who proposes nothing has seen all he wanted to; otherwise it depends on what becomes of it.
                    match acted.proposes {
                        true => gathered.consumptions.push((acted.key, one)),
                        false => left.consumptions.push(one),
                    }
                }
                problem
            }
            Emit::Event => {
                let Parsed { items, problem } = proposal::events(rule, snapshot.now, batches);
                let items = remember::merged(items).into_iter().filter(|item| is_for(&item.container));
                // An event may move another rule, so those of a shadow rule move only shadow rules.
                let (events, shadow): (Vec<_>, Vec<_>) = items.partition(|item| acts(&item.container));
                left.events.extend(events);
                left.shadow_events.extend(shadow);
                problem
            }
            Emit::Param => {
                let Parsed { items, problem } = remember::params(rule, snapshot.now, batches);
                let items = items.into_iter().filter(|item| is_for(&item.container));
                left.params.extend(items.map(|param| Param { shadow: !acts(&param.container), ..param }));
                problem
            }
        }
    }

    /// Records what is left for others and starts what the guards let through.
    async fn act_on(
        self: &Arc<Self>,
        gathered: Gathered,
        snapshot: &mut Snapshot,
        report: &mut TickReport,
    ) -> Option<JoinHandle<Vec<Decision>>> {
        let Gathered { mut proposals, consumptions, mut left, answered } = gathered;
        self.renew(&proposals, snapshot.now);
        proposals.extend(self.expired(snapshot, &answered));
        if let Err(error) = self.read_on(snapshot, &proposals).await {
            tracing::error!(error, "limits are held, since what is known of them could not be read");
            report.problems.push(error);
            proposals.clear();
        }
        let judged = (!proposals.is_empty()).then(|| self.settle(proposals, snapshot));
        if let Some(judged) = &judged {
            left.consumptions.extend(remember::acted_on(consumptions, judged));
        }
        self.leave(left, snapshot.now, report).await;
        // On its own, so that a tick that is given up does not lose what is being written.
        judged.map(|judged| tokio::spawn(Arc::clone(self).carry_out(judged)))
    }

    /// Notes what rules ask for, so that what they changed stands.
    fn renew(&self, proposals: &[Proposal], now: TimeMs) {
        let mut history = self.history.lock();
        for Proposal { rule, key, .. } in proposals.iter().filter(|proposal| proposal.origin == Origin::Row) {
            history.renew(key, &rule.name, now);
        }
    }

    async fn snapshot(&self, now: TimeMs) -> Result<Snapshot, String> {
        let explains = self.explains();
        let readings = self.readings(now, if explains { Extent::All } else { Extent::Usual }).await?;
        let mut snapshot = Snapshot::new(now, readings, &self.store.hosts(), self.store.container_map());
        snapshot.explains = explains;
        snapshot.overrides = self.store.overrides();
        self.with_groups(snapshot).await
    }

    async fn readings(&self, now: TimeMs, extent: Extent) -> Result<Readings, String> {
        // Half a picture is worse than none: without all containers, none is touched.
        let options =
            QueryOptions { on_limit: OnLimit::Fail, pool: QueryPool::Rules, ..self.store.default_query_options(now) };
        let limit = self.config.rule_timeout() + GRACE;
        let rows = tokio::time::timeout(limit, self.store.recent(SNAPSHOT_WINDOW, &extent.columns(), &options)).await;
        let rows = rows.map_err(|_| format!("recent() did not answer within {limit:?}"))?;
        let rows = rows.map_err(|error| format!("recent() failed: {}", error.message))?;
        Ok(Readings::read(&rows, &mut self.limits.lock()))
    }

    /// Reads what else judging `proposals` takes.
    async fn read_on(&self, snapshot: &mut Snapshot, proposals: &[Proposal]) -> Result<(), String> {
        if snapshot.explains {
            return Ok(());
        }
        let lowers = {
            let history = self.history.lock();
            proposals.iter().any(|proposal| may_lower(proposal, snapshot, &history))
        };
        if lowers {
            snapshot.readings = self.readings(snapshot.now, Extent::Decreases).await?;
        }
        Ok(())
    }

    fn set_status(&self, rule: &str, now: TimeMs, took: Duration, rows: Option<u64>, error: Option<String>) {
        let status = RuleStatus { run: now, latency_ms: took.as_secs_f64() * 1e3, rows, error };
        self.store.put_rule_status(rule, status);
    }
}

/// Whether a limit may come out lower than it is, whatever guards make of the target.
fn may_lower(Proposal { key, target, .. }: &Proposal, snapshot: &Snapshot, history: &History) -> bool {
    let Some(reading) = snapshot.reading(key) else { return true };
    let Some(limit) = history.limit(key, &reading, snapshot.now) else { return true };
    let highest = [snapshot.bounds(key).1, snapshot.capacity(key)].into_iter().flatten().fold(*target, f64::min);
    highest < limit || highest.is_nan()
}

/// Held while a rule runs, also beyond the tick that started it.
struct Running(Arc<Mutex<Option<TimeMs>>>);

impl Running {
    /// Fails with the tick whose run is still going.
    fn begin(flag: &Arc<Mutex<Option<TimeMs>>>, now: TimeMs) -> Result<Self, TimeMs> {
        let mut running = flag.lock();
        match *running {
            Some(since) => Err(since),
            None => {
                *running = Some(now);
                Ok(Self(Arc::clone(flag)))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

fn rule_query_options(store: &Store, config: &PolicyConfig, now: TimeMs) -> QueryOptions {
    QueryOptions {
        timeout: config.rule_timeout(),
        max_rows: config.rule_max_rows,
        memory_bytes: config.rule_memory_bytes,
        // A cut-off answer would judge some containers and silently forget others.
        on_limit: OnLimit::Fail,
        pool: QueryPool::Rules,
        ..store.default_query_options(now)
    }
}

/// Runs one rule's query in a task of its own: one that does not let itself be cancelled keeps its flag, not the tick.
async fn evaluate(
    store: Arc<Store>,
    nth: usize,
    rule: ActiveRule,
    mut options: QueryOptions,
    running: Running,
) -> Answer {
    let started = Instant::now();
    let limit = options.timeout + GRACE;
    let view = match rule.view(&store, options.now).await {
        Ok(view) => view,
        Err(error) => return Answer { nth, rule, view: None, took: started.elapsed(), result: Err(error) },
    };
    options.rule = Some(Arc::clone(&view));
    let result = if store.is_scratch() {
        // On this very thread, which nothing can take it from.
        let answer = store.query(&rule.definition.query, &options).await;
        drop(running);
        answer.map(|answer| answer.batches).map_err(|error| error.message)
    } else {
        let query = rule.definition.query.clone();
        let task = tokio::spawn(async move {
            let answer = store.query(&query, &options).await;
            drop(running);
            answer
        });
        match tokio::time::timeout(limit, task).await {
            Err(_) => Err(format!(
                "no answer within {limit:?}; the query is still running and the rule is skipped until it ends"
            )),
            Ok(Err(error)) => Err(format!("the query was interrupted: {error}")),
            Ok(Ok(Err(error))) => Err(error.message),
            Ok(Ok(Ok(answer))) => Ok(answer.batches),
        }
    };
    let view = rule.reads.state.then_some(view);
    Answer { nth, rule, view, took: started.elapsed(), result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_actuator::ActuatorConfig;
    use tidegate_actuator::simulated::SimulatedHost;
    use tidegate_model::{Clock, VirtualClock};
    use tidegate_store::StoreConfig;

    const NOW: TimeMs = TimeMs(1_700_000_000_000);
    const RULE: &str = "CREATE RULE a AS
        SELECT host, container, resource, 1.0 AS target, 'one' AS reason FROM recent(INTERVAL '10 seconds')";

    async fn engine(dir: &tempfile::TempDir, clock: &Arc<VirtualClock>) -> Arc<Engine> {
        let store = StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() };
        let store = Store::open(store, NOW).unwrap();
        let host = SimulatedHost::new(ActuatorConfig::default(), 7);
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let engine = Engine::new(store, host, PolicyConfig::default(), clock).unwrap();
        engine.execute(RULE, "test", NOW).await.unwrap();
        engine
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_tick_that_comes_too_late_does_nothing() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(VirtualClock::new(NOW)));
        let engine = engine(&dir, &clock).await;
        let latest = Duration::from_secs(6);
        assert_eq!(engine.tick_unless_late(NOW, For::Periods, latest).await.runs.len(), 1);
        clock.advance(latest + Duration::from_millis(1));
        let late = engine.tick_unless_late(NOW, For::Periods, latest).await;
        assert!(late.runs.is_empty() && late.problems[0].contains("6.001s ago"), "{late:?}");
        assert_eq!(engine.tick(NOW).await.runs.len(), 1, "whoever names an instant himself means it");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rule_is_planned_once_and_again_when_it_changed() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(VirtualClock::new(NOW)));
        let engine = engine(&dir, &clock).await;
        for window in 1..20 {
            let rule =
                RULE.replace("RULE a", &format!("RULE a{window}")).replace("10 seconds", &format!("{window} minutes"));
            engine.execute(&rule, "test", NOW).await.unwrap();
        }
        engine.tick(NOW).await;
        let plans = || engine.store.stats().plans_total;
        let first = plans();
        for second in 1..5 {
            let report = engine.tick(NOW.plus(Duration::from_secs(second))).await;
            assert_eq!((report.runs.len(), plans()), (20, first), "{:?}", report.problems);
            assert!(report.runs.iter().all(|run| run.error.is_none()), "{report:?}");
        }
        engine.execute(&RULE.replace("CREATE", "CREATE OR REPLACE").replace("1.0", "2.0"), "test", NOW).await.unwrap();
        let changed = plans();
        engine.tick(NOW.plus(Duration::from_secs(5))).await;
        assert_eq!(plans(), changed + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ticks_do_not_queue_behind_a_restore() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(VirtualClock::new(NOW)));
        let engine = engine(&dir, &clock).await;
        let restoring = engine.restoring.lock().await;
        let skipped = engine.tick(NOW).await;
        assert!(skipped.runs.is_empty() && skipped.problems[0].contains("still being read"), "{skipped:?}");
        assert!(!engine.ready());
        drop(restoring);
        assert_eq!(engine.tick(NOW).await.runs.len(), 1);
        assert_eq!(*engine.restored.lock(), Some(Duration::from_secs(600)));
        engine.execute("ALTER RULE a SET (cooldown_down = '2h')", "test", NOW).await.unwrap();
        engine.tick(NOW).await;
        assert_eq!(*engine.restored.lock(), Some(Duration::from_secs(7_200)), "a longer cooldown reaches further");
    }
}
