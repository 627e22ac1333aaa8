// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS over TCP: the gateway as a host with listening sockets.
//!
//! # Path
//! TCP segments for port 53 of the gateway's addresses come in by [`TcpHost::handle_packet`], those it sends leave by
//! [`TcpHost::poll_segment`]. In between [`TcpHost::poll`] reads queries off the connections and gives them to the
//! [`Forwarder`]; replies come back through [`TcpHost::handle_reply`].
//!
//! # How it works
//! A smoltcp interface with one socket for each connection and one more that listens. Its device is two queues of IP
//! packets: the link layer stays with the gateway, whose neighbor table is better than the interface's own. Replies
//! may overtake each other (RFC 7766 section 6.2.1.1); a client that asks faster than it listens is not read from.
//!
//! Connections nobody asks anything on give way to new ones, the longest idle first; where all are busy, the new one
//! is reset.
//!
//! # Bounds
//! [`MAX_CONNECTIONS`], [`MAX_CONNECTIONS_PER_CLIENT`] of one container, [`MAX_PIPELINED`] queries of one connection
//! and two replies waiting to be sent, [`IDLE`] without a query.
//!
//! # Sources
//! RFC 1035 section 4.2.2, RFC 7766.

use core::fmt;
use core::net::IpAddr;
use std::collections::VecDeque;

use smoltcp::iface::{
    Config as InterfaceConfig, Interface, PollIngressSingleResult, SocketHandle, SocketSet,
};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Packet, Ipv6Packet};
use wharf_switch::{Duration, Instant};

use super::{Client, Forwarder, PORT};
use crate::Config;
use crate::host::Host;
use crate::keyed::{KeyedMap, KeyedState};

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Connections of one container at a time.
pub const MAX_CONNECTIONS_PER_CLIENT: usize = 16;
/// Queries of one connection under way at a time.
pub const MAX_PIPELINED: usize = 32;
/// RFC 7766 section 6.2.3: an idle timeout "in the order of a few seconds"; dig and resolvers are done well before.
pub const IDLE: Duration = Duration::from_secs(10);

/// A query is a few hundred bytes; pipelined ones may wait for their turn in the client.
const RECEIVE_BUFFER_LEN: usize = 4096;
/// What is on its way; a longer reply follows as it is acknowledged.
const SEND_BUFFER_LEN: usize = 16_384;
/// Bytes of replies waiting to be sent above which no more queries are read.
const OUTPUT_LIMIT: usize = 2 * 65_537;
/// Packets waiting to be taken by the gateway.
const MAX_PACKETS: usize = 512;
/// MAC addresses remembered, for the replies.
const MAX_NEIGHBORS: usize = 1024;

/// A TCP segment to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its receiver was last heard from.
    pub mac: EthernetAddress,
    /// Its receiver.
    pub to: IpAddr,
    /// The whole IP packet, checksums and all.
    pub packet: Vec<u8>,
}

