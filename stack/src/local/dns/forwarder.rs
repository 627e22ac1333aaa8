// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarder: asks the host's nameservers what a container asked the gateway.
//!
//! # Path
//! [`Forwarder::handle_query`] takes a query, [`Forwarder::handle_event`] what the host's sockets say,
//! [`Forwarder::poll`] the passing of time; [`Forwarder::poll_reply`] has what is to be said to the containers.
//!
//! # How it works
//! Messages pass through untouched but for their id, EDNS and DNSSEC and all. A query is put to the first nameserver,
//! after a while to the next, and so on in a circle until its deadline; an answer from any of them counts, however
//! late. A server that says SERVFAIL or REFUSED is passed over for this query; if they all do, the last such reply is
//! the client's. If all keep silent the client gets SERVFAIL, before its own patience ends.
//!
//! A query that came over UDP goes upstream over UDP, by the sockets of [`source_ports`](super::source_ports); one that came
//! over TCP over TCP, by a [`stream`](super::stream) of its own. A reply that does not fit the client's buffer or the link is
//! cut and marked, and the client comes back over TCP.
//!
//! What a client was told is kept in a [`cache`](super::cache) for as long as it holds, unless the network does without one
//! or the nameservers change. With NAT64 the answers are worked on by [`dns64`] before. Names that mean the asking host itself
//! are none of anybody's business: [`special`] answers for them. Those of the network's own [`zone`](super::zone) are answered
//! by its [`authority`](super::authority).
//!
//! On a network without an outside every other name gets NXDOMAIN, which nobody may keep: it comes without an SOA record.
//! REFUSED would be truer, but is no answer to most: glibc asks again and calls it a temporary failure, musl does not
//! listen to it and waits for its timeout.
//!
//! # Bounds
//! [`MAX_QUERIES`](super::MAX_QUERIES) queries, [`MAX_QUERIES_PER_CLIENT`](super::MAX_QUERIES_PER_CLIENT) of one container, of
//! [`MAX_QUERY_LEN`] bytes; the sockets are those of [`source_ports`](super::source_ports), and for TCP
//! [`MAX_ATTEMPTS`](super::MAX_ATTEMPTS) for each query.
//!
//! # Sources
//! RFC 1035, RFC 5452, RFC 6147, RFC 6761, RFC 6891, RFC 7766.

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::sync::Arc;

use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsRcode, Ipv6Cidr};
use wharf_switch::{Duration, Instant};

use super::authority::{Authority, LinkedZone};
use super::cache::Cache;
use super::dns64::{Dns64, Verdict};
use super::message::{Message, kind};
use super::query::{Attempt, Queries, Query, Stage, Waiter, Way};
use super::source_ports::{Received, SourcePorts};
use super::stream::{Outcome, Stream};
use super::upstream::Nameservers;
use super::zone::Zone;
use super::{Client, MAX_QUERY_LEN, answer, dns64, message, special};
use crate::host::{FlowId, Host, HostEvent, Owner, Token};
use crate::slots::Slots;
use crate::{Config, DropReason};

/// How long a query over UDP is tried. glibc and musl ask again after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// How long the AAAA half of a DNS64 answer is tried.
const AAAA_DEADLINE: Duration = Duration::from_millis(3000);
/// How long a query over TCP is tried.
const STREAM_DEADLINE: Duration = Duration::from_secs(9);
/// Datagrams read from one socket before others have their turn.
const DATAGRAMS_PER_VISIT: usize = 64;
/// Largest datagram.
const MAX_DATAGRAM_LEN: usize = 65_535;
/// IPv6 and UDP headers in front of a reply.
const HEADERS_LEN: usize = 48;

