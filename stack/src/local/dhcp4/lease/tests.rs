// SPDX-License-Identifier: MIT OR Apache-2.0
//! What clients and the owner of a network may rely on about leases.

use super::*;

const NOW: Instant = Instant::ZERO;
const LATER: Instant = Instant::from_secs(1000);

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, last)
}

fn leases(count: u8) -> Leases {
    Leases::new(address(100), address(99 + count), &[3; 32])
}

fn mac(number: u8) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 0, 0, number])
}

fn client(number: u8) -> ClientKey {
    ClientKey::new(None, mac(number))
}

/// One of the names that the host at a MAC address goes by.
fn renamed(number: u32) -> ClientKey {
    ClientKey::new(Some(&number.to_be_bytes()), mac(1))
}

fn take_as(leases: &mut Leases, client: &ClientKey, mac: EthernetAddress) -> Option<Ipv4Addr> {
    let address = leases.choose(NOW, client, mac, None)?;
    leases.put(client, mac, address, State::Bound, LATER);
    Some(address)
}

fn take(leases: &mut Leases, number: u8) -> Option<Ipv4Addr> {
    take_as(leases, &client(number), mac(number))
}

fn held(leases: &Leases) -> Vec<Ipv4Addr> {
    let held = leases.views(NOW).filter(|lease| lease.state != State::Released);
    held.map(|lease| lease.address).collect()
}

#[test]
fn every_address_of_the_range_is_given_once() {
    let mut leases = leases(5);
    let mut given: Vec<_> = (0..5).map(|number| take(&mut leases, number).unwrap()).collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 5);
    assert_eq!(take(&mut leases, 9), None);
}

#[test]
fn addresses_are_given_in_their_order_and_a_client_keeps_its_own() {
    let mut leases = leases(50);
    let first = take(&mut leases, 7);
    assert_eq!(first, Some(address(100)));
    assert_eq!(take(&mut leases, 3), Some(address(101)));
    assert_eq!(take(&mut leases, 7), first);
}

#[test]
fn an_expired_address_goes_to_who_needs_it() {
    let mut leases = leases(1);
    let address = take(&mut leases, 1);
    assert_eq!(leases.choose(LATER, &client(2), mac(2), None), address);
    leases.put(&client(2), mac(2), address.unwrap(), State::Bound, Instant::FAR);
    assert!(leases.of_client(&client(1)).is_none());
    assert_eq!(leases.choose(LATER, &client(1), mac(1), None), None);
}

#[test]
fn a_host_that_changes_its_identifier_gets_its_address_when_there_is_no_other() {
    let mut single = leases(1);
    let address = take(&mut single, 1);
    assert_eq!(single.choose(NOW, &renamed(1), mac(1), None), address);
    assert_eq!(single.choose(NOW, &renamed(1), mac(2), None), None);
}

#[test]
fn a_client_never_holds_two_addresses() {
    let mut leases = leases(4);
    take(&mut leases, 1).unwrap();
    leases.put(&client(1), mac(1), address(101), State::Bound, LATER);
    assert_eq!(held(&leases), [address(101)]);
}

#[test]
fn host_names_are_kept_without_what_no_name_has() {
    let mut leases = leases(1);
    let address = take(&mut leases, 1).unwrap();
    leases.name(address, b"web-1\n\x1b[2J");
    assert_eq!(leases.views(NOW).next().unwrap().hostname, Some("web-12J"));
}

#[test]
fn a_reserved_address_is_its_owners_alone_and_its_owner_has_no_other() {
    let mut leases = leases(2);
    leases.reserve(NOW, mac(5), address(101), Some("web".into())).unwrap();
    assert_eq!(take(&mut leases, 1), Some(address(100)));
    assert_eq!(take(&mut leases, 2), None);
    assert!(!leases.may_have(NOW, &client(2), mac(2), address(101)));
    assert!(!leases.may_have(NOW, &client(5), mac(5), address(100)));
    assert_eq!(leases.choose(NOW, &client(5), mac(5), Some(address(100))), Some(address(101)));
    assert_eq!(take(&mut leases, 5), Some(address(101)));
    let view = leases.views(NOW).find(|lease| lease.mac == mac(5)).unwrap();
    assert_eq!((view.hostname, view.is_reserved), (Some("web"), true));
}