/// The interface's device: packets in, packets out.
struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    mtu_bytes: usize,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl phy::Device for Queues {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        if self.outgoing.len() >= MAX_PACKETS {
            return None;
        }
        Some((Incoming(self.incoming.pop_front()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < MAX_PACKETS).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu_bytes;
        // The gateway verified it, or it never crossed a wire and is not there yet.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// One socket and, once somebody came, the conversation on it.
struct Connection {
    handle: SocketHandle,
    id: u64,
    /// Who came; `None` while the socket listens.
    from: Option<IpAddr>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Queries under way.
    pending: usize,
    active_at: Instant,
    /// We have said that we are done.
    closing: bool,
}

impl Connection {
    /// When it has been idle for too long. While only the nameservers are slow, that is the forwarder's business.
    fn idle_at(&self) -> Option<Instant> {
        let waits = self.pending > 0 && self.output.is_empty() && !self.closing;
        (self.from.is_some() && !waits).then(|| self.active_at + IDLE)
    }

    /// Whether nothing is asked, read or said on it.
    fn is_idle(&self, socket: &Socket<'_>) -> bool {
        self.pending == 0 && self.output.is_empty() && socket.send_queue() == 0 && socket.recv_queue() == 0
    }
}

/// The gateway's TCP side of DNS.
pub struct TcpHost {
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    neighbors: KeyedMap<IpAddr, EthernetAddress>,
    next_id: u64,
}

impl fmt::Debug for TcpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpHost").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl TcpHost {
    /// The host at the gateway's addresses in the network `config` describes.
    #[must_use]
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut queues =
            Queues { incoming: VecDeque::new(), outgoing: VecDeque::new(), mtu_bytes: config.mtu_bytes };
        let hash = KeyedState::new(&config.seed, b"dns over tcp");
        let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
        settings.random_seed = hash.hash(b"sequence numbers");
        let mut interface = Interface::new(settings, &mut queues, time(now));
        interface.update_ip_addrs(|addresses| {
            for address in addresses_of(config) {
                // The limits of .cargo/config.toml leave room; a test says so.
                addresses.push(address).ok();
            }
        });
        // Whoever asks from elsewhere is answered all the same: the gateway finds the way.
        if let Some(plan) = config.ipv4 {
            interface.routes_mut().add_default_ipv4_route(plan.gateway).ok();
        }
        if let Some(plan) = config.ipv6 {
            interface.routes_mut().add_default_ipv6_route(plan.gateway).ok();
        }
        let mut host = Self {
            interface,
            queues,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            neighbors: KeyedMap::with_hasher(hash),
            next_id: 0,
        };
        host.listen();
        host
    }

    /// Connections at the moment.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.iter().filter(|connection| connection.from.is_some()).count()
    }

    /// Takes a whole IP packet with a TCP segment for port 53 of one of the gateway's addresses, its checksum verified
    /// or owed, from the host at `mac`. [`TcpHost::poll`] has to follow.
    pub fn handle_packet(&mut self, mac: EthernetAddress, packet: &[u8]) {
        if let Some((source, _)) = addresses_in(packet) {
            if self.neighbors.len() >= MAX_NEIGHBORS {
                self.neighbors.clear();
            }
            self.neighbors.insert(source, mac);
        }
        if self.queues.incoming.len() < MAX_PACKETS {
            self.queues.incoming.push_back(packet.to_vec());
        }
    }

    /// Moves everything on: segments, queries, replies, deadlines.
    pub fn poll<H: Host>(&mut self, now: Instant, host: &mut H, forwarder: &mut Forwarder) {
        self.receive(now);
        for place in 0..self.connections.len() {
            self.read(now, host, forwarder, place);
            self.write(now, place);
        }
        self.reap(now, host, forwarder);
        self.interface.poll(time(now), &mut self.queues, &mut self.sockets);
    }

    /// A reply to a query of connection `id`; [`TcpHost::poll`] sends it.
    pub fn handle_reply(&mut self, id: u64, reply: &[u8]) {
        let connection = self.connections.iter_mut().find(|connection| connection.id == id);
        if let Some(connection) = connection.filter(|connection| connection.from.is_some())
            && let Ok(len) = u16::try_from(reply.len())
        {
            connection.pending = connection.pending.saturating_sub(1);
            connection.output.extend(len.to_be_bytes());
            connection.output.extend(reply);
        }
    }

    /// Takes the next segment to be sent. What is for somebody not heard from lately is lost: TCP says it again.
    pub fn poll_segment(&mut self) -> Option<Segment> {
        while let Some(packet) = self.queues.outgoing.pop_front() {
            let Some((_, to)) = addresses_in(&packet) else { continue };
            if let Some(&mac) = self.neighbors.get(&to) {
                return Some(Segment { mac, to, packet });
            }
        }
        None
    }

    /// When [`TcpHost::poll`] has something to do.
    pub fn poll_at(&mut self, now: Instant) -> Instant {
        if !self.queues.incoming.is_empty() {
            return now;
        }
        let idle = self.connections.iter().filter_map(Connection::idle_at).min().unwrap_or(Instant::FAR);
        let sockets = self.interface.poll_at(time(now), &self.sockets).map_or(Instant::FAR, |at| {
            Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
        });
        idle.min(sockets)
    }

    /// Takes the packets in one by one, so that every SYN of a burst finds a socket that listens.
    fn receive(&mut self, now: Instant) {
        loop {
            let (queues, sockets) = (&mut self.queues, &mut self.sockets);
            match self.interface.poll_ingress_single(time(now), queues, sockets) {
                PollIngressSingleResult::None => return,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => {
                    self.greet(now);
                    self.keep_listening();
                }
            }
        }
    }

    /// Notes who came to a socket that was listening, and who never came further than that.
    fn greet(&mut self, now: Instant) {
        let mut newcomer = None;
        for connection in &mut self.connections {
            let socket = self.sockets.get::<Socket<'_>>(connection.handle);
            match (connection.from, socket.remote_endpoint()) {
                (None, Some(remote)) => {
                    self.next_id += 1;
                    let from = IpAddr::from(remote.addr);
                    (connection.from, connection.id, connection.active_at) = (Some(from), self.next_id, now);
                    newcomer = Some((connection.handle, from));
                }
                // RFC 9293 section 3.10.7.4: a reset during the handshake returns the socket to LISTEN.
                (Some(_), None) if socket.state() == State::Listen => connection.from = None,
                _ => {}
            }
        }
        if let Some((handle, client)) = newcomer {
            self.make_room(handle, MAX_CONNECTIONS_PER_CLIENT, |from| from == client);
            self.make_room(handle, MAX_CONNECTIONS, |_| true);
        }
    }

    /// Where a newcomer makes `rivals` more than `limit`, resets the one that is idle for longest, or else the newcomer.
    ///
    /// RFC 7766 section 6.2.3: "Servers MAY use zero timeouts when they are experiencing heavy load or are under
    /// attack."
    fn make_room(&mut self, newcomer: SocketHandle, limit: usize, rivals: impl Fn(IpAddr) -> bool) {
        let sockets = &self.sockets;
        let socket = |connection: &Connection| sockets.get::<Socket<'_>>(connection.handle);
        let open = || {
            let rivals = self.connections.iter().filter(|connection| connection.from.is_some_and(&rivals));
            rivals.filter(|connection| socket(connection).state() != State::Closed)
        };
        if open().count() <= limit {
            return;
        }
        let idle = open().filter(|rival| rival.handle != newcomer && rival.is_idle(socket(rival)));
        let leaving = idle.min_by_key(|rival| rival.active_at).map_or(newcomer, |rival| rival.handle);
        self.sockets.get_mut::<Socket<'_>>(leaving).abort();
    }

    /// Reads queries, as long as the connection keeps up with the replies.
    fn read<H: Host>(&mut self, now: Instant, host: &mut H, forwarder: &mut Forwarder, place: usize) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        let Some(from) = connection.from else { return };
        let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
        while connection.pending < MAX_PIPELINED && connection.output.len() < OUTPUT_LIMIT {
            if let Some(query) = take_message(&mut connection.input) {
                connection.active_at = now;
                let client = Client::Tcp { connection: connection.id, from };
                match forwarder.handle_query(now, host, client, &query) {
                    Ok(()) => connection.pending += 1,
                    // Whoever sends what is no query, or more than a container's share, is not talked to any longer.
                    Err(_) => {
                        socket.abort();
                        return;
                    }
                }
                continue;
            }
            let input = &mut connection.input;
            let got = socket.recv(|bytes| {
                input.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            if !matches!(got, Ok(1..)) {
                return;
            }
        }
    }

    /// Writes replies, and closes when there is nothing more to expect.
    fn write(&mut self, now: Instant, place: usize) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if connection.from.is_none() {
            return;
        }
        let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
        while !connection.output.is_empty() {
            let (bytes, _) = connection.output.as_slices();
            match socket.send_slice(bytes) {
                Ok(0) | Err(_) => break,
                Ok(sent) => {
                    connection.output.drain(..sent);
                    connection.active_at = now;
                }
            }
        }
        let quiet = connection.pending == 0 && connection.output.is_empty();
        let idle = connection.idle_at().is_some_and(|at| at <= now);
        let finished = socket.state() == State::CloseWait && socket.recv_queue() == 0;
        if !connection.closing && quiet && (finished || idle) {
            socket.close();
            (connection.closing, connection.active_at) = (true, now);
        } else if idle {
            // Neither our end nor our replies get through.
            socket.abort();
        }
    }

    /// Takes away sockets whose conversation is over.
    fn reap<H: Host>(&mut self, now: Instant, host: &mut H, forwarder: &mut Forwarder) {
        // An aborted socket says its RST first.
        self.interface.poll(time(now), &mut self.queues, &mut self.sockets);
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            let state = sockets.get::<Socket<'_>>(connection.handle).state();
            let over = state == State::Closed;
            if over {
                sockets.remove(connection.handle);
                forwarder.cancel(host, connection.id);
            }
            !over
        });
    }

    /// Sees to it that one socket listens, and no more.
    fn keep_listening(&mut self) {
        let mut listening = 0;
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            listening += usize::from(connection.from.is_none());
            let surplus = connection.from.is_none() && listening > 1;
            if surplus {
                sockets.remove(connection.handle);
            }
            !surplus
        });
        if listening == 0 {
            self.listen();
        }
    }

    fn listen(&mut self) {
        let buffer = |len: usize| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER_LEN), buffer(SEND_BUFFER_LEN));
        // Replies are written whole; waiting for more would only wait for the client's delayed ACK.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        if socket.listen(PORT).is_err() {
            return;
        }
        self.connections.push(Connection {
            handle: self.sockets.add(socket),
            id: 0,
            from: None,
            input: Vec::new(),
            output: VecDeque::new(),
            pending: 0,
            active_at: Instant::ZERO,
            closing: false,
        });
    }
}