/// The forwarder of one network.
#[derive(Debug)]
pub struct Forwarder {
    nameservers: Nameservers,
    authority: Authority,
    is_internal: bool,
    dns64: Option<Dns64>,
    cache: Option<Cache>,
    queries: Queries,
    ports: SourcePorts,
    streams: Slots<Stream>,
    replies: VecDeque<(Client, Vec<u8>)>,
    max_udp_len: usize,
    /// No query is due before.
    due: Instant,
    /// Sockets that may have more for us than was looked at.
    unread: Vec<FlowId>,
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
            cache: config.dns_cache.then(|| Cache::new(&config.seed)),
            queries: Queries::new(&config.seed),
            ports: SourcePorts::new(&config.seed),
            streams: Slots::new(),
            replies: VecDeque::new(),
            max_udp_len: config.mtu_bytes.saturating_sub(HEADERS_LEN).max(message::MIN_UDP_LEN),
            due: Instant::FAR,
            unread: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Other nameservers from the next query on. What the earlier ones said is forgotten, also if they are the same: their
    /// view may be another one, and telling them again is the way to say so.
    pub fn set_nameservers(&mut self, nameservers: &[SocketAddr]) {
        self.nameservers.set(nameservers);
        self.queries.close_to_others();
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
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

    /// How many queries were answered from what was kept, and how many were not.
    #[must_use]
    pub fn lookups(&self) -> (u64, u64) {
        self.cache.as_ref().map_or((0, 0), |cache| (cache.hits(), cache.misses()))
    }

    /// Answers that are waited for.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queries.waiting()
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
        let Some(query) = Message::parse(request).filter(|_| request.len() <= MAX_QUERY_LEN) else {
            self.replies.push_back((client, answer::header_only(&header, DnsRcode::FormErr)));
            return Ok(());
        };
        let waiter = Waiter { client, id: header.transaction_id() };
        let kept = |cache: &mut Cache| cache.answer(now, &query);
        if let Some(answer) = self.answer_here(&query).or_else(|| self.cache.as_mut().and_then(kept)) {
            self.reply(waiter, request, answer);
            return Ok(());
        }
        let (stage, question) = self.first_stage(&query);
        let query = Query::new(waiter, request.to_vec(), stage, question);
        if let Some(id) = self.queries.add(now, query)? {
            self.start_stage(now, host, id);
        }
        Ok(())
    }

    /// A socket of ours became usable.
    pub fn handle_event<H: Host>(&mut self, now: Instant, host: &mut H, event: HostEvent) {
        if event.token.owner == Owner::DnsStream {
            self.handle_stream(now, host, event);
            return;
        }
        if event.error {
            self.fail_unreachable(now, host, event.token.flow);
        }
        self.receive(now, host, event.token.flow);
    }

    /// Asks again and gives up where it is time to.
    pub fn poll<H: Host>(&mut self, now: Instant, host: &mut H) {
        for socket in core::mem::take(&mut self.unread) {
            self.receive(now, host, socket);
        }
        self.ports.poll(now, host);
        if now < self.due {
            return;
        }
        let is_due = |query: &Query| query.due() <= now;
        let due: Vec<FlowId> =
            self.queries.iter().filter(|(_, query)| is_due(query)).map(|(id, _)| id).collect();
        for id in due {
            let Some(query) = self.queries.get(id) else { continue };
            if let Some(silent) = query.awaited_server() {
                self.nameservers.note_silence(now, silent);
            }
            if query.deadline <= now {
                self.give_up(now, host, id);
            } else {
                self.ask_next(now, host, id);
            }
        }
        self.due = self.queries.iter().map(|(_, query)| query.due()).min().unwrap_or(Instant::FAR);
    }

    /// When [`Forwarder::poll`] has something to do.
    #[must_use]
    pub fn poll_at(&self) -> Instant {
        if self.unread.is_empty() { self.due.min(self.ports.poll_at()) } else { Instant::ZERO }
    }

