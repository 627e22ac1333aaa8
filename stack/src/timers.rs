// SPDX-License-Identifier: MIT OR Apache-2.0
//! When something is due: one queue of deadlines for all flows of a gateway.
//!
//! # How it works
//! A flow holds its true deadline itself and an [`Alarm`] here: the earliest entry this queue has for it. Moving a
//! deadline *later*, which every ACK does, touches nothing; when the entry comes up too early, the flow sets the next
//! one. So a busy flow costs one entry per timeout, not one per packet.
//!
//! # Bounds
//! Entries that were overtaken by an earlier one stay until they come up and are then ignored. Those of flows that ended
//! are swept out when they are the larger part.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wharf_switch::Instant;

use crate::host::Token;

/// The entries that the queue holds for one flow: the next one, and a later one that was there before. Without the
/// second, every short deadline would leave another idle timeout of hours behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alarm {
    next: Instant,
    later: Instant,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { next: Instant::FAR, later: Instant::FAR }
    }
}

/// The queue of deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    /// About how many entries nobody awaits.
    stale: usize,
}

/// Fewer entries than this are not worth a sweep.
const SWEPT_FROM: usize = 64;

impl Timers {
    /// Sees to it that `token` comes up at `at` or before.
    pub(crate) fn set(&mut self, alarm: &mut Alarm, token: Token, at: Instant) {
        if at < alarm.next {
            if alarm.later == Instant::FAR {
                alarm.later = alarm.next;
            }
            alarm.next = at;
            self.queue.push(Reverse((at, token.pack())));
        }
    }

    /// The next token whose entry is due, with the moment it was set for.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(Token, Instant)> {
        loop {
            let &Reverse((at, packed)) = self.queue.peek()?;
            if at > now {
                return None;
            }
            self.queue.pop();
            if let Some(token) = Token::unpack(packed) {
                return Some((token, at));
            }
        }
    }

    /// The flow of `alarm` has ended.
    pub(crate) fn retire(&mut self, alarm: Alarm) {
        self.stale += [alarm.next, alarm.later].iter().filter(|&&at| at != Instant::FAR).count();
    }

    /// Removes what nobody awaits, once it is the larger part: each removed entry pays for one that is looked at.
    pub(crate) fn sweep(&mut self, is_awaited: impl Fn(Token, Instant) -> bool) {
        if self.stale < SWEPT_FROM || self.stale * 2 < self.queue.len() {
            return;
        }
        self.queue.retain(|&Reverse((at, packed))| {
            Token::unpack(packed).is_some_and(|token| is_awaited(token, at))
        });
        self.queue.shrink_to(2 * self.queue.len());
        self.stale = 0;
    }

    /// The moment the next entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|&Reverse((at, _))| at)
    }
}

impl Alarm {
    /// Whether the entry set for `at` is this alarm's.
    pub(crate) fn is_set_for(&self, at: Instant) -> bool {
        self.next == at || self.later == at
    }

    /// Whether the entry set for `at` is this alarm's; if so it is off. Entries overtaken twice are not.
    pub(crate) fn rings(&mut self, at: Instant) -> bool {
        if self.next == at {
            *self = Self { next: self.later, later: Instant::FAR };
            return true;
        }
        let rings = self.later == at && at != Instant::FAR;
        if rings {
            self.later = Instant::FAR;
        }
        rings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{FlowId, Owner};

    fn token(index: u32) -> Token {
        Token { owner: Owner::Tcp, flow: FlowId { index, generation: 0 } }
    }

    #[test]
    fn a_later_deadline_adds_no_entry() {
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        timers.set(&mut alarm, token(1), Instant::from_secs(1));
        timers.set(&mut alarm, token(1), Instant::from_secs(2));
        assert_eq!(timers.queue.len(), 1);
        assert_eq!(timers.poll(Instant::from_secs(1)), Some((token(1), Instant::from_secs(1))));
        assert!(alarm.rings(Instant::from_secs(1)));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_entry_overtaken_twice_does_not_ring() {
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        for secs in [9, 3, 1] {
            timers.set(&mut alarm, token(1), Instant::from_secs(secs));
        }
        let rung: Vec<bool> =
            (0..3).map(|_| alarm.rings(timers.poll(Instant::from_secs(10)).unwrap().1)).collect();
        assert_eq!(rung, [true, false, true]);
    }

    #[test]
    fn entries_of_flows_that_ended_do_not_pile_up() {
        let mut timers = Timers::default();
        let mut lasting = Alarm::default();
        timers.set(&mut lasting, token(0), Instant::from_secs(7440));
        for index in 1..10_000 {
            let mut alarm = Alarm::default();
            timers.set(&mut alarm, token(index), Instant::from_secs(240));
            timers.retire(alarm);
            timers.sweep(|token, at| token.flow.index == 0 && lasting.is_set_for(at));
            assert!(timers.queue.len() <= 2 * SWEPT_FROM);
        }
        timers.sweep(|_, _| panic!("too few are stale"));
        while let Some((token, _)) = timers.poll(Instant::from_secs(240)) {
            assert_ne!(token.flow.index, 0);
        }
        assert_eq!(timers.next(), Some(Instant::from_secs(7440)));
    }

    #[test]
    fn short_deadlines_over_and_over_leave_one_idle_timeout() {
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        for round in 0..1000 {
            let now = Instant::from_secs(round);
            timers.set(&mut alarm, token(1), now + wharf_switch::Duration::from_millis(5));
            let (_, at) = timers.poll(now + wharf_switch::Duration::from_millis(6)).unwrap();
            assert!(alarm.rings(at));
            timers.set(&mut alarm, token(1), now + wharf_switch::Duration::from_secs(7440));
        }
        assert_eq!(timers.queue.len(), 1);
    }
}
