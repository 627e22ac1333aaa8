// SPDX-License-Identifier: MIT OR Apache-2.0
//! The datagram relay: one host socket for each internal endpoint. UDP and echo are two kinds of it.
//!
//! # How it works
//! Mapping is endpoint-independent (RFC 4787 REQ-1): whatever a container sends from one port leaves by one socket,
//! and whatever arrives there is delivered to that port, whoever sent it (endpoint-independent filtering, REQ-8). A
//! container that reaches IPv4 through NAT64 and IPv6 from one port has one socket for each family.
//!
//! What a single socket does is in [`endpoint`].
//!
//! # Bounds
//! [`Protocol::MAX_MAPPINGS`] sockets, and a [`Protocol::SHARE`] of the host's; each ends when it was idle for
//! [`Protocol::timeout`]. In a full table, and where the host has no more sockets, one gives way to a new one. It is one
//! of the container that has the most ([`Shares`]): who sends from ever more ports loses mappings of its own, and a
//! container that is alone has them all.
//!
//! Of a container's mappings the first goes that was not used since it was last looked at (CLOCK): nearly the one that was
//! idle for longest, and all that a packet does for it is to set a flag. Each look but the last is owed to such a packet, so
//! that a new mapping costs constant time, amortised.
//!
//! # Sources
//! RFC 4787 (REQ-1, -6, -8, -11); Corbató: "A Paging Experiment with the Multics System" (1968), for CLOCK.

pub(super) mod endpoint;

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, IpProtocol};
use wharf_switch::{Duration, Frame, Instant};

use self::endpoint::{Endpoint, Run, View};
use super::flow::{FlowKey, FlowTable, Keyed};
use super::listing::{Direction, FlowProtocol, FlowView, Traffic, outside_of};
use super::outside;
use super::shares::Shares;
use crate::env::{Cx, Outbox};
use crate::holders::Holders;
use crate::host::{
    Datagram, Family, FlowId, Host, HostError, HostEvent, IcmpReport, Owner, Sender, SocketId, Token,
};
use crate::icmp_error::{self, Cause};
use crate::keyed::KeyedState;
use crate::recency::Recency;
use crate::wire::Packet;
use crate::wire::emit::Path;
use crate::{Config, DropReason};

/// What UDP and echo do each in its own way.
pub(super) trait Protocol {
    const OWNER: Owner;
    /// Most mappings of one worker.
    const MAX_MAPPINGS: usize;
    /// At most one of so many sockets of the host is a mapping's.
    const SHARE: usize;
    /// Makes the table's hash key its own.
    const PURPOSE: &'static [u8];
    /// Bytes behind the IP header that the host's socket keeps to itself.
    const HEADER_LEN: usize;
    /// How many datagrams may go to a container in one super-frame.
    const MOST_JOINED: usize;
    /// Why a packet is dropped for which the host allows no socket.
    const NOT_PERMITTED: DropReason;

    /// What a container's mapping is called in listings.
    fn name(container: IpAddr) -> FlowProtocol;

    /// How long an idle mapping lives.
    fn timeout(lifetime: Lifetime) -> Duration;

    fn open<H: Host>(
        host: &mut H,
        token: Token,
        sender: Sender,
        outside: Family,
    ) -> Result<SocketId, HostError>;

    /// The first bytes behind the IP header of the packet that `report` is about.
    fn quote(key: &Key, report: &IcmpReport) -> (IpProtocol, [u8; 8]);

    /// Writes the headers for the container around what the host received. It stands in `frame` already, at
    /// [`Path::payload_start`] and [`Protocol::HEADER_LEN`] further, and fits into a packet.
    fn emit(frame: &mut Frame, path: &Path, key: &Key, run: &Run) -> Result<(), DropReason>;
}

/// How long a mapping is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// All it ever carried were questions with one answer each.
    Brief,
    Lasting,
}

