// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parsers of option values, with errors that say what would have been right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{EthernetAddress, Ipv4Cidr, Ipv6Cidr};
use wharf_stack::transit::nat64::PREFIX_LENGTHS;

/// `A.B.C.D/N` with room for .100 and no host bits.
pub(crate) fn cidr(text: &str) -> Result<Ipv4Cidr, String> {
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
    if first == 0 || first == 127 || first >= 224 || address.is_link_local() {
        return Err(format!(
            "{address}/{len} cannot be a network's own; use a private one, such as 10.0.2.0/24"
        ));
    }
    Ok(Ipv4Cidr::new(address, len))
}

/// `P/64`.
pub(crate) fn ipv6_prefix(text: &str) -> Result<Ipv6Cidr, String> {
    let prefix = prefix(text, &[64], "fd00:1:2:3::/64")?;
    if !is_routable(prefix) {
        return Err(format!(
            "{prefix} cannot be a network's own; use a part of fd00::/8 or of a global prefix"
        ));
    }
    Ok(prefix)
}

/// A prefix for IPv4 destinations (RFC 6052).
pub(crate) fn nat64_prefix(text: &str) -> Result<Ipv6Cidr, String> {
    let prefix = prefix(text, &PREFIX_LENGTHS, "64:ff9b::/96")?;
    // RFC 6052 section 2.2: "Bits 64 to 71 of the address are reserved [...] and MUST be set to zero".
    if prefix.address().octets()[8] != 0 {
        return Err(format!("bits 64 to 71 of {prefix} must be zero (RFC 6052); use 64:ff9b::/96"));
    }
    // The well-known prefix (RFC 6052 section 2.1) and those for local use (RFC 8215).
    let assigned = [(0, 96), (1, 48)]
        .map(|(third, len)| Ipv6Cidr::new(Ipv6Addr::new(0x64, 0xff9b, third, 0, 0, 0, 0, 0), len))
        .iter()
        .any(|space| space.contains_subnet(&prefix));
    if !assigned && !is_routable(prefix) {
        return Err(format!(
            "{prefix} cannot stand for IPv4; use 64:ff9b::/96, 64:ff9b:1::/96, or a part of fd00::/8 or of a global prefix"
        ));
    }
    Ok(prefix)
}

/// Whether a prefix is of the space that is given to networks: global (RFC 4291 section 2.4) or unique local (RFC 4193).
fn is_routable(prefix: Ipv6Cidr) -> bool {
    [(0x2000, 3), (0xfc00, 7)]
        .map(|(first, len)| Ipv6Cidr::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), len))
        .iter()
        .any(|space| space.contains_subnet(&prefix))
}

