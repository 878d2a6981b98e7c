//! `/api/v1/agents`: the hosts whose limits are changed by an agent of their own.
//!
//! An agent asks for orders and waits for the answer, tells what came of them, and sends what it measures. Shapes and
//! versions stand in [`tidegate_actuator::agent::wire`].

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use tidegate_actuator::agent::wire::{AgentInfo, Frame, FramesFrom, FramesTaken, Orders, Report, unpack};
use tidegate_actuator::{AgentStatus, KnobReport, RemoteError};
use tidegate_model::{Event, Resource};

use crate::App;
use crate::collected::{Findings, keep};
use crate::error::{ApiError, ErrorAnswer};
use crate::extract::{Address, Params, Segments, Text};
use crate::openapi::shapes;

/// How long a question for orders waits. Short enough for proxies and for noticing that a host is cut off.
const ANSWER_AFTER: Duration = Duration::from_secs(5);

/// The agents that asked for orders since this server started.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "Agents",
    responses((status = 200, description = "All of them", body = Vec<shapes::Agent>)),
)]
pub(crate) async fn agents(State(app): State<App>) -> Json<Vec<AgentStatus>> {
    Json(app.remote.agents())
}

/// Asks for orders.
///
/// Answered when there are some, and after five seconds without.
#[utoipa::path(
    get, path = "/api/v1/agents/{host}/orders", tag = "Agents",
    params(
        ("host" = String, Path, description = "The agent's host"),
        ("protocol" = u32, Query, description = "What the agent speaks; one release apart is understood"),
        ("version" = Option<String>, Query, description = "The agent's version"),
        ("machine" = Option<String>, Query, description = "The machine, so that two of one name are told apart"),
        ("run" = Option<String>, Query, description = "This run of the agent"),
        ("epoch" = Option<u64>, Query, description = "The highest epoch that the agent has obeyed"),
        ("frozen" = Option<bool>, Query, description = "The agent's own kill switch is on"),
    ),
    responses(
        (status = 200, description = "What to do; nothing, when the list is empty", body = shapes::Orders),
        (status = 400, description = "The query is not as expected", body = ErrorAnswer),
        (status = 409, description = "Another machine has this name, this server measures the host itself, or the agent \
            obeys a newer controller", body = ErrorAnswer),
        (status = 426, description = "The agent's protocol is not understood", body = ErrorAnswer),
        (status = 503, description = "The server is ending", body = ErrorAnswer),
    ),
)]
pub(crate) async fn orders(
    State(app): State<App>,
    Segments(host): Segments<String>,
    Params(agent): Params<AgentInfo>,
    Address(address): Address,
) -> Result<Json<Orders>, ApiError> {
    not_our_own(&app, &host)?;
    let question = app.remote.ask(&host, agent, &address, app.clock.now()).map_err(refused)?;
    tokio::select! {
        orders = question.answer(ANSWER_AFTER, || app.engine.knob_mode()) => Ok(Json(orders)),
        () = app.shutdown.cancelled() => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending")),
    }
}

fn not_our_own(app: &App, host: &str) -> Result<(), ApiError> {
    if host != app.info.host || !app.info.collects {
        return Ok(());
    }
    let message = format!("host '{host}' is measured by this server itself; an agent there needs another name");
    Err(ApiError::new(StatusCode::CONFLICT, message).help("--actuator-host names a host"))
}

fn refused(error: RemoteError) -> ApiError {
    tracing::warn!(%error, "an agent is not answered");
    let status = match error {
        RemoteError::Protocol { .. } => StatusCode::UPGRADE_REQUIRED,
        RemoteError::OlderController { .. } | RemoteError::TwoOfOneName { .. } => StatusCode::CONFLICT,
    };
    ApiError::new(status, error.to_string())
}

