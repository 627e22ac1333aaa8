// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams that leave together: one system call and one walk through the host's stack for many (UDP segmentation offload).
//!
//! # How it works
//! The first datagram of its kind leaves at once, so that an error of the host's is known at once and a single datagram is
//! never late. Those that follow in the same burst, from the same socket to the same place and no longer than the first,
//! join the train behind it. The train leaves when one comes that does not fit, or with the end of the burst. On the wire
//! they are the datagrams that they were.
//!
//! # Bounds
//! [`MOST`] datagrams and [`MOST_BYTES`].
//!
//! # Sources
//! udp(7) (`UDP_SEGMENT`): all segments have one length, the last may be shorter.

use wharf_stack::host::{Outgoing, SocketId};

/// What the kernel takes in one call (`UDP_MAX_SEGMENTS` was 64 once).
const MOST: usize = 64;
/// Less than the longest IP packet.
const MOST_BYTES: usize = 65_000;
/// Longer datagrams may have to be fragmented, which excludes segmentation.
const LONGEST: usize = 1500 - 40 - 8;

/// What the datagrams of a train have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) socket: SocketId,
    pub(super) outgoing: Outgoing,
    /// Bytes of each but the last.
    pub(super) len: usize,
}

/// The datagrams that wait.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Of the datagram that has left before them; without one nobody may join.
    kind: Option<Kind>,
    bytes: Vec<u8>,
    count: usize,
}

impl Train {
    /// A datagram of this kind has left.
    pub(super) fn follow(&mut self, kind: Kind) {
        self.kind = (1..=LONGEST).contains(&kind.len).then_some(kind);
    }

    /// Adds a datagram if it is of the same kind. Returns whether it was.
    pub(super) fn join(&mut self, socket: SocketId, outgoing: Outgoing, data: &[u8]) -> bool {
        let Some(kind) = self.kind else { return false };
        // One that was shorter than the others was the last.
        let is_open = self.bytes.len() == self.count * kind.len;
        let is_alike =
            kind == Kind { socket, outgoing, len: kind.len } && (1..=kind.len).contains(&data.len());
        if !is_open || !is_alike || self.count == MOST || self.bytes.len() + data.len() > MOST_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(data);
        self.count += 1;
        true
    }

    /// What waits. Nobody joins any more.
    pub(super) fn close(&mut self) -> Option<(Kind, &[u8])> {
        let kind = self.kind.take()?;
        (self.count > 0).then_some((kind, self.bytes.as_slice()))
    }

    /// It has left.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(port: u16) -> Outgoing {
        Outgoing { to: ([192, 0, 2, 1], port).into(), from: None, hop_limit: 63, dont_fragment: true }
    }

    fn behind(len: usize) -> Train {
        let mut train = Train::default();
        train.follow(Kind { socket: SocketId(1), outgoing: outgoing(9), len });
        train
    }

    fn joins(train: &mut Train, len: usize) -> bool {
        train.join(SocketId(1), outgoing(9), &vec![7; len])
    }

    #[test]
    fn datagrams_of_one_length_join_and_a_shorter_one_is_the_last() {
        let mut train = behind(1000);
        for (len, expected) in [(1001, false), (0, false), (1000, true), (1000, true), (1, true), (1, false)]
        {
            assert_eq!(joins(&mut train, len), expected, "{len}");
        }
        let (kind, bytes) = train.close().unwrap();
        assert_eq!((kind.len, bytes.len()), (1000, 2001));
        train.clear();
        assert!(!joins(&mut train, 1000) && train.close().is_none());
    }

    #[test]
    fn others_do_not_join() {
        let mut train = behind(1000);
        assert!(!train.join(SocketId(2), outgoing(9), &[7; 1000]));
        assert!(!train.join(SocketId(1), outgoing(10), &[7; 1000]));
        assert!(!train.join(SocketId(1), Outgoing { hop_limit: 1, ..outgoing(9) }, &[7; 1000]));
        assert!(!joins(&mut behind(1473), 1000));
        assert!(behind(1000).close().is_none());
    }

    #[test]
    fn a_train_has_an_end() {
        for (len, most) in [(1, MOST), (1400, MOST_BYTES / 1400)] {
            let mut train = behind(len);
            assert_eq!((0..100).filter(|_| joins(&mut train, len)).count(), most);
        }
    }
}
