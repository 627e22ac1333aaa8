// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom the guards stopped since the owner of the switch last asked.
//!
//! # Bounds
//! [`MAX_ALARMS`] pairs of a port and a reason; what is beyond is in the drop counters only.

use crate::{DropReason, PortId};

/// Pairs of a port and a reason that are kept apart.
pub const MAX_ALARMS: usize = 64;

/// Frames of a port that a guard stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The port.
    pub port: PortId,
    /// What its frames claimed wrongly.
    pub reason: DropReason,
    /// How many.
    pub count: u64,
}

/// The alarms of one worker.
#[derive(Debug, Default)]
pub struct Alarms(Vec<Alarm>);

impl Alarms {
    /// Takes note of a dropped frame, if a guard stopped it.
    pub(crate) fn note(&mut self, port: PortId, reason: DropReason) {
        if !is_of_guards(reason) {
            return;
        }
        if let Some(alarm) = self.0.iter_mut().find(|alarm| (alarm.port, alarm.reason) == (port, reason)) {
            alarm.count += 1;
        } else if self.0.len() < MAX_ALARMS {
            self.0.push(Alarm { port, reason, count: 1 });
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes them all.
    pub fn take(&mut self) -> impl Iterator<Item = Alarm> + '_ {
        self.0.drain(..)
    }
}

/// Whether a frame was dropped because of what it said of its sender.
fn is_of_guards(reason: DropReason) -> bool {
    use DropReason as R;
    matches!(
        reason,
        R::SourceIsGateway
            | R::SourceMacForged
            | R::Ipv4SourceForged
            | R::Ipv6SourceForged
            | R::ArpForged
            | R::NdpForged
            | R::NdpFragmented
            | R::DhcpServerForbidden
            | R::RouterForbidden
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_drops_are_counted_by_port_and_reason_and_others_are_not() {
        let port = |index| PortId { index, generation: 0 };
        let mut alarms = Alarms::default();
        for reason in [DropReason::ArpForged, DropReason::SamePort, DropReason::ArpForged] {
            alarms.note(port(1), reason);
        }
        alarms.note(port(2), DropReason::RouterForbidden);
        let taken: Vec<_> = alarms.take().map(|alarm| (alarm.port.index, alarm.count)).collect();
        assert_eq!(taken, [(1, 2), (2, 1)]);
        assert!(alarms.is_empty());
        (0..1000).for_each(|index| alarms.note(port(index), DropReason::ArpForged));
        assert_eq!(alarms.take().count(), MAX_ALARMS);
    }
}
