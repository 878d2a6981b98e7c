//! The networks of containers: what goes over them, and token buckets that limit it.
//!
//! A container has a network of its own when a process of it is in another network namespace than this process, which is on
//! the host. What it sends is limited at the root of each interface in that namespace, what it receives at the other end of
//! its veth pairs, which is on the host and sends it. A limit holds on each interface, as one on disks does on each disk.
//!
//! Where several containers share a namespace, as those of a pod do, nothing tells whose a packet is, and a limit of one would
//! hold the others: they have neither usage nor limits.
//!
//! Nothing is read again that has not changed: a socket in each namespace, and one on the host, hear of changes. The kernel
//! has told them before whoever made the change goes on, so what is known here is what stands.

mod counters;
mod namespace;
pub(crate) mod netlink;
pub(crate) mod tbf;
mod whose;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use tidegate_model::{Limit, Resource, TimeMs, Write};

use crate::cgroup::dir::DescriptorBudget;
use crate::cgroup::parse::Transferred;
use crate::error::ActuatorError;
pub(crate) use namespace::Queue;

use namespace::Namespace;
use netlink::{News, Root, Roots, Route};
use tbf::Bucket;
use whose::Whose;

const PROC: &str = "/proc";
/// How often it is looked whether the process that is known of a container is still where it was.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often all processes of a container without a network of its own are looked at.
const SEARCH_EVERY: Duration = Duration::from_secs(60);

/// The network of this host, and who has others. Shared by all who hold a hierarchy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks(Option<Arc<Host>>);

#[derive(Debug)]
struct Host {
    namespace: File,
    inode: u64,
    route: Mutex<HostRoute>,
    /// Who is in which network, by its inode.
    members: Mutex<BTreeMap<u64, Vec<String>>>,
    budget: Arc<DescriptorBudget>,
}

#[derive(Debug)]
struct HostRoute {
    route: Route,
    /// As listed since the last change.
    roots: Option<Roots>,
}

impl Networks {
    /// With the calling thread's network for that of the host.
    pub(crate) fn here(budget: &Arc<DescriptorBudget>) -> io::Result<Self> {
        let namespace = File::open(format!("{PROC}/thread-self/ns/net"))?;
        let inode = namespace.metadata()?.ino();
        let route = Mutex::new(HostRoute { route: Route::here(News::Queues)?, roots: None });
        let (members, budget) = (Mutex::default(), Arc::clone(budget));
        Ok(Self(Some(Arc::new(Host { namespace, inode, route, members, budget }))))
    }

    /// What is known of a container's network, which is nothing yet.
    pub(crate) fn of_container(&self) -> Network {
        Network { host: self.0.clone(), state: Arc::default() }
    }
}

impl Host {
    /// What queues on the host, for as long as `read` takes.
    fn with_roots<T>(&self, read: impl FnOnce(&Roots) -> T) -> Result<T, ActuatorError> {
        let mut host = self.route.lock();
        let HostRoute { route, roots } = &mut *host;
        if route.has_news() {
            *roots = None;
        }
        let listed = match roots.take() {
            Some(listed) => listed,
            None => {
                route.roots().map_err(|error| ActuatorError::file("list the queues of", "/proc/self/ns/net", error))?
            }
        };
        Ok(read(roots.insert(listed)))
    }
}

/// The network of one container, as far as it has one of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    host: Option<Arc<Host>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    looked: Option<TimeMs>,
    searched: Option<TimeMs>,
}

#[derive(Debug, Default)]
enum Seen {
    #[default]
    Nobody,
    /// It has one, and this is why it cannot be looked at.
    Closed(String),
    Host(u32),
    Own(Box<Namespace>),
}

impl Network {
    /// Looks whose network it is, as often as that is needed, and what has changed there. True when its interfaces are others
    /// than before, of which nobody has taken a limit away.
    pub(crate) fn look(&self, dir: &Path, name: &str, is_new: bool, now: TimeMs) -> Result<bool, ActuatorError> {
        let Some(host) = &self.host else { return Ok(false) };
        let mut state = self.state.lock();
        if state.looked.is_none_or(|looked| is_new || now.since(looked) >= LOOK_EVERY) {
            state.looked = Some(now);
            self.search(host, &mut state, dir, name, is_new, now);
        }
        let Seen::Own(own) = &mut state.seen else { return Ok(false) };
        let former = own.refresh(host)?;
        Ok(former.is_some_and(|former| !former.is_empty() && former != own.links))
    }

    fn search(&self, host: &Arc<Host>, state: &mut State, dir: &Path, name: &str, is_new: bool, now: TimeMs) {
        let proc = Path::new(PROC);
        let is_as_known = match &state.seen {
            Seen::Own(own) => whose::inode(proc, own.process) == Some(own.inode()),
            Seen::Host(process) => whose::inode(proc, *process) == Some(host.inode),
            Seen::Nobody | Seen::Closed(_) => false,
        };
        let is_own = matches!(state.seen, Seen::Own(_));
        let is_due = state.searched.is_none_or(|searched| is_new || now.since(searched) >= SEARCH_EVERY);
        if is_as_known && (is_own || !is_due) {
            return;
        }
        state.searched = Some(now);
        state.seen = match (whose::find(dir, proc, host.inode), std::mem::take(&mut state.seen)) {
            (Whose::Own(process, inode), Seen::Own(own)) if own.inode() == inode => {
                Seen::Own(Box::new(own.known_by(process)))
            }
            (Whose::Own(process, inode), _) => match Namespace::open(host, process, inode, name) {
                Ok(own) => Seen::Own(Box::new(own)),
                Err(error) => Seen::Closed(error.to_string()),
            },
            (Whose::Host(process), _) => Seen::Host(process),
            (Whose::Nobody, _) => Seen::Nobody,
        };
    }

