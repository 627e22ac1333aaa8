// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers that are kept, for as long as their records live, for whoever asks the same again.
//!
//! # How it works
//! What a client was told is kept whole, DNS64's work included: who asks again needs no second look at it. It is found by the
//! question, whatever its upper and lower case, and by those bits of the query that change answers ([`Traits`]). It is told
//! again with every TTL less by the time that has passed, under the new query's id and in its spelling.
//!
//! Kept are answers that say so themselves: NOERROR whose records all live, and negative ones with an SOA record. Not kept
//! are what was cut, what failed, and whatever has to do with an EDNS option: cookies are not for others, and a client's
//! subnet changes answers.
//!
//! An answer is kept under its own question only. Nothing that it says beside is believed about other names, so a forged one
//! has to hit the very question, which is not asked again while an answer is kept.
//!
//! # Bounds
//! [`MAX_ENTRIES`] and [`MAX_BYTES`], nothing before the first; the one not asked for longest gives way.
//!
//! # Sources
//! RFC 1035 section 7.4, RFC 2181 sections 5.2 and 8, RFC 2308 (negative answers), RFC 6895 section 3.1 (types).

use core::hash::{BuildHasher as _, Hash, Hasher as _};

use smoltcp::wire::{DnsFlags, DnsRcode};
use wharf_switch::{Duration, Instant};

use super::message::{self, Message, Record, Section, kind};
use crate::host::FlowId;
use crate::keyed::{KeyedMap, KeyedState};
use crate::recency::Recency;
use crate::slots::Slots;

/// Answers kept.
pub const MAX_ENTRIES: usize = 1024;
/// Bytes that they take.
pub const MAX_BYTES: usize = 512 * 1024;
/// Bytes of the longest answer kept.
pub const MAX_ANSWER_LEN: usize = 4096;
/// What an answer takes beside its own bytes.
const OVERHEAD: usize = 128;
/// How long an answer is kept at most. The host may come to hear other answers without a change of its nameservers: by a VPN
/// behind a resolver of its own.
pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a negative answer is kept at most; RFC 2308 section 5 allows "one to three hours".
pub const MAX_NEGATIVE_LIFETIME: Duration = Duration::from_secs(300);

/// Where an SOA record has its last number, at least: two names and four numbers are in front of it.
const FIRST_SOA_MINIMUM: usize = 18;
/// The flag DO (RFC 6891 section 6.1.4) where other records have a TTL.
const DNSSEC_OK: u32 = 0x8000;

/// What in a query beside its question changes the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Traits {
    /// RD, AD and CD.
    flags: u16,
    has_edns: bool,
    dnssec_ok: bool,
}

impl Traits {
    /// The traits of a query that may be answered from the cache.
    fn of(query: &Message<'_>) -> Option<Self> {
        // RFC 6895 section 3.1: types from 128 to 255 are questions and not data.
        if matches!(query.kind(), 0 | 128..=255) || query.class() != kind::CLASS_IN {
            return None;
        }
        let known = DnsFlags::RECURSION_DESIRED | DnsFlags::AUTHENTIC_DATA | DnsFlags::CHECK_DISABLED;
        let header = query.header();
        let mut records = query.records();
        let edns = records.next();
        let is_plain = known.contains(header.flags()) && header.rcode() == DnsRcode::NoError;
        if !is_plain || !edns.iter().all(is_plain_opt) || records.next().is_some() || !records.is_complete() {
            return None;
        }
        let dnssec_ok = edns.as_ref().is_some_and(|opt| opt.ttl & DNSSEC_OK != 0);
        Some(Self { flags: header.flags().bits(), has_edns: edns.is_some(), dnssec_ok })
    }
}

/// Whether a record is an OPT one that says nothing but how much its sender takes, and whether it wants DNSSEC records.
fn is_plain_opt(record: &Record) -> bool {
    record.section == Section::Additional
        && record.kind == kind::OPT
        && record.ttl & !DNSSEC_OK == 0
        && record.data.is_empty()
}

#[derive(Debug)]
struct Entry {
    answer: Vec<u8>,
    /// Where it has a TTL.
    ttls: Vec<usize>,
    traits: Traits,
    digest: u64,
    kept_at: Instant,
    until: Instant,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.answer.len() + size_of_val(&self.ttls[..]) + OVERHEAD
    }

    fn answers(&self, query: &Message<'_>, traits: Traits) -> bool {
        self.traits == traits
            && Message::parse(&self.answer).is_some_and(|kept| {
                kept.name().eq_ignore_ascii_case(query.name()) && kept.kind() == query.kind()
            })
    }
}

