// SPDX-License-Identifier: MIT OR Apache-2.0
//! Router Advertisements: how containers learn their IPv6 prefix, router, MTU and name servers.
//!
//! # How it works
//! A Router Solicitation is answered at once, to the host that asked, also if it has no address yet. Unasked, an
//! advertisement goes to everybody when a port was attached, at most every three seconds, and else every few minutes,
//! which keeps lifetimes running and costs an idle network nothing to speak of.
//!
//! An advertisement carries the prefix (on-link, autonomous), the MTU, the gateway's MAC address, the DNS forwarder
//! (RDNSS), the search list (DNSSL) and, with NAT64, its prefix (PREF64). On a network without an outside the gateway is
//! no default router and has no NAT64; it says which linked networks it leads to (route information), and
//! in three multicasts that it does so no more.
//!
//! # Bounds
//! One pending multicast advertisement; [`MAX_WITHDRAWALS`] routes that are taken back at a time; search names as long as the packet stays below 1,280 bytes.
//!
//! # Sources
//! RFC 4191; RFC 4861 sections 4.2, 6.2 and 10; RFC 6085; RFC 8106; RFC 8781.

use core::net::Ipv6Addr;
use std::borrow::Cow;

use smoltcp::wire::{
    EthernetAddress, IPV6_HEADER_LEN, Icmpv6Packet, IpCidr, IpProtocol, Ipv6Cidr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};
use wharf_switch::{Duration, Frame, Instant};

use super::name;
use crate::Config;
use crate::config::Route;
use crate::keyed::KeyedState;
use crate::link::ndp::{ALL_NODES, HOP_LIMIT, multicast_mac};
use crate::wire::emit::{self, Path};

pub mod options;

use options::RouterOption;

/// RFC 4861 section 6.2.1: "MaxRtrAdvInterval ... Default: 600 seconds". The longest that RFC allows would be 1800;
/// the default is far below any idle budget, and three of them may be lost before a container loses its router.
pub const MAX_INTERVAL: Duration = Duration::from_secs(600);
/// RFC 4861 section 6.2.1: "MinRtrAdvInterval ... Default: 0.33 * MaxRtrAdvInterval".
pub const MIN_INTERVAL: Duration = Duration::from_secs(198);
/// RFC 4861 section 10: "MAX_INITIAL_RTR_ADVERT_INTERVAL 16 seconds".
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// RFC 4861 section 10: "MAX_INITIAL_RTR_ADVERTISEMENTS 3 transmissions".
const INITIAL_ADVERTS: u64 = 3;
/// In how many multicasts a route is taken back: RFC 4861 section 6.2.4 allows MAX_INITIAL_RTR_ADVERTISEMENTS of them on
/// a change, INITIAL_INTERVAL apart.
const WITHDRAWAL_ADVERTS: u8 = 3;
/// Routes that are taken back at a time; the oldest gives way.
pub const MAX_WITHDRAWALS: usize = 32;
/// RFC 4861 section 10: "MIN_DELAY_BETWEEN_RAS 3 seconds".
pub const MIN_DELAY: Duration = Duration::from_secs(3);
/// RFC 4861 section 6.2.1: "AdvDefaultLifetime ... Default: 3 * MaxRtrAdvInterval"; RFC 8106 section 5.1 and
/// RFC 8781 section 4.1 give their options the same.
const LIFETIME_SECS: u32 = 1800;
/// RFC 4861 section 6.2.1: "AdvValidLifetime ... Default: 2592000 seconds (30 days)".
const VALID_SECS: u64 = 2_592_000;
/// RFC 4861 section 6.2.1: "AdvPreferredLifetime ... Default: 604800 seconds (7 days)".
const PREFERRED_SECS: u64 = 604_800;
/// Every IPv6 link carries packets of this size.
const MAX_PACKET_LEN: usize = 1280;
/// IPv6 header, the message's fixed part, and all options but DNSSL's names.
const OTHER_LEN: usize = IPV6_HEADER_LEN + 16 + 8 + 8 + 32 + 24 + 8 + 16;

/// Where an advertisement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Destination of the packet.
    pub address: Ipv6Addr,
    /// Destination of the frame.
    pub mac: EthernetAddress,
}

