// SPDX-License-Identifier: MIT OR Apache-2.0
//! A unix socket whose messages are frames (`SOCK_SEQPACKET`): what user-mode Linux and BESS call a port.
//!
//! # How it works
//! There is no virtio-net header: frames come and go finished. Unlike a TAP the socket fills up when its peer is slow;
//! what it does not take waits, in order, until it says that it is writable again.
//!
//! # Bounds
//! 4 MiB of frames wait; what comes then is dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

use super::backlog::{Backlog, enlarge_send_buffer};

/// A connected socket.
#[derive(Debug)]
pub struct Messages {
    socket: OwnedFd,
    backlog: Backlog,
}

impl Messages {
    /// A port on a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        enlarge_send_buffer(&socket);
        Self { socket, backlog: Backlog::default() }
    }

    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        polled.is_err() || fds.iter().any(|fd| !fd.revents().is_empty())
    }

    fn transmit(&self, bytes: &[u8]) -> Sent {
        match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Sent::Sent,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM | Errno::MSGSIZE) => Sent::Full,
            Err(_) => Sent::Closed,
        }
    }
}

impl AsFd for Messages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port for Messages {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        // With `MSG_TRUNC` the length is the message's, not that of what fitted.
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        match recv(&self.socket, frame.plain_receive_buffer(), flags) {
            // An empty message, or the end.
            Ok((_, 0)) if self.has_hung_up() => Received::Closed,
            Ok((_, received)) => match frame.accept_plain(received) {
                Ok(()) => Received::Frame,
                Err(reason) => Received::Dropped(reason),
            },
            Err(Errno::AGAIN | Errno::INTR) => Received::Empty,
            Err(_) => Received::Closed,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if self.backlog.is_empty() {
            let sent = self.transmit(frame.bytes());
            if sent != Sent::Full {
                return sent;
            }
        }
        if self.backlog.push(frame.bytes()) { Sent::Sent } else { Sent::Full }
    }

    fn flush(&mut self) {
        while let Some(frame) = self.backlog.front() {
            if self.transmit(frame) == Sent::Full {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use wharf_switch::{DropReason, Pool};

    use super::*;

    fn pair() -> (Messages, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Messages::new(ours), theirs)
    }

    #[test]
    fn a_message_is_a_frame() {
        let (mut port, peer) = pair();
        let mut frame = Pool::new(1).large();
        assert_eq!(port.recv(&mut frame), Received::Empty);
        send(&peer, &[9; 60], SendFlags::empty()).unwrap();
        assert_eq!(port.recv(&mut frame), Received::Frame);
        assert_eq!(frame.bytes(), [9; 60]);
        for len in [13, 0] {
            send(&peer, &vec![9; len], SendFlags::empty()).unwrap();
            assert_eq!(port.recv(&mut frame), Received::Dropped(DropReason::FrameTruncated), "{len}");
        }
        send(&peer, &vec![9; 100_000], SendFlags::empty()).unwrap();
        assert_eq!(port.recv(&mut frame), Received::Dropped(DropReason::FrameTooLong));
        drop(peer);
        assert_eq!(port.recv(&mut frame), Received::Closed);
        assert_eq!(port.send(&mut frame), Sent::Closed);
    }

    #[test]
    fn what_a_slow_peer_leaves_waits_in_order_and_not_without_end() {
        let (mut port, peer) = pair();
        let mut frame = Pool::new(1).large();
        let mut sent = 0_u32;
        loop {
            frame.fill(&sent.to_be_bytes().repeat(350));
            match port.send(&mut frame) {
                Sent::Sent => sent += 1,
                Sent::Full => break,
                Sent::Closed => panic!("the peer is there"),
            }
        }
        assert!(!port.backlog.is_empty());
        let mut received = 0_u32;
        let mut buffer = [0; 2000];
        while let Ok((_, len)) = recv(&peer, &mut buffer, RecvFlags::empty()) {
            assert_eq!((len, &buffer[..4]), (1400, &received.to_be_bytes()[..]));
            received += 1;
            port.flush();
        }
        assert_eq!(received, sent);
    }
}
