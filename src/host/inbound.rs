// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that come in: the clients of published ports.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, getsockname};
use wharf_stack::host::{Accept, Family, StreamRead};

use super::limit::Place;
use super::{Slot, address_of, proxy};

/// RFC 6335 section 6: the Dynamic Ports are 49152 to 65535.
const FIRST_DYNAMIC_PORT: u16 = 0xc000;

/// A socket of a published port, made by [`publish`](crate::publish): of TCP it listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket, non-blocking.
    pub fd: OwnedFd,
    /// The family of its address and of its clients; none of a unix socket.
    pub family: Option<Family>,
    /// It has every address of the host.
    pub is_wildcard: bool,
    /// The streams of its clients begin with a header of the PROXY protocol, which says who they are.
    pub tells_clients: bool,
}

/// A connection that came in.
#[derive(Debug)]
pub struct Stream {
    pub(super) fd: OwnedFd,
    pub(super) family: Option<Family>,
    /// What is to be read before what the client sends.
    pub(super) ahead: Vec<u8>,
    /// Its place among the open sockets.
    pub(super) place: Place,
}

impl Stream {
    /// A client of `listener`; `None` when it is gone.
    fn of_client(listener: &Slot, fd: OwnedFd, from: SocketAddr, place: Place) -> Option<Self> {
        let ahead = match (listener.tells_clients, listener.family) {
            (false, _) => Vec::new(),
            (true, None) => proxy::header_of_nobody(),
            (true, Some(_)) => proxy::header(from, getsockname(&fd).ok().and_then(address_of)?),
        };
        Some(Self { fd, family: listener.family, ahead, place })
    }
}

impl Slot {
    /// Takes a client from a listener.
    pub(super) fn accept(&mut self, place: Place) -> Accept<Stream> {
        match rustix::net::acceptfrom_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((fd, from)) => {
                let from = match self.family {
                    Some(_) => from.and_then(address_of),
                    None => Some(self.stand_in()),
                };
                let client = from.and_then(|from| {
                    Some(Accept::Client { stream: Stream::of_client(self, fd, from, place)?, from })
                });
                client.unwrap_or(Accept::Gone)
            }
            Err(Errno::AGAIN) => Accept::Blocked,
            // accept(2): "Linux accept() (and accept4()) passes already-pending network errors on the new socket as an
            // error code from accept()."
            Err(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH,
            ) => Accept::Gone,
            // Out of descriptors or memory; anything else must not be tried again at once either.
            Err(_) => Accept::Exhausted,
        }
    }

    /// What stands for the address of the next client of a unix socket, which has none: the host's loopback, and a port that
    /// the last ones did not have.
    fn stand_in(&mut self) -> SocketAddr {
        self.clients = self.clients.wrapping_add(1);
        (Ipv4Addr::LOCALHOST, FIRST_DYNAMIC_PORT | self.clients).into()
    }

    /// Reads what is ahead of the stream and, since an event may have told of it already, what follows.
    pub(super) fn receive_ahead(&mut self, mut buffers: &mut [IoSliceMut<'_>]) -> StreamRead {
        let mut len = 0;
        for buffer in buffers.iter_mut() {
            let part = self.ahead.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(self.ahead.drain(..part)) {
                *place = byte;
            }
            len += part;
        }
        IoSliceMut::advance_slices(&mut buffers, len);
        match self.receive(buffers) {
            StreamRead::Data(more) => StreamRead::Data(len + more),
            StreamRead::Blocked | StreamRead::End | StreamRead::Broken => StreamRead::Data(len),
        }
    }
}
