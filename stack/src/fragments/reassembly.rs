// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fragments of the containers become whole packets.
//!
//! # How it works
//! A packet in reassembly is one large frame that every fragment is copied into at its place, and a short list of the
//! ranges that came. Fragments that overlap condemn the whole packet: nobody sends them for a good reason
//! (RFC 5722 forbids them in IPv6; for IPv4 we do the same). Whose first fragment came and whose others did not is told
//! to its sender.
//!
//! # Bounds
//! [`MAX_PACKETS`] packets of at most 64 KiB, [`MAX_PIECES`] pieces each, for [`TIMEOUT`]. When there are so many, a new one
//! takes the place of the oldest of the container that has the most, and of its own container if none has more (longest
//! queue drop).
//!
//! # Sources
//! RFC 791 section 3.2, RFC 1122 section 3.3.2, RFC 8200 section 4.5, RFC 5722, RFC 1858 (tiny fragments).

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, IpProtocol};
use wharf_switch::frame::{ETHERNET_HEADER_LEN, SMALL_FRAME_LEN};
use wharf_switch::{Duration, Frame, Instant};

use super::UNIT;
use crate::env::{Cx, Outbox};
use crate::holders::Holders;
use crate::host::FlowId;
use crate::icmp_error::{self, Cause};
use crate::keyed::KeyedState;
use crate::wire::emit::{self, Path};
use crate::wire::{Fragment, Packet};
use crate::{Config, DropReason};

const MAX_PACKETS: usize = 64;
/// The largest packet on a link of 576 bytes, the least that IPv4 asks of a host, comes in 119.
const MAX_PIECES: usize = 128;
/// The IPv4 header counts in a packet's length, the IPv6 header does not.
const MAX_PAYLOAD_V4: usize = 65_535 - 20;
const MAX_PAYLOAD_V6: usize = 65_535;
/// RFC 8200 section 4.5: 60 seconds; RFC 1122 section 3.3.2 allows 60 to 120 for IPv4.
const TIMEOUT: Duration = Duration::from_secs(60);

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
    /// The container it comes from.
    holder: FlowId,
    frame: Frame,
    ranges: Vec<(usize, usize)>,
    /// Bytes of payload, known when the last fragment came.
    total: Option<usize>,
    started_at: Instant,
    first: Option<First>,
}

/// The fragment that a packet begins with, as far as an ICMP error quotes it.
#[derive(Debug)]
struct First {
    packet: Packet,
    frame: Frame,
}

/// Packets in reassembly.
#[derive(Debug)]
pub(crate) struct Reassembly {
    /// Oldest first.
    partial: Vec<Partial>,
    holders: Holders,
}

impl Reassembly {
    pub(crate) fn new(config: &Config) -> Self {
        let hasher = KeyedState::new(&config.seed, b"packets in reassembly");
        Self { partial: Vec::new(), holders: Holders::new(hasher, MAX_PACKETS) }
    }

    /// Takes in a fragment; gives the whole packet when it was the last one missing.
    pub(crate) fn add<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        fragment: Fragment,
        frame: &Frame,
    ) -> Result<Option<Frame>, DropReason> {
        self.expire(cx);
        let bytes = packet.payload(frame);
        let max_payload = if packet.src.is_ipv4() { MAX_PAYLOAD_V4 } else { MAX_PAYLOAD_V6 };
        let end = fragment.offset + bytes.len();
        if bytes.is_empty() || end > max_payload || (fragment.more && !bytes.len().is_multiple_of(UNIT)) {
            return Err(DropReason::FragmentMalformed);
        }
        let key = Key { src: packet.src, dst: packet.dst, ident: fragment.ident, protocol: packet.protocol };
        let at = match self.partial.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => self.begin(cx, key, packet.src_mac)?,
        };
        let Some(partial) = self.partial.get_mut(at) else { return Ok(None) };
        if fragment.offset == 0 {
            partial.first.get_or_insert_with(|| First::new(cx, packet, frame));
        }
        match partial.insert(packet, fragment, bytes, end) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(self.remove(at).finish(packet))),
            Err(reason) => {
                self.remove(at);
                Err(reason)
            }
        }
    }

    fn begin<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: Key,
        container: EthernetAddress,
    ) -> Result<usize, DropReason> {
        if self.partial.len() >= MAX_PACKETS
            && let Some(at) = self.first_to_go(container)
        {
            self.remove(at);
            cx.discard(DropReason::FragmentsExhausted);
        }
        let holder = self.holders.add(container).ok_or(DropReason::FragmentsExhausted)?;
        self.partial.push(Partial {
            key,
            holder,
            frame: cx.env.pool.large(),
            ranges: Vec::new(),
            total: None,
            started_at: cx.now,
            first: None,
        });
        Ok(self.partial.len() - 1)
    }

    /// Which packet gives way to a new one of `container`.
    fn first_to_go(&self, container: EthernetAddress) -> Option<usize> {
        let packets = |partial: &Partial| self.holders.places(partial.holder);
        let most = self.partial.iter().map(packets).max()?;
        let own = self.holders.find(container).filter(|&holder| self.holders.places(holder) == most);
        self.partial.iter().position(|partial| match own {
            Some(holder) => partial.holder == holder,
            None => packets(partial) == most,
        })
    }

    fn remove(&mut self, at: usize) -> Partial {
        let partial = self.partial.remove(at);
        self.holders.remove(partial.holder);
        partial
    }

    /// Gives up what has waited for too long.
    pub(crate) fn expire<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        while self.next_deadline().is_some_and(|deadline| deadline <= cx.now) {
            if let Some(First { packet, frame }) = self.remove(0).first {
                icmp_error::answer(cx, &packet, &frame, Cause::ReassemblyTimeExceeded);
            }
            cx.discard(DropReason::FragmentsExpired);
        }
    }

    /// When [`Reassembly::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.partial.first().map(|oldest| oldest.started_at + TIMEOUT)
    }
}

