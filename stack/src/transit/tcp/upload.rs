// SPDX-License-Identifier: MIT OR Apache-2.0
//! Container to host: segments become a byte stream, and nothing inside the advertised window is thrown away.
//!
//! # How it works
//! In-order payload goes to the socket straight from the received frame. What the socket does not take is held until
//! it is writable again; what came out of order is held until the gap closes. The window we advertise is
//! `cap - bytes held`, as far as the memory budget goes, and nothing else: not the socket's free space, not the remote's
//! window. Its right edge never moves back.
//!
//! # Bounds
//! The cap starts at 64 KiB and doubles while the host takes everything at once: up to 512 KiB, and up to 1 MiB where that
//! is sixteen super-frames or so and none of them is lost. Windows are promised, not reserved: what is held is taken
//! from the network's budget; when that is used up a segment is not accepted and comes again.
//!
//! # Sources
//! RFC 9293 section 3.8.6 (windows), RFC 2018 (SACK), RFC 7323 section 2 (window scale).

use std::collections::VecDeque;

use super::coalesce::{Payload, Refused};
use super::seq::Seq;
use super::{Cx, Env};
use crate::DropReason;
use crate::host::{Host, Io, SocketId};

/// Window scale we offer: 1 MiB fits into 16 bits.
pub(super) const WINDOW_SHIFT: u8 = 7;
const FIRST_CAP: u32 = 64 * 1024;
/// What may be on its way in small segments, of which each takes a place in the device's queue.
const CAP_OF_SMALL: u32 = 512 * 1024;
/// The same in super-frames: the container fills one half while the other is taken in and acknowledged.
const LARGEST_CAP: u32 = 1024 * 1024;
/// Payload from which on a segment is a super-frame, and the window's share of a queue small.
const SUPER_FRAME: usize = 16 * 1024;
/// Separate pieces kept out of order; more gaps than that are left for retransmission.
const MAX_PIECES: usize = 256;

/// What a piece of payload costs beside its bytes: its place in a list and the allocator's own.
const PIECE_OVERHEAD: usize = 64;
/// Short payloads that wait in order share an allocation of this many bytes.
const SHARED_PIECE: usize = 4096;

/// Payload that waits.
#[derive(Debug)]
struct Held {
    seq: Seq,
    bytes: Vec<u8>,
}

impl Held {
    #[expect(clippy::cast_possible_truncation, reason = "a piece is at most one IP packet")]
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn end(&self) -> Seq {
        self.seq + self.len()
    }

    /// Bytes of memory behind it.
    fn cost(&self) -> usize {
        self.bytes.capacity() + PIECE_OVERHEAD
    }
}

/// The container-to-host half of a connection.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Next sequence number expected (RFC 9293: RCV.NXT).
    next: Seq,
    /// Payload bytes of the stream before `next`.
    taken_in: u64,
    /// Right edge of the advertised window; never moves back.
    edge: Seq,
    cap: u32,
    shift: u8,
    /// In-order payload that the socket has not taken; the first `taken` bytes of its front are gone.
    queue: VecDeque<Held>,
    taken: usize,
    /// Payload beyond a gap, sorted, without overlaps.
    pieces: Vec<Held>,
    /// The piece that arrived last: its range goes first in SACK (RFC 2018 section 4).
    newest_piece: Option<Seq>,
    held: u32,
    /// Bytes the host took straight from segments since the cap last changed.
    taken_at_once: u32,
    blocked: bool,
    broken: bool,
    fin: Option<Seq>,
    fin_reached: bool,
    finished: bool,
    ack_owed: bool,
}

