// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queries under way: who waits for which answer, and whom it was asked from.
//!
//! # How it works
//! Those who ask the same in the same words wait for the same answer: it is asked for once. This spares the nameservers,
//! and whoever forges replies has one question to hit, not many (RFC 5452 section 5). Who comes when the first server has
//! kept silent for its share of the time is asked for anew: soon the others will be told that nobody answered.
//!
//! The same in other words, another EDNS size for example, is asked beside it. A container can do that on purpose, hundreds
//! of times, so that one forged reply in hundreds of times fewer hits; what is answered while there are more than
//! [`MAX_WORDINGS`] is therefore [not kept](Queries::is_crowded), and deceives nobody but who asked.
//!
//! # Bounds
//! [`MAX_QUERIES`] waiting, [`MAX_QUERIES_PER_CLIENT`] for one container, and no more than are left for others;
//! [`MAX_ATTEMPTS`] for each query.

use core::hash::{BuildHasher as _, Hash, Hasher as _};
use core::net::SocketAddr;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use wharf_switch::{Duration, Instant};

use super::message::Message;
use super::source_ports::Ticket;
use super::upstream::MAX_NAMESERVERS;
use super::{Asker, Client, MAX_ATTEMPTS, MAX_QUERIES, MAX_QUERIES_PER_CLIENT};
use crate::DropReason;
use crate::host::FlowId;
use crate::keyed::{KeyedMap, KeyedState};
use crate::slots::Slots;

/// Attempts that the deadline leaves time for; more with more servers.
const TRIES: usize = 3;
/// Wordings of one question under way whose answers may be kept: what differs without malice is EDNS, DO, AD and CD.
pub(super) const MAX_WORDINGS: usize = 4;

/// What is being asked for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The query itself.
    Plain,
    /// The query itself, an AAAA one that may have to be helped.
    Aaaa,
    /// The A records instead; what is made of them lives so many seconds at most.
    Ipv4 { max_ttl_secs: u32 },
    /// The IPv4 address's reverse name.
    Reverse,
}

/// How far a server got with a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Untried,
    Asked,
    Failed,
}

/// Who gets the answer, under which id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) client: Client,
    pub(super) id: u16,
}

/// One question to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) server: SocketAddr,
    pub(super) way: Way,
}

/// How it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Datagram(Ticket),
    Stream(FlowId),
}

/// A query.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) first: Waiter,
    /// Who asked the same later.
    pub(super) others: Vec<Waiter>,
    /// The words of the first; the id is that of the last attempt.
    pub(super) request: Vec<u8>,
    digest: u64,
    /// The same for every wording of its question.
    question_digest: u64,
    pub(super) stage: Stage,
    /// What the servers are asked, if not that.
    pub(super) question: Option<Vec<u8>>,
    servers: Arc<[SocketAddr]>,
    progress: [Progress; MAX_NAMESERVERS],
    /// The server asked last.
    current: usize,
    /// The last one first.
    attempts: [Option<Attempt>; MAX_ATTEMPTS],
    /// The last reply that was no help.
    pub(super) failure: Option<Vec<u8>>,
    /// Until when others may join.
    open_until: Instant,
    pub(super) retry_at: Instant,
    pub(super) deadline: Instant,
    /// How long a server has before the next is asked.
    pub(super) patience: Duration,
}

impl Query {
    pub(super) fn new(waiter: Waiter, request: Vec<u8>, stage: Stage, question: Option<Vec<u8>>) -> Self {
        Self {
            first: waiter,
            others: Vec::new(),
            request,
            digest: 0,
            question_digest: 0,
            stage,
            question,
            servers: Arc::new([]),
            progress: [Progress::Untried; MAX_NAMESERVERS],
            current: 0,
            attempts: [None; MAX_ATTEMPTS],
            failure: None,
            open_until: Instant::ZERO,
            retry_at: Instant::FAR,
            deadline: Instant::FAR,
            patience: Duration::ZERO,
        }
    }

    /// Whether it came, and goes on, by TCP.
    pub(super) fn is_stream(&self) -> bool {
        self.first.client.is_stream()
    }

