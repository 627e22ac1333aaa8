// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards: a port speaks for itself only.
//!
//! # Path
//! [`Forwarding::decide`](crate::forward::Forwarding::decide), before the sender is learned; IPv6 in [`ipv6`].
//!
//! # How it works
//! | what a frame claims | must be | else |
//! |---|---|---|
//! | source MAC address | the port's ([`Macs`]) | [`DropReason::SourceMacForged`] |
//! | ARP sender | the frame's source, and an address of the port | [`DropReason::ArpForged`] |
//! | IPv4, IPv6 source | an address of the port ([`Addresses`]) | [`DropReason::Ipv4SourceForged`], [`DropReason::Ipv6SourceForged`] |
//! | target of a Neighbor Advertisement, link-layer address options | as above | [`DropReason::NdpForged`] |
//! | to be a DHCP server | permitted | [`DropReason::DhcpServerForbidden`] |
//! | to be a router | permitted | [`DropReason::RouterForbidden`] |
//!
//! The gateway's MAC address is nobody's, whatever the guards say. Without an address yet, a port may look for one: ARP
//! probes, DHCP, IGMP and MLD reports, duplicate address detection, and IPv6 from the link-local address that its MAC
//! address makes (RFC 4291 appendix A). Any other link-local address has to be bound, like every address.
//!
//! A checksum that is still owed may not lie where it would change what was looked at once it is paid.
//!
//! Later fragments pass when their source address does: nothing can be made of them without the first, and a first
//! one that does not hold what has to be looked at is dropped.
//!
//! # Bounds
//! [`MAX_BINDINGS`] addresses or prefixes per port and family; headers are walked as far as
//! [`MAX_EXTENSIONS`](crate::offload::extensions::MAX_EXTENSIONS).
//!
//! # Sources
//! RFC 7039 (source address validation), RFC 7513 section 3 (DHCP snooping), RFC 7113 and RFC 6980 (Neighbor
//! Discovery in fragments), RFC 5227 (ARP probes), RFC 4862 section 5.4, RFC 1256.

mod ipv6;

use core::fmt;

use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Address, Ipv4Cidr, Ipv4Packet, Ipv6Address, Ipv6Cidr,
};

use crate::offload::transport::Transport;
use crate::{Checksum, DropReason, Frame};

/// Addresses or prefixes of one family that a port may have.
pub const MAX_BINDINGS: usize = 16;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// ICMP redirect, RFC 792.
const ICMP_REDIRECT: u8 = 5;
/// ICMP Router Advertisement, RFC 1256 section 3.
const ICMP_ROUTER_ADVERTISEMENT: u8 = 9;

/// The MAC addresses that a port may send from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Macs {
    /// Every address but the gateway's: another switch, a VM that bridges.
    Any,
    /// Those that are not bound to another port, and not known on one now.
    #[default]
    FirstCome,
    /// This one.
    Only(EthernetAddress),
}

/// The IP addresses that a port may send from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Every address: a router.
    Any,
    /// Not known yet: it may look for one. The owner of the switch, who leases addresses, binds them.
    #[default]
    Unknown,
    /// These.
    Bound(Bindings),
}

/// More than [`MAX_BINDINGS`] addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyBindings;

impl fmt::Display for TooManyBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a port can have {MAX_BINDINGS} addresses of each family")
    }
}

impl std::error::Error for TooManyBindings {}

/// Addresses and prefixes of one port. A prefix is the port's alone: the guards let it use every address within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    ipv4: Box<[Ipv4Cidr]>,
    ipv6: Box<[Ipv6Cidr]>,
}

impl Bindings {
    /// These addresses; prefixes of 32 and 128 bits are single ones.
    ///
    /// # Errors
    /// [`TooManyBindings`].
    pub fn new(ipv4: &[Ipv4Cidr], ipv6: &[Ipv6Cidr]) -> Result<Self, TooManyBindings> {
        if ipv4.len() > MAX_BINDINGS || ipv6.len() > MAX_BINDINGS {
            return Err(TooManyBindings);
        }
        Ok(Self { ipv4: ipv4.into(), ipv6: ipv6.into() })
    }
}

/// What a port may say of itself. By default every guard is on and no address is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Its MAC addresses.
    pub macs: Macs,
    /// Its IP addresses.
    pub addresses: Addresses,
    /// It may answer DHCP, of either family.
    pub may_serve_dhcp: bool,
    /// It may send Router Advertisements and redirects, of either family.
    pub may_route: bool,
}

impl Guard {
    /// No guards: a router, or a VM that is one for others.
    pub const OFF: Self =
        Self { macs: Macs::Any, addresses: Addresses::Any, may_serve_dhcp: true, may_route: true };

