// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where no frame may ever get, whatever ports there are and whatever they send.
//!
//! # How it works
//! Ports with policies and traffic are made up. Every frame carries a number, and what each port was sent is held
//! against what is true of a switch in one sentence each, not against another implementation of the decision.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may fail")]

use std::sync::Arc;

use proptest::prelude::*;
use smoltcp::wire::EthernetAddress;
use wharf_switch::{
    Delivered, Fdb, Frame, Guard, Instant, Isolation, Membership, MemoryPort, Offloads, Policy, Pool, PortId,
    Received, StormControl, StormRates, Switch, Vlan,
};

const GATEWAY: EthernetAddress = EthernetAddress([0x02, 0xff, 0, 0, 0, 0xfe]);

/// One frame on the wire of a port.
#[derive(Clone, Debug)]
struct Sending {
    port: usize,
    source: u8,
    destination: EthernetAddress,
    vid: Option<u16>,
}

fn vlans() -> impl Strategy<Value = Vlan> {
    (0u16..4).prop_map(|number| Vlan::new(number).unwrap_or(Vlan::UNTAGGED))
}

fn policies() -> impl Strategy<Value = Option<Policy>> {
    let trunk = (prop::collection::vec(vlans(), 0..3), prop::option::of(vlans()))
        .prop_map(|(tagged, native)| Membership::Trunk { tagged: tagged.into_iter().collect(), native });
    let membership = prop_oneof![vlans().prop_map(Membership::Access), trunk];
    let isolation = prop_oneof![Just(Isolation::Promiscuous), Just(Isolation::Isolated)];
    let policy = (membership, isolation).prop_map(|(membership, isolation)| Policy {
        membership,
        isolation,
        storm: Arc::new(StormControl::new(StormRates::UNLIMITED)),
        guard: Guard::OFF,
    });
    prop::option::weighted(0.9, policy)
}

fn sendings(ports: usize) -> impl Strategy<Value = Sending> {
    let station = (0u8..6).prop_map(|number| EthernetAddress([2, 0, 0, 0, 0, number]));
    let destination = prop_oneof![
        4 => station,
        1 => Just(EthernetAddress::BROADCAST),
        1 => Just(EthernetAddress([0x33, 0x33, 0, 0, 0, 1])),
        1 => Just(GATEWAY),
    ];
    (0..ports, 0u8..6, destination, prop::option::of(0u16..5))
        .prop_map(|(port, source, destination, vid)| Sending { port, source, destination, vid })
}

fn scenes() -> impl Strategy<Value = (Vec<Option<Policy>>, Vec<Sending>)> {
    prop::collection::vec(policies(), 1..7).prop_flat_map(|policies| {
        let sendings = prop::collection::vec(sendings(policies.len()), 1..40);
        (Just(policies), sendings)
    })
}

/// The VLAN of a frame with this identifier on a port, by IEEE 802.1Q; `None` when the port is not on it.
fn vlan_of(policy: Option<&Policy>, vid: Option<u16>) -> Option<Vlan> {
    let vid = vid.filter(|&vid| vid != 0);
    match (policy.map(|policy| &policy.membership), vid) {
        (None, None) => Some(Vlan::UNTAGGED),
        (Some(Membership::Access(own)), None) => Some(*own),
        (Some(Membership::Trunk { native, .. }), None) => *native,
        (Some(Membership::Trunk { tagged, native }), Some(vid)) => {
            Vlan::new(vid).filter(|&vlan| tagged.contains(vlan) || *native == Some(vlan))
        }
        (None | Some(Membership::Access(_)), Some(_)) => None,
    }
}

fn is_isolated(policy: Option<&Policy>) -> bool {
    policy.is_some_and(|policy| policy.isolation == Isolation::Isolated)
}

fn bytes_of(sending: &Sending, number: u8) -> Vec<u8> {
    let mut bytes = [sending.destination.0, [2, 0, 0, 0, 0, sending.source]].concat();
    if let Some(vid) = sending.vid {
        bytes.extend([&[0x81, 0][..], &vid.to_be_bytes()].concat());
    }
    bytes.extend([0x88, 0xb5, number]);
    bytes.resize(64, 0);
    bytes
}

/// The VLAN identifier, if any, and the number of a frame that a port was sent.
fn read(bytes: &[u8]) -> (Option<u16>, u8) {
    if bytes[12..14] == [0x81, 0] {
        (Some(u16::from_be_bytes([bytes[14], bytes[15]]) & 0x0fff), bytes[18])
    } else {
        (None, bytes[14])
    }
}

fn pass(switch: &mut Switch<MemoryPort>, from: PortId, bytes: &[u8]) -> Delivered {
    let pool = Pool::new(0);
    let mut sent: Frame = pool.small();
    sent.fill(bytes);
    switch.port_mut(from).unwrap().inbound.push_back(sent);
    let mut frame = pool.small();
    assert_eq!(switch.receive(from, &mut frame), Received::Frame);
    let delivered = match switch.decide(from, &mut frame, Instant::from_secs(1)) {
        Ok(egress) => switch.deliver(egress, &mut frame, from, Instant::from_secs(1)),
        Err(reason) => {
            switch.discard(reason);
            Delivered::default()
        }
    };
    switch.tally.absorbed += u64::from(delivered.gateway);
    switch.tally.check().unwrap();
    delivered
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_frame_gets_back_or_into_another_vlan_or_to_a_port_isolated_from_it((policies, sendings) in scenes()) {
        let mut switch = Switch::new(GATEWAY, Arc::new(Fdb::new(64, [1; 16])), Pool::new(4));
        let ids: Vec<PortId> = policies
            .iter()
            .map(|policy| {
                let port = MemoryPort { offloads: Offloads::NONE, ..MemoryPort::default() };
                switch.attach(port, policy.clone().map(Arc::new)).unwrap()
            })
            .collect();
        for (number, sending) in sendings.iter().enumerate() {
            let ingress = policies[sending.port].as_ref();
            let vlan = vlan_of(ingress, sending.vid);
            let delivered = pass(&mut switch, ids[sending.port], &bytes_of(sending, number as u8));
            prop_assert!(!delivered.gateway || vlan == Some(Vlan::UNTAGGED));
            for (port, &id) in ids.iter().enumerate() {
                let egress = policies[port].as_ref();
                let outbound = std::mem::take(&mut switch.port_mut(id).unwrap().outbound);
                prop_assert!(outbound.len() <= 1, "one copy for a port");
                for bytes in outbound {
                    let (vid, got) = read(&bytes);
                    prop_assert_eq!(usize::from(got), number);
                    prop_assert!(vlan.is_some(), "a frame of no VLAN of its port");
                    prop_assert_eq!(vlan_of(egress, vid), vlan);
                    prop_assert!(port != sending.port);
                    prop_assert!(!(is_isolated(ingress) && is_isolated(egress)));
                }
            }
        }
    }
}
