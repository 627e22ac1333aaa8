// SPDX-License-Identifier: MIT OR Apache-2.0
//! What wharf and the sandbox's init say to each other: one JSON message per packet, descriptors beside it.
//!
//! The command may be root in its namespace and so may take init over: nothing init says is trusted beyond what the
//! command could do by itself (end, stop, write to the terminal).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::netns::{DeviceChoice, DeviceKind};

/// Descriptors that travel with one message at most: one queue per worker.
const MAX_FDS: usize = 64;
const MAX_BYTES: usize = 8192;

/// From wharf to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// The user and group maps are written; these group ids inside may open ping sockets.
    Mapped { ping_groups: (u32, u32) },
    /// The gateway runs: start the command.
    Go,
    /// Send the command this signal, unless it got it already together with init.
    Signal(i32),
    /// What the host's resolv.conf leads to may have changed: see to it that it is covered.
    ResolvConfChanged,
}

/// From init to wharf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// The device is there and configured; its queues come as descriptors.
    Device(DeviceKind),
    /// Something is not as usual.
    Note(String),
    /// Something does not work that nobody must have.
    Warning(String),
    /// No kind of device can be made; the error is the TAP's, or that of the kind asked for.
    NoDevice { errno: i32, choice: DeviceChoice },
    /// The sandbox cannot be made.
    Failed { step: String, errno: Option<i32> },
    /// The command could not be started.
    NotStarted { errno: i32 },
    /// The command was stopped; whether the terminal's foreground is a group of the sandbox.
    Stopped { in_foreground: bool },
    /// The command ended with this status.
    Exited(i32),
    /// This signal ended the command.
    Killed(i32),
}

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
        let mut bytes = [0; MAX_BYTES];
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

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (first, second) = Channel::pair().unwrap();
        a.send(&ToInit::Signal(15), &[]).unwrap();
        a.send(&ToInit::Go, &[first.as_fd(), second.as_fd()]).unwrap();
        let (message, fds) = b.receive::<ToInit>().unwrap().unwrap();
        assert_eq!((message, fds.len()), (ToInit::Signal(15), 0));
        let (message, fds) = b.receive::<ToInit>().unwrap().unwrap();
        assert_eq!((message, fds.len()), (ToInit::Go, 2));
    }

    #[test]
    fn last_words_are_heard_although_the_speaker_left_something_unread() {
        let (a, b) = Channel::pair().unwrap();
        b.send(&ToInit::Go, &[]).unwrap();
        a.send(&FromInit::Note("farewell".into()), &[]).unwrap();
        drop(a);
        assert!(matches!(b.receive::<FromInit>(), Ok(Some((FromInit::Note(_), _)))));
        assert!(b.receive::<FromInit>().unwrap().is_none());
    }

    #[test]
    fn the_end_of_the_other_side_is_none() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(b.receive::<ToInit>().unwrap().is_none());
        assert!(b.send(&FromInit::Stopped { in_foreground: false }, &[]).is_err());
    }
}
