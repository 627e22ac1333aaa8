// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS messages: what the forwarder has to read of one, and to change in it.
//!
//! # How it works
//! The header goes through smoltcp's view. Its records stop at class IN and do not know OPT, so the walk over
//! sections is here, in the same manner: every length is checked before it is used. Names are followed through
//! smoltcp's iterator, which cannot be sent in circles.
//!
//! # Sources
//! RFC 1035 section 4, RFC 6891 section 6.1 (EDNS).

use core::hash::Hasher;
use core::ops::Range;

use smoltcp::wire::{DnsFlags, DnsPacket};

use crate::local::name::MAX_NAME_LEN;

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;
/// RFC 1035 section 4.2.1: "Messages carried by UDP are restricted to 512 bytes".
pub const MIN_UDP_LEN: usize = 512;
/// Records looked at in one message; more is not a message anybody means well with.
const MAX_RECORDS: usize = 4096;
/// Record types and classes.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the RFCs")]
    pub const A: u16 = 1;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
    pub const CLASS_IN: u16 = 1;
}

/// A message that has a header and exactly one whole question.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    name_end: usize,
}

/// One resource record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which section it is in.
    pub section: Section,
    /// Where it starts.
    pub start: usize,
    /// Its type.
    pub kind: u16,
    /// Its class.
    pub class: u16,
    /// Its time to live, in seconds.
    pub ttl: u32,
    /// Its data.
    pub data: Range<usize>,
}

/// The sections behind the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answers.
    Answer,
    /// Authority.
    Authority,
    /// Additional.
    Additional,
}

/// What an OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Bytes of UDP payload its sender takes.
    pub udp_len: usize,
    /// The version of EDNS.
    pub version: u8,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
}

impl<'a> Message<'a> {
    /// Reads header and question; `None` when one of them is missing or not whole.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = DnsPacket::new_checked(bytes).ok()?;
        if header.question_count() != 1 {
            return None;
        }
        let name_end = plain_name_end(bytes, HEADER_LEN)?;
        bytes.get(name_end..name_end + 4)?;
        Some(Self { bytes, name_end })
    }

    /// The whole message.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// smoltcp's view of the header.
    #[must_use]
    pub fn header(&self) -> DnsPacket<&'a [u8]> {
        DnsPacket::new_unchecked(self.bytes)
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: DnsFlags) -> bool {
        self.header().flags().contains(flag)
    }

    /// The question's name, as labels.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..self.name_end).unwrap_or_default()
    }

    /// The question's type.
    #[must_use]
    pub fn kind(&self) -> u16 {
        number(self.bytes, self.name_end)
    }

    /// The question's class.
    #[must_use]
    pub fn class(&self) -> u16 {
        number(self.bytes, self.name_end + 2)
    }

    /// The question section: name, type, class.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..self.name_end + 4).unwrap_or_default()
    }

    /// Feeds `hasher` with the question: the same for every spelling of its name.
    pub fn hash_question(&self, hasher: &mut impl Hasher) {
        let mut folded = [0; MAX_NAME_LEN];
        let name = self.name();
        if let Some(room) = folded.get_mut(..name.len()) {
            room.copy_from_slice(name);
            // The length of a label is no letter.
            room.make_ascii_lowercase();
            hasher.write(room);
        }
        hasher.write_u16(self.kind());
        hasher.write_u16(self.class());
    }

    /// `bytes` as a message about the same question, letter by letter; `None` if they are none.
    #[must_use]
    pub fn question_in<'b>(&self, bytes: &'b [u8]) -> Option<Message<'b>> {
        let header = DnsPacket::new_checked(bytes).ok()?;
        let message = Message { bytes, name_end: self.name_end };
        (header.question_count() == 1 && message.question() == self.question()).then_some(message)
    }

    /// Every record behind the question, as far as the message is well formed; the end says whether it is to the
    /// last.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        let header = self.header();
        let left =
            [header.answer_record_count(), header.authority_record_count(), header.additional_record_count()];
        Records { bytes: self.bytes, at: self.name_end + 4, left, seen: 0 }
    }

    /// The OPT record, if there is one.
    #[must_use]
    pub fn edns(&self) -> Option<Edns> {
        let opt = self
            .records()
            .find(|record| record.section == Section::Additional && record.kind == kind::OPT)?;
        let [_, version, flags, _] = opt.ttl.to_be_bytes();
        Some(Edns {
            // RFC 6891 section 6.2.3: "Values lower than 512 MUST be treated as equal to 512."
            udp_len: usize::from(opt.class).max(MIN_UDP_LEN),
            version,
            dnssec_ok: flags & 0x80 != 0,
        })
    }

    /// A name somewhere in the message, its pointers followed, as labels.
    #[must_use]
    pub fn name_at(&self, at: usize) -> Option<Vec<u8>> {
        let header = self.header();
        let mut labels = Vec::new();
        for label in header.parse_name(self.bytes.get(at..)?) {
            let label = label.ok()?;
            labels.push(u8::try_from(label.len()).ok()?);
            labels.extend_from_slice(label);
            if labels.len() >= MAX_NAME_LEN {
                return None;
            }
        }
        labels.push(0);
        Some(labels)
    }

    /// A record's data.
    #[must_use]
    pub fn data(&self, record: &Record) -> &'a [u8] {
        self.bytes.get(record.data.clone()).unwrap_or_default()
    }
}

