// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what way traffic leaves the host: the addresses and the interface of a network, or of one of its containers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::SocketType;
use wharf_stack::host::{Family, HostError, Sender};

use super::{Sockets, host_error, io_errno};
use crate::sys::socket;

/// The host's addresses that sockets are bound to, for each family; without one the host chooses. What goes to the host's
/// loopback comes from there in any case: some who listen there look who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// For what goes to IPv4 addresses.
    pub ipv4: Option<Ipv4Addr>,
    /// For what goes to IPv6 addresses.
    pub ipv6: Option<Ipv6Addr>,
}

impl Sources {
    /// What a socket for traffic to `to` is bound to.
    pub(super) fn toward(self, to: SocketAddr) -> Option<SocketAddr> {
        if to.ip().is_loopback() {
            return None;
        }
        match to {
            SocketAddr::V4(_) => self.ipv4.map(|address| (address, 0).into()),
            SocketAddr::V6(_) => self.ipv6.map(|address| (address, 0).into()),
        }
    }
}

/// Binds a socket to the address that its traffic leaves from.
pub(super) fn bind_source(fd: &OwnedFd, source: SocketAddr) -> Result<(), HostError> {
    rustix::net::bind(fd, &source).map_err(|errno| match errno {
        // Of a connect the same error says that all ports are taken.
        Errno::ADDRNOTAVAIL => HostError::SourceMissing,
        other => host_error(other),
    })
}

/// By what way traffic leaves the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// From these addresses.
    pub sources: Sources,
    /// By this interface only, whatever the host's routes say.
    pub interface: Option<String>,
}

impl Way {
    /// Whether there is such a way.
    ///
    /// # Errors
    /// The host has no such address or interface, in words.
    pub fn check(&self) -> Result<(), String> {
        let ends = [
            self.sources.ipv4.map(|address| SocketAddr::from((address, 0))),
            self.sources.ipv6.map(|address| SocketAddr::from((address, 0))),
        ];
        for end in ends.into_iter().flatten() {
            let family = Family::of(end.ip());
            let socket = Sockets::open(family, SocketType::DGRAM, None);
            if !socket.is_ok_and(|socket| rustix::net::bind(&socket, &end).is_ok()) {
                return Err(format!("the host has no address {}", end.ip()));
            }
        }
        let socket = Sockets::open(Family::V4, SocketType::DGRAM, None);
        match socket.map(|socket| self.bind_to_interface(&socket)) {
            Ok(Err(_)) => {
                Err(format!("the host has no interface {}", self.interface.as_deref().unwrap_or("")))
            }
            _ => Ok(()),
        }
    }

    /// Binds a socket that is to be connected with `peer`.
    pub(super) fn bind_toward(&self, fd: &OwnedFd, peer: SocketAddr) -> Result<(), HostError> {
        // The loopback is no way out.
        if !peer.ip().is_loopback() {
            self.bind_to_interface(fd)?;
        }
        if let Some(source) = self.sources.toward(peer) {
            // Else a port would be taken for all destinations at once.
            let _ = socket::choose_port_at_connect(fd.as_fd());
            bind_source(fd, source)?;
        }
        Ok(())
    }

    pub(super) fn bind_to_interface(&self, fd: &OwnedFd) -> Result<(), HostError> {
        match &self.interface {
            Some(interface) => {
                socket::bind_to_interface(fd.as_fd(), interface).map_err(|error| host_error(io_errno(&error)))
            }
            None => Ok(()),
        }
    }
}

/// The ways of a network and of those containers that have one of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Of all others, and of the gateway itself.
    pub network: Way,
    /// By the container's address.
    pub containers: HashMap<IpAddr, Way>,
}

impl Ways {
    pub(super) fn of(&self, sender: Sender) -> &Way {
        match sender {
            Sender::Gateway => &self.network,
            Sender::Container(address) => self.containers.get(&address).unwrap_or(&self.network),
        }
    }
}