/// What a mapping is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The container's end. The identifier of an echo stands for its port.
    pub(super) internal: SocketAddr,
    pub(super) outside: Family,
}

/// A datagram of a container, read and on its way out.
pub(super) struct Outbound<'a> {
    /// The packet it came in.
    pub(super) packet: &'a Packet,
    pub(super) frame: &'a Frame,
    pub(super) internal_port: u16,
    /// Where it goes, after every translation.
    pub(super) to: SocketAddr,
    /// The host's address that it leaves from, if the host shall not choose.
    pub(super) from: Option<IpAddr>,
    pub(super) lifetime: Lifetime,
    /// What the host's socket is given.
    pub(super) data: &'a [u8],
}

/// One internal endpoint and its socket.
#[derive(Debug)]
struct Mapping<P> {
    endpoint: Endpoint<P>,
    /// The container that opened it.
    holder: FlowId,
    /// It was used since it was opened, or since it was last looked at because one had to give way.
    used: bool,
    lifetime: Lifetime,
    traffic: Traffic,
    /// Whom the container spoke to last, by the address it knows.
    remote: SocketAddr,
    readable: bool,
    marked: bool,
}

impl<P> Keyed for Mapping<P> {
    type Key = Key;

    fn key(&self) -> &Key {
        &self.endpoint.key
    }
}

/// Everybody outside is known by an address that names them wherever they are.
struct ByAddress<'a> {
    container: IpAddr,
    traffic: &'a mut Traffic,
}

impl<'a> ByAddress<'a> {
    fn of<P>(endpoint: &Endpoint<P>, traffic: &'a mut Traffic) -> Self {
        Self { container: endpoint.key.internal.ip(), traffic }
    }
}

impl View for ByAddress<'_> {
    fn sender(&mut self, config: &Config, _: Instant, datagram: &Datagram) -> Result<SocketAddr, DropReason> {
        self.addressee(config, datagram.from).ok_or(DropReason::SenderUnreachable)
    }

    fn note_delivered(&mut self, bytes: usize) {
        self.traffic.note_received(bytes);
    }

    fn addressee(&self, config: &Config, to: SocketAddr) -> Option<SocketAddr> {
        Some(SocketAddr::new(outside::as_seen_by(config, self.container, to.ip())?, to.port()))
    }
}

/// When mappings were last used, apart by lifetime, so that the first of each is the next to expire.
#[derive(Debug, Default)]
struct Ages {
    brief: Recency,
    lasting: Recency,
}

/// All mappings of one protocol and worker.
#[derive(Debug)]
pub(crate) struct Relay<P> {
    mappings: FlowTable<Mapping<P>>,
    ages: Ages,
    holders: Holders,
    shares: Shares<1>,
    marked: Vec<FlowId>,
    visiting: Vec<FlowId>,
    evicted: u64,
    /// Names the fragments of large datagrams.
    ident: u32,
}

impl Ages {
    /// When a mapping was last used.
    fn used_at(&self, id: FlowId) -> Option<Instant> {
        self.brief.used_at(id).or_else(|| self.lasting.used_at(id))
    }

    fn of(&mut self, lifetime: Lifetime) -> &mut Recency {
        match lifetime {
            Lifetime::Brief => &mut self.brief,
            Lifetime::Lasting => &mut self.lasting,
        }
    }

    fn remove(&mut self, id: FlowId) {
        self.brief.remove(id);
        self.lasting.remove(id);
    }
}

/// Where the host is asked to send what a container addressed to `packet.dst`. The container hears if it may not.
pub(super) fn resolve<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &Frame,
) -> Result<IpAddr, DropReason> {
    outside::resolve(&cx.env.config, packet.dst)
        .inspect_err(|_| icmp_error::answer(cx, packet, frame, Cause::Prohibited))
}

