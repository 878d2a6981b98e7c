//! A routing socket in one network namespace: its interfaces, what queues at their roots, and news of both.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::sched::{CloneFlags, setns};

use super::tbf::{self, Bucket};

/// By this handle ours is told from what others put there. The kernel itself hands out those from 8000: on
/// (`qdisc_alloc_handle` in net/sched/sch_api.c), and its defaults have none.
pub(crate) const OURS: TcHandle = TcHandle { major: 0x7d9e, minor: 0 };

/// The kernel fills no more into one answer (`netlink_dump` in net/netlink/af_netlink.c).
const LARGEST_ANSWER: usize = 32 << 10;
/// How often a list is asked for that changed while it was written.
const TRIES: usize = 3;

/// What a socket hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Queues,
    QueuesAndLinks,
}

#[derive(Debug)]
pub(crate) struct Route {
    socket: Socket,
    port: u32,
    sequence: u32,
    heard: bool,
}

/// An interface that is up and leads to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// Of one end of a veth pair the other, and the number that the namespace has of the one where it is; `None` where that
    /// is the same.
    pub(crate) peer: Option<(u32, Option<i32>)>,
}

/// What queues at the root of an interface, where it is not the kernel's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) kind: String,
    pub(crate) handle: TcHandle,
    /// Of a token bucket, in bytes a second.
    pub(crate) rate: Option<u64>,
}

impl Root {
    pub(crate) fn is_ours(&self) -> bool {
        self.handle == OURS && self.kind == tbf::KIND
    }
}

/// By the number of the interface.
pub(crate) type Roots = BTreeMap<u32, Root>;

impl Route {
    /// In the namespace of the calling thread.
    pub(crate) fn here(news: News) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.add_membership(libc::RTNLGRP_TC)?;
        if news == News::QueuesAndLinks {
            socket.add_membership(libc::RTNLGRP_LINK)?;
        }
        Ok(Self { socket, port, sequence: 0, heard: false })
    }

    /// In another namespace, which it keeps alive. A thread goes there for the moment that it takes to open the socket.
    pub(crate) fn within(namespace: BorrowedFd<'_>, news: News) -> io::Result<Self> {
        thread::scope(|scope| {
            let opens = thread::Builder::new().name("tidegate-netns".to_owned()).spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Self::here(news)
            });
            opens?.join().unwrap_or_else(|_| Err(io::Error::other("the thread that opens it has panicked")))
        })
    }

    /// Whether anything that it hears of has changed since this was asked last.
    pub(crate) fn has_news(&mut self) -> bool {
        loop {
            // Cut off, since nothing is read of it: that there is one is all.
            let mut text = [0; 1];
            match self.socket.recv(&mut text.as_mut_slice(), libc::MSG_DONTWAIT) {
                Ok(_) => self.heard = true,
                // More came than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.heard = true,
                Err(_) => return std::mem::take(&mut self.heard),
            }
        }
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.list(&RouteNetlinkMessage::GetLink(message))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    pub(crate) fn roots(&mut self) -> io::Result<Roots> {
        let answers = self.list(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        Ok(answers.into_iter().filter_map(root).collect())
    }

    /// The number that this namespace has of another one, if any.
    pub(crate) fn number_of(&mut self, namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
        let answers = self.ask(&RouteNetlinkMessage::GetNsId(message), NLM_F_REQUEST | NLM_F_ACK)?;
        let number = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => message.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(number) => Some(*number),
                _ => None,
            }),
            _ => None,
        });
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        Ok(number.filter(|number| *number >= 0))
    }

    /// Puts a token bucket of ours at the root of an interface, or changes the one that is there. What somebody else put
    /// there is never replaced: without `NLM_F_REPLACE` the kernel answers EEXIST (`tc_modify_qdisc`).
    pub(crate) fn limit(&mut self, link: u32, bucket: Bucket) -> io::Result<()> {
        let mut message = at_root(link);
        message.attributes = vec![TcAttribute::Kind(tbf::KIND.to_owned()), TcAttribute::Options(bucket.options())];
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.ask(&RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
    }

    /// Takes ours away; the kernel's default is back with that. With another handle there the kernel answers EINVAL.
    pub(crate) fn unlimit(&mut self, link: u32) -> io::Result<()> {
        self.ask(&RouteNetlinkMessage::DelQueueDiscipline(at_root(link)), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    fn list(&mut self, question: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 1..TRIES {
            match self.ask(question, NLM_F_REQUEST | NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answers => return answers,
            }
        }
        self.ask(question, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Asks one question. The kernel has answered when the question is sent: there is nothing to wait for.
    fn ask(&mut self, question: &RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        // Makes room for the answer.
        self.heard = self.has_news();
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(question.clone()));
        (message.header.flags, message.header.sequence_number) = (flags, self.sequence);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let mut bytes = Vec::with_capacity(LARGEST_ANSWER);
        let mut is_torn = false;
        loop {
            bytes.clear();
            match self.socket.recv(&mut bytes, libc::MSG_DONTWAIT) {
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.heard = true;
                    continue;
                }
                received => received?,
            };
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let header = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let (length, flags) = (header.length() as usize, header.flags());
                let is_answer = header.sequence_number() == self.sequence && header.port_number() == self.port;
                let (one, others) = rest.split_at(length.min(rest.len()));
                // Each begins at a multiple of four.
                rest = others.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                if !is_answer {
                    self.heard = true;
                    continue;
                }
                is_torn |= flags & NLM_F_DUMP_INTR != 0;
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).map_err(io::Error::other)?;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) if is_torn => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn at_root(link: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header =
        TcHeader { index: link.cast_signed(), handle: OURS, parent: TcHandle::ROOT, ..TcHeader::default() };
    message
}

/// Only what is up: kernels make tunnels in each namespace that nobody uses.
fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let flags = message.header.flags;
    if flags.contains(LinkFlags::Loopback) || !flags.contains(LinkFlags::Up) {
        return None;
    }
    let mut link = Link { index: message.header.index, name: String::new(), mtu: 0, peer: None };
    let (mut of, mut namespace, mut is_veth) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => of = Some(index),
            LinkAttribute::LinkNetNsId(number) => namespace = Some(number),
            LinkAttribute::LinkInfo(infos) => is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => {}
        }
    }
    link.peer = of.filter(|_| is_veth).map(|index| (index, namespace));
    Some(link)
}

fn root(answer: RouteNetlinkMessage) -> Option<(u32, Root)> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { return None };
    // A default of the kernel has no handle.
    if message.header.parent != TcHandle::ROOT || message.header.handle == TcHandle::UNSPEC {
        return None;
    }
    let mut root = Root { kind: String::new(), handle: message.header.handle, rate: None };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => root.kind = kind,
            TcAttribute::Options(options) if root.kind == tbf::KIND => {
                root.rate = options.iter().find_map(|option| match option {
                    TcOption::Other(options) => tbf::rate(&value(options)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((message.header.index.cast_unsigned(), root))
}

fn value(options: &netlink_packet_core::DefaultNla) -> Vec<u8> {
    use netlink_packet_core::Nla;

    let mut value = vec![0; options.value_len()];
    options.emit_value(&mut value);
    value
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