/// The answers kept for one network.
#[derive(Debug)]
pub struct Cache {
    entries: Slots<Entry>,
    /// By a hash of question and traits.
    by_question: KeyedMap<u64, FlowId>,
    hash: KeyedState,
    recency: Recency,
    bytes: usize,
    hits: u64,
    misses: u64,
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let hash = KeyedState::new(seed, b"dns cache");
        Self {
            entries: Slots::new(),
            by_question: KeyedMap::with_hasher(hash),
            hash,
            recency: Recency::default(),
            bytes: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// The answer to `query`, if it is kept. Its id is whatever it was.
    #[must_use]
    pub fn answer(&mut self, now: Instant, query: &Message<'_>) -> Option<Vec<u8>> {
        let answer = self.look_up(now, query);
        *(if answer.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        answer
    }

    fn look_up(&mut self, now: Instant, query: &Message<'_>) -> Option<Vec<u8>> {
        if self.entries.len() == 0 {
            return None;
        }
        let traits = Traits::of(query)?;
        let &id = self.by_question.get(&self.digest(query, traits))?;
        let entry = self.entries.get(id).filter(|entry| entry.answers(query, traits))?;
        if now >= entry.until {
            self.remove(id);
            return None;
        }
        let mut answer = entry.answer.clone();
        let age = u32::try_from(now.since(entry.kept_at).as_secs()).unwrap_or(u32::MAX);
        change_ttls(&mut answer, &entry.ttls, |ttl| ttl.saturating_sub(age));
        message::set_name(&mut answer, query.name());
        self.recency.touch(id, now);
        Some(answer)
    }

    /// Keeps the answer to `query`, if it may be kept.
    pub fn keep(&mut self, now: Instant, query: &Message<'_>, answer: &[u8]) {
        let Some(told) = query.question_in(answer).filter(|_| answer.len() <= MAX_ANSWER_LEN) else { return };
        let (Some(traits), Some(lifetime)) = (Traits::of(query), lifetime(&told)) else { return };
        let digest = self.digest(query, traits);
        if let Some(&known) = self.by_question.get(&digest) {
            self.remove(known);
        }
        let lasting = told.records().filter(|record| record.kind != kind::OPT);
        let ttls: Vec<usize> = lasting.map(|record| record.ttl_at()).collect();
        let mut answer = answer.to_vec();
        if let Lifetime::Negative(secs) = lifetime {
            change_ttls(&mut answer, &ttls, |ttl| ttl.min(secs));
        }
        let entry = Entry { answer, ttls, traits, digest, kept_at: now, until: now + lifetime.duration() };
        self.make_room(entry.bytes());
        self.bytes += entry.bytes();
        let id = self.entries.insert(entry);
        self.by_question.insert(digest, id);
        self.recency.touch(id, now);
    }

    /// Forgets everything, and gives the memory back.
    pub fn clear(&mut self) {
        self.entries = Slots::new();
        self.by_question = KeyedMap::with_hasher(self.hash);
        self.recency = Recency::default();
        self.bytes = 0;
    }

    /// Queries answered.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Queries not answered.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Answers kept, expired ones among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&mut self, bytes: usize) {
        while self.entries.len() >= MAX_ENTRIES || self.bytes + bytes > MAX_BYTES {
            let Some((oldest, _)) = self.recency.oldest() else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: FlowId) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.by_question.remove(&entry.digest);
        self.recency.remove(id);
        self.bytes -= entry.bytes();
    }

    fn digest(&self, query: &Message<'_>, traits: Traits) -> u64 {
        let mut hasher = self.hash.build_hasher();
        query.hash_question(&mut hasher);
        traits.hash(&mut hasher);
        hasher.finish()
    }
}

/// For how many seconds an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    Positive(u32),
    Negative(u32),
}

impl Lifetime {
    fn duration(self) -> Duration {
        match self {
            Self::Positive(secs) => Duration::from_secs(secs.into()).min(MAX_LIFETIME),
            Self::Negative(secs) => Duration::from_secs(secs.into()).min(MAX_NEGATIVE_LIFETIME),
        }
    }
}

/// How long an answer may be kept, if at all.
fn lifetime(answer: &Message<'_>) -> Option<Lifetime> {
    let rcode = answer.header().rcode();
    if !matches!(rcode, DnsRcode::NoError | DnsRcode::NXDomain) || answer.has(DnsFlags::TRUNCATED) {
        return None;
    }
    let mut records = answer.records();
    let (mut shortest, mut negative, mut is_positive) = (u32::MAX, None, false);
    for record in records.by_ref() {
        if record.kind == kind::OPT {
            if !is_plain_opt(&record) {
                return None;
            }
            continue;
        }
        shortest = shortest.min(true_ttl(record.ttl));
        is_positive |= record.section == Section::Answer && record.kind == answer.kind();
        if record.section == Section::Authority && record.kind == kind::SOA {
            negative = negative.into_iter().chain(soa_minimum(answer.data(&record))).min();
        }
    }
    if !records.is_complete() || shortest == 0 {
        return None;
    }
    if is_positive && rcode == DnsRcode::NoError {
        return Some(Lifetime::Positive(shortest));
    }
    // RFC 2308 section 5: "Negative responses without SOA records SHOULD NOT be cached", and the TTL "is set from the minimum of
    // the MINIMUM field of the SOA record and the TTL of the SOA itself".
    negative.map(|minimum| minimum.min(shortest)).filter(|&secs| secs > 0).map(Lifetime::Negative)
}

/// RFC 2181 section 8: "Implementations should treat TTL values received with the most significant bit set as if the entire
/// value received was zero."
fn true_ttl(ttl: u32) -> u32 {
    if ttl >> 31 == 1 { 0 } else { ttl }
}

/// The last number of an SOA record (RFC 1035 section 3.3.13).
fn soa_minimum(data: &[u8]) -> Option<u32> {
    let (&minimum, before) = data.split_last_chunk::<4>().map(|(before, minimum)| (minimum, before))?;
    (before.len() >= FIRST_SOA_MINIMUM).then(|| true_ttl(u32::from_be_bytes(minimum)))
}

/// Changes the TTLs at these places.
fn change_ttls(bytes: &mut [u8], places: &[usize], change: impl Fn(u32) -> u32) {
    for &place in places {
        if let Some(ttl) = bytes.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
            *ttl = change(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests;
