// SPDX-License-Identifier: MIT OR Apache-2.0
//! NAT64 addresses: an IPv4 address inside an IPv6 prefix, and back.
//!
//! # How it works
//! ```text
//! /32  pppp pppp v4v4 v4v4 u 0...            the octet u (bits 64 to 71) is always zero and skipped
//! /96  pppp pppp pppp pppp pppp pppp v4v4 v4v4
//! ```
//!
//! # Sources
//! RFC 6052 section 2.2 (format, prefix lengths 32, 40, 48, 56, 64, 96), 2.4 (test vectors), 3.1 (well-known prefix);
//! RFC 6890 (which IPv4 addresses are not global).

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::Ipv6Cidr;

/// The well-known prefix (RFC 6052 section 2.1).
pub const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// Bits 64 to 71 must be zero and carry no part of the address.
const RESERVED_OCTET: usize = 8;

/// RFC 6052 section 2.2: "The prefixes can only have one of the following lengths: 32, 40, 48, 56, 64, or 96."
pub const PREFIX_LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// The octets of the IPv6 address that hold the IPv4 address, in order.
fn places(prefix_len: u8) -> impl Iterator<Item = usize> {
    let first = usize::from(prefix_len / 8);
    (first..16).filter(|&place| place != RESERVED_OCTET).take(4)
}

/// The IPv6 address that stands for `address` under `prefix`.
#[must_use]
pub fn embed(prefix: Ipv6Cidr, address: Ipv4Addr) -> Ipv6Addr {
    let mut octets = [0; 16];
    let kept = usize::from(prefix.prefix_len() / 8).min(16);
    for (to, from) in octets.iter_mut().zip(prefix.address().octets()).take(kept) {
        *to = from;
    }
    for (place, octet) in places(prefix.prefix_len()).zip(address.octets()) {
        if let Some(to) = octets.get_mut(place) {
            *to = octet;
        }
    }
    octets.into()
}

/// The IPv4 address that `address` stands for, if it is under `prefix`.
#[must_use]
pub fn extract(prefix: Ipv6Cidr, address: Ipv6Addr) -> Option<Ipv4Addr> {
    if !prefix.contains_addr(&address) {
        return None;
    }
    let octets = address.octets();
    let mut found = [0; 4];
    for (to, place) in found.iter_mut().zip(places(prefix.prefix_len())) {
        *to = *octets.get(place)?;
    }
    Some(found.into())
}

/// Whether an IPv4 address may stand under `prefix`.
///
/// RFC 6052 section 3.1: the well-known prefix MUST NOT be used to represent non-global IPv4 addresses.
#[must_use]
pub fn may_represent(prefix: Ipv6Cidr, address: Ipv4Addr) -> bool {
    prefix.address() != WELL_KNOWN || is_global(address)
}

/// Whether RFC 6890 lists no reason why an address would not be global.
#[must_use]
pub fn is_global(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || (a == 100 && (64..128).contains(&b))
        || address.is_loopback()
        || address.is_link_local()
        || (a == 192 && b == 0 && c == 0)
        || address.is_documentation()
        || (a == 198 && (18..20).contains(&b))
        || address.is_multicast()
        || a >= 240)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The six vectors of RFC 6052 section 2.4 for 192.0.2.33.
    #[test]
    fn the_vectors_of_rfc_6052_hold_both_ways() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, len, whole) in [
            ("2001:db8::", 32, "2001:db8:c000:221::"),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::c000:221"),
        ] {
            let prefix = Ipv6Cidr::new(prefix.parse().unwrap(), len);
            let whole: Ipv6Addr = whole.parse().unwrap();
            assert_eq!(embed(prefix, v4), whole);
            assert_eq!(extract(prefix, whole), Some(v4));
        }
    }

    #[test]
    fn an_address_outside_the_prefix_stands_for_nothing() {
        let prefix = Ipv6Cidr::new(WELL_KNOWN, 96);
        assert_eq!(extract(prefix, "2001:db8::1".parse().unwrap()), None);
    }

    #[test]
    fn the_well_known_prefix_carries_global_addresses_only() {
        let well_known = Ipv6Cidr::new(WELL_KNOWN, 96);
        let local_use = Ipv6Cidr::new("64:ff9b:1::".parse().unwrap(), 96);
        for address in
            ["10.1.2.3", "192.168.0.1", "172.31.0.1", "100.64.0.1", "192.0.2.1", "127.0.0.1", "240.0.0.1"]
        {
            let address = address.parse().unwrap();
            assert!(!may_represent(well_known, address), "{address}");
            assert!(may_represent(local_use, address), "{address}");
        }
        assert!(may_represent(well_known, "8.8.8.8".parse().unwrap()));
    }
}
