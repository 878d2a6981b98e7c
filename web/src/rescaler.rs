//! The HTTP face of the Serverless Containers project's NodeRescaler: its paths, bodies and status codes, on one host.
//!
//! `PUT /container/NAME` answers 201 with the state afterwards, 500 with what failed, 404 when there is no such container;
//! what the words mean stands in `tidegate_actuator`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tidegate_actuator::agent::Brake;
use tidegate_actuator::{LocalHost, NodeError};
use tidegate_model::SystemClock;

/// The routes, without any authorization, as the original has none: for loopback, or a network where everybody may do this.
/// While `brake` is on nothing is changed.
pub fn rescaler(host: Arc<LocalHost>, brake: Brake) -> Router {
    Router::new()
        .route("/heartbeat", get(async || Json(json!({ "status": "alive" }))))
        .route("/host/cpu_topology", get(topology))
        .route("/container/", get(all))
        .route("/container/{name}", get(one).put(change))
        .route("/container/resources/", get(all))
        .route("/container/resources/{name}", get(one))
        .layer(from_fn_with_state(brake, unless_frozen))
        .with_state(host)
}

async fn unless_frozen(State(brake): State<Brake>, request: Request, next: Next) -> Response {
    match brake.is_on() {
        Some(on) if request.method() != Method::GET => {
            let why = format!("the kill switch is on at the agent since {}", on.since);
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": why }))).into_response()
        }
        _ => next.run(request).await,
    }
}

/// `?cpu=1&mem=1` asks for these resources only, `?name=` for one container.
type Asked = Query<BTreeMap<String, String>>;

fn resources(asked: &BTreeMap<String, String>) -> Vec<String> {
    asked.iter().filter(|(name, value)| *name != "name" && *value != "0").map(|(name, _)| name.clone()).collect()
}

async fn all(State(host): State<Arc<LocalHost>>, Query(asked): Asked) -> Response {
    let only = resources(&asked);
    if let Some(name) = asked.get("name") {
        return match host.node_state(name, &only) {
            Err(NodeError::Unknown) => Json(Value::Null).into_response(),
            found => answer(found, StatusCode::OK),
        };
    }
    let mut states = Map::new();
    for name in host.node_containers() {
        match host.node_state(&name, &only) {
            Ok(state) => drop(states.insert(name, state)),
            // It went away meanwhile.
            Err(NodeError::Unknown) => {}
            Err(NodeError::Failed(why)) => drop(states.insert(name, why)),
        }
    }
    Json(Value::Object(states)).into_response()
}

async fn one(State(host): State<Arc<LocalHost>>, Path(name): Path<String>, Query(asked): Asked) -> Response {
    answer(host.node_state(&name, &resources(&asked)), StatusCode::OK)
}

async fn change(State(host): State<Arc<LocalHost>>, Path(name): Path<String>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "the body is no JSON object" }))).into_response();
    };
    // Memory that goes down may take seconds.
    let done = tokio::task::spawn_blocking(move || host.node_change(&name, &body, &SystemClock)).await;
    match done {
        Ok(done) => answer(done, StatusCode::CREATED),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))).into_response(),
    }
}

async fn topology(State(host): State<Arc<LocalHost>>) -> Response {
    match host.node_topology() {
        Ok(topology) => Json(topology).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))).into_response(),
    }
}

fn answer(found: Result<Value, NodeError>, success: StatusCode) -> Response {
    match found {
        Ok(state) => (success, Json(state)).into_response(),
        Err(NodeError::Unknown) => {
            (StatusCode::NOT_FOUND, Json(json!({ "error": "there is no such container" }))).into_response()
        }
        Err(NodeError::Failed(why)) => (StatusCode::INTERNAL_SERVER_ERROR, Json(why)).into_response(),
    }
}
