// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host to container: a byte stream becomes segments, which stay queued until they are acknowledged.
//!
//! # How it works
//! The socket is read straight into the payload areas of frames, as much as the container's window allows and a
//! multiple of its segment size each; the frames are sent and kept. While something is in flight a read fills several of
//! them, as after each read the host acknowledges and wakes the sender. While the window is closed the socket is not read:
//! what a slow container has not asked for stays in the host's socket buffer.
//!
//! # Bounds
//! Bytes in flight: the container's window, at most [`MAX_IN_FLIGHT`]. Buffers in flight: [`GRANT`], and beyond it a share
//! of the network's budget. Segments in flight: [`MAX_SEGMENTS`]. Frames per visit: [`FRAMES_PER_VISIT`], so that one
//! fast flow leaves the others their turn; per read: [`FRAMES_PER_READ`].
//!
//! # Sources
//! RFC 9293 section 3.8 (data), 3.8.6.1 (zero-window probes), section 3.10.7.4 (SND.WL1, SND.WL2).

use std::collections::VecDeque;
use std::io::IoSliceMut;

use smoltcp::wire::{TCP_HEADER_LEN, TcpControl, TcpRepr};
use wharf_switch::frame::{LARGE_BUFFER_LEN, SMALL_BUFFER_LEN, SMALL_FRAME_LEN};
use wharf_switch::{Frame, Instant};

use super::recovery::Recovery;
use super::seq::Seq;
use super::{Cx, Env, Fate, Flow, Phase};
use crate::env::Outbox;
use crate::host::{Host, SocketId, StreamRead};
use crate::wire::emit;

/// Less than this in flight costs speed on a container's link; more was measured flat.
const MAX_IN_FLIGHT: u32 = 2 << 20;
/// Every flow has one small buffer of its own, whatever is left of the budget.
pub(super) const GRANT: usize = SMALL_BUFFER_LEN;
const MAX_SEGMENTS: usize = 512;
const FRAMES_PER_VISIT: usize = 16;
/// More were measured no faster.
const FRAMES_PER_READ: usize = 8;

/// What the container's SYN said about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    pub(super) window: u32,
    pub(super) window_shift: u8,
    pub(super) mss: u16,
    pub(super) sack_permitted: bool,
}

/// One segment that was sent and is not yet acknowledged.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) seq: Seq,
    /// Sequence numbers it covers: payload bytes, or one for a FIN.
    pub(super) len: u32,
    /// The frame with the payload; a FIN has none.
    pub(super) frame: Option<Frame>,
    pub(super) sent_at: Instant,
    /// Position among all transmissions of the flow (RFC 8985 orders by time; a counter has no ties).
    pub(super) order: u64,
    pub(super) transmissions: u32,
    pub(super) sacked: bool,
    pub(super) lost: bool,
}

impl Segment {
    pub(super) fn end(&self) -> Seq {
        self.seq + self.len
    }
}

/// The host-to-container half of a connection.
#[derive(Debug)]
pub(crate) struct Download {
    /// First number not yet acknowledged (SND.UNA).
    una: Seq,
    /// Next number to send (SND.NXT).
    next: Seq,
    /// Payload bytes before `una`.
    delivered: u64,
    /// The container's window, scaled (SND.WND).
    window: u32,
    /// Sequence and acknowledgment of the segment that set the window last (SND.WL1, SND.WL2).
    window_set_by: (Seq, Seq),
    peer: Peer,
    pub(super) segments: VecDeque<Segment>,
    pub(super) recovery: Recovery,
    /// Bytes of buffers in `segments`; what goes beyond the grant is taken from the budget.
    buffered: usize,
    readable: bool,
    /// An error or the end of the stream waits: read until it shows.
    draining: bool,
    /// The host sent everything and our FIN is sent.
    fin_sent: bool,
    /// The container's window keeps us from reading on.
    starved: bool,
}

impl Download {
    pub(super) fn new(iss: Seq, irs: Seq, peer: Peer) -> Self {
        Self {
            una: iss,
            next: iss + 1,
            delivered: 0,
            window: peer.window,
            window_set_by: (irs, iss),
            peer,
            segments: VecDeque::new(),
            recovery: Recovery::new(),
            buffered: 0,
            readable: false,
            draining: false,
            fin_sent: false,
            starved: false,
        }
    }

    pub(super) fn next(&self) -> Seq {
        self.next
    }

