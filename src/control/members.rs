// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which addresses in a network: a name has the same ones whenever it comes back.
//!
//! # How it works
//! A new name gets the first free number of the network from [`FIRST_NUMBER`] on, and with it its addresses: in 10.0.2.0/24
//! and fd00:1:2:3::/64 the number 17 is 10.0.2.17, fd00:1:2:3::17 and the MAC address 0a:77:0a:00:02:11.
//!
//! # Bounds
//! As many names as the network has numbers, at most [`MAX_MEMBERS`]. When they run out, the name that has been away for
//! longest loses its number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use smoltcp::wire::{EthernetAddress, Ipv6Cidr};
use wharf_stack::{Config, Ipv4Plan};

use super::error::{Code, Error};
use super::spec::{Name, Text};
use crate::netns::{Addresses, link_local};

/// The first number of a container; smaller ones are the gateway's and whoever is given one by hand.
pub const FIRST_NUMBER: u32 = 10;
/// Names of one network; a switch has no more ports.
pub const MAX_MEMBERS: u32 = 4096;

/// What belongs to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its MAC address.
    #[serde(with = "as_text")]
    pub mac: EthernetAddress,
    /// Its IPv4 address, if the network has IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address in the network's prefix, if the network has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// When it was last attached, in seconds since 1970.
    #[serde(default)]
    pub seen: u64,
}

impl Member {
    /// Its addresses in the network.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses { ipv4: self.ipv4, ipv6: self.ipv6 }
    }

    /// The same as a list.
    #[must_use]
    pub fn list(&self) -> Vec<IpAddr> {
        self.ipv4.map(IpAddr::from).into_iter().chain(self.ipv6.map(IpAddr::from)).collect()
    }

    /// Every address that it may speak from.
    #[must_use]
    pub fn sources(&self, prefix: Option<Ipv6Cidr>) -> Vec<IpAddr> {
        let ipv6 = self.ipv6_sources(prefix).into_iter().map(IpAddr::from);
        self.ipv4.map(IpAddr::from).into_iter().chain(ipv6).collect()
    }

    /// Every IPv6 address that it may speak from: its own, and those that its kernel forms from the MAC address, on
    /// the link and in the network's prefix (RFC 4862 section 5.3).
    #[must_use]
    pub fn ipv6_sources(&self, prefix: Option<Ipv6Cidr>) -> Vec<Ipv6Addr> {
        let on_link = link_local(self.mac.0);
        let formed = prefix.map(|prefix| {
            let interface_id = on_link.to_bits() & u128::from(u64::MAX);
            Ipv6Addr::from_bits(prefix.address().to_bits() | interface_id)
        });
        self.ipv6.into_iter().chain([on_link]).chain(formed).collect()
    }
}

mod as_text {
    use super::{EthernetAddress, Text};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(mac: &EthernetAddress, serializer: S) -> Result<S::Ok, S::Error> {
        Text(*mac).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<EthernetAddress, D::Error> {
        Text::deserialize(deserializer).map(|Text(mac)| mac)
    }
}

/// What somebody wants to have; the rest is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// This MAC address.
    pub mac: Option<EthernetAddress>,
    /// This IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// This IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Wish {
    /// Whether somebody has it already.
    #[must_use]
    pub fn is_granted_by(&self, member: &Member) -> bool {
        self.mac.is_none_or(|mac| mac == member.mac)
            && self.ipv4.is_none_or(|ipv4| Some(ipv4) == member.ipv4)
            && self.ipv6.is_none_or(|ipv6| Some(ipv6) == member.ipv6)
    }
}

/// The members of one network.
#[derive(Clone, Debug, Default)]
pub struct Members {
    by_name: BTreeMap<Name, Member>,
}

