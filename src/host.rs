// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's sockets on Linux: the production side of [`wharf_stack::Host`].
//!
//! # How it works
//! Every socket is non-blocking and watched edge-triggered by one epoll instance, so that after its opening no call is
//! made only to change what is watched. The token of the flow is the event's data.
//!
//! # Bounds
//! One descriptor per socket. What opens flows runs into [`SocketLimit`] or `RLIMIT_NOFILE`, whichever comes first; either
//! is [`HostError::Exhausted`].

mod errors;
mod inbound;
mod limit;
mod local;
mod proxy;
mod slot;
mod train;
mod way;

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, Shutdown, SocketAddrAny, SocketFlags, SocketType, getpeername,
    getsockname, ipproto, sockopt,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use wharf_stack::host::{
    Accept, Datagram, Ends, Family, Host, HostError, IcmpReport, Io, Outgoing, Sender, SocketId, StreamRead,
    Token,
};

use crate::sys::socket;
use crate::unix;

use self::errors::{host_error, io_errno, report};
pub use self::inbound::{Listener, Stream};
use self::limit::Place;
pub use self::limit::SocketLimit;
pub use self::local::{HostSocket, HostSockets};
use self::slot::{AT_ONCE, Slot, Source};
use self::train::{Kind, Train};
pub use self::way::{Sources, Way, Ways};

/// Sockets of one worker.
#[derive(Debug)]
pub struct Sockets {
    epoll: OwnedFd,
    /// For what is opened from now on.
    pub ways: Ways,
    /// What ports of the gateway lead to.
    pub host_sockets: HostSockets,
    /// How many there may be, together with those of other workers.
    pub limit: SocketLimit,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    train: Train,
    /// Datagrams of trains that the host did not take.
    lost: u64,
}

/// What came of sending stream data.
fn sent(result: Result<usize, Errno>) -> Io<usize> {
    match result {
        Ok(sent) => Io::Done(sent),
        Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Io::Blocked,
        Err(_) => Io::Broken,
    }
}

/// Bytes of datagrams that may wait for their worker: its CPU is somebody else's for milliseconds at a time. The host
/// gives less where `net.core.rmem_max` is less, which it is by default.
const DATAGRAM_BACKLOG: usize = 1 << 20;
/// What a stream socket tells of.
const STREAM_EVENTS: epoll::EventFlags = epoll::EventFlags::IN
    .union(epoll::EventFlags::OUT)
    .union(epoll::EventFlags::RDHUP)
    .union(epoll::EventFlags::PRI)
    .union(epoll::EventFlags::ET);
/// What a listener and a datagram socket tell of. The latter is writable again after every send, which nobody wants to
/// know.
const INPUT_EVENTS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    }
}

impl Sockets {
    /// Sockets whose readiness goes to `epoll`.
    #[must_use]
    pub fn new(epoll: OwnedFd, ways: Ways) -> Self {
        Self {
            epoll,
            ways,
            host_sockets: HostSockets::default(),
            limit: SocketLimit::default(),
            slots: Vec::new(),
            free: Vec::new(),
            train: Train::default(),
            lost: 0,
        }
    }

    /// The epoll instance.
    #[must_use]
    pub fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Open sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no socket is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot(&self, socket: SocketId) -> Option<&Slot> {
        self.slots.get(usize::try_from(socket.0).ok()?)?.as_ref()
    }

