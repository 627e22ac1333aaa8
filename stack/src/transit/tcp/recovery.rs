// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was lost on the way to the container, and when to send it again.
//!
//! # How it works
//! Every transmission has a number. When the container reports one (by acknowledgment or SACK), everything sent
//! before it and still unreported is lost: the link keeps order. A lost super-frame is sent again whole and at once.
//! Without SACK, three duplicate acknowledgments mean the oldest segment; while recovering, each partial
//! acknowledgment means the next one (RFC 6582). When nothing is heard, a timer sends the oldest again.
//!
//! The timer follows the measured round trip, which on a TAP is tens of microseconds. Its floor is small, so that a
//! lost tail costs milliseconds; a container that acknowledges late on purpose (delayed ACK) shows itself by reporting
//! a duplicate (D-SACK) and gets a higher floor.
//!
//! # Sources
//! RFC 6298 (timer), RFC 6675 and RFC 8985 (loss detection), RFC 2883 (D-SACK), RFC 9293 section 3.8.6.1 (probes).

use std::collections::VecDeque;

use smoltcp::wire::TcpControl;
use wharf_switch::{Duration, Instant};

use super::download::Segment;
use super::seq::Seq;
use super::{Cx, Fate, Flow, Phase};
use crate::env::Outbox;
use crate::host::Host;

/// The timer before anything was measured.
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);
const FLOOR: Duration = Duration::from_millis(5);
/// Above the delayed ACK of every stack in use (Linux: 40 ms).
const FLOOR_AFTER_SPURIOUS: Duration = Duration::from_millis(60);
const CEILING: Duration = Duration::from_secs(10);
/// RFC 9293 section 3.8.3: R2 SHOULD correspond to at least 100 seconds.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
const DUPLICATES: u32 = 3;

/// Round-trip measurement, timers and loss detection of one connection.
#[derive(Debug)]
pub(super) struct Recovery {
    smoothed: Option<(Duration, Duration)>,
    floor: Duration,
    backoff: u32,
    /// When the retransmission or probe timer is due.
    due: Instant,
    /// Since when nothing new was acknowledged although something is missing.
    stuck_since: Option<Instant>,
    last_order: u64,
    /// The latest transmission that was reported.
    newest_reported: u64,
    duplicates: u32,
    /// Recovering without SACK, or after a timeout, until this number is acknowledged.
    recover: Option<Seq>,
    has_lost: bool,
    syn_at: Option<Instant>,
}

impl Recovery {
    pub(super) fn new() -> Self {
        Self {
            smoothed: None,
            floor: FLOOR,
            backoff: 0,
            due: Instant::FAR,
            stuck_since: None,
            last_order: 0,
            newest_reported: 0,
            duplicates: 0,
            recover: None,
            has_lost: false,
            syn_at: None,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.due
    }

    pub(super) fn has_lost(&self) -> bool {
        self.has_lost
    }

    /// The retransmission timeout now, backed off.
    fn timeout(&self) -> Duration {
        let base =
            self.smoothed.map_or(FIRST_TIMEOUT, |(mean, deviation)| mean + 4 * deviation).max(self.floor);
        base.saturating_mul(1 << self.backoff.min(16)).min(CEILING)
    }

    /// RFC 6298 section 2. A segment that was sent again measures nothing (Karn), nor does one that was reported before.
    pub(super) fn measured(&mut self, sample: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, deviation)) => {
                (mean * 7 / 8 + sample / 8, deviation * 3 / 4 + mean.abs_diff(sample) / 4)
            }
        });
    }

    pub(super) fn syn_sent(&mut self, now: Instant) {
        // Karn: a repeated SYN-ACK measures nothing.
        self.syn_at = if self.due == Instant::FAR { Some(now) } else { None };
        self.stuck_since.get_or_insert(now);
        self.due = now + self.timeout();
    }

    pub(super) fn syn_acknowledged(&mut self, now: Instant) {
        if let Some(sent_at) = self.syn_at.take() {
            self.measured(now.since(sent_at));
        }
    }

    /// Something is sent: its number among all transmissions.
    pub(super) fn transmitted(&mut self, now: Instant) -> u64 {
        self.last_order += 1;
        if self.stuck_since.is_none() {
            self.stuck_since = Some(now);
            self.due = now + self.timeout();
        }
        self.last_order
    }

    /// The container reported `segment`.
    pub(super) fn reported(&mut self, now: Instant, segment: &Segment) {
        self.newest_reported = self.newest_reported.max(segment.order);
        self.due = now + self.timeout();
        self.stuck_since = Some(now);
    }

    /// The cumulative acknowledgment advanced, be it into the middle of a super-frame.
    pub(super) fn progress(&mut self, now: Instant) {
        self.backoff = 0;
        self.duplicates = 0;
        // RFC 6298 section 5.3: when an ACK acknowledges new data, restart the timer.
        self.due = now + self.timeout();
        self.stuck_since = Some(now);
    }

    /// RFC 9293 section 3.8.6.1: as long as a closed window is acknowledged, the connection is to stay open.
    pub(super) fn still_closed(&mut self, now: Instant) {
        self.stuck_since = self.stuck_since.map(|_| now);
    }

    /// A window that was closed with nothing in flight has opened: probing it says nothing about the round trip.
    pub(super) fn opened(&mut self) {
        self.backoff = 0;
        self.idle();
    }

    /// Nothing is in flight any more.
    pub(super) fn idle(&mut self) {
        self.due = Instant::FAR;
        self.stuck_since = None;
        self.recover = None;
    }

    pub(super) fn duplicate(&mut self) {
        self.duplicates += 1;
    }

    /// The container got something twice: our timer was too eager.
    pub(super) fn spurious(&mut self) {
        self.floor = FLOOR_AFTER_SPURIOUS;
    }

    /// The host has data but the window is closed. With nothing in flight only a probe can open it again.
    pub(super) fn starve(&mut self, now: Instant, nothing_in_flight: bool) {
        if nothing_in_flight && self.due == Instant::FAR {
            self.due = now + self.timeout().max(FIRST_TIMEOUT);
        }
    }

    /// Marks what must have been lost.
    pub(super) fn find_lost(
        &mut self,
        segments: &mut VecDeque<Segment>,
        ack: Seq,
        advanced: bool,
        sack: bool,
    ) {
        if self.recover.is_some_and(|recover| ack >= recover) {
            self.recover = None;
        }
        if sack && segments.iter().any(|segment| segment.sacked) {
            for segment in segments.iter_mut() {
                if !segment.sacked && !segment.lost && segment.order < self.newest_reported {
                    segment.lost = true;
                    self.has_lost = true;
                }
            }
        }
        let Some(front) = segments.front_mut() else { return };
        let next_hole = advanced && self.recover.is_some();
        let enough_duplicates = !sack && self.duplicates == DUPLICATES && self.recover.is_none();
        if (next_hole || enough_duplicates) && !front.sacked && !front.lost {
            front.lost = true;
            self.has_lost = true;
            if let Some(last) = segments.back().filter(|_| enough_duplicates) {
                self.recover = Some(last.end());
            }
        }
    }
}

