// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: which ports and unix sockets of the host lead into the sandbox, and their sockets.
//!
//! # How it works
//! [`bind`] makes every socket before anything is connected, so that either all ports are published or none. Without an
//! address a port is published on both wildcards, IPv4 and IPv6 each with a socket of its own (`IPV6_V6ONLY`): a client's
//! family is then that of its socket, and so [`Claim::target`] knows where it goes. On one interface it is the same, with
//! sockets that only that interface's clients find (`SO_BINDTODEVICE`). Unix sockets have a file system to live in, which
//! the gateway cannot reach: they are [`Opened`] by whoever can.
//!
//! # Bounds
//! One descriptor per port and family; of TCP a backlog of [`BACKLOG`] clients each, as far as `net.core.somaxconn` goes, of
//! UDP what `net.core.rmem_default` holds.

pub mod auto;
mod end;
pub mod holder;
mod keeper;
mod opened;
pub(crate) mod wish;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, getsockname, listen, socket_with, sockopt,
};

use wharf_stack::PublishedPort;
use wharf_stack::host::{Family, Transport};

pub use self::end::{End, HostAddress, Place};
use self::holder::Holder;
pub use self::keeper::{Leaving, SocketFile, wait_for_all};
pub use self::opened::Opened;
pub use self::wish::{PortWish, Wished};
use crate::host::Listener;
use crate::netns::Addresses;
use crate::sys::socket::{bind_to_interface, report_own_addresses};
use crate::unix;

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
    /// The host's first port; 0 is any that is free, for each port of the sandbox, and where there are no ports.
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

    /// The host's ends that are asked for by number, or by path.
    pub(crate) fn ends(&self) -> impl Iterator<Item = End> + '_ {
        let is_named = |port: &u16| *port != 0 || self.place.path().is_some();
        let numbers = self.pairs().map(|(port, _)| port).filter(is_named);
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

    /// Who has the port, or what shows it; and who can do what this process cannot.
    pub(crate) fn hint(&self) -> Option<String> {
        if self.source.kind() == io::ErrorKind::Unsupported {
            return Some(
                "`wharf publish` makes such a socket, and so does `wharf up` when it starts".to_owned(),
            );
        }
        let shows = || match &self.end.at {
            HostAddress::Inet(at) => {
                let of = if self.transport == Transport::Tcp { 't' } else { 'u' };
                format!("`ss -l{of}np sport = :{}` shows by whom", at.port())
            }
            HostAddress::Unix(path) => format!("`ss -lxp src {}` shows by whom", path.display()),
        };
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
    match &end.at {
        HostAddress::Inet(at) => why_no_port(*at, end.interface.as_ref(), error),
        HostAddress::Unix(_) => why_no_socket(error),
    }
}

fn why_no_socket(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "somebody listens there".to_owned(),
        io::ErrorKind::AlreadyExists => "what is there is no socket, and stays".to_owned(),
        io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the directory, or the socket there, is somebody else's".to_owned()
        }
        _ => error.to_string(),
    }
}

