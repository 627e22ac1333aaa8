// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receiving half of the peer: what came, what is missing, and when to say so.
//!
//! # How it works
//! Positions are 64-bit offsets into the remote's sequence space: its SYN is 0, the first byte 1. So nothing here
//! wraps, and nothing is shared with the relay's arithmetic. Bytes are compared with the expected pattern when they
//! arrive and not kept.
//!
//! # Sources
//! RFC 2018 (SACK), RFC 2883 (D-SACK), RFC 1122 section 4.2.3.2 (delayed ACK), RFC 9293 section 3.8.6; Linux's habits:
//! 40 ms, sixteen quick ACKs after the start, four SACK blocks.

use wharf_switch::{Duration, Instant};

use crate::random::{Random, pattern};

const DELAYED_ACK: Duration = Duration::from_millis(40);
const QUICK_ACKS: u32 = 16;
const MAX_SACKS: usize = 4;

/// A range beyond a gap; the stamp orders ranges by when they last grew.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: u64,
    to: u64,
    stamp: u64,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    irs: u32,
    stream: u64,
    /// The next offset wanted; everything before it has come.
    pub(super) next: u64,
    /// Right edge of the window as advertised.
    edge: u64,
    buffer: u64,
    /// What the buffer was before a nap.
    buffer_was: u64,
    shift: u8,
    mss: u64,
    /// Bytes the application has read.
    pub(super) read: u64,
    pieces: Vec<Piece>,
    stamp: u64,
    duplicate: Option<(u64, u64)>,
    fin: Option<u64>,
    pub(super) finished: bool,
    pub(super) corrupt: bool,
    pub(super) ack_now: bool,
    pub(super) ack_at: Instant,
    unacknowledged: u64,
    quick: u32,
    /// In thousandths: how often the window's edge moves back, and how often kept pieces are forgotten.
    pub(super) shrinks: u64,
    pub(super) forgets: u64,
}

impl Receiver {
    pub(super) fn new(irs: u32, stream: u64, buffer: u64, shift: u8, mss: u64) -> Self {
        Self {
            irs,
            stream,
            next: 1,
            edge: 1 + buffer.min(65_535),
            buffer,
            buffer_was: buffer,
            shift,
            mss,
            read: 0,
            pieces: Vec::new(),
            stamp: 0,
            duplicate: None,
            fin: None,
            finished: false,
            corrupt: false,
            ack_now: true,
            ack_at: Instant::FAR,
            unacknowledged: 0,
            quick: QUICK_ACKS,
            shrinks: 0,
            forgets: 0,
        }
    }

    /// The offset that a sequence number means, by the offset it is nearest to.
    pub(super) fn offset(&self, seq: u32) -> i64 {
        let distance = seq.wrapping_sub(self.number(self.next)).cast_signed();
        self.next.cast_signed() + i64::from(distance)
    }

    /// The sequence number of an offset.
    pub(super) fn number(&self, offset: u64) -> u32 {
        self.irs.wrapping_add(offset as u32)
    }

    /// Bytes that wait for the application.
    pub(super) fn waiting(&self) -> u64 {
        self.next - 1 - u64::from(self.finished) - self.read
    }

    /// Whether any of the sequence numbers from `from` up to `to` is wanted.
    pub(super) fn is_acceptable(&self, from: i64, to: i64) -> bool {
        to >= self.next.cast_signed() && from <= self.edge.max(self.next).cast_signed()
    }

    /// The window field now. With `random`, the edge may move back.
    pub(super) fn window(&mut self, random: &mut Random) -> u16 {
        let free = self.buffer.saturating_sub(self.waiting());
        let wanted = self.next + free;
        let step = self.mss.min(self.buffer / 2).max(1);
        // RFC 9293 section 3.8.6.2.2.
        if wanted > self.edge && (wanted - self.edge >= step || self.edge > self.next) {
            self.edge = wanted;
        } else if self.edge > self.next && random.chance(self.shrinks) {
            self.edge -= (self.edge - self.next) / (1 + random.below(3));
        }
        // What the field cannot say is not offered.
        let field = (self.edge.saturating_sub(self.next) >> self.shift).min(65_535);
        field as u16
    }

    /// Nobody will read for a while: the window closes, also over what is in flight.
    pub(super) fn close_window(&mut self) {
        self.edge = self.next;
        self.buffer_was = self.buffer;
        self.buffer = self.waiting();
        self.ack_now = true;
    }

