// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a frame says it is: its headers, read once through smoltcp's checked views.
//!
//! # Path
//! [`Packet::parse`] is the first thing the gateway does with an IP frame. Everything after works on the values found here
//! and on the byte ranges they name; replies are written by [`emit`].
//!
//! # Sources
//! RFC 791, RFC 8200 (extension headers: section 4), RFC 1122 section 3.2.1.3.

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6ExtHeader,
    Ipv6FragmentHeader, Ipv6Packet, TcpPacket, UdpPacket, checksum,
};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame};

use crate::DropReason;

pub(crate) mod emit;

/// Extension headers we are willing to walk over (RFC 8200 asks for no limit; a loop wants one).
const MAX_EXTENSION_HEADERS: usize = 8;

/// One piece of a larger packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Names the whole.
    pub(crate) ident: u32,
    /// Where this piece starts in the whole's payload, in bytes.
    pub(crate) offset: usize,
    /// More pieces follow.
    pub(crate) more: bool,
}

/// The IP header of a frame, and where its payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) src_mac: EthernetAddress,
    pub(crate) dst_mac: EthernetAddress,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) hop_limit: u8,
    /// The sender forbids fragmentation: always so in IPv6, unless the sender itself cut the packet.
    pub(crate) dont_fragment: bool,
    pub(crate) fragment: Option<Fragment>,
    /// First byte of the transport header, counted from the start of the frame.
    pub(crate) payload_start: usize,
    /// One past the last byte of the packet; the rest is Ethernet padding.
    pub(crate) payload_end: usize,
}

