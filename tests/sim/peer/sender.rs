// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sending half of the peer: what is on its way, what was lost, and when to say it again.
//!
//! # How it works
//! Positions are 64-bit offsets: our SYN is 0, the first byte 1, the FIN the last. What was sent is never kept, for
//! the stream is a pattern; only the ranges that the relay reported are. Loss is found as Linux finds it (three
//! duplicates, or more than three segments reported above a hole), and by a timer of at least 200 ms.
//!
//! # Sources
//! RFC 6675 (loss recovery with SACK), RFC 6298 (timer), RFC 5681 (slow start), RFC 9293 section 3.8.6.1 (probes).

use wharf_switch::{Duration, Instant};

const SMALLEST_RTO: Duration = Duration::from_millis(200);
const LARGEST_RTO: Duration = Duration::from_secs(20);
const LARGEST_SUPER_FRAME: u64 = 65_000;
/// Zero-window probes and retransmissions without any answer before Linux gives up.
const RETRIES: u32 = 15;

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Everything from one offset up to another.
    Span(u64, u64),
    /// An empty segment with an old number.
    Probe,
    /// Nothing was heard for too long.
    GiveUp,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sender {
    iss: u32,
    /// The first offset not yet acknowledged, and the first not yet sent.
    pub(super) una: u64,
    pub(super) next: u64,
    /// One past what there is to send.
    pub(super) limit: u64,
    window: u64,
    window_set_by: (i64, u64),
    /// Right edge of the relay's window, as far as ever advertised.
    pub(super) edge: u64,
    pub(super) shift: u8,
    pub(super) mss: u64,
    super_frames: bool,
    reported: Vec<(u64, u64)>,
    lost_to: u64,
    resent_to: u64,
    recover: u64,
    duplicates: u32,
    congestion: u64,
    threshold: u64,
    pub(super) timer: Instant,
    backoff: u32,
    round_trip: Option<(Duration, Duration)>,
    measuring: Option<(u64, Instant)>,
    probe_due: bool,
}

impl Sender {
    pub(super) fn new(iss: u32, super_frames: bool) -> Self {
        Self {
            iss,
            una: 0,
            next: 1,
            limit: 1,
            window: 0,
            window_set_by: (0, 0),
            edge: 0,
            shift: 0,
            mss: 536,
            super_frames,
            reported: Vec::new(),
            lost_to: 0,
            resent_to: 0,
            recover: 0,
            duplicates: 0,
            congestion: 0,
            threshold: u64::MAX,
            timer: Instant::FAR,
            backoff: 0,
            round_trip: None,
            measuring: None,
            probe_due: false,
        }
    }

    /// The SYN was acknowledged.
    pub(super) fn open(&mut self, mss: u64, window: u64) {
        self.una = 1;
        self.mss = mss;
        self.window = window;
        self.edge = 1 + window;
        self.congestion = 10 * mss;
        self.timer = Instant::FAR;
        self.backoff = 0;
    }

    pub(super) fn number(&self, offset: u64) -> u32 {
        self.iss.wrapping_add(offset as u32)
    }

    pub(super) fn offset(&self, seq: u32) -> i64 {
        let distance = seq.wrapping_sub(self.number(self.una)).cast_signed();
        self.una.cast_signed() + i64::from(distance)
    }

    fn rto(&self) -> Duration {
        let base = self.round_trip.map_or(Duration::from_secs(1), |(mean, deviation)| mean + deviation * 4);
        base.max(SMALLEST_RTO).saturating_mul(1 << self.backoff.min(10)).min(LARGEST_RTO)
    }

