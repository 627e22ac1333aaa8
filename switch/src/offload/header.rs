// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a frame still owes: a checksum not yet computed, a segmentation not yet made.
//!
//! # How it works
//! TAPs and packet sockets put a 10-byte virtio-net header in front of every frame. It is parsed once at
//! ingress into [`Offload`] and written once at egress, so a 64 KiB super-frame crosses wharf whole and nobody
//! computes its payload checksum.
//!
//! # Sources
//! Virtio 1.2 section 5.1.6 (`struct virtio_net_hdr`), in host byte order as `TUNSETVNETHDRSZ` devices use it.

use core::num::NonZeroU16;

use crate::frame::ETHERNET_HEADER_LEN;
use crate::vlan::TAG_LEN;

/// Bytes of the virtio-net header without `num_buffers`.
pub const VNET_HEADER_LEN: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// State of the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Computed in full by the sender and not yet looked at.
    #[default]
    Unverified,
    /// Known to be right.
    Valid,
    /// Owed: sum everything from `start` and store the result at `start + offset`. The field already holds
    /// the pseudo-header's sum. The bytes never crossed a wire, so they count as right.
    Partial {
        /// First byte to sum, counted from the start of the frame.
        start: u16,
        /// Where the checksum goes, counted from `start`.
        offset: u16,
    },
}

/// Which transport a super-frame is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentationKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams over either family (USO).
    UdpL4,
}

/// A super-frame: one frame that stands for many segments of `size` payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Transport.
    pub kind: SegmentationKind,
    /// Payload bytes per segment.
    pub size: NonZeroU16,
    /// Bytes of all headers in front of the payload. A hint: not to be trusted from a peer.
    pub header_len: u16,
    /// TCP segments carry ECN.
    pub ecn: bool,
}

/// Everything a frame still owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Transport checksum.
    pub checksum: Checksum,
    /// Segmentation, for super-frames.
    pub segmentation: Option<Segmentation>,
}

/// A virtio-net header that contradicts itself or the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVnetHeader;

impl Offload {
    /// Reads the virtio-net header of a frame of `frame_len` bytes.
    ///
    /// # Errors
    /// [`InvalidVnetHeader`] when offsets point outside the frame or the segmentation kind is unknown.
    pub fn parse(header: [u8; VNET_HEADER_LEN], frame_len: usize) -> Result<Self, InvalidVnetHeader> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = header;
        let start = u16::from_ne_bytes([s0, s1]);
        let offset = u16::from_ne_bytes([o0, o1]);
        let checksum = if flags & FLAG_NEEDS_CSUM != 0 {
            // The Ethernet header has no part in any checksum, and no checksum may be written over it.
            let is_outside = usize::from(start) + usize::from(offset) + 2 > frame_len;
            if is_outside || usize::from(start) < ETHERNET_HEADER_LEN {
                return Err(InvalidVnetHeader);
            }
            Checksum::Partial { start, offset }
        } else if flags & FLAG_DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Unverified
        };
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE => return Ok(Self { checksum, segmentation: None }),
            GSO_TCPV4 => SegmentationKind::Tcp4,
            GSO_TCPV6 => SegmentationKind::Tcp6,
            GSO_UDP_L4 => SegmentationKind::UdpL4,
            // UFO is never asked for.
            GSO_UDP => return Err(InvalidVnetHeader),
            _ => return Err(InvalidVnetHeader),
        };
        let size = NonZeroU16::new(u16::from_ne_bytes([g0, g1])).ok_or(InvalidVnetHeader)?;
        let header_len = u16::from_ne_bytes([h0, h1]);
        let ecn = gso_type & GSO_ECN != 0;
        Ok(Self { checksum, segmentation: Some(Segmentation { kind, size, header_len, ecn }) })
    }

    /// What the frame owes with a VLAN tag: everything lies behind it.
    #[must_use]
    pub(crate) fn with_tag(self) -> Self {
        self.moved(|offset| offset.saturating_add(TAG_LEN))
    }

    /// What the frame owes without the VLAN tag it has; `None` when the checksum would be summed from within the tag
    /// or before.
    #[must_use]
    pub(crate) fn without_tag(self) -> Option<Self> {
        match self.checksum {
            Checksum::Partial { start, .. }
                if usize::from(start) < ETHERNET_HEADER_LEN + usize::from(TAG_LEN) =>
            {
                None
            }
            _ => Some(self.moved(|offset| offset.saturating_sub(TAG_LEN))),
        }
    }

    fn moved(mut self, shift: impl Fn(u16) -> u16) -> Self {
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = shift(*start);
        }
        if let Some(segmentation) = &mut self.segmentation {
            segmentation.header_len = shift(segmentation.header_len);
        }
        self
    }

    /// Writes the virtio-net header.
    #[must_use]
    pub fn emit(self) -> [u8; VNET_HEADER_LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Unverified => (0, 0, 0),
            Checksum::Valid => (FLAG_DATA_VALID, 0, 0),
            Checksum::Partial { start, offset } => (FLAG_NEEDS_CSUM, start, offset),
        };
        let (gso_type, size, header_len) = match self.segmentation {
            None => (GSO_NONE, 0, 0),
            Some(Segmentation { kind, size, header_len, ecn }) => {
                let kind = match kind {
                    SegmentationKind::Tcp4 => GSO_TCPV4,
                    SegmentationKind::Tcp6 => GSO_TCPV6,
                    SegmentationKind::UdpL4 => GSO_UDP_L4,
                };
                (kind | if ecn { GSO_ECN } else { 0 }, size.get(), header_len)
            }
        };
        let [h0, h1] = header_len.to_ne_bytes();
        let [g0, g1] = size.to_ne_bytes();
        let [s0, s1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_a_round_trip() {
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segmentation: Some(Segmentation {
                kind: SegmentationKind::Tcp4,
                size: NonZeroU16::new(1460).unwrap(),
                header_len: 54,
                ecn: true,
            }),
        };
        assert_eq!(Offload::parse(offload.emit(), 3000), Ok(offload));
    }

    #[test]
    fn checksum_outside_the_frame_is_refused() {
        let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, segmentation: None };
        assert_eq!(Offload::parse(offload.emit(), 51), Err(InvalidVnetHeader));
        assert_eq!(Offload::parse(offload.emit(), 52), Ok(offload));
        let addresses = Offload { checksum: Checksum::Partial { start: 0, offset: 6 }, segmentation: None };
        assert_eq!(Offload::parse(addresses.emit(), 52), Err(InvalidVnetHeader));
    }

    #[test]
    fn super_frame_without_a_size_is_refused() {
        assert_eq!(Offload::parse([0, GSO_TCPV4, 0, 0, 0, 0, 0, 0, 0, 0], 3000), Err(InvalidVnetHeader));
    }
}
