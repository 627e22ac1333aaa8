// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: which ports of the host lead into the sandbox, and their sockets.
//!
//! # How it works
//! [`bind`] makes every socket before anything is connected, so that either all ports are published or none. Without an
//! address a port is published on both wildcards, IPv4 and IPv6 each with a socket of its own (`IPV6_V6ONLY`): a client's
//! family is then that of its socket, and so [`Claim::target`] knows where it goes. On one interface it is the same, with
//! sockets that only that interface's clients find (`SO_BINDTODEVICE`).
//!
//! # Bounds
//! One descriptor per port and family; of TCP a backlog of [`BACKLOG`] clients each, as far as `net.core.somaxconn` goes, of
//! UDP what `net.core.rmem_default` holds.

mod end;
pub mod holder;
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

pub use self::end::{End, Place};
use self::holder::Holder;
use crate::host::Listener;
use crate::sys::socket::{bind_to_interface, report_own_addresses};

/// Clients that may wait for the gateway.
pub const BACKLOG: i32 = 4096;
/// How often another free port is tried when the one found for IPv4 is taken in IPv6.
const FREE_PORTS_TRIED: usize = 16;
/// Log events of this target are the answer to a wish, not a warning.
pub const NOTICE: &str = "notice";

/// A wish: ports of the host that lead to ports of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The host's addresses.
    pub place: Place,
    /// The host's first port; 0 is any that is free, for each port of the sandbox.
    pub first: u16,
    /// The sandbox's ports.
    pub ports: RangeInclusive<u16>,
    /// What is spoken there.
    pub transport: Transport,
    /// Servers are told who their clients are, by the PROXY protocol; of TCP only.
    pub tells_clients: bool,
}

impl Request {
    /// Each host port with the sandbox's port that it leads to.
    fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let host = |port: u16| if self.first == 0 { 0 } else { self.first + (port - self.ports.start()) };
        self.ports.clone().map(move |port| (host(port), port))
    }

    /// The host's ends that are asked for by number.
    pub(crate) fn ends(&self) -> impl Iterator<Item = End> + '_ {
        let numbers = self.pairs().map(|(port, _)| port).filter(|port| *port != 0);
        numbers.flat_map(|port| {
            let (first, second) = self.place.ends(port);
            [first].into_iter().chain(second)
        })
    }
}

/// A port that could not be published.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.problem(), self.hint().map_or_else(String::new, |hint| format!("; {hint}")))]
pub struct Error {
    /// What should be spoken there.
    pub transport: Transport,
    /// The host's end.
    pub end: End,
    /// What the kernel said.
    pub source: io::Error,
    /// Who has the port, if that was looked for and found.
    pub holder: Option<Holder>,
}

impl Error {
    /// With who has the port, where this process may see it.
    #[must_use]
    pub fn naming_holder(self) -> Self {
        let holder = self.is_in_use().then(|| Holder::of(self.transport, &self.end)).flatten();
        Self { holder, ..self }
    }

    /// Whether somebody else has the port.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        Errno::from_io_error(&self.source) == Some(Errno::ADDRINUSE)
    }

    /// What cannot be had, and why.
    pub(crate) fn problem(&self) -> String {
        let Self { transport, end, source, .. } = self;
        format!("cannot publish {end}{}: {}", suffix(*transport), why(end, source))
    }

    /// Who has the port, or what shows it.
    pub(crate) fn hint(&self) -> Option<String> {
        let of = if self.transport == Transport::Tcp { 't' } else { 'u' };
        let shows = || format!("`ss -l{of}np sport = :{}` shows by whom", self.end.at.port());
        self.is_in_use().then(|| self.holder.as_ref().map_or_else(shows, Holder::hint))
    }
}

/// What says that a port is not of TCP.
const fn suffix(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "",
        Transport::Udp => "/udp",
    }
}