fn why_no_port(at: SocketAddr, interface: Option<&String>, error: &io::Error) -> String {
    let port = at.port();
    match (Errno::from_io_error(error), interface) {
        (Some(Errno::ADDRINUSE), _) => "the port is in use".to_owned(),
        (Some(Errno::NODEV), Some(interface)) => {
            format!("the host has no interface {interface}, nor is that an address")
        }
        (Some(Errno::PERM), Some(_)) => "interfaces are for root before Linux 5.7".to_owned(),
        (Some(Errno::ACCESS | Errno::PERM), _) => format!(
            "ports below net.ipv4.ip_unprivileged_port_start are for root; publish a higher one, or let everybody use it: \
             sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        (Some(Errno::ADDRNOTAVAIL), _) => format!("the host has no address {}", at.ip()),
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
    /// A unix socket's name.
    file: Option<SocketFile>,
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

/// A socket, and where its clients go.
#[derive(Debug)]
pub struct Publication {
    /// The socket.
    pub listener: Listener,
    /// What it is to be.
    pub port: PublishedPort,
    /// The name of its unix socket.
    pub file: Option<SocketFile>,
}

impl Bound {
    /// Takes an end of the host. For a unix socket the process must have one thread, and be free to make files.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn new(transport: Transport, end: impl Into<End>) -> Result<Self, Error> {
        let End { at, interface } = end.into();
        let bound = match &at {
            HostAddress::Inet(at) => Self::at_port(transport, *at, interface.clone()),
            HostAddress::Unix(path) => {
                unix::listen_anew(path, SocketType::STREAM, BACKLOG).and_then(|socket| {
                    let file = SocketFile::keep(path, &socket)?;
                    Ok(Self::at_path(socket, path.clone(), file))
                })
            }
        };
        bound.map_err(|source| Error { transport, end: End { at, interface }, source, holder: None })
    }

    fn at_port(transport: Transport, at: SocketAddr, interface: Option<String>) -> io::Result<Self> {
        let socket = open(transport, at, interface.as_deref())?;
        // Port 0 has become another one.
        let at = SocketAddr::try_from(getsockname(&socket)?)?.into();
        Ok(Self { socket, transport, end: End { at, interface }, file: None })
    }

    /// A unix socket that listens.
    fn at_path(socket: OwnedFd, path: PathBuf, file: SocketFile) -> Self {
        Self { socket, transport: Transport::Tcp, end: path.into(), file: Some(file) }
    }

    /// Makes it lead to a container's port.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        let address = self.end.at.inet().map(|at| at.ip());
        let family = address.map(Family::of);
        let port = PublishedPort {
            transport: self.transport,
            // Who comes by a unix socket counts as the host's loopback.
            outside: family.unwrap_or(Family::V4),
            target,
            is_local: address.is_none_or(|address| address.is_loopback()) || self.end.interface.is_some(),
        };
        let is_wildcard = address.is_some_and(|address| address.is_unspecified());
        let listener = Listener { fd: self.socket, family, is_wildcard, tells_clients: false };
        Publication { listener, port, file: self.file }
    }
}

impl Claim {
    /// Takes this very end for a port of a container, a unix socket from those that are `opened`.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn exactly(
        transport: Transport,
        end: End,
        port: u16,
        tells_clients: bool,
        opened: &mut Opened,
    ) -> Result<Self, Error> {
        let bound = claim(transport, end, opened)?;
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

    /// The container's end.
    #[must_use]
    pub fn target(&self, container: Addresses) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.bound.end.led_to(container)?, self.port))
    }

    /// Makes it lead to a container's end.
    #[must_use]
    pub fn leading_to(self, target: SocketAddr) -> Publication {
        let publication = self.bound.leading_to(target);
        let listener = Listener { tells_clients: self.tells_clients, ..publication.listener };
        Publication { listener, ..publication }
    }

    /// Says where the port leads; aloud when nobody asked for it by number.
    pub fn announce(&self, container: Addresses) {
        let Some(target) = self.target(container) else { return };
        let (at, suffix) = (&self.bound.end, suffix(self.bound.transport));
        let what = if at.at.inet().is_some() { "port" } else { "socket" };
        if self.chosen {
            tracing::warn!(target: NOTICE, "{what} {at}{suffix} of the host leads to {target}");
        } else {
            tracing::info!("{what} {at}{suffix} of the host leads to {target}");
        }
    }
}

/// Takes every port of the wishes, and unix sockets from those that are `opened`.
///
/// # Errors
/// The first that is not to be had; then none is taken.
pub fn bind(requests: &[Request], opened: &mut Opened) -> Result<Vec<Claim>, Error> {
    let mut claims = Vec::new();
    for request in requests {
        for (host_port, port) in request.pairs() {
            let bound = take(request.transport, &request.place, host_port, opened)?;
            let chosen = host_port == 0 && request.place.path().is_none();
            let tells_clients = request.tells_clients;
            claims.extend(bound.into_iter().map(|bound| Claim { bound, port, tells_clients, chosen }));
        }
    }
    Ok(claims)
}

/// A port of a place, under one number in both families.
fn take(transport: Transport, place: &Place, port: u16, opened: &mut Opened) -> Result<Vec<Bound>, Error> {
    let mut tries = 0;
    loop {
        let first = claim(transport, place.ends(port).0, opened)?;
        let found = first.end.at.inet().map_or(port, |at| at.port());
        let (_, Some(second)) = place.ends(found) else { return Ok(vec![first]) };
        match Bound::new(transport, second) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if has_no_ipv6(&error) => return Ok(vec![first]),
            Err(error) if port != 0 || tries == FREE_PORTS_TRIED => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

/// An end of the host; a unix socket is `opened` already.
fn claim(transport: Transport, end: End, opened: &mut Opened) -> Result<Bound, Error> {
    match end.at.path() {
        Some(path) => opened.take(path),
        None => Bound::new(transport, end),
    }
}

fn has_no_ipv6(error: &Error) -> bool {
    matches!(Errno::from_io_error(&error.source), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn open(transport: Transport, at: SocketAddr, interface: Option<&str>) -> io::Result<OwnedFd> {
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
        report_own_addresses(socket.as_fd(), at.is_ipv6())?;
    }
    if let Some(interface) = interface {
        bind_to_interface(socket.as_fd(), interface)?;
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

    fn bind(requests: &[Request]) -> Result<Vec<Claim>, Error> {
        super::bind(requests, &mut Opened::default())
    }

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
        let at = claim.bound.end.at.inet().unwrap();
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
        let number = |claim: &Claim| claim.bound.end.at.inet().unwrap().port();
        assert_ne!(number(first[0]), number(second[0]));
        for pair in [first, second] {
            let port = number(pair[0]);
            assert!(pair.iter().all(|claim| number(claim) == port && claim.chosen));
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
