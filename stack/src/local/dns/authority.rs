// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers about the network itself and those that it is linked with: their containers' names, and the names of their
//! addresses.
//!
//! # How it works
//! | name | known as |
//! |---|---|
//! | the domain | the zone's own name |
//! | `NAME.domain`, and `NAME` alone when the zone has it | a container, or [`gateway`](GATEWAY) |
//! | another name below the domain | nobody |
//! | the reverse name of an address of the network's prefixes, or of a part of the prefix | its container, or nobody |
//!
//! The names of a linked network are known in its own domain only, and its gateway, which is not reached, has none. A name
//! that is below several domains is in the one with the most labels.
//!
//! Whatever is in this table is answered here, whatever its type, and no nameserver is asked. Other names are none of
//! this zone's business. Of several addresses another comes first each time.
//!
//! # Sources
//! RFC 1034 section 4.3.2 (the algorithm), RFC 2308 sections 2 and 5 (negative answers), RFC 6303 section 3 (SOA of
//! locally served zones), RFC 8020 (names between others exist), RFC 8482 (ANY).

use core::net::IpAddr;
use std::sync::Arc;

use smoltcp::wire::{DnsRcode, IpCidr};

use super::answer::{Writer, refusal};
use super::message::{Message, kind};
use super::reverse::{self, ReverseName};
use super::zone::{GATEWAY, Zone};
use crate::Config;
use crate::keyed::KeyedState;
use crate::local::name;

/// How long answers live, negative ones too (RFC 2308 section 5): containers come and go.
const TTL_SECS: u32 = 5;
/// Serial, refresh, retry and expire of an SOA record that nobody transfers a zone by, as RFC 6303 section 3 has them, and
/// the time to live of negative answers.
const SOA_NUMBERS: [u32; 5] = [1, 3600, 1200, 604_800, TTL_SECS];
/// RFC 2142 section 7.
const MAILBOX: &str = "hostmaster";

