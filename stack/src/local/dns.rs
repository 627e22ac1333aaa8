// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS forwarder: asks the host's nameservers what a container asked the gateway.
//!
//! # Path
//! [`service::Service`] is what the gateway talks to. It keeps the forwarder and, for queries over TCP, [`tcp_host`].
//! [`Forwarder::handle_query`] takes a query, [`Forwarder::handle_event`] what the host's sockets say,
//! [`Forwarder::poll`] the passing of time; [`Forwarder::poll_reply`] has what is to be said to the containers.
//!
//! # How it works
//! Messages pass through untouched but for their id, EDNS and DNSSEC and all. A query is put to the first nameserver,
//! after a while to the next, and so on in a circle until its deadline; an answer from any of them counts, however
//! late. A server that says SERVFAIL or REFUSED is passed over for this query; if they all do, the last such reply is
//! the client's. If all keep silent the client gets SERVFAIL, before its own patience ends.
//!
//! A query that came over UDP goes upstream over UDP, one that came over TCP over TCP. A reply that does not fit the
//! client's buffer or the link is cut and marked, and the client comes back over TCP.
//!
//! With NAT64 the answers are worked on by [`dns64`]. Names that mean the asking host itself are none of anybody's
//! business: [`special`] answers for them. Those of the network's own [`zone`] are answered by its [`authority`].
//!
//! On a network without an outside every other name gets NXDOMAIN, which nobody may keep: it comes without an SOA record.
//! REFUSED would be truer, but is no answer to most: glibc asks again and calls it a temporary failure, musl does not
//! listen to it and waits for its timeout.
//!
//! # Bounds
//! [`MAX_QUERIES`] queries, [`MAX_QUERIES_PER_CLIENT`] of one container, [`MAX_ATTEMPTS`] sockets each.
//!
//! # Sources
//! RFC 1035, RFC 5452, RFC 6147, RFC 6761, RFC 6891, RFC 7766.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;
use std::sync::Arc;

use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsRcode, EthernetAddress, Ipv6Cidr};
use wharf_switch::{Duration, Instant};

use crate::host::{FlowId, Host, HostEvent, Owner, Token};
use crate::keyed::KeyedState;
use crate::slots::Slots;
use crate::{Config, DropReason};

pub mod answer;
mod attempt;
pub mod authority;
pub mod dns64;
pub mod message;
mod reverse;
pub mod service;
mod special;
pub mod tcp_host;
pub mod upstream;
pub mod zone;

use attempt::{Attempt, Outcome};
use authority::{Authority, LinkedZone};
use dns64::{Dns64, Verdict};
use message::{Message, kind};
use upstream::Nameservers;
use zone::Zone;

/// Where DNS servers listen.
pub const PORT: u16 = 53;
/// Queries under way at a time.
pub const MAX_QUERIES: usize = 512;
/// Queries under way for one container.
pub const MAX_QUERIES_PER_CLIENT: usize = 256;
/// Sockets of one query: the last servers asked may still answer.
pub const MAX_ATTEMPTS: usize = 3;
/// How long a query over UDP is tried. glibc and musl ask again after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// How long the AAAA half of a DNS64 answer is tried.
const AAAA_DEADLINE: Duration = Duration::from_millis(3000);
/// How long a query over TCP is tried.
const STREAM_DEADLINE: Duration = Duration::from_secs(9);
/// Attempts that the deadline leaves time for; more with more servers.
const TRIES: usize = 3;
/// Largest datagram.
const MAX_DATAGRAM_LEN: usize = 65_535;
/// IPv6 and UDP headers in front of a reply.
const HEADERS_LEN: usize = 48;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A datagram.
    Udp {
        /// The container's MAC address.
        mac: EthernetAddress,
        /// Where the query came from and the reply goes to.
        from: SocketAddr,
        /// The address asked, which the reply comes from.
        to: IpAddr,
    },
    /// A connection to the gateway.
    Tcp {
        /// Which.
        connection: u64,
        /// The container's address.
        from: IpAddr,
    },
}

