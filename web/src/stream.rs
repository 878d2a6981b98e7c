//! The live stream: server-sent events from one producer for all clients.
//!
//! The producer is a task that lives while somebody listens. Each client has a bounded queue; one that falls behind is
//! told to start over (`event: resync`) instead of being waited for. Decisions carry their id, so a client that
//! reconnects gets those that it missed; it may get one twice, never lose one.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use tidegate_model::Decision;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::api::{decisions, status};
use crate::error::{ApiError, ErrorAnswer};
use crate::fleet::{self, Fleet};
use crate::{App, WebConfig};

const PING: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
const REPLAY_HEADER: &str = "last-event-id";

/// One event, encoded once for all clients.
#[derive(Clone, Debug)]
struct Message {
    kind: &'static str,
    id: Option<String>,
    data: Arc<str>,
}

impl Message {
    fn new(kind: &'static str, data: &serde_json::Value) -> Self {
        Self { kind, id: None, data: data.to_string().into() }
    }

    fn decision(decision: &Decision) -> Self {
        Self { id: Some(decision.id.clone()), ..Self::new("decision", &json!(decisions::Shown::of(decision.clone()))) }
    }

    fn event(&self) -> Event {
        let event = Event::default().event(self.kind).data(&*self.data);
        match &self.id {
            // A line break would end the field; ids have none, and one that had could not be resumed from.
            Some(id) if !id.contains(['\n', '\r', '\0']) => event.id(id),
            _ => event,
        }
    }
}

/// What the producer and its clients share.
pub(crate) struct Hub {
    messages: broadcast::Sender<Message>,
    clients: AtomicUsize,
    state: Mutex<Producer>,
}

#[derive(Default)]
struct Producer {
    running: bool,
    /// The newest event of each kind but decisions, for clients that join between two.
    fleet: Option<Message>,
    status: Option<Message>,
}

impl Hub {
    pub(crate) fn new(config: &WebConfig) -> Self {
        let (messages, _) = broadcast::channel(config.sse_queue.max(1));
        Self { messages, clients: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Number of open streams.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

/// A place among the clients; given back when the stream is dropped.
struct Seat(App);

impl Seat {
    fn take(app: &App) -> Result<Self, ApiError> {
        let most = app.config.max_sse_clients;
        let one_more = |clients| (clients < most).then_some(clients + 1);
        match app.hub.clients.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(Self(app.clone())),
            Err(_) => {
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("{most} live streams are open already"))
                    .help("close some dashboards, or raise max_sse_clients"))
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.hub.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The live stream, as server-sent events.
///
/// `fleet`: the newest values of all containers in columns, each second. `status`: the answer of `/api/v1/status`, each five
/// seconds. `decision`: a decision as `/api/v1/decisions` shows it, with its id. `resync`: some were lost, so load anew. A
/// client that comes back with the id of the last decision it has seen gets those after it.
#[utoipa::path(
    get, path = "/api/v1/stream", tag = "Live stream",
    params(("last-event-id" = Option<String>, Header, description = "The id of the last decision that was seen")),
    responses(
        (status = 200, description = "Events, until the client leaves", content_type = "text/event-stream",
            body = String),
        (status = 503, description = "So many streams are open that there may be no more", body = ErrorAnswer),
    ),
)]
pub(crate) async fn stream(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let seat = Seat::take(&app)?;
    // Subscribed before the past is read, so that nothing falls between.
    let live = BroadcastStream::new(app.hub.messages.subscribe());
    let now = begin(&app);
    let last = headers.get(REPLAY_HEADER).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let missed = match last {
        Some(id) => replay(&app, id).await?,
        None => Vec::new(),
    };
    let sent: HashSet<String> = missed.iter().filter_map(|message| message.id.clone()).collect();
    let live = live.filter_map(move |message| {
        let event = match message {
            Ok(message) if message.id.as_ref().is_some_and(|id| sent.contains(id)) => None,
            Ok(message) => Some(message.event()),
            Err(BroadcastStreamRecvError::Lagged(lost)) => Some(resync(lost).event()),
        };
        std::future::ready(event)
    });
    let hello = stream::once(std::future::ready(Event::default().retry(RETRY).comment("tidegate")));
    let events = hello
        .chain(stream::iter(missed.into_iter().chain(now).map(|message| message.event()).collect::<Vec<_>>()))
        .chain(live)
        .take_until(app.shutdown.clone().cancelled_owned());
    let events = seated(events, seat);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response();
    // nginx would collect events into blocks otherwise.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

fn seated(
    events: impl Stream<Item = Event> + Send,
    seat: Seat,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    events.map(move |event| {
        let _held = &seat;
        Ok(event)
    })
}

fn resync(lost: u64) -> Message {
    Message::new("resync", &json!({ "lost": lost }))
}

/// The decisions since the one that the client saw last, or the word to start over when they are too many or unknown.
async fn replay(app: &App, last: &str) -> Result<Vec<Message>, ApiError> {
    let found = decisions::since(app, last, app.config.sse_replay, app.clock.now()).await?;
    Ok(match found {
        Some((decisions, true)) => decisions.iter().map(Message::decision).collect(),
        Some((_, false)) | None => vec![resync(0)],
    })
}

/// Starts the producer when it does not run; otherwise answers its newest events, for a client to begin with.
fn begin(app: &App) -> Vec<Message> {
    let mut state = app.hub.state.lock();
    if !state.running {
        *state = Producer { running: true, ..Producer::default() };
        tokio::spawn(produce(app.clone()));
        return Vec::new();
    }
    [&state.status, &state.fleet].into_iter().flatten().cloned().collect()
}

/// Sends events until nobody listens or the server stops.
async fn produce(app: App) {
    let mut decisions = app.engine.decisions();
    let mut fleet = every(app.config.sse_fleet_s);
    let mut status = every(app.config.sse_status_s);
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            _ = fleet.tick() => {
                if nobody_listens(&app) {
                    return;
                }
                send_fleet(&app).await;
            }
            _ = status.tick() => {
                let message = Message::new("status", &json!(status::snapshot(&app)));
                app.hub.state.lock().status = Some(message.clone());
                send(&app, message);
            }
            decision = decisions.recv() => match decision {
                Ok(decision) => send(&app, Message::decision(&decision)),
                Err(RecvError::Lagged(lost)) => send(&app, resync(lost)),
                // The engine lives as long as this server; without it there is nothing more to tell.
                Err(RecvError::Closed) => return,
            },
        }
    }
}

fn every(seconds: u64) -> tokio::time::Interval {
    let mut interval = interval(Duration::from_secs(seconds.max(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Whether the producer may end. Under the lock, since a client takes its seat before it looks for the producer.
fn nobody_listens(app: &App) -> bool {
    let mut state = app.hub.state.lock();
    let alone = app.hub.clients.load(Ordering::SeqCst) == 0;
    if alone {
        *state = Producer::default();
    }
    alone
}

async fn send_fleet(app: &App) {
    let now = app.clock.now();
    match Fleet::all(app, now).await {
        Ok(values) => {
            let message = Message::new("fleet", &values.columns(&fleet::present(app, now), now));
            app.hub.state.lock().fleet = Some(message.clone());
            send(app, message);
        }
        // Logged where it arose; clients see that the time of their newest event stands still.
        Err(error) => tracing::debug!(?error, "no fleet event this time"),
    }
}

fn send(app: &App, message: Message) {
    // Fails only when no client is left, which the next round notices.
    let _ = app.hub.messages.send(message);
}
