// SPDX-License-Identifier: MIT OR Apache-2.0
//! UDP sockets to the nameservers: a few ports that queries share, and never for long.
//!
//! # How it works
//! Every question leaves with an id that no other one has on its socket, by a socket drawn from those of its server; a
//! new one is opened for it as long as there are fewer than [`MAX_IN_USE`]. So while questions are few each has a
//! port of its own, and under load they share. [`LIFETIME`] after the first of them was opened all sockets retire, as does
//! each after [`MAX_USES`] questions: nothing is sent by a retired socket, and it is closed with its last question. Where
//! servers keep silent and so many sockets wait, the oldest is closed for a new one. Nobody asks, no socket is open.
//!
//! # Why it is safe to share
//! Who forges a reply without seeing the question has to guess port and id (RFC 5452 section 7). The host draws each
//! port from all its ephemeral ones, and the id is drawn from all that are free on the socket, so neither tells
//! anything of the next. Several questions on one port do not help to guess: a forged reply has to carry the question that
//! its id stands for, and identical ones are asked only once ([`super::query`]).
//!
//! What sharing gives away is time. Ports can be found out by scanning (Man et al.: "DNS Cache Poisoning Attack
//! Reloaded", 2020), and then the id alone is left. So a port lives for a second rather than for as long as there is
//! work; who found one has found one of [`MAX_IN_USE`]; and sockets are connected: the host answers probes of anybody but
//! the server as if the port were closed, and tells errors about nobody else.
//!
//! # Bounds
//! For each server [`MAX_IN_USE`] sockets to send by, [`MAX_OPEN`] with the retired ones.
//!
//! # Sources
//! RFC 5452 sections 4, 5 and 9; RFC 6056 (port randomization).

use core::net::SocketAddr;

use smoltcp::wire::{DnsFlags, DnsPacket};
use wharf_switch::{Duration, Instant};

use super::message;
use crate::host::{FlowId, Host, HostError, Io, Outgoing, Owner, Sender, SocketId, Token};
use crate::keyed::{KeyedMap, KeyedState};
use crate::slots::Slots;

/// Sockets by which one server is asked.
pub(super) const MAX_IN_USE: usize = 32;
/// Sockets to one server, those included that only wait for late replies.
pub(super) const MAX_OPEN: usize = 96;
/// Questions that leave by one socket.
pub(super) const MAX_USES: u32 = 1024;
/// How long questions leave by one socket, at most.
pub(super) const LIFETIME: Duration = Duration::from_secs(1);
/// Hop limit of our queries, that of any host.
pub(super) const HOP_LIMIT: u8 = 64;

/// A question under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    socket: FlowId,
    id: u16,
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes of a response with the id that the question of this query has on this socket.
    Response { query: FlowId, server: SocketAddr, len: usize },
    /// Something that nobody waits for.
    Stray,
    /// An error waits on the socket.
    Error,
    /// Nothing, or nothing that anybody could wait for.
    Nothing,
}

#[derive(Debug)]
struct Port {
    socket: SocketId,
    server: SocketAddr,
    uses: u32,
    retired: bool,
    /// Which query each id stands for.
    waiting: KeyedMap<u16, FlowId>,
}

/// The sockets to one server.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// In the order of their opening.
    open: Vec<FlowId>,
    /// Those that did not retire.
    in_use: Vec<FlowId>,
}

/// The sockets to all of them.
#[derive(Debug)]
pub(super) struct SourcePorts {
    ports: Slots<Port>,
    servers: Vec<Server>,
    random: KeyedState,
    drawn: u64,
    /// When those in use retire.
    due: Instant,
}