#[test]
fn a_reserved_address_need_not_be_of_the_range() {
    let mut leases = leases(1);
    leases.reserve(NOW, mac(5), address(7), None).unwrap();
    assert!(leases.contains(address(7)));
    assert_eq!(take(&mut leases, 5), Some(address(7)));
    leases.release_reservation(NOW, mac(5));
    assert_eq!(held(&leases), [address(7)], "the lease goes on");
    assert_eq!(take(&mut leases, 5), Some(address(100)), "but is not renewed");
    assert_eq!(held(&leases), [address(100)]);
}

#[test]
fn an_address_is_reserved_once_and_not_while_somebody_uses_it() {
    let mut leases = leases(3);
    leases.reserve(NOW, mac(5), address(101), None).unwrap();
    let taken = leases.reserve(NOW, mac(6), address(101), None);
    assert_eq!(taken, Err(ReservationError::Reserved(address(101), mac(5))));
    take(&mut leases, 1);
    let used = leases.reserve(NOW, mac(6), address(100), None);
    assert_eq!(used, Err(ReservationError::Leased(address(100), mac(1))));
    assert_eq!(leases.reserve(LATER, mac(6), address(100), None), Ok(()));
    assert_eq!(leases.reserve(NOW, mac(5), address(102), None), Ok(()), "another instead");
    assert!(leases.is_free_for(NOW, &client(2), mac(2), address(101)));
}

/// The owner has the last word over what was only offered.
#[test]
fn an_offer_gives_way_to_a_reservation() {
    let mut leases = leases(2);
    leases.put(&client(1), mac(1), address(100), State::Offered, LATER);
    leases.reserve(NOW, mac(5), address(100), None).unwrap();
    assert!(!leases.may_have(NOW, &client(1), mac(1), address(100)));
    assert_eq!(take(&mut leases, 1), Some(address(101)));
}

#[test]
fn who_claims_to_be_many_takes_from_itself_only() {
    let mut leases = leases(50);
    for number in 0..5000 {
        let address = leases.choose(NOW, &renamed(number), mac(1), None).unwrap();
        leases.put(&renamed(number), mac(1), address, State::Offered, NOW + OFFER_TIME);
    }
    assert_eq!(held(&leases), [100, 101, 102, 103].map(address));
    assert_eq!((leases.by_address.len(), leases.by_client.len()), (4, 4));
    for number in 2..48 {
        assert!(take(&mut leases, number).is_some(), "{number}");
    }
    assert_eq!(take(&mut leases, 48), None);
}

#[test]
fn strangers_leave_a_quarter_of_the_range_to_reservations_yet_to_come() {
    let mut leases = leases(9);
    leases.reserve(NOW, mac(200), address(100), None).unwrap();
    let taken: Vec<_> = (0..20).filter_map(|number| take(&mut leases, number)).collect();
    assert_eq!(taken.len(), 7);
    assert_eq!(take(&mut leases, 0), Some(taken[0]), "who has one keeps it");
    leases.reserve(NOW, mac(201), address(108), None).unwrap();
    assert_eq!(take(&mut leases, 201), Some(address(108)));
}

#[test]
fn who_asks_for_what_was_never_offered_is_held_to_the_same() {
    let mut leases = leases(50);
    for number in 0..20 {
        let wanted = address(100 + number);
        if leases.may_have(NOW, &renamed(number.into()), mac(1), wanted) {
            leases.put(&renamed(number.into()), mac(1), wanted, State::Bound, LATER);
        }
    }
    assert_eq!(held(&leases).len(), MAX_PER_MAC);
}

