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
//! [`MAX_PORTS`](crate::fdb::MAX_PORTS) ports. Nothing is queued here: a frame that a port does not take is dropped
//! with a reason ([`Switch::deliver`]) or stays the caller's ([`Switch::offer`]).

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
                    let is_listener = listeners.as_ref().is_none_or(|set| set.contains(id));
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

    /// Offers a frame to a port and leaves it to the caller if the port is full; nothing is dropped or booked then.
    ///
    /// A super-frame that has to be cut is taken or refused as a whole when its first segment is; a port that fills
    /// up in the middle costs the rest, as on any link.
    pub fn offer(&mut self, id: PortId, frame: &mut Frame) -> Sent {
        let Some(attached) = self.table.get_mut(id) else { return Sent::Closed };
        if attached.port.offloads().take(frame) {
            let sent = send_on(attached, frame);
            self.tally.sent += u64::from(sent == Sent::Sent);
            return sent;
        }
        let mut delivered = Delivered::default();
        self.finish_and_send(id, frame, true, &mut delivered)
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
            Some(_) => {
                self.finish_and_send(id, frame, false, delivered);
                return;
            }
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

    /// Sends a frame that the port does not take as it is. With `may_refuse`, a port that does not take the very
    /// first piece leaves the frame with the caller.
    fn finish_and_send(
        &mut self,
        id: PortId,
        frame: &mut Frame,
        may_refuse: bool,
        delivered: &mut Delivered,
    ) -> Sent {
        let pool = self.pool.clone();
        let (mut pieces, mut taken) = (0u32, 0u32);
        let mut last = Sent::Sent;
        let Some(attached) = self.table.get_mut(id) else { return Sent::Closed };
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
            return Sent::Sent;
        }
        if may_refuse && taken == 0 {
            return last;
        }
        self.tally.replicated += u64::from(pieces.saturating_sub(1));
        self.tally.sent += u64::from(taken);
        delivered.sent += taken;
        let reason = if last == Sent::Closed { DropReason::PortClosed } else { DropReason::EgressFull };
        for _ in taken..pieces {
            self.drop_one(reason, delivered);
        }
        Sent::Sent
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
mod tests {
    use core::num::NonZeroU16;

    use super::*;
    use crate::fdb::MAX_PORTS;
    use crate::frame::ETHERNET_HEADER_LEN;
    use crate::offload::checksum::{Verdict, verify_checksum};
    use crate::snoop::tests::{GROUP, igmp, stream};
    use crate::{Checksum, Guard, Membership, MemoryPort, Offloads, Segmentation, SegmentationKind, Vlan};

    const GATEWAY: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0xfe]);
    const NOW: Instant = Instant::from_secs(1);

    fn mac(number: u8) -> EthernetAddress {
        EthernetAddress([0x02, 0, 0, 0, 0, number])
    }

    fn switch(ports: usize) -> (Switch<MemoryPort>, Vec<PortId>) {
        let mut switch = Switch::new(GATEWAY, Arc::new(Fdb::new(64, [1; 16])), Pool::new(4));
        let ids = (0..ports).map(|_| switch.attach(MemoryPort::default(), None).unwrap()).collect();
        (switch, ids)
    }

    fn frame(destination: EthernetAddress, source: EthernetAddress) -> Frame {
        let mut frame = Pool::new(0).large();
        let mut bytes = [destination.0, source.0].concat();
        bytes.extend_from_slice(&[0x88, 0xb5]);
        bytes.resize(60, 0);
        frame.fill(&bytes);
        frame
    }

    /// A TCP super-frame of 3,000 payload bytes, to be cut at 1,000.
    fn super_frame(destination: EthernetAddress, source: EthernetAddress) -> Frame {
        let mut bytes = [destination.0, source.0].concat();
        bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
        bytes.extend_from_slice(&3040u16.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        bytes.extend_from_slice(&[
            0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
        ]);
        bytes.resize(bytes.len() + 3000, 7);
        let mut frame = Pool::new(0).large();
        frame.fill(&bytes);
        frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
        frame.offload.segmentation = Some(Segmentation {
            kind: SegmentationKind::Tcp4,
            size: NonZeroU16::new(1000).unwrap(),
            header_len: 54,
            ecn: false,
        });
        frame
    }

    /// One frame through the whole switch; the gateway's share counts as absorbed.
    fn pass(switch: &mut Switch<MemoryPort>, from: PortId, frame: Frame) -> Delivered {
        switch.port_mut(from).unwrap().inbound.push_back(frame);
        let mut received = Pool::new(0).large();
        assert_eq!(switch.receive(from, &mut received), Received::Frame);
        let delivered = match switch.decide(from, &mut received, NOW) {
            Ok(egress) => switch.deliver(egress, &mut received, from, NOW),
            Err(reason) => {
                switch.discard(reason);
                Delivered::default()
            }
        };
        switch.tally.absorbed += u64::from(delivered.gateway);
        switch.tally.check().unwrap();
        delivered
    }

    fn outbound(switch: &Switch<MemoryPort>, id: PortId) -> usize {
        switch.port(id).unwrap().outbound.len()
    }

    #[test]
    fn two_ports_converse_after_one_flood() {
        let (mut switch, ids) = switch(3);
        assert_eq!(pass(&mut switch, ids[0], frame(mac(2), mac(1))).sent, 2, "unknown: flooded");
        assert_eq!(pass(&mut switch, ids[1], frame(mac(1), mac(2))).sent, 1);
        assert_eq!(pass(&mut switch, ids[0], frame(mac(2), mac(1))).sent, 1);
        assert_eq!([0, 1, 2].map(|port| outbound(&switch, ids[port])), [1, 2, 1]);
        assert_eq!(switch.counters(ids[0]).unwrap().rx_frames, 2);
        assert_eq!(switch.counters(ids[1]).unwrap().tx_bytes, 120);
    }

    #[test]
    fn broadcast_is_one_copy_for_everybody_but_its_sender() {
        let (mut switch, ids) = switch(3);
        let delivered = pass(&mut switch, ids[0], frame(EthernetAddress::BROADCAST, mac(1)));
        assert_eq!(delivered, Delivered { sent: 2, dropped: 0, gateway: true });
        assert_eq!(switch.tally.replicated, 2);
        assert_eq!(outbound(&switch, ids[0]), 0);
    }

    #[test]
    fn frames_that_circle_between_two_looped_ports_are_all_accounted_for() {
        // What port 1 sends comes back in on port 2 and the other way round, as with a cable between them.
        let (mut switch, ids) = switch(3);
        pass(&mut switch, ids[0], frame(mac(9), mac(1)));
        for _ in 0..50 {
            for (out, back) in [(1, 2), (2, 1)] {
                let Some(bytes) = switch.port_mut(ids[out]).unwrap().outbound.pop_front() else { continue };
                let mut copy = Pool::new(0).large();
                copy.fill(&bytes[crate::offload::VNET_HEADER_LEN..]);
                // A learning switch without spanning tree does not stop the loop; `pass` checks the books.
                assert_eq!(
                    pass(&mut switch, ids[back], copy).sent,
                    2,
                    "to the sender's port and round again"
                );
            }
        }
        assert_eq!(outbound(&switch, ids[0]), 100);
    }

    #[test]
    fn a_full_port_costs_its_own_copy_only() {
        let (mut switch, ids) = switch(3);
        switch.port_mut(ids[1]).unwrap().limit = 1;
        pass(&mut switch, ids[0], frame(EthernetAddress::BROADCAST, mac(1)));
        let delivered = pass(&mut switch, ids[0], frame(EthernetAddress::BROADCAST, mac(1)));
        assert_eq!(delivered, Delivered { sent: 1, dropped: 1, gateway: true });
        assert_eq!(switch.drops.get(DropReason::EgressFull), 1);
    }

    #[test]
    fn an_offered_frame_stays_with_the_caller_of_a_full_port() {
        let (mut switch, ids) = switch(1);
        for offloads in [Offloads::ALL, Offloads::NONE] {
            let port = switch.port_mut(ids[0]).unwrap();
            (port.offloads, port.limit) = (offloads, 0);
            let mut frame = super_frame(mac(1), GATEWAY);
            switch.tally.originated += 1;
            assert_eq!(switch.offer(ids[0], &mut frame), Sent::Sent);
            switch.tally.check().unwrap();
            switch.port_mut(ids[0]).unwrap().limit = 1;
            let before = switch.tally;
            assert_eq!(switch.offer(ids[0], &mut frame), Sent::Full);
            assert_eq!(switch.tally, before);
        }
    }

    #[test]
    fn a_port_without_offloads_gets_finished_frames_and_its_neighbour_the_whole() {
        let (mut switch, ids) = switch(3);
        switch.port_mut(ids[1]).unwrap().offloads = Offloads::NONE;
        let delivered = pass(&mut switch, ids[0], super_frame(mac(9), mac(1)));
        assert_eq!(delivered.sent, 4);
        let segments = &switch.port(ids[1]).unwrap().outbound;
        assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 1054]);
        let whole = &switch.port(ids[2]).unwrap().outbound;
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [10 + 3054]);
        assert_eq!(whole[0][0], 1, "the checksum stays owed");
    }

    #[test]
    fn a_port_that_fills_up_in_the_middle_of_a_super_frame_costs_the_rest() {
        let (mut switch, ids) = switch(2);
        let port = switch.port_mut(ids[1]).unwrap();
        (port.offloads, port.limit) = (Offloads::NONE, 2);
        let delivered = pass(&mut switch, ids[0], super_frame(mac(9), mac(1)));
        assert_eq!((delivered.sent, delivered.dropped), (2, 1));
    }

    #[test]
    fn a_super_frame_that_cannot_be_cut_is_one_drop() {
        let (mut switch, ids) = switch(2);
        switch.port_mut(ids[1]).unwrap().offloads = Offloads::NONE;
        let mut odd = super_frame(mac(9), mac(1));
        odd.bytes_mut()[ETHERNET_HEADER_LEN + 9] = 17;
        assert_eq!(pass(&mut switch, ids[0], odd).dropped, 1);
        assert_eq!(switch.drops.get(DropReason::SuperFrameMalformed), 1);
    }

    #[test]
    fn an_owed_checksum_is_paid_for_a_port_that_cannot() {
        let (mut switch, ids) = switch(2);
        switch.port_mut(ids[1]).unwrap().offloads = Offloads { checksum: false, ..Offloads::ALL };
        let mut owing = frame(mac(9), mac(1));
        owing.offload.checksum = Checksum::Partial { start: 14, offset: 6 };
        pass(&mut switch, ids[0], owing);
        let sent = &switch.port(ids[1]).unwrap().outbound[0];
        assert_eq!(sent[0], 2, "DATA_VALID");
        assert_eq!(&sent[10 + 20..10 + 22], [0xff, 0xff]);
    }

    /// A policy without guards for a trunk of VLANs 5 and 6.
    fn trunk() -> Option<Arc<Policy>> {
        let tagged = [5, 6].into_iter().filter_map(Vlan::new).collect();
        let membership = Membership::Trunk { tagged, native: None };
        Some(Arc::new(Policy { membership, guard: Guard::OFF, ..Policy::default() }))
    }

    fn access(number: u16) -> Option<Arc<Policy>> {
        let membership = Membership::Access(Vlan::new(number).unwrap());
        Some(Arc::new(Policy { membership, guard: Guard::OFF, ..Policy::default() }))
    }

    /// The super-frame with the tag of VLAN 5 and priority 3, and its offsets moved.
    fn tagged_super_frame() -> Frame {
        let plain = super_frame(mac(9), mac(1));
        let (addresses, rest) = plain.bytes().split_at(12);
        let mut frame = Pool::new(0).large();
        frame.fill(&[addresses, &[0x81, 0, 0x60, 5], rest].concat());
        frame.offload = plain.offload;
        frame.offload.checksum = Checksum::Partial { start: 38, offset: 16 };
        frame.offload.segmentation.as_mut().unwrap().header_len = 58;
        frame
    }

    #[test]
    fn tagged_super_frames_cross_between_trunks_untouched() {
        let (mut switch, ids) = switch(2);
        ids.iter().for_each(|&id| assert!(switch.set_policy(id, trunk())));
        let expected = tagged_super_frame().with_vnet_header().to_vec();
        assert_eq!(pass(&mut switch, ids[0], tagged_super_frame()).sent, 1);
        assert_eq!(switch.port(ids[1]).unwrap().outbound, [expected]);
    }

    #[test]
    fn a_super_frame_leaves_every_port_in_the_form_that_the_port_takes() {
        // From a trunk to a trunk and an access port that take it whole, and one of each that do not.
        let (mut switch, ids) = switch(6);
        for (port, policy, offloads) in [
            (0, trunk(), Offloads::ALL),
            (1, access(5), Offloads::ALL),
            (2, trunk(), Offloads::NONE),
            (3, access(5), Offloads::NONE),
            (4, trunk(), Offloads::ALL),
            (5, access(6), Offloads::ALL),
        ] {
            switch.set_policy(ids[port], policy);
            switch.port_mut(ids[port]).unwrap().offloads = offloads;
        }
        assert_eq!(pass(&mut switch, ids[0], tagged_super_frame()).sent, 8);
        let sent = |port: usize| &switch.port(ids[port]).unwrap().outbound;
        let whole = [super_frame(mac(9), mac(1)), tagged_super_frame()]
            .map(|mut frame| frame.with_vnet_header().to_vec());
        assert_eq!([&sent(1)[0], &sent(4)[0]], [&whole[0], &whole[1]]);
        assert_eq!(sent(5).len(), 0, "another VLAN");
        for (tagged, untagged) in sent(2).iter().zip(sent(3)) {
            assert_eq!((untagged.len(), &tagged[12..16]), (1054, &[0x81, 0, 0x60, 5][..]));
            assert_eq!([&tagged[..12], &tagged[16..]].concat(), *untagged);
            let mut segment = Pool::new(0).small();
            segment.fill(untagged);
            assert_eq!(verify_checksum(&mut segment), Verdict::Right);
        }
        assert_eq!((sent(2).len(), sent(3).len()), (3, 3));
    }

    #[test]
    fn a_group_goes_to_its_members_and_routers() {
        let (mut switch, ids) = switch(4);
        switch.set_policy(ids[0], Some(Arc::new(Policy { guard: Guard::OFF, ..Policy::default() })));
        for (from, frame, expected) in [
            (0, igmp(0x11, [0; 4]), [0, 1, 1, 1]),
            (1, igmp(0x16, GROUP), [1, 1, 1, 1]),
            (2, stream(GROUP), [2, 2, 1, 1]),
            (0, stream([239, 9, 9, 9]), [2, 2, 1, 1]),
        ] {
            assert!(pass(&mut switch, ids[from], frame).gateway);
            assert_eq!([0, 1, 2, 3].map(|port| outbound(&switch, ids[port])), expected);
        }
    }

    #[test]
    fn a_checksum_owed_on_an_access_port_is_paid_under_the_tag_of_a_trunk() {
        let (mut switch, ids) = switch(2);
        switch.set_policy(ids[0], access(5));
        switch.set_policy(ids[1], trunk());
        switch.port_mut(ids[1]).unwrap().offloads = Offloads { checksum: false, ..Offloads::ALL };
        let mut owing = frame(mac(9), mac(1));
        owing.offload.checksum = Checksum::Partial { start: 14, offset: 6 };
        pass(&mut switch, ids[0], owing);
        let sent = &switch.port(ids[1]).unwrap().outbound[0];
        assert_eq!((sent.len(), sent[0], &sent[10 + 12..10 + 16]), (74, 2, &[0x81, 0, 0, 5][..]));
        assert_eq!(&sent[10 + 24..10 + 26], [0xff, 0xff]);
    }

    #[test]
    fn a_detached_ports_id_finds_nobody_and_its_place_gets_a_new_generation() {
        let (mut switch, ids) = switch(2);
        pass(&mut switch, ids[1], frame(mac(1), mac(2)));
        assert!(switch.detach(ids[1]).is_some());
        assert!(switch.detach(ids[1]).is_none());
        assert_eq!(pass(&mut switch, ids[0], frame(mac(2), mac(1))).sent, 0);
        let again = switch.attach(MemoryPort::default(), None).unwrap();
        assert_eq!(again, PortId { index: ids[1].index, generation: ids[1].generation + 1 });
        assert_eq!(switch.deliver(Egress::One(ids[1]), &mut frame(mac(2), mac(1)), ids[0], NOW).dropped, 1);
        assert_eq!(switch.drops.get(DropReason::PortClosed), 1);
        assert_eq!(switch.receive(ids[1], &mut frame(mac(2), mac(1))), Received::Closed);
    }

    #[test]
    fn another_workers_queue_gets_the_same_id_and_no_stale_one() {
        let (mut first, _) = switch(2);
        let (mut second, _) = switch(0);
        let id = first.attach(MemoryPort::default(), None).unwrap();
        second.attach_as(id, MemoryPort::default(), None).unwrap();
        assert_eq!(second.ids().collect::<Vec<_>>(), [id]);
        assert_eq!(second.attach_as(id, MemoryPort::default(), None), Err(TooManyPorts));
        second.detach(id);
        assert_eq!(second.attach_as(id, MemoryPort::default(), None), Err(TooManyPorts));
        let beyond = PortId { index: u32::try_from(MAX_PORTS).unwrap(), generation: 0 };
        assert_eq!(second.attach_as(beyond, MemoryPort::default(), None), Err(TooManyPorts));
    }
}
