//! The HTTP routes: receive, decode, store, answer. What differs between protocols is in their own files.

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tidegate_model::{Clock, SampleBatch, SeriesKey, SeriesRef};
use tidegate_store::{AppendReport, Rejection, Store, StoreError};

use crate::body::{self, Encoding};
use crate::counters::{Counters, add};
use crate::error::IngestError;
use crate::influx::{self, Precision, Version};
use crate::json::JsonError;
use crate::monasca::{self, Refusal};
use crate::opentsdb::{self, Answer, Detail};
use crate::prometheus::{self, WireError};
use crate::protocol::Protocol;
use crate::spellings::{Known, Learnt, Spellings};

/// Plain bodies above this size are decoded on a thread of their own, so that others' requests go on. Decoding runs at
/// hundreds of megabytes a second, so below it the hand-over costs more than it gives.
const DECODE_APART_BYTES: usize = 256 * 1024;
/// As [`DECODE_APART_BYTES`], for bodies that have to be inflated: they are some ten times as long afterwards.
const INFLATE_APART_BYTES: usize = 32 * 1024;
/// What clients take for the version of an InfluxDB: the line protocol is that of 1.8.
const INFLUX_VERSION: &str = "1.8.10";
/// How many refused metrics a Monasca answer names.
const MAX_NAMED: usize = 5;

/// What the routes share.
#[derive(Clone)]
pub struct IngestState {
    /// Where samples go.
    pub store: Arc<Store>,
    /// The time of samples that come without one, and the present for the store.
    pub clock: Arc<dyn Clock>,
    /// The most bytes of a body, as sent and inflated.
    pub max_body: usize,
    /// What came in.
    pub counters: Arc<Counters>,
    /// How clients spell the series that the store knows.
    pub spellings: Arc<Spellings>,
}

impl IngestState {
    /// A state with all counts at zero.
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, max_body: usize) -> Self {
        let spellings = Arc::new(Spellings::for_series(store.config().max_series));
        Self { store, clock, max_body, counters: Arc::default(), spellings }
    }
}

/// The push routes: `/api/put`, `/v2.0`, `/v2.0/metrics`, `/write`, `/api/v2/write`, `/ping` and `/api/v1/write`.
///
/// They know nothing of authentication; whoever mounts them guards them.
pub fn routes(state: IngestState) -> Router {
    let put = post(opentsdb_put).fallback(opentsdb_other_method);
    let metrics = post(monasca_metrics).fallback(monasca_other_method);
    Router::new()
        .route("/api/put", put.clone())
        .route("/api/put/", put)
        .route("/v2.0", get(monasca_version))
        .route("/v2.0/", get(monasca_version))
        .route("/v2.0/metrics", metrics.clone())
        .route("/v2.0/metrics/", metrics)
        .route("/write", post(influx_v1))
        .route("/api/v2/write", post(influx_v2))
        .route("/ping", get(influx_ping))
        .route("/api/v1/write", post(prometheus_write))
        .with_state(state)
}

/// Stores a batch: the one way from every protocol into the store. What is accepted is in the write-ahead log when this
/// returns.
///
/// # Errors
/// When the store cannot write; then nothing was stored.
pub async fn store_batch(
    state: &IngestState,
    protocol: Protocol,
    batch: &SampleBatch,
) -> Result<AppendReport, IngestError> {
    if batch.is_empty() {
        return Ok(AppendReport::default());
    }
    let report = state.store.append(batch, state.clock.now()).await?;
    add(&state.counters.of(protocol).accepted, report.accepted);
    Ok(report)
}

/// What a decoder has made of a body.
trait Pushed {
    /// The samples and how their series are spelt; `None` when there is nothing to store.
    fn samples(&self) -> Option<(&SampleBatch, Option<&Learnt>)>;
}

impl Pushed for Result<opentsdb::Decoded, JsonError> {
    fn samples(&self) -> Option<(&SampleBatch, Option<&Learnt>)> {
        self.as_ref().ok().map(|decoded| (&decoded.batch, Some(&decoded.learnt)))
    }
}

impl Pushed for influx::Decoded {
    fn samples(&self) -> Option<(&SampleBatch, Option<&Learnt>)> {
        Some((&self.batch, Some(&self.learnt)))
    }
}

