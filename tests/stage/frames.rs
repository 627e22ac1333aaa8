// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames made by hand, headers through `smoltcp::wire`, and what to do to them to make them wrong.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, TcpSeqNumber, UdpPacket,
};

use super::{CONTAINER_MAC, GATEWAY_MAC};

pub const ETHERNET: usize = 14;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;

/// A TCP header; numbers are absolute.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    /// Letters of SFRPU and `.` for ACK.
    pub flags: String,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
}

pub fn ethernet(dst: EthernetAddress, src: EthernetAddress, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(dst);
    frame.set_src_addr(src);
    frame.set_ethertype(EthernetProtocol::from(kind));
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// An IP packet in a frame from the container to the gateway, or to the group of its destination.
pub fn ip(src: IpAddr, dst: IpAddr, protocol: IpProtocol, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = vec![0; IPV4 + payload.len()];
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
            packet.set_version(4);
            packet.set_header_len(20);
            packet.set_total_len((IPV4 + payload.len()) as u16);
            packet.set_hop_limit(hop_limit);
            packet.set_next_header(protocol);
            packet.set_src_addr(src);
            packet.set_dst_addr(dst);
            packet.payload_mut().copy_from_slice(payload);
            packet.fill_checksum();
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0; IPV6 + payload.len()];
            let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
            packet.set_version(6);
            packet.set_payload_len(payload.len() as u16);
            packet.set_hop_limit(hop_limit);
            packet.set_next_header(protocol);
            packet.set_src_addr(src);
            packet.set_dst_addr(dst);
            packet.payload_mut().copy_from_slice(payload);
            bytes
        }
        _ => panic!("one family"),
    };
    let mac = match dst {
        IpAddr::V6(dst) if dst.is_multicast() => {
            let [.., a, b, c, d] = dst.octets();
            EthernetAddress([0x33, 0x33, a, b, c, d])
        }
        IpAddr::V4(dst) if dst.is_broadcast() => EthernetAddress::BROADCAST,
        _ => GATEWAY_MAC,
    };
    ethernet(mac, CONTAINER_MAC, if src.is_ipv4() { 0x0800 } else { 0x86dd }, &packet)
}

pub fn udp_bytes(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + payload.len()];
    let mut packet = UdpPacket::new_unchecked(&mut bytes);
    packet.set_src_port(src.port());
    packet.set_dst_port(dst.port());
    packet.set_len((8 + payload.len()) as u16);
    packet.payload_mut().copy_from_slice(payload);
    packet.fill_checksum(&src.ip().into(), &dst.ip().into());
    bytes
}

pub fn udp(src: SocketAddr, dst: SocketAddr, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    ip(src.ip(), dst.ip(), IpProtocol::Udp, hop_limit, &udp_bytes(src, dst, payload))
}

pub fn tcp_bytes(src: SocketAddr, dst: SocketAddr, header: &Tcp, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + header.options.len().next_multiple_of(4);
    let mut bytes = vec![0; header_len + payload.len()];
    let mut packet = TcpPacket::new_unchecked(&mut bytes);
    packet.set_src_port(src.port());
    packet.set_dst_port(dst.port());
    packet.set_seq_number(TcpSeqNumber(header.seq.cast_signed()));
    packet.set_ack_number(TcpSeqNumber(header.ack.cast_signed()));
    packet.clear_flags();
    packet.set_header_len(header_len as u8);
    packet.set_syn(header.flags.contains('S'));
    packet.set_fin(header.flags.contains('F'));
    packet.set_rst(header.flags.contains('R'));
    packet.set_psh(header.flags.contains('P'));
    packet.set_urg(header.flags.contains('U'));
    packet.set_ack(header.flags.contains('.'));
    packet.set_window_len(header.window);
    packet.options_mut()[..header.options.len()].copy_from_slice(&header.options);
    packet.payload_mut().copy_from_slice(payload);
    packet.fill_checksum(&src.ip().into(), &dst.ip().into());
    bytes
}

pub fn tcp(src: SocketAddr, dst: SocketAddr, hop_limit: u8, header: &Tcp, payload: &[u8]) -> Vec<u8> {
    ip(src.ip(), dst.ip(), IpProtocol::Tcp, hop_limit, &tcp_bytes(src, dst, header, payload))
}

/// An ICMP message of the addresses' family; `body` is everything behind the checksum.
pub fn icmp(src: IpAddr, dst: IpAddr, hop_limit: u8, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], body].concat();
    let protocol = match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Packet::new_unchecked(&mut bytes).fill_checksum(&src, &dst);
            IpProtocol::Icmpv6
        }
        _ => {
            Icmpv4Packet::new_unchecked(&mut bytes).fill_checksum();
            IpProtocol::Icmp
        }
    };
    ip(src, dst, protocol, hop_limit, &bytes)
}

/// A piece of an IPv4 packet; the offset counts bytes.
pub fn fragment(src: IpAddr, dst: IpAddr, ident: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = ip(src, dst, IpProtocol::Udp, 64, payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_ident(ident);
    packet.set_frag_offset(offset);
    packet.set_more_frags(more);
    packet.fill_checksum();
    frame
}

pub fn arp(operation: u16, sender_mac: EthernetAddress, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend_from_slice(&operation.to_be_bytes());
    bytes.extend_from_slice(&sender_mac.0);
    bytes.extend_from_slice(&sender);
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&target);
    ethernet(EthernetAddress::BROADCAST, CONTAINER_MAC, 0x0806, &bytes)
}

/// A DHCP message of a type with options.
pub fn dhcp(op: u8, kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..4].copy_from_slice(&[op, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
    bytes[28..34].copy_from_slice(&CONTAINER_MAC.0);
    bytes.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
    bytes.extend_from_slice(options);
    bytes.push(255);
    udp("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), 64, &bytes)
}
