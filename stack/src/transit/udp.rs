// SPDX-License-Identifier: MIT OR Apache-2.0
//! The UDP relay: one host socket for each internal endpoint.
//!
//! # How it works
//! Mapping is endpoint-independent (RFC 4787 REQ-1): whatever a container sends from one port leaves by one socket,
//! and whatever arrives there is delivered to that port, whoever sent it (endpoint-independent filtering, REQ-8). A
//! container that reaches IPv4 through NAT64 and IPv6 from one port has one socket for each family.
//!
//! An ICMP error that waits on a socket belongs to an *earlier* datagram: before a datagram is given up, the error
//! queue is emptied, every entry is reported to the container by its own destination, and the datagram is sent again.
//!
//! # Bounds
//! [`MAX_MAPPINGS`] sockets; each ends after [`TIMEOUT`] without traffic, or after [`TIMEOUT_QUERY`] when all it ever
//! spoke to was port 53. A full table takes no new ones until then.
//!
//! # Sources
//! RFC 4787 (REQ-1, -5, -6, -8, -11), RFC 768, RFC 8200 section 8.1.

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, IpProtocol, UdpPacket};
use wharf_switch::frame::MAX_FRAME_LEN;
use wharf_switch::{Duration, Frame, Instant};

use super::flow::FlowTable;
use super::fragments;
use super::icmp_error::{self, Cause};
use super::{nat64, outside};
use crate::env::{Cx, Env, Outbox};
use crate::host::{Family, FlowId, Host, HostError, HostEvent, IcmpReport, Io, Owner, SocketId, Token};
use crate::keyed::KeyedState;
use crate::timers::Alarm;
use crate::wire::Packet;
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason};

const MAX_MAPPINGS: usize = 1 << 14;
/// RFC 4787 REQ-5: a mapping timer of 5 minutes is recommended.
const TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 4787 REQ-5 (a) lets well-known ports expire sooner.
const TIMEOUT_QUERY: Duration = Duration::from_secs(30);
/// Datagrams taken from one socket in one visit.
const DATAGRAMS_PER_VISIT: usize = 64;

/// What a mapping is found by: the container's endpoint and the family outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    internal: SocketAddr,
    outside: Family,
}

/// One internal endpoint and its socket.
#[derive(Debug)]
struct Mapping {
    key: Key,
    socket: SocketId,
    container_mac: EthernetAddress,
    /// When a datagram last passed, either way.
    used_at: Instant,
    /// Every datagram so far went to port 53.
    only_queries: bool,
    readable: bool,
    marked: bool,
    alarm: Alarm,
}

/// All UDP mappings of one worker.
#[derive(Debug)]
pub(crate) struct Relay {
    mappings: FlowTable<Key, Mapping>,
    marked: Vec<FlowId>,
    visiting: Vec<FlowId>,
    /// Names the fragments of large datagrams.
    ident: u32,
}

impl Relay {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mappings: FlowTable::new(KeyedState::new(&config.seed, b"udp mappings"), MAX_MAPPINGS),
            marked: Vec::new(),
            visiting: Vec::new(),
            ident: 0,
        }
    }

    /// A datagram from a container to the outside.
    pub(crate) fn handle_datagram<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::UdpChecksumWrong);
        }
        let datagram = UdpPacket::new_checked(packet.payload(frame)).map_err(|_| DropReason::UdpMalformed)?;
        if datagram.src_port() == 0 || datagram.dst_port() == 0 {
            return Err(DropReason::UdpMalformed);
        }
        let address = outside::resolve(&cx.env.config, packet.dst).inspect_err(|_| {
            icmp_error::answer(cx, packet, frame, Cause::Prohibited);
        })?;
        let to = SocketAddr::new(address, datagram.dst_port());
        let key =
            Key { internal: SocketAddr::new(packet.src, datagram.src_port()), outside: Family::of(address) };
        let id = match self.mappings.find(&key) {
            Some(id) => id,
            None => self.open(cx, key, packet)?,
        };
        let Some(mapping) = self.mappings.get_mut(id) else { return Err(DropReason::UdpTableFull) };
        mapping.container_mac = packet.src_mac;
        mapping.used_at = cx.now;
        mapping.only_queries &= to.port() == 53;
        let sent = mapping.send(cx, to, packet.hop_limit - 1, datagram.payload());
        if let Err(DropReason::HostRefused) = sent {
            icmp_error::answer(cx, packet, frame, Cause::HostUnreachable);
        }
        sent
    }

    fn open<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: Key,
        packet: &Packet,
    ) -> Result<FlowId, DropReason> {
        let id = self.mappings.next_id().ok_or(DropReason::UdpTableFull)?;
        let token = Token { owner: Owner::Udp, flow: id };
        let socket = cx.host.udp_open(token, key.outside).map_err(|_| DropReason::HostExhausted)?;
        let mut mapping = Mapping {
            key,
            socket,
            container_mac: packet.src_mac,
            used_at: cx.now,
            only_queries: true,
            readable: false,
            marked: false,
            alarm: Alarm::default(),
        };
        cx.env.timers.set(&mut mapping.alarm, token, cx.now + TIMEOUT_QUERY);
        self.mappings.insert(key, mapping).ok_or(DropReason::UdpTableFull)
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
            mapping.marked = false;
            mapping.deliver(cx, &mut self.ident);
            if mapping.readable {
                mapping.marked = true;
                self.marked.push(id);
            }
        }
        self.visiting = visiting;
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.marked.is_empty()
    }

    pub(crate) fn handle_timer<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, at: Instant) {
        let Some(mapping) = self.mappings.get_mut(id) else { return };
        if !mapping.alarm.rings(at) {
            return;
        }
        let timeout = if mapping.only_queries { TIMEOUT_QUERY } else { TIMEOUT };
        let ends_at = mapping.used_at + timeout;
        if ends_at > cx.now {
            cx.env.timers.set(&mut mapping.alarm, Token { owner: Owner::Udp, flow: id }, ends_at);
            return;
        }
        let (key, socket) = (mapping.key, mapping.socket);
        self.mappings.remove(id, &key);
        cx.host.close(socket);
    }
}