impl Pushed for Result<SampleBatch, Refusal> {
    fn samples(&self) -> Option<(&SampleBatch, Option<&Learnt>)> {
        self.as_ref().ok().map(|batch| (batch, None))
    }
}

impl Pushed for Result<prometheus::Decoded, WireError> {
    fn samples(&self) -> Option<(&SampleBatch, Option<&Learnt>)> {
        self.as_ref().ok().map(|decoded| (&decoded.batch, Some(&decoded.learnt)))
    }
}

/// Receives a body as it was sent.
async fn receive(
    state: &IngestState,
    protocol: Protocol,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, IngestError> {
    let counts = state.counters.of(protocol);
    add(&counts.requests, 1);
    let sent = body::receive(headers, body, state.max_body).await?;
    add(&counts.bytes, sent.len());
    Ok(sent)
}

/// Inflates and decodes a body and stores its samples.
///
/// Decoders name series by the ids that the store gave them for an earlier body. When it has meanwhile forgotten one of
/// them, nothing was stored: all spellings are forgotten too, and the body is decoded again with the tags themselves.
async fn push<T: Pushed + Send + 'static>(
    state: &IngestState,
    protocol: Protocol,
    encoding: Encoding,
    sent: Bytes,
    decode: impl Fn(&[u8], &Known) -> T + Copy + Send + 'static,
) -> Result<(T, AppendReport), IngestError> {
    let apart_from = if encoding == Encoding::Identity { DECODE_APART_BYTES } else { INFLATE_APART_BYTES };
    let is_large = sent.len() > apart_from;
    let limit = state.max_body;
    let plain = run(is_large, move || encoding.inflate(sent, limit)).await??;
    let is_large = is_large || plain.len() > DECODE_APART_BYTES;
    let (spellings, body) = (state.spellings.clone(), plain.clone());
    let mut decoded = run(is_large, move || decode(&body, &spellings.read())).await?;
    let mut report = store_pushed(state, protocol, &decoded).await;
    if let Err(IngestError::Store(StoreError::UnknownSeries { .. })) = &report {
        state.spellings.clear();
        decoded = run(is_large, move || decode(&plain, &Known::default())).await?;
        report = store_pushed(state, protocol, &decoded).await;
    }
    Ok((decoded, report?))
}

/// Runs `work`, which takes long when it is `large`.
async fn run<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, IngestError> {
    if !large {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| IngestError::Interrupted(error.to_string()))
}

async fn store_pushed(
    state: &IngestState,
    protocol: Protocol,
    decoded: &impl Pushed,
) -> Result<AppendReport, IngestError> {
    let Some((batch, learnt)) = decoded.samples() else { return Ok(AppendReport::default()) };
    let report = store_batch(state, protocol, batch).await?;
    if let Some(learnt) = learnt {
        state.spellings.learn(learnt, &report.ids);
    }
    Ok(report)
}

/// The series of a row, for whoever has to name it.
fn key_of(state: &IngestState, batch: &SampleBatch, row: usize) -> Option<Arc<SeriesKey>> {
    match batch.series()[row] {
        SeriesRef::Key(at) => Some(Arc::new(batch.keys()[at as usize].clone())),
        SeriesRef::Id(id) => state.store.series(id),
    }
}

/// Counts and logs a request of which nothing was stored.
fn note_failure(state: &IngestState, protocol: Protocol, error: &IngestError) {
    add(&state.counters.of(protocol).failed_requests, 1);
    let protocol = protocol.as_str();
    match error.status() {
        500.. => tracing::error!(protocol, %error, "push failed"),
        _ => tracing::debug!(protocol, %error, "push refused"),
    }
}

fn note_rejected(state: &IngestState, protocol: Protocol, count: usize, first: Option<impl Display>) {
    add(&state.counters.of(protocol).rejected, count);
    if let Some(first) = first {
        tracing::debug!(protocol = protocol.as_str(), count, %first, "points refused");
    }
}

fn respond((status, json): Answer) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match json {
        Some(json) => (status, [(CONTENT_TYPE, "application/json; charset=UTF-8")], json).into_response(),
        None => status.into_response(),
    }
}

async fn opentsdb_put(
    State(state): State<IngestState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let detail = Detail::of_query(query.as_deref().unwrap_or_default());
    let protocol = Protocol::OpenTsdb;
    let answer = opentsdb_store(&state, &headers, body, detail).await.unwrap_or_else(|error| {
        note_failure(&state, protocol, &error);
        opentsdb::error_answer(error.status(), &error.to_string(), None)
    });
    respond(answer)
}

