// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that frames enter and leave by: the production side of [`wharf_switch::Port`].

mod backlog;
mod messages;
mod tap;

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
    /// A socket whose messages are frames.
    Messages(Messages),
}

impl Device {
    /// What its worker is woken for.
    #[must_use]
    pub fn events(&self) -> EventFlags {
        match self {
            // It takes what it is given.
            Self::Tap(_) => EventFlags::IN | EventFlags::ET,
            Self::Messages(_) => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(tap) => tap.as_fd(),
            Self::Messages(messages) => messages.as_fd(),
        }
    }
}

impl Port for Device {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match self {
            Self::Tap(tap) => tap.recv(frame),
            Self::Messages(messages) => messages.recv(frame),
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        match self {
            Self::Tap(tap) => tap.send(frame),
            Self::Messages(messages) => messages.send(frame),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Tap(tap) => tap.flush(),
            Self::Messages(messages) => messages.flush(),
        }
    }

    fn offloads(&self) -> Offloads {
        match self {
            Self::Tap(tap) => tap.offloads(),
            Self::Messages(messages) => messages.offloads(),
        }
    }
}
