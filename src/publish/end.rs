// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where on the host clients come to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which of the host's addresses are wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of them, of both families.
    Everywhere,
    /// One.
    Address(IpAddr),
    /// Those that are spoken to through this interface, of both families.
    Interface(String),
}

impl Place {
    /// Its ends with this port: one, or one of IPv4 and one of IPv6.
    pub(super) fn ends(&self, port: u16) -> (End, Option<End>) {
        let interface = match self {
            Self::Address(address) => return (End::from(SocketAddr::new(*address, port)), None),
            Self::Everywhere => None,
            Self::Interface(name) => Some(name.clone()),
        };
        let ipv4 = End { at: (Ipv4Addr::UNSPECIFIED, port).into(), interface };
        let ipv6 = End { at: (Ipv6Addr::UNSPECIFIED, port).into(), ..ipv4.clone() };
        (ipv4, Some(ipv6))
    }
}

/// An end of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address and port.
    pub at: SocketAddr,
    /// The only interface whose clients come there.
    pub interface: Option<String>,
}

impl End {
    /// Whether nobody else has this end while somebody has `other`, which is of the same transport.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.at.ip(), other.at.ip());
        let is_same_interface =
            self.interface.is_none() || other.interface.is_none() || self.interface == other.interface;
        self.at.port() == other.at.port()
            && self.at.is_ipv4() == other.at.is_ipv4()
            && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
            && is_same_interface
    }
}

impl From<SocketAddr> for End {
    fn from(at: SocketAddr) -> Self {
        Self { at, interface: None }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, port) = (self.at.ip(), self.at.port());
        match &self.interface {
            None => write!(f, "{}", self.at),
            Some(interface) if address.is_ipv4() => write!(f, "{address}%{interface}:{port}"),
            Some(interface) => write!(f, "[{address}%{interface}]:{port}"),
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
    }
}
