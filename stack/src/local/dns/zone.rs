// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of a network's containers, as its owner has put them together.
//!
//! # How it works
//! A zone is made whole by a [`ZoneBuilder`], never changed, and replaced by another when containers come and go. Names
//! are single labels, compared without regard to case; a name may have many addresses, and many names the same one.
//!
//! # Sources
//! RFC 1035 sections 2.3.1, 2.3.3 and 2.3.4; RFC 2181 section 11 (underscores).

use core::fmt;
use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::local::name::{self, MAX_LABEL_LEN, MAX_NAME_LEN};

/// The gateway's own name in every zone.
pub const GATEWAY: &str = "gateway";
/// Room for a label in front of the domain.
const MAX_DOMAIN_LEN: usize = MAX_NAME_LEN - (1 + MAX_LABEL_LEN);
/// Nobody's domain: RFC 6761 gives the first two a meaning of their own, RFC 3172 the third.
const RESERVED_DOMAINS: [&[u8]; 3] = [b"\x09localhost\x00", b"\x07invalid\x00", b"\x04arpa\x00"];

/// The names of a network. Without a domain it knows nobody, and answers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// As labels, in lower case.
    domain: Option<Vec<u8>>,
    /// By label, in lower case.
    addresses: BTreeMap<Vec<u8>, Vec<IpAddr>>,
    /// The label of whom an address belongs to.
    names: BTreeMap<IpAddr, Vec<u8>>,
}

/// A zone in the making.
#[derive(Clone, Debug)]
pub struct ZoneBuilder(Zone);

/// What cannot be a domain or a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZoneError {
    /// Not dot-separated labels of letters, digits, hyphens and underscores, or too long for a name in front of it.
    DomainInvalid(String),
    /// A domain that is somebody else's everywhere.
    DomainReserved(String),
    /// Not one label of letters, digits, hyphens (neither first nor last) and underscores.
    NameInvalid(String),
    /// The gateway's name, or the one that means the asking host itself.
    NameReserved(String),
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DomainInvalid(domain) => write!(
                f,
                "\"{domain}\" is no domain: it takes labels of 1 to {MAX_LABEL_LEN} letters, digits, \"-\" and \"_\" with \
                 dots between them, {MAX_DOMAIN_LEN} bytes in all"
            ),
            Self::DomainReserved(domain) => {
                write!(f, "the domain \"{domain}\" is reserved: choose another, such as \"wharf.internal\"")
            }
            Self::NameInvalid(name) => write!(
                f,
                "\"{name}\" is no name: it takes 1 to {MAX_LABEL_LEN} letters, digits, \"_\" and, neither first nor \
                 last, \"-\""
            ),
            Self::NameReserved(name) => write!(f, "the name \"{name}\" is reserved: choose another"),
        }
    }
}

impl core::error::Error for ZoneError {}

impl Zone {
    /// Begins a zone for `domain`, as `wharf.internal`.
    ///
    /// # Errors
    /// [`ZoneError::DomainInvalid`], [`ZoneError::DomainReserved`].
    pub fn builder(domain: &str) -> Result<ZoneBuilder, ZoneError> {
        let plain = domain.strip_suffix('.').unwrap_or(domain);
        let labels = name::encode(plain).filter(|labels| labels.len() <= MAX_DOMAIN_LEN);
        let Some(labels) = labels.filter(|_| plain.split('.').all(name::is_host_label)) else {
            return Err(ZoneError::DomainInvalid(domain.to_owned()));
        };
        if RESERVED_DOMAINS.iter().any(|reserved| name::is_at_or_below(&labels, reserved)) {
            return Err(ZoneError::DomainReserved(domain.to_owned()));
        }
        Ok(ZoneBuilder(Self { domain: Some(labels.to_ascii_lowercase()), ..Self::default() }))
    }

    /// The domain as labels, in lower case.
    pub(super) fn domain(&self) -> Option<&[u8]> {
        self.domain.as_deref()
    }

