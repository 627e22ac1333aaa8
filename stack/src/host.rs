// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's sockets, as the stack sees them.
//!
//! # How it works
//! The stack opens sockets through [`Host`] and names each by a [`Token`]; readiness comes back with that token as
//! a [`HostEvent`]. Readiness is edge-triggered: after an event the stack uses the socket until it says
//! [`Io::Blocked`]. No call blocks. The production implementation is on epoll, the simulator's is a script.

use core::net::{IpAddr, SocketAddr};
use std::io::{IoSlice, IoSliceMut};

/// A socket of the host, as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// Place and generation of an entry in a flow table: a stale id finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// Place in the table.
    pub index: u32,
    /// How many entries had this place before; 28 bits are kept.
    pub generation: u32,
}

/// Which part of the stack a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The TCP relay.
    Tcp,
    /// The UDP relay.
    Udp,
    /// The echo relay.
    Echo,
    /// The DNS forwarder's datagrams.
    Dns,
    /// The DNS forwarder's connections.
    DnsStream,
    /// A published TCP port.
    Listener,
    /// A published UDP port.
    Port,
}

/// Names a socket's owner in readiness events and timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which part of the stack.
    pub owner: Owner,
    /// Which entry of that part's table.
    pub flow: FlowId,
}

const GENERATION_MASK: u32 = (1 << 28) - 1;

impl Token {
    /// The token as one number: index, 4 bits of owner, 28 bits of generation.
    #[must_use]
    pub fn pack(self) -> u64 {
        let owner: u64 = match self.owner {
            Owner::Tcp => 1,
            Owner::Udp => 2,
            Owner::Echo => 3,
            Owner::Dns => 4,
            Owner::Listener => 5,
            Owner::Port => 6,
            Owner::DnsStream => 7,
        };
        u64::from(self.flow.index) << 32 | owner << 28 | u64::from(self.flow.generation & GENERATION_MASK)
    }

    /// The token packed into `number`, if there is one.
    #[must_use]
    pub fn unpack(number: u64) -> Option<Self> {
        let owner = match (number >> 28) & 0xf {
            1 => Owner::Tcp,
            2 => Owner::Udp,
            3 => Owner::Echo,
            4 => Owner::Dns,
            5 => Owner::Listener,
            6 => Owner::Port,
            7 => Owner::DnsStream,
            _ => return None,
        };
        let index = u32::try_from(number >> 32).ok()?;
        let generation = u32::try_from(number & u64::from(GENERATION_MASK)).ok()?;
        Some(Self { owner, flow: FlowId { index, generation } })
    }
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A socket became usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEvent {
    /// Whose socket.
    pub token: Token,
    /// There may be something to receive: data, the end of the stream, or an error.
    pub readable: bool,
    /// The socket may take data again, or a connect has ended.
    pub writable: bool,
    /// An error waits on the socket (of a connect, or in the error queue).
    pub error: bool,
}

/// What came of one socket operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io<T> {
    /// It worked.
    Done(T),
    /// Not now; an event will say when.
    Blocked,
    /// The peer reset the connection, or it broke otherwise.
    Broken,
}

/// What a stream socket had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRead {
    /// So many bytes, more than zero.
    Data(usize),
    /// The peer has sent everything.
    End,
    /// Nothing now; an event will say when.
    Blocked,
    /// The peer reset the connection, or it broke otherwise.
    Broken,
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An ICMP error that the host received for something we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpReport {
    /// Where the offending packet was going.
    pub destination: SocketAddr,
    /// Who sent the error; `None` when the host itself found out.
    pub offender: Option<IpAddr>,
    /// Family of the ICMP message.
    pub family: Family,
    /// ICMP type (RFC 792 or RFC 4443).
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU named by "fragmentation needed" or "packet too big"; otherwise 0.
    pub mtu: u32,
    /// The first bytes of what the offending packet carried: for echo its ICMP header, for UDP its payload.
    pub payload: [u8; 8],
}

impl IcmpReport {
    /// Whether a packet was larger than a link on its path and could not be fragmented.
    #[must_use]
    pub fn is_too_big(&self) -> bool {
        match self.family {
            Family::V4 => (self.kind, self.code) == (3, 4),
            Family::V6 => self.kind == 2,
        }
    }
}

