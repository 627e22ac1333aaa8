// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of the Linux-like peer: what is on the wire, to and from the values the peer thinks in.
//!
//! # How it works
//! Headers go through `smoltcp::wire`, options too, but for the fourth SACK block, which it does not know. Every
//! received frame is held against the rules of its virtio-net header: an owed checksum must already hold the
//! pseudo-header's sum, a finished one must be right, and nothing larger than the segment size may come unannounced.

use std::net::IpAddr;

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpOption,
    TcpPacket, TcpSeqNumber, checksum,
};
use wharf_switch::offload::VNET_HEADER_LEN;

const NEEDS_CHECKSUM: u8 = 1;
const TCPV4: u8 = 1;
const TCPV6: u8 = 4;

/// Both ends of a connection, the peer's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) mac: EthernetAddress,
    pub(crate) gateway_mac: EthernetAddress,
    pub(crate) local: (IpAddr, u16),
    pub(crate) remote: (IpAddr, u16),
}

/// What a device under the peer does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) vnet_header: bool,
    pub(crate) tso: bool,
}

/// A TCP segment, or a super-frame of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) window: u16,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) urgent: Option<u16>,
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamp: Option<(u32, u32)>,
    pub(crate) sacks: Vec<(u32, u32)>,
    pub(crate) payload: Vec<u8>,
    /// Payload bytes of each segment of a super-frame; zero for an ordinary one.
    pub(crate) pieces_of: u16,
}

impl Segment {
    fn options(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut push = |option: TcpOption<'_>| {
            let mut room = vec![0; option.buffer_len()];
            option.emit(&mut room);
            bytes.extend_from_slice(&room);
        };
        if let Some(mss) = self.mss {
            push(TcpOption::MaxSegmentSize(mss));
        }
        if self.sack_permitted {
            push(TcpOption::SackPermitted);
        }
        if let Some((tsval, tsecr)) = self.timestamp {
            push(TcpOption::TimeStamp { tsval, tsecr });
        }
        if let Some(scale) = self.scale {
            push(TcpOption::WindowScale(scale));
        }
        if !self.sacks.is_empty() {
            // RFC 2018 section 3: kind 5, length 8n + 2.
            bytes.extend_from_slice(&[1, 1, 5, (2 + 8 * self.sacks.len()) as u8]);
            for (from, to) in &self.sacks {
                bytes.extend_from_slice(&from.to_be_bytes());
                bytes.extend_from_slice(&to.to_be_bytes());
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// The frame of this segment, with a virtio-net header if the device has one.
    pub(crate) fn emit(&self, ends: &Ends, device: Device) -> Vec<u8> {
        let options = self.options();
        let header_len = 20 + options.len();
        let tcp_len = header_len + self.payload.len();
        let ip_len = if ends.local.0.is_ipv4() { 20 } else { 40 };
        let vnet = if device.vnet_header { VNET_HEADER_LEN } else { 0 };
        let mut frame = vec![0; vnet + 14 + ip_len + tcp_len];
        emit_ip(&mut frame[vnet..], ends, tcp_len);
        let (src, dst) = (ends.local.0.into(), ends.remote.0.into());
        let mut tcp = TcpPacket::new_unchecked(&mut frame[vnet + 14 + ip_len..]);
        tcp.set_src_port(ends.local.1);
        tcp.set_dst_port(ends.remote.1);
        tcp.set_seq_number(TcpSeqNumber(self.seq.cast_signed()));
        tcp.set_ack_number(TcpSeqNumber(self.ack.unwrap_or(0).cast_signed()));
        tcp.clear_flags();
        tcp.set_header_len(header_len as u8);
        tcp.set_syn(self.syn);
        tcp.set_fin(self.fin);
        tcp.set_rst(self.rst);
        tcp.set_psh(!self.payload.is_empty());
        tcp.set_ack(self.ack.is_some());
        tcp.set_urg(self.urgent.is_some());
        tcp.set_urgent_at(self.urgent.unwrap_or(0));
        tcp.set_window_len(self.window);
        tcp.options_mut().copy_from_slice(&options);
        tcp.payload_mut().copy_from_slice(&self.payload);
        if device.vnet_header {
            let sum = checksum::pseudo_header(&src, &dst, IpProtocol::Tcp, tcp_len as u32);
            tcp.set_checksum(sum);
            let start = (14 + ip_len) as u16;
            frame[0] = NEEDS_CHECKSUM;
            frame[6..8].copy_from_slice(&start.to_ne_bytes());
            frame[8..10].copy_from_slice(&16u16.to_ne_bytes());
            if self.pieces_of > 0 && self.payload.len() > usize::from(self.pieces_of) {
                frame[1] = if ends.local.0.is_ipv4() { TCPV4 } else { TCPV6 };
                frame[2..4].copy_from_slice(&(start + header_len as u16).to_ne_bytes());
                frame[4..6].copy_from_slice(&self.pieces_of.to_ne_bytes());
            }
        } else {
            assert!(self.pieces_of == 0, "a super-frame wants a virtio-net header");
            tcp.fill_checksum(&src, &dst);
        }
        frame
    }

    /// Reads a frame. `None` for anything but TCP to `local`.
    pub(crate) fn parse(bytes: &[u8], device: Device, local: IpAddr) -> Option<(IpAddr, u16, u16, Self)> {
        let (vnet, frame) = bytes.split_at(if device.vnet_header { VNET_HEADER_LEN } else { 0 });
        let ethernet = EthernetFrame::new_checked(frame).expect("a frame is an Ethernet frame");
        let (src, dst, payload): (IpAddr, IpAddr, &[u8]) = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a whole IPv4 packet");
                assert!(ip.verify_checksum(), "IPv4 header checksum");
                if ip.next_header() != IpProtocol::Tcp {
                    return None;
                }
                (
                    ip.src_addr().into(),
                    ip.dst_addr().into(),
                    &ethernet.payload()[20..usize::from(ip.total_len())],
                )
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_checked(ethernet.payload()).expect("a whole IPv6 packet");
                if ip.next_header() != IpProtocol::Tcp {
                    return None;
                }
                (ip.src_addr().into(), ip.dst_addr().into(), &ethernet.payload()[40..ip.total_len()])
            }
            _ => return None,
        };
        if dst != local {
            return None;
        }
        let tcp = TcpPacket::new_checked(payload).expect("a whole TCP header");
        let owed = vnet.first().is_some_and(|flags| flags & NEEDS_CHECKSUM != 0);
        if owed {
            let sum =
                checksum::pseudo_header(&src.into(), &dst.into(), IpProtocol::Tcp, payload.len() as u32);
            assert_eq!(tcp.checksum(), sum, "an owed checksum starts as the pseudo-header's sum");
        } else {
            assert!(tcp.verify_checksum(&src.into(), &dst.into()), "TCP checksum");
        }
        let pieces_of = match vnet {
            [_, kind, _, _, low, high, ..] if *kind != 0 => {
                assert!(device.tso, "a super-frame to a device that takes none");
                assert_eq!(*kind, if src.is_ipv4() { TCPV4 } else { TCPV6 });
                u16::from_ne_bytes([*low, *high])
            }
            _ => 0,
        };
        let mut segment = Self {
            seq: tcp.seq_number().0.cast_unsigned(),
            ack: tcp.ack().then(|| tcp.ack_number().0.cast_unsigned()),
            window: tcp.window_len(),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            urgent: tcp.urg().then(|| tcp.urgent_at()),
            payload: tcp.payload().to_vec(),
            pieces_of,
            ..Self::default()
        };
        segment.read_options(tcp.options());
        Some((src, tcp.src_port(), tcp.dst_port(), segment))
    }

