//! The controller's side of its agents: which are there, what they are to do, and what they said of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_model::{Clock, ContainerKey, Outcome, OutcomeStatus, Resource, TimeMs};
use tokio::sync::Notify;

use crate::agent::wire::{AgentInfo, Order, Orders, PROTOCOL, Report, understands};
use crate::{Actuator, Change, KnobMode};

/// An agent refuses what is older than it accepts, five seconds by default: what nobody fetched until then is not waited for.
const FETCHED_WITHIN: Duration = Duration::from_secs(5);
/// Further apart, measurements and decisions cannot be compared.
const MOST_CLOCK_SKEW_MS: i64 = 10_000;
/// So many answers are remembered, since an agent tells what it does not know to have arrived once more.
const ANSWERS_KEPT: usize = 4_096;
/// An agent that asked no question for that long is not there: it asks again at once when it was answered.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// Changes limits on hosts of which an agent has asked for orders.
///
/// Handed over to an agent, a change has been carried out or is never going to be when [`Actuator::apply`] returns: an
/// agent refuses what is older than it accepts, and this waits for longer than that and the longest change take together.
pub struct Remote {
    epoch: u64,
    controller: String,
    answer_within: Duration,
    next: AtomicU64,
    links: Mutex<BTreeMap<String, Link>>,
}

struct Link {
    agent: AgentInfo,
    address: String,
    since: TimeMs,
    /// Questions that wait for an answer.
    asking: usize,
    /// When the last one was answered, or given up.
    answered: Instant,
    queue: VecDeque<(Order, Instant)>,
    waiting: HashMap<u64, SyncSender<Outcome>>,
    /// Orders that were answered in time, the last ones.
    answered_orders: VecDeque<u64>,
    news: Arc<Notify>,
    standing: Standing,
}

/// What the frames of a host told beside the samples.
#[derive(Clone, Debug, Default)]
struct Standing {
    last_frame: Option<TimeMs>,
    clock_ahead_ms: i64,
    behind: u64,
}

/// One agent, for people.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AgentStatus {
    /// Its host's name.
    pub host: String,
    /// The agent's version.
    pub version: String,
    /// Where it asks from.
    pub address: String,
    /// Whether orders reach it now.
    pub connected: bool,
    /// Since when it asks for orders.
    pub since: TimeMs,
    /// The instant of its last measurements.
    pub last_frame: Option<TimeMs>,
    /// By how much its clock is ahead of the controller's, in ms; what travelling takes makes it look behind.
    pub clock_ahead_ms: i64,
    /// How many frames it had still to send.
    pub behind: u64,
    /// Its own kill switch is on.
    pub frozen: bool,
}

/// Why an agent is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// It speaks another protocol.
    #[error(
        "the agent speaks protocol {agent} and this controller {PROTOCOL}; they may be one apart: update the older one"
    )]
    Protocol {
        /// The agent's.
        agent: u32,
    },
    /// It obeys a controller with a higher epoch.
    #[error("the agent obeys a controller with epoch {agent}, and this one's is {own}: it is an older controller; to let it take over start it with --epoch-at-least {}", agent.saturating_add(1))]
    OlderController {
        /// The agent's highest epoch.
        agent: u64,
        /// This controller's.
        own: u64,
    },
    /// Two machines of one name.
    #[error(
        "another machine asks for orders as host '{host}' already, from {address}; give one of them another name with --actuator-host"
    )]
    TwoOfOneName {
        /// The name.
        host: String,
        /// Where the other one is.
        address: String,
    },
}

/// A question for orders that waits for an answer. Dropped, it waits no more.
pub struct Question {
    remote: Arc<Remote>,
    host: String,
    asked: Instant,
    news: Arc<Notify>,
}

impl Remote {
    /// A controller with this epoch. `answer_within` must be longer than the agents' longest age of an order and the
    /// longest change together.
    pub fn new(epoch: u64, controller: String, answer_within: Duration) -> Arc<Self> {
        Arc::new(Self { epoch, controller, answer_within, next: AtomicU64::new(1), links: Mutex::default() })
    }

