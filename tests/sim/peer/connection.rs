// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection of the peer: opening, the order of checks on what comes in, and the ends.
//!
//! # Sources
//! RFC 9293 section 3.10.7; RFC 5961 (RST and SYN in window); Linux for what a closed socket does with data.

use wharf_switch::{Duration, Instant};

use super::Habits;
use super::receiver::Receiver;
use super::sender::{Next, Sender};
use super::wire::{Device, Ends, Segment};
use crate::container::{Opener, Part};
use crate::random::{Random, pattern};
use crate::station::Outcome;

const FIRST_SYN_TIMEOUT: Duration = Duration::from_secs(1);
const SYN_RETRIES: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Where a connection stands. Which halves are finished is in the halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// A published port waits for its client.
    Listening,
    SynSent,
    SynReceived,
    Open,
    /// Both finished, ours first.
    TimeWait,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ends: Ends,
    device: Device,
    habits: Habits,
    random: Random,
    link_mss: u16,
    pub(super) outcome: Outcome,
    phase: Phase,
    iss: u32,
    syn_sent: u32,
    syn_at: Instant,
    sender: Sender,
    receiver: Receiver,
    sack: bool,
    scaled: bool,
    next_at: Instant,
    pause: Duration,
    nap: Option<Duration>,
    out: Vec<Segment>,
}

