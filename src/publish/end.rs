// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where on the host clients come to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::netns::Addresses;

/// Stands before the path of a unix socket.
pub(super) const UNIX: &str = "unix:";

/// Which of the host's addresses are wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of them, of both families.
    Everywhere,
    /// One.
    Address(IpAddr),
    /// Those that are spoken to through this interface, of both families.
    Interface(String),
    /// None of them, but a unix stream socket at this path.
    Socket(PathBuf),
}

impl Place {
    /// Its ends with this port: one, or one of IPv4 and one of IPv6.
    pub(super) fn ends(&self, port: u16) -> (End, Option<End>) {
        let interface = match self {
            Self::Address(address) => return (End::from(SocketAddr::new(*address, port)), None),
            Self::Socket(path) => return (End::from(path.clone()), None),
            Self::Everywhere => None,
            Self::Interface(name) => Some(name.clone()),
        };
        let ipv4 = End { at: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into(), interface };
        let ipv6 = End { at: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into(), ..ipv4.clone() };
        (ipv4, Some(ipv6))
    }

    /// The path, if it is a unix socket's.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Socket(path) => Some(path),
            Self::Everywhere | Self::Address(_) | Self::Interface(_) => None,
        }
    }
}

/// What a socket of the host is bound to. As text it is `192.0.2.1:80`, `[2001:db8::1]:80` or `unix:/run/web.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// An address and a port.
    Inet(SocketAddr),
    /// A path, from the root directory.
    Unix(PathBuf),
}

impl HostAddress {
    /// The address and port, if it is one.
    #[must_use]
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(at) => Some(*at),
            Self::Unix(_) => None,
        }
    }

    /// The path, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Inet(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for HostAddress {
    fn from(at: SocketAddr) -> Self {
        Self::Inet(at)
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(at) => write!(f, "{at}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for HostAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(UNIX) {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Inet),
        }
    }
}

impl Serialize for HostAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An end of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub at: HostAddress,
    /// The only interface whose clients come there.
    pub interface: Option<String>,
}

impl End {
    /// Whether nobody else has this end while somebody has `other`, which is of the same transport.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (HostAddress::Inet(ours), HostAddress::Inet(theirs)) = (&self.at, &other.at) else {
            return self.at == other.at;
        };
        let is_same_interface =
            self.interface.is_none() || other.interface.is_none() || self.interface == other.interface;
        ours.port() == theirs.port()
            && ours.is_ipv4() == theirs.is_ipv4()
            && (ours.ip() == theirs.ip() || ours.ip().is_unspecified() || theirs.ip().is_unspecified())
            && is_same_interface
    }

    /// Which of a container's addresses its clients are led to: that of their family where the container has it, else the
    /// other. Those of a unix socket have none, and so IPv4 comes first.
    #[must_use]
    pub fn led_to(&self, container: Addresses) -> Option<IpAddr> {
        let (ipv4, ipv6) = (container.ipv4.map(IpAddr::from), container.ipv6.map(IpAddr::from));
        match self.at {
            HostAddress::Inet(SocketAddr::V6(_)) => ipv6.or(ipv4),
            HostAddress::Inet(SocketAddr::V4(_)) | HostAddress::Unix(_) => ipv4.or(ipv6),
        }
    }
}

impl From<SocketAddr> for End {
    fn from(at: SocketAddr) -> Self {
        Self { at: at.into(), interface: None }
    }
}

impl From<PathBuf> for End {
    fn from(path: PathBuf) -> Self {
        Self { at: HostAddress::Unix(path), interface: None }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at, &self.interface) {
            (HostAddress::Inet(SocketAddr::V4(at)), Some(interface)) => {
                write!(f, "{}%{interface}:{}", at.ip(), at.port())
            }
            (HostAddress::Inet(SocketAddr::V6(at)), Some(interface)) => {
                write!(f, "[{}%{interface}]:{}", at.ip(), at.port())
            }
            (at, _) => write!(f, "{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(at: &str, interface: Option<&str>) -> End {
        End { at: at.parse().unwrap(), interface: interface.map(str::to_owned) }
    }

    #[test]
    fn an_end_is_written_with_its_interface() {
        for (at, interface, text) in [
            ("192.0.2.1:80", None, "192.0.2.1:80"),
            ("0.0.0.0:80", Some("eth0"), "0.0.0.0%eth0:80"),
            ("[::]:80", Some("eth0"), "[::%eth0]:80"),
            ("unix:/run/web.sock", None, "unix:/run/web.sock"),
        ] {
            assert_eq!(end(at, interface).to_string(), text);
        }
    }

    #[test]
    fn ends_meet_where_a_client_could_mean_either() {
        let wildcard = end("0.0.0.0:80", None);
        for (at, interface, meets) in [
            ("0.0.0.0:80", None, true),
            ("192.0.2.1:80", None, true),
            ("0.0.0.0:80", Some("eth0"), true),
            ("0.0.0.0:81", None, false),
            ("[::]:80", None, false),
        ] {
            assert_eq!(wildcard.meets(&end(at, interface)), meets, "{at} {interface:?}");
        }
        assert!(!end("192.0.2.1:80", None).meets(&end("192.0.2.2:80", None)));
        assert!(!end("0.0.0.0:80", Some("eth0")).meets(&end("0.0.0.0:80", Some("eth1"))));
        let socket = end("unix:/run/a", None);
        assert!(
            socket.meets(&socket) && !socket.meets(&end("unix:/run/b", None)) && !socket.meets(&wildcard)
        );
    }
}