    /// Payload bytes that the container has acknowledged.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn unacknowledged(&self) -> Seq {
        self.una
    }

    pub(super) fn sack_permitted(&self) -> bool {
        self.peer.sack_permitted
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.next.since(self.una)
    }

    /// Our FIN is sent.
    pub(super) fn is_ended(&self) -> bool {
        self.fin_sent
    }

    /// Our FIN is sent and acknowledged.
    pub(super) fn is_finished(&self) -> bool {
        self.fin_sent && self.segments.is_empty()
    }

    /// The container's window, and nothing else, keeps the host's data back.
    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    /// The container has answered our SYN.
    pub(super) fn begin(&mut self, now: Instant, irs: Seq, peer: Peer) {
        self.una = self.next;
        self.window = peer.window;
        self.window_set_by = (irs, self.una);
        self.peer = peer;
        self.recovery.syn_acknowledged(now);
        self.recovery.progress(now);
        self.recovery.idle();
    }

    /// Our SYN or SYN-ACK is on its way.
    pub(super) fn syn_sent(&mut self, now: Instant) {
        self.recovery.syn_sent(now);
    }

    /// The socket has something; with `draining` an error or the end.
    pub(super) fn readable(&mut self, draining: bool) {
        self.readable = true;
        self.draining |= draining;
    }

    pub(super) fn wants_to_speak(&self, phase: Phase) -> bool {
        phase == Phase::Open
            && (self.recovery.has_lost() || (self.readable && !self.starved && !self.fin_sent))
    }

    /// RFC 5961 section 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn is_acceptable_ack(&self, ack: Seq) -> bool {
        let oldest = self.una - MAX_IN_FLIGHT.max(self.window);
        ack >= oldest && ack <= self.next
    }

    /// An acceptable acknowledgment: what it covers, what window it opens, and what it says is missing.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        env: &mut Env,
        seq: Seq,
        ack: Seq,
        segment: &TcpRepr<'_>,
    ) {
        if ack < self.una {
            return;
        }
        let window = u32::from(segment.window_len) << self.peer.window_shift;
        let is_duplicate = ack == self.una
            && segment.payload.is_empty()
            && segment.control == TcpControl::None
            && window == self.window
            && self.in_flight() > 0;
        let (set_by_seq, set_by_ack) = self.window_set_by;
        if set_by_seq < seq || (set_by_seq == seq && set_by_ack <= ack) {
            if window > self.window || ack > self.una {
                if self.starved && self.segments.is_empty() {
                    self.recovery.opened();
                }
                self.starved = false;
            }
            self.window = window;
            self.window_set_by = (seq, ack);
            if window == 0 {
                self.recovery.still_closed(now);
            }
        }
        let advanced = ack > self.una;
        if advanced {
            self.starved = false;
            self.una = ack;
            self.acknowledge(now, env, ack);
        }
        self.note_sacks(now, &segment.sack_ranges);
        if is_duplicate {
            self.recovery.duplicate();
        }
        self.recovery.find_lost(&mut self.segments, ack, advanced, self.peer.sack_permitted);
        if advanced && self.segments.is_empty() {
            self.recovery.idle();
        }
    }

    /// Lets go of segments up to `ack`.
    fn acknowledge(&mut self, now: Instant, env: &mut Env, ack: Seq) {
        if self.segments.is_empty() {
            // The SYN-ACK.
            self.recovery.syn_acknowledged(now);
        }
        // What came behind a hole was not acknowledged before that was repaired: this is no round trip.
        let mut is_repair = false;
        while let Some(front) = self.segments.front_mut() {
            if front.end() <= ack {
                is_repair |= front.transmissions > 1;
                if !front.sacked {
                    if !is_repair {
                        self.recovery.measured(now.since(front.sent_at));
                    }
                    self.recovery.reported(now, front);
                }
                let len = front.len;
                if let Some(gone) = self.segments.pop_front().and_then(|segment| segment.frame) {
                    self.delivered += u64::from(len);
                    self.put_back(env, gone);
                }
                continue;
            }
            if front.seq < ack {
                // Part of a super-frame arrived: what remains gets new headers in the room of what is gone.
                let gone = ack - front.seq;
                if let Some(frame) = &mut front.frame {
                    frame.trim_front(usize::try_from(gone).unwrap_or(0));
                }
                front.seq = ack;
                front.len -= gone;
                self.delivered += u64::from(gone);
            }
            break;
        }
        self.recovery.progress(now);
    }

    /// Keeps the budget up to date with the buffers in flight. Returns whether it had so much.
    fn set_buffered(&mut self, env: &mut Env, bytes: usize) -> bool {
        let (was, is) = (self.buffered.saturating_sub(GRANT), bytes.saturating_sub(GRANT));
        if is > was && !env.budget.reserve(is - was) {
            return false;
        }
        env.budget.release(was.saturating_sub(is));
        self.buffered = bytes;
        true
    }

    fn note_sacks(&mut self, now: Instant, ranges: &[Option<(u32, u32)>; 3]) {
        if !self.peer.sack_permitted {
            return;
        }
        for (from, to) in ranges.iter().flatten().map(|&(from, to)| (Seq(from), Seq(to))) {
            if to <= self.una {
                // RFC 2883: a range below the cumulative acknowledgment reports a duplicate.
                self.recovery.spurious();
                continue;
            }
            for segment in &mut self.segments {
                if segment.seq >= to {
                    break;
                }
                if !segment.sacked && from <= segment.seq && segment.end() <= to {
                    segment.sacked = true;
                    if segment.transmissions == 1 {
                        self.recovery.measured(now.since(segment.sent_at));
                    }
                    self.recovery.reported(now, segment);
                }
            }
        }
    }

    /// When the retransmission or probe timer is due.
    pub(super) fn deadline(&self) -> Instant {
        self.recovery.deadline()
    }

    /// How many payload bytes the container and [`MAX_IN_FLIGHT`] let us read from the host now.
    fn room(&self) -> u32 {
        self.window.min(MAX_IN_FLIGHT).saturating_sub(self.in_flight())
    }

    /// A frame for up to `len` bytes out of the budget; a small one where a large one is too much.
    ///
    /// Choudhury and Hahne's dynamic threshold: a flow may hold a share of what is left, so that many greedy ones
    /// together always leave something for the next one.
    fn take_frame(&mut self, env: &mut Env, len: usize) -> Option<Frame> {
        let share = env.budget.share();
        if len > SMALL_FRAME_LEN
            && self.buffered + LARGE_BUFFER_LEN <= share
            && self.set_buffered(env, self.buffered + LARGE_BUFFER_LEN)
        {
            return Some(env.pool.large());
        }
        let is_granted = self.buffered + SMALL_BUFFER_LEN <= share.max(GRANT);
        (is_granted && self.set_buffered(env, self.buffered + SMALL_BUFFER_LEN)).then(|| env.pool.small())
    }

    /// Frames for what may be read now: whole segments each, from `start` on, as far as the container's window and our own
    /// bounds go, which may leave no room for any.
    fn frames_to_fill(
        &mut self,
        env: &mut Env,
        start: usize,
        longest: usize,
        most: usize,
    ) -> [Option<Frame>; FRAMES_PER_READ] {
        let mss = usize::from(self.peer.mss);
        let whole_segments = |bytes: usize| if bytes > mss { bytes - bytes % mss } else { bytes };
        // RFC 1122 section 4.2.3.4: no small segments only because the window is nearly full.
        let (least, most) = match self.segments.len() {
            0 => (1, 1),
            segments => (mss, most.min(MAX_SEGMENTS.saturating_sub(segments))),
        };
        let mut room = usize::try_from(self.room()).unwrap_or(0);
        let mut frames = [const { None }; FRAMES_PER_READ];
        for place in frames.iter_mut().take(most) {
            if room < least {
                break;
            }
            let wanted = whole_segments(room.min(longest));
            let Some(mut frame) = self.take_frame(env, start + wanted) else { break };
            let wanted = whole_segments(wanted.min(frame.capacity() - start));
            frame.set_len(start + wanted);
            *place = Some(frame);
            room -= wanted;
        }
        frames
    }

    /// Moves the first `len` bytes, if they fit a small frame: a short segment must not hold a large buffer until it is
    /// acknowledged.
    fn fit(&mut self, env: &mut Env, frame: Frame, len: usize) -> Frame {
        if len > SMALL_FRAME_LEN || frame.buffer_len() == SMALL_BUFFER_LEN {
            return frame;
        }
        let mut small = env.pool.small();
        small.fill(frame.bytes().get(..len).unwrap_or_default());
        self.set_buffered(env, self.buffered.saturating_sub(frame.buffer_len()) + small.buffer_len());
        small
    }

    /// Gives back a frame that was taken.
    fn put_back(&mut self, env: &mut Env, frame: Frame) {
        self.set_buffered(env, self.buffered.saturating_sub(frame.buffer_len()));
    }

    /// Nobody in the container receives any more.
    pub(super) fn give_up(&mut self, env: &mut Env) {
        self.release(env);
        self.recovery.idle();
        self.readable = false;
        self.fin_sent = true;
        self.una = self.next;
    }

    pub(super) fn release(&mut self, env: &mut Env) {
        self.segments.clear();
        self.set_buffered(env, 0);
    }
}