async fn opentsdb_store(
    state: &IngestState,
    headers: &HeaderMap,
    body: Body,
    detail: Detail,
) -> Result<Answer, IngestError> {
    let protocol = Protocol::OpenTsdb;
    let encoding = Encoding::of(headers);
    let sent = receive(state, protocol, headers, body).await?;
    let encoding = encoding?;
    let (decoded, report) = push(state, protocol, encoding, sent.clone(), opentsdb::decode).await?;
    let mut decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            let plain = encoding.inflate(sent, state.max_body)?;
            let answer = opentsdb::json_error_answer(&plain, &error);
            note_failure(state, protocol, &IngestError::Json(error));
            return Ok(answer);
        }
    };
    for Rejection { row, reason } in &report.rejected {
        decoded.refuse(*row, key_of(state, &decoded.batch, *row).as_deref(), reason);
    }
    decoded.failed += report.unnamed.len();
    note_rejected(state, protocol, decoded.failed, decoded.errors.first().map(|first| &first.error));
    Ok(opentsdb::answer(detail, report.accepted, &decoded))
}

async fn opentsdb_other_method(method: Method) -> Response {
    let details = format!("The HTTP method [{method}] is not permitted for this endpoint");
    let mut response = respond(opentsdb::error_answer(405, "Method not allowed", Some(&details)));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn monasca_metrics(State(state): State<IngestState>, headers: HeaderMap, body: Body) -> Response {
    let answer = monasca_store(&state, &headers, body).await.unwrap_or_else(|error| {
        note_failure(&state, Protocol::Monasca, &error);
        let status = error.status();
        let title = match status {
            500.. => "Internal Server Error",
            413 => "Request Entity Too Large",
            415 => "Unsupported Media Type",
            _ => "Bad request",
        };
        (status, Some(monasca::error_body(title, &error.to_string())))
    });
    respond(answer)
}

async fn monasca_store(state: &IngestState, headers: &HeaderMap, body: Body) -> Result<Answer, IngestError> {
    let protocol = Protocol::Monasca;
    let unprocessable = |text: &str| (422, Some(monasca::error_body("Unprocessable Entity", text)));
    let encoding = Encoding::of(headers);
    let sent = receive(state, protocol, headers, body).await?;
    body::require_json(headers)?;
    let (decoded, report) = push(state, protocol, encoding?, sent, |body, _| monasca::decode(body)).await?;
    match decoded {
        Ok(_) => {}
        Err(Refusal::Json(error)) => return Err(error.into()),
        Err(Refusal::Invalid { description, total, .. }) => {
            add(&state.counters.of(protocol).failed_requests, 1);
            note_rejected(state, protocol, total, Some(&description));
            return Ok(unprocessable(&description));
        }
    }
    if report.refused() == 0 {
        return Ok((204, None));
    }
    let description = refused_metrics(&report);
    note_rejected(state, protocol, report.refused(), Some(&description));
    Ok(unprocessable(&description))
}

fn refused_metrics(report: &AppendReport) -> String {
    let mut named: Vec<_> = report
        .rejected
        .iter()
        .take(MAX_NAMED)
        .map(|Rejection { row, reason }| format!("metric {row}: {reason}"))
        .collect();
    if report.refused() > named.len() {
        named.push(format!("{} more are refused", report.refused() - named.len()));
    }
    match report.accepted {
        0 => named.join("; "),
        stored => format!("{}; the other {stored} are stored", named.join("; ")),
    }
}

async fn monasca_version(request: Request) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let path = request.uri().path();
    // Behind a proxy the scheme is not known here; a reference without one is right for either.
    let href = host.map_or_else(|| path.to_owned(), |host| format!("//{host}{path}"));
    respond((200, Some(monasca::version_body(&href))))
}

