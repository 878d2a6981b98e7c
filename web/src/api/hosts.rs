//! `/api/v1/hosts`: every machine that is known, and who changes its limits.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tidegate_actuator::AgentStatus;
use tidegate_model::{OutcomeStatus, TimeMs};
use utoipa::ToSchema;

use crate::App;
use crate::error::ApiError;
use crate::openapi::shapes;
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

/// All hosts.
#[derive(Serialize, ToSchema)]
pub(crate) struct Hosts {
    /// In ms UTC.
    now: i64,
    hosts: Vec<HostRow>,
}

/// A host.
#[derive(Serialize, ToSchema)]
struct HostRow {
    name: String,
    /// Its CPUs, in cores.
    cpu: Option<f64>,
    /// Its memory, in bytes.
    memory: Option<u64>,
    /// When it was last measured, in ms UTC.
    last_seen: Option<i64>,
    /// The server measures and changes it itself.
    own: bool,
    /// The agent that does, if there is one.
    #[schema(value_type = Option<shapes::Agent>)]
    agent: Option<AgentStatus>,
    /// Knobs that do not stand as they were asked for.
    knobs: Vec<KnobTrouble>,
}

/// A knob whose newest report is no success.
#[derive(Serialize, ToSchema)]
struct KnobTrouble {
    container: String,
    /// Such as `cpu.weight` or `io.max 8:0`.
    knob: String,
    #[schema(value_type = shapes::OutcomeStatus)]
    status: String,
    /// In ms UTC.
    time: i64,
}

/// Hosts with their capacity, agent, and the knobs whose newest report is no success.
///
/// A host is there when the store knows its capacity, an agent asks for its orders, or it has containers.
#[utoipa::path(
    get, path = "/api/v1/hosts", tag = "Containers",
    responses((status = 200, description = "All of them", body = Hosts)),
)]
pub(crate) async fn hosts(State(app): State<App>) -> Result<Json<Hosts>, ApiError> {
    let now = app.clock.now();
    let mut failing = failing_knobs(&app, now).await?;
    let known: BTreeMap<String, _> = app.store.hosts().into_iter().map(|host| (host.name.clone(), host)).collect();
    let mut agents: BTreeMap<String, _> =
        app.remote.agents().into_iter().map(|agent| (agent.host.clone(), agent)).collect();
    let containers = app.store.containers();
    let mut names: BTreeSet<String> = known.keys().chain(agents.keys()).cloned().collect();
    names.extend(containers.into_iter().map(|container| container.key.host));
    let row = |name: String| {
        let host = known.get(&name);
        HostRow {
            cpu: host.map(|host| host.cpu.0),
            memory: host.map(|host| host.memory.0),
            last_seen: host.map(|host| host.last_seen.0),
            own: app.info.collects && name == app.info.host,
            agent: agents.remove(&name),
            knobs: failing.remove(&name).unwrap_or_default(),
            name,
        }
    };
    Ok(Json(Hosts { now: now.0, hosts: names.into_iter().map(row).collect() }))
}

/// By host. A knob that has succeeded since is not among them.
async fn failing_knobs(app: &App, now: TimeMs) -> Result<BTreeMap<String, Vec<KnobTrouble>>, ApiError> {
    let rows = app.ask(&queries::knobs(), now).await?;
    let (times, hosts) = (rows.times("time")?, rows.texts("host")?);
    let (containers, names) = (rows.texts("container")?, rows.texts("name")?);
    let mut told = BTreeSet::new();
    let mut failing: BTreeMap<String, Vec<KnobTrouble>> = BTreeMap::new();
    for row in 0..rows.len() {
        let (Some(host), Some(container)) = (text(&hosts, row), text(&containers, row)) else { continue };
        // The knob may have a blank in it, as `io.max 8:0` has; the status has none.
        let Some((knob, status)) = text(&names, row).and_then(|name| name.rsplit_once(' ')) else { continue };
        // Newest first, so the first report of a knob is what stands.
        if !told.insert((host.to_owned(), container.to_owned(), knob.to_owned())) {
            continue;
        }
        if FAILING.iter().any(|failing| failing.as_str() == status) {
            let (container, knob, status) = (container.to_owned(), knob.to_owned(), status.to_owned());
            let knob = KnobTrouble { container, knob, status, time: integer(&times, row).unwrap_or_default() };
            failing.entry(host.to_owned()).or_default().push(knob);
        }
    }
    Ok(failing)
}
