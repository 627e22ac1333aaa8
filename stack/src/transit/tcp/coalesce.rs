// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data segments of a burst that continue each other are taken as one, as a kernel's receive offload (GRO) does: one walk
//! through the connection's state and one system call for all of them.
//!
//! # How it works
//! Only what changes nothing may be put together: plain data, in order, with the same acknowledgment. Of the headers the
//! last one counts; the payloads stay in their frames and go to the socket as a list.
//!
//! # Bounds
//! At most [`MAX_SEGMENTS`] segments.

use std::io::IoSlice;

use smoltcp::wire::{IpProtocol, TcpControl, TcpRepr};
use wharf_switch::Frame;

use super::Seq;
use crate::DropReason;
use crate::transit::flow::FlowKey;
use crate::wire::Packet;

/// Segments in one stretch.
const MAX_SEGMENTS: usize = 32;

/// Payload of a connection, in order, in one or more pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'p> {
    /// Sequence number of its first byte.
    pub(super) seq: Seq,
    /// Bytes in all pieces.
    pub(super) len: u32,
    pub(super) pieces: &'p [IoSlice<'p>],
}

impl Payload<'_> {
    /// None of it was taken.
    pub(super) fn refused(&self, reason: DropReason) -> Refused {
        Refused { reason, frames: self.pieces.len() }
    }
}

/// Frames whose payload was not taken, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: DropReason,
    pub(crate) frames: usize,
}

/// Segments that continue each other.
#[derive(Debug)]
pub(crate) struct Stretch<'f> {
    pub(super) packet: Packet,
    pub(super) key: FlowKey,
    /// The header that counts.
    pub(super) last: TcpRepr<'f>,
    seq: Seq,
    len: u32,
    pieces: [IoSlice<'f>; MAX_SEGMENTS],
    count: usize,
}

impl<'f> Stretch<'f> {
    /// The segments at the front of `frames` that are one stretch, if they are two at least, and of a connection that
    /// `is_open`.
    pub(crate) fn find(frames: &'f [Frame], is_open: impl FnOnce(&Packet, &FlowKey) -> bool) -> Option<Self> {
        let (first, others) = frames.split_first().filter(|(_, others)| !others.is_empty())?;
        let (packet, segment) = data_segment(first)?;
        let key = key_of(&packet, &segment);
        // Else the others would be read again when their turn comes.
        if !is_open(&packet, &key) {
            return None;
        }
        let mut stretch = Self {
            packet,
            key,
            last: segment,
            seq: segment.seq_number.into(),
            len: 0,
            pieces: [IoSlice::new(&[]); MAX_SEGMENTS],
            count: 0,
        };
        stretch.push(segment);
        for frame in others.iter().take(MAX_SEGMENTS - 1) {
            match data_segment(frame) {
                Some((packet, segment)) if stretch.is_continued_by(&packet, &segment) => {
                    stretch.push(segment)
                }
                _ => break,
            }
        }
        (stretch.count > 1).then_some(stretch)
    }

    /// Frames in it.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn payload(&self) -> Payload<'_> {
        Payload { seq: self.seq, len: self.len, pieces: self.pieces.get(..self.count).unwrap_or_default() }
    }

    fn is_continued_by(&self, packet: &Packet, segment: &TcpRepr<'_>) -> bool {
        self.seq + self.len == Seq::from(segment.seq_number)
            && self.last.ack_number == segment.ack_number
            && self.key == key_of(packet, segment)
            && self.packet.src_mac == packet.src_mac
    }

    fn push(&mut self, segment: TcpRepr<'f>) {
        if let Some(place) = self.pieces.get_mut(self.count) {
            *place = IoSlice::new(segment.payload);
            self.count += 1;
            self.len += u32::try_from(segment.payload.len()).unwrap_or(0);
            self.last = segment;
        }
    }
}

fn key_of(packet: &Packet, segment: &TcpRepr<'_>) -> FlowKey {
    FlowKey::of(packet, (segment.src_port, segment.dst_port))
}