impl Connection {
    pub(super) fn new(
        part: Part,
        ends: Ends,
        device: Device,
        habits: Habits,
        link_mss: u16,
        mut random: Random,
        opener: Opener,
    ) -> Self {
        // A scale that leaves the window a few units to speak in.
        let mut habits = habits;
        habits.scale = habits.scale.map(|scale| scale.min((part.receive_buffer as u64 / 16).ilog2() as u8));
        // Near the wrap, now and then.
        let iss =
            if random.chance(300) { u32::MAX - random.below(50_000) as u32 } else { random.next() as u32 };
        Self {
            ends,
            device,
            habits,
            link_mss,
            outcome: Outcome { ended: opener == Opener::Clients && !part.is_served, ..Outcome::new(part) },
            phase: match opener {
                Opener::Container => Phase::Waiting,
                Opener::Clients if part.is_served => Phase::Listening,
                Opener::Clients => Phase::Closed,
            },
            iss,
            syn_sent: 0,
            syn_at: Instant::FAR,
            sender: Sender::new(iss, device.tso),
            receiver: Receiver::new(0, part.stream + 1, part.receive_buffer as u64, 0, 536),
            sack: false,
            scaled: false,
            next_at: part.starts_at,
            pause: part.step,
            nap: None,
            out: Vec::new(),
            random,
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Vec<u8>> {
        let (ends, device) = (self.ends, self.device);
        self.out.drain(..).map(|segment| segment.emit(&ends, device)).collect()
    }

    /// When the connection acts next.
    pub(super) fn next(&self) -> Option<Instant> {
        let application = if self.outcome.ended { Instant::FAR } else { self.next_at };
        let timers = match self.phase {
            Phase::Waiting => self.next_at,
            Phase::SynSent | Phase::SynReceived => self.syn_at,
            Phase::Listening => Instant::FAR,
            Phase::Open => self.sender.timer.min(self.receiver.ack_at).min(application),
            Phase::TimeWait => application,
            Phase::Closed => Instant::FAR,
        };
        (timers < Instant::FAR).then_some(timers)
    }

    /// Everything that is due.
    pub(super) fn advance(&mut self, now: Instant) {
        match self.phase {
            Phase::Waiting if self.next_at <= now => {
                self.phase = Phase::SynSent;
                self.send_syn(now);
            }
            Phase::SynSent if self.syn_at <= now => {
                if self.syn_sent > SYN_RETRIES {
                    self.close(true);
                    return;
                }
                if self.random.chance(self.habits.reincarnates) {
                    // The application gave up and tries again from the same port.
                    self.iss = self.iss.wrapping_add(self.random.next() as u32);
                    self.sender = Sender::new(self.iss, self.device.tso);
                }
                self.send_syn(now);
            }
            Phase::SynReceived if self.syn_at <= now => {
                if self.syn_sent > SYN_RETRIES {
                    self.close(true);
                    return;
                }
                self.send_syn_ack(now);
            }
            Phase::Open | Phase::TimeWait => self.advance_open(now),
            Phase::Waiting | Phase::Listening | Phase::SynSent | Phase::SynReceived | Phase::Closed => {}
        }
    }

    fn advance_open(&mut self, now: Instant) {
        if self.next_at <= now && !self.outcome.ended {
            let was = (self.outcome.sent, self.outcome.received);
            self.run_application();
            let is_idle = was == (self.outcome.sent, self.outcome.received);
            self.pause = if is_idle { self.pause * 2 } else { Duration::ZERO };
            self.pause = self.pause.clamp(self.outcome.part.step, LONGEST_PAUSE);
            self.next_at = now + self.nap.take().unwrap_or(self.pause);
        }
        if self.phase != Phase::Open {
            return;
        }
        if let Some(Next::GiveUp) = self.sender.handle_time(now) {
            self.reset();
            return;
        }
        self.speak(now);
    }

    /// What the program with the socket does.
    fn run_application(&mut self) {
        let part = self.outcome.part;
        let limit = part.aborts_after.filter(|_| self.phase == Phase::Open);
        if limit.is_some_and(|limit| self.outcome.received >= limit) {
            if self.habits.leaves_quietly {
                // close() with unread data, or data on its way: a reset answers what still comes.
                let unread = self.receiver.waiting() > 0;
                self.outcome.aborted = true;
                if unread || self.receiver.finished {
                    self.reset();
                } else {
                    self.habits.is_deaf = true;
                    self.sender.limit = self.outcome.sent + 2;
                    self.outcome.ended = true;
                }
            } else {
                self.outcome.aborted = true;
                self.reset();
            }
            return;
        }
        if self.phase == Phase::Open && self.outcome.sent < part.sends {
            let wanted = part.write_size.min(part.sends - self.outcome.sent);
            // A send buffer like Linux's.
            let room = 256 * 1024u64;
            let waiting = 1 + self.outcome.sent - self.sender.una.min(1 + self.outcome.sent);
            self.outcome.sent += wanted.min(room.saturating_sub(waiting));
            self.sender.limit = 1 + self.outcome.sent;
        }
        if self.outcome.sent == part.sends && self.phase == Phase::Open {
            self.sender.limit = part.sends + 2;
        }
        if self.outcome.received > part.expects / 2
            && let Some(nap) = self.habits.nap.take()
        {
            self.receiver.close_window();
            self.nap = Some(nap);
            return;
        }
        self.outcome.received += self.receiver.take(part.read_size);
        self.outcome.corrupt |= self.receiver.corrupt;
        if self.phase == Phase::TimeWait && self.receiver.waiting() == 0 {
            self.outcome.ended = true;
        }
    }

    fn fin_offset(&self) -> u64 {
        self.outcome.sent + 1
    }

    /// Sends what may be sent, then an ACK if one is owed.
    fn speak(&mut self, now: Instant) {
        while let Some(next) = self.sender.poll(now) {
            match next {
                Next::Span(from, to) => self.send_span(from, to),
                Next::Probe => {
                    let seq = self.sender.number(self.sender.una - 1);
                    self.send(Segment { seq, ..Segment::default() });
                }
                Next::GiveUp => {}
            }
        }
        if self.receiver.ack_now || self.receiver.ack_at <= now {
            let sacks = if self.sack { self.receiver.sacks(self.habits.sack_blocks) } else { Vec::new() };
            let seq = self.sender.number(self.sender.next);
            self.send(Segment { seq, sacks, ..Segment::default() });
        }
    }

    fn send_span(&mut self, from: u64, to: u64) {
        let fin_at = self.fin_offset();
        let fin = to > fin_at;
        let end = to.min(fin_at);
        let alone = fin && from < end && !self.habits.fin_with_data;
        let payload: Vec<u8> =
            (from..end).map(|offset| pattern(self.outcome.part.stream, offset - 1)).collect();
        let is_long = payload.len() as u64 > self.sender.mss;
        let pieces_of = if is_long { self.sender.mss as u16 } else { 0 };
        let urgent =
            (!payload.is_empty() && self.random.chance(self.habits.urgent)).then_some(payload.len() as u16);
        let seq = self.sender.number(from);
        self.send(Segment { seq, payload, pieces_of, urgent, fin: fin && !alone, ..Segment::default() });
        if alone {
            let seq = self.sender.number(fin_at);
            self.send(Segment { seq, fin: true, ..Segment::default() });
        }
    }

    /// Puts acknowledgment and window on a segment and sends it.
    fn send(&mut self, mut segment: Segment) {
        segment.ack = Some(self.receiver.number(self.receiver.next));
        segment.window = self.receiver.window(&mut self.random);
        self.receiver.acknowledged();
        self.out.push(segment);
    }

    fn send_syn(&mut self, now: Instant) {
        let scale = self.habits.scale;
        self.out.push(Segment {
            seq: self.iss,
            syn: true,
            window: self.outcome.part.receive_buffer.min(65_535) as u16,
            mss: Some(self.link_mss),
            scale,
            sack_permitted: self.habits.sack_blocks > 0,
            timestamp: self.habits.timestamps.then_some((77, 0)),
            ..Segment::default()
        });
        self.syn_at = now + FIRST_SYN_TIMEOUT * (1 << self.syn_sent.min(6));
        self.syn_sent += 1;
    }

    fn send_syn_ack(&mut self, now: Instant) {
        self.out.push(Segment {
            seq: self.iss,
            ack: Some(self.receiver.number(1)),
            syn: true,
            window: self.outcome.part.receive_buffer.min(65_535) as u16,
            mss: Some(self.link_mss),
            scale: self.habits.scale.filter(|_| self.scaled),
            sack_permitted: self.sack,
            ..Segment::default()
        });
        self.syn_at = now + FIRST_SYN_TIMEOUT * (1 << self.syn_sent.min(6));
        self.syn_sent += 1;
    }

    fn reset(&mut self) {
        let seq = self.sender.number(self.sender.next);
        if self.phase != Phase::SynSent {
            self.send(Segment { seq, rst: true, ..Segment::default() });
        }
        self.close(true);
    }

    fn close(&mut self, is_over: bool) {
        self.phase = Phase::Closed;
        self.outcome.ended |= is_over;
    }

    /// The caller gives up whatever is still open.
    pub(super) fn hang_up(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::SynSent | Phase::SynReceived) {
            self.reset();
        }
        self.phase = Phase::Closed;
        self.outcome.ended = true;
    }

    /// A segment from the relay.
    pub(super) fn handle(&mut self, now: Instant, segment: &Segment) {
        match self.phase {
            Phase::Waiting | Phase::Closed => self.refuse(segment),
            Phase::Listening => self.handle_while_listening(now, segment),
            Phase::SynSent => self.handle_while_opening(now, segment),
            Phase::SynReceived => self.handle_syn_received(now, segment),
            Phase::Open | Phase::TimeWait => self.handle_open(now, segment),
        }
    }

    /// RFC 9293 section 3.10.7.1.
    fn refuse(&mut self, segment: &Segment) {
        if segment.rst {
            return;
        }
        let len = segment.payload.len() as u32 + u32::from(segment.syn) + u32::from(segment.fin);
        let ack = segment.ack.is_none().then(|| segment.seq.wrapping_add(len));
        self.out.push(Segment { seq: segment.ack.unwrap_or(0), ack, rst: true, ..Segment::default() });
    }

    /// RFC 9293 section 3.10.7.3.
    fn handle_while_opening(&mut self, now: Instant, segment: &Segment) {
        if segment.ack != Some(self.iss.wrapping_add(1)) {
            if segment.ack.is_some() {
                self.refuse(segment);
            }
            return;
        }
        if segment.rst {
            self.close(true);
            return;
        }
        if !segment.syn {
            return;
        }
        self.check_mss(segment);
        self.meet(segment);
        self.phase = Phase::Open;
        self.next_at = now;
    }

    /// Whoever speaks to a port that nobody has connected to yet is its client.
    pub(super) fn meet_client(&mut self, remote: (std::net::IpAddr, u16)) {
        if self.syn_sent == 0 {
            self.ends.remote = remote;
        }
        assert_eq!(self.ends.remote, remote, "a published port has one client here");
    }

    /// The relay's SYN names the link's segment size, less what makes it a multiple of the host's.
    fn check_mss(&self, syn: &Segment) {
        let least = self.link_mss - self.link_mss / 16;
        assert!(syn.mss.is_some_and(|mss| mss > least && mss <= self.link_mss), "{:?}", syn.mss);
    }

    /// RFC 9293 section 3.10.7.2.
    fn handle_while_listening(&mut self, now: Instant, segment: &Segment) {
        if segment.ack.is_some() {
            self.refuse(segment);
        } else if segment.syn && !segment.rst {
            self.check_mss(segment);
            self.meet(segment);
            self.phase = Phase::SynReceived;
            self.send_syn_ack(now);
        }
    }

    /// RFC 9293 section 3.10.7.4 for SYN-RECEIVED.
    fn handle_syn_received(&mut self, now: Instant, segment: &Segment) {
        let from = self.receiver.offset(segment.seq);
        if segment.rst {
            if from == 1 {
                self.close(true);
            }
        } else if segment.syn {
            self.send_syn_ack(now);
        } else if segment.ack == Some(self.iss.wrapping_add(1)) {
            self.phase = Phase::Open;
            self.next_at = now;
            self.handle_open(now, segment);
        } else {
            self.refuse(segment);
        }
    }

    /// What the relay's SYN or SYN-ACK says about itself.
    fn meet(&mut self, segment: &Segment) {
        assert!(segment.timestamp.is_none(), "the relay takes no timestamps");
        let mss = u64::from(segment.mss.unwrap_or(536)).min(u64::from(self.link_mss));
        self.sack = self.habits.sack_blocks > 0 && segment.sack_permitted;
        self.scaled = self.habits.scale.is_some() && segment.scale.is_some();
        let shift = if self.scaled { self.habits.scale.unwrap_or(0) } else { 0 };
        let part = self.outcome.part;
        let buffer = (part.receive_buffer as u64).min(65_535 << shift);
        self.receiver = Receiver::new(segment.seq, part.stream + 1, buffer, shift, mss);
        self.receiver.shrinks = self.habits.shrinks;
        self.receiver.forgets = self.habits.forgets;
        self.sender.shift = if self.scaled { segment.scale.unwrap_or(0) } else { 0 };
        self.sender.open(mss, u64::from(segment.window));
    }

    /// RFC 9293 section 3.10.7.4 in its order.
    fn handle_open(&mut self, now: Instant, segment: &Segment) {
        let from = self.receiver.offset(segment.seq);
        let to = from + segment.payload.len() as i64 + i64::from(segment.fin);
        if !self.receiver.is_acceptable(from, to) {
            self.receiver.ack_now |= !segment.rst;
            self.answer_old(segment);
            return;
        }
        if segment.rst {
            // RFC 5961 section 3.2.
            if from == self.receiver.next.cast_signed() && self.phase == Phase::Open {
                // What came before it can be read still.
                self.outcome.received += self.receiver.take(u64::MAX);
                self.outcome.corrupt |= self.receiver.corrupt;
                self.close(true);
            } else if self.phase == Phase::Open {
                self.receiver.ack_now = true;
            }
            return;
        }
        if segment.syn {
            self.receiver.ack_now = true;
            return;
        }
        let Some(ack) = segment.ack else { return };
        let is_bare = segment.payload.is_empty() && !segment.fin;
        let window = u64::from(segment.window) << self.sender.shift;
        if self.habits.checks_edge && ack == self.sender.number(self.sender.una) {
            // RFC 9293 section 3.8.6: the right edge is not to move back. The field's unit is what it can say.
            let edge = self.sender.una + window + (1 << self.sender.shift);
            assert!(edge > self.sender.edge, "the right edge of the relay's window moved back");
        }
        let ack = self.sender.offset(ack);
        if !self.sender.handle_ack(now, ack, from, window, &segment.sacks, is_bare) {
            self.receiver.ack_now = true;
            return;
        }
        if self.habits.is_deaf && !segment.payload.is_empty() {
            // Nobody reads any more.
            self.reset();
            return;
        }
        if segment.payload.len() > usize::from(self.link_mss) {
            assert!(segment.pieces_of > 0, "a segment larger than was agreed");
            assert!(segment.pieces_of <= self.link_mss);
        }
        if !is_bare {
            self.receiver.accept(now, from, &segment.payload, segment.fin, &mut self.random);
        }
        self.see_to_the_end();
    }

    /// TIME-WAIT answers a repeated FIN.
    fn answer_old(&mut self, segment: &Segment) {
        if self.phase == Phase::TimeWait && segment.fin {
            self.receiver.ack_now = false;
            let seq = self.sender.number(self.sender.next);
            self.send(Segment { seq, ..Segment::default() });
        }
    }

    fn see_to_the_end(&mut self) {
        let fin_acknowledged =
            self.sender.una == self.fin_offset() + 1 && self.sender.limit > self.fin_offset();
        if !(fin_acknowledged && self.receiver.finished) || self.phase != Phase::Open {
            return;
        }
        let seq = self.sender.number(self.sender.next);
        if self.receiver.ack_now {
            self.send(Segment { seq, ..Segment::default() });
        }
        self.phase = Phase::TimeWait;
        self.outcome.ended |= self.receiver.waiting() == 0;
    }
}
