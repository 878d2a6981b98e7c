//! Wiring: one store, one engine, one host behind the actuator's traits, one web server, and their orderly end.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tidegate_actuator::simulated::SimulatedHost;
use tidegate_actuator::{Actuator, Fleet, LocalHost, Remote, Source, inspect};
use tidegate_ingest::IngestState;
use tidegate_model::{Clock, SystemClock};
use tidegate_policy::{DEFAULT_PACK, Engine};
use tidegate_store::{Controller, Store};
use tidegate_web::{Auth, Origin, Readiness, ServerInfo, WebState};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::collect::Collection;
use crate::config::Config;
use crate::settings;

/// How long an orderly end may take before what is left is cut off.
const DRAIN: Duration = Duration::from_secs(20);
/// How often the knobs of this host's containers are seen to.
const TEND_KNOBS_EVERY: Duration = Duration::from_secs(1);

/// How long an order may take, from the decision to the agent's answer: orders older than five seconds are refused there, and
/// squeezing memory takes up to five by default.
const ORDER_ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// The host behind the actuator's traits: a kernel's, or a simulated one.
pub struct World {
    pub actuator: Arc<dyn Actuator>,
    pub source: Option<Box<dyn Source>>,
    /// What `doctor` calls the cgroup set-up.
    pub cgroup: String,
    /// Why no kernel is behind it, when none is.
    pub simulated: Option<String>,
}

impl World {
    /// This machine.
    ///
    /// # Errors
    /// The cgroup file systems cannot be found, or the state directory cannot be written.
    pub fn of_this_host(config: &Config) -> Result<Self> {
        let host = LocalHost::new(config.actuator.clone()).context("this host's cgroups")?;
        let source = config.local_host.then(|| host.source());
        let cgroup = inspect(&config.actuator.mount).cgroup;
        Ok(Self { actuator: host, source, cgroup, simulated: None })
    }

    /// A host that exists only in this process, for the reason given.
    pub fn simulated(config: &Config, seed: u64, why: &str) -> Self {
        let host = SimulatedHost::new(config.actuator.clone(), seed);
        Self { source: Some(host.source()), actuator: host, cgroup: "none".to_owned(), simulated: Some(why.to_owned()) }
    }
}

/// A name that nobody else has: so many random bytes in hexadecimal.
pub fn random_id(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    // Without random numbers the time and the process will do: it is a name, no secret.
    if getrandom::fill(&mut random).is_err() {
        let seed = format!("{}{}", SystemClock.now().0, std::process::id());
        random = seed.into_bytes();
    }
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Raises the number of files that may be open to what this process is allowed: a few for each container, segment and
/// client. Failing is no reason not to start; `doctor` warns where the limit is low.
pub fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The runtime of a server: all cores, since the store keeps queries on threads of their own.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Binds the address, or says what to do about it.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another tidegate running? --listen takes another address")
    })
}

/// Catches SIGTERM and Ctrl-C from now on; what it gives resolves at the first of them. Must be called in a runtime.
pub fn until_signalled() -> impl Future<Output = ()> {
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    async {
        let Ok((mut term, mut int)) = signals else {
            // Without handlers the signals end the process at once, which the write-ahead log is made for.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

/// The hosts with an agent, under a new epoch. A full disk keeps no server from starting: then the epoch is one that no agent
/// obeys.
fn begin_epoch(store: &Store, at_least: Option<u64>) -> Arc<Remote> {
    let controller = store.begin_epoch(at_least.unwrap_or(0), random_id(8)).unwrap_or_else(|error| {
        tracing::error!(%error, "no new epoch can be stored, so no agent obeys this server until it is started again");
        Controller::default()
    });
    Remote::new(controller.epoch, controller.id, ORDER_ANSWERED_WITHIN)
}

/// Sees to the knobs of this host's containers once a second until `shutdown`.
async fn tend_knobs(engine: Arc<Engine>, shutdown: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(TEND_KNOBS_EVERY) => {}
        }
        // A lower memory.high makes the kernel reclaim before the write returns.
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.tend_knobs()).await.context("knobs broke down")?;
    }
}

/// Serves until `stop` resolves or a part fails, then drains requests, finishes writes and closes the store.
///
/// # Errors
/// The store cannot be opened, the shipped rules do not apply, or a part ended by itself.
pub async fn run(
    config: Config,
    origins: &BTreeMap<String, Origin>,
    world: World,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let started = clock.now();
    let store_config = config.store.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(store_config, started)).await??;
    let remote = begin_epoch(&store, config.epoch_at_least);
    let collects = world.source.is_some();
    // Without a collector of its own this process changes nothing of its own host either.
    let own = collects.then(|| (config.actuator.host.clone(), world.actuator.clone()));
    let actuator = Arc::new(Fleet::new(own, remote.clone()));
    let engine = Engine::new(store.clone(), actuator, config.policy.clone(), clock.clone())?;
    if config.install_default_rules && engine.rules().is_empty() {
        engine
            .execute(DEFAULT_PACK, "shipped", clock.now())
            .await
            .map_err(|e| anyhow::anyhow!("shipped rules: {e}"))?;
    }

    let readiness = Arc::new(Readiness::new());
    let shutdown = CancellationToken::new();
    let mut parts: JoinSet<(&'static str, Result<()>)> = JoinSet::new();

    if let Some(source) = world.source {
        let every = Duration::from_millis(config.collect_every_ms);
        let collection = Collection::new(store.clone(), engine.clone(), clock.clone(), readiness.clone());
        let token = shutdown.clone();
        parts.spawn(async move { ("collector", collection.run(source, every, token).await) });
    }
    let (part, token) = (engine.clone(), shutdown.clone());
    parts.spawn(async move {
        part.run(token).await;
        ("rules", Ok(()))
    });
    let (part, token) = (engine.clone(), shutdown.clone());
    parts.spawn(async move { ("knobs", tend_knobs(part, token).await) });
    let (part, part_clock, token) = (store.clone(), clock.clone(), shutdown.clone());
    parts.spawn(async move {
        part.maintain(part_clock, token).await;
        ("store maintenance", Ok(()))
    });
    let state = WebState {
        store: store.clone(),
        engine: engine.clone(),
        remote,
        ingest: IngestState::new(store.clone(), clock.clone(), config.web.max_body_bytes),
        clock,
        auth: if config.tokens.is_empty() { Auth::open() } else { Auth::tokens(&config.tokens)? },
        info: ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: config.actuator.host.clone(),
            collects,
            simulated: world.simulated,
            cgroup: world.cgroup,
            started,
        },
        settings: settings::shown(&config, origins).into(),
        health: readiness,
        config: config.web.clone(),
        shutdown: shutdown.clone(),
    };
    let (router, token) = (tidegate_web::router(state), shutdown.clone());
    parts.spawn(async move { ("web server", tidegate_web::serve(listener, router, token).await.map_err(Into::into)) });

    let early = tokio::select! {
        () = stop => None,
        ended = parts.join_next() => ended,
    };
    shutdown.cancel();
    tracing::info!("draining");
    let drained = tokio::time::timeout(DRAIN, async { while parts.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "some parts did not end in time and are cut off");
    }
    store.close().await.context("closing the store")?;
    match early {
        None => Ok(()),
        Some(Ok((part, Ok(())))) => bail!("the {part} ended by itself"),
        Some(Ok((part, Err(error)))) => Err(error.context(format!("the {part} failed"))),
        Some(Err(error)) => Err(error).context("a part broke down"),
    }
}
