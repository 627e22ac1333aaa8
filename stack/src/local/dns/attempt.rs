// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one nameserver, over a socket of its own.
//!
//! # How it works
//! The host picks the port and we pick the id, both unpredictable, for every attempt anew (RFC 5452 section 9.2). A
//! reply counts if it comes from the server asked, carries the id, and repeats the question byte for byte; anything
//! else might be somebody's guess and is not listened to.
//!
//! # Bounds
//! A stream takes one reply of at most 65,535 bytes.
//!
//! # Sources
//! RFC 1035 section 4.2 (transports), RFC 5452 section 9 (matching), RFC 7766.

use core::net::SocketAddr;

use smoltcp::wire::{DnsFlags, DnsPacket};

use super::message::{self, Message};
use crate::host::{
    Family, FlowId, Host, HostError, HostEvent, Io, Outgoing, Sender, SocketId, StreamRead, Token,
};

/// Hop limit of our queries, that of any host.
const HOP_LIMIT: u8 = 64;
/// Datagrams looked at in one go.
const DATAGRAMS_PER_VISIT: usize = 16;
/// Bytes read from a stream in one go.
const READ_LEN: usize = 4096;

/// What came of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Waiting,
    /// The reply, with the id of the attempt.
    Reply(Vec<u8>),
    /// The server cannot be reached, or it hung up.
    Failed,
}

#[derive(Debug)]
enum Wire {
    Datagram,
    Stream(Stream),
}

#[derive(Debug)]
struct Stream {
    connected: bool,
    /// The query behind its length.
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

/// One question under way.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The query it is for.
    pub(super) query: FlowId,
    /// Who is asked.
    pub(super) server: SocketAddr,
    id: u16,
    socket: SocketId,
    wire: Wire,
}

impl Attempt {
    /// Asks `question`, a whole message whose id is put in here.
    pub(super) fn open<H: Host>(
        host: &mut H,
        token: Token,
        (query, server): (FlowId, SocketAddr),
        (id, question): (u16, &[u8]),
        by_stream: bool,
    ) -> Result<Self, HostError> {
        let mut question = question.to_vec();
        message::set_id(&mut question, id);
        if by_stream {
            let len = u16::try_from(question.len()).map_err(|_| HostError::NotPermitted)?;
            let socket = host.tcp_connect(token, Sender::Gateway, server, HOP_LIMIT)?;
            let output = [&len.to_be_bytes()[..], &question].concat();
            let stream = Stream { connected: false, output, sent: 0, input: Vec::new() };
            return Ok(Self { query, server, id, socket, wire: Wire::Stream(stream) });
        }
        let socket = host.udp_open(token, Sender::Gateway, Family::of(server.ip()))?;
        let outgoing = Outgoing { to: server, from: None, hop_limit: HOP_LIMIT, dont_fragment: false };
        match host.send_to(socket, outgoing, &question) {
            // A full buffer loses the datagram, as the network may; the next attempt comes with its timer.
            Ok(Io::Done(()) | Io::Blocked) => Ok(Self { query, server, id, socket, wire: Wire::Datagram }),
            Ok(Io::Broken) => {
                host.close(socket);
                Err(HostError::Refused)
            }
            Err(error) => {
                host.close(socket);
                Err(error)
            }
        }
    }

    /// The socket has something to say.
    pub(super) fn handle<H: Host>(
        &mut self,
        host: &mut H,
        event: HostEvent,
        question: &[u8],
        buffer: &mut [u8],
    ) -> Outcome {
        let outcome = match &mut self.wire {
            Wire::Datagram => return self.receive_datagrams(host, event, question, buffer),
            Wire::Stream(stream) => stream.advance(host, self.socket, event),
        };
        match outcome {
            Outcome::Reply(reply) if !self.matches(&reply, question) => Outcome::Failed,
            outcome => outcome,
        }
    }

    /// Ends the attempt.
    pub(super) fn close<H: Host>(self, host: &mut H) {
        host.close(self.socket);
    }

    fn receive_datagrams<H: Host>(
        &self,
        host: &mut H,
        event: HostEvent,
        question: &[u8],
        buffer: &mut [u8],
    ) -> Outcome {
        let mut unreachable = event.error && self.is_unreachable(host);
        for _ in 0..DATAGRAMS_PER_VISIT {
            match host.recv_from(self.socket, buffer) {
                Io::Done(datagram) => {
                    let reply = buffer.get(..datagram.len).unwrap_or_default();
                    let from_server =
                        datagram.from.ip() == self.server.ip() && datagram.from.port() == self.server.port();
                    if from_server && self.matches(reply, question) {
                        return Outcome::Reply(reply.to_vec());
                    }
                }
                Io::Broken if self.is_unreachable(host) => unreachable = true,
                Io::Blocked | Io::Broken => break,
            }
        }
        if unreachable { Outcome::Failed } else { Outcome::Waiting }
    }

    /// Whether an ICMP error says that the server does not hear us.
    fn is_unreachable<H: Host>(&self, host: &mut H) -> bool {
        let mut found = false;
        while let Some(report) = host.icmp_report(self.socket) {
            found |= report.destination.ip() == self.server.ip();
        }
        found
    }

    /// RFC 5452 section 9.1: the reply must match "remote address, local address, query port, query ID, question
    /// section".
    fn matches(&self, reply: &[u8], question: &[u8]) -> bool {
        let Ok(header) = DnsPacket::new_checked(reply) else { return false };
        header.transaction_id() == self.id
            && header.flags().contains(DnsFlags::RESPONSE)
            && Message::parse(reply).is_some_and(|message| message.question() == question)
    }
}

impl Stream {
    fn advance<H: Host>(&mut self, host: &mut H, socket: SocketId, event: HostEvent) -> Outcome {
        if !self.connected {
            if host.tcp_error(socket).is_some() {
                return Outcome::Failed;
            }
            if !event.writable {
                return Outcome::Waiting;
            }
            host.tcp_established(socket);
            self.connected = true;
        }
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match host.tcp_send(socket, rest) {
                Io::Done(sent) => self.sent += sent,
                Io::Blocked => break,
                Io::Broken => return Outcome::Failed,
            }
        }
        self.read(host, socket)
    }

    fn read<H: Host>(&mut self, host: &mut H, socket: SocketId) -> Outcome {
        loop {
            if let Some((&[high, low], rest)) = self.input.split_first_chunk::<2>() {
                let len = usize::from(u16::from_be_bytes([high, low]));
                if let Some(reply) = rest.get(..len) {
                    return Outcome::Reply(reply.to_vec());
                }
            }
            let filled = self.input.len();
            self.input.resize(filled + READ_LEN, 0);
            let room = self.input.get_mut(filled..).unwrap_or_default();
            let read = host.tcp_recv(socket, room);
            let got = if let StreamRead::Data(len) = read { len.min(READ_LEN) } else { 0 };
            self.input.truncate(filled + got);
            match read {
                StreamRead::Data(_) => {}
                StreamRead::Blocked => return Outcome::Waiting,
                StreamRead::End | StreamRead::Broken => return Outcome::Failed,
            }
        }
    }
}