    /// Takes the next reply to a container.
    pub fn poll_reply(&mut self) -> Option<(Client, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// Forgets everything a connection asked.
    pub fn cancel<H: Host>(&mut self, host: &mut H, connection: u64) {
        for id in self.queries.cancel(connection) {
            self.end(host, id);
        }
        self.replies
            .retain(|(client, _)| !matches!(client, Client::Tcp { connection: of, .. } if *of == connection));
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

    /// What to ask first, and in which words if not the client's.
    fn first_stage(&self, query: &Message<'_>) -> (Stage, Option<Vec<u8>>) {
        let Some(dns64) = &self.dns64 else { return (Stage::Plain, None) };
        if dns64.applies(query) {
            return (Stage::Aaaa, None);
        }
        match dns64.reverse_name(query) {
            Some(name) => (Stage::Reverse, Some(message::question(query, &name, kind::PTR))),
            None => (Stage::Plain, None),
        }
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
        let allowed = match (query.is_stream(), query.stage) {
            (true, _) => STREAM_DEADLINE,
            (false, Stage::Aaaa) => AAAA_DEADLINE,
            (false, _) => DEADLINE,
        };
        query.start(now, servers, allowed);
        self.ask_next(now, host, id);
    }

    /// Puts the question to the next server that has not failed, those not yet asked first.
    fn ask_next<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId) {
        while let Some(query) = self.queries.get_mut(id) {
            let Some(server) = query.next_server() else {
                self.give_up(now, host, id);
                return;
            };
            let asked = if query.is_stream() {
                let token = Token { owner: Owner::DnsStream, flow: self.streams.next_id() };
                let words = (self.ports.draw_id(), query.asked_mut());
                let stream = Stream::open(host, token, (id, server), words);
                stream.map(|stream| Way::Stream(self.streams.insert(stream)))
            } else {
                self.ports.ask(now, host, (id, server), query.asked_mut()).map(Way::Datagram)
            };
            let Ok(way) = asked else {
                query.note_failed(server);
                self.nameservers.note_silence(now, server);
                continue;
            };
            query.retry_at = now + query.patience;
            self.due = self.due.min(query.due());
            let oldest = query.note_asked(Attempt { server, way });
            self.close(host, oldest);
            return;
        }
    }

    /// Reads what came to a UDP socket, as long as anybody waits there.
    fn receive<H: Host>(&mut self, now: Instant, host: &mut H, socket: FlowId) {
        let mut buffer = core::mem::take(&mut self.buffer);
        if buffer.is_empty() {
            buffer = vec![0; MAX_DATAGRAM_LEN];
        }
        let mut more = true;
        for _ in 0..DATAGRAMS_PER_VISIT {
            match self.ports.receive(host, socket, &mut buffer) {
                // RFC 5452 section 9.1: to another question it is none.
                Received::Response { query, server, len } => {
                    let reply = buffer.get(..len).unwrap_or_default();
                    self.handle_response(now, host, (query, server), reply);
                }
                Received::Stray => {}
                Received::Error => self.fail_unreachable(now, host, socket),
                Received::Nothing => {
                    more = false;
                    break;
                }
            }
        }
        if more {
            self.unread.push(socket);
        }
        self.buffer = buffer;
    }

    /// What a connection to a server has to say.
    fn handle_stream<H: Host>(&mut self, now: Instant, host: &mut H, event: HostEvent) {
        let Some(stream) = self.streams.get_mut(event.token.flow) else { return };
        let (query, server) = (stream.query, stream.server);
        let answered = match stream.handle(host, event) {
            Outcome::Waiting => true,
            Outcome::Response(reply) => self.handle_response(now, host, (query, server), &reply),
            Outcome::Failed => false,
        };
        if !answered {
            self.nameservers.note_silence(now, server);
            self.fail(now, host, query, server);
        }
    }

    /// An error waits on a UDP socket: perhaps its server cannot be reached.
    fn fail_unreachable<H: Host>(&mut self, now: Instant, host: &mut H, socket: FlowId) {
        if let Some((server, queries)) = self.ports.take_unreachable(host, socket) {
            self.nameservers.note_silence(now, server);
            for query in queries {
                self.fail(now, host, query, server);
            }
        }
    }

    /// A server is no help with this query.
    fn fail<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId, server: SocketAddr) {
        let Some(query) = self.queries.get_mut(id) else { return };
        let was_awaited = query.note_failed(server);
        let attempts = query.take_attempts(Some(server));
        self.close(host, attempts.into_iter().flatten());
        if was_awaited {
            self.ask_next(now, host, id);
        }
    }

