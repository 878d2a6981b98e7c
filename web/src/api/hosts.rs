//! `/api/v1/hosts`: every machine that is known, and who changes its limits.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tidegate_model::{OutcomeStatus, TimeMs};

use crate::App;
use crate::error::ApiError;
use crate::queries;
use crate::rows::{integer, text};

/// What can become of a knob besides standing as it was asked for.
const FAILING: [OutcomeStatus; 5] = [
    OutcomeStatus::Refused,
    OutcomeStatus::Infeasible,
    OutcomeStatus::Drifted,
    OutcomeStatus::RolledBack,
    OutcomeStatus::Failed,
];

/// `GET /api/v1/hosts`: capacity, agent, and the knobs whose newest report is no success.
///
/// A host is there when the store knows its capacity, an agent asks for its orders, or it has containers.
pub(crate) async fn hosts(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let now = app.clock.now();
    let mut failing = failing_knobs(&app, now).await?;
    let known: BTreeMap<String, _> = app.store.hosts().into_iter().map(|host| (host.name.clone(), host)).collect();
    let agents: BTreeMap<String, _> =
        app.remote.agents().into_iter().map(|agent| (agent.host.clone(), agent)).collect();
    let containers = app.store.containers();
    let mut names: BTreeSet<&str> = known.keys().chain(agents.keys()).map(String::as_str).collect();
    names.extend(containers.iter().map(|container| container.key.host.as_str()));
    let rows: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let host = known.get(name);
            json!({
                "name": name,
                "cpu": host.map(|host| host.cpu.0),
                "memory": host.map(|host| host.memory.0),
                "last_seen": host.map(|host| host.last_seen),
                "own": app.info.collects && name == app.info.host,
                "agent": agents.get(name),
                "knobs": failing.remove(name).unwrap_or_default(),
            })
        })
        .collect();
    Ok(Json(json!({ "now": now, "hosts": rows })))
}

/// By host. A knob that has succeeded since is not among them.
async fn failing_knobs(app: &App, now: TimeMs) -> Result<BTreeMap<String, Vec<Value>>, ApiError> {
    let rows = app.ask(&queries::knobs(), now).await?;
    let (times, hosts) = (rows.times("time")?, rows.texts("host")?);
    let (containers, names) = (rows.texts("container")?, rows.texts("name")?);
    let mut told = BTreeSet::new();
    let mut failing: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in 0..rows.len() {
        let (Some(host), Some(container)) = (text(&hosts, row), text(&containers, row)) else { continue };
        // The knob may have a blank in it, as `io.max 8:0` has; the status has none.
        let Some((knob, status)) = text(&names, row).and_then(|name| name.rsplit_once(' ')) else { continue };
        // Newest first, so the first report of a knob is what stands.
        if !told.insert((host.to_owned(), container.to_owned(), knob.to_owned())) {
            continue;
        }
        if FAILING.iter().any(|failing| failing.as_str() == status) {
            let knob = json!({ "container": container, "knob": knob, "status": status, "time": integer(&times, row) });
            failing.entry(host.to_owned()).or_default().push(knob);
        }
    }
    Ok(failing)
}
