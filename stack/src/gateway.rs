// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gateway of one network: what the switch hands to it is asked three questions.
//!
//! # Path
//! ```text
//! handle_frames --+-- link     who are you on this wire?        ARP, NDP
//!                 +-- local    is it for the gateway itself?    echo, DHCP, RA, DNS
//!                 +-- transit  is it going through?             TCP, UDP, echo, fragments, other networks
//! handle_routed ----- transit                                   from other networks
//! ```
//! Sockets speak through [`Gateway::handle_host`]; the frames and sockets of one turn are followed by one
//! [`Gateway::exhale`], and by [`Gateway::handle_timers`] for what is due.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::VecDeque;
use std::sync::Arc;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Message, IpProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{DropCounters, Frame, Instant, Pool};

use crate::config::Route;
use crate::env::{Cx, Env, Outbox};
use crate::fragments::reassembly::Reassembly;
use crate::host::{Host, HostError, HostEvent, Owner};
use crate::link::{Link, group_query, ndp};
use crate::local::Local;
use crate::local::dhcp4::lease::{LeaseView, Leases, ReservationError};
use crate::local::dns::authority::LinkedZone;
use crate::local::dns::zone::Zone;
use crate::transit::Transit;
use crate::transit::listing::FlowView;
use crate::transit::publish::{PublicationId, PublishedPort};
use crate::transit::routing;
use crate::transit::tcp::{Inbound, Refused, Stretch};
use crate::wire::Packet;
use crate::{Config, DropReason};

/// One network's gateway, as far as one worker owns it.
#[derive(Debug)]
pub struct Gateway {
    env: Env,
    link: Link,
    local: Local,
    transit: Transit,
    reassembly: Reassembly,
    /// Packets that their last fragments completed; their owners may be other workers.
    wholes: VecDeque<Frame>,
}

/// How full the gateway is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// TCP connections.
    pub tcp_flows: usize,
    /// Bytes of stream data held.
    pub held_bytes: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// Echo mappings.
    pub echo_mappings: usize,
    /// Mappings of both kinds that had to make room for others since the gateway began.
    pub evicted_mappings: u64,
    /// DNS queries answered from what was kept since the gateway began.
    pub dns_hits: u64,
    /// DNS queries that were looked for there in vain.
    pub dns_misses: u64,
}

/// What became of frames that the gateway got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// How many they were.
    pub count: usize,
    /// Those among them that went no further.
    pub dropped: usize,
}

impl Gateway {
    /// The gateway that `config` describes, as far as worker `number` owns it. `pool` is where its frames come from.
    #[must_use]
    pub fn new(config: Config, pool: Pool, number: usize) -> Self {
        Self {
            link: Link::new(&config),
            local: Local::new(&config, number == 0),
            transit: Transit::new(&config),
            reassembly: Reassembly::new(&config),
            wholes: VecDeque::new(),
            env: Env::new(config, pool),
        }
    }