impl<P: Protocol> Relay<P> {
    pub(crate) fn new(config: &Config) -> Self {
        let hasher = KeyedState::new(&config.seed, P::PURPOSE);
        let limit = P::MAX_MAPPINGS.min(config.max_sockets / P::SHARE);
        Self {
            mappings: FlowTable::new(hasher, limit),
            ages: Ages::default(),
            holders: Holders::new(hasher, limit),
            shares: Shares::default(),
            marked: Vec::new(),
            visiting: Vec::new(),
            evicted: 0,
            ident: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Mappings that had to make room for others so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Sends a datagram by the socket of its internal endpoint, which is opened if need be.
    pub(super) fn send<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        outbound: &Outbound<'_>,
    ) -> Result<(), DropReason> {
        let internal = SocketAddr::new(outbound.packet.src, outbound.internal_port);
        let key = Key { internal, outside: Family::of(outbound.to.ip()) };
        let (id, used) = match self.mappings.find(&key) {
            Some(id) => (id, true),
            None => (self.open(cx, key, outbound)?, false),
        };
        let mapping = self.mappings.get_mut(id).ok_or(DropReason::HostExhausted)?;
        mapping.used |= used;
        mapping.endpoint.container_mac = outbound.packet.src_mac;
        if mapping.lifetime == Lifetime::Brief && outbound.lifetime == Lifetime::Lasting {
            self.ages.brief.remove(id);
            mapping.lifetime = Lifetime::Lasting;
        }
        self.ages.of(mapping.lifetime).touch(id, cx.now);
        mapping.remote = SocketAddr::new(outbound.packet.dst, outbound.to.port());
        let view = ByAddress::of(&mapping.endpoint, &mut mapping.traffic);
        mapping.endpoint.send(cx, outbound, &view)?;
        mapping.traffic.note_sent(outbound.data.len());
        Ok(())
    }

    /// Every mapping, as it is `now`.
    pub(crate) fn views<'a, H: Host>(
        &'a self,
        now: Instant,
        config: &'a Config,
        host: &'a H,
    ) -> impl Iterator<Item = FlowView> + 'a {
        self.mappings.iter().map(move |(id, mapping)| {
            let ends = FlowKey { container: mapping.endpoint.key.internal, remote: mapping.remote };
            let kind = (P::name(ends.container.ip()), Direction::Outbound);
            let external = host.ends(mapping.endpoint.socket).local;
            let used_at = self.ages.used_at(id).unwrap_or(now);
            mapping.traffic.view(now, used_at, kind, ends, (external, outside_of(config, ends.remote)))
        })
    }

    fn open<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: Key,
        outbound: &Outbound<'_>,
    ) -> Result<FlowId, DropReason> {
        let container = outbound.packet.src_mac;
        if self.mappings.is_full() {
            self.make_room(cx, container);
        }
        let mut socket = self.open_socket(cx, &key);
        if matches!(socket, Err(HostError::Exhausted)) && self.make_room(cx, container) {
            socket = self.open_socket(cx, &key);
        }
        let socket = socket.map_err(|error| {
            icmp_error::answer(cx, outbound.packet, outbound.frame, Cause::of(error));
            match error {
                HostError::Exhausted => DropReason::HostExhausted,
                HostError::SourceMissing => DropReason::OutboundAddressMissing,
                _ => P::NOT_PERMITTED,
            }
        })?;
        let holder = self.holders.add(container).ok_or(DropReason::HostExhausted)?;
        let mapping = Mapping {
            endpoint: Endpoint::new(key, socket, container),
            holder,
            used: false,
            lifetime: outbound.lifetime,
            traffic: Traffic::new(cx.now),
            remote: SocketAddr::new(outbound.packet.dst, outbound.to.port()),
            readable: false,
            marked: false,
        };
        let id = self.mappings.insert(mapping).ok_or(DropReason::HostExhausted)?;
        self.shares.touch(holder, id, 0);
        Ok(id)
    }

    /// Opens the socket of the next mapping.
    fn open_socket<H: Host, O>(&self, cx: &mut Cx<'_, H, O>, key: &Key) -> Result<SocketId, HostError> {
        let flow = self.mappings.next_id().ok_or(HostError::Exhausted)?;
        let sender = Sender::Container(key.internal.ip());
        P::open(cx.host, Token { owner: P::OWNER, flow }, sender, key.outside)
    }

    /// Ends the mapping that gives way to a new one of `container`. Returns whether there was one.
    fn make_room<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, container: EthernetAddress) -> bool {
        let Some(id) = self.first_to_go(container) else { return false };
        self.evicted += 1;
        self.end(cx, id);
        true
    }

    /// Looks for a mapping that was not used since it was last looked at. Those that were go behind the others.
    fn first_to_go(&mut self, container: EthernetAddress) -> Option<FlowId> {
        let newcomer = self.holders.find(container);
        loop {
            let id = self.shares.first_to_go(newcomer)?;
            let mapping = self.mappings.get_mut(id)?;
            if !core::mem::take(&mut mapping.used) {
                return Some(id);
            }
            self.shares.touch(mapping.holder, id, 0);
        }
    }

    fn end<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId) {
        self.ages.remove(id);
        if let Some(mapping) = self.mappings.remove(id) {
            self.shares.remove(mapping.holder, id, 0);
            self.holders.remove(mapping.holder);
            cx.host.close(mapping.endpoint.socket);
        }
    }

    /// Ends the mappings of a container that has left: `is_its` knows its MAC address and its own addresses.
    pub(crate) fn end_those<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        is_its: impl Fn(EthernetAddress, IpAddr) -> bool,
    ) {
        let is_its =
            |mapping: &Mapping<P>| is_its(mapping.endpoint.container_mac, mapping.endpoint.key.internal.ip());
        self.mappings.ids(is_its).into_iter().for_each(|id| self.end(cx, id));
    }

    /// Ends what was idle for too long.
    pub(crate) fn expire<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>) {
        for lifetime in [Lifetime::Brief, Lifetime::Lasting] {
            while let Some((id, used_at)) = self.ages.of(lifetime).oldest() {
                if used_at + P::timeout(lifetime) > cx.now {
                    break;
                }
                self.end(cx, id);
            }
        }
    }

    /// When the next mapping expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let brief = self.ages.brief.oldest().map(|(_, used_at)| used_at + P::timeout(Lifetime::Brief));
        let lasting = self.ages.lasting.oldest().map(|(_, used_at)| used_at + P::timeout(Lifetime::Lasting));
        brief.into_iter().chain(lasting).min()
    }

    /// A socket of a mapping became readable, or an error waits on it.
    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        let id = event.token.flow;
        let Some(mapping) = self.mappings.get_mut(id) else { return };
        if event.error {
            mapping.endpoint.report_errors(cx, &ByAddress::of(&mapping.endpoint, &mut mapping.traffic));
        }
        mapping.readable |= event.readable || event.error;
        if mapping.readable && !mapping.marked {
            mapping.marked = true;
            self.marked.push(id);
        }
    }

    /// Delivers what has arrived, a bounded amount for each mapping.
    pub(crate) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        let mut visiting = core::mem::take(&mut self.visiting);
        core::mem::swap(&mut visiting, &mut self.marked);
        for id in visiting.drain(..) {
            let Some(mapping) = self.mappings.get_mut(id) else { continue };
            let mut view = ByAddress::of(&mapping.endpoint, &mut mapping.traffic);
            let delivered = mapping.endpoint.deliver(cx, &mut self.ident, &mut view);
            if delivered.any {
                mapping.used = true;
                self.ages.of(mapping.lifetime).touch(id, cx.now);
            }
            mapping.readable = delivered.more;
            mapping.marked = mapping.readable;
            if mapping.marked {
                self.marked.push(id);
            }
        }
        self.visiting = visiting;
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.marked.is_empty()
    }
}
