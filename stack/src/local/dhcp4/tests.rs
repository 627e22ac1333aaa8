// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a DHCP client may rely on, each a claim with the rule it comes from.

use core::net::Ipv4Addr;

use proptest::prelude::*;
use smoltcp::wire::{
    DhcpFlags, DhcpPacket, DhcpRepr, EthernetFrame, IpAddress, Ipv4Cidr, Ipv4Packet, UdpPacket,
};
use wharf_switch::Pool;

use super::*;
use crate::config::Route;
use crate::config::tests::config;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);
const OTHER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x65]);
const XID: u32 = 0x1234_5678;

/// A client's message in the making.
#[derive(Clone)]
struct Client {
    kind: u8,
    mac: EthernetAddress,
    broadcast: bool,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    options: Vec<u8>,
}

fn says(kind: u8) -> Client {
    let none = Ipv4Addr::UNSPECIFIED;
    Client { kind, mac: MAC, broadcast: false, ciaddr: none, giaddr: none, options: Vec::new() }
}

impl Client {
    fn with(mut self, code: u8, data: &[u8]) -> Self {
        self.options.push(code);
        self.options.push(data.len().try_into().unwrap());
        self.options.extend_from_slice(data);
        self
    }

    fn address(self, address: Ipv4Addr) -> Self {
        self.with(50, &address.octets())
    }

    fn server(self, address: Ipv4Addr) -> Self {
        self.with(54, &address.octets())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&XID.to_be_bytes());
        bytes[10] = if self.broadcast { 0x80 } else { 0 };
        bytes[12..16].copy_from_slice(&self.ciaddr.octets());
        bytes[24..28].copy_from_slice(&self.giaddr.octets());
        bytes[28..34].copy_from_slice(&self.mac.0);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend_from_slice(&[53, 1, self.kind]);
        bytes.extend_from_slice(&self.options);
        bytes.push(255);
        bytes
    }
}

fn server(last: u8) -> Server {
    let mut config = config();
    config.ntp = vec![Ipv4Addr::new(192, 0, 2, 123)];
    config.hostname = Some("box".into());
    config.search = vec!["example.org".into(), "lab".into()];
    if let Some(plan) = config.ipv4.as_mut() {
        plan.last_lease = Ipv4Addr::new(10, 0, 2, last);
    }
    Server::new(&config).unwrap()
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

/// The address of a client that has another identifier than its MAC address.
fn bind_as(server: &mut Server, mac: EthernetAddress, id: &[u8]) -> Ipv4Addr {
    let offer = reply(server, 0, &Client { mac, ..says(1) }.with(61, id));
    let request = Client { mac, ..says(3) }.with(61, id).address(yiaddr(&offer)).server(GATEWAY);
    yiaddr(&reply(server, 0, &request))
}

/// Addresses that nobody else may have.
fn held(server: &Server, secs: u64) -> Vec<Ipv4Addr> {
    let held = server.leases().views(at(secs)).filter(|lease| lease.state != State::Released);
    held.map(|lease| lease.address).collect()
}

fn ask(server: &mut Server, secs: u64, client: &Client) -> Result<Option<Reply>, DropReason> {
    server.handle(at(secs), client.mac, &client.bytes())
}

fn reply(server: &mut Server, secs: u64, client: &Client) -> Reply {
    ask(server, secs, client).unwrap().unwrap()
}

fn option(reply: &Reply, code: u8) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(&reply.message[..]).unwrap();
    packet.options().find(|option| option.kind == code).map(|option| option.data.to_vec())
}

fn kind(reply: &Reply) -> u8 {
    option(reply, 53).unwrap()[0]
}

fn yiaddr(reply: &Reply) -> Ipv4Addr {
    DhcpPacket::new_checked(&reply.message[..]).unwrap().your_ip()
}

/// DISCOVER, REQUEST, and the address that came of it.
fn bind(server: &mut Server, secs: u64, mac: EthernetAddress) -> Ipv4Addr {
    let offer = reply(server, secs, &Client { mac, ..says(1) });
    assert_eq!(kind(&offer), 2);
    let request = Client { mac, ..says(3) }.address(yiaddr(&offer)).server(GATEWAY);
    let ack = reply(server, secs, &request);
    assert_eq!((kind(&ack), yiaddr(&ack)), (5, yiaddr(&offer)));
    assert_eq!(ack.bound, Some((yiaddr(&ack), mac)));
    yiaddr(&ack)
}

