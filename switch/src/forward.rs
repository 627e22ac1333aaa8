// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarding decision: where one frame goes.
//!
//! # How it works
//! [`Forwarding::decide`] classifies the frame into a VLAN ([`vlan`]), checks its sender ([`guard`](crate::guard)), learns the source
//! address, then reads the destination. All of it is within the VLAN:
//!
//! | destination | from a port | from the gateway |
//! |---|---|---|
//! | the gateway's address | gateway | dropped |
//! | a group address | gateway and the other ports | the ports |
//! | known on another port | that port; dropped between isolated ones | that port |
//! | known on the very port | dropped | - |
//! | unknown | the other ports | the ports |
//!
//! "The other ports" are those with members of the group, where that is known ([`snoop`](crate::snoop)). Those of an isolated
//! port are the promiscuous ones. What is flooded is metered
//! ([`storm`](crate::storm)).
//!
//! A port without a policy skips every step that is behind `if let Some(policy)`: classification, guards, meters.
//!
//! # Sources
//! IEEE 802.1D-2004 sections 7.7 (forwarding), 7.8 (learning), 7.12.6 (reserved addresses); RFC 5517 section 3
//! (isolated and promiscuous ports).

use smoltcp::wire::{EthernetAddress, EthernetFrame};

use crate::storm::Flooded;
use crate::table::Table;
use crate::vlan::{self, Membership};
use crate::{Audience, DropReason, Fdb, Frame, Instant, Macs, Policy, PortId, Vlan};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// To the gateway only.
    Gateway,
    /// To one port.
    One(PortId),
    /// To every port of its VLAN that the one it came from reaches.
    Flood {
        /// And to the gateway.
        gateway: bool,
        /// Which of them.
        audience: Audience,
    },
}

/// What the decision has to know of the switch.
#[derive(Debug)]
pub(crate) struct Forwarding<'a, P> {
    pub(crate) fdb: &'a Fdb,
    pub(crate) table: &'a Table<P>,
    /// The gateway's MAC address.
    pub(crate) gateway: EthernetAddress,
    pub(crate) now: Instant,
}

