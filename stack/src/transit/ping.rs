// SPDX-License-Identifier: MIT OR Apache-2.0
//! The echo relay: pings to the outside through the host's unprivileged ICMP sockets.
//!
//! # How it works
//! One socket for each container and identifier. The kernel puts an identifier of its own into what we send and hands
//! us only the replies to it; the container's identifier is put back on the way in. Only echo requests pass, nothing
//! else may be sent on such sockets. With NAT64 an ICMPv6 echo becomes an ICMPv4 one and back (RFC 7915 section 5.2).
//!
//! # Bounds
//! [`MAX_MAPPINGS`] sockets, each for [`TIMEOUT`] after the last request.
//!
//! # Sources
//! RFC 792, RFC 4443 section 4, RFC 5508 (REQ-1, REQ-2: a session lasts at least 60 s).

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};
use wharf_switch::frame::MAX_FRAME_LEN;
use wharf_switch::{Checksum, Duration, Frame, Instant};

use super::flow::FlowTable;
use super::icmp_error::{self, Cause};
use super::udp::as_seen_by;
use super::{fragments, outside};
use crate::env::{Cx, Outbox};
use crate::host::{Family, FlowId, Host, HostError, HostEvent, IcmpReport, Io, Owner, SocketId, Token};
use crate::keyed::KeyedState;
use crate::timers::Alarm;
use crate::wire::Packet;
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason};

const MAX_MAPPINGS: usize = 1024;
/// RFC 5508 REQ-2: an ICMP Query session timer MUST NOT expire in less than 60 seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an echo message before its data, in both families.
const HEADER_LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    container: IpAddr,
    ident: u16,
    outside: Family,
}

#[derive(Debug)]
struct Mapping {
    key: Key,
    socket: SocketId,
    container_mac: EthernetAddress,
    used_at: Instant,
    alarm: Alarm,
}

/// All echo mappings of one worker.
#[derive(Debug)]
pub(crate) struct Relay {
    mappings: FlowTable<Key, Mapping>,
    ident: u32,
}

/// An echo request or reply, whatever its family.
struct Echo<'a> {
    ident: u16,
    seq: u16,
    data: &'a [u8],
}

