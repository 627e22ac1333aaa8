// SPDX-License-Identifier: MIT OR Apache-2.0
//! The switch of one worker: its ports, and what went through them.
//!
//! # Path
//! [`Switch::receive`] takes a frame from a port, [`Switch::decide`] says where it goes, [`Switch::deliver`] sends
//! it there. The gateway's frames enter at [`Switch::decide`] with [`PortId::GATEWAY`].
//!
//! # How it works
//! Every worker has a switch of its own with its own queue of each port; they share the [`Fdb`]. So that a
//! [`PortId`] means the same to all of them, one worker's switch hands out the id ([`Switch::attach`]) and the
//! others put their queue at the same place ([`Switch::attach_as`]). A port's [`Policy`] is one value that every worker's
//! switch is given.
//!
//! A frame that a port cannot take as it is, is finished first: its checksum computed, a super-frame cut. Ports
//! that take it whole get it untouched, whatever the order of a flood. The VLAN tag comes last, on the frame or on each
//! piece, and goes before the next port's turn.
//!
//! # Bounds
//! [`MAX_PORTS`](crate::fdb::MAX_PORTS) ports. Nothing is queued here: a frame that a port does not take is dropped, with a
//! reason.

use std::sync::Arc;

use smoltcp::wire::EthernetAddress;

use crate::forward::{Egress, Forwarding};
use crate::offload::{complete_checksum, segment};
use crate::table::{Attached, Table};
use crate::{
    Alarms, DropCounters, DropReason, Fdb, Frame, Instant, Policy, Pool, Port, PortCounters, PortId,
    Received, Sent, Tally, TooManyPorts, vlan,
};

/// What became of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Frames that ports took; a super-frame counts as many as it was cut into.
    pub sent: u32,
    /// Frames that no port took; counted with their reason.
    pub dropped: u32,
    /// The gateway is to get it too: the caller's to hand over.
    pub gateway: bool,
}

/// The ports of one worker.
#[derive(Debug)]
pub struct Switch<P> {
    table: Table<P>,
    fdb: Arc<Fdb>,
    gateway: EthernetAddress,
    pool: Pool,
    /// Why frames ended in the switch.
    pub drops: DropCounters<DropReason>,
    /// The worker's books; the gateway adds its own part.
    pub tally: Tally,
    /// Whom the guards stopped.
    pub alarms: Alarms,
}

impl<P> Switch<P> {
    /// A switch without ports. `gateway` is the gateway's MAC address; `pool` is for the segments of super-frames.
    #[must_use]
    pub fn new(gateway: EthernetAddress, fdb: Arc<Fdb>, pool: Pool) -> Self {
        let (drops, tally) = (DropCounters::default(), Tally::default());
        Self { table: Table::default(), fdb, gateway, pool, drops, tally, alarms: Alarms::default() }
    }

    /// Puts `port` in the first free place. Without a policy it is as good as alone on the switch: see
    /// [`policy`](crate::policy).
    ///
    /// # Errors
    /// [`TooManyPorts`].
    pub fn attach(&mut self, port: P, policy: Option<Arc<Policy>>) -> Result<PortId, TooManyPorts> {
        self.table.attach(port, policy)
    }

    /// Puts `port`, another queue of a device, at the place that another worker's switch gave it.
    ///
    /// # Errors
    /// [`TooManyPorts`] when the place is taken, or was used by a later port.
    pub fn attach_as(
        &mut self,
        id: PortId,
        port: P,
        policy: Option<Arc<Policy>>,
    ) -> Result<(), TooManyPorts> {
        self.table.attach_as(id, port, policy)
    }

    /// Takes a port out; its id and what was learned on it are void from now on.
    pub fn detach(&mut self, id: PortId) -> Option<P> {
        let port = self.table.detach(id)?;
        self.fdb.forget_port(id);
        Some(port)
    }

    /// Gives an attached port another policy, from the next frame on. Returns whether there is such a port.
    pub fn set_policy(&mut self, id: PortId, policy: Option<Arc<Policy>>) -> bool {
        self.table.get_mut(id).map(|attached| attached.policy = policy).is_some()
    }

    /// Whether the port gets the groups only that its one host has reported, and is to be asked for them once
    /// ([`snoop`](crate::snoop)).
    #[must_use]
    pub fn is_snooped(&self, id: PortId) -> bool {
        self.table.get(id).is_some() && !self.table.is_shared(id)
    }

    /// The port with this id, if it is attached still.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&P> {
        self.table.get(id).map(|attached| &attached.port)
    }

    /// The port with this id, to be changed.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.table.get_mut(id).map(|attached| &mut attached.port)
    }

    /// Every attached port's id.
    pub fn ids(&self) -> impl Iterator<Item = PortId> + '_ {
        self.table.ids()
    }

    /// What went through a port.
    #[must_use]
    pub fn counters(&self, id: PortId) -> Option<PortCounters> {
        self.table.get(id).map(|attached| attached.counters)
    }

    /// The shared forwarding database.
    #[must_use]
    pub fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Where `frame` goes that came in on `ingress`, or from the gateway ([`PortId::GATEWAY`]); see
    /// [`forward`](crate::forward). Its VLAN tag is taken off.
    ///
    /// # Errors
    /// Why it goes nowhere. The caller reports it to [`Switch::discard_from`].
    pub fn decide(&self, ingress: PortId, frame: &mut Frame, now: Instant) -> Result<Egress, DropReason> {
        let forwarding = Forwarding { fdb: &self.fdb, table: &self.table, gateway: self.gateway, now };
        forwarding.decide(ingress, frame)
    }

    /// Books the end of a frame that came from `ingress` and goes nowhere.
    pub fn discard_from(&mut self, ingress: PortId, reason: DropReason) {
        self.alarms.note(ingress, reason);
        self.discard(reason);
    }

    /// Books the end of one frame.
    pub fn discard(&mut self, reason: DropReason) {
        self.drops.count(reason);
        self.tally.dropped += 1;
    }
}