impl Flow {
    /// Sends again what is marked as lost.
    pub(super) fn retransmit_lost<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        if !core::mem::take(&mut self.download.recovery.has_lost) {
            return;
        }
        for at in 0..self.download.segments.len() {
            if self.download.segments.get(at).is_some_and(|segment| segment.lost && !segment.sacked) {
                self.retransmit(cx, at);
            }
        }
    }

    fn retransmit<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, at: usize) {
        let order = self.download.recovery.transmitted(cx.now);
        let Some(segment) = self.download.segments.get_mut(at) else { return };
        segment.lost = false;
        segment.order = order;
        segment.transmissions += 1;
        segment.sent_at = cx.now;
        let (seq, len) = (segment.seq, segment.len);
        let Some(mut frame) = segment.frame.take() else {
            self.emit_fin(cx, seq);
            return;
        };
        self.emit_data(cx, &mut frame, seq, usize::try_from(len).unwrap_or(0));
        if let Some(segment) = self.download.segments.get_mut(at) {
            segment.frame = Some(frame);
        }
    }

    /// The retransmission timer, or the probe of a closed window.
    pub(super) fn handle_retransmission_timer<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        let recovery = &mut self.download.recovery;
        if recovery.due > cx.now {
            return Fate::Lives;
        }
        if recovery.stuck_since.is_some_and(|since| cx.now.since(since) >= GIVE_UP_AFTER) {
            return self.abandon(cx);
        }
        recovery.backoff += 1;
        recovery.due = cx.now + recovery.timeout();
        match self.phase {
            Phase::Answered => {
                self.send_syn_ack(cx);
                return Fate::Lives;
            }
            Phase::SynSent => {
                self.send_syn(cx);
                return Fate::Lives;
            }
            Phase::Connecting | Phase::Open | Phase::Linger => {}
        }
        let Some(last) = self.download.segments.back() else {
            return self.probe(cx);
        };
        self.download.recovery.recover = Some(last.end());
        if self.download.segments.front().is_some_and(|oldest| oldest.sacked) {
            // RFC 2018 section 8: the data receiver has reneged; turn off all of the SACKed bits.
            self.download.segments.iter_mut().for_each(|segment| segment.sacked = false);
        }
        if let Some(oldest) = self.download.segments.iter().position(|segment| !segment.sacked) {
            self.retransmit(cx, oldest);
        }
        Fate::Lives
    }

    /// RFC 9293 section 3.8.6.1: a closed window is probed; an old sequence number asks for an ACK without any data.
    fn probe<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        if !self.download.is_starved() {
            self.download.recovery.idle();
            return Fate::Lives;
        }
        // "The sending TCP peer should increase exponentially the interval between successive probes", from the
        // retransmission timeout on; what was measured on the link is too short for a reader that takes its time.
        let recovery = &mut self.download.recovery;
        let interval = FIRST_TIMEOUT.saturating_mul(1 << recovery.backoff.min(16)).min(CEILING);
        recovery.due = recovery.due.max(cx.now + interval);
        let seq = self.download.unacknowledged() - 1;
        let header = self.header(cx.env, TcpControl::None, seq);
        self.send_bare(cx, &header);
        Fate::Lives
    }
}
