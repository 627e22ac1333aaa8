// SPDX-License-Identifier: MIT OR Apache-2.0
//! The peer's link: it says where it is when the gateway asks.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
};
use wharf_switch::offload::VNET_HEADER_LEN;

use super::MAC;
use super::wire::Device;

/// The answer to a question for `local`, if `frame` is one.
pub(super) fn answer(frame: &[u8], device: Device, local: IpAddr) -> Option<Vec<u8>> {
    let vnet = if device.vnet_header { VNET_HEADER_LEN } else { 0 };
    let question = EthernetFrame::new_checked(&frame[vnet..]).expect("a frame is an Ethernet frame");
    let (ethertype, payload) = match (question.ethertype(), local) {
        (EthernetProtocol::Arp, IpAddr::V4(local)) => {
            (EthernetProtocol::Arp, arp(question.payload(), local)?)
        }
        (EthernetProtocol::Ipv6, IpAddr::V6(local)) => {
            (EthernetProtocol::Ipv6, ndp(question.payload(), local)?)
        }
        _ => return None,
    };
    let mut answer = vec![0; vnet + 14 + payload.len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut answer[vnet..]);
    ethernet.set_src_addr(MAC);
    ethernet.set_dst_addr(question.src_addr());
    ethernet.set_ethertype(ethertype);
    ethernet.payload_mut().copy_from_slice(&payload);
    Some(answer)
}

fn arp(question: &[u8], local: std::net::Ipv4Addr) -> Option<Vec<u8>> {
    let question = ArpRepr::parse(&ArpPacket::new_checked(question).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = question
    else {
        return None;
    };
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: MAC,
        source_protocol_addr: local,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    (target_protocol_addr == local).then_some(bytes)
}

fn ndp(question: &[u8], local: std::net::Ipv6Addr) -> Option<Vec<u8>> {
    let ip = Ipv6Packet::new_checked(question).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let question = NdiscRepr::parse(&Icmpv6Packet::new_checked(ip.payload()).ok()?).ok()?;
    let NdiscRepr::NeighborSolicit { target_addr, .. } = question else { return None };
    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    let answer =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: local, lladdr: Some(MAC.into()) });
    let mut bytes = vec![0; 40 + answer.buffer_len()];
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
    packet.set_version(6);
    packet.set_payload_len(answer.buffer_len() as u16);
    packet.set_next_header(IpProtocol::Icmpv6);
    packet.set_hop_limit(255);
    packet.set_src_addr(local);
    packet.set_dst_addr(ip.src_addr());
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    answer.emit(&local, &ip.src_addr(), &mut message, &ChecksumCapabilities::default());
    (target_addr == local).then_some(bytes)
}
