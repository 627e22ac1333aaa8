// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS answers of our own.
//!
//! # How it works
//! [`Writer`] builds them: names are written in full, except the question's own, which is a pointer to it.
//!
//! # Sources
//! RFC 1035 section 4, RFC 6891 section 6.1 (EDNS), RFC 6895 section 2 (header).

use smoltcp::wire::{DnsFlags, DnsPacket, DnsRcode};

use super::message::{Edns, HEADER_LEN, Message, kind};

/// What we say we take when we write an OPT record of our own.
const OUR_UDP_LEN: u16 = 1232;
/// A pointer to the question's name.
const QUESTION_POINTER: [u8; 2] = [0xc0, 12];

/// A message of our own in the making.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    name: Vec<u8>,
}

impl Writer {
    /// An answer to `query`, so far without records.
    #[must_use]
    pub fn answer(query: &Message<'_>, rcode: DnsRcode) -> Self {
        let mut bytes = header_only(&query.header(), rcode);
        bytes.extend_from_slice(query.question());
        DnsPacket::new_unchecked(bytes.as_mut_slice()).set_question_count(1);
        Self { bytes, name: query.name().to_vec() }
    }

    /// Adds an answer record, unless the message would become too long.
    pub fn record(&mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
        if self.push(owner, kind, ttl, data) {
            let mut header = DnsPacket::new_unchecked(self.bytes.as_mut_slice());
            let count = header.answer_record_count();
            header.set_answer_record_count(count + 1);
        }
    }

    /// Adds a record that says who is the authority, unless the message would become too long. Answers come before it.
    pub fn authority(&mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
        if self.push(owner, kind, ttl, data) {
            let mut header = DnsPacket::new_unchecked(self.bytes.as_mut_slice());
            let count = header.authority_record_count();
            header.set_authority_record_count(count + 1);
        }
    }

    /// Whether there is no answer record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        DnsPacket::new_unchecked(&self.bytes[..]).answer_record_count() == 0
    }

    /// Writes a record. Returns whether there was room for it.
    fn push(&mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> bool {
        let Ok(len) = u16::try_from(data.len()) else { return false };
        let owner = if owner == self.name { &QUESTION_POINTER } else { owner };
        if self.bytes.len() + owner.len() + 10 + data.len() > usize::from(u16::MAX) {
            return false;
        }
        self.bytes.extend_from_slice(owner);
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&kind::CLASS_IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(data);
        true
    }

    /// Says that there would be more.
    pub fn truncated(&mut self) {
        self.set_flag(DnsFlags::TRUNCATED);
    }

    /// Says that nobody knows better (RFC 1035 section 4.1.1: AA).
    pub fn authoritative(&mut self) {
        self.set_flag(DnsFlags::AUTHORITATIVE);
    }

    fn set_flag(&mut self, flag: DnsFlags) {
        let mut header = DnsPacket::new_unchecked(self.bytes.as_mut_slice());
        let flags = header.flags() | flag;
        header.set_flags(flags);
    }

    /// The finished message. `edns` is what the query's OPT record said.
    #[must_use]
    pub fn finish(self, edns: Option<Edns>) -> Vec<u8> {
        self.finish_with(edns, 0)
    }

    /// [`Writer::finish`] with the upper eight bits of the result code, which the OPT record carries.
    fn finish_with(mut self, edns: Option<Edns>, upper_rcode: u8) -> Vec<u8> {
        // RFC 6891 section 6.1.1: "If an OPT record is present in a received request, compliant responders MUST
        // include an OPT record in their respective responses."
        if let Some(edns) = edns {
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            self.bytes.extend_from_slice(&[0]);
            self.bytes.extend_from_slice(&kind::OPT.to_be_bytes());
            self.bytes.extend_from_slice(&OUR_UDP_LEN.to_be_bytes());
            self.bytes.extend_from_slice(&[upper_rcode, 0, flags, 0, 0, 0]);
            DnsPacket::new_unchecked(self.bytes.as_mut_slice()).set_additional_record_count(1);
        }
        self.bytes
    }
}

/// An answer that says nothing but a result code.
#[must_use]
pub fn refusal(query: &Message<'_>, rcode: DnsRcode) -> Vec<u8> {
    Writer::answer(query, rcode).finish(query.edns())
}

/// The answer to a query whose version of EDNS is not 0.
///
/// RFC 6891 section 6.1.3: "If a responder does not implement the VERSION level of the request, then it MUST respond with
/// RCODE=BADVERS." That is 16, of which the header holds the lower four bits.
#[must_use]
pub fn bad_version(query: &Message<'_>) -> Vec<u8> {
    Writer::answer(query, DnsRcode::NoError).finish_with(query.edns(), 1)
}

