// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container's port outside: one socket of the host, and the datagrams and errors that pass by it.
//!
//! # How it works
//! An ICMP error that waits on a socket belongs to an *earlier* datagram: before a datagram is given up, the error
//! queue is emptied, every entry is reported to the container by its own destination, and the datagram is sent again.
//!
//! A datagram that may not be fragmented leaves the host so, and is answered with the path's MTU where the host knows
//! it to be too small. What a router further on finds out comes by the error queue. Larger ones than the usual link takes
//! are the exception: see [`USUAL_MTU`].
//!
//! # Bounds
//! A visit delivers at most [`DATAGRAMS_PER_VISIT`].
//!
//! # Sources
//! RFC 5508 (REQ-8), RFC 1191 section 4, RFC 7915 section 5.1 (don't fragment).

use core::marker::PhantomData;
use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::EthernetAddress;
use wharf_switch::frame::MAX_FRAME_LEN;
use wharf_switch::{Frame, Instant};

use super::{Key, Outbound, Protocol};
use crate::env::{Cx, Outbox};
use crate::host::{Datagram, Host, HostError, IcmpReport, Io, Outgoing, SocketId};
use crate::transit::fragments;
use crate::transit::icmp_error::{self, Cause};
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

/// Under which ends a container knows those outside.
pub(in crate::transit) trait View {
    /// Who has sent a datagram.
    fn sender(
        &mut self,
        config: &Config,
        now: Instant,
        datagram: &Datagram,
    ) -> Result<SocketAddr, DropReason>;

    /// To whom something was sent earlier, if that can still be said.
    fn addressee(&self, config: &Config, to: SocketAddr) -> Option<SocketAddr>;
}

/// What came of a visit.
#[derive(Clone, Copy, Debug)]
pub(in crate::transit) struct Delivered {
    /// There was something for the container.
    pub(in crate::transit) any: bool,
    /// There may be more.
    pub(in crate::transit) more: bool,
}

/// A socket, and the container that it stands for.
#[derive(Debug)]
pub(in crate::transit) struct Endpoint<P> {
    pub(in crate::transit) key: Key,
    pub(in crate::transit) socket: SocketId,
    /// Where the container is.
    pub(in crate::transit) container_mac: EthernetAddress,
    protocol: PhantomData<P>,
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

impl<P: Protocol> Endpoint<P> {
    pub(in crate::transit) fn new(key: Key, socket: SocketId, container_mac: EthernetAddress) -> Self {
        Self { key, socket, container_mac, protocol: PhantomData }
    }

    /// Sends one datagram; errors of earlier ones are reported on the way.
    pub(in crate::transit) fn send<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        outbound: &Outbound<'_>,
        view: &impl View,
    ) -> Result<(), DropReason> {
        let Outbound { packet, frame, to, from, .. } = *outbound;
        let hop_limit = packet.hop_limit.saturating_sub(1);
        let outgoing = Outgoing { to, from, hop_limit, dont_fragment: outbound.dont_fragment() };
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
                self.report(cx, report, view);
            }
            if !is_of_earlier {
                break;
            }
        }
        icmp_error::answer(cx, packet, frame, Cause::of(error));
        Err(DropReason::HostRefused)
    }

    /// Tells the container of every ICMP error that waits.
    pub(in crate::transit) fn report_errors<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        view: &impl View,
    ) {
        while let Some(report) = cx.host.icmp_report(self.socket) {
            self.report(cx, report, view);
        }
    }

    fn report<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, mut report: IcmpReport, view: &impl View) {
        let Some(destination) = view.addressee(&cx.env.config, report.destination) else { return };
        report.destination = destination;
        let (protocol, transport) = P::quote(&self.key, &report);
        let quoted = icmp_error::Quoted {
            container: self.key.internal.ip(),
            container_mac: self.container_mac,
            remote: destination.ip(),
            protocol,
            hop_limit: 1,
            transport: &transport,
        };
        icmp_error::report(cx, &quoted, Cause::Report(report));
    }

    /// Moves datagrams from the socket to the container.
    pub(in crate::transit) fn deliver<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        ident: &mut u32,
        view: &mut impl View,
    ) -> Delivered {
        let mut any = false;
        let mut frame = cx.env.pool.large();
        let start = self.path(cx, self.key.internal.ip()).payload_start() + P::HEADER_LEN;
        for _ in 0..DATAGRAMS_PER_VISIT {
            frame.clear();
            frame.set_len(MAX_FRAME_LEN);
            let room = frame.bytes_mut().get_mut(start..).unwrap_or_default();
            match cx.host.recv_from(self.socket, room) {
                Io::Done(datagram) => match self.emit(cx, &mut frame, datagram, ident, view) {
                    Ok(()) => any = true,
                    Err(reason) => cx.discard(reason),
                },
                // An error comes before the datagrams that wait, and need not be in the queue.
                Io::Broken => self.report_errors(cx, view),
                Io::Blocked => return Delivered { any, more: false },
            }
        }
        Delivered { any, more: true }
    }

    /// Sends to the container what the host received into `frame`.
    fn emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        mut datagram: Datagram,
        ident: &mut u32,
        view: &mut impl View,
    ) -> Result<(), DropReason> {
        datagram.from = view.sender(&cx.env.config, cx.now, &datagram)?;
        let path = self.path(cx, datagram.from.ip());
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
