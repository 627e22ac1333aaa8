// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fragments: put together on the way out, cut on the way in.
//!
//! # How it works
//! A packet in reassembly is one large frame that every fragment is copied into at its place, and a short list of the
//! ranges that came. Fragments that overlap condemn the whole packet: nobody sends them for a good reason
//! (RFC 5722 forbids them in IPv6; for IPv4 we do the same).
//!
//! # Bounds
//! [`MAX_PACKETS`] packets of at most 64 KiB, [`MAX_PER_SOURCE`] of them from one address, [`MAX_PIECES`] pieces each,
//! for [`TIMEOUT`]. The oldest packet of the same source gives way first.
//!
//! # Sources
//! RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722, RFC 1858 (tiny fragments).

use core::net::IpAddr;

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6FragmentHeader, Ipv6Packet,
};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Duration, Frame, Instant, Pool};

use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::wire::emit::{self, Path, len16};
use crate::wire::{Fragment, Packet};

const MAX_PACKETS: usize = 64;
const MAX_PER_SOURCE: usize = 16;
const MAX_PIECES: usize = 64;
/// The IPv4 header counts in a packet's length, the IPv6 header does not.
const MAX_PAYLOAD_V4: usize = 65_535 - 20;
const MAX_PAYLOAD_V6: usize = 65_535;
/// RFC 8200 section 4.5: 60 seconds; RFC 1122 section 3.3.2 allows 60 to 120 for IPv4.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Offsets count in units of eight bytes.
const UNIT: usize = 8;
const IPV6_FRAGMENT_HEADER_LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    ident: u32,
    protocol: IpProtocol,
}

/// A packet of which some fragments have come.
#[derive(Debug)]
struct Partial {
    key: Key,
    frame: Frame,
    ranges: Vec<(usize, usize)>,
    /// Bytes of payload, known when the last fragment came.
    total: Option<usize>,
    started_at: Instant,
    hop_limit: u8,
}

/// Packets in reassembly.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    partial: Vec<Partial>,
}

impl Reassembly {
    /// Takes in a fragment; gives the whole packet when it was the last one missing.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        pool: &Pool,
        packet: &Packet,
        fragment: Fragment,
        frame: &Frame,
    ) -> Result<Option<Frame>, DropReason> {
        self.partial.retain(|partial| now.since(partial.started_at) < TIMEOUT);
        let bytes = packet.payload(frame);
        let max_payload = if packet.src.is_ipv4() { MAX_PAYLOAD_V4 } else { MAX_PAYLOAD_V6 };
        let end = fragment.offset + bytes.len();
        if bytes.is_empty() || end > max_payload || (fragment.more && !bytes.len().is_multiple_of(UNIT)) {
            return Err(DropReason::FragmentMalformed);
        }
        let key = Key { src: packet.src, dst: packet.dst, ident: fragment.ident, protocol: packet.protocol };
        let at = match self.partial.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => self.begin(now, pool, key, packet)?,
        };
        let Some(partial) = self.partial.get_mut(at) else { return Ok(None) };
        match partial.insert(packet, fragment, bytes, end) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let partial = self.partial.remove(at);
                Ok(Some(partial.finish(packet)))
            }
            Err(reason) => {
                self.partial.remove(at);
                Err(reason)
            }
        }
    }

    fn begin(&mut self, now: Instant, pool: &Pool, key: Key, packet: &Packet) -> Result<usize, DropReason> {
        let of_source = self.partial.iter().filter(|partial| partial.key.src == key.src).count();
        if of_source >= MAX_PER_SOURCE {
            if let Some(oldest) = self.partial.iter().position(|partial| partial.key.src == key.src) {
                self.partial.remove(oldest);
            }
        } else if self.partial.len() >= MAX_PACKETS {
            return Err(DropReason::FragmentsExhausted);
        }
        self.partial.push(Partial {
            key,
            frame: pool.large(),
            ranges: Vec::new(),
            total: None,
            started_at: now,
            hop_limit: packet.hop_limit,
        });
        Ok(self.partial.len() - 1)
    }
}

fn path(packet: &Packet) -> Path {
    Path { src_mac: packet.src_mac, dst_mac: packet.dst_mac, src: packet.src, dst: packet.dst }
}