fn why(end: &End, error: &io::Error) -> String {
    let port = end.at.port();
    match (Errno::from_io_error(error), &end.interface) {
        (Some(Errno::ADDRINUSE), _) => "the port is in use".to_owned(),
        (Some(Errno::NODEV), Some(interface)) => {
            format!("the host has no interface {interface}, nor is that an address")
        }
        (Some(Errno::PERM), Some(_)) => "interfaces are for root before Linux 5.7".to_owned(),
        (Some(Errno::ACCESS | Errno::PERM), _) => format!(
            "ports below net.ipv4.ip_unprivileged_port_start are for root; publish a higher one, or let everybody use it: \
             sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        (Some(Errno::ADDRNOTAVAIL), _) => format!("the host has no address {}", end.at.ip()),
        _ => error.to_string(),
    }
}

/// A socket that nobody watches yet.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    transport: Transport,
    /// The host's end.
    end: End,
}

/// A port of the host that is bound for one of the sandbox's.
#[derive(Debug)]
pub struct Claim {
    bound: Bound,
    /// The sandbox's port.
    port: u16,
    /// The server is told who its clients are.
    tells_clients: bool,
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
    pub fn new(transport: Transport, end: impl Into<End>) -> Result<Self, Error> {
        let end = end.into();
        let bound = open(transport, &end).and_then(|socket| {
            // Port 0 has become another one.
            let at = SocketAddr::try_from(getsockname(&socket)?)?;
            Ok((socket, at))
        });
        match bound {
            Ok((socket, at)) => Ok(Self { socket, transport, end: End { at, ..end } }),
            Err(errno) => Err(Error { transport, end, source: errno.into(), holder: None }),
        }
    }

    /// Makes it lead to a container's port.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        let address = self.end.at.ip();
        let (family, is_wildcard) = (Family::of(address), address.is_unspecified());
        let port = PublishedPort {
            transport: self.transport,
            outside: family,
            target,
            is_local: address.is_loopback() || self.end.interface.is_some(),
        };
        let listener = Listener { fd: self.socket, family, is_wildcard, tells_clients: false };
        Publication { listener, port }
    }
}

impl Claim {
    /// Takes this very end for a port of a container.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn exactly(transport: Transport, end: End, port: u16, tells_clients: bool) -> Result<Self, Error> {
        let bound = Bound::new(transport, end)?;
        Ok(Self { bound, port, tells_clients, chosen: false })
    }

    /// The host's end.
    #[must_use]
    pub fn host(&self) -> &End {
        &self.bound.end
    }

    /// Whether the server is told who its clients are.
    #[must_use]
    pub fn tells_clients(&self) -> bool {
        self.tells_clients
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
        let address = if self.bound.end.at.is_ipv4() { ipv4.or(ipv6) } else { ipv6.or(ipv4) };
        Some(SocketAddr::new(address?, self.port))
    }

    /// Makes it lead to a container's end.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        let Publication { listener, port } = self.bound.leading_to(target);
        Publication { listener: Listener { tells_clients: self.tells_clients, ..listener }, port }
    }

    /// Says where the port leads; aloud when nobody asked for it by number.
    pub fn announce(&self, container: Addresses) {
        let Some(target) = self.target(container) else { return };
        let (at, suffix) = (&self.bound.end, suffix(self.bound.transport));
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
            let bound = take(request.transport, &request.place, host_port)?;
            let (chosen, tells_clients) = (host_port == 0, request.tells_clients);
            claims.extend(bound.into_iter().map(|bound| Claim { bound, port, tells_clients, chosen }));
        }
    }
    Ok(claims)
}

