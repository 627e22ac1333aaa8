// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that a device had no room for.

/// Bytes that may wait: what the TCP relay has in flight to two containers at most, and a TAP would have taken at once.
const LIMIT: usize = 4 << 20;
/// Bytes of memory that are kept while nothing waits.
const KEPT: usize = 64 << 10;
/// Bytes in front of each frame.
const PREFIX: usize = size_of::<u32>();

/// A queue of frames in one piece of memory, each behind its length.
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

    /// The frame that has waited longest.
    pub(super) fn front(&self) -> Option<&[u8]> {
        let (prefix, rest) = self.bytes.get(self.gone..)?.split_first_chunk()?;
        rest.get(..usize::try_from(u32::from_be_bytes(*prefix)).ok()?)
    }

    /// Takes the frame away that has waited longest.
    pub(super) fn pop_front(&mut self) {
        let Some(len) = self.front().map(<[u8]>::len) else { return };
        self.gone += PREFIX + len;
        if self.is_empty() {
            self.gone = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
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