/// A route that is being taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Withdrawal {
    prefix: Ipv6Cidr,
    /// Multicasts that have told of it.
    adverts: u8,
}

/// The gateway as an advertising router.
#[derive(Debug)]
pub struct Advertiser {
    mac: EthernetAddress,
    source: Ipv6Addr,
    mtu: u32,
    /// As a default router.
    lifetime_secs: u32,
    prefix: Ipv6Cidr,
    options: Vec<RouterOption>,
    /// Linked networks.
    routes: Vec<Ipv6Cidr>,
    /// Linked networks that are no more, the oldest first.
    withdrawals: Vec<Withdrawal>,
    /// A port has come, or the routes have changed, since the last [`poll`](Self::poll).
    has_news: bool,
    /// When the next multicast advertisement is due; `None` before there was anybody to hear one.
    due: Option<Instant>,
    last_multicast: Option<Instant>,
    multicasts: u64,
    hash: KeyedState,
}

impl Advertiser {
    /// The router of the network `config` describes; `None` without IPv6.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let plan = config.ipv6?;
        let mut options = Vec::new();
        if let Some(forwarder) = config.forwarder_v6() {
            options.push(RouterOption::Rdnss { lifetime_secs: LIFETIME_SECS, servers: vec![forwarder] });
        }
        let names = search_names(&config.search);
        if !names.is_empty() {
            options.push(RouterOption::Dnssl { lifetime_secs: LIFETIME_SECS, names });
        }
        if let Some(prefix) = config.nat64.filter(|_| !config.internal) {
            options.push(RouterOption::Pref64 { lifetime_secs: LIFETIME_SECS, prefix });
        }
        let mut advertiser = Self {
            mac: config.mac,
            source: plan.link_local,
            mtu: u32::try_from(config.mtu_bytes).unwrap_or(u32::MAX),
            // RFC 4861 section 4.2: "A Lifetime of 0 indicates that the router is not a default router".
            lifetime_secs: if config.internal { 0 } else { LIFETIME_SECS },
            prefix: plan.subnet,
            options,
            routes: Vec::new(),
            withdrawals: Vec::new(),
            has_news: false,
            due: None,
            last_multicast: None,
            multicasts: 0,
            hash: KeyedState::new(&config.seed, b"router advertisements"),
        };
        advertiser.routes = advertiser.routes_to(&config.routes);
        Some(advertiser)
    }

    /// Other linked networks from now on.
    pub fn set_routes(&mut self, routes: &[Route]) {
        let routes = self.routes_to(routes);
        if routes == self.routes {
            return;
        }
        let former = core::mem::replace(&mut self.routes, routes);
        self.withdrawals.retain(|withdrawal| !self.routes.contains(&withdrawal.prefix));
        let gone = former.into_iter().filter(|prefix| !self.routes.contains(prefix));
        self.withdrawals.extend(gone.map(|prefix| Withdrawal { prefix, adverts: 0 }));
        self.withdrawals.drain(..self.withdrawals.len().saturating_sub(MAX_WITHDRAWALS));
        // Nobody has been told anything before there was a port.
        self.has_news |= self.last_multicast.is_some();
    }

    /// What a host needs to know that has no default route.
    fn routes_to(&self, routes: &[Route]) -> Vec<Ipv6Cidr> {
        let prefix_of = |route: &Route| match route.prefix {
            IpCidr::Ipv4(_) => None,
            IpCidr::Ipv6(prefix) => Some(prefix),
        };
        routes.iter().filter(|_| self.lifetime_secs == 0).filter_map(prefix_of).collect()
    }

    /// A valid Router Solicitation came ([`crate::link::ndp::Answer::RouterSolicited`]): where to advertise now.
    ///
    /// RFC 4861 section 6.2.6: "A router MAY choose to unicast the response directly to the soliciting host's address (if
    /// the solicitation's source address is not the unspecified address)". If it is, the packet is for all nodes, and the
    /// frame for this one alone (RFC 6085 section 2): nobody else is disturbed, so it need not wait as a multicast must.
    /// The RFC also asks for a random delay of 0 to 0.5 s, which keeps several routers apart; this link has one, and 0 it
    /// is.
    #[must_use]
    pub fn handle_solicitation(&self, from: Option<Ipv6Addr>, mac: EthernetAddress) -> Recipient {
        Recipient { address: from.unwrap_or(ALL_NODES), mac }
    }

    /// A port was attached. A host's own solicitation may be seconds away, until its address is found to be its own: the
    /// next advertisement goes out at once.
    pub fn handle_port_up(&mut self) {
        self.has_news = true;
    }

    /// The multicast advertisement that is due, if one is.
    pub fn poll(&mut self, now: Instant) -> Option<Recipient> {
        if core::mem::take(&mut self.has_news) {
            // RFC 4861 section 6.2.6: "consecutive Router Advertisements sent to the all-nodes multicast address MUST be
            // rate limited to no more than one advertisement every MIN_DELAY_BETWEEN_RAS seconds."
            let earliest = self.last_multicast.map_or(now, |last| last + MIN_DELAY).max(now);
            self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
        }
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.last_multicast = Some(now);
        self.multicasts += 1;
        self.count_withdrawals();
        let is_hurried = self.multicasts < INITIAL_ADVERTS || self.has_withdrawal_to_repeat();
        let wait = if is_hurried { INITIAL_INTERVAL } else { self.interval() };
        self.due = Some(now + wait);
        Some(Recipient { address: ALL_NODES, mac: multicast_mac(ALL_NODES) })
    }

    /// Another multicast goes out: forgets what the ones before have told often enough.
    fn count_withdrawals(&mut self) {
        self.withdrawals.retain_mut(|withdrawal| {
            withdrawal.adverts += 1;
            withdrawal.adverts <= WITHDRAWAL_ADVERTS
        });
    }

    fn has_withdrawal_to_repeat(&self) -> bool {
        self.withdrawals.iter().any(|withdrawal| withdrawal.adverts < WITHDRAWAL_ADVERTS)
    }

    /// When [`Advertiser::poll`] has something to do.
    #[must_use]
    pub fn poll_at(&self) -> Option<Instant> {
        if self.has_news { Some(Instant::ZERO) } else { self.due }
    }

    /// Writes an advertisement as a whole Ethernet frame.
    pub fn emit(&self, frame: &mut Frame, to: Recipient) {
        let repr = NdiscRepr::RouterAdvert {
            hop_limit: emit::HOP_LIMIT,
            flags: NdiscRouterFlags::empty(),
            router_lifetime: smoltcp::time::Duration::from_secs(self.lifetime_secs.into()),
            reachable_time: smoltcp::time::Duration::ZERO,
            retrans_time: smoltcp::time::Duration::ZERO,
            lladdr: Some(self.mac.into()),
            mtu: Some(self.mtu),
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: self.prefix.prefix_len(),
                flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                valid_lifetime: smoltcp::time::Duration::from_secs(VALID_SECS),
                preferred_lifetime: smoltcp::time::Duration::from_secs(PREFERRED_SECS),
                prefix: self.prefix.address(),
            }),
        };
        let known_len = repr.buffer_len();
        let options = self.fitting_options(known_len);
        let len = known_len + options.clone().map(|option| option.buffer_len()).sum::<usize>();
        let path =
            Path { src_mac: self.mac, dst_mac: to.mac, src: self.source.into(), dst: to.address.into() };
        frame.clear();
        let body = emit::ip(frame, &path, IpProtocol::Icmpv6, HOP_LIMIT, len);
        body.fill(0);
        repr.emit(&mut Icmpv6Packet::new_unchecked(&mut *body));
        let mut at = known_len;
        for option in options {
            let end = at + option.buffer_len();
            option.emit(body.get_mut(at..end).unwrap_or_default());
            at = end;
        }
        Icmpv6Packet::new_unchecked(body).fill_checksum(&self.source, &to.address);
    }

    /// The options behind `known_len` bytes of a message: routes as long as every link carries the packet.
    fn fitting_options(&self, known_len: usize) -> impl Iterator<Item = Cow<'_, RouterOption>> + Clone {
        let mut len = IPV6_HEADER_LEN + known_len;
        len += self.options.iter().map(RouterOption::buffer_len).sum::<usize>();
        let fitting = self.route_options().take_while(move |route| {
            len += route.buffer_len();
            len <= MAX_PACKET_LEN
        });
        self.options.iter().map(Cow::Borrowed).chain(fitting.map(Cow::Owned))
    }

    /// What is taken back comes first, as it is told a few times only.
    fn route_options(&self) -> impl Iterator<Item = RouterOption> + Clone {
        let route_info = |lifetime_secs, prefix| RouterOption::RouteInfo { lifetime_secs, prefix };
        // RFC 4191 section 3.1: "if the route's lifetime is zero, then remove the Route from the Routing Table".
        let withdrawals = self.withdrawals.iter().map(move |withdrawal| route_info(0, withdrawal.prefix));
        withdrawals.chain(self.routes.iter().map(move |&prefix| route_info(LIFETIME_SECS, prefix)))
    }

    /// RFC 4861 section 6.2.4: "a uniformly distributed random value between the interface's configured
    /// MinRtrAdvInterval and MaxRtrAdvInterval".
    fn interval(&self) -> Duration {
        let span = (MAX_INTERVAL - MIN_INTERVAL).as_secs();
        let random = self.hash.hash(&self.multicasts.to_be_bytes());
        MIN_INTERVAL + Duration::from_secs(random % (span + 1))
    }
}