impl Upload {
    /// The half that expects `next` first and scales its window by `shift`.
    pub(super) fn new(next: Seq, shift: u8) -> Self {
        Self {
            next,
            taken_in: 0,
            edge: next,
            cap: if shift == 0 { FIRST_CAP - 1 } else { FIRST_CAP },
            shift,
            queue: VecDeque::new(),
            taken: 0,
            pieces: Vec::new(),
            newest_piece: None,
            held: 0,
            taken_at_once: 0,
            blocked: false,
            broken: false,
            fin: None,
            fin_reached: false,
            finished: false,
            ack_owed: false,
        }
    }

    /// The container's numbers are known now. The window that our SYN offered stands.
    pub(super) fn begin(&mut self, next: Seq, shift: u8) {
        let offered = u32::from(self.unscaled_window());
        *self = Self::new(next, shift);
        self.edge = next + offered;
    }

    /// The host connected: a window may be advertised.
    pub(super) fn open(&mut self, env: &Env) {
        self.edge = self.next + self.room(env);
    }

    /// How much more the container may send: what the cap leaves, as far as the budget could hold it. For a host that
    /// takes everything at once a small window is always open: it needs no memory.
    fn room(&self, env: &Env) -> u32 {
        let affordable = u32::try_from(env.budget.left_for_long()).unwrap_or(u32::MAX);
        let least = if self.blocked { 0 } else { SMALL_STEP };
        self.cap.saturating_sub(self.held).min(affordable.max(least))
    }

    /// Where the right edge may move to now. RFC 9293 section 3.8.6.2.2: in no small steps. While something is held, room
    /// for a larger one is still to come; else half of what there is must do.
    fn next_edge(&self, env: &Env) -> Option<Seq> {
        let room = self.room(env);
        let step = if self.held > 0 { SMALL_STEP } else { SMALL_STEP.min(room / 2) };
        let wanted = self.next + room;
        (wanted > self.edge && wanted - self.edge >= step).then_some(wanted)
    }

    pub(super) fn next(&self) -> Seq {
        self.next
    }

    /// Payload bytes taken from the container, in order.
    pub(super) fn taken_in(&self) -> u64 {
        self.taken_in
    }

    /// The container's FIN has come and was handed to the host.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The container's FIN has come in its turn.
    pub(super) fn is_ended(&self) -> bool {
        self.fin_reached
    }

    /// The whole stream has come, but the host has not taken all of it yet.
    pub(super) fn outlives_container(&self) -> bool {
        self.fin_reached && !self.finished
    }

    /// The socket broke while we sent.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Something came out of order and waits for what is missing before it.
    pub(super) fn has_gap(&self) -> bool {
        !self.pieces.is_empty()
    }

    pub(super) fn owes_ack(&self) -> bool {
        self.ack_owed
    }

    pub(super) fn owe_ack(&mut self) {
        self.ack_owed = true;
    }

    /// An acknowledgment with the current window is on its way.
    pub(super) fn acknowledged(&mut self) {
        self.ack_owed = false;
    }

    /// The window of a SYN or SYN-ACK, which is never scaled (RFC 7323 section 2.2).
    pub(super) fn unscaled_window(&self) -> u16 {
        u16::try_from(self.edge - self.next).unwrap_or(u16::MAX)
    }

    pub(super) fn window_shift(&self) -> Option<u8> {
        (self.shift != 0).then_some(self.shift)
    }

    /// The window field of an ordinary segment. Moves the right edge forward where there is room for it.
    pub(super) fn window_field(&mut self, env: &Env) -> u16 {
        if let Some(edge) = self.next_edge(env) {
            self.edge = edge;
        }
        u16::try_from(self.edge.since(self.next) >> self.shift).unwrap_or(u16::MAX)
    }

    /// RFC 9293 section 3.10.7.4, the table of acceptable segments; `len` counts a FIN.
    pub(super) fn is_acceptable(&self, seq: Seq, len: u32) -> bool {
        let window = self.edge.since(self.next);
        let starts_inside = |at: Seq| at >= self.next && at < self.next + window;
        match (len, window) {
            (0, 0) => seq == self.next,
            (0, _) => starts_inside(seq) || seq == self.next + window,
            (_, 0) => false,
            (_, _) => starts_inside(seq) || starts_inside(seq + (len - 1)),
        }
    }