/// What a look at the socket brought.
enum Read {
    Sent {
        frames: usize,
        drained: bool,
    },
    Nothing,
    /// The container's window or the memory budget has no room.
    NoRoom,
    End,
    Broken,
}

/// Receives into those of `frames` that there are, each from `start` on.
fn receive<H: Host>(
    host: &mut H,
    socket: SocketId,
    frames: &mut [Option<Frame>; FRAMES_PER_READ],
    start: usize,
) -> StreamRead {
    let count = frames.iter().flatten().count();
    let mut buffers = frames.each_mut().map(|frame| {
        let room = frame.as_mut().and_then(|frame| frame.bytes_mut().get_mut(start..));
        IoSliceMut::new(room.unwrap_or_default())
    });
    host.tcp_recv_vectored(socket, buffers.get_mut(..count).unwrap_or_default())
}

impl Flow {
    /// Moves data from the socket to the container until one of them, or our share of the turn, is used up.
    pub(super) fn pump<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        let mut frames = 0;
        while self.phase == Phase::Open && self.download.readable && !self.download.fin_sent {
            if frames == FRAMES_PER_VISIT {
                return Fate::Lives;
            }
            match self.read(cx, FRAMES_PER_VISIT - frames) {
                Read::Sent { frames: sent, drained } => {
                    if drained && !self.download.draining {
                        self.download.readable = false;
                    }
                    frames += sent;
                }
                Read::Nothing => {
                    self.download.readable = false;
                    if self.upload.is_broken() {
                        return self.refuse_container(cx);
                    }
                }
                Read::NoRoom => {
                    self.download.starved = true;
                    self.download.recovery.starve(cx.now, self.download.in_flight() == 0);
                    break;
                }
                Read::End if self.upload.is_broken() => return self.refuse_container(cx),
                Read::End => self.send_fin(cx),
                Read::Broken => return self.refuse_container(cx),
            }
        }
        Fate::Lives
    }

    /// Reads from the socket into at most so many frames, behind the place of the headers, and sends them.
    fn read<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, most: usize) -> Read {
        let Some(socket) = self.socket else { return Read::Nothing };
        let path = self.path(cx.env);
        let start = path.tcp_payload_start(TCP_HEADER_LEN);
        let mut frames = self.download.frames_to_fill(cx.env, start, path.max_tcp_payload(), most);
        let wanted = frames.iter().flatten().map(|frame| frame.len() - start).sum();
        if wanted == 0 {
            return Read::NoRoom;
        }
        let read = receive(cx.host, socket, &mut frames, start);
        let received = if let StreamRead::Data(len) = read { len } else { 0 };
        let sent = self.send_received(cx, frames, start, received);
        match read {
            StreamRead::Data(_) => Read::Sent { frames: sent, drained: received < wanted },
            StreamRead::Blocked => Read::Nothing,
            StreamRead::End => Read::End,
            StreamRead::Broken => Read::Broken,
        }
    }

    /// Sends `received` bytes, which stand in `frames` from `start` on, and gives back the frames that have none. Returns how
    /// many have some.
    fn send_received<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        frames: [Option<Frame>; FRAMES_PER_READ],
        start: usize,
        received: usize,
    ) -> usize {
        let (mut left, mut sent) = (received, 0);
        let mut frames = frames.into_iter().flatten();
        while left > 0
            && let Some(frame) = frames.next()
        {
            let len = left.min(frame.len() - start);
            let frame = self.download.fit(cx.env, frame, start + len);
            self.send_data(cx, frame, len);
            left -= len;
            sent += 1;
        }
        // In this order the one that was used last is the first to be used again.
        for frame in frames.rev() {
            self.download.put_back(cx.env, frame);
        }
        sent
    }

    /// Sends the next `len` bytes, which stand in `frame` already, and keeps them.
    fn send_data<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, mut frame: Frame, len: usize) {
        let seq = self.download.next;
        let covered = u32::try_from(len).unwrap_or(0);
        self.emit_data(cx, &mut frame, seq, len);
        let order = self.download.recovery.transmitted(cx.now);
        self.download.next = seq + covered;
        self.download.segments.push_back(Segment {
            seq,
            len: covered,
            frame: Some(frame),
            sent_at: cx.now,
            order,
            transmissions: 1,
            sacked: false,
            lost: false,
        });
    }

    /// Writes current headers before the `len` payload bytes of `frame` and sends it.
    pub(super) fn emit_data<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        frame: &mut Frame,
        seq: Seq,
        len: usize,
    ) {
        self.upload.acknowledged();
        let path = self.path(cx.env);
        let header = self.header(cx.env, TcpControl::Psh, seq);
        emit::tcp(frame, &path, &header, len, self.download.peer.mss);
        cx.send(frame);
    }

    /// Sends the end of the host's stream.
    fn send_fin<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        let seq = self.download.next;
        self.emit_fin(cx, seq);
        let order = self.download.recovery.transmitted(cx.now);
        self.download.fin_sent = true;
        self.download.next = seq + 1;
        self.download.segments.push_back(Segment {
            seq,
            len: 1,
            frame: None,
            sent_at: cx.now,
            order,
            transmissions: 1,
            sacked: false,
            lost: false,
        });
    }

    pub(super) fn emit_fin<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, seq: Seq) {
        self.upload.acknowledged();
        let header = self.header(cx.env, TcpControl::Fin, seq);
        self.send_bare(cx, &header);
    }
}

