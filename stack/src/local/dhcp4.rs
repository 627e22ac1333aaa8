// SPDX-License-Identifier: MIT OR Apache-2.0
//! DHCP server: gives a container its IPv4 address and everything that goes with it.
//!
//! # How it works
//! One message in, at most one out ([`Server::handle`]). What each means to us:
//!
//! | message | binding | answer |
//! |---|---|---|
//! | DISCOVER | an address is set aside for a minute | OFFER |
//! | REQUEST, naming another server | our offer is withdrawn | none |
//! | REQUEST, naming us (selecting) | the offered address is leased | ACK, or NAK for another address |
//! | REQUEST with option 50 (init-reboot) | leased if free or the client's own | ACK, else NAK |
//! | REQUEST with ciaddr (renewing, rebinding) | extended, or leased if free | ACK, else NAK |
//! | DECLINE | the address rests | none |
//! | RELEASE | the address is free, and remembered | none |
//! | INFORM | none | ACK without address and lease |
//!
//! The gateway is the only server of its link. So a client that it does not know, but whose address is free, is not
//! met with silence as RFC 2131 section 4.3.2 asks of one server among many, but with an ACK: after a restart the
//! containers go on as if nothing had happened.
//!
//! # Bounds
//! The leases are bounded by the range ([`lease`]).
//!
//! # Sources
//! RFC 2131, RFC 2132, RFC 3397, RFC 3442, RFC 6842.

use core::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, EthernetAddress, IpCidr, Ipv4Cidr};
use wharf_switch::{Duration, Frame, Instant, Pool};

use super::name;
use crate::config::Route;
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason, Ipv4Plan};

pub mod lease;
pub mod message;

use lease::{ClientKey, DECLINE_TIME, Lease, Leases, OFFER_TIME, State};
use message::{Answer, Request, code};

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// How long a lease is, unless the client asks for a shorter one.
pub const LEASE_SECS: u32 = 86_400;
/// The shortest lease a client can ask for.
pub const MIN_LEASE_SECS: u32 = 60;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To everybody: 255.255.255.255 in a broadcast frame.
    Broadcast,
    /// To one client, which may not answer ARP for the address yet.
    Client(Ipv4Addr, EthernetAddress),
    /// To the relay agent it came from, port 67.
    Relay(Ipv4Addr),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The DHCP message.
    pub message: Vec<u8>,
    /// Where it goes.
    pub destination: Destination,
    /// The client that has this address from now on: a neighbor.
    pub bound: Option<(Ipv4Addr, EthernetAddress)>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    plan: Ipv4Plan,
    /// The gateway leads somewhere.
    is_router: bool,
    forwarder: Option<Ipv4Addr>,
    leases: Leases,
    mac: EthernetAddress,
    mtu_bytes: u16,
    domain: Option<String>,
    /// The search list, each name as labels.
    search: Vec<Vec<u8>>,
    /// What the gateway leads to where it is no router for everything.
    linked: Vec<Ipv4Cidr>,
    ntp: Vec<Ipv4Addr>,
    hostname: Option<String>,
}

