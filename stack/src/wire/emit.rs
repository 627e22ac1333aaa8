// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes packets: headers in front of a payload that is already in the frame, or copied into it.
//!
//! # How it works
//! Transport checksums are left to the receiving device ([`Checksum::Partial`]): the field gets the pseudo-header's
//! sum and nobody touches the payload. A device that cannot do this has it done in software at egress.

use core::net::IpAddr;
use core::num::NonZeroU16;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol,
    Ipv4Packet, Ipv6Packet, TCP_HEADER_LEN, TcpPacket, TcpRepr, UDP_HEADER_LEN, UdpPacket, checksum,
};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame, Offload, Pool, Segmentation, SegmentationKind};

/// The largest IP packet that both families can name.
const MAX_IP_PACKET_LEN: usize = 65_535;
const TCP_CHECKSUM_OFFSET: u16 = 16;
const UDP_CHECKSUM_OFFSET: u16 = 6;

/// Hop limit of packets that start at the gateway.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Bytes of the header, without options, of an IP packet to or from `address`.
pub(crate) fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
}

/// From where to where a packet goes on the link and above it. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) src_mac: EthernetAddress,
    pub(crate) dst_mac: EthernetAddress,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
}

impl Path {
    /// Bytes of the IP header on this path.
    pub(crate) fn ip_header_len(&self) -> usize {
        ip_header_len(self.src)
    }

    /// Bytes in front of the payload of a TCP segment with a TCP header of `tcp_header_len` bytes.
    pub(crate) fn tcp_payload_start(&self, tcp_header_len: usize) -> usize {
        self.payload_start() + tcp_header_len
    }

    /// Payload bytes that the largest IP packet holds behind a TCP header without options.
    pub(crate) fn max_tcp_payload(&self) -> usize {
        MAX_IP_PACKET_LEN - self.ip_header_len() - TCP_HEADER_LEN
    }

    /// Bytes behind the IP header of the largest packet. IPv4 counts its header in the packet's length, IPv6 does not.
    pub(crate) fn max_payload(&self) -> usize {
        let counted = if self.src.is_ipv4() { IPV4_HEADER_LEN } else { 0 };
        MAX_IP_PACKET_LEN - counted
    }

    /// Where a packet's payload starts in its frame.
    pub(crate) fn payload_start(&self) -> usize {
        ETHERNET_HEADER_LEN + self.ip_header_len()
    }

    /// Where the payload of a UDP datagram starts in its frame.
    pub(crate) fn udp_payload_start(&self) -> usize {
        self.payload_start() + UDP_HEADER_LEN
    }
}

/// Cuts a length to the 16 bits of a header field; the callers' bounds keep it there.
pub(crate) fn len16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn pseudo_header_sum(path: &Path, protocol: IpProtocol, len: usize) -> u16 {
    checksum::pseudo_header(&path.src.into(), &path.dst.into(), protocol, u32::from(len16(len)))
}

/// Writes Ethernet and IP headers; the frame's length becomes that of the whole packet.
///
/// Returns the `len` bytes behind the IP header.
pub(crate) fn ip<'a>(
    frame: &'a mut Frame,
    path: &Path,
    protocol: IpProtocol,
    hop_limit: u8,
    len: usize,
) -> &'a mut [u8] {
    let ip_header_len = path.ip_header_len();
    let payload_start = path.payload_start();
    frame.set_len(payload_start + len);
    frame.offload = Offload::default();
    let bytes = frame.bytes_mut();
    let mut ethernet = EthernetFrame::new_unchecked(&mut *bytes);
    ethernet.set_src_addr(path.src_mac);
    ethernet.set_dst_addr(path.dst_mac);
    match (path.src, path.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            let mut header = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            header.set_version(4);
            header.set_header_len(20);
            header.set_dscp(0);
            header.set_ecn(0);
            header.set_total_len(len16(ip_header_len + len));
            // RFC 6864 section 4.1: atomic packets need no identification of their own.
            header.set_ident(0);
            header.clear_flags();
            header.set_dont_frag(true);
            header.set_frag_offset(0);
            header.set_hop_limit(hop_limit);
            header.set_next_header(protocol);
            header.set_src_addr(src);
            header.set_dst_addr(dst);
            header.fill_checksum();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv6);
            let mut header = Ipv6Packet::new_unchecked(ethernet.payload_mut());
            header.set_version(6);
            header.set_traffic_class(0);
            header.set_flow_label(0);
            header.set_payload_len(len16(len));
            header.set_next_header(protocol);
            header.set_hop_limit(hop_limit);
            header.set_src_addr(src);
            header.set_dst_addr(dst);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            debug_assert!(false, "a path has one family");
        }
    }
    bytes.get_mut(payload_start..).unwrap_or_default()
}