fn path(packet: &Packet) -> Path {
    Path { src_mac: packet.src_mac, dst_mac: packet.dst_mac, src: packet.src, dst: packet.dst }
}

impl First {
    fn new<H, O>(cx: &Cx<'_, H, O>, packet: &Packet, frame: &Frame) -> Self {
        let len = packet.payload_end.min(SMALL_FRAME_LEN);
        let mut copy = cx.env.pool.small();
        copy.fill(frame.bytes().get(..len).unwrap_or_default());
        Self { packet: Packet { payload_end: len, ..*packet }, frame: copy }
    }
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
        if overlaps || beyond || shortens || second_last {
            return Err(DropReason::FragmentMalformed);
        }
        if self.ranges.len() >= MAX_PIECES {
            return Err(DropReason::FragmentsExhausted);
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
        let hop_limit = self.first.map_or(packet.hop_limit, |first| first.packet.hop_limit);
        emit::ip(&mut self.frame, &path(packet), packet.protocol, hop_limit, total);
        self.frame.reassembled = true;
        self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::super::cutting::mark_as_fragment;
    use super::*;
    use crate::config::tests::config;
    use crate::env::Env;
    use wharf_switch::Pool;

    /// What left, in bytes, and how many packets were dropped unsent.
    #[derive(Default)]
    struct Out {
        sent: Vec<Vec<u8>>,
        unsent: usize,
    }

    impl Outbox for Out {
        fn send(&mut self, frame: &mut Frame) {
            self.sent.push(frame.bytes().to_vec());
        }

        fn route(&mut self, _: usize, _: &mut Frame) {
            unreachable!("this network has no routes");
        }

        fn drop_unsent(&mut self) {
            self.unsent += 1;
        }
    }

    struct Bench {
        now: Instant,
        env: Env,
        out: Out,
        reassembly: Reassembly,
    }

    impl Bench {
        fn new() -> Self {
            let (env, reassembly) = (Env::new(config(), Pool::new(4)), Reassembly::new(&config()));
            Self { now: Instant::from_secs(1), env, out: Out::default(), reassembly }
        }

        fn add(&mut self, frame: &Frame) -> Result<Option<Frame>, DropReason> {
            let packet = parse(frame);
            let fragment = packet.fragment.unwrap();
            let cx = &mut Cx { now: self.now, host: &mut (), out: &mut self.out, env: &mut self.env };
            self.reassembly.add(cx, &packet, fragment, frame)
        }

        fn expire(&mut self) {
            let cx = &mut Cx { now: self.now, host: &mut (), out: &mut self.out, env: &mut self.env };
            self.reassembly.expire(cx);
        }
    }

    fn parse(frame: &Frame) -> Packet {
        let is_ipv4 = frame.bytes()[ETHERNET_HEADER_LEN] >> 4 == 4;
        if is_ipv4 { Packet::parse_ipv4(frame) } else { Packet::parse_ipv6(frame) }.unwrap()
    }

    fn path(family: u8) -> Path {
        let (src, dst) =
            if family == 4 { ("10.0.2.100", "198.51.100.1") } else { ("fd00:db8::64", "2001:db8::1") };
        Path {
            src_mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    fn piece_of(family: u8, ident: u32, offset: usize, len: usize, more: bool) -> Frame {
        let mut frame = Pool::new(4).large();
        let path = path(family);
        let (extra, carried) = if family == 4 { (0, IpProtocol::Udp) } else { (8, IpProtocol::Ipv6Frag) };
        let filler = u8::try_from(offset / 8 % 251).unwrap();
        emit::ip(&mut frame, &path, carried, 9, extra + len).fill(filler);
        mark_as_fragment(&mut frame, IpProtocol::Udp, Fragment { ident, offset, more });
        frame
    }

    fn piece(offset: usize, len: usize, more: bool) -> Frame {
        piece_of(4, 7, offset, len, more)
    }

    #[test]
    fn pieces_in_any_order_make_the_whole_that_may_be_cut_again() {
        for family in [4, 6] {
            let mut bench = Bench::new();
            assert!(bench.add(&piece_of(family, 7, 16, 5, false)).unwrap().is_none());
            assert!(bench.add(&piece_of(family, 7, 0, 8, true)).unwrap().is_none());
            let whole = bench.add(&piece_of(family, 7, 8, 8, true)).unwrap().unwrap();
            let packet = parse(&whole);
            assert_eq!((packet.fragment, packet.dont_fragment, packet.hop_limit), (None, false, 9));
            let expected = [vec![0; 8], vec![1; 8], vec![2; 5]].concat();
            assert_eq!(packet.payload(&whole), expected);
            assert!(bench.reassembly.partial.is_empty());
            assert_eq!(bench.reassembly.next_deadline(), None);
        }
    }

    #[test]
    fn an_overlap_condemns_the_whole_packet() {
        let mut bench = Bench::new();
        bench.add(&piece(0, 16, true)).unwrap();
        let second = bench.add(&piece(8, 16, false));
        assert_eq!(second.unwrap_err(), DropReason::FragmentMalformed);
        assert!(bench.reassembly.partial.is_empty());
    }

    #[test]
    fn half_open_packets_are_bounded_and_counted() {
        let mut bench = Bench::new();
        for ident in 0..1000 {
            bench.add(&piece_of(4, ident, 0, 8, true)).unwrap();
        }
        assert_eq!(bench.reassembly.partial.len(), MAX_PACKETS);
        assert_eq!(bench.out.unsent, 1000 - MAX_PACKETS);
        assert_eq!(bench.env.drops.get(DropReason::FragmentsExhausted), 1000 - MAX_PACKETS as u64);
        assert!(bench.out.sent.is_empty());
    }

    #[test]
    fn a_flood_costs_another_container_none_of_its_packets() {
        let others = 0..u32::try_from(MAX_PACKETS).unwrap() / 2;
        let of_other = |ident, offset, more| {
            let mut frame = piece_of(4, ident, offset, 8, more);
            frame.bytes_mut()[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            frame
        };
        let mut bench = Bench::new();
        let flood = |bench: &mut Bench, idents: core::ops::Range<u32>| {
            for ident in idents {
                bench.add(&piece_of(4, ident, 0, 8, true)).unwrap();
                bench.add(&piece_of(6, ident, 0, 8, true)).unwrap();
            }
        };
        flood(&mut bench, 1000..2000);
        for ident in others.clone() {
            bench.add(&of_other(ident, 0, true)).unwrap();
        }
        flood(&mut bench, 2000..3000);
        for ident in others {
            assert!(bench.add(&of_other(ident, 8, false)).unwrap().is_some(), "packet {ident}");
        }
        // Alone again, the flood has every place.
        flood(&mut bench, 3000..4000);
        assert_eq!(bench.reassembly.partial.len(), MAX_PACKETS);
    }

    #[test]
    fn a_packet_beyond_64_kib_is_refused() {
        let result = Bench::new().add(&piece(65_528, 64, false));
        assert_eq!(result.unwrap_err(), DropReason::FragmentMalformed);
    }

    /// RFC 792 and RFC 8200 section 4.5: the error quotes the first fragment, and there is none without it.
    #[test]
    fn missing_pieces_are_told_to_whom_the_first_one_came_from() {
        for (family, kind) in [(4, 11), (6, 3)] {
            let mut bench = Bench::new();
            bench.add(&piece_of(family, 1, 8, 8, true)).unwrap();
            let first = piece_of(family, 2, 0, 2000, true);
            bench.add(&first).unwrap();
            bench.now = bench.reassembly.next_deadline().unwrap();
            bench.expire();
            assert_eq!(bench.env.drops.get(DropReason::FragmentsExpired), 2);
            assert_eq!(bench.out.unsent, 2);
            let [error] = &bench.out.sent[..] else { panic!("one error, not {}", bench.out.sent.len()) };
            let message = &error[path(family).payload_start()..];
            assert_eq!(message[..2], [kind, 1]);
            assert_eq!(message[8..], first.bytes()[ETHERNET_HEADER_LEN..][..message.len() - 8]);
        }
    }

    /// RFC 8200 section 4.5: 60 seconds from the first that arrives.
    #[test]
    fn a_late_piece_begins_anew() {
        let mut bench = Bench::new();
        bench.add(&piece(0, 8, true)).unwrap();
        bench.now += TIMEOUT;
        assert!(bench.add(&piece(8, 8, false)).unwrap().is_none());
        assert_eq!(bench.env.drops.get(DropReason::FragmentsExpired), 1);
        assert_eq!(bench.reassembly.partial.len(), 1);
    }
}
