// SPDX-License-Identifier: MIT OR Apache-2.0
use core::num::NonZeroU16;

use super::*;
use crate::fdb::MAX_PORTS;
use crate::frame::ETHERNET_HEADER_LEN;
use crate::offload::checksum::{Verdict, verify_checksum};
use crate::snoop::tests::{GROUP, host, igmp, mld_solicited_node, solicitation, stream};
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
    bytes.extend_from_slice(&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
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
            assert_eq!(pass(&mut switch, ids[back], copy).sent, 2, "to the sender's port and round again");
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
    for &id in &ids[1..] {
        switch.set_policy(id, Some(Arc::new(host())));
    }
    for (from, frame, expected) in [
        (1, igmp(0x16, GROUP), [1, 0, 0, 0]),
        (2, stream(GROUP), [2, 1, 0, 0]),
        (0, stream(GROUP), [2, 2, 0, 0]),
        (3, stream([239, 9, 9, 9]), [3, 2, 0, 0]),
        (0, igmp(0x11, [0; 4]), [3, 3, 1, 1]),
    ] {
        assert!(pass(&mut switch, ids[from], frame).gateway);
        assert_eq!([0, 1, 2, 3].map(|port| outbound(&switch, ids[port])), expected);
    }
}

#[test]
fn a_group_that_was_joined_alone_reaches_its_member_among_others() {
    let (mut switch, ids) = switch(1);
    switch.set_policy(ids[0], Some(Arc::new(host())));
    pass(&mut switch, ids[0], igmp(0x16, GROUP));
    let other = switch.attach(MemoryPort::default(), Some(Arc::new(host()))).unwrap();
    assert_eq!(pass(&mut switch, other, stream(GROUP)).sent, 1);
}

#[test]
fn containers_that_come_up_with_ipv6_cost_one_frame_each_and_not_one_for_each_other() {
    const CONTAINERS: u8 = 200;
    let (mut switch, ids) = switch(usize::from(CONTAINERS));
    for &id in &ids {
        switch.set_policy(id, Some(Arc::new(host())));
    }
    for (number, &id) in (0..CONTAINERS).zip(&ids) {
        assert!(pass(&mut switch, id, mld_solicited_node(number)).gateway);
    }
    assert_eq!((switch.tally.sent, switch.tally.replicated), (0, 0));
    // Duplicate address detection (RFC 4862 section 5.4) comes behind the report.
    for (number, &id) in (0..CONTAINERS).zip(&ids) {
        assert!(pass(&mut switch, id, solicitation(number)).gateway);
    }
    assert_eq!(switch.tally.sent, 0, "nobody else has such an address");
    assert_eq!(pass(&mut switch, ids[0], solicitation(7)).sent, 1, "its owner is found");
    assert_eq!(outbound(&switch, ids[7]), 1);
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
