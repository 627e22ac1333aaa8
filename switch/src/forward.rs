// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarding decision: where one frame goes.
//!
//! # How it works
//! [`decide`] learns the source address, then reads the destination:
//!
//! | destination | from a port | from the gateway |
//! |---|---|---|
//! | the gateway's address | gateway | dropped |
//! | a group address | gateway and the VLAN's other ports | the VLAN's ports |
//! | known on another port of the VLAN | that port | that port |
//! | known on the very port | dropped | - |
//! | unknown | the VLAN's other ports | the VLAN's ports |
//!
//! A frame without a VLAN tag belongs to its port's VLAN; tagged frames wait for trunk ports and are dropped.
//!
//! # Sources
//! IEEE 802.1D-2004 sections 7.7 (forwarding), 7.8 (learning), 7.12.6 (reserved addresses).

use smoltcp::wire::{EthernetAddress, EthernetFrame};

use crate::{DropReason, Fdb, Frame, Instant, PortId, Vlan};

/// Tag protocol identifiers of IEEE 802.1Q (C-tag, S-tag).
const TAG_TYPES: [u16; 2] = [0x8100, 0x88a8];

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// To the gateway only.
    Gateway,
    /// To one port.
    One(PortId),
    /// To every port of the VLAN but the one it came from.
    Flood {
        /// The VLAN.
        vlan: Vlan,
        /// And to the gateway.
        gateway: bool,
    },
}

/// What the decision has to know of the ports.
pub trait PortTable {
    /// The VLAN of untagged frames on `port`; `None` when the port is gone.
    fn vlan_of(&self, port: PortId) -> Option<Vlan>;

    /// Whether the VLAN has a port other than `except`.
    fn has_others(&self, vlan: Vlan, except: PortId) -> bool;
}

/// Decides where a frame goes that came in on `ingress`, or from the gateway ([`PortId::GATEWAY`]).
///
/// # Errors
/// Why it goes nowhere.
pub fn decide(
    fdb: &Fdb,
    ports: &impl PortTable,
    gateway: EthernetAddress,
    ingress: PortId,
    frame: &Frame,
    now: Instant,
) -> Result<Egress, DropReason> {
    let header = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::FrameTruncated)?;
    let destination = header.dst_addr();
    // IEEE 802.1D 7.12.6: "Frames containing any of the group MAC Addresses specified in Table 7-10 in their
    // destination address field shall not be relayed by the Bridge."
    if is_reserved(destination) {
        return Err(DropReason::ReservedGroupAddress);
    }
    if TAG_TYPES.contains(&header.ethertype().into()) {
        return Err(DropReason::VlanUnknown);
    }
    let from_gateway = ingress == PortId::GATEWAY;
    // The gateway is on the untagged VLAN until a VLAN declares a prefix of its own.
    let vlan = if from_gateway {
        Vlan::UNTAGGED
    } else {
        let source = header.src_addr();
        let vlan = ports.vlan_of(ingress).ok_or(DropReason::PortClosed)?;
        // IEEE 802.1D 7.8: "The source address field of the frame specifies a specific end station (i.e., is
        // not a group MAC Address)."
        if source.is_multicast() {
            return Err(DropReason::SourceMacGroup);
        }
        if source == gateway {
            return Err(DropReason::SourceIsGateway);
        }
        fdb.learn(vlan, source, ingress, now);
        vlan
    };
    let reaches_gateway = vlan == Vlan::UNTAGGED && !from_gateway;
    if destination == gateway && vlan == Vlan::UNTAGGED {
        return if from_gateway { Err(DropReason::SamePort) } else { Ok(Egress::Gateway) };
    }
    if destination.is_multicast() {
        return match (ports.has_others(vlan, ingress), reaches_gateway) {
            (true, gateway) => Ok(Egress::Flood { vlan, gateway }),
            (false, true) => Ok(Egress::Gateway),
            (false, false) => Err(DropReason::NobodyElse),
        };
    }
    match fdb.lookup(vlan, destination, now).filter(|&port| ports.vlan_of(port) == Some(vlan)) {
        Some(port) if port == ingress => Err(DropReason::SamePort),
        Some(port) => Ok(Egress::One(port)),
        None if ports.has_others(vlan, ingress) => Ok(Egress::Flood { vlan, gateway: false }),
        None => Err(DropReason::NobodyElse),
    }
}

