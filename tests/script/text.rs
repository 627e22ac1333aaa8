// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the bytes of a frame to a script's words.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{
    ArpPacket, ArpRepr, DhcpPacket, DhcpRepr, DnsFlags, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscRepr, TcpOption, TcpPacket,
    UdpPacket,
};

use wharf_stack::local::dns::message::{Message, Section, kind};

use crate::Flow;

/// What a frame says, in the words of a script.
pub(crate) fn render(bytes: &[u8], flow: &mut Flow) -> String {
    let frame = EthernetFrame::new_checked(bytes).expect("an Ethernet frame");
    match frame.ethertype() {
        EthernetProtocol::Arp => arp(frame.payload()),
        EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => ip(frame.payload(), frame.dst_addr(), flow, false),
        EthernetProtocol::Unknown(kind) => format!("ethertype {kind:#06x}"),
    }
}

fn arp(bytes: &[u8]) -> String {
    let repr =
        ArpPacket::new_checked(bytes).and_then(|packet| ArpRepr::parse(&packet)).expect("an ARP packet");
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = repr
    else {
        panic!("ARP for Ethernet");
    };
    format!("arp {operation:?} {source_protocol_addr} is-at {source_hardware_addr} to {target_protocol_addr}")
}

fn ip(bytes: &[u8], mac: EthernetAddress, flow: &mut Flow, is_quoted: bool) -> String {
    let (src, dst, protocol, hop_limit, start): (IpAddr, IpAddr, _, _, usize) = if bytes[0] >> 4 == 4 {
        let packet = Ipv4Packet::new_unchecked(bytes);
        assert!(packet.verify_checksum(), "IPv4 header checksum");
        (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), packet.hop_limit(), 20)
    } else {
        let packet = Ipv6Packet::new_unchecked(bytes);
        (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), packet.hop_limit(), 40)
    };
    let payload = &bytes[start..];
    if is_quoted {
        let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        return format!("{protocol} {} > {}", SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)));
    }
    let ttl = if hop_limit == 64 { String::new() } else { format!("ttl {hop_limit} ") };
    let text = match (protocol, src, dst) {
        (IpProtocol::Tcp, ..) => tcp(payload, src, dst, flow),
        (IpProtocol::Udp, ..) => udp(payload, src, dst),
        (IpProtocol::Icmp, ..) => {
            let message = Icmpv4Packet::new_checked(payload).expect("an ICMP message");
            assert!(message.verify_checksum(), "ICMP checksum");
            icmp(payload, src, dst, flow)
        }
        (IpProtocol::Icmpv6, IpAddr::V6(from), IpAddr::V6(to)) => {
            let message = Icmpv6Packet::new_checked(payload).expect("an ICMPv6 message");
            assert!(message.verify_checksum(&from, &to), "ICMPv6 checksum");
            match NdiscRepr::parse(&message) {
                Ok(repr) if message.msg_type().is_ndisc() => ndp(&repr, src, dst, mac),
                _ => icmp(payload, src, dst, flow),
            }
        }
        _ => format!("{protocol} {src} > {dst}"),
    };
    ttl + &text
}

fn ndp(repr: &NdiscRepr<'_>, src: IpAddr, dst: IpAddr, mac: EthernetAddress) -> String {
    match repr {
        NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
            let at = lladdr.map_or_else(String::new, |address| format!(" is-at {address}"));
            format!("ndp advert {target_addr}{at} flags {:#04x} to {dst} {mac}", flags.bits())
        }
        NdiscRepr::RouterAdvert { router_lifetime, prefix_info, mtu, lladdr, .. } => {
            let prefix = prefix_info.map_or_else(String::new, |info| {
                format!("prefix {}/{} flags {:#04x}", info.prefix, info.prefix_len, info.flags.bits())
            });
            let mtu = mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
            let at = lladdr.map_or_else(String::new, |address| format!(" is-at {address}"));
            format!("ndp router {src}{at} lifetime {} {prefix}{mtu} to {dst}", router_lifetime.secs())
        }
        other => format!("ndp {other:?}"),
    }
}

fn icmp(bytes: &[u8], src: IpAddr, dst: IpAddr, flow: &mut Flow) -> String {
    let (kind, code) = (bytes[0], bytes[1]);
    if matches!(kind, 0 | 129) {
        return format!("icmp {src} > {dst} echo-reply {:?}", String::from_utf8_lossy(&bytes[8..]));
    }
    let quoted = ip(&bytes[8..], EthernetAddress::BROADCAST, flow, true);
    format!("icmp {src} > {dst} type {kind} code {code} quotes {quoted}")
}