    /// This controller's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// An agent asks for orders.
    ///
    /// # Errors
    /// It cannot be answered; the error tells what to do.
    pub fn ask(
        self: &Arc<Self>,
        host: &str,
        agent: AgentInfo,
        address: &str,
        now: TimeMs,
    ) -> Result<Question, RemoteError> {
        if !understands(agent.protocol) {
            return Err(RemoteError::Protocol { agent: agent.protocol });
        }
        if agent.epoch > self.epoch {
            return Err(RemoteError::OlderController { agent: agent.epoch, own: self.epoch });
        }
        let mut links = self.links.lock();
        let known = links.get(host).filter(|link| link.is_there());
        // Copies of a machine have one name and one identity, but not one run; one that was started again asks alone.
        let is_other =
            |link: &&Link| link.agent.machine != agent.machine || (link.agent.run != agent.run && link.asking > 0);
        if let Some(other) = known.filter(is_other) {
            return Err(RemoteError::TwoOfOneName { host: host.to_owned(), address: other.address.clone() });
        }
        let is_same = known.is_some_and(|link| link.agent.run == agent.run);
        let link = links.entry(host.to_owned()).or_insert_with(|| Link::new(now));
        if !is_same {
            tracing::info!(host, address, version = agent.version, "an agent asks for orders");
            link.since = now;
        }
        (link.agent, link.address) = (agent, address.to_owned());
        link.asking += 1;
        Ok(Question { remote: self.clone(), host: host.to_owned(), asked: Instant::now(), news: link.news.clone() })
    }

    /// Whether measurements of `host` may come from there: from the agent that asks for its orders, when one does.
    ///
    /// # Errors
    /// They come from another one.
    pub fn may_measure(&self, host: &str, machine: &str, run: &str) -> Result<(), RemoteError> {
        let links = self.links.lock();
        let other = links.get(host).filter(|link| link.is_there());
        match other.filter(|link| link.agent.machine != machine || link.agent.run != run) {
            Some(other) => Err(RemoteError::TwoOfOneName { host: host.to_owned(), address: other.address.clone() }),
            None => Ok(()),
        }
    }

    /// What an agent said of an order. What nobody waits for any more, or was no order, is given back.
    pub fn reported(&self, host: &str, report: Report) -> Option<Report> {
        let waiting = match (report.order, self.links.lock().get_mut(host)) {
            (Some((epoch, id)), Some(link)) if epoch == self.epoch => {
                if link.answered_orders.contains(&id) {
                    return None;
                }
                let waiting = link.waiting.remove(&id);
                if waiting.is_some() {
                    link.answered_orders.push_back(id);
                    if link.answered_orders.len() > ANSWERS_KEPT {
                        link.answered_orders.pop_front();
                    }
                }
                waiting
            }
            _ => None,
        };
        match waiting {
            Some(waiting) => {
                // Whoever waits may have given up at this very moment: then the report is late after all.
                let sent = waiting.send(report.outcome.clone());
                sent.is_err().then_some(report)
            }
            None => Some(report),
        }
    }

    /// A frame of that instant came in, and `behind` more wait at the agent.
    pub fn measured(&self, host: &str, time: TimeMs, behind: u64, now: TimeMs) {
        if let Some(link) = self.links.lock().get_mut(host) {
            // What waited for a while says nothing of the clock.
            let clock_ahead_ms = if behind == 0 { time.0 - now.0 } else { link.standing.clock_ahead_ms };
            link.standing = Standing { last_frame: Some(time), clock_ahead_ms, behind };
        }
    }

    /// All agents that asked since this controller started, by host.
    pub fn agents(&self) -> Vec<AgentStatus> {
        let links = self.links.lock();
        let status = |(host, link): (&String, &Link)| AgentStatus {
            host: host.clone(),
            version: link.agent.version.clone(),
            address: link.address.clone(),
            connected: link.is_there(),
            since: link.since,
            last_frame: link.standing.last_frame,
            clock_ahead_ms: link.standing.clock_ahead_ms,
            behind: link.standing.behind,
            frozen: link.agent.frozen,
        };
        links.iter().map(status).collect()
    }

    /// Hands an order over, under a number of its own, and waits for what comes of it.
    fn order(&self, order: Order) -> Result<Outcome, String> {
        let host = &order.container.host.clone();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = sync_channel(1);
        {
            let mut links = self.links.lock();
            let Some(link) = links.get_mut(host) else {
                return Err(format!(
                    "no agent of host {host} has asked for orders; start `tidegate agent --server ...` there"
                ));
            };
            let ahead = link.standing.clock_ahead_ms;
            if ahead.abs() > MOST_CLOCK_SKEW_MS {
                let (by, how) = (ahead.abs() / 1000, if ahead > 0 { "ahead of" } else { "behind" });
                return Err(format!(
                    "the clock of host {host} is {by} s {how} the controller's; nothing is changed there"
                ));
            }
            if !link.is_there() {
                let silent = link.answered.elapsed().as_secs();
                return Err(format!("the agent of host {host} has not asked for orders for {silent} s"));
            }
            link.queue.push_back((Order { id, ..order }, Instant::now()));
            link.waiting.insert(id, sender);
            link.news.notify_waiters();
        }
        let to_fetch = FETCHED_WITHIN.min(self.answer_within);
        if let Ok(outcome) = answer.recv_timeout(to_fetch) {
            return Ok(outcome);
        }
        if self.withdraw(host, id) {
            let within = to_fetch.as_secs_f64();
            return Err(format!("the agent of host {host} did not fetch it within {within} s; nothing was changed"));
        }
        if let Ok(outcome) = answer.recv_timeout(self.answer_within.saturating_sub(to_fetch)) {
            return Ok(outcome);
        }
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(host) else { return Err(format!("the agent of host {host} is gone")) };
        if link.waiting.remove(&id).is_none() {
            drop(links);
            // It came between the end of the wait and the lock.
            return answer.recv().map_err(|_| format!("the agent of host {host} gave no answer"));
        }
        Err(format!(
            "the agent of host {host} fetched it and gave no answer within {} s; its next measurements show what stands there",
            self.answer_within.as_secs_f64()
        ))
    }
}