async fn monasca_other_method(method: Method) -> Response {
    let text = format!("{method} is not supported here, only POST");
    let mut response = respond((405, Some(monasca::error_body("Method not allowed", &text))));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn influx_v1(state: State<IngestState>, query: RawQuery, headers: HeaderMap, body: Body) -> Response {
    influx_write(Version::V1, state, query, headers, body).await
}

async fn influx_v2(state: State<IngestState>, query: RawQuery, headers: HeaderMap, body: Body) -> Response {
    influx_write(Version::V2, state, query, headers, body).await
}

async fn influx_write(
    version: Version,
    State(state): State<IngestState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let query = query.unwrap_or_default();
    let answer = influx_store(&state, version, &query, &headers, body).await.unwrap_or_else(|error| {
        note_failure(&state, Protocol::Influx, &error);
        version.error_answer(error.status(), &error.to_string())
    });
    respond(answer)
}

async fn influx_store(
    state: &IngestState,
    version: Version,
    query: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, IngestError> {
    let protocol = Protocol::Influx;
    let now = state.clock.now();
    let precision = precision(query);
    let encoding = Encoding::of(headers);
    let sent = receive(state, protocol, headers, body).await?;
    let precision = precision?;
    let decode = move |body: &[u8], known: &Known| influx::decode(body, precision, now, known);
    let (mut decoded, report) = push(state, protocol, encoding?, sent, decode).await?;
    let mut before = None;
    for Rejection { row, reason } in &report.rejected {
        decoded.refuse(*row, reason, before.replace(*row));
    }
    for row in &report.unnamed {
        decoded.refuse(*row, "refused", before.replace(*row));
    }
    add(&state.counters.of(protocol).skipped, decoded.skipped_texts);
    note_rejected(state, protocol, decoded.failed, decoded.errors.first());
    Ok(version.answer(&decoded))
}

fn precision(query: &str) -> Result<Precision, IngestError> {
    let value = query.split('&').rev().find_map(|pair| pair.strip_prefix("precision=")).unwrap_or_default();
    Precision::parse(value).ok_or_else(|| IngestError::Parameter {
        name: "precision",
        value: value.to_owned(),
        allowed: "ns, us, ms or s (with /write also n, u, m or h)",
    })
}

async fn influx_ping() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert("X-Influxdb-Version", HeaderValue::from_static(INFLUX_VERSION));
    response.headers_mut().insert("X-Influxdb-Build", HeaderValue::from_static("tidegate"));
    response
}

async fn prometheus_write(State(state): State<IngestState>, headers: HeaderMap, body: Body) -> Response {
    let (answer, written) = match prometheus_store(&state, &headers, body).await {
        Ok((answer, written)) => (answer, Some(written)),
        Err(error) => {
            note_failure(&state, Protocol::Prometheus, &error);
            (prometheus::error_answer(error.status(), &error.to_string()), None)
        }
    };
    let mut response = respond(answer);
    // Version 2 wants to be told what was stored; senders of version 1 do not look.
    if let Some(samples) = written {
        let headers = response.headers_mut();
        headers.insert("X-Prometheus-Remote-Write-Samples-Written", HeaderValue::from(samples));
        headers.insert("X-Prometheus-Remote-Write-Histograms-Written", HeaderValue::from(0));
        headers.insert("X-Prometheus-Remote-Write-Exemplars-Written", HeaderValue::from(0));
    }
    response
}

async fn prometheus_store(
    state: &IngestState,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Answer, usize), IngestError> {
    let protocol = Protocol::Prometheus;
    // The protocol knows one compression, which some senders therefore do not name.
    let encoding = if headers.contains_key(CONTENT_ENCODING) { Encoding::of(headers) } else { Ok(Encoding::Snappy) };
    let sent = receive(state, protocol, headers, body).await?;
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let content_type = content_type.unwrap_or_default();
    let version = prometheus::Version::of_content_type(&content_type)
        .ok_or_else(|| IngestError::UnknownMessage(content_type.into_owned()))?;
    let decode = move |body: &[u8], known: &Known| prometheus::decode(body, version, known);
    let (decoded, report) = push(state, protocol, encoding?, sent, decode).await?;
    let mut decoded = decoded?;
    for Rejection { row, reason } in &report.rejected {
        let key = key_of(state, &decoded.batch, *row);
        decoded.refuse(*row, key.as_ref().map_or("", |key| key.metric()), reason);
    }
    decoded.refuse_unnamed(report.unnamed.len());
    add(&state.counters.of(protocol).skipped, decoded.skipped);
    note_rejected(state, protocol, decoded.failed, decoded.errors.first());
    Ok((prometheus::answer(&decoded, report.accepted), report.accepted))
}