fn udp(bytes: &[u8], src: IpAddr, dst: IpAddr) -> String {
    let packet = UdpPacket::new_checked(bytes).expect("a UDP datagram");
    if packet.src_port() == 67 {
        let message = DhcpPacket::new_checked(packet.payload()).expect("a DHCP message");
        let repr = DhcpRepr::parse(&message).expect("a DHCP message");
        let mut text = format!("dhcp {:?} {} to {dst}", repr.message_type, repr.your_ip);
        if let Some(mask) = repr.subnet_mask {
            let _ = write!(text, " mask {mask}");
        }
        if let Some(router) = repr.router {
            let _ = write!(text, " router {router}");
        }
        for server in repr.dns_servers.iter().flatten() {
            let _ = write!(text, " dns {server}");
        }
        if let Some(lease) = repr.lease_duration {
            let _ = write!(text, " lease {lease}");
        }
        return text;
    }
    let (src, dst) = (SocketAddr::new(src, packet.src_port()), SocketAddr::new(dst, packet.dst_port()));
    if src.port() == 53 {
        return format!("dns {src} > {dst} {}", dns(packet.payload()));
    }
    format!("udp {src} > {dst} {:?}", String::from_utf8_lossy(packet.payload()))
}

/// Result code, flags, and the answers: addresses as such, names with their lengths as letters.
fn dns(bytes: &[u8]) -> String {
    let message = Message::parse(bytes).expect("a DNS message");
    let mut text = format!("{:?}", message.header().rcode());
    for (flag, name) in [(DnsFlags::AUTHORITATIVE, " aa"), (DnsFlags::TRUNCATED, " tc")] {
        text.push_str(if message.has(flag) { name } else { "" });
    }
    for record in message.records().filter(|record| record.section == Section::Answer) {
        let data = message.data(&record);
        let _ = match (data.first_chunk::<4>(), data.first_chunk::<16>(), record.kind) {
            (Some(&address), _, kind::A) => write!(text, " A {}", Ipv4Addr::from(address)),
            (_, Some(&address), kind::AAAA) => write!(text, " AAAA {}", Ipv6Addr::from(address)),
            (_, _, kind) => write!(text, " TYPE{kind} {}", data.escape_ascii()),
        };
    }
    text
}

fn tcp(bytes: &[u8], src: IpAddr, dst: IpAddr, flow: &mut Flow) -> String {
    let packet = TcpPacket::new_checked(bytes).expect("a TCP segment");
    let ends = (SocketAddr::new(src, packet.src_port()), SocketAddr::new(dst, packet.dst_port()));
    let mut text = String::from("tcp ");
    if ends != (flow.remote, flow.container) {
        let _ = write!(text, "{} > {} ", ends.0, ends.1);
    }
    let seq = packet.seq_number().0.cast_unsigned();
    if packet.syn() {
        flow.first = Some(seq);
    }
    let letters = [
        (packet.syn(), 'S'),
        (packet.fin(), 'F'),
        (packet.rst(), 'R'),
        (packet.psh(), 'P'),
        (packet.ack(), '.'),
    ];
    text.extend(letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter));
    let (from, len) = (seq.wrapping_sub(flow.first.unwrap_or(0)), packet.payload().len() as u32);
    let _ = write!(text, " {from}:{}({len})", from.wrapping_add(len));
    if packet.ack() {
        let _ = write!(text, " ack {}", packet.ack_number().0.cast_unsigned());
    }
    let _ = write!(text, " win {}", packet.window_len());
    let options = options(packet.options());
    if !options.is_empty() {
        let _ = write!(text, " <{}>", options.join(","));
    }
    if (1..40).contains(&len) {
        let _ = write!(text, " {:?}", String::from_utf8_lossy(packet.payload()));
    }
    text
}

fn options(mut bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    while !bytes.is_empty() {
        let (rest, option) = TcpOption::parse(bytes).expect("well-formed options");
        bytes = rest;
        match option {
            TcpOption::MaxSegmentSize(mss) => words.push(format!("mss {mss}")),
            TcpOption::WindowScale(shift) => words.push(format!("wscale {shift}")),
            TcpOption::SackPermitted => words.push("sackOK".into()),
            TcpOption::SackRange(ranges) => {
                words.extend(ranges.iter().flatten().map(|(from, to)| format!("sack {from} {to}")));
            }
            TcpOption::EndOfList | TcpOption::NoOperation => {}
            other => words.push(format!("{other:?}")),
        }
    }
    words
}