    /// Takes in acceptable payload.
    ///
    /// # Errors
    /// How many pieces of it were not taken, and why the first of them.
    pub(super) fn accept<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: Option<SocketId>,
        payload: &Payload<'_>,
    ) -> Result<(), Refused> {
        let mut pieces = payload.pieces;
        let mut seq = payload.seq;
        if let Some(socket) = socket.filter(|_| pieces.len() > 1 && self.passes_on(payload)) {
            return self.deliver_together(cx, socket, payload);
        }
        let mut refused: Option<Refused> = None;
        while let Some((piece, others)) = pieces.split_first() {
            if let Err(reason) = self.accept_piece(cx, socket, seq, piece) {
                refused.get_or_insert(Refused { reason, frames: 0 }).frames += 1;
            }
            seq = seq + u32::try_from(piece.len()).unwrap_or(0);
            pieces = others;
        }
        refused.map_or(Ok(()), Err)
    }

    /// All of it is new, next, inside the window, and has nothing to wait for.
    fn passes_on(&self, payload: &Payload<'_>) -> bool {
        payload.seq == self.next
            && payload.len <= self.edge.since(self.next)
            && self.fin.is_none()
            && self.pieces.is_empty()
            && self.queue.is_empty()
            && !self.blocked
    }

    /// Sends several pieces at once. What the socket does not take goes the way of single ones.
    fn deliver_together<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: SocketId,
        payload: &Payload<'_>,
    ) -> Result<(), Refused> {
        self.ack_owed = true;
        let sent = match cx.host.tcp_send_vectored(socket, payload.pieces) {
            Io::Done(sent) => sent,
            Io::Blocked => {
                self.block();
                0
            }
            // The first piece finds out.
            Io::Broken => 0,
        };
        self.grow(cx.env, sent, payload.pieces.len());
        self.advance(sent);
        let result = self.deliver_behind(cx, socket, payload, sent);
        self.drain(cx, Some(socket));
        result
    }

    /// Delivers what lies behind the first `sent` bytes, piece by piece, as long as each is taken whole.
    fn deliver_behind<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: SocketId,
        payload: &Payload<'_>,
        sent: usize,
    ) -> Result<(), Refused> {
        let mut skipped = sent;
        let mut pieces = payload.pieces;
        while let Some((piece, others)) = pieces.split_first() {
            let rest = piece.get(skipped..).unwrap_or_default();
            skipped = skipped.saturating_sub(piece.len());
            if !rest.is_empty() {
                let delivered = self.deliver(cx, Some(socket), rest);
                delivered.map_err(|reason| Refused { reason, frames: pieces.len() })?;
            }
            pieces = others;
        }
        Ok(())
    }

    /// Takes in the payload of one segment.
    fn accept_piece<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: Option<SocketId>,
        seq: Seq,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        self.ack_owed = true;
        if self.fin_reached || self.fin.is_some_and(|fin| seq >= fin) {
            return Err(DropReason::TcpAfterClose);
        }
        let (seq, payload) = self.inside_window(seq, payload).ok_or(DropReason::TcpRepeated)?;
        if seq != self.next {
            return self.keep_piece(cx.env, seq, payload);
        }
        self.deliver(cx, socket, payload)?;
        self.join_pieces(cx.env);
        self.drain(cx, socket);
        Ok(())
    }

    /// Cuts off what came before and what lies beyond the window.
    fn inside_window<'p>(&self, seq: Seq, payload: &'p [u8]) -> Option<(Seq, &'p [u8])> {
        let known = usize::try_from(self.next.since(seq)).ok()?;
        let payload = payload.get(known..).filter(|rest| !rest.is_empty())?;
        let seq = seq.max(self.next);
        let room = usize::try_from(self.fin.unwrap_or(self.edge).since(seq)).ok()?;
        let payload = payload.get(..room.min(payload.len())).filter(|rest| !rest.is_empty())?;
        Some((seq, payload))
    }

    /// Sends the next bytes of the stream, and holds what the socket does not take.
    fn deliver<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: Option<SocketId>,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let mut rest = payload;
        while let Some(socket) = socket.filter(|_| !rest.is_empty() && self.queue.is_empty() && !self.blocked)
        {
            match cx.host.tcp_send(socket, rest) {
                Io::Done(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Io::Blocked => self.block(),
                Io::Broken => {
                    self.broken = true;
                    rest = &[];
                }
            }
        }
        if rest.is_empty() {
            self.grow(cx.env, payload.len(), 1);
            self.advance(payload.len());
            return Ok(());
        }
        let sent = payload.len() - rest.len();
        let held = self.hold_in_order(cx.env, sent, rest);
        self.advance(sent + held);
        if held == rest.len() { Ok(()) } else { Err(DropReason::RelayMemoryExhausted) }
    }

    fn advance(&mut self, bytes: usize) {
        self.next = self.next + u32::try_from(bytes).unwrap_or(0);
        self.taken_in += bytes as u64;
    }

    /// Holds as much of `rest` as the budget allows, and says how much that is.
    fn hold_in_order(&mut self, env: &mut Env, skipped: usize, rest: &[u8]) -> usize {
        let held = match self.queue.back_mut() {
            Some(back) if back.bytes.capacity() - back.bytes.len() >= rest.len() => {
                back.bytes.extend_from_slice(rest);
                rest.len()
            }
            _ => {
                let granted = self.reserve_in_order(env, rest.len().max(SHARED_PIECE) + PIECE_OVERHEAD);
                let room = granted.saturating_sub(PIECE_OVERHEAD);
                let part = rest.get(..room).unwrap_or(rest);
                if part.is_empty() {
                    env.budget.release(granted);
                    return 0;
                }
                let mut bytes = Vec::with_capacity(room);
                bytes.extend_from_slice(part);
                let seq = self.next + u32::try_from(skipped).unwrap_or(0);
                self.queue.push_back(Held { seq, bytes });
                part.len()
            }
        };
        self.held += u32::try_from(held).unwrap_or(0);
        held
    }

    /// Takes up to `wanted` bytes of the budget, if need be from what came out of order: RFC 2018 section 8 allows to
    /// forget what was only reported.
    fn reserve_in_order(&mut self, env: &mut Env, wanted: usize) -> usize {
        let mut granted = env.budget.reserve_for_long(wanted);
        while granted < wanted
            && let Some(piece) = self.pieces.pop()
        {
            self.held -= piece.len();
            env.budget.release(piece.cost());
            granted += env.budget.reserve_for_long(wanted - granted);
        }
        granted
    }

    /// The socket is full: a window larger than what it takes without that would only make more wait here.
    fn block(&mut self) {
        self.blocked = true;
        self.taken_at_once = 0;
    }

    /// The host took `bytes` at once, of so many segments: after a whole window of that, a larger one is worth its memory.
    fn grow(&mut self, env: &Env, bytes: usize, segments: usize) {
        self.taken_at_once = self.taken_at_once.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let larger = self.cap.saturating_mul(2);
        let largest = if bytes >= segments * SUPER_FRAME { LARGEST_CAP } else { CAP_OF_SMALL };
        let is_affordable = usize::try_from(larger).is_ok_and(|larger| larger <= env.budget.share());
        if self.taken_at_once >= self.cap && larger <= largest && self.shift != 0 && is_affordable {
            self.cap = larger;
            self.taken_at_once = 0;
        }
    }

    /// Keeps the parts of `payload` that no piece holds yet.
    fn keep_piece(&mut self, env: &mut Env, mut seq: Seq, mut payload: &[u8]) -> Result<(), DropReason> {
        self.newest_piece = Some(seq);
        if self.cap > CAP_OF_SMALL {
            // What is missing may have been one too many for the device's queue.
            (self.cap, self.taken_at_once) = (CAP_OF_SMALL, 0);
        }
        let mut kept = false;
        let mut at = self.pieces.partition_point(|piece| piece.end() <= seq);
        while !payload.is_empty() {
            let (gap, skip) = match self.pieces.get(at) {
                Some(piece) if piece.seq <= seq => (0, piece.end().since(seq)),
                Some(piece) => (piece.seq.since(seq), 0),
                None => (u32::MAX, 0),
            };
            let (gap, skip) = (usize::try_from(gap).unwrap_or(0), usize::try_from(skip).unwrap_or(0));
            if gap > 0 {
                let part = payload.get(..gap.min(payload.len())).unwrap_or_default();
                if self.pieces.len() >= MAX_PIECES {
                    return Err(DropReason::TcpGapsExhausted);
                }
                let cost = part.len() + PIECE_OVERHEAD;
                let granted = env.budget.reserve_for_long(cost);
                if granted < cost {
                    env.budget.release(granted);
                    return Err(DropReason::RelayMemoryExhausted);
                }
                let len = u32::try_from(part.len()).unwrap_or(0);
                self.pieces.insert(at, Held { seq, bytes: part.to_vec() });
                self.held += len;
                kept = true;
                payload = payload.get(part.len()..).unwrap_or_default();
                seq = seq + len;
            } else {
                let skip = skip.min(payload.len());
                payload = payload.get(skip..).unwrap_or_default();
                seq = seq + u32::try_from(skip).unwrap_or(0);
            }
            at += 1;
        }
        if kept { Ok(()) } else { Err(DropReason::TcpRepeated) }
    }

    /// Moves pieces that the stream has reached into the queue.
    fn join_pieces(&mut self, env: &mut Env) {
        while self.pieces.first().is_some_and(|piece| piece.seq <= self.next) {
            let mut piece = self.pieces.remove(0);
            let cost = piece.cost();
            let known = usize::try_from(self.next.since(piece.seq)).unwrap_or(0).min(piece.bytes.len());
            piece.bytes.drain(..known);
            piece.seq = self.next;
            let is_used_up = piece.bytes.is_empty();
            self.advance(piece.bytes.len());
            if !is_used_up {
                self.queue.push_back(piece);
            }
            self.unhold(env, known, if is_used_up { cost } else { 0 });
        }
    }

    /// Gives the socket what waits, in order, then the end of the stream.
    pub(super) fn drain<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, socket: Option<SocketId>) {
        let Some(socket) = socket else { return };
        self.blocked = false;
        self.drain_queue(cx, socket);
        if self.queue.is_empty() {
            self.finish(cx, socket);
        }
        // A container that waits for room must hear of it. After its FIN it waits for nothing, and may be gone: a segment
        // would only provoke a reset.
        if !self.fin_reached && self.next_edge(cx.env).is_some() {
            self.ack_owed = true;
        }
    }

    fn drain_queue<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, socket: SocketId) {
        while let Some(front) = self.queue.front() {
            let rest = front.bytes.get(self.taken..).unwrap_or_default();
            if !rest.is_empty() && !self.broken {
                match cx.host.tcp_send(socket, rest) {
                    Io::Done(sent) => self.taken += sent,
                    Io::Blocked => {
                        self.block();
                        return;
                    }
                    Io::Broken => self.broken = true,
                }
            }
            if self.broken || self.taken >= front.bytes.len() {
                let (len, cost) = (front.bytes.len(), front.cost());
                self.queue.pop_front();
                self.taken = 0;
                self.unhold(cx.env, len, cost);
            }
        }
    }

    /// So many bytes do not wait any more, and so many bytes of memory are free.
    fn unhold(&mut self, env: &mut Env, bytes: usize, cost: usize) {
        env.budget.release(cost);
        self.held = self.held.saturating_sub(u32::try_from(bytes).unwrap_or(0));
    }

    /// The container's FIN stands at `seq`; one that contradicts what came already is none.
    pub(super) fn note_fin(&mut self, seq: Seq) {
        self.ack_owed = true;
        let is_behind_all = self.next <= seq && self.pieces.last().is_none_or(|last| last.end() <= seq);
        if self.fin.is_none() && is_behind_all && seq <= self.edge {
            self.fin = Some(seq);
        }
    }

    /// Takes in the FIN when everything before it has come, and hands it on when everything before it is delivered.
    pub(super) fn finish<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, socket: SocketId) {
        if self.fin == Some(self.next) && !self.fin_reached {
            self.fin_reached = true;
            self.next = self.next + 1;
            self.edge = self.edge.max(self.next);
            self.ack_owed = true;
        }
        if self.fin_reached && !self.finished && self.queue.is_empty() {
            self.finished = true;
            cx.host.tcp_finish(socket);
        }
    }

    /// The ranges received out of order, the newest first (RFC 2018 section 4).
    pub(super) fn sack_ranges(&self) -> [Option<(u32, u32)>; 3] {
        let mut ranges = [None; 3];
        if self.pieces.is_empty() {
            return ranges;
        }
        let mut blocks: Vec<(Seq, Seq)> = Vec::with_capacity(self.pieces.len().min(MAX_PIECES));
        for piece in &self.pieces {
            match blocks.last_mut() {
                Some((_, end)) if *end == piece.seq => *end = piece.end(),
                _ => blocks.push((piece.seq, piece.end())),
            }
        }
        let newest =
            self.newest_piece.and_then(|seq| blocks.iter().position(|&(from, to)| from <= seq && seq < to));
        let first = newest.map(|at| blocks.remove(at));
        for (range, (from, to)) in ranges.iter_mut().zip(first.into_iter().chain(blocks)) {
            *range = Some((from.0, to.0));
        }
        ranges
    }

    /// Gives back everything held.
    pub(super) fn release(&mut self, env: &mut Env) {
        let cost = self.queue.drain(..).chain(self.pieces.drain(..)).map(|held| held.cost()).sum();
        env.budget.release(cost);
        self.held = 0;
    }
}

