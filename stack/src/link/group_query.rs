// SPDX-License-Identifier: MIT OR Apache-2.0
//! General queries: a host is asked which multicast groups it has joined.
//!
//! # How it works
//! The gateway is no querier. The switch that [snoops](wharf_switch::snoop) has it ask each host once, when its port was
//! attached. RFC 4541 section 2.1.1 knows such queries of IGMP, which take no part in the election of a querier: the
//! source "0.0.0.0 ... represents a special case where the switch is proxying IGMP Queries for faster network convergence,
//! but is not itself the Querier". MLD knows none; but nobody else hears it.
//!
//! # Sources
//! RFC 3376 section 4.1; RFC 3810 section 5.1; RFC 2113 and RFC 2711 (router alert).

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{EthernetAddress, IpProtocol, Ipv4Packet, checksum};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Frame, Pool};

use super::ndp::{ALL_NODES, multicast_mac};
use crate::Config;
use crate::wire::emit::{self, Path};

const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_SYSTEMS_MAC: EthernetAddress = EthernetAddress([0x01, 0, 0x5e, 0, 0, 1]);
/// RFC 3376 section 4 and RFC 3810 section 5: the messages go no further than the link.
const HOP_LIMIT: u8 = 1;
/// IPv4 header with the router alert.
const IPV4_HEADER_LEN: u8 = 24;
const IPV4_ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// A hop-by-hop header with the router alert and padding, before ICMPv6.
const IPV6_ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
/// Type, to be answered within a second, checksum, no group, robustness 2, an interval of 125 s, no sources.
const IGMP_QUERY: [u8; 12] = [0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
/// The same with a group of 16 bytes, and the time in 16 bits of milliseconds.
const MLD_QUERY: [u8; 28] =
    [130, 0, 0, 0, 0x03, 0xe8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
/// Where both have their checksum.
const CHECKSUM: core::ops::Range<usize> = 2..4;

/// The queries of the families that the network has.
pub(crate) fn group_queries(config: &Config, pool: &Pool) -> impl Iterator<Item = Frame> {
    let igmp = config.ipv4.map(|_| igmp_query(config, pool));
    let mld = config.ipv6.map(|plan| mld_query(config, plan.link_local.into(), pool));
    igmp.into_iter().chain(mld)
}

fn igmp_query(config: &Config, pool: &Pool) -> Frame {
    let path = Path {
        src_mac: config.mac,
        dst_mac: ALL_SYSTEMS_MAC,
        src: Ipv4Addr::UNSPECIFIED.into(),
        dst: ALL_SYSTEMS.into(),
    };
    let message = with_checksum(IGMP_QUERY, !checksum::data(&IGMP_QUERY));
    let mut frame = packet(pool, &path, IpProtocol::Igmp, &IPV4_ROUTER_ALERT, &message);
    let bytes = frame.bytes_mut().get_mut(ETHERNET_HEADER_LEN..).unwrap_or_default();
    let mut header = Ipv4Packet::new_unchecked(bytes);
    header.set_header_len(IPV4_HEADER_LEN);
    header.fill_checksum();
    frame
}

fn mld_query(config: &Config, source: IpAddr, pool: &Pool) -> Frame {
    let dst_mac = multicast_mac(ALL_NODES);
    let path = Path { src_mac: config.mac, dst_mac, src: source, dst: ALL_NODES.into() };
    let len = u32::from(emit::len16(MLD_QUERY.len()));
    let pseudo = checksum::pseudo_header(&path.src.into(), &path.dst.into(), IpProtocol::Icmpv6, len);
    let message = with_checksum(MLD_QUERY, !checksum::combine(&[pseudo, checksum::data(&MLD_QUERY)]));
    packet(pool, &path, IpProtocol::HopByHop, &IPV6_ROUTER_ALERT, &message)
}

fn with_checksum<const N: usize>(mut message: [u8; N], sum: u16) -> [u8; N] {
    if let Some(field) = message.get_mut(CHECKSUM) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn packet(pool: &Pool, path: &Path, protocol: IpProtocol, options: &[u8], message: &[u8]) -> Frame {
    let mut frame = pool.small();
    let body = emit::ip(&mut frame, path, protocol, HOP_LIMIT, options.len() + message.len());
    for (to, from) in body.iter_mut().zip(options.iter().chain(message)) {
        *to = *from;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn the_queries_are_what_the_rfcs_draw() {
        let queries: Vec<_> = group_queries(&config(), &Pool::new(0)).collect();
        let [igmp, mld] = queries.as_slice() else { panic!("{} queries", queries.len()) };
        let ip = Ipv4Packet::new_checked(&igmp.bytes()[14..]).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!((ip.header_len(), ip.total_len(), ip.hop_limit()), (24, 36, 1));
        assert_eq!((ip.src_addr(), ip.dst_addr()), (Ipv4Addr::UNSPECIFIED, ALL_SYSTEMS));
        assert_eq!(igmp.bytes()[34..38], [0x94, 4, 0, 0], "RFC 2113");
        assert_eq!(checksum::data(ip.payload()), !0);
        // RFC 3376 section 4.1.
        assert_eq!(ip.payload()[..2], [0x11, 10]);
        assert_eq!(ip.payload()[4..], [0, 0, 0, 0, 2, 125, 0, 0]);
        // RFC 3810 section 5.1.
        assert_eq!(mld.bytes()[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(
            mld.bytes()[18..22],
            [0, 36, 0, 1],
            "36 bytes behind the header, from hop-by-hop on, one hop"
        );
        assert_eq!(mld.bytes()[54..64], [58, 0, 5, 2, 0, 0, 1, 0, 130, 0]);
        assert_eq!(mld.bytes().len(), 14 + 40 + 8 + 28);
    }

    #[test]
    fn a_network_of_one_family_asks_about_that_one() {
        let only = Config { ipv6: None, ..config() };
        assert_eq!(group_queries(&only, &Pool::new(0)).count(), 1);
    }
}
