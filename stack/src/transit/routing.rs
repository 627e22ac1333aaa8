// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing between networks of one host: a packet goes on as it is, but for its hop limit.
//!
//! # Path
//! The gateway of the network that a packet comes from [sends it on](send_on); the gateway of the other network
//! [delivers](Arrivals::deliver) it.
//!
//! # How it works
//! To the packet the two gateways are one router. The first counts the hop and knows the other link's MTU, so that whatever
//! forbids the journey is told by the sender's own gateway. The second finds the container, and cuts what is too large for its
//! link and may be cut. There is no state: who answers sends to its own gateway, which has the route back.
//!
//! Super-frames go on whole when their segments fit the other link, and checksums that are owed stay owed: neither the TTL
//! nor a MAC address is part of them.
//!
//! # Bounds
//! [`MAX_WAITING`] packets wait for an answer about where their container is, [`MAX_WAITING_FOR_ONE`] of them for the same
//! one, [`MAX_WAITING_OF_ONE`] of the same sender; the latest stay. Each sender's packets give rise to a limited rate of
//! questions about containers that are not known. One beyond it is dropped, and nobody is told that its container is not
//! there. Who waits asks again without counting: those are [`MAX_WAITING`] questions per [`RETRANSMIT`] at most.
//!
//! # Sources
//! RFC 1812 sections 4.2.2.9, 5.2 and 5.3, RFC 8200 section 3, RFC 1122 section 2.3.2.2, RFC 1191 section 4, RFC 4443
//! sections 3.1 to 3.3, RFC 6583 section 7.

use core::net::IpAddr;
use std::collections::VecDeque;

use smoltcp::wire::{EthernetAddress, EthernetFrame, Ipv4Packet, Ipv6Packet};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::offload::transport::Transport;
use wharf_switch::{Frame, Instant, Priority, offload};

use super::check_hop_limit;
use crate::DropReason;
use crate::config::Route;
use crate::env::{Cx, Outbox};
use crate::fragments::cutting;
use crate::icmp_error::{self, Cause};
use crate::link::neighbors::RETRANSMIT;
use crate::link::{Link, Located};
use crate::wire::Packet;

/// Packets that wait for a neighbor, in one worker.
const MAX_WAITING: usize = 64;
/// Packets that wait for the same neighbor. RFC 1122 section 2.3.2.2: "The link layer SHOULD save (rather than discard) at
/// least one (the latest) packet of each set of packets destined to the same unresolved IP address".
const MAX_WAITING_FOR_ONE: usize = 8;
/// Packets of the same MAC address that wait: who searches a prefix leaves room for the others.
const MAX_WAITING_OF_ONE: usize = MAX_WAITING / 2;

/// Sends a container's packet to the network that `route` leads to.
pub(crate) fn send_on<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &mut Frame,
    route: Route,
) -> Result<(), DropReason> {
    check_hop_limit(cx, packet, frame)?;
    if packet.dont_fragment && largest_packet(packet, frame) > route.mtu_bytes {
        icmp_error::answer(cx, packet, frame, Cause::TooBig { mtu_bytes: route.mtu_bytes });
        return Err(DropReason::PathMtuExceeded);
    }
    set_hop_limit(frame, packet, packet.hop_limit.saturating_sub(1));
    cx.route(route.network, frame);
    Ok(())
}

/// Bytes of the largest IP packet that a frame is on the wire.
fn largest_packet(packet: &Packet, frame: &Frame) -> usize {
    let whole = packet.payload_end - ETHERNET_HEADER_LEN;
    let Some(segmentation) = frame.offload.segmentation else { return whole };
    let headers =
        Transport::locate(frame.bytes()).and_then(|transport| transport.payload_start(frame.bytes()));
    headers.map_or(whole, |end| whole.min(end - ETHERNET_HEADER_LEN + usize::from(segmentation.size.get())))
}

fn set_hop_limit(frame: &mut Frame, packet: &Packet, hop_limit: u8) {
    let Some(bytes) = frame.bytes_mut().get_mut(ETHERNET_HEADER_LEN..) else { return };
    match packet.src {
        IpAddr::V4(_) => {
            let mut header = Ipv4Packet::new_unchecked(bytes);
            header.set_hop_limit(hop_limit);
            header.fill_checksum();
        }
        IpAddr::V6(_) => Ipv6Packet::new_unchecked(bytes).set_hop_limit(hop_limit),
    }
}

/// Packets of other networks, on their way to this one's containers.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// The link has said something since they were last looked at.
    is_due: bool,
}

/// A packet whose container is being asked for.
#[derive(Debug)]
struct Waiting {
    packet: Packet,
    frame: Frame,
    /// When to ask again.
    again_at: Instant,
}

