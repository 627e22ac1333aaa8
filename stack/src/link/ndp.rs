// SPDX-License-Identifier: MIT OR Apache-2.0
//! Neighbor Discovery: the gateway answers for its own IPv6 addresses and learns who asked.
//!
//! # How it works
//! A message is first validated as RFC 4861 wants (hop limit 255 above all: it proves that the sender is on the
//! link), then:
//!
//! | message | what the gateway does |
//! |---|---|
//! | Neighbor Solicitation for an address of ours | learn the sender, advertise |
//! | the same from `::` (duplicate address detection) | advertise to everybody: the address is taken |
//! | Neighbor Solicitation for another address | nothing: the container's own probes stay unanswered |
//! | Neighbor Advertisement we asked for | learn |
//! | Neighbor Advertisement for an address of ours | conflict |
//! | Router Solicitation | learn the sender, tell the caller ([`Answer::RouterSolicited`]) |
//! | Router Advertisement, Redirect | dropped: containers are no routers |
//!
//! The ICMPv6 checksum is the caller's to verify, because only the frame knows whether one is owed.
//!
//! # Sources
//! RFC 4861 sections 6.1.1, 7.1 and 7.2; RFC 4862 section 5.4.

use core::net::Ipv6Addr;

use smoltcp::wire::{
    EthernetAddress, Icmpv6Message, Icmpv6Packet, IpProtocol, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress,
};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Frame, Instant};

use super::neighbors::{Neighbors, Noted};
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason};

/// RFC 4861 section 7.1.1: "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been
/// forwarded by a router."
pub const HOP_LIMIT: u8 = 255;

/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Where a message came from, as its frame and its IPv6 header say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Source of the frame.
    pub mac: EthernetAddress,
    /// Source of the packet.
    pub source: Ipv6Addr,
    /// Destination of the packet.
    pub destination: Ipv6Addr,
    /// Hop limit on arrival.
    pub hop_limit: u8,
}

/// A message of the gateway's and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Destination of the frame.
    pub mac: EthernetAddress,
    /// Source of the packet.
    pub source: Ipv6Addr,
    /// Destination of the packet.
    pub destination: Ipv6Addr,
    /// The message.
    pub repr: NdiscRepr<'static>,
}

/// What follows from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To be sent, with [`emit()`].
    Send(Message),
    /// A Router Advertisement is wanted. `from` is `None` when the host has no address yet.
    RouterSolicited {
        /// Who asked.
        from: Option<Ipv6Addr>,
        /// Where it is.
        mac: EthernetAddress,
    },
}

/// The gateway's Neighbor Discovery.
#[derive(Debug)]
pub struct Ndp {
    mac: EthernetAddress,
    link_local: Ipv6Addr,
}

