// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parsers of option values, with errors that say what would have been right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};

/// `A.B.C.D/N` with room for .100 and no host bits.
pub(super) fn cidr(text: &str) -> Result<Ipv4Cidr, String> {
    let (address, len) = split::<Ipv4Addr>(text, "10.0.2.0/24")?;
    if !(8..=25).contains(&len) {
        return Err(format!(
            "the prefix length must be 8 to 25, so that the network holds .2, .3 and .100; /{len} does not do"
        ));
    }
    let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - u32::from(len))));
    if network != address {
        return Err(format!("{address} has host bits set; did you mean {network}/{len}?"));
    }
    let first = address.octets()[0];
    if first == 0 || first == 127 || first >= 224 {
        return Err(format!("{address}/{len} is not a unicast network"));
    }
    Ok(Ipv4Cidr::new(address, len))
}

/// `P/64`.
pub(super) fn ipv6_prefix(text: &str) -> Result<Ipv6Cidr, String> {
    let prefix = prefix(text, 64, "fd00:1:2:3::/64")?;
    let address = prefix.address();
    if address.is_multicast() || address.is_unicast_link_local() || address.segments()[0] == 0 {
        return Err(format!("{prefix} is not a unicast network"));
    }
    Ok(prefix)
}

/// `P/96` (RFC 6052 section 2.2).
pub(super) fn nat64_prefix(text: &str) -> Result<Ipv6Cidr, String> {
    let prefix = prefix(text, 96, "64:ff9b::/96")?;
    // RFC 6052 section 2.2: "bits 64 to 71 of the address are reserved [...] and MUST be set to zero".
    if prefix.address().octets()[8] != 0 {
        return Err(format!("bits 64 to 71 of {prefix} must be zero (RFC 6052)"));
    }
    if prefix.address().is_multicast() || prefix.address().is_unspecified() {
        return Err(format!("{prefix} is not a unicast network"));
    }
    Ok(prefix)
}

fn prefix(text: &str, wanted: u8, example: &str) -> Result<Ipv6Cidr, String> {
    let (address, len) = split::<Ipv6Addr>(text, example)?;
    if len != wanted {
        return Err(format!("the prefix length must be {wanted}, as in {example}"));
    }
    let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(len))));
    if network != address {
        return Err(format!("{address} has host bits set; did you mean {network}/{len}?"));
    }
    Ok(Ipv6Cidr::new(address, len))
}

fn split<A: std::str::FromStr>(text: &str, example: &str) -> Result<(A, u8), String> {
    let (address, len) = text.split_once('/').ok_or_else(|| format!("write it as {example}"))?;
    let address =
        address.parse().map_err(|_| format!("`{address}` is not an address; write it as {example}"))?;
    let len = len.parse().map_err(|_| format!("`{len}` is not a prefix length; write it as {example}"))?;
    Ok((address, len))
}

/// A nameserver: an address, with a port where that is not 53.
pub(super) fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let server = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 53),
        Err(_) => text.parse::<SocketAddr>().map_err(|_| {
            "write an address, with a port if it is not 53: 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:5353"
                .to_owned()
        })?,
    };
    if server.ip().is_unspecified() || server.ip().is_multicast() || server.port() == 0 {
        return Err(format!("nobody can answer at {server}"));
    }
    Ok(server)
}

/// A domain name as it may stand in a search list.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        return Err("a domain is labels of 1 to 63 letters, digits, - and _, joined by dots".to_owned());
    }
    Ok(name.to_owned())
}

/// A host name: what the kernel keeps has at most 64 bytes.
pub(super) fn hostname(text: &str) -> Result<String, String> {
    if text.len() > 64 {
        return Err("a host name has at most 64 bytes".to_owned());
    }
    domain(text)
}

/// A number of bytes with an optional suffix K, M or G (powers of 1,024).
pub(super) fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size; write it as 256M (suffixes K, M, G)");
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches(['K', 'M', 'G']);
    let shift = match upper.get(digits.len()..) {
        Some("") => 0,
        Some("K" | "KIB") => 10,
        Some("M" | "MIB") => 20,
        Some("G" | "GIB") => 30,
        _ => return Err(wrong()),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    let bytes =
        number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than this machine counts"))?;
    if bytes < 1 << 20 {
        return Err("the relay needs at least 1M".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_without_host_bits_and_with_room_are_taken() {
        assert_eq!(cidr("10.0.2.0/24").unwrap().to_string(), "10.0.2.0/24");
        assert_eq!(cidr("192.0.2.128/25").unwrap().to_string(), "192.0.2.128/25");
        assert_eq!(cidr("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn wrong_networks_are_answered_with_what_would_be_right() {
        assert!(cidr("10.0.2.5/24").unwrap_err().contains("did you mean 10.0.2.0/24"));
        assert!(cidr("10.0.2.0/26").unwrap_err().contains("8 to 25"));
        assert!(cidr("10.0.0.0/7").unwrap_err().contains("8 to 25"));
        assert!(cidr("10.0.2.0").unwrap_err().contains("10.0.2.0/24"));
        assert!(cidr("127.0.0.0/8").unwrap_err().contains("unicast"));
        assert!(cidr("224.0.0.0/8").unwrap_err().contains("unicast"));
        assert!(cidr("fd00::/64").is_err());
    }

    #[test]
    fn ipv6_prefixes_have_the_length_their_use_asks_for() {
        assert_eq!(ipv6_prefix("2001:db8:1:2::/64").unwrap().to_string(), "2001:db8:1:2::/64");
        assert!(ipv6_prefix("2001:db8::1/64").unwrap_err().contains("did you mean 2001:db8::/64"));
        assert!(ipv6_prefix("2001:db8::/56").unwrap_err().contains("64"));
        assert!(ipv6_prefix("fe80::/64").is_err());
        assert!(ipv6_prefix("::/64").is_err());
        assert_eq!(nat64_prefix("64:ff9b::/96").unwrap().prefix_len(), 96);
        assert!(nat64_prefix("2001:db8:0:0:ff00::/96").unwrap_err().contains("RFC 6052"));
    }

    #[test]
    fn nameservers_may_have_a_port() {
        assert_eq!(nameserver("192.0.2.1").unwrap().to_string(), "192.0.2.1:53");
        assert_eq!(nameserver("2001:db8::1").unwrap().to_string(), "[2001:db8::1]:53");
        assert_eq!(nameserver("127.0.0.1:5353").unwrap().port(), 5353);
        assert!(nameserver("dns.example").is_err());
        assert!(nameserver("0.0.0.0").is_err());
    }

    #[test]
    fn sizes_have_suffixes_and_a_floor() {
        assert_eq!(size("256M").unwrap(), 256 << 20);
        assert_eq!(size("2g").unwrap(), 2 << 30);
        assert_eq!(size("1048576").unwrap(), 1 << 20);
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        for wrong in ["", "M", "1T", "12KM", "-1", "99999999999G", "1K", "KIB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_checked_label_by_label() {
        assert_eq!(domain("corp.example.").unwrap(), "corp.example");
        assert!(domain("").is_err());
        assert!(domain("a..b").is_err());
        assert!(domain("a b").is_err());
        assert!(hostname(&"a".repeat(65)).is_err());
    }
}
