// SPDX-License-Identifier: MIT OR Apache-2.0
//! The datagram relay: one host socket for each internal endpoint. UDP and echo are two kinds of it.
//!
//! # How it works
//! Mapping is endpoint-independent (RFC 4787 REQ-1): whatever a container sends from one port leaves by one socket,
//! and whatever arrives there is delivered to that port, whoever sent it (endpoint-independent filtering, REQ-8). A
//! container that reaches IPv4 through NAT64 and IPv6 from one port has one socket for each family.
//!
//! An ICMP error that waits on a socket belongs to an *earlier* datagram: before a datagram is given up, the error
//! queue is emptied, every entry is reported to the container by its own destination, and the datagram is sent again.
//!
//! A datagram that may not be fragmented leaves the host so, and is answered with the path's MTU where the host knows
//! it to be too small. What a router further on finds out comes by the error queue. Larger ones than the usual link takes
//! are the exception: see [`USUAL_MTU`].
//!
//! # Bounds
//! [`Protocol::MAX_MAPPINGS`] sockets, and a [`Protocol::SHARE`] of the host's; each ends when it was idle for [`Protocol::timeout`]. In a full table the one
//! that was idle for longest gives way to a new one. A visit delivers at most [`DATAGRAMS_PER_VISIT`].
//!
//! # Sources
//! RFC 4787 (REQ-1, -6, -8, -11), RFC 5508 (REQ-8), RFC 1191 section 4, RFC 7915 section 5.1 (don't fragment).

use core::marker::PhantomData;
use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, IpProtocol};
use wharf_switch::frame::MAX_FRAME_LEN;
use wharf_switch::{Duration, Frame, Instant};

use super::flow::FlowTable;
use super::icmp_error::{self, Cause};
use super::recency::Recency;
use super::{fragments, outside};
use crate::env::{Cx, Outbox};
use crate::host::{
    Datagram, Family, FlowId, Host, HostError, HostEvent, IcmpReport, Io, Outgoing, Owner, SocketId, Token,
};
use crate::keyed::KeyedState;
use crate::wire::Packet;
use crate::wire::emit::Path;
use crate::{Config, DropReason};

/// Datagrams taken from one socket in one visit.
const DATAGRAMS_PER_VISIT: usize = 64;
/// A datagram may meet the errors of several earlier ones.
const SEND_ATTEMPTS: usize = 8;
/// RFC 7915 section 5.1: up to this length a translated packet may be fragmented, because IPv6 promises its sender
/// 1,280 bytes and IPv4 does not.
const MAX_FRAGMENTABLE_V4: usize = 1260;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
/// Linux marks "don't fragment" whatever fits its link, and a container's link is often wider than any path outside, for
/// speed. A longer packet is treated as if the link were the usual one: it would have come in fragments.
const USUAL_MTU: usize = 1500;

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
    /// Why a packet is dropped for which the host allows no socket.
    const NOT_PERMITTED: DropReason;

    /// How long an idle mapping lives.
    fn timeout(lifetime: Lifetime) -> Duration;

    fn open<H: Host>(host: &mut H, token: Token, outside: Family) -> Result<SocketId, HostError>;

    /// The first bytes behind the IP header of the packet that `report` is about.
    fn quote(key: &Key, report: &IcmpReport) -> (IpProtocol, [u8; 8]);

    /// Writes the headers for the container around what the host received. It stands in `frame` already, at
    /// [`Path::payload_start`] and [`Protocol::HEADER_LEN`] further, and fits into a packet.
    fn emit(frame: &mut Frame, path: &Path, key: &Key, datagram: &Datagram) -> Result<(), DropReason>;
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
    pub(super) lifetime: Lifetime,
    /// What the host's socket is given.
    pub(super) data: &'a [u8],
}

/// One internal endpoint and its socket.
#[derive(Debug)]
struct Mapping<P> {
    key: Key,
    socket: SocketId,
    container_mac: EthernetAddress,
    lifetime: Lifetime,
    readable: bool,
    marked: bool,
    protocol: PhantomData<P>,
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
    mappings: FlowTable<Key, Mapping<P>>,
    ages: Ages,
    marked: Vec<FlowId>,
    visiting: Vec<FlowId>,
    evicted: u64,
    /// Names the fragments of large datagrams.
    ident: u32,
}