#[test]
fn an_offer_carries_everything_a_client_needs() {
    let offer = reply(&mut server(100), 0, &says(1));
    assert_eq!((kind(&offer), yiaddr(&offer)), (2, FIRST));
    assert_eq!(option(&offer, 54).unwrap(), GATEWAY.octets());
    assert_eq!(option(&offer, 1).unwrap(), [255, 255, 255, 0]);
    assert_eq!(option(&offer, 3).unwrap(), GATEWAY.octets());
    assert_eq!(option(&offer, 6).unwrap(), [10, 0, 2, 3]);
    assert_eq!(option(&offer, 12).unwrap(), b"box");
    assert_eq!(option(&offer, 15).unwrap(), b"example.org");
    assert_eq!(option(&offer, 119).unwrap(), b"\x07example\x03org\x00\x03lab\x00");
    assert_eq!(option(&offer, 26).unwrap(), 1500u16.to_be_bytes());
    assert_eq!(option(&offer, 28).unwrap(), [10, 0, 2, 255]);
    assert_eq!(option(&offer, 42).unwrap(), [192, 0, 2, 123]);
    assert_eq!(option(&offer, 51).unwrap(), 86_400u32.to_be_bytes());
    assert_eq!(option(&offer, 58).unwrap(), 43_200u32.to_be_bytes());
    assert_eq!(option(&offer, 59).unwrap(), 75_600u32.to_be_bytes());
}