impl Client {
    fn address(&self) -> IpAddr {
        match self {
            Self::Udp { from, .. } => from.ip(),
            Self::Tcp { from, .. } => *from,
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

/// What is being asked for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untried,
    Asked,
    Failed,
}

#[derive(Debug)]
struct Query {
    client: Client,
    request: Vec<u8>,
    stage: Stage,
    /// What the servers are asked, id not yet in.
    question: Vec<u8>,
    servers: Vec<(SocketAddr, Progress)>,
    /// The server asked last.
    current: usize,
    attempts: Vec<FlowId>,
    /// The last reply that was no help.
    failure: Option<Vec<u8>>,
    retry_at: Instant,
    deadline: Instant,
    patience: Duration,
}

/// The forwarder of one network.
#[derive(Debug)]
pub struct Forwarder {
    nameservers: Nameservers,
    authority: Authority,
    is_internal: bool,
    dns64: Option<Dns64>,
    queries: Slots<Query>,
    attempts: Slots<Attempt>,
    replies: VecDeque<(Client, Vec<u8>)>,
    max_udp_len: usize,
    ids: KeyedState,
    asked: u64,
    /// No query is due before.
    due: Instant,
    buffer: Vec<u8>,
}

impl Forwarder {
    /// The forwarder of the network `config` describes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut nameservers = Nameservers::default();
        nameservers.set(&config.nameservers);
        Self {
            nameservers,
            authority: Authority::new(config),
            is_internal: config.internal,
            dns64: config.nat64.filter(|_| !config.internal).map(Dns64::new),
            queries: Slots::new(),
            attempts: Slots::new(),
            replies: VecDeque::new(),
            max_udp_len: config.mtu_bytes.saturating_sub(HEADERS_LEN).max(message::MIN_UDP_LEN),
            ids: KeyedState::new(&config.seed, b"dns ids"),
            asked: 0,
            due: Instant::FAR,
            buffer: Vec::new(),
        }
    }

    /// Other nameservers from the next query on.
    pub fn set_nameservers(&mut self, nameservers: &[SocketAddr]) {
        self.nameservers.set(nameservers);
    }

    /// Other names of the network from the next query on.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.authority.set_zone(zone);
    }

    /// Other names of linked networks from the next query on.
    pub fn set_linked_zones(&mut self, zones: Vec<LinkedZone>) {
        self.authority.set_linked_zones(zones);
    }

    /// AAAA records that do not count for DNS64: `::/0` where there is no IPv6 outside.
    pub fn exclude_from_dns64(&mut self, prefixes: &[Ipv6Cidr]) {
        if let Some(dns64) = &mut self.dns64 {
            dns64.exclude(prefixes);
        }
    }