/// Why a connect or an open did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// The peer answered with a reset.
    Refused,
    /// The peer did not answer.
    TimedOut,
    /// No route to the network, or the host's own policy forbids it.
    NetworkUnreachable,
    /// No way to the host itself.
    HostUnreachable,
    /// The host does not have, or has lost, the address that this is to leave from.
    SourceMissing,
    /// Out of descriptors, ports or memory.
    Exhausted,
    /// The host does not let us open such a socket (ping sockets outside `ping_group_range`).
    NotPermitted,
}

/// Who a socket is opened for: containers may leave the host by different addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The gateway itself.
    Gateway,
    /// The container with this address.
    Container(IpAddr),
}

/// How a datagram leaves the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to. For echo the port is 0.
    pub to: SocketAddr,
    /// The host's address that it leaves from; `None` leaves that to the host.
    pub from: Option<IpAddr>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Neither the host nor, in IPv4, a router may cut it into fragments.
    pub dont_fragment: bool,
}

/// A datagram that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Payload bytes.
    pub len: usize,
    /// Who sent it. For echo the port is 0.
    pub from: SocketAddr,
    /// The host's address that it came to, if the socket is a published port's on all of them.
    pub to: Option<IpAddr>,
    /// TTL or hop limit it arrived with.
    pub hop_limit: u8,
}

/// Both ends of a socket, as far as it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The host's end. For echo the identifier stands for the port.
    pub local: Option<SocketAddr>,
    /// The other end of a connection.
    pub peer: Option<SocketAddr>,
}

/// What a listener had to give.
#[derive(Debug)]
pub enum Accept<S> {
    /// A client that is connected.
    Client {
        /// The connection.
        stream: S,
        /// The client's end of it.
        from: SocketAddr,
    },
    /// A client that was gone again before it was accepted; there may be more behind it.
    Gone,
    /// Nobody now; an event will say when.
    Blocked,
    /// Somebody may wait, but the host is out of descriptors or memory. No event will say when it has them again.
    Exhausted,
}

/// The host's sockets.
pub trait Host {
    /// A socket of a published port: it listens already or, of UDP, is bound.
    type Listener;
    /// A connection that came in. It is watched by nobody yet, and may go to another worker's host.
    type Stream: core::fmt::Debug + Send;

    /// Watches a listener; that clients wait comes as a readable event.
    ///
    /// # Errors
    /// [`HostError::Exhausted`].
    fn tcp_listen(&mut self, token: Token, listener: Self::Listener) -> Result<SocketId, HostError>;

    /// Takes the client that has waited longest.
    fn tcp_accept(&mut self, listener: SocketId) -> Accept<Self::Stream>;

    /// Watches a connection that came in; what it is ready for already comes as an event. Its stream may begin with what
    /// the host says of the client, of which no event tells.
    ///
    /// # Errors
    /// [`HostError::Exhausted`]; the connection is reset.
    fn tcp_adopt(&mut self, token: Token, stream: Self::Stream) -> Result<SocketId, HostError>;

    /// Resets a connection that came in.
    fn tcp_refuse(&mut self, stream: Self::Stream);

    /// Starts a connect. Its end comes as a writable event, and [`Host::tcp_error`] tells a failure.
    ///
    /// `hop_limit` is for the connect only, until [`Host::tcp_established`].
    ///
    /// # Errors
    /// What the host said at once.
    fn tcp_connect(
        &mut self,
        token: Token,
        sender: Sender,
        to: SocketAddr,
        hop_limit: u8,
    ) -> Result<SocketId, HostError>;

    /// Starts a connect to the unix socket that a port of the gateway's leads to ([`host_sockets`]). It goes on as after
    /// [`Host::tcp_connect`].
    ///
    /// [`host_sockets`]: crate::Config::host_sockets
    ///
    /// # Errors
    /// What the host said at once; [`HostError::Refused`] where nobody listens.
    fn socket_connect(&mut self, token: Token, port: u16) -> Result<SocketId, HostError> {
        let _ = (token, port);
        Err(HostError::Refused)
    }

    /// Takes the error that waits on a stream socket, if any. An ICMP error that ended a connect is in
    /// [`Host::icmp_report`].
    fn tcp_error(&mut self, socket: SocketId) -> Option<HostError>;

    /// The connect has ended well: the hop limit becomes the host's default, and passing ICMP errors do not end the
    /// connection (RFC 1122 section 4.2.3.9).
    fn tcp_established(&mut self, socket: SocketId);

    /// How many bytes the host puts into one segment of a connection, where it knows.
    fn tcp_segment_size(&mut self, socket: SocketId) -> Option<u16>;

    /// Sends what the socket takes of `data`, more than zero bytes.
    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> Io<usize>;

