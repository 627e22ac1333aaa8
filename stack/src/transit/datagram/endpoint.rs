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
//! Towards the container datagrams that are alike go together, as one super-frame: see [`Run`].
//!
//! # Bounds
//! A visit delivers at most [`DATAGRAMS_PER_VISIT`].
//!
//! # Sources
//! RFC 5508 (REQ-8), RFC 1191 section 4, RFC 7915 section 5.1 (don't fragment).

use core::marker::PhantomData;
use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::EthernetAddress;
use wharf_switch::frame::{ETHERNET_HEADER_LEN, MAX_FRAME_LEN};
use wharf_switch::{Frame, Instant};

use super::{Key, Outbound, Protocol};
use crate::env::{Cx, Outbox};
use crate::fragments::cutting;
use crate::host::{Datagram, Host, HostError, IcmpReport, Io, Outgoing, SocketId};
use crate::icmp_error::{self, Cause};
use crate::wire::emit::{Path, ip_header_len};
use crate::{Config, DropReason};

/// Datagrams taken from one socket in one visit.
const DATAGRAMS_PER_VISIT: usize = 64;
/// A datagram may meet the errors of several earlier ones.
const SEND_ATTEMPTS: usize = 8;
/// RFC 7915 section 5.1: up to this length a translated packet may be fragmented, because IPv6 promises its sender
/// 1,280 bytes and IPv4 does not.
const MAX_FRAGMENTABLE_V4: usize = 1260;
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

    /// So many bytes of whom [`View::sender`] named last are on their way to the container.
    fn note_delivered(&mut self, bytes: usize);

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

/// Datagrams of one sender, received one after the other, each as long as the first but perhaps the last.
#[derive(Clone, Copy, Debug)]
pub(in crate::transit) struct Run {
    /// The first.
    pub(in crate::transit) lead: Datagram,
    /// Bytes of all of them.
    pub(in crate::transit) len: usize,
    count: usize,
}

impl Run {
    fn new(lead: Datagram) -> Self {
        Self { lead, len: lead.len, count: 1 }
    }

    /// Whether `next` may go with them to a container whose packets take `room` bytes of payload.
    fn admits<P: Protocol>(&self, next: &Datagram, room: usize, largest: usize) -> bool {
        let Self { lead, len, count } = *self;
        let is_alike = Datagram { len: lead.len, ..*next } == lead && (1..=lead.len).contains(&next.len);
        // What was shorter than the first was the last, and what is larger than the link leaves in fragments.
        let is_open = count < P::MOST_JOINED && len == count * lead.len;
        is_alike && is_open && P::HEADER_LEN + lead.len <= room && P::HEADER_LEN + len + next.len <= largest
    }
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
        let outside_len = self.packet.payload_len() + ip_header_len(self.to.ip());
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
        Err(match error {
            HostError::SourceMissing => DropReason::OutboundAddressMissing,
            _ => DropReason::HostRefused,
        })
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
        let mut more = true;
        let start = self.path(cx, self.key.internal.ip()).payload_start() + P::HEADER_LEN;
        let (mut frame, mut next) = (cx.env.pool.large(), cx.env.pool.large());
        let mut run: Option<Run> = None;
        for _ in 0..DATAGRAMS_PER_VISIT {
            next.clear();
            next.set_len(MAX_FRAME_LEN);
            let datagram =
                match cx.host.recv_from(self.socket, next.bytes_mut().get_mut(start..).unwrap_or_default()) {
                    Io::Done(datagram) => datagram,
                    // An error comes before the datagrams that wait, and need not be in the queue.
                    Io::Broken => {
                        self.report_errors(cx, view);
                        continue;
                    }
                    Io::Blocked => {
                        more = false;
                        break;
                    }
                };
            match &mut run {
                Some(run) if self.joins(cx, run, &datagram) => {
                    let from = next.bytes().get(start..start + datagram.len).unwrap_or_default();
                    if let Some(to) =
                        frame.bytes_mut().get_mut(start + run.len..start + run.len + datagram.len)
                    {
                        to.copy_from_slice(from);
                    }
                    run.len += datagram.len;
                    run.count += 1;
                }
                _ => {
                    any |= self.emit(cx, &mut frame, run.replace(Run::new(datagram)), ident, view);
                    core::mem::swap(&mut frame, &mut next);
                }
            }
        }
        any |= self.emit(cx, &mut frame, run, ident, view);
        Delivered { any, more }
    }

    /// Whether a datagram may go in one super-frame with those before it.
    fn joins<H, O>(&self, cx: &Cx<'_, H, O>, run: &Run, datagram: &Datagram) -> bool {
        let path = self.path(cx, self.key.internal.ip());
        let room = (cx.env.config.mtu_bytes + ETHERNET_HEADER_LEN).saturating_sub(path.payload_start());
        run.admits::<P>(datagram, room, path.max_payload())
    }

    /// Sends to the container what the host received into `frame`. Returns whether there was something for it.
    fn emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        run: Option<Run>,
        ident: &mut u32,
        view: &mut impl View,
    ) -> bool {
        let Some(run) = run else { return false };
        let result = self.try_emit(cx, frame, run, ident, view);
        match result {
            Ok(()) => view.note_delivered(run.len),
            Err(reason) => (0..run.count).for_each(|_| cx.discard(reason)),
        }
        result.is_ok()
    }

    fn try_emit<H, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        mut run: Run,
        ident: &mut u32,
        view: &mut impl View,
    ) -> Result<(), DropReason> {
        run.lead.from = view.sender(&cx.env.config, cx.now, &run.lead)?;
        let path = self.path(cx, run.lead.from.ip());
        if P::HEADER_LEN + run.len > path.max_payload() {
            return Err(DropReason::AnswerTooLarge);
        }
        run.lead.hop_limit = run.lead.hop_limit.saturating_sub(1).max(1);
        P::emit(frame, &path, &self.key, &run)?;
        if run.count > 1 {
            // Its segments fit the link.
            cx.send(frame);
            return Ok(());
        }
        *ident = ident.wrapping_add(1);
        cutting::send(cx, frame, &path, *ident)
    }

    /// The way to the container from somebody it knows as `src`.
    fn path<H, O>(&self, cx: &Cx<'_, H, O>, src: IpAddr) -> Path {
        let (src_mac, dst_mac) = (cx.env.config.mac, self.container_mac);
        Path { src_mac, dst_mac, src, dst: self.key.internal.ip() }
    }
}
