// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host whose nameservers are played by the test: what was sent to them is looked at, what they say is put in.

use core::convert::Infallible;
use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};

use crate::host::{
    Accept, Datagram, Family, Host, HostError, HostEvent, IcmpReport, Io, Outgoing, Sender, SocketId,
    StreamRead, Token,
};

/// One socket of the scripted host.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) token: Token,
    pub(super) to: Option<SocketAddr>,
    pub(super) sent: Vec<u8>,
    pub(super) inbound: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) ended: bool,
    reports: VecDeque<IcmpReport>,
}

/// The scripted host.
#[derive(Debug, Default)]
pub(super) struct ScriptedHost {
    pub(super) sockets: BTreeMap<u32, Socket>,
    pub(super) opened: u32,
    /// Every datagram sent: where to, what, on which socket.
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>, u32)>,
    /// Servers that cannot even be sent to.
    pub(super) unreachable: Vec<IpAddr>,
    /// Sockets that may be open, if not any number.
    pub(super) most_sockets: Option<usize>,
    /// Bytes of a stream taken at a time; 0 means all.
    pub(super) bite: usize,
}

impl ScriptedHost {
    /// A datagram from `from` arrives at a socket.
    pub(super) fn arrive(&mut self, socket: u32, from: SocketAddr, bytes: &[u8]) -> HostEvent {
        let socket = self.sockets.get_mut(&socket).expect("the socket is open");
        socket.inbound.push_back((from, bytes.to_vec()));
        HostEvent { token: socket.token, readable: true, writable: false, error: false }
    }

    /// Somebody reports that a datagram did not get there.
    pub(super) fn report(&mut self, socket: u32, destination: SocketAddr) -> HostEvent {
        let socket = self.sockets.get_mut(&socket).expect("the socket is open");
        let family = Family::of(destination.ip());
        let report =
            IcmpReport { destination, offender: None, family, kind: 3, code: 3, mtu: 0, payload: [0; 8] };
        socket.reports.push_back(report);
        HostEvent { token: socket.token, readable: false, writable: false, error: true }
    }

    fn open(&mut self, token: Token, to: Option<SocketAddr>) -> SocketId {
        self.opened += 1;
        let socket = Socket {
            token,
            to,
            sent: Vec::new(),
            inbound: VecDeque::new(),
            ended: false,
            reports: VecDeque::new(),
        };
        self.sockets.insert(self.opened, socket);
        SocketId(self.opened)
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        self.sockets.get_mut(&id.0).expect("the forwarder uses open sockets only")
    }
}

impl Host for ScriptedHost {
    type Listener = Infallible;
    type Stream = Infallible;

    fn tcp_listen(&mut self, _: Token, listener: Infallible) -> Result<SocketId, HostError> {
        match listener {}
    }

    fn udp_listen(&mut self, _: Token, listener: Infallible) -> Result<SocketId, HostError> {
        match listener {}
    }

    fn tcp_accept(&mut self, _: SocketId) -> Accept<Infallible> {
        Accept::Blocked
    }

    fn tcp_adopt(&mut self, _: Token, stream: Infallible) -> Result<SocketId, HostError> {
        match stream {}
    }

    fn tcp_refuse(&mut self, stream: Infallible) {
        match stream {}
    }

    fn tcp_connect(&mut self, token: Token, _: Sender, to: SocketAddr, _: u8) -> Result<SocketId, HostError> {
        if self.unreachable.contains(&to.ip()) {
            return Err(HostError::NetworkUnreachable);
        }
        Ok(self.open(token, Some(to)))
    }

    fn tcp_error(&mut self, _: SocketId) -> Option<HostError> {
        None
    }

    fn tcp_established(&mut self, _: SocketId) {}

    fn tcp_segment_size(&mut self, _: SocketId) -> Option<u16> {
        None
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> Io<usize> {
        let bite = if self.bite == 0 { data.len() } else { self.bite.min(data.len()) };
        self.socket(socket).sent.extend_from_slice(&data[..bite]);
        Io::Done(bite)
    }

    fn tcp_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> StreamRead {
        let socket = self.socket(socket);
        match socket.inbound.pop_front() {
            Some((_, bytes)) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                StreamRead::Data(bytes.len())
            }
            None if socket.ended => StreamRead::End,
            None => StreamRead::Blocked,
        }
    }

    fn tcp_finish(&mut self, _: SocketId) {}

    fn tcp_reset(&mut self, socket: SocketId) {
        self.close(socket);
    }

    fn udp_open(&mut self, token: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Ok(self.open(token, None))
    }

    fn udp_connect(&mut self, token: Token, _: Sender, peer: SocketAddr) -> Result<SocketId, HostError> {
        if self.sockets.len() >= self.most_sockets.unwrap_or(usize::MAX) {
            return Err(HostError::Exhausted);
        }
        Ok(self.open(token, Some(peer)))
    }

    fn echo_open(&mut self, _: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Err(HostError::NotPermitted)
    }

    fn send_to(&mut self, socket: SocketId, outgoing: Outgoing, data: &[u8]) -> Result<Io<()>, HostError> {
        let to = outgoing.to;
        self.socket(socket);
        if self.unreachable.contains(&to.ip()) {
            return Err(HostError::NetworkUnreachable);
        }
        self.datagrams.push((to, data.to_vec(), socket.0));
        Ok(Io::Done(()))
    }

    fn recv_from(&mut self, socket: SocketId, buffer: &mut [u8]) -> Io<Datagram> {
        match self.socket(socket).inbound.pop_front() {
            Some((from, bytes)) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Io::Done(Datagram { len: bytes.len(), from, to: None, hop_limit: 60 })
            }
            None => Io::Blocked,
        }
    }

    fn icmp_report(&mut self, socket: SocketId) -> Option<IcmpReport> {
        self.socket(socket).reports.pop_front()
    }

    fn close(&mut self, socket: SocketId) {
        self.sockets.remove(&socket.0).expect("a socket is closed once");
    }
}
