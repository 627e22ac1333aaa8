// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting a super-frame into the frames it stands for, for devices that do not.
//!
//! # How it works
//! Every segment is a copy of the headers and a piece of the payload; then the fields that differ are set: lengths,
//! IPv4 identification and header checksum, TCP sequence number and flags, transport checksum. The headers are
//! found in the packet itself: the length in the virtio-net header is a peer's hint and is not used.
//!
//! # Bounds
//! At most [`MAX_SEGMENTS`] segments, so that one frame with a segment size of 1 does not become 65,000.
//!
//! # Sources
//! RFC 9293 (sequence numbers, FIN, PSH), RFC 3168 section 6.1.2 (CWR), RFC 6864 (identification), RFC 768.

use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::checksum::{Verdict, verify_checksum};
use super::transport::Transport;
use crate::frame::ETHERNET_HEADER_LEN;
use crate::{Checksum, DropReason, Frame, Pool, SegmentationKind};

/// The largest packet in pieces of 48 bytes: the smallest segment that Linux makes (an MSS of 88) less 40 bytes of
/// options.
pub const MAX_SEGMENTS: usize = 65_535 / 48;

/// Cuts a super-frame and gives each segment, finished, to `emit` in order. The super-frame itself stays as it is.
/// A frame that is none is given to nobody.
///
/// # Errors
/// [`DropReason::SuperFrameMalformed`], [`DropReason::SuperFrameChecksumWrong`], [`DropReason::SuperFrameTooFine`];
/// nothing was emitted then.
pub fn segment(frame: &mut Frame, pool: &Pool, mut emit: impl FnMut(&mut Frame)) -> Result<(), DropReason> {
    let Some(segmentation) = frame.offload.segmentation else { return Ok(()) };
    let transport = Transport::locate(frame.bytes()).ok_or(DropReason::SuperFrameMalformed)?;
    let fits = match segmentation.kind {
        SegmentationKind::Tcp4 => transport.is_ipv4 && transport.protocol == IpProtocol::Tcp,
        SegmentationKind::Tcp6 => !transport.is_ipv4 && transport.protocol == IpProtocol::Tcp,
        SegmentationKind::UdpL4 => transport.protocol == IpProtocol::Udp,
    };
    let payload_start = transport.payload_start(frame.bytes()).ok_or(DropReason::SuperFrameMalformed)?;
    if !fits || has_wrong_length(frame.bytes(), transport) {
        return Err(DropReason::SuperFrameMalformed);
    }
    // New checksums on a payload that was damaged before would hide the damage.
    if verify_checksum(frame) == Verdict::Wrong {
        return Err(DropReason::SuperFrameChecksumWrong);
    }
    let size = usize::from(segmentation.size.get());
    let headers = frame.bytes().get(..payload_start).ok_or(DropReason::SuperFrameMalformed)?;
    let payload = frame.bytes().get(payload_start..transport.end).ok_or(DropReason::SuperFrameMalformed)?;
    let count = payload.len().div_ceil(size).max(1);
    if count > MAX_SEGMENTS {
        return Err(DropReason::SuperFrameTooFine);
    }
    for index in 0..count {
        let from = index * size;
        let piece = payload.get(from..payload.len().min(from + size)).unwrap_or_default();
        let mut segment = pool.for_len(headers.len() + piece.len());
        segment.set_len(headers.len() + piece.len());
        let (head, tail) = segment.bytes_mut().split_at_mut(headers.len());
        head.copy_from_slice(headers);
        tail.copy_from_slice(piece);
        let place = Place { index, offset: from, is_last: index + 1 == count };
        finish(segment.bytes_mut(), transport, place).ok_or(DropReason::SuperFrameMalformed)?;
        segment.offload.checksum = Checksum::Valid;
        (segment.vlan, segment.priority) = (frame.vlan, frame.priority);
        emit(&mut segment);
    }
    Ok(())
}

/// Which piece of the super-frame a segment is.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    /// Payload bytes before it.
    offset: usize,
    is_last: bool,
}