    /// An acknowledgment. Returns whether it is one of something that was sent.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        ack: i64,
        seq: i64,
        window: u64,
        sacks: &[(u32, u32)],
        is_bare: bool,
    ) -> bool {
        if ack > self.next.cast_signed() {
            return false;
        }
        if ack < self.una.cast_signed() {
            return true;
        }
        let ack = ack.cast_unsigned();
        let same_window = window == self.window;
        if self.window_set_by.0 < seq || (self.window_set_by.0 == seq && self.window_set_by.1 <= ack) {
            self.window = window;
            self.window_set_by = (seq, ack);
            self.edge = self.edge.max(ack + window);
        }
        self.backoff = if self.una == self.next { 0 } else { self.backoff };
        for &(from, to) in sacks {
            let (from, to) = (self.offset(from), self.offset(to));
            assert!(from < to && to <= self.next.cast_signed(), "the relay reports what was never sent");
            if from >= ack.cast_signed() {
                self.report(from.cast_unsigned(), to.cast_unsigned());
            }
        }
        if ack > self.una {
            self.progress(now, ack);
        } else if is_bare && same_window && self.una < self.next {
            self.duplicates += 1;
        }
        let highest = self.reported.last().map_or(0, |range| range.1);
        let above: u64 = self.reported.iter().map(|range| range.1 - range.0).sum();
        if self.una < self.next && self.recover <= self.una && (self.duplicates >= 3 || above > 3 * self.mss)
        {
            self.recover = self.next;
            self.threshold = (self.congestion / 2).max(2 * self.mss);
            self.congestion = self.threshold;
            self.resent_to = self.una;
            self.lost_to = highest.max(self.una + self.mss).min(self.next);
        } else if self.recover > self.una {
            self.lost_to = self.lost_to.max(highest);
        }
        true
    }

    fn progress(&mut self, now: Instant, ack: u64) {
        let gained = ack - self.una;
        self.una = ack;
        self.backoff = 0;
        self.duplicates = 0;
        self.reported.retain(|range| range.1 > ack);
        if let Some((offset, sent_at)) = self.measuring
            && ack >= offset
        {
            self.measured(now.since(sent_at));
            self.measuring = None;
        }
        self.congestion += if self.congestion < self.threshold { gained } else { self.mss };
        if self.recover > ack {
            // RFC 6582: a partial acknowledgment shows the next hole.
            self.resent_to = self.resent_to.max(ack);
            self.lost_to = self.lost_to.max(ack + self.mss).min(self.next);
        }
        self.timer = if self.una < self.next { now + self.rto() } else { Instant::FAR };
    }

    fn measured(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((mean, deviation)) => {
                (mean * 7 / 8 + sample / 8, deviation * 3 / 4 + mean.abs_diff(sample) / 4)
            }
        });
    }

    fn report(&mut self, mut from: u64, mut to: u64) {
        self.reported.retain(|range| {
            let touches = range.0 <= to && from <= range.1;
            if touches {
                from = from.min(range.0);
                to = to.max(range.1);
            }
            !touches
        });
        self.reported.push((from, to));
        self.reported.sort_unstable();
    }

    /// A deadline may have come.
    pub(super) fn handle_time(&mut self, now: Instant) -> Option<Next> {
        if self.timer > now {
            return None;
        }
        self.backoff += 1;
        if self.backoff > RETRIES {
            return Some(Next::GiveUp);
        }
        self.timer = now + self.rto();
        if self.una == self.next {
            self.probe_due = true;
            return None;
        }
        // RFC 2018 section 8: after a timeout, what was reported counts as not received.
        self.reported.clear();
        self.threshold = ((self.next - self.una) / 2).max(2 * self.mss);
        self.congestion = self.mss;
        self.recover = self.next;
        self.resent_to = self.una;
        self.lost_to = self.next;
        self.duplicates = 0;
        self.measuring = None;
        None
    }

    /// The next thing to send, if anything.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Next> {
        if core::mem::take(&mut self.probe_due) {
            return Some(Next::Probe);
        }
        if let Some(span) = self.poll_lost() {
            return Some(span);
        }
        let open_to = self.una + self.window.min(self.congestion);
        let most =
            if self.super_frames { LARGEST_SUPER_FRAME - LARGEST_SUPER_FRAME % self.mss } else { self.mss };
        let to = self.limit.min(self.next + most.max(self.mss)).min(open_to);
        if self.next < to {
            let from = self.next;
            self.next = to;
            self.measuring.get_or_insert((to, now));
            if self.timer == Instant::FAR {
                self.timer = now + self.rto();
            }
            return Some(Next::Span(from, to));
        }
        if self.limit > self.next && self.una == self.next && self.timer == Instant::FAR {
            self.timer = now + self.rto();
        }
        None
    }

    fn poll_lost(&mut self) -> Option<Next> {
        self.resent_to = self.resent_to.max(self.una);
        if let Some(range) =
            self.reported.iter().find(|range| range.0 <= self.resent_to && self.resent_to < range.1)
        {
            self.resent_to = range.1;
        }
        let hole_ends = self.reported.iter().map(|range| range.0).find(|&from| from > self.resent_to);
        let to = (self.resent_to + self.mss)
            .min(self.lost_to)
            .min(self.next)
            .min(hole_ends.unwrap_or(u64::MAX))
            .min(self.una + self.congestion.max(self.mss));
        if self.resent_to >= to {
            return None;
        }
        let from = self.resent_to;
        self.resent_to = to;
        self.measuring = None;
        Some(Next::Span(from, to))
    }
}