    /// A response with the id of the query's question. Returns whether it is about the question.
    fn handle_response<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        (id, server): (FlowId, SocketAddr),
        reply: &[u8],
    ) -> bool {
        let Some(query) = self.queries.get_mut(id) else { return false };
        let told = Message::parse(query.asked()).and_then(|asked| asked.question_in(reply));
        let Some(told) = told else { return false };
        self.nameservers.note_answer(server);
        if matches!(told.header().rcode(), DnsRcode::ServFail | DnsRcode::Refused) {
            query.failure = Some(reply.to_vec());
            self.fail(now, host, id, server);
            return true;
        }
        let verdict = match &self.dns64 {
            Some(dns64) if query.stage != Stage::Plain => translate(dns64, query, &told),
            _ => Verdict::Pass,
        };
        let answer = match verdict {
            Verdict::Pass => reply.to_vec(),
            Verdict::Instead(made) => made,
            Verdict::AskIpv4(max_ttl_secs) => {
                self.ask_ipv4(now, host, id, max_ttl_secs);
                return true;
            }
        };
        self.keep(now, (id, server), &answer);
        self.answer(host, id, answer);
        true
    }

    /// Keeps an answer for others, if there is nothing against it.
    fn keep(&mut self, now: Instant, (id, server): (FlowId, SocketAddr), answer: &[u8]) {
        // The list may have changed since.
        let is_sound = self.nameservers.contains(server) && !self.queries.is_crowded(id);
        if let Some(cache) = self.cache.as_mut().filter(|_| is_sound)
            && let Some(request) = self.queries.get(id).and_then(|query| Message::parse(&query.request))
        {
            cache.keep(now, &request, answer);
        }
    }

    /// The second half of DNS64.
    fn ask_ipv4<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId, max_ttl_secs: u32) {
        self.close_attempts(host, id);
        let Some(query) = self.queries.get_mut(id) else { return };
        query.stage = Stage::Ipv4 { max_ttl_secs };
        let mut question = query.request.clone();
        message::set_kind(&mut question, kind::A);
        query.question = Some(question);
        self.start_stage(now, host, id);
    }

    /// No server is left, or no time.
    fn give_up<H: Host>(&mut self, now: Instant, host: &mut H, id: FlowId) {
        let Some(query) = self.queries.get_mut(id) else { return };
        // RFC 6147 section 5.1.3: no answer to the AAAA query "is treated as RCODE=2 (Server failure)", which by
        // section 5.1.2 is treated as an empty answer.
        if query.stage == Stage::Aaaa {
            self.ask_ipv4(now, host, id, dns64::MAX_TTL_AFTER_FAILURE_SECS);
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
        let Some(query) = self.end(host, id) else { return };
        for &other in &query.others {
            self.reply(other, &query.request, reply.clone());
        }
        self.reply(query.first, &query.request, reply);
    }

    /// Puts a reply in the words and the size its client wants.
    fn reply(&mut self, to: Waiter, request: &[u8], mut reply: Vec<u8>) {
        if !to.client.is_stream() && reply.len() > message::MIN_UDP_LEN {
            let Some(query) = Message::parse(request) else { return };
            // RFC 6891 section 6.2.5: without EDNS "the requestor's UDP payload size ... 512 octets".
            let wanted = query.edns().map_or(message::MIN_UDP_LEN, |edns| edns.udp_len);
            reply = answer::truncate(&query, reply, wanted.min(self.max_udp_len));
        }
        message::set_id(&mut reply, to.id);
        self.replies.push_back((to.client, reply));
    }

    fn end<H: Host>(&mut self, host: &mut H, id: FlowId) -> Option<Query> {
        self.close_attempts(host, id);
        self.queries.remove(id)
    }

    fn close_attempts<H: Host>(&mut self, host: &mut H, id: FlowId) {
        if let Some(query) = self.queries.get_mut(id) {
            let attempts = query.take_attempts(None);
            self.close(host, attempts.into_iter().flatten());
        }
    }

    fn close<H: Host>(&mut self, host: &mut H, attempts: impl IntoIterator<Item = Attempt>) {
        for attempt in attempts {
            match attempt.way {
                Way::Datagram(ticket) => self.ports.release(host, ticket),
                Way::Stream(id) => {
                    if let Some(stream) = self.streams.remove(id) {
                        stream.close(host);
                    }
                }
            }
        }
    }
}

/// What DNS64 makes of what a server told.
fn translate(dns64: &Dns64, query: &Query, told: &Message<'_>) -> Verdict {
    let Some(request) = Message::parse(&query.request) else { return Verdict::Pass };
    match query.stage {
        Stage::Plain => Verdict::Pass,
        Stage::Aaaa => dns64.judge(&request, told),
        Stage::Ipv4 { max_ttl_secs } => Verdict::Instead(dns64.synthesize(&request, told, max_ttl_secs)),
        Stage::Reverse => Verdict::Instead(dns64.synthesize_pointer(&request, told)),
    }
}

#[cfg(test)]
mod tests;