/// Writes the headers of a TCP segment whose `payload_len` bytes stand at [`Path::tcp_payload_start`] already.
///
/// A payload longer than `mss` makes it a super-frame.
pub(crate) fn tcp(frame: &mut Frame, path: &Path, header: &TcpRepr<'_>, payload_len: usize, mss: u16) {
    let header_len = header.header_len();
    let segment = ip(frame, path, IpProtocol::Tcp, HOP_LIMIT, header_len + payload_len);
    let sum = pseudo_header_sum(path, IpProtocol::Tcp, header_len + payload_len);
    let mut packet = TcpPacket::new_unchecked(segment);
    header.emit(&mut packet, &path.src.into(), &path.dst.into(), &ChecksumCapabilities::ignored());
    packet.set_checksum(sum);
    let start = path.payload_start();
    frame.offload.checksum = Checksum::Partial { start: len16(start), offset: TCP_CHECKSUM_OFFSET };
    if payload_len > usize::from(mss) {
        frame.offload.segmentation = NonZeroU16::new(mss).map(|size| Segmentation {
            kind: if path.src.is_ipv4() { SegmentationKind::Tcp4 } else { SegmentationKind::Tcp6 },
            size,
            header_len: len16(start + header_len),
            ecn: false,
        });
    }
}

/// Writes the headers of a UDP datagram whose `payload_len` bytes stand at [`Path::udp_payload_start`] already.
///
/// A payload longer than `segment` is that of several datagrams, which makes it a super-frame.
pub(crate) fn udp(
    frame: &mut Frame,
    path: &Path,
    (src_port, dst_port): (u16, u16),
    hop_limit: u8,
    payload_len: usize,
    segment: usize,
) {
    let len = UDP_HEADER_LEN + payload_len;
    let sum = pseudo_header_sum(path, IpProtocol::Udp, len);
    let mut packet = UdpPacket::new_unchecked(ip(frame, path, IpProtocol::Udp, hop_limit, len));
    packet.set_src_port(src_port);
    packet.set_dst_port(dst_port);
    packet.set_len(len16(len));
    packet.set_checksum(sum);
    let start = path.payload_start();
    frame.offload.checksum = Checksum::Partial { start: len16(start), offset: UDP_CHECKSUM_OFFSET };
    if payload_len > segment {
        frame.offload.segmentation = NonZeroU16::new(len16(segment)).map(|size| Segmentation {
            kind: SegmentationKind::UdpL4,
            size,
            header_len: len16(start + UDP_HEADER_LEN),
            ecn: false,
        });
    }
}

/// A whole UDP datagram that starts at the gateway.
pub(crate) fn datagram(pool: &Pool, path: &Path, ports: (u16, u16), payload: &[u8]) -> Frame {
    let start = path.udp_payload_start();
    let mut frame = pool.for_len(start + payload.len());
    frame.set_len(start + payload.len());
    if let Some(room) = frame.bytes_mut().get_mut(start..) {
        room.copy_from_slice(payload);
    }
    udp(&mut frame, path, ports, HOP_LIMIT, payload.len(), payload.len());
    frame
}