    /// Bytes received and sent, where they are nobody else's.
    pub(crate) fn count(&self, text: &mut Vec<u8>) -> Option<io::Result<Transferred>> {
        match &self.state.lock().seen {
            Seen::Own(own) if own.others().is_empty() => Some(own.count(text)),
            _ => None,
        }
    }

    /// The highest limit of all its interfaces, and none where one of them has none. What limits there may be anybody's.
    pub(crate) fn limit(&self, resource: Resource) -> Result<Limit, ActuatorError> {
        let queues = self.with_own(|host, own| own.queues(host, resource))?;
        let rates = queues.iter().map(|queue| {
            let root = queue.as_ref().ok()?.root.as_ref();
            root.and_then(|root| root.rate)
        });
        let highest = rates.collect::<Option<Vec<u64>>>().and_then(|rates| rates.into_iter().max());
        Ok(highest.map_or(Limit::Unlimited, |rate| Limit::At(rate as f64)))
    }

    /// Where a limit is to be set, one for each interface. One that has none is named; so are those who share them.
    pub(crate) fn queues(&self, resource: Resource) -> Result<Vec<Queue>, ActuatorError> {
        self.with_own(|host, own| {
            let others = own.others();
            if !others.is_empty() {
                let others = others.join(", ");
                return Err(refused(format!(
                    "it shares its network with {others}, and nothing tells whose a packet is: a limit would hold all of them"
                )));
            }
            own.queues(host, resource)?.into_iter().map(|queue| queue.map_err(refused)).collect()
        })
    }

    /// Where a limit of ours stands, of whatever it was once written to.
    pub(crate) fn ours(&self, resource: Resource) -> Result<Vec<Queue>, ActuatorError> {
        let queues = self.with_own(|host, own| own.queues(host, resource))?;
        Ok(queues.into_iter().flatten().filter(|queue| queue.root.as_ref().is_some_and(Root::is_ours)).collect())
    }

    /// Writes a limit in bytes a second, or takes ours away.
    pub(crate) fn write(&self, resource: Resource, queue: &Queue, rate: Option<u64>) -> Result<Write, ActuatorError> {
        let bucket = rate.map(|rate| Bucket::of(rate, queue.mtu));
        self.with_own(|host, own| {
            let put = |route: &mut Route| match bucket {
                Some(bucket) => route.limit(queue.index, bucket),
                None => route.unlimit(queue.index),
            };
            let put = match resource {
                Resource::NetReceive => {
                    let mut on_host = host.route.lock();
                    on_host.roots = None;
                    put(&mut on_host.route)
                }
                _ => {
                    own.is_stale = true;
                    put(&mut own.route)
                }
            };
            let target = format!("{}, root queue", queue.name);
            put.map_err(|error| ActuatorError::file("write the limit of", &queue.name, error))?;
            let value = match bucket {
                Some(Bucket { rate, burst, limit }) => {
                    format!("{} rate {rate} burst {burst} limit {limit}", tbf::KIND)
                }
                None => "none".to_owned(),
            };
            Ok(Write { target, value })
        })
    }

    fn with_own<T>(
        &self,
        of: impl FnOnce(&Host, &mut Namespace) -> Result<T, ActuatorError>,
    ) -> Result<T, ActuatorError> {
        let not = |why: &str| Err(refused(why.to_owned()));
        let Some(host) = &self.host else {
            return Err(ActuatorError::Config("this program could not open a routing socket".to_owned()));
        };
        match &mut self.state.lock().seen {
            Seen::Own(own) => {
                own.refresh(host)?;
                if own.links.is_empty() {
                    return not("its network has no interface that is up, but the one to itself");
                }
                of(host, own)
            }
            Seen::Host(_) => not("it is on the network of the host, which is not its own to limit"),
            Seen::Nobody => not("it has no process whose network could be limited"),
            Seen::Closed(why) => Err(ActuatorError::Config(format!("its network cannot be looked at: {why}"))),
        }
    }
}

/// Whether token buckets can be put into networks, tried in a new one that nobody is in.
pub(crate) fn probe() -> io::Result<()> {
    /// That to itself is the first of each network.
    const LO: u32 = 1;

    let tries = thread::Builder::new().name("tidegate-probe".to_owned()).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Route::here(News::Queues)?.limit(LO, Bucket::of(1 << 20, 1_500))
    });
    tries?.join().unwrap_or_else(|_| Err(io::Error::other("the thread that tries it has panicked")))
}

fn refused(why: String) -> ActuatorError {
    ActuatorError::Refused(why)
}
