// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transport checksums in software: finishing one that is owed, verifying one that is finished.
//!
//! # Sources
//! RFC 1071; Virtio 1.2 section 5.1.6.2 (`csum_start`, `csum_offset`).

use smoltcp::wire::{IpProtocol, TcpPacket, UdpPacket, checksum};

use super::transport::Transport;
use crate::{Checksum, DropReason, Frame};

/// What verifying a checksum showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right, or it is owed and never crossed a wire.
    Right,
    /// It is wrong, or the packet is too short to have one.
    Wrong,
    /// Not a whole TCP, UDP or ICMPv6 packet.
    NotApplicable,
}

/// Computes the checksum that a frame owes, if it owes one.
///
/// Not for super-frames: each segment has a checksum of its own.
///
/// # Errors
/// [`DropReason::VnetHeaderInvalid`].
pub fn complete_checksum(frame: &mut Frame) -> Result<(), DropReason> {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return Ok(()) };
    let summed = frame.bytes_mut().get_mut(usize::from(start)..).ok_or(DropReason::VnetHeaderInvalid)?;
    // The field holds the pseudo-header's sum already, so one sum over everything is the whole checksum.
    let sum = !checksum::data(summed);
    // RFC 768: "If the computed checksum is zero, it is transmitted as all ones"; to TCP the two are equal.
    let sum = if sum == 0 { 0xffff } else { sum };
    let offset = usize::from(offset);
    let field = summed.get_mut(offset..offset + 2).ok_or(DropReason::VnetHeaderInvalid)?;
    field.copy_from_slice(&sum.to_be_bytes());
    frame.offload.checksum = Checksum::Valid;
    Ok(())
}

/// Verifies a frame's transport checksum, unless it is known or owed, and notes in the frame that it is right.
pub fn verify_checksum(frame: &mut Frame) -> Verdict {
    if frame.offload.checksum != Checksum::Unverified {
        return Verdict::Right;
    }
    let Some(transport) = Transport::locate(frame.bytes()) else { return Verdict::NotApplicable };
    let Some(segment) = transport.segment(frame.bytes()) else { return Verdict::NotApplicable };
    let Transport { source, destination, .. } = transport;
    let right = match transport.protocol {
        IpProtocol::Tcp => {
            TcpPacket::new_checked(segment).is_ok_and(|tcp| tcp.verify_checksum(&source, &destination))
        }
        // RFC 8200 section 8.1: "IPv6 receivers must discard UDP packets containing a zero checksum"
        IpProtocol::Udp => UdpPacket::new_checked(segment).is_ok_and(|udp| {
            (transport.is_ipv4 || udp.checksum() != 0) && udp.verify_checksum(&source, &destination)
        }),
        // Not through smoltcp's view, which knows only some of the message types.
        IpProtocol::Icmpv6 if !transport.is_ipv4 => {
            let Ok(len) = u32::try_from(segment.len()) else { return Verdict::NotApplicable };
            let pseudo = checksum::pseudo_header(&source, &destination, IpProtocol::Icmpv6, len);
            segment.len() >= 4 && checksum::combine(&[pseudo, checksum::data(segment)]) == !0
        }
        _ => return Verdict::NotApplicable,
    };
    if !right {
        return Verdict::Wrong;
    }
    frame.offload.checksum = Checksum::Valid;
    Verdict::Right
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::UdpPacket;

    use super::*;
    use crate::Pool;

    /// A UDP datagram over IPv4 with payload `payload`, its checksum field as given.
    fn datagram(payload: &[u8], field: u16) -> Frame {
        let udp_len = u16::try_from(8 + payload.len()).unwrap();
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
        bytes.extend_from_slice(&(20 + udp_len).to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0, 53]);
        bytes.extend_from_slice(&udp_len.to_be_bytes());
        bytes.extend_from_slice(&field.to_be_bytes());
        bytes.extend_from_slice(payload);
        let mut frame = Pool::new(0).small();
        frame.fill(&bytes);
        frame
    }

    fn pseudo(payload: &[u8]) -> u16 {
        let (from, to) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        checksum::pseudo_header_v4(&from, &to, IpProtocol::Udp, u32::try_from(8 + payload.len()).unwrap())
    }

    #[test]
    fn an_owed_checksum_is_paid_in_full() {
        for payload in [&b"abc"[..], b"", b"even"] {
            let mut frame = datagram(payload, pseudo(payload));
            frame.offload.checksum = Checksum::Partial { start: 34, offset: 6 };
            assert_eq!(complete_checksum(&mut frame), Ok(()));
            assert_eq!(frame.offload.checksum, Checksum::Valid);
            frame.offload.checksum = Checksum::Unverified;
            assert_eq!(verify_checksum(&mut frame), Verdict::Right);
            assert_eq!(frame.offload.checksum, Checksum::Valid);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        // Choose the payload so that everything else sums up to all ones.
        let header = datagram(&[0, 0], pseudo(&[0, 0]));
        let missing = !checksum::data(&header.bytes()[34..]);
        let payload = missing.to_be_bytes();
        let mut frame = datagram(&payload, pseudo(&payload));
        frame.offload.checksum = Checksum::Partial { start: 34, offset: 6 };
        complete_checksum(&mut frame).unwrap();
        assert_eq!(UdpPacket::new_checked(&frame.bytes()[34..]).unwrap().checksum(), 0xffff);
    }

    #[test]
    fn a_wrong_checksum_is_noticed_and_an_absent_one_accepted() {
        let mut wrong = datagram(b"abc", 0x1234);
        assert_eq!(verify_checksum(&mut wrong), Verdict::Wrong);
        assert_eq!(wrong.offload.checksum, Checksum::Unverified);
        assert_eq!(verify_checksum(&mut datagram(b"abc", 0)), Verdict::Right);
    }

    #[test]
    fn a_checksum_that_never_crossed_a_wire_is_not_looked_at() {
        let mut owed = datagram(b"abc", 0x1234);
        owed.offload.checksum = Checksum::Partial { start: 34, offset: 6 };
        assert_eq!(verify_checksum(&mut owed), Verdict::Right);
    }

    #[test]
    fn a_checksum_outside_the_frame_is_a_drop() {
        let mut frame = datagram(b"abc", 0);
        for (start, offset) in [(44, 0), (45, 0), (46, 0), (60_000, 6), (34, 60_000)] {
            frame.offload.checksum = Checksum::Partial { start, offset };
            assert_eq!(complete_checksum(&mut frame), Err(DropReason::VnetHeaderInvalid));
        }
    }
}
