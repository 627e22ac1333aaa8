// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that frames enter and leave by: the production side of [`wharf_switch::Port`].

mod backlog;
mod handover;
mod messages;
mod stream;
mod tap;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

pub use handover::{Owner, Remote};
pub use messages::Messages;
pub use stream::Stream;
pub use tap::Tap;

use crate::bell::Bell;

/// What the owner of a socket is woken for.
const BOTH_WAYS: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::ET);

/// One of the devices there are.
#[derive(Debug)]
pub enum Device {
    /// A queue of a TAP, or what looks like one.
    Tap(Tap),
    /// Another worker's queue of a TAP that has only the one: to write to.
    Outlet(Tap),
    /// A socket whose messages are frames.
    Messages(Owner<Messages>),
    /// A socket with frames in a stream of bytes.
    Stream(Owner<Stream>),
    /// A socket of another worker's: to write to.
    Remote(Remote),
}

impl From<Messages> for Device {
    fn from(messages: Messages) -> Self {
        Self::Messages(Owner::new(messages))
    }
}

impl From<Stream> for Device {
    fn from(stream: Stream) -> Self {
        Self::Stream(Owner::new(stream))
    }
}

impl Device {
    /// What its worker is woken by, if by anything.
    pub fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, EventFlags)> {
        let (device, bell) = match self {
            // It takes what it is given.
            Self::Tap(tap) => (Some((tap.as_fd(), EventFlags::IN | EventFlags::ET)), None),
            Self::Messages(owner) => (Some((owner.as_fd(), BOTH_WAYS)), owner.bell()),
            Self::Stream(owner) => (Some((owner.as_fd(), BOTH_WAYS)), owner.bell()),
            Self::Outlet(_) | Self::Remote(_) => (None, None),
        };
        device.into_iter().chain(bell.map(|bell| (bell.as_fd(), Bell::EVENTS)))
    }

    /// The device for a worker that does not read from it.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn outlet(&mut self) -> io::Result<Self> {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.try_clone().map(Self::Outlet),
            Self::Messages(owner) => owner.remote().map(Self::Remote),
            Self::Stream(owner) => owner.remote().map(Self::Remote),
            Self::Remote(_) => Err(io::Error::other("this worker does not own the device")),
        }
    }
}

impl Port for Device {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match self {
            Self::Tap(tap) => tap.recv(frame),
            Self::Messages(owner) => owner.recv(frame),
            Self::Stream(owner) => owner.recv(frame),
            Self::Outlet(_) | Self::Remote(_) => Received::Empty,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.send(frame),
            Self::Messages(owner) => owner.send(frame),
            Self::Stream(owner) => owner.send(frame),
            Self::Remote(remote) => remote.send(frame),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.flush(),
            Self::Messages(owner) => owner.flush(),
            Self::Stream(owner) => owner.flush(),
            Self::Remote(remote) => remote.flush(),
        }
    }

    fn offloads(&self) -> Offloads {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.offloads(),
            Self::Messages(owner) => owner.offloads(),
            Self::Stream(owner) => owner.offloads(),
            Self::Remote(remote) => remote.offloads(),
        }
    }
}