impl<P: Port> Switch<P> {
    /// Receives one frame from a port into `frame` and books it; what is no frame is booked as a drop.
    pub fn receive(&mut self, id: PortId, frame: &mut Frame) -> Received {
        let Some(attached) = self.table.get_mut(id) else { return Received::Closed };
        let received = attached.port.recv(frame);
        match received {
            Received::Frame => {
                attached.counters.rx_frames += 1;
                attached.counters.rx_bytes += frame.len() as u64;
                self.tally.received += 1;
            }
            Received::Dropped(reason) => {
                self.tally.received += 1;
                self.discard(reason);
            }
            Received::Empty | Received::Closed => {}
        }
        received
    }

    /// Lets a port go on with what its device had no room for.
    pub fn flush(&mut self, id: PortId) {
        if let Some(attached) = self.table.get_mut(id) {
            attached.port.flush();
        }
    }

    /// Sends `frame`, which came from `from`, where the decision of the same moment says, and books what became of it.
    ///
    /// The share of the gateway is not touched: [`Delivered::gateway`] says that there is one. It counts as a copy
    /// of its own when other ports had one too.
    pub fn deliver(&mut self, egress: Egress, frame: &mut Frame, from: PortId, now: Instant) -> Delivered {
        let mut delivered = Delivered::default();
        match egress {
            Egress::Gateway => delivered.gateway = true,
            Egress::One(id) => self.deliver_to(id, frame, &mut delivered),
            Egress::Flood { gateway, audience } => {
                let scope = self.table.scope(from, frame.vlan);
                let listeners = self.fdb.snoop().ports(audience, frame, now);
                let mut copies = u64::from(gateway);
                for index in 0..self.table.places() {
                    let Some(id) = self.table.id_at(index) else { continue };
                    let is_listener =
                        listeners.as_ref().is_none_or(|set| set.contains(id) || self.table.is_shared(id));
                    if is_listener && self.table.is_within(scope, id) {
                        copies += 1;
                        self.deliver_to(id, frame, &mut delivered);
                    }
                }
                delivered.gateway = gateway;
                if copies == 0 {
                    let unheard = listeners.is_some();
                    let reason = if unheard { DropReason::GroupUnheard } else { DropReason::NobodyElse };
                    self.drop_one(reason, &mut delivered);
                }
                self.tally.replicated += copies.saturating_sub(1);
            }
        }
        delivered
    }

    fn deliver_to(&mut self, id: PortId, frame: &mut Frame, delivered: &mut Delivered) {
        let sent = match self.table.get_mut(id) {
            None => Sent::Closed,
            Some(attached) if attached.port.offloads().take(frame) => {
                let sent = send_on(attached, frame);
                self.tally.sent += u64::from(sent == Sent::Sent);
                delivered.sent += u32::from(sent == Sent::Sent);
                sent
            }
            Some(_) => return self.finish_and_send(id, frame, delivered),
        };
        match sent {
            Sent::Sent => {}
            Sent::Full => self.drop_one(DropReason::EgressFull, delivered),
            Sent::Closed => self.drop_one(DropReason::PortClosed, delivered),
        }
    }

    fn drop_one(&mut self, reason: DropReason, delivered: &mut Delivered) {
        self.discard(reason);
        delivered.dropped += 1;
    }

    /// Sends a frame that the port does not take as it is.
    fn finish_and_send(&mut self, id: PortId, frame: &mut Frame, delivered: &mut Delivered) {
        let pool = self.pool.clone();
        let (mut pieces, mut taken) = (0u32, 0u32);
        let mut last = Sent::Sent;
        let Some(attached) = self.table.get_mut(id) else { return };
        let mut emit = |piece: &mut Frame| {
            pieces += 1;
            // After the first refusal the rest is lost in order: a later segment must not overtake.
            if last == Sent::Sent {
                last = send_on(attached, piece);
                taken += u32::from(last == Sent::Sent);
            }
        };
        let outcome = if frame.offload.segmentation.is_some() {
            segment(frame, &pool, &mut emit)
        } else {
            complete_checksum(frame).map(|()| emit(frame))
        };
        if let Err(reason) = outcome {
            self.drop_one(reason, delivered);
            return;
        }
        self.tally.replicated += u64::from(pieces.saturating_sub(1));
        self.tally.sent += u64::from(taken);
        delivered.sent += taken;
        let reason = if last == Sent::Closed { DropReason::PortClosed } else { DropReason::EgressFull };
        for _ in taken..pieces {
            self.drop_one(reason, delivered);
        }
    }
}

/// Sends, with the VLAN tag that the port wants, and counts.
fn send_on<P: Port>(attached: &mut Attached<P>, frame: &mut Frame) -> Sent {
    let Attached { port, policy, counters } = attached;
    let mut send = |frame: &mut Frame| {
        let sent = port.send(frame);
        if sent == Sent::Sent {
            counters.tx_frames += 1;
            counters.tx_bytes += frame.len() as u64;
        }
        sent
    };
    match policy {
        // Every frame has room for a tag in front; one that had not would be refused rather than change its VLAN.
        Some(policy) if policy.membership.is_tagged(frame.vlan) => {
            vlan::with_tag(frame, send).unwrap_or(Sent::Full)
        }
        _ => send(frame),
    }
}

#[cfg(test)]
mod tests;