impl Packet {
    /// Reads the IP header of a frame, of either family.
    pub(crate) fn parse(frame: &Frame) -> Result<Self, DropReason> {
        let ethernet = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::EtherTypeUnknown)?;
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => Self::parse_ipv4(frame),
            EthernetProtocol::Ipv6 => Self::parse_ipv6(frame),
            EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => Err(DropReason::EtherTypeUnknown),
        }
    }

    /// Reads the IPv4 header of a frame.
    pub(crate) fn parse_ipv4(frame: &Frame) -> Result<Self, DropReason> {
        let ethernet = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::Ipv4Malformed)?;
        let ip = Ipv4Packet::new_checked(ethernet.payload()).map_err(|_| DropReason::Ipv4Malformed)?;
        if ip.version() != 4 || ip.header_len() < 20 {
            return Err(DropReason::Ipv4Malformed);
        }
        if !ip.verify_checksum() {
            return Err(DropReason::Ipv4ChecksumWrong);
        }
        let src = ip.src_addr();
        // RFC 1122 section 3.2.1.3: these addresses MUST NOT be used as a source.
        if src.is_multicast() || src == Ipv4Addr::BROADCAST || src.is_loopback() {
            return Err(DropReason::SourceAddressInvalid);
        }
        let fragment = (ip.more_frags() || ip.frag_offset() != 0).then(|| Fragment {
            ident: u32::from(ip.ident()),
            offset: usize::from(ip.frag_offset()),
            more: ip.more_frags(),
        });
        Ok(Self {
            src_mac: ethernet.src_addr(),
            dst_mac: ethernet.dst_addr(),
            src: src.into(),
            dst: ip.dst_addr().into(),
            protocol: ip.next_header(),
            hop_limit: ip.hop_limit(),
            dont_fragment: ip.dont_frag() && !frame.reassembled,
            fragment,
            payload_start: ETHERNET_HEADER_LEN + usize::from(ip.header_len()),
            payload_end: ETHERNET_HEADER_LEN + usize::from(ip.total_len()),
        })
    }

    /// Reads the IPv6 header of a frame and walks over its extension headers.
    pub(crate) fn parse_ipv6(frame: &Frame) -> Result<Self, DropReason> {
        let ethernet = EthernetFrame::new_checked(frame.bytes()).map_err(|_| DropReason::Ipv6Malformed)?;
        let ip = Ipv6Packet::new_checked(ethernet.payload()).map_err(|_| DropReason::Ipv6Malformed)?;
        if ip.version() != 6 {
            return Err(DropReason::Ipv6Malformed);
        }
        if ip.src_addr().is_multicast() || ip.src_addr().is_loopback() {
            return Err(DropReason::SourceAddressInvalid);
        }
        let mut packet = Self {
            src_mac: ethernet.src_addr(),
            dst_mac: ethernet.dst_addr(),
            src: ip.src_addr().into(),
            dst: ip.dst_addr().into(),
            protocol: ip.next_header(),
            hop_limit: ip.hop_limit(),
            dont_fragment: !frame.reassembled,
            fragment: None,
            payload_start: ETHERNET_HEADER_LEN + ip.header_len(),
            payload_end: ETHERNET_HEADER_LEN + ip.total_len(),
        };
        packet.walk_extension_headers(frame)?;
        Ok(packet)
    }

    fn walk_extension_headers(&mut self, frame: &Frame) -> Result<(), DropReason> {
        for _ in 0..MAX_EXTENSION_HEADERS {
            let is_fragment = self.protocol == IpProtocol::Ipv6Frag;
            if !matches!(
                self.protocol,
                IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Frag
            ) {
                return Ok(());
            }
            let rest = self.payload(frame);
            let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| DropReason::Ipv6Malformed)?;
            let mut length = 8 + usize::from(header.header_len()) * 8;
            if is_fragment {
                length = 8;
                let body = rest.get(2..length).ok_or(DropReason::Ipv6Malformed)?;
                let fragment =
                    Ipv6FragmentHeader::new_checked(body).map_err(|_| DropReason::Ipv6Malformed)?;
                let piece = Fragment {
                    ident: fragment.ident(),
                    offset: usize::from(fragment.frag_offset()) * 8,
                    more: fragment.more_frags(),
                };
                // RFC 6946: an atomic fragment is a whole packet with an idle header.
                if piece.more || piece.offset != 0 {
                    self.fragment = Some(piece);
                }
            }
            if length > rest.len() {
                return Err(DropReason::Ipv6Malformed);
            }
            self.protocol = header.next_header();
            self.payload_start += length;
            if self.fragment.is_some() {
                // What follows is a piece, not a header.
                return Ok(());
            }
        }
        Err(DropReason::Ipv6Malformed)
    }

    /// Bytes behind the IP headers.
    pub(crate) fn payload_len(&self) -> usize {
        self.payload_end.saturating_sub(self.payload_start)
    }

    /// Everything behind the IP headers.
    pub(crate) fn payload<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        frame.bytes().get(self.payload_start..self.payload_end).unwrap_or_default()
    }

    /// The IP packet from its header on, without Ethernet header and padding: what an ICMP error quotes.
    pub(crate) fn whole<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        frame.bytes().get(ETHERNET_HEADER_LEN..self.payload_end).unwrap_or_default()
    }

    /// Whether the TCP, UDP or ICMPv6 checksum is right, or need not be looked at because the bytes crossed no wire.
    pub(crate) fn transport_checksum_is_right(&self, frame: &Frame) -> bool {
        if frame.offload.checksum != Checksum::Unverified {
            return true;
        }
        let (src, dst) = (self.src.into(), self.dst.into());
        match self.protocol {
            IpProtocol::Tcp => TcpPacket::new_checked(self.payload(frame))
                .is_ok_and(|segment| segment.verify_checksum(&src, &dst)),
            IpProtocol::Udp => UdpPacket::new_checked(self.payload(frame)).is_ok_and(|datagram| {
                // RFC 8200 section 8.1: IPv6 receivers must discard UDP packets with a zero checksum.
                let absent = datagram.checksum() == 0;
                if absent { self.src.is_ipv4() } else { datagram.verify_checksum(&src, &dst) }
            }),
            IpProtocol::Icmpv6 => {
                // Not through smoltcp's view, which knows only some of the message types.
                let message = self.payload(frame);
                let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
                let pseudo = checksum::pseudo_header(&src, &dst, IpProtocol::Icmpv6, len);
                checksum::combine(&[pseudo, checksum::data(message)]) == !0
            }
            _ => true,
        }
    }
}