#[test]
fn smoltcps_client_reads_the_offer() {
    let offer = reply(&mut server(100), 0, &says(1));
    let packet = DhcpPacket::new_checked(&offer.message[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((repr.transaction_id, repr.client_hardware_address), (XID, MAC));
    assert_eq!((repr.your_ip, repr.router, repr.lease_duration), (FIRST, Some(GATEWAY), Some(86_400)));
    assert_eq!(repr.message_type, DhcpMessageType::Offer);
}

#[test]
fn a_message_has_300_bytes_at_least() {
    // RFC 1542 section 2.1.
    let bare = reply(&mut server(100), 0, &says(1).with(55, &[1]));
    assert_eq!(bare.message.len(), 300);
}

#[test]
fn without_an_outside_there_is_no_router() {
    let config = Config { internal: true, ..config() };
    let offer = reply(&mut Server::new(&config).unwrap(), 0, &says(1));
    assert_eq!((option(&offer, 3), option(&offer, 6)), (None, Some(vec![10, 0, 2, 3])));
}

#[test]
fn without_an_outside_there_are_ways_to_the_linked_networks() {
    let route = |prefix: &str| Route { prefix: prefix.parse().unwrap(), mtu_bytes: 1500, network: 0 };
    let routes = ["10.0.3.0/24", "2001:db8:6::/64", "172.16.0.0/12"].map(route);
    let config = Config { internal: true, routes: routes.to_vec(), ..config() };
    let mut server = Server::new(&config).unwrap();
    let offer = reply(&mut server, 0, &says(1));
    // RFC 3442: "the width of the subnet mask" and its "significant octets", then the router.
    let expected = vec![24, 10, 0, 3, 10, 0, 2, 2, 12, 172, 16, 10, 0, 2, 2];
    assert_eq!((option(&offer, 121), option(&offer, 3)), (Some(expected), None));
    server.set_routes(&routes[..1]);
    let renewed = reply(&mut server, 1, &says(1));
    assert_eq!(option(&renewed, 121), Some(vec![24, 10, 0, 3, 10, 0, 2, 2]));
    assert_eq!(option(&reply(&mut server, 2, &says(1).with(55, &[1, 3])), 121), None, "not asked for");
    let mut router = Server::new(&Config { internal: false, ..config }).unwrap();
    assert_eq!(option(&reply(&mut router, 0, &says(1)), 121), None, "its router is the way to everything");
}

#[test]
fn only_what_the_client_lists_is_given() {
    let offer = reply(&mut server(100), 0, &says(1).with(55, &[1, 6]));
    let packet = DhcpPacket::new_checked(&offer.message[..]).unwrap();
    let codes: Vec<u8> = packet.options().map(|option| option.kind).collect();
    assert_eq!(codes, [53, 54, 51, 58, 59, 1, 6]);
}

#[test]
fn an_answer_stays_within_the_size_the_client_takes() {
    let mut config = config();
    config.search = (0..40).map(|number| format!("some-longer-name-{number}.example.org")).collect();
    let mut server = Server::new(&config).unwrap();
    let small = reply(&mut server, 0, &says(1));
    assert!(small.message.len() <= 576 - 28);
    assert!(option(&small, 119).unwrap().ends_with(b"\0"), "whole names only");
    let large = reply(&mut server, 0, &says(1).with(57, &1500u16.to_be_bytes()));
    assert!(large.message.len() > 1000 && large.message.len() <= 1472);
    let tiny = reply(&mut server, 0, &says(1).with(57, &300u16.to_be_bytes()));
    assert!(tiny.message.len() <= 576 - 28 && option(&tiny, 3).is_some());
}

#[test]
fn offer_repeats_the_lease_of_a_known_client() {
    let mut server = server(199);
    let address = bind(&mut server, 0, MAC);
    bind(&mut server, 0, OTHER);
    assert_eq!(yiaddr(&reply(&mut server, 10, &says(1))), address);
    assert_eq!(held(&server, 10).len(), 2);
}

#[test]
fn the_wish_of_a_new_client_is_granted_when_it_is_free() {
    let mut server = server(199);
    let wish = Ipv4Addr::new(10, 0, 2, 177);
    assert_eq!(yiaddr(&reply(&mut server, 0, &says(1).address(wish))), wish);
    let other = reply(&mut server, 0, &Client { mac: OTHER, ..says(1) }.address(wish));
    assert_ne!(yiaddr(&other), wish);
}

#[test]
fn the_client_identifier_is_echoed_and_decides_who_is_who() {
    // RFC 6842 section 3.
    let mut server = server(199);
    let id = b"\xff\0\0\0\x01duid";
    let first = reply(&mut server, 0, &says(1).with(61, id));
    assert_eq!(option(&first, 61).unwrap(), id);
    let moved = reply(&mut server, 0, &Client { mac: OTHER, ..says(1) }.with(61, id));
    assert_eq!(yiaddr(&moved), yiaddr(&first), "another MAC address, the same client");
    assert_ne!(yiaddr(&reply(&mut server, 0, &says(1))), yiaddr(&first));
    let nak = reply(&mut server, 0, &says(3).with(61, id).address(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!((kind(&nak), option(&nak, 61).unwrap()), (6, id.to_vec()));
}

#[test]
fn another_program_in_the_same_container_gets_the_only_address_too() {
    let mut server = server(100);
    bind(&mut server, 0, MAC);
    let renamed = says(1).with(61, b"\x01\x02\0\0\0\0\x64");
    assert_eq!(yiaddr(&reply(&mut server, 1, &renamed)), FIRST);
    let ack = reply(&mut server, 1, &Client { kind: 3, ..renamed }.address(FIRST).server(GATEWAY));
    assert_eq!(kind(&ack), 5);
    let stranger = ask(&mut server, 1, &Client { mac: OTHER, ..says(1) });
    assert_eq!(stranger, Err(DropReason::DhcpRangeExhausted));
}

#[test]
fn a_request_for_another_server_is_met_with_silence_and_frees_the_offer() {
    let mut server = server(100);
    reply(&mut server, 0, &says(1));
    let chosen = says(3).address(Ipv4Addr::new(10, 0, 2, 9)).server(Ipv4Addr::new(10, 0, 2, 1));
    assert_eq!(ask(&mut server, 0, &chosen), Err(DropReason::DhcpOtherServer));
    assert_eq!(yiaddr(&reply(&mut server, 0, &Client { mac: OTHER, ..says(1) })), FIRST);
}

#[test]
fn an_address_that_was_not_offered_is_refused() {
    let mut server = server(199);
    reply(&mut server, 0, &says(1));
    let wrong = says(3).address(Ipv4Addr::new(10, 0, 2, 199)).server(GATEWAY);
    let nak = reply(&mut server, 0, &wrong);
    assert_eq!((kind(&nak), yiaddr(&nak)), (6, Ipv4Addr::UNSPECIFIED));
    assert_eq!(nak.destination, Destination::Broadcast);
    assert_eq!(option(&nak, 51), None);
}

#[test]
fn an_offer_lapses_after_a_minute() {
    let mut server = server(100);
    reply(&mut server, 0, &says(1));
    let other = Client { mac: OTHER, ..says(1) };
    assert_eq!(ask(&mut server, 59, &other), Err(DropReason::DhcpRangeExhausted));
    assert_eq!(kind(&reply(&mut server, 60, &other)), 2);
}

#[test]
fn init_reboot_on_the_right_network_is_acknowledged_and_on_the_wrong_one_refused() {
    // RFC 2131 section 4.3.2, "DHCPREQUEST generated during INIT-REBOOT state".
    let mut server = server(199);
    let address = bind(&mut server, 0, MAC);
    assert_eq!(kind(&reply(&mut server, 5, &says(3).address(address))), 5);
    assert_eq!(kind(&reply(&mut server, 5, &says(3).address(Ipv4Addr::new(192, 168, 1, 9)))), 6);
    let taken = Client { mac: OTHER, ..says(3) }.address(address);
    assert_eq!(kind(&reply(&mut server, 5, &taken)), 6, "somebody else's");
}

#[test]
fn a_client_of_a_restarted_gateway_goes_on_with_its_free_address() {
    let mut server = server(199);
    let address = Ipv4Addr::new(10, 0, 2, 150);
    let ack = reply(&mut server, 0, &Client { ciaddr: address, ..says(3) });
    assert_eq!((kind(&ack), yiaddr(&ack)), (5, address));
    assert_eq!(held(&server, 1)[0], address);
}

#[test]
fn renewing_extends_the_lease_and_is_answered_to_the_clients_address() {
    let mut server = server(100);
    bind(&mut server, 0, MAC);
    let renewal = Client { ciaddr: FIRST, broadcast: true, ..says(3) };
    let ack = reply(&mut server, 43_200, &renewal);
    assert_eq!((kind(&ack), ack.destination), (5, Destination::Client(FIRST, MAC)));
    let packet = DhcpPacket::new_checked(&ack.message[..]).unwrap();
    assert_eq!(packet.client_ip(), FIRST, "RFC 2131 table 3");
    let other = Client { mac: OTHER, ..says(1) };
    assert_eq!(ask(&mut server, 86_401, &other), Err(DropReason::DhcpRangeExhausted));
    assert_eq!(kind(&reply(&mut server, 43_200 + 86_400, &other)), 2);
}

#[test]
fn a_client_may_ask_for_a_shorter_lease() {
    let ack = reply(&mut server(100), 0, &says(1).with(51, &120u32.to_be_bytes()));
    assert_eq!(option(&ack, 51).unwrap(), 120u32.to_be_bytes());
    for (asked, given) in [(1u32, 60u32), (u32::MAX, 86_400)] {
        let ack = reply(&mut server(100), 0, &says(1).with(51, &asked.to_be_bytes()));
        assert_eq!(option(&ack, 51).unwrap(), given.to_be_bytes());
    }
}

#[test]
fn a_released_address_is_free_and_its_former_client_gets_it_back() {
    let mut server = server(199);
    let address = bind(&mut server, 0, MAC);
    let release = Client { ciaddr: address, ..says(7) }.server(GATEWAY);
    assert_eq!(ask(&mut server, 1, &release), Ok(None));
    assert_eq!(held(&server, 1).len(), 0);
    assert_eq!(yiaddr(&reply(&mut server, 2, &says(1))), address);
}

#[test]
fn nobody_releases_or_declines_anothers_address() {
    let mut server = server(199);
    let address = bind(&mut server, 0, MAC);
    let release = Client { mac: OTHER, ciaddr: address, ..says(7) }.server(GATEWAY);
    assert_eq!(ask(&mut server, 1, &release), Err(DropReason::DhcpNotOwner));
    let decline = Client { mac: OTHER, ..says(4) }.address(address).server(GATEWAY);
    assert_eq!(ask(&mut server, 1, &decline), Err(DropReason::DhcpNotOwner));
    // Identifiers are no secrets.
    let id = b"\xff\0\0\0\x01duid";
    let other = bind_as(&mut server, MAC, id);
    let release = Client { mac: OTHER, ciaddr: other, ..says(7) }.with(61, id);
    assert_eq!(ask(&mut server, 1, &release), Err(DropReason::DhcpNotOwner));
    let elsewhere = Client { ciaddr: address, ..says(7) }.server(Ipv4Addr::new(10, 0, 2, 9));
    assert_eq!(ask(&mut server, 1, &elsewhere), Err(DropReason::DhcpOtherServer));
    assert_eq!(held(&server, 1).len(), 2);
}

#[test]
fn a_declined_address_rests_for_ten_minutes() {
    // RFC 2131 section 4.3.3.
    let mut server = server(101);
    let address = bind(&mut server, 0, MAC);
    assert_eq!(ask(&mut server, 0, &says(4).address(address).server(GATEWAY)), Ok(None));
    assert_ne!(yiaddr(&reply(&mut server, 1, &says(1))), address);
    let wish = Client { mac: OTHER, ..says(1) }.address(address);
    assert_eq!(ask(&mut server, 2, &wish), Err(DropReason::DhcpRangeExhausted));
    assert_eq!(yiaddr(&reply(&mut server, 600, &wish)), address);
}

#[test]
fn an_inform_is_answered_without_an_address_or_a_lease() {
    // RFC 2131 section 4.3.5.
    let mut server = server(100);
    let inform = Client { ciaddr: Ipv4Addr::new(10, 0, 2, 50), ..says(8) };
    let ack = reply(&mut server, 0, &inform);
    assert_eq!((kind(&ack), yiaddr(&ack)), (5, Ipv4Addr::UNSPECIFIED));
    assert_eq!(ack.destination, Destination::Client(Ipv4Addr::new(10, 0, 2, 50), MAC));
    assert_eq!([51, 58, 59].map(|code| option(&ack, code)), [None, None, None]);
    assert!(option(&ack, 6).is_some());
    assert_eq!(held(&server, 0).len(), 0);
}

#[test]
fn answers_go_where_section_4_1_sends_them() {
    let mut server = server(100);
    let relay = Ipv4Addr::new(10, 0, 2, 9);
    assert_eq!(reply(&mut server, 0, &says(1)).destination, Destination::Client(FIRST, MAC));
    let loud = Client { broadcast: true, ..says(1) };
    let offer = reply(&mut server, 0, &loud);
    assert_eq!(offer.destination, Destination::Broadcast);
    assert!(DhcpPacket::new_checked(&offer.message[..]).unwrap().flags().contains(DhcpFlags::BROADCAST));
    let relayed = reply(&mut server, 0, &Client { giaddr: relay, ..says(1) });
    assert_eq!(relayed.destination, Destination::Relay(relay));
    let nak = reply(&mut server, 0, &Client { giaddr: relay, ..says(3) }.address(Ipv4Addr::LOCALHOST));
    assert_eq!((kind(&nak), nak.destination), (6, Destination::Relay(relay)));
    let packet = DhcpPacket::new_checked(&nak.message[..]).unwrap();
    assert!(packet.flags().contains(DhcpFlags::BROADCAST));
    assert_eq!(packet.relay_agent_ip(), relay);
}

#[test]
fn the_frame_is_one_a_client_without_address_takes() {
    let mut server = server(100);
    for (broadcast, to, mac) in [(false, FIRST, MAC), (true, Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST)]
    {
        let offer = reply(&mut server, 0, &Client { broadcast, ..says(1) });
        let mut frame = server.frame(&Pool::new(0), &offer, MAC);
        wharf_switch::offload::complete_checksum(&mut frame).unwrap();
        let ethernet = EthernetFrame::new_checked(frame.bytes()).unwrap();
        assert_eq!(ethernet.dst_addr(), mac);
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!((ip.src_addr(), ip.dst_addr()), (GATEWAY, to));
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&IpAddress::from(GATEWAY), &IpAddress::from(to)));
        assert_eq!((udp.src_port(), udp.dst_port(), udp.payload()), (67, 68, &offer.message[..]));
    }
}

#[test]
fn a_range_is_bounded_and_an_empty_one_has_nothing() {
    let mut config = config();
    if let Some(plan) = config.ipv4.as_mut() {
        plan.subnet = Ipv4Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8);
        plan.first_lease = Ipv4Addr::new(10, 0, 2, 100);
        plan.last_lease = Ipv4Addr::new(10, 0, 2, 99);
    }
    let outcome = Server::new(&config).unwrap().handle(at(0), MAC, &says(1).bytes());
    assert_eq!(outcome, Err(DropReason::DhcpRangeExhausted));
    if let Some(plan) = config.ipv4.as_mut() {
        plan.last_lease = Ipv4Addr::new(10, 255, 255, 254);
    }
    let server = Server::new(&config).unwrap();
    assert!(server.leases.contains(Ipv4Addr::from(u32::from(FIRST) + 4095)));
    assert!(!server.leases.contains(Ipv4Addr::from(u32::from(FIRST) + 4096)));
}

#[test]
fn a_reservation_decides_address_and_name() {
    let mut server = server(199);
    let address = bind(&mut server, 0, MAC);
    let reserved = Ipv4Addr::new(10, 0, 2, 50);
    server.leases_mut().reserve(at(1), MAC, reserved, Some("web".into())).unwrap();
    let renewal = Client { ciaddr: address, ..says(3) };
    assert_eq!(kind(&reply(&mut server, 1, &renewal)), 6, "not the old one any more");
    let offer = reply(&mut server, 2, &says(1).address(address));
    assert_eq!((yiaddr(&offer), option(&offer, 12).unwrap()), (reserved, b"web".to_vec()));
    assert_eq!(bind(&mut server, 2, MAC), reserved);
    assert_eq!(bind(&mut server, 2, OTHER), address, "the old one is free");
    let greedy = Client { mac: OTHER, ..says(3) }.address(reserved);
    assert_eq!(kind(&reply(&mut server, 3, &greedy)), 6);
}

#[test]
fn a_flood_from_one_host_leaves_the_others_served() {
    let mut server = server(199);
    for number in 0..10_000u32 {
        reply(&mut server, 0, &says(1).with(61, &number.to_be_bytes()));
        reply(&mut server, 0, &says(1).with(61, &number.to_be_bytes()).address(Ipv4Addr::new(10, 0, 2, 150)));
    }
    assert_eq!(held(&server, 0).len(), lease::MAX_PER_MAC);
    for host in 0..90 {
        bind(&mut server, 0, EthernetAddress([2, 0, 0, 0, 9, host]));
    }
}

#[test]
fn nobody_asks_under_anothers_mac_address() {
    let mut server = server(199);
    let outcome = server.handle(at(0), OTHER, &says(1).bytes());
    assert_eq!(outcome, Err(DropReason::DhcpSenderForged));
    // A relay agent does, on its own account.
    for number in 0..100 {
        let relayed = Client {
            giaddr: Ipv4Addr::new(10, 0, 2, 9),
            mac: EthernetAddress([2, 0, 0, 0, 9, number]),
            ..says(1)
        };
        assert!(server.handle(at(0), OTHER, &relayed.bytes()).unwrap().is_some());
    }
    assert_eq!(held(&server, 0).len(), lease::MAX_PER_MAC);
}

proptest! {
    #[test]
    fn no_options_make_it_panic(kind in 0u8..10, options in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..700) {
        let mut bytes = Client { options, ..says(kind) }.bytes();
        bytes.truncate(cut);
        let mut server = server(103);
        if let Ok(Some(reply)) = server.handle(at(0), MAC, &bytes) {
            prop_assert!(reply.message.len() >= 300);
            prop_assert!(server.frame(&Pool::new(0), &reply, MAC).len() > reply.message.len());
        }
    }

    /// Whatever clients say in whatever order, no two hold one address and nobody holds one outside the range.
    #[test]
    fn no_two_clients_hold_one_address(
        steps in prop::collection::vec((0u8..5, prop_oneof![Just(1u8), Just(3), Just(4), Just(7)], 0u8..6, any::<bool>(), 0u64..50_000), 1..80)
    ) {
        let mut server = server(103);
        let mut now = 0;
        let mut holders: Vec<(Ipv4Addr, EthernetAddress, u64)> = Vec::new();
        for (client, kind, last, names_us, pause) in steps {
            now += pause;
            let mac = EthernetAddress([2, 0, 0, 0, 2, client]);
            let address = Ipv4Addr::new(10, 0, 2, 99 + last);
            let mut message = Client { mac, ciaddr: if kind == 7 { address } else { Ipv4Addr::UNSPECIFIED }, ..says(kind) };
            if kind != 7 { message = message.address(address); }
            if names_us { message = message.server(GATEWAY); }
            let outcome = ask(&mut server, now, &message);
            holders.retain(|&(.., until)| until > now);
            if matches!(outcome, Ok(None)) {
                holders.retain(|&(_, holder, _)| holder != mac);
            }
            if let Ok(Some(Reply { bound: Some((address, mac)), .. })) = outcome {
                prop_assert!((100..=103).contains(&address.octets()[3]));
                prop_assert!(holders.iter().all(|&(held, holder, _)| held != address || holder == mac));
                holders.retain(|&(_, holder, _)| holder != mac);
                holders.push((address, mac, now + 86_400));
            }
        }
    }
}
