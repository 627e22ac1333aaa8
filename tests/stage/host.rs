// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host whose sockets do what a test tells them, and which writes down what it is asked.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use wharf_stack::host::{
    Accept, Datagram, Ends, Family, Host, HostError, HostEvent, IcmpReport, Io, Outgoing, Sender, SocketId,
    StreamRead, Token,
};

/// One socket.
#[derive(Debug)]
pub struct Socket {
    pub token: Token,
    pub remote: Option<SocketAddr>,
    /// How the connect ended.
    pub connected: Option<Result<(), HostError>>,
    /// The error that waits.
    pub error: Option<HostError>,
    /// What the remote has sent, and whether that was all.
    pub inbox: VecDeque<Vec<u8>>,
    pub ended: bool,
    pub broken: bool,
    /// What the remote got, and how much more the socket takes.
    pub outbox: Vec<u8>,
    pub room: usize,
    pub finished: bool,
    pub datagrams: VecDeque<(Datagram, Vec<u8>)>,
    pub reports: VecDeque<IcmpReport>,
    /// Answers to the next sends of datagrams.
    pub refusals: VecDeque<HostError>,
    pub closed: bool,
}

impl Socket {
    /// The next datagram is too large for the path to `to`, and the host knows that.
    pub fn refuse_as_too_big(&mut self, to: SocketAddr, mtu: u32) {
        let (family, kind, code) = match to {
            SocketAddr::V4(_) => (Family::V4, 3, 4),
            SocketAddr::V6(_) => (Family::V6, 2, 0),
        };
        self.refusals.push_back(HostError::NetworkUnreachable);
        let (destination, offender, payload) = (to, None, [0; 8]);
        self.reports.push_back(IcmpReport { destination, offender, family, kind, code, mtu, payload });
    }
}

/// The host.
#[derive(Debug, Default)]
pub struct ScriptHost {
    pub sockets: Vec<Socket>,
    /// What the gateway asked, in words.
    pub calls: VecDeque<String>,
    /// The next open or connect fails so.
    pub fails_at_once: Option<HostError>,
    /// Clients that wait, and whether the host is out of descriptors for them.
    pub clients: VecDeque<SocketAddr>,
    pub is_exhausted: bool,
    /// What the host puts into one TCP segment.
    pub segment_size: Option<u16>,
    listener: Option<Token>,
    events: Vec<HostEvent>,
}

/// What a listener is called among the sockets.
const LISTENER: SocketId = SocketId(u32::MAX);

impl ScriptHost {
    pub fn take_events(&mut self) -> Vec<HostEvent> {
        std::mem::take(&mut self.events)
    }

    pub fn is_quiet(&self) -> bool {
        self.events.is_empty()
    }

    /// A client connects to the published port; its worker hears of it when nobody waited before it, as by an edge.
    pub fn connects(&mut self, client: SocketAddr) {
        self.clients.push_back(client);
        let token = self.listener.expect("a published port");
        if self.clients.len() == 1 {
            self.events.push(HostEvent { token, readable: true, writable: false, error: false });
        }
    }

    /// Tells the owner of a socket that something happened.
    pub fn announce(&mut self, at: usize, readable: bool, writable: bool, error: bool) {
        let socket = &self.sockets[at];
        // No socket is writable while it connects.
        let writable = writable && (socket.remote.is_none() || socket.connected.is_some());
        if !socket.closed {
            self.events.push(HostEvent { token: socket.token, readable, writable, error });
        }
    }

    /// A datagram (UDP payload or echo message) comes to a socket.
    pub fn receives(&mut self, at: usize, from: SocketAddr, bytes: &[u8]) {
        self.receives_at(at, None, from, bytes);
    }

    /// The same, at one of the addresses that a published port has.
    pub fn receives_at(&mut self, at: usize, to: Option<IpAddr>, from: SocketAddr, bytes: &[u8]) {
        let datagram = Datagram { len: bytes.len(), from, to, hop_limit: 60 };
        self.sockets[at].datagrams.push_back((datagram, bytes.to_vec()));
        self.announce(at, true, false, false);
    }

    /// The latest socket that is open still.
    pub fn latest(&self) -> usize {
        self.sockets.iter().rposition(|socket| !socket.closed).expect("an open socket")
    }

    pub fn open_sockets(&self) -> usize {
        self.sockets.iter().filter(|socket| !socket.closed).count()
    }

    /// The connect of a socket ends.
    pub fn connect_ends(&mut self, at: usize, result: Result<(), HostError>) {
        self.sockets[at].connected = Some(result);
        self.sockets[at].error = result.err();
        self.announce(at, false, true, result.is_err());
    }

    /// The remote resets the connection; nothing tells of it but the next use, unless it is announced.
    pub fn reset(&mut self, at: usize) {
        self.sockets[at].broken = true;
        self.sockets[at].error = Some(HostError::Refused);
    }

    fn open(&mut self, token: Token, remote: Option<SocketAddr>) -> Result<SocketId, HostError> {
        if let Some(error) = self.fails_at_once.take() {
            return Err(error);
        }
        self.sockets.push(Socket {
            token,
            remote,
            connected: None,
            error: None,
            inbox: VecDeque::new(),
            ended: false,
            broken: false,
            outbox: Vec::new(),
            room: usize::MAX,
            finished: false,
            datagrams: VecDeque::new(),
            reports: VecDeque::new(),
            refusals: VecDeque::new(),
            closed: false,
        });
        Ok(SocketId(self.sockets.len() as u32 - 1))
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        let socket = &mut self.sockets[id.0 as usize];
        assert!(!socket.closed, "a socket is used after it was closed");
        socket
    }
}