impl<P> Forwarding<'_, P> {
    /// Decides where a frame goes that came in on `ingress`, or from the gateway ([`PortId::GATEWAY`]). The frame has no
    /// VLAN tag afterwards.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub(crate) fn decide(&self, ingress: PortId, frame: &mut Frame) -> Result<Egress, DropReason> {
        let header = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::FrameTruncated)?;
        let (destination, source) = (header.dst_addr(), header.src_addr());
        let tagged = vlan::is_tag(header.ethertype().into());
        // IEEE 802.1D 7.12.6: "Frames containing any of the group MAC Addresses specified in Table 7-10 in their
        // destination address field shall not be relayed by the Bridge."
        if is_reserved(destination) {
            return Err(DropReason::ReservedGroupAddress);
        }
        if ingress == PortId::GATEWAY {
            return self.find(ingress, None, destination, frame);
        }
        let policy = self.table.policy(ingress)?;
        // IEEE 802.1D 7.8: "The source address field of the frame specifies a specific end station (i.e., is not a group
        // MAC Address)."
        if source.is_multicast() {
            return Err(DropReason::SourceMacGroup);
        }
        if source == self.gateway {
            return Err(DropReason::SourceIsGateway);
        }
        if policy.is_some() || tagged {
            let membership = policy.map_or(&Membership::UNTAGGED, |policy| &policy.membership);
            vlan::classify(frame, membership, tagged)?;
        }
        if let Some(policy) = policy {
            self.check_mac(policy.guard.macs, ingress, source, frame.vlan)?;
            policy.guard.check(frame)?;
        }
        self.fdb.learn(frame.vlan, source, ingress, self.now);
        let egress = self.find(ingress, policy, destination, frame)?;
        if let Some(policy) = policy {
            self.meter(policy, egress, destination, frame)?;
        }
        Ok(egress)
    }

    /// Reads the destination.
    fn find(
        &self,
        ingress: PortId,
        policy: Option<&Policy>,
        destination: EthernetAddress,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        let vlan = frame.vlan;
        let from_gateway = ingress == PortId::GATEWAY;
        // The gateway is on the untagged VLAN until a VLAN declares a prefix of its own.
        if destination == self.gateway && vlan == Vlan::UNTAGGED {
            return if from_gateway { Err(DropReason::SamePort) } else { Ok(Egress::Gateway) };
        }
        let reaches_others = || self.table.reaches_any(self.table.scope(ingress, vlan));
        if destination.is_multicast() {
            let gateway = vlan == Vlan::UNTAGGED && !from_gateway;
            // Who is alone today has a neighbour tomorrow, to whose groups it belongs.
            let audience = self.fdb.snoop().hear(ingress, policy, frame, self.now);
            return match (reaches_others(), gateway) {
                (true, gateway) => Ok(Egress::Flood { gateway, audience }),
                (false, true) => Ok(Egress::Gateway),
                (false, false) => Err(DropReason::NobodyElse),
            };
        }
        let known = self.fdb.lookup(vlan, destination, self.now);
        match known.filter(|&port| self.table.is_member(port, vlan)) {
            Some(port) if port == ingress => Err(DropReason::SamePort),
            Some(port) if self.table.are_isolated(ingress, port) => Err(DropReason::PortIsolated),
            Some(port) => Ok(Egress::One(port)),
            None if reaches_others() => Ok(Egress::Flood { gateway: false, audience: Audience::Everyone }),
            None => Err(DropReason::NobodyElse),
        }
    }

    /// Checks that the port may send from this address. The gateway's was looked at before.
    fn check_mac(
        &self,
        macs: Macs,
        ingress: PortId,
        source: EthernetAddress,
        vlan: Vlan,
    ) -> Result<(), DropReason> {
        let is_own = match macs {
            Macs::Any => true,
            Macs::Only(own) => own == source,
            Macs::FirstCome => match self.fdb.lookup(vlan, source, self.now) {
                Some(port) => port == ingress,
                None => !self.table.is_bound_elsewhere(source, ingress),
            },
        };
        if is_own { Ok(()) } else { Err(DropReason::SourceMacForged) }
    }

    /// Takes from the port's budget what goes to many.
    fn meter(
        &self,
        policy: &Policy,
        egress: Egress,
        destination: EthernetAddress,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let flooded = match egress {
            _ if destination.is_broadcast() => Flooded::Broadcast,
            _ if destination.is_multicast() => Flooded::Multicast,
            Egress::Flood { .. } => Flooded::UnknownUnicast,
            Egress::Gateway | Egress::One(_) => return Ok(()),
        };
        policy.storm.check(flooded, frame, self.now)
    }
}