impl Members {
    /// Those that were kept, as far as their addresses are of the network `config` still.
    #[must_use]
    pub fn restored(kept: BTreeMap<Name, Member>, config: &Config) -> Self {
        let mut members = Self::default();
        for (name, member) in kept {
            let fits = |address: IpAddr| config.may_be_container(address);
            let ipv4 = member.ipv4.filter(|&address| fits(address.into()));
            let ipv6 = member.ipv6.filter(|&address| fits(address.into()));
            let is_whole = ipv4.is_some() == config.ipv4.is_some() && ipv6.is_some() == config.ipv6.is_some();
            let clashes = member.list().into_iter().any(|address| members.owner(address).is_some());
            if is_whole && !clashes {
                members.by_name.insert(name, Member { ipv4, ipv6, ..member });
            }
        }
        members
    }

    /// One who has it all.
    #[must_use]
    pub fn of_one(name: Name, member: Member) -> Self {
        Self { by_name: [(name, member)].into() }
    }

    /// Everybody, by name.
    #[must_use]
    pub fn by_name(&self) -> &BTreeMap<Name, Member> {
        &self.by_name
    }

    /// Whose an address is.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Name> {
        let has = |member: &Member| match address {
            IpAddr::V4(address) => member.ipv4 == Some(address),
            IpAddr::V6(address) => member.ipv6 == Some(address),
        };
        self.by_name.iter().find_map(|(name, member)| has(member).then_some(name))
    }

    /// Notes when somebody was attached.
    pub fn seen(&mut self, name: &Name, now: u64) {
        if let Some(member) = self.by_name.get_mut(name) {
            member.seen = now;
        }
    }

    /// Everybody whom `stays` does not name is no member any more.
    pub fn retain(&mut self, stays: impl Fn(&Name, &Member) -> bool) {
        self.by_name.retain(|name, member| stays(name, member));
    }

    /// Takes back what [`admit`](Self::admit) did for a name.
    pub fn restore(&mut self, name: &Name, before: Option<Member>) {
        match before {
            Some(member) if member.list().iter().all(|address| self.is_nobody_elses(*address, name)) => {
                self.by_name.insert(name.clone(), member);
            }
            Some(_) => {}
            None => _ = self.by_name.remove(name),
        }
    }

    fn is_nobody_elses(&self, address: IpAddr, name: &Name) -> bool {
        self.owner(address).is_none_or(|owner| owner == name)
    }

    /// What belongs to `name`: what it had before unless it wishes something else now, else something new. Whoever has what
    /// it wishes and is not bound to it, loses it.
    ///
    /// # Errors
    /// A wish is none of the network's addresses or somebody else's, or there is nothing left.
    pub(super) fn admit(
        &mut self,
        name: &Name,
        wish: Wish,
        config: &Config,
        others: &Others<'_>,
    ) -> Result<Member, Error> {
        let in_the_way = self.check(name, wish, config, others)?;
        let base = match self.by_name.get(name) {
            Some(member) => *member,
            None => self.new_member(name, wish, config, others, &in_the_way)?,
        };
        in_the_way.iter().for_each(|name| _ = self.by_name.remove(name));
        let member = Member {
            mac: wish.mac.unwrap_or(base.mac),
            ipv4: wish.ipv4.or(base.ipv4),
            ipv6: wish.ipv6.or(base.ipv6),
            seen: base.seen,
        };
        self.by_name.insert(name.clone(), member);
        Ok(member)
    }

    /// Whether a wish can be granted. Returns who has to go for it.
    fn check(
        &self,
        name: &Name,
        wish: Wish,
        config: &Config,
        others: &Others<'_>,
    ) -> Result<BTreeSet<Name>, Error> {
        let mut in_the_way = BTreeSet::new();
        let mut belongs = |what: &dyn std::fmt::Display, owner: Option<&Name>| match owner {
            Some(owner) if owner != name && (others.are_bound)(owner) => {
                Err(Error::new(Code::InUse, format!("{what} belongs to {owner}")))
            }
            Some(owner) if owner != name => {
                in_the_way.insert(owner.clone());
                Ok(())
            }
            _ => Ok(()),
        };
        let addresses = wish.ipv4.map(IpAddr::from).into_iter().chain(wish.ipv6.map(IpAddr::from));
        for address in addresses {
            if !config.may_be_container(address) {
                let message = format!("{address} is no address for a container of this network");
                return Err(Error::invalid(message).hint(match address {
                    IpAddr::V4(_) => subnet_hint(config.ipv4.map(|plan| plan.subnet.to_string())),
                    IpAddr::V6(_) => subnet_hint(config.ipv6.map(|plan| plan.subnet.to_string())),
                }));
            }
            if (others.have)(address) {
                return Err(Error::new(Code::InUse, format!("{address} is leased to somebody by DHCP")));
            }
            belongs(&address, self.owner(address))?;
        }
        if let Some(mac) = wish.mac {
            if mac == config.mac {
                return Err(Error::new(Code::InUse, format!("{} is the gateway's", Text(mac))));
            }
            let owner = self.by_name.iter().find(|(other, member)| member.mac == mac && *other != name);
            belongs(&Text(mac), owner.map(|(owner, _)| owner))?;
        }
        Ok(in_the_way)
    }

    /// Something that nobody has. `leaving` do not count.
    fn new_member(
        &mut self,
        name: &Name,
        wish: Wish,
        config: &Config,
        others: &Others<'_>,
        leaving: &BTreeSet<Name>,
    ) -> Result<Member, Error> {
        loop {
            // Who wishes an IPv4 address wishes its number.
            let first = wish.ipv4.zip(config.ipv4).map(|(address, plan)| {
                address.to_bits() & u32::MAX.checked_shr(plan.subnet.prefix_len().into()).unwrap_or(0)
            });
            let candidates = first.into_iter().chain(numbers(config.ipv4));
            let mut members = candidates.map(|number| numbered(number, config)).map(|member| Member {
                ipv4: wish.ipv4.or(member.ipv4),
                ipv6: wish.ipv6.or(member.ipv6),
                ..member
            });
            let staying = || self.by_name.iter().filter(|(name, _)| !leaving.contains(*name));
            let taken: BTreeSet<IpAddr> = staying().flat_map(|(_, member)| member.list()).collect();
            let macs: BTreeSet<EthernetAddress> = staying().map(|(_, member)| member.mac).collect();
            let fits = |member: &Member| {
                let is_new = |address| !taken.contains(&address) && !(others.have)(address);
                !macs.contains(&member.mac)
                    && member
                        .list()
                        .into_iter()
                        .all(|address| config.may_be_container(address) && is_new(address))
            };
            if let Some(member) = members.find(fits) {
                return Ok(member);
            }
            let longest_away = self
                .by_name
                .iter()
                .filter(|(other, _)| !(others.are_bound)(other))
                .min_by_key(|(_, member)| member.seen)
                .map(|(other, _)| other.clone());
            let Some(gone) = longest_away else {
                let message = format!("the network has no address left for {name}");
                return Err(Error::new(Code::Exhausted, message).hint(
                    "detach somebody, or give the network a wider prefix, such as ipv4 = \"10.8.0.0/16\"",
                ));
            };
            self.by_name.remove(&gone);
        }
    }
}