impl SourcePorts {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self {
            ports: Slots::new(),
            servers: Vec::new(),
            random: KeyedState::new(seed, b"dns ids and ports"),
            drawn: 0,
            due: Instant::FAR,
        }
    }

    /// Puts the question `message` to `server`, under an id that it gets here.
    ///
    /// # Errors
    /// What the host said.
    pub(super) fn ask<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        (query, server): (FlowId, SocketAddr),
        message: &mut [u8],
    ) -> Result<Ticket, HostError> {
        let drawn = self.choose(now, host, server)?;
        match self.send(host, drawn, query, message) {
            // Perhaps an earlier question's error, of which the socket will tell; a new socket has this one's only.
            Err(_) if self.ports.get(drawn).is_some_and(|port| port.uses > 0) => {
                self.retire(host, drawn);
                let fresh = self.open(now, host, server)?;
                self.send(host, fresh, query, message)
            }
            result => result,
        }
    }

    /// Receives into `buffer` from a socket, unless nobody waits there.
    pub(super) fn receive<H: Host>(&self, host: &mut H, socket: FlowId, buffer: &mut [u8]) -> Received {
        let Some(port) = self.ports.get(socket).filter(|port| !port.waiting.is_empty()) else {
            return Received::Nothing;
        };
        let datagram = match host.recv_from(port.socket, buffer) {
            Io::Done(datagram) => datagram,
            Io::Blocked => return Received::Nothing,
            Io::Broken => return Received::Error,
        };
        // RFC 5452 section 9.1: a reply has to match the "remote address" and "query ID"; the socket is the local address
        // and port.
        let from = (datagram.from.ip(), datagram.from.port());
        if from != (port.server.ip(), port.server.port()) {
            return Received::Stray;
        }
        match buffer.get(..datagram.len).map(DnsPacket::new_checked) {
            Some(Ok(header)) if header.flags().contains(DnsFlags::RESPONSE) => {
                let query = port.waiting.get(&header.transaction_id());
                query.map_or(Received::Stray, |&query| Received::Response {
                    query,
                    server: port.server,
                    len: datagram.len,
                })
            }
            _ => Received::Stray,
        }
    }

    /// Takes the errors off a socket. If one says that the server does not hear us, returns it with the queries that wait in
    /// vain, and the socket has served.
    pub(super) fn take_unreachable<H: Host>(
        &mut self,
        host: &mut H,
        socket: FlowId,
    ) -> Option<(SocketAddr, Vec<FlowId>)> {
        let port = self.ports.get_mut(socket)?;
        let mut unreachable = false;
        while let Some(report) = host.icmp_report(port.socket) {
            unreachable |= report.destination.ip() == port.server.ip() && !report.is_too_big();
        }
        if !unreachable {
            return None;
        }
        let failed = (port.server, port.waiting.drain().map(|(_, query)| query).collect());
        self.retire(host, socket);
        Some(failed)
    }

    /// Nobody waits for the reply any more.
    pub(super) fn release<H: Host>(&mut self, host: &mut H, ticket: Ticket) {
        if let Some(port) = self.ports.get_mut(ticket.socket) {
            port.waiting.remove(&ticket.id);
            if port.retired && port.waiting.is_empty() {
                self.close(host, ticket.socket);
            }
        }
    }

    /// Retires the sockets when that is due.
    pub(super) fn poll<H: Host>(&mut self, now: Instant, host: &mut H) {
        if now < self.due {
            return;
        }
        self.due = Instant::FAR;
        while let Some(&socket) = self.servers.iter().find_map(|server| server.in_use.last()) {
            self.retire(host, socket);
        }
    }

    /// When [`SourcePorts::poll`] has something to do.
    pub(super) fn poll_at(&self) -> Instant {
        self.due
    }

    /// A socket to ask the server by.
    fn choose<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        server: SocketAddr,
    ) -> Result<FlowId, HostError> {
        let in_use = self.server(server).map_or(0, |server| server.in_use.len());
        if in_use >= MAX_IN_USE {
            return self.draw_port(server).ok_or(HostError::Exhausted);
        }
        // Out of descriptors, an old port is better than none.
        self.open(now, host, server).or_else(|error| self.draw_port(server).ok_or(error))
    }

    /// One of those in use.
    fn draw_port(&mut self, server: SocketAddr) -> Option<FlowId> {
        let draw = self.draw();
        let in_use = &self.server(server)?.in_use;
        let place = draw.checked_rem(in_use.len() as u64)?;
        in_use.get(usize::try_from(place).ok()?).copied()
    }

    fn open<H: Host>(&mut self, now: Instant, host: &mut H, server: SocketAddr) -> Result<FlowId, HostError> {
        if let Some(&oldest) = self
            .server(server)
            .filter(|server| server.open.len() >= MAX_OPEN)
            .and_then(|server| server.open.first())
        {
            self.close(host, oldest);
        }
        let token = Token { owner: Owner::Dns, flow: self.ports.next_id() };
        let socket = host.udp_connect(token, Sender::Gateway, server)?;
        let waiting = KeyedMap::with_hasher(self.random);
        let id = self.ports.insert(Port { socket, server, uses: 0, retired: false, waiting });
        match self.servers.iter_mut().find(|known| known.address == server) {
            Some(known) => {
                known.open.push(id);
                known.in_use.push(id);
            }
            None => self.servers.push(Server { address: server, open: vec![id], in_use: vec![id] }),
        }
        self.due = self.due.min(now + LIFETIME);
        Ok(id)
    }

    /// Sends by a socket. One that never sent anything is closed if it cannot.
    fn send<H: Host>(
        &mut self,
        host: &mut H,
        socket: FlowId,
        query: FlowId,
        message: &mut [u8],
    ) -> Result<Ticket, HostError> {
        let id = self.draw_free_id(socket);
        let port = self.ports.get_mut(socket).ok_or(HostError::Exhausted)?;
        message::set_id(message, id);
        let outgoing = Outgoing { to: port.server, from: None, hop_limit: HOP_LIMIT, dont_fragment: false };
        let error = match host.send_to(port.socket, outgoing, message) {
            // A full buffer loses the datagram, as the network may; the next attempt comes with its timer.
            Ok(Io::Done(()) | Io::Blocked) => {
                port.uses += 1;
                port.waiting.insert(id, query);
                if port.uses >= MAX_USES {
                    self.retire(host, socket);
                }
                return Ok(Ticket { socket, id });
            }
            Ok(Io::Broken) => HostError::Refused,
            Err(error) => error,
        };
        if port.uses == 0 {
            self.close(host, socket);
        }
        Err(error)
    }

    /// Nothing is sent by this socket any more.
    fn retire<H: Host>(&mut self, host: &mut H, socket: FlowId) {
        let Some(port) = self.ports.get_mut(socket) else { return };
        port.retired = true;
        if port.waiting.is_empty() {
            self.close(host, socket);
        } else if let Some(server) = self.servers.iter_mut().find(|server| server.address == port.server) {
            server.in_use.retain(|&id| id != socket);
        }
    }

    fn close<H: Host>(&mut self, host: &mut H, socket: FlowId) {
        let Some(port) = self.ports.remove(socket) else { return };
        host.close(port.socket);
        if let Some(server) = self.servers.iter_mut().find(|server| server.address == port.server) {
            server.open.retain(|&id| id != socket);
            server.in_use.retain(|&id| id != socket);
        }
        self.servers.retain(|server| !server.open.is_empty());
    }

    fn server(&self, address: SocketAddr) -> Option<&Server> {
        self.servers.iter().find(|server| server.address == address)
    }

    /// A number that nobody can tell from the others.
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash(&self.drawn.to_be_bytes())
    }

    /// An id for a question.
    pub(super) fn draw_id(&mut self) -> u16 {
        let [high, low, ..] = self.draw().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// One that no other question has on this socket. Few of the 65,536 are taken, so few draws do.
    fn draw_free_id(&mut self, socket: FlowId) -> u16 {
        loop {
            let id = self.draw_id();
            if self.ports.get(socket).is_none_or(|port| !port.waiting.contains_key(&id)) {
                return id;
            }
        }
    }
}