    /// Everybody who waits.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        core::iter::once(&self.first).chain(&self.others)
    }

    /// What the servers are asked.
    pub(super) fn asked(&self) -> &[u8] {
        self.question.as_deref().unwrap_or(&self.request)
    }

    /// The same, to put an id in.
    pub(super) fn asked_mut(&mut self) -> &mut [u8] {
        self.question.as_deref_mut().unwrap_or(&mut self.request)
    }

    /// When something has to be done for it if no reply comes.
    pub(super) fn due(&self) -> Instant {
        self.retry_at.min(self.deadline)
    }

    /// From now on these servers are asked, of which there is at least one, the first of them first, for so long.
    pub(super) fn start(&mut self, now: Instant, servers: Arc<[SocketAddr]>, allowed: Duration) {
        self.patience = allowed / u32::try_from(servers.len().max(TRIES)).unwrap_or(u32::MAX);
        self.open_until = now + self.patience;
        self.deadline = now + allowed;
        self.current = servers.len().saturating_sub(1);
        self.progress = [Progress::Untried; MAX_NAMESERVERS];
        self.servers = servers;
        self.failure = None;
    }

    /// Whom to ask next: round the circle from the server asked last, an untried one, else one that was silent so far.
    pub(super) fn next_server(&self) -> Option<SocketAddr> {
        let len = self.servers.len();
        let round = || (1..=len).map(|step| (self.current + step) % len);
        let with = |wanted| round().find(|&place| self.progress.get(place) == Some(&wanted));
        let place = with(Progress::Untried).or_else(|| with(Progress::Asked))?;
        self.servers.get(place).copied()
    }

    /// The server asked last, if it has not failed.
    pub(super) fn awaited_server(&self) -> Option<SocketAddr> {
        let server = self.servers.get(self.current)?;
        (self.progress.get(self.current) == Some(&Progress::Asked)).then_some(*server)
    }

    /// A server was asked. Returns the oldest attempt, if that makes too many.
    pub(super) fn note_asked(&mut self, attempt: Attempt) -> Option<Attempt> {
        if let Some(place) = self.place(attempt.server) {
            self.current = place;
        }
        self.note(attempt.server, Progress::Asked);
        self.attempts.rotate_right(1);
        self.attempts.first_mut()?.replace(attempt)
    }

    /// A server is no help. Returns whether it was the one asked last.
    pub(super) fn note_failed(&mut self, server: SocketAddr) -> bool {
        self.note(server, Progress::Failed);
        self.place(server) == Some(self.current)
    }

    /// Takes the attempts at `server` out, or at all servers.
    pub(super) fn take_attempts(&mut self, server: Option<SocketAddr>) -> [Option<Attempt>; MAX_ATTEMPTS] {
        let is_its = |attempt: &mut Attempt| server.is_none_or(|server| server == attempt.server);
        self.attempts.each_mut().map(|place| place.take_if(is_its))
    }

    fn place(&self, server: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|&known| known == server)
    }

    fn note(&mut self, server: SocketAddr, progress: Progress) {
        if let Some(place) = self.place(server).and_then(|place| self.progress.get_mut(place)) {
            *place = progress;
        }
    }

    fn asks_the_same_as(&self, other: &Self) -> bool {
        self.is_stream() == other.is_stream() && words(&self.request) == words(&other.request)
    }
}

/// A message without its id.
fn words(message: &[u8]) -> &[u8] {
    message.get(2..).unwrap_or_default()
}

/// All of them.
#[derive(Debug)]
pub(super) struct Queries {
    table: Slots<Query>,
    /// By a hash of their words.
    by_words: KeyedMap<u64, FlowId>,
    /// How many there are by a hash of their question.
    wordings: KeyedMap<u64, usize>,
    hash: KeyedState,
    /// How many answers each container waits for.
    of_asker: KeyedMap<Asker, usize>,
    waiting: usize,
}