impl Relay {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mappings: FlowTable::new(KeyedState::new(&config.seed, b"echo mappings"), MAX_MAPPINGS),
            ident: 0,
        }
    }

    /// An ICMP message from a container to the outside.
    pub(crate) fn handle_message<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let echo = parse_request(packet, frame)?;
        let address = outside::resolve(&cx.env.config, packet.dst).inspect_err(|_| {
            icmp_error::answer(cx, packet, frame, Cause::Prohibited);
        })?;
        let key = Key { container: packet.src, ident: echo.ident, outside: Family::of(address) };
        let id = match self.mappings.find(&key) {
            Some(id) => id,
            None => self.open(cx, key, packet).inspect_err(|_| {
                icmp_error::answer(cx, packet, frame, Cause::Prohibited);
            })?,
        };
        let Some(mapping) = self.mappings.get_mut(id) else { return Err(DropReason::EchoTableFull) };
        mapping.container_mac = packet.src_mac;
        mapping.used_at = cx.now;
        let mut message = cx.env.pool.for_len(HEADER_LEN + echo.data.len());
        message.set_len(HEADER_LEN + echo.data.len());
        write_request(message.bytes_mut(), key.outside, &echo);
        let to = SocketAddr::new(address, 0);
        for _ in 0..SEND_ATTEMPTS {
            match cx.host.send_to(mapping.socket, to, packet.hop_limit - 1, message.bytes()) {
                Ok(Io::Done(())) => return Ok(()),
                Ok(Io::Blocked | Io::Broken) | Err(HostError::Exhausted) => {
                    return Err(DropReason::HostExhausted);
                }
                // The error of an earlier request; or this one's, which then is in the queue as well.
                Err(_) => {
                    if !mapping.report_errors(cx) {
                        break;
                    }
                }
            }
        }
        icmp_error::answer(cx, packet, frame, Cause::HostUnreachable);
        Err(DropReason::HostRefused)
    }

    fn open<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: Key,
        packet: &Packet,
    ) -> Result<FlowId, DropReason> {
        let id = self.mappings.next_id().ok_or(DropReason::EchoTableFull)?;
        let token = Token { owner: Owner::Echo, flow: id };
        let socket = cx.host.echo_open(token, key.outside).map_err(|error| match error {
            HostError::Exhausted => DropReason::HostExhausted,
            _ => DropReason::EchoNotPermitted,
        })?;
        let mut mapping =
            Mapping { key, socket, container_mac: packet.src_mac, used_at: cx.now, alarm: Alarm::default() };
        cx.env.timers.set(&mut mapping.alarm, token, cx.now + TIMEOUT);
        self.mappings.insert(key, mapping).ok_or(DropReason::EchoTableFull)
    }

    /// Replies or errors wait on a socket.
    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        let Some(mapping) = self.mappings.get_mut(event.token.flow) else { return };
        if event.error {
            mapping.report_errors(cx);
        }
        if event.readable || event.error {
            mapping.deliver(cx, &mut self.ident);
        }
    }

    pub(crate) fn handle_timer<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, at: Instant) {
        let Some(mapping) = self.mappings.get_mut(id) else { return };
        if !mapping.alarm.rings(at) {
            return;
        }
        let ends_at = mapping.used_at + TIMEOUT;
        if ends_at > cx.now {
            cx.env.timers.set(&mut mapping.alarm, Token { owner: Owner::Echo, flow: id }, ends_at);
            return;
        }
        let (key, socket) = (mapping.key, mapping.socket);
        self.mappings.remove(id, &key);
        cx.host.close(socket);
    }
}

/// Reads an echo request; every other message is a drop.
fn parse_request<'f>(packet: &Packet, frame: &'f Frame) -> Result<Echo<'f>, DropReason> {
    let bytes = packet.payload(frame);
    match (packet.protocol, packet.src, packet.dst) {
        (IpProtocol::Icmp, IpAddr::V4(_), _) => {
            let view = Icmpv4Packet::new_checked(bytes).map_err(|_| DropReason::IcmpMalformed)?;
            if !view.verify_checksum() {
                return Err(DropReason::IcmpMalformed);
            }
            match view.msg_type() {
                Icmpv4Message::EchoRequest => {
                    Ok(Echo { ident: view.echo_ident(), seq: view.echo_seq_no(), data: view.data() })
                }
                Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded | Icmpv4Message::ParamProblem => {
                    Err(DropReason::IcmpAboutUnknown)
                }
                _ => Err(DropReason::IcmpUnknown),
            }
        }
        (IpProtocol::Icmpv6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let view = Icmpv6Packet::new_checked(bytes).map_err(|_| DropReason::IcmpMalformed)?;
            if !view.verify_checksum(&src, &dst) {
                return Err(DropReason::IcmpMalformed);
            }
            match view.msg_type() {
                Icmpv6Message::EchoRequest => {
                    Ok(Echo { ident: view.echo_ident(), seq: view.echo_seq_no(), data: view.payload() })
                }
                kind if kind.is_error() => Err(DropReason::IcmpAboutUnknown),
                _ => Err(DropReason::IcmpUnknown),
            }
        }
        _ => Err(DropReason::IcmpUnknown),
    }
}

/// Writes a request for the host's socket, which fills in identifier and checksum of its own.
fn write_request(bytes: &mut [u8], outside: Family, echo: &Echo<'_>) {
    if let Some(data) = bytes.get_mut(HEADER_LEN..) {
        data.copy_from_slice(echo.data);
    }
    match outside {
        Family::V4 => {
            let mut view = Icmpv4Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv4Message::EchoRequest);
            view.set_msg_code(0);
            view.set_echo_ident(echo.ident);
            view.set_echo_seq_no(echo.seq);
            view.fill_checksum();
        }
        Family::V6 => {
            let mut view = Icmpv6Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv6Message::EchoRequest);
            view.set_msg_code(0);
            view.set_checksum(0);
            view.set_echo_ident(echo.ident);
            view.set_echo_seq_no(echo.seq);
        }
    }
}

