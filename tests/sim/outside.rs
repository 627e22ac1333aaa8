// SPDX-License-Identifier: MIT OR Apache-2.0
//! The outside: host sockets whose peers follow a script.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use wharf_stack::host::{
    Accept, Datagram, Ends, Family, FlowId, Host, HostError, HostEvent, IcmpReport, Io, Outgoing, Owner,
    Sender, SocketId, StreamRead, Token,
};
use wharf_switch::{Duration, Instant};

use crate::random::{Random, pattern};

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    Accept,
    Refuse,
    Silence,
    Unreachable,
}

/// What a server does with a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) stream: u64,
    pub(crate) welcome: Welcome,
    pub(crate) connect_delay: Duration,
    /// Bytes the server expects.
    pub(crate) expects: u64,
    /// Bytes the server sends.
    pub(crate) sends: u64,
    /// Sends only once everything it expects, and the end, has come.
    pub(crate) answers_late: bool,
    /// Bytes the server's kernel holds for it.
    pub(crate) receive_buffer: u64,
    /// How often, and how much, the server reads.
    pub(crate) read_every: Duration,
    pub(crate) read_size: u64,
    /// Resets after so many received bytes.
    pub(crate) resets_after: Option<u64>,
    /// Resets so long after the end of its stream.
    pub(crate) resets_at_end: Option<Duration>,
    /// How often, in thousandths, an event says nothing: an ICMP error that ends nothing, an edge for what was seen.
    pub(crate) murmurs: u64,
}

impl Script {
    /// Whether the server may break the connection off.
    pub(crate) fn resets(&self) -> bool {
        self.resets_after.is_some() || self.resets_at_end.is_some()
    }
}

/// One connection, seen from outside.
#[derive(Debug)]
pub(crate) struct Connection {
    token: Token,
    pub(crate) script: Script,
    open_at: Instant,
    opened: bool,
    established: bool,
    announced: bool,
    /// Bytes the relay has sent, and how many of them the server has read.
    pub(crate) received: u64,
    read: u64,
    pub(crate) corrupt: bool,
    pub(crate) finished: bool,
    /// Bytes the relay has read.
    pub(crate) delivered: u64,
    /// Bytes the server has put on its way.
    available: u64,
    next_at: Instant,
    write_blocked: bool,
    reset_by_server: bool,
    end_announced: bool,
    /// When the server resets although it has ended.
    reset_at: Instant,
    error_taken: bool,
    pub(crate) reset_by_relay: bool,
    /// A client that was turned away before it had a flow.
    pub(crate) turned_away: bool,
    /// A client that waited still when its port was withdrawn.
    pub(crate) came_too_late: bool,
    pub(crate) closed: bool,
}

impl Connection {
    fn new(token: Token, script: Script, open_at: Instant) -> Self {
        Self {
            token,
            script,
            open_at,
            opened: false,
            established: false,
            announced: false,
            received: 0,
            read: 0,
            corrupt: false,
            finished: false,
            delivered: 0,
            available: 0,
            next_at: open_at,
            write_blocked: false,
            reset_by_server: false,
            end_announced: false,
            reset_at: Instant::FAR,
            error_taken: false,
            reset_by_relay: false,
            turned_away: false,
            came_too_late: false,
            closed: false,
        }
    }

    /// A client that connected to the published port.
    fn of_client(token: Token, script: Script, now: Instant) -> Self {
        Self { opened: true, announced: true, established: true, ..Self::new(token, script, now) }
    }

    /// The relay gave it up before the container had a part in it.
    pub(crate) fn was_given_up(&self) -> bool {
        self.reset_by_relay && (self.received, self.delivered) == (0, 0)
    }

    fn reads_everything(&self) -> bool {
        self.read >= self.script.expects && self.finished
    }

    fn may_send(&self) -> bool {
        !self.script.answers_late || self.reads_everything()
    }

    fn at_end(&self) -> bool {
        self.available == self.script.sends && self.may_send()
    }
}

/// The simulated host.
#[derive(Debug)]
pub(crate) struct SimHost {
    pub(crate) now: Instant,
    random: Random,
    /// A stream of its own, so that the rest of a seed's run stays what it was.
    moods: Random,
    /// Which script a destination port follows.
    pub(crate) scripts: HashMap<u16, Script>,
    pub(crate) connections: HashMap<u32, Connection>,
    next_socket: u32,
    /// Clients on their way to the published ports.
    pub(crate) callers: Vec<Caller>,
    listeners: HashMap<u32, PublishedPort>,
    events: VecDeque<HostEvent>,
}