impl Queries {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let hash = KeyedState::new(seed, b"dns queries");
        Self {
            table: Slots::new(),
            by_words: KeyedMap::with_hasher(hash),
            wordings: KeyedMap::with_hasher(hash),
            hash,
            of_asker: KeyedMap::with_hasher(hash),
            waiting: 0,
        }
    }

    /// Answers that are waited for.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a query in. Returns its id if it is to be asked for, and nothing if that is done already.
    ///
    /// # Errors
    /// Why it is not answered.
    pub(super) fn add(&mut self, now: Instant, mut query: Query) -> Result<Option<FlowId>, DropReason> {
        query.digest = self.hash.hash(words(&query.request)) ^ u64::from(query.is_stream());
        let same = self.by_words.get(&query.digest).copied();
        let known = same.and_then(|id| self.table.get_mut(id)).filter(|known| known.asks_the_same_as(&query));
        let newcomer = query.first;
        // A client that lost patience repeats itself from the same port.
        if known
            .as_ref()
            .is_some_and(|known| !known.is_stream() && known.waiters().any(|&one| one == newcomer))
        {
            return Err(DropReason::DnsRepeated);
        }
        let asker = newcomer.client.asker();
        let of_asker = self.of_asker.get(&asker).copied().unwrap_or_default();
        // Nobody has more than is left for the others: however many are greedy, there is room for who is not.
        if of_asker >= MAX_QUERIES_PER_CLIENT.min(MAX_QUERIES.saturating_sub(self.waiting)) {
            return Err(DropReason::DnsTableFull);
        }
        self.of_asker.insert(asker, of_asker + 1);
        self.waiting += 1;
        if let Some(known) = known.filter(|known| now < known.open_until) {
            known.others.push(newcomer);
            return Ok(None);
        }
        query.question_digest = self.question_digest(&query.request);
        *self.wordings.entry(query.question_digest).or_default() += 1;
        let digest = query.digest;
        let id = self.table.insert(query);
        self.by_words.insert(digest, id);
        Ok(Some(id))
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Query> {
        self.table.get(id)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Query> {
        self.table.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Query)> {
        self.table.iter()
    }

    /// Takes a query out.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Query> {
        let query = self.table.remove(id)?;
        if self.by_words.get(&query.digest) == Some(&id) {
            self.by_words.remove(&query.digest);
        }
        take_one(&mut self.wordings, query.question_digest);
        for waiter in query.waiters() {
            self.forget(waiter.client);
        }
        Some(query)
    }

    /// Whether the question of this query is under way in so many wordings that somebody may be fishing for a forged reply.
    pub(super) fn is_crowded(&self, id: FlowId) -> bool {
        let wordings = self.table.get(id).and_then(|query| self.wordings.get(&query.question_digest));
        wordings.is_some_and(|&count| count > MAX_WORDINGS)
    }

    /// Nobody joins those who wait now.
    pub(super) fn close_to_others(&mut self) {
        self.by_words.clear();
    }

    fn question_digest(&self, request: &[u8]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        if let Some(query) = Message::parse(request) {
            query.hash_question(&mut hasher);
        }
        hasher.finish()
    }

    /// Forgets whoever waits at a connection. Returns the queries that nobody waits for any more.
    pub(super) fn cancel(&mut self, connection: u64) -> Vec<FlowId> {
        let is_its =
            |waiter: &Waiter| matches!(waiter.client, Client::Tcp { connection: of, .. } if of == connection);
        let mut gone = Vec::new();
        let mut forgotten = Vec::new();
        for (id, query) in self.table.iter_mut() {
            forgotten.extend(query.others.extract_if(.., |waiter| is_its(waiter)));
            if is_its(&query.first) {
                match query.others.pop() {
                    Some(other) => forgotten.push(core::mem::replace(&mut query.first, other)),
                    None => gone.push(id),
                }
            }
        }
        for waiter in forgotten {
            self.forget(waiter.client);
        }
        gone
    }

    /// One answer less is waited for.
    fn forget(&mut self, client: Client) {
        self.waiting -= 1;
        take_one(&mut self.of_asker, client.asker());
    }
}

/// Counts one less of `key`, and forgets it with the last.
fn take_one<K: Eq + Hash>(counts: &mut KeyedMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}