impl Partial {
    /// Copies a piece to its place. Returns whether the packet is complete.
    fn insert(
        &mut self,
        packet: &Packet,
        fragment: Fragment,
        bytes: &[u8],
        end: usize,
    ) -> Result<bool, DropReason> {
        let start = fragment.offset;
        let overlaps = self.ranges.iter().any(|&(from, to)| start < to && from < end);
        let beyond = self.total.is_some_and(|total| end > total);
        let shortens = !fragment.more && self.ranges.iter().any(|&(_, to)| to > end);
        let second_last = !fragment.more && self.total.is_some();
        if overlaps || beyond || shortens || second_last || self.ranges.len() >= MAX_PIECES {
            return Err(DropReason::FragmentMalformed);
        }
        if start == 0 {
            self.hop_limit = packet.hop_limit;
        }
        if !fragment.more {
            self.total = Some(end);
        }
        let payload_start = ETHERNET_HEADER_LEN + path(packet).ip_header_len();
        let needed = payload_start + end;
        if self.frame.len() < needed {
            self.frame.set_len(needed);
        }
        if let Some(room) = self.frame.bytes_mut().get_mut(payload_start + start..needed) {
            room.copy_from_slice(bytes);
        }
        self.ranges.push((start, end));
        let received: usize = self.ranges.iter().map(|&(from, to)| to - from).sum();
        Ok(self.total == Some(received))
    }

    /// Writes the headers of the whole packet.
    fn finish(mut self, packet: &Packet) -> Frame {
        let total = self.total.unwrap_or(0);
        emit::ip(&mut self.frame, &path(packet), packet.protocol, self.hop_limit, total);
        self.frame
    }
}

/// Sends a whole packet, in pieces if the link asks for it.
pub(crate) fn send<H, O: Outbox>(cx: &mut Cx<'_, H, O>, frame: &mut Frame, path: &Path, ident: u32) {
    if frame.len() > cx.env.config.mtu_bytes + ETHERNET_HEADER_LEN {
        send_in_pieces(cx, frame, path, ident);
    } else {
        cx.send(frame);
    }
}

/// Cuts a whole packet into fragments that fit the link, and sends them.
pub(crate) fn send_in_pieces<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    frame: &mut Frame,
    path: &Path,
    ident: u32,
) {
    // The transport checksum spans all fragments, so it cannot stay owed.
    if wharf_switch::offload::complete_checksum(frame).is_err() {
        return;
    }
    let ip_header_len = path.ip_header_len();
    let extra = if path.src.is_ipv6() { IPV6_FRAGMENT_HEADER_LEN } else { 0 };
    let payload = frame.bytes().get(ETHERNET_HEADER_LEN + ip_header_len..).unwrap_or_default();
    let (protocol, hop_limit) = protocol_and_hop_limit(frame);
    let room = cx.env.config.mtu_bytes.saturating_sub(ip_header_len + extra);
    let step = (room - room % UNIT).max(UNIT);
    let mut offset = 0;
    for piece in payload.chunks(step) {
        let more = offset + piece.len() < payload.len();
        let mut out = cx.env.pool.for_len(ETHERNET_HEADER_LEN + ip_header_len + extra + piece.len());
        let carried = if extra == 0 { protocol } else { IpProtocol::Ipv6Frag };
        let room = emit::ip(&mut out, path, carried, hop_limit, extra + piece.len());
        if let Some(body) = room.get_mut(extra..) {
            body.copy_from_slice(piece);
        }
        mark_as_fragment(&mut out, protocol, Fragment { ident, offset, more });
        cx.send(&mut out);
        offset += piece.len();
    }
}

fn protocol_and_hop_limit(frame: &Frame) -> (IpProtocol, u8) {
    let ip = frame.bytes().get(ETHERNET_HEADER_LEN..).unwrap_or_default();
    match EthernetFrame::new_checked(frame.bytes()).map(|ethernet| ethernet.ethertype()) {
        Ok(EthernetProtocol::Ipv6) => Ipv6Packet::new_checked(ip)
            .map_or((IpProtocol::Udp, emit::HOP_LIMIT), |h| (h.next_header(), h.hop_limit())),
        _ => Ipv4Packet::new_checked(ip)
            .map_or((IpProtocol::Udp, emit::HOP_LIMIT), |h| (h.next_header(), h.hop_limit())),
    }
}