/// The first whole message of a stream, taken off its front.
///
/// RFC 1035 section 4.2.2: "The message is prefixed with a two byte length field which gives the message length,
/// excluding the two byte length field."
fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (&[high, low], rest) = input.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let message = rest.get(..len)?.to_vec();
    input.drain(..2 + len);
    Some(message)
}

/// The gateway's addresses.
fn addresses_of(config: &Config) -> impl Iterator<Item = IpCidr> {
    let ipv4 = config.ipv4.into_iter().flat_map(|plan| {
        let len = plan.subnet.prefix_len();
        [plan.gateway, plan.dns].map(|address| IpCidr::new(IpAddress::Ipv4(address), len))
    });
    let ipv6 = config.ipv6.into_iter().flat_map(|plan| {
        let len = plan.subnet.prefix_len();
        [plan.gateway, plan.dns, plan.link_local].map(|address| IpCidr::new(IpAddress::Ipv6(address), len))
    });
    ipv4.chain(ipv6)
}

/// Source and destination of an IP packet.
fn addresses_in(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(packet).ok()?;
            Some((packet.src_addr().into(), packet.dst_addr().into()))
        }
        6 => {
            let packet = Ipv6Packet::new_checked(packet).ok()?;
            Some((packet.src_addr().into(), packet.dst_addr().into()))
        }
        _ => None,
    }
}

fn time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