/// A client of a published port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) at: Instant,
    pub(crate) from: SocketAddr,
    /// The container's port.
    pub(crate) port: u16,
    pub(crate) script: Script,
    /// When the port is published, and when it is withdrawn.
    pub(crate) published_at: Instant,
    pub(crate) withdrawn_at: Instant,
}

/// A listener with whoever waits at it.
#[derive(Debug)]
struct PublishedPort {
    token: Token,
    port: u16,
    backlog: VecDeque<Caller>,
}

impl SimHost {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            now: Instant::ZERO,
            moods: Random::new(random.clone().next()),
            random,
            scripts: HashMap::new(),
            connections: HashMap::new(),
            next_socket: 0,
            callers: Vec::new(),
            listeners: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Lets the servers act up to `now` and returns what the relay must hear of.
    pub(crate) fn advance(&mut self, now: Instant) -> Vec<HostEvent> {
        self.now = now;
        self.let_callers_in(now);
        let mut ids: Vec<u32> = self.connections.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let connection = self.connections.get_mut(&id).unwrap();
            if connection.closed {
                continue;
            }
            let event =
                |readable, writable, error| HostEvent { token: connection.token, readable, writable, error };
            if !connection.announced && connection.open_at <= now {
                connection.announced = true;
                connection.opened = connection.script.welcome == Welcome::Accept;
                // Whatever came with the connect is told together with it, and once only.
                if connection.opened && connection.may_send() && self.random.chance(500) {
                    connection.available = connection.script.sends.min(self.random.below(3000));
                    connection.end_announced = connection.at_end();
                }
                let readable = connection.available > 0 || connection.end_announced;
                let error = !connection.opened || connection.end_announced;
                self.events.push_back(event(readable, true, error));
            }
            if self.moods.chance(connection.script.murmurs) {
                let opened = connection.opened;
                self.events.push_back(event(opened, opened, true));
            }
            if connection.end_announced && connection.reset_at == Instant::FAR {
                let delay = connection.script.resets_at_end;
                connection.reset_at = delay.map_or(Instant::FAR, |delay| now + delay);
            }
            if connection.reset_at <= now && !connection.reset_by_server {
                connection.reset_by_server = true;
                self.events.push_back(event(true, true, true));
            }
            if !connection.opened || connection.next_at > now || connection.reset_by_server {
                continue;
            }
            connection.next_at = now + connection.script.read_every;
            let readable_was = connection.available;
            let read = (connection.received - connection.read).min(connection.script.read_size);
            connection.read += read;
            if connection.script.resets_after.is_some_and(|limit| connection.read >= limit) {
                connection.reset_by_server = true;
                self.events.push_back(event(true, true, true));
                continue;
            }
            if connection.may_send() {
                let more = 1 + self.random.below(100_000);
                connection.available = (connection.available + more).min(connection.script.sends);
            }
            let ended = connection.at_end() && !connection.end_announced;
            connection.end_announced |= ended;
            let readable = connection.available > readable_was || ended;
            let writable = connection.write_blocked && read > 0;
            if writable {
                connection.write_blocked = false;
            }
            if readable || writable {
                self.events.push_back(event(readable, writable, ended));
            }
        }
        self.events.drain(..).collect()
    }

    /// Clients whose time has come connect, as far as the kernel is concerned.
    pub(crate) fn let_callers_in(&mut self, now: Instant) {
        for caller in self.callers.extract_if(.., |caller| caller.at <= now) {
            let listener = self.listeners.values_mut().find(|listener| listener.port == caller.port).unwrap();
            listener.backlog.push_back(caller);
            let token = listener.token;
            self.events.push_back(HostEvent { token, readable: true, writable: false, error: false });
        }
    }

    /// Clients that no worker has accepted yet.
    pub(crate) fn waiting(&self) -> usize {
        self.callers.len() + self.listeners.values().map(|listener| listener.backlog.len()).sum::<usize>()
    }

    /// When a server acts next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.connections
            .values()
            .filter(|connection| !connection.closed)
            .filter_map(|connection| {
                if !connection.announced {
                    return (connection.open_at < Instant::FAR).then_some(connection.open_at);
                }
                let acts_at = connection.next_at.min(connection.reset_at);
                let waits = connection.received > connection.read
                    || (connection.may_send() && !connection.end_announced)
                    || connection.write_blocked
                    || connection.reset_at < Instant::FAR;
                (connection.opened && waits && !connection.reset_by_server).then_some(acts_at)
            })
            .chain(self.callers.iter().map(|caller| caller.at))
            .min()
    }

    /// No more events that say nothing: to the relay they are signs of life.
    pub(crate) fn fall_silent(&mut self) {
        self.connections.values_mut().for_each(|connection| connection.script.murmurs = 0);
    }

    /// The host's end of a connection names its socket.
    fn end(number: u32) -> SocketAddr {
        let [a, b, high, low] = number.to_be_bytes();
        SocketAddr::from(([192, 0, a, b], u16::from_be_bytes([high, low])))
    }

    /// The connection whose end on the host this is.
    pub(crate) fn connection_at(&self, end: SocketAddr) -> &Connection {
        self.connections.iter().find(|&(&number, _)| Self::end(number) == end).expect("a connection").1
    }

    /// What becomes of connects to a port.
    pub(crate) fn script_of(&self, port: u16) -> Option<&Script> {
        self.scripts.get(&port)
    }

    /// Sockets that the relay holds.
    pub(crate) fn open_sockets(&self) -> usize {
        self.connections.values().filter(|connection| !connection.closed).count()
    }

    /// A client is reset that nobody connected to anything.
    fn turn_away(&mut self, caller: Caller, came_too_late: bool) {
        let token = Token { owner: Owner::Listener, flow: FlowId { index: 0, generation: 0 } };
        let connection = Connection::of_client(token, caller.script, self.now);
        let (reset_by_relay, turned_away, closed) = (true, true, true);
        let refused = Connection { reset_by_relay, turned_away, came_too_late, closed, ..connection };
        self.next_socket += 1;
        self.connections.insert(self.next_socket, refused);
    }

    fn connection(&mut self, socket: SocketId) -> &mut Connection {
        let connection = self.connections.get_mut(&socket.0).expect("a socket that was never opened");
        assert!(!connection.closed, "a socket is used after it was closed");
        connection
    }
}