/// What a network knows of everybody.
pub(super) struct Others<'a> {
    /// Somebody without a name has this address.
    pub(super) have: &'a dyn Fn(IpAddr) -> bool,
    /// This name must keep what it has: it is attached, or is to be found where it was.
    pub(super) are_bound: &'a dyn Fn(&Name) -> bool,
}

fn subnet_hint(subnet: Option<String>) -> String {
    subnet.map_or_else(
        || "the network does not have that family".to_owned(),
        |subnet| format!("choose another of {subnet}, but not the gateway's or the DNS forwarder's"),
    )
}

/// The numbers that containers of a network may have.
pub(super) fn numbers(plan: Option<Ipv4Plan>) -> RangeInclusive<u32> {
    let last = plan.map_or(u32::MAX, |plan| {
        // The last one is the broadcast address.
        u32::MAX.checked_shr(plan.subnet.prefix_len().into()).unwrap_or(0).saturating_sub(1)
    });
    FIRST_NUMBER..=last.min(FIRST_NUMBER + MAX_MEMBERS - 1)
}

/// What belongs to a number.
fn numbered(number: u32, config: &Config) -> Member {
    let ipv4 = config.ipv4.map(|plan| Ipv4Addr::from_bits(plan.subnet.address().to_bits() | number));
    let ipv6 = config.ipv6.map(|plan| {
        Ipv6Addr::from_bits(plan.subnet.address().to_bits() | u128::from(written_the_same(number)))
    });
    // Locally administered, in two ranges: each is unique in its network.
    let (kind, [a, b, c, d]) = match ipv4 {
        Some(ipv4) => (0x0a, ipv4.octets()),
        None => (0x0e, number.to_be_bytes()),
    };
    Member { mac: EthernetAddress([kind, 0x77, a, b, c, d]), ipv4, ipv6, seen: 0 }
}