impl Server {
    /// The server of the network `config` describes; `None` without IPv4.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let plan = config.ipv4?;
        let mut server = Self {
            plan,
            is_router: !config.internal,
            forwarder: config.forwarder_v4(),
            leases: Leases::new(plan.first_lease, plan.last_lease, &config.seed),
            mac: config.mac,
            mtu_bytes: u16::try_from(config.mtu_bytes).unwrap_or(u16::MAX),
            domain: config.search.iter().find(|name| name::encode(name).is_some()).cloned(),
            search: config.search.iter().filter_map(|name| name::encode(name)).collect(),
            linked: Vec::new(),
            ntp: config.ntp.clone(),
            hostname: config.hostname.clone(),
        };
        server.set_routes(&config.routes);
        Some(server)
    }

    /// Other linked networks from now on. Who has a default route needs no others; and RFC 3442 has a client with
    /// classless routes ignore the router option.
    pub fn set_routes(&mut self, routes: &[Route]) {
        let ipv4 = |route: &Route| match route.prefix {
            IpCidr::Ipv4(prefix) => Some(prefix),
            IpCidr::Ipv6(_) => None,
        };
        self.linked = routes.iter().filter(|_| !self.is_router).filter_map(ipv4).collect();
    }

    /// Who has which address.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The same, to be changed.
    pub fn leases_mut(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// Takes a message that came to port 67 in a frame `from` somebody. Its own leases decide: who was seen under an
    /// address may have left.
    ///
    /// # Errors
    /// Why it was of no use. `Ok(None)` is a message that wants no answer.
    pub fn handle(
        &mut self,
        now: Instant,
        from: EthernetAddress,
        message: &[u8],
    ) -> Result<Option<Reply>, DropReason> {
        let request = Request::parse(from, message)?;
        let client = ClientKey::new(request.client_id, request.chaddr);
        match request.kind {
            DhcpMessageType::Discover => self.handle_discover(now, &request, &client).map(Some),
            DhcpMessageType::Request => self.handle_request(now, &request, &client).map(Some),
            DhcpMessageType::Decline => self.handle_decline(now, &request, &client),
            DhcpMessageType::Release => self.handle_release(now, &request, &client),
            DhcpMessageType::Inform => Ok(Some(self.inform(&request))),
            DhcpMessageType::Offer
            | DhcpMessageType::Ack
            | DhcpMessageType::Nak
            | DhcpMessageType::Unknown(_) => Err(DropReason::DhcpNotRequest),
        }
    }

    fn handle_discover(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        client: &ClientKey,
    ) -> Result<Reply, DropReason> {
        let address = self
            .leases
            .choose(now, client, request.from, request.requested)
            .ok_or(DropReason::DhcpRangeExhausted)?;
        // A client that starts over keeps its running lease while it thinks about the offer.
        let running = self.leases.of_client(client).is_some_and(|lease| {
            lease.address == address && lease.state == State::Bound && now + OFFER_TIME < lease.until
        });
        if !running {
            self.leases.put(client, request.from, address, State::Offered, now + OFFER_TIME);
        }
        Ok(self.grant(DhcpMessageType::Offer, request, address))
    }

    /// RFC 2131 section 4.3.2.
    fn handle_request(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        client: &ClientKey,
    ) -> Result<Reply, DropReason> {
        let own = self.leases.of_client(client).map(|lease| (lease.address, lease.state));
        let wanted = match (request.server_id, request.requested) {
            // Another server was chosen: "The client's selection of another server ... is the notification that the
            // offer is declined" (RFC 2131 section 3.1 step 4).
            (Some(server), _) if server != self.plan.gateway => {
                if let Some((address, State::Offered)) = own {
                    self.leases.put(client, request.from, address, State::Released, now);
                }
                return Err(DropReason::DhcpOtherServer);
            }
            // "DHCPREQUEST generated during SELECTING state: ... 'requested IP address' MUST be filled in with the
            // yiaddr value from the chosen DHCPOFFER."
            (Some(_), Some(requested)) => {
                if own.is_none_or(|(address, _)| address != requested) {
                    return Ok(self.refuse(request, "that is not the address offered"));
                }
                requested
            }
            // "DHCPREQUEST generated during INIT-REBOOT state: 'server identifier' MUST NOT be filled in, 'requested
            // IP address' option MUST be filled in."
            (None, Some(requested)) => requested,
            // "DHCPREQUEST generated during RENEWING [or REBINDING] state: ... 'ciaddr' MUST be filled in."
            (_, None) if !request.ciaddr.is_unspecified() => request.ciaddr,
            (_, None) => return Err(DropReason::DhcpMalformed),
        };
        // "Server SHOULD send a DHCPNAK message to the client if the 'requested IP address' is incorrect, or is on
        // the wrong network."
        if !self.leases.contains(wanted) {
            return Ok(self.refuse(request, "no address of this network's range"));
        }
        if !self.leases.may_have(now, client, request.from, wanted) {
            return Ok(self.refuse(request, "the address is in use, or reserved"));
        }
        let until = now + Duration::from_secs(lease_secs(request).into());
        self.leases.put(client, request.from, wanted, State::Bound, until);
        if let Some(hostname) = request.hostname {
            self.leases.name(wanted, hostname);
        }
        Ok(self.grant(DhcpMessageType::Ack, request, wanted))
    }

    /// RFC 2131 section 4.3.3: "the server MUST mark the network address as not available".
    fn handle_decline(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        client: &ClientKey,
    ) -> Result<Option<Reply>, DropReason> {
        let address = self.owned(request, client, request.requested)?;
        self.leases.put(client, request.from, address, State::Declined, now + DECLINE_TIME);
        Ok(None)
    }

    /// RFC 2131 section 4.3.4: "the server marks the network address as not allocated. The server SHOULD retain a
    /// record of the client's initialization parameters for possible reuse".
    fn handle_release(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        client: &ClientKey,
    ) -> Result<Option<Reply>, DropReason> {
        let address = self.owned(request, client, Some(request.ciaddr))?;
        self.leases.put(client, request.from, address, State::Released, now);
        Ok(None)
    }

    /// The address that a DECLINE or RELEASE is about, if it is this client's.
    fn owned(
        &self,
        request: &Request<'_>,
        client: &ClientKey,
        address: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, DropReason> {
        if request.server_id.is_some_and(|server| server != self.plan.gateway) {
            return Err(DropReason::DhcpOtherServer);
        }
        // Identifiers are no secrets.
        let is_its = |lease: &&Lease| Some(lease.address) == address && lease.mac == request.from;
        let own = self.leases.of_client(client).filter(is_its);
        own.map(|lease| lease.address).ok_or(DropReason::DhcpNotOwner)
    }

    /// OFFER or ACK with an address.
    fn grant(&self, kind: DhcpMessageType, request: &Request<'_>, address: Ipv4Addr) -> Reply {
        let mut answer = Answer::new(kind, request, self.plan.gateway, address);
        let secs = lease_secs(request);
        answer.push_secs(code::LEASE_TIME, secs);
        // RFC 2131 section 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2 defaults to (0.875 * ...)".
        answer.push_secs(code::RENEWAL_TIME, secs / 2);
        answer.push_secs(code::REBINDING_TIME, secs - secs / 8);
        self.push_parameters(&mut answer, request);
        let bound = (kind == DhcpMessageType::Ack).then_some((address, request.from));
        Reply { message: answer.finish(), destination: destination(request, address), bound }
    }

    /// RFC 2131 section 4.3.5: an INFORM is answered "without: allocating a new address, checking for an existing
    /// binding, filling in 'yiaddr' or including lease time parameters".
    fn inform(&self, request: &Request<'_>) -> Reply {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut answer = Answer::new(DhcpMessageType::Ack, request, self.plan.gateway, none);
        self.push_parameters(&mut answer, request);
        let destination = if request.giaddr.is_unspecified() && request.ciaddr.is_unspecified() {
            Destination::Broadcast
        } else {
            destination(request, none)
        };
        Reply { message: answer.finish(), destination, bound: None }
    }

    fn refuse(&self, request: &Request<'_>, why: &str) -> Reply {
        let mut answer = Answer::new(DhcpMessageType::Nak, request, self.plan.gateway, Ipv4Addr::UNSPECIFIED);
        answer.push(code::MESSAGE, why.as_bytes());
        // RFC 2131 section 4.1: "In all cases, when 'giaddr' is zero, the server broadcasts any DHCPNAK messages to
        // 0xffffffff."
        let destination = if request.giaddr.is_unspecified() {
            Destination::Broadcast
        } else {
            Destination::Relay(request.giaddr)
        };
        Reply { message: answer.finish(), destination, bound: None }
    }

    /// What the client asked for, most needed first.
    fn push_parameters(&self, answer: &mut Answer, request: &Request<'_>) {
        let plan = &self.plan;
        let mut push = |code, data: &[u8]| {
            if request.wants(code) && !data.is_empty() {
                answer.push(code, data);
            }
        };
        // RFC 2132 section 3.3: "the subnet mask option MUST be first" of mask and router.
        push(code::SUBNET_MASK, &plan.subnet.netmask().octets());
        if self.is_router {
            push(code::ROUTER, &plan.gateway.octets());
        }
        push(code::DOMAIN_NAME_SERVER, &self.forwarder.map(|address| address.octets()).unwrap_or_default());
        // RFC 2132 section 5.1: "The minimum legal value for the MTU is 68."
        push(code::INTERFACE_MTU, &self.mtu_bytes.max(68).to_be_bytes());
        let hostname = self.leases.reserved_name(request.from).or(self.hostname.as_deref());
        push(code::HOST_NAME, hostname.unwrap_or_default().as_bytes());
        push(code::DOMAIN_NAME, self.domain.as_deref().unwrap_or_default().as_bytes());
        push(
            code::BROADCAST_ADDRESS,
            &plan.subnet.broadcast().map(|address| address.octets()).unwrap_or_default(),
        );
        if request.wants(code::CLASSLESS_STATIC_ROUTE) {
            answer.push_routes(&self.linked, plan.gateway);
        }
        if request.wants(code::NTP_SERVERS) {
            answer.push_addresses(code::NTP_SERVERS, &self.ntp);
        }
        if request.wants(code::DOMAIN_SEARCH) {
            answer.push_names(code::DOMAIN_SEARCH, &self.search);
        }
    }

    /// `reply` as a whole Ethernet frame; `asked_from` is the source of the frame it answers.
    #[must_use]
    pub fn frame(&self, pool: &Pool, reply: &Reply, asked_from: EthernetAddress) -> Frame {
        let (dst, dst_mac, port) = match reply.destination {
            Destination::Broadcast => (Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST, CLIENT_PORT),
            Destination::Client(address, mac) => (address, mac, CLIENT_PORT),
            Destination::Relay(address) => (address, asked_from, SERVER_PORT),
        };
        let path = Path { src_mac: self.mac, dst_mac, src: self.plan.gateway.into(), dst: dst.into() };
        emit::datagram(pool, &path, (SERVER_PORT, port), &reply.message)
    }
}

/// How long a lease this client gets.
fn lease_secs(request: &Request<'_>) -> u32 {
    request.lease_secs.map_or(LEASE_SECS, |secs| secs.clamp(MIN_LEASE_SECS, LEASE_SECS))
}

/// RFC 2131 section 4.1: where an OFFER or ACK goes.
fn destination(request: &Request<'_>, yiaddr: Ipv4Addr) -> Destination {
    // "If the 'giaddr' field in a DHCP message from a client is non-zero, the server sends any return messages to the
    // 'DHCP server' port on the BOOTP relay agent whose address appears in 'giaddr'."
    if !request.giaddr.is_unspecified() {
        return Destination::Relay(request.giaddr);
    }
    // "If the 'giaddr' field is zero and the 'ciaddr' field is nonzero, then the server unicasts DHCPOFFER and
    // DHCPACK messages to the address in 'ciaddr'."
    if !request.ciaddr.is_unspecified() {
        return Destination::Client(request.ciaddr, request.chaddr);
    }
    // "If 'giaddr' is zero and 'ciaddr' is zero, and the broadcast bit is set, then the server broadcasts ...; if the
    // broadcast bit is not set ..., then the server unicasts ... to the client's hardware address and 'yiaddr'."
    if request.broadcast { Destination::Broadcast } else { Destination::Client(yiaddr, request.chaddr) }
}

#[cfg(test)]
mod tests;