impl Ndp {
    /// Neighbor Discovery of the network `config` describes; `None` without IPv6.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let plan = config.ipv6?;
        Some(Self { mac: config.mac, link_local: plan.link_local })
    }

    /// Takes an ICMPv6 message of the types 133 to 137. `Ok(None)` was of use, without an answer.
    ///
    /// # Errors
    /// Why the message was of no use.
    pub fn handle(
        &self,
        now: Instant,
        neighbors: &mut Neighbors,
        envelope: Envelope,
        message: &[u8],
    ) -> Result<Option<Answer>, DropReason> {
        let packet = Icmpv6Packet::new_checked(message).map_err(|_| DropReason::NdpMalformed)?;
        match packet.msg_type() {
            Icmpv6Message::RouterAdvert | Icmpv6Message::Redirect => return Err(DropReason::NdpRogueRouter),
            Icmpv6Message::RouterSolicit | Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert => {
            }
            _ => return Err(DropReason::NdpMalformed),
        }
        if envelope.hop_limit != HOP_LIMIT {
            return Err(DropReason::NdpHopLimitWrong);
        }
        if packet.msg_code() != 0 || envelope.mac == self.mac {
            return Err(DropReason::NdpMalformed);
        }
        match NdiscRepr::parse(&packet).map_err(|_| DropReason::NdpMalformed)? {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                self.handle_solicit(now, neighbors, envelope, target_addr, mac_of(lladdr))
            }
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
                self.handle_advert(now, neighbors, envelope, target_addr, (solicited, mac_of(lladdr)))
            }
            NdiscRepr::RouterSolicit { lladdr } => {
                self.handle_router_solicit(now, neighbors, envelope, mac_of(lladdr))
            }
            NdiscRepr::RouterAdvert { .. } | NdiscRepr::Redirect { .. } => Err(DropReason::NdpRogueRouter),
        }
    }

    /// The question who has `target`: to its solicited-node group, or to the MAC address it was last at.
    #[must_use]
    pub fn solicitation(&self, target: Ipv6Addr, confirm: Option<EthernetAddress>) -> Message {
        let group = solicited_node(target);
        Message {
            mac: confirm.unwrap_or_else(|| multicast_mac(group)),
            source: self.link_local,
            destination: if confirm.is_some() { target } else { group },
            repr: NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(self.mac.into()) },
        }
    }

    /// RFC 4861 section 7.1.1 and 7.2.3.
    fn handle_solicit(
        &self,
        now: Instant,
        neighbors: &mut Neighbors,
        envelope: Envelope,
        target: Ipv6Addr,
        option: Option<EthernetAddress>,
    ) -> Result<Option<Answer>, DropReason> {
        let source = envelope.source;
        if target.is_multicast() || source.is_multicast() {
            return Err(DropReason::NdpMalformed);
        }
        let ours = neighbors.scope().is_ours(target.into());
        if source.is_unspecified() {
            // RFC 4861 section 7.1.1: "If the IP source address is the unspecified address, the IP destination
            // address is a solicited-node multicast address [and] there is no source link-layer address option".
            if envelope.destination != solicited_node(target) || option.is_some() {
                return Err(DropReason::NdpMalformed);
            }
            // RFC 4862 section 5.4.3: a node that has the address advertises it to all nodes; only the owner may,
            // so probes for a container's own address stay unanswered.
            return if ours {
                Ok(Some(Answer::Send(self.advertisement(target, None))))
            } else {
                Err(DropReason::NdpTargetElsewhere)
            };
        }
        if neighbors.scope().is_ours(source.into()) {
            return Err(DropReason::NdpConflict);
        }
        if !ours {
            // Who asks for somebody else confirms an entry but makes none.
            if let Some(mac) = option {
                neighbors.update(now, source.into(), mac);
            }
            return Err(DropReason::NdpTargetElsewhere);
        }
        let mac = option.unwrap_or(envelope.mac);
        if !mac.is_unicast() {
            return Err(DropReason::NdpMalformed);
        }
        neighbors.learn(now, source.into(), mac);
        Ok(Some(Answer::Send(self.advertisement(target, Some((source, mac))))))
    }

    /// RFC 4861 section 7.1.2 and 7.2.5.
    fn handle_advert(
        &self,
        now: Instant,
        neighbors: &mut Neighbors,
        envelope: Envelope,
        target: Ipv6Addr,
        (solicited, option): (bool, Option<EthernetAddress>),
    ) -> Result<Option<Answer>, DropReason> {
        // RFC 4861 section 7.1.2: "If the IP Destination Address is a multicast address the Solicited flag is zero."
        if target.is_multicast() || (envelope.destination.is_multicast() && solicited) {
            return Err(DropReason::NdpMalformed);
        }
        if neighbors.scope().is_ours(target.into()) {
            return Err(DropReason::NdpConflict);
        }
        // RFC 4861 section 7.2.5: "If no entry exists, the advertisement SHOULD be silently discarded."
        match neighbors.update(now, target.into(), option.unwrap_or(envelope.mac)) {
            Noted::New | Noted::Confirmed | Noted::Changed(_) => Ok(None),
            Noted::Refused | Noted::Conflict => Err(DropReason::NdpNotSolicited),
        }
    }

    /// RFC 4861 section 6.1.1 and 6.2.6.
    fn handle_router_solicit(
        &self,
        now: Instant,
        neighbors: &mut Neighbors,
        envelope: Envelope,
        option: Option<EthernetAddress>,
    ) -> Result<Option<Answer>, DropReason> {
        let source = envelope.source;
        if source.is_unspecified() {
            // RFC 4861 section 6.1.1: "If the IP source address is the unspecified address, there is no source
            // link-layer address option in the message."
            if option.is_some() {
                return Err(DropReason::NdpMalformed);
            }
            return Ok(Some(Answer::RouterSolicited { from: None, mac: envelope.mac }));
        }
        if neighbors.scope().is_ours(source.into()) {
            return Err(DropReason::NdpConflict);
        }
        let mac = option.unwrap_or(envelope.mac);
        if !mac.is_unicast() {
            return Err(DropReason::NdpMalformed);
        }
        neighbors.learn(now, source.into(), mac);
        Ok(Some(Answer::RouterSolicited { from: Some(source), mac }))
    }

    /// A Neighbor Advertisement for `target`, to `to` or to everybody.
    fn advertisement(&self, target: Ipv6Addr, to: Option<(Ipv6Addr, EthernetAddress)>) -> Message {
        // RFC 4861 section 7.2.4: "If the source of the solicitation is the unspecified address, the node MUST set
        // the Solicited flag to zero and multicast the advertisement to the all-nodes address."
        let solicited =
            if to.is_some() { NdiscNeighborFlags::SOLICITED } else { NdiscNeighborFlags::empty() };
        let (destination, mac) = to.unwrap_or((ALL_NODES, multicast_mac(ALL_NODES)));
        Message {
            mac,
            source: target,
            destination,
            repr: NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | solicited,
                target_addr: target,
                lladdr: Some(self.mac.into()),
            },
        }
    }
}