    /// Takes the first of `frames` that the switch decided are for the gateway, and those behind it that continue it. Why
    /// some of them went no further is counted already.
    pub fn handle_frames<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        frames: &mut [Frame],
        host: &mut H,
        out: &mut O,
    ) -> Handled {
        let (count, result) = if let Some(stretch) = self.stretch(frames) {
            let cx = &mut Cx { now, host, out, env: &mut self.env };
            (stretch.count(), self.transit.handle_stretch(cx, &stretch))
        } else if let Some(frame) = frames.first_mut() {
            (1, self.handle_frame(now, frame, host, out).map_err(|reason| Refused { reason, frames: 1 }))
        } else {
            (0, Ok(()))
        };
        let Err(Refused { reason, frames: dropped }) = result else { return Handled { count, dropped: 0 } };
        self.env.drops.count_many(reason, dropped as u64);
        Handled { count, dropped }
    }

    /// The segments at the front of `frames` that continue each other, of a connection that goes through.
    fn stretch<'f>(&self, frames: &'f [Frame]) -> Option<Stretch<'f>> {
        Stretch::find(frames, |packet, key| {
            self.env.config.route_to(packet.dst).is_none() && self.transit.is_open(key)
        })
    }

    /// Takes a packet that another network's gateway has [handed over](Outbox::route).
    ///
    /// # Errors
    /// Why it went no further; it is counted already.
    pub fn handle_routed<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        frame: Frame,
        host: &mut H,
        out: &mut O,
    ) -> Result<(), DropReason> {
        let cx = &mut Cx { now, host, out, env: &mut self.env };
        let packet = Packet::parse(&frame);
        let result = packet.and_then(|packet| self.transit.handle_routed(cx, &mut self.link, packet, frame));
        if let Err(reason) = result {
            self.env.drops.count(reason);
        }
        result
    }

    fn handle_frame<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        frame: &mut Frame,
        host: &mut H,
        out: &mut O,
    ) -> Result<(), DropReason> {
        let ethernet = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::EtherTypeUnknown)?;
        let config = &self.env.config;
        let packet = match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let cx = &mut Cx { now, host, out, env: &mut self.env };
                self.link.handle_arp(cx, frame.bytes().get(ETHERNET_HEADER_LEN..).unwrap_or_default())?;
                self.transit.handle_neighbors();
                return Ok(());
            }
            EthernetProtocol::Ipv4 if config.ipv4.is_none() => return Err(DropReason::Ipv4NotConfigured),
            EthernetProtocol::Ipv6 if config.ipv6.is_none() => return Err(DropReason::Ipv6NotConfigured),
            EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => {
                Packet::parse(frame)?
            }
        };
        if let Some(route) = config.route_to(packet.dst) {
            if !config.is_on_subnet(packet.src) {
                return Err(DropReason::SourceAddressInvalid);
            }
            let cx = &mut Cx { now, host, out, env: &mut self.env };
            return routing::send_on(cx, &packet, frame, route);
        }
        let Some(fragment) = packet.fragment else {
            return self.handle_packet(now, &packet, frame, host, out);
        };
        // Before it takes a place: nobody may fill the table under foreign names.
        if !config.is_on_subnet(packet.src) {
            return Err(DropReason::SourceAddressInvalid);
        }
        let cx = &mut Cx { now, host, out, env: &mut self.env };
        self.wholes.extend(self.reassembly.add(cx, &packet, fragment, frame)?);
        Ok(())
    }

    /// A packet that the last frames completed: to be handed to its owner like any frame.
    pub fn take_whole(&mut self) -> Option<Frame> {
        self.wholes.pop_front()
    }

    /// Asks a whole IP packet the three questions.
    fn handle_packet<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        packet: &Packet,
        frame: &Frame,
        host: &mut H,
        out: &mut O,
    ) -> Result<(), DropReason> {
        let cx = &mut Cx { now, host, out, env: &mut self.env };
        if let Some(envelope) = neighbor_discovery(packet, frame) {
            // RFC 4861 section 7.1.1: "ICMP Checksum is valid."
            if !packet.transport_checksum_is_right(frame) {
                return Err(DropReason::NdpMalformed);
            }
            let solicited = self.link.handle_ndp(cx, envelope, packet.payload(frame))?;
            self.transit.handle_neighbors();
            return solicited.map_or(Ok(()), |solicitation| self.local.advertise(cx, solicitation));
        }
        if Local::is_for_us(&cx.env.config, packet) && !self.transit.takes(&cx.env.config, packet, frame) {
            return self.local.handle_packet(cx, self.link.neighbors(), packet, frame);
        }
        if !cx.env.config.is_on_subnet(packet.src) {
            return Err(DropReason::SourceAddressInvalid);
        }
        self.transit.handle_packet(cx, packet, frame)
    }

    /// The host sends what it kept back to send it together: nothing of its kind follows soon.
    pub fn flush<H: Host>(&mut self, host: &mut H) {
        self.env.drops.count_many(DropReason::HostExhausted, host.flush());
    }

    /// A socket of ours became usable.
    pub fn handle_host<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        event: HostEvent,
        host: &mut H,
        out: &mut O,
    ) {
        if matches!(event.token.owner, Owner::Dns | Owner::DnsStream) {
            self.local.handle_host(now, host, event);
            return;
        }
        let mut cx = Cx { now, host, out, env: &mut self.env };
        self.transit.handle_host(&mut cx, event);
    }

    /// Makes `listener` lead to a container's port, from now on. [`Ownership::of_port`](crate::Ownership::of_port) is the
    /// worker to do this.
    ///
    /// # Errors
    /// What [`Host::tcp_listen`] or [`Host::udp_listen`] said.
    pub fn publish<H: Host>(
        &mut self,
        host: &mut H,
        port: PublishedPort,
        listener: H::Listener,
    ) -> Result<PublicationId, HostError> {
        self.transit.publish(host, port, listener)
    }

    /// Has a published TCP port lead to another container's end from now on: who is accepted already stays where it is. A
    /// UDP port stays as it is.
    pub fn redirect(&mut self, id: PublicationId, target: SocketAddr) {
        self.transit.redirect(id, target);
    }

    /// Ends a [`publish`](Self::publish): whoever waits to be accepted is reset, and open connections go on.
    pub fn withdraw<H: Host>(&mut self, host: &mut H, id: PublicationId) {
        self.transit.withdraw(host, &mut self.env.timers, id);
    }

    /// Takes clients that came to the published ports and adds them to `inbound`. The worker that owns the flow of one
    /// opens it.
    pub fn accept<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        host: &mut H,
        out: &mut O,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) {
        let mut cx = Cx { now, host, out, env: &mut self.env };
        self.transit.accept(&mut cx, &mut self.link, inbound);
    }

    /// Connects a client of a published port to its container, or resets it. `is_ours` says whether a flow between a
    /// container's end and another would be this worker's: when the client's port is taken, it gets another.
    pub fn open_inbound<H: Host, O: Outbox>(
        &mut self,
        now: Instant,
        inbound: Inbound<H::Stream>,
        host: &mut H,
        out: &mut O,
        is_ours: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) {
        let mut cx = Cx { now, host, out, env: &mut self.env };
        self.transit.open_inbound(&mut cx, inbound, is_ours);
    }

    /// Lets everything that has something to say speak, once per turn.
    pub fn exhale<H: Host, O: Outbox>(&mut self, now: Instant, host: &mut H, out: &mut O) {
        let mut cx = Cx { now, host, out, env: &mut self.env };
        self.local.exhale(&mut cx);
        self.transit.exhale(&mut cx, &mut self.link);
    }

    /// Whether [`Gateway::exhale`] would have something to do at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.transit.has_more()
    }

    /// Whatever is due at `now`.
    pub fn handle_timers<H: Host, O: Outbox>(&mut self, now: Instant, host: &mut H, out: &mut O) {
        while let Some((token, at)) = self.env.timers.poll(now) {
            let mut cx = Cx { now, host: &mut *host, out: &mut *out, env: &mut self.env };
            match token.owner {
                Owner::Tcp | Owner::Listener | Owner::Port => self.transit.handle_timer(&mut cx, token, at),
                Owner::Udp | Owner::Echo | Owner::Dns | Owner::DnsStream => {}
            }
        }
        self.env.timers.sweep(|token, at| self.transit.awaits(token, at));
        let cx = &mut Cx { now, host, out, env: &mut self.env };
        self.transit.expire(cx);
        self.reassembly.expire(cx);
        self.local.handle_timers(cx);
    }

    /// When the next deadline is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let of_flows = self.env.timers.next().into_iter().chain(self.transit.next_deadline());
        of_flows.chain(self.reassembly.next_deadline()).chain(self.local.next_deadline()).min()
    }

    /// A port was attached: somebody may wait for an advertisement.
    pub fn handle_port_up(&mut self) {
        self.local.handle_port_up();
    }

    /// What asks the host behind one port for its multicast groups, of both families.
    pub fn group_queries(&self) -> impl Iterator<Item = Frame> {
        group_query::group_queries(&self.env.config, &self.env.pool)
    }

    /// Another container is at `address` from now on, or none.
    pub fn forget_neighbor(&mut self, address: IpAddr) {
        self.link.neighbors().forget(address);
    }

    /// The container at `mac`, which had `addresses`, has left: its connections are reset and its mappings end. What it has
    /// sent to the end still reaches the host.
    pub fn end_flows_of<H: Host>(
        &mut self,
        now: Instant,
        mac: EthernetAddress,
        addresses: &[IpAddr],
        host: &mut H,
    ) {
        let cx = &mut Cx { now, host, out: &mut (), env: &mut self.env };
        self.transit.end_flows_of(cx, mac, addresses);
    }

    /// Other nameservers from now on.
    pub fn set_nameservers(&mut self, nameservers: Vec<SocketAddr>) {
        self.local.forwarder_mut().set_nameservers(&nameservers);
        self.env.config.nameservers = nameservers;
    }

    /// Other networks from now on that packets are routed to.
    pub fn set_routes(&mut self, routes: Vec<Route>) {
        self.local.set_routes(&routes);
        self.env.config.routes = routes;
    }

    /// Other ports of the gateway from now on that lead to unix sockets of the host. Flows to those before go on.
    pub fn set_host_sockets(&mut self, ports: Vec<u16>) {
        self.env.config.host_sockets = ports;
    }

    /// Other names of the network from now on.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.local.forwarder_mut().set_zone(Arc::clone(&zone));
        self.env.config.zone = zone;
    }

    /// Other names of linked networks from now on. As all of names, on the first worker.
    pub fn set_linked_zones(&mut self, zones: Vec<LinkedZone>) {
        self.local.forwarder_mut().set_linked_zones(zones);
    }

    /// Keeps an IPv4 address for the container at `mac`, which DHCP calls `name` then. It replaces an earlier reservation.
    /// As all of leases, on the first worker.
    ///
    /// # Errors
    /// [`ReservationError`]; nothing has changed.
    pub fn reserve(
        &mut self,
        now: Instant,
        mac: EthernetAddress,
        address: Ipv4Addr,
        name: Option<String>,
    ) -> Result<(), ReservationError> {
        let not_ours = ReservationError::NotForContainers(address);
        if !self.env.config.may_be_container(address.into()) {
            return Err(not_ours);
        }
        self.local.leases_mut().ok_or(not_ours)?.reserve(now, mac, address, name)
    }

    /// Ends a reservation. A lease goes on until its end, or until [`release_leases`](Self::release_leases).
    pub fn release_reservation(&mut self, now: Instant, mac: EthernetAddress) {
        if let Some(leases) = self.local.leases_mut() {
            leases.release_reservation(now, mac);
        }
    }

    /// The container at `mac` has left: its addresses are free, and remembered for its return.
    pub fn release_leases(&mut self, mac: EthernetAddress) {
        if let Some(leases) = self.local.leases_mut() {
            leases.release(mac);
        }
    }

    /// Every IPv4 address that has or had a client, to be listed and to be written down.
    pub fn leases(&self, now: Instant) -> impl Iterator<Item = LeaseView<'_>> {
        self.local.leases().into_iter().flat_map(move |leases| leases.views(now))
    }

    /// Enters a lease that was written down; reservations come before. Returns whether it could be: the address is for this
    /// client still.
    pub fn restore_lease(&mut self, now: Instant, lease: &LeaseView<'_>) -> bool {
        self.local.leases_mut().is_some_and(|leases| leases.restore(now, lease))
    }

    /// Another number when leases have changed that are worth writing down.
    #[must_use]
    pub fn lease_version(&self) -> u64 {
        self.local.leases().map_or(0, Leases::version)
    }

    /// How full the gateway is.
    #[must_use]
    pub fn load(&self) -> Load {
        let (dns_hits, dns_misses) = self.local.forwarder().lookups();
        Load { held_bytes: self.env.budget.used(), dns_hits, dns_misses, ..self.transit.load() }
    }

    /// Every connection and mapping of this worker's, as it is `now`. Nothing is kept or asked for this while nobody looks.
    pub fn flows<'a, H: Host>(&'a self, now: Instant, host: &'a H) -> impl Iterator<Item = FlowView> + 'a {
        self.transit.flows(now, &self.env.config, host)
    }

    /// Why packets ended here, those included that came from the host's sockets.
    #[must_use]
    pub fn drops(&self) -> &DropCounters<DropReason> {
        &self.env.drops
    }

    /// Frames that started here so far.
    #[must_use]
    pub fn originated(&self) -> u64 {
        self.env.originated
    }
}

/// The envelope of a Neighbor Discovery message (ICMPv6 types 133 to 137), if the packet is one.
fn neighbor_discovery(packet: &Packet, frame: &Frame) -> Option<ndp::Envelope> {
    let (IpProtocol::Icmpv6, IpAddr::V6(source), IpAddr::V6(destination)) =
        (packet.protocol, packet.src, packet.dst)
    else {
        return None;
    };
    let &kind = packet.payload(frame).first()?;
    Icmpv6Message::from(kind).is_ndisc().then_some(ndp::Envelope {
        mac: packet.src_mac,
        source,
        destination,
        hop_limit: packet.hop_limit,
    })
}