/// The number whose hexadecimal digits are the decimal ones of `number`: people find ::17 beside 10.0.2.17.
fn written_the_same(number: u32) -> u32 {
    let (mut rest, mut shift, mut written) = (number, 0, 0);
    while rest > 0 {
        written |= (rest % 10) << shift;
        rest /= 10;
        shift += 4;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_stack::Ipv6Plan;

    fn config(ipv4: Option<&str>, ipv6: Option<&str>) -> Config {
        Config {
            ipv4: ipv4.map(|net| Ipv4Plan::new(net.parse().unwrap())),
            ipv6: ipv6.map(|net| Ipv6Plan::new(net.parse().unwrap())),
            ..Config::new(EthernetAddress([2, 0x77, 0x68, 0x61, 0x72, 2]), [1; 32])
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn admit(members: &mut Members, text: &str, wish: Wish, config: &Config) -> Result<Member, Error> {
        members.admit(&name(text), wish, config, &Others { have: &|_| false, are_bound: &|_| false })
    }

    #[test]
    fn numbers_read_the_same_in_both_families() {
        let config = config(Some("10.0.2.0/24"), Some("fd00:1:2:3::/64"));
        let member = numbered(17, &config);
        assert_eq!(member.ipv4.unwrap().to_string(), "10.0.2.17");
        assert_eq!(member.ipv6.unwrap().to_string(), "fd00:1:2:3::17");
        assert_eq!(Text(member.mac).to_string(), "0a:77:0a:00:02:11");
        let sources = member.ipv6_sources(config.ipv6.map(|plan| plan.subnet));
        let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
        assert_eq!(sources, ["fd00:1:2:3::17", "fe80::877:aff:fe00:211", "fd00:1:2:3:877:aff:fe00:211"]);
    }

    #[test]
    fn a_name_keeps_what_it_had_and_others_get_something_else() {
        let config = config(Some("10.0.2.0/24"), None);
        let mut members = Members::default();
        let web = admit(&mut members, "web", Wish::default(), &config).unwrap();
        let db = admit(&mut members, "db", Wish::default(), &config).unwrap();
        assert_eq!((web.ipv4.unwrap().octets()[3], db.ipv4.unwrap().octets()[3]), (10, 11));
        assert_ne!(web.mac, db.mac);
        assert_eq!(admit(&mut members, "web", Wish::default(), &config).unwrap(), web);
        let again = Members::restored(members.by_name().clone(), &config);
        assert_eq!(again.by_name(), members.by_name());
        let elsewhere = self::config(Some("10.0.3.0/24"), None);
        assert!(Members::restored(members.by_name().clone(), &elsewhere).by_name().is_empty());
    }

    #[test]
    fn wishes_are_granted_when_nobody_else_has_it() {
        let config = config(Some("10.0.2.0/24"), Some("fd00:1:2:3::/64"));
        let mut members = Members::default();
        let wish = Wish { ipv4: Some([10, 0, 2, 50].into()), ..Wish::default() };
        let web = admit(&mut members, "web", wish, &config).unwrap();
        assert_eq!((web.ipv4, web.ipv6.unwrap().to_string().as_str()), (wish.ipv4, "fd00:1:2:3::50"));
        let twin = Wish { mac: Some(numbered(10, &config).mac), ..Wish::default() };
        let twin = admit(&mut members, "twin", twin, &config).unwrap();
        let other = admit(&mut members, "other", Wish::default(), &config).unwrap();
        assert_ne!(other.mac, twin.mac);
        let bound = Others { have: &|_| false, are_bound: &|_| true };
        let error = members.admit(&name("db"), wish, &config, &bound).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::InUse, "10.0.2.50 belongs to web"));
        for wrong in [[10, 0, 3, 1], [10, 0, 2, 2], [10, 0, 2, 255]] {
            let wish = Wish { ipv4: Some(wrong.into()), ..Wish::default() };
            let error = admit(&mut members, "db", wish, &config).unwrap_err();
            assert_eq!(error.code, Code::Invalid);
            assert!(error.hint.unwrap().contains("10.0.2.0/24"));
        }
        let mac = Wish { mac: Some(web.mac), ..Wish::default() };
        assert_eq!(members.admit(&name("db"), mac, &config, &bound).unwrap_err().code, Code::InUse);
    }

    #[test]
    fn a_full_network_takes_from_who_has_been_away_for_longest() {
        let config = config(Some("10.0.2.0/25"), None);
        let mut members = Members::default();
        for number in 0..117 {
            admit(&mut members, &format!("c{number}"), Wish::default(), &config).unwrap();
            members.seen(&name(&format!("c{number}")), 1000 - number);
        }
        let bound = Others { have: &|_| false, are_bound: &|_| true };
        let all_bound = members.admit(&name("late"), Wish::default(), &config, &bound);
        assert_eq!(all_bound.unwrap_err().code, Code::Exhausted);
        let late = admit(&mut members, "late", Wish::default(), &config).unwrap();
        assert_eq!(late.ipv4.unwrap().octets()[3], 126);
        assert!(!members.by_name().contains_key(&name("c116")));
    }

    #[test]
    fn who_is_away_loses_what_somebody_asks_for_and_nobody_else_does() {
        let config = config(Some("10.0.2.0/24"), None);
        let mut members = Members::default();
        let old: Vec<_> = ["old1", "old2", "old3"]
            .map(|old| admit(&mut members, old, Wish::default(), &config).unwrap())
            .into();
        let wish = |last| Wish { ipv4: Some([10, 0, 2, last].into()), ..Wish::default() };
        let leased =
            Others { have: &|address| address == IpAddr::from([10, 0, 2, 14]), are_bound: &|_| false };
        for (who, last) in [("new", 14), ("old1", 14)] {
            let refused = members.admit(&name(who), wish(last), &config, &leased).unwrap_err();
            assert_eq!(refused.code, Code::InUse, "{refused}");
        }
        assert_eq!(members.by_name().len(), 3);
        let new = admit(&mut members, "new", wish(11), &config).unwrap();
        assert_eq!((new.ipv4, new.mac), (old[1].ipv4, old[1].mac));
        let names: Vec<_> = members.by_name().keys().map(Name::as_str).collect();
        assert_eq!(names, ["new", "old1", "old3"]);
    }

    #[test]
    fn an_admission_that_came_to_nothing_is_undone() {
        let config = config(Some("10.0.2.0/24"), None);
        let mut members = Members::default();
        let before = admit(&mut members, "db", Wish::default(), &config).unwrap();
        let wish = Wish { ipv4: Some([10, 0, 2, 77].into()), ..Wish::default() };
        admit(&mut members, "db", wish, &config).unwrap();
        admit(&mut members, "new", Wish::default(), &config).unwrap();
        members.restore(&name("new"), None);
        members.restore(&name("db"), Some(before));
        assert_eq!(members.by_name().values().collect::<Vec<_>>(), [&before]);
    }
}