    /// Checks what a frame without VLAN tag says of its sender behind the Ethernet header.
    pub(crate) fn check(&self, frame: &Frame) -> Result<(), DropReason> {
        if self.addresses == Addresses::Any && self.may_serve_dhcp && self.may_route {
            return Ok(());
        }
        self.check_headers(frame.bytes())?;
        if changes_headers(frame) { Err(DropReason::VnetHeaderInvalid) } else { Ok(()) }
    }

    fn check_headers(&self, frame: &[u8]) -> Result<(), DropReason> {
        let ethernet = EthernetFrame::new_checked(frame).map_err(|_| DropReason::FrameTruncated)?;
        let (source, packet) = (ethernet.src_addr(), ethernet.payload());
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.check_arp(source, packet),
            EthernetProtocol::Ipv4 => self.check_ipv4(packet),
            EthernetProtocol::Ipv6 => self.check_ipv6(source, packet),
            EthernetProtocol::Unknown(_) => Ok(()),
        }
    }

    fn has_ipv4(&self, address: Ipv4Address) -> bool {
        match &self.addresses {
            Addresses::Any => true,
            Addresses::Unknown => false,
            Addresses::Bound(bound) => bound.ipv4.iter().any(|prefix| prefix.contains_addr(&address)),
        }
    }

    fn has_ipv6(&self, address: Ipv6Address) -> bool {
        match &self.addresses {
            Addresses::Any => true,
            Addresses::Unknown => false,
            Addresses::Bound(bound) => bound.ipv6.iter().any(|prefix| prefix.contains_addr(&address)),
        }
    }

    /// Whether a message in a frame from `source` may give this as its sender's MAC address.
    fn has_mac(&self, source: EthernetAddress, claimed: &[u8]) -> bool {
        self.macs == Macs::Any || claimed == source.as_bytes()
    }

    fn check_arp(&self, source: EthernetAddress, packet: &[u8]) -> Result<(), DropReason> {
        if self.addresses == Addresses::Any {
            return Ok(());
        }
        let arp = ArpPacket::new_checked(packet).map_err(|_| DropReason::HeadersUnreadable)?;
        let &[a, b, c, d] = arp.source_protocol_addr() else { return Err(DropReason::HeadersUnreadable) };
        if arp.hardware_type() != ArpHardware::Ethernet
            || arp.protocol_type() != EthernetProtocol::Ipv4
            || arp.hardware_len() != 6
        {
            return Err(DropReason::HeadersUnreadable);
        }
        let sender = Ipv4Address::new(a, b, c, d);
        // RFC 5227 section 1.1: an ARP probe is "an ARP Request packet, broadcast on the local link, with an all-zero
        // 'sender IP address'".
        let is_probe = sender.is_unspecified() && arp.operation() == ArpOperation::Request;
        let is_own = is_probe || self.has_ipv4(sender);
        if is_own && self.has_mac(source, arp.source_hardware_addr()) {
            Ok(())
        } else {
            Err(DropReason::ArpForged)
        }
    }

    fn check_ipv4(&self, packet: &[u8]) -> Result<(), DropReason> {
        let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::HeadersUnreadable)?;
        if ip.version() != 4 {
            return Err(DropReason::HeadersUnreadable);
        }
        let (is_first, payload) = (ip.frag_offset() == 0, ip.payload());
        let ports = match ip.next_header() {
            IpProtocol::Udp if is_first => Some(udp_ports(payload)?),
            _ => None,
        };
        let seeks_address = ip.src_addr().is_unspecified()
            && is_first
            && (ports == Some((DHCP_CLIENT, DHCP_SERVER)) || ip.next_header() == IpProtocol::Igmp);
        if !seeks_address && !self.has_ipv4(ip.src_addr()) {
            return Err(DropReason::Ipv4SourceForged);
        }
        if ports.is_some_and(|ports| answers_dhcp(ports, DHCP_SERVER, DHCP_CLIENT)) && !self.may_serve_dhcp {
            return Err(DropReason::DhcpServerForbidden);
        }
        if is_first && ip.next_header() == IpProtocol::Icmp && !self.may_route {
            let kind = *payload.first().ok_or(DropReason::HeadersUnreadable)?;
            if matches!(kind, ICMP_REDIRECT | ICMP_ROUTER_ADVERTISEMENT) {
                return Err(DropReason::RouterForbidden);
            }
        }
        Ok(())
    }
}

/// Whether the owed checksum, once it is paid, would be written over something that was looked at here. Its sender could
/// choose the sum so that it becomes another's address.
fn changes_headers(frame: &Frame) -> bool {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return false };
    let Some(transport) = Transport::locate(frame.bytes()) else { return true };
    let Some(at) = (usize::from(start) + usize::from(offset)).checked_sub(transport.start) else {
        return true;
    };
    match transport.protocol {
        IpProtocol::Udp => at < 6,
        IpProtocol::Icmpv6 => at != 2,
        // Tunnels may owe the checksum of what is inside.
        _ => at < 2,
    }
}