impl Record {
    /// Where its time to live stands, in four bytes; two are between it and the data.
    #[must_use]
    pub fn ttl_at(&self) -> usize {
        self.data.start - 6
    }
}

/// Goes over the records of a message.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    left: [u16; 3],
    seen: usize,
}

impl Records<'_> {
    /// After the last record: whether every record that the header promised was there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left == [0; 3]
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let (left, section) = self.left.iter_mut().zip(sections).find(|(left, _)| **left > 0)?;
        if self.seen == MAX_RECORDS {
            return None;
        }
        let start = self.at;
        let fixed = name_end(self.bytes, start)?;
        let data = fixed + 10;
        let len = usize::from(number(self.bytes.get(..data)?, fixed + 8));
        self.bytes.get(data..data + len)?;
        *left -= 1;
        self.seen += 1;
        self.at = data + len;
        let ttl = u32::from(number(self.bytes, fixed + 4)) << 16 | u32::from(number(self.bytes, fixed + 6));
        Some(Record {
            section,
            start,
            kind: number(self.bytes, fixed),
            class: number(self.bytes, fixed + 2),
            ttl,
            data: data..data + len,
        })
    }
}

/// A 16-bit number; 0 beyond the end.
fn number(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|pair| pair.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// Where a name without pointers ends.
fn plain_name_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (end, by_pointer) = walk(bytes, start)?;
    (!by_pointer && end - start <= MAX_NAME_LEN).then_some(end)
}

/// Where a name ends, its pointer included.
fn name_end(bytes: &[u8], start: usize) -> Option<usize> {
    walk(bytes, start).map(|(end, _)| end)
}

/// Where a name ends and whether it ends in a pointer.
fn walk(bytes: &[u8], start: usize) -> Option<(usize, bool)> {
    let mut at = start;
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => return Some((at + 1, false)),
            1..=63 => at += 1 + usize::from(len),
            // RFC 1035 section 4.1.4: a pointer has two ones in front; 01 and 10 are reserved.
            0xc0.. => {
                bytes.get(at + 1)?;
                return Some((at + 2, true));
            }
            64..=0xbf => return None,
        }
    }
}

/// A question of our own, without an id yet. `like` is the query it is asked for.
#[must_use]
pub fn question(like: &Message<'_>, name: &[u8], kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    let mut header = DnsPacket::new_unchecked(bytes.as_mut_slice());
    let kept = like.header().flags() & (DnsFlags::RECURSION_DESIRED | DnsFlags::CHECK_DISABLED);
    header.set_flags(kept);
    header.set_question_count(1);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&kind::CLASS_IN.to_be_bytes());
    bytes
}

/// Puts a name of the same length into the question.
pub fn set_name(bytes: &mut [u8], name: &[u8]) {
    if let Some(room) = bytes.get_mut(HEADER_LEN..HEADER_LEN + name.len()) {
        room.copy_from_slice(name);
    }
}

/// Puts another type into the question.
pub fn set_kind(bytes: &mut [u8], kind: u16) {
    if let Some(message) = Message::parse(bytes) {
        let at = message.name_end;
        if let Some(room) = bytes.get_mut(at..at + 2) {
            room.copy_from_slice(&kind.to_be_bytes());
        }
    }
}