impl Ages {
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

    fn oldest(&self) -> Option<FlowId> {
        let both = [self.brief.oldest(), self.lasting.oldest()];
        both.into_iter().flatten().min_by_key(|&(_, used_at)| used_at).map(|(id, _)| id)
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
        Self {
            mappings: FlowTable::new(
                KeyedState::new(&config.seed, P::PURPOSE),
                P::MAX_MAPPINGS.min(config.max_sockets / P::SHARE),
            ),
            ages: Ages::default(),
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
        let id = match self.mappings.find(&key) {
            Some(id) => id,
            None => self.open(cx, key, outbound)?,
        };
        let mapping = self.mappings.get_mut(id).ok_or(DropReason::HostExhausted)?;
        mapping.container_mac = outbound.packet.src_mac;
        if mapping.lifetime == Lifetime::Brief && outbound.lifetime == Lifetime::Lasting {
            self.ages.brief.remove(id);
            mapping.lifetime = Lifetime::Lasting;
        }
        self.ages.of(mapping.lifetime).touch(id, cx.now);
        mapping.send(cx, outbound)
    }

    fn open<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: Key,
        outbound: &Outbound<'_>,
    ) -> Result<FlowId, DropReason> {
        if self.mappings.is_full() {
            self.evict(cx);
        }
        let mut socket = self.open_socket(cx, key.outside);
        if matches!(socket, Err(HostError::Exhausted)) && self.evict(cx) {
            socket = self.open_socket(cx, key.outside);
        }
        let socket = socket.map_err(|error| {
            icmp_error::answer(cx, outbound.packet, outbound.frame, Cause::of(error));
            if error == HostError::Exhausted { DropReason::HostExhausted } else { P::NOT_PERMITTED }
        })?;
        let mapping = Mapping {
            key,
            socket,
            container_mac: outbound.packet.src_mac,
            lifetime: outbound.lifetime,
            readable: false,
            marked: false,
            protocol: PhantomData,
        };
        self.mappings.insert(key, mapping).ok_or(DropReason::HostExhausted)
    }

    /// Opens the socket of the next mapping.
    fn open_socket<H: Host, O>(&self, cx: &mut Cx<'_, H, O>, outside: Family) -> Result<SocketId, HostError> {
        let flow = self.mappings.next_id().ok_or(HostError::Exhausted)?;
        P::open(cx.host, Token { owner: P::OWNER, flow }, outside)
    }

    /// Ends the mapping that was idle for longest. Returns whether there was one.
    fn evict<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>) -> bool {
        let Some(id) = self.ages.oldest() else { return false };
        self.evicted += 1;
        self.end(cx, id);
        true
    }

    fn end<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId) {
        self.ages.remove(id);
        let Some(key) = self.mappings.get(id).map(|mapping| mapping.key) else { return };
        if let Some(mapping) = self.mappings.remove(id, &key) {
            cx.host.close(mapping.socket);
        }
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
            mapping.report_errors(cx);
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
            if mapping.deliver(cx, &mut self.ident) {
                self.ages.of(mapping.lifetime).touch(id, cx.now);
            }
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

impl Outbound<'_> {
    /// Whether the datagram must reach its destination in one piece.
    fn dont_fragment(&self) -> bool {
        let outside_len =
            self.packet.payload_len() + if self.to.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
        let is_translated = self.packet.src.is_ipv6() && self.to.is_ipv4();
        self.packet.dont_fragment
            && outside_len <= USUAL_MTU
            && (!is_translated || outside_len > MAX_FRAGMENTABLE_V4)
    }
}

