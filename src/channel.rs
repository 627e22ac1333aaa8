// SPDX-License-Identifier: MIT OR Apache-2.0
//! A conversation between this process and one it made: one JSON message per packet, descriptors beside it.
//!
//! # Bounds
//! A message has at most [`MAX_BYTES`] bytes and [`MAX_FDS`] descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors that travel with one message at most: one queue per worker, a view of sockets, and one that tells of the end.
const MAX_FDS: usize = 66;
const MAX_BYTES: usize = 65_536;

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// A conversation with whoever listens at a path.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let iov = [IoSlice::new(&bytes)];
        // NOSIGNAL: the other side may be gone, which its poll event tells better than SIGPIPE.
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &iov, &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// The next message with its descriptors; `None` when the other side is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                // A reset says that the other side left something of ours unread; what it said before that still
                // waits behind the error, and then the end.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or(&[]))?;
        Ok(Some((message, fds)))
    }

    pub(crate) fn raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    enum Word {
        Number(i32),
        Go,
    }

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (first, second) = Channel::pair().unwrap();
        a.send(&Word::Number(15), &[]).unwrap();
        a.send(&Word::Go, &[first.as_fd(), second.as_fd()]).unwrap();
        let (message, fds) = b.receive::<Word>().unwrap().unwrap();
        assert_eq!((message, fds.len()), (Word::Number(15), 0));
        let (message, fds) = b.receive::<Word>().unwrap().unwrap();
        assert_eq!((message, fds.len()), (Word::Go, 2));
    }

    #[test]
    fn last_words_are_heard_although_the_speaker_left_something_unread() {
        let (a, b) = Channel::pair().unwrap();
        b.send(&Word::Go, &[]).unwrap();
        a.send(&Word::Number(7), &[]).unwrap();
        drop(a);
        assert!(matches!(b.receive::<Word>(), Ok(Some((Word::Number(7), _)))));
        assert!(b.receive::<Word>().unwrap().is_none());
    }

    #[test]
    fn the_end_of_the_other_side_is_none() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(b.receive::<Word>().unwrap().is_none());
        assert!(b.send(&Word::Go, &[]).is_err());
    }
}
