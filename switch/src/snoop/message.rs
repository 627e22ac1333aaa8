// SPDX-License-Identifier: MIT OR Apache-2.0
//! IGMP and MLD messages, as far as a switch wants to know what they say.
//!
//! # Sources
//! RFC 1112 appendix I, RFC 2236, RFC 3376 section 4 (IGMP); RFC 2710 section 3, RFC 3810 section 5 (MLD); RFC 1112
//! section 6.4 and RFC 2464 section 7 (MAC addresses of groups).

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, checksum,
};

use super::members::MAX_PER_PORT;
use crate::Frame;
use crate::offload::checksum::{Verdict, verify_checksum};
use crate::offload::transport::Transport;

const IGMP_QUERY: u8 = 0x11;
const IGMP_V1_REPORT: u8 = 0x12;
const IGMP_V2_REPORT: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_V3_REPORT: u8 = 0x22;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;

/// Where the records of an IGMPv3 or MLDv2 report start; their number is in the two bytes before.
const RECORDS: usize = 8;
/// Bytes of a record before its group.
const RECORD_HEADER: usize = 4;

/// Record types, RFC 3376 section 4.2.12.
const MODE_IS_INCLUDE: u8 = 1;
const MODE_IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
const ALLOW_NEW_SOURCES: u8 = 5;
const BLOCK_OLD_SOURCES: u8 = 6;

/// Whose groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// The family that has groups with such MAC addresses.
    pub(super) fn of(mac: EthernetAddress) -> Option<Self> {
        match mac.0 {
            [0x01, 0x00, 0x5e, 0x00..=0x7f, ..] => Some(Self::Ipv4),
            [0x33, 0x33, ..] => Some(Self::Ipv6),
            _ => None,
        }
    }

    fn address_len(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    /// The MAC address of a group.
    fn mac_of(self, group: &[u8]) -> Option<EthernetAddress> {
        let &[a, b, c, d] = group.last_chunk()?;
        Some(EthernetAddress(match self {
            Self::Ipv4 => [0x01, 0x00, 0x5e, b & 0x7f, c, d],
            Self::Ipv6 => [0x33, 0x33, a, b, c, d],
        }))
    }
}

/// Addresses, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sources<'a> {
    family: Family,
    bytes: &'a [u8],
}

impl Sources<'_> {
    pub(super) fn len(self) -> usize {
        self.bytes.len() / self.family.address_len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u128> {
        let number = |address: &[u8]| address.iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte));
        self.bytes.chunks_exact(self.family.address_len()).map(number)
    }
}

/// What a host says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// It wants the group from any source, or from all but a few.
    Join,
    /// It wants the group from these sources only, or from these too.
    Include(Sources<'a>),
    /// It wants these too.
    Allow(Sources<'a>),
    /// It does not want these any more.
    Block(Sources<'a>),
    Leave,
}

/// A message from a router or a host.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Query {
        /// It asks for every group.
        is_general: bool,
    },
    Report(Changes<'a>),
}

/// The changes that a report tells of.
#[derive(Clone, Debug)]
pub(super) struct Changes<'a> {
    family: Family,
    /// A report of the older versions has one group and says one thing.
    single: Option<Change<'a>>,
    /// Records left to look at; more than a port can have groups are not.
    records: usize,
    rest: &'a [u8],
}

impl<'a> Changes<'a> {
    /// What a report says that starts with the group.
    fn single(family: Family, change: Change<'a>, group: Option<&'a [u8]>) -> Option<Self> {
        Some(Self { family, single: Some(change), records: 0, rest: group? })
    }

    /// What an IGMPv3 or MLDv2 report says.
    fn records(family: Family, message: &'a [u8]) -> Option<Self> {
        let &[n0, n1] = message.get(..RECORDS)?.last_chunk()?;
        let rest = message.get(RECORDS..)?;
        let records = usize::from(u16::from_be_bytes([n0, n1])).min(MAX_PER_PORT);
        Some(Self { family, single: None, records, rest })
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = (EthernetAddress, Change<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let len = self.family.address_len();
        if let Some(change) = self.single.take() {
            return Some((self.family.mac_of(self.rest.get(..len)?)?, change));
        }
        while self.records > 0 {
            self.records -= 1;
            let &[kind, auxiliary, n0, n1] = self.rest.first_chunk()?;
            let (group, rest) = self.rest.get(RECORD_HEADER..)?.split_at_checked(len)?;
            let (bytes, rest) = rest.split_at_checked(len * usize::from(u16::from_be_bytes([n0, n1])))?;
            self.rest = rest.get(4 * usize::from(auxiliary)..)?;
            let sources = Sources { family: self.family, bytes };
            let change = match kind {
                MODE_IS_EXCLUDE | TO_EXCLUDE => Change::Join,
                MODE_IS_INCLUDE | TO_INCLUDE if !bytes.is_empty() => Change::Include(sources),
                ALLOW_NEW_SOURCES if !bytes.is_empty() => Change::Allow(sources),
                BLOCK_OLD_SOURCES => Change::Block(sources),
                TO_INCLUDE => Change::Leave,
                _ => continue,
            };
            return Some((self.family.mac_of(group)?, change));
        }
        None
    }
}

/// Reads a message of the family; `None` when the frame is something else, or its checksums are wrong (RFC 4541 section
/// 2.1.1 (3): such a message is not to be used).
pub(super) fn read(frame: &mut Frame, family: Family) -> Option<Message<'_>> {
    match family {
        Family::Ipv4 => read_igmp(frame.bytes()),
        Family::Ipv6 => read_mld(frame),
    }
}

