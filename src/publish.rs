// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: which ports of the host lead into the sandbox, and their sockets.
//!
//! # How it works
//! [`bind`] makes every socket before anything is connected, so that either all ports are published or none. Without an
//! address a port is published on both wildcards, IPv4 and IPv6 each with a socket of its own (`IPV6_V6ONLY`): a client's
//! family is then that of its socket, and so [`Claim::target`] knows where it goes.
//!
//! # Bounds
//! One descriptor per port and family; of TCP a backlog of [`BACKLOG`] clients each, as far as `net.core.somaxconn` goes, of
//! UDP what `net.core.rmem_default` holds.

pub(crate) mod wish;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, getsockname, listen, socket_with, sockopt,
};

use wharf_stack::PublishedPort;
use wharf_stack::host::{Family, Transport};

use crate::host::Listener;
use crate::sys::socket::report_own_addresses;

/// Clients that may wait for the gateway.
pub const BACKLOG: i32 = 4096;
/// How often another free port is tried when the one found for IPv4 is taken in IPv6.
const FREE_PORTS_TRIED: usize = 16;
/// Log events of this target are the answer to a wish, not a warning.
pub const NOTICE: &str = "notice";

/// A wish: ports of the host that lead to ports of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The host's address; `None` is all of them.
    pub address: Option<IpAddr>,
    /// The host's first port; 0 is any that is free, for each port of the sandbox.
    pub first: u16,
    /// The sandbox's ports.
    pub ports: RangeInclusive<u16>,
    /// What is spoken there.
    pub transport: Transport,
}

impl Request {
    /// Each host port with the sandbox's port that it leads to.
    fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let host = |port: u16| if self.first == 0 { 0 } else { self.first + (port - self.ports.start()) };
        self.ports.clone().map(move |port| (host(port), port))
    }
}

/// A port that could not be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish {at}{}: {}", suffix(*.transport), why(*.transport, *.at, .source))]
pub struct Error {
    /// What should be spoken there.
    pub transport: Transport,
    /// The host's end.
    pub at: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// What says that a port is not of TCP.
const fn suffix(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "",
        Transport::Udp => "/udp",
    }
}

fn why(transport: Transport, at: SocketAddr, error: &io::Error) -> String {
    let port = at.port();
    let of = if transport == Transport::Tcp { 't' } else { 'u' };
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => format!("the port is in use; `ss -l{of}np sport = :{port}` shows by whom"),
        Some(Errno::ACCESS | Errno::PERM) => format!(
            "ports below net.ipv4.ip_unprivileged_port_start are for root; publish a higher one, or let everybody use it: \
             sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        Some(Errno::ADDRNOTAVAIL) => format!("the host has no address {}", at.ip()),
        _ => error.to_string(),
    }
}

/// A socket that nobody watches yet.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    transport: Transport,
    /// The host's end.
    at: SocketAddr,
}

/// A port of the host that is bound for one of the sandbox's.
#[derive(Debug)]
pub struct Claim {
    bound: Bound,
    /// The sandbox's port.
    port: u16,
    /// The port of the host is one that nobody asked for by number.
    chosen: bool,
}

/// A container's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Where IPv4 leads to it.
    pub ipv4: Option<Ipv4Addr>,
    /// Where IPv6 leads to it.
    pub ipv6: Option<Ipv6Addr>,
}

/// A socket, and where its clients go.
#[derive(Debug)]
pub struct Publication {
    /// The socket.
    pub listener: Listener,
    /// What it is to be.
    pub port: PublishedPort,
}

impl Bound {
    /// Takes an end of the host.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn new(transport: Transport, at: SocketAddr) -> Result<Self, Error> {
        let open = || {
            let socket = open(transport, at)?;
            // Port 0 has become another one.
            let at = SocketAddr::try_from(getsockname(&socket)?)?;
            Ok(Self { socket, transport, at })
        };
        open().map_err(|errno: Errno| Error { transport, at, source: errno.into() })
    }

    /// Makes it lead to a container's port.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        let address = self.at.ip();
        let (family, is_wildcard) = (Family::of(address), address.is_unspecified());
        let port = PublishedPort {
            transport: self.transport,
            outside: family,
            target,
            is_local: address.is_loopback(),
        };
        Publication { listener: Listener { fd: self.socket, family, is_wildcard }, port }
    }
}

impl Claim {
    /// The host's end.
    #[must_use]
    pub fn host(&self) -> SocketAddr {
        self.bound.at
    }

    /// What is spoken there.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.bound.transport
    }

    /// The container's end: in the family of the listener's clients where the container has it, else in the other.
    #[must_use]
    pub fn target(&self, container: Addresses) -> Option<SocketAddr> {
        let (ipv4, ipv6) = (container.ipv4.map(IpAddr::from), container.ipv6.map(IpAddr::from));
        let address = if self.bound.at.is_ipv4() { ipv4.or(ipv6) } else { ipv6.or(ipv4) };
        Some(SocketAddr::new(address?, self.port))
    }

    /// Makes it lead to a container's end.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        self.bound.leading_to(target)
    }

    /// Says where the port leads; aloud when nobody asked for it by number.
    pub fn announce(&self, container: Addresses) {
        let Some(target) = self.target(container) else { return };
        let (at, suffix) = (self.bound.at, suffix(self.bound.transport));
        if self.chosen {
            tracing::warn!(target: NOTICE, "port {at}{suffix} of the host leads to {target}");
        } else {
            tracing::info!("port {at}{suffix} of the host leads to {target}");
        }
    }
}

