// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS: what a container asks the gateway, the host's nameservers are asked, or it is answered here.
//!
//! # Path
//! [`service::Service`] is what the gateway talks to. It keeps the [`Forwarder`] and, for queries over TCP, [`tcp_host`].
//!
//! | a name | answered by |
//! |---|---|
//! | of the network's own [`zone`], or of a linked one's | its [`authority`] |
//! | that means the asking host itself | [`special`] |
//! | that was asked before | the [`cache`] |
//! | any other | a nameserver of the [host's](upstream), by [`source_ports`] over UDP, by a [`stream`] over TCP |
//!
//! With NAT64 the nameservers' answers are worked on by [`dns64`].
//!
//! # Sources
//! RFC 1035, RFC 5452, RFC 6147, RFC 6761, RFC 6891, RFC 7766.

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::EthernetAddress;

pub mod answer;
pub mod authority;
pub mod cache;
pub mod dns64;
mod forwarder;
pub mod message;
mod query;
mod reverse;
pub mod service;
mod source_ports;
mod special;
mod stream;
pub mod tcp_host;
pub mod upstream;
pub mod zone;

pub use forwarder::Forwarder;

/// Where DNS servers listen.
pub const PORT: u16 = 53;
/// Queries under way at a time.
pub const MAX_QUERIES: usize = 2048;
/// Queries under way for one container.
pub const MAX_QUERIES_PER_CLIENT: usize = 512;
/// Bytes of a query: a name, and room for EDNS and its padding.
pub const MAX_QUERY_LEN: usize = 4096;
/// Attempts at one query that are under way: the last servers asked may still answer.
pub const MAX_ATTEMPTS: usize = 3;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A datagram.
    Udp {
        /// The container's MAC address.
        mac: EthernetAddress,
        /// Where the query came from and the reply goes to.
        from: SocketAddr,
        /// The address asked, which the reply comes from.
        to: IpAddr,
    },
    /// A connection to the gateway.
    Tcp {
        /// Which.
        connection: u64,
        /// The container's address.
        from: IpAddr,
    },
}

/// Which container, as far as a client tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asker {
    Mac(EthernetAddress),
    Address(IpAddr),
}

impl Client {
    fn asker(&self) -> Asker {
        match *self {
            Self::Udp { mac, .. } => Asker::Mac(mac),
            Self::Tcp { from, .. } => Asker::Address(from),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

#[cfg(test)]
mod script;