impl<P: Protocol> Mapping<P> {
    /// Sends one datagram; errors of earlier ones are reported on the way.
    fn send<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        outbound: &Outbound<'_>,
    ) -> Result<(), DropReason> {
        let Outbound { packet, frame, to, .. } = *outbound;
        let hop_limit = packet.hop_limit.saturating_sub(1);
        let outgoing = Outgoing { to, hop_limit, dont_fragment: outbound.dont_fragment() };
        let mut error = HostError::Refused;
        for _ in 0..SEND_ATTEMPTS {
            match cx.host.send_to(self.socket, outgoing, outbound.data) {
                Ok(Io::Done(())) => return Ok(()),
                // A full socket buffer drops, as any queue does; who sends datagrams knows.
                Ok(Io::Blocked | Io::Broken) | Err(HostError::Exhausted) => {
                    return Err(DropReason::HostExhausted);
                }
                Err(refusal) => error = refusal,
            }
            // A refusal is always an earlier datagram's, even when it was reported already.
            let mut is_of_earlier = error == HostError::Refused;
            while let Some(report) = cx.host.icmp_report(self.socket) {
                if report.offender.is_none() && report.is_too_big() {
                    icmp_error::answer(cx, packet, frame, Cause::Report(report));
                    return Err(DropReason::PathMtuExceeded);
                }
                is_of_earlier = true;
                self.report(cx, report);
            }
            if !is_of_earlier {
                break;
            }
        }
        icmp_error::answer(cx, packet, frame, Cause::of(error));
        Err(DropReason::HostRefused)
    }

    /// Tells the container of every ICMP error that waits.
    fn report_errors<H: Host, O: Outbox>(&self, cx: &mut Cx<'_, H, O>) {
        while let Some(report) = cx.host.icmp_report(self.socket) {
            self.report(cx, report);
        }
    }

    fn report<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, report: IcmpReport) {
        let container = self.key.internal.ip();
        let destination = report.destination.ip();
        let Some(remote) = outside::as_seen_by(&cx.env.config, container, destination) else { return };
        let (protocol, transport) = P::quote(&self.key, &report);
        let quoted = icmp_error::Quoted {
            container,
            container_mac: self.container_mac,
            remote,
            protocol,
            hop_limit: 1,
            transport: &transport,
        };
        icmp_error::report(cx, &quoted, Cause::Report(report));
    }

    /// Moves datagrams from the socket to the container. Returns whether there was one for it.
    fn deliver<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, ident: &mut u32) -> bool {
        let mut delivered = false;
        let mut frame = cx.env.pool.large();
        let start = self.path(cx, self.key.internal.ip()).payload_start() + P::HEADER_LEN;
        for _ in 0..DATAGRAMS_PER_VISIT {
            frame.clear();
            frame.set_len(MAX_FRAME_LEN);
            let room = frame.bytes_mut().get_mut(start..).unwrap_or_default();
            match cx.host.recv_from(self.socket, room) {
                Io::Done(datagram) => match self.emit(cx, &mut frame, datagram, ident) {
                    Ok(()) => delivered = true,
                    Err(reason) => cx.discard(reason),
                },
                // An error comes before the datagrams that wait, and need not be in the queue.
                Io::Broken => {
                    self.report_errors(cx);
                }
                Io::Blocked => {
                    self.readable = false;
                    break;
                }
            }
        }
        delivered
    }

    /// Sends to the container what the host received into `frame`.
    fn emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        mut datagram: Datagram,
        ident: &mut u32,
    ) -> Result<(), DropReason> {
        let from = outside::as_seen_by(&cx.env.config, self.key.internal.ip(), datagram.from.ip())
            .ok_or(DropReason::SenderUnreachable)?;
        let path = self.path(cx, from);
        if P::HEADER_LEN + datagram.len > path.max_payload() {
            return Err(DropReason::AnswerTooLarge);
        }
        datagram.hop_limit = datagram.hop_limit.saturating_sub(1).max(1);
        P::emit(frame, &path, &self.key, &datagram)?;
        *ident = ident.wrapping_add(1);
        fragments::send(cx, frame, &path, *ident)
    }

    /// The way to the container from somebody it knows as `src`.
    fn path<H, O>(&self, cx: &Cx<'_, H, O>, src: IpAddr) -> Path {
        let (src_mac, dst_mac) = (cx.env.config.mac, self.container_mac);
        Path { src_mac, dst_mac, src, dst: self.key.internal.ip() }
    }
}