    /// Queries under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queries.len()
    }

    /// Takes a query: the payload of a datagram, or one message of a stream.
    ///
    /// # Errors
    /// Why it is not answered. Queries that cannot be served are answered with an error.
    pub fn handle_query<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        client: Client,
        request: &[u8],
    ) -> Result<(), DropReason> {
        let header = DnsPacket::new_checked(request).map_err(|_| DropReason::DnsMalformed)?;
        if header.flags().contains(DnsFlags::RESPONSE) {
            return Err(DropReason::DnsNotQuery);
        }
        // What follows the header of another opcode may not even be questions (RFC 8490 section 5.4 has none).
        if header.opcode() != DnsOpcode::Query {
            self.replies.push_back((client, answer::header_only(&header, DnsRcode::NotImp)));
            return Ok(());
        }
        let Some(query) = Message::parse(request) else {
            self.replies.push_back((client, answer::header_only(&header, DnsRcode::FormErr)));
            return Ok(());
        };
        if let Some(answer) = self.answer_here(&query) {
            self.reply(client, request, answer);
            return Ok(());
        }
        let mut of_client = 0;
        for (_, other) in self.queries.iter() {
            // A client that lost patience repeats itself from the same port.
            if other.client == client && !client.is_stream() && other.request == request {
                return Err(DropReason::DnsRepeated);
            }
            of_client += usize::from(other.client.address() == client.address());
        }
        if self.queries.len() >= MAX_QUERIES || of_client >= MAX_QUERIES_PER_CLIENT {
            return Err(DropReason::DnsTableFull);
        }
        let (stage, question) = self.first_stage(&query);
        let id = self.queries.insert(Query {
            client,
            request: request.to_vec(),
            stage,
            question,
            servers: Vec::new(),
            current: 0,
            attempts: Vec::new(),
            failure: None,
            retry_at: Instant::FAR,
            deadline: Instant::FAR,
            patience: Duration::ZERO,
        });
        self.start_stage(now, host, id);
        Ok(())
    }

    /// A socket of ours became usable.
    pub fn handle_event<H: Host>(&mut self, now: Instant, host: &mut H, event: HostEvent) {
        let id = event.token.flow;
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let query_id = attempt.query;
        let server = attempt.server;
        let Some(query) = self.queries.get(query_id) else { return };
        let Some(asked) = Message::parse(&query.question) else { return };
        if self.buffer.is_empty() {
            self.buffer.resize(MAX_DATAGRAM_LEN, 0);
        }
        match attempt.handle(host, event, asked.question(), &mut self.buffer) {
            Outcome::Waiting => {}
            Outcome::Failed => {
                self.nameservers.note_silence(now, server);
                self.fail(now, host, query_id, server);
            }
            Outcome::Reply(reply) => {
                self.nameservers.note_answer(server);
                self.handle_reply(now, host, query_id, server, reply);
            }
        }
    }

    /// Asks again and gives up where it is time to.
    pub fn poll<H: Host>(&mut self, now: Instant, host: &mut H) {
        if now < self.due {
            return;
        }
        let due: Vec<FlowId> = self
            .queries
            .iter()
            .filter(|(_, query)| query.retry_at.min(query.deadline) <= now)
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let Some(query) = self.queries.get(id) else { continue };
            if let Some(&(silent, Progress::Asked)) = query.servers.get(query.current) {
                self.nameservers.note_silence(now, silent);
            }
            if query.deadline <= now {
                self.give_up(now, host, id);
            } else {
                self.ask_next(now, host, id);
            }
        }
        let times = self.queries.iter().map(|(_, query)| query.retry_at.min(query.deadline));
        self.due = times.min().unwrap_or(Instant::FAR);
    }

    /// When [`Forwarder::poll`] has something to do.
    #[must_use]
    pub fn poll_at(&self) -> Instant {
        self.due
    }

    /// Takes the next reply to a container.
    pub fn poll_reply(&mut self) -> Option<(Client, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// Forgets everything a connection asked.
    pub fn cancel<H: Host>(&mut self, host: &mut H, connection: u64) {
        let is_its =
            |client: &Client| matches!(client, Client::Tcp { connection: c, .. } if *c == connection);
        let gone: Vec<FlowId> =
            self.queries.iter().filter(|(_, query)| is_its(&query.client)).map(|(id, _)| id).collect();
        for id in gone {
            self.end(host, id);
        }
        self.replies.retain(|(client, _)| !is_its(client));
    }

    /// The answer to a query that no nameserver is to see.
    fn answer_here(&mut self, query: &Message<'_>) -> Option<Vec<u8>> {
        if matches!(query.kind(), kind::AXFR | kind::IXFR) {
            return Some(answer::refusal(query, DnsRcode::NotImp));
        }
        if query.edns().is_some_and(|edns| edns.version > 0) {
            return Some(answer::bad_version(query));
        }
        special::answer(query)
            .or_else(|| self.authority.answer(query))
            .or_else(|| self.dns64.as_ref()?.well_known(query))
            .or_else(|| self.is_internal.then(|| answer::refusal(query, DnsRcode::NXDomain)))
    }

    /// What to ask first, and in which words.
    fn first_stage(&self, query: &Message<'_>) -> (Stage, Vec<u8>) {
        if let Some(dns64) = &self.dns64 {
            if dns64.applies(query) {
                return (Stage::Aaaa, query.bytes().to_vec());
            }
            if let Some(name) = dns64.reverse_name(query) {
                return (Stage::Reverse, message::question(query, &name, kind::PTR));
            }
        }
        (Stage::Plain, query.bytes().to_vec())
    }

    /// Begins to ask for what the stage wants.
    fn start_stage<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId) {
        let servers = self.nameservers.order(now);
        let Some(query) = self.queries.get_mut(id) else { return };
        if servers.is_empty() {
            let refusal = Message::parse(&query.request)
                .map(|request| answer::refusal(&request, DnsRcode::Refused))
                .unwrap_or_default();
            self.answer(host, id, refusal);
            return;
        }
        let allowed = match (query.client.is_stream(), query.stage) {
            (true, _) => STREAM_DEADLINE,
            (false, Stage::Aaaa) => AAAA_DEADLINE,
            (false, _) => DEADLINE,
        };
        query.patience = allowed / u32::try_from(servers.len().max(TRIES)).unwrap_or(u32::MAX);
        query.deadline = now + allowed;
        query.current = servers.len() - 1;
        query.servers = servers.into_iter().map(|server| (server, Progress::Untried)).collect();
        query.failure = None;
        self.ask_next(now, host, id);
    }

    /// Puts the question to the next server that has not failed, those not yet asked first.
    fn ask_next<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId) {
        while let Some(query) = self.queries.get_mut(id) {
            let Some(place) = query.next_server() else {
                self.give_up(now, host, id);
                return;
            };
            let Some((server, progress)) = query.servers.get_mut(place) else { return };
            let server = *server;
            self.asked += 1;
            let [high, low, ..] = self.ids.hash(&self.asked.to_be_bytes()).to_be_bytes();
            let message_id = u16::from_be_bytes([high, low]);
            let token = Token { owner: Owner::Dns, flow: self.attempts.next_id() };
            let by_stream = query.client.is_stream();
            let words = (message_id, &query.question[..]);
            match Attempt::open(host, token, (id, server), words, by_stream) {
                Ok(attempt) => {
                    *progress = Progress::Asked;
                    query.current = place;
                    query.retry_at = now + query.patience;
                    self.due = self.due.min(query.retry_at).min(query.deadline);
                    query.attempts.push(self.attempts.insert(attempt));
                    if query.attempts.len() > MAX_ATTEMPTS {
                        let oldest = query.attempts.remove(0);
                        if let Some(attempt) = self.attempts.remove(oldest) {
                            attempt.close(host);
                        }
                    }
                    return;
                }
                Err(_) => {
                    *progress = Progress::Failed;
                    self.nameservers.note_silence(now, server);
                }
            }
        }
    }

    /// A server is no help with this query.
    fn fail<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId, server: SocketAddr) {
        let Some(query) = self.queries.get_mut(id) else { return };
        if let Some(entry) = query.servers.iter_mut().find(|(address, _)| *address == server) {
            entry.1 = Progress::Failed;
        }
        let attempts = &mut self.attempts;
        let is_its = |id: &FlowId| attempts.get(*id).is_some_and(|attempt| attempt.server == server);
        let (ended, kept): (Vec<FlowId>, Vec<FlowId>) = query.attempts.iter().partition(|id| is_its(id));
        query.attempts = kept;
        let nobody_left = query.servers.iter().all(|(_, progress)| *progress == Progress::Failed);
        let was_current = query.servers.get(query.current).is_some_and(|(address, _)| *address == server);
        for attempt in ended {
            if let Some(attempt) = attempts.remove(attempt) {
                attempt.close(host);
            }
        }
        if nobody_left {
            self.give_up(now, host, id);
        } else if was_current {
            self.ask_next(now, host, id);
        }
    }

    /// A reply that matches its question.
    fn handle_reply<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        id: FlowId,
        server: SocketAddr,
        reply: Vec<u8>,
    ) {
        let (Some(query), Some(told)) = (self.queries.get_mut(id), Message::parse(&reply)) else { return };
        if matches!(told.header().rcode(), DnsRcode::ServFail | DnsRcode::Refused) {
            query.failure = Some(reply);
            self.fail(now, host, id, server);
            return;
        }
        let (Some(request), Some(dns64)) = (Message::parse(&query.request), &self.dns64) else {
            self.answer(host, id, reply);
            return;
        };
        let made = match query.stage {
            Stage::Plain => reply,
            Stage::Ipv4 { max_ttl_secs } => dns64.synthesize(&request, &told, max_ttl_secs),
            Stage::Reverse => dns64.synthesize_pointer(&request, &told),
            Stage::Aaaa => match dns64.judge(&request, &told) {
                Verdict::Pass => reply,
                Verdict::Instead(made) => made,
                Verdict::AskIpv4(max_ttl_secs) => {
                    self.ask_ipv4(now, host, id, max_ttl_secs);
                    return;
                }
            },
        };
        self.answer(host, id, made);
    }

    /// The second half of DNS64.
    fn ask_ipv4<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId, max_ttl_secs: u32) {
        self.close_attempts(host, id);
        let Some(query) = self.queries.get_mut(id) else { return };
        query.stage = Stage::Ipv4 { max_ttl_secs };
        message::set_kind(&mut query.question, kind::A);
        self.start_stage(now, host, id);
    }

    /// No server is left, or no time.
    fn give_up<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId) {
        let Some(query) = self.queries.get_mut(id) else { return };
        // RFC 6147 section 5.1.3: no answer to the AAAA query "is treated as RCODE=2 (Server failure)", which by
        // section 5.1.2 is treated as an empty answer.
        if query.stage == Stage::Aaaa {
            self.ask_ipv4(now, host, id, dns64::MAX_TTL_SECS);
            return;
        }
        let failure = query.failure.take();
        let Some(request) = Message::parse(&query.request) else { return };
        let told = failure.as_deref().and_then(Message::parse);
        let answer = match (query.stage, told, failure.as_deref()) {
            (Stage::Plain, _, Some(failure)) => failure.to_vec(),
            (_, Some(told), _) => answer::refusal(&request, told.header().rcode()),
            (_, None, _) => answer::refusal(&request, DnsRcode::ServFail),
        };
        self.answer(host, id, answer);
    }

    /// Ends a query with this reply.
    fn answer<H: Host>(&mut self, host: &mut H, id: FlowId, reply: Vec<u8>) {
        if let Some(query) = self.end(host, id) {
            self.reply(query.client, &query.request, reply);
        }
    }

    /// Puts a reply in the words and the size its client wants.
    fn reply(&mut self, client: Client, request: &[u8], mut reply: Vec<u8>) {
        let Some(query) = Message::parse(request) else { return };
        message::set_id(&mut reply, query.header().transaction_id());
        if !client.is_stream() {
            // RFC 6891 section 6.2.5: without EDNS "the requestor's UDP payload size ... 512 octets".
            let wanted = query.edns().map_or(message::MIN_UDP_LEN, |edns| edns.udp_len);
            reply = answer::truncate(&query, reply, wanted.min(self.max_udp_len));
        }
        self.replies.push_back((client, reply));
    }

    fn end<H: Host>(&mut self, host: &mut H, id: FlowId) -> Option<Query> {
        self.close_attempts(host, id);
        self.queries.remove(id)
    }

    fn close_attempts<H: Host>(&mut self, host: &mut H, id: FlowId) {
        let attempts = self.queries.get_mut(id).map(|query| core::mem::take(&mut query.attempts));
        for attempt in attempts.unwrap_or_default() {
            if let Some(attempt) = self.attempts.remove(attempt) {
                attempt.close(host);
            }
        }
    }
}

impl Query {
    /// Round the circle from the server asked last: an untried one, else one that was silent so far.
    fn next_server(&self) -> Option<usize> {
        let len = self.servers.len();
        let round = || (1..=len).map(|step| (self.current + step) % len);
        let with = |wanted: Progress| {
            round().find(|&place| self.servers.get(place).is_some_and(|(_, progress)| *progress == wanted))
        };
        with(Progress::Untried).or_else(|| with(Progress::Asked))
    }
}

#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