    /// The addresses of a name, whatever its case.
    pub(super) fn addresses(&self, label: &[u8]) -> Option<&[IpAddr]> {
        self.addresses.get(&label.to_ascii_lowercase()).map(Vec::as_slice)
    }

    /// The label of whom an address belongs to.
    pub(super) fn name(&self, address: IpAddr) -> Option<&[u8]> {
        self.names.get(&address).map(Vec::as_slice)
    }

    /// The first address with a name from `address` on.
    pub(super) fn first_from(&self, address: IpAddr) -> Option<IpAddr> {
        self.names.range(address..).next().map(|(&address, _)| address)
    }
}

impl ZoneBuilder {
    /// Gives a container its name: it leads to the addresses, and each address that nobody has yet leads back to it.
    ///
    /// # Errors
    /// [`ZoneError::NameInvalid`], [`ZoneError::NameReserved`].
    pub fn host(&mut self, name: &str, addresses: &[IpAddr]) -> Result<&mut Self, ZoneError> {
        self.alias(name, addresses)?;
        for &address in addresses {
            self.0.names.entry(address).or_insert_with(|| name.to_ascii_lowercase().into());
        }
        Ok(self)
    }

    /// Gives a container another name, which others may have too: it leads to the addresses of them all.
    ///
    /// # Errors
    /// [`ZoneError::NameInvalid`], [`ZoneError::NameReserved`].
    pub fn alias(&mut self, name: &str, addresses: &[IpAddr]) -> Result<&mut Self, ZoneError> {
        if !name::is_host_label(name) {
            return Err(ZoneError::NameInvalid(name.to_owned()));
        }
        if [GATEWAY, "localhost"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(ZoneError::NameReserved(name.to_owned()));
        }
        let known = self.0.addresses.entry(name.to_ascii_lowercase().into()).or_default();
        for &address in addresses {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        Ok(self)
    }

    /// The zone.
    #[must_use]
    pub fn build(self) -> Zone {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_checked() {
        for domain in ["lan", "wharf.internal", "Prod_1.Example.org.", &"a".repeat(63)] {
            assert!(Zone::builder(domain).is_ok(), "{domain}");
        }
        let long = [&*"a".repeat(63); 3].join(".");
        for domain in ["", ".", "a..b", "a b", "-a.b", "a-.b", "a.b/", "é.org", &"a".repeat(64), &long] {
            assert_eq!(Zone::builder(domain).unwrap_err(), ZoneError::DomainInvalid(domain.into()));
        }
        for domain in ["localhost", "a.LOCALHOST", "invalid.", "10.in-addr.arpa"] {
            assert_eq!(Zone::builder(domain).unwrap_err(), ZoneError::DomainReserved(domain.into()));
        }
    }

    #[test]
    fn names_are_checked() {
        let mut zone = Zone::builder("lan").unwrap();
        assert!(zone.host("web-1_a", &[]).is_ok());
        for name in ["", "a.b", "a b", "-a", "a-", "ä", &"a".repeat(64)] {
            assert_eq!(zone.alias(name, &[]).unwrap_err(), ZoneError::NameInvalid(name.into()));
        }
        for name in ["Gateway", "localhost"] {
            assert_eq!(zone.host(name, &[]).unwrap_err(), ZoneError::NameReserved(name.into()));
        }
        assert!(ZoneError::NameInvalid("a.b".into()).to_string().contains("\"a.b\" is no name"));
    }

    #[test]
    fn an_alias_of_many_leads_to_all_of_them_and_an_address_back_to_the_first() {
        let [a, b] = [1, 2].map(|last| IpAddr::from([10, 0, 2, last]));
        let mut zone = Zone::builder("lan").unwrap();
        zone.host("one", &[a]).unwrap().host("two", &[b, a]).unwrap();
        zone.alias("Any", &[a, b]).unwrap().alias("any", &[b]).unwrap();
        let zone = zone.build();
        assert_eq!(zone.addresses(b"ANY"), Some(&[a, b][..]));
        assert_eq!((zone.name(a), zone.name(b)), (Some(&b"one"[..]), Some(&b"two"[..])));
    }
}