impl Host for SimHost {
    type Listener = u16;
    type Stream = Caller;

    fn tcp_listen(&mut self, token: Token, port: u16) -> Result<SocketId, HostError> {
        self.next_socket += 1;
        self.listeners.insert(self.next_socket, PublishedPort { token, port, backlog: VecDeque::new() });
        Ok(SocketId(self.next_socket))
    }

    fn tcp_accept(&mut self, listener: SocketId) -> Accept<Caller> {
        let mood = self.moods.below(20);
        let listener = self.listeners.get_mut(&listener.0).expect("a listener that is open");
        match (listener.backlog.front(), mood) {
            (Some(_), 0) => Accept::Exhausted,
            (Some(_), 1) => Accept::Gone,
            _ => match listener.backlog.pop_front() {
                Some(caller) => Accept::Client { stream: caller, from: caller.from },
                None => Accept::Blocked,
            },
        }
    }

    fn tcp_adopt(&mut self, token: Token, caller: Caller) -> Result<SocketId, HostError> {
        let mut connection = Connection::of_client(token, caller.script, self.now);
        // Whatever came before the connection was accepted is told at once.
        if connection.may_send() && self.random.chance(500) {
            connection.available = connection.script.sends.min(self.random.below(3000));
            connection.end_announced = connection.at_end();
        }
        let (ended, has_data) = (connection.end_announced, connection.available > 0);
        self.events.push_back(HostEvent { token, readable: has_data || ended, writable: true, error: ended });
        self.next_socket += 1;
        self.connections.insert(self.next_socket, connection);
        Ok(SocketId(self.next_socket))
    }

    fn tcp_refuse(&mut self, caller: Caller) {
        self.turn_away(caller, false);
    }

    fn tcp_connect(
        &mut self,
        token: Token,
        _: Sender,
        to: SocketAddr,
        hop_limit: u8,
    ) -> Result<SocketId, HostError> {
        assert!(hop_limit > 0);
        let script = self.scripts[&to.port()];
        self.next_socket += 1;
        let open_at = match script.welcome {
            Welcome::Silence => Instant::FAR,
            _ => self.now + script.connect_delay,
        };
        let connection = Connection::new(token, script, open_at);
        self.connections.insert(self.next_socket, connection);
        Ok(SocketId(self.next_socket))
    }

