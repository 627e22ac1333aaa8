// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of a TAP device: one `read` or `write` per frame, with a virtio-net header in front if the device has them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

use crate::sys::tun;

/// One queue of a TAP device, in non-blocking mode.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    offloads: Offloads,
    /// The device may outlive us.
    is_borrowed: bool,
}

impl Tap {
    /// What a TAP takes unfinished that was opened with `IFF_VNET_HDR`, on any kernel; and a packet socket in its place.
    pub const OFFLOADS: Offloads = Offloads { uso: false, ..Offloads::ALL };

    /// Offers the device of a queue that was opened with `IFF_VNET_HDR` what the stack takes unfinished. Returns what the
    /// device takes.
    ///
    /// # Errors
    /// What the kernel says; `ENOTTY` when it is no TAP.
    pub fn negotiate(queue: impl AsFd) -> io::Result<Offloads> {
        Ok(Offloads { uso: tun::takes_udp_segmentation(queue)?, ..Self::OFFLOADS })
    }

    /// A port on an open queue. `offloads` is what the *container's* side takes from us; its `vnet_header` must be whether
    /// the queue was opened with `IFF_VNET_HDR`.
    #[must_use]
    pub fn new(fd: OwnedFd, offloads: Offloads) -> Self {
        Self { fd, offloads, is_borrowed: false }
    }

    /// A port on a queue of somebody else's TAP, which is left without offloads when the port is dropped: the next program
    /// that attaches to it would be given unfinished checksums without knowing.
    #[must_use]
    pub fn borrowed(fd: OwnedFd, offloads: Offloads) -> Self {
        Self { fd, offloads, is_borrowed: true }
    }

    /// The same queue once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(self.fd.try_clone()?, self.offloads))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.is_borrowed {
            // Fails when the device is gone.
            let _ = tun::clear_offloads(&self.fd);
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Port for Tap {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        let has_header = self.offloads.vnet_header;
        let room = if has_header { frame.receive_buffer() } else { frame.plain_receive_buffer() };
        match rustix::io::read(&self.fd, room) {
            Ok(0) => Received::Closed,
            Ok(received) => {
                let accepted =
                    if has_header { frame.accept_received(received) } else { frame.accept_plain(received) };
                match accepted {
                    Ok(()) => Received::Frame,
                    Err(reason) => Received::Dropped(reason),
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => Received::Empty,
            // The interface is down or its namespace is going away.
            Err(_) => Received::Closed,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        let bytes = if self.offloads.vnet_header { frame.with_vnet_header() } else { frame.bytes() };
        match rustix::io::write(&self.fd, bytes) {
            Ok(_) => Sent::Sent,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
            Err(_) => Sent::Closed,
        }
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}