    fn slot_mut(&mut self, socket: SocketId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(socket.0).ok()?)?.as_mut()
    }

    fn open(
        family: Family,
        kind: SocketType,
        protocol: Option<rustix::net::Protocol>,
    ) -> Result<OwnedFd, HostError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(address_family(family), kind, flags, protocol).map_err(host_error)
    }

    fn keep(
        &mut self,
        token: Token,
        fd: OwnedFd,
        family: Option<Family>,
        flags: epoll::EventFlags,
        place: Place,
    ) -> Result<SocketId, HostError> {
        self.watch(token, &fd, flags)?;
        self.insert(fd, family, place)
    }

    fn watch(&self, token: Token, fd: &OwnedFd, flags: epoll::EventFlags) -> Result<(), HostError> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.pack()), flags).map_err(host_error)
    }

    fn insert(&mut self, fd: OwnedFd, family: Option<Family>, place: Place) -> Result<SocketId, HostError> {
        let slot = Some(Slot {
            fd,
            _place: place,
            family,
            clients: 0,
            ahead: Vec::new(),
            tells_clients: false,
            is_connected: false,
            source: Source::Open,
            sources: self.ways.network.sources,
            hop_limit: None,
            dont_fragment: None,
            takes_trains: false,
        });
        let index = if let Some(index) = self.free.pop() {
            if let Some(place) = usize::try_from(index).ok().and_then(|at| self.slots.get_mut(at)) {
                *place = slot;
            }
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).map_err(|_| HostError::Exhausted)?
        };
        Ok(SocketId(index))
    }

    fn take(&mut self, socket: SocketId) -> Option<Slot> {
        let slot = self.slots.get_mut(usize::try_from(socket.0).ok()?)?.take();
        if slot.is_some() {
            self.free.push(socket.0);
        }
        slot
    }

    /// Sends what waits to leave together.
    fn send_off(&mut self) {
        let mut train = std::mem::take(&mut self.train);
        if let Some((kind, bytes)) = train.close()
            && let Some(slot) = self.slot_mut(kind.socket)
        {
            let chosen = slot.sources.toward(kind.outgoing.to);
            let from = slot.departure(kind.outgoing, chosen);
            let lost = slot.send_train(kind, bytes, from);
            self.lost += lost;
        }
        train.clear();
        self.train = train;
    }

    /// What every stream of ours has set.
    fn tune_stream(fd: &OwnedFd) {
        // The container's own Nagle has had its say.
        let _ = sockopt::set_tcp_nodelay(fd, true);
        // Urgent data is ordinary data that is marked; the mark is not relayed.
        let _ = sockopt::set_socket_oobinline(fd, true);
    }

    fn open_datagram(
        &mut self,
        token: Token,
        sender: Sender,
        family: Family,
        protocol: Option<rustix::net::Protocol>,
    ) -> Result<SocketId, HostError> {
        let place = self.limit.take()?;
        let fd = Self::open(family, SocketType::DGRAM, protocol)?;
        let way = self.ways.of(sender);
        way.bind_to_interface(&fd)?;
        let sources = way.sources;
        let socket = self.keep_datagram(token, fd, family, place)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.sources = sources;
        }
        Ok(socket)
    }

    fn keep_datagram(
        &mut self,
        token: Token,
        fd: OwnedFd,
        family: Family,
        place: Place,
    ) -> Result<SocketId, HostError> {
        let is_ipv6 = family == Family::V6;
        let _ = sockopt::set_socket_recv_buffer_size(&fd, DATAGRAM_BACKLOG);
        // Without these only error translation and hop limits suffer.
        let _ = socket::queue_errors(fd.as_fd(), is_ipv6, true);
        let _ = socket::report_hop_limits(fd.as_fd(), is_ipv6);
        self.keep(token, fd, Some(family), INPUT_EVENTS, place)
    }
}

/// Whether the host has a way to the IPv6 internet. Connecting a datagram socket looks a route up and sends nothing.
#[must_use]
pub fn has_ipv6() -> bool {
    let anywhere = SocketAddr::from(([0x2000, 0, 0, 0, 0, 0, 0, 1], 9));
    Sockets::open(Family::V6, SocketType::DGRAM, None)
        .is_ok_and(|socket| rustix::net::connect(&socket, &anywhere).is_ok())
}

/// Lets this process open as many files as it may: the gateway needs a descriptor per flow. Returns how many that is.
pub fn raise_open_files(original: Rlimit) -> usize {
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            tracing::info!(error = %std::io::Error::from(error), "cannot raise the limit of open files");
            original.current
        }
    };
    limit.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Makes closing a connection reset it.
fn reset_on_close(fd: &OwnedFd) {
    let _ = sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
}

impl Host for Sockets {
    type Listener = Listener;
    type Stream = Stream;