/// The address under which a container knows somebody outside; `None` when it could not have been reached from there.
pub(crate) fn as_seen_by(config: &Config, container: IpAddr, outside: IpAddr) -> Option<IpAddr> {
    let seen = match (container, outside) {
        (IpAddr::V4(_), IpAddr::V4(address)) if address.is_loopback() => config.ipv4?.gateway.into(),
        (IpAddr::V6(_), IpAddr::V6(address)) if address.is_loopback() => config.ipv6?.gateway.into(),
        (IpAddr::V6(_), IpAddr::V4(address)) => nat64::embed(config.nat64?, address).into(),
        (IpAddr::V4(_), IpAddr::V6(_)) => return None,
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => outside,
    };
    // RFC 4787 section 4.3 is about the outbound direction; inbound, an address of the network itself would be a lie.
    let is_inside = match seen {
        IpAddr::V4(address) => config.ipv4.is_some_and(|plan| plan.subnet.contains_addr(&address)),
        IpAddr::V6(address) => config.ipv6.is_some_and(|plan| plan.subnet.contains_addr(&address)),
    };
    (!is_inside || outside.is_loopback()).then_some(seen)
}

impl Mapping {
    /// Sends one datagram; errors of earlier ones are reported on the way.
    fn send<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        to: SocketAddr,
        hop_limit: u8,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let mut last = HostError::NetworkUnreachable;
        for _ in 0..SEND_ATTEMPTS {
            match cx.host.send_to(self.socket, to, hop_limit, payload) {
                Ok(Io::Done(())) => return Ok(()),
                // A full socket buffer drops, as any queue does; UDP's senders know.
                Ok(Io::Blocked | Io::Broken) => return Err(DropReason::HostExhausted),
                Err(error) => last = error,
            }
            if !self.report_errors(cx) && last != HostError::Refused {
                break;
            }
        }
        match last {
            HostError::Exhausted => Err(DropReason::HostExhausted),
            _ => Err(DropReason::HostRefused),
        }
    }

    /// Tells the container of every ICMP error that waits. Returns whether there was one.
    fn report_errors<H: Host, O: Outbox>(&self, cx: &mut Cx<'_, H, O>) -> bool {
        let mut found = false;
        while let Some(report) = cx.host.icmp_report(self.socket) {
            found = true;
            self.report(cx, report);
        }
        found
    }

    fn report<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, report: IcmpReport) {
        let container = self.key.internal.ip();
        let Some(remote) = as_seen_by(&cx.env.config, container, report.destination.ip()) else { return };
        let [s0, s1] = self.key.internal.port().to_be_bytes();
        let [d0, d1] = report.destination.port().to_be_bytes();
        // Length and checksum are not known any more; a length of just the header is always right for a quote.
        let transport = [s0, s1, d0, d1, 0, 8, 0, 0];
        let quoted = icmp_error::Quoted {
            container,
            container_mac: self.container_mac,
            remote,
            protocol: IpProtocol::Udp,
            hop_limit: 1,
            transport: &transport,
        };
        icmp_error::report(cx, &quoted, Cause::Report(report));
    }

    /// Moves datagrams from the socket to the container.
    fn deliver<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, ident: &mut u32) {
        for _ in 0..DATAGRAMS_PER_VISIT {
            let mut frame = cx.env.pool.large();
            frame.set_len(MAX_FRAME_LEN);
            let start = self.payload_start();
            let buffer = frame.bytes_mut().get_mut(start..).unwrap_or_default();
            match cx.host.recv_from(self.socket, buffer) {
                Io::Done(datagram) => {
                    let hop_limit = datagram.hop_limit.saturating_sub(1).max(1);
                    self.used_at = cx.now;
                    self.emit(cx, &mut frame, datagram.from, hop_limit, datagram.len, ident);
                }
                Io::Blocked => {
                    self.readable = false;
                    return;
                }
                Io::Broken => {
                    if !self.report_errors(cx) {
                        self.readable = false;
                        return;
                    }
                }
            }
        }
    }

    fn payload_start(&self) -> usize {
        let unspecified = EthernetAddress([0; 6]);
        let ip = self.key.internal.ip();
        Path { src_mac: unspecified, dst_mac: unspecified, src: ip, dst: ip }.udp_payload_start()
    }

    /// Sends a datagram whose payload stands in `frame` already.
    fn emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        from: SocketAddr,
        hop_limit: u8,
        len: usize,
        ident: &mut u32,
    ) {
        let container = self.key.internal;
        let Some(src) = as_seen_by(&cx.env.config, container.ip(), from.ip()) else { return };
        let path = Path { src_mac: cx.env.config.mac, dst_mac: self.container_mac, src, dst: container.ip() };
        if len > path.max_udp_payload() {
            return;
        }
        emit::udp(frame, &path, (from.port(), container.port()), hop_limit, len);
        if exceeds_mtu(cx.env, frame) {
            *ident = ident.wrapping_add(1);
            fragments::send_in_pieces(cx, frame, &path, *ident);
        } else {
            cx.send(frame);
        }
    }
}

fn exceeds_mtu(env: &Env, frame: &Frame) -> bool {
    frame.len() > env.config.mtu_bytes + wharf_switch::frame::ETHERNET_HEADER_LEN
}

/// A datagram may meet the errors of several earlier ones.
const SEND_ATTEMPTS: usize = 8;