impl Host for ScriptHost {
    type Listener = ();
    type Stream = SocketAddr;

    fn tcp_listen(&mut self, token: Token, (): ()) -> Result<SocketId, HostError> {
        self.listener = Some(token);
        Ok(LISTENER)
    }

    fn tcp_accept(&mut self, listener: SocketId) -> Accept<SocketAddr> {
        assert!(listener == LISTENER && self.listener.is_some(), "nobody listens there");
        if self.is_exhausted && !self.clients.is_empty() {
            self.calls.push_back("accept without descriptors".into());
            return Accept::Exhausted;
        }
        self.clients.pop_front().map_or(Accept::Blocked, |from| Accept::Client { stream: from, from })
    }

    fn tcp_adopt(&mut self, token: Token, stream: SocketAddr) -> Result<SocketId, HostError> {
        self.calls.push_back(format!("adopt {stream}"));
        let socket = self.open(token, Some(stream))?;
        self.sockets[socket.0 as usize].connected = Some(Ok(()));
        self.announce(socket.0 as usize, false, true, false);
        Ok(socket)
    }

    fn tcp_refuse(&mut self, stream: SocketAddr) {
        self.calls.push_back(format!("refuse {stream}"));
    }

    fn tcp_connect(
        &mut self,
        token: Token,
        _: Sender,
        to: SocketAddr,
        hop_limit: u8,
    ) -> Result<SocketId, HostError> {
        assert!(hop_limit > 0);
        self.calls.push_back(format!("connect {to} ttl {hop_limit}"));
        self.open(token, Some(to))
    }

    fn socket_connect(&mut self, token: Token, port: u16) -> Result<SocketId, HostError> {
        self.calls.push_back(format!("connect socket {port}"));
        self.open(token, None)
    }

    fn tcp_error(&mut self, socket: SocketId) -> Option<HostError> {
        self.socket(socket).error.take()
    }

    fn tcp_established(&mut self, socket: SocketId) {
        let socket = self.socket(socket);
        assert_eq!(socket.connected, Some(Ok(())), "the relay takes a connect for finished that goes on");
    }

    fn tcp_segment_size(&mut self, _: SocketId) -> Option<u16> {
        self.segment_size
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> Io<usize> {
        assert!(!data.is_empty());
        let socket = self.socket(socket);
        assert!(!socket.finished, "data after the end of the stream");
        if socket.broken {
            return Io::Broken;
        }
        let taken = data.len().min(socket.room);
        if taken == 0 {
            return Io::Blocked;
        }
        socket.room -= if socket.room == usize::MAX { 0 } else { taken };
        socket.outbox.extend_from_slice(&data[..taken]);
        Io::Done(taken)
    }

    fn tcp_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> StreamRead {
        assert!(!buffer.is_empty());
        let socket = self.socket(socket);
        let Some(mut bytes) = socket.inbox.pop_front() else {
            return match (socket.broken, socket.ended) {
                // The end of the stream came before the reset.
                (_, true) => StreamRead::End,
                (true, false) => StreamRead::Broken,
                (false, false) => StreamRead::Blocked,
            };
        };
        let taken = bytes.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&bytes[..taken]);
        let rest = bytes.split_off(taken);
        let token = socket.token;
        if !rest.is_empty() {
            socket.inbox.push_front(rest);
        }
        if !socket.inbox.is_empty() || socket.ended {
            self.events.push(HostEvent { token, readable: true, writable: false, error: false });
        }
        StreamRead::Data(taken)
    }

    fn tcp_finish(&mut self, socket: SocketId) {
        self.calls.push_back("finish".into());
        let socket = self.socket(socket);
        assert!(!socket.finished, "the stream ends twice");
        socket.finished = true;
    }

    fn tcp_reset(&mut self, socket: SocketId) {
        self.calls.push_back("reset".into());
        self.socket(socket).closed = true;
    }

    fn udp_open(&mut self, token: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        self.open(token, None)
    }

    fn udp_listen(&mut self, token: Token, (): ()) -> Result<SocketId, HostError> {
        self.open(token, None)
    }

    fn echo_open(&mut self, token: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        self.open(token, None)
    }

    fn send_to(&mut self, socket: SocketId, outgoing: Outgoing, data: &[u8]) -> Result<Io<()>, HostError> {
        let Outgoing { to, from, hop_limit, dont_fragment } = outgoing;
        let df = if dont_fragment { " df" } else { "" };
        let from = from.map_or_else(String::new, |from| format!(" from {from}"));
        self.calls.push_back(format!("send-to {to}{from} ttl {hop_limit}{df} {}", data.len()));
        match self.socket(socket).refusals.pop_front() {
            Some(error) => Err(error),
            None => Ok(Io::Done(())),
        }
    }

    fn recv_from(&mut self, socket: SocketId, buffer: &mut [u8]) -> Io<Datagram> {
        let Some((datagram, bytes)) = self.socket(socket).datagrams.pop_front() else {
            return Io::Blocked;
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Io::Done(Datagram { len, ..datagram })
    }

    fn icmp_report(&mut self, socket: SocketId) -> Option<IcmpReport> {
        self.socket(socket).reports.pop_front()
    }

    fn ends(&self, SocketId(number): SocketId) -> Ends {
        let local = Some(([192, 0, 2, 1], 10_000 + number as u16).into());
        Ends { local, peer: self.sockets[number as usize].remote }
    }

    fn close(&mut self, socket: SocketId) {
        if socket == LISTENER {
            self.calls.push_back("stop listening".into());
            self.listener = None;
            self.clients.clear();
            return;
        }
        self.calls.push_back("close".into());
        self.socket(socket).closed = true;
    }
}
