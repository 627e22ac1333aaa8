// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reverse names: an address, or the beginning of one, as a name below `in-addr.arpa` or `ip6.arpa`.
//!
//! # How it works
//! The labels in front of the suffix are the address's octets (IPv4) or hexadecimal digits (IPv6), the last one first.
//!
//! # Sources
//! RFC 1035 section 3.5, RFC 3596 section 2.5.

use core::net::IpAddr;

const SUFFIX_V4: &[u8] = b"\x07in-addr\x04arpa\x00";
const SUFFIX_V6: &[u8] = b"\x03ip6\x04arpa\x00";

/// What a reverse name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReverseName {
    /// The address; bits that the name does not give are zero.
    pub(super) address: IpAddr,
    /// How many bits the name gives.
    pub(super) bits: u8,
    /// There are labels in front that are no part of an address.
    pub(super) has_more: bool,
}

impl ReverseName {
    /// Reads a name, given as labels; `None` when it is no reverse name.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let (labels, is_ipv4) = match (strip_suffix(name, SUFFIX_V4), strip_suffix(name, SUFFIX_V6)) {
            (Some(labels), _) => (labels, true),
            (None, Some(labels)) => (labels, false),
            (None, None) => return None,
        };
        let (width, most) = if is_ipv4 { (8, 4) } else { (4, 32) };
        let (mut bits, mut number) = (0u8, 0u128);
        for label in labels.iter().rev().take(most) {
            let part = if is_ipv4 { octet(label) } else { digit(label) };
            let Some(part) = part else { break };
            bits += width;
            number = number << width | u128::from(part);
        }
        let has_more = labels.len() > usize::from(bits / width);
        let address = if is_ipv4 {
            IpAddr::from(
                u32::try_from(number).ok()?.checked_shl(32 - u32::from(bits)).unwrap_or(0).to_be_bytes(),
            )
        } else {
            IpAddr::from(number.checked_shl(128 - u32::from(bits)).unwrap_or(0).to_be_bytes())
        };
        Some(Self { address, bits, has_more })
    }

    /// The address, if the name is that of a whole one.
    pub(super) fn whole(&self) -> Option<IpAddr> {
        let all = if self.address.is_ipv4() { 32 } else { 128 };
        (self.bits == all && !self.has_more).then_some(self.address)
    }
}

/// The name, as labels, of the first `bits` bits of an address, as far as they make whole labels.
pub(super) fn name_of(address: IpAddr, bits: u8) -> Vec<u8> {
    let bits = usize::from(bits);
    let mut name = Vec::new();
    let mut push = |label: String| {
        name.push(u8::try_from(label.len()).unwrap_or(0));
        name.extend_from_slice(label.as_bytes());
    };
    let suffix = match address {
        IpAddr::V4(address) => {
            address.octets().iter().take(bits / 8).rev().for_each(|octet| push(octet.to_string()));
            SUFFIX_V4
        }
        IpAddr::V6(address) => {
            let digits = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
            let digits: Vec<u8> = digits.take(bits / 4).collect();
            digits.iter().rev().for_each(|digit| push(format!("{digit:x}")));
            SUFFIX_V6
        }
    };
    name.extend_from_slice(suffix);
    name
}

/// The labels in front of `suffix`.
fn strip_suffix<'n>(name: &'n [u8], suffix: &[u8]) -> Option<Vec<&'n [u8]>> {
    let mut labels = Vec::new();
    let mut rest = name;
    while rest.len() > suffix.len() {
        let (&len, behind) = rest.split_first()?;
        let (label, next) = behind.split_at_checked(len.into())?;
        labels.push(label);
        rest = next;
    }
    rest.eq_ignore_ascii_case(suffix).then_some(labels)
}

/// A decimal octet as everybody writes it.
fn octet(label: &[u8]) -> Option<u8> {
    let octet: u8 = core::str::from_utf8(label).ok()?.parse().ok()?;
    (octet.to_string().as_bytes() == label).then_some(octet)
}

fn digit(label: &[u8]) -> Option<u8> {
    let &[digit] = label else { return None };
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::name;

    fn parse(name: &str) -> Option<ReverseName> {
        ReverseName::parse(&name::encode(name).unwrap())
    }

    #[test]
    fn whole_addresses_and_their_beginnings_are_read() {
        let of = |address: &str, bits| {
            Some(ReverseName { address: address.parse().unwrap(), bits, has_more: false })
        };
        assert_eq!(parse("33.2.0.192.in-addr.arpa"), of("192.0.2.33", 32));
        assert_eq!(parse("2.0.192.IN-ADDR.arpa"), of("192.0.2.0", 24));
        assert_eq!(parse("in-addr.arpa"), of("0.0.0.0", 0));
        assert_eq!(parse("8.B.d.0.1.0.0.2.ip6.arpa"), of("2001:db8::", 32));
        assert_eq!(parse("ip6.arpa"), of("::", 0));
        assert_eq!(parse("arpa"), None);
        assert_eq!(parse("1.xin-addr.arpa"), None);
    }

    #[test]
    fn what_is_no_part_of_an_address_is_told() {
        for name in ["x.2.0.192.in-addr.arpa", "256.2.0.192.in-addr.arpa", "01.2.0.192.in-addr.arpa"] {
            let found = parse(name).unwrap();
            assert_eq!((found.bits, found.has_more, found.whole()), (24, true, None), "{name}");
        }
        let below = parse("1.33.2.0.192.in-addr.arpa").unwrap();
        assert_eq!((below.bits, below.has_more, below.whole()), (32, true, None));
        assert_eq!(parse("10.0.2.ip6.arpa").unwrap().bits, 8);
    }

    proptest! {
        #[test]
        fn no_labels_make_reading_panic(labels in prop::collection::vec("[0-9a-f]{1,3}|x", 0..40), v6 in any::<bool>()) {
            let suffix = if v6 { "ip6.arpa" } else { "in-addr.arpa" };
            let name = labels.iter().chain([&suffix.to_owned()]).cloned().collect::<Vec<_>>().join(".");
            let found = parse(&name).unwrap();
            prop_assert!(found.whole().is_none_or(|address| name_of(address, found.bits) == name::encode(&name).unwrap()));
        }

        #[test]
        fn every_address_survives_its_name(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>()) {
            for (address, bits) in [(IpAddr::from(v4), 32), (IpAddr::from(v6), 128)] {
                let found = ReverseName::parse(&name_of(address, bits)).unwrap();
                prop_assert_eq!(found.whole(), Some(address));
            }
        }
    }
}
