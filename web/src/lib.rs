//! The HTTP surface: the API under `/api/v1`, who may use it, the live stream, the probes, and the embedded dashboard.
//!
//! Owns HTTP: routes, shapes of answers, tokens, limits of requests, what a browser may load. Turns every error into an
//! answer in one place (`error.rs`) and keeps all of its SQL in another (`queries.rs`). Never decides about a limit,
//! touches a cgroup or a file of the store; each answer is a question to the store or the policy engine.
//!
//! The live stream has one producer for all clients: what 64 open dashboards cost is one query a second.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agents;
mod api;
mod assets;
mod auth;

mod backtests;
mod collected;
mod config;
mod error;
mod extract;
mod fleet;
mod metrics;
mod openapi;
mod origin;
mod queries;
mod rate;
mod ready;
mod report;
mod rescaler;
mod rows;
mod serve;
mod stream;
mod tally;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use tidegate_actuator::Remote;
use tidegate_ingest::IngestState;
use tidegate_model::{Clock, TimeMs};
use tidegate_policy::Engine;
use tidegate_store::Store;
use tokio_util::sync::CancellationToken;

pub use auth::{Auth, Right, TokenRecord};
pub use collected::{Findings, keep};
pub use config::{Origin, Setting, WebConfig};
pub use error::WebError;
pub use ready::Readiness;
pub use rescaler::rescaler;
pub use serve::{router, serve};

/// What the routes work on.
#[derive(Clone)]
pub struct WebState {
    /// Where samples, decisions and facts are.
    pub store: Arc<Store>,
    /// Where rules are changed and previewed.
    pub engine: Arc<Engine>,
    /// The hosts with an agent.
    pub remote: Arc<Remote>,
    /// What the push routes work on.
    pub ingest: IngestState,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Who may do what.
    pub auth: Auth,
    /// What `/api/v1/status` says of this process.
    pub info: ServerInfo,
    /// What `/api/v1/config` shows: all settings of the program, without secrets.
    pub settings: Arc<[Setting]>,
    /// What `/ready` waits for, besides the first policy tick.
    pub health: Arc<Readiness>,
    /// The bounds of requests.
    pub config: WebConfig,
    /// Ends the live streams; the same token that [`serve`] is given.
    pub shutdown: CancellationToken,
}

/// Facts about this process that do not change while it runs.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// This host's name.
    pub host: String,
    /// Whether this process measures and scales its own host.
    pub collects: bool,
    /// Why no kernel is behind the limits, when none is.
    pub simulated: Option<String>,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroup: String,
    /// When the process started.
    pub started: TimeMs,
    /// The program's version.
    pub version: String,
}

/// [`WebState`] and what the routes share besides it; one per router.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    state: WebState,
    pub(crate) hub: stream::Hub,
    pub(crate) ingest_rate: rate::Rate,
    pub(crate) decided: tally::Tally,
    pub(crate) backtests: backtests::Backtests,
    pub(crate) agents: agents::Agents,
}

impl App {
    fn new(state: WebState) -> Self {
        let hub = stream::Hub::new(&state.config);
        let decided = tally::Tally::of(state.engine.decisions(), state.shutdown.clone());
        Self(Arc::new(Shared {
            state,
            hub,
            ingest_rate: rate::Rate::default(),
            decided,
            backtests: backtests::Backtests::default(),
            agents: agents::Agents::default(),
        }))
    }

    /// Answers one of this crate's own queries as of `now`.
    pub(crate) async fn ask(&self, sql: &str, now: TimeMs) -> Result<rows::Rows, error::ApiError> {
        let options = self.store.default_query_options(now);
        rows::Rows::new(&self.store.query(sql, &options).await?)
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = WebState;

    fn deref(&self) -> &WebState {
        &self.state
    }
}