    fn tcp_error(&mut self, socket: SocketId) -> Option<HostError> {
        let connection = self.connection(socket);
        match (connection.announced, connection.script.welcome) {
            (true, Welcome::Refuse) => Some(HostError::Refused),
            (true, Welcome::Unreachable) => Some(HostError::HostUnreachable),
            (true, Welcome::Silence) => Some(HostError::TimedOut),
            (true, Welcome::Accept) if connection.reset_by_server && !connection.error_taken => {
                connection.error_taken = true;
                Some(HostError::Refused)
            }
            (_, _) => None,
        }
    }

    fn tcp_established(&mut self, socket: SocketId) {
        let connection = self.connection(socket);
        assert!(connection.opened && !connection.established, "a connect ends well once");
        connection.established = true;
    }

    fn tcp_segment_size(&mut self, SocketId(number): SocketId) -> Option<u16> {
        (number % 4 != 0).then_some(536 + (number % 1000) as u16)
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> Io<usize> {
        assert!(!data.is_empty());
        let partial = 1 + self.random.below(data.len() as u64);
        let is_partial = self.random.chance(200);
        let connection = self.connection(socket);
        assert!(connection.opened, "data before the host connected");
        assert!(!connection.finished, "data after the end of the stream");
        if connection.reset_by_server {
            return Io::Broken;
        }
        let space = connection.script.receive_buffer - (connection.received - connection.read);
        if space == 0 {
            connection.write_blocked = true;
            return Io::Blocked;
        }
        let mut taken = (data.len() as u64).min(space);
        if is_partial {
            taken = taken.min(partial);
        }
        for (&byte, at) in data[..taken as usize].iter().zip(connection.received..) {
            connection.corrupt |= byte != pattern(connection.script.stream, at);
        }
        connection.received += taken;
        Io::Done(taken as usize)
    }

    fn tcp_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> StreamRead {
        assert!(!buffer.is_empty());
        let partial = 1 + self.random.below(buffer.len() as u64);
        let is_partial = self.random.chance(100);
        let connection = self.connection(socket);
        let waiting = connection.available - connection.delivered;
        if waiting > 0 {
            let mut taken = waiting.min(buffer.len() as u64);
            if is_partial {
                taken = taken.min(partial);
            }
            for (byte, at) in buffer[..taken as usize].iter_mut().zip(connection.delivered..) {
                *byte = pattern(connection.script.stream + 1, at);
            }
            connection.delivered += taken;
            // A real socket that still has data after a short read has said so by an event of its own.
            if taken < waiting {
                let token = connection.token;
                self.events.push_back(HostEvent { token, readable: true, writable: false, error: false });
            }
            return StreamRead::Data(taken as usize);
        }
        if connection.at_end() && connection.end_announced {
            StreamRead::End
        } else if connection.reset_by_server {
            StreamRead::Broken
        } else {
            StreamRead::Blocked
        }
    }

    fn tcp_finish(&mut self, socket: SocketId) {
        let connection = self.connection(socket);
        assert!(!connection.finished, "the stream ends twice");
        connection.finished = true;
        connection.next_at = connection.next_at.max(Instant::ZERO);
    }

    fn tcp_reset(&mut self, socket: SocketId) {
        let connection = self.connection(socket);
        connection.reset_by_relay = true;
        connection.closed = true;
    }

    fn udp_open(&mut self, _: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Err(HostError::Exhausted)
    }

    fn udp_listen(&mut self, _: Token, _: u16) -> Result<SocketId, HostError> {
        Err(HostError::Exhausted)
    }

    fn echo_open(&mut self, _: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Err(HostError::NotPermitted)
    }

    fn send_to(&mut self, _: SocketId, _: Outgoing, _: &[u8]) -> Result<Io<()>, HostError> {
        Ok(Io::Blocked)
    }

    fn recv_from(&mut self, _: SocketId, _: &mut [u8]) -> Io<Datagram> {
        Io::Blocked
    }

    fn icmp_report(&mut self, _: SocketId) -> Option<IcmpReport> {
        None
    }

    fn ends(&self, SocketId(number): SocketId) -> Ends {
        Ends { local: Some(Self::end(number)), peer: None }
    }

    fn close(&mut self, socket: SocketId) {
        if let Some(listener) = self.listeners.remove(&socket.0) {
            return listener.backlog.into_iter().for_each(|caller| self.turn_away(caller, true));
        }
        self.connection(socket).closed = true;
    }
}