impl Remote {
    /// Takes back an order that nobody has fetched; false when somebody has.
    fn withdraw(&self, host: &str, id: u64) -> bool {
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(host) else { return false };
        let before = link.queue.len();
        link.queue.retain(|(order, _)| order.id != id);
        let withdrawn = link.queue.len() < before;
        if withdrawn {
            link.waiting.remove(&id);
        }
        withdrawn
    }
}

impl Link {
    fn new(now: TimeMs) -> Self {
        Self {
            agent: AgentInfo {
                protocol: PROTOCOL,
                version: String::new(),
                machine: String::new(),
                run: String::new(),
                epoch: 0,
                frozen: false,
            },
            address: String::new(),
            since: now,
            asking: 0,
            answered: Instant::now(),
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            answered_orders: VecDeque::new(),
            news: Arc::default(),
            standing: Standing::default(),
        }
    }

    fn is_there(&self) -> bool {
        self.asking > 0 || self.answered.elapsed() < GONE_AFTER
    }
}

impl Question {
    /// The answer: as soon as there are orders, and after `most` in any case. `knobs` is asked at its end.
    pub async fn answer(self, most: Duration, knobs: impl Fn() -> KnobMode) -> Orders {
        let end = tokio::time::Instant::from_std(self.asked + most);
        let orders = loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no news is missed.
            news.as_mut().enable();
            let orders = self.orders();
            if !orders.is_empty() || tokio::time::timeout_at(end, news).await.is_err() {
                break orders;
            }
        };
        let Remote { epoch, controller, .. } = &*self.remote;
        Orders { protocol: PROTOCOL, epoch: *epoch, controller: controller.clone(), orders, knobs: knobs() }
    }

    fn orders(&self) -> Vec<Order> {
        let mut links = self.remote.links.lock();
        let Some(link) = links.get_mut(&self.host) else { return Vec::new() };
        let ms = |time: Duration| time.as_millis() as i64;
        let waited = |given: Instant| match given.checked_duration_since(self.asked) {
            Some(later) => ms(later),
            None => -ms(self.asked.saturating_duration_since(given)),
        };
        link.queue.drain(..).map(|(order, given)| Order { waited_ms: waited(given), ..order }).collect()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(link) = self.remote.links.lock().get_mut(&self.host) {
            link.asking = link.asking.saturating_sub(1);
            link.answered = Instant::now();
        }
    }
}

/// This host, if it has one, and all hosts with an agent.
pub struct Fleet {
    own: Option<(String, Arc<dyn Actuator>)>,
    remote: Arc<Remote>,
}

impl Fleet {
    /// `own` is this host's name and what changes its limits; all other hosts are asked for by `remote`.
    pub fn new(own: Option<(String, Arc<dyn Actuator>)>, remote: Arc<Remote>) -> Self {
        Self { own, remote }
    }

    fn order(&self, order: Order, clock: &dyn Clock) -> Outcome {
        let started = Instant::now();
        self.remote.order(order).unwrap_or_else(|message| Outcome {
            took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Outcome::unwritten(OutcomeStatus::Failed, message, clock.now())
        })
    }
}

impl Actuator for Fleet {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        if let Some((_, own)) = self.own.as_ref().filter(|(host, _)| *host == change.container.host) {
            return own.apply(change, clock);
        }
        self.order(Order::of(change, 0, 0), clock)
    }

    fn adopt(&self, container: &ContainerKey, resource: Resource, clock: &dyn Clock) -> Outcome {
        match self.own.as_ref().filter(|(host, _)| *host == container.host) {
            Some((_, own)) => own.adopt(container, resource, clock),
            None => self.order(Order::adopting(container, resource), clock),
        }
    }

    /// Agents see to their own by themselves.
    fn tend_knobs(&self, mode: KnobMode, clock: &dyn Clock) {
        if let Some((_, own)) = &self.own {
            own.tend_knobs(mode, clock);
        }
    }

    fn simulated(&self) -> Option<String> {
        self.own.as_ref().and_then(|(_, own)| own.simulated())
    }

    fn is_instant(&self) -> bool {
        self.own.as_ref().is_some_and(|(_, own)| own.is_instant()) && self.remote.links.lock().is_empty()
    }
}