/// Takes back the claim that the data was validated.
pub fn clear_authentic(bytes: &mut [u8]) {
    if let Ok(mut header) = DnsPacket::new_checked(bytes) {
        let flags = header.flags() & !DnsFlags::AUTHENTIC_DATA;
        header.set_flags(flags);
    }
}

/// Puts another id in.
pub fn set_id(bytes: &mut [u8], id: u16) {
    if let Ok(mut header) = DnsPacket::new_checked(bytes) {
        header.set_transaction_id(id);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::DnsRcode;

    use super::super::answer::{self, Writer};
    use super::*;
    use crate::local::name;

    /// A query with id 0x1234, RD, and an OPT record when a size is given.
    pub(crate) fn query(name: &str, kind: u16, udp_len: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&name::encode(name).unwrap());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        if let Some(len) = udp_len {
            bytes[11] = 1;
            bytes.extend_from_slice(&[0, 0, 41]);
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn a_query_is_read() {
        let bytes = query("www.example.org", kind::AAAA, Some(4096));
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.name(), b"\x03www\x07example\x03org\x00");
        assert_eq!((message.kind(), message.class()), (28, 1));
        let edns = message.edns().unwrap();
        assert_eq!(edns, Edns { udp_len: 4096, version: 0, dnssec_ok: false });
    }

    #[test]
    fn a_message_without_one_whole_question_is_not_read() {
        let good = query("a.example", kind::A, None);
        let with_count = |count: u8| [&good[..5], &[count], &good[6..]].concat();
        let with_name = |name: &[u8]| [&good[..12], name, &[0, 1, 0, 1]].concat();
        let flawed = [
            good[..11].to_vec(),
            good[..good.len() - 1].to_vec(),
            with_count(0),
            with_count(2),
            with_name(&[0xc0, 12]),
            with_name(&[0x40, 0]),
        ];
        assert!(Message::parse(&with_name(&[1, b'a', 0])).is_some());
        for bytes in flawed {
            assert!(Message::parse(&bytes).is_none(), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_name_whose_last_label_ends_in_an_odd_byte_is_no_pointer() {
        let bytes = [&query("a", kind::A, None)[..12], &[1, 0xc3, 0, 0, 1, 0, 1]].concat();
        assert_eq!(Message::parse(&bytes).unwrap().name(), &[1, 0xc3, 0]);
    }

    #[test]
    fn records_are_walked_and_their_names_followed() {
        let bytes = query("a.example", kind::A, Some(1232));
        let question = Message::parse(&bytes).unwrap();
        let mut writer = Writer::answer(&question, DnsRcode::NoError);
        writer.record(question.name(), kind::CNAME, 60, b"\x01b\xc0\x0e");
        writer.record(b"\x01b\x07example\x00", kind::A, 30, &[192, 0, 2, 1]);
        let reply = writer.finish(question.edns());
        let message = Message::parse(&reply).unwrap();
        let mut records = message.records();
        let cname = records.next().unwrap();
        assert_eq!((cname.kind, cname.ttl, cname.section), (kind::CNAME, 60, Section::Answer));
        assert_eq!(message.name_at(cname.start).unwrap(), question.name());
        assert_eq!(message.name_at(cname.data.start).unwrap(), b"\x01b\x07example\x00");
        let address = records.next().unwrap();
        assert_eq!(message.data(&address), [192, 0, 2, 1]);
        let opt = records.next().unwrap();
        assert_eq!((opt.kind, opt.section, opt.class), (kind::OPT, Section::Additional, 1232));
        assert_eq!(records.next(), None);
        assert!(records.is_complete());
        let mut cut = Message::parse(&reply[..reply.len() - 1]).unwrap().records();
        assert_eq!(cut.by_ref().count(), 2);
        assert!(!cut.is_complete());
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(head in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if head && bytes.len() >= 12 {
                bytes[4..12].copy_from_slice(&[0, 1, 0, 3, 0, 3, 0, 3]);
            }
            if let Some(message) = Message::parse(&bytes) {
                drop((message.edns(), answer::refusal(&message, DnsRcode::Refused)));
                for record in message.records() {
                    drop((message.name_at(record.start), message.name_at(record.data.start)));
                }
                prop_assert!(answer::truncate(&message, bytes.clone(), 0).len() <= bytes.len().max(12 + 259));
            }
        }
    }
}
