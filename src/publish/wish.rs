// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wish for published ports as text:
//! `[IP:|INTERFACE:]HOSTPORT[-END]:[NAME:]PORT[-END][/tcp|/udp|/tcp+proxy]`, `unix:PATH:[NAME:]PORT[/tcp|/tcp+proxy]`, or
//! `[IP:|INTERFACE:]auto[:NAME][/tcp|/udp|/tcp+proxy]` for the ports that the container listens on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use wharf_stack::host::Transport;

use super::end::UNIX;
use super::{Place, Request, auto};
use crate::unix;
use crate::values;

const EXAMPLES: &str = "write it as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80, eth0:8080:80, 8000-8009:9000-9009, 5353:53/udp, \
     8080:80/tcp+proxy, unix:/run/web.sock:80 or auto";
/// What stands for the ports that the container listens on.
const AUTO: &str = "auto";
/// How long an interface's name may be, in bytes: `IFNAMSIZ` less its end.
const MAX_INTERFACE: usize = 15;

/// A wish for published ports, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortWish {
    /// The text.
    pub text: String,
    /// The container that it is about.
    pub container: Option<String>,
    /// What is to be published.
    pub wished: Wished,
}

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wished {
    /// These ports.
    Ports(Request),
    /// Whatever the container listens on.
    Listening(auto::Wish),
}

impl PortWish {
    /// Reads a wish.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (container, wished) = parse(text)?;
        Ok(Self { text: text.to_owned(), container, wished })
    }

    /// The ports, if it names any.
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        match &self.wished {
            Wished::Ports(request) => Some(request),
            Wished::Listening(_) => None,
        }
    }

    /// What it is published by that the container listens on, if it is.
    #[must_use]
    pub fn watched(&self) -> Option<Transport> {
        match &self.wished {
            Wished::Ports(_) => None,
            Wished::Listening(wish) => Some(wish.transport),
        }
    }
}

impl fmt::Display for PortWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A wish of somebody who is here: a path may begin in the current directory.
pub(crate) fn typed(text: &str) -> Result<PortWish, String> {
    match text.strip_prefix(UNIX) {
        Some(rest) => PortWish::parse(&format!("{UNIX}{}", unix::absolute(rest)?)),
        None => PortWish::parse(text),
    }
}

/// The same of somebody who has one sandbox and no name for it.
pub(crate) fn own_port(text: &str) -> Result<PortWish, String> {
    let wish = typed(text)?;
    match &wish.container {
        None => Ok(wish),
        Some(name) => Err(format!("`{name}` is no port, and there is but one sandbox; {EXAMPLES}")),
    }
}

