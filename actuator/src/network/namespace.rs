//! A network namespace of a container, held open: its interfaces, where their packets queue, and who is in it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::Resource;

use super::netlink::{Link, News, Root, Roots, Route};
use super::{Host, PROC, counters, refused, whose};
use crate::cgroup::parse::Transferred;
use crate::error::ActuatorError;

/// The files that are kept open for each container with a network: its counters and its socket.
const DESCRIPTORS: usize = 2;

/// A network namespace that is held open.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) process: u32,
    counters: File,
    pub(super) route: Route,
    pub(super) links: Vec<Link>,
    roots: Roots,
    /// The number that it has of the host's.
    host_number: Option<i32>,
    /// What stands may be another than what is known.
    pub(super) is_stale: bool,
    membership: Membership,
}

/// A container in a network, for as long as this is held.
#[derive(Debug)]
struct Membership {
    host: Arc<Host>,
    inode: u64,
    name: String,
}

impl Membership {
    fn begin(host: &Arc<Host>, inode: u64, name: &str) -> Result<Self, ActuatorError> {
        let taken = (0..DESCRIPTORS).filter(|_| host.budget.take()).count();
        if taken < DESCRIPTORS {
            (0..taken).for_each(|_| host.budget.give_back());
            return Err(refused("there are too few file descriptors: raise the limit on open files".to_owned()));
        }
        host.members.lock().entry(inode).or_default().push(name.to_owned());
        Ok(Self { host: Arc::clone(host), inode, name: name.to_owned() })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        for _ in 0..DESCRIPTORS {
            self.host.budget.give_back();
        }
        let mut members = self.host.members.lock();
        // One entry alone: the next incarnation may be there already under the same name.
        if let Some(names) = members.get_mut(&self.inode)
            && let Some(at) = names.iter().position(|name| *name == self.name)
        {
            names.swap_remove(at);
        }
        members.retain(|_, names| !names.is_empty());
    }
}

/// One root at which packets of a container queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Of the interface, on its side.
    pub(super) index: u32,
    /// For a person.
    pub(crate) name: String,
    pub(super) mtu: u32,
    pub(crate) root: Option<Root>,
}

impl Namespace {
    pub(super) fn open(host: &Arc<Host>, process: u32, inode: u64, name: &str) -> Result<Self, ActuatorError> {
        let membership = Membership::begin(host, inode, name)?;
        let open = |path: &Path| File::open(path).map_err(|error| ActuatorError::file("open", path, error));
        let counters = open(&PathBuf::from(format!("{PROC}/{process}/net/dev")))?;
        let path = whose::namespace(Path::new(PROC), process);
        let namespace = open(&path)?;
        let is_same = namespace.metadata().is_ok_and(|found| found.ino() == inode);
        if !is_same || whose::inode(Path::new(PROC), process) != Some(inode) {
            // Its number was given to another one meanwhile; the next look finds who is there.
            return Err(refused(format!("process {process} is gone")));
        }
        let route = Route::within(namespace.as_fd(), News::QueuesAndLinks)
            .map_err(|error| ActuatorError::file("enter", path, error))?;
        let (links, roots) = Default::default();
        Ok(Self { process, counters, route, links, roots, host_number: None, is_stale: true, membership })
    }

    /// Lists what is there, if it may be another than what is known; then the former interfaces are returned.
    pub(super) fn refresh(&mut self, host: &Host) -> Result<Option<Vec<Link>>, ActuatorError> {
        if !self.route.has_news() && !self.is_stale {
            return Ok(None);
        }
        // Until it is listed whole, nothing of it counts.
        self.is_stale = true;
        let path = whose::namespace(Path::new(PROC), self.process);
        let failed = |error| ActuatorError::file("list the interfaces of", path.clone(), error);
        let links = self.route.links().map_err(failed)?;
        self.roots = self.route.roots().map_err(failed)?;
        self.host_number = self.route.number_of(host.namespace.as_fd()).map_err(failed)?;
        self.is_stale = false;
        Ok(Some(std::mem::replace(&mut self.links, links)))
    }

    /// One for each interface, or why there is none.
    pub(super) fn queues(&self, host: &Host, resource: Resource) -> Result<Vec<Result<Queue, String>>, ActuatorError> {
        let of = |name: String, link: &Link, index: u32, roots: &Roots| Queue {
            index,
            name,
            mtu: link.mtu,
            root: roots.get(&index).cloned(),
        };
        if resource == Resource::NetSend {
            let sends = |link: &Link| {
                Ok(of(format!("{} of process {}", link.name, self.process), link, link.index, &self.roots))
            };
            return Ok(self.links.iter().map(sends).collect());
        }
        host.with_roots(|roots| {
            let receives = |link: &Link| match link.peer {
                Some((index, Some(number))) if Some(number) == self.host_number => {
                    Ok(of(format!("interface {index} of the host, the other end of {}", link.name), link, index, roots))
                }
                _ => Err(format!(
                    "{} has no other end on this host, where what it receives could be limited: it is no veth pair, or \
                     leads elsewhere",
                    link.name
                )),
            };
            self.links.iter().map(receives).collect()
        })
    }

    pub(super) fn inode(&self) -> u64 {
        self.membership.inode
    }

    /// It was found by another process.
    pub(super) fn known_by(self, process: u32) -> Self {
        Self { process, ..self }
    }

    /// Bytes received and sent, read by way of `text`.
    pub(super) fn count(&self, text: &mut Vec<u8>) -> io::Result<Transferred> {
        counters::read(&self.counters, text)
    }

    /// Who else is in it.
    pub(super) fn others(&self) -> Vec<String> {
        let Membership { host, inode, name } = &self.membership;
        let members = host.members.lock();
        members.get(inode).into_iter().flatten().filter(|other| *other != name).cloned().collect()
    }
}