/// Tells what came of orders.
#[utoipa::path(
    post, path = "/api/v1/agents/{host}/reports", tag = "Agents",
    params(("host" = String, Path, description = "The agent's host")),
    request_body = Vec<shapes::OrderReport>,
    responses(
        (status = 204, description = "Noted"),
        (status = 400, description = "The body is not as expected, or about another host", body = ErrorAnswer),
    ),
)]
pub(crate) async fn reports(
    State(app): State<App>,
    Segments(host): Segments<String>,
    body: Text,
) -> Result<StatusCode, ApiError> {
    note(&app, &host, body.json_of_agent()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn note(app: &App, host: &str, reports: Vec<Report>) -> Result<(), ApiError> {
    if let Some(other) = reports.iter().find(|report| report.container.host != host) {
        let message = format!("a report of host '{host}' is about host '{}'", other.container.host);
        return Err(ApiError::bad_request(message));
    }
    let late: Vec<Report> = reports.into_iter().filter_map(|report| app.remote.reported(host, report)).collect();
    if !late.is_empty() {
        app.engine.note_agent(late).await;
    }
    Ok(())
}

/// Sends what a host measured, oldest first.
///
/// Frames that are known are taken again without being stored again.
#[utoipa::path(
    post, path = "/api/v1/agents/{host}/frames", tag = "Agents",
    params(
        ("host" = String, Path, description = "The agent's host"),
        ("spool" = String, Query, description = "Names the buffer, which counts its frames"),
        ("machine" = Option<String>, Query, description = "The machine"),
        ("run" = Option<String>, Query, description = "This run of the agent"),
        ("behind" = Option<u64>, Query, description = "How many more frames wait there"),
        ("dropped" = Option<u64>, Query, description = "How many had to be given up before these"),
    ),
    request_body(content = shapes::Binary, content_type = "application/octet-stream", description = "Frames after one another, \
        each with a JSON header and samples as an Arrow stream, compressed"),
    responses(
        (status = 200, description = "Stored", body = shapes::FramesTaken),
        (status = 400, description = "A frame is damaged, or about another host", body = ErrorAnswer),
        (status = 409, description = "Another machine has this name, or this server measures the host itself",
            body = ErrorAnswer),
    ),
)]
pub(crate) async fn frames(
    State(app): State<App>,
    Segments(host): Segments<String>,
    Params(from): Params<FramesFrom>,
    body: Bytes,
) -> Result<Json<FramesTaken>, ApiError> {
    not_our_own(&app, &host)?;
    app.remote.may_measure(&host, &from.machine, &from.run).map_err(refused)?;
    let turn = app.agents.turn(&host);
    let _turn = turn.lock().await;
    let unpacked = tokio::task::spawn_blocking(move || unpack(&body)).await;
    let frames =
        unpacked.map_err(|error| ApiError::internal("reading frames", error))?.map_err(ApiError::bad_request)?;
    if let Some(other) = frames.iter().find(|frame| frame.header.host.name != host) {
        let message = format!("a frame of host '{host}' is about host '{}'", other.header.host.name);
        return Err(ApiError::bad_request(message));
    }
    let mut taken = app.agents.last(&host, &from.spool);
    let mut wants_present = false;
    let mut dropped = from.dropped;
    let count = frames.len() as u64;
    for (at, frame) in frames.into_iter().enumerate() {
        if frame.number <= taken {
            continue;
        }
        let number = frame.number;
        let behind = from.behind.saturating_add(count - 1 - at as u64);
        app.remote.measured(&host, frame.header.time, behind, app.clock.now());
        wants_present = !take(&app, &host, &from.spool, frame, std::mem::take(&mut dropped)).await?;
        taken = number;
    }
    Ok(Json(FramesTaken { taken, wants_present }))
}

/// Stores one frame; whether the host's containers are known.
async fn take(app: &App, host: &str, spool: &str, frame: Frame, dropped: u64) -> Result<bool, ApiError> {
    let Frame { number, header, samples } = frame;
    let apart = tokio::task::spawn_blocking(move || tidegate_ingest::arrow::decode(&samples)).await;
    let decoded = apart.map_err(|error| ApiError::internal("reading samples", error))?;
    let (samples, refused) =
        decoded.map_err(|error| ApiError::bad_request(format!("frame {number} of host '{host}': {error}")))?;
    if refused > 0 {
        tracing::warn!(host, number, refused, "samples of a frame are without metric, tags or time and are left out");
    }
    for problem in &header.problems {
        tracing::warn!(host, problem, "an agent's collector");
    }
    for KnobReport { container, knob, status, message, .. } in &header.knobs {
        tracing::info!(%container, knob, status = status.as_str(), message, "an agent's knob");
    }
    let listed = header.present.is_some();
    let mut present = header.present.or_else(|| app.agents.present(host));
    present.iter_mut().flatten().for_each(|container| container.last_seen = header.time);
    let findings = Findings {
        time: header.time,
        samples: &samples,
        host: &header.host,
        appeared: &header.appeared,
        vanished: &header.vanished,
        present: present.clone(),
        drifts: &header.drifts,
        knobs: &header.knobs,
    };
    keep(&app.store, &app.engine, findings, app.clock.now()).await?;
    if dropped > 0 {
        note_gap(app, host, &header.time, dropped).await?;
    }
    note(app, host, header.reports).await?;
    let known = present.is_some();
    app.agents.kept(host, spool, number, present.filter(|_| listed));
    Ok(known)
}

/// Measurements that an agent had to give up are a gap that somebody will ask about.
async fn note_gap(app: &App, host: &str, time: &tidegate_model::TimeMs, dropped: u64) -> Result<(), ApiError> {
    tracing::warn!(host, dropped, "an agent's buffer was full, and its oldest frames are lost");
    let gap = Event {
        time: *time,
        rule: "(agent)".to_owned(),
        container: tidegate_model::ContainerKey { host: host.to_owned(), name: String::new() },
        resource: Resource::Cpu,
        name: "measurements lost".to_owned(),
        value: dropped as f64,
    };
    app.store.append_events(&[gap]).await?;
    Ok(())
}
