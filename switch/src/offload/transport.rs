// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a frame's IP packet ends and its transport header begins, found through smoltcp's checked views.
//!
//! # Bounds
//! At most [`MAX_EXTENSIONS`](super::extensions::MAX_EXTENSIONS) IPv6 extension headers are stepped over.

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UDP_HEADER_LEN, UdpPacket,
};

use super::extensions::upper_layer;
use crate::frame::ETHERNET_HEADER_LEN;

/// Where things are in a frame with an unfragmented IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// IPv4 rather than IPv6.
    pub is_ipv4: bool,
    /// The transport protocol.
    pub protocol: IpProtocol,
    /// Where the transport header starts, counted from the start of the frame.
    pub start: usize,
    /// Where the IP packet ends; padding follows.
    pub end: usize,
    /// Source address.
    pub source: IpAddress,
    /// Destination address.
    pub destination: IpAddress,
}

impl Transport {
    /// Finds the transport header; `None` for anything but a whole, unfragmented IP packet.
    #[must_use]
    pub fn locate(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => Self::locate_ipv4(ethernet.payload()),
            EthernetProtocol::Ipv6 => Self::locate_ipv6(ethernet.payload()),
            _ => None,
        }
    }

    fn locate_ipv4(packet: &[u8]) -> Option<Self> {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        Some(Self {
            is_ipv4: true,
            protocol: packet.next_header(),
            start: ETHERNET_HEADER_LEN + usize::from(packet.header_len()),
            end: ETHERNET_HEADER_LEN + usize::from(packet.total_len()),
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
        })
    }

    fn locate_ipv6(packet: &[u8]) -> Option<Self> {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        if packet.version() != 6 {
            return None;
        }
        let upper = upper_layer(&packet).ok()??;
        let extensions_len = packet.payload().len() - upper.bytes.len();
        let start = ETHERNET_HEADER_LEN + packet.header_len() + extensions_len;
        (!upper.in_fragments).then_some(Self {
            is_ipv4: false,
            protocol: upper.protocol.into(),
            start,
            end: start + upper.bytes.len(),
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
        })
    }

    /// The transport header and payload.
    #[must_use]
    pub fn segment(self, frame: &[u8]) -> Option<&[u8]> {
        frame.get(self.start..self.end)
    }

    /// Where the payload starts, counted from the start of the frame; TCP and UDP only.
    #[must_use]
    pub fn payload_start(self, frame: &[u8]) -> Option<usize> {
        let segment = self.segment(frame)?;
        match self.protocol {
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(segment).ok()?;
                Some(self.start + usize::from(tcp.header_len()))
            }
            IpProtocol::Udp => {
                UdpPacket::new_checked(segment).ok()?;
                Some(self.start + UDP_HEADER_LEN)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_headers_are_stepped_over() {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x86, 0xdd]);
        frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 8 + 16 + 8, 0, 64]);
        frame.extend_from_slice(&[0; 32]);
        frame.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend_from_slice(&[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(&[0, 53, 0, 53, 0, 8, 0, 0]);
        frame.extend_from_slice(&[0; 3]);
        let found = Transport::locate(&frame).unwrap();
        assert_eq!((found.protocol, found.start, found.end), (IpProtocol::Udp, 78, 86));
        assert_eq!(found.payload_start(&frame), Some(86));
    }

    #[test]
    fn fragments_have_no_transport_header() {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x08, 0x00]);
        frame.extend_from_slice(&[0x45, 0, 0, 20, 0, 1, 0x20, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(Transport::locate(&frame), None);
        frame[14 + 6] = 0;
        assert_eq!(Transport::locate(&frame).map(|found| (found.start, found.end)), Some((34, 34)));
    }
}