    /// Sends what the socket takes of `pieces`, one behind the other. None of them is empty.
    fn tcp_send_vectored(&mut self, socket: SocketId, pieces: &[IoSlice<'_>]) -> Io<usize> {
        let mut taken = 0;
        for piece in pieces {
            match self.tcp_send(socket, piece) {
                Io::Done(sent) if sent == piece.len() => taken += sent,
                Io::Done(sent) => return Io::Done(taken + sent),
                end if taken == 0 => return end,
                Io::Blocked | Io::Broken => break,
            }
        }
        Io::Done(taken)
    }

    /// Receives into `buffer`, which is not empty.
    fn tcp_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> StreamRead;

    /// Receives into `buffers`, one behind the other. None of them is empty. Less than there is room for means that nothing
    /// more has come, unless the event told of an error or the end.
    fn tcp_recv_vectored(&mut self, socket: SocketId, buffers: &mut [IoSliceMut<'_>]) -> StreamRead {
        let mut received = 0;
        for buffer in buffers {
            match self.tcp_recv(socket, buffer) {
                StreamRead::Data(len) if len == buffer.len() => received += len,
                StreamRead::Data(len) => return StreamRead::Data(received + len),
                end if received == 0 => return end,
                StreamRead::Blocked | StreamRead::End | StreamRead::Broken => break,
            }
        }
        StreamRead::Data(received)
    }

    /// Sends the end of our stream (`shutdown(SHUT_WR)`).
    fn tcp_finish(&mut self, socket: SocketId);

    /// Closes with a reset to the peer.
    fn tcp_reset(&mut self, socket: SocketId);

    /// Opens a UDP socket, not connected, on a port of the host's choice.
    ///
    /// # Errors
    /// What the host said.
    fn udp_open(&mut self, token: Token, sender: Sender, family: Family) -> Result<SocketId, HostError>;

    /// Opens a UDP socket that speaks with `peer` only, on a port of the host's choice. A host that cannot keep others'
    /// datagrams from it leaves that to its owner.
    ///
    /// # Errors
    /// What the host said.
    fn udp_connect(&mut self, token: Token, sender: Sender, peer: SocketAddr) -> Result<SocketId, HostError> {
        self.udp_open(token, sender, Family::of(peer.ip()))
    }

    /// Watches the UDP socket of a published port.
    ///
    /// # Errors
    /// [`HostError::Exhausted`].
    fn udp_listen(&mut self, token: Token, listener: Self::Listener) -> Result<SocketId, HostError>;

    /// Opens an unprivileged ICMP echo socket (Linux `SOCK_DGRAM`/`IPPROTO_ICMP`). Messages sent and received on it
    /// are whole ICMP messages; the host rewrites the identifier.
    ///
    /// # Errors
    /// [`HostError::NotPermitted`] outside `net.ipv4.ping_group_range`.
    fn echo_open(&mut self, token: Token, sender: Sender, family: Family) -> Result<SocketId, HostError>;

    /// Sends one datagram (UDP payload or echo message).
    ///
    /// An error may be an earlier datagram's; this one has not left either. [`Host::icmp_report`] has them in order, and
    /// the host's own, without an offender, is about this one.
    ///
    /// # Errors
    /// Why the host would not send it.
    fn send_to(&mut self, socket: SocketId, outgoing: Outgoing, data: &[u8]) -> Result<Io<()>, HostError>;

    /// Sends what [`Host::send_to`] has taken but kept back, to send it with others of its kind. Called after every burst of
    /// frames and at the end of a turn. Returns how many datagrams the host did not take.
    fn flush(&mut self) -> u64 {
        0
    }

    /// Receives one datagram.
    fn recv_from(&mut self, socket: SocketId, buffer: &mut [u8]) -> Io<Datagram>;

    /// Takes the oldest ICMP error off the socket's error queue.
    fn icmp_report(&mut self, socket: SocketId) -> Option<IcmpReport>;

    /// Both ends of a socket: for listings, never asked on a packet's way.
    fn ends(&self, socket: SocketId) -> Ends {
        let _ = socket;
        Ends::default()
    }

    /// Closes a socket in the ordinary way.
    fn close(&mut self, socket: SocketId);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_survives_packing() {
        let flows = [Owner::Tcp, Owner::Udp, Owner::Echo, Owner::Listener, Owner::Port];
        for owner in flows.into_iter().chain([Owner::Dns, Owner::DnsStream]) {
            let token = Token { owner, flow: FlowId { index: u32::MAX, generation: GENERATION_MASK } };
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
    }
}
