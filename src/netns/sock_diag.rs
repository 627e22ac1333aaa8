// SPDX-License-Identifier: MIT OR Apache-2.0
//! What listens in a network namespace, as its kernel tells anybody who has a socket of it.
//!
//! # How it works
//! A netlink socket is of the namespace that it was made in, wherever it is held later. So whoever is inside for a moment
//! opens one, and passes it to the gateway, which never is.
//!
//! # Sources
//! `sock_diag(7)`: `inet_diag_req_v2`, `inet_diag_msg`. Multi-byte fields are in the machine's own order, ports and
//! addresses in the network's.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use wharf_stack::host::Transport;

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN`
const LISTEN: u32 = 10;
/// `TCP_CLOSE`, which a UDP socket is in that is connected to nobody.
const UNCONNECTED: u32 = 7;
/// The length of an `inet_diag_msg`, behind which attributes follow.
const ANSWER_LEN: usize = 72;
/// `INET_DIAG_SKV6ONLY`
const IS_IPV6_ONLY: u16 = 11;
/// The kernel fills no more of a buffer.
const BUFFER_LEN: usize = 32 * 1024;

/// A view of the sockets of one network namespace.
#[derive(Debug)]
pub struct SockDiag(OwnedFd);

/// A socket that waits for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// What it is bound to.
    pub at: SocketAddr,
    /// It is of IPv6, and not of IPv4 too.
    pub is_ipv6_only: bool,
}

impl SockDiag {
    /// A view of the calling thread's network namespace.
    ///
    /// # Errors
    /// What `socket(2)` says.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        // Whoever is root inside can send to it, unless it is connected to the kernel.
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The same, if there are any transports whose sockets are to be seen, and they are.
    ///
    /// # Errors
    /// See [`listening`](Self::listening).
    pub fn of(transports: impl IntoIterator<Item = impl Into<Transport>>) -> io::Result<Option<Self>> {
        let mut transports = transports.into_iter().peekable();
        if transports.peek().is_none() {
            return Ok(None);
        }
        let view = Self::open()?;
        transports.try_for_each(|transport| view.listening(transport.into()).map(drop))?;
        Ok(Some(view))
    }

    /// TCP sockets that listen, or UDP sockets that are bound to a port and connected to nobody.
    ///
    /// # Errors
    /// The kernel refuses, as one without the modules `tcp_diag` or `udp_diag` does with `ENOENT`.
    pub fn listening(&self, transport: Transport) -> io::Result<Vec<Listening>> {
        let mut found = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            self.dump(Request { family, transport }, &mut found)?;
        }
        Ok(found)
    }

    fn dump(&self, request: Request, found: &mut Vec<Listening>) -> io::Result<()> {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            // The kernel answers before `send` and `recv` return: nothing is waited for.
            let (len, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            if parse(buffer.get(..len).unwrap_or(&[]), found)? {
                return Ok(());
            }
        }
    }
}

impl AsFd for SockDiag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<SockDiag> for OwnedFd {
    fn from(view: SockDiag) -> Self {
        view.0
    }
}

impl TryFrom<OwnedFd> for SockDiag {
    type Error = io::Error;

    /// A view that somebody else has opened.
    fn try_from(socket: OwnedFd) -> io::Result<Self> {
        let is_one = sockopt::socket_domain(&socket)? == AddressFamily::NETLINK
            && sockopt::socket_protocol(&socket)? == Some(netlink::SOCK_DIAG);
        if is_one { Ok(Self(socket)) } else { Err(io::Error::other("it is no socket of sock_diag")) }
    }
}

/// Takes what one datagram tells. True at the end of it all.
fn parse(mut rest: &[u8], found: &mut Vec<Listening>) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkMessage::<Answer>::deserialize(rest).map_err(io::Error::other)?;
        let len = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(len..).unwrap_or(&[]);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(Answer(socket)) => found.extend(socket),
            _ => {}
        }
    }
    Ok(false)
}

/// An `inet_diag_req_v2` for every socket in the one state that counts.
#[derive(Clone, Copy, Debug)]
struct Request {
    family: AddressFamily,
    transport: Transport,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        // What names a single socket stays zero.
        56
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (protocol, state) = match self.transport {
            Transport::Tcp => (libc::IPPROTO_TCP, LISTEN),
            Transport::Udp => (libc::IPPROTO_UDP, UNCONNECTED),
        };
        let states = (1_u32 << state).to_ne_bytes();
        let numbers = [self.family.as_raw().to_ne_bytes()[0], protocol.to_ne_bytes()[0]];
        let head = numbers.into_iter().chain([0, 0]).chain(states);
        buffer.iter_mut().zip(head.chain(std::iter::repeat(0))).for_each(|(at, byte)| *at = byte);
    }
}

/// A socket that is told of, if it waits for anybody.
struct Answer(Option<Listening>);

impl NetlinkDeserializable for Answer {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(Listening::parse(payload)))
    }
}

impl Listening {
    /// Reads an `inet_diag_msg`: family, state, two more bytes, both ports, both addresses, and on.
    fn parse(message: &[u8]) -> Option<Self> {
        let (head, attributes) = message.split_at_checked(ANSWER_LEN)?;
        let [port, remote_port] =
            [head.get(4..6)?, head.get(6..8)?].map(|port| port.try_into().map_or(0, u16::from_be_bytes));
        let address = head.get(8..24)?.first_chunk::<16>()?;
        let ip = if i32::from(*head.first()?) == libc::AF_INET {
            IpAddr::from(Ipv4Addr::from(*address.first_chunk::<4>()?))
        } else {
            IpAddr::from(Ipv6Addr::from(*address))
        };
        let is_ipv6_only = attribute(attributes, IS_IPV6_ONLY).is_some_and(|value| value.first() == Some(&1));
        (port != 0 && remote_port == 0).then_some(Self { at: SocketAddr::new(ip, port), is_ipv6_only })
    }
}

/// The value of an attribute: each is its length, its kind and its value, at multiples of four bytes.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [len, kind] =
            [rest.get(..2)?, rest.get(2..4)?].map(|field| field.try_into().map_or(0, u16::from_ne_bytes));
        let value = rest.get(4..len.into())?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(usize::from(len).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn find(transport: Transport, at: SocketAddr) -> Option<Listening> {
        let view = SockDiag::try_from(OwnedFd::from(SockDiag::open().unwrap())).unwrap();
        view.listening(transport).unwrap().into_iter().find(|socket| socket.at == at)
    }

    #[test]
    fn sockets_are_found_as_long_as_they_wait_for_anybody() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let at = listener.local_addr().unwrap();
            assert!(find(Transport::Tcp, at).is_some(), "{at}");
            assert_eq!(find(Transport::Udp, at), None);
            drop(listener);
            assert_eq!(find(Transport::Tcp, at), None);
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        assert!(find(Transport::Udp, at).is_some());
        socket.connect("127.0.0.1:9").unwrap();
        assert_eq!(find(Transport::Udp, at), None);
    }

    #[test]
    fn a_listener_on_all_addresses_says_whether_it_is_of_ipv4_too() {
        use rustix::net::{bind, getsockname, listen};
        for is_ipv6_only in [false, true] {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None).unwrap();
            sockopt::set_ipv6_v6only(&socket, is_ipv6_only).unwrap();
            bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
            listen(&socket, 1).unwrap();
            let at = getsockname(&socket).unwrap().try_into().unwrap();
            assert_eq!(find(Transport::Tcp, at), Some(Listening { at, is_ipv6_only }));
        }
    }

    #[test]
    fn another_socket_is_no_view() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(SockDiag::try_from(OwnedFd::from(socket)).is_err());
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let mut message = [0; ANSWER_LEN + 8];
        message[0] = 10;
        message[5] = 80;
        message[ANSWER_LEN..][..5].copy_from_slice(&[5, 0, 11, 0, 1]);
        if cfg!(target_endian = "big") {
            return;
        }
        let whole = Listening::parse(&message).unwrap();
        assert_eq!((whole.at, whole.is_ipv6_only), ("[::]:80".parse().unwrap(), true));
        for len in 0..ANSWER_LEN {
            assert_eq!(Listening::parse(&message[..len]), None);
        }
        for len in ANSWER_LEN..ANSWER_LEN + 5 {
            assert!(!Listening::parse(&message[..len]).unwrap().is_ipv6_only);
        }
        // An attribute without a length of its own would be looked at for ever.
        assert_eq!(attribute(&[0; 8], 11), None);
    }
}
