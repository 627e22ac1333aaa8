// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of a TAP device: one `read` or `write` per frame, virtio-net header in front.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

/// One queue of a TAP device that was opened with `IFF_VNET_HDR`.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    offloads: Offloads,
}

impl Tap {
    /// A port on an open queue. `offloads` is what the *container's* side takes from us.
    #[must_use]
    pub fn new(fd: OwnedFd, offloads: Offloads) -> Self {
        Self { fd, offloads }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Port for Tap {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match rustix::io::read(&self.fd, frame.receive_buffer()) {
            Ok(0) => Received::Closed,
            Ok(received) => match frame.accept_received(received) {
                Ok(()) => Received::Frame,
                Err(reason) => Received::Dropped(reason),
            },
            Err(Errno::AGAIN | Errno::INTR) => Received::Empty,
            // The interface is down or its namespace is going away.
            Err(_) => Received::Closed,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        match rustix::io::write(&self.fd, frame.with_vnet_header()) {
            Ok(_) => Sent::Sent,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
            Err(_) => Sent::Closed,
        }
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}
