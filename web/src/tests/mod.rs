//! What a client sees: every route over a real store and engine, with an actuator that only says yes.

mod access;
mod agents;
mod backtests;
mod containers;
mod contract;
mod decisions;
mod experiments;
mod freeze;
mod groups;
mod hosts;
mod ingest;
mod openapi;
mod report;
mod rules;
mod sql;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_actuator::{Actuator, Change, Remote};
use tidegate_ingest::IngestState;
use tidegate_model::{
    Bounds, CgroupVersion, Clock, Container, ContainerKey, Decision, GuardAction, GuardReport, Limit, Mode, Outcome,
    OutcomeStatus, Resource, Runtime, SampleBatch, SeriesKey, TimeMs, VirtualClock, Write, metrics,
};
use tidegate_policy::{Engine, PolicyConfig};
use tidegate_store::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{Auth, Origin, Readiness, ServerInfo, Setting, WebConfig, WebState, router};

/// The present of every test, ms.
const NOW: i64 = 1_800_000_000_000;

/// Says that whatever was asked for stands.
struct Yes;

impl Actuator for Yes {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        Outcome {
            status: OutcomeStatus::Applied,
            limit_after: Some(change.target),
            writes: Vec::new(),
            message: String::new(),
            at: clock.now(),
            took_us: 1,
        }
    }

    fn simulated(&self) -> Option<String> {
        Some("a test".to_owned())
    }
}

/// A server without a socket.
struct Server {
    router: Router,
    state: WebState,
    _dir: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Server {
    fn start() -> Self {
        Self::with(Auth::open(), WebConfig::default())
    }

    fn with(auth: Auth, config: WebConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = TimeMs(NOW);
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::new(now));
        let store = Store::open(StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() }, now).unwrap();
        let engine = Engine::new(store.clone(), Arc::new(Yes), PolicyConfig::default(), clock.clone()).unwrap();
        let state = WebState {
            ingest: IngestState::new(store.clone(), clock.clone(), config.max_body_bytes),
            store,
            engine,
            remote: Remote::new(3, "controller".to_owned(), Duration::from_secs(1)),
            clock,
            auth,
            info: ServerInfo {
                host: "node0".to_owned(),
                collects: true,
                simulated: Some("a test".to_owned()),
                cgroup: "none".to_owned(),
                started: TimeMs(NOW - 90_000),
                version: "1.2.3".to_owned(),
            },
            settings: Arc::new([Setting {
                path: "store.hot_s".to_owned(),
                value: json!(60),
                origin: Origin::Environment,
            }]),
            health: Arc::new(Readiness::new()),
            config,
            shutdown: CancellationToken::new(),
        };
        Self { router: router(state.clone()), state, _dir: dir }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn send_bytes(&self, method: Method, path: &str, body: &[u8]) -> Answer {
        self.answer(Request::builder().method(method).uri(path).body(Body::from(body.to_vec())).unwrap()).await
    }

    /// Whatever it is, it must be as the API's description says.
    async fn answer(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 26).await.unwrap().to_vec();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        contract::hold(&method, &path, &answer);
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    /// A container that was measured each second of the last minute: half of its limit used, the last second throttled,
    /// one OOM kill half a minute ago.
    async fn measured(&self, name: &str) {
        self.state.store.put_containers(&[container(name)]).unwrap();
        let mut batch = SampleBatch::new();
        for second in 0..60 {
            let time = TimeMs(NOW - 59_000 + second * 1_000);
            let mut put = |metric: &str, resource: &str, value: f64| {
                let tags = [("host", "node0"), ("container", name), ("app", "shop"), ("resource", resource)];
                let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
                batch.push(SeriesKey::new(metric, tags), time, value);
            };
            put(metrics::USAGE, "cpu", 1.0);
            put(metrics::LIMIT, "cpu", 2.0);
            put(metrics::THROTTLED, "cpu", if second == 59 { 0.25 } else { 0.0 });
            put(metrics::USAGE, "memory", 64e6);
            put(metrics::LIMIT, "memory", 100e6);
            put(metrics::UNRECLAIMABLE, "memory", 32e6);
            put(metrics::OOM_KILLS, "memory", if second >= 30 { 1.0 } else { 0.0 });
            put(metrics::USAGE, "disk_read", 4096.0);
            put(metrics::USAGE, "disk_write", if second >= 30 { 1e6 } else { 0.0 });
        }
        let report = self.state.store.append(&batch, TimeMs(NOW)).await.unwrap();
        assert_eq!(report.rejected.len(), 0);
    }
}

fn key(name: &str) -> ContainerKey {
    ContainerKey { host: "node0".to_owned(), name: name.to_owned() }
}

fn container(name: &str) -> Container {
    Container {
        key: key(name),
        path: PathBuf::from(format!("/apps/{name}")),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Bare,
        id: format!("/apps/{name}"),
        incarnation: 7,
        app: Some("shop".to_owned()),
        user: None,
        labels: BTreeMap::new(),
        first_seen: TimeMs(NOW - 3_600_000),
        last_seen: TimeMs(NOW),
        baseline: BTreeMap::from([(Resource::Cpu, Limit::At(4.0)), (Resource::Memory, Limit::Unlimited)]),
        bounds: BTreeMap::from([(Resource::Cpu, Bounds { min: 0.5, max: 4.0 })]),
    }
}

/// A decision `ago_s` seconds before the present.
fn decision(id: &str, container: &str, ago_s: i64) -> Decision {
    let time = TimeMs(NOW - ago_s * 1_000);
    Decision {
        id: id.to_owned(),
        time,
        rule: "up".to_owned(),
        version: 1,
        container: key(container),
        resource: Resource::Cpu,
        limit_before: Some(2.0),
        proposed: 5.0,
        decided: Some(4.0),
        guards: vec![GuardReport {
            guard: "bounds".to_owned(),
            action: GuardAction::Changed,
            before: 5.0,
            after: 4.0,
            why: "5.00 cores is above the bound of 4.00 cores".to_owned(),
        }],
        reason: "it's near its limit".to_owned(),
        mode: Mode::On,
        inputs: json!({ "usage": 1.9, "limit": 2.0 }),
        outcome: Outcome {
            status: OutcomeStatus::Applied,
            limit_after: Some(4.0),
            writes: vec![Write {
                target: "/sys/fs/cgroup/apps/web/cpu.max".to_owned(),
                value: "400000 100000".to_owned(),
            }],
            message: String::new(),
            at: time,
            took_us: 250,
        },
    }
}
