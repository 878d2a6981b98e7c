//! `tidegate agent`: one host of many. Measures it, keeps what it measures until the controller has it, and carries out what
//! the controller orders.
//!
//! Threads, none of which waits for another: the collector (each second), the sender (frames), the listener (orders), the
//! workers (carry them out), the reporter (what came of them) and the minder (silence, and this host's kill switch). What they
//! share is [`Shared`].

mod link;

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Condvar, Mutex};
use tidegate_actuator::agent::wire::{self, AgentInfo, FrameHeader, FramesFrom, PROTOCOL, Report, pack, understands};
use tidegate_actuator::agent::{Brake, Delivery, Due, Executor, Fence, Silence, Spool, restore_baselines, uptime};
use tidegate_actuator::{Actuator, Collected, KnobMode, LocalHost, Source};
use tidegate_model::{Clock, Container, SystemClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::serve::{self, random_id};
use link::{Link, Unacceptable};

/// Frames are sent in bodies of at most so many bytes.
const BODY_BYTES: usize = 1 << 20;
/// How long the first wait after a failure is; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Short, since a controller that comes back is silent until it is asked.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Threads that carry out orders: memory that goes down, or a runtime's API, may keep one busy for seconds with one container.
const WORKERS: usize = 32;
/// How long after a start nothing is put back: by then the containers are known.
const SETTLING: Duration = Duration::from_secs(8);
/// Whoever was not run for so long was asleep along with its machine, or stopped.
const SLEPT: Duration = Duration::from_secs(20);

/// What the agent's threads share.
struct Shared {
    config: Config,
    host: Arc<LocalHost>,
    executor: Executor,
    brake: Brake,
    link: Link,
    spool: Mutex<Spool>,
    /// Something was appended to the spool, or the end has come.
    appended: Condvar,
    silence: Mutex<Silence>,
    /// What the controller's kill switch makes of knobs, as it said last.
    knobs: Mutex<KnobMode>,
    /// What the controller could not be told: goes with the next frame.
    untold: Mutex<Vec<Report>>,
    machine: String,
    wants_present: AtomicBool,
    /// Frames given up that the controller was not told of.
    dropped_told: AtomicU64,
    run: String,
    ending: AtomicBool,
}

/// Where an agent keeps what must survive it.
///
/// # Errors
/// None is configured.
pub fn state_dir(config: &Config) -> Result<PathBuf> {
    config.actuator.state_dir.clone().context("an agent needs a state directory; --actuator-state-dir names it")
}

/// Held by the agent that uses a state directory.
pub struct AgentLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl AgentLock {
    /// # Errors
    /// Another agent holds it, or the file cannot be made.
    pub fn take(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("agent.lock");
        std::fs::create_dir_all(state_dir).with_context(|| format!("the state directory {}", state_dir.display()))?;
        let file = File::create(&path).with_context(|| format!("the lock {}", path.display()))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let locked = locked.map_err(|(_, errno)| errno);
        locked.map(Self).with_context(|| format!("another agent uses {}", state_dir.display()))
    }
}

/// Runs until `stop`, then sends what is left to send.
///
/// # Errors
/// This host cannot be measured or the state directory not be used. Nothing that happens later ends an agent.
pub fn run(config: Config, stop: impl Future<Output = ()>, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let state_dir = state_dir(&config)?;
    let _lock = AgentLock::take(&state_dir)?;
    let host = LocalHost::new(config.actuator.clone()).context("this host's cgroups")?;
    let brake = Brake::of(&state_dir);
    let max_age = Duration::from_millis(config.agent.order_max_age_ms);
    let fence = Fence::open(Some(&state_dir))?;
    let seconds = Duration::from_secs;
    let silence = Silence::new(seconds(config.agent.hold_after_s), seconds(config.agent.restore_after_s), uptime());
    let shared = Arc::new(Shared {
        link: Link::new(&config.agent, &config.actuator.host)?,
        spool: Mutex::new(Spool::open(&state_dir.join("spool"), config.agent.buffer_max_bytes)?),
        executor: Executor::new(host.clone(), fence, Some(brake.clone()), max_age),
        brake,
        host,
        config,
        appended: Condvar::new(),
        silence: Mutex::new(silence),
        knobs: Mutex::default(),
        untold: Mutex::default(),
        machine: machine(),
        wants_present: AtomicBool::new(true),
        dropped_told: AtomicU64::new(0),
        run: random_id(8),
        ending: AtomicBool::new(false),
    });

    let listener = match shared.config.agent.rescaler_listen {
        None => None,
        Some(address) => Some(runtime.block_on(rescaler_listener(address, &shared.config))?),
    };
    let (tell, told) = channel();
    let told_threads = [
        spawn("collector", &shared, |shared| shared.collect())?,
        spawn("sender", &shared, |shared| shared.send())?,
        spawn("reporter", &shared, move |shared| shared.report(&told))?,
    ];
    spawn("minder", &shared, |shared| shared.mind())?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (sender, deliveries) = channel();
        workers.push(sender);
        let tell = tell.clone();
        spawn("worker", &shared, move |shared| shared.work(&deliveries, &tell))?;
    }
    spawn("listener", &shared, move |shared| shared.listen(&workers))?;

    match listener {
        None => runtime.block_on(stop),
        Some(listener) => runtime.block_on(rescale(listener, &shared, stop)),
    }
    tracing::info!("ending; limits stay as they are");
    shared.ending.store(true, Ordering::Release);
    shared.appended.notify_all();
    let deadline = Instant::now() + Duration::from_secs(5);
    for thread in told_threads {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Where the face of the original's NodeRescaler listens.
async fn rescaler_listener(address: SocketAddr, config: &Config) -> Result<TcpListener> {
    if !address.ip().is_loopback() && !config.agent.rescaler_unprotected {
        bail!(
            "agent.rescaler_listen = {address}: it knows no tokens, so whoever reaches it changes limits; listen on 127.0.0.1, \
             or set agent.rescaler_unprotected = true where that is meant"
        );
    }
    let listener = serve::listen(address).await?;
    tracing::info!(address = %listener.local_addr()?, "the NodeRescaler's face listens");
    Ok(listener)
}

/// Serves it until `stop`.
async fn rescale(listener: TcpListener, shared: &Shared, stop: impl Future<Output = ()>) {
    let routes = tidegate_web::rescaler(shared.host.clone(), shared.brake.clone());
    let server = tidegate_web::serve(listener, routes, CancellationToken::new());
    tokio::pin!(stop);
    tokio::select! {
        served = server => {
            tracing::error!(?served, "the NodeRescaler's face ended");
            stop.await;
        }
        () = &mut stop => {}
    }
}

/// A thread that ends the program when it breaks down: an agent that goes on without one of them would obey without
/// measuring, or measure without minding. Whoever runs it as a service has it started again.
fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) + Send + 'static,
) -> Result<thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(1 << 20);
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() {
            tracing::error!("a thread of the agent broke down, see above; the agent ends");
            std::process::exit(70);
        }
    };
    thread.spawn(guarded).with_context(|| format!("cannot start the {name}"))
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Sleeps in small pieces, so that an end is noticed.
    fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_ending() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
    }

    /// Measures at every multiple of the period and keeps what was found.
    fn collect(&self) {
        let every = Duration::from_millis(self.config.collect_every_ms);
        let mut source: Box<dyn Source> = self.host.source();
        let mut listed: Vec<Container> = Vec::new();
        while !self.is_ending() {
            let now = SystemClock.now();
            let due = now.aligned(every).plus(every);
            self.sleep(due.since(now));
            if self.is_ending() {
                return;
            }
            let collected = source.collect(due);
            for problem in &collected.problems {
                tracing::warn!(problem, "collector");
            }
            if let Err(error) = self.keep(collected, due, &mut listed) {
                tracing::error!(%error, "measurements were lost");
                self.wants_present.store(true, Ordering::Release);
            }
        }
    }

    fn keep(&self, collected: Collected, time: tidegate_model::TimeMs, listed: &mut Vec<Container>) -> Result<()> {
        let without_time = |container: &Container| Container { last_seen: container.first_seen, ..container.clone() };
        let present: Vec<Container> = collected.present.iter().map(without_time).collect();
        let list = self.wants_present.swap(false, Ordering::AcqRel) || present != *listed;
        let header = FrameHeader {
            time,
            host: collected.host,
            appeared: collected.appeared,
            vanished: collected.vanished,
            present: list.then(|| present.clone()),
            drifts: collected.drifts,
            knobs: collected.knobs,
            problems: collected.problems,
            reports: std::mem::take(&mut *self.untold.lock()),
        };
        *listed = present;
        let frame = pack(&header, &tidegate_ingest::arrow::encode(&collected.samples)?)?;
        if let (number, Some(error)) = self.spool.lock().append(frame) {
            tracing::warn!(number, %error, "the disk does not take measurements; the last minute of them is kept in memory");
        }
        self.appended.notify_all();
        Ok(())
    }

    /// Does what is due without a controller, on a thread of its own: what the kill switch wants, what a long silence wants.
    fn mind(&self) {
        // Containers of a runtime may take seconds to be known after a start, and a controller to be asked after a sleep.
        let mut settled = uptime() + SETTLING;
        while !self.is_ending() {
            let before = uptime();
            self.sleep(Duration::from_secs(1));
            let now = uptime();
            if now - before > SLEPT {
                tracing::warn!(for_s = (now - before).as_secs(), "this host stood still");
                settled = settled.max(now + SETTLING);
            }
            if now < settled {
                continue;
            }
            self.restore_if_told();
            self.mind_the_silence();
            self.host.tend_knobs(self.knob_mode(), &SystemClock);
        }
    }

    /// What the kill switches, of this host and of its controller, make of knobs. While the controller is silent they stay as
    /// they are.
    fn knob_mode(&self) -> KnobMode {
        match self.brake.is_on() {
            Some(braked) if braked.restore => KnobMode::GiveBack,
            Some(_) => KnobMode::Hold,
            None => *self.knobs.lock(),
        }
    }

    /// The kill switch of this host may want the baselines back.
    fn restore_if_told(&self) {
        if !self.brake.wants_restore() {
            return;
        }
        let why = self.brake.is_on().map(|braked| braked.why).unwrap_or_default();
        let why = format!("the kill switch at the agent puts the baseline back {why}");
        let thawed = || (!self.brake.wants_restore()).then(|| "the kill switch was turned off meanwhile".to_owned());
        self.restore(why.trim_end(), &thawed);
        if let Err(error) = self.brake.restored() {
            tracing::error!(%error, "the baselines will be put back again and again");
        }
    }

    fn mind_the_silence(&self) {
        // Frozen, nothing is changed; a silence that lasts until the thaw is minded then.
        if self.brake.is_on().is_some() {
            return;
        }
        let (due, lasts) = {
            let mut silence = self.silence.lock();
            let now = uptime();
            (silence.due(now), silence.lasts(now).as_secs())
        };
        match due {
            Due::Nothing => {}
            Due::Hold => tracing::warn!(silent_s = lasts, "the controller is silent: limits stay as they are"),
            Due::Restore => {
                tracing::warn!(silent_s = lasts, "the controller is silent for long: baselines are put back");
                let reason = format!("the controller was silent for {lasts} s, so the agent puts the baseline back");
                let over = || {
                    let silent = self.silence.lock().lasts(uptime()).as_secs() >= self.config.agent.restore_after_s;
                    let frozen = self.brake.is_on().is_some();
                    (frozen || !silent).then(|| "the controller speaks again, or the kill switch is on".to_owned())
                };
                self.restore(&reason, &over);
            }
            Due::Over => tracing::info!("the controller speaks again"),
        }
    }

    fn restore(&self, why: &str, refuse: &dyn Fn() -> Option<String>) {
        let reports = restore_baselines(&self.host, why, refuse, &SystemClock);
        for report in &reports {
            tracing::warn!(
                container = %report.container, resource = %report.resource, outcome = report.outcome.status.as_str(),
                message = report.outcome.message, "baseline put back"
            );
        }
        self.untold.lock().extend(reports);
    }

    /// Sends frames as they come, and after an outage those that have piled up.
    fn send(&self) {
        let mut wait = FIRST_WAIT;
        // Halved with each failure, so that a slow line gets something through within the time that a request has.
        let mut most = BODY_BYTES;
        loop {
            let body = {
                let mut spool = self.spool.lock();
                if spool.waiting() == 0 {
                    if self.is_ending() {
                        return;
                    }
                    self.appended.wait_for(&mut spool, Duration::from_secs(1));
                }
                match spool.peek(most) {
                    Ok(body) => body,
                    Err(error) => {
                        tracing::error!(%error, "a file of the buffer cannot be read and is given up");
                        spool.give_up_oldest();
                        continue;
                    }
                }
            };
            if body.is_empty() {
                continue;
            }
            let Err(error) = self.send_one(&body) else {
                (wait, most) = (FIRST_WAIT, (2 * most).min(BODY_BYTES));
                continue;
            };
            tracing::warn!("measurements wait: {error:#}");
            if self.is_ending() {
                return;
            }
            let frames = wire::numbers(&body);
            if error.is::<Unacceptable>()
                && let [only] = frames[..]
            {
                // It would be refused again and again, and all that come after it would wait.
                tracing::error!(frame = only, "the controller does not accept this frame, which is given up");
                if let Err(error) = self.spool.lock().give_up_frame(only) {
                    tracing::error!(%error, "the buffer");
                }
                continue;
            }
            most = if error.is::<Unacceptable>() { 1 } else { (most / 2).max(1) };
            self.sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn send_one(&self, body: &[u8]) -> Result<()> {
        let (waiting, dropped, id) = {
            let spool = self.spool.lock();
            (spool.waiting(), spool.dropped().frames, spool.id().to_owned())
        };
        let sent = wire::numbers(body).len() as u64;
        let untold = dropped - self.dropped_told.load(Ordering::Acquire);
        let from = FramesFrom {
            spool: id,
            machine: self.machine.clone(),
            run: self.run.clone(),
            behind: waiting.saturating_sub(sent),
            dropped: untold,
        };
        let taken = self.link.frames(body, &from)?;
        self.dropped_told.store(dropped, Ordering::Release);
        // A frame that was given up may have been the one that listed the containers.
        if taken.wants_present || untold > 0 {
            self.wants_present.store(true, Ordering::Release);
        }
        self.spool.lock().take(taken.taken).context("the buffer")
    }

    /// Asks for orders again and again.
    fn listen(&self, workers: &[Sender<Delivery>]) {
        let mut wait = FIRST_WAIT;
        let mut complaint = String::new();
        while !self.is_ending() {
            let agent = AgentInfo {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine: self.machine.clone(),
                run: self.run.clone(),
                epoch: self.executor.fence().epoch(),
                frozen: self.brake.is_on().is_some(),
            };
            let asked = uptime();
            let answer = self.link.orders(&agent).and_then(|orders| {
                if !understands(orders.protocol) {
                    bail!("the controller speaks protocol {} and this agent {PROTOCOL}", orders.protocol);
                }
                // A controller that is not obeyed does not end the silence of the one that is.
                self.executor.fence().admit(orders.epoch, &orders.controller).map_err(anyhow::Error::msg)?;
                Ok(orders)
            });
            let orders = match answer {
                Ok(orders) => orders,
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != complaint {
                        tracing::warn!("no orders: {text}");
                        complaint = text;
                    }
                    self.sleep(wait);
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
            };
            *self.knobs.lock() = orders.knobs;
            if !complaint.is_empty() || wait != FIRST_WAIT {
                tracing::info!(epoch = orders.epoch, "the controller answers");
            }
            (wait, complaint) = (FIRST_WAIT, String::new());
            self.silence.lock().heard(uptime());
            for order in orders.orders {
                let delivery = Delivery { epoch: orders.epoch, controller: orders.controller.clone(), order, asked };
                if self.is_ending() {
                    return;
                }
                // Orders for one container keep their order.
                let mut hasher = DefaultHasher::new();
                delivery.order.container.hash(&mut hasher);
                let at = hasher.finish() as usize % workers.len();
                // The workers live for as long as this thread.
                drop(workers[at].send(delivery));
            }
        }
    }

    /// Carries out the orders of some containers, one after another.
    fn work(&self, deliveries: &Receiver<Delivery>, tell: &Sender<Report>) {
        for delivery in deliveries {
            drop(tell.send(self.executor.carry_out(&delivery, &SystemClock, &uptime)));
        }
    }

    /// Tells what came of orders, many at once when they come fast. What cannot be told goes with the next frame.
    fn report(&self, reports: &Receiver<Report>) {
        loop {
            let Ok(first) = reports.recv_timeout(Duration::from_millis(500)) else {
                if self.is_ending() {
                    return;
                }
                continue;
            };
            let all: Vec<Report> = std::iter::once(first).chain(reports.try_iter()).collect();
            if let Err(error) = self.link.report(&all) {
                tracing::warn!("outcomes wait: {error:#}");
                self.untold.lock().extend(all);
            }
        }
    }
}

/// What this machine is called by itself, or where it has no name that lasts, by this start of it.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let lasting = read("/etc/machine-id");
    if lasting.is_empty() { read("/proc/sys/kernel/random/boot_id") } else { lasting }
}
