//! Backtests that clients have asked for: one runs at a time, the last ones are kept to be looked at.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_model::TimeMs;
use tidegate_policy::backtest::{Progress, Report, Trace, pushed_metrics};
use tidegate_policy::{Engine, PolicyError};
use tidegate_store::Store;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::error::{ApiError, ErrorBody};
use crate::openapi::shapes;

/// How many are kept.
const KEPT: usize = 16;
/// What each part takes of the whole, roughly: reading the history, the rules, what they are compared with.
const PARTS: [f64; 3] = [0.1, 0.45, 0.45];

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub from: TimeMs,
    pub to: TimeMs,
    /// Rule statements, and those to compare with.
    pub rules: String,
    pub against: Option<String>,
    pub step: Option<Duration>,
}

/// How far a backtest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Reading,
    Running,
    Comparing,
    Done,
    Failed,
    Stopped,
}

/// A backtest as clients see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Backtest {
    pub id: String,
    phase: Phase,
    /// Share of it that is done, 0 to 1.
    progress: f64,
    /// In ms UTC.
    #[schema(value_type = i64)]
    from: TimeMs,
    /// In ms UTC.
    #[schema(value_type = i64)]
    to: TimeMs,
    /// Why it failed.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
    /// What the rules came to.
    #[schema(value_type = Option<shapes::BacktestReport>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Arc<Report>>,
    /// What they were compared with came to.
    #[schema(value_type = Option<shapes::BacktestReport>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Arc<Report>>,
}

impl Backtest {
    fn ended(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed | Phase::Stopped)
    }

    /// What came of it, and of what it was compared with.
    pub(crate) fn reports(self) -> (Option<Arc<Report>>, Option<Arc<Report>>) {
        (self.report, self.against)
    }

    /// Without the reports, for a list.
    fn short(&self) -> Self {
        Self { report: None, against: None, ..self.clone() }
    }
}

struct Job {
    shown: Mutex<Backtest>,
    stop: CancellationToken,
}

impl Job {
    fn at(&self, phase: Phase, part: usize, share: f64) {
        let mut shown = self.shown.lock();
        shown.phase = phase;
        shown.progress = PARTS[..part].iter().sum::<f64>() + PARTS[part] * share.clamp(0.0, 1.0);
    }
}

/// All backtests of this process.
#[derive(Default)]
pub(crate) struct Backtests {
    jobs: Mutex<(u64, VecDeque<Arc<Job>>)>,
}

impl Backtests {
    /// Starts one, unless another is running.
    pub(crate) fn start(
        &self,
        wanted: Wanted,
        engine: &Arc<Engine>,
        store: &Arc<Store>,
        shutdown: &CancellationToken,
    ) -> Result<Backtest, ApiError> {
        let mut jobs = self.jobs.lock();
        if let Some(running) = jobs.1.iter().find(|job| !job.shown.lock().ended()) {
            let id = running.shown.lock().id.clone();
            let error = ApiError::new(StatusCode::CONFLICT, format!("backtest {id} is running, one at a time"));
            return Err(error.help(format!("wait for it, or stop it with DELETE /api/v1/backtests/{id}")));
        }
        jobs.0 += 1;
        let shown = Backtest {
            id: jobs.0.to_string(),
            phase: Phase::Reading,
            progress: 0.0,
            from: wanted.from,
            to: wanted.to,
            error: None,
            report: None,
            against: None,
        };
        let job = Arc::new(Job { shown: Mutex::new(shown.clone()), stop: shutdown.child_token() });
        jobs.1.push_back(Arc::clone(&job));
        while jobs.1.len() > KEPT {
            jobs.1.pop_front();
        }
        let (engine, store) = (Arc::clone(engine), Arc::clone(store));
        tokio::spawn(async move {
            let running = Arc::clone(&job);
            // In a task of its own: one that breaks down must not be taken for running for ever.
            let ended = tokio::spawn(async move { run(&running, wanted, &engine, &store).await }).await;
            let broken =
                |error: tokio::task::JoinError| Err(PolicyError::stopped(format!("the backtest broke down: {error}")));
            let ended = ended.unwrap_or_else(broken);
            let mut shown = job.shown.lock();
            match ended {
                Ok((report, against)) => {
                    (shown.phase, shown.progress) = (Phase::Done, 1.0);
                    (shown.report, shown.against) = (Some(Arc::new(report)), against.map(Arc::new));
                }
                Err(_) if job.stop.is_cancelled() => shown.phase = Phase::Stopped,
                Err(error) => {
                    shown.phase = Phase::Failed;
                    shown.error = Some(ApiError::from(error).into_body());
                }
            }
        });
        Ok(shown)
    }

    /// All that are kept, without their reports, the newest first.
    pub(crate) fn list(&self) -> Vec<Backtest> {
        self.jobs.lock().1.iter().rev().map(|job| job.shown.lock().short()).collect()
    }

    /// One of them.
    pub(crate) fn find(&self, id: &str) -> Option<Backtest> {
        Some(self.job(id)?.shown.lock().clone())
    }

    /// Tells one to stop; false when there is none of that id.
    pub(crate) fn stop(&self, id: &str) -> bool {
        self.job(id).map(|job| job.stop.cancel()).is_some()
    }

    fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.jobs.lock().1.iter().find(|job| job.shown.lock().id == id).map(Arc::clone)
    }
}

async fn run(
    job: &Job,
    wanted: Wanted,
    engine: &Engine,
    store: &Store,
) -> Result<(Report, Option<Report>), PolicyError> {
    let progress = |share| job.at(Phase::Reading, 0, share);
    let reading = async {
        let mut trace = Trace::of_history(store, wanted.from, wanted.to, wanted.step, progress).await?;
        let mut metrics = pushed_metrics(&wanted.rules);
        metrics.extend(wanted.against.iter().flat_map(|rules| pushed_metrics(rules)));
        metrics.sort_unstable();
        metrics.dedup();
        trace.add_pushed(store, &metrics, wanted.from, wanted.to).await?;
        Ok::<_, PolicyError>(trace)
    };
    let stopped = || PolicyError::stopped("the backtest was stopped");
    let trace = tokio::select! {
        trace = reading => Arc::new(trace?),
        () = job.stop.cancelled() => return Err(stopped()),
    };
    // Beside the store, not in it: a check or a backup of the store must not come across another one.
    let dir = store.config().dir.parent().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let play = async |phase: Phase, part: usize, trace: Arc<Trace>, rules: String| {
        let backtest = engine.backtest(trace, rules, wanted.step, dir.clone());
        let progress = |Progress { done, all }| job.at(phase, part, done as f64 / all.max(1) as f64);
        backtest.run(&job.stop, progress).await
    };
    let report = play(Phase::Running, 1, Arc::clone(&trace), wanted.rules).await?;
    let against = match wanted.against {
        Some(rules) => Some(play(Phase::Comparing, 2, trace, rules).await?),
        None => None,
    };
    Ok((report, against))
}