impl Mapping {
    fn report_errors<H: Host, O: Outbox>(&self, cx: &mut Cx<'_, H, O>) -> bool {
        let mut found = false;
        while let Some(report) = cx.host.icmp_report(self.socket) {
            found = true;
            self.report(cx, report);
        }
        found
    }

    fn report<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, report: IcmpReport) {
        let container = self.key.container;
        let Some(remote) = as_seen_by(&cx.env.config, container, report.destination.ip()) else { return };
        let [i0, i1] = self.key.ident.to_be_bytes();
        let [.., s0, s1] = report.payload;
        let (kind, protocol) =
            if container.is_ipv4() { (8, IpProtocol::Icmp) } else { (128, IpProtocol::Icmpv6) };
        let quoted = icmp_error::Quoted {
            container,
            container_mac: self.container_mac,
            remote,
            protocol,
            hop_limit: 1,
            transport: &[kind, 0, 0, 0, i0, i1, s0, s1],
        };
        icmp_error::report(cx, &quoted, Cause::Report(report));
    }

    fn deliver<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, ident: &mut u32) {
        let mut message = cx.env.pool.large();
        // Readiness is told once: what is not taken now would stay. The socket's own buffer bounds it.
        loop {
            message.clear();
            message.set_len(MAX_FRAME_LEN);
            match cx.host.recv_from(self.socket, message.bytes_mut()) {
                Io::Done(datagram) => {
                    let reply = message.bytes().get(..datagram.len).unwrap_or_default();
                    let hop_limit = datagram.hop_limit.saturating_sub(1).max(1);
                    self.emit(cx, reply, datagram.from.ip(), hop_limit, ident);
                }
                Io::Blocked => return,
                Io::Broken => {
                    if !self.report_errors(cx) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends an echo reply to the container under the identifier it used.
    fn emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        reply: &[u8],
        from: IpAddr,
        hop_limit: u8,
        ident: &mut u32,
    ) {
        let is_reply = match self.key.outside {
            Family::V4 => {
                Icmpv4Packet::new_checked(reply).is_ok_and(|m| m.msg_type() == Icmpv4Message::EchoReply)
            }
            Family::V6 => {
                Icmpv6Packet::new_checked(reply).is_ok_and(|m| m.msg_type() == Icmpv6Message::EchoReply)
            }
        };
        let container = self.key.container;
        let (true, Some(src)) = (is_reply, as_seen_by(&cx.env.config, container, from)) else { return };
        let path = Path { src_mac: cx.env.config.mac, dst_mac: self.container_mac, src, dst: container };
        let protocol = if container.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        let mut frame = cx.env.pool.for_len(path.ip_header_len() + 14 + reply.len());
        let bytes = emit::ip(&mut frame, &path, protocol, hop_limit, reply.len());
        if bytes.len() != reply.len() {
            // Whoever answers may answer more than a packet of the container's family holds.
            return;
        }
        bytes.copy_from_slice(reply);
        match (src, container) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut view = Icmpv6Packet::new_unchecked(bytes);
                view.set_msg_type(Icmpv6Message::EchoReply);
                view.set_echo_ident(self.key.ident);
                view.fill_checksum(&src, &dst);
            }
            _ => {
                let mut view = Icmpv4Packet::new_unchecked(bytes);
                view.set_msg_type(Icmpv4Message::EchoReply);
                view.set_echo_ident(self.key.ident);
                view.fill_checksum();
            }
        }
        frame.offload.checksum = Checksum::Valid;
        *ident = ident.wrapping_add(1);
        fragments::send(cx, &mut frame, &path, *ident);
    }
}

const SEND_ATTEMPTS: usize = 8;
