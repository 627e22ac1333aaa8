// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published UDP ports: what comes to a socket of the host reaches a container's port, and what that port sends leaves by
//! the socket.
//!
//! # How it works
//! The mapping is endpoint-independent (RFC 4787 REQ-1), like any of the [datagram relay](crate::transit::datagram), but
//! its external port is the published one, and it never ends by itself. A container's datagram is an answer to one of the
//! [`clients`], or else goes where it says; a port that is published more than once speaks to strangers
//! through the first of its sockets that is not on the host's loopback.
//!
//! Datagrams for a container that the link has not found yet wait in the host's socket. That a container's port is closed
//! cannot be passed on: no ordinary socket sends ICMP errors.
//!
//! # Bounds
//! As many datagrams for each visit as from any mapping's socket. The host's socket bounds what waits.

use core::net::SocketAddr;

use smoltcp::wire::EthernetAddress;
use wharf_switch::Instant;

use super::clients::{self, Client, Clients};
use super::visits::{Entry, State, Visits};
use super::{PublishedPort, seen_as};
use crate::env::{Cx, Outbox};
use crate::host::{Datagram, FlowId, Host, HostError, HostEvent, Owner, SocketId, Token};
use crate::keyed::{KeyedMap, KeyedState};
use crate::link::{Link, Located};
use crate::timers::Timers;
use crate::transit::datagram::endpoint::{Endpoint, View};
use crate::transit::datagram::{Key, Outbound};
use crate::transit::flow::FlowKey;
use crate::transit::listing::FlowView;
use crate::transit::udp::Udp;
use crate::{Config, DropReason};

/// The UDP ports of one worker.
#[derive(Debug)]
pub(crate) struct Ports {
    sockets: Visits<Endpoint<Udp>>,
    /// The sockets by which a container's port may speak to strangers, the first of which it does.
    by_key: KeyedMap<Key, Vec<FlowId>>,
    clients: Clients,
    /// Names the fragments of large datagrams.
    ident: u32,
}

impl Ports {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            sockets: Visits::new(Owner::Port),
            by_key: KeyedMap::with_hasher(KeyedState::new(&config.seed, b"published udp ports")),
            clients: Clients::new(config),
            ident: 0,
        }
    }

    pub(super) fn publish<H: Host>(
        &mut self,
        host: &mut H,
        port: PublishedPort,
        listener: H::Listener,
    ) -> Result<Token, HostError> {
        let token = self.sockets.next_token();
        let socket = host.udp_listen(token, listener)?;
        let key = Key { internal: port.target, outside: port.outside };
        // Looked up before anything is sent there.
        let id = self.sockets.add(Endpoint::new(key, socket, EthernetAddress::default()), port.target);
        // What the container says unasked leaves from where everybody is reached.
        if !port.is_local {
            self.by_key.entry(key).or_default().push(id);
        }
        Ok(token)
    }

    pub(super) fn remove(&mut self, timers: &mut Timers, id: FlowId) -> Option<SocketId> {
        let removed = self.sockets.remove(timers, id)?;
        self.clients.forget_port(id);
        if let Some(speakers) = self.by_key.get_mut(&removed.key) {
            speakers.retain(|&speaker| speaker != id);
            if speakers.is_empty() {
                self.by_key.remove(&removed.key);
            }
        }
        Some(removed.socket)
    }

    /// Whether the container knows one of the clients by the remote end of `ends`.
    pub(in crate::transit) fn is_client(&self, ends: &FlowKey) -> bool {
        self.clients.find(ends).is_some()
    }

    /// Where an answer of a container's goes, and by which socket.
    pub(in crate::transit) fn answer(&mut self, now: Instant, ends: &FlowKey) -> Option<Way> {
        if self.sockets.is_empty() { None } else { self.clients.answer(now, ends).map(Way::to) }
    }

    /// By which socket, if any, what a container's port sends to `to` leaves, which it calls the remote end of `ends`.
    pub(in crate::transit) fn begin<H, O>(
        &mut self,
        cx: &Cx<'_, H, O>,
        key: &Key,
        ends: FlowKey,
        to: SocketAddr,
    ) -> Option<Way> {
        let &port = self.by_key.get(key)?.first()?;
        let client = Client { port, from: to, to: None };
        // Else who answers would be taken for somebody else: one behind NAT64 for a client of the other family.
        if seen_as(&cx.env.config, to.ip(), ends.container.ip()) != ends.remote.ip() {
            return self.clients.expect(&cx.env.config, cx.now, client, ends).map(Way::to);
        }
        Some(Way { client, known: None })
    }

    /// Sends a container's datagram by the socket of a published port.
    pub(in crate::transit) fn send<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        way: Way,
        outbound: &Outbound<'_>,
    ) -> Result<(), DropReason> {
        let port = way.client.port;
        let entry = self.sockets.get_mut(port).ok_or(DropReason::HostExhausted)?;
        entry.socket.container_mac = outbound.packet.src_mac;
        entry.socket.send(cx, outbound, &Acquaintance::new(&mut self.clients, port, entry.target))?;
        if let Some(traffic) = way.known.and_then(|id| self.clients.traffic_mut(id)) {
            traffic.note_sent(outbound.data.len());
        }
        Ok(())
    }

    /// Every client, as it is `now`.
    pub(in crate::transit) fn views<'a, H: Host>(
        &'a self,
        now: Instant,
        host: &'a H,
    ) -> impl Iterator<Item = FlowView> + 'a {
        self.clients.views(now, |port| host.ends(self.sockets.get(port)?.socket.socket).local)
    }

    pub(super) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        let id = event.token.flow;
        if event.error
            && let Some(entry) = self.sockets.get(id)
        {
            entry.socket.report_errors(cx, &Acquaintance::new(&mut self.clients, id, entry.target));
        }
        self.sockets.handle_host(id);
    }

    /// Delivers what has come, a bounded amount for each port.
    pub(in crate::transit) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, link: &mut Link) {
        let Self { sockets, clients, ident, .. } = self;
        sockets.make(cx, |cx, id, entry| entry.deliver(cx, link, id, clients, ident));
    }

    /// Forgets clients that were silent for too long.
    pub(in crate::transit) fn expire(&mut self, now: Instant) {
        self.clients.expire(now);
    }

    /// When [`Ports::expire`] has something to do.
    pub(in crate::transit) fn next_deadline(&self) -> Option<Instant> {
        self.clients.next_deadline()
    }

    pub(super) fn handle_timer<H, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, at: Instant) {
        self.sockets.handle_timer(cx, id, at);
    }

    pub(super) fn awaits(&self, id: FlowId, at: Instant) -> bool {
        self.sockets.awaits(id, at)
    }

    pub(super) fn handle_neighbors(&mut self) {
        self.sockets.handle_neighbors();
    }

    pub(super) fn has_more(&self) -> bool {
        self.sockets.has_more()
    }
}