/// 01:80:c2:00:00:00 to 01:80:c2:00:00:0f.
fn is_reserved(address: EthernetAddress) -> bool {
    matches!(address.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    const GATEWAY: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0xfe]);
    const A: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0a]);
    const B: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0b]);
    const NOW: Instant = Instant::from_secs(1);

    /// Ports 0 to 9; the first `untagged` are on no VLAN, the rest on VLAN 5.
    struct Ports {
        untagged: u32,
        tagged: u32,
    }

    impl PortTable for Ports {
        fn vlan_of(&self, port: PortId) -> Option<Vlan> {
            match port.index {
                index if port.generation == 0 && index < self.untagged => Some(Vlan::UNTAGGED),
                index if port.generation == 0 && index < self.untagged + self.tagged => Vlan::new(5),
                _ => None,
            }
        }

        fn has_others(&self, vlan: Vlan, except: PortId) -> bool {
            (0..self.untagged + self.tagged)
                .any(|index| index != except.index && self.vlan_of(port(index)) == Some(vlan))
        }
    }

    fn port(index: u32) -> PortId {
        PortId { index, generation: 0 }
    }

    fn fdb() -> Fdb {
        Fdb::new(64, [7; 16])
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

    #[test]
    fn an_answer_goes_to_the_port_of_the_question_only() {
        let (fdb, ports) = (fdb(), Ports { untagged: 3, tagged: 0 });
        let flood = Ok(Egress::Flood { vlan: Vlan::UNTAGGED, gateway: false });
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &ip(B, A), NOW), flood);
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(1), &ip(A, B), NOW), Ok(Egress::One(port(0))));
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &ip(B, A), NOW), Ok(Egress::One(port(1))));
    }

    #[test]
    fn the_gateways_frames_are_the_gateways_only() {
        let (fdb, ports) = (fdb(), Ports { untagged: 3, tagged: 0 });
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &ip(GATEWAY, A), NOW), Ok(Egress::Gateway));
    }

    #[test]
    fn the_gateways_answer_goes_to_the_port_it_was_asked_from() {
        let (fdb, ports) = (fdb(), Ports { untagged: 3, tagged: 0 });
        decide(&fdb, &ports, GATEWAY, port(2), &ip(GATEWAY, A), NOW).unwrap();
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, PortId::GATEWAY, &ip(A, GATEWAY), NOW),
            Ok(Egress::One(port(2)))
        );
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, PortId::GATEWAY, &ip(B, GATEWAY), NOW),
            Ok(Egress::Flood { vlan: Vlan::UNTAGGED, gateway: false })
        );
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, PortId::GATEWAY, &ip(GATEWAY, GATEWAY), NOW),
            Err(DropReason::SamePort)
        );
    }

    #[test]
    fn broadcast_reaches_the_gateway_and_every_other_port() {
        let fdb = fdb();
        let broadcast = ip(EthernetAddress::BROADCAST, A);
        assert_eq!(
            decide(&fdb, &Ports { untagged: 2, tagged: 0 }, GATEWAY, port(0), &broadcast, NOW),
            Ok(Egress::Flood { vlan: Vlan::UNTAGGED, gateway: true })
        );
        assert_eq!(
            decide(&fdb, &Ports { untagged: 1, tagged: 0 }, GATEWAY, port(0), &broadcast, NOW),
            Ok(Egress::Gateway)
        );
        assert_eq!(
            decide(&fdb, &Ports { untagged: 0, tagged: 0 }, GATEWAY, PortId::GATEWAY, &broadcast, NOW),
            Err(DropReason::NobodyElse)
        );
    }

    #[test]
    fn unknown_addresses_are_not_the_gateways_business() {
        let (fdb, alone) = (fdb(), Ports { untagged: 1, tagged: 0 });
        assert_eq!(decide(&fdb, &alone, GATEWAY, port(0), &ip(B, A), NOW), Err(DropReason::NobodyElse));
    }

    #[test]
    fn a_frame_for_its_own_port_goes_nowhere() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 0 });
        fdb.learn(Vlan::UNTAGGED, B, port(0), NOW);
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &ip(B, A), NOW), Err(DropReason::SamePort));
    }

    #[test]
    fn an_address_of_a_vanished_port_is_unknown() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 0 });
        fdb.learn(Vlan::UNTAGGED, B, PortId { index: 1, generation: 9 }, NOW);
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, port(0), &ip(B, A), NOW),
            Ok(Egress::Flood { vlan: Vlan::UNTAGGED, gateway: false })
        );
        let gone = PortId { index: 1, generation: 8 };
        assert_eq!(decide(&fdb, &ports, GATEWAY, gone, &ip(B, A), NOW), Err(DropReason::PortClosed));
    }

    #[test]
    fn false_sources_are_neither_forwarded_nor_learned() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 0 });
        let group = ip(B, EthernetAddress([0x03, 0, 0, 0, 0, 1]));
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &group, NOW), Err(DropReason::SourceMacGroup));
        let spoofed = ip(B, GATEWAY);
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &spoofed, NOW), Err(DropReason::SourceIsGateway));
        assert_eq!(fdb.entries(NOW).count(), 0);
    }

    #[test]
    fn reserved_group_addresses_are_not_relayed() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 0 });
        for (last, reserved) in [(0x00, true), (0x0e, true), (0x0f, true), (0x10, false)] {
            let frame = ip(EthernetAddress([0x01, 0x80, 0xc2, 0, 0, last]), A);
            let decided = decide(&fdb, &ports, GATEWAY, port(0), &frame, NOW);
            assert_eq!(decided == Err(DropReason::ReservedGroupAddress), reserved, "{last:#x}");
        }
    }

    #[test]
    fn tagged_and_truncated_frames_are_dropped() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 0 });
        let tagged = frame(B, A, 0x8100);
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &tagged, NOW), Err(DropReason::VlanUnknown));
        let mut short = ip(B, A);
        short.set_len(13);
        assert_eq!(decide(&fdb, &ports, GATEWAY, port(0), &short, NOW), Err(DropReason::FrameTruncated));
    }

    #[test]
    fn a_vlan_without_the_gateway_floods_within_itself() {
        let (fdb, ports) = (fdb(), Ports { untagged: 2, tagged: 2 });
        let vlan = Vlan::new(5).unwrap();
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, port(2), &ip(EthernetAddress::BROADCAST, A), NOW),
            Ok(Egress::Flood { vlan, gateway: false })
        );
        fdb.learn(Vlan::UNTAGGED, B, port(0), NOW);
        assert_eq!(
            decide(&fdb, &ports, GATEWAY, port(2), &ip(B, A), NOW),
            Ok(Egress::Flood { vlan, gateway: false }),
            "an address of another VLAN is unknown here"
        );
    }
}