fn read_igmp(frame: &[u8]) -> Option<Message<'_>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let is_whole = ip.version() == 4 && ip.frag_offset() == 0 && !ip.more_frags();
    let message = ip.payload();
    let is_intact = ip.verify_checksum() && checksum::data(message) == !0;
    if !is_whole || ip.next_header() != IpProtocol::Igmp || !is_intact {
        return None;
    }
    let single = |change| Changes::single(Family::Ipv4, change, message.get(4..)).map(Message::Report);
    match *message.first()? {
        // RFC 4541 section 2.1.1 (1) b: routers are where queries come from "where the source address is not 0.0.0.0".
        IGMP_QUERY if !ip.src_addr().is_unspecified() => query(message.get(4..8)),
        IGMP_V1_REPORT | IGMP_V2_REPORT => single(Change::Join),
        IGMP_LEAVE => single(Change::Leave),
        IGMP_V3_REPORT => Changes::records(Family::Ipv4, message).map(Message::Report),
        _ => None,
    }
}

fn read_mld(frame: &mut Frame) -> Option<Message<'_>> {
    let transport = Transport::locate(frame.bytes()).filter(|found| found.protocol == IpProtocol::Icmpv6)?;
    let kind = *transport.segment(frame.bytes())?.first()?;
    let is_mld = matches!(kind, MLD_QUERY | MLD_REPORT | MLD_DONE | MLD_V2_REPORT);
    if !is_mld || verify_checksum(frame) != Verdict::Right {
        return None;
    }
    let message = transport.segment(frame.bytes())?;
    let single = |change| Changes::single(Family::Ipv6, change, message.get(8..)).map(Message::Report);
    match kind {
        // RFC 3810 section 5.1.14: queries without a link-local source are to be ignored.
        MLD_QUERY if is_link_local(transport.source) => query(message.get(8..24)),
        MLD_QUERY => None,
        MLD_REPORT => single(Change::Join),
        MLD_DONE => single(Change::Leave),
        _ => Changes::records(Family::Ipv6, message).map(Message::Report),
    }
}

/// What a query asks: of all groups, if it names none.
fn query<'a>(group: Option<&[u8]>) -> Option<Message<'a>> {
    group.map(|group| Message::Query { is_general: group.iter().all(|&byte| byte == 0) })
}

fn is_link_local(address: IpAddress) -> bool {
    matches!(address, IpAddress::Ipv6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Pool;

    fn mac(bytes: [u8; 6]) -> EthernetAddress {
        EthernetAddress(bytes)
    }

    fn changes(family: Family, message: &[u8]) -> Vec<(EthernetAddress, Change<'_>)> {
        Changes::records(family, message).unwrap().collect()
    }

    #[test]
    fn groups_that_differ_above_their_low_bits_share_a_mac_address() {
        let of = |group: [u8; 4]| Family::Ipv4.mac_of(&group).unwrap();
        assert_eq!(of([239, 129, 2, 3]), mac([0x01, 0, 0x5e, 1, 2, 3]));
        assert_eq!(of([239, 1, 2, 3]), of([224, 129, 2, 3]));
        assert_eq!(Family::of(of([239, 1, 2, 3])), Some(Family::Ipv4));
        assert_eq!(Family::of(mac([0x01, 0, 0x5e, 0x80, 0, 0])), None);
    }

    #[test]
    fn records_with_sources_and_auxiliary_data_are_stepped_over() {
        let record = |kind: u8, auxiliary: u8, sources: u8, last: u8| {
            let extra = vec![0; 4 * usize::from(auxiliary + sources)];
            [&[kind, auxiliary, 0, sources, 239, 0, 0, last][..], &extra].concat()
        };
        let records = [
            record(4, 1, 2, 1),
            record(3, 0, 0, 2),
            record(1, 0, 0, 3),
            record(6, 0, 1, 4),
            record(5, 0, 1, 5),
        ];
        let message = [&[0x22, 0, 0, 0, 0, 0, 0, 6][..], &records.concat()].concat();
        let group = |last| mac([0x01, 0, 0x5e, 0, 0, last]);
        let source = Sources { family: Family::Ipv4, bytes: &[0; 4] };
        let expected = [
            (group(1), Change::Join),
            (group(2), Change::Leave),
            (group(4), Change::Block(source)),
            (group(5), Change::Allow(source)),
        ];
        assert_eq!(changes(Family::Ipv4, &message), expected, "the sixth record is not there");
    }

    #[test]
    fn no_more_records_are_looked_at_than_a_port_can_have_groups() {
        let message = [&[0x22, 0, 0, 0, 0, 0, 4, 0][..], &[4, 0, 0, 0, 239, 0, 0, 1].repeat(1024)].concat();
        assert_eq!(changes(Family::Ipv4, &message).len(), MAX_PER_PORT);
    }

    proptest! {
        #[test]
        fn no_message_yields_more_changes_than_fit(message in prop::collection::vec(any::<u8>(), 8..200)) {
            for family in [Family::Ipv4, Family::Ipv6] {
                let most = message.len() / (RECORD_HEADER + family.address_len());
                prop_assert!(changes(family, &message).len() <= most);
            }
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut frame = Pool::new(0).small();
            for (ethertype, version) in [([8, 0], 0x46), ([0x86, 0xdd], 0x60)] {
                frame.fill(&[&[0; 12], &ethertype[..], &[version], &bytes].concat());
                for family in [Family::Ipv4, Family::Ipv6] {
                    read(&mut frame, family);
                }
            }
        }
    }
}