impl Arrivals {
    /// Takes a packet for a container, and sends it now or when it is known where the container is.
    pub(crate) fn deliver<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        packet: Packet,
        mut frame: Frame,
    ) -> Result<(), DropReason> {
        // Nobody overtakes who has waited for the same answer.
        if self.is_due {
            self.look_again(cx, link);
        }
        match link.locate_sparingly(cx, packet.src_mac, packet.dst)? {
            Located::At(mac) => send(cx, &packet, &mut frame, mac),
            Located::Asked => {
                self.wait(cx, packet, frame);
                Ok(())
            }
            Located::Nowhere => {
                tell_unreachable(cx, &packet, &frame);
                Err(DropReason::ContainerNotFound)
            }
        }
    }

    fn wait<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, packet: Packet, frame: Frame) {
        let gives_way = self
            .oldest_of(MAX_WAITING_FOR_ONE, |waiting| waiting.packet.dst == packet.dst)
            .or_else(|| {
                self.oldest_of(MAX_WAITING_OF_ONE, |waiting| waiting.packet.src_mac == packet.src_mac)
            })
            .or_else(|| self.oldest_of(MAX_WAITING, |_| true));
        if gives_way.and_then(|oldest| self.waiting.remove(oldest)).is_some() {
            cx.discard(DropReason::NeighborQueueFull);
        }
        self.waiting.push_back(Waiting { packet, frame, again_at: cx.now + RETRANSMIT });
    }

    /// The oldest of those that are `alike`, if there are `limit` of them.
    fn oldest_of(&self, limit: usize, alike: impl Fn(&Waiting) -> bool) -> Option<usize> {
        let mut places = self.waiting.iter().enumerate().filter(|(_, waiting)| alike(waiting));
        let (oldest, _) = places.next()?;
        (places.count() + 1 >= limit).then_some(oldest)
    }

    /// The link has said something: perhaps where a container is.
    pub(crate) fn handle_neighbors(&mut self) {
        self.is_due = !self.waiting.is_empty();
    }

    /// Looks after those who wait, if there is reason to.
    pub(crate) fn exhale<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, link: &mut Link) {
        if self.is_due || self.next_deadline().is_some_and(|deadline| deadline <= cx.now) {
            self.look_again(cx, link);
        }
    }

    /// When [`Arrivals::exhale`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.again_at).min()
    }

    fn look_again<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, link: &mut Link) {
        self.is_due = false;
        for _ in 0..self.waiting.len() {
            let Some(Waiting { packet, mut frame, .. }) = self.waiting.pop_front() else { return };
            match link.locate(cx, packet.dst) {
                Located::At(mac) => {
                    if let Err(reason) = send(cx, &packet, &mut frame, mac) {
                        cx.discard(reason);
                    }
                }
                Located::Asked => {
                    self.waiting.push_back(Waiting { packet, frame, again_at: cx.now + RETRANSMIT });
                }
                Located::Nowhere => {
                    tell_unreachable(cx, &packet, &frame);
                    cx.discard(DropReason::ContainerNotFound);
                }
            }
        }
    }
}

/// Sends a packet to its container.
fn send<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &mut Frame,
    container: EthernetAddress,
) -> Result<(), DropReason> {
    let mut ethernet = EthernetFrame::new_unchecked(frame.bytes_mut());
    ethernet.set_src_addr(cx.env.config.mac);
    ethernet.set_dst_addr(container);
    frame.priority = Priority::default();
    if largest_packet(packet, frame) <= cx.env.config.mtu_bytes {
        cx.send(frame);
        return Ok(());
    }
    // Else the network that it comes from has let it through by mistake.
    if packet.dont_fragment || packet.src.is_ipv6() {
        return Err(DropReason::PathMtuExceeded);
    }
    if frame.offload.segmentation.is_none() {
        return cutting::cut_further(cx, packet, frame);
    }
    let pool = cx.env.pool.clone();
    let mut outcome = Ok(());
    let cut = |segment: &mut Frame| {
        let sent = Packet::parse_ipv4(segment).and_then(|packet| cutting::cut_further(cx, &packet, segment));
        outcome = outcome.and(sent);
    };
    offload::segment(frame, &pool, cut).map_err(|_| DropReason::Ipv4Malformed)?;
    outcome
}

/// Tells who has sent a packet that nobody answers to its destination, if there is a way there still.
fn tell_unreachable<H, O: Outbox>(cx: &mut Cx<'_, H, O>, packet: &Packet, frame: &Frame) {
    if cx.env.config.route_to(packet.src).is_some() {
        icmp_error::answer(cx, packet, frame, Cause::HostUnreachable);
    }
}