#[test]
fn addresses_that_somebody_declines_are_on_its_account() {
    let mut leases = leases(50);
    for number in 0..5000 {
        let Some(address) = leases.choose(NOW, &renamed(number), mac(1), None) else { continue };
        leases.put(&renamed(number), mac(1), address, State::Declined, NOW + DECLINE_TIME);
    }
    assert_eq!(held(&leases).len(), MAX_PER_MAC);
    assert!(take(&mut leases, 2).is_some());
    let after = NOW + DECLINE_TIME;
    assert!(leases.choose(after, &renamed(9), mac(1), None).is_some());
}

#[test]
fn who_has_left_leaves_free_addresses_and_gets_them_back() {
    let mut leases = leases(3);
    take(&mut leases, 1);
    take(&mut leases, 2);
    leases.release(mac(2));
    assert_eq!(held(&leases), [address(100)]);
    assert_eq!(take(&mut leases, 3), Some(address(101)), "in its order");
    leases.release(mac(1));
    assert_eq!(take(&mut leases, 1), Some(address(100)));
}

#[test]
fn leases_that_were_written_down_are_those_of_the_next_gateway() {
    let mut before = leases(5);
    before.reserve(NOW, mac(5), address(7), Some("db".into())).unwrap();
    for number in [5, 1, 2] {
        take(&mut before, number);
    }
    before.name(address(100), b"web");
    before.put(&client(2), mac(2), address(101), State::Released, NOW);
    before.put(&client(3), mac(3), address(102), State::Offered, LATER);
    let mut after = leases(5);
    after.reserve(NOW, mac(5), address(7), Some("db".into())).unwrap();
    let entered: Vec<bool> = before.views(NOW).map(|lease| after.restore(NOW, &lease)).collect();
    assert_eq!(entered, [true, true, true, false]);
    let kept = before.views(NOW).filter(|lease| lease.state != State::Offered);
    assert_eq!(after.views(NOW).collect::<Vec<_>>(), kept.collect::<Vec<_>>());
    assert_eq!(
        [5, 1, 2].map(|number| take(&mut after, number)),
        [7, 100, 101].map(|last| Some(address(last)))
    );
}

#[test]
fn what_does_not_fit_is_not_restored() {
    let mut leases = leases(2);
    take(&mut leases, 1);
    leases.reserve(NOW, mac(5), address(101), None).unwrap();
    let (owner, stranger) = (client(5), client(6));
    let lease = LeaseView {
        address: address(101),
        mac: mac(5),
        client: &owner.0,
        hostname: None,
        state: State::Bound,
        remaining: Duration::from_secs(10),
        is_reserved: false,
    };
    let flawed = [
        LeaseView { address: address(77), ..lease },
        LeaseView { address: address(100), ..lease },
        LeaseView { mac: mac(6), ..lease },
        LeaseView { mac: EthernetAddress::BROADCAST, ..lease },
        LeaseView { client: &[], ..lease },
        LeaseView { mac: mac(6), client: &stranger.0, address: address(100), ..lease },
    ];
    for flawed in flawed {
        assert!(!leases.restore(NOW, &flawed), "{flawed:?}");
    }
    assert!(leases.restore(NOW, &lease));
    assert!(!leases.restore(NOW, &lease), "once only");
}

#[test]
fn the_version_changes_with_what_is_worth_writing_down() {
    let mut leases = leases(3);
    leases.put(&client(1), mac(1), address(100), State::Offered, LATER);
    assert_eq!(leases.version(), 0, "an offer is not");
    let mut seen = vec![0];
    let mut changed = |leases: &Leases| {
        assert!(!seen.contains(&leases.version()));
        seen.push(leases.version());
    };
    leases.put(&client(1), mac(1), address(100), State::Bound, LATER);
    changed(&leases);
    leases.put(&client(1), mac(1), address(100), State::Released, NOW);
    changed(&leases);
    leases.reserve(NOW, mac(5), address(100), None).unwrap();
    changed(&leases);
}