    fn tcp_listen(&mut self, token: Token, listener: Listener) -> Result<SocketId, HostError> {
        let place = self.limit.exceed();
        let socket = self.keep(token, listener.fd, listener.family, INPUT_EVENTS, place)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.tells_clients = listener.tells_clients;
        }
        Ok(socket)
    }

    fn tcp_accept(&mut self, listener: SocketId) -> Accept<Stream> {
        // Without a place its client had better wait in the backlog.
        let Ok(place) = self.limit.take() else { return Accept::Exhausted };
        self.slot_mut(listener).map_or(Accept::Blocked, |slot| slot.accept(place))
    }

    fn tcp_adopt(&mut self, token: Token, stream: Stream) -> Result<SocketId, HostError> {
        Self::tune_stream(&stream.fd);
        self.watch(token, &stream.fd, STREAM_EVENTS).inspect_err(|_| reset_on_close(&stream.fd))?;
        let socket = self.insert(stream.fd, stream.family, stream.place)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.ahead = stream.ahead;
        }
        Ok(socket)
    }

    fn tcp_refuse(&mut self, stream: Stream) {
        reset_on_close(&stream.fd);
    }

    fn tcp_connect(
        &mut self,
        token: Token,
        sender: Sender,
        to: SocketAddr,
        hop_limit: u8,
    ) -> Result<SocketId, HostError> {
        let family = Family::of(to.ip());
        let is_ipv6 = family == Family::V6;
        let place = self.limit.take()?;
        let fd = Self::open(family, SocketType::STREAM, None)?;
        Self::tune_stream(&fd);
        let _ = socket::queue_errors(fd.as_fd(), is_ipv6, true);
        let _ = socket::set_hop_limit(fd.as_fd(), is_ipv6, i32::from(hop_limit));
        self.ways.of(sender).bind_toward(&fd, to)?;
        match rustix::net::connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => self.keep(token, fd, Some(family), STREAM_EVENTS, place),
            Err(errno) => Err(host_error(errno)),
        }
    }

    fn socket_connect(&mut self, token: Token, port: u16) -> Result<SocketId, HostError> {
        let Some(target) = self.host_sockets.get_mut(port) else { return Err(HostError::Refused) };
        let place = self.limit.take()?;
        let fd = unix::socket(SocketType::STREAM).map_err(host_error)?;
        target.connect(&fd)?;
        self.keep(token, fd, None, STREAM_EVENTS, place)
    }

    fn tcp_error(&mut self, socket: SocketId) -> Option<HostError> {
        match sockopt::socket_error(&self.slot(socket)?.fd) {
            Ok(Ok(())) => None,
            Ok(Err(errno)) | Err(errno) => Some(host_error(errno)),
        }
    }

    fn tcp_established(&mut self, socket: SocketId) {
        let Some(slot) = self.slot(socket) else { return };
        let Some(family) = slot.family else { return };
        let is_ipv6 = family == Family::V6;
        let _ = socket::queue_errors(slot.fd.as_fd(), is_ipv6, false);
        let _ = socket::set_hop_limit(slot.fd.as_fd(), is_ipv6, -1);
    }

    fn tcp_segment_size(&mut self, socket: SocketId) -> Option<u16> {
        socket::segment_size(self.slot(socket)?.fd.as_fd()).ok()
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> Io<usize> {
        let Some(slot) = self.slot(socket) else { return Io::Broken };
        sent(rustix::net::send(&slot.fd, data, AT_ONCE))
    }

    fn tcp_send_vectored(&mut self, socket: SocketId, pieces: &[IoSlice<'_>]) -> Io<usize> {
        let Some(slot) = self.slot(socket) else { return Io::Broken };
        sent(rustix::net::sendmsg(&slot.fd, pieces, &mut SendAncillaryBuffer::default(), AT_ONCE))
    }

    fn tcp_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> StreamRead {
        self.tcp_recv_vectored(socket, &mut [IoSliceMut::new(buffer)])
    }

    fn tcp_recv_vectored(&mut self, socket: SocketId, buffers: &mut [IoSliceMut<'_>]) -> StreamRead {
        match self.slot_mut(socket) {
            Some(slot) if slot.ahead.is_empty() => slot.receive(buffers),
            Some(slot) => slot.receive_ahead(buffers),
            None => StreamRead::Broken,
        }
    }

    fn tcp_finish(&mut self, socket: SocketId) {
        if let Some(slot) = self.slot(socket) {
            // An error means that the connection is gone, which reading will show.
            let _ = rustix::net::shutdown(&slot.fd, Shutdown::Write);
        }
    }

    fn tcp_reset(&mut self, socket: SocketId) {
        if let Some(slot) = self.take(socket) {
            reset_on_close(&slot.fd);
        }
    }

    fn udp_open(&mut self, token: Token, sender: Sender, family: Family) -> Result<SocketId, HostError> {
        let socket = self.open_datagram(token, sender, family, None)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.takes_trains = true;
        }
        Ok(socket)
    }

    fn udp_connect(&mut self, token: Token, sender: Sender, peer: SocketAddr) -> Result<SocketId, HostError> {
        let family = Family::of(peer.ip());
        let place = self.limit.take()?;
        let fd = Self::open(family, SocketType::DGRAM, None)?;
        self.ways.of(sender).bind_toward(&fd, peer)?;
        rustix::net::connect(&fd, &peer).map_err(host_error)?;
        let socket = self.keep_datagram(token, fd, family, place)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.source = Source::Bound;
            slot.is_connected = true;
        }
        Ok(socket)
    }

    fn udp_listen(&mut self, token: Token, listener: Listener) -> Result<SocketId, HostError> {
        let Listener { fd, family, is_wildcard, .. } = listener;
        let place = self.limit.exceed();
        let socket = self.keep_datagram(token, fd, family.unwrap_or(Family::V4), place)?;
        if let Some(slot) = self.slot_mut(socket) {
            slot.source = if is_wildcard { Source::EachItsOwn } else { Source::Bound };
            slot.takes_trains = true;
        }
        Ok(socket)
    }

    fn echo_open(&mut self, token: Token, sender: Sender, family: Family) -> Result<SocketId, HostError> {
        let protocol = match family {
            Family::V4 => ipproto::ICMP,
            Family::V6 => ipproto::ICMPV6,
        };
        self.open_datagram(token, sender, family, Some(protocol))
    }

    fn send_to(&mut self, socket: SocketId, outgoing: Outgoing, data: &[u8]) -> Result<Io<()>, HostError> {
        if self.train.join(socket, outgoing, data) {
            return Ok(Io::Done(()));
        }
        self.send_off();
        let Some(slot) = self.slot_mut(socket) else { return Ok(Io::Broken) };
        let chosen = slot.sources.toward(outgoing.to);
        if slot.source == Source::Open {
            slot.source = match chosen {
                Some(chosen) => {
                    // Until the host has the address nothing leaves from another.
                    way::bind_source(&slot.fd, chosen)?;
                    Source::Bound
                }
                // None is chosen, or none for the host's loopback: what goes elsewhere later can no longer be bound.
                None => Source::EachItsOwn,
            };
        }
        let from = slot.departure(outgoing, chosen);
        slot.prepare(outgoing);
        match slot.send(data, outgoing.to, from) {
            Ok(()) => {
                if slot.takes_trains {
                    self.train.follow(Kind { socket, outgoing, len: data.len() });
                }
                Ok(Io::Done(()))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Io::Blocked),
            Err(errno) => Err(host_error(errno)),
        }
    }

    fn flush(&mut self) -> u64 {
        self.send_off();
        std::mem::take(&mut self.lost)
    }

    fn recv_from(&mut self, socket: SocketId, buffer: &mut [u8]) -> Io<Datagram> {
        let Some(slot) = self.slot(socket) else { return Io::Broken };
        match socket::receive_datagram(slot.fd.as_fd(), buffer) {
            Ok(received) => Io::Done(Datagram {
                len: received.len,
                from: received.from,
                to: received.to,
                hop_limit: received.hop_limit.unwrap_or(DEFAULT_HOP_LIMIT),
            }),
            Err(error) if matches!(io_errno(&error), Errno::AGAIN | Errno::INTR) => Io::Blocked,
            Err(_) => Io::Broken,
        }
    }

    fn icmp_report(&mut self, socket: SocketId) -> Option<IcmpReport> {
        let slot = self.slot(socket)?;
        // A unix socket has no such queue: its stream would be read.
        let family = slot.family?;
        loop {
            let error = socket::receive_error(slot.fd.as_fd()).ok()?;
            if let Some(report) = error.and_then(|error| report(&error, family)) {
                return Some(report);
            }
        }
    }

    fn ends(&self, socket: SocketId) -> Ends {
        let Some(slot) = self.slot(socket) else { return Ends::default() };
        Ends {
            local: getsockname(&slot.fd).ok().and_then(address_of),
            peer: getpeername(&slot.fd).ok().flatten().and_then(address_of),
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.send_off();
        drop(self.take(socket));
    }
}

fn address_of(end: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(end).ok()
}

/// What a datagram counts as having arrived with when the kernel does not say.
const DEFAULT_HOP_LIMIT: u8 = 64;
