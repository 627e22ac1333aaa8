// SPDX-License-Identifier: MIT OR Apache-2.0
//! One socket: what is set on it, and how it sends and receives.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags};
use wharf_stack::host::{Family, Outgoing, StreamRead};

use super::errors::io_errno;
use super::limit::Place;
use super::train::Kind;
use super::way::Sources;
use crate::sys::socket;

/// How everything is sent.
pub(super) const AT_ONCE: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// A train may meet the errors of several earlier datagrams.
const TRAIN_ATTEMPTS: usize = 8;

/// A socket and what it was told.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fd: OwnedFd,
    /// Held as long as it is open.
    pub(super) _place: Place,
    /// None of a unix socket.
    pub(super) family: Option<Family>,
    /// Clients that a unix listener has had, as far as 16 bits count.
    pub(super) clients: u16,
    /// What is read before what has come to the socket.
    pub(super) ahead: Vec<u8>,
    /// A listener whose streams begin with a header of the PROXY protocol.
    pub(super) tells_clients: bool,
    /// A datagram socket with one peer.
    pub(super) is_connected: bool,
    /// Where its datagrams leave from.
    pub(super) source: Source,
    /// The host's addresses that they may leave from.
    pub(super) sources: Sources,
    /// Set on the socket for datagrams; `None` is the host's default.
    pub(super) hop_limit: Option<u8>,
    pub(super) dont_fragment: Option<bool>,
    /// Datagrams may leave together.
    pub(super) takes_trains: bool,
}

/// Where the datagrams of a socket leave from, unless they say it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Not known yet: the first one's destination decides.
    Open,
    /// What the socket is bound to, if anything.
    Bound,
    /// The socket has all addresses of the host, and each datagram the one that belongs to its destination.
    EachItsOwn,
}

impl Slot {
    /// The host's address that a datagram leaves from, where the socket does not say it. `chosen` is ours for its
    /// destination.
    pub(super) fn departure(&self, outgoing: Outgoing, chosen: Option<SocketAddr>) -> Option<IpAddr> {
        match self.source {
            Source::Open | Source::Bound => None,
            Source::EachItsOwn => outgoing.from.or(chosen.map(|chosen| chosen.ip())),
        }
    }

    pub(super) fn send(&self, data: &[u8], to: SocketAddr, from: Option<IpAddr>) -> Result<(), Errno> {
        match from {
            // The host has looked up the way already.
            None if self.is_connected => rustix::net::send(&self.fd, data, AT_ONCE).map(drop),
            Some(_) => socket::send_datagrams(self.fd.as_fd(), data, None, to, from)
                .map_err(|error| io_errno(&error)),
            None => rustix::net::sendto(&self.fd, data, AT_ONCE, &to).map(drop),
        }
    }

    /// Sends a train. Returns how many of its datagrams the host did not take.
    pub(super) fn send_train(&mut self, kind: Kind, bytes: &[u8], from: Option<IpAddr>) -> u64 {
        let to = kind.outgoing.to;
        let segment = u16::try_from(kind.len).ok();
        for _ in 0..TRAIN_ATTEMPTS {
            let sent = socket::send_datagrams(self.fd.as_fd(), bytes, segment, to, from);
            match sent.map_err(|error| io_errno(&error)) {
                Ok(()) => return 0,
                // The interface that it leaves by cannot.
                Err(Errno::IO | Errno::OPNOTSUPP) => {
                    self.takes_trains = false;
                    break;
                }
                // The path to this destination may be too narrow (kernels differ in how they say that), or a queue full.
                Err(Errno::INVAL | Errno::MSGSIZE | Errno::AGAIN | Errno::NOBUFS) => break,
                // An earlier datagram's, which is in the error queue.
                Err(_) => {}
            }
        }
        let lost = bytes.chunks(kind.len).filter(|data| self.send(data, to, from).is_err());
        lost.count() as u64
    }

    /// Receives what has come to a stream.
    pub(super) fn receive(&self, buffers: &mut [IoSliceMut<'_>]) -> StreamRead {
        let mut control = RecvAncillaryBuffer::default();
        match rustix::net::recvmsg(&self.fd, buffers, &mut control, RecvFlags::DONTWAIT) {
            Ok(message) if message.bytes == 0 => StreamRead::End,
            Ok(message) => StreamRead::Data(message.bytes),
            Err(Errno::AGAIN | Errno::INTR) => StreamRead::Blocked,
            Err(_) => StreamRead::Broken,
        }
    }

    /// Makes the socket send as `outgoing` says. Where that is as before, it costs no call.
    pub(super) fn prepare(&mut self, outgoing: Outgoing) {
        let is_ipv6 = self.family == Some(Family::V6);
        let Outgoing { hop_limit, dont_fragment, .. } = outgoing;
        if self.hop_limit != Some(hop_limit)
            && socket::set_hop_limit(self.fd.as_fd(), is_ipv6, hop_limit.into()).is_ok()
        {
            self.hop_limit = Some(hop_limit);
        }
        if self.dont_fragment != Some(dont_fragment)
            && socket::set_dont_fragment(self.fd.as_fd(), is_ipv6, dont_fragment).is_ok()
        {
            self.dont_fragment = Some(dont_fragment);
        }
    }
}