/// What is known of a name that is the network's.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    /// A zone's own name, which may be somebody's too.
    Apex(&'a [IpAddr]),
    Host(&'a [IpAddr]),
    /// The label of whom an address belongs to.
    Owner(&'a [u8]),
    /// There are names below it.
    Between,
    Nobody,
}

/// The names of another network, whose containers are reached from this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedZone {
    /// Its names.
    pub zone: Arc<Zone>,
    /// Its addresses.
    pub prefixes: Vec<IpCidr>,
}

/// A network that is answered for.
#[derive(Debug)]
struct Network {
    names: LinkedZone,
    /// The gateway's addresses.
    gateway: Vec<IpAddr>,
}

/// What the gateway answers for itself.
#[derive(Debug)]
pub(super) struct Authority {
    own: Network,
    linked: Vec<Network>,
    /// Which address comes first.
    turns: KeyedState,
    answered: u64,
}

impl Authority {
    pub(super) fn new(config: &Config) -> Self {
        let (ipv4, ipv6) = (config.ipv4.into_iter(), config.ipv6.into_iter());
        let prefixes =
            ipv4.clone().map(|plan| plan.subnet.into()).chain(ipv6.clone().map(|plan| plan.subnet.into()));
        let gateway = ipv4.map(|plan| plan.gateway.into()).chain(ipv6.map(|plan| plan.gateway.into()));
        let names = LinkedZone { zone: Arc::clone(&config.zone), prefixes: prefixes.collect() };
        Self {
            own: Network { names, gateway: gateway.collect() },
            linked: Vec::new(),
            turns: KeyedState::new(&config.seed, b"dns turns"),
            answered: 0,
        }
    }

    pub(super) fn set_zone(&mut self, zone: Arc<Zone>) {
        self.own.names.zone = zone;
    }

    pub(super) fn set_linked_zones(&mut self, zones: Vec<LinkedZone>) {
        self.linked = zones.into_iter().map(|names| Network { names, gateway: Vec::new() }).collect();
    }

    /// The answer to a query about the network; `None` when it is about something else.
    pub(super) fn answer(&mut self, query: &Message<'_>) -> Option<Vec<u8>> {
        self.answered += 1;
        let (network, apex, found) = self.find(query.name())?;
        if query.class() != kind::CLASS_IN {
            return Some(refusal(query, DnsRcode::Refused));
        }
        let start_of_authority = network.start_of_authority();
        let rcode = if matches!(found, Found::Nobody) { DnsRcode::NXDomain } else { DnsRcode::NoError };
        let mut writer = Writer::answer(query, rcode);
        writer.authoritative();
        let wants = |kind| query.kind() == kind || query.kind() == kind::ANY;
        if matches!(found, Found::Apex(_)) && wants(kind::SOA) {
            writer.record(query.name(), kind::SOA, TTL_SECS, &start_of_authority);
        }
        match found {
            Found::Apex(addresses) | Found::Host(addresses) => {
                self.write_addresses(&mut writer, query.name(), addresses, wants);
            }
            Found::Owner(label) if wants(kind::PTR) => {
                writer.record(query.name(), kind::PTR, TTL_SECS, &network.in_domain(label));
            }
            Found::Owner(_) | Found::Between | Found::Nobody => {}
        }
        // RFC 2308 section 3: "Name servers authoritative for a zone MUST include the SOA record of the zone in the
        // authority section of the response when reporting an NXDOMAIN or indicating that no data of the requested type
        // exists."
        if writer.is_empty() {
            writer.authority(&apex, kind::SOA, TTL_SECS, &start_of_authority);
        }
        Some(writer.finish(query.edns()))
    }

    fn write_addresses(
        &self,
        writer: &mut Writer,
        owner: &[u8],
        addresses: &[IpAddr],
        wants: impl Fn(u16) -> bool,
    ) {
        let wanted = || addresses.iter().filter(|address| wants(kind_of(**address)));
        let count = wanted().count().max(1) as u64;
        let first = usize::try_from(self.turns.hash(&self.answered.to_be_bytes()) % count).unwrap_or(0);
        for address in wanted().skip(first).chain(wanted().take(first)) {
            match address {
                IpAddr::V4(address) => writer.record(owner, kind::A, TTL_SECS, &address.octets()),
                IpAddr::V6(address) => writer.record(owner, kind::AAAA, TTL_SECS, &address.octets()),
            }
        }
    }

    /// What is known of a name, the name of the zone that it is in, and whose that is.
    fn find(&self, name: &[u8]) -> Option<(&Network, Vec<u8>, Found<'_>)> {
        if let Some((apex, found)) = self.own.find_alone(name) {
            return Some((&self.own, apex, found));
        }
        let all = || [&self.own].into_iter().chain(&self.linked);
        let below = all().filter(|network| network.has_below(name));
        if let Some(network) = below.max_by_key(|network| network.names.zone.domain().map(<[u8]>::len)) {
            let (apex, found) = network.find_below(name)?;
            return Some((network, apex, found));
        }
        let name = ReverseName::parse(name)?;
        all().find_map(|network| {
            let (apex, found) = network.find_reverse(&name)?;
            Some((network, apex, found))
        })
    }
}

impl Network {
    /// What is known of a name of one label, or of the domain itself, which may be such a name.
    fn find_alone(&self, name: &[u8]) -> Option<(Vec<u8>, Found<'_>)> {
        let addresses = only_label(name).and_then(|label| self.addresses(label))?;
        let is_apex = name.eq_ignore_ascii_case(self.names.zone.domain()?);
        Some((name.to_vec(), if is_apex { Found::Apex(addresses) } else { Found::Host(addresses) }))
    }

    /// Whether a name is the domain or below it.
    fn has_below(&self, name: &[u8]) -> bool {
        self.names.zone.domain().is_some_and(|domain| name::is_at_or_below(name, domain))
    }

    /// What is known of such a name.
    fn find_below(&self, name: &[u8]) -> Option<(Vec<u8>, Found<'_>)> {
        let (label, apex) = name.split_at(name.len() - self.names.zone.domain()?.len());
        if label.is_empty() {
            return Some((name.to_vec(), Found::Apex(&[])));
        }
        let host = label.split_first().filter(|(len, label)| usize::from(**len) == label.len());
        let addresses = host.and_then(|(_, label)| self.addresses(label));
        Some((apex.to_vec(), addresses.map_or(Found::Nobody, Found::Host)))
    }

    fn find_reverse(&self, name: &ReverseName) -> Option<(Vec<u8>, Found<'_>)> {
        self.names.zone.domain()?;
        let is_inside =
            |prefix: &&IpCidr| name.bits >= prefix.prefix_len() && prefix.contains_addr(&name.address.into());
        let prefix = self.names.prefixes.iter().find(is_inside)?;
        let apex = reverse::name_of(prefix.address().into(), prefix.prefix_len());
        let found = match name.whole() {
            Some(address) => self.owner(address).map_or(Found::Nobody, Found::Owner),
            None if name.has_more => Found::Nobody,
            None if reverse::name_of(name.address, name.bits) == apex => Found::Apex(&[]),
            None if self.has_names_below(name) => Found::Between,
            None => Found::Nobody,
        };
        Some((apex, found))
    }

    fn has_names_below(&self, name: &ReverseName) -> bool {
        let below = IpCidr::new(name.address.into(), name.bits);
        let mut known = self.gateway.iter().copied().chain(self.names.zone.first_from(name.address));
        known.any(|address| below.contains_addr(&address.into()))
    }

    fn addresses(&self, label: &[u8]) -> Option<&[IpAddr]> {
        let is_gateway = label.eq_ignore_ascii_case(GATEWAY.as_bytes()) && !self.gateway.is_empty();
        if is_gateway { Some(&self.gateway) } else { self.names.zone.addresses(label) }
    }

    fn owner(&self, address: IpAddr) -> Option<&[u8]> {
        let is_gateway = self.gateway.contains(&address);
        if is_gateway { Some(GATEWAY.as_bytes()) } else { self.names.zone.name(address) }
    }

    /// A label in front of the domain.
    fn in_domain(&self, label: &[u8]) -> Vec<u8> {
        let len = u8::try_from(label.len()).unwrap_or(0);
        [&[len], label, self.names.zone.domain().unwrap_or_default()].concat()
    }

    /// The data of the SOA record of all zones.
    fn start_of_authority(&self) -> Vec<u8> {
        let mut data = self.in_domain(GATEWAY.as_bytes());
        data.extend(self.in_domain(MAILBOX.as_bytes()));
        data.extend(SOA_NUMBERS.iter().flat_map(|number| number.to_be_bytes()));
        data
    }
}

/// The label of a name that has no other.
fn only_label(name: &[u8]) -> Option<&[u8]> {
    let (&len, rest) = name.split_first()?;
    let (&root, label) = rest.split_last()?;
    (root == 0 && usize::from(len) == label.len()).then_some(label)
}

const fn kind_of(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => kind::A,
        IpAddr::V6(_) => kind::AAAA,
    }
}

#[cfg(test)]
mod tests;
