// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that a socket had no room for.

use std::os::fd::OwnedFd;

use rustix::net::sockopt;

/// Bytes that the kernel shall take before a backlog is needed, as far as `net.core.wmem_max` goes.
const SEND_BUFFER: usize = 1 << 20;
/// Bytes that may wait: what the TCP relay has in flight to two containers at most, and a TAP would have taken at once.
const LIMIT: usize = 4 << 20;
/// Bytes of memory that are kept while nothing waits.
const KEPT: usize = 64 << 10;
/// Bytes in front of each frame, which are its length in network byte order.
pub(super) const PREFIX: usize = size_of::<u32>();

/// Has the kernel take as much as may be before the backlog does.
pub(super) fn enlarge_send_buffer(socket: &OwnedFd) {
    // A smaller one is enough, but slower.
    let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER);
}

/// A queue of frames in one piece of memory, each behind its length. Its user takes either frames or bytes from it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// So many of them are gone already.
    gone: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    /// Adds a frame. Returns whether there was room for it.
    #[must_use]
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        let Ok(len) = u32::try_from(frame.len()) else { return false };
        if self.bytes.len() - self.gone + PREFIX + frame.len() > LIMIT {
            return false;
        }
        if self.gone >= LIMIT {
            self.bytes.drain(..std::mem::take(&mut self.gone));
        }
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(frame);
        true
    }

    /// Adds what is left of a frame, of which the peer has the beginning, in front of all others: there are none.
    pub(super) fn push_rest(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Everything that waits, lengths included.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    /// Takes bytes away that have waited longest.
    pub(super) fn advance(&mut self, count: usize) {
        self.gone += count.min(self.bytes().len());
        if self.is_empty() {
            self.gone = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
    }

    /// The frame that has waited longest.
    pub(super) fn front(&self) -> Option<&[u8]> {
        let (prefix, rest) = self.bytes().split_first_chunk()?;
        rest.get(..usize::try_from(u32::from_be_bytes(*prefix)).ok()?)
    }

    /// Takes the frame away that has waited longest.
    pub(super) fn pop_front(&mut self) {
        let Some(len) = self.front().map(<[u8]>::len) else { return };
        self.advance(PREFIX + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_as_they_came() {
        let mut backlog = Backlog::default();
        for round in 0..3 {
            for len in [60, 1514, 0, 65_535] {
                assert!(backlog.push(&vec![round; len]));
            }
            for len in [60, 1514, 0, 65_535] {
                assert_eq!(backlog.front(), Some(&vec![round; len][..]));
                backlog.pop_front();
            }
            assert!(backlog.is_empty() && backlog.front().is_none());
        }
        assert!(backlog.bytes.capacity() <= KEPT);
    }

    #[test]
    fn as_bytes_they_leave_in_pieces_of_any_size() {
        let mut backlog = Backlog::default();
        backlog.push_rest(&[1, 2]);
        assert!(backlog.push(&[9; 3]) && backlog.push(&[8; 2]));
        let mut left = Vec::new();
        while let Some(&byte) = backlog.bytes().first() {
            left.push(byte);
            backlog.advance(1);
        }
        assert_eq!(left, [1, 2, 0, 0, 0, 3, 9, 9, 9, 0, 0, 0, 2, 8, 8]);
        backlog.advance(1);
        assert!(backlog.is_empty());
    }

    #[test]
    fn no_more_waits_than_may() {
        let frame = vec![7; 65_535];
        let mut backlog = Backlog::default();
        let many = LIMIT / (frame.len() + PREFIX);
        for _ in 0..many {
            assert!(backlog.push(&frame));
        }
        assert!(!backlog.push(&frame));
        for _ in 0..3 * many {
            backlog.pop_front();
            assert!(backlog.push(&frame));
        }
        assert!(backlog.bytes.len() <= 2 * LIMIT);
    }
}