#[cfg(test)]
mod tests {
    use wharf_switch::{Duration, Pool};

    use super::*;
    use crate::config::tests::config;

    const LEN: u32 = 100;

    /// A container that is sent three segments, of which the first is lost.
    struct Bench {
        now: Instant,
        env: Env,
        download: Download,
    }

    impl Bench {
        fn new(sack_permitted: bool) -> Self {
            let peer = Peer { window: 65_535, window_shift: 0, mss: 1000, sack_permitted };
            let env = Env::new(config(), Pool::new(4));
            let mut bench =
                Self { now: Instant::from_secs(1), env, download: Download::new(Seq(999), Seq(0), peer) };
            bench.download.una = bench.download.next;
            for _ in 0..3 {
                bench.send();
            }
            bench
        }

        fn send(&mut self) {
            let Self { now, download, .. } = self;
            let (seq, order) = (download.next, download.recovery.transmitted(*now));
            download.next = seq + LEN;
            download.segments.push_back(Segment {
                seq,
                len: LEN,
                frame: None,
                sent_at: *now,
                order,
                transmissions: 1,
                sacked: false,
                lost: false,
            });
        }

        /// The container acknowledges so many segments, and reports those of `sacked`.
        fn hear(&mut self, ack: u32, sacked: Option<(u32, u32)>) {
            let number = |count| 1000 + count * LEN;
            let segment = TcpRepr {
                src_port: 1,
                dst_port: 2,
                control: TcpControl::None,
                seq_number: Seq(0).into(),
                ack_number: Some(Seq(number(ack)).into()),
                window_len: 65_535,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [sacked.map(|(from, to)| (number(from), number(to))), None, None],
                timestamp: None,
                payload: &[],
            };
            self.download.handle_ack(self.now, &mut self.env, Seq(0), Seq(number(ack)), &segment);
        }