/// A UDP super-frame's length field covers what is there; anything beyond would be lost silently.
fn has_wrong_length(frame: &[u8], transport: Transport) -> bool {
    let Some(segment) = transport.segment(frame) else { return true };
    transport.protocol == IpProtocol::Udp
        && UdpPacket::new_checked(segment).map_or(true, |udp| usize::from(udp.len()) != segment.len())
}

/// Sets the fields of a segment that differ from the super-frame's; `None` if the headers are not what they were.
fn finish(segment: &mut [u8], transport: Transport, place: Place) -> Option<()> {
    let mut ethernet = EthernetFrame::new_checked(segment).ok()?;
    let packet = ethernet.payload_mut();
    let len = packet.len();
    if transport.is_ipv4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut *packet);
        ip.set_total_len(u16::try_from(len).ok()?);
        // RFC 6864 section 4.3 asks for distinct identifications of packets that may be fragmented.
        let step = u16::try_from(place.index).ok()?;
        ip.set_ident(ip.ident().wrapping_add(step));
        ip.fill_checksum();
    } else {
        let mut ip = Ipv6Packet::new_unchecked(&mut *packet);
        ip.set_payload_len(u16::try_from(len - ip.header_len()).ok()?);
    }
    let bytes = packet.get_mut(transport.start - ETHERNET_HEADER_LEN..)?;
    let (source, destination) = (transport.source, transport.destination);
    if transport.protocol == IpProtocol::Tcp {
        let mut tcp = TcpPacket::new_unchecked(bytes);
        tcp.set_seq_number(tcp.seq_number() + place.offset);
        if !place.is_last {
            tcp.set_fin(false);
            tcp.set_psh(false);
        }
        // RFC 3168 section 6.1.2: the sender "sets the CWR flag in the TCP header of the first new data packet sent
        // after the window reduction".
        if place.index > 0 {
            tcp.set_cwr(false);
        }
        tcp.fill_checksum(&source, &destination);
    } else {
        let len = u16::try_from(bytes.len()).ok()?;
        let mut udp = UdpPacket::new_unchecked(bytes);
        udp.set_len(len);
        udp.fill_checksum(&source, &destination);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use proptest::prelude::*;
    use smoltcp::wire::{EthernetAddress, IpAddress, checksum};

    use super::*;
    use crate::offload::Segmentation;

    const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];

    #[derive(Clone, Debug)]
    struct Case {
        kind: SegmentationKind,
        ipv4: bool,
        payload: Vec<u8>,
        size: u16,
        ident: u16,
        seq: u32,
        flags: u8,
        hint: u16,
        padding: usize,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let kinds = prop_oneof![
            Just((SegmentationKind::Tcp4, true)),
            Just((SegmentationKind::Tcp6, false)),
            Just((SegmentationKind::UdpL4, true)),
            Just((SegmentationKind::UdpL4, false)),
        ];
        (
            kinds,
            prop::collection::vec(any::<u8>(), 1..9000),
            48u16..9100,
            any::<(u16, u32, u8, u16)>(),
            0..7usize,
        )
            .prop_map(|((kind, ipv4), payload, size, (ident, seq, flags, hint), padding)| Case {
                kind,
                ipv4,
                payload,
                size,
                ident,
                seq,
                flags,
                hint,
                padding,
            })
    }

    /// The super-frame as a device would hand it over: pseudo-header sum in the checksum field.
    fn super_frame(case: &Case) -> Frame {
        let is_tcp = case.kind != SegmentationKind::UdpL4;
        let transport_len = if is_tcp { 32 } else { 8 } + case.payload.len();
        let protocol = if is_tcp { 6 } else { 17 };
        let mut bytes = vec![0; 12];
        let (from, to): (IpAddress, IpAddress) = if case.ipv4 {
            bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            bytes.extend_from_slice(&u16::try_from(20 + transport_len).unwrap().to_be_bytes());
            bytes.extend_from_slice(&case.ident.to_be_bytes());
            bytes.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
            (IpAddress::v4(192, 0, 2, 1), IpAddress::v4(192, 0, 2, 2))
        } else {
            bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend_from_slice(&u16::try_from(transport_len).unwrap().to_be_bytes());
            bytes.extend_from_slice(&[protocol, 64]);
            let (from, to) = (
                IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
                IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
            );
            for address in [from, to] {
                let IpAddress::Ipv6(address) = address else { unreachable!() };
                bytes.extend_from_slice(&address.octets());
            }
            (from, to)
        };
        let start = u16::try_from(bytes.len()).unwrap();
        let pseudo =
            checksum::pseudo_header(&from, &to, protocol.into(), u32::try_from(transport_len).unwrap());
        bytes.extend_from_slice(&[0x30, 0x39, 0, 80]);
        if is_tcp {
            bytes.extend_from_slice(&case.seq.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 5, 0x80, case.flags, 0xff, 0xff]);
            bytes.extend_from_slice(&pseudo.to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&OPTIONS);
        } else {
            bytes.extend_from_slice(&u16::try_from(transport_len).unwrap().to_be_bytes());
            bytes.extend_from_slice(&pseudo.to_be_bytes());
        }
        bytes.extend_from_slice(&case.payload);
        bytes.resize(bytes.len() + case.padding, 0xee);
        let mut frame = Pool::new(0).large();
        frame.fill(&bytes);
        frame.offload.checksum = Checksum::Partial { start, offset: if is_tcp { 16 } else { 6 } };
        frame.offload.segmentation = Some(Segmentation {
            kind: case.kind,
            size: NonZeroU16::new(case.size).unwrap(),
            header_len: case.hint,
            ecn: false,
        });
        frame
    }

    /// One segment, read back through smoltcp alone.
    fn check_segment(case: &Case, index: usize, count: usize, bytes: &[u8]) -> Vec<u8> {
        let ethernet = EthernetFrame::new_checked(bytes).unwrap();
        assert_eq!(ethernet.dst_addr(), EthernetAddress([0; 6]));
        let (protocol, payload, from, to): (IpProtocol, &[u8], IpAddress, IpAddress) = if case.ipv4 {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            assert!(ip.verify_checksum());
            assert_eq!(usize::from(ip.total_len()), ethernet.payload().len());
            assert_eq!(ip.ident(), case.ident.wrapping_add(u16::try_from(index).unwrap()));
            (ip.next_header(), ip.payload(), ip.src_addr().into(), ip.dst_addr().into())
        } else {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            assert_eq!(ip.total_len(), ethernet.payload().len());
            (ip.next_header(), ip.payload(), ip.src_addr().into(), ip.dst_addr().into())
        };
        if protocol == IpProtocol::Udp {
            let udp = UdpPacket::new_checked(payload).unwrap();
            assert!(udp.checksum() != 0 && udp.verify_checksum(&from, &to));
            assert_eq!(usize::from(udp.len()), payload.len());
            return udp.payload().to_vec();
        }
        let tcp = TcpPacket::new_checked(payload).unwrap();
        assert!(tcp.verify_checksum(&from, &to));
        assert_eq!(tcp.options(), OPTIONS);
        let before = u32::try_from(index).unwrap() * u32::from(case.size);
        #[expect(clippy::cast_sign_loss, reason = "smoltcp keeps sequence numbers as i32")]
        let seq = tcp.seq_number().0 as u32;
        assert_eq!(seq, case.seq.wrapping_add(before));
        let (first, last) = (index == 0, index + 1 == count);
        assert_eq!(tcp.fin(), last && case.flags & 0x01 != 0);
        assert_eq!(tcp.psh(), last && case.flags & 0x08 != 0);
        assert_eq!(tcp.cwr(), first && case.flags & 0x80 != 0);
        assert_eq!(tcp.ack(), case.flags & 0x10 != 0);
        assert_eq!(tcp.ece(), case.flags & 0x40 != 0);
        tcp.payload().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn segments_are_whole_packets_whose_payloads_join_to_the_original(case in cases()) {
            let mut frame = super_frame(&case);
            let before = frame.bytes().to_vec();
            let mut segments = Vec::new();
            segment(&mut frame, &Pool::new(2), |segment| {
                assert_eq!(segment.offload.segmentation, None);
                assert_eq!(segment.offload.checksum, Checksum::Valid);
                segments.push(segment.bytes().to_vec());
            }).unwrap();
            let chunks: Vec<&[u8]> = case.payload.chunks(case.size.into()).collect();
            prop_assert_eq!(segments.len(), chunks.len());
            for (index, (bytes, chunk)) in segments.iter().zip(chunks).enumerate() {
                prop_assert_eq!(check_segment(&case, index, segments.len(), bytes), chunk);
            }
            prop_assert_eq!(frame.bytes(), before, "the super-frame stays as it was");
        }

        #[test]
        fn no_bytes_make_segmentation_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ethertype in prop_oneof![Just(0x0800u16), Just(0x86dd)],
            kind in prop_oneof![Just(SegmentationKind::Tcp4), Just(SegmentationKind::Tcp6), Just(SegmentationKind::UdpL4)],
            size in 1u16..,
            partial in any::<Option<(u16, u16)>>(),
        ) {
            let mut frame = Pool::new(0).small();
            frame.fill(&bytes);
            if let Some(field) = frame.bytes_mut().get_mut(12..14) {
                field.copy_from_slice(&ethertype.to_be_bytes());
            }
            if let Some(byte) = frame.bytes_mut().get_mut(14) {
                *byte = if ethertype == 0x0800 { 0x45 } else { 0x60 };
            }
            frame.offload.segmentation =
                Some(Segmentation { kind, size: NonZeroU16::new(size).unwrap(), header_len: 0, ecn: true });
            if let Some((start, offset)) = partial {
                frame.offload.checksum = Checksum::Partial { start, offset };
            }
            segment(&mut frame, &Pool::new(0), |_| {}).ok();
        }
    }

    fn one_case() -> Case {
        Case {
            kind: SegmentationKind::Tcp4,
            ipv4: true,
            payload: vec![7; 4000],
            size: 1000,
            ident: 0,
            seq: 0,
            flags: 0x10,
            hint: 0,
            padding: 0,
        }
    }

    fn outcome(frame: &mut Frame) -> (Result<(), DropReason>, usize) {
        let mut count = 0;
        (segment(frame, &Pool::new(0), |_| count += 1), count)
    }

    #[test]
    fn a_kind_that_contradicts_the_headers_is_a_drop() {
        for kind in [SegmentationKind::Tcp6, SegmentationKind::UdpL4] {
            let mut frame = super_frame(&one_case());
            frame.offload.segmentation = frame.offload.segmentation.map(|old| Segmentation { kind, ..old });
            assert_eq!(outcome(&mut frame), (Err(DropReason::SuperFrameMalformed), 0));
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_a_drop() {
        let mut frame = super_frame(&one_case());
        frame.set_len(frame.len() - 1);
        assert_eq!(outcome(&mut frame), (Err(DropReason::SuperFrameMalformed), 0));
    }

    #[test]
    fn a_segment_size_no_link_needs_is_a_drop() {
        let mut frame = super_frame(&Case { size: 1, ..one_case() });
        assert_eq!(outcome(&mut frame), (Err(DropReason::SuperFrameTooFine), 0));
    }

    #[test]
    fn a_finished_checksum_is_verified_before_new_ones_are_made() {
        let mut frame = super_frame(&one_case());
        frame.offload.checksum = Checksum::Unverified;
        assert_eq!(outcome(&mut frame), (Err(DropReason::SuperFrameChecksumWrong), 0));
        frame.offload.checksum = Checksum::Valid;
        assert_eq!(outcome(&mut frame), (Ok(()), 4));
    }
}
