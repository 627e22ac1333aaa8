// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one nameserver over a TCP connection of its own.
//!
//! # Bounds
//! One reply of at most 65,535 bytes.
//!
//! # Sources
//! RFC 1035 section 4.2.2, RFC 5452 section 9.1, RFC 7766.

use core::net::SocketAddr;

use smoltcp::wire::{DnsFlags, DnsPacket};

use super::message;
use super::source_ports::HOP_LIMIT;
use crate::host::{FlowId, Host, HostError, HostEvent, Io, Sender, SocketId, StreamRead, Token};

/// Bytes read in one go.
const READ_LEN: usize = 4096;

/// What came of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Waiting,
    /// A response with the id of the question.
    Response(Vec<u8>),
    /// The server cannot be reached, hung up, or said something else.
    Failed,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    /// The query it is for.
    pub(super) query: FlowId,
    /// Who is asked.
    pub(super) server: SocketAddr,
    id: u16,
    socket: SocketId,
    connected: bool,
    /// The question behind its length.
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Stream {
    /// Asks `question`, a whole message that gets the id `id`.
    ///
    /// # Errors
    /// What the host said.
    pub(super) fn open<H: Host>(
        host: &mut H,
        token: Token,
        (query, server): (FlowId, SocketAddr),
        (id, question): (u16, &mut [u8]),
    ) -> Result<Self, HostError> {
        message::set_id(question, id);
        let len = u16::try_from(question.len()).map_err(|_| HostError::NotPermitted)?;
        let socket = host.tcp_connect(token, Sender::Gateway, server, HOP_LIMIT)?;
        let output = [&len.to_be_bytes()[..], question].concat();
        Ok(Self { query, server, id, socket, connected: false, output, sent: 0, input: Vec::new() })
    }

    /// The socket has something to say.
    pub(super) fn handle<H: Host>(&mut self, host: &mut H, event: HostEvent) -> Outcome {
        match self.advance(host, event) {
            Outcome::Response(reply) if !self.is_response(&reply) => Outcome::Failed,
            outcome => outcome,
        }
    }

    /// Ends it.
    pub(super) fn close<H: Host>(self, host: &mut H) {
        host.close(self.socket);
    }

    fn is_response(&self, reply: &[u8]) -> bool {
        DnsPacket::new_checked(reply).is_ok_and(|header| {
            header.transaction_id() == self.id && header.flags().contains(DnsFlags::RESPONSE)
        })
    }

    fn advance<H: Host>(&mut self, host: &mut H, event: HostEvent) -> Outcome {
        if !self.connected {
            if host.tcp_error(self.socket).is_some() {
                return Outcome::Failed;
            }
            if !event.writable {
                return Outcome::Waiting;
            }
            host.tcp_established(self.socket);
            self.connected = true;
        }
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match host.tcp_send(self.socket, rest) {
                Io::Done(sent) => self.sent += sent,
                Io::Blocked => break,
                Io::Broken => return Outcome::Failed,
            }
        }
        self.read(host)
    }

    fn read<H: Host>(&mut self, host: &mut H) -> Outcome {
        loop {
            if let Some((&[high, low], rest)) = self.input.split_first_chunk::<2>() {
                let len = usize::from(u16::from_be_bytes([high, low]));
                if let Some(reply) = rest.get(..len) {
                    return Outcome::Response(reply.to_vec());
                }
            }
            let filled = self.input.len();
            self.input.resize(filled + READ_LEN, 0);
            let room = self.input.get_mut(filled..).unwrap_or_default();
            let read = host.tcp_recv(self.socket, room);
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