/// Writes `message` as a whole Ethernet frame.
pub fn emit(frame: &mut Frame, from: EthernetAddress, message: &Message) {
    let path = Path {
        src_mac: from,
        dst_mac: message.mac,
        src: message.source.into(),
        dst: message.destination.into(),
    };
    frame.clear();
    let body = emit::ip(frame, &path, IpProtocol::Icmpv6, HOP_LIMIT, message.repr.buffer_len());
    body.fill(0);
    let mut packet = Icmpv6Packet::new_unchecked(body);
    message.repr.emit(&mut packet);
    packet.fill_checksum(&message.source, &message.destination);
    debug_assert_eq!(frame.len(), ETHERNET_HEADER_LEN + 40 + message.repr.buffer_len());
}

/// The MAC address of an IPv6 group (RFC 2464 section 7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> EthernetAddress {
    let [.., a, b, c, d] = group.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn mac_of(option: Option<RawHardwareAddress>) -> Option<EthernetAddress> {
    option?.as_bytes().try_into().ok().map(EthernetAddress)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{EthernetFrame, Ipv6Packet};
    use wharf_switch::Pool;

    use super::*;
    use crate::config::tests::config;

    const HOST: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x64]);
    const HOST_IP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x64);
    const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    const NOW: Instant = Instant::ZERO;

    struct Bench {
        ndp: Ndp,
        neighbors: Neighbors,
    }

    impl Bench {
        fn new() -> Self {
            Self { ndp: Ndp::new(&config()).unwrap(), neighbors: Neighbors::new(&config()) }
        }

        fn handle(&mut self, envelope: Envelope, message: &[u8]) -> Result<Option<Answer>, DropReason> {
            self.ndp.handle(NOW, &mut self.neighbors, envelope, message)
        }
    }

    fn from(source: Ipv6Addr, destination: Ipv6Addr) -> Envelope {
        Envelope { mac: HOST, source, destination, hop_limit: 255 }
    }

    fn message(kind: u8, flags: u8, target: Option<Ipv6Addr>, option: Option<u8>) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        bytes.extend(target.into_iter().flat_map(|target| target.octets()));
        if let Some(option) = option {
            bytes.extend_from_slice(&[option, 1]);
            bytes.extend_from_slice(&HOST.0);
        }
        bytes
    }

    fn solicit(target: Ipv6Addr, option: bool) -> Vec<u8> {
        message(135, 0, Some(target), option.then_some(1))
    }

    #[test]
    fn a_solicitation_for_the_gateway_is_answered_byte_for_byte() {
        let mut bench = Bench::new();
        let to = solicited_node(LINK_LOCAL);
        let answer = bench.handle(from(HOST_IP, to), &solicit(LINK_LOCAL, true)).unwrap().unwrap();
        let Answer::Send(reply) = answer else { panic!("{answer:?}") };
        let mut frame = Pool::new(0).small();
        emit(&mut frame, config().mac, &reply);
        let mut expected = vec![0x02, 0, 0, 0, 0, 0x64, 0x02, 0x77, 0, 0, 0, 1, 0x86, 0xdd];
        expected.extend_from_slice(&[0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend_from_slice(&LINK_LOCAL.octets());
        expected.extend_from_slice(&HOST_IP.octets());
        expected.extend_from_slice(&[136, 0, 0x97, 0x40, 0xe0, 0, 0, 0]);
        expected.extend_from_slice(&LINK_LOCAL.octets());
        expected.extend_from_slice(&[2, 1, 0x02, 0x77, 0, 0, 0, 1]);
        assert_eq!(frame.bytes(), expected);
        assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
    }

    #[test]
    fn every_frame_has_a_right_checksum() {
        let bench = Bench::new();
        let mut frame = Pool::new(0).small();
        emit(&mut frame, config().mac, &bench.ndp.solicitation(HOST_IP, None));
        let ethernet = EthernetFrame::new_checked(frame.bytes()).unwrap();
        assert_eq!(ethernet.dst_addr().0, [0x33, 0x33, 0xff, 0, 0, 0x64]);
        let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
        assert_eq!(ip.dst_addr(), "ff02::1:ff00:64".parse::<Ipv6Addr>().unwrap());
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    }

    #[test]
    fn a_confirmation_is_asked_of_one_host_only() {
        let message = Bench::new().ndp.solicitation(HOST_IP, Some(HOST));
        assert_eq!((message.mac, message.destination), (HOST, HOST_IP));
    }

    #[test]
    fn the_gateway_answers_for_all_its_addresses() {
        let plan = config().ipv6.unwrap();
        for target in [plan.gateway, plan.dns, plan.link_local] {
            let answer = Bench::new().handle(from(HOST_IP, solicited_node(target)), &solicit(target, false));
            let Ok(Some(Answer::Send(reply))) = answer else { panic!("{answer:?}") };
            assert_eq!((reply.source, reply.destination, reply.mac), (target, HOST_IP, HOST));
        }
    }

    #[test]
    fn duplicate_address_detection_of_the_gateways_address_is_told_to_everybody() {
        // RFC 4861 section 7.2.4: Solicited flag zero, to the all-nodes address.
        let mut bench = Bench::new();
        let answer = bench
            .handle(from(Ipv6Addr::UNSPECIFIED, solicited_node(LINK_LOCAL)), &solicit(LINK_LOCAL, false));
        let Ok(Some(Answer::Send(reply))) = answer else { panic!("{answer:?}") };
        assert_eq!((reply.destination, reply.mac.0), (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1]));
        let NdiscRepr::NeighborAdvert { flags, .. } = reply.repr else { panic!() };
        assert_eq!(flags, NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE);
        assert_eq!(bench.neighbors.known().count(), 0);
    }

    #[test]
    fn duplicate_address_detection_of_a_containers_own_address_stays_unanswered() {
        let mut bench = Bench::new();
        bench.neighbors.learn(NOW, HOST_IP.into(), HOST);
        let probe =
            bench.handle(from(Ipv6Addr::UNSPECIFIED, solicited_node(HOST_IP)), &solicit(HOST_IP, false));
        assert_eq!(probe, Err(DropReason::NdpTargetElsewhere));
    }

    #[test]
    fn messages_that_crossed_a_router_are_dropped() {
        let far = Envelope { hop_limit: 254, ..from(HOST_IP, solicited_node(LINK_LOCAL)) };
        assert_eq!(Bench::new().handle(far, &solicit(LINK_LOCAL, true)), Err(DropReason::NdpHopLimitWrong));
    }

    #[test]
    fn contradictory_messages_are_malformed() {
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let group = solicited_node(LINK_LOCAL);
        let mut odd_code = solicit(LINK_LOCAL, true);
        odd_code[1] = 1;
        let mut empty_option = solicit(LINK_LOCAL, true);
        empty_option[25] = 0;
        let cases = [
            (from(unspecified, group), solicit(LINK_LOCAL, true)),
            (from(unspecified, LINK_LOCAL), solicit(LINK_LOCAL, false)),
            (from(HOST_IP, group), solicit(ALL_NODES, true)),
            (from(HOST_IP, group), odd_code),
            (from(HOST_IP, group), empty_option),
            (from(HOST_IP, group), solicit(LINK_LOCAL, true)[..23].to_vec()),
            (from(unspecified, group), message(133, 0, None, Some(1))),
            (from(HOST_IP, ALL_NODES), message(136, 0x40, Some(HOST_IP), Some(2))),
        ];
        for (envelope, bytes) in cases {
            assert_eq!(Bench::new().handle(envelope, &bytes), Err(DropReason::NdpMalformed), "{bytes:?}");
        }
    }

    #[test]
    fn an_advertisement_is_learned_only_when_asked_for() {
        let mut bench = Bench::new();
        let bytes = message(136, 0x60, Some(HOST_IP), Some(2));
        assert_eq!(bench.handle(from(HOST_IP, LINK_LOCAL), &bytes), Err(DropReason::NdpNotSolicited));
        bench.neighbors.resolve(NOW, HOST_IP.into());
        assert_eq!(bench.handle(from(HOST_IP, LINK_LOCAL), &bytes), Ok(None));
        assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
    }

    #[test]
    fn a_claim_to_the_gateways_address_is_a_conflict() {
        let mut bench = Bench::new();
        let claim = message(136, 0x20, Some(LINK_LOCAL), Some(2));
        assert_eq!(bench.handle(from(LINK_LOCAL, ALL_NODES), &claim), Err(DropReason::NdpConflict));
        assert_eq!(
            bench.handle(from(LINK_LOCAL, LINK_LOCAL), &solicit(HOST_IP, true)),
            Err(DropReason::NdpConflict)
        );
    }

    #[test]
    fn a_router_solicitation_is_handed_on_with_its_sender() {
        let mut bench = Bench::new();
        let all_routers = "ff02::2".parse().unwrap();
        let asked = bench.handle(from(HOST_IP, all_routers), &message(133, 0, None, Some(1)));
        assert_eq!(asked, Ok(Some(Answer::RouterSolicited { from: Some(HOST_IP), mac: HOST })));
        assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
        let asked = bench.handle(from(Ipv6Addr::UNSPECIFIED, all_routers), &message(133, 0, None, None));
        assert_eq!(asked, Ok(Some(Answer::RouterSolicited { from: None, mac: HOST })));
    }

    #[test]
    fn containers_are_no_routers() {
        for kind in [134, 137] {
            let bytes = message(kind, 0, Some(HOST_IP), None).into_iter().chain([0; 32]).collect::<Vec<_>>();
            assert_eq!(
                Bench::new().handle(from(HOST_IP, ALL_NODES), &bytes),
                Err(DropReason::NdpRogueRouter)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 130u8..140, rest in prop::collection::vec(any::<u8>(), 0..120), hop_limit in 254u8..) {
            let mut bytes = vec![kind, 0];
            bytes.extend(rest);
            let envelope = Envelope { hop_limit, ..from(HOST_IP, LINK_LOCAL) };
            if let Ok(Some(Answer::Send(message))) = Bench::new().handle(envelope, &bytes) {
                emit(&mut Pool::new(0).small(), config().mac, &message);
            }
        }
    }
}