/// Source and destination port.
fn udp_ports(datagram: &[u8]) -> Result<(u16, u16), DropReason> {
    let &[s0, s1, d0, d1] = datagram.first_chunk().ok_or(DropReason::HeadersUnreadable)?;
    Ok((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

/// Whether a datagram between these ports is one that only servers send. Clients look at the destination port alone, so
/// an answer from an odd port counts.
fn answers_dhcp((source, destination): (u16, u16), server: u16, client: u16) -> bool {
    source == server || destination == client
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    pub(super) const MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0a]);
    pub(super) const OTHER: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x0b]);

    /// A guard with 192.0.2.10, 2001:db8::10 and 2001:db8:a::/64.
    pub(super) fn bound() -> Guard {
        let ipv4 = ["192.0.2.10/32".parse().unwrap()];
        let ipv6 = ["2001:db8::10/128".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
        Guard { addresses: Addresses::Bound(Bindings::new(&ipv4, &ipv6).unwrap()), ..Guard::default() }
    }

    pub(super) fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0xff; 6], &MAC.0[..], &ethertype.to_be_bytes(), packet].concat()
    }

    fn arp(operation: u8, hardware: EthernetAddress, sender: [u8; 4]) -> Vec<u8> {
        let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
        frame(0x0806, &[&fixed[..], &hardware.0, &sender, &[0; 6], &[192, 0, 2, 1]].concat())
    }

    /// `offset` is the whole field with its flags.
    fn ipv4(source: [u8; 4], offset: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let [o0, o1] = offset.to_be_bytes();
        let header = [0x45, 0, total[0], total[1], 0, 1, o0, o1, 64, protocol, 0, 0];
        frame(0x0800, &[&header[..], &source, &[255; 4], payload].concat())
    }

    fn udp(source: u16, destination: u16) -> Vec<u8> {
        [source, destination, 8, 0].iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    const OWN: [u8; 4] = [192, 0, 2, 10];
    const FOREIGN: [u8; 4] = [192, 0, 2, 11];
    const NONE: [u8; 4] = [0; 4];
    const MORE: u16 = 0x2000;

    #[test]
    fn arp_speaks_of_its_sender_only() {
        for (guard, allowed) in [(bound(), true), (Guard::default(), false)] {
            for operation in [1, 2] {
                assert_eq!(guard.check_headers(&arp(operation, MAC, OWN)).is_ok(), allowed);
                assert_eq!(guard.check_headers(&arp(operation, MAC, FOREIGN)), Err(DropReason::ArpForged));
                assert_eq!(guard.check_headers(&arp(operation, OTHER, OWN)), Err(DropReason::ArpForged));
            }
            assert_eq!(guard.check_headers(&arp(1, MAC, NONE)), Ok(()), "a probe");
            assert_eq!(guard.check_headers(&arp(2, MAC, NONE)), Err(DropReason::ArpForged));
        }
        let router = Guard { addresses: Addresses::Any, ..Guard::default() };
        assert_eq!(router.check_headers(&arp(2, MAC, FOREIGN)), Ok(()));
    }

    #[test]
    fn arp_that_cannot_be_read_is_dropped() {
        let whole = arp(1, MAC, OWN);
        assert_eq!(bound().check_headers(&whole[..whole.len() - 1]), Err(DropReason::HeadersUnreadable));
        for (at, value) in [(15, 6), (17, 1), (18, 7), (19, 3)] {
            let mut odd = [&whole[..], &[0; 20]].concat();
            odd[at] = value;
            assert_eq!(bound().check_headers(&odd), Err(DropReason::HeadersUnreadable), "byte {at}");
        }
    }

    #[test]
    fn ipv4_sources_are_the_ports_in_every_fragment() {
        for offset in [0, MORE, MORE | 5, 5] {
            assert_eq!(bound().check_headers(&ipv4(OWN, offset, 6, &[0; 20])), Ok(()));
            for guard in [bound(), Guard::default()] {
                let forged = ipv4(FOREIGN, offset, 6, &[0; 20]);
                assert_eq!(guard.check_headers(&forged), Err(DropReason::Ipv4SourceForged));
            }
        }
        assert_eq!(
            Guard::default().check_headers(&ipv4(OWN, 0, 6, &[0; 20])),
            Err(DropReason::Ipv4SourceForged)
        );
    }

    #[test]
    fn without_an_address_a_port_may_ask_for_one_and_nothing_else() {
        for guard in [bound(), Guard::default()] {
            assert_eq!(guard.check_headers(&ipv4(NONE, 0, 17, &udp(68, 67))), Ok(()));
            assert_eq!(guard.check_headers(&ipv4(NONE, 0, 2, &[0x16; 8])), Ok(()), "IGMP");
            let spoofed = Err(DropReason::Ipv4SourceForged);
            assert_eq!(guard.check_headers(&ipv4(NONE, 0, 17, &udp(68, 53))), spoofed);
            assert_eq!(
                guard.check_headers(&ipv4(NONE, 5, 17, &udp(68, 67))),
                spoofed,
                "not the first fragment"
            );
            assert_eq!(guard.check_headers(&ipv4(NONE, 5, 2, &[0x16; 8])), spoofed, "not the first fragment");
            assert_eq!(guard.check_headers(&ipv4(NONE, 0, 6, &[0; 20])), spoofed);
        }
    }

    #[test]
    fn dhcp_is_answered_by_permitted_ports_only() {
        let server = Guard { may_serve_dhcp: true, ..bound() };
        for (source, destination) in [(67, 68), (67, 67), (4000, 68)] {
            for offset in [0, MORE] {
                let answer = ipv4(OWN, offset, 17, &udp(source, destination));
                assert_eq!(bound().check_headers(&answer), Err(DropReason::DhcpServerForbidden));
                assert_eq!(server.check_headers(&answer), Ok(()));
            }
        }
        assert_eq!(bound().check_headers(&ipv4(OWN, 0, 17, &udp(68, 67))), Ok(()), "a renewal");
    }

    #[test]
    fn icmp_does_not_change_routes() {
        let router = Guard { may_route: true, ..bound() };
        for kind in [5, 9] {
            let message = ipv4(OWN, 0, 1, &[kind; 8]);
            assert_eq!(bound().check_headers(&message), Err(DropReason::RouterForbidden));
            assert_eq!(router.check_headers(&message), Ok(()));
        }
        assert_eq!(bound().check_headers(&ipv4(OWN, 0, 1, &[8; 8])), Ok(()));
    }

    #[test]
    fn a_first_fragment_too_small_to_be_looked_at_is_dropped() {
        let unreadable = Err(DropReason::HeadersUnreadable);
        assert_eq!(bound().check_headers(&ipv4(OWN, MORE, 17, &[0, 67, 0])), unreadable);
        assert_eq!(bound().check_headers(&ipv4(OWN, MORE, 1, &[])), unreadable);
        assert_eq!(bound().check_headers(&ipv4(OWN, MORE | 1, 17, &[])), Ok(()), "a later one");
        let mut version = ipv4(OWN, 0, 6, &[0; 20]);
        version[14] = 0x65;
        assert_eq!(bound().check_headers(&version), unreadable);
        version[14] = 0x4f;
        version.truncate(40);
        assert_eq!(bound().check_headers(&version), unreadable);
    }

    /// A frame whose checksum is owed, to be written at `field`.
    fn owing(bytes: &[u8], field: u16) -> Frame {
        let mut frame = Pool::new(0).small();
        frame.fill(bytes);
        frame.offload.checksum = Checksum::Partial { start: 14, offset: field - 14 };
        frame
    }

    #[test]
    fn an_owed_checksum_becomes_no_address() {
        let invalid = Err(DropReason::VnetHeaderInvalid);
        let datagram = ipv4(OWN, 0, 17, &[&udp(5000, 53)[..], &[0; 8]].concat());
        for field in 14..14 + 26 {
            assert_eq!(bound().check(&owing(&datagram, field)), invalid, "{field}");
        }
        assert_eq!(bound().check(&owing(&datagram, 14 + 26)), Ok(()));
        assert_eq!(bound().check(&owing(&datagram, 14 + 34)), Ok(()), "within a tunnel");
        assert_eq!(bound().check(&owing(&ipv4(OWN, 0, 6, &[0; 20]), 14 + 36)), Ok(()));
        assert_eq!(bound().check(&owing(&ipv4(OWN, 0, 1, &[8; 8]), 14 + 20)), invalid, "the type");
        assert_eq!(bound().check(&owing(&ipv4(OWN, MORE, 6, &[0; 20]), 14 + 36)), invalid, "a fragment");
        assert_eq!(bound().check(&owing(&arp(1, MAC, OWN), 14 + 16)), invalid);
    }

    #[test]
    fn an_open_guard_looks_at_nothing() {
        assert_eq!(Guard::OFF.check(&owing(&frame(0x0800, &[]), 14)), Ok(()));
        assert_eq!(bound().check_headers(&frame(0x88b5, &[])), Ok(()), "not IP");
    }

    #[test]
    fn a_port_has_a_bounded_number_of_addresses() {
        let one: Ipv4Cidr = "192.0.2.1/32".parse().unwrap();
        assert!(Bindings::new(&[one; MAX_BINDINGS], &[]).is_ok());
        assert_eq!(Bindings::new(&[one; MAX_BINDINGS + 1], &[]), Err(TooManyBindings));
    }
}
