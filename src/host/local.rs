// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets of the host that containers reach at ports of the gateway.
//!
//! # How it works
//! A port of the gateway's address stands for a path, and every connection to it connects there. Nothing of the path is
//! looked at before: a service may come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use wharf_stack::host::HostError;
use wharf_stack::local::dns;

use crate::unix;

/// A port of the gateway, and the unix stream socket of the host that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// The port.
    pub port: u16,
    /// The socket's path, from the root directory.
    pub path: PathBuf,
}

impl HostSocket {
    /// Reads `PORT:PATH`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (port, path) = split(text)?;
        match port.parse() {
            Ok(0) | Err(_) => Err(format!("`{port}` is not a port of the gateway")),
            Ok(port @ dns::PORT) => Err(format!("port {port} is the gateway's own, for DNS")),
            Ok(port) => Ok(Self { port, path: unix::path(path)? }),
        }
    }

    /// The same of somebody who is here: the path may begin in the current directory.
    ///
    /// # Errors
    /// What would be right.
    pub fn typed(text: &str) -> Result<Self, String> {
        let (port, path) = split(text)?;
        Self::parse(&format!("{port}:{}", unix::absolute(path)?))
    }

    /// Where the socket is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

impl fmt::Display for HostSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.port, self.path.display())
    }
}

fn split(text: &str) -> Result<(&str, &str), String> {
    text.split_once(':').ok_or_else(|| "write it as 5432:/run/postgresql/.s.PGSQL.5432".to_owned())
}

/// The addresses of sockets, by the gateway's ports.
#[derive(Clone, Debug, Default)]
pub struct HostSockets(BTreeMap<u16, Target>);

/// What a port leads to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    address: SocketAddrUnix,
    /// What the operator was told last of why it cannot be connected to.
    told: Option<Errno>,
}

impl HostSockets {
    /// Those of a network.
    ///
    /// # Errors
    /// A path is none that a socket can have.
    pub fn new<'a>(sockets: impl IntoIterator<Item = &'a HostSocket>) -> io::Result<Self> {
        let target = |socket: &HostSocket| {
            Ok((socket.port, Target { address: SocketAddrUnix::new(&socket.path)?, told: None }))
        };
        sockets.into_iter().map(target).collect::<io::Result<_>>().map(Self)
    }

    /// The gateway's ports.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.keys().copied()
    }

    /// What a port leads to.
    pub(super) fn get_mut(&mut self, port: u16) -> Option<&mut Target> {
        self.0.get_mut(&port)
    }
}

impl Target {
    /// Connects to it.
    ///
    /// # Errors
    /// What a container is to see.
    pub(super) fn connect(&mut self, socket: impl AsFd) -> Result<(), HostError> {
        match rustix::net::connect(socket, &self.address) {
            Ok(()) => Ok(()),
            // Nobody listens: a service may come and go.
            Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => Err(HostError::Refused),
            // Too many wait for the service already. As from any host that is too busy there is no answer, and another try.
            Err(Errno::AGAIN) => Err(HostError::TimedOut),
            Err(errno) => {
                self.tell(errno);
                Err(HostError::Refused)
            }
        }
    }

    /// The operator may mend it, and is told once.
    fn tell(&mut self, errno: Errno) {
        if self.told.replace(errno) != Some(errno) {
            let path = self.address.path().map(|path| path.to_string_lossy().into_owned());
            tracing::warn!(
                "containers cannot be led to {}: {}",
                path.unwrap_or_default(),
                io::Error::from(errno)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stands_for_a_path() {
        let socket = HostSocket::parse("5432:/run/postgresql/.s.PGSQL.5432").unwrap();
        assert_eq!((socket.port, socket.directory()), (5432, Path::new("/run/postgresql")));
        assert_eq!(HostSocket::parse(&socket.to_string()).unwrap(), socket);
        let here = HostSocket::typed("80:web:1.sock").unwrap();
        assert_eq!(here.path, std::env::current_dir().unwrap().join("web:1.sock"));
        let long = format!("80:/{}", "a".repeat(107));
        for (wrong, hint) in [
            ("/run/x", "5432:/run"),
            ("80", "5432:/run"),
            ("0:/run/x", "not a port"),
            ("http:/run/x", "not a port"),
            ("53:/run/x", "for DNS"),
            ("80:run/x", "from the root directory"),
            ("80:/run/a/../b", "leads back"),
            (&long, "at most 107 bytes"),
        ] {
            assert!(HostSocket::parse(wrong).unwrap_err().contains(hint), "{wrong}");
        }
    }
}