/// 01:80:c2:00:00:00 to 01:80:c2:00:00:0f.
fn is_reserved(address: EthernetAddress) -> bool {
    matches!(address.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Guard, Isolation, Pool, Rate, StormControl, StormRates, VlanSet};

    const GATEWAY: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0xfe]);
    const A: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0a]);
    const B: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0b]);
    const NOW: Instant = Instant::from_secs(1);

    /// A switch's tables; the ports have nothing behind them.
    struct Rig {
        fdb: Fdb,
        table: Table<()>,
    }

    impl Rig {
        fn new(policies: impl IntoIterator<Item = Option<Policy>>) -> Self {
            let mut table = Table::default();
            for policy in policies {
                table.attach((), policy.map(Arc::new)).unwrap();
            }
            Self { fdb: Fdb::new(64, [7; 16]), table }
        }

        /// Ports without policies.
        fn plain(ports: usize) -> Self {
            Self::new((0..ports).map(|_| None))
        }

        fn decide(&self, ingress: PortId, frame: &mut Frame) -> Result<Egress, DropReason> {
            Forwarding { fdb: &self.fdb, table: &self.table, gateway: GATEWAY, now: NOW }
                .decide(ingress, frame)
        }

        /// The decision about an IPv4 frame.
        fn from(
            &self,
            index: u32,
            source: EthernetAddress,
            destination: EthernetAddress,
        ) -> Result<Egress, DropReason> {
            self.decide(port(index), &mut ip(destination, source))
        }
    }

    /// A policy without guards.
    fn open() -> Policy {
        Policy { guard: Guard::OFF, ..Policy::default() }
    }

    fn on(number: u16) -> Option<Policy> {
        Some(Policy { membership: Membership::Access(Vlan::new(number).unwrap()), ..open() })
    }

    fn isolated() -> Option<Policy> {
        Some(Policy { isolation: Isolation::Isolated, ..open() })
    }

    fn with_macs(macs: Macs) -> Option<Policy> {
        Some(Policy { guard: Guard { macs, ..Guard::OFF }, ..open() })
    }

    fn port(index: u32) -> PortId {
        PortId { index, generation: 0 }
    }

    fn flood(gateway: bool) -> Result<Egress, DropReason> {
        Ok(Egress::Flood { gateway, audience: Audience::Everyone })
    }

    fn frame(destination: EthernetAddress, source: EthernetAddress, ethertype: u16) -> Frame {
        let mut frame = Pool::new(0).small();
        frame.set_len(60);
        let mut header = EthernetFrame::new_unchecked(frame.bytes_mut());
        header.set_dst_addr(destination);
        header.set_src_addr(source);
        header.set_ethertype(ethertype.into());
        frame
    }

    fn ip(destination: EthernetAddress, source: EthernetAddress) -> Frame {
        frame(destination, source, 0x0800)
    }

    fn tagged(destination: EthernetAddress, source: EthernetAddress, vid: u16) -> Frame {
        let mut frame = frame(destination, source, 0x8100);
        frame.bytes_mut()[14..16].copy_from_slice(&vid.to_be_bytes());
        frame.bytes_mut()[16..18].copy_from_slice(&[8, 0]);
        frame
    }

    #[test]
    fn an_answer_goes_to_the_port_of_the_question_only() {
        let rig = Rig::plain(3);
        assert_eq!(rig.from(0, A, B), flood(false));
        assert_eq!(rig.from(1, B, A), Ok(Egress::One(port(0))));
        assert_eq!(rig.from(0, A, B), Ok(Egress::One(port(1))));
    }

    #[test]
    fn the_gateways_frames_are_the_gateways_only() {
        assert_eq!(Rig::plain(3).from(0, A, GATEWAY), Ok(Egress::Gateway));
    }

    #[test]
    fn the_gateways_answer_goes_to_the_port_it_was_asked_from() {
        let rig = Rig::plain(3);
        rig.from(2, A, GATEWAY).unwrap();
        let answer = |destination| rig.decide(PortId::GATEWAY, &mut ip(destination, GATEWAY));
        assert_eq!(answer(A), Ok(Egress::One(port(2))));
        assert_eq!(answer(B), flood(false));
        assert_eq!(answer(GATEWAY), Err(DropReason::SamePort));
    }

    #[test]
    fn broadcast_reaches_the_gateway_and_every_other_port() {
        assert_eq!(Rig::plain(2).from(0, A, EthernetAddress::BROADCAST), flood(true));
        assert_eq!(Rig::plain(1).from(0, A, EthernetAddress::BROADCAST), Ok(Egress::Gateway));
        let mut broadcast = ip(EthernetAddress::BROADCAST, GATEWAY);
        assert_eq!(Rig::plain(0).decide(PortId::GATEWAY, &mut broadcast), Err(DropReason::NobodyElse));
    }

    #[test]
    fn unknown_addresses_are_not_the_gateways_business() {
        assert_eq!(Rig::plain(1).from(0, A, B), Err(DropReason::NobodyElse));
    }

    #[test]
    fn a_frame_for_its_own_port_goes_nowhere() {
        let rig = Rig::plain(2);
        rig.fdb.learn(Vlan::UNTAGGED, B, port(0), NOW);
        assert_eq!(rig.from(0, A, B), Err(DropReason::SamePort));
    }

    #[test]
    fn an_address_of_a_vanished_port_is_unknown() {
        let rig = Rig::plain(2);
        rig.fdb.learn(Vlan::UNTAGGED, B, PortId { index: 1, generation: 9 }, NOW);
        assert_eq!(rig.from(0, A, B), flood(false));
        let gone = PortId { index: 1, generation: 8 };
        assert_eq!(rig.decide(gone, &mut ip(B, A)), Err(DropReason::PortClosed));
    }

    #[test]
    fn false_sources_are_neither_forwarded_nor_learned() {
        for policy in [None, Some(open())] {
            let rig = Rig::new([policy, None]);
            let group = EthernetAddress([0x03, 0, 0, 0, 0, 1]);
            assert_eq!(rig.from(0, group, B), Err(DropReason::SourceMacGroup));
            assert_eq!(rig.from(0, GATEWAY, B), Err(DropReason::SourceIsGateway));
            assert_eq!(rig.fdb.entries(NOW).count(), 0);
        }
    }

    #[test]
    fn reserved_group_addresses_are_not_relayed() {
        let rig = Rig::plain(2);
        for last in 0..=255 {
            let destination = EthernetAddress([0x01, 0x80, 0xc2, 0, 0, last]);
            let expected = if last < 0x10 { Err(DropReason::ReservedGroupAddress) } else { flood(true) };
            assert_eq!(rig.from(0, A, destination), expected, "{last:#x}");
        }
    }

    #[test]
    fn a_port_without_a_policy_takes_priority_tags_and_no_others() {
        let rig = Rig::plain(2);
        assert_eq!(rig.decide(port(0), &mut tagged(GATEWAY, A, 5)), Err(DropReason::VlanUnknown));
        let mut priority = tagged(GATEWAY, A, 0xe000);
        assert_eq!(rig.decide(port(0), &mut priority), Ok(Egress::Gateway));
        assert_eq!(priority.len(), 56);
        let mut short = ip(B, A);
        short.set_len(13);
        assert_eq!(rig.decide(port(0), &mut short), Err(DropReason::FrameTruncated));
    }

    #[test]
    fn a_vlan_without_the_gateway_floods_within_itself() {
        let rig = Rig::new([None, None, on(5), on(5), on(6)]);
        assert_eq!(rig.from(2, A, EthernetAddress::BROADCAST), flood(false));
        rig.fdb.learn(Vlan::UNTAGGED, B, port(0), NOW);
        assert_eq!(rig.from(2, A, B), flood(false), "an address of another VLAN is unknown here");
        assert_eq!(rig.from(2, A, GATEWAY), flood(false), "the gateway is not here");
        assert_eq!(rig.from(4, A, EthernetAddress::BROADCAST), Err(DropReason::NobodyElse));
    }

    #[test]
    fn a_trunk_is_on_each_of_its_vlans_and_addresses_are_learned_per_vlan() {
        let vlan = |number| Vlan::new(number).unwrap();
        let tags: VlanSet = [vlan(5), vlan(6)].into_iter().collect();
        let trunk = Membership::Trunk { tagged: tags, native: Some(Vlan::UNTAGGED) };
        let rig = Rig::new([Some(Policy { membership: trunk, ..open() }), on(5), on(6), on(7), None]);
        assert_eq!(rig.from(1, B, A), flood(false));
        for (vid, expected) in
            [(5, Ok(Egress::One(port(1)))), (6, flood(false)), (7, Err(DropReason::VlanUnknown))]
        {
            assert_eq!(rig.decide(port(0), &mut tagged(B, A, vid)), expected, "{vid}");
        }
        assert_eq!(rig.from(0, A, GATEWAY), Ok(Egress::Gateway), "untagged, on the native VLAN");
        assert_eq!(rig.decide(PortId::GATEWAY, &mut ip(A, GATEWAY)), Ok(Egress::One(port(0))));
        assert_eq!(rig.from(2, B, A), Ok(Egress::One(port(0))));
        assert_eq!(rig.from(3, B, A), Err(DropReason::NobodyElse));
    }

    #[test]
    fn isolated_ports_reach_the_gateway_and_promiscuous_ports_only() {
        let rig = Rig::new([isolated(), isolated(), Some(open())]);
        assert_eq!(rig.from(0, A, GATEWAY), Ok(Egress::Gateway));
        assert_eq!(rig.from(0, A, EthernetAddress::BROADCAST), flood(true));
        assert_eq!(rig.from(1, B, A), Err(DropReason::PortIsolated));
        assert_eq!(rig.from(2, EthernetAddress([2; 6]), A), Ok(Egress::One(port(0))));
        assert_eq!(rig.from(0, A, EthernetAddress([2; 6])), Ok(Egress::One(port(2))));
        assert_eq!(rig.decide(PortId::GATEWAY, &mut ip(A, GATEWAY)), Ok(Egress::One(port(0))));
        let among_themselves = Rig::new([isolated(), isolated()]);
        assert_eq!(among_themselves.from(0, A, EthernetAddress::BROADCAST), Ok(Egress::Gateway));
        assert_eq!(among_themselves.from(0, A, B), Err(DropReason::NobodyElse));
    }

    #[test]
    fn a_port_sends_from_its_own_mac_address_only() {
        let rig = Rig::new([with_macs(Macs::Only(A)), with_macs(Macs::Only(B)), with_macs(Macs::FirstCome)]);
        let other = EthernetAddress([2; 6]);
        assert_eq!(rig.from(0, A, GATEWAY), Ok(Egress::Gateway));
        assert_eq!(rig.from(0, other, GATEWAY), Err(DropReason::SourceMacForged));
        assert_eq!(rig.from(2, A, GATEWAY), Err(DropReason::SourceMacForged), "known on another port");
        assert_eq!(
            rig.from(2, B, GATEWAY),
            Err(DropReason::SourceMacForged),
            "silent, but bound to another port"
        );
        assert_eq!(rig.from(2, other, GATEWAY), Ok(Egress::Gateway));
        assert_eq!(rig.fdb.lookup(Vlan::UNTAGGED, A, NOW), Some(port(0)));
    }

    #[test]
    fn guards_look_behind_a_tag_and_nothing_is_learned_from_a_forgery() {
        let membership = Membership::Trunk { tagged: VlanSet::all(), native: None };
        let rig = Rig::new([Some(Policy { membership, ..Policy::default() }), on(5)]);
        let mut forged = tagged(B, A, 5);
        forged.bytes_mut()[18..22].copy_from_slice(&[0x45, 0, 0, 40]);
        forged.bytes_mut()[30..34].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(rig.decide(port(0), &mut forged), Err(DropReason::Ipv4SourceForged));
        assert_eq!(rig.fdb.entries(NOW).count(), 0);
    }

    #[test]
    fn storms_are_metered_by_what_is_flooded() {
        let one = Some(Rate::per_sec(1));
        let rates = StormRates { broadcast: one, multicast: one, unknown_unicast: one };
        let storm = Arc::new(StormControl::new(rates));
        let rig = Rig::new([Some(Policy { storm, ..open() }), None]);
        let group = EthernetAddress([0x01, 0, 0x5e, 1, 1, 1]);
        for (destination, first, reason) in [
            (EthernetAddress::BROADCAST, flood(true), DropReason::BroadcastStorm),
            (
                group,
                Ok(Egress::Flood { gateway: true, audience: Audience::Group }),
                DropReason::MulticastStorm,
            ),
            (B, flood(false), DropReason::UnknownUnicastStorm),
        ] {
            assert_eq!(rig.from(0, A, destination), first);
            assert_eq!(rig.from(0, A, destination), Err(reason));
        }
        rig.fdb.learn(Vlan::UNTAGGED, B, port(1), NOW);
        assert!((0..10).all(|_| rig.from(0, A, B).is_ok() && rig.from(0, A, GATEWAY).is_ok()));
    }
}