    /// Takes in the bytes from `from` on; `fin` follows them.
    pub(super) fn accept(&mut self, now: Instant, from: i64, payload: &[u8], fin: bool, random: &mut Random) {
        let to = from + payload.len() as i64;
        if fin {
            self.fin.get_or_insert(to.cast_unsigned());
            self.ack_now = true;
        }
        let next = self.next.cast_signed();
        let repeated = !payload.is_empty() && from < next;
        if repeated {
            let start = from.max(1).cast_unsigned();
            self.duplicate = Some((start, to.min(next).cast_unsigned().max(start)));
            self.ack_now = true;
        }
        let (start, end) = (from.max(next), to.min(self.edge.max(self.next).cast_signed()));
        if end < to {
            // Beyond the window: Linux answers at once and waits for it to come again.
            self.ack_now = true;
            if self.fin == Some(to.cast_unsigned()) {
                self.fin = None;
            }
        }
        if start < end {
            let skipped = (start - from) as usize;
            self.compare(start.cast_unsigned(), &payload[skipped..(end - from) as usize]);
            self.keep(now, start.cast_unsigned(), end.cast_unsigned(), random);
        }
        if self.fin == Some(self.next) && !self.finished {
            self.finished = true;
            self.next += 1;
            self.ack_now = true;
        }
    }

    fn compare(&mut self, start: u64, bytes: &[u8]) {
        for (&byte, at) in bytes.iter().zip(start - 1..) {
            self.corrupt |= byte != pattern(self.stream, at);
        }
    }

    fn keep(&mut self, now: Instant, from: u64, to: u64, random: &mut Random) {
        if from > self.next {
            self.ack_now = true;
            if random.chance(self.forgets) {
                // RFC 2018 section 8: a receiver may discard what it has reported.
                self.pieces.clear();
                return;
            }
            if self.pieces.iter().any(|piece| piece.from <= from && to <= piece.to) {
                self.duplicate = Some((from, to));
            }
            self.add_piece(from, to);
            return;
        }
        let had_gap = !self.pieces.is_empty();
        self.unacknowledged += to - self.next;
        self.next = to;
        while let Some(at) = self.pieces.iter().position(|piece| piece.from <= self.next) {
            let piece = self.pieces.remove(at);
            self.next = self.next.max(piece.to);
        }
        if had_gap || self.quick > 0 || self.unacknowledged >= 2 * self.mss {
            self.ack_now = true;
            self.quick = self.quick.saturating_sub(1);
        } else {
            self.ack_at = self.ack_at.min(now + DELAYED_ACK);
        }
    }

    fn add_piece(&mut self, mut from: u64, mut to: u64) {
        self.pieces.retain(|piece| {
            let touches = piece.from <= to && from <= piece.to;
            if touches {
                from = from.min(piece.from);
                to = to.max(piece.to);
            }
            !touches
        });
        self.stamp += 1;
        self.pieces.push(Piece { from, to, stamp: self.stamp });
        self.pieces.sort_unstable_by_key(|piece| piece.from);
    }

    /// The application reads up to `size` bytes. Returns how many.
    pub(super) fn take(&mut self, size: u64) -> u64 {
        self.buffer = self.buffer_was;
        let taken = size.min(self.waiting());
        self.read += taken;
        let free = self.buffer.saturating_sub(self.waiting());
        let window = self.edge.saturating_sub(self.next);
        // Linux says so when the window has become twice as large.
        if !self.finished && free > window && free >= 2 * window && free >= self.mss.min(self.buffer / 2) {
            self.ack_now = true;
        }
        taken
    }

    /// The SACK blocks of the next ACK; sending them is up to the caller. A duplicate is reported once.
    pub(super) fn sacks(&mut self, most: usize) -> Vec<(u32, u32)> {
        let mut newest_first = self.pieces.clone();
        newest_first.sort_unstable_by_key(|piece| u64::MAX - piece.stamp);
        let kept = newest_first.iter().map(|piece| (piece.from, piece.to));
        let blocks = self.duplicate.take().into_iter().chain(kept).filter(|(from, to)| from < to);
        blocks.take(most.min(MAX_SACKS)).map(|(from, to)| (self.number(from), self.number(to))).collect()
    }

    /// An ACK is on its way.
    pub(super) fn acknowledged(&mut self) {
        self.ack_now = false;
        self.ack_at = Instant::FAR;
        self.unacknowledged = 0;
    }
}
