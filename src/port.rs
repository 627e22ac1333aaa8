// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that frames enter and leave by: the production side of [`wharf_switch::Port`].

mod backlog;
mod messages;
mod tap;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

pub use messages::Messages;
pub use tap::Tap;

/// One of the devices there are.
#[derive(Debug)]
pub enum Device {
    /// A queue of a TAP, or what looks like one.
    Tap(Tap),
    /// Another worker's queue of a TAP that has only the one: to write to.
    Outlet(Tap),
    /// A socket whose messages are frames.
    Messages(Messages),
}

impl Device {
    /// What its worker is woken for, if anything.
    #[must_use]
    pub fn events(&self) -> Option<EventFlags> {
        match self {
            // It takes what it is given.
            Self::Tap(_) => Some(EventFlags::IN | EventFlags::ET),
            Self::Outlet(_) => None,
            Self::Messages(_) => Some(EventFlags::IN | EventFlags::OUT | EventFlags::ET),
        }
    }

    /// The device for a worker that does not read from it.
    ///
    /// # Errors
    /// Out of descriptors; or only one can write to a device of this kind, since what it takes may be the rest of a frame.
    pub fn outlet(&self) -> io::Result<Self> {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.try_clone().map(Self::Outlet),
            Self::Messages(_) => Err(io::Error::other("a port of this kind needs a network with one worker")),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.as_fd(),
            Self::Messages(messages) => messages.as_fd(),
        }
    }
}

impl Port for Device {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match self {
            Self::Tap(tap) => tap.recv(frame),
            Self::Outlet(_) => Received::Empty,
            Self::Messages(messages) => messages.recv(frame),
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.send(frame),
            Self::Messages(messages) => messages.send(frame),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.flush(),
            Self::Messages(messages) => messages.flush(),
        }
    }

    fn offloads(&self) -> Offloads {
        match self {
            Self::Tap(tap) | Self::Outlet(tap) => tap.offloads(),
            Self::Messages(messages) => messages.offloads(),
        }
    }
}