/// The right edge moves in steps of this many bytes where it can.
const SMALL_STEP: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use wharf_switch::Pool;

    use super::*;
    use crate::config::tests::config;

    /// How large the window of a flow becomes of which the host takes everything, 60,000 bytes in so many segments at a time.
    fn grown(shift: u8, segments: usize) -> (Upload, Env) {
        let env = Env::new(config(), Pool::new(4));
        let mut upload = Upload::new(Seq(1), shift);
        for _ in 0..1000 {
            upload.grow(&env, 60_000, segments);
        }
        (upload, env)
    }

    #[test]
    fn a_window_of_small_segments_stays_smaller_than_one_of_super_frames() {
        assert_eq!(grown(WINDOW_SHIFT, 1).0.cap, LARGEST_CAP);
        assert_eq!(grown(WINDOW_SHIFT, 42).0.cap, CAP_OF_SMALL);
        assert_eq!(grown(0, 1).0.cap, 65_535);
    }

    #[test]
    fn a_gap_ends_the_large_window_until_as_much_was_taken_again() {
        let (mut upload, mut env) = grown(WINDOW_SHIFT, 1);
        upload.keep_piece(&mut env, Seq(100), b"behind a gap").unwrap();
        assert_eq!(upload.cap, CAP_OF_SMALL);
        upload.grow(&env, 300_000, 5);
        assert_eq!(upload.cap, CAP_OF_SMALL);
        upload.grow(&env, 300_000, 5);
        assert_eq!(upload.cap, LARGEST_CAP);
    }
}