/// As many search names as fit into a packet that every link carries.
fn search_names(search: &[String]) -> Vec<u8> {
    let mut names = Vec::new();
    for name in search.iter().filter_map(|name| name::encode(name)) {
        if (names.len() + name.len()).next_multiple_of(8) + OTHER_LEN > MAX_PACKET_LEN {
            break;
        }
        names.extend_from_slice(&name);
    }
    names
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{EthernetFrame, Icmpv6Message, Ipv6Packet, NdiscOption};
    use wharf_switch::Pool;

    use super::*;
    use crate::config::tests::config;

    const HOST: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);
    const HOST_IP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x64);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn advertiser() -> Advertiser {
        Advertiser::new(&config()).unwrap()
    }

    fn emitted(advertiser: &Advertiser, to: Recipient) -> Vec<u8> {
        let mut frame = Pool::new(0).small();
        advertiser.emit(&mut frame, to);
        frame.bytes().to_vec()
    }

    #[test]
    fn an_advertisement_is_what_the_rfcs_draw() {
        let bytes = emitted(&advertiser(), Recipient { address: HOST_IP, mac: HOST });
        let ip = Ipv6Packet::new_checked(&bytes[14..]).unwrap();
        assert_eq!((ip.hop_limit(), ip.dst_addr()), (255, HOST_IP));
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
        let mut expected = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[1, 1, 0x02, 0x77, 0, 0, 0, 1]);
        expected.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 220]);
        expected.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0x27, 0x8d, 0, 0, 9, 0x3a, 0x80, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0xfd, 0, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[25, 3, 0, 0, 0, 0, 7, 8]);
        expected.extend_from_slice(&[0xfd, 0, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        expected.extend_from_slice(&[31, 3, 0, 0, 0, 0, 7, 8]);
        expected.extend_from_slice(b"\x07example\x03org\x00\x00\x00\x00");
        expected.extend_from_slice(&[38, 2, 7, 8, 0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&ip.payload()[..2], &[134, 0]);
        assert_eq!(&ip.payload()[4..], expected);
    }

    #[test]
    fn smoltcp_reads_what_it_knows_of_it() {
        let bytes = emitted(&advertiser(), Recipient { address: HOST_IP, mac: HOST });
        let ip = Ipv6Packet::new_checked(EthernetFrame::new_checked(&bytes[..]).unwrap().payload()).unwrap();
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert_eq!(icmp.msg_type(), Icmpv6Message::RouterAdvert);
        let NdiscRepr::RouterAdvert { prefix_info: Some(prefix), mtu, .. } = NdiscRepr::parse(&icmp).unwrap()
        else {
            panic!("no prefix");
        };
        assert!(prefix.is_valid_prefix_info());
        assert_eq!(mtu, Some(1500));
        let mut rest = icmp.payload();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let option = NdiscOption::new_checked(rest).unwrap();
            kinds.push(rest[0]);
            rest = &rest[usize::from(option.data_len()) * 8..];
        }
        assert_eq!(kinds, [1, 5, 3, 25, 31, 38]);
    }

    #[test]
    fn without_nat64_and_search_list_there_is_no_such_option() {
        let mut config = config();
        (config.nat64, config.search) = (None, Vec::new());
        let bytes = emitted(&Advertiser::new(&config).unwrap(), Recipient { address: HOST_IP, mac: HOST });
        assert_eq!(bytes.len(), 14 + 40 + 16 + 8 + 8 + 32 + 24);
    }

    #[test]
    fn without_an_outside_nobody_is_told_to_go_there() {
        let config = Config { internal: true, ..config() };
        let bytes = emitted(&Advertiser::new(&config).unwrap(), Recipient { address: HOST_IP, mac: HOST });
        // The lifetime as a router is zero, that of RDNSS is not; PREF64 is missing.
        assert_eq!(bytes[54 + 4..54 + 8], [64, 0, 0, 0]);
        let options = &bytes[54 + 16..];
        assert_eq!(options[48..56], [25, 3, 0, 0, 0, 0, 7, 8]);
        assert_eq!(options.len(), 8 + 8 + 32 + 24 + 24);
    }

    fn linked(prefix: &str) -> Route {
        Route { prefix: IpCidr::Ipv6(prefix.parse().unwrap()), mtu_bytes: 1500, network: 0 }
    }

    /// The options that tell of linked networks, without an outside.
    fn options_of(advertiser: &Advertiser) -> Vec<u8> {
        let bytes = emitted(advertiser, Recipient { address: HOST_IP, mac: HOST });
        bytes[54 + 16 + 48 + 24 + 24..].to_vec()
    }

    /// The last byte of each such network's 2001:db8:x::/64, and whether it is led to.
    fn told(advertiser: &Advertiser) -> Vec<(u8, bool)> {
        options_of(advertiser).chunks(16).map(|option| (option[13], option[4..8] != [0; 4])).collect()
    }

    #[test]
    fn what_is_taken_back_is_told_in_three_multicasts_whatever_else_changes() {
        let routes = ["2001:db8:6::/64", "2001:db8:7::/64", "2001:db8:8::/64"].map(linked);
        let mut config = config();
        (config.internal, config.routes) = (true, routes.to_vec());
        let mut advertiser = Advertiser::new(&config).unwrap();
        advertiser.handle_port_up();
        let mut now = at(0);
        for _ in 0..INITIAL_ADVERTS {
            assert!(advertiser.poll(now).is_some());
            now = advertiser.poll_at().unwrap();
        }
        // Three changes before anything of them was said.
        advertiser.set_routes(&routes[..2]);
        advertiser.set_routes(&routes[..1]);
        advertiser.set_routes(&routes[1..2]);
        for round in 0..3 {
            assert!(advertiser.poll(now).is_some());
            assert_eq!(told(&advertiser), [(8, false), (6, false), (7, true)], "round {round}");
            let next = advertiser.poll_at().unwrap();
            assert_eq!(next - now == INITIAL_INTERVAL, round < 2, "soon, until it was told often enough");
            now = next;
        }
        assert!(advertiser.poll(now).is_some());
        assert_eq!(told(&advertiser), [(7, true)], "it was told often enough");
    }

    #[test]
    fn what_is_taken_back_is_bounded_and_the_oldest_gives_way() {
        let networks: Vec<_> = (0..40).map(|number| linked(&format!("2001:db8:{number:x}::/64"))).collect();
        let mut config = config();
        (config.internal, config.routes) = (true, networks.clone());
        let mut advertiser = Advertiser::new(&config).unwrap();
        for left in (0..networks.len()).rev() {
            advertiser.set_routes(&networks[..left]);
        }
        let expected: Vec<_> = (0..32).rev().map(|number| (number, false)).collect();
        assert_eq!(told(&advertiser), expected);
    }

    #[test]
    fn without_an_outside_the_linked_networks_are_told_and_taken_back() {
        let routes = [linked("2001:db8:6::/64"), linked("2001:db8:7:8000::/65")];
        let mut config = Config { internal: true, routes: routes.to_vec(), ..config() };
        let mut advertiser = Advertiser::new(&config).unwrap();
        // RFC 4191 section 2.3.
        let near = [24, 2, 64, 0, 0, 0, 7, 8, 0x20, 1, 0x0d, 0xb8, 0, 6, 0, 0];
        let far = [24, 3, 65, 0, 0, 0, 7, 8, 0x20, 1, 0x0d, 0xb8, 0, 7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(options_of(&advertiser), [&near[..], &far].concat());
        advertiser.set_routes(&routes);
        assert_eq!(advertiser.poll_at(), None, "no news, and nobody to hear them");
        advertiser.handle_port_up();
        advertiser.poll(at(0));
        advertiser.set_routes(&routes[..1]);
        let mut gone = far;
        gone[4..8].fill(0);
        assert_eq!(options_of(&advertiser), [&gone[..], &near].concat());
        assert_eq!(advertiser.poll(at(2999)), None);
        assert!(advertiser.poll(at(3000)).is_some(), "RFC 4861 section 6.2.6");
        config.internal = false;
        let router = emitted(&Advertiser::new(&config).unwrap(), Recipient { address: HOST_IP, mac: HOST });
        assert_eq!(router.len(), 14 + 40 + 16 + 8 + 8 + 32 + 24 + 24 + 16, "it is the way to everything");
    }

    #[test]
    fn more_linked_networks_than_fit_keep_the_packet_below_1280_bytes() {
        let route = |number| Route {
            prefix: IpCidr::new(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0).into(), 64),
            mtu_bytes: 1500,
            network: 0,
        };
        let config = Config { internal: true, routes: (0..100).map(route).collect(), ..config() };
        let bytes = emitted(&Advertiser::new(&config).unwrap(), Recipient { address: HOST_IP, mac: HOST });
        assert!(bytes.len() <= 14 + 1280 && bytes.len() > 14 + 1264, "{}", bytes.len());
    }

    #[test]
    fn a_long_search_list_keeps_the_packet_below_1280_bytes() {
        let mut config = config();
        config.search = (0..200).map(|number| format!("department-{number}.example.org")).collect();
        let bytes = emitted(&Advertiser::new(&config).unwrap(), Recipient { address: HOST_IP, mac: HOST });
        assert!(bytes.len() <= 14 + 1280 && bytes.len() > 14 + 1200, "{}", bytes.len());
    }

    #[test]
    fn a_solicitation_is_answered_to_who_asked_and_nobody_else() {
        let mut advertiser = advertiser();
        advertiser.handle_port_up();
        advertiser.poll(at(0));
        let due = advertiser.poll_at();
        for (from, address) in [(Some(HOST_IP), HOST_IP), (None, ALL_NODES)] {
            assert_eq!(advertiser.handle_solicitation(from, HOST), Recipient { address, mac: HOST });
        }
        assert_eq!(advertiser.poll_at(), due);
    }

    #[test]
    fn who_comes_is_told_at_once_but_not_more_often_than_every_three_seconds() {
        // RFC 4861 section 6.2.6.
        let mut advertiser = advertiser();
        let everybody = Recipient { address: ALL_NODES, mac: EthernetAddress([0x33, 0x33, 0, 0, 0, 1]) };
        assert_eq!((advertiser.poll(at(0)), advertiser.poll_at()), (None, None));
        advertiser.handle_port_up();
        assert_eq!(advertiser.poll_at(), Some(at(0)));
        assert_eq!(advertiser.poll(at(10)), Some(everybody));
        for now in [11, 2000] {
            advertiser.handle_port_up();
            assert_eq!((advertiser.poll(at(now)), advertiser.poll_at()), (None, Some(at(3010))));
        }
        assert_eq!(advertiser.poll(at(3010)), Some(everybody));
        assert!(advertiser.poll_at() >= Some(at(3010) + INITIAL_INTERVAL));
    }

    #[test]
    fn the_first_three_are_sixteen_seconds_apart_and_the_rest_minutes() {
        let mut advertiser = advertiser();
        advertiser.handle_port_up();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..200 {
            assert!(advertiser.poll(now).is_some());
            assert_eq!(advertiser.poll(now), None);
            let next = advertiser.poll_at().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits[..2], [INITIAL_INTERVAL; 2]);
        assert!(waits[2..].iter().all(|wait| (MIN_INTERVAL..=MAX_INTERVAL).contains(wait)));
        assert!(waits[2..].iter().any(|&wait| wait != waits[2]), "random");
    }
}