        /// The first segment is sent again, and `repair` later everything is acknowledged. Returns the timeout for what is
        /// sent next.
        fn timeout_after(mut self, repair: Duration) -> Duration {
            let first = self.download.segments.front_mut().unwrap();
            (first.transmissions, first.sent_at) = (2, self.now);
            self.now += repair;
            self.hear(3, None);
            self.send();
            self.download.deadline().since(self.now)
        }
    }

    #[test]
    fn the_time_that_a_repair_takes_is_no_round_trip() {
        for sack in [true, false] {
            let timeout_after = |millis| {
                let mut bench = Bench::new(sack);
                bench.now += Duration::from_millis(1);
                bench.hear(0, Some((1, 3)));
                bench.timeout_after(Duration::from_millis(millis))
            };
            assert_eq!(timeout_after(900), timeout_after(1), "SACK permitted: {sack}");
        }
    }

    #[test]
    fn a_reported_segment_measures_the_round_trip() {
        let timeout_after = |millis| {
            let mut bench = Bench::new(true);
            bench.now += Duration::from_millis(millis);
            bench.hear(0, Some((1, 3)));
            bench.timeout_after(Duration::from_millis(1))
        };
        assert!(timeout_after(100) > timeout_after(1));
    }

    #[test]
    fn a_read_fills_several_frames_while_something_is_in_flight() {
        let filled = |bench: &mut Bench, most| {
            let frames = bench.download.frames_to_fill(&mut bench.env, 66, 10_000, most);
            frames.iter().flatten().map(|frame| frame.len() - 66).collect::<Vec<_>>()
        };
        let mut bench = Bench::new(true);
        let window = [10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 5000];
        assert_eq!(filled(&mut bench, FRAMES_PER_VISIT), window, "whole segments of what 300 bytes leave");
        assert_eq!(filled(&mut bench, 2), window[..2]);
        bench.hear(3, None);
        assert_eq!(filled(&mut bench, FRAMES_PER_VISIT), window[..1]);
    }
}