/// Says in the headers of `frame` which piece of what it is.
fn mark_as_fragment(frame: &mut Frame, protocol: IpProtocol, fragment: Fragment) {
    let Some(ip) = frame.bytes_mut().get_mut(ETHERNET_HEADER_LEN..) else { return };
    let is_ipv4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    if is_ipv4 {
        let mut header = Ipv4Packet::new_unchecked(ip);
        header.clear_flags();
        header.set_ident(fragment.ident.to_be_bytes().last_chunk().map_or(0, |low| u16::from_be_bytes(*low)));
        header.set_more_frags(fragment.more);
        header.set_frag_offset(len16(fragment.offset));
        header.fill_checksum();
        return;
    }
    let Some(header) = ip.get_mut(40..48) else { return };
    if let Some((first, rest)) = header.split_at_mut_checked(2) {
        first.copy_from_slice(&[protocol.into(), 0]);
        let mut view = Ipv6FragmentHeader::new_unchecked(rest);
        view.clear_reserved();
        view.set_frag_offset(len16(fragment.offset / UNIT));
        view.set_more_frags(fragment.more);
        view.set_ident(fragment.ident);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::EthernetAddress;

    fn whole_path() -> Path {
        Path {
            src_mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
            src: "10.0.2.100".parse().unwrap(),
            dst: "198.51.100.1".parse().unwrap(),
        }
    }

    fn piece(pool: &Pool, offset: usize, len: usize, more: bool) -> Frame {
        let mut frame = pool.large();
        emit::ip(&mut frame, &whole_path(), IpProtocol::Udp, 9, len)
            .fill(u8::try_from(offset / 8 % 251).unwrap());
        mark_as_fragment(&mut frame, IpProtocol::Udp, Fragment { ident: 7, offset, more });
        frame
    }

    fn add(reassembly: &mut Reassembly, pool: &Pool, frame: &Frame) -> Result<Option<Frame>, DropReason> {
        let packet = Packet::parse_ipv4(frame).unwrap();
        let fragment = packet.fragment.unwrap();
        reassembly.add(Instant::ZERO, pool, &packet, fragment, frame)
    }

    #[test]
    fn pieces_in_any_order_make_the_whole() {
        let pool = Pool::new(4);
        let mut reassembly = Reassembly::default();
        assert!(add(&mut reassembly, &pool, &piece(&pool, 16, 5, false)).unwrap().is_none());
        assert!(add(&mut reassembly, &pool, &piece(&pool, 0, 8, true)).unwrap().is_none());
        let whole = add(&mut reassembly, &pool, &piece(&pool, 8, 8, true)).unwrap().unwrap();
        let packet = Packet::parse_ipv4(&whole).unwrap();
        assert_eq!(packet.fragment, None);
        assert_eq!(packet.hop_limit, 9);
        let expected = [vec![0; 8], vec![1; 8], vec![2; 5]].concat();
        assert_eq!(packet.payload(&whole), expected);
        assert!(reassembly.partial.is_empty());
    }

    #[test]
    fn an_overlap_condemns_the_whole_packet() {
        let pool = Pool::new(4);
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, &pool, &piece(&pool, 0, 16, true)).unwrap();
        let second = add(&mut reassembly, &pool, &piece(&pool, 8, 16, false));
        assert_eq!(second.unwrap_err(), DropReason::FragmentMalformed);
        assert!(reassembly.partial.is_empty());
    }

    #[test]
    fn half_open_packets_of_one_source_are_bounded() {
        let pool = Pool::new(4);
        let mut reassembly = Reassembly::default();
        for ident in 0..1000 {
            let mut frame = piece(&pool, 0, 8, true);
            mark_as_fragment(&mut frame, IpProtocol::Udp, Fragment { ident, offset: 0, more: true });
            let _ = add(&mut reassembly, &pool, &frame);
        }
        assert_eq!(reassembly.partial.len(), MAX_PER_SOURCE);
    }

    #[test]
    fn a_packet_beyond_64_kib_is_refused() {
        let pool = Pool::new(4);
        let mut reassembly = Reassembly::default();
        let result = add(&mut reassembly, &pool, &piece(&pool, 65_528, 64, false));
        assert_eq!(result.unwrap_err(), DropReason::FragmentMalformed);
    }
}