/// A segment with nothing but data, if the frame is one and may be forwarded.
fn data_segment(frame: &Frame) -> Option<(Packet, TcpRepr<'_>)> {
    let packet = Packet::parse(frame).ok()?;
    if packet.protocol != IpProtocol::Tcp || packet.fragment.is_some() || packet.hop_limit <= 1 {
        return None;
    }
    let segment = super::parse(&packet, frame)?;
    let is_plain = matches!(segment.control, TcpControl::None | TcpControl::Psh)
        && segment.ack_number.is_some()
        && segment.sack_ranges == [None; 3]
        && !segment.payload.is_empty();
    (is_plain && packet.transport_checksum_is_right(frame)).then_some((packet, segment))
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use smoltcp::wire::TcpSeqNumber;
    use wharf_switch::{Checksum, Pool};

    use super::*;
    use crate::wire::emit::{self, Path};

    const V4: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))];
    const V6: [IpAddr; 2] = [
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x100)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 6, 0, 0, 0, 0, 7)),
    ];

    /// The header of a segment with 100 bytes of data.
    fn header(seq: i32) -> TcpRepr<'static> {
        TcpRepr {
            src_port: 40_000,
            dst_port: 443,
            control: TcpControl::None,
            seq_number: TcpSeqNumber(seq),
            ack_number: Some(TcpSeqNumber(77)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        }
    }

    fn frame(header: &TcpRepr<'_>, [src, dst]: [IpAddr; 2], len: usize) -> Frame {
        let path = Path {
            src_mac: smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_mac: smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 2]),
            src,
            dst,
        };
        let mut frame = Pool::new(1).large();
        frame.set_len(path.tcp_payload_start(header.header_len()) + len);
        emit::tcp(&mut frame, &path, header, len, u16::MAX);
        frame
    }

    fn of_v4(header: &TcpRepr<'_>) -> Frame {
        frame(header, V4, 100)
    }

    fn key_of_first(frames: &[Frame]) -> FlowKey {
        let (packet, segment) = data_segment(&frames[0]).unwrap();
        key_of(&packet, &segment)
    }

    fn found(frames: &[Frame]) -> Option<usize> {
        Stretch::find(frames, |_, _| true).map(|stretch| stretch.count())
    }

    #[test]
    fn segments_in_order_are_one_stretch_with_the_last_ones_header() {
        for ends in [V4, V6] {
            let last = TcpRepr { window_len: 2000, control: TcpControl::Psh, ..header(i32::MAX) };
            let frames = [
                frame(&header(i32::MAX - 150), ends, 150),
                frame(&last, ends, 100),
                frame(&header(5), ends, 9),
            ];
            let stretch = Stretch::find(&frames, |_, _| true).expect("two segments continue each other");
            let payload = stretch.payload();
            assert_eq!((stretch.count(), payload.len, payload.seq), (2, 250, Seq(0x7fff_ff69)));
            assert_eq!(payload.pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [150, 100]);
            assert_eq!((stretch.last.window_len, stretch.last.control), (2000, TcpControl::Psh));
        }
    }

    #[test]
    fn segments_of_a_connection_that_is_not_open_are_none() {
        let frames = [of_v4(&header(1)), of_v4(&header(101))];
        assert!(
            Stretch::find(&frames, |packet, key| packet.dst == V4[1] && *key != key_of_first(&frames))
                .is_none()
        );
        assert!(
            Stretch::find(&frames, |packet, key| packet.dst == V4[1] && *key == key_of_first(&frames))
                .is_some()
        );
    }

    #[test]
    fn whatever_is_more_than_the_next_data_ends_a_stretch() {
        let next = header(101);
        let cases: [(&str, TcpRepr<'_>); 8] = [
            ("a gap", header(102)),
            ("a repetition", header(1)),
            ("an acknowledgment", TcpRepr { ack_number: Some(TcpSeqNumber(78)), ..next }),
            ("none", TcpRepr { ack_number: None, ..next }),
            ("a FIN", TcpRepr { control: TcpControl::Fin, ..next }),
            ("a RST", TcpRepr { control: TcpControl::Rst, ..next }),
            ("a SACK", TcpRepr { sack_ranges: [Some((900, 990)), None, None], ..next }),
            ("another connection", TcpRepr { src_port: 40_001, ..next }),
        ];
        for (what, header_of_next) in cases {
            assert_eq!(found(&[of_v4(&header(1)), of_v4(&header_of_next)]), None, "{what}");
        }
        assert_eq!(found(&[of_v4(&header(1)), frame(&next, V4, 0)]), None, "no data");
        assert_eq!(found(&[of_v4(&header(1)), frame(&next, V6, 100)]), None, "another family");
        assert_eq!(found(&[of_v4(&header(1)), of_v4(&next)]), Some(2));
        assert_eq!(found(&[of_v4(&header(1))]), None, "alone");
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn what_would_be_dropped_or_answered_ends_a_stretch() {
        let frames = || [of_v4(&header(1)), of_v4(&header(101))];
        type Damage = fn(&mut Frame);
        let damages: [(&str, Damage); 4] = [
            ("another sender", |frame| frame.bytes_mut()[6] ^= 0x10),
            ("a wrong checksum", |frame| frame.offload.checksum = Checksum::Unverified),
            ("a hop limit of one", |frame| {
                // TTL is the high byte of its word: the header's checksum makes up for it (RFC 1624).
                let header = &mut frame.bytes_mut()[14..34];
                header[8] = 1;
                header[10..12].fill(0);
                let sum = !smoltcp::wire::checksum::data(header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }),
            ("a damaged IP header", |frame| frame.bytes_mut()[24] ^= 1),
        ];
        for (what, damage) in damages {
            let mut damaged = frames();
            damage(&mut damaged[1]);
            assert_eq!(found(&damaged), None, "{what}");
        }
        assert_eq!(found(&frames()), Some(2));
    }

    #[test]
    fn a_stretch_is_bounded() {
        let frames: Vec<Frame> = (0..40).map(|number| of_v4(&header(1 + number * 100))).collect();
        assert_eq!(found(&frames), Some(MAX_SEGMENTS));
    }
}
