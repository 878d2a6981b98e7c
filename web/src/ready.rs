//! What still has to happen before this server is of use, and the two probes that tell.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;

/// Conditions that are not met yet, each with a sentence for a person.
///
/// Whoever starts a part of the program requires a condition, and whoever sees it come true says so.
#[derive(Debug, Default)]
pub struct Readiness {
    waiting: Mutex<BTreeMap<&'static str, String>>,
}

impl Readiness {
    /// Name of the condition that the store is open and its log is replayed.
    pub const STORE: &'static str = "store";
    /// Name of the condition that this host's containers were measured once.
    pub const COLLECTION: &'static str = "collection";

    /// Nothing to wait for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, or changes the sentence of one that is still open.
    pub fn require(&self, condition: &'static str, reason: impl Into<String>) {
        self.waiting.lock().insert(condition, reason.into());
    }

    /// Says that a condition came true. Saying so again does nothing.
    pub fn met(&self, condition: &'static str) {
        self.waiting.lock().remove(condition);
    }

    /// The sentences of all open conditions.
    pub fn reasons(&self) -> Vec<String> {
        self.waiting.lock().values().cloned().collect()
    }
}

/// A process that runs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
    /// The program's version.
    version: String,
}

/// Whether a server is of use.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
    /// What is waited for, one sentence each.
    reasons: Vec<String>,
}

/// The process runs and answers.
#[utoipa::path(
    get, path = "/health", tag = "Server",
    responses((status = 200, description = "It does", body = Health)),
)]
pub(crate) async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health { status: "ok", version: app.info.version.clone() })
}

/// Whether everything that was required has come true and the rules have been evaluated once.
#[utoipa::path(
    get, path = "/ready", tag = "Server",
    responses((status = 200, description = "It has", body = Ready), (status = 503, description = "Not yet", body = Ready)),
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let mut reasons = app.health.reasons();
    if !app.engine.ready() {
        reasons.push("no rule has been evaluated yet: the first policy tick has not finished".to_owned());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready: reasons.is_empty(), reasons })).into_response()
}