/// A port of a place, under one number in both families.
fn take(transport: Transport, place: &Place, port: u16) -> Result<Vec<Bound>, Error> {
    let mut tries = 0;
    loop {
        let (first, second) = place.ends(port);
        let first = Bound::new(transport, first)?;
        let Some(mut second) = second else { return Ok(vec![first]) };
        second.at.set_port(first.end.at.port());
        match Bound::new(transport, second) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if has_no_ipv6(&error) => return Ok(vec![first]),
            Err(error) if port != 0 || tries == FREE_PORTS_TRIED => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn has_no_ipv6(error: &Error) -> bool {
    matches!(Errno::from_io_error(&error.source), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn open(transport: Transport, end: &End) -> Result<OwnedFd, Errno> {
    let at = end.at;
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
        report_own_addresses(socket.as_fd(), at.is_ipv6()).map_err(|error| errno(&error))?;
    }
    if let Some(interface) = &end.interface {
        bind_to_interface(socket.as_fd(), interface).map_err(|error| errno(&error))?;
    }
    bind_socket(&socket, &at)?;
    if transport == Transport::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::netns::plan::{Families, Plan, Wishes};

    fn request(address: &str, first: u16, ports: RangeInclusive<u16>) -> Request {
        let place = Place::Address(address.parse().unwrap());
        Request { place, first, ports, transport: Transport::Tcp, tells_clients: false }
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
    fn who_has_a_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(&[request("127.0.0.1", port, 80..=80)]).unwrap_err().naming_holder().to_string();
        let ourselves = format!("(process {}) has it", std::process::id());
        assert!(error.contains("the port is in use; ") && error.ends_with(&ourselves), "{error}");
    }

    #[test]
    fn a_udp_port_is_nobody_elses_while_it_is_published() {
        let wish = Request { transport: Transport::Udp, ..request("127.0.0.1", 0, 53..=53) };
        let claim = bind(&[wish]).unwrap().remove(0);
        let at = claim.bound.end.at;
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
    fn an_interface_that_is_not_there_is_named() {
        let place = Place::Interface("none0".to_owned());
        let error = bind(&[Request { place, ..request("0.0.0.0", 0, 80..=80) }]).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot publish 0.0.0.0%none0:0: the host has no interface none0"),
            "{error}"
        );
    }

    #[test]
    fn of_a_range_all_ports_are_taken_or_none() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let last = taken.local_addr().unwrap().port();
        let range = request("127.0.0.1", last - 1, 80..=81);
        assert!(bind(&[range]).is_err());
        // Unless somebody else has it, in which case there was nothing to be taken.
        drop(TcpListener::bind(("127.0.0.1", last - 1)).unwrap());
    }

    #[test]
    fn a_privileged_port_is_refused_with_the_setting_that_frees_it() {
        let error = Error {
            transport: Transport::Tcp,
            end: "0.0.0.0:80".parse::<SocketAddr>().unwrap().into(),
            source: Errno::ACCESS.into(),
            holder: None,
        }
        .to_string();
        assert!(error.contains("net.ipv4.ip_unprivileged_port_start=80"), "{error}");
    }

    #[test]
    fn any_free_port_is_the_same_on_both_wildcards() {
        let wish = Request { place: Place::Everywhere, ..request("0.0.0.0", 0, 80..=81) };
        let claims = bind(&[wish]).unwrap();
        let (first, second): (Vec<_>, Vec<_>) = claims.iter().partition(|claim| claim.port == 80);
        assert_ne!(first[0].bound.end.at.port(), second[0].bound.end.at.port());
        for pair in [first, second] {
            let port = pair[0].bound.end.at.port();
            assert!(pair.iter().all(|claim| claim.bound.end.at.port() == port && claim.chosen));
        }
    }

    #[test]
    fn clients_go_to_their_own_family_where_the_sandbox_has_it() {
        let plan = |families| Plan::new(&Wishes { families, ..Wishes::default() }, &[], [1; 5]).container();
        let claim = |at: &str, port| {
            let bound = Bound::new(Transport::Tcp, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let end = End::from(at.parse::<SocketAddr>().unwrap());
            Claim { bound: Bound { end, ..bound }, port, tells_clients: false, chosen: false }
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
