// SPDX-License-Identifier: MIT OR Apache-2.0
//! The echo relay: pings to the outside through the host's unprivileged ICMP sockets.
//!
//! # How it works
//! A [datagram relay](super::datagram) whose endpoints are identifiers. The kernel puts an identifier of its own into
//! what we send and hands us only the replies to it; the container's identifier is put back on the way in. Only echo
//! requests pass, nothing else may be sent on such sockets. With NAT64 an ICMPv6 echo becomes an ICMPv4 one and back.
//!
//! # Bounds
//! [`Echo::MAX_MAPPINGS`] sockets; each ends after [`TIMEOUT`] without traffic.
//!
//! # Sources
//! RFC 792, RFC 4443 section 4, RFC 5508 (REQ-1, REQ-2), RFC 7915 sections 4.2 and 5.2 (echo messages).

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};
use wharf_switch::{Checksum, Duration, Frame};

use super::datagram::endpoint::Run;
use super::datagram::{self, Key, Lifetime, Outbound, Protocol, Relay};
use super::listing::FlowProtocol;
use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::host::{Family, Host, HostError, IcmpReport, Owner, Sender, SocketId, Token};
use crate::wire::Packet;
use crate::wire::emit::{self, Path};

/// RFC 5508 REQ-2: an ICMP Query session timer MUST NOT expire in less than 60 seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an echo message before its data, in both families.
const HEADER_LEN: usize = 8;

/// Echo, as far as it differs from UDP.
#[derive(Debug)]
pub(crate) struct Echo;

/// An echo request, whatever its family.
struct Request<'a> {
    ident: u16,
    seq: u16,
    data: &'a [u8],
}

impl Relay<Echo> {
    /// An ICMP message from a container to the outside.
    pub(crate) fn handle_message<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let request = parse_request(packet, frame)?;
        let to = SocketAddr::new(datagram::resolve(cx, packet, frame)?, 0);
        let mut message = cx.env.pool.for_len(HEADER_LEN + request.data.len());
        message.set_len(HEADER_LEN + request.data.len());
        write_request(message.bytes_mut(), Family::of(to.ip()), &request);
        let outbound = Outbound {
            packet,
            frame,
            internal_port: request.ident,
            to,
            from: None,
            lifetime: Lifetime::Lasting,
            data: message.bytes(),
        };
        self.send(cx, &outbound)
    }
}

impl Protocol for Echo {
    const OWNER: Owner = Owner::Echo;
    const MAX_MAPPINGS: usize = 1024;
    const SHARE: usize = 64;
    const PURPOSE: &'static [u8] = b"echo mappings";
    const HEADER_LEN: usize = 0;
    const NOT_PERMITTED: DropReason = DropReason::EchoNotPermitted;
    const MOST_JOINED: usize = 1;

    fn name(container: IpAddr) -> FlowProtocol {
        FlowProtocol::echo(container)
    }

    fn timeout(_: Lifetime) -> Duration {
        TIMEOUT
    }

    fn open<H: Host>(
        host: &mut H,
        token: Token,
        sender: Sender,
        outside: Family,
    ) -> Result<SocketId, HostError> {
        host.echo_open(token, sender, outside)
    }

    fn quote(key: &Key, report: &IcmpReport) -> (IpProtocol, [u8; 8]) {
        let (protocol, kind) = match key.internal {
            SocketAddr::V4(_) => (IpProtocol::Icmp, u8::from(Icmpv4Message::EchoRequest)),
            SocketAddr::V6(_) => (IpProtocol::Icmpv6, u8::from(Icmpv6Message::EchoRequest)),
        };
        let [i0, i1] = key.internal.port().to_be_bytes();
        let [.., s0, s1] = report.payload;
        (protocol, [kind, 0, 0, 0, i0, i1, s0, s1])
    }

    fn emit(frame: &mut Frame, path: &Path, key: &Key, run: &Run) -> Result<(), DropReason> {
        let received = frame.bytes().get(path.payload_start()..).unwrap_or_default();
        if !is_reply(received.get(..run.len).unwrap_or_default(), key.outside) {
            return Err(DropReason::IcmpUnknown);
        }
        let protocol = if path.dst.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        let bytes = emit::ip(frame, path, protocol, run.lead.hop_limit, run.len);
        match (path.src, path.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut view = Icmpv6Packet::new_unchecked(bytes);
                view.set_msg_type(Icmpv6Message::EchoReply);
                view.set_echo_ident(key.internal.port());
                view.fill_checksum(&src, &dst);
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => {
                let mut view = Icmpv4Packet::new_unchecked(bytes);
                view.set_msg_type(Icmpv4Message::EchoReply);
                view.set_echo_ident(key.internal.port());
                view.fill_checksum();
            }
        }
        frame.offload.checksum = Checksum::Valid;
        Ok(())
    }
}

/// Whether a message of the family outside is a whole echo reply.
fn is_reply(message: &[u8], outside: Family) -> bool {
    match outside {
        Family::V4 => {
            Icmpv4Packet::new_checked(message).is_ok_and(|view| view.msg_type() == Icmpv4Message::EchoReply)
        }
        Family::V6 => {
            Icmpv6Packet::new_checked(message).is_ok_and(|view| view.msg_type() == Icmpv6Message::EchoReply)
        }
    }
}

/// Reads an echo request; every other message is a drop.
fn parse_request<'f>(packet: &Packet, frame: &'f Frame) -> Result<Request<'f>, DropReason> {
    let bytes = packet.payload(frame);
    match (packet.protocol, packet.src, packet.dst) {
        (IpProtocol::Icmp, IpAddr::V4(_), _) => {
            let view = Icmpv4Packet::new_checked(bytes).map_err(|_| DropReason::IcmpMalformed)?;
            if !view.verify_checksum() {
                return Err(DropReason::IcmpMalformed);
            }
            match view.msg_type() {
                Icmpv4Message::EchoRequest => {
                    Ok(Request { ident: view.echo_ident(), seq: view.echo_seq_no(), data: view.data() })
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
                    Ok(Request { ident: view.echo_ident(), seq: view.echo_seq_no(), data: view.payload() })
                }
                kind if kind.is_error() => Err(DropReason::IcmpAboutUnknown),
                _ => Err(DropReason::IcmpUnknown),
            }
        }
        _ => Err(DropReason::IcmpUnknown),
    }
}

/// Writes a request for the host's socket, which fills in identifier and checksum of its own.
fn write_request(bytes: &mut [u8], outside: Family, request: &Request<'_>) {
    if let Some(data) = bytes.get_mut(HEADER_LEN..) {
        data.copy_from_slice(request.data);
    }
    match outside {
        Family::V4 => {
            let mut view = Icmpv4Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv4Message::EchoRequest);
            view.set_msg_code(0);
            view.set_echo_ident(request.ident);
            view.set_echo_seq_no(request.seq);
            view.fill_checksum();
        }
        Family::V6 => {
            let mut view = Icmpv6Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv6Message::EchoRequest);
            view.set_msg_code(0);
            view.set_checksum(0);
            view.set_echo_ident(request.ident);
            view.set_echo_seq_no(request.seq);
        }
    }
}
