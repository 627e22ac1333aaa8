// SPDX-License-Identifier: MIT OR Apache-2.0
//! A switch in virtual time against what a learning switch is in one sentence: a frame to an address that was seen on a
//! living port within the ageing time goes there, and any other to everybody else.
//!
//! # How it works
//! Stations speak, move, fall silent and leave in an order that is made up; a map of who was seen where and when says what
//! the switch has to do next. Two ports that are one cable show that nothing goes round for ever.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use smoltcp::wire::EthernetAddress;
use wharf_switch::fdb::AGEING_SECS;
use wharf_switch::{
    Duration, Fdb, Guard, Instant, MemoryPort, Offloads, Policy, Pool, PortId, Received, StormControl,
    StormRates, Switch,
};

const GATEWAY: EthernetAddress = EthernetAddress([0x02, 0xff, 0, 0, 0, 0xfe]);
const STATIONS: u8 = 6;
const PORTS: usize = 4;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A station speaks on a port, on which it may not have been before.
    Speak { port: usize, source: u8, destination: u8 },
    /// Time goes on.
    Wait { secs: u32 },
    /// A port leaves, and another comes to its place.
    Replace { port: usize },
}

fn steps() -> impl Strategy<Value = Step> {
    let speak = (0..PORTS, 0..STATIONS, 0..=STATIONS);
    prop_oneof![
        12 => speak.prop_map(|(port, source, destination)| Step::Speak { port, source, destination }),
        2 => (1u32..60).prop_map(|secs| Step::Wait { secs }),
        1 => (250u32..400).prop_map(|secs| Step::Wait { secs }),
        1 => (0..PORTS).prop_map(|port| Step::Replace { port }),
    ]
}

/// A station's address; the one after the last is everybody's.
fn station(number: u8) -> EthernetAddress {
    if number == STATIONS { EthernetAddress::BROADCAST } else { EthernetAddress([2, 0, 0, 0, 0, number]) }
}

fn port() -> MemoryPort {
    MemoryPort { offloads: Offloads::NONE, ..MemoryPort::default() }
}

fn policy(rates: StormRates) -> Option<Arc<Policy>> {
    let storm = Arc::new(StormControl::new(rates));
    Some(Arc::new(Policy { storm, guard: Guard::OFF, ..Policy::default() }))
}

/// Sends a frame in at a port. Returns the places of the ports that it comes out of.
fn pass(switch: &mut Switch<MemoryPort>, from: PortId, bytes: &[u8], now: Instant) -> Vec<u32> {
    let mut frame = Pool::new(0).small();
    frame.fill(bytes);
    switch.port_mut(from).unwrap().inbound.push_back(frame);
    let mut frame = Pool::new(0).small();
    assert_eq!(switch.receive(from, &mut frame), Received::Frame);
    match switch.decide(from, &mut frame, now) {
        Ok(egress) => {
            let gateway = switch.deliver(egress, &mut frame, from, now).gateway;
            switch.tally.absorbed += u64::from(gateway);
        }
        Err(reason) => switch.discard_from(from, reason),
    }
    switch.tally.check().unwrap();
    let ids: Vec<_> = switch.ids().collect();
    let took = |id: &PortId| switch.port(*id).is_some_and(|port| !port.outbound.is_empty());
    ids.into_iter().filter(took).map(|id| id.index).collect()
}

fn frame_bytes(destination: EthernetAddress, source: EthernetAddress) -> Vec<u8> {
    let mut bytes = [destination.0, source.0].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.resize(60, 0);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_frame_goes_where_its_destination_was_seen_last_and_else_everywhere(
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        let mut switch = Switch::new(GATEWAY, Arc::new(Fdb::new(64, [1; 16])), Pool::new(4));
        let attach = |switch: &mut Switch<MemoryPort>| switch.attach(port(), policy(StormRates::UNLIMITED)).unwrap();
        let mut ids: Vec<PortId> = (0..PORTS).map(|_| attach(&mut switch)).collect();
        let mut seen = BTreeMap::<u8, (usize, u32)>::new();
        let mut secs = 1;
        for step in steps {
            match step {
                Step::Wait { secs: more } => secs += more,
                Step::Replace { port } => {
                    prop_assert!(switch.detach(ids[port]).is_some());
                    ids[port] = attach(&mut switch);
                    prop_assert_eq!(ids[port].index as usize, port, "the only place that is free");
                    seen.retain(|_, (at, _)| *at != port);
                }
                Step::Speak { port, source, destination } => {
                    let bytes = frame_bytes(station(destination), station(source));
                    let now = Instant::from_secs(secs.into());
                    let out = pass(&mut switch, ids[port], &bytes, now);
                    seen.insert(source, (port, secs));
                    let everybody_else = || (0..PORTS).filter(|other| *other != port).map(|at| at as u32).collect();
                    let expected: Vec<u32> = match seen.get(&destination) {
                        Some((at, when)) if secs - when < AGEING_SECS => {
                            (*at != port).then_some(*at as u32).into_iter().collect()
                        }
                        _ => everybody_else(),
                    };
                    prop_assert_eq!(out, expected);
                    for &id in &ids {
                        switch.port_mut(id).unwrap().outbound.clear();
                    }
                }
            }
        }
    }
}

#[test]
fn what_goes_round_a_loop_of_two_ports_is_held_to_the_rate_of_a_storm() {
    let mut switch = Switch::new(GATEWAY, Arc::new(Fdb::new(64, [1; 16])), Pool::new(4));
    let ids: Vec<PortId> =
        (0..3).map(|_| switch.attach(port(), policy(StormRates::default())).unwrap()).collect();
    let bytes = frame_bytes(EthernetAddress::BROADCAST, station(0));
    pass(&mut switch, ids[2], &bytes, Instant::from_secs(1));
    let seconds = 5;
    let mut now = Instant::from_secs(1);
    for _ in 0..seconds * 100_000u32 {
        now += Duration::from_micros(10);
        // What comes out of one end of the cable goes in at the other.
        for (from, to) in [(0, 1), (1, 0)] {
            if let Some(frame) = switch.port_mut(ids[from]).unwrap().outbound.pop_front() {
                pass(&mut switch, ids[to], &frame, now);
            }
        }
    }
    // Both ends may send 1,000 broadcasts a second, and as many at once at first.
    let heard = switch.port(ids[2]).unwrap().outbound.len();
    assert!((1000..=2 * 1000 * (seconds as usize + 1)).contains(&heard), "{heard} frames");
    // What is dropped once goes round no more.
    assert!(ids[..2].iter().all(|&id| switch.port(id).unwrap().outbound.is_empty()));
}