impl Entry<Endpoint<Udp>> {
    /// Gives the port its share of the turn. Returns what it waits for then.
    fn deliver<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        id: FlowId,
        clients: &mut Clients,
        ident: &mut u32,
    ) -> State {
        let delivered = match link.locate(cx, self.target.ip()) {
            Located::Asked => return State::Unresolved,
            Located::Nowhere => self.socket.deliver(cx, ident, &mut Nobody),
            Located::At(mac) => {
                self.socket.container_mac = mac;
                self.socket.deliver(cx, ident, &mut Acquaintance::new(clients, id, self.target))
            }
        };
        if delivered.more { State::Ready } else { State::Idle }
    }
}

/// By which socket a container's datagram leaves, and where to.
#[derive(Clone, Copy, Debug)]
pub(in crate::transit) struct Way {
    pub(in crate::transit) client: Client,
    /// The client among those that are known.
    known: Option<FlowId>,
}

impl Way {
    fn to(entry: clients::Entry) -> Self {
        Self { client: entry.client, known: Some(entry.id) }
    }
}

/// How the container of a published port knows its clients.
struct Acquaintance<'a> {
    clients: &'a mut Clients,
    port: FlowId,
    container: SocketAddr,
    /// Who was named last.
    named: Option<FlowId>,
}

impl<'a> Acquaintance<'a> {
    fn new(clients: &'a mut Clients, port: FlowId, container: SocketAddr) -> Self {
        Self { clients, port, container, named: None }
    }

    /// The ends of a client whose port nobody else has.
    fn ends(&self, config: &Config, from: SocketAddr) -> FlowKey {
        let seen = seen_as(config, from.ip(), self.container.ip());
        FlowKey { container: self.container, remote: SocketAddr::new(seen, from.port()) }
    }
}

impl View for Acquaintance<'_> {
    fn sender(
        &mut self,
        config: &Config,
        now: Instant,
        datagram: &Datagram,
    ) -> Result<SocketAddr, DropReason> {
        let client = Client { port: self.port, from: datagram.from, to: datagram.to };
        let ends = self.ends(config, datagram.from);
        let entry = self.clients.seen(config, now, client, ends).ok_or(DropReason::SenderUnreachable)?;
        self.named = Some(entry.id);
        Ok(entry.seen)
    }

    fn note_delivered(&mut self, bytes: usize) {
        if let Some(traffic) = self.named.and_then(|id| self.clients.traffic_mut(id)) {
            traffic.note_received(bytes);
        }
    }

    /// A client that got another port is not looked for: an error is a courtesy.
    fn addressee(&self, config: &Config, to: SocketAddr) -> Option<SocketAddr> {
        let begun = Client { port: self.port, from: to, to: None };
        let ends = self.ends(config, to);
        let is_itself = || match self.clients.find(&ends) {
            Some(client) => client.from == to,
            None => ends.remote == to,
        };
        self.clients.expected(&begun).or_else(|| is_itself().then_some(ends.remote))
    }
}

/// Nobody is there who could know anybody.
struct Nobody;

impl View for Nobody {
    fn sender(&mut self, _: &Config, _: Instant, _: &Datagram) -> Result<SocketAddr, DropReason> {
        Err(DropReason::ContainerNotFound)
    }

    fn note_delivered(&mut self, _: usize) {}

    fn addressee(&self, _: &Config, _: SocketAddr) -> Option<SocketAddr> {
        None
    }
}