/// A header alone: the answer to a message of which nothing else is understood, and what other answers begin with.
///
/// RFC 1035 section 4.1.1: id, opcode and RD are copied into the response; RFC 4035 section 3.2.2 wants CD copied too.
#[must_use]
pub fn header_only(query: &DnsPacket<&[u8]>, rcode: DnsRcode) -> Vec<u8> {
    let mut answer = vec![0; HEADER_LEN];
    let mut header = DnsPacket::new_unchecked(answer.as_mut_slice());
    header.set_transaction_id(query.transaction_id());
    header.set_opcode(query.opcode());
    let kept = query.flags() & (DnsFlags::RECURSION_DESIRED | DnsFlags::CHECK_DISABLED);
    header.set_flags(DnsFlags::RESPONSE | DnsFlags::RECURSION_AVAILABLE | kept);
    set_rcode(&mut answer, rcode);
    answer
}

/// Cuts a reply to `limit` bytes in the way its reader understands: nothing but the question, and the flag.
///
/// RFC 2181 section 9: "Where TC is set, the partial RRSet that would not completely fit may be left in the response.
/// When a DNS client receives a reply with TC set, it should ignore that response, and query again, using a mechanism,
/// such as a TCP connection, that will permit larger replies."
#[must_use]
pub fn truncate(query: &Message<'_>, reply: Vec<u8>, limit: usize) -> Vec<u8> {
    if reply.len() <= limit {
        return reply;
    }
    let rcode = DnsPacket::new_checked(&reply[..]).map_or(DnsRcode::ServFail, |header| header.rcode());
    let mut writer = Writer::answer(query, rcode);
    writer.truncated();
    let short = writer.finish(query.edns());
    if short.len() <= limit {
        return short;
    }
    let mut writer = Writer::answer(query, rcode);
    writer.truncated();
    writer.finish(None)
}

/// smoltcp has no setter for the result code: the low four bits of byte 3.
fn set_rcode(bytes: &mut [u8], rcode: DnsRcode) {
    if let Some(byte) = bytes.get_mut(3) {
        *byte = *byte & 0xf0 | u8::from(rcode) & 0x0f;
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::query;
    use super::*;

    #[test]
    fn an_answer_of_a_header_only_copies_id_opcode_and_the_clients_bits() {
        // RFC 1035 section 4.1.1; AA, TC, RA, AD and Z are the responder's.
        for opcode in 0..16u8 {
            for (high, low, told_low) in [(0, 0, 0x80), (1, 0x10, 0x90), (7, 0xff, 0x90)] {
                let query = [0xab, 0xcd, opcode << 3 | high, low, 0, 0, 0, 0, 0, 0, 0, 0];
                let answer = header_only(&DnsPacket::new_unchecked(&query), DnsRcode::NotImp);
                let expected =
                    [0xab, 0xcd, 0x80 | opcode << 3 | high & 1, told_low | 4, 0, 0, 0, 0, 0, 0, 0, 0];
                assert_eq!(answer, expected);
            }
        }
    }

    #[test]
    fn a_refusal_repeats_the_question_and_answers_edns_with_edns() {
        let bytes = query("a.example", kind::A, Some(512));
        let reply = refusal(&Message::parse(&bytes).unwrap(), DnsRcode::ServFail);
        let mut expected = vec![0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 1];
        expected.extend_from_slice(&bytes[12..12 + 15]);
        expected.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reply, expected);
        let plain = query("a.example", kind::A, None);
        assert_eq!(refusal(&Message::parse(&plain).unwrap(), DnsRcode::Refused)[10..12], [0, 0]);
    }

    #[test]
    fn a_reply_that_is_too_long_becomes_question_and_flag() {
        let bytes = query("a.example", kind::A, Some(512));
        let question = Message::parse(&bytes).unwrap();
        let mut writer = Writer::answer(&question, DnsRcode::NXDomain);
        for _ in 0..60 {
            writer.record(question.name(), kind::A, 1, &[192, 0, 2, 1]);
        }
        let long = writer.finish(question.edns());
        assert_eq!(truncate(&question, long.clone(), long.len()), long);
        let short = truncate(&question, long, 512);
        let message = Message::parse(&short).unwrap();
        assert!(message.has(DnsFlags::TRUNCATED) && message.has(DnsFlags::RESPONSE));
        assert_eq!(message.header().rcode(), DnsRcode::NXDomain);
        assert_eq!(message.header().answer_record_count(), 0);
        assert!(message.edns().is_some());
    }

    #[test]
    fn the_largest_number_of_records_stays_within_a_message() {
        let bytes = query("a.example", kind::A, None);
        let question = Message::parse(&bytes).unwrap();
        let mut writer = Writer::answer(&question, DnsRcode::NoError);
        for _ in 0..70_000 {
            writer.record(question.name(), kind::AAAA, 1, &[0; 16]);
        }
        let reply = writer.finish(None);
        assert!(reply.len() <= 65_535);
        assert!(Message::parse(&reply).unwrap().records().count() > 2000);
    }
}