/// A wish, with the name of the container that it is about.
fn parse(text: &str) -> Result<(Option<String>, Wished), String> {
    if let Some(rest) = text.strip_prefix(UNIX) {
        return parse_socket(rest);
    }
    let (ends, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (transport, tells_clients) = self::protocol(protocol)?;
    if let Some((place, name)) = automatic(ends) {
        let (place, name) = (self::place(place)?, name.map(values::container).transpose()?);
        return Ok((name, Wished::Listening(auto::Wish { place, transport, tells_clients })));
    }
    let (rest, ports) = ends.rsplit_once(':').ok_or(EXAMPLES)?;
    let (rest, name) = split_name(rest)?;
    let (place, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((place, host)) => (Some(place), host),
    };
    let place = self::place(place)?;
    let (host, ports) = (range(host)?, inner_range(ports)?);
    // Port 0 stands for any free port, as many as are wanted.
    if host != (0..=0) {
        if *host.start() == 0 {
            return Err("port 0 stands for any free port and has no range".to_owned());
        }
        let (wanted, given) = (ports.len(), host.len());
        if wanted != given {
            return Err(format!("{given} ports of the host cannot lead to {wanted} of the sandbox"));
        }
    }
    let request = Request { place, first: *host.start(), ports, transport, tells_clients };
    Ok((name, Wished::Ports(request)))
}

/// Of a wish for what a container listens on, where on the host that is to be, and the container's name.
fn automatic(ends: &str) -> Option<(Option<&str>, Option<&str>)> {
    let named = || {
        let (rest, name) = ends.rsplit_once(':').filter(|(_, name)| is_name(name))?;
        Some((before_auto(rest)?, Some(name)))
    };
    before_auto(ends).map(|place| (place, None)).or_else(named)
}

fn before_auto(text: &str) -> Option<Option<&str>> {
    match text.strip_suffix(AUTO)? {
        "" => Some(None),
        place => place.strip_suffix(':').map(Some),
    }
}

/// Where on the host.
fn place(text: Option<&str>) -> Result<Place, String> {
    match text {
        None => Ok(Place::Everywhere),
        Some(interface) if is_interface(interface) => Ok(Place::Interface(interface.to_owned())),
        Some(address) => self::address(address).map(Place::Address),
    }
}

/// A wish for a unix socket, behind what says that it is one.
fn parse_socket(text: &str) -> Result<(Option<String>, Wished), String> {
    let (rest, ends) = text.rsplit_once(':').ok_or(EXAMPLES)?;
    let (port, protocol) = ends.split_once('/').unwrap_or((ends, "tcp"));
    let (transport, tells_clients) = self::protocol(protocol)?;
    let (path, name) = split_name(rest)?;
    let ports = inner_range(port)?;
    if transport == Transport::Udp || ports.len() != 1 {
        return Err("a unix socket leads to one port, of TCP".to_owned());
    }
    let place = Place::Socket(unix::path(path)?);
    Ok((name, Wished::Ports(Request { place, first: 0, ports, transport, tells_clients })))
}

/// What stands before a container's name, and the name.
fn split_name(text: &str) -> Result<(&str, Option<String>), String> {
    match text.rsplit_once(':') {
        Some((rest, name)) if is_name(name) => Ok((rest, Some(values::container(name)?))),
        _ => Ok((text, None)),
    }
}

/// Ports of the sandbox.
fn inner_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ports = range(text)?;
    if *ports.start() == 0 {
        return Err("nobody in the sandbox can listen on port 0".to_owned());
    }
    Ok(ports)
}

/// What is spoken, and whether servers are told of their clients by the PROXY protocol.
fn protocol(text: &str) -> Result<(Transport, bool), String> {
    match text {
        "tcp" => Ok((Transport::Tcp, false)),
        "udp" => Ok((Transport::Udp, false)),
        "tcp+proxy" => Ok((Transport::Tcp, true)),
        other => Err(format!(
            "`{other}` is no protocol that can be published; write tcp, which it is without, udp, or tcp+proxy, with which \
             the server is told who its clients are (PROXY protocol, version 2)"
        )),
    }
}

/// Whether it can be an interface's name, and no IPv4 address.
fn is_interface(text: &str) -> bool {
    text.len() <= MAX_INTERFACE
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte))
}

