// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leases on a stage: what the owner of a network decides is what containers are told on the wire.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};
use stage::frames::{self, ETHERNET, IPV4};
use stage::{CONTAINER_MAC, Stage, config};
use wharf_stack::{Config, LeaseState, ReservationError};
use wharf_switch::Duration;

const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 50);

/// What the server answers to a message with options: its type, the address, and the client's name.
fn told(stage: &mut Stage, kind: u8, options: &[u8]) -> (DhcpMessageType, Ipv4Addr, Option<String>) {
    stage.receive(&frames::dhcp(1, kind, options));
    let is_dhcp = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[ETHERNET + 9] == 17;
    let frame = std::iter::from_fn(|| stage.sent()).find(is_dhcp).unwrap();
    let packet = DhcpPacket::new_checked(&frame[ETHERNET + IPV4 + 8..]).unwrap();
    let name = packet.options().find(|option| option.kind == 12);
    let name = name.map(|option| String::from_utf8(option.data.to_vec()).unwrap());
    let repr = DhcpRepr::parse(&packet).unwrap();
    (repr.message_type, repr.your_ip, name)
}

/// DISCOVER and REQUEST.
fn bind(stage: &mut Stage) -> (Ipv4Addr, Option<String>) {
    let (_, address, _) = told(stage, 1, &[]);
    let request = [&[50, 4][..], &address.octets(), &[54, 4, 10, 0, 2, 2]].concat();
    let (kind, bound, name) = told(stage, 3, &request);
    assert_eq!((kind, bound), (DhcpMessageType::Ack, address));
    (address, name)
}

fn reserve(stage: &mut Stage, address: Ipv4Addr) -> Result<(), ReservationError> {
    let now = stage.now;
    stage.workers[0].gateway.reserve(now, CONTAINER_MAC, address, Some("web".into()))
}

#[test]
fn a_reservation_is_what_the_container_gets_and_the_owner_sees() {
    let mut stage = Stage::new(config());
    assert_eq!(stage.workers[0].gateway.lease_version(), 0);
    reserve(&mut stage, RESERVED).unwrap();
    assert_eq!(bind(&mut stage), (RESERVED, Some("web".into())));
    stage.now += Duration::from_secs(400);
    let gateway = &stage.workers[0].gateway;
    let leases: Vec<_> = gateway.leases(stage.now).collect();
    let [lease] = leases[..] else { panic!("{leases:?}") };
    assert_eq!((lease.address, lease.mac, lease.hostname), (RESERVED, CONTAINER_MAC, Some("web")));
    assert_eq!((lease.state, lease.is_reserved), (LeaseState::Bound, true));
    assert_eq!(lease.remaining, Duration::from_secs(86_400 - 400));
    assert!(gateway.lease_version() > 0);
}

#[test]
fn only_containers_addresses_are_reserved() {
    let mut stage = Stage::new(config());
    for address in ["10.0.2.0", "10.0.2.2", "10.0.2.3", "10.0.2.255", "10.0.3.1", "224.0.0.1"] {
        let address = address.parse().unwrap();
        assert_eq!(reserve(&mut stage, address), Err(ReservationError::NotForContainers(address)));
    }
    let mut stage = Stage::new(Config { ipv4: None, ..config() });
    assert_eq!(reserve(&mut stage, RESERVED), Err(ReservationError::NotForContainers(RESERVED)));
    assert_eq!(stage.workers[0].gateway.leases(stage.now).count(), 0);
}

/// What a gateway was killed over is in the file that its owner wrote.
#[test]
fn a_container_keeps_its_address_over_the_end_of_its_gateway() {
    let range = |last| {
        let mut config = config();
        config.ipv4.as_mut().unwrap().last_lease = Ipv4Addr::new(10, 0, 2, last);
        config
    };
    let mut before = Stage::new(range(120));
    let wish = [50, 4, 10, 0, 2, 117];
    assert_eq!(told(&mut before, 1, &wish).1, Ipv4Addr::new(10, 0, 2, 117));
    let (address, _) = bind(&mut before);
    let mut after = Stage::new(range(120));
    let now = after.now;
    for lease in before.workers[0].gateway.leases(before.now) {
        assert!(after.workers[0].gateway.restore_lease(now, &lease));
    }
    assert_eq!(bind(&mut after).0, address);
}

#[test]
fn a_container_that_has_left_leaves_its_address() {
    let mut stage = Stage::new(config());
    bind(&mut stage);
    stage.workers[0].gateway.release_leases(CONTAINER_MAC);
    let states: Vec<_> = stage.workers[0].gateway.leases(stage.now).map(|lease| lease.state).collect();
    assert_eq!(states, [LeaseState::Released]);
    reserve(&mut stage, RESERVED).unwrap();
    let now = stage.now;
    stage.workers[0].gateway.release_reservation(now, CONTAINER_MAC);
    assert_eq!(bind(&mut stage).0, Ipv4Addr::new(10, 0, 2, 100));
}