fn prefix(text: &str, lens: &[u8], example: &str) -> Result<Ipv6Cidr, String> {
    let (address, len) = split::<Ipv6Addr>(text, example)?;
    if !lens.contains(&len) {
        let lens: Vec<_> = lens.iter().map(u8::to_string).collect();
        return Err(format!("the prefix length must be {}, as in {example}", lens.join(", ")));
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
pub(crate) fn nameserver(text: &str) -> Result<SocketAddr, String> {
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
pub(crate) fn domain(text: &str) -> Result<String, String> {
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
pub(crate) fn hostname(text: &str) -> Result<String, String> {
    if text.len() > 64 {
        return Err("a host name has at most 64 bytes".to_owned());
    }
    domain(text)
}

/// The name of a container or a network: one label of a domain name, with a letter, so that it is no number.
pub(crate) fn container(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = (1..=63).contains(&text.len()) && text.bytes().all(fits);
    if !is_label
        || text.starts_with('-')
        || text.ends_with('-')
        || !text.bytes().any(|byte| byte.is_ascii_alphabetic())
    {
        return Err(format!(
            "`{text}` is not a name; it has 1 to 63 letters, digits, - and _, at least one letter, and no - in front or at the end"
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// A MAC address that a host may have.
pub(crate) fn mac(text: &str) -> Result<EthernetAddress, String> {
    let mac: EthernetAddress =
        text.parse().map_err(|()| format!("`{text}` is not a MAC address; write it as 02:00:00:00:00:01"))?;
    if mac.is_unicast() && mac.0 != [0; 6] {
        return Ok(mac);
    }
    Err(format!("{mac} is not the address of one host; the first byte must be even, as in 02:00:00:00:00:01"))
}

/// A number of bytes with an optional suffix K, M or G (powers of 1,024).
pub(crate) fn size(text: &str) -> Result<usize, String> {
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
    fn names_are_labels_with_a_letter() {
        assert_eq!(container("Web-1").unwrap(), "web-1");
        for wrong in ["", "80", "8000-8009", "-web", "web-", "a.b", "a b", "caf\u{e9}", &"a".repeat(64)] {
            assert!(container(wrong).unwrap_err().contains("at least one letter"), "{wrong}");
        }
    }

    #[test]
    fn a_mac_address_is_one_hosts() {
        assert_eq!(mac("02:00:5e:00:53:01").unwrap().0, [2, 0, 0x5e, 0, 0x53, 1]);
        for wrong in ["", "02:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "x"] {
            assert!(mac(wrong).unwrap_err().contains("02:00:00:00:00:01"), "{wrong}");
        }
    }

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
        assert!(cidr("fd00::/64").is_err());
        for unusable in
            ["0.0.0.0/8", "127.0.0.0/8", "127.1.0.0/16", "169.254.0.0/16", "224.0.0.0/8", "240.0.0.0/8"]
        {
            assert!(cidr(unusable).unwrap_err().contains("such as 10.0.2.0/24"), "{unusable}");
        }
    }

    #[test]
    fn ipv6_prefixes_have_the_length_their_use_asks_for() {
        assert_eq!(ipv6_prefix("2001:db8:1:2::/64").unwrap().to_string(), "2001:db8:1:2::/64");
        assert!(ipv6_prefix("2001:db8::1/64").unwrap_err().contains("did you mean 2001:db8::/64"));
        for len in [0, 48, 56, 63, 65, 96, 128] {
            assert!(ipv6_prefix(&format!("2001:db8::/{len}")).unwrap_err().contains("must be 64"), "{len}");
        }
    }

    #[test]
    fn a_network_of_ones_own_is_global_or_unique_local() {
        for usable in ["2001:db8::/64", "3fff::/64", "fd00:1:2:3::/64", "fc00::/64"] {
            assert_eq!(ipv6_prefix(usable).unwrap().to_string(), usable);
        }
        // Unspecified, loopback and mapped IPv4 are all in the first; then NAT64, link-local, site-local, multicast.
        for unusable in ["::/64", "64:ff9b::/64", "64:ff9b:1::/64", "fe80::/64", "fec0::/64", "ff02::/64"] {
            assert!(ipv6_prefix(unusable).unwrap_err().contains("fd00::/8"), "{unusable}");
        }
    }

    #[test]
    fn a_nat64_prefix_is_one_that_rfc_6052_or_rfc_8215_allows() {
        let usable = [
            "64:ff9b::/96",
            "64:ff9b:1::/96",
            "64:ff9b:1:abcd::/64",
            "64:ff9b:1::/48",
            "2001:db8:122:344::/96",
            "2001:db8:122:300::/56",
            "2001:db8:100::/40",
            "2001:db8::/32",
            "fd00:64::/96",
        ];
        for usable in usable {
            assert_eq!(nat64_prefix(usable).unwrap().to_string(), usable);
        }
        let cases = [
            ("2001:db8::/95", "must be 96, 64, 56, 48, 40, 32"),
            ("2001:db8::/128", "must be 96"),
            ("2001:db8::1/96", "did you mean 2001:db8::/96"),
            ("2001:db8:0:0:ff00::/96", "bits 64 to 71"),
            ("2001:db8:0:0:100::/96", "bits 64 to 71"),
            // Unspecified, loopback's, mapped IPv4.
            ("::/96", "use 64:ff9b::/96"),
            ("::/64", "use 64:ff9b::/96"),
            ("::ffff:0:0/96", "use 64:ff9b::/96"),
            // Neither of the well-known prefix's own length nor inside the space for local use.
            ("64:ff9b::/64", "use 64:ff9b::/96"),
            ("64:ff9b::/32", "use 64:ff9b::/96"),
            ("64:ff9b:2::/96", "use 64:ff9b::/96"),
            ("fe80::/96", "use 64:ff9b::/96"),
            ("fec0::/96", "use 64:ff9b::/96"),
            ("ff02::/96", "use 64:ff9b::/96"),
        ];
        for (unusable, hint) in cases {
            let error = nat64_prefix(unusable).unwrap_err();
            assert!(error.contains(hint), "{unusable}: {error}");
        }
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