/// Whether it can be neither ports nor the end of an address.
fn is_name(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed = match bare {
        Some(bare) => bare.parse().ok().filter(IpAddr::is_ipv6),
        None => text.parse().ok().filter(IpAddr::is_ipv4),
    };
    let address = parsed.ok_or_else(|| {
        format!("`{text}` is not an address, or an IPv6 address without brackets; {EXAMPLES}")
    })?;
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(format!("`{text}` is the address of a group, from which nobody can answer"));
    }
    Ok(address)
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is not a port; {EXAMPLES}"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("the range {text} is empty; did you mean {last}-{first}?"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn own_port(text: &str) -> Result<Request, String> {
        super::own_port(text).map(|wish| wish.request().unwrap().clone())
    }

    fn parse(text: &str) -> Result<(Option<String>, Request), String> {
        let (name, wished) = super::parse(text)?;
        let Wished::Ports(request) = wished else { panic!("{text}: {wished:?}") };
        Ok((name, request))
    }

    fn listening(text: &str) -> (Option<String>, auto::Wish) {
        let (name, wished) = super::parse(text).unwrap();
        let Wished::Listening(wish) = wished else { panic!("{text}: {wished:?}") };
        (name, wish)
    }

    #[test]
    fn addresses_ranges_and_the_protocol_may_be_left_out() {
        let any = own_port("8080:80").unwrap();
        assert_eq!((&any.place, any.first, &any.ports), (&Place::Everywhere, 8080, &(80..=80)));
        assert_eq!((any.transport, any.tells_clients), (Transport::Tcp, false));
        assert_eq!(own_port("8080:80/tcp").unwrap(), any);
        let udp = Request { transport: Transport::Udp, ..any.clone() };
        assert_eq!(own_port("8080:80/udp").unwrap(), udp);
        let proxy = Request { tells_clients: true, ..any.clone() };
        assert_eq!(own_port("8080:80/tcp+proxy").unwrap(), proxy);
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let text = std::net::SocketAddr::new(address, 8080).to_string();
            assert_eq!(
                own_port(&format!("{text}:80")).unwrap(),
                Request { place: Place::Address(address), ..any.clone() }
            );
        }
        let range = own_port("8000-8009:9000-9009").unwrap();
        assert_eq!((range.first, range.ports), (8000, 9000..=9009));
    }

    #[test]
    fn any_free_port_does_for_one_and_for_many() {
        assert_eq!(own_port("0:80").unwrap().first, 0);
        assert_eq!(own_port("127.0.0.1:0:80-89").unwrap().ports, 80..=89);
    }

    #[test]
    fn a_container_may_be_named_wherever_an_address_stands() {
        for (text, name, address, first) in [
            ("8080:web:80", "web", None, 8080),
            ("127.0.0.1:8080:db-1:80", "db-1", Some("127.0.0.1"), 8080),
            ("[::1]:0:a_b:80/udp", "a_b", Some("::1"), 0),
        ] {
            let (named, request) = parse(text).unwrap();
            assert_eq!((named.as_deref(), request.first), (Some(name), first), "{text}");
            let address = address.map(|address| Place::Address(address.parse().unwrap()));
            assert_eq!(request.place, address.unwrap_or(Place::Everywhere));
        }
        assert!(own_port("8080:web:80").unwrap_err().contains("but one sandbox"));
        assert!(parse("8080:-web:80").is_err());
    }

    #[test]
    fn an_interface_may_stand_in_the_place_of_an_address() {
        for (text, name, interface) in [
            ("eth0:8080:80", None, "eth0"),
            ("br-lan.7:8080:web:80/tcp+proxy", Some("web"), "br-lan.7"),
            ("eth0:0:web:53/udp", Some("web"), "eth0"),
        ] {
            let (named, request) = parse(text).unwrap();
            let place = Place::Interface(interface.to_owned());
            assert_eq!((named.as_deref(), request.place), (name, place), "{text}");
        }
    }

    #[test]
    fn a_unix_socket_may_stand_in_the_place_of_a_port() {
        for (text, path, name, port, tells_clients) in [
            ("unix:/run/web.sock:80", "/run/web.sock", None, 80, false),
            ("unix:/run/a:b/c:web:80/tcp+proxy", "/run/a:b/c", Some("web"), 80, true),
            ("unix:/tmp/8080:80/tcp", "/tmp/8080", None, 80, false),
        ] {
            let (named, request) = parse(text).unwrap();
            assert_eq!((named.as_deref(), request.place.path()), (name, Some(Path::new(path))), "{text}");
            assert_eq!((request.ports, request.tells_clients), (port..=port, tells_clients), "{text}");
        }
    }

    #[test]
    fn a_path_that_is_typed_may_begin_here() {
        let here = std::env::current_dir().unwrap();
        let wish = typed("unix:web.sock:web:80").unwrap();
        assert_eq!(wish.request().unwrap().place.path(), Some(here.join("web.sock").as_path()));
        assert_eq!(PortWish::parse(&wish.text).unwrap(), wish);
        assert!(PortWish::parse("unix:web.sock:80").unwrap_err().contains("from the root directory"));
    }

    #[test]
    fn a_path_has_room_in_a_sockets_address() {
        let path = |len: usize| format!("unix:/{}:80", "a".repeat(len - 1));
        assert!(own_port(&path(107)).is_ok());
        assert!(own_port(&path(108)).unwrap_err().contains("at most 107 bytes"));
    }

    #[test]
    fn what_a_container_listens_on_may_be_wished_for_at_any_place() {
        for (text, place, name) in [
            ("auto", Place::Everywhere, None),
            ("127.0.0.1:auto", Place::Address([127, 0, 0, 1].into()), None),
            ("[::1]:auto", Place::Address(std::net::Ipv6Addr::LOCALHOST.into()), None),
            ("eth0:auto", Place::Interface("eth0".to_owned()), None),
            ("auto:web", Place::Everywhere, Some("web")),
            ("127.0.0.1:auto:web", Place::Address([127, 0, 0, 1].into()), Some("web")),
            ("eth0:auto:web", Place::Interface("eth0".to_owned()), Some("web")),
        ] {
            let (named, wish) = listening(text);
            assert_eq!((named.as_deref(), &wish.place), (name, &place), "{text}");
            assert_eq!((wish.transport, wish.tells_clients), (Transport::Tcp, false));
            assert_eq!(
                listening(&format!("{text}/udp")).1,
                auto::Wish { transport: Transport::Udp, ..wish.clone() }
            );
            assert!(listening(&format!("{text}/tcp+proxy")).1.tells_clients);
        }
        // A container may be called so, and is not meant where ports are.
        assert_eq!(parse("8080:auto:80").unwrap().0.as_deref(), Some("auto"));
        assert!(super::own_port("auto:web").unwrap_err().contains("but one sandbox"));
    }

    #[test]
    fn wrong_wishes_are_answered_with_what_would_be_right() {
        for (wrong, hint) in [
            ("80", "8080:80"),
            ("", "8080:80"),
            ("8080:", "not a port"),
            (":80", "not a port"),
            ("8080:65536", "not a port"),
            ("8080:http", "not a port"),
            ("::1:8080:80", "[::1]:8080:80"),
            ("[127.0.0.1]:8080:80", "127.0.0.1:8080:80"),
            ("an-interface-too-long:8080:80", "not an address"),
            ("eth0 :8080:80", "not an address"),
            ("192.0.2.256:8080:80", "not an address"),
            ("8080:80/udp+proxy", "tcp+proxy"),
            ("224.0.0.251:5353:5353/udp", "of a group"),
            ("[ff02::fb]:5353:5353/udp", "of a group"),
            ("255.255.255.255:5353:53/udp", "of a group"),
            ("8080:80/sctp", "no protocol"),
            ("8080:80/tcp/tcp", "no protocol"),
            ("8080:0", "port 0"),
            ("0-9:80-89", "has no range"),
            ("8000-8009:80", "10 ports of the host cannot lead to 1"),
            ("8009-8000:80-89", "did you mean 8000-8009"),
            ("5353:53/UDP", "tcp"),
            ("unix:/run/web.sock", "unix:/run/web.sock:80"),
            ("unix:/run/web.sock:80-81", "one port"),
            ("unix:/run/web.sock:53/udp", "one port, of TCP"),
            ("unix:/run/web.sock:0", "port 0"),
            ("unix:/run/web.sock:http", "not a port"),
            ("unix:/run/:80", "no path"),
            ("unix:/run/a\nb:80", "characters"),
            ("8080:auto", "not an address"),
            ("auto:80", "not a port"),
            ("auto-81", "8080:80"),
            ("auto/sctp", "no protocol"),
        ] {
            let error = own_port(wrong).unwrap_err();
            assert!(error.contains(hint), "{wrong}: {error}");
        }
    }
}