/// Takes every port of the wishes.
///
/// # Errors
/// The first port that is not to be had; then none is taken.
pub fn bind(requests: &[Request]) -> Result<Vec<Claim>, Error> {
    let mut claims = Vec::new();
    for request in requests {
        for (host_port, port) in request.pairs() {
            let bound = match request.address {
                Some(address) => vec![Bound::new(request.transport, SocketAddr::new(address, host_port))?],
                None => take_wildcards(request.transport, host_port)?,
            };
            let chosen = host_port == 0;
            claims.extend(bound.into_iter().map(|bound| Claim { bound, port, chosen }));
        }
    }
    Ok(claims)
}

/// Both wildcards, under one number.
fn take_wildcards(transport: Transport, port: u16) -> Result<Vec<Bound>, Error> {
    let mut tries = 0;
    loop {
        let ipv4 = Bound::new(transport, (Ipv4Addr::UNSPECIFIED, port).into())?;
        match Bound::new(transport, (Ipv6Addr::UNSPECIFIED, ipv4.at.port()).into()) {
            Ok(ipv6) => return Ok(vec![ipv4, ipv6]),
            Err(error) if has_no_ipv6(&error) => return Ok(vec![ipv4]),
            Err(error) if port != 0 || tries == FREE_PORTS_TRIED => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn has_no_ipv6(error: &Error) -> bool {
    matches!(Errno::from_io_error(&error.source), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn open(transport: Transport, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if transport == Transport::Tcp {
        // Connections of an earlier run that wait for their end do not keep the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if transport == Transport::Udp && at.ip().is_unspecified() {
        // Before anything can have come: every datagram says to which address.
        report_own_addresses(socket.as_fd(), at.is_ipv6())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    bind_socket(&socket, &at)?;
    if transport == Transport::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::netns::plan::{Families, Plan, Wishes};

    fn request(address: &str, first: u16, ports: RangeInclusive<u16>) -> Request {
        Request { address: Some(address.parse().unwrap()), first, ports, transport: Transport::Tcp }
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_nothing_stays_bound() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let free_port = free.local_addr().unwrap().port();
        drop(free);
        let requests = [request("127.0.0.1", free_port, 80..=80), request("127.0.0.1", port, 80..=80)];
        let error = bind(&requests).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot publish 127.0.0.1:{port}: the port is in use")),
            "{error}"
        );
        assert!(TcpListener::bind(("127.0.0.1", free_port)).is_ok());
    }

    #[test]
    fn a_udp_port_is_nobody_elses_while_it_is_published() {
        let wish = Request { transport: Transport::Udp, ..request("127.0.0.1", 0, 53..=53) };
        let claim = bind(&[wish]).unwrap().remove(0);
        let at = claim.bound.at;
        assert!(UdpSocket::bind(at).is_err());
        // TCP has ports of its own.
        drop(TcpListener::bind(at).unwrap());
        let again = Request { transport: Transport::Udp, ..request("127.0.0.1", at.port(), 53..=53) };
        let error = bind(&[again]).unwrap_err().to_string();
        let port = at.port();
        assert!(error.starts_with(&format!(
            "cannot publish {at}/udp: the port is in use; `ss -lunp sport = :{port}`"
        )));
        drop(claim);
        drop(UdpSocket::bind(at).unwrap());
    }

    #[test]
    fn an_address_of_somebody_else_is_named() {
        let error = bind(&[request("192.0.2.99", 0, 80..=80)]).unwrap_err().to_string();
        assert_eq!(error, "cannot publish 192.0.2.99:0: the host has no address 192.0.2.99");
    }

    #[test]
    fn a_privileged_port_is_refused_with_the_setting_that_frees_it() {
        let error = Error {
            transport: Transport::Tcp,
            at: "0.0.0.0:80".parse().unwrap(),
            source: Errno::ACCESS.into(),
        }
        .to_string();
        assert!(error.contains("net.ipv4.ip_unprivileged_port_start=80"), "{error}");
    }

    #[test]
    fn any_free_port_is_the_same_on_both_wildcards() {
        let wish = Request { address: None, first: 0, ports: 80..=81, transport: Transport::Tcp };
        let claims = bind(&[wish]).unwrap();
        let (first, second): (Vec<_>, Vec<_>) = claims.iter().partition(|claim| claim.port == 80);
        assert_ne!(first[0].bound.at.port(), second[0].bound.at.port());
        for pair in [first, second] {
            assert!(
                pair.iter().all(|claim| claim.bound.at.port() == pair[0].bound.at.port() && claim.chosen)
            );
        }
    }

    #[test]
    fn clients_go_to_their_own_family_where_the_sandbox_has_it() {
        let plan = |families| Plan::new(&Wishes { families, ..Wishes::default() }, &[], [1; 5]).container();
        let claim = |at: &str, port| {
            let bound = Bound::new(Transport::Tcp, "127.0.0.1:0".parse().unwrap()).unwrap();
            Claim { bound: Bound { at: at.parse().unwrap(), ..bound }, port, chosen: false }
        };
        let (four, six) = (claim("192.0.2.1:8080", 80), claim("[::1]:8080", 81));
        let target = |claim: &Claim, families| claim.target(plan(families)).unwrap().to_string();
        assert_eq!(target(&four, Families::Both), "10.0.2.100:80");
        assert_eq!(target(&six, Families::Ipv4), "10.0.2.100:81");
        for (claim, port) in [(&six, 81), (&four, 80)] {
            let there = SocketAddr::new(plan(Families::Ipv6).ipv6.unwrap().into(), port);
            assert_eq!(target(claim, Families::Ipv6), there.to_string());
        }
    }
}