    fn read_options(&mut self, mut options: &[u8]) {
        while !options.is_empty() {
            let (rest, option) = TcpOption::parse(options).expect("well-formed options");
            options = rest;
            match option {
                TcpOption::EndOfList => return,
                TcpOption::MaxSegmentSize(mss) => self.mss = Some(mss),
                TcpOption::WindowScale(scale) => self.scale = Some(scale),
                TcpOption::SackPermitted => self.sack_permitted = true,
                TcpOption::SackRange(ranges) => self.sacks.extend(ranges.into_iter().flatten()),
                TcpOption::TimeStamp { tsval, tsecr } => self.timestamp = Some((tsval, tsecr)),
                TcpOption::NoOperation | TcpOption::Unknown { .. } => {}
            }
        }
    }

    /// The segments of a super-frame, as a device without offload would have sent them.
    pub(crate) fn cut(self) -> Vec<Self> {
        if self.pieces_of == 0 {
            return vec![self];
        }
        let size = usize::from(self.pieces_of);
        let last = self.payload.len().div_ceil(size) - 1;
        let pieces = self.payload.chunks(size).enumerate();
        pieces
            .map(|(at, piece)| Self {
                seq: self.seq.wrapping_add((at * size) as u32),
                fin: self.fin && at == last,
                payload: piece.to_vec(),
                pieces_of: 0,
                ..self.clone()
            })
            .collect()
    }
}

fn emit_ip(frame: &mut [u8], ends: &Ends, len: usize) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_src_addr(ends.mac);
    ethernet.set_dst_addr(ends.gateway_mac);
    match (ends.local.0, ends.remote.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len((20 + len) as u16);
            ip.set_dont_frag(true);
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.fill_checksum();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv6);
            let mut ip = Ipv6Packet::new_unchecked(ethernet.payload_mut());
            ip.set_version(6);
            ip.set_payload_len(len as u16);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_hop_limit(64);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
        }
        _ => panic!("both ends are of one family"),
    }
}
